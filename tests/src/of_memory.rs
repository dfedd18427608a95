//! What a process takes of memory, as the system counts it.

use std::fs;

/// A line of a process's status, in kB: VmRSS is what it has now, VmHWM the most since [`forget_peak`], VmLck what is
/// locked.
#[must_use]
pub fn kilobytes(pid: i32, line: &str) -> i64 {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let value = status
        .lines()
        .find_map(|it| it.strip_prefix(line)?.strip_prefix(':'))
        .unwrap_or_else(|| panic!("no {line} in {path}"));
    let number = value.trim().trim_end_matches(" kB");
    number.parse().unwrap_or_else(|_| panic!("{line}:{value}"))
}

/// Lets the most that a process had of memory begin anew.
pub fn forget_peak(pid: i32) {
    let path = format!("/proc/{pid}/clear_refs");
    fs::write(&path, "5").unwrap_or_else(|error| panic!("{path}: {error}"));
}
