//! The verbs of a key's life as SQL calls them.

use colcrypt_core::state::Verb;
use pgrx::{IntoDatum, pg_sys};

use crate::audit::Act;
use crate::catalog::read;
use crate::error::{Error, Privilege, Result};
use crate::keys::lifecycle::Order;
use crate::keys::{approval, version};
use crate::rights;
use crate::rows::holders;
use crate::server::call::Call;
use crate::server::record::{Record, return_set};
use crate::server::{report, spi};
use crate::sql::entry::sql_functions;

/// `(key, version, …)`, with the reason's place.
fn order(call: Call, verb: Verb, reason: usize) -> Result<Order> {
    Ok(Order {
        verb,
        key: call.text(0, "key")?,
        // SAFETY: declared as int.
        version: unsafe { call.get(1) },
        // SAFETY: declared as text.
        reason: unsafe { call.long(reason, "reason")? },
        destroy_after_ms: None,
        shred: false,
    })
}

fn carry_out(order: &Order) -> Result<pg_sys::Datum> {
    let answer = if colcrypt_domain::approval::waits(order.verb) {
        approval::gate(order)?
    } else {
        order.carry_out()?.name().into()
    };
    Ok(answer.into_datum().expect("a text has a datum"))
}

macro_rules! verbs {
    ($($name:ident: $verb:expr;)+) => {$(
        fn $name(call: Call) -> Result<pg_sys::Datum> {
            carry_out(&order(call, $verb, 2)?)
        }
    )+};
}

verbs! {
    activate_key: Verb::Activate;
    suspend_key: Verb::Suspend;
    resume_key: Verb::Resume;
    deactivate_key: Verb::Deactivate;
    mark_compromised: Verb::MarkCompromised;
    archive_key: Verb::Archive;
    recover_key: Verb::Recover;
    cancel_key_destruction: Verb::CancelDestruction;
}

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
        shred: shreds(call)?,
        ..order(call, Verb::ScheduleDestruction, 3)?
    })
}

/// What becomes of rows that need the version.
fn shreds(call: Call) -> Result<bool> {
    // SAFETY: declared as text, where it is declared.
    let rows: Option<String> = unsafe { call.long(4, "rows")? };
    match rows.as_deref() {
        None | Some("keep") => Ok(false),
        Some("shred") => Ok(true),
        Some(other) => Err(Error::InvalidParameter {
            message: format!("rows cannot be {other:?}"),
            hint: "'keep' refuses the destruction while any row needs the version; 'shred' loses these rows' values with it."
                .into(),
        }),
    }
}

fn create_key_version(call: Call) -> Result<pg_sys::Datum> {
    let key = version::lock(&call.text(0, "key")?)?;
    let version = crate::keys::version::add_version(&key)?.number();
    Act::new("create_key_version")
        .key(&key)
        .version(version)
        .record()?;
    Ok(pg_sys::Datum::from(version as i32))
}

fn prepare_key_version(call: Call) -> Result<pg_sys::Datum> {
    let name = call.text(0, "key")?;
    // SAFETY: declared as text.
    let reason: Option<String> = unsafe { call.long(1, "reason")? };
    if let Some(version) = version::prepared(&version::lock(&name)?)? {
        report::notice(format!(
            "version {version} of key \"{name}\" is prepared already"
        ));
    }
    let id = version::prepare(&name, reason.as_deref().unwrap_or_default().trim())?;
    Ok(pg_sys::Datum::from(id.version.int()))
}

fn rows_needing_key(call: Call) -> Result<pg_sys::Datum> {
    let key = read::key_by_name(&call.text(0, "key")?)?;
    rights::require(&key, Privilege::Manage)?;
    // SAFETY: declared as int.
    let version: i32 = unsafe { call.get(1) }.ok_or(Error::NullArgument("version"))?;
    // On standbys, too.
    let shredded = spi::look(
        "SELECT shreds FROM colcrypt.key_version WHERE key_id = $1 AND version = $2",
        &[key.id.bigint().into(), version.into()],
        |row| row.get::<bool>(1),
    )?;
    let shredded = shredded.into_iter().flatten().next().unwrap_or_default();
    let found = holders::needing(&key, &[version])?
        .into_iter()
        .map(|(column, count)| {
            let mut record = Record::default();
            record
                .push(column.relation)
                .push(column.attribute)
                .push(count)
                .push(column.registered)
                .push(shredded);
            record
        })
        .collect();
    Ok(return_set(call, found))
}

sql_functions! {
    Decides {
        activate_key => activate_key;
        archive_key => archive_key;
        cancel_key_destruction => cancel_key_destruction;
        create_key_version => create_key_version;
        deactivate_key => deactivate_key;
        mark_compromised => mark_compromised;
        prepare_key_version => prepare_key_version;
        recover_key => recover_key;
        resume_key => resume_key;
        schedule_key_destruction => schedule_destruction;
        suspend_key => suspend_key;
    }
    Harmless {
        rows_needing_key => rows_needing_key;
    }
}
