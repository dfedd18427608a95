//! Destroys key versions whose time has come.
//!
//! ```text
//! due → transactions that were under way are over → no row needs it → destroyed
//!                                                        │
//!                                    rows left: postponed, and said in the log
//! ```
//!
//! A session that resolved the version while it was in use may write under it until its transaction ends,
//! so those under way when it falls due are waited for, as a job does; only then do the rows tell the truth.
//! The check sees all tables at one instant.

use colcrypt_core::slab_index::SlotKey;
use colcrypt_core::state::{Place, Standing, Verb};
use colcrypt_core::{KeyId, KeyState, KeyVersion, VersionId};
use colcrypt_domain::backoff;
use colcrypt_domain::verdict::Verdict;
use pgrx::{Spi, log};

use crate::audit::Act;
use crate::catalog::read::{self, Key, KeyVersionRow};
use crate::error::{Error, Result};
use crate::keys::lifecycle;
use crate::rows::holders;
use crate::server::spi::{self, safe_search_path};
use crate::server::txn::{Next, PREPARED_TRANSACTIONS, attempt, old_transactions, transaction};
use crate::session;
use crate::slab::{control, table};

/// A version that is due, or will be within the worker's patience.
struct Due {
    id: VersionId,
    now: bool,
    /// How far the wait for old transactions is.
    wait: Wait,
    /// Whether none of those waited for is left.
    over: bool,
}

enum Wait {
    NotBegun,
    /// For those that were under way.
    Running,
    /// For those of them that were prepared meanwhile.
    Prepared,
}

/// Whether a destruction is due, or will be within the worker's patience.
pub fn is_near() -> bool {
    matches!(attempt(next_due), Ok(Some(_)))
}

/// Does the next step of the destruction that comes next.
pub fn step() -> Next {
    let due = match attempt(next_due) {
        Ok(Some(due)) => due,
        Err(failed) if failed.verdict == Verdict::Lock => return Next::Soon,
        // Nothing is due, or the extension is gone.
        _ => return Next::Nothing,
    };
    if !due.now {
        return Next::Soon;
    }
    if !due.over {
        return Next::Soon;
    }
    let begun = match due.wait {
        Wait::NotBegun => Some(attempt(|| wait_for_running(due.id))),
        Wait::Running => Some(attempt(|| wait_for_prepared(due.id))),
        Wait::Prepared => None,
    };
    match begun {
        None => {}
        Some(Ok(())) => return Next::Again,
        Some(_) => return Next::Nothing,
    }
    let (problem, rows_need_it) = match transaction(|| destroy(due.id)) {
        Ok(Ok(slot)) => {
            // Whoever loads it from here on finds it destroyed.
            if let (Some(slot), Ok(control)) = (slot, control()) {
                table::forget(control, &[slot]);
            }
            return Next::Again;
        }
        Ok(Err(error)) => {
            let rows_need_it = matches!(error, Error::RowsNeedVersion { .. });
            (problem(&error), rows_need_it)
        }
        Err(failed) => (failed.message, false),
    };
    log!("colcrypt: the destruction of a key version is postponed: {problem}");
    match attempt(|| postpone(due.id, &problem, rows_need_it)) {
        Ok(()) => Next::Again,
        _ => Next::Nothing,
    }
}

fn problem(error: &Error) -> String {
    let report = error.report();
    match report.detail {
        Some(detail) => format!("{}: {}", report.message, detail.replace('\n', ", ")),
        None => report.message,
    }
}

fn next_due() -> Result<Option<Due>> {
    let _path = safe_search_path();
    let mut due = Spi::connect(|client| {
        client
            .select(
                &format!(
                    "SELECT v.key_id, v.version, v.destroy_at <= clock_timestamp() AS now, \
                            CASE WHEN d.settle_before IS NULL THEN 0 WHEN d.settle_transactions IS NOT NULL THEN 1 ELSE 2 END, \
                            NOT {} \
                     FROM colcrypt.key_version v LEFT JOIN colcrypt.destruction d USING (key_id, version) \
                     WHERE v.state = $1 AND v.destroy_at <= clock_timestamp() + interval '30 seconds' \
                       AND coalesce(d.retry_at <= clock_timestamp(), true) \
                     ORDER BY now DESC, 5 DESC, v.destroy_at LIMIT 1",
                    old_transactions("d")
                ),
                Some(1),
                &[KeyState::DestructionScheduled.name().into()],
            )?
            .map(|row| {
                Ok((
                    row.get::<i64>(1)?.unwrap_or_default(),
                    row.get::<i32>(2)?.unwrap_or_default(),
                    row.get::<bool>(3)?.unwrap_or_default(),
                    row.get::<i32>(4)?.unwrap_or_default(),
                    row.get::<bool>(5)?.unwrap_or_default(),
                ))
            })
            .collect::<std::result::Result<Vec<_>, pgrx::spi::Error>>()
    }).map_err(crate::error::of_spi)?;
    Ok(due.pop().and_then(|(key, version, now, wait, over)| {
        Some(Due {
            id: VersionId {
                key: KeyId(key as u64),
                version: KeyVersion::new(version as u32)?,
            },
            now,
            wait: match wait {
                0 => Wait::NotBegun,
                1 => Wait::Running,
                _ => Wait::Prepared,
            },
            over,
        })
    }))
}

/// Remembers the transactions that are under way.
fn wait_for_running(id: VersionId) -> Result<()> {
    spi::execute(
        &format!(
            "INSERT INTO colcrypt.destruction (key_id, version, settle_before, settle_transactions) \
             VALUES ($1, $2, clock_timestamp(), {running}) \
             ON CONFLICT (key_id, version) DO UPDATE SET settle_before = EXCLUDED.settle_before, \
                 settle_transactions = EXCLUDED.settle_transactions, settle_prepared = NULL, retry_at = NULL",
            running = crate::server::txn::RUNNING_TRANSACTIONS
        ),
        &arguments(id),
    )?;
    Ok(())
}

/// Those are over, but some may have been prepared meanwhile, and so write later still.
fn wait_for_prepared(id: VersionId) -> Result<()> {
    spi::execute(
        &format!(
            "UPDATE colcrypt.destruction SET settle_transactions = NULL, settle_prepared = {PREPARED_TRANSACTIONS} \
             WHERE key_id = $1 AND version = $2"
        ),
        &arguments(id),
    )?;
    Ok(())
}

fn arguments(id: VersionId) -> [pgrx::datum::DatumWithOid<'static>; 2] {
    [
        (id.key.0 as i64).into(),
        (id.version.number() as i32).into(),
    ]
}

/// Destroys the version unless rows need it; gives its place in the slab. `None` when it is not due any
/// more: cancelled, or scheduled anew.
fn destroy(id: VersionId) -> Result<Option<SlotKey>> {
    let key = read::key_by_id(id.key)?; // First, while this transaction has one snapshot for all tables.
    let holders = holders::needing(&key, id.version.number() as i32)?;
    if !holders.is_empty() {
        return Err(Error::RowsNeedVersion {
            key: key.name,
            version: id.version,
            holders: holders::describe(&holders),
        });
    }
    let still_due = spi::query(
        "SELECT 1 FROM colcrypt.key WHERE key_id = $1 AND EXISTS (SELECT FROM colcrypt.destruction d \
             WHERE d.key_id = $1 AND d.version = $2 AND d.settle_before IS NOT NULL) FOR NO KEY UPDATE",
        &arguments(id),
        |row| row.get::<i32>(1),
    )?;
    let row = read::key_version(&key, id.version)?;
    if still_due.is_empty() || !is_due(&key, &row)? {
        return Ok(None);
    }
    // Who ordered it and why stays on the record.
    spi::execute(
        "UPDATE colcrypt.key_version SET state = $3, former_state = NULL, wrapped = '', \
            destroyed_at = clock_timestamp(), state_changed_at = clock_timestamp() \
         WHERE key_id = $1 AND version = $2",
        &[
            (id.key.0 as i64).into(),
            (id.version.number() as i32).into(),
            KeyState::Destroyed.name().into(),
        ],
    )?;
    lifecycle::forget_destruction(id)?;
    Act::new(Verb::Destroy.name())
        .key(&key)
        .version(id.version.number())
        .detail(format!("as ordered by {}", row.changed_by))
        .record()?;
    log!(
        "colcrypt: version {} of key \"{}\" is destroyed, as ordered by {}",
        id.version,
        key.name,
        row.changed_by
    );
    Ok(Some(session::slot_key(&row)))
}

/// What the judge and the clock say, under the lock.
fn is_due(key: &Key, row: &KeyVersionRow) -> Result<bool> {
    let standing = Standing {
        state: row.state,
        former: row.former,
        compromised: row.compromised,
        place: Place::Older,
    };
    if standing.apply(Verb::Destroy).is_err() {
        return Ok(false);
    }
    let due = spi::query(
        "SELECT destroy_at <= clock_timestamp() FROM colcrypt.key_version WHERE key_id = $1 AND version = $2",
        &arguments(VersionId {
            key: key.id,
            version: row.id.version,
        }),
        |row| row.get::<bool>(1),
    )?;
    Ok(due.into_iter().next().flatten() == Some(true))
}

/// Tries again later, and says why not now.
fn postpone(id: VersionId, problem: &str, rows_need_it: bool) -> Result<()> {
    let pause = backoff::of_destruction(rows_need_it).as_secs_f64();
    let [key_id, version] = arguments(id);
    let news = spi::query(
        "UPDATE colcrypt.destruction d SET retry_at = clock_timestamp() + $4 * interval '1 second', settle_before = NULL, \
             last_error = $3 FROM colcrypt.destruction o \
         WHERE d.key_id = $1 AND d.version = $2 AND o.key_id = d.key_id AND o.version = d.version \
         RETURNING o.last_error IS DISTINCT FROM d.last_error",
        &[key_id, version, problem.into(), pause.into()],
        |row| row.get::<bool>(1),
    )?;
    if news.into_iter().next().flatten() == Some(true) {
        Act::new("postpone_key_destruction")
            .key(&read::key_by_id(id.key)?)
            .version(id.version.number())
            .detail(problem)
            .record()?;
    }
    Ok(())
}
