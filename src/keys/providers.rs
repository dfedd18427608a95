//! Providers: named, changed and asked.

use colcrypt_domain::roots;
use colcrypt_protocol::{KekRef, ProviderConfig, Reply, Request};
use pgrx::{JsonB, pg_sys};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::audit::Act;
use crate::broker::client;
use crate::catalog::read::{self, Keyring};
use crate::error::{Error, Result};
use crate::keys::approval::{self, Gated, Target};
use crate::keys::kek;
use crate::server::call::Call;
use crate::server::record::Record;
use crate::server::spi;
use crate::server::varlena::varlena_from;

pub fn add_provider(call: Call) -> Result<pg_sys::Datum> {
    let config = ProviderConfig {
        name: call.text(0, "name")?,
        kind: call.text(1, "kind")?,
        // SAFETY: declared as jsonb.
        config: unsafe { call.long::<JsonB>(2, "config")? }
            .ok_or(Error::NullArgument("config"))?
            .0,
    };
    crate::keys::names::refuse_bad_name("provider", &config.name)?;
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
    spi::execute(
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

/// Other settings for a provider. It must open each KEK that it holds, to the key that it was. Who asks for it and who
/// approves it must manage every keyring that stands on it; where one of them asks for four eyes it waits, since one
/// person's choice of a provider would be a move.
#[derive(Serialize, Deserialize)]
pub struct AlterProvider {
    provider: String,
    config: Value,
}

impl AlterProvider {
    fn changed(&self) -> Result<ProviderConfig> {
        let (_, provider) = read::provider_by_name(&self.provider)?;
        Ok(ProviderConfig {
            config: self.config.clone(),
            ..provider
        })
    }

    fn keyrings(&self) -> Result<Vec<Keyring>> {
        read::keyrings_at(read::provider_by_name(&self.provider)?.0)
    }

    fn refuse_unopened(&self) -> Result<()> {
        let changed = self.changed()?;
        let keyrings = self.keyrings()?;
        if changed.is_escrow() && !keyrings.is_empty() {
            return roots::refuse_other_escrow(
                &read::provider_by_name(&self.provider)?.1,
                &changed,
            );
        }
        for keyring in keyrings {
            for version in read::kek_versions(&keyring)? {
                for copy in read::kek_copies(&keyring, version)? {
                    if copy.wrapped.provider.name == changed.name {
                        let mut preferred = copy.wrapped;
                        preferred.provider = changed.clone();
                        kek::refuse_unopened(KekRef {
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
}

impl Gated for AlterProvider {
    fn function(&self) -> &'static str {
        "alter_provider"
    }

    /// Of several keyrings one that asks for four eyes, so that its window counts.
    fn target(&self) -> Result<Target> {
        let mut first = None;
        for keyring in self.keyrings()? {
            let asks = approval::hold_rule(keyring.id)?;
            if asks || first.is_none() {
                first = Some(Target::keyring(keyring));
            }
            if asks {
                break;
            }
        }
        first.ok_or_else(|| Error::UnknownObject {
            what: "keyring on provider",
            name: self.provider.clone(),
        })
    }

    fn others(&self) -> Result<Vec<Target>> {
        Ok(self.keyrings()?.into_iter().map(Target::keyring).collect())
    }

    fn check(&self) -> Result<Value> {
        for target in self.others()? {
            target.require_manage()?;
        }
        // The agent knows what the kind takes, and refuses settings that hold a secret.
        client::call(&Request::ValidateProvider {
            provider: self.changed()?,
        })?;
        self.refuse_unopened()?;
        Ok(json!(self))
    }

    fn perform(&self) -> Result<String> {
        lock(&self.provider, "FOR UPDATE")?;
        self.check()?;
        spi::execute(
            "UPDATE colcrypt.provider SET config = $2 WHERE name = $1",
            &[
                self.provider.clone().into(),
                JsonB(self.config.clone()).into(),
            ],
        )?;
        Act::new("alter_provider")
            .detail(self.provider.clone())
            .record()?;
        Ok("altered".into())
    }
}

/// Holds a provider's row until the transaction ends: no keyring comes to stand on settings that are being changed, and
/// none are changed on which a keyring comes to stand.
///
/// # Errors
/// Of SPI.
pub fn lock(provider: &str, how: &'static str) -> Result<()> {
    spi::query(
        &format!("SELECT 1 FROM colcrypt.provider WHERE name = $1 {how}"),
        &[provider.into()],
        |row| row.get::<i32>(1),
    )?;
    Ok(())
}

pub fn alter_provider(call: Call) -> Result<pg_sys::Datum> {
    let (_, provider) = read::provider_by_name(&call.text(0, "name")?)?;
    lock(&provider.name, "FOR UPDATE")?;
    let act = AlterProvider {
        provider: provider.name,
        // SAFETY: declared as jsonb.
        config: unsafe { call.long::<JsonB>(1, "config")? }
            .ok_or(Error::NullArgument("config"))?
            .0,
    };
    let answer = approval::gate_where(!act.keyrings()?.is_empty(), &act)?;
    varlena_from(answer.as_bytes())
}

pub fn check_provider(call: Call) -> Result<pg_sys::Datum> {
    let (_, provider) = read::provider_by_name(&call.text(0, "name")?)?;
    // SAFETY: declared as text.
    let root_key = unsafe { call.long::<String>(1, "root_key")? };
    let Reply::ProviderChecked { report } =
        client::call(&Request::CheckProvider { provider, root_key })?
    else {
        return Err(crate::broker::client::unexpected_reply());
    };
    let mut record = Record::default();
    record
        .push(report.server)
        .push(report.root_key_version)
        .push(pgrx::datum::Interval::from_micros(report.latency_us as i64))
        .push(report.warnings);
    record.into_datum(call)
}
