//! What the views show of the counts in shared memory. They read the table and the memory one after the
//! other: while a flush commits in between, a count may be missing from what is shown, for that moment.

use colcrypt_core::Suite;
use pgrx::datum::Interval;
use pgrx::{IntoDatum, pg_sys};

use crate::error::{Error, Result};
use crate::server::call::Call;
use crate::server::clock::Timestamp;
use crate::server::key_clock;
use crate::server::record::{Record, return_set};
use crate::sql::entry::sql_functions;
use crate::usage::shared;

fn unflushed_uses(call: Call) -> Result<pg_sys::Datum> {
    let rows = shared::unflushed()?
        .uses
        .iter()
        .map(|used| {
            let mut row = Record::default();
            row.push(used.id.key())
                .push(used.id.version())
                .push(pg_sys::Oid::from(used.role))
                .push(used.done.encryptions)
                .push(used.done.decryptions)
                .push(Timestamp(used.done.since));
            row
        })
        .collect();
    Ok(return_set(call, rows))
}

fn unflushed_versions(call: Call) -> Result<pg_sys::Datum> {
    let rows = shared::unflushed()?
        .versions
        .iter()
        .map(|count| {
            let mut row = Record::default();
            row.push(count.id.key())
                .push(count.id.version())
                .push(count.unflushed)
                .push(count.reserved);
            row
        })
        .collect();
    Ok(return_set(call, rows))
}

fn suite_bound(call: Call) -> Result<pg_sys::Datum> {
    let name = call.text(0, "suite")?;
    let suite: Suite = name.parse().map_err(|()| Error::InvalidParameter {
        message: format!("unknown suite {name:?}"),
        hint: "Known are: aes-256-gcm, xaes-256-gcm.".into(),
    })?;
    Ok(pg_sys::Datum::from(suite.bound()))
}

fn clock_ahead(_call: Call) -> Result<pg_sys::Datum> {
    // SAFETY: reads a static: what now() is.
    let now = unsafe { pg_sys::GetCurrentTransactionStartTimestamp() };
    let ahead = Interval::from_micros(key_clock::ahead_of(now));
    Ok(ahead.into_datum().expect("an interval has a datum"))
}

sql_functions! {
    Harmless {
        clock_ahead => clock_ahead;
        suite_bound => suite_bound;
        unflushed_uses => unflushed_uses;
        unflushed_versions => unflushed_versions;
    }
}
