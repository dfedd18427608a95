//! Processes: running them, waiting, finding and killing them.

use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Runs a command to its end; panics with all it said when it fails.
pub fn run(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

pub(crate) fn null() -> Stdio {
    Stdio::null()
}

/// Waits until a condition holds; panics naming it when it takes too long.
pub fn wait_for(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(
            began.elapsed() < timeout,
            "waited {timeout:?} in vain for {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sends a signal, such as `KILL` or `STOP`.
pub fn signal(pid: i32, name: &str) {
    // The shell's own: a small system has no program of that name.
    run(Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &pid.to_string()]));
}

/// kill -9.
pub fn kill9(pid: i32) {
    signal(pid, "KILL");
}

/// The same of a process that may have ended by itself; whether it was there.
pub fn kill9_if_there(pid: i32) -> bool {
    let pid = rustix::process::Pid::from_raw(pid).expect("a process's number");
    match rustix::process::kill_process(pid, rustix::process::Signal::KILL) {
        Ok(()) => true,
        Err(rustix::io::Errno::SRCH) => false,
        Err(error) => panic!("kill -9 {pid}: {error}"),
    }
}

/// Whether the process runs; a zombie does not.
#[must_use]
pub fn is_alive(pid: i32) -> bool {
    stat(pid).is_some_and(|(_, state, _)| state != 'Z')
}

/// Whether every thread of the process stands still after SIGSTOP.
#[must_use]
pub fn is_stopped(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("a process of this machine");
    threads
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .all(|thread| stat(thread).is_none_or(|(_, state, _)| state == 'T'))
}

/// A process's name, cut to 15 bytes by the kernel.
#[must_use]
pub fn name(pid: i32) -> Option<String> {
    stat(pid).map(|(name, _, _)| name)
}

/// A process's arguments, or the title it gave itself.
#[must_use]
pub fn command_line(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// The children of a process.
#[must_use]
pub fn children(parent: i32) -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc");
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| stat(*pid).is_some_and(|(_, state, ppid)| ppid == parent && state != 'Z'))
        .collect()
}

/// Name, state and parent out of /proc/PID/stat. The name may hold spaces and parentheses, so the last one ends it.
fn stat(pid: i32) -> Option<(String, char, i32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, tail) = text.rsplit_once(") ")?;
    let (_, name) = head.split_once('(')?;
    let mut fields = tail.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((name.to_owned(), state, fields.next()?.parse().ok()?))
}

/// The processor's time that a process has used.
#[must_use]
pub fn time_of(pid: i32) -> Duration {
    let path = format!("/proc/{pid}/schedstat");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let nanoseconds = text.split(' ').next().and_then(|field| field.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or_else(|| panic!("{path}: {text}")))
}
