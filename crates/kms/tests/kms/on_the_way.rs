//! What is between the agent and a cloud: a proxy, and endpoints that are validated by FIPS 140.

use std::sync::{Arc, Mutex};

use colcrypt_protocol::{FailureKind, ProviderConfig};
use colcrypt_tests::fake_gcp::{ACCOUNT, FakeGcp};
use serde_json::{Value, json};

use crate::common::{
    Dir, SETTINGS, agent, fails, provider,
    raw::{http, listen},
};

/// The hosts that a proxy is asked for when a KEK is made there. It lets nobody through.
async fn hosts(kind: &str, mut config: Value, root_key: &str) -> Vec<String> {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let (port, _) = listen(move |request| {
        assert!(request.head.starts_with("CONNECT "), "{}", request.head);
        seen.lock().unwrap().push(request.path.clone());
        http("403 Forbidden", "", "")
    })
    .await;
    config["proxy"] = json!(format!("http://127.0.0.1:{port}"));
    let root: ProviderConfig = provider(kind, config);
    // What the proxy says is not the service's word.
    fails(
        agent(SETTINGS).await.create_kek(&root, root_key).await,
        FailureKind::Unreachable,
        &[],
    );
    asked.lock().unwrap().clone()
}

fn file(dir: &Dir, name: &str, text: &str) -> Value {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.path(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    json!(path)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_provider_that_speaks_https_goes_by_a_proxy_that_is_set() {
    let dir = Dir::new();
    let secret = file(&dir, "secret", "s3cr3t");
    let auth = json!({"method": "client-secret", "tenant_id": "t", "client_id": "c", "client_secret_file": secret});
    let azure = json!({"vault": "https://app.vault.azure.net", "auth": auth});
    assert_eq!(
        hosts("azure-keyvault", azure, "root").await,
        ["app.vault.azure.net:443"]
    );
    let gcp = FakeGcp::start();
    let credentials = gcp.service_account_file("credentials.json", ACCOUNT);
    let key = "projects/p-1/locations/global/keyRings/db/cryptoKeys/root";
    assert_eq!(
        hosts("gcp-kms", json!({"credentials_file": credentials}), key).await,
        ["cloudkms.googleapis.com:443"]
    );
    let auth = json!({"method": "token", "token_file": secret});
    let vault = json!({"address": "https://vault.example.org:8200", "auth": auth});
    let asked = hosts("vault-transit", vault, "root").await;
    assert!(
        asked.iter().all(|host| host == "vault.example.org:8200") && !asked.is_empty(),
        "{asked:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_is_asked_at_its_fips_endpoints_where_that_is_set() {
    let dir = Dir::new();
    let keys =
        "[default]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = s3cr3t\n";
    let keys = file(&dir, "credentials", keys);
    let token = file(&dir, "token", "eyJ0eXAiOiJKV1QifQ.e30.c2ln");
    let role = format!(
        "[default]\nrole_arn = arn:aws:iam::111122223333:role/db\nrole_session_name = db\n\
         web_identity_token_file = {}\n",
        token.as_str().unwrap()
    );
    let role = file(&dir, "config", &role);
    for (fips, kms, sts) in [
        (
            false,
            "kms.us-east-1.amazonaws.com:443",
            "sts.us-east-1.amazonaws.com:443",
        ),
        (
            true,
            "kms-fips.us-east-1.amazonaws.com:443",
            "sts-fips.us-east-1.amazonaws.com:443",
        ),
    ] {
        let config = json!({"region": "us-east-1", "use_fips": fips, "credentials_file": keys});
        assert_eq!(hosts("aws-kms", config, "alias/app").await, [kms]);
        let config = json!({"region": "us-east-1", "use_fips": fips, "config_file": role});
        assert_eq!(hosts("aws-kms", config, "alias/app").await, [sts]);
    }
}
