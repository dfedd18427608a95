//! What a process takes of memory, as the system counts it, and servers that may lock so much of it.

use std::fs;
use std::process::Command;

use crate::Cluster;

/// A line of a process's status, in kB: VmRSS is what it has now, VmHWM the most since [`forget_peak`], VmLck what is
/// locked.
#[must_use]
pub fn kilobytes(pid: i32, line: &str) -> i64 {
    kilobytes_if_there(pid, line).unwrap_or_else(|| panic!("no {line} of process {pid}"))
}

/// The same of a process that may have ended by itself.
#[must_use]
pub fn kilobytes_if_there(pid: i32, line: &str) -> Option<i64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = status
        .lines()
        .find_map(|it| it.strip_prefix(line)?.strip_prefix(':'))?;
    value.trim().trim_end_matches(" kB").parse().ok()
}

/// Lets the most that a process had of memory begin anew.
pub fn forget_peak(pid: i32) {
    let path = format!("/proc/{pid}/clear_refs");
    fs::write(&path, "5").unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// What may lock how much memory.
#[derive(Debug, Clone, Copy)]
pub enum Limit {
    /// Enough for the slab, and in the agent's way.
    Some,
    /// Not even the slab.
    None,
    /// As much as it likes.
    Without,
}

/// Starts the server so.
///
/// # Errors
/// When it does not start.
pub fn start(cluster: &Cluster, limit: Limit) -> Result<(), String> {
    let user = cluster.server_user();
    let limited = |bytes: &str| {
        let mut program = user.command("/usr/bin/prlimit");
        program.arg(format!("--memlock={bytes}:{bytes}"));
        program
    };
    cluster.try_start_under(match (limit, user.ids()) {
        (Limit::Some, _) => limited("1048576"),
        (Limit::None, _) => limited("0"),
        // Root gives the right to whom it becomes, whatever the limit.
        (Limit::Without, Some((uid, gid))) => {
            let mut program = Command::new("/usr/bin/setpriv");
            program.args([
                "--inh-caps=+ipc_lock",
                "--ambient-caps=+ipc_lock",
                "--clear-groups",
                &format!("--reuid={uid}"),
                &format!("--regid={gid}"),
            ]);
            program
        }
        (Limit::Without, None) => limited("unlimited"),
    })
}

/// Whether an ordinary user runs this whom the system lets lock no more than so much: nobody else can show a server
/// that may.
#[must_use]
pub fn may_not_lock(cluster: &Cluster) -> bool {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max locked"));
    cluster.server_user().ids().is_none()
        && line.unwrap().split_whitespace().nth(4) != Some("unlimited")
}
