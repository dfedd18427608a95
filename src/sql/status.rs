//! What the views show of shared memory.

use std::sync::atomic::Ordering::Relaxed;

use colcrypt_core::KeyId;
use colcrypt_protocol::Failure;
use pgrx::pg_sys;

use crate::broker::shared;
use crate::catalog::read;
use crate::catalog::uuid::keyring_id;
use crate::error::Result;
use crate::server::call::Call;
use crate::server::record::{Record, return_set};
use crate::server::{
    clock::{self, Timestamp},
    process,
};
use crate::slab::roots::Refused;
use crate::slab::{control, roots, table};
use crate::sql::entry::sql_functions;

fn cache_slots(call: Call) -> Result<pg_sys::Datum> {
    let (slots, failures) = table::status(control()?, process::my_database().to_u32());
    // SAFETY: reads the clock.
    let now = unsafe { pg_sys::GetCurrentTimestamp() };
    let boottime = clock::boottime_ms();
    let mut rows = Vec::new();
    for slot in &slots {
        let last_error = failures
            .iter()
            .find(|(failed, _)| *failed == slot.slot_key)
            .map(|(_, failure)| failure.message.clone());
        let expires_at = now + (slot.hard_expiry_ms - boottime).saturating_mul(1000);
        let mut row = Record::default();
        row.push(KeyId(slot.slot_key.key).bigint())
            .push(slot.slot_key.version as i32)
            .push(if slot.ready { "ready" } else { "loading" })
            .push(slot.hits as i64)
            .push(slot.misses as i64)
            .push(slot.ready.then_some(Timestamp(slot.loaded_at)))
            .push(slot.ready.then_some(Timestamp(expires_at)))
            .push(last_error);
        rows.push(row);
    }
    let mut shown: Vec<_> = slots.iter().map(|slot| slot.slot_key).collect();
    for (failed, failure) in failures {
        if shown.contains(&failed) {
            continue;
        }
        shown.push(failed);
        let mut row = Record::default();
        row.push(KeyId(failed.key).bigint())
            .push(failed.version as i32)
            .push("failed")
            .push(0i64)
            .push(0i64)
            .push(None::<Timestamp>)
            .push(None::<Timestamp>)
            .push(failure.message);
        rows.push(row);
    }
    Ok(return_set(call, rows))
}

fn root_state(call: Call) -> Result<pg_sys::Datum> {
    // SAFETY: declared as uuid, int and int, and strict.
    let wanted = unsafe {
        (
            call.get::<pgrx::Uuid>(0),
            call.get::<i32>(1),
            call.get::<i32>(2),
        )
    };
    let (Some(keyring), Some(version), Some(preference)) = wanted else {
        return Ok(call.null());
    };
    let keyring = read::keyring_by_id(keyring_id(keyring))?;
    let version = read::version(version)?;
    let known = read::kek_copies(&keyring, version)?
        .into_iter()
        .find(|copy| copy.preference == preference);
    let is_escrow = known
        .as_ref()
        .is_some_and(|copy| copy.wrapped.provider.is_escrow());
    let known = known
        // Nothing is known where the library is not loaded, but the catalog can be looked at.
        .zip(control().ok())
        .and_then(|(copy, control)| roots::state(control, copy.wrapped.id()));
    let mut row = Record::default();
    let Some(known) = known else {
        row.push(if is_escrow { "escrow" } else { "not asked" })
            .push(None::<Timestamp>)
            .push(None::<Timestamp>)
            .push(None::<String>)
            .push(None::<Timestamp>);
        return row.into_datum(call);
    };
    let (since, failure) = known.failing.unzip();
    let confirming = known.confirming.filter(|_| failure.is_some());
    let state = match (&failure, &confirming) {
        (None, _) => "ok",
        (Some(_), None) => "failed",
        (Some(_), Some(_)) => "refused, being confirmed",
    };
    let problem = failure.map(|Failure { message, .. }| match confirming {
        None => message,
        Some(Refused {
            times,
            needed,
            since,
        }) => format!(
            "refused {times} of {needed} times since {}: {message}",
            clock::timestamp(since)
        ),
    });
    row.push(state)
        .push(Timestamp(known.asked_at))
        .push(since.map(Timestamp))
        .push(problem)
        .push(known.served_at.map(Timestamp));
    row.into_datum(call)
}

/// Whether the agent locked its memory, which it does whole or not at all.
fn is_locked(agent: i32) -> bool {
    agent != 0 && process::status_of(agent, "VmLck:").is_some_and(|locked| locked != "0")
}

fn broker_status(call: Call) -> Result<pg_sys::Datum> {
    let control = control()?;
    let broker = shared::control()?;
    let (used, loading) = table::used(control);
    let pid = |pid: i32| (pid != 0).then_some(pid);
    let mut row = Record::default();
    row.push(pid(broker.pid.load(Relaxed)))
        .push(pid(broker.agent_pid.load(Relaxed)))
        .push(broker.agent_starts.load(Relaxed) as i64)
        .push(control.slots as i32)
        .push(used as i32)
        .push(control.evictions.load(Relaxed) as i64)
        .push(control.loads.load(Relaxed) as i64)
        .push(control.loads_failed.load(Relaxed) as i64)
        .push(loading as i32)
        .push(control.memory_locked.load(Relaxed) && is_locked(broker.agent_pid.load(Relaxed)))
        .push(table::last_failure(control));
    row.into_datum(call)
}

sql_functions! {
    Harmless {
        broker_status => broker_status;
        cache_slots => cache_slots;
        root_state => root_state;
    }
}
