//! Four-eyes keyrings: switching it on and off, and deciding requests.

use colcrypt_domain::approval::refuse_window;
use pgrx::pg_sys;

use crate::catalog::read;
use crate::error::{Error, Result};
use crate::keys::acts;
use crate::keys::approval::{self, RequireFourEyes};
use crate::server::call::Call;
use crate::server::varlena;
use crate::sql::entry::sql_functions;

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
    refuse_window(window_seconds)?;
    if enabled && window_seconds.is_none() && approval::hold_rule(keyring.id)? {
        return varlena::varlena_from(b"enabled");
    }
    let answer = approval::gate(&RequireFourEyes {
        keyring: keyring.name,
        keyring_id: keyring.id,
        enabled,
        window_seconds,
    })?;
    varlena::varlena_from(answer.as_bytes())
}

fn approve_request(call: Call) -> Result<pg_sys::Datum> {
    let reason = optional_text(call, 1)?;
    varlena::varlena_from(approval::approve(number(call)?, reason, acts::kept)?.as_bytes())
}

fn reject_request(call: Call) -> Result<pg_sys::Datum> {
    approval::reject(number(call)?, call.text(1, "reason")?)?;
    Ok(pg_sys::Datum::from(0))
}

fn withdraw_request(call: Call) -> Result<pg_sys::Datum> {
    approval::withdraw(number(call)?)?;
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

sql_functions! {
    Decides {
        approve_request => approve_request;
        reject_request => reject_request;
        require_four_eyes => require_four_eyes;
        withdraw_request => withdraw_request;
    }
}
