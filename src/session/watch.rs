//! The watch over a process's keys: twice a second it zeroes ciphers whose key was wiped or whose time is over, and has
//! permits asked for anew.
//!
//! A session that is idle, waits for a lock, sleeps or writes to a client that does not read takes no messages in, so
//! nobody could tell it to forget a key. A timer of its own does: it starts with the first cipher and ends with the
//! last. Not PostgreSQL's timeouts, all of which an error switches off, in an aborted transaction without telling
//! anyone.
//!
//! The handler runs between any two instructions. It reads and writes memory that was allocated before, sets the timer,
//! and nothing else; and it leaves ciphers alone while one is in use or changes (`hidden::Hold`): it comes again soon.
//! It runs on a stack of its own in hidden memory, since a signal's frame holds the vector registers, in which round
//! keys may be.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::mem::{MaybeUninit, zeroed};
use std::ptr::{null, null_mut};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr};

use crate::error::{Error, Result};
use crate::server::{clock, hidden, process};
use crate::session::place::Cipher;

/// How often it looks, in ms. What `docs/security.md` says of a second rests on it.
const TICK_MS: i64 = 500;
/// When it looks again where a cipher was in use.
const SOON_MS: i64 = 20;
/// Room for signal frames with all vector registers.
const STACK: usize = 32 * 1024;
/// What it zeroes below the interrupted stack: more than a cipher's way through it.
const DEAD_STACK: usize = 16 * 1024;
/// What lies below the stack pointer and may be in use all the same (System V ABI).
const RED_ZONE: usize = 256;

/// Whether permits must be asked for anew.
static DUE: AtomicBool = AtomicBool::new(false);
/// All places of this process, the newest first.
static PLACES: AtomicPtr<Cipher> = AtomicPtr::new(null_mut());
/// The process whose timer this is: a child of it has none.
static OWNER: AtomicI32 = AtomicI32::new(0);
static TIMER: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
static RUNNING: AtomicBool = AtomicBool::new(false);
/// Whether the server is in recovery.
static STANDBY: AtomicBool = AtomicBool::new(false);

/// Whether time has come to ask for permits anew: one relaxed load.
#[inline(always)]
pub fn is_due() -> bool {
    DUE.load(Relaxed)
}

/// The same, and it is done now.
pub fn take_due() -> bool {
    DUE.swap(false, Relaxed)
}

/// Not done after all.
pub fn put_off() {
    DUE.store(true, Relaxed);
}

/// Has a new place watched, for the life of the process.
pub fn add(place: &'static Cipher) {
    place.next.set(PLACES.load(Relaxed));
    PLACES.store(std::ptr::from_ref(place).cast_mut(), Release);
}

/// Has the timer run. Before a cipher is made.
///
/// # Errors
/// When the system gives no timer: without one no key would leave in time, so none comes.
pub fn start() -> Result<()> {
    let pid = process::my_pid();
    if OWNER.load(Relaxed) != pid {
        // SAFETY: once a process; see there.
        let timer = unsafe { make()? };
        TIMER.store(timer, Relaxed);
        RUNNING.store(false, Relaxed);
        OWNER.store(pid, Relaxed);
    }
    // SAFETY: reads a variable in shared memory, or of the process.
    STANDBY.store(unsafe { pgrx::pg_sys::RecoveryInProgress() }, Relaxed);
    if !RUNNING.swap(true, Relaxed) {
        set(TICK_MS);
    }
    Ok(())
}

unsafe extern "C" {
    /// Has an idle process take in what others committed. The server calls it in a signal handler itself.
    fn HandleCatchupInterrupt();
}

/// # Safety
/// Once a process, outside of any signal handler.
unsafe fn make() -> Result<libc::timer_t> {
    hidden::prepare();
    // SAFETY: plain structures that the system fills or reads; the stack is this process's own and never given back.
    unsafe {
        let refused = |what: &str| Error::NoWatch {
            why: format!("{what}: {}", std::io::Error::last_os_error()),
        };
        let signal = free_signal().ok_or_else(|| Error::NoWatch {
            why: "other libraries have taken every real-time signal".into(),
        })?;
        let mut stack: libc::stack_t = zeroed();
        libc::sigaltstack(null(), &mut stack);
        if stack.ss_flags & libc::SS_DISABLE != 0 {
            stack.ss_sp = hidden::pages(STACK).cast();
            stack.ss_size = STACK;
            stack.ss_flags = 0;
            if stack.ss_sp.is_null() {
                return Err(refused("no memory for the signal's stack"));
            }
            libc::sigaltstack(&stack, null_mut());
        }
        let mut action: libc::sigaction = zeroed();
        let handler: unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = look;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
        libc::sigfillset(&mut action.sa_mask);
        if libc::sigaction(signal, &action, null_mut()) != 0 {
            return Err(refused("no signal"));
        }
        let mut event: libc::sigevent = zeroed();
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = signal;
        let mut timer = MaybeUninit::<libc::timer_t>::uninit();
        if libc::timer_create(libc::CLOCK_BOOTTIME, &mut event, timer.as_mut_ptr()) != 0 {
            let refused = refused("no timer");
            action.sa_sigaction = libc::SIG_DFL;
            libc::sigaction(signal, &action, null_mut());
            return Err(refused);
        }
        Ok(timer.assume_init())
    }
}

/// A real-time signal that nobody in this process uses.
unsafe fn free_signal() -> Option<c_int> {
    (libc::SIGRTMIN()..=libc::SIGRTMAX()).rev().find(|&signal| {
        // SAFETY: only asks.
        unsafe {
            let mut present: libc::sigaction = zeroed();
            libc::sigaction(signal, null(), &mut present) == 0
                && present.sa_sigaction == libc::SIG_DFL
        }
    })
}

fn set(after_ms: i64) {
    // SAFETY: this process's timer; allowed in a signal handler.
    unsafe {
        let mut when: libc::itimerspec = zeroed();
        when.it_value.tv_sec = after_ms / 1000;
        when.it_value.tv_nsec = after_ms % 1000 * 1_000_000;
        libc::timer_settime(TIMER.load(Relaxed), 0, &when, null_mut());
    }
}

unsafe extern "C" fn look(_signal: c_int, _info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the thread's own.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    DUE.store(true, Relaxed);
    let found = wipe_dead();
    if STANDBY.load(Relaxed) && !matches!(found, Found::None) {
        // Nobody here wipes the slab when a suspension is replayed: whoever hears of it does (`epoch`).
        // SAFETY: allowed in a signal handler: it sets a flag and this process's latch.
        unsafe { HandleCatchupInterrupt() };
    }
    match found {
        Found::Held => set(SOON_MS),
        Found::None => RUNNING.store(false, Relaxed),
        Found::Live => set(TICK_MS),
        Found::Wiped => {
            set(TICK_MS);
            // SAFETY: this is the context of our own handler.
            unsafe { wipe_below(context) };
        }
    }
    // SAFETY: as above.
    unsafe { *errno = before };
}

enum Found {
    /// No cipher at all.
    None,
    Live,
    Wiped,
    /// One that must go, while one is in use.
    Held,
}

fn wipe_dead() -> Found {
    let held = hidden::is_held();
    let mut found = if held { Found::Live } else { Found::None };
    let now = clock::boottime_ms();
    let mut at = PLACES.load(Acquire).cast_const();
    // SAFETY: places are never freed and linked before they are seen.
    while let Some(place) = unsafe { at.as_ref() } {
        at = place.next.get();
        if place.meta.get().is_none() {
            continue;
        }
        if place.is_live(place.serial.get()) && place.is_within_lease(now) {
            if matches!(found, Found::None) {
                found = Found::Live;
            }
        } else if held {
            return Found::Held;
        } else {
            // SAFETY: nobody uses a cipher or changes one now.
            unsafe { place.wipe() };
            found = Found::Wiped;
        }
    }
    found
}

/// Zeroes what calls that are over left on the stack.
///
/// # Safety
/// `context` is the one of a handler that runs on a stack of its own.
unsafe fn wipe_below(context: *mut c_void) {
    let here = Cell::new(0u8);
    // SAFETY: the caller's promise.
    let top = unsafe { stack_pointer(context.cast()) };
    let Some(end) = top.checked_sub(RED_ZONE) else {
        return;
    };
    // On the same stack after all, if somebody else's alternative one was too near.
    if end.saturating_sub(DEAD_STACK) <= here.as_ptr() as usize && here.as_ptr() as usize <= top {
        return;
    }
    for at in (end - DEAD_STACK..end).step_by(8) {
        // SAFETY: below the interrupted code's stack pointer and what it may use there: the system grows a stack on
        // demand, and the server leaves half a megabyte of it unused.
        unsafe { ((at & !7) as *mut u64).write_volatile(0) };
    }
}

#[cfg(target_arch = "x86_64")]
unsafe fn stack_pointer(context: *const libc::ucontext_t) -> usize {
    // SAFETY: the caller's promise.
    unsafe { (*context).uc_mcontext.gregs[libc::REG_RSP as usize] as usize }
}

#[cfg(target_arch = "aarch64")]
unsafe fn stack_pointer(context: *const libc::ucontext_t) -> usize {
    // SAFETY: the caller's promise.
    unsafe { (*context).uc_mcontext.sp as usize }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn stack_pointer(_context: *const libc::ucontext_t) -> usize {
    0
}
