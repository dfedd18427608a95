//! Errors as the server reports them: with every SQLSTATE, message, detail and hint. pgrx 0.18 rebuilds a report with
//! the SQLSTATEs it knows, and would turn `KC0xx` into `XX000`.

use std::ffi::{CStr, CString, c_char, c_int};

use colcrypt_domain::sqlstate;
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;

use crate::error::{Error, Report};

/// The file that errors of ours are raised in, as far as the server knows.
pub const ORIGIN: &CStr = c"colcrypt";

/// Has no report of this process's carry a Rust backtrace: pgrx adds one to the DETAIL, frames and build paths, where
/// RUST_BACKTRACE is set in the server's environment. Rust asks the environment once.
pub fn without_backtraces() {
    const ASKED: &str = "RUST_LIB_BACKTRACE";
    let before = std::env::var_os(ASKED);
    // SAFETY: while the library is loaded the process has one thread; the environment is left as it was.
    unsafe { std::env::set_var(ASKED, "0") };
    let _ = std::backtrace::Backtrace::capture();
    // SAFETY: as above.
    unsafe {
        match before {
            Some(before) => std::env::set_var(ASKED, before),
            None => std::env::remove_var(ASKED),
        }
    }
}

/// An error and its details, for a record of what went wrong.
pub fn one_line(error: &Error) -> String {
    let report = error.report();
    match report.detail {
        Some(detail) => format!("{}: {}", report.message, detail.replace('\n', ", ")),
        None => report.message,
    }
}

/// Raises an error from code that runs under a pgrx guard but not as an SQL function (workers).
pub fn raise(error: &Error) -> ! {
    let report = error.report();
    let message = format!("{} ({})", report.message, report.sqlstate);
    let mut out = pgrx::pg_sys::panic::ErrorReport::new(
        pgrx::PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
        message,
        "colcrypt",
    );
    if let Some(detail) = report.detail {
        out = out.set_detail(detail);
    }
    if let Some(hint) = report.hint {
        out = out.set_hint(hint);
    }
    out.report(pgrx::PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}

/// Raises an error from a function of the server's that no guard of pgrx's surrounds.
///
/// # Safety
/// No frame between here and the server may have a pending destructor.
pub unsafe fn raise_native(error: Error) -> ! {
    let report = NativeReport::new(&error.report());
    drop(error);
    // SAFETY: the caller's promise; what this frame held is dropped.
    unsafe { report.raise() }
}

/// A report as C strings in server memory: no destructor, so a longjmp may pass it.
#[derive(Clone, Copy)]
pub struct NativeReport(*const Texts);

#[derive(Clone, Copy)]
struct Texts {
    sqlstate: c_int,
    message: *const c_char,
    detail: *const c_char,
    hint: *const c_char,
}

impl NativeReport {
    pub fn new(report: &Report) -> Self {
        // SAFETY: ErrorContext lives as long as the backend, and is emptied when a report is done with.
        let room = |bytes| unsafe { pg_sys::MemoryContextAlloc(pg_sys::ErrorContext, bytes) };
        let copy = |text: &str| -> *const c_char {
            let text = CString::new(text.replace('\0', "")).unwrap_or_default();
            let bytes = text.as_bytes_with_nul();
            let copied = room(bytes.len()).cast::<u8>();
            // SAFETY: room for as many bytes, that nobody else has.
            unsafe { copied.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
            copied.cast()
        };
        let optional = |text: &Option<String>| text.as_deref().map_or(std::ptr::null(), copy);
        let texts = Texts {
            sqlstate: sqlstate::pack(report.sqlstate),
            message: copy(&report.message),
            detail: optional(&report.detail),
            hint: optional(&report.hint),
        };
        let kept = room(size_of::<Texts>()).cast::<Texts>();
        // SAFETY: room for one, aligned as all that the server gives.
        unsafe { kept.write(texts) };
        Self(kept)
    }

    /// # Safety
    /// No frame between here and PostgreSQL may have a pending destructor.
    pub unsafe fn raise(self) -> ! {
        unsafe extern "C-unwind" {
            fn errstart(elevel: c_int, domain: *const c_char) -> bool;
            fn errcode(sqlerrcode: c_int) -> c_int;
            fn errmsg_internal(fmt: *const c_char, ...) -> c_int;
            fn errdetail_internal(fmt: *const c_char, ...) -> c_int;
            fn errhint(fmt: *const c_char, ...) -> c_int;
            fn errfinish(filename: *const c_char, lineno: c_int, funcname: *const c_char);
        }
        // SAFETY: the sequence of ereport(); the texts were written by `new`, every string is NUL-terminated and goes
        // through "%s".
        unsafe {
            let texts = *self.0;
            errstart(pgrx::PgLogLevel::ERROR as c_int, std::ptr::null());
            errcode(texts.sqlstate);
            errmsg_internal(c"%s".as_ptr(), texts.message);
            if !texts.detail.is_null() {
                errdetail_internal(c"%s".as_ptr(), texts.detail);
            }
            if !texts.hint.is_null() {
                errhint(c"%s".as_ptr(), texts.hint);
            }
            // The line is the SQLSTATE, for who has only what pgrx leaves of the error: see `failed`.
            errfinish(ORIGIN.as_ptr(), texts.sqlstate, ORIGIN.as_ptr());
        }
        unreachable!("an ERROR does not return")
    }
}

/// Tells the client something.
pub fn notice(message: String) {
    pgrx::ereport!(
        pgrx::PgLogLevel::NOTICE,
        PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
        message
    );
}

/// Warns the client, and says what comes next.
pub fn warning(message: String, hint: &str) {
    pgrx::ereport!(
        pgrx::PgLogLevel::WARNING,
        PgSqlErrorCode::ERRCODE_WARNING,
        message,
        hint
    );
}

/// Writes a line to the server log, and to it alone: no client sees it, and no statement goes with it.
pub fn server_log(line: &str) {
    unsafe extern "C-unwind" {
        fn errstart(elevel: c_int, domain: *const c_char) -> bool;
        fn errmsg_internal(fmt: *const c_char, ...) -> c_int;
        fn errhidestmt(hide: bool) -> c_int;
        fn errhidecontext(hide: bool) -> c_int;
        fn errfinish(filename: *const c_char, lineno: c_int, funcname: *const c_char);
    }
    let line = CString::new(line.replace('\0', "")).unwrap_or_default();
    // SAFETY: the sequence of ereport() at a level that returns; the text goes through "%s".
    unsafe {
        if errstart(pg_sys::LOG_SERVER_ONLY as c_int, std::ptr::null()) {
            errmsg_internal(c"%s".as_ptr(), line.as_ptr());
            errhidestmt(true);
            errhidecontext(true);
            errfinish(ORIGIN.as_ptr(), 0, ORIGIN.as_ptr());
        }
    }
}

/// Whether an error raised by code that was given a plaintext is about something else: the session's
/// end or a cancel. Any other may quote the plaintext.
pub fn may_be_shown(error: &CaughtError) -> bool {
    match error {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => matches!(
            report.sql_error_code(),
            PgSqlErrorCode::ERRCODE_QUERY_CANCELED | PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN
        ),
        CaughtError::RustPanic { .. } => true,
    }
}

/// What such an error is when it is about sizes alone, said without a word of its own.
pub fn of_size(error: &CaughtError, bytes: usize) -> Option<Error> {
    let (CaughtError::PostgresError(report) | CaughtError::ErrorReport(report)) = error else {
        return None;
    };
    match report.sql_error_code() {
        PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY => Some(Error::OutOfMemory { bytes }),
        PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED => Some(Error::ValueTooLarge { bytes }),
        _ => None,
    }
}
