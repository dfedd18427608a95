//! The key catalog of a primary as a follower takes it in: whole, in one transaction, or not at all.
//!
//! Nothing here makes a key. What is wrapped comes as the primary wrapped it, and a version that is here already under
//! another check value is a branch of its own that nobody writes over. A version that the primary destroyed is only
//! ordered to be destroyed here: this server's own rows decide when. How a provider is reached is this server's own.

use colcrypt_core::{KekId, KeyState};
use colcrypt_protocol::{ProviderConfig, Request};
use pgrx::datum::DatumWithOid;
use pgrx::{JsonB, pg_sys};
use serde_json::Value;

use crate::audit::Act;
use crate::broker::client;
use crate::catalog::read;
use crate::catalog::uuid::keyring_id;
use crate::error::{Error, Result};
use crate::jobs::wake;
use crate::keys::exported::FORMAT;
use crate::keys::{node, version, wipe};
use crate::server::call::Call;
use crate::server::spi;
use crate::server::varlena::varlena_from;
use crate::session;

/// What an import says of itself, and what is known of the last one.
struct Header {
    epoch: i64,
    origin: String,
    /// Whether it is of another primary than what is here, or older.
    is_other: bool,
    is_older: bool,
    is_same: bool,
    known: Option<i64>,
}

/// The catalog as an argument of statements, which read it where it lies.
struct Catalog(pg_sys::Datum);

impl Catalog {
    fn argument(&self) -> DatumWithOid<'static> {
        // SAFETY: a jsonb that the call was given, which lives as long as the call.
        unsafe { DatumWithOid::new(self.0, pg_sys::JSONBOID) }
    }

    fn execute(&self, sql: &str) -> Result<usize> {
        spi::execute(sql, &[self.argument()])
    }

    /// Texts that a query finds.
    fn texts(&self, sql: &str) -> Result<Vec<String>> {
        spi::query(sql, &[self.argument()], |row| spi::at::<String>(row, 1))
    }
}

pub fn import_catalog(call: Call) -> Result<pg_sys::Datum> {
    let catalog = Catalog(call.datum(0).ok_or(Error::NullArgument("catalog"))?);
    // SAFETY: declared as jsonb and boolean.
    let (own, adopt) = unsafe { (call.long::<JsonB>(1, "providers")?, call.get::<bool>(2)) };
    let own = own.ok_or(Error::NullArgument("providers"))?;
    node::refuse_all_but_followers()?;
    spi::execute(
        "LOCK TABLE colcrypt.node_state IN SHARE ROW EXCLUSIVE MODE",
        &[],
    )?;
    let header = header(&catalog)?;
    if !adopt.unwrap_or_default() {
        header.refuse_other_branch()?;
    }
    if header.is_same && own.0.as_object().is_some_and(serde_json::Map::is_empty) {
        return varlena_from(b"unchanged");
    }
    refuse_conflicts(&catalog)?;
    take_providers(&catalog, own)?;
    let wiped = keys_out_of_use(&catalog)?;
    take_keyrings(&catalog)?;
    let rotated = rotated_keys(&catalog)?;
    take_keys(&catalog)?;
    take_grants(&catalog)?;
    for (key, version) in rotated {
        let key = read::key_by_id(colcrypt_core::KeyId::of_bigint(key))?;
        version::queue_jobs(&key, version)?;
    }
    wiped.into_iter().for_each(wipe::at_commit);
    catalog.execute(
        "INSERT INTO colcrypt.node_state AS n (origin, epoch, digest) \
         VALUES (($1->>'origin')::uuid, ($1->>'epoch')::bigint, $1->>'digest') \
         ON CONFLICT (is_only) DO UPDATE SET origin = excluded.origin, epoch = excluded.epoch, digest = excluded.digest, at = clock_timestamp()",
    )?;
    // What is other later was changed by hand.
    spi::execute(
        "UPDATE colcrypt.node_state SET parts = colcrypt.catalog_digests()",
        &[],
    )?;
    Act::new("import_catalog")
        .detail(format!("epoch {} of {}", header.epoch, header.origin))
        .record()?;
    // Keys that are current now may have rows to move, and destructions may have been ordered.
    wake::wake_at_commit();
    varlena_from(b"imported")
}

fn header(catalog: &Catalog) -> Result<Header> {
    let invalid = |message: &str| Error::InvalidParameter {
        message: message.into(),
        hint: "Give what colcrypt.export_catalog() gives on the primary, as it is.".into(),
    };
    let is_whole = spi::query(
        "SELECT coalesce($1->>'format' = $2 AND $1->>'digest' = encode(sha256(convert_to(( \
             $1 - '{format,release,origin,epoch,digest}'::text[])::text, 'UTF8')), 'hex'), false)",
        &[catalog.argument(), FORMAT.into()],
        |row| spi::at::<bool>(row, 1),
    )?;
    if is_whole != [true] {
        return Err(invalid("the catalog is not whole, or none"));
    }
    let releases = catalog.texts(
        "SELECT format('%s there, %s here', $1->>'release', e.extversion) FROM pg_extension e \
         WHERE e.extname = 'colcrypt' AND e.extversion IS DISTINCT FROM $1->>'release'",
    )?;
    if let Some(two) = releases.first() {
        return Err(Error::InvalidParameter {
            message: format!("the catalog is of another release of colcrypt: {two}"),
            hint: "Bring both servers to one release, then ALTER EXTENSION colcrypt UPDATE.".into(),
        });
    }
    let read = spi::query(
        "SELECT ($1->>'epoch')::bigint, ($1->>'origin')::uuid::text, n.origin <> ($1->>'origin')::uuid, \
                n.epoch > ($1->>'epoch')::bigint OR n.epoch = ($1->>'epoch')::bigint AND n.digest <> $1->>'digest', \
                n.epoch = ($1->>'epoch')::bigint AND n.digest = $1->>'digest', n.epoch \
         FROM (SELECT) one LEFT JOIN colcrypt.node_state n ON true",
        &[catalog.argument()],
        |row| {
            Ok(Header {
                epoch: spi::at(row, 1)?,
                origin: spi::at(row, 2)?,
                is_other: row.get::<bool>(3)?.unwrap_or_default(),
                is_older: row.get::<bool>(4)?.unwrap_or_default(),
                is_same: row.get::<bool>(5)?.unwrap_or_default(),
                known: row.get(6)?,
            })
        },
    )?;
    read.into_iter()
        .next()
        .ok_or_else(|| invalid("the catalog has no epoch"))
}

impl Header {
    /// An older catalog would bring back rights that were revoked since, and another primary's, keys of another branch.
    fn refuse_other_branch(&self) -> Result<()> {
        let known = self.known.unwrap_or_default();
        let message = if self.is_other {
            format!("the catalog is of another primary, {}", self.origin)
        } else if self.is_older {
            format!(
                "the catalog is of epoch {}, and this server has epoch {known}, or another of that number",
                self.epoch
            )
        } else {
            return Ok(());
        };
        Err(Error::InvalidParameter {
            message,
            hint: "If the primary was replaced, or restored from a backup: adopt => true. What it revoked since, it has to revoke again.".into(),
        })
    }
}

/// What is here under the name or number of something else.
fn refuse_conflicts(catalog: &Catalog) -> Result<()> {
    let conflicts = catalog.texts(
        "SELECT format('version %s of key %I', v.version, k.name) \
         FROM jsonb_populate_recordset(NULL::colcrypt.key_version, $1->'key_versions') n \
         JOIN colcrypt.key_version v USING (key_id, version) LEFT JOIN colcrypt.key k USING (key_id) WHERE v.kcv <> n.kcv \
         UNION ALL \
         SELECT format('version %s of the key encryption key of keyring %I', e.version, r.name) \
         FROM jsonb_populate_recordset(NULL::colcrypt.kek_version, $1->'kek_versions') n \
         JOIN colcrypt.kek_version e USING (keyring_id, version) LEFT JOIN colcrypt.keyring r USING (keyring_id) WHERE e.kcv <> n.kcv \
         UNION ALL \
         SELECT format('key %I', k.name) FROM jsonb_populate_recordset(NULL::colcrypt.key, $1->'keys') n \
         JOIN colcrypt.key k USING (name) WHERE k.key_id <> n.key_id OR k.suite <> n.suite \
         UNION ALL \
         SELECT format('keyring %I', r.name) FROM jsonb_populate_recordset(NULL::colcrypt.keyring, $1->'keyrings') n \
         JOIN colcrypt.keyring r USING (name) WHERE r.keyring_id <> n.keyring_id \
         UNION ALL \
         SELECT format('provider %I', p.name) FROM jsonb_populate_recordset(NULL::colcrypt.provider, $1->'providers') n \
         JOIN colcrypt.provider p USING (name) WHERE p.kind <> n.kind \
         LIMIT 5",
    )?;
    if conflicts.is_empty() {
        return Ok(());
    }
    Err(Error::InvalidParameter {
        message: format!(
            "this server has another of its own: {}",
            conflicts.join(", ")
        ),
        hint: "Its values are under that one. Keep both: see docs/cluster.md for what to do with a branch.".into(),
    })
}

/// A provider that is here keeps its settings, whatever number it had; one that is named in `own` gets those.
fn take_providers(catalog: &Catalog, own: JsonB) -> Result<()> {
    catalog.execute(
        "UPDATE colcrypt.kek_copy c SET provider_id = n.provider_id \
         FROM colcrypt.provider p JOIN jsonb_populate_recordset(NULL::colcrypt.provider, $1->'providers') n USING (name) \
         WHERE c.provider_id = p.provider_id AND p.provider_id <> n.provider_id",
    )?;
    catalog.execute(
        "UPDATE colcrypt.provider p SET provider_id = n.provider_id \
         FROM jsonb_populate_recordset(NULL::colcrypt.provider, $1->'providers') n \
         WHERE p.name = n.name AND p.provider_id <> n.provider_id",
    )?;
    catalog.execute(
        "INSERT INTO colcrypt.provider SELECT n.* FROM jsonb_populate_recordset(NULL::colcrypt.provider, $1->'providers') n \
         ON CONFLICT (provider_id) DO UPDATE SET name = excluded.name",
    )?;
    let Value::Object(own) = own.0 else {
        return Err(Error::InvalidParameter {
            message: "providers is no JSON object".into(),
            hint: "Give the settings of each by its name: {\"local\": {\"path\": \"…\"}}.".into(),
        });
    };
    for (name, config) in own {
        let (id, provider) = read::provider_by_name(&name)?;
        // As where it is made: the agent refuses what it does not know, and a secret.
        client::call(&Request::ValidateProvider {
            provider: ProviderConfig {
                config: config.clone(),
                ..provider
            },
        })?;
        spi::execute(
            "UPDATE colcrypt.provider SET config = $2 WHERE provider_id = $1 AND config <> $2",
            &[id.into(), JsonB(config).into()],
        )?;
    }
    Ok(())
}

/// Versions that are used here and may not be used any more.
fn keys_out_of_use(catalog: &Catalog) -> Result<Vec<colcrypt_core::slab_index::SlotKey>> {
    let changed = spi::query(
        "SELECT v.key_id, v.version, n.state \
         FROM jsonb_populate_recordset(NULL::colcrypt.key_version, $1->'key_versions') n \
         JOIN colcrypt.key_version v USING (key_id, version) WHERE v.state <> n.state",
        &[catalog.argument()],
        |row| {
            Ok((
                spi::at::<i64>(row, 1)?,
                spi::at::<i32>(row, 2)?,
                spi::at::<String>(row, 3)?,
            ))
        },
    )?;
    let mut keys = Vec::new();
    for (key, version, state) in changed {
        let state: KeyState = state
            .parse()
            .map_err(|_| Error::CatalogCorrupt(format!("{state:?} is no key state")))?;
        if !state.may_decrypt() {
            let key = read::key_by_id(colcrypt_core::KeyId::of_bigint(key))?;
            let row = read::key_version(&key, read::version(version)?)?;
            keys.push(session::slot_key(&row));
        }
    }
    Ok(keys)
}

/// Keys that have a later version than the one that encrypts here: this server's rows are to go there, too.
fn rotated_keys(catalog: &Catalog) -> Result<Vec<(i64, i32)>> {
    spi::query(
        "SELECT k.key_id, n.current_version FROM jsonb_populate_recordset(NULL::colcrypt.key, $1->'keys') n \
         JOIN colcrypt.key k USING (key_id) WHERE k.current_version < n.current_version",
        &[catalog.argument()],
        |row| Ok((spi::at::<i64>(row, 1)?, spi::at::<i32>(row, 2)?)),
    )
}

/// Keyrings, their key encryption keys, and these under each root key.
fn take_keyrings(catalog: &Catalog) -> Result<()> {
    replace(catalog, "keyring", "keyrings", "keyring_id")?;
    replace(
        catalog,
        "kek_version",
        "kek_versions",
        "keyring_id, version",
    )?;
    // Loaded again, keys depend on the root keys that the key encryption key has then.
    let moved = spi::query(
        "SELECT DISTINCT keyring_id, version FROM ( \
             (SELECT c.* FROM colcrypt.kek_copy c EXCEPT SELECT n.* FROM jsonb_populate_recordset(NULL::colcrypt.kek_copy, $1->'kek_copies') n)) c \
         WHERE EXISTS (SELECT FROM jsonb_populate_recordset(NULL::colcrypt.keyring, $1->'keyrings') r WHERE r.keyring_id = c.keyring_id)",
        &[catalog.argument()],
        |row| Ok((spi::at::<pgrx::Uuid>(row, 1)?, spi::at::<i32>(row, 2)?)),
    )?;
    catalog.execute(
        "DELETE FROM colcrypt.kek_copy c USING jsonb_populate_recordset(NULL::colcrypt.keyring, $1->'keyrings') r \
         WHERE r.keyring_id = c.keyring_id AND NOT EXISTS ( \
             SELECT FROM jsonb_populate_recordset(NULL::colcrypt.kek_copy, $1->'kek_copies') n WHERE n IS NOT DISTINCT FROM c)",
    )?;
    catalog.execute(
        "INSERT INTO colcrypt.kek_copy SELECT n.* FROM jsonb_populate_recordset(NULL::colcrypt.kek_copy, $1->'kek_copies') n \
         ON CONFLICT (keyring_id, version, preference) DO NOTHING",
    )?;
    for (keyring, version) in moved {
        wipe::under_kek_at_commit(KekId {
            keyring: keyring_id(keyring),
            version: read::version(version)?,
        });
    }
    Ok(())
}

/// Keys and their versions. One that the primary destroyed is destroyed here once no row of this server's needs it, and
/// one that it will destroy waits for that.
fn take_keys(catalog: &Catalog) -> Result<()> {
    replace(catalog, "key", "keys", "key_id")?;
    catalog.execute(
        "DELETE FROM colcrypt.key_version v USING jsonb_populate_recordset(NULL::colcrypt.key_version, $1->'key_versions') n \
         WHERE v.key_id = n.key_id AND v.version = n.version AND n.destroyed_at IS NULL \
           AND NOT (v.destroyed_at IS NOT NULL AND n.state = 'destruction scheduled') AND v IS DISTINCT FROM n",
    )?;
    catalog.execute(
        "INSERT INTO colcrypt.key_version SELECT n.* FROM jsonb_populate_recordset(NULL::colcrypt.key_version, $1->'key_versions') n \
         ON CONFLICT (key_id, version) DO UPDATE SET state = 'destruction scheduled', \
             former_state = CASE WHEN colcrypt.key_version.state <> 'destruction scheduled' THEN colcrypt.key_version.state ELSE colcrypt.key_version.former_state END, \
             destroy_at = excluded.destroyed_at, shreds = excluded.shreds, state_changed_at = excluded.state_changed_at, \
             state_changed_by = excluded.state_changed_by, state_reason = excluded.state_reason \
         WHERE excluded.destroyed_at IS NOT NULL AND colcrypt.key_version.destroyed_at IS NULL AND colcrypt.key_version.destroy_at IS DISTINCT FROM excluded.destroyed_at",
    )?;
    // Until the primary has destroyed it, its day has not come here.
    catalog.execute(
        "UPDATE colcrypt.key_version v SET destroy_at = NULL \
         FROM jsonb_populate_recordset(NULL::colcrypt.key_version, $1->'key_versions') n \
         WHERE v.key_id = n.key_id AND v.version = n.version AND n.destroyed_at IS NULL AND v.destroy_at IS NOT NULL",
    )?;
    catalog.execute(
        "DELETE FROM colcrypt.honeytoken h USING jsonb_populate_recordset(NULL::colcrypt.key, $1->'keys') k \
         WHERE h.key_id = k.key_id AND NOT EXISTS (SELECT FROM jsonb_populate_recordset(NULL::colcrypt.honeytoken, $1->'honeytokens') n \
                                                   WHERE n.key_id = h.key_id AND n.origin = h.origin)",
    )?;
    catalog.execute(
        "INSERT INTO colcrypt.honeytoken SELECT n.* FROM jsonb_populate_recordset(NULL::colcrypt.honeytoken, $1->'honeytokens') n \
         ON CONFLICT (key_id, tag) DO NOTHING",
    )?;
    Ok(())
}

/// Rights by role name. Those of roles that there are none of wait, as those of a restored dump do.
fn take_grants(catalog: &Catalog) -> Result<()> {
    let of_imported = "(g.key_id IN (SELECT k.key_id FROM jsonb_populate_recordset(NULL::colcrypt.key, $1->'keys') k))";
    let of_keyrings = "(g.keyring_id IN (SELECT r.keyring_id FROM jsonb_populate_recordset(NULL::colcrypt.keyring, $1->'keyrings') r))";
    catalog.execute(&format!(
        "DELETE FROM colcrypt.key_grant g WHERE {of_imported}"
    ))?;
    catalog.execute(&format!(
        "DELETE FROM colcrypt.keyring_grant g WHERE {of_keyrings}"
    ))?;
    catalog.execute(&format!(
        "DELETE FROM colcrypt.restored_grant g WHERE {of_imported} OR {of_keyrings}"
    ))?;
    catalog.execute(
        "INSERT INTO colcrypt.restored_grant (grantee, key_id, can_encrypt, can_decrypt, keyring_id, can_create, can_manage, can_search) \
         SELECT n.grantee, n.key_id, n.can_encrypt, n.can_decrypt, n.keyring_id, n.can_create, n.can_manage, n.can_search \
         FROM jsonb_populate_recordset(NULL::colcrypt.restored_grant, $1->'grants') n",
    )?;
    Ok(())
}

/// Puts rows in the place of those of the same identity that are not the same.
fn replace(catalog: &Catalog, table: &str, part: &str, identity: &str) -> Result<()> {
    let same: Vec<String> = identity
        .split(", ")
        .map(|column| format!("t.{column} = n.{column}"))
        .collect();
    let rows = format!("jsonb_populate_recordset(NULL::colcrypt.{table}, $1->'{part}') n");
    catalog.execute(&format!(
        "DELETE FROM colcrypt.{table} t USING {rows} WHERE {} AND t IS DISTINCT FROM n",
        same.join(" AND ")
    ))?;
    catalog.execute(&format!(
        "INSERT INTO colcrypt.{table} SELECT n.* FROM {rows} ON CONFLICT ({identity}) DO NOTHING"
    ))?;
    Ok(())
}
