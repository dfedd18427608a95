//! The plain FFI that has no better home: SQL function entry, arguments, native error reports,
//! varlena access, and a few server calls that cannot raise and are too hot for pgrx's guards.

use std::ffi::{CString, c_char, c_int};

use pgrx::{IntoDatum, pg_sys};

use crate::error::{Error, Report, Result};

/// Longest argument that is no value and no context, in bytes.
pub const LONGEST_ARGUMENT: usize = 64 * 1024;

/// SQL types whose values all have the same length.
pub trait FixedLength: pgrx::FromDatum {}
impl FixedLength for bool {}
impl FixedLength for i32 {}
impl FixedLength for i64 {}
impl FixedLength for pg_sys::Oid {}
impl FixedLength for pgrx::Uuid {}
impl FixedLength for pgrx::datum::Interval {}

/// Arguments of an SQL function call.
#[derive(Clone, Copy)]
pub struct Call(pg_sys::FunctionCallInfo);

impl Call {
    /// # Safety
    /// `fcinfo` is what PostgreSQL passed to a version-1 function that is still running.
    pub unsafe fn new(fcinfo: pg_sys::FunctionCallInfo) -> Self {
        Self(fcinfo)
    }

    pub fn fcinfo(&self) -> pg_sys::FunctionCallInfo {
        self.0
    }

    pub fn flinfo(&self) -> *mut pg_sys::FmgrInfo {
        // SAFETY: fcinfo is valid for the call (see `new`).
        unsafe { (*self.0).flinfo }
    }

    pub fn len(&self) -> usize {
        // SAFETY: as above.
        unsafe { (*self.0).nargs as usize }
    }

    /// The argument, `None` when it is NULL or was not passed by this overload.
    #[inline(always)]
    pub fn datum(&self, index: usize) -> Option<pg_sys::Datum> {
        // SAFETY: as above, and PostgreSQL allocated `nargs` arguments behind the header.
        unsafe {
            if index >= (*self.0).nargs as usize {
                return None;
            }
            let argument = (*self.0).args.as_ptr().add(index);
            (!(*argument).isnull).then_some((*argument).value)
        }
    }

    /// The declared type of an argument as the parser resolved it.
    pub fn argument_type(&self, index: usize) -> pg_sys::Oid {
        // SAFETY: flinfo belongs to this call.
        unsafe { pg_sys::get_fn_expr_argtype(self.flinfo(), index as c_int) }
    }

    /// The resolved result type.
    pub fn result_type(&self) -> pg_sys::Oid {
        // SAFETY: flinfo belongs to this call.
        unsafe { pg_sys::get_fn_expr_rettype(self.flinfo()) }
    }

    /// A text argument as a Rust string (the server guarantees its encoding).
    ///
    /// # Errors
    /// [`Error::NullArgument`], [`Error::ArgumentTooLong`].
    pub fn text(&self, index: usize, name: &'static str) -> Result<String> {
        // SAFETY: the SQL declaration says the argument is text.
        unsafe { self.long(index, name)? }.ok_or(Error::NullArgument(name))
    }

    /// An argument of a type of any length that pgrx knows, `None` for NULL: a name, a reason, settings, never a value. Its
    /// length is bounded, since much is made of it in Rust's memory, which must not run out.
    ///
    /// # Errors
    /// [`Error::ArgumentTooLong`].
    ///
    /// # Safety
    /// The SQL declaration gives the argument the type of `T`, a varlena.
    pub unsafe fn long<T: pgrx::FromDatum>(
        &self,
        index: usize,
        name: &'static str,
    ) -> Result<Option<T>> {
        let Some(datum) = self.datum(index) else {
            return Ok(None);
        };
        // SAFETY: the caller vouches for a varlena of the type.
        unsafe {
            let bytes = pg_sys::toast_raw_datum_size(datum);
            if bytes > LONGEST_ARGUMENT {
                return Err(Error::ArgumentTooLong { name, bytes });
            }
            Ok(T::from_datum(datum, false))
        }
    }

    /// An argument of fixed length, `None` for NULL.
    ///
    /// # Safety
    /// The SQL declaration gives the argument the type of `T`.
    pub unsafe fn get<T: FixedLength>(&self, index: usize) -> Option<T> {
        let datum = self.datum(index)?;
        // SAFETY: the caller vouches for the type.
        unsafe { T::from_datum(datum, false) }
    }

    pub fn null(&self) -> pg_sys::Datum {
        // SAFETY: fcinfo is valid for the call.
        unsafe { (*self.0).isnull = true };
        pg_sys::Datum::from(0)
    }
}

/// Declares SQL-callable functions: symbol, its `pg_finfo_` record, and a body that takes a [`Call`]
/// and gives a `Result<Datum>`.
///
/// Errors are reported natively, in the outermost frame and after every Rust value is dropped,
/// because pgrx's own reports can carry only the SQLSTATEs it knows.
#[macro_export]
macro_rules! sql_functions {
    ($($symbol:ident / $finfo:ident => $body:path;)+) => {
        $(
            #[unsafe(no_mangle)]
            pub extern "C" fn $finfo() -> &'static pgrx::pg_sys::Pg_finfo_record {
                static VERSION_1: pgrx::pg_sys::Pg_finfo_record =
                    pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
                &VERSION_1
            }

            /// # Safety
            /// Called by PostgreSQL only.
            #[unsafe(no_mangle)]
            pub unsafe extern "C-unwind" fn $symbol(
                fcinfo: pgrx::pg_sys::FunctionCallInfo,
            ) -> pgrx::pg_sys::Datum {
                fn checked(
                    call: $crate::pg::Call,
                ) -> $crate::error::Result<pgrx::pg_sys::Datum> {
                    // Known when this is compiled: a value's encryption pays nothing for it.
                    const DECIDES: bool =
                        colcrypt_core::verbs::is_verb_symbol(stringify!($symbol));
                    if DECIDES {
                        $crate::enclosure::refuse_enclosed(call)?;
                    }
                    $body(call)
                }
                // SAFETY: this is the outermost frame of the call.
                unsafe { $crate::pg::enter(fcinfo, checked) }
            }
        )+
    };
}

/// Runs an SQL function's body; see [`sql_functions`].
///
/// # Safety
/// Only for the outermost frame of a function that PostgreSQL called with `fcinfo`.
pub unsafe fn enter(
    fcinfo: pg_sys::FunctionCallInfo,
    body: fn(Call) -> Result<pg_sys::Datum>,
) -> pg_sys::Datum {
    // SAFETY: the caller is the outermost frame; no destructor is pending above the guard.
    let outcome = unsafe {
        pgrx::pg_sys::submodules::panic::pgrx_extern_c_guard(|| {
            body(Call::new(fcinfo)).map_err(|error| {
                let report = error.report();
                crate::error::note_raised(&report);
                crate::audit::failed(Call::new(fcinfo), &error, &report);
                NativeReport::new(&report)
            })
        })
    };
    match outcome {
        Ok(datum) => datum,
        // SAFETY: as above; NativeReport is plain pointers into server memory.
        Err(report) => unsafe { report.raise() },
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
struct NativeReport {
    sqlstate: c_int,
    message: *const c_char,
    detail: *const c_char,
    hint: *const c_char,
}

impl NativeReport {
    fn new(report: &Report) -> Self {
        let copy = |text: &str| -> *const c_char {
            let text = CString::new(text.replace('\0', "")).unwrap_or_default();
            // SAFETY: ErrorContext lives as long as the backend; pstrdup copies the string there.
            unsafe {
                let before = pg_sys::MemoryContextSwitchTo(pg_sys::ErrorContext);
                let copied = pg_sys::pstrdup(text.as_ptr());
                pg_sys::MemoryContextSwitchTo(before);
                copied
            }
        };
        let optional = |text: &Option<String>| text.as_deref().map_or(std::ptr::null(), copy);
        Self {
            sqlstate: encode_sqlstate(report.sqlstate),
            message: copy(&report.message),
            detail: optional(&report.detail),
            hint: optional(&report.hint),
        }
    }

    /// # Safety
    /// No frame between here and PostgreSQL may have a pending destructor.
    unsafe fn raise(self) -> ! {
        unsafe extern "C-unwind" {
            fn errstart(elevel: c_int, domain: *const c_char) -> bool;
            fn errcode(sqlerrcode: c_int) -> c_int;
            fn errmsg_internal(fmt: *const c_char, ...) -> c_int;
            fn errdetail_internal(fmt: *const c_char, ...) -> c_int;
            fn errhint(fmt: *const c_char, ...) -> c_int;
            fn errfinish(filename: *const c_char, lineno: c_int, funcname: *const c_char);
        }
        // SAFETY: the sequence of ereport(); every string is NUL-terminated and goes through "%s".
        unsafe {
            errstart(pgrx::PgLogLevel::ERROR as c_int, std::ptr::null());
            errcode(self.sqlstate);
            errmsg_internal(c"%s".as_ptr(), self.message);
            if !self.detail.is_null() {
                errdetail_internal(c"%s".as_ptr(), self.detail);
            }
            if !self.hint.is_null() {
                errhint(c"%s".as_ptr(), self.hint);
            }
            errfinish(c"colcrypt".as_ptr(), 0, c"colcrypt".as_ptr());
        }
        unreachable!("an ERROR does not return")
    }
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
            errfinish(c"colcrypt".as_ptr(), 0, c"colcrypt".as_ptr());
        }
    }
}

/// MAKE_SQLSTATE: five characters, six bits each.
pub fn encode_sqlstate(code: &str) -> c_int {
    code.bytes().enumerate().fold(0, |packed, (index, byte)| {
        packed | ((c_int::from(byte) - c_int::from(b'0')) & 0x3f) << (6 * index)
    })
}

unsafe extern "C-unwind" {
    #[link_name = "GetUserId"]
    fn unguarded_get_user_id() -> pg_sys::Oid;
    #[link_name = "GetCurrentStatementStartTimestamp"]
    fn unguarded_statement_start() -> i64;
}

/// The server's own handlers for SIGTERM, SIGINT and SIGHUP, as plain functions.
pub mod signal_handlers {
    use std::ffi::c_int;

    unsafe extern "C-unwind" {
        pub fn die(signal: c_int);
        #[link_name = "StatementCancelHandler"]
        pub fn cancel(signal: c_int);
        #[link_name = "SignalHandlerForConfigReload"]
        pub fn reload(signal: c_int);
    }
}

/// The current role. Only reads a variable, so it goes without pgrx's guard: it is called per value.
#[inline(always)]
pub fn current_user() -> pg_sys::Oid {
    // SAFETY: GetUserId reads a static and cannot raise (an assertion apart).
    unsafe { unguarded_get_user_id() }
}

/// When the client's current statement began: its identity. Unguarded for the same reason.
#[inline(always)]
pub fn statement_start() -> i64 {
    // SAFETY: reads a static and cannot raise.
    unsafe { unguarded_statement_start() }
}

#[inline(always)]
pub fn my_pid() -> i32 {
    // SAFETY: set at process start, never written again.
    unsafe { pg_sys::MyProcPid }
}

pub fn my_database() -> pg_sys::Oid {
    // SAFETY: set at connection, never written again.
    unsafe { pg_sys::MyDatabaseId }
}

/// A timestamp of the server's as the session writes them, for messages.
pub fn timestamp(at: i64) -> String {
    // SAFETY: formats into a static buffer, copied at once.
    unsafe { std::ffi::CStr::from_ptr(pg_sys::timestamptz_to_str(at)) }
        .to_string_lossy()
        .into_owned()
}

/// Milliseconds of CLOCK_BOOTTIME: the same in every process, never set back, counts suspend.
pub fn boottime_ms() -> i64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes to `now`; CLOCK_BOOTTIME exists since Linux 2.6.39.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now) };
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}

/// A TimestampTz and an interval, as SQL adds them.
pub fn add_interval(timestamp: i64, interval: pgrx::datum::Interval) -> i64 {
    // SAFETY: the server's function for exactly these two types; its result is a TimestampTz.
    let sum = unsafe {
        pgrx::direct_function_call_as_datum(
            pg_sys::timestamptz_pl_interval,
            &[Some(pg_sys::Datum::from(timestamp)), interval.into_datum()],
        )
    };
    sum.map_or(i64::MAX, |sum| sum.value() as i64)
}

/// An interval as SQL writes it.
pub fn interval_text(interval: pgrx::datum::Interval) -> String {
    // SAFETY: the type's own output function gives a C string.
    unsafe {
        let text =
            pgrx::direct_function_call_as_datum(pg_sys::interval_out, &[interval.into_datum()]);
        text.map_or_else(String::new, |text| {
            std::ffi::CStr::from_ptr(text.cast_mut_ptr())
                .to_string_lossy()
                .into_owned()
        })
    }
}

/// Waits a moment; can be cancelled, and ends early when the latch is set.
pub fn nap(ms: i64) {
    // SAFETY: waits on this process's latch; interrupts are handled after it.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            (pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as i32,
            ms as _,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    pgrx::check_for_interrupts!();
}

/// A detoasted varlena argument: short headers stay short, and the copy (if detoasting made one) is
/// wiped and freed with the value.
pub struct Varlena {
    pointer: *mut pg_sys::varlena,
    owned: bool,
}

impl Varlena {
    /// Whether it is as it is, neither compressed nor out of line.
    ///
    /// # Safety
    /// `datum` is a varlena.
    #[inline(always)]
    pub unsafe fn is_inline(datum: pg_sys::Datum) -> bool {
        // SAFETY: the caller vouches for a varlena; this only reads its header's first byte.
        let header = unsafe { *datum.cast_mut_ptr::<u8>() };
        let plain = header & 0x03 == 0x00;
        let short = header & 0x01 == 0x01 && header != 0x01;
        plain || short
    }

    /// # Safety
    /// `datum` is a varlena.
    #[inline(always)]
    pub unsafe fn from_datum(datum: pg_sys::Datum) -> Self {
        let original = datum.cast_mut_ptr::<pg_sys::varlena>();
        // SAFETY: the caller vouches for a varlena.
        unsafe {
            if Self::is_inline(datum) {
                return Self {
                    pointer: original,
                    owned: false,
                };
            }
            Self {
                pointer: pg_sys::pg_detoast_datum_packed(original),
                owned: true,
            }
        }
    }

    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the varlena is inline (see from_datum) and outlives `self`.
        unsafe { pgrx::varlena::varlena_to_byte_slice(self.pointer) }
    }
}

impl Drop for Varlena {
    fn drop(&mut self) {
        if self.owned {
            // SAFETY: pg_detoast_datum_packed palloc'd it for us.
            unsafe { pg_sys::pfree(self.pointer.cast()) };
        }
    }
}

/// Largest payload of a varlena: MaxAllocSize less the header.
pub const MAX_VARLENA: usize = 0x3fff_ffff - 4;

/// A new varlena with room for `length` bytes, filled by `fill`.
///
/// # Errors
/// [`Error::ValueTooLarge`] beyond 1 GB; whatever `fill` answers (the memory is freed).
#[inline(always)]
pub fn new_varlena(
    length: usize,
    fill: impl FnOnce(&mut [u8]) -> Result<()>,
) -> Result<pg_sys::Datum> {
    if length > MAX_VARLENA {
        return Err(Error::ValueTooLarge { bytes: length });
    }
    // SAFETY: palloc gives length + 4 writable bytes; the header is set before the value is used,
    // and `fill` gets memory that was initialised by the compiler's view only after write_bytes
    // would cost a pass over it: the slice is of u8, which has no invalid values, and fill is
    // required to overwrite all of it.
    unsafe {
        let pointer = pg_sys::palloc(length + 4).cast::<u8>();
        let body = std::slice::from_raw_parts_mut(pointer.add(4), length);
        if let Err(error) = fill(body) {
            pg_sys::pfree(pointer.cast());
            return Err(error);
        }
        pgrx::varlena::set_varsize_4b(pointer.cast(), (length + 4) as i32);
        Ok(pg_sys::Datum::from(pointer))
    }
}

/// A new text or bytea datum.
pub fn varlena_from(bytes: &[u8]) -> Result<pg_sys::Datum> {
    new_varlena(bytes.len(), |out| {
        out.copy_from_slice(bytes);
        Ok(())
    })
}

/// A role's name, for messages.
pub fn role_name(role: pg_sys::Oid) -> String {
    existing_role_name(role).unwrap_or_else(|| role.to_u32().to_string())
}

/// A role's name, unless the role is gone.
pub fn existing_role_name(role: pg_sys::Oid) -> Option<String> {
    // SAFETY: palloc's a C string, or gives null for a role that is gone.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        (!name.is_null()).then(|| {
            std::ffi::CStr::from_ptr(name)
                .to_string_lossy()
                .into_owned()
        })
    }
}

/// The name of a type as SQL writes it, for messages; a header may name one that does not exist.
pub fn type_name(oid: pg_sys::Oid) -> String {
    // SAFETY: palloc's a C string, or gives null for an unknown type.
    unsafe {
        let name =
            pg_sys::format_type_extended(oid, -1, pg_sys::FORMAT_TYPE_INVALID_AS_NULL as u16);
        if name.is_null() {
            return format!("unknown type {}", oid.to_u32());
        }
        std::ffi::CStr::from_ptr(name)
            .to_string_lossy()
            .into_owned()
    }
}

/// The name of a type that no setting changes: its catalog name, qualified and quoted where needed
/// unless it is built in. `int4`, `_text`, `shop.mood`.
pub fn canonical_type_name(oid: pg_sys::Oid) -> Result<String> {
    // SAFETY: reads the type's row, copies what it needs, and releases it.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::TYPEOID as i32,
            pg_sys::Datum::from(oid),
        );
        if tuple.is_null() {
            return Err(Error::CatalogCorrupt(format!(
                "type {} does not exist",
                oid.to_u32()
            )));
        }
        let row = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_type>();
        let name = pgrx::name_data_to_str(&row.typname).to_string();
        let schema = row.typnamespace;
        pg_sys::ReleaseSysCache(tuple);
        if oid.to_u32() < colcrypt_core::PlaintextType::FIRST_UNSTABLE_OID {
            return Ok(name);
        }
        let schema = std::ffi::CStr::from_ptr(pg_sys::get_namespace_name_or_temp(schema))
            .to_string_lossy()
            .into_owned();
        Ok(pgrx::spi::quote_qualified_identifier(schema, name))
    }
}
