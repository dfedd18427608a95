//! Destroys key versions whose time has come.
//!
//! ```text
//! due → transactions that were under way are over → no row needs it → nor one that came meanwhile → destroyed
//!                                                        │                    │
//!                                             rows left: postponed, and said in the log
//! ```
//!
//! Due is what its window has passed for by the wall clock and by the time that the server has run.
//!
//! A session that resolved the version while it was in use may write under it until its transaction ends,
//! so those under way when it falls due are waited for, as a job does; only then do the rows tell the truth.
//! The check sees all tables at one instant. It may take long, so what was written meanwhile is looked at once more,
//! while nobody writes (`rows::recheck`).

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use colcrypt_core::slab_index::SlotKey;
use colcrypt_core::state::{Age, Standing, Verb};
use colcrypt_core::{KeyId, KeyState, KeyVersion, VersionId};
use colcrypt_domain::backoff;
use colcrypt_domain::verdict::Verdict;
use pgrx::{Spi, log};

use crate::audit::Act;
use crate::catalog::read::{self, Key, KeyVersionRow};
use crate::error::{Error, Result};
use crate::keys::{lifecycle, window};
use crate::rows::holders::{self, CiphertextColumn};
use crate::rows::lost;
use crate::rows::recheck::{self, Counted};
use crate::rows::unseen;
use crate::server::clock;
use crate::server::report::one_line;
use crate::server::spi::{self, safe_search_path};
use crate::server::txn::{Next, PREPARED_TRANSACTIONS, all_or_nothing, attempt, old_transactions};
use crate::session;
use crate::slab::{control, table};

/// A version that is due, or will be within the worker's patience.
struct Due {
    id: VersionId,
    now: bool,
    /// Whether rows that need it are lost with it.
    shreds: bool,
    /// How far the wait for old transactions is.
    wait: Wait,
    /// Whether none of those waited for is left.
    over: bool,
    /// Where in the log that wait began.
    since: Option<u64>,
}

/// Pause between two records of how long the server runs, and how near a destruction is one that is looked at.
const RECORD: Duration = Duration::from_secs(10);
const NEAR_US: i64 = 30_000_000;

thread_local! {
    /// What was counted, of which version and since which place in the log, until the tables could be locked.
    static COUNTED: RefCell<Option<(VersionId, u64, Counted)>> = const { RefCell::new(None) };
    static RECORDED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The rows under a version that is to be destroyed.
enum Rows<'a> {
    /// None, as they were counted; what came since that place in the log is yet to be looked at.
    Counted(&'a Counted, u64),
    /// Lost with it, as was ordered; how many, in words.
    Lost(String),
}

enum Wait {
    NotBegun,
    /// For those that were under way.
    Running,
    /// For those of them that were prepared meanwhile.
    Prepared,
}

/// Whether a destruction is due, or will be within the worker's patience. Records how long the server runs, too.
pub fn is_near() -> bool {
    if RECORDED.get().is_none_or(|at| at.elapsed() >= RECORD) && attempt(window::keep).is_ok() {
        RECORDED.set(Some(Instant::now()));
    }
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
    if due.shreds {
        return shred(due.id);
    }
    if !due.over {
        return Next::Soon;
    }
    let begun = match (due.wait, due.since) {
        (Wait::Prepared, Some(since)) => return check_and_destroy(due.id, since),
        (Wait::NotBegun, _) | (_, None) => attempt(|| wait_for_running(due.id)),
        (Wait::Running, _) => attempt(|| wait_for_prepared(due.id)),
    };
    match begun {
        Ok(()) => Next::Again,
        Err(_) => Next::Nothing,
    }
}

fn check_and_destroy(id: VersionId, since: u64) -> Next {
    let kept = COUNTED
        .take()
        .filter(|(of, from, _)| (*of, *from) == (id, since));
    let counted = match kept {
        Some((_, _, counted)) => counted,
        None => match all_or_nothing(|| count(id)) {
            Ok(Ok(counted)) => counted,
            Ok(Err(error)) => return put_off(id, &error),
            Err(failed) => {
                return put_off_for(id, &failed.message, backoff::of_destruction(false), false);
            }
        },
    };
    match all_or_nothing(|| destroy(id, &Rows::Counted(&counted, since))) {
        Ok(Ok(slot)) => forget(slot),
        Ok(Err(error)) => put_off(id, &error),
        Err(failed) if failed.verdict == Verdict::Lock => {
            // What was counted need not be counted again.
            COUNTED.set(Some((id, since, counted)));
            put_off_for(id, &failed.message, backoff::TABLES_IN_USE, true)
        }
        Err(failed) => put_off_for(id, &failed.message, backoff::of_destruction(false), false),
    }
}

/// Destroys a version whatever needs it. Nothing is waited for, and what comes meanwhile is lost as well.
fn shred(id: VersionId) -> Next {
    let losses =
        all_or_nothing(|| Ok(lost::losses(&read::key_by_id(id.key)?, &[id.version.int()])));
    let losses = match losses {
        Ok(Ok(losses)) => losses,
        Ok(Err(error)) => format!("rows could not be counted: {}", one_line(&error)),
        Err(failed) => format!("rows could not be counted: {}", failed.message),
    };
    match all_or_nothing(|| destroy(id, &Rows::Lost(losses))) {
        Ok(Ok(slot)) => forget(slot),
        Ok(Err(error)) => put_off(id, &error),
        Err(failed) => put_off_for(id, &failed.message, backoff::of_destruction(false), false),
    }
}

/// Whoever loads it from here on finds it destroyed.
fn forget(slot: Option<SlotKey>) -> Next {
    if let (Some(slot), Ok(control)) = (slot, control()) {
        table::forget(control, &[slot]);
    }
    Next::Again
}

fn put_off(id: VersionId, error: &Error) -> Next {
    let rows_need_it = matches!(error, Error::RowsNeedVersion { .. });
    let pause = backoff::of_destruction(rows_need_it);
    put_off_for(id, &one_line(error), pause, false)
}

/// Tries again after a pause, and says why not now. `goes_on`: from where it is, or else from the start.
fn put_off_for(id: VersionId, problem: &str, pause: Duration, goes_on: bool) -> Next {
    log!("colcrypt: the destruction of a key version is postponed: {problem}");
    match attempt(|| postpone(id, problem, pause, goes_on)) {
        Ok(()) => Next::Again,
        _ => Next::Nothing,
    }
}

/// The first look at all rows.
fn count(id: VersionId) -> Result<Counted> {
    let key = read::key_by_id(id.key)?; // First, while this transaction has one snapshot for all tables.
    let (holders, counted) = recheck::count(&key, id.version.int())?;
    refuse_holders(&key, id, &holders)?;
    Ok(counted)
}

fn refuse_holders(key: &Key, id: VersionId, holders: &[(CiphertextColumn, i64)]) -> Result<()> {
    if holders.is_empty() {
        return Ok(());
    }
    Err(Error::RowsNeedVersion {
        key: key.name.clone(),
        version: id.version,
        holders: holders::describe(holders),
    })
}

fn next_due() -> Result<Option<Due>> {
    let _path = safe_search_path();
    let mut due = Spi::connect(|client| {
        client
            .select(
                &format!(
                    "SELECT v.key_id, v.version, v.destroy_at <= clock_timestamp() AND {left} <= 0 AS now, \
                            CASE WHEN d.settle_before IS NULL THEN 0 WHEN d.settle_transactions IS NOT NULL THEN 1 ELSE 2 END, \
                            NOT {} AS is_over, (d.settle_lsn - '0/0'::pg_lsn)::bigint, v.shreds \
                     FROM colcrypt.key_version v LEFT JOIN colcrypt.destruction d USING (key_id, version) \
                     LEFT JOIN colcrypt.destruction_wait w USING (key_id, version) \
                     WHERE v.state = $1 AND v.destroy_at <= clock_timestamp() + interval '30 seconds' \
                       AND {left} <= {NEAR_US} AND {} \
                     ORDER BY now DESC, is_over DESC, v.destroy_at LIMIT 1",
                    old_transactions("d"),
                    clock::is_over("d.retry_at", backoff::OF_KEYS),
                    left = window::left("$2"),
                ),
                Some(1),
                &[KeyState::DestructionScheduled.name().into(), clock::boottime_us().into()],
            )?
            .map(|row| {
                Ok((
                    row.get::<i64>(1)?.unwrap_or_default(),
                    row.get::<i32>(2)?.unwrap_or_default(),
                    row.get::<bool>(3)?.unwrap_or_default(),
                    row.get::<i32>(4)?.unwrap_or_default(),
                    row.get::<bool>(5)?.unwrap_or_default(),
                    row.get::<i64>(6)?,
                    row.get::<bool>(7)?.unwrap_or_default(),
                ))
            })
            .collect::<std::result::Result<Vec<_>, pgrx::spi::Error>>()
    }).map_err(crate::error::of_spi)?;
    Ok(due
        .pop()
        .and_then(|(key, version, now, wait, over, since, shreds)| {
            Some(Due {
                id: VersionId {
                    key: KeyId::of_bigint(key),
                    version: KeyVersion::of_int(version)?,
                },
                now,
                shreds,
                wait: match wait {
                    0 => Wait::NotBegun,
                    1 => Wait::Running,
                    _ => Wait::Prepared,
                },
                over,
                since: since.map(|since| since as u64),
            })
        }))
}

/// Remembers the transactions that are under way, and a place in the log before which no other has written.
fn wait_for_running(id: VersionId) -> Result<()> {
    // First: whoever begins after this look writes behind that place.
    let place = spi::query("SELECT pg_current_wal_insert_lsn()::text", &[], |row| {
        row.get::<String>(1)
    })?;
    let [key_id, version] = arguments(id);
    spi::execute(
        &format!(
            "INSERT INTO colcrypt.destruction (key_id, version, settle_before, settle_transactions, settle_lsn) \
             VALUES ($1, $2, clock_timestamp(), {running}, $3::text::pg_lsn) \
             ON CONFLICT (key_id, version) DO UPDATE SET settle_before = EXCLUDED.settle_before, settle_lsn = EXCLUDED.settle_lsn, \
                 settle_transactions = EXCLUDED.settle_transactions, settle_prepared = NULL, retry_at = NULL",
            running = crate::server::txn::RUNNING_TRANSACTIONS
        ),
        &[key_id, version, place.into_iter().flatten().next().into()],
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
    [id.key.bigint().into(), id.version.int().into()]
}

/// Destroys the version unless rows need it; returns its place in the slab. `None` when it is not due any
/// more: cancelled, or scheduled anew.
fn destroy(id: VersionId, rows: &Rows<'_>) -> Result<Option<SlotKey>> {
    let key = read::key_by_id(id.key)?;
    let (has_waited, lost) = match rows {
        Rows::Counted(counted, since) => {
            let came = recheck::came_since(&key, id.version.int(), counted, *since)?;
            refuse_holders(&key, id, &came)?;
            let waited = "EXISTS (SELECT FROM colcrypt.destruction d \
                 WHERE d.key_id = $1 AND d.version = $2 AND d.settle_before IS NOT NULL)";
            (waited, None)
        }
        Rows::Lost(losses) => ("$2 > 0", Some(losses)),
    };
    let still_due = spi::query(
        &format!("SELECT 1 FROM colcrypt.key WHERE key_id = $1 AND {has_waited} FOR NO KEY UPDATE"),
        &arguments(id),
        |row| row.get::<i32>(1),
    )?;
    let row = read::key_version(&key, id.version)?;
    if still_due.is_empty() || !is_due(&key, &row, lost.is_some())? {
        return Ok(None);
    }
    // Who ordered it and why stays on the record.
    spi::execute(
        "UPDATE colcrypt.key_version SET state = $3, former_state = NULL, wrapped = '', \
            destroyed_at = clock_timestamp(), state_changed_at = clock_timestamp() \
         WHERE key_id = $1 AND version = $2",
        &[
            id.key.bigint().into(),
            id.version.int().into(),
            KeyState::Destroyed.name().into(),
        ],
    )?;
    lifecycle::forget_destruction(id)?;
    let lost = lost.map_or_else(String::new, |losses| format!("; lost: {losses}"));
    let unseen = match unseen::tables()? {
        none if none.is_empty() => String::new(),
        tables => format!("; not looked into: {}", tables.join(", ")),
    };
    let how = format!("as ordered by {}{lost}{unseen}", row.changed_by);
    log!(
        "colcrypt: version {} of key \"{}\" is destroyed, {how}",
        id.version,
        key.name
    );
    Act::new(Verb::Destroy.name())
        .key(&key)
        .version(id.version.number())
        .detail(how)
        .record()?;
    Ok(Some(session::slot_key(&row)))
}

/// What the judge and the clocks say, under the lock, and whether the order is still that one.
fn is_due(key: &Key, row: &KeyVersionRow, shreds: bool) -> Result<bool> {
    let standing = Standing {
        state: row.state,
        former: row.former,
        compromised: row.compromised,
        age: Age::Older,
    };
    if standing.apply(Verb::Destroy).is_err() {
        return Ok(false);
    }
    let [key_id, version] = arguments(VersionId {
        key: key.id,
        version: row.id.version,
    });
    let due = spi::query(
        &format!(
            "SELECT v.destroy_at <= clock_timestamp() AND {} <= 0 AND v.shreds = $4 FROM colcrypt.key_version v \
             LEFT JOIN colcrypt.destruction_wait w USING (key_id, version) WHERE key_id = $1 AND version = $2",
            window::left("$3")
        ),
        &[key_id, version, clock::boottime_us().into(), shreds.into()],
        |row| row.get::<bool>(1),
    )?;
    Ok(due.into_iter().next().flatten() == Some(true))
}

fn postpone(id: VersionId, problem: &str, pause: Duration, goes_on: bool) -> Result<()> {
    let pause = pause.as_secs_f64();
    let [key_id, version] = arguments(id);
    let news = spi::query(
        "UPDATE colcrypt.destruction d SET retry_at = clock_timestamp() + $4 * interval '1 second', \
             settle_before = CASE WHEN $5 THEN d.settle_before END, \
             last_error = $3 FROM colcrypt.destruction o \
         WHERE d.key_id = $1 AND d.version = $2 AND o.key_id = d.key_id AND o.version = d.version \
         RETURNING o.last_error IS DISTINCT FROM d.last_error",
        &[
            key_id,
            version,
            problem.into(),
            pause.into(),
            goes_on.into(),
        ],
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
