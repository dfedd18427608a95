//! The writer of the audit log: moves committed acts from the outbox and events from shared memory into
//! the chain, a batch in a transaction. Only the maintenance worker of a database runs it, one at a time.

use std::cell::Cell;

use colcrypt_core::KeyId;
use colcrypt_core::audit::{GENESIS_EVENT, Hash, Record, genesis};
use colcrypt_domain::lost::Lost;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::{log, pg_sys};

use crate::audit::event::Outcome;
use crate::audit::ring::{self, Ticketed};
use crate::error::{Error, Result};
use crate::server::txn::{Next, attempt, transaction, wait_for_locks};
use crate::server::{clock, process, report, roles, spi};
use crate::settings;

/// Most events of either source in one transaction.
const BATCH: usize = 200;
/// The event of a record that stands for others, which have none.
pub const NOT_RECORDED: &str = "not_recorded";

thread_local! {
    /// This worker could not write: the next one shall come in its time, not at once.
    static FAILED: Cell<bool> = const { Cell::new(false) };
}

/// An event that has yet no place in the chain.
struct Entry {
    at: i64,
    event: String,
    outcome: &'static str,
    session_role: String,
    current_role: String,
    client_addr: Option<String>,
    database: String,
    pid: i32,
    key_id: Option<String>,
    key: Option<String>,
    version: Option<i32>,
    relation: Option<String>,
    repeats: i32,
    detail: Option<String>,
    sqlstate: Option<String>,
}

/// Where the chain stands.
struct Head {
    seq: i64,
    hash: Hash,
}

/// What a batch did, to be acted upon once it is committed.
#[derive(Default)]
struct Batch {
    written: usize,
    tickets: Vec<u64>,
    lost: Vec<Lost>,
    anchor: Option<Head>,
}

/// Writes what waits, if anything does.
pub fn step() -> Next {
    match attempt(write_batch) {
        Ok(batch) => {
            ring::release(&batch.tickets);
            ring::release_lost(&batch.lost);
            if let Some(head) = batch.anchor {
                report::server_log(&format!(
                    "colcrypt: audit log of database \"{}\" stands at seq {}, hash {}",
                    database(),
                    head.seq,
                    head.hash
                ));
            }
            if batch.written > 0 {
                Next::Again
            } else {
                Next::Nothing
            }
        }
        Err(failed) => complain(&failed.message),
    }
}

/// The events stay where they are; the next worker tries again.
fn complain(message: &str) -> Next {
    log!("colcrypt: the audit log cannot be written: {message}");
    FAILED.set(true);
    Next::Nothing
}

fn database() -> String {
    transaction(database_name).unwrap_or_default()
}

/// In a transaction.
fn database_name() -> String {
    // SAFETY: a catalog look-up of the database we are connected to.
    unsafe {
        std::ffi::CStr::from_ptr(pg_sys::get_database_name(process::my_database()))
            .to_string_lossy()
            .into_owned()
    }
}

/// Keeps DROP EXTENSION waiting until this transaction ends, or learns that it came first. It takes this
/// lock before those on the tables, so nobody waits in a circle.
fn extension_stays() -> bool {
    // SAFETY: catalog look-ups and a heavyweight lock, in a transaction.
    unsafe {
        let extension = pg_sys::get_extension_oid(c"colcrypt".as_ptr(), true);
        if extension == pg_sys::Oid::INVALID {
            return false;
        }
        pg_sys::LockDatabaseObject(
            pg_sys::ExtensionRelationId,
            extension,
            0,
            pg_sys::AccessShareLock as i32,
        );
        pg_sys::AcceptInvalidationMessages();
        pg_sys::get_extension_oid(c"colcrypt".as_ptr(), true) == extension
    }
}

fn write_batch() -> Result<Batch> {
    wait_for_locks();
    let here = process::my_database().to_u32();
    if !extension_stays() {
        ring::forsake(here);
        return Ok(Batch::default());
    }
    let interval = settings::AUDIT_ANCHOR_INTERVAL.get();
    let due = spi::query(
        "SELECT EXISTS (SELECT FROM colcrypt.audit_outbox), \
                EXISTS (SELECT FROM colcrypt.audit_state WHERE $1 > 0 AND seq > anchored_seq \
                        AND (anchored_at + $1 * interval '1 second' <= clock_timestamp() OR anchored_at > clock_timestamp()))",
        &[interval.into()],
        |row| Ok((row.get::<bool>(1)?, row.get::<bool>(2)?)),
    )?;
    let (outbox, anchor) = due.first().copied().unwrap_or_default();
    let (outbox, anchor) = (outbox == Some(true), anchor == Some(true));
    if !outbox && !anchor && !ring::holds(here) {
        return Ok(Batch::default());
    }
    let (mut head, last_ring, last_tickets) = state()?;
    let (identity, events) = ring::take(here, BATCH);
    let mut batch = Batch {
        tickets: events.iter().map(|(ticket, _)| *ticket).collect(),
        lost: ring::lost(here),
        ..Batch::default()
    };
    let known =
        |ticket: u64| last_ring == Some(identity as i64) && last_tickets.contains(&(ticket as i64));
    let mut entries: Vec<Entry> = events
        .iter()
        .filter(|(ticket, _)| !known(*ticket))
        .map(from_ring)
        .collect();
    if !batch.lost.is_empty() {
        let database = database_name();
        entries.extend(batch.lost.iter().map(|lost| from_lost(lost, &database)));
    }
    if outbox {
        entries.extend(from_outbox()?);
    }
    entries.sort_by_key(|entry| entry.at);
    for entry in &entries {
        append(&mut head, entry)?;
    }
    batch.written = entries.len();
    save(&head, identity, &batch.tickets)?;
    let anchor = anchor || (interval > 0 && batch.written > 0 && anchor_is_due(interval)?);
    if anchor {
        spi::execute(
            "UPDATE colcrypt.audit_state SET anchored_seq = seq, anchored_at = clock_timestamp()",
            &[],
        )?;
        notify(
            "colcrypt_audit_anchor",
            &format!("{} {}", head.seq, head.hash),
        )?;
        batch.anchor = Some(head);
    }
    Ok(batch)
}

fn anchor_is_due(interval: i32) -> Result<bool> {
    let rows = spi::query(
        "SELECT seq > anchored_seq AND (anchored_at + $1 * interval '1 second' <= clock_timestamp() OR anchored_at > clock_timestamp()) \
         FROM colcrypt.audit_state",
        &[interval.into()],
        |row| row.get::<bool>(1),
    )?;
    Ok(rows.first().copied().flatten() == Some(true))
}

fn notify(channel: &str, payload: &str) -> Result<()> {
    spi::execute(
        "SELECT pg_catalog.pg_notify($1, $2)",
        &[channel.into(), payload.into()],
    )?;
    Ok(())
}

/// The head of the chain, which is begun where there is none, and what the last batch held.
fn state() -> Result<(Head, Option<i64>, Vec<i64>)> {
    let kept = spi::query(
        "SELECT seq, hash, ring, tickets FROM colcrypt.audit_state",
        &[],
        |row| {
            Ok((
                row.get::<i64>(1)?,
                row.get::<Vec<u8>>(2)?,
                row.get::<i64>(3)?,
                row.get::<Vec<i64>>(4)?,
            ))
        },
    )?;
    if let Some((seq, hash, ring, tickets)) = kept.into_iter().next() {
        return Ok((head(seq, hash)?, ring, tickets.unwrap_or_default()));
    }
    // A new log, or one that was restored.
    let last = spi::query(
        "SELECT seq, hash FROM colcrypt.audit_log ORDER BY seq DESC LIMIT 1",
        &[],
        |row| Ok((row.get::<i64>(1)?, row.get::<Vec<u8>>(2)?)),
    )?;
    let head = match last.into_iter().next() {
        Some((seq, hash)) => head(seq, hash)?,
        None => begin()?,
    };
    spi::execute(
        "INSERT INTO colcrypt.audit_state (seq, hash) VALUES ($1, $2)",
        &[head.seq.into(), head.hash.0.to_vec().into()],
    )?;
    Ok((head, None, Vec::new()))
}

fn head(seq: Option<i64>, hash: Option<Vec<u8>>) -> Result<Head> {
    let hash = hash.as_deref().and_then(Hash::from_slice);
    match (seq, hash) {
        (Some(seq), Some(hash)) => Ok(Head { seq, hash }),
        _ => Err(Error::CatalogCorrupt("the head of the audit log".into())),
    }
}

/// The first record, which gives the log its identity.
fn begin() -> Result<Head> {
    let mut log = [0; 16];
    // SAFETY: fills the buffer from the operating system's generator.
    if !unsafe { pg_sys::pg_strong_random(log.as_mut_ptr().cast(), log.len()) } {
        return Err(Error::Random);
    }
    // SAFETY: reads the clock.
    let (at, database) = unsafe { (pg_sys::GetCurrentTimestamp(), database_name()) };
    let role = roles::role_name(roles::current_user());
    let mut head = Head {
        seq: 0,
        hash: genesis(&log),
    };
    append(
        &mut head,
        &Entry {
            at,
            event: GENESIS_EVENT.into(),
            outcome: Outcome::Done.name(),
            session_role: role.clone(),
            current_role: role,
            client_addr: None,
            database,
            pid: process::my_pid(),
            key_id: None,
            key: None,
            version: None,
            relation: None,
            repeats: 1,
            detail: Some(hex::encode(log)),
            sqlstate: None,
        },
    )?;
    Ok(head)
}

fn from_ring((_, event): &Ticketed) -> Entry {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    Entry {
        at: event.at,
        event: event.event.or_empty().into(),
        outcome: event.outcome().name(),
        session_role: event.session_role.or_empty().into(),
        current_role: event.current_role.or_empty().into(),
        client_addr: owned(event.client_addr.get()),
        database: event.database_name.or_empty().into(),
        pid: event.pid,
        key_id: event.key_id(),
        key: owned(event.key.get()),
        version: event.version(),
        relation: owned(event.relation.get()),
        repeats: event.repeats as i32,
        detail: owned(event.detail.get()),
        sqlstate: owned(event.sqlstate.get()),
    }
}

/// Its count is that of the events it stands for, and its outcome is theirs.
fn from_lost(lost: &Lost, database: &str) -> Entry {
    let role = lost.role.or_empty();
    Entry {
        at: lost.last,
        event: NOT_RECORDED.into(),
        outcome: lost.outcome().name(),
        session_role: role.into(),
        current_role: role.into(),
        client_addr: None,
        database: database.into(),
        pid: process::my_pid(),
        key_id: None,
        key: None,
        version: None,
        relation: None,
        repeats: i32::try_from(lost.count).unwrap_or(i32::MAX),
        detail: Some(format!(
            "{} events between {} and {} have no record of their own: {}",
            lost.count,
            clock::timestamp(lost.first),
            clock::timestamp(lost.last),
            lost.why()
        )),
        sqlstate: None,
    }
}

fn from_outbox() -> Result<Vec<Entry>> {
    spi::query(
        "WITH gone AS (DELETE FROM colcrypt.audit_outbox WHERE event_id IN \
             (SELECT event_id FROM colcrypt.audit_outbox ORDER BY event_id LIMIT $1) RETURNING *) \
         SELECT at, event, session_role, current_role_name, pg_catalog.host(client_addr), \
                pg_catalog.current_database()::text, pid, key_id, key_name, version, relation, detail \
         FROM gone ORDER BY event_id",
        &[(BATCH as i64).into()],
        |row| {
            let key_id = row
                .get::<i64>(8)?
                .map(|id| KeyId::of_bigint(id).to_string());
            Ok(Entry {
                at: row.get::<TimestampWithTimeZone>(1)?.map_or(0, Into::into),
                event: row.get(2)?.unwrap_or_default(),
                outcome: Outcome::Done.name(),
                session_role: row.get(3)?.unwrap_or_default(),
                current_role: row.get(4)?.unwrap_or_default(),
                client_addr: row.get(5)?,
                database: row.get(6)?.unwrap_or_default(),
                pid: row.get(7)?.unwrap_or_default(),
                key_id,
                key: row.get(9)?,
                version: row.get(10)?,
                relation: row.get(11)?,
                repeats: 1,
                detail: row.get(12)?,
                sqlstate: None,
            })
        },
    )
}

fn append(head: &mut Head, entry: &Entry) -> Result<()> {
    let seq = head.seq + 1;
    let hash = Record {
        seq,
        at: entry.at,
        event: &entry.event,
        outcome: entry.outcome,
        session_role: &entry.session_role,
        current_role: &entry.current_role,
        client_addr: entry.client_addr.as_deref(),
        database: &entry.database,
        pid: entry.pid,
        key_id: entry.key_id.as_deref(),
        key: entry.key.as_deref(),
        version: entry.version,
        relation: entry.relation.as_deref(),
        repeats: entry.repeats,
        detail: entry.detail.as_deref(),
        sqlstate: entry.sqlstate.as_deref(),
    }
    .hash(head.hash);
    let at = TimestampWithTimeZone::try_from(entry.at)
        .map_err(|_| Error::CatalogCorrupt("the time of an event".into()))?;
    spi::execute(
        "INSERT INTO colcrypt.audit_log \
         (seq, at, event, outcome, session_role, current_role_name, client_addr, database, pid, key_id, key, \
          version, relation, repeats, detail, sqlstate, previous_hash, hash) \
         VALUES ($1, $2, $3, $4, $5, $6, $7::inet, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)",
        &[
            seq.into(),
            at.into(),
            entry.event.as_str().into(),
            entry.outcome.into(),
            entry.session_role.as_str().into(),
            entry.current_role.as_str().into(),
            entry.client_addr.clone().into(),
            entry.database.as_str().into(),
            entry.pid.into(),
            entry.key_id.clone().into(),
            entry.key.clone().into(),
            entry.version.into(),
            entry.relation.clone().into(),
            entry.repeats.into(),
            entry.detail.clone().into(),
            entry.sqlstate.clone().into(),
            head.hash.0.to_vec().into(),
            hash.0.to_vec().into(),
        ],
    )?;
    *head = Head { seq, hash };
    if entry.outcome == Outcome::Alarm.name() {
        notify("colcrypt_alarm", &seq.to_string())?;
    }
    Ok(())
}

fn save(head: &Head, identity: u64, tickets: &[u64]) -> Result<()> {
    let tickets: Vec<i64> = tickets.iter().map(|ticket| *ticket as i64).collect();
    spi::execute(
        "UPDATE colcrypt.audit_state SET seq = $1, hash = $2, ring = $3, tickets = $4",
        &[
            head.seq.into(),
            head.hash.0.to_vec().into(),
            (identity as i64).into(),
            tickets.into(),
        ],
    )?;
    Ok(())
}
