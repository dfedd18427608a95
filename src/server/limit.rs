//! The time that a worker's transaction may take in which code of a table's owner runs: a CHECK that sleeps holds up
//! its own job and no other for long.
//!
//! When the time is over, the statement is cancelled as by a client. Code may catch that, so a second later the worker
//! ends, which cannot be caught; the job is put off from the process's exit then (`worker`). PostgreSQL's own timer for
//! users' timeouts is used: none is switched on but ours.

use std::ffi::c_int;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32};
use std::time::Instant;

use pgrx::pg_sys;

use crate::settings;

/// How long a cancelled statement has to end.
const GRACE_MS: c_int = 1000;
/// Time more for each block of a table that a statement goes through as a whole.
const BLOCK_MS: i64 = 10;
/// Not below the first number for users' timeouts, nor above the last, in any PostgreSQL: the server gives a free one.
const ANY_USER_TIMEOUT: c_int = 15;

/// The timeout's number; -1 where this process has none.
static TIMEOUT: AtomicI32 = AtomicI32::new(-1);
/// When it strikes next; 0 where it does not.
static UNTIL: AtomicI64 = AtomicI64::new(0);
/// Times that it struck in the transaction at hand.
static STRUCK: AtomicU32 = AtomicU32::new(0);

unsafe extern "C-unwind" {
    fn RegisterTimeout(id: c_int, handler: unsafe extern "C-unwind" fn()) -> c_int;
    fn enable_timeout_every(id: c_int, first_at: pg_sys::TimestampTz, delay_ms: c_int);
    fn disable_timeout(id: c_int, keep_indicator: bool);
}

/// Gives this process a limit for each of its transactions.
pub fn enable() {
    // SAFETY: once, in a worker that is connected, so that the server's timers are set up.
    TIMEOUT.store(
        unsafe { RegisterTimeout(ANY_USER_TIMEOUT, on_timeout) },
        Relaxed,
    );
}

/// Between any two instructions: sets flags that the server looks at where it may be interrupted, and nothing else.
unsafe extern "C-unwind" fn on_timeout() {
    let before = STRUCK.fetch_add(1, Relaxed);
    // SAFETY: flags of this process, written as the server's own handlers of signals do.
    unsafe {
        if before == 0 {
            pg_sys::QueryCancelPending = 1;
        } else {
            pg_sys::ProcDiePending = 1;
        }
        pg_sys::InterruptPending = 1;
        pg_sys::SetLatch(pg_sys::MyLatch);
    }
}

/// A transaction that may not take longer, until dropped.
pub struct Limit;

impl Limit {
    pub fn begin() -> Self {
        STRUCK.store(0, Relaxed);
        strike_in(0);
        Self
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        lift();
        if has_struck() {
            // SAFETY: a flag of this process. What it was set for is over.
            unsafe { pg_sys::QueryCancelPending = 0 };
        }
    }
}

fn strike_in(more_ms: i64) {
    let id = TIMEOUT.load(Relaxed);
    let limit = i64::from(settings::OWNER_CODE_TIMEOUT.get());
    if id < 0 || limit == 0 {
        return;
    }
    // SAFETY: reads the clock.
    strike_at(
        id,
        unsafe { pg_sys::GetCurrentTimestamp() } + 1000 * (limit + more_ms),
    );
}

fn strike_at(id: c_int, at: pg_sys::TimestampTz) {
    UNTIL.store(at, Relaxed);
    // SAFETY: registered by this process; the time is the server's own.
    unsafe { enable_timeout_every(id, at, GRACE_MS) };
}

/// In the transaction at hand: does something in which nobody else's code runs, and whose time does not count.
pub fn outside<R>(body: impl FnOnce() -> R) -> R {
    let (id, until) = (TIMEOUT.load(Relaxed), UNTIL.load(Relaxed));
    if id < 0 || until == 0 {
        return body();
    }
    lift();
    // SAFETY: reads the clock.
    let began = unsafe { pg_sys::GetCurrentTimestamp() };
    let done = body();
    // SAFETY: reads the clock.
    let took = unsafe { pg_sys::GetCurrentTimestamp() } - began;
    strike_at(id, until + took.max(0));
    done
}

/// In the transaction at hand: a statement goes through so many blocks at once.
pub fn allow(blocks: i64) {
    lift();
    strike_in(blocks.saturating_mul(BLOCK_MS));
}

/// In the transaction at hand: nobody else's code runs from here on.
pub fn lift() {
    let id = TIMEOUT.load(Relaxed);
    if id >= 0 {
        UNTIL.store(0, Relaxed);
        // SAFETY: registered by this process.
        unsafe { disable_timeout(id, false) };
    }
}

/// Whether the last transaction was ended for it.
pub fn has_struck() -> bool {
    STRUCK.load(Relaxed) > 0
}

/// Whether the process is.
pub fn ends_process() -> bool {
    STRUCK.load(Relaxed) > 1
}

pub fn message() -> String {
    format!(
        "a statement on the table took longer than colcrypt.owner_code_timeout ({} ms): a CHECK, trigger, index or context expression \
         of the table's owner is slow, or an open cursor holds what is to be vacuumed",
        settings::OWNER_CODE_TIMEOUT.get()
    )
}

/// What struck was taken note of.
pub fn forget() {
    STRUCK.store(0, Relaxed);
}

/// Whether work that began then has taken as long as one statement may.
pub fn is_used_up(began: Instant) -> bool {
    let limit = settings::OWNER_CODE_TIMEOUT.get();
    limit > 0 && began.elapsed().as_millis() > limit as u128
}
