//! What an administrator asks of a key: cryptoperiods, how often it is rotated, how much it may encrypt, whether it
//! compresses.

use colcrypt_core::compression::Method;
use pgrx::datum::{DatumWithOid, Interval};
use pgrx::pg_sys;

use crate::audit::Act;
use crate::catalog::read::{self, Key};
use crate::catalog::write;
use crate::error::{Error, Privilege, Result};
use crate::maintenance;
use crate::pg::Call;

/// The lowest bound: so that one percent of it is a value, and no share is reached by none.
const LEAST_BOUND: u64 = 100;

fn key(call: Call) -> Result<Key> {
    let key = read::key_by_name(&call.text(0, "key")?)?;
    read::require(&key, Privilege::Manage)?;
    Ok(key)
}

/// Changes the key's row, records the act, and has the worker look at the schedule.
fn change<const N: usize>(
    key: &Key,
    event: &'static str,
    assignments: &str,
    values: [DatumWithOid; N],
    detail: String,
) -> Result<()> {
    let mut arguments: Vec<DatumWithOid> = vec![(key.id.0 as i64).into()];
    arguments.extend(values);
    write::execute(
        &format!("UPDATE colcrypt.key SET {assignments} WHERE key_id = $1"),
        &arguments,
    )?;
    // What hindered the last rotation may be what was changed.
    write::execute(
        "DELETE FROM colcrypt.rotation_try WHERE key_id = $1",
        &[(key.id.0 as i64).into()],
    )?;
    Act::new(event).key(key).detail(detail).record()?;
    maintenance::wake_at_commit();
    Ok(())
}

fn interval(call: Call, index: usize) -> Option<Interval> {
    // SAFETY: declared as interval.
    unsafe { call.get::<Interval>(index) }
}

fn refuse_negative(what: &str, interval: Option<Interval>, zero_allowed: bool) -> Result<()> {
    let Some(interval) = interval else {
        return Ok(());
    };
    let (start, end) = (0, crate::pg::add_interval(0, interval));
    if end > start || (zero_allowed && end == start) {
        return Ok(());
    }
    Err(Error::InvalidParameter {
        message: format!("the {what} must be positive, not {}", shown(Some(interval))),
        hint: "Pass null for one without end.".into(),
    })
}

fn shown(interval: Option<Interval>) -> String {
    let Some(interval) = interval else {
        return "none".into();
    };
    crate::pg::interval_text(interval)
}

fn set_cryptoperiods(call: Call) -> Result<pg_sys::Datum> {
    let key = key(call)?;
    let (originator, recipient) = (interval(call, 1), interval(call, 2));
    refuse_negative("originator-usage period", originator, false)?;
    refuse_negative("recipient-usage period", recipient, true)?;
    change(
        &key,
        "set_cryptoperiods",
        "originator_usage_period = $2, recipient_usage_period = $3",
        [originator.into(), recipient.into()],
        format!(
            "originator {}, recipient {}",
            shown(originator),
            shown(recipient)
        ),
    )?;
    Ok(call.null())
}

fn set_rotation_interval(call: Call) -> Result<pg_sys::Datum> {
    let key = key(call)?;
    let every = interval(call, 1);
    refuse_negative("rotation interval", every, false)?;
    change(
        &key,
        "set_rotation_interval",
        "rotation_interval = $2",
        [every.into()],
        shown(every),
    )?;
    Ok(call.null())
}

fn set_usage_bound(call: Call) -> Result<pg_sys::Datum> {
    let key = key(call)?;
    // SAFETY: declared as bigint.
    let bound = unsafe { call.get::<i64>(1) };
    if let Some(bound) = bound {
        let most = key.suite.bound();
        if !u64::try_from(bound).is_ok_and(|bound| (LEAST_BOUND..=most).contains(&bound)) {
            return Err(Error::InvalidParameter {
                message: format!("the bound must be {LEAST_BOUND} to {most}, not {bound}"),
                hint: format!(
                    "Suite {} sets the highest; pass null for it.",
                    key.suite.name()
                ),
            });
        }
    }
    change(
        &key,
        "set_usage_bound",
        "usage_bound = $2",
        [bound.into()],
        bound.map_or_else(|| "the suite's".into(), |bound| bound.to_string()),
    )?;
    Ok(call.null())
}

fn set_compression(call: Call) -> Result<pg_sys::Datum> {
    let key = key(call)?;
    let method = call
        .datum(1)
        .map(|_| call.text(1, "method"))
        .transpose()?
        .map(|name| name.parse::<Method>().map_err(|_| unknown_method(&name)))
        .transpose()?;
    change(
        &key,
        "set_compression",
        "compression = $2",
        [method.map(|method| method.name().to_owned()).into()],
        method.map_or("none", Method::name).into(),
    )?;
    Ok(call.null())
}

fn unknown_method(name: &str) -> Error {
    Error::InvalidParameter {
        message: format!("unknown compression method \"{name}\""),
        hint: "Pass 'lz4', or null for none.".into(),
    }
}

crate::sql_functions! {
    colcrypt_set_compression / pg_finfo_colcrypt_set_compression => set_compression;
    colcrypt_set_cryptoperiods / pg_finfo_colcrypt_set_cryptoperiods => set_cryptoperiods;
    colcrypt_set_rotation_interval / pg_finfo_colcrypt_set_rotation_interval => set_rotation_interval;
    colcrypt_set_usage_bound / pg_finfo_colcrypt_set_usage_bound => set_usage_bound;
}
