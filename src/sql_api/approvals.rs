//! Four-eyes keyrings: switching it on and off, and deciding requests.

use pgrx::pg_sys;

use crate::catalog::read;
use crate::ceremony::{self, RequireFourEyes};
use crate::error::{Error, Result};
use crate::pg::{self, Call};

/// Shortest and longest window: time to look at a request, and an end to it.
const WINDOW_SECONDS: std::ops::RangeInclusive<i64> = 60..=366 * 24 * 3600;

fn require_four_eyes(call: Call) -> Result<pg_sys::Datum> {
    let keyring = read::keyring_by_name(&call.text(0, "keyring")?)?;
    // SAFETY: declared as boolean and interval.
    let (enabled, window) = unsafe {
        (
            call.get::<bool>(1).ok_or(Error::NullArgument("enabled"))?,
            call.get::<pgrx::datum::Interval>(2),
        )
    };
    let window_seconds =
        window.map(|window| i64::try_from(window.as_micros() / 1_000_000).unwrap_or(i64::MAX));
    if window_seconds.is_some_and(|seconds| !WINDOW_SECONDS.contains(&seconds)) {
        return Err(Error::InvalidParameter {
            message: "an approval window must be between one minute and 366 days".into(),
            hint: "Give one such as '24 hours'.".into(),
        });
    }
    if enabled && window_seconds.is_none() && ceremony::is_asked_for(keyring.id)? {
        return pg::varlena_from(b"enabled");
    }
    let answer = ceremony::gate(&RequireFourEyes {
        keyring: keyring.name,
        keyring_id: keyring.id,
        enabled,
        window_seconds,
    })?;
    pg::varlena_from(answer.as_bytes())
}

fn approve_request(call: Call) -> Result<pg_sys::Datum> {
    let reason = optional_text(call, 1)?;
    pg::varlena_from(ceremony::approve(number(call)?, reason)?.as_bytes())
}

fn reject_request(call: Call) -> Result<pg_sys::Datum> {
    ceremony::reject(number(call)?, call.text(1, "reason")?)?;
    Ok(pg_sys::Datum::from(0))
}

fn withdraw_request(call: Call) -> Result<pg_sys::Datum> {
    ceremony::withdraw(number(call)?)?;
    Ok(pg_sys::Datum::from(0))
}

fn number(call: Call) -> Result<i64> {
    // SAFETY: declared as bigint.
    unsafe { call.get::<i64>(0) }.ok_or(Error::NullArgument("request"))
}

fn optional_text(call: Call, index: usize) -> Result<Option<String>> {
    call.datum(index)
        .map(|_| call.text(index, "reason"))
        .transpose()
}

crate::sql_functions! {
    colcrypt_require_four_eyes / pg_finfo_colcrypt_require_four_eyes => require_four_eyes;
    colcrypt_approve_request / pg_finfo_colcrypt_approve_request => approve_request;
    colcrypt_reject_request / pg_finfo_colcrypt_reject_request => reject_request;
    colcrypt_withdraw_request / pg_finfo_colcrypt_withdraw_request => withdraw_request;
}
