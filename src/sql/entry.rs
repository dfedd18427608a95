//! How PostgreSQL comes in: one entry line makes a C symbol, its `pg_finfo_` record, and says what the call is to the
//! audit log and to the people who decide.

use pgrx::pg_sys;

use crate::audit::{self, Failure};
use crate::error::{Error, Report, Result};
use crate::server::call::Call;
use crate::server::report::NativeReport;
use crate::server::{rethrow, scanned};

/// What a function is to the audit log, and whether other people's code may call it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It decides something: taken from a person only, see [`crate::server::enclosure`]. Each has its gate in
    /// `colcrypt_core::verbs::VERBS`.
    Decides,
    /// It uses keys, or what was made with them, and is called for each value: a slip of the caller's is no event.
    UsesKeys,
    /// It changes nothing, or is called by our own statements; that it failed is worth a record.
    Asks,
    /// It uses no key and changes nothing: its failures are nobody's business.
    Harmless,
}

impl Class {
    const fn failure(self) -> Option<Failure> {
        match self {
            Self::Decides | Self::Asks => Some(Failure::OfAnAct),
            Self::UsesKeys => Some(Failure::OfAUse),
            Self::Harmless => None,
        }
    }
}

/// Declares SQL-callable functions, by what they are: `Class { symbol => body; }` exports `colcrypt_symbol`, whose body
/// takes a [`Call`] and returns a `Result<Datum>`. One that decides and has no gate, or has one and does not decide,
/// does not compile.
macro_rules! sql_functions {
    ($($class:ident { $($name:ident => $body:path;)+ })+) => {
        $($(pastey::paste! {
            #[unsafe(no_mangle)]
            pub extern "C" fn [<pg_finfo_colcrypt_ $name>]() -> &'static pgrx::pg_sys::Pg_finfo_record {
                static VERSION_1: pgrx::pg_sys::Pg_finfo_record =
                    pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
                &VERSION_1
            }

            /// # Safety
            /// Called by PostgreSQL only.
            #[unsafe(no_mangle)]
            pub unsafe extern "C-unwind" fn [<colcrypt_ $name>](
                fcinfo: pgrx::pg_sys::FunctionCallInfo,
            ) -> pgrx::pg_sys::Datum {
                use $crate::sql::entry::Class;
                const CLASS: Class = Class::$class;
                // Known when this is compiled: a value's encryption pays nothing for it.
                const DECIDES: bool = matches!(CLASS, Class::Decides);
                const PLACE: colcrypt_core::verbs::Place =
                    colcrypt_core::verbs::place_of(stringify!($name));
                const {
                    assert!(
                        DECIDES == colcrypt_core::verbs::is_verb(stringify!($name)),
                        concat!(stringify!($name), ": what is of class Decides has a gate in colcrypt_core::verbs::VERBS, and nothing else has")
                    );
                }
                fn checked(
                    call: $crate::server::call::Call,
                ) -> $crate::error::Result<pgrx::pg_sys::Datum> {
                    if DECIDES {
                        $crate::server::enclosure::refuse_enclosed(call)?;
                    }
                    $crate::keys::node::refuse_elsewhere(PLACE)?;
                    $body(call)
                }
                // SAFETY: this is the outermost frame of the call.
                unsafe { $crate::sql::entry::enter(fcinfo, CLASS, checked) }
            }
        })+)+
    };
}

pub(crate) use sql_functions;

/// Adds to the detail which row the value is in that does not open, where that is known.
#[cold]
fn say_row(call: Call, error: &Error, report: &mut Report) {
    if !error.is_of_a_closed_value() && !error.is_of_a_type() {
        return;
    }
    if let Some(row) = call.datum(0).and_then(scanned::row_of) {
        report.detail = Some(match report.detail.take() {
            Some(detail) => format!("{detail} {row}"),
            None => row,
        });
    }
}

/// Runs an SQL function's body. Errors are reported natively, in the outermost frame and after every Rust value is
/// dropped.
///
/// # Safety
/// Only for the outermost frame of a function that PostgreSQL called with `fcinfo`.
#[inline(always)]
pub unsafe fn enter(
    fcinfo: pg_sys::FunctionCallInfo,
    class: Class,
    body: fn(Call) -> Result<pg_sys::Datum>,
) -> pg_sys::Datum {
    // SAFETY: the caller's promise.
    let call = unsafe { Call::new(fcinfo) };
    let mut refused = None;
    // The outcome goes through the guard as one word, and an error beside it: a larger one is written and read back in
    // other pieces, for which a processor waits longer than for all the rest of the guard.
    let work = || {
        body(call).unwrap_or_else(|error| {
            refused = Some(reported(call, class, &error));
            pg_sys::Datum::null()
        })
    };
    // What uses keys runs no statement of anybody's, and its time counts.
    // SAFETY: the caller is the outermost frame; no destructor is pending above the guard.
    let datum = unsafe {
        if class == Class::UsesKeys {
            pgrx::pg_sys::submodules::panic::pgrx_extern_c_guard(work)
        } else {
            rethrow::guard(work)
        }
    };
    match refused {
        None => datum,
        // SAFETY: as above; NativeReport is a plain pointer into server memory.
        Some(report) => unsafe { report.raise() },
    }
}

#[cold]
#[inline(never)]
fn reported(call: Call, class: Class, error: &Error) -> NativeReport {
    let mut report = error.report();
    if let Some(failure) = class.failure() {
        audit::failed(call, failure, error, &report);
    }
    if class == Class::UsesKeys {
        say_row(call, error, &mut report);
    }
    NativeReport::new(&report)
}
