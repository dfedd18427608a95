//! Five lives of a token, with the key server asked all the time: every decryption succeeds, however many tokens were
//! renewed, replaced and lost meanwhile.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use colcrypt_tests::bed::{Bed, decrypt, encrypt};
use colcrypt_tests::kubernetes::Kubernetes;
use colcrypt_tests::openbao::OpenBao;
use colcrypt_tests::process;
use serde_json::json;

/// A token lives for three seconds, and no renewal makes it older.
const LIFE: Duration = Duration::from_secs(3);
const LIVES: u32 = 5;
const SESSIONS: usize = 4;
const KEYS: usize = 40;

#[test]
fn no_decryption_fails_over_five_lives_of_a_token() {
    let bao = OpenBao::start_tls();
    bao.create_key("app");
    let policy = bao.allow_key("app");
    let kubernetes = Kubernetes::start();
    bao.bao(&["auth", "enable", "kubernetes"]);
    bao.bao(&[
        "write",
        "auth/kubernetes/config",
        "disable_local_ca_jwt=true",
        &format!("kubernetes_ca_cert=@{}", bao.ca_file().display()),
        &format!("kubernetes_host={}", kubernetes.address()),
        &format!("token_reviewer_jwt={}", kubernetes.reviewer()),
    ]);
    let life = format!("{}s", LIFE.as_secs());
    bao.bao(&[
        "write",
        "auth/kubernetes/role/db",
        "bound_service_account_names=postgres",
        "bound_service_account_namespaces=data",
        &format!("token_policies={policy}"),
        &format!("token_ttl={life}"),
        &format!("token_max_ttl={life}"),
    ]);
    let pod = || kubernetes.token("data", "postgres", 2 * LIFE);
    let file = bao.private_file("sa", &pod());

    // A hard TTL shorter than a token's life: what is decrypted late was not cached early. A slab too small for all
    // keys: they are loaded all the time.
    let bed = Bed::bare(&[
        "colcrypt.soft_ttl = '100ms'",
        "colcrypt.hard_ttl = '2s'",
        "colcrypt.slab_keys = 16",
    ]);
    let config = json!({
        "address": bao.tls_address(),
        "ca_file": bao.ca_file(),
        "auth": {"method": "kubernetes", "role": "db", "token_file": file},
    });
    let mut client = bed.cluster.client();
    client
        .execute(
            "SELECT colcrypt.add_provider('bao', 'vault-transit', $1::text::jsonb)",
            &[&config.to_string()],
        )
        .unwrap();
    client
        .execute("SELECT colcrypt.create_keyring('ring', 'bao', 'app')", &[])
        .unwrap();
    let values: Vec<String> = (0..KEYS)
        .map(|at| {
            let key = format!("k{at}");
            bed.create_key(&key, "ring");
            encrypt(&mut client, &key).unwrap()
        })
        .collect();

    let asked = || {
        [
            "auth/kubernetes/login",
            "auth/token/renew-self",
            "transit/decrypt/app",
        ]
        .map(|path| bao.requests(path))
    };
    let before = asked();
    let over = AtomicBool::new(false);
    let decrypted = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..SESSIONS {
            scope.spawn(|| {
                let mut client = bed.cluster.client();
                while !over.load(Ordering::Relaxed) {
                    let number = decrypted.fetch_add(1, Ordering::Relaxed);
                    decrypt(&mut client, &values[number % KEYS]).unwrap();
                }
            });
        }
        // Sessions that come and go.
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                decrypt(&mut bed.cluster.client(), &values[0]).unwrap();
                thread::sleep(Duration::from_millis(50));
            }
        });
        // The pod's token is replaced all the while, as Kubernetes does; and once the agent dies with all it knows.
        let began = Instant::now();
        let mut killed = false;
        while began.elapsed() < LIVES * LIFE {
            let token = pod();
            bed.hide(&token);
            std::fs::rename(bao.private_file("sa", &token), &file).unwrap();
            if !killed && began.elapsed() > 2 * LIFE {
                process::kill9(bed.cluster.agent_pid().expect("an agent"));
                killed = true;
            }
            thread::sleep(LIFE / 3);
        }
        over.store(true, Ordering::Relaxed);
    });
    let after = asked();
    let [logins, renewals, unwraps] = [0, 1, 2].map(|at| after[at] - before[at]);
    let decrypted = decrypted.into_inner();
    assert!(
        decrypted > 1_000 && unwraps > 30,
        "{decrypted} decryptions, {unwraps} unwraps"
    );
    // One login a life at least, and little more than that even where renewals bring nothing.
    let bounds = LIVES as usize - 1..=3 * LIVES as usize;
    assert!(
        bounds.contains(&logins) && bounds.contains(&renewals),
        "{logins} logins, {renewals} renewals"
    );
}
