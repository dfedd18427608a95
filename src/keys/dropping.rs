//! Providers, keyrings and keys that nothing needs any more leave the catalog. Whatever still needs one keeps it: what
//! is lost with it is its name and its record in the catalog, never a way to a value. The audit log keeps what was
//! done.

use colcrypt_core::KeyState;
use pgrx::pg_sys;

use crate::audit::Act;
use crate::catalog::read;
use crate::catalog::uuid::uuid;
use crate::error::{Error, KeyringPrivilege, Result};
use crate::keys::{providers, version};
use crate::rights;
use crate::server::call::Call;
use crate::server::spi;
use crate::server::varlena::varlena_from;

fn needed(what: &'static str, name: &str, by: String, hint: &str) -> Error {
    Error::Needed {
        what,
        name: name.into(),
        by,
        hint: hint.into(),
    }
}

/// The names that a query finds, as a sentence has them; none for none.
fn names(sql: &str, arguments: &[pgrx::datum::DatumWithOid]) -> Result<Option<String>> {
    let found = spi::query(sql, arguments, |row| row.get::<String>(1))?;
    Ok(found.into_iter().flatten().next())
}

/// A provider on which no keyring stands.
///
/// # Errors
/// [`Error::Needed`].
pub fn drop_provider(call: Call) -> Result<pg_sys::Datum> {
    let name = call.text(0, "name")?;
    providers::lock(&name, "FOR UPDATE")?;
    let (id, provider) = read::provider_by_name(&name)?;
    let keyrings = read::keyrings_at(id)?;
    if !keyrings.is_empty() {
        let keyrings: Vec<_> = keyrings
            .iter()
            .map(|keyring| format!("keyring \"{}\"", keyring.name))
            .collect();
        return Err(needed(
            "provider",
            &name,
            keyrings.join(", "),
            "Move the keyrings to another root key (move_keyring) or drop this one (drop_root).",
        ));
    }
    for table in ["custodian", "escrow_drill", "escrow", "provider"] {
        spi::execute(
            &format!("DELETE FROM colcrypt.{table} WHERE provider_id = $1"),
            &[id.into()],
        )?;
    }
    Act::new("drop_provider")
        .detail(format!("{name} ({})", provider.kind))
        .record()?;
    varlena_from(b"dropped")
}

/// A keyring without keys, and its key encryption keys with it.
///
/// # Errors
/// [`Error::Needed`], or no right to manage it.
pub fn drop_keyring(call: Call) -> Result<pg_sys::Datum> {
    let keyring = read::keyring_by_name(&call.text(0, "name")?)?;
    rights::require_on_keyring(&keyring, KeyringPrivilege::Manage)?;
    let id = uuid(keyring.id);
    // Whoever makes a key in it holds it against this.
    spi::query(
        "SELECT 1 FROM colcrypt.keyring WHERE keyring_id = $1 FOR UPDATE",
        &[id.into()],
        |row| row.get::<i32>(1),
    )?;
    let keys = names(
        "SELECT string_agg(format('key \"%s\"', name), ', ' ORDER BY name) FROM colcrypt.key WHERE keyring_id = $1",
        &[id.into()],
    )?;
    if let Some(keys) = keys {
        return Err(needed(
            "keyring",
            &keyring.name,
            keys,
            "Drop its keys first (drop_key).",
        ));
    }
    let columns = names(
        "SELECT string_agg(format('column %s of %s', attribute, relation), ', ' ORDER BY attribute) FROM colcrypt.protected_column WHERE keyring_id = $1",
        &[id.into()],
    )?;
    if let Some(columns) = columns {
        return Err(needed(
            "keyring",
            &keyring.name,
            columns,
            "Their rows have keys of it: register the columns for another one, or unregister them.",
        ));
    }
    let requests = names(
        "SELECT string_agg(format('request %s', request_id), ', ' ORDER BY request_id) FROM colcrypt.approval_request \
         WHERE keyring_id = $1 AND outcome IS NULL AND expires_at > clock_timestamp()",
        &[id.into()],
    )?;
    if let Some(requests) = requests {
        return Err(needed(
            "keyring",
            &keyring.name,
            requests,
            "Have the requests decided first, or withdrawn.",
        ));
    }
    for table in [
        "kek_copy",
        "kek_version",
        "kek_try",
        "keyring_grant",
        "keyring",
    ] {
        spi::execute(
            &format!("DELETE FROM colcrypt.{table} WHERE keyring_id = $1"),
            &[id.into()],
        )?;
    }
    Act::new("drop_keyring").detail(keyring.name).record()?;
    varlena_from(b"dropped")
}

/// A key whose every version is destroyed, and for which no column is registered.
///
/// # Errors
/// [`Error::Needed`], or no right to manage it.
pub fn drop_key(call: Call) -> Result<pg_sys::Datum> {
    let key = version::lock(&call.text(0, "name")?)?;
    let left: Vec<_> = read::key_versions(&key)?
        .into_iter()
        .filter(|row| row.state != KeyState::Destroyed)
        .map(|row| format!("version {} is {}", row.id.version, row.state.in_words()))
        .collect();
    if !left.is_empty() {
        return Err(needed(
            "key",
            &key.name,
            left.join(", "),
            "Have each version destroyed first (schedule_key_destruction), which is refused while rows need it.",
        ));
    }
    let id = key.id.bigint();
    let columns = names(
        "SELECT string_agg(format('column %s of %s', attribute, relation), ', ' ORDER BY 1) FROM ( \
             SELECT attribute, relation::text FROM colcrypt.protected_column WHERE key_id = $1 \
             UNION SELECT attribute, relation::text FROM colcrypt.job WHERE key_id = $1 AND finished_at IS NULL) c",
        &[id.into()],
    )?;
    if let Some(columns) = columns {
        return Err(needed(
            "key",
            &key.name,
            columns,
            "Register the columns for another key, or unregister them, and let their jobs end.",
        ));
    }
    let searched = names(
        "SELECT string_agg(what, ', ' ORDER BY 1) FROM ( \
             SELECT format('the search index on column %s of %s', attribute, relation) AS what FROM colcrypt.search_index WHERE key_id = $1 \
                AND EXISTS (SELECT FROM pg_class t WHERE t.oid = relation) \
             UNION SELECT format('search domain \"%s\"', name) FROM colcrypt.search_domain WHERE key_id = $1) c",
        &[id.into()],
    )?;
    if let Some(searched) = searched {
        return Err(needed(
            "key",
            &key.name,
            searched,
            "Drop the search indexes (drop_search_index) and domains (drop_search_domain) first.",
        ));
    }
    Act::new("drop_key").key(&key).record()?;
    // In order, as everywhere.
    spi::execute_quietly(
        "UPDATE colcrypt.kek_version e SET wrappings_of_dropped = e.wrappings_of_dropped + n.wrapped \
         FROM (SELECT l.keyring_id, l.version, \
                   (SELECT count(*) FROM colcrypt.key_version v WHERE v.key_id = $1 AND l.version BETWEEN v.first_kek_version AND v.kek_version) AS wrapped \
               FROM (SELECT e.keyring_id, e.version FROM colcrypt.kek_version e JOIN colcrypt.key k USING (keyring_id) \
                     WHERE k.key_id = $1 ORDER BY e.version FOR NO KEY UPDATE OF e) l) n \
         WHERE e.keyring_id = n.keyring_id AND e.version = n.version AND n.wrapped > 0",
        &[id.into()],
    )?;
    for table in [
        "key_version",
        "key_grant",
        "version_usage",
        "node_usage",
        "rotation_try",
        "destruction",
        "destruction_wait",
        "key",
    ] {
        spi::execute(
            &format!("DELETE FROM colcrypt.{table} WHERE key_id = $1"),
            &[id.into()],
        )?;
    }
    varlena_from(b"dropped")
}
