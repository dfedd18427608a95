//! Honeytokens: values that nobody has a reason to decrypt. Whoever does so gets the plaintext as ever,
//! and raises an alarm. A value is known by its authentication tag, which re-encryption carries over to
//! a new one; the old stays marked, since old copies of the value may turn up.

use std::collections::HashMap;

use colcrypt_core::{KeyId, Value};
use pgrx::pg_sys;

use crate::audit::event::{Event, Outcome};
use crate::audit::ring::{self, Patience};
use crate::catalog::read;
use crate::catalog::scan::{Equals, any, each};
use crate::error::Result;
use crate::server::{report, spi};

/// A value's authentication tag.
pub type Tag = [u8; 16];

/// The tag of a value; every suite has one of this length.
pub fn tag_of(value: &[u8]) -> Option<Tag> {
    value.last_chunk::<16>().copied()
}

/// The key and the tag of a whole value.
fn identity_of(value: &[u8]) -> Option<(KeyId, Tag)> {
    let header = Value::parse(value).ok()?.header;
    Some((header.key, tag_of(value)?))
}

/// Whether any value of a key is marked.
pub fn guards(key: KeyId) -> Result<bool> {
    let mut found = false;
    any(
        "honeytoken",
        "honeytoken_pkey",
        &[Equals::int8(1, key.bigint())],
        |_| {
            found = true;
            Ok(())
        },
    )?;
    Ok(found)
}

/// Whether this value of a key is marked.
pub fn is_marked(key: KeyId, tag: &[u8]) -> Result<bool> {
    let mut found = false;
    each(
        "honeytoken",
        "honeytoken_pkey",
        &[Equals::int8(1, key.bigint()), Equals::bytea(2, tag)],
        |_| {
            found = true;
            Ok(())
        },
    )?;
    Ok(found)
}

/// The tag by which a value was marked, or the one that it was made from; none for a value that is not marked.
pub fn origin_of(key: KeyId, tag: &[u8]) -> Result<Option<Tag>> {
    let mut origin = None;
    each(
        "honeytoken",
        "honeytoken_pkey",
        &[Equals::int8(1, key.bigint()), Equals::bytea(2, tag)],
        |row| {
            origin = tag_of(&row.get::<Vec<u8>>("origin")?);
            Ok(())
        },
    )?;
    Ok(origin)
}

/// All marked values, each with the tag by which it was marked.
pub fn all() -> Result<HashMap<(KeyId, Tag), Tag>> {
    let mut found = HashMap::new();
    any("honeytoken", "honeytoken_pkey", &[], |row| {
        let tag = tag_of(&row.get::<Vec<u8>>("tag")?);
        let origin = tag_of(&row.get::<Vec<u8>>("origin")?);
        if let Some((tag, origin)) = tag.zip(origin) {
            found.insert((KeyId::of_bigint(row.get("key_id")?), tag), origin);
        }
        Ok(())
    })?;
    Ok(found)
}

/// Somebody decrypted a marked value. Changes nothing that the caller could see.
#[cold]
pub fn alarm(function: &str, value: &Value<'_>) {
    let id = value.header.key;
    let name = read::key_by_id(id).ok().map(|key| key.name);
    let mut event = Event::now(function, Outcome::Alarm);
    event.set_key(Some(id.0), name.as_deref());
    event.version = value.header.version.number();
    event.set_detail(Some(&said(id, value.tag)));
    raise(&event);
}

/// Somebody looked up a marked value. As [`alarm`].
#[cold]
pub fn alarm_of_term(function: &str, key: KeyId, name: Option<&str>, tag: &[u8], how: &str) {
    let mut event = Event::now(function, Outcome::Alarm);
    event.set_key(Some(key.0), name);
    event.set_detail(Some(&format!("{}, {how}", said(key, tag))));
    raise(&event);
}

fn said(key: KeyId, tag: &[u8]) -> String {
    let note = note_of(key, tag).unwrap_or_default();
    let tag = hex::encode(tag);
    match note {
        Some(note) => format!("honeytoken {tag}: {note}"),
        None => format!("honeytoken {tag}"),
    }
}

fn raise(event: &Event) {
    // SAFETY: reads a flag in shared memory. On a standby the ring itself writes to the server log.
    if ring::post(event, Patience::Wait) && !unsafe { pg_sys::RecoveryInProgress() } {
        report::server_log(&format!("colcrypt: alarm {}", event.json()));
    }
}

fn note_of(key: KeyId, tag: &[u8]) -> Result<Option<String>> {
    let mut note = None;
    each(
        "honeytoken",
        "honeytoken_pkey",
        &[Equals::int8(1, key.bigint())],
        |row| {
            if row.get::<Vec<u8>>("tag")? == tag {
                note = row.optional("note")?;
            }
            Ok(())
        },
    )?;
    Ok(note)
}

/// Of the values that sessions make of one marked value, so many of the first and as many of the last stay marked: the
/// first, so that nobody has the mark of what is stored forgotten by making more, and the last, so that what is made
/// and stored now is marked.
const DERIVED: i32 = 64;

/// Marks what a marked value was re-encrypted to, where this transaction may write.
///
/// # Errors
/// Of the insertion.
pub fn follow(old: &Value<'_>, new: &[u8]) -> Result<()> {
    // SAFETY: reads flags of this process and of shared memory.
    let read_only = unsafe {
        pg_sys::XactReadOnly || pg_sys::IsInParallelMode() || pg_sys::RecoveryInProgress()
    };
    let Some((key, new)) = identity_of(new).filter(|_| !read_only) else {
        return Ok(());
    };
    // What a job makes takes a stored value's place; what a session makes may be thrown away, again and again.
    // SAFETY: reads a pointer of this process's.
    let by_job = unsafe { !pg_sys::MyBgworkerEntry.is_null() };
    // A key's first mark is news for every session; another one is found when it is looked for.
    let run = if guards(key)? {
        spi::execute_quietly
    } else {
        spi::execute
    };
    run(
        "WITH marked AS (SELECT origin, note, marked_at, marked_by FROM colcrypt.honeytoken WHERE key_id = $1 AND tag = $2), \
              nth AS (SELECT 1 + coalesce(max(h.derived), 0) AS n \
                      FROM marked m LEFT JOIN colcrypt.honeytoken h ON h.key_id = $4 AND h.origin = m.origin), \
              gone AS (DELETE FROM colcrypt.honeytoken h USING marked m, nth \
                       WHERE NOT $5 AND h.key_id = $4 AND h.origin = m.origin \
                         AND h.derived > $6 AND h.derived <= nth.n - $6 AND (h.key_id, h.tag) <> ($1, $2)) \
         INSERT INTO colcrypt.honeytoken (key_id, tag, origin, note, marked_at, marked_by, derived) \
         SELECT $4, $3, origin, note, marked_at, marked_by, CASE WHEN $5 THEN NULL ELSE n END FROM marked, nth \
         ON CONFLICT DO NOTHING",
        &[
            old.header.key.bigint().into(),
            old.tag.to_vec().into(),
            new.to_vec().into(),
            key.bigint().into(),
            by_job.into(),
            DERIVED.into(),
        ],
    )?;
    Ok(())
}
