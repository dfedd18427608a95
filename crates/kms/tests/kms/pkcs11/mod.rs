//! Provider `pkcs11` against SoftHSM, each test in a process of its own: PKCS#11 is one state per process.

mod keys;
mod kryoptic;
mod manners;
mod module;
mod tokens;

use std::{
    fs::{self, Permissions},
    future::Future,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use colcrypt_core::KeySource;
use colcrypt_protocol::{Event, Failure, FailureKind, KekRef, ProviderConfig, Request, Settings};
use colcrypt_tests::{facts, softhsm::SoftHsm, softhsm_bed::SoftHsmBed};
use serde_json::{Value, json};

use crate::common::{self, PATIENCE, SETTINGS, agent, check, fails, kek_id, ok, provider, revoked};
use crate::facts::kind;

/// Runs the test's body in another process, in whose environment SoftHSM finds the test's own tokens.
fn alone<B, F>(body: B)
where
    B: FnOnce(SoftHsm) -> F,
    F: Future<Output = ()>,
{
    // The closure's type has the test's own path for a name.
    let (_, test) = std::any::type_name::<B>().split_once("::").unwrap();
    let test = test.split("::{{").next().unwrap();
    if std::env::var("COLCRYPT_ALONE").is_ok_and(|name| name == test) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(body(SoftHsm::of_environment()));
        runtime.shutdown_background();
        return;
    }
    let hsm = SoftHsm::start();
    hsm.create_token("tok");
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env("COLCRYPT_ALONE", test)
        .env("COLCRYPT_TEST_PIN", SoftHsm::pin("tok"))
        .envs([hsm.environment()])
        .output()
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    // Not the exit code: a thread may hang in the module to the end, and the library's destructors, which run when the
    // process exits, may free memory that it uses.
    assert!(
        said.contains("test result: ok. 1 passed"),
        "{}: {said}",
        output.status
    );
    assert!(!said.contains(&SoftHsm::pin("tok")), "a PIN was printed");
}

fn softhsm(hsm: &SoftHsm) -> ProviderConfig {
    provider("pkcs11", hsm.config(&SoftHsm::module(), "tok"))
}

fn shim(hsm: &SoftHsm) -> ProviderConfig {
    provider("pkcs11", hsm.config(&hsm.shim(), "tok"))
}

fn with(provider: &ProviderConfig, name: &str, value: Value) -> ProviderConfig {
    let mut changed = provider.clone();
    changed.config[name] = value;
    changed
}

/// Makes a KEK and loads a DEK under it with a second agent, which has nothing cached.
async fn whole_way(root: &ProviderConfig, root_key: &str) -> (KekRef, Request) {
    let first = agent(SETTINGS).await;
    let kek = ok(first.create_kek(root, root_key).await);
    let dek = ok(first.create_dek(&kek).await);
    let second = agent(SETTINGS).await;
    assert_eq!(
        ok(first.load(&dek).await).1.expose(),
        ok(second.load(&dek).await).1.expose()
    );
    (kek, dek)
}

/// A load that finds nothing cached.
async fn cold(dek: &Request) -> Result<(), Failure> {
    agent(SETTINGS).await.load(dek).await.map(|_| ())
}

fn altered(dek: &Request, change: impl FnOnce(&mut KekRef)) -> Request {
    let mut dek = dek.clone();
    let Request::LoadDek { kek, .. } = &mut dek else {
        unreachable!()
    };
    change(kek);
    dek
}

/// Until a call succeeds: a library is not started anew at every call.
async fn well_again(dek: &Request) {
    let began = Instant::now();
    while let Err(failure) = cold(dek).await {
        assert!(began.elapsed() < PATIENCE, "{failure}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Until a call fails in this way.
async fn until(dek: &Request, fits: impl Fn(&Failure) -> bool) -> Failure {
    let began = Instant::now();
    loop {
        match cold(dek).await {
            Err(failure) if fits(&failure) => return failure,
            other => assert!(began.elapsed() < PATIENCE, "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

conforms! { alone, SoftHsmBed::on }
