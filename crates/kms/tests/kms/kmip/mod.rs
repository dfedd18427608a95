//! Provider `kmip` against PyKMIP, and against servers that answer nonsense.

mod broken;
mod keys;
mod stand_in;
mod tls;

use colcrypt_protocol::{CheckReport, ProviderConfig, Reply, Request};
use colcrypt_tests::pykmip::{CLIENT, PyKmip};
use serde_json::Value;

use crate::common::{Agent, ok, provider};
use crate::conformance::run;

const KEY: &str = "app-root";

fn kmip(config: Value) -> ProviderConfig {
    provider("kmip", config)
}

/// With an active key, and the client whose rights suffice.
fn with_key(server: &PyKmip) -> ProviderConfig {
    server.create_key(KEY);
    kmip(server.config(CLIENT))
}

fn check(provider: &ProviderConfig, root_key: &str) -> Request {
    Request::CheckProvider {
        provider: provider.clone(),
        root_key: (!root_key.is_empty()).then(|| root_key.to_owned()),
    }
}

async fn checked(agent: &Agent, provider: &ProviderConfig, root_key: &str) -> CheckReport {
    match ok(agent.call(check(provider, root_key)).await).0 {
        Reply::ProviderChecked { report } => report,
        other => panic!("{other:?}"),
    }
}

conforms! { run, |()| PyKmip::local_bed() }
conforms_over_network! { run, |()| PyKmip::local_bed() }
