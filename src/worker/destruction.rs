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
//! A session that resolved the version while it was in use may write under it until its transaction ends, so those
//! under way when it falls due are waited for, as a job does; only then do the rows tell the truth. The check sees all
//! tables at one instant. It may take long, so what was written meanwhile is looked at once more, while nobody writes
//! (`rows::recheck`). Versions of one key that are due at the same time are waited for, looked for and destroyed
//! together: a key may have hundreds that nothing needs any more, and a look reads every table.

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
use crate::keys::{lifecycle, nodes, window};
use crate::rows::holders::{self, CiphertextColumn};
use crate::rows::lost;
use crate::rows::recheck::{self, Counted};
use crate::rows::{terms, unseen};
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
    /// What was counted, of which versions and since which place in the log, until the tables could be locked.
    static COUNTED: RefCell<Option<(Vec<VersionId>, u64, Counted)>> = const { RefCell::new(None) };
    static RECORDED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Versions that are looked for together at most.
const TOGETHER: usize = 1000;

/// The rows under versions that are to be destroyed.
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
        (Wait::Prepared, Some(since)) => {
            return match attempt(|| with_it(due.id)) {
                Ok(ids) => check_and_destroy(ids, since),
                Err(_) => Next::Nothing,
            };
        }
        (Wait::NotBegun, _) | (_, None) => attempt(|| wait_for_running(due.id)),
        (Wait::Running, _) => attempt(|| wait_for_prepared(due.id)),
    };
    match begun {
        Ok(()) => Next::Again,
        Err(_) => Next::Nothing,
    }
}

/// Those of these versions of a key that no row needs; the others are put off.
fn check_and_destroy(mut ids: Vec<VersionId>, since: u64) -> Next {
    match all_or_nothing(|| held_by_others(&ids)) {
        Ok(Ok(held)) if held.is_empty() => {}
        Ok(Ok(held)) => {
            return held
                .iter()
                .fold(Next::Again, |_, (id, error)| put_off(&[*id], error));
        }
        Ok(Err(error)) => return put_off(&ids, &error),
        Err(failed) => {
            return put_off_for(&ids, &failed.message, backoff::of_destruction(false), false);
        }
    }
    let kept = COUNTED
        .take()
        .filter(|(of, from, _)| (of, *from) == (&ids, since));
    let counted = match kept {
        Some((_, _, counted)) => counted,
        None => match all_or_nothing(|| count(&ids)) {
            Ok(Ok(Looked::NoneNeeded(counted))) => counted,
            Ok(Ok(Looked::Needed(needed))) => {
                ids.retain(|id| needed.contains(id));
                return ids
                    .into_iter()
                    .fold(Next::Again, |_, id| put_off_needed(id));
            }
            Ok(Err(error)) => return put_off(&ids, &error),
            Err(failed) => {
                return put_off_for(&ids, &failed.message, backoff::of_destruction(false), false);
            }
        },
    };
    match all_or_nothing(|| destroy(&ids, &Rows::Counted(&counted, since))) {
        Ok(Ok(slots)) => forget(&slots),
        // Which of them rows came under meanwhile, the next look tells.
        Ok(Err(Error::RowsNeedVersion { .. })) if ids.len() > 1 => Next::Again,
        Ok(Err(error)) => put_off(&ids, &error),
        Err(failed) if failed.verdict == Verdict::Lock => {
            // What was counted need not be counted again.
            let next = put_off_for(&ids, &failed.message, backoff::TABLES_IN_USE, true);
            COUNTED.set(Some((ids, since, counted)));
            next
        }
        Err(failed) => put_off_for(&ids, &failed.message, backoff::of_destruction(false), false),
    }
}

/// Those of these versions of a key that other servers need, or have not said that they do not.
fn held_by_others(ids: &[VersionId]) -> Result<Vec<(VersionId, Error)>> {
    let key = read::key_by_id(ids[0].key)?;
    let mut held = Vec::new();
    for id in ids {
        match nodes::refuse_unanswered(&key, id.version) {
            Err(error @ Error::NodesNeedVersion { .. }) => held.push((*id, error)),
            other => other?,
        }
    }
    Ok(held)
}

/// What a look for versions found.
enum Looked {
    NoneNeeded(Counted),
    /// Some of those that rows need.
    Needed(Vec<VersionId>),
}

/// The first look at all rows, for versions of one key.
fn count(ids: &[VersionId]) -> Result<Looked> {
    let key = read::key_by_id(ids[0].key)?; // First, while this transaction has one snapshot for all tables.
    terms::refuse_needed(&key, &numbers(ids))?;
    let first = recheck::count(&key, &numbers(ids))?;
    if first.holders.is_empty() {
        return Ok(Looked::NoneNeeded(first.counted));
    }
    if let [id] = ids {
        refuse_holders(&key, *id, &first.holders)?;
    }
    let needed = ids.iter().copied();
    Ok(Looked::Needed(
        needed
            .filter(|id| first.needed.contains(&id.version.int()))
            .collect(),
    ))
}

/// Puts a version off that rows need, and says which: those of others were counted with them.
fn put_off_needed(id: VersionId) -> Next {
    match all_or_nothing(|| count(&[id])) {
        Ok(Err(error)) => put_off(&[id], &error),
        // They are gone meanwhile: the next step finds it so.
        Ok(Ok(_)) => Next::Again,
        Err(failed) => put_off_for(
            &[id],
            &failed.message,
            backoff::of_destruction(false),
            false,
        ),
    }
}

fn numbers(ids: &[VersionId]) -> Vec<i32> {
    ids.iter().map(|id| id.version.int()).collect()
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
    match all_or_nothing(|| destroy(&[id], &Rows::Lost(losses))) {
        Ok(Ok(slots)) => forget(&slots),
        Ok(Err(error)) => put_off(&[id], &error),
        Err(failed) => put_off_for(
            &[id],
            &failed.message,
            backoff::of_destruction(false),
            false,
        ),
    }
}

/// Whoever loads them from here on finds them destroyed.
fn forget(slots: &[SlotKey]) -> Next {
    if let Ok(control) = control() {
        table::forget(control, slots);
    }
    Next::Again
}

fn put_off(ids: &[VersionId], error: &Error) -> Next {
    let rows_need_it = matches!(
        error,
        Error::RowsNeedVersion { .. } | Error::NodesNeedVersion { .. }
    );
    let pause = backoff::of_destruction(rows_need_it);
    put_off_for(ids, &one_line(error), pause, false)
}

/// Tries again after a pause, and says why not now. `goes_on`: from where it is, or else from the start.
fn put_off_for(ids: &[VersionId], problem: &str, pause: Duration, goes_on: bool) -> Next {
    log!("colcrypt: the destruction of a key version is postponed: {problem}");
    let postponed = attempt(|| {
        ids.iter()
            .try_for_each(|id| postpone(*id, problem, pause, goes_on))
    });
    match postponed {
        Ok(()) => Next::Again,
        _ => Next::Nothing,
    }
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

/// Versions of the same key that are due like this one, as SQL over `colcrypt.key_version v` with its destruction `d`
/// and its wait `w`; the parameters are the key, the version, the state and [`clock::boottime_us`].
fn due_like_it() -> String {
    format!(
        "v.key_id = $1 AND (v.version = $2 OR v.state = $3 AND NOT v.shreds AND v.destroy_at <= clock_timestamp() AND {} <= 0 AND {})",
        window::left("$4"),
        clock::is_over("d.retry_at", backoff::OF_KEYS),
    )
}

/// The version and those of its key that are as far as it: what was under way when they fell due is over.
fn with_it(id: VersionId) -> Result<Vec<VersionId>> {
    let [key_id, version] = arguments(id);
    let found = spi::query(
        &format!(
            "SELECT v.version FROM colcrypt.key_version v JOIN colcrypt.destruction d USING (key_id, version) \
             LEFT JOIN colcrypt.destruction_wait w USING (key_id, version) \
             JOIN colcrypt.destruction o ON o.key_id = $1 AND o.version = $2 AND o.settle_lsn = d.settle_lsn \
             WHERE {} AND d.settle_before IS NOT NULL AND d.settle_transactions IS NULL AND NOT {} \
             ORDER BY v.version LIMIT {TOGETHER}",
            due_like_it(),
            old_transactions("d"),
        ),
        &[
            key_id,
            version,
            KeyState::DestructionScheduled.name().into(),
            clock::boottime_us().into(),
        ],
        |row| row.get::<i32>(1),
    )?;
    let versions = found.into_iter().flatten().filter_map(KeyVersion::of_int);
    let mut ids: Vec<_> = versions
        .map(|version| VersionId {
            key: id.key,
            version,
        })
        .collect();
    if !ids.contains(&id) {
        ids.push(id);
    }
    Ok(ids)
}

/// Remembers the transactions that are under way, and a place in the log before which no other has written, for all
/// versions of the key that are due.
fn wait_for_running(id: VersionId) -> Result<()> {
    // First: whoever begins after this look writes behind that place.
    let place = spi::query("SELECT pg_current_wal_insert_lsn()::text", &[], |row| {
        row.get::<String>(1)
    })?;
    let [key_id, version] = arguments(id);
    spi::execute(
        &format!(
            "INSERT INTO colcrypt.destruction AS t (key_id, version, settle_before, settle_transactions, settle_lsn) \
             SELECT v.key_id, v.version, clock_timestamp(), {running}, $5::text::pg_lsn \
             FROM colcrypt.key_version v LEFT JOIN colcrypt.destruction d USING (key_id, version) \
             LEFT JOIN colcrypt.destruction_wait w USING (key_id, version) \
             WHERE {} AND (v.version = $2 OR d.settle_before IS NULL) \
             ON CONFLICT (key_id, version) DO UPDATE SET settle_before = EXCLUDED.settle_before, settle_lsn = EXCLUDED.settle_lsn, \
                 settle_transactions = EXCLUDED.settle_transactions, settle_prepared = NULL, retry_at = NULL",
            due_like_it(),
            running = crate::server::txn::RUNNING_TRANSACTIONS
        ),
        &[
            key_id,
            version,
            KeyState::DestructionScheduled.name().into(),
            clock::boottime_us().into(),
            place.into_iter().flatten().next().into(),
        ],
    )?;
    Ok(())
}

/// Those are over, but some may have been prepared meanwhile, and so write later still. The same for all versions of
/// the key that wait for the same.
fn wait_for_prepared(id: VersionId) -> Result<()> {
    spi::execute(
        &format!(
            "UPDATE colcrypt.destruction d SET settle_transactions = NULL, settle_prepared = {PREPARED_TRANSACTIONS} \
             FROM colcrypt.destruction o WHERE o.key_id = $1 AND o.version = $2 AND d.key_id = o.key_id \
                 AND (d.version = o.version OR d.settle_lsn = o.settle_lsn AND d.settle_transactions = o.settle_transactions)"
        ),
        &arguments(id),
    )?;
    Ok(())
}

fn arguments(id: VersionId) -> [pgrx::datum::DatumWithOid<'static>; 2] {
    [id.key.bigint().into(), id.version.int().into()]
}

/// Destroys versions of one key unless rows need one of them; returns their places in the slab. Those that are not due
/// any more, cancelled or scheduled anew, are left.
fn destroy(ids: &[VersionId], rows: &Rows<'_>) -> Result<Vec<SlotKey>> {
    let key = read::key_by_id(ids[0].key)?;
    // Before anybody is kept from writing.
    let unseen = unseen::look(ids)?.in_record();
    let lost = match rows {
        Rows::Counted(counted, since) => {
            let came = recheck::came_since(&key, &numbers(ids), counted, *since)?;
            refuse_holders(&key, ids[0], &came)?;
            None
        }
        Rows::Lost(losses) => Some(losses.as_str()),
    };
    let mut slots = Vec::with_capacity(ids.len());
    for id in ids {
        slots.extend(destroy_one(&key, *id, lost, &unseen)?);
    }
    Ok(slots)
}

/// What was counted for it stands. `lost`: what is lost with it, as was ordered. `unseen`: what was not looked into.
fn destroy_one(
    key: &Key,
    id: VersionId,
    lost: Option<&str>,
    unseen: &str,
) -> Result<Option<SlotKey>> {
    let has_waited = match lost {
        None => {
            "EXISTS (SELECT FROM colcrypt.destruction d \
             WHERE d.key_id = $1 AND d.version = $2 AND d.settle_before IS NOT NULL)"
        }
        Some(_) => "$2 > 0",
    };
    let still_due = spi::query(
        &format!("SELECT 1 FROM colcrypt.key WHERE key_id = $1 AND {has_waited} FOR NO KEY UPDATE"),
        &arguments(id),
        |row| row.get::<i32>(1),
    )?;
    let row = read::key_version(key, id.version)?;
    if still_due.is_empty() || !is_due(key, &row, lost.is_some())? {
        return Ok(None);
    }
    // Who ordered it and why stays on the record.
    spi::execute(
        "UPDATE colcrypt.key_version SET state = $3, former_state = NULL, wrapped = '', canary = NULL, \
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
    let how = format!("as ordered by {}{lost}; {unseen}", row.changed_by);
    log!(
        "colcrypt: version {} of key \"{}\" is destroyed, {how}",
        id.version,
        key.name
    );
    Act::new(Verb::Destroy.name())
        .key(key)
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
