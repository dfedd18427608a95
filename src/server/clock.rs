//! Times as the server counts them.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::{IntoDatum, pg_sys};

unsafe extern "C-unwind" {
    #[link_name = "GetCurrentStatementStartTimestamp"]
    fn unguarded_statement_start() -> i64;
}

/// A TimestampTz as the server counts it: microseconds since 2000-01-01 UTC.
pub struct Timestamp(pub i64);

impl IntoDatum for Timestamp {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(pg_sys::Datum::from(self.0))
    }

    fn type_oid() -> pg_sys::Oid {
        TimestampWithTimeZone::type_oid()
    }
}

/// When the client's current statement began: its identity. Unguarded for the same reason.
#[inline(always)]
pub fn statement_start() -> i64 {
    // SAFETY: reads a static and cannot raise.
    unsafe { unguarded_statement_start() }
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
    boottime_us() / 1000
}

/// The same in microseconds.
pub fn boottime_us() -> i64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes to `now`; CLOCK_BOOTTIME exists since Linux 2.6.39.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now) };
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}

/// Whether a time to try again at has come, as SQL; NULL is at once. One that is further off than any pause is long was
/// written before the clock went back; infinity is somebody's order.
pub fn is_over(retry_at: &str, longest_pause: std::time::Duration) -> String {
    let longest = longest_pause.as_secs() + 60;
    format!(
        "coalesce({retry_at} <= clock_timestamp() \
             OR ({retry_at} > clock_timestamp() + interval '{longest} seconds' AND isfinite({retry_at})), true)"
    )
}

/// A TimestampTz and an interval, as SQL adds them in UTC: in a session's own time zone, which anybody may set, months
/// and days are of other lengths.
pub fn add_interval(timestamp: i64, interval: pgrx::datum::Interval) -> i64 {
    // SAFETY: the server's function for an interval and a timestamp, which is a TimestampTz told in UTC, as its result
    // is.
    let sum = unsafe {
        pgrx::direct_function_call_as_datum(
            pg_sys::timestamp_pl_interval,
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
