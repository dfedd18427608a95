//! `colcrypt escrow check`, `recover` and `drill`: what is done with shares that are there.

use std::{
    path::PathBuf,
    time::{Instant, SystemTime},
};

use clap::Args;
use colcrypt_core::wrap;
use colcrypt_escrow::{
    collect::Collector,
    drill::Drill as DrillReport,
    dump::{Kek, NotOpened, shown},
};
use colcrypt_kms::{Provider, file};
use colcrypt_protocol::ProviderConfig;
use serde_json::json;

use super::{
    dumped::Catalog,
    files::{read_record, write_new},
    given::Source,
};

#[derive(Args)]
pub struct Check {
    /// The record of the escrow
    #[arg(long, value_name = "FILE")]
    record: PathBuf,
    #[command(flatten)]
    source: Source,
}

impl Check {
    pub fn run(&self) -> Result<(), String> {
        let record = read_record(&self.record)?;
        let share = self.source.one()?;
        let (_, holder) = record
            .whose(&share)
            .map_err(|why| format!("refused: {why}"))?;
        eprintln!(
            "{}'s share of escrow {} ({}) is whole.",
            holder.name,
            record.name,
            record.fingerprint()
        );
        eprintln!("The receipt, which is no secret:");
        let receipt = record
            .receipt(&share, now())
            .map_err(|why| why.to_string())?;
        println!("{receipt}");
        Ok(())
    }
}

#[derive(Args)]
pub struct Recover {
    /// The record of the escrow. Without it an altered share shows at the end only, and not whose it is
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    catalog: Catalog,
    /// The root key file that the keyrings get; made where there is none
    #[arg(long, value_name = "FILE")]
    root_key: PathBuf,
    /// The name of the provider that the root key file gets
    #[arg(long, default_value = "recovered")]
    provider: String,
    /// Where the SQL is written that puts the keyrings under it
    #[arg(long, value_name = "FILE")]
    sql: PathBuf,
}

impl Recover {
    pub fn run(&self) -> Result<(), String> {
        let record = self.record.as_deref().map(read_record).transpose()?;
        // Before anybody is asked for a share.
        let keks = self.catalog.keks()?;
        let root_key = std::path::absolute(&self.root_key).map_err(|error| error.to_string())?;
        if self.sql.exists() {
            return Err(format!(
                "{} exists already: it is not written over",
                self.sql.display()
            ));
        }
        let key = self
            .source
            .collect(record.as_ref())?
            .key()
            .map_err(|error| error.to_string())?;
        if !root_key.exists() {
            file::keygen(&root_key).map_err(|error| error.to_string())?;
        }
        let config = json!({ "path": root_key.to_string_lossy() });
        let root = colcrypt_kms::connect(&ProviderConfig {
            name: self.provider.clone(),
            kind: "file".into(),
            config: config.clone(),
        })
        .map_err(|error| error.to_string())?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let mut statements = Vec::new();
        let mut left = Vec::new();
        for kek in &keks {
            match kek.open(&key) {
                Ok(opened) => {
                    let wrapped = runtime.block_on(rewrap(&*root, kek, &opened))?;
                    println!("recovered: {}", kek.name());
                    statements.push(placed(kek, &self.provider, &wrapped));
                }
                Err(why) => left.push(format!("{}: {why}", kek.name())),
            }
        }
        for what in &left {
            println!("NOT recovered: {what}");
        }
        if statements.is_empty() {
            return Err("nothing was recovered".into());
        }
        let script = script(&self.provider, &config, &statements);
        write_new(&self.sql, script.as_bytes(), 0o600)?;
        println!();
        println!(
            "The root key file is {}: back it up, and chown it to the server's user.",
            root_key.display()
        );
        println!("On the database, or on what the dump was restored to, as its owner:");
        println!("  psql -v ON_ERROR_STOP=1 -f {}", self.sql.display());
        println!("  SELECT * FROM colcrypt.verify_keys();");
        Ok(())
    }
}

/// Under the root key, and opened again, since the root keys that there were are gone.
async fn rewrap(
    root: &dyn Provider,
    kek: &Kek,
    opened: &colcrypt_core::KeyEncryptionKey,
) -> Result<colcrypt_kms::WrappedKek, String> {
    let aad = wrap::kek_aad(kek.id);
    let wrapped = root
        .wrap_kek("", &aad, opened)
        .await
        .map_err(|error| error.to_string())?;
    let again = root
        .unwrap_kek("", &aad, &wrapped)
        .await
        .map_err(|error| error.to_string())?;
    if again != *opened {
        return Err(format!(
            "{} gave back another key than it wrapped",
            root.endpoint()
        ));
    }
    Ok(wrapped)
}

fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// Before all others, so that nobody waits for root keys that are gone.
fn placed(kek: &Kek, provider: &str, wrapped: &colcrypt_kms::WrappedKek) -> String {
    let keyring = hex_of(&kek.id.keyring.0);
    let version = kek.id.version;
    format!(
        "-- {}\n\
         UPDATE colcrypt.kek_copy SET preference = preference + 1000 WHERE keyring_id = '{keyring}' AND version = {version};\n\
         INSERT INTO colcrypt.kek_copy (keyring_id, version, preference, provider_id, root_key, root_key_version, wrapped)\n\
         SELECT '{keyring}', {version}, 1, provider_id, '', {}, '\\x{}' FROM colcrypt.provider WHERE name = {};\n",
        kek.name().replace(char::is_control, " "),
        literal(&wrapped.root_key_version),
        hex_of(&wrapped.wrapped),
        literal(provider),
    )
}

fn script(provider: &str, config: &serde_json::Value, statements: &[String]) -> String {
    format!(
        "-- Puts keyrings under a root key file that an escrow was opened for. No secret is in it. The audit log has these\n\
         -- changes as made by hand.\n\
         BEGIN;\n\
         SET LOCAL search_path = pg_catalog;\n\
         SET LOCAL standard_conforming_strings = on;\n\
         INSERT INTO colcrypt.provider (name, kind, config) VALUES ({}, 'file', {});\n\
         {}\
         COMMIT;\n",
        literal(provider),
        literal(&config.to_string()),
        statements.concat()
    )
}

#[derive(Args)]
pub struct Drill {
    /// The record of the escrow
    #[arg(long, value_name = "FILE")]
    record: PathBuf,
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    catalog: Catalog,
}

impl Drill {
    pub fn run(&self) -> Result<(), String> {
        let record = read_record(&self.record)?;
        let began = Instant::now();
        let keks = self.catalog.keks()?;
        let collector = self.source.collect(Some(&record))?;
        let asked = began.elapsed();
        let opened = Instant::now();
        let mut drill = DrillReport::of(&record, now());
        open_all(&collector, &keks, &mut drill)?;
        drill.seconds_for_shares = asked.as_secs();
        drill.milliseconds_to_open =
            u64::try_from(opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        let problems = drill.problems.join("; ");
        let report = drill
            .signed(&record, &collector)
            .map_err(|why| why.to_string())?;
        println!("{}", report.text());
        if problems.is_empty() {
            return Ok(());
        }
        Err(format!("the drill FAILED: {problems}"))
    }
}

/// The key exists in here only.
fn open_all(collector: &Collector, keks: &[Kek], drill: &mut DrillReport) -> Result<(), String> {
    let key = collector.key().map_err(|error| error.to_string())?;
    for kek in keks {
        let opened = match kek.open(&key) {
            Ok(opened) => opened,
            Err(NotOpened::NotSealed) => {
                drill
                    .problems
                    .push(format!("{} is not sealed to this escrow", kek.name()));
                continue;
            }
            Err(why) => {
                drill.problems.push(format!("{}: {why}", kek.name()));
                continue;
            }
        };
        drill.key_encryption_keys += 1;
        if !drill.keyrings.contains(&kek.keyring) {
            drill.keyrings.push(kek.keyring.clone());
        }
        for dek in &kek.deks {
            match kek.try_dek(&opened, dek) {
                Ok(has_canary) => {
                    drill.key_versions += 1;
                    drill.canaries += usize::from(has_canary);
                }
                Err(why) => drill.problems.push(format!(
                    "key {}, version {}: {why}",
                    shown(&dek.key),
                    dek.id.version
                )),
            }
        }
    }
    Ok(())
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
