//! add_provider and check_provider.

use colcrypt_protocol::{KekRef, ProviderConfig, Reply, Request};
use pgrx::{JsonB, pg_sys};

use super::record::Record;
use crate::audit::Act;
use crate::broker::client;
use crate::catalog::{read, write};
use crate::ceremony;
use crate::error::{Error, Result};
use crate::pg::Call;

fn add_provider(call: Call) -> Result<pg_sys::Datum> {
    let config = ProviderConfig {
        name: call.text(0, "name")?,
        kind: call.text(1, "kind")?,
        // SAFETY: declared as jsonb.
        config: unsafe { call.long::<JsonB>(2, "config")? }
            .ok_or(Error::NullArgument("config"))?
            .0,
    };
    super::keys::refuse_bad_name("provider", &config.name)?;
    if read::provider_by_name(&config.name).is_ok() {
        return Err(Error::Duplicate {
            what: "provider",
            name: config.name,
        });
    }
    // The agent knows what the kind takes, and refuses settings that hold a secret; whether the
    // provider answers is check_provider's question.
    client::call(&Request::ValidateProvider {
        provider: config.clone(),
    })?;
    write::execute(
        "INSERT INTO colcrypt.provider (name, kind, config) VALUES ($1, $2, $3)",
        &[
            config.name.clone().into(),
            config.kind.clone().into(),
            JsonB(config.config).into(),
        ],
    )?;
    Act::new("add_provider")
        .detail(format!("{} ({})", config.name, config.kind))
        .record()?;
    Ok(pg_sys::Datum::from(0))
}

fn alter_provider(call: Call) -> Result<pg_sys::Datum> {
    let (_, mut provider) = read::provider_by_name(&call.text(0, "name")?)?;
    // SAFETY: declared as jsonb.
    provider.config = unsafe { call.long::<JsonB>(1, "config")? }
        .ok_or(Error::NullArgument("config"))?
        .0;
    client::call(&Request::ValidateProvider {
        provider: provider.clone(),
    })?;
    refuse_another_root(&provider)?;
    write::execute(
        "UPDATE colcrypt.provider SET config = $2 WHERE name = $1",
        &[provider.name.clone().into(), JsonB(provider.config).into()],
    )?;
    Act::new("alter_provider").detail(provider.name).record()?;
    Ok(pg_sys::Datum::from(0))
}

/// A changed provider must open each KEK that it holds, to the key that it was; and who changes it must be a manager of
/// each keyring that stands on it. On a four-eyes keyring one person's choice of a provider would be a move.
fn refuse_another_root(changed: &ProviderConfig) -> Result<()> {
    let keyrings = write::query(
        "SELECT DISTINCT k.name FROM colcrypt.keyring k JOIN colcrypt.kek_copy c USING (keyring_id) \
         JOIN colcrypt.provider p USING (provider_id) WHERE p.name = $1",
        &[changed.name.clone().into()],
        |row| row.get::<String>(1),
    )?;
    for name in keyrings.into_iter().flatten() {
        let keyring = read::keyring_by_name(&name)?;
        let (id, versions) = (keyring.id, read::kek_versions(&keyring)?);
        ceremony::Target::keyring(read::keyring_by_id(id)?).require_manage()?;
        if ceremony::is_asked_for(id)? {
            return Err(Error::InvalidParameter {
                message: format!("keyring \"{name}\" stands on the provider and asks for four eyes"),
                hint: "Add a provider with the new settings and use colcrypt.move_keyring, which waits for approval, or lift four eyes for the change.".into(),
            });
        }
        for version in versions {
            for copy in read::kek_copies(&keyring, version)? {
                if copy.wrapped.provider.name == changed.name {
                    let mut preferred = copy.wrapped;
                    preferred.provider = changed.clone();
                    super::roots::refuse_unopened(KekRef {
                        preferred,
                        others: Vec::new(),
                        ..read::kek(&keyring, version)?
                    })?;
                }
            }
        }
    }
    Ok(())
}

fn check_provider(call: Call) -> Result<pg_sys::Datum> {
    let (_, provider) = read::provider_by_name(&call.text(0, "name")?)?;
    // SAFETY: declared as text.
    let root_key = unsafe { call.long::<String>(1, "root_key")? };
    let Reply::ProviderChecked { report } =
        client::call(&Request::CheckProvider { provider, root_key })?
    else {
        return Err(super::keys::unexpected_reply());
    };
    let mut record = Record::default();
    record
        .push(report.server)
        .push(report.root_key_version)
        .push(pgrx::datum::Interval::from_micros(report.latency_us as i64))
        .push(report.warnings);
    record.into_datum(call)
}

crate::sql_functions! {
    colcrypt_add_provider / pg_finfo_colcrypt_add_provider => add_provider;
    colcrypt_alter_provider / pg_finfo_colcrypt_alter_provider => alter_provider;
    colcrypt_check_provider / pg_finfo_colcrypt_check_provider => check_provider;
}
