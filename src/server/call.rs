//! An SQL function's call: its arguments as Rust has them, and its results.

use std::ffi::c_int;

use pgrx::pg_sys;

use crate::error::{Error, LONGEST_ARGUMENT, Result};

/// Longest list of names, in bytes.
const LONGEST_LIST: usize = 16 << 20;

/// Without pgrx's guard: they look at the expression that is called, and raise nothing. Each statement asks them.
mod expression {
    use super::{c_int, pg_sys};

    unsafe extern "C-unwind" {
        #[link_name = "get_fn_expr_argtype"]
        pub fn argument_type(flinfo: *mut pg_sys::FmgrInfo, index: c_int) -> pg_sys::Oid;
        #[link_name = "get_fn_expr_rettype"]
        pub fn result_type(flinfo: *mut pg_sys::FmgrInfo) -> pg_sys::Oid;
        #[link_name = "get_fn_expr_variadic"]
        pub fn is_variadic(flinfo: *mut pg_sys::FmgrInfo) -> bool;
    }
}

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
        unsafe { expression::argument_type(self.flinfo(), index as c_int) }
    }

    /// Whether it was called with an array for its last arguments.
    pub fn is_variadic(&self) -> bool {
        // SAFETY: flinfo belongs to this call.
        unsafe { expression::is_variadic(self.flinfo()) }
    }

    /// The resolved result type.
    pub fn result_type(&self) -> pg_sys::Oid {
        // SAFETY: flinfo belongs to this call.
        unsafe { expression::result_type(self.flinfo()) }
    }

    /// A text argument as a Rust string.
    ///
    /// # Errors
    /// [`Error::NullArgument`], [`Error::ArgumentTooLong`], and for one that is no UTF-8, in a database of another
    /// encoding.
    pub fn text(&self, index: usize, name: &'static str) -> Result<String> {
        // SAFETY: the SQL declaration says the argument is text, whose bytes are as a bytea's.
        let bytes: Vec<u8> = unsafe { self.long(index, name)? }.ok_or(Error::NullArgument(name))?;
        String::from_utf8(bytes).map_err(|_| Error::InvalidParameter {
            message: format!("argument {name} is no UTF-8"),
            hint: "In a database of another encoding it has to be in ASCII.".into(),
        })
    }

    /// An argument of a type of any length that pgrx knows, `None` for NULL: a name, a reason, settings, never a value.
    /// Its length is bounded, since much is made of it in Rust's memory, which must not run out.
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

    /// A list of names, `None` for NULL: of thousands, and bounded all the same.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`].
    ///
    /// # Safety
    /// The SQL declaration says the argument is text[].
    pub unsafe fn names(
        &self,
        index: usize,
        name: &'static str,
    ) -> Result<Option<Vec<Option<String>>>> {
        let Some(datum) = self.datum(index) else {
            return Ok(None);
        };
        // SAFETY: the caller vouches for a text[].
        unsafe {
            let bytes = pg_sys::toast_raw_datum_size(datum);
            if bytes > LONGEST_LIST {
                return Err(Error::InvalidParameter {
                    message: format!("the argument {name} is too long: {bytes} bytes"),
                    hint: format!(
                        "At most {} MB in one call: make several.",
                        LONGEST_LIST >> 20
                    ),
                });
            }
            Ok(pgrx::FromDatum::from_datum(datum, false))
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
