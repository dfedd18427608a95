//! What a process takes of memory, as the system counts it.

use std::fs;

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
