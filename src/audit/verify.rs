//! The audit log as an auditor asks about it: is the chain whole, and what is still on its way.

use colcrypt_core::audit::{Anchor, Hash, Record, Verifier};
use pgrx::datum::TimestampWithTimeZone;
use pgrx::{Spi, pg_sys};

use crate::audit::ring;
use crate::audit::writer::NOT_RECORDED;
use crate::error::{Error, Result};
use crate::server::call::Call;
use crate::server::record;
use crate::server::roles::AsRole;
use crate::server::spi::safe_search_path;

/// Records that are in memory at a time.
const BATCH: i64 = 1000;

/// A record as it stands in the table.
struct Stored {
    seq: i64,
    at: i64,
    texts: [Option<String>; 11],
    pid: i32,
    version: Option<i32>,
    repeats: i32,
    previous: Option<Hash>,
    hash: Option<Hash>,
}

impl Stored {
    fn record(&self) -> Record<'_> {
        let text = |at: usize| self.texts[at].as_deref();
        Record {
            seq: self.seq,
            at: self.at,
            event: text(0).unwrap_or_default(),
            outcome: text(1).unwrap_or_default(),
            session_role: text(2).unwrap_or_default(),
            current_role: text(3).unwrap_or_default(),
            client_addr: text(4),
            database: text(5).unwrap_or_default(),
            pid: self.pid,
            key_id: text(6),
            key: text(7),
            version: self.version,
            relation: text(8),
            repeats: self.repeats,
            detail: text(9),
            sqlstate: text(10),
        }
    }
}

/// The hash covers the bare address. `abbrev` gives that where the netmask is whole, as the writer leaves it, and the
/// netmask with it where somebody changed it: the record is then not what was hashed.
fn batch_after(seq: i64) -> Result<Vec<Stored>> {
    let _role = AsRole::owner();
    let _path = safe_search_path();
    Spi::connect(|client| {
        client
            .select(
                "SELECT seq, at, event, outcome, session_role, current_role_name, \
                        pg_catalog.abbrev(client_addr), database, key_id, key, relation, detail, sqlstate, \
                        pid, version, repeats, previous_hash, hash \
                 FROM colcrypt.audit_log WHERE seq > $1 ORDER BY seq LIMIT $2",
                None,
                &[seq.into(), BATCH.into()],
            )?
            .map(|row| {
                let mut texts: [Option<String>; 11] = Default::default();
                for (at, text) in texts.iter_mut().enumerate() {
                    *text = row.get(at + 3)?;
                }
                let hash = |bytes: Option<Vec<u8>>| bytes.as_deref().and_then(Hash::from_slice);
                Ok(Stored {
                    seq: row.get(1)?.unwrap_or_default(),
                    at: row.get::<TimestampWithTimeZone>(2)?.map_or(0, Into::into),
                    texts,
                    pid: row.get(14)?.unwrap_or_default(),
                    version: row.get(15)?,
                    repeats: row.get(16)?.unwrap_or_default(),
                    previous: hash(row.get(17)?),
                    hash: hash(row.get(18)?),
                })
            })
            .collect::<std::result::Result<Vec<_>, pgrx::spi::Error>>()
    }).map_err(crate::error::of_spi)
}

/// Where the writer says it stands.
fn written_head() -> Result<Option<Anchor>> {
    let _role = AsRole::owner();
    let _path = safe_search_path();
    let rows = Spi::connect(|client| {
        client
            .select("SELECT seq, hash FROM colcrypt.audit_state", Some(1), &[])?
            .map(|row| Ok((row.get::<i64>(1)?, row.get::<Vec<u8>>(2)?)))
            .collect::<std::result::Result<Vec<_>, pgrx::spi::Error>>()
    })
    .map_err(crate::error::of_spi)?;
    Ok(rows.into_iter().next().and_then(|(seq, hash)| {
        Some(Anchor {
            seq: seq?,
            hash: Hash::from_slice(&hash?)?,
        })
    }))
}

/// The anchor that the caller gives.
fn given_anchor(call: Call) -> Result<Option<Anchor>> {
    // SAFETY: declared as bigint and text.
    let (seq, hash) = unsafe { (call.get::<i64>(0), call.long::<String>(1, "anchor_hash")?) };
    match (seq, hash) {
        (None, None) => Ok(None),
        (Some(seq), Some(hash)) if seq > 0 => {
            let mut bytes = [0; 32];
            hex::decode_to_slice(hash.trim_start_matches("\\x"), &mut bytes)
                .map_err(|_| wrong_anchor())?;
            Ok(Some(Anchor {
                seq,
                hash: Hash(bytes),
            }))
        }
        _ => Err(wrong_anchor()),
    }
}

fn wrong_anchor() -> Error {
    Error::InvalidParameter {
        message: "an anchor is the seq of a record and its hash, 64 hexadecimal digits".into(),
        hint: "Take both from one line of the server log: colcrypt: audit log of database … stands at seq …, hash …".into(),
    }
}

pub fn verify(call: Call) -> Result<pg_sys::Datum> {
    let mut anchors: Vec<Anchor> = given_anchor(call)?.into_iter().collect();
    anchors.extend(written_head()?);
    let mut verifier = Verifier::new(anchors);
    let (mut events, mut after, mut bad) = (0i64, i64::MIN, None);
    let mut not_recorded = 0i64;
    'log: loop {
        pgrx::check_for_interrupts!();
        let batch = batch_after(after)?;
        for stored in &batch {
            let fault = match (stored.previous, stored.hash) {
                (Some(previous), Some(hash)) => {
                    verifier.push(&stored.record(), previous, hash).err()
                }
                _ => Some(colcrypt_core::audit::Fault::Altered),
            };
            if let Some(fault) = fault {
                bad = Some((stored.seq, fault.to_string()));
                break 'log;
            }
            events += 1;
            if stored.texts[0].as_deref() == Some(NOT_RECORDED) {
                not_recorded += i64::from(stored.repeats);
            }
            after = stored.seq;
        }
        if batch.len() < BATCH as usize {
            break;
        }
    }
    let head = verifier.head();
    if bad.is_none()
        && let Err(fault) = verifier.finish()
    {
        bad = Some((head.map_or(0, |head| head.seq) + 1, fault.to_string()));
    }
    let mut row = record::Record::default();
    row.push(bad.is_none())
        .push(events)
        .push(head.map(|head| head.seq))
        .push(head.map(|head| head.hash.to_string()))
        .push(bad.as_ref().map(|(seq, _)| *seq))
        .push(bad.map(|(_, problem)| problem))
        .push(not_recorded);
    row.into_datum(call)
}

pub fn status(call: Call) -> Result<pg_sys::Datum> {
    let (capacity, used, posted, logged, lost) = ring::figures().ok_or(Error::NotPreloaded)?;
    let mut row = record::Record::default();
    row.push(capacity as i32)
        .push(used as i32)
        .push(posted as i64)
        .push(logged as i64)
        .push(lost as i64);
    row.into_datum(call)
}

pub fn append_only(_call: Call) -> Result<pg_sys::Datum> {
    Err(Error::AuditAppendOnly)
}
