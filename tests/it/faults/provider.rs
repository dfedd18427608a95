//! What a provider can do wrong, and what each gets: one SQLSTATE, a detail that names the provider, a
//! hint, and no secret.

use std::time::{Duration, Instant};

use colcrypt_tests::bed::{Bed, QUICK, VaultBed, decrypt, encrypt, wait_until_ok};
use colcrypt_tests::db::Sql;
use colcrypt_tests::problem::{Problem, failed};
use postgres::Client;
use serde_json::{Value, json};

use crate::fake::{Fake, Manner, nobody};

const TOKEN: &str = "s-3cr3t-token-of-this-test";

fn config(bed: &Bed, address: &str) -> Value {
    bed.hide(TOKEN);
    let token_file = bed.cluster.write_file("token", TOKEN.as_bytes(), 0o600);
    json!({"address": address, "auth": {"method": "token", "token_file": token_file}})
}

fn add(
    client: &mut Client,
    name: &str,
    kind: &str,
    config: &Value,
) -> Result<u64, postgres::Error> {
    let sql = "SELECT colcrypt.add_provider($1, $2, $3::text::jsonb)";
    client.execute(sql, &[&name, &kind, &config.to_string()])
}

/// A provider at this address: how checking it and making a keyring on it fail, which must be alike.
fn meets(bed: &Bed, name: &str, address: &str) -> Problem {
    let mut client = bed.cluster.client();
    add(&mut client, name, "vault-transit", &config(bed, address)).unwrap();
    let began = Instant::now();
    let checked = failed(client.execute("SELECT colcrypt.check_provider($1, 'app')", &[&name]));
    let made = failed(client.execute("SELECT colcrypt.create_keyring($1, $1, 'app')", &[&name]));
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(checked.code, made.code, "{checked:?} {made:?}");
    for problem in [&checked, &made] {
        bed.is_clean(problem);
        problem.in_detail(&format!("provider \"{name}\""));
        assert!(problem.detail.contains(address), "{problem:?}");
    }
    checked
}

#[test]
fn every_fault_has_its_code() {
    let bed = Bed::bare(&QUICK);
    let pids = bed.pids();
    // As Vault says it of what a policy does not allow.
    let denied = r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#;
    let internal = r#"{"errors":["internal error"]}"#;
    let sealed = r#"{"errors":["Vault is sealed"]}"#;
    let html = "<html>Forbidden</html>";
    let html_type = "Content-Type: text/html\r\n";

    meets(&bed, "refused", &nobody()).is("KC011");
    for (name, server, code) in [
        ("silent", Fake::start(Manner::Silent), "KC012"),
        ("dripping", Fake::start(Manner::Drips), "KC012"),
        ("closing", Fake::start(Manner::Closes), "KC011"),
        ("flooding", Fake::start(Manner::Floods), "KC018"),
        (
            "mute",
            Fake::start(Manner::Answers("go away\r\n\r\n".into())),
            "KC018",
        ),
        (
            "internal error",
            Fake::json("500 Internal Server Error", "", internal),
            "KC013",
        ),
        (
            "bad gateway",
            Fake::http("502 Bad Gateway", html_type, html),
            "KC013",
        ),
        (
            "sealed",
            Fake::json("503 Service Unavailable", "", sealed),
            "KC013",
        ),
        (
            "throttling",
            Fake::json(
                "429 Too Many Requests",
                "Retry-After: 1\r\n",
                "{\"errors\":[]}",
            ),
            "KC014",
        ),
        ("hotel wifi", Fake::http("200 OK", html_type, html), "KC018"),
        (
            "not found",
            Fake::http("404 Not Found", html_type, html),
            "KC018",
        ),
        (
            "proxy says no",
            Fake::http("403 Forbidden", html_type, html),
            "KC018",
        ),
        ("empty object", Fake::json("200 OK", "", "{}"), "KC018"),
        (
            "cut off",
            Fake::json("200 OK", "", r#"{"data": {"ciph"#),
            "KC018",
        ),
        ("null", Fake::json("200 OK", "", "null"), "KC018"),
        (
            "moved",
            Fake::http(
                "307 Temporary Redirect",
                "Location: http://192.0.2.1/\r\n",
                "",
            ),
            "KC013",
        ),
    ] {
        let problem = meets(&bed, name, &server.address());
        assert_eq!(problem.code, code, "{name}: {problem:?}");
        problem.is(code);
        assert!(server.requests() > 0, "{name}");
    }
    // Only a server that speaks as Vault does is believed when it refuses.
    let server = Fake::json("403 Forbidden", "", denied);
    let mut client = bed.cluster.client();
    add(
        &mut client,
        "denying",
        "vault-transit",
        &config(&bed, &server.address()),
    )
    .unwrap();
    let sql = "SELECT colcrypt.create_keyring('denying', 'denying', 'app')";
    failed(client.execute(sql, &[]))
        .is("KC015")
        .in_detail("permission denied");
    assert_eq!(bed.pids(), pids);
    let keyrings = client.number("SELECT count(*) FROM colcrypt.keyring");
    assert_eq!(keyrings, 0, "nothing half made");
}

#[test]
fn a_throttling_server_is_given_the_rest_it_asks_for() {
    let bed = Bed::bare(&[
        "colcrypt.kms_timeout = '2s'",
        "colcrypt.kms_retries = 1",
        "colcrypt.kms_backoff = '10ms'",
    ]);
    let server = Fake::json(
        "429 Too Many Requests",
        "Retry-After: 1\r\n",
        r#"{"errors":[]}"#,
    );
    let mut client = bed.cluster.client();
    add(
        &mut client,
        "busy",
        "vault-transit",
        &config(&bed, &server.address()),
    )
    .unwrap();
    let began = Instant::now();
    failed(client.execute("SELECT colcrypt.create_keyring('busy', 'busy', 'app')", &[]))
        .is("KC014");
    assert_eq!(server.requests(), 2, "one try more");
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );

    let server = Fake::json(
        "429 Too Many Requests",
        "Retry-After: 3600\r\n",
        r#"{"errors":[]}"#,
    );
    add(
        &mut client,
        "busier",
        "vault-transit",
        &config(&bed, &server.address()),
    )
    .unwrap();
    let began = Instant::now();
    failed(client.execute(
        "SELECT colcrypt.create_keyring('busier', 'busier', 'app')",
        &[],
    ))
    .is("KC014");
    assert_eq!(
        server.requests(),
        1,
        "no waiting for an hour, and no asking sooner"
    );
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[test]
fn settings_that_cannot_be_right_are_refused_when_given() {
    let bed = Bed::bare(&QUICK);
    let mut client = bed.cluster.client();
    let good = config(&bed, "http://127.0.0.1:1");
    let with = |change: &dyn Fn(&mut Value)| {
        let mut config = good.clone();
        change(&mut config);
        config
    };
    let inline = "hvs.CAESIJ-not-to-be-repeated";
    bed.hide(inline);
    for (kind, config, said) in [
        (
            "vault-transit",
            with(&|c| c["address"] = json!("http://192.0.2.7:8200")),
            "must be https://",
        ),
        (
            "vault-transit",
            with(&|c| c["address"] = json!("http://vault.example.org")),
            "must be https://",
        ),
        (
            "vault-transit",
            with(&|c| c["address"] = json!("ftp://127.0.0.1")),
            "must start with https://",
        ),
        (
            "vault-transit",
            with(&|c| c["address"] = json!("https://user:pw@127.0.0.1")),
            "user, a password",
        ),
        (
            "vault-transit",
            with(&|c| c["address"] = Value::Null),
            "expected",
        ),
        (
            "vault-transit",
            with(&|c| c["auth"]["token"] = json!(inline)),
            "\"token\" looks like a secret",
        ),
        (
            "vault-transit",
            with(&|c| c["auth"]["token_file"] = json!(inline)),
            "looks like a secret",
        ),
        (
            "vault-transit",
            with(&|c| c["auth"]["token_env"] = json!("not-a-name")),
            "NAME of an environment variable",
        ),
        (
            "vault-transit",
            with(&|c| c["auth"]["secret_id"] = json!("hidden")),
            "looks like a secret",
        ),
        (
            "vault-transit",
            with(&|c| c["adress"] = json!("typo")),
            "unknown field `adress`",
        ),
        (
            "vault-transit",
            with(&|c| c["mount"] = json!("../sys")),
            "a mount or namespace",
        ),
        ("vault-transit", json!({}), "missing field"),
        ("vault-transit", json!([]), "must be a JSON object"),
        ("file", json!({}), "missing field `path`"),
        ("file", json!({"path": "relative.key"}), "must be absolute"),
        (
            "file",
            json!({"path": "/k", "password": "hidden"}),
            "looks like a secret",
        ),
        (
            "aws",
            json!({}),
            "unknown provider kind \"aws\": this agent knows aws-kms, azure-keyvault, escrow, file, gcp-kms, kmip, pkcs11, vault-transit",
        ),
        ("", json!({}), "unknown provider kind"),
    ] {
        let problem = failed(add(&mut client, "p", kind, &config));
        problem.is("KC010").in_detail(said);
        bed.is_clean(&problem);
    }
    let providers = client.number("SELECT count(*) FROM colcrypt.provider");
    assert_eq!(providers, 0);
}

#[test]
fn a_missing_or_empty_token_is_an_outage_of_configuration_and_wipes_nothing() {
    let bed = VaultBed::new(&["colcrypt.soft_ttl = '200ms'", "colcrypt.hard_ttl = '1h'"]);
    let mut warm = bed.cluster.client();
    let value = encrypt(&mut warm, "k").unwrap();
    let token = std::fs::read(&bed.token_file).unwrap();
    for (content, said) in [(None, "cannot be read"), (Some(""), "is empty")] {
        match content {
            None => std::fs::remove_file(&bed.token_file).unwrap(),
            Some(text) => std::fs::write(&bed.token_file, text).unwrap(),
        }
        let mut client = bed.cluster.client();
        failed(client.execute("SELECT colcrypt.check_provider('bao', 'app')", &[]))
            .is("KC010")
            .in_detail(said);
        colcrypt_tests::bed::keep_on(Duration::from_millis(700), || {
            decrypt(&mut warm, &value).unwrap()
        });
        // As a program that renews tokens writes it: under another name, then in place.
        let new = bed
            .bao
            .private_file("new-token", std::str::from_utf8(&token).unwrap());
        std::fs::rename(new, &bed.token_file).unwrap();
        wait_until_ok("the token's return", Duration::from_secs(5), || {
            client.execute("SELECT colcrypt.check_provider('bao', 'app')", &[])
        });
    }
}

#[test]
fn a_root_key_is_never_made() {
    let bed = VaultBed::new(&QUICK);
    let root = bed.bao.root_token_file();
    bed.hide(&std::fs::read_to_string(&root).unwrap());
    let mut client = bed.cluster.client();
    // This token may do anything, so encrypting under an unknown name would make the key.
    add(
        &mut client,
        "almighty",
        "vault-transit",
        &bed.bao.config(&root),
    )
    .unwrap();
    let problem = failed(client.execute(
        "SELECT colcrypt.create_keyring('r2', 'almighty', 'nope')",
        &[],
    ));
    problem.is("KC016").in_detail("never made by itself");
    failed(client.execute("SELECT colcrypt.check_provider('almighty', 'nope')", &[])).is("KC016");
    let keys = bed.bao.bao(&["list", "transit/keys"]);
    assert!(keys.contains("app") && !keys.contains("nope"), "{keys}");
    // A policy for one key says nothing about another.
    failed(client.execute("SELECT colcrypt.create_keyring('r2', 'bao', 'nope')", &[])).is("KC015");
    let problem = failed(client.execute(
        "SELECT colcrypt.create_keyring('r2', 'bao', '../../sys/seal')",
        &[],
    ));
    problem.is("KC010").in_detail("the name of a Transit key");
}

#[test]
fn a_sealed_openbao_is_an_outage() {
    let bed = VaultBed::new(&QUICK);
    let mut warm = bed.cluster.client();
    let value = encrypt(&mut warm, "k").unwrap();
    bed.bao.seal();
    let mut client = bed.cluster.client();
    failed(client.execute("SELECT colcrypt.check_provider('bao', 'app')", &[]))
        .is("KC013")
        .in_detail("is sealed");
    decrypt(&mut warm, &value).unwrap();
    bed.cluster.restart();
    bed.refused(&mut bed.cluster.client(), &value)
        .is("KC013")
        .in_detail("is sealed");
}
