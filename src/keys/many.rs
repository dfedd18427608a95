//! Many keys at once: what create_key does for each, with one statement for all where that is possible.

use std::collections::HashSet;

use colcrypt_core::suite::Purpose;
use colcrypt_core::{KeyId, KeyState, KeyVersion, VersionId};
use pgrx::pg_sys;

use crate::audit::Act;
use crate::catalog::read;
use crate::catalog::uuid::uuid;
use crate::error::{Error, KeyringPrivilege, Result};
use crate::keys::grantee::show_requests;
use crate::keys::names::refuse_bad_name;
use crate::keys::rotation::{ask_for_activation, suite_named};
use crate::keys::{approval, version};
use crate::rights;
use crate::server::call::Call;
use crate::server::{roles, spi};

pub fn create_keys(call: Call) -> Result<pg_sys::Datum> {
    // SAFETY: declared as text[].
    let names = unsafe { call.names(0, "names")? }.ok_or(Error::NullArgument("names"))?;
    let names = names
        .into_iter()
        .map(|name| name.ok_or(Error::NullArgument("a name")))
        .collect::<Result<Vec<String>>>()?;
    let keyring = read::keyring_by_name(&call.text(1, "keyring")?)?;
    rights::require_on_keyring(&keyring, KeyringPrivilege::Create)?;
    let suite = suite_named(&call.text(2, "suite")?)?;
    refuse_bad_names(&names)?;
    let ids = names
        .iter()
        .map(|_| {
            Ok(VersionId {
                key: KeyId::random()?,
                version: KeyVersion::FIRST,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let rows = version::new_versions(keyring.id, &ids, suite)?;
    let keys = || -> Vec<i64> { ids.iter().map(|id| id.key.bigint()).collect() };
    spi::execute(
        "INSERT INTO colcrypt.key (key_id, name, keyring_id, suite, current_version) \
         SELECT n.key_id, n.name, $3, $4, 1 FROM unnest($1::bigint[], $2::text[]) AS n(key_id, name)",
        &[
            keys().into(),
            names.clone().into(),
            uuid(keyring.id).into(),
            suite.name().into(),
        ],
    )?;
    let waits = approval::hold_rule(keyring.id)?;
    let state = if waits {
        KeyState::PreActive
    } else {
        KeyState::Active
    };
    version::insert_first_versions(&ids, &rows, state)?;
    // As of each that create_key makes.
    spi::execute(
        "INSERT INTO colcrypt.key_grant (key_id, grantee, can_encrypt, can_decrypt, can_search, can_manage) \
         SELECT unnest($1::bigint[]), $2::bigint::oid::regrole, $3, $3, NOT $3, true",
        &[
            keys().into(),
            i64::from(roles::current_user().to_u32()).into(),
            (suite.purpose() == Purpose::Values).into(),
        ],
    )?;
    show_requests(keyring.id)?;
    for id in &ids {
        let key = read::key_by_id(id.key)?;
        Act::new("create_key").key(&key).version(1).record()?;
        if waits {
            ask_for_activation(&key, KeyVersion::FIRST, "created")?;
        }
    }
    Ok(pg_sys::Datum::from(ids.len() as i32))
}

fn refuse_bad_names(names: &[String]) -> Result<()> {
    let duplicate = |name: &str| Error::Duplicate {
        what: "key",
        name: name.into(),
    };
    let mut seen = HashSet::new();
    for name in names {
        refuse_bad_name("key", name)?;
        if !seen.insert(name) {
            return Err(duplicate(name));
        }
    }
    let known = spi::query(
        "SELECT name FROM colcrypt.key WHERE name = ANY ($1) ORDER BY name LIMIT 1",
        &[names.to_vec().into()],
        |row| row.get::<String>(1),
    )?;
    match known.into_iter().flatten().next() {
        Some(name) => Err(duplicate(&name)),
        None => Ok(()),
    }
}
