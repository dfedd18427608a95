//! The agent against a server that answers as Azure does, with its logins, roles and key versions: what works, what is
//! refused, and what comes back by itself. What Azure would never answer is in `broken.rs`.

mod broken;
mod faults;
mod keys;
mod login;

use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use colcrypt_protocol::{Failure, KekRef, ProviderConfig, Request};
use colcrypt_tests::{
    fake_azure::{FakeAzure, Kind, documented_role},
    fake_azure_bed::FakeAzureBed,
};
use serde_json::Value;

use crate::common::{self, SETTINGS, agent, check, fails, ok, provider};
use crate::conformance::run;

const CLIENT: &str = "a6ea8f14-5a0b-4a3c-9d5e-d5b5b0f7c1aa";
const SECRET: &str = "Q~b8Q~sX3nRkT5uYw2pLq7vZc9fGh1jKm4eDa6";
const KEY: &str = "root";

fn azure(config: Value) -> ProviderConfig {
    provider("azure-keyvault", config)
}

/// A key, and a provider whose application may do what the documentation says and nothing else.
fn set_up(server: &FakeAzure, kind: Kind) -> (ProviderConfig, PathBuf) {
    server.create_key(KEY, kind);
    server.application(CLIENT, SECRET);
    least(server);
    let file = server.private_file("client-secret", SECRET);
    (
        azure(server.config(server.secret_auth(CLIENT, &file))),
        file,
    )
}

fn with_key() -> (FakeAzure, ProviderConfig, PathBuf) {
    let server = FakeAzure::start();
    let (root, file) = set_up(&server, Kind::Rsa);
    (server, root, file)
}

fn least(server: &FakeAzure) {
    let role = documented_role();
    server.set_role(CLIENT, &role.iter().map(String::as_str).collect::<Vec<_>>());
}

/// What an agent that has never seen the KEK is told.
async fn cold(kek: &KekRef) -> Result<Request, Failure> {
    agent(SETTINGS).await.create_dek(kek).await
}

fn in_days(days: i64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_secs().saturating_add_signed(days * 86_400)
}

conforms! { run, |()| FakeAzureBed::local() }
conforms_over_network! { run, |()| FakeAzureBed::local() }
