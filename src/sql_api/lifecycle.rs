//! The verbs of a key's life as SQL calls them.

use colcrypt_core::state::Verb;
use pgrx::{IntoDatum, pg_sys};

use super::record::{Record, return_set};
use crate::audit::Act;
use crate::catalog::read;
use crate::ceremony;
use crate::error::{Error, Privilege, Result};
use crate::lifecycle::{self, Order, rows};
use crate::pg::Call;

/// `(key, version, reason)`, as most verbs have it.
fn order(call: Call, verb: Verb) -> Result<Order> {
    Ok(Order {
        verb,
        key: call.text(0, "key")?,
        // SAFETY: declared as int.
        version: unsafe { call.get(1) },
        // SAFETY: the last argument is declared as text.
        reason: unsafe { call.long(call.len() - 1, "reason")? },
        destroy_after_ms: None,
    })
}

fn carry_out(order: &Order) -> Result<pg_sys::Datum> {
    let answer = if ceremony::waits(order.verb) {
        ceremony::gate(order)?
    } else {
        order.carry_out()?.name().into()
    };
    Ok(answer.into_datum().expect("a text has a datum"))
}

/// A verb without arguments of its own.
fn verb<const VERB: usize>(call: Call) -> Result<pg_sys::Datum> {
    carry_out(&order(call, VERBS[VERB])?)
}

const VERBS: [Verb; 8] = [
    Verb::Activate,
    Verb::Suspend,
    Verb::Resume,
    Verb::Deactivate,
    Verb::MarkCompromised,
    Verb::Archive,
    Verb::Recover,
    Verb::CancelDestruction,
];

fn schedule_destruction(call: Call) -> Result<pg_sys::Datum> {
    let destroy_after_ms = match call.datum(2) {
        None => None,
        Some(datum) => {
            // SAFETY: declared as interval, which is passed by reference.
            let interval = unsafe { *datum.cast_mut_ptr::<pg_sys::Interval>() };
            // As extract(epoch …) counts a month: 30 days.
            let days = i64::from(interval.month) * 30 + i64::from(interval.day);
            days.checked_mul(86_400_000)
                .and_then(|ms| ms.checked_add(interval.time / 1000))
                .filter(|ms| (0..=100 * 365 * 86_400_000).contains(ms))
                .map(Some)
                .ok_or_else(|| Error::InvalidParameter {
                    message: "the time until the destruction must be between 0 and 100 years"
                        .into(),
                    hint: "Leave it out for colcrypt.destruction_window.".into(),
                })?
        }
    };
    carry_out(&Order {
        destroy_after_ms,
        ..order(call, Verb::ScheduleDestruction)?
    })
}

fn create_key_version(call: Call) -> Result<pg_sys::Datum> {
    let key = lifecycle::lock(&call.text(0, "key")?)?;
    let version = super::keys::add_version(&key)?.number();
    Act::new("create_key_version")
        .key(&key)
        .version(version)
        .record()?;
    Ok(pg_sys::Datum::from(version as i32))
}

fn rows_needing_key(call: Call) -> Result<pg_sys::Datum> {
    let key = read::key_by_name(&call.text(0, "key")?)?;
    read::require(&key, Privilege::Manage)?;
    // SAFETY: declared as int.
    let version: i32 = unsafe { call.get(1) }.ok_or(Error::NullArgument("version"))?;
    let found = rows::needing(&key, version)?
        .into_iter()
        .map(|(column, count)| {
            let mut record = Record::default();
            record
                .push(column.relation)
                .push(column.attribute)
                .push(count)
                .push(column.registered);
            record
        })
        .collect();
    Ok(return_set(call, found))
}

crate::sql_functions! {
    colcrypt_activate_key / pg_finfo_colcrypt_activate_key => verb::<0>;
    colcrypt_suspend_key / pg_finfo_colcrypt_suspend_key => verb::<1>;
    colcrypt_resume_key / pg_finfo_colcrypt_resume_key => verb::<2>;
    colcrypt_deactivate_key / pg_finfo_colcrypt_deactivate_key => verb::<3>;
    colcrypt_mark_compromised / pg_finfo_colcrypt_mark_compromised => verb::<4>;
    colcrypt_archive_key / pg_finfo_colcrypt_archive_key => verb::<5>;
    colcrypt_recover_key / pg_finfo_colcrypt_recover_key => verb::<6>;
    colcrypt_schedule_key_destruction / pg_finfo_colcrypt_schedule_key_destruction => schedule_destruction;
    colcrypt_cancel_key_destruction / pg_finfo_colcrypt_cancel_key_destruction => verb::<7>;
    colcrypt_create_key_version / pg_finfo_colcrypt_create_key_version => create_key_version;
    colcrypt_rows_needing_key / pg_finfo_colcrypt_rows_needing_key => rows_needing_key;
}
