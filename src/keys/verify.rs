//! Whether the key catalog is whole: every root key opens every key encryption key, every key encryption key every key
//! version, and no row is under a version that the catalog lacks. Nothing is written, so a standby can be asked too.
//!
//! Root keys are asked anew, once for each version of a key encryption key, whatever is cached. Key versions are then
//! unwrapped by the agent from what the catalog has, in batches, and compared with their check values; the slab is left
//! alone. The agent's own copy of the key encryption key serves for that: its check value is the one that the root
//! keys' answers were just compared with.
//!
//! With each goes its canary value, a value of known text that was sealed under it when it was made: the agent decrypts
//! it as a row would be. A version of a release without canary values has none until its key encryption key is rotated.
//! What neither tells is whether rows are of the same catalog, which only rows can: a deep check reads their headers.

use std::collections::BTreeMap;

use colcrypt_core::{KeyId, KeyVersion};
use colcrypt_domain::kek::fitting;
use colcrypt_domain::quote::quote_identifier;
use colcrypt_domain::roots;
use colcrypt_protocol::{KekRef, Reply, Request, WrappedDek};
use pgrx::pg_sys;

use crate::broker::client::unexpected_reply;
use crate::broker::shared::PAYLOAD;
use crate::catalog::read::{self, Keyring};
use crate::catalog::uuid::{keyring_id, uuid};
use crate::error::{Error, Result};
use crate::keys::kek;
use crate::keys::wrapped::{self, Stored, json_size};
use crate::rows::census;
use crate::server::call::Call;
use crate::server::record::{Record, return_set};
use crate::server::{relation, spi};

const OF_ROOT: &str = "root key";
const OF_VERSION: &str = "key version";
const OF_ROWS: &str = "rows";
const OF_GRANT: &str = "grant";
const OF_READERS: &str = "readers";

/// What was found of one thing.
#[derive(Default)]
struct Finding {
    keyring: Option<String>,
    key: Option<String>,
    version: Option<i32>,
    checked: &'static str,
    root: Option<String>,
    problem: Option<String>,
}

impl Finding {
    fn record(self) -> Record {
        let mut row = Record::default();
        row.push(self.keyring)
            .push(self.key)
            .push(self.version)
            .push(self.checked)
            .push(self.root)
            .push(self.problem.is_none())
            .push(self.problem);
        row
    }
}

/// A version of a key, of one keyring's key encryption key.
struct OfKey {
    key: String,
    stored: Stored,
}

impl OfKey {
    fn found(&self, keyring: &str, problem: Option<String>) -> Finding {
        Finding {
            keyring: Some(keyring.into()),
            key: Some(self.key.clone()),
            version: Some(self.stored.version),
            checked: OF_VERSION,
            problem,
            ..Finding::default()
        }
    }
}

fn in_words(error: &Error) -> String {
    let report = error.report();
    match report.detail {
        Some(detail) => format!("{}: {detail}", report.message),
        None => report.message,
    }
}

pub fn verify_keys(call: Call) -> Result<pg_sys::Datum> {
    // SAFETY: declared as boolean, and strict.
    let deep = unsafe { call.get::<bool>(0) }.unwrap_or_default();
    let mut found = Vec::new();
    for id in keyrings()? {
        let keyring = read::keyring_by_id(keyring_id(id))?;
        let versions = read::kek_versions(&keyring)?;
        if !versions.contains(&keyring.current) {
            found.push(of_root(
                &keyring,
                keyring.current,
                None,
                Some("the catalog lacks the current version of the key encryption key".into()),
            ));
        }
        for version in versions {
            check_kek(&keyring, version, &mut found)?;
        }
    }
    found.extend(lacking()?);
    found.extend(without_role()?);
    found.extend(if deep {
        rows_as_stored()?
    } else {
        rows_as_counted()?
    });
    let rows = found.into_iter().map(Finding::record).collect();
    Ok(return_set(call, rows))
}

fn keyrings() -> Result<Vec<pgrx::Uuid>> {
    spi::look(
        "SELECT keyring_id FROM colcrypt.keyring ORDER BY name",
        &[],
        |row| spi::at::<pgrx::Uuid>(row, 1),
    )
}

fn of_root(
    keyring: &Keyring,
    version: KeyVersion,
    root: Option<String>,
    problem: Option<String>,
) -> Finding {
    Finding {
        keyring: Some(keyring.name.clone()),
        version: Some(version.int()),
        checked: OF_ROOT,
        root,
        problem,
        ..Finding::default()
    }
}

/// Asks every root key for a version of the key encryption key, and has every key version under it unwrapped.
fn check_kek(keyring: &Keyring, version: KeyVersion, found: &mut Vec<Finding>) -> Result<()> {
    let stored = stored_under(keyring, version)?;
    let is_open = match read::kek(keyring, version) {
        Err(error) => {
            found.push(of_root(keyring, version, None, Some(in_words(&error))));
            None
        }
        Ok(kek) => check_roots(keyring, &kek, found).then_some(kek),
    };
    let Some(kek) = is_open else {
        let problem = format!("no root key opens version {version} of its key encryption key");
        let closed = stored.iter();
        found.extend(closed.map(|one| one.found(&keyring.name, Some(problem.clone()))));
        return Ok(());
    };
    let mut deks = Vec::with_capacity(stored.len());
    for one in &stored {
        match one.stored.dek() {
            Ok(dek) => deks.push((one, dek)),
            Err(error) => found.push(one.found(&keyring.name, Some(in_words(&error)))),
        }
    }
    let without = json_size(&request(&kek, &[]));
    let each = deks.iter().map(|(_, dek)| json_size(dek) + 1).max();
    let some = fitting(PAYLOAD, without, each.unwrap_or(1));
    for batch in deks.chunks(some) {
        let wrapped: Vec<WrappedDek> = batch.iter().map(|(_, dek)| dek.clone()).collect();
        let mut problems = BTreeMap::new();
        let mut all = None;
        match kek::call(&keyring.name, &request(&kek, &wrapped)) {
            Ok(Reply::DeksVerified { failures }) => problems.extend(failures),
            Ok(_) => return Err(unexpected_reply()),
            Err(error @ Error::Kms { .. }) => all = Some(in_words(&error)),
            Err(other) => return Err(other),
        }
        for (at, (one, _)) in (0u32..).zip(batch) {
            let problem = problems.remove(&at).or_else(|| all.clone());
            found.push(one.found(&keyring.name, problem));
        }
    }
    Ok(())
}

/// Whether any root key opens it.
fn check_roots(keyring: &Keyring, kek: &KekRef, found: &mut Vec<Finding>) -> bool {
    let of = |root, problem| of_root(keyring, kek.id.version, root, problem);
    let answers = match kek::ask(kek.clone()) {
        Ok(answers) => answers,
        Err(error) => {
            found.push(of(None, Some(in_words(&error))));
            return false;
        }
    };
    let mut is_open = false;
    for copy in kek.copies() {
        let id = copy.id();
        let problem = match answers.iter().find(|answer| answer.copy == id) {
            None => Some("it was not asked".into()),
            Some(answer) => answer
                .result
                .as_ref()
                .err()
                .map(|failure| failure.message.clone()),
        };
        is_open |= problem.is_none();
        found.push(of(Some(roots::name_of(copy)), problem));
    }
    is_open
}

fn request(kek: &KekRef, deks: &[WrappedDek]) -> Request {
    Request::VerifyDeks {
        kek: kek.clone(),
        deks: deks.to_vec(),
    }
}

fn stored_under(keyring: &Keyring, version: KeyVersion) -> Result<Vec<OfKey>> {
    spi::look(
        &format!(
            "SELECT {}, k.name FROM colcrypt.key k JOIN colcrypt.key_version v USING (key_id) \
             WHERE k.keyring_id = $1 AND v.kek_version = $2 AND v.destroyed_at IS NULL ORDER BY k.name, v.version",
            wrapped::COLUMNS
        ),
        &[uuid(keyring.id).into(), version.int().into()],
        |row| {
            Ok(OfKey {
                stored: Stored::read(row)?,
                key: spi::at(row, wrapped::COUNT + 1)?,
            })
        },
    )
}

/// What one row of the catalog needs of another that is not there. Versions are numbered without gaps, and a destroyed
/// one keeps its row.
fn lacking() -> Result<Vec<Finding>> {
    spi::look(
        "SELECT r.name, k.name, v.version, CASE WHEN r.name IS NULL THEN 'the catalog lacks its keyring' \
             ELSE 'the catalog lacks version ' || v.kek_version || ' of its key encryption key' END \
         FROM colcrypt.key k JOIN colcrypt.key_version v USING (key_id) LEFT JOIN colcrypt.keyring r USING (keyring_id) \
         LEFT JOIN colcrypt.kek_version e ON e.keyring_id = r.keyring_id AND e.version = v.kek_version AND e.destroyed_at IS NULL \
         WHERE v.destroyed_at IS NULL AND e.version IS NULL \
         UNION ALL \
         SELECT r.name, k.name, n, 'the catalog lacks it' \
         FROM colcrypt.key k LEFT JOIN colcrypt.keyring r USING (keyring_id), \
              generate_series(1, greatest(k.current_version, \
                  (SELECT max(v.version) FROM colcrypt.key_version v WHERE v.key_id = k.key_id))) AS n \
         WHERE NOT EXISTS (SELECT FROM colcrypt.key_version v WHERE v.key_id = k.key_id AND v.version = n) \
         ORDER BY 1, 2, 3",
        &[],
        |row| {
            Ok(Finding {
                keyring: row.get(1)?,
                key: row.get(2)?,
                version: row.get(3)?,
                checked: OF_VERSION,
                problem: row.get(4)?,
                ..Finding::default()
            })
        },
    )
}

/// Grants that wait for their role since a dump was restored without it, and columns among whose readers is a role that
/// there is none of: who was meant sees NULL.
fn without_role() -> Result<Vec<Finding>> {
    spi::look(
        "SELECT r.name, k.name, $1::text, format('there is no role %I to have its grant: create it and call colcrypt.restore_grants()', g.grantee) \
         FROM colcrypt.restored_grant g LEFT JOIN colcrypt.key k USING (key_id) \
         LEFT JOIN colcrypt.keyring r ON r.keyring_id = coalesce(g.keyring_id, k.keyring_id) \
         UNION ALL \
         SELECT r.name, k.name, $2, format('column %s.%I is read by %s, and there is no role %s: create it, or register the column again', \
                    p.relation::oid::regclass, p.attribute, array_to_string(p.readers, ', '), string_agg(quote_ident(n), ', ')) \
         FROM colcrypt.protected_column p LEFT JOIN colcrypt.key k USING (key_id) \
         LEFT JOIN colcrypt.keyring r ON r.keyring_id = coalesce(p.keyring_id, k.keyring_id), \
              unnest(p.readers) AS n \
         WHERE EXISTS (SELECT FROM pg_class t WHERE t.oid = p.relation) AND NOT EXISTS (SELECT FROM pg_roles o WHERE o.rolname = n) \
         GROUP BY r.name, k.name, p.relation, p.attribute, p.readers \
         ORDER BY 1, 2, 3, 4",
        &[OF_GRANT.into(), OF_READERS.into()],
        |row| {
            Ok(Finding {
                keyring: row.get(1)?,
                key: row.get(2)?,
                checked: match row.get::<String>(3)?.as_deref() {
                    Some(OF_GRANT) => OF_GRANT,
                    _ => OF_READERS,
                },
                problem: row.get(4)?,
                ..Finding::default()
            })
        },
    )
}

/// The last count of each registered column against the catalog: costs nothing, and knows of a catalog that is older
/// than its rows.
fn rows_as_counted() -> Result<Vec<Finding>> {
    let counted = spi::look(
        "SELECT c.relation::oid, c.attribute::text, n.key_id, n.version, n.rows \
         FROM colcrypt.census c, jsonb_to_recordset(c.counts) AS n(key_id bigint, version int, rows bigint) \
         WHERE EXISTS (SELECT FROM pg_class t WHERE t.oid = c.relation) ORDER BY 1, 2, 3, 4",
        &[],
        |row| {
            Ok((
                spi::at::<pg_sys::Oid>(row, 1)?,
                spi::at::<String>(row, 2)?,
                spi::at::<i64>(row, 3)?,
                spi::at::<i32>(row, 4)?,
                spi::at::<i64>(row, 5)?,
            ))
        },
    )?;
    let mut found = Vec::new();
    for (table, attribute, key, version, rows) in counted {
        found.extend(without_key(
            table,
            &attribute,
            (key, version),
            rows,
            "as last counted",
        )?);
    }
    Ok(found)
}

/// The same of what tables hold now, registered or not: reads every header.
fn rows_as_stored() -> Result<Vec<Finding>> {
    let columns = spi::look(
        "SELECT a.attrelid, a.attname::text FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
         WHERE a.atttypid = 'colcrypt.ciphertext'::regtype AND a.attnum > 0 AND NOT a.attisdropped \
           AND c.relkind IN ('r', 'm') AND (c.relpersistence = 'p' OR c.relpersistence = 'u' AND NOT pg_is_in_recovery()) AND c.relispopulated ORDER BY a.attrelid::regclass::text, a.attnum",
        &[],
        |row| Ok((spi::at::<pg_sys::Oid>(row, 1)?, spi::at::<String>(row, 2)?)),
    )?;
    let mut found = Vec::new();
    for (table, attribute) in columns {
        let mut counts = census::Counts::new();
        match census::count(table, &attribute, &mut counts) {
            // Dropped since, or another column by now.
            Err(
                Error::UnknownObject { .. } | Error::ColumnChanged { .. } | Error::Column { .. },
            ) => continue,
            Err(error @ (Error::RowsOutOfReach { .. } | Error::Malformed(_))) => {
                found.push(Finding {
                    checked: OF_ROWS,
                    problem: Some(format!(
                        "{}.{}: {}",
                        relation::shown(table)?,
                        quote_identifier(&attribute),
                        in_words(&error)
                    )),
                    ..Finding::default()
                });
                continue;
            }
            other => other?,
        }
        for (version, rows) in counts {
            found.extend(without_key(table, &attribute, version, rows, "now")?);
        }
    }
    Ok(found)
}

/// Rows under a version that nobody can use any more.
fn without_key(
    table: pg_sys::Oid,
    attribute: &str,
    (key, version): (i64, i32),
    rows: i64,
    when: &str,
) -> Result<Option<Finding>> {
    let known = spi::look(
        "SELECT r.name, k.name, v.version IS NOT NULL, v.destroyed_at IS NOT NULL, $3::oid::regclass::text \
         FROM (VALUES (1)) o LEFT JOIN colcrypt.key k ON k.key_id = $1 LEFT JOIN colcrypt.keyring r USING (keyring_id) \
         LEFT JOIN colcrypt.key_version v ON v.key_id = k.key_id AND v.version = $2",
        &[key.into(), version.into(), table.into()],
        |row| {
            Ok((
                row.get::<String>(1)?,
                row.get::<String>(2)?,
                spi::at::<bool>(row, 3)?,
                spi::at::<bool>(row, 4)?,
                spi::at::<String>(row, 5)?,
            ))
        },
    )?;
    let Some((keyring, name, is_there, is_destroyed, relation)) = known.into_iter().next() else {
        return Ok(None);
    };
    let why = match (&name, is_there, is_destroyed) {
        (None, ..) => format!("the catalog lacks key id {}", KeyId::of_bigint(key)),
        (_, false, _) => "the catalog lacks it".into(),
        (_, true, true) => "it was destroyed".into(),
        _ => return Ok(None),
    };
    Ok(Some(Finding {
        keyring,
        key: name,
        version: Some(version),
        checked: OF_ROWS,
        problem: Some(format!(
            "{why}, and {rows} rows of {relation}.{} are under it {when}",
            quote_identifier(attribute)
        )),
        ..Finding::default()
    }))
}
