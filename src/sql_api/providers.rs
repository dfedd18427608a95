//! add_provider and check_provider.

use colcrypt_protocol::{ProviderConfig, Reply, Request};
use pgrx::{JsonB, pg_sys};

use super::record::Record;
use crate::audit::Act;
use crate::broker::client;
use crate::catalog::{read, write};
use crate::error::{Error, Result};
use crate::pg::Call;

fn add_provider(call: Call) -> Result<pg_sys::Datum> {
    let config = ProviderConfig {
        name: call.text(0, "name")?,
        kind: call.text(1, "kind")?,
        // SAFETY: declared as jsonb.
        config: unsafe { call.get::<JsonB>(2) }
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
    provider.config = unsafe { call.get::<JsonB>(1) }
        .ok_or(Error::NullArgument("config"))?
        .0;
    client::call(&Request::ValidateProvider {
        provider: provider.clone(),
    })?;
    write::execute(
        "UPDATE colcrypt.provider SET config = $2 WHERE name = $1",
        &[provider.name.clone().into(), JsonB(provider.config).into()],
    )?;
    Act::new("alter_provider").detail(provider.name).record()?;
    Ok(pg_sys::Datum::from(0))
}

fn check_provider(call: Call) -> Result<pg_sys::Datum> {
    let (_, provider) = read::provider_by_name(&call.text(0, "name")?)?;
    // SAFETY: declared as text.
    let root_key = unsafe { call.get::<String>(1) };
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
