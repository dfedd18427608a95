//! A job gives way to sessions on the processor. Rests alone do not make it: the scheduler lets whoever runs finish his
//! slice, some milliseconds, before whoever wakes, and shares a processor evenly. A worker that moves rows is therefore
//! nice, and asks for long slices: then (Linux ≥ 6.12) whoever wakes goes first. Not SCHED_IDLE, which would let a
//! worker that holds a page's lock starve on a busy server, and those who wait for the page with it.

use std::cell::Cell;

use pgrx::warning;

use crate::settings;

/// Longest slice that the scheduler takes, in nanoseconds (`sched_setattr(2)`: from 0.1 to 100 ms).
const SLICE_NS: u64 = 100_000_000;

thread_local! {
    /// How nice this process is already.
    static NICE: Cell<i32> = const { Cell::new(0) };
    /// How nice its scheduling group is.
    static GROUP_NICE: Cell<i32> = const { Cell::new(0) };
}

/// Makes this process as nice as `colcrypt.job_nice` says. There is no way back in this process without a privilege
/// that the server does not have: a lower setting holds for the workers that start after it. To be called before each
/// batch.
pub fn give_way() {
    let nice = settings::JOB_NICE.get();
    if nice > NICE.get() {
        NICE.set(nice);
        if let Err(error) = set_nice(nice) {
            warning!("colcrypt: jobs run at the priority of sessions: {error}");
        }
    }
    if nice > GROUP_NICE.get() && make_group_nice(nice) {
        GROUP_NICE.set(nice);
    }
}

fn set_nice(nice: i32) -> std::io::Result<()> {
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: 0,
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: SLICE_NS,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: reads the structure, whose size it is told; of this thread, the process's only one.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) } == 0
        // A sandbox that knows no such call may know the old one.
        // SAFETY: no pointers.
        || unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) } == 0;
    if set {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// The server makes each of its processes a session of the system, and where sessions are scheduled as groups
/// (sched(7), autogroup), niceness within one is nothing to the others: the group must be nice. Elsewhere there is no
/// such file. The system takes ten such wishes a second of all processes together, and tells the others to come again:
/// false for one of these.
fn make_group_nice(nice: i32) -> bool {
    !std::fs::write("/proc/self/autogroup", nice.to_string())
        .is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}
