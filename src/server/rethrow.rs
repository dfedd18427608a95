//! A server's error that passes a function of ours goes on as the server raised it: its SQLSTATE, constraint, table,
//! column, context and position.
//!
//! pgrx keeps of an error what its own report has, and that is not much. So while a guarded function runs, an error
//! context callback copies what the server has of each error; where the error that comes out of the function is the one
//! that was copied, the copy is thrown. The server's context lines of whoever is further out are added then, as they
//! are to any error that is raised.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;

/// Without pgrx's guards, which would catch the error that is being thrown.
mod server {
    use super::{c_int, pg_sys};

    unsafe extern "C-unwind" {
        #[link_name = "CopyErrorData"]
        pub fn copy_error_data() -> *mut pg_sys::ErrorData;
        #[link_name = "FreeErrorData"]
        pub fn free_error_data(data: *mut pg_sys::ErrorData);
        #[link_name = "ThrowErrorData"]
        pub fn throw_error_data(data: *mut pg_sys::ErrorData);
        #[link_name = "geterrcode"]
        pub fn sqlstate() -> c_int;
    }
}

/// The copy of the last error that was raised while a function runs, or null.
struct Kept(*mut pg_sys::ErrorData);

impl Kept {
    fn forget(&mut self) {
        if !self.0.is_null() {
            // SAFETY: a copy of ours that nobody else has.
            unsafe { server::free_error_data(self.0) };
            self.0 = std::ptr::null_mut();
        }
    }
}

thread_local! {
    /// What was thrown last. The server took its own copy.
    static THROWN: Cell<*mut pg_sys::ErrorData> = const { Cell::new(std::ptr::null_mut()) };
    /// Names of source files and functions: an error refers to them for as long as anybody has it.
    static NAMES: RefCell<HashSet<CString>> = RefCell::default();
}

/// Names that are kept at most; beyond that an error has none.
const NAMES_KEPT: usize = 4096;

/// Runs the body of a function that the server called. An ERROR of the server's goes on as it is, any other and a panic
/// as pgrx reports it.
///
/// # Safety
/// As `pgrx_extern_c_guard`: no frame between here and the server may have a pending destructor.
pub unsafe fn guard<R>(body: impl FnOnce() -> R) -> R {
    // SAFETY: the caller's promise.
    unsafe { guard_edited(body, |_| {}) }
}

/// The same, with something to change in an error of the server's before it goes on: what it says, not that it is one.
///
/// # Safety
/// As [`guard`]. Texts that are put in live as long as the server's own.
pub unsafe fn guard_edited<R>(
    body: impl FnOnce() -> R,
    edit: impl FnOnce(&mut pg_sys::ErrorData),
) -> R {
    let mut kept = Kept(std::ptr::null_mut());
    // SAFETY: the callback is on the server's stack for as long as this frame is: whoever goes on after an ERROR that
    // passed it has put the stack back.
    let outcome = unsafe {
        let mut callback = pg_sys::ErrorContextCallback {
            previous: pg_sys::error_context_stack,
            callback: Some(keep),
            arg: (&raw mut kept).cast(),
        };
        pg_sys::error_context_stack = &raw mut callback;
        let outcome = catch_unwind(AssertUnwindSafe(body));
        pg_sys::error_context_stack = callback.previous;
        outcome
    };
    let payload = match outcome {
        Ok(value) => {
            kept.forget();
            return value;
        }
        Err(payload) => payload,
    };
    if !is_of(payload.as_ref(), kept.0) {
        kept.forget();
        // SAFETY: the caller's promise. It reports what it is given.
        return unsafe { pg_sys::panic::pgrx_extern_c_guard(|| resume_unwind(payload)) };
    }
    drop(payload);
    // SAFETY: a copy of ours that nobody else has.
    edit(unsafe { &mut *kept.0 });
    THROWN.set(kept.0);
    // SAFETY: the caller's promise, and what this frame held is dropped. The data is a copy of an error's.
    unsafe { server::throw_error_data(kept.0) };
    unreachable!("an ERROR does not return")
}

/// Whether what comes out of a function is the error that was copied.
fn is_of(payload: &(dyn Any + Send), kept: *mut pg_sys::ErrorData) -> bool {
    // SAFETY: a copy of ours, or null; its texts are C strings or null.
    unsafe {
        let (Some(CaughtError::PostgresError(report)), Some(kept)) =
            (payload.downcast_ref::<CaughtError>(), kept.as_ref())
        else {
            return false;
        };
        let text = |text: *const c_char| (!text.is_null()).then(|| CStr::from_ptr(text));
        let is = |text, said: &str| match text {
            Some(text) => CStr::to_string_lossy(text) == said,
            None => true,
        };
        is(text(kept.message), report.message())
            && is(text(kept.filename), report.file())
            && kept.lineno == report.line_number() as c_int
    }
}

/// Called by the server for each message that it reports, with the message complete but for the context lines of those
/// further out.
unsafe extern "C-unwind" fn keep(argument: *mut c_void) {
    // SAFETY: the argument is of a frame that has not returned; the server is in the middle of a report. A copy is
    // memory of the session's, freed with the next; one of "out of memory" would only ask for more.
    unsafe {
        if server::sqlstate() == pgrx::PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY as c_int {
            return;
        }
        let thrown = THROWN.replace(std::ptr::null_mut());
        if !thrown.is_null() {
            server::free_error_data(thrown);
        }
        let before = pg_sys::CurrentMemoryContext;
        pg_sys::CurrentMemoryContext = pg_sys::TopMemoryContext;
        let data = server::copy_error_data();
        if (*data).elevel == pgrx::PgLogLevel::ERROR as c_int {
            (*data).filename = name((*data).filename);
            (*data).funcname = name((*data).funcname);
            let kept = &mut *argument.cast::<Kept>();
            kept.forget();
            kept.0 = data;
        } else {
            server::free_error_data(data);
        }
        pg_sys::CurrentMemoryContext = before;
    }
}

/// The name of a source file or function, kept for the session.
///
/// # Safety
/// A C string, or null.
unsafe fn name(text: *const c_char) -> *const c_char {
    if text.is_null() {
        return text;
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    NAMES.with_borrow_mut(|names| match names.get(text) {
        Some(known) => known.as_ptr(),
        None if names.len() >= NAMES_KEPT => std::ptr::null(),
        None => {
            let known = text.to_owned();
            let address = known.as_ptr();
            names.insert(known);
            address
        }
    })
}
