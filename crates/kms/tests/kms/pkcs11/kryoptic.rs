//! A token of another make than SoftHSM. Its build takes minutes, so it is asked for: `make test-kryoptic`.

use std::process::Stdio;

use super::*;
use crate::common::Dir;

const SO_PIN: &str = "so-pin-20611";
const PIN: &str = "pin-of-kryoptic-4711";

fn tool(module: &str, args: &[&str]) {
    let ran = Command::new("pkcs11-tool")
        .args(["--module", module, "--slot", "1"])
        .args(args)
        .env("HSM_PIN", PIN)
        .env("HSM_SO_PIN", SO_PIN)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{args:?}: {said}");
}

fn key(module: &str, change: &[&str], label: &str, id: &str) {
    let login = ["--login", "--pin", "env:HSM_PIN"];
    let named = ["--label", label, "--id", id];
    tool(module, &[&login[..], change, &named[..]].concat());
}

const MAKE: [&str; 5] = [
    "--keygen",
    "--key-type",
    "AES:32",
    "--sensitive",
    "--private",
];
const DELETE: [&str; 3] = ["--delete-object", "--type", "secrkey"];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make test-kryoptic builds the token"]
async fn a_token_of_another_make_serves() {
    let module = std::env::var("COLCRYPT_KRYOPTIC").expect("a module: make test-kryoptic");
    let init = [
        "--init-token",
        "--label",
        "tok",
        "--so-pin",
        "env:HSM_SO_PIN",
    ];
    tool(&module, &init);
    let of_officer = [
        "--login",
        "--login-type",
        "so",
        "--so-pin",
        "env:HSM_SO_PIN",
    ];
    let pin = ["--init-pin", "--pin", "env:HSM_PIN"];
    tool(&module, &[&of_officer[..], &pin[..]].concat());
    key(&module, &MAKE, "app", "01");

    let dir = Dir::new();
    let file = dir.path("pin");
    let put_pin = |pin: &str| {
        fs::write(&file, pin).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    };
    put_pin(PIN);
    let root = provider(
        "pkcs11",
        json!({"module": module, "slots": [{"label": "tok"}], "pin_file": file}),
    );
    let checker = agent(SETTINGS).await;
    let report = ok(check(&checker, &root, Some("app")).await);
    assert!(report.server.contains("Kryoptic"), "{report:?}");
    let (kek, dek) = whole_way(&root, "app").await;
    assert!(kek.preferred.root_key_version.starts_with("aes-gcm:"));

    // It tells an altered KEK, one of another keyring, and another key of the name.
    let last = kek.preferred.wrapped.len() - 1;
    let wrong: [&dyn Fn(&mut KekRef); 2] = [&|kek| kek.preferred.wrapped[last] ^= 1, &|kek| {
        kek.id = kek_id()
    }];
    for change in wrong {
        fails(
            cold(&altered(&dek, change)).await,
            FailureKind::Corrupt,
            &[],
        );
    }
    let generated = checker
        .create_kek_from(KeySource::Provider, &root, "app")
        .await;
    assert_ne!(ok(generated).kcv, kek.kcv);

    // A newer key of the name is what wraps from then on.
    key(&module, &MAKE, "app", "02");
    well_again(&dek).await;
    let (newer, _) = whole_way(&root, "app").await;
    assert_ne!(
        newer.preferred.root_key_version,
        kek.preferred.root_key_version
    );

    // The kill switch, both ways.
    key(&module, &DELETE, "app", "01");
    key(&module, &DELETE, "app", "02");
    until(&dek, |failure| failure.kind == FailureKind::KeyNotFound).await;
    key(&module, &MAKE, "app", "01");
    until(&dek, |failure| failure.kind == FailureKind::WrongRootKey).await;
    put_pin("pin-that-is-wrong");
    until(&dek, |failure| failure.kind == FailureKind::Denied).await;
}
