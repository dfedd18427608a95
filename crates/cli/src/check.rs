//! `colcrypt check`: what `colcrypt.check_provider` does, without a server, and in its words.

use std::{fs, process::ExitCode};

use clap::Args;
use colcrypt_protocol::{CheckReport, Failure, FailureKind, ProviderConfig, Settings};
use serde_json::json;

#[derive(Args)]
pub struct Options {
    /// Kind of provider, as colcrypt.add_provider takes it: aws-kms, azure-keyvault, escrow, file, gcp-kms,
    /// kmip, pkcs11, vault-transit
    #[arg(long, value_name = "KIND")]
    provider: String,
    /// Its configuration, as JSON or as @FILE: where credentials are found, never one
    #[arg(long, value_name = "JSON|@FILE")]
    config: String,
    /// Also wrap and unwrap random bytes under this root key
    #[arg(long)]
    root_key: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(options: &Options) -> ExitCode {
    let outcome = check(options);
    if options.json {
        println!("{}", object(&outcome));
    } else {
        match &outcome {
            Ok(report) => print(options, report),
            Err(failure) => explain(failure),
        }
    }
    match outcome {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn check(options: &Options) -> Result<CheckReport, Failure> {
    let config = |message: String| Failure {
        kind: FailureKind::Config,
        message,
    };
    let text = match options.config.strip_prefix('@') {
        Some(path) => fs::read_to_string(path)
            .map_err(|error| config(format!("cannot read {path}: {error}")))?,
        None => options.config.clone(),
    };
    let provider = ProviderConfig {
        name: options.provider.clone(),
        kind: options.provider.clone(),
        config: serde_json::from_str(&text)
            .map_err(|error| config(format!("the configuration is not JSON: {error}")))?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| config(format!("no runtime: {error}")))?;
    runtime.block_on(colcrypt_kms::check(
        &provider,
        options.root_key.as_deref(),
        &Settings::default(),
    ))
}

/// The names are part of the interface: docs/providers/README.md has them.
fn object(outcome: &Result<CheckReport, Failure>) -> serde_json::Value {
    match outcome {
        Ok(report) => json!({"ok": true, "report": report}),
        Err(failure) => {
            let words = failure.kind.words();
            json!({"ok": false, "failure": {
                "kind": failure.kind,
                "sqlstate": words.sqlstate,
                "error": words.error,
                "message": failure.message,
                "hint": words.hint,
            }})
        }
    }
}

fn explain(failure: &Failure) {
    let words = failure.kind.words();
    eprintln!("colcrypt check: {} ({})", words.error, words.sqlstate);
    eprintln!("detail: {}", failure.message);
    eprintln!("hint:   {}", words.hint);
}

fn print(options: &Options, report: &CheckReport) {
    println!("answers:          {}", report.server);
    match (&options.root_key, &report.root_key_version) {
        (Some(root_key), Some(version)) if !root_key.is_empty() => {
            println!("root key:         {root_key}, version {version}: wrap and unwrap work");
        }
        (_, Some(version)) => println!("root key version: {version}: wrap and unwrap work"),
        (_, None) => println!("root key:         not tried (--root-key)"),
    }
    println!(
        "took:             {:.1} ms",
        report.latency_us as f64 / 1000.0
    );
    for warning in &report.warnings {
        println!("note:             {warning}");
    }
}
