//! Ten thousand keys: after a restart, and when their key encryption key is rotated, the key server is asked once per
//! keyring, counted there.

use std::time::{Duration, Instant};

use colcrypt_tests::bed::{Bed, PLAINTEXT, VaultBed, decrypt, encrypt};
use colcrypt_tests::db::Sql;
use colcrypt_tests::openbao::OpenBao;
use colcrypt_tests::wait_for;

const KEYRINGS: usize = 10;
const KEYS: i32 = 1_000;
const ALL: i64 = KEYRINGS as i64 * KEYS as i64;
const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn ten_thousand_cold_keys_cost_one_call_a_keyring() {
    let bao = OpenBao::start();
    bao.create_key("app");
    let token_file = bao.token_file(&bao.allow_key("app"));
    // Room for all keys in both caches, and no refresh while the test runs.
    let bed = Bed::bare(&[
        "colcrypt.slab_keys = 12000",
        "colcrypt.usage_entries = 12000",
        "colcrypt.soft_ttl = '1h'",
        "colcrypt.hard_ttl = '2h'",
    ]);
    bed.hide(&std::fs::read_to_string(&token_file).unwrap());
    let mut client = bed.cluster.client();
    client
        .execute(
            "SELECT colcrypt.add_provider('bao', 'vault-transit', $1::text::jsonb)",
            &[&bao.config(&token_file).to_string()],
        )
        .unwrap();
    let make_ring = "SELECT colcrypt.create_keyring($1, 'bao', 'app')";
    let make_keys = "SELECT count(colcrypt.create_key($1 || ' key ' || n, $1)) FROM generate_series(1, $2) AS n";
    for ring in 0..KEYRINGS {
        let name = format!("ring {ring}");
        client.execute(make_ring, &[&name]).unwrap();
        client.execute(make_keys, &[&name, &KEYS]).unwrap();
    }
    client
        .batch_execute("CREATE TABLE value (v colcrypt.ciphertext)")
        .unwrap();
    let sql = "INSERT INTO value SELECT colcrypt.encrypt_col($1::text, name) FROM colcrypt.key";
    assert_eq!(client.execute(sql, &[&PLAINTEXT]).unwrap() as i64, ALL);
    drop(client);

    bed.cluster.restart();
    let mut client = bed.cluster.client();
    let before = bao.requests("transit/decrypt/app");
    let unwraps = || bao.requests("transit/decrypt/app") - before;
    let sql = "SELECT count(*) FROM value WHERE colcrypt.decrypt_col(v) = $1";
    let rows: i64 = client.query_one(sql, &[&PLAINTEXT]).unwrap().get(0);
    assert_eq!((rows, unwraps()), (ALL, KEYRINGS));
    let used = "SELECT slots_used::bigint FROM colcrypt.broker_status()";
    assert_eq!(client.number(used), ALL, "every key was loaded");

    // Warm, and from another session, they cost nothing.
    let rows = bed.cluster.client().query_one(sql, &[&PLAINTEXT]);
    assert_eq!((rows.unwrap().get::<_, i64>(0), unwraps()), (ALL, KEYRINGS));
}

/// A rotation of the key encryption key is between the server and its agent, but for the new key's own wrapping: what
/// the root key is asked does not grow with the keys.
#[test]
fn ten_thousand_keys_go_under_a_new_kek_for_one_call() {
    let bed = VaultBed::new(&["colcrypt.soft_ttl = '1h'", "colcrypt.hard_ttl = '2h'"]);
    let mut client = bed.cluster.client();
    let value = encrypt(&mut client, "k").unwrap();
    client
        .batch_execute("SELECT colcrypt.create_keys(array_agg('key ' || n), 'ring') FROM generate_series(1, 9999) n")
        .unwrap();
    let asked = |path: &str| bed.bao.requests(&format!("transit/{path}/app"));
    let before = [asked("encrypt"), asked("decrypt")];
    let start = Instant::now();
    client
        .batch_execute("SELECT colcrypt.rotate_kek('ring')")
        .unwrap();
    let moved = "SELECT count(*) FROM colcrypt.key_version WHERE kek_version = 2";
    wait_for("all keys to be under it", MINUTE, || {
        client.number(moved) == ALL
    });
    println!("10,000 keys under a new KEK in {:?}", start.elapsed());
    let left = "SELECT keys_left::bigint FROM colcrypt.kek_schedule";
    assert_eq!(client.number(left), 0);
    let [wraps, unwraps] = [asked("encrypt") - before[0], asked("decrypt") - before[1]];
    assert_eq!(wraps, 1, "the new one is wrapped once");
    assert!(
        (1..=5).contains(&unwraps),
        "it was compared, and keys loaded, but not one by one: {unwraps}"
    );

    // And a cold start is one call again, for keys of before and after.
    bed.create_key("later", "ring");
    let later = encrypt(&mut client, "later").unwrap();
    drop(client);
    bed.cluster.restart();
    let before = asked("decrypt");
    let mut client = bed.cluster.client();
    for value in [&value, &later] {
        decrypt(&mut client, value).unwrap();
    }
    assert_eq!(asked("decrypt") - before, 1);
}

/// A session keeps 4,096 ciphers. With more keys than that it fills the place of one with that of another: what it was
/// allowed under the first must not go on under the second.
#[test]
fn a_session_of_more_keys_than_ciphers_takes_none_for_another() {
    let bed = Bed::bare(&[
        "colcrypt.slab_keys = 6000",
        "colcrypt.usage_entries = 12000",
    ]);
    bed.add_file_keyring("ring");
    let mut client = bed.cluster.client();
    client
        .batch_execute(
            "SELECT count(colcrypt.create_key('key ' || n, 'ring')) FROM generate_series(1, 4400) n;
             CREATE TABLE value (n int, v colcrypt.ciphertext)",
        )
        .unwrap();
    let encrypt = client
        .prepare(
            "INSERT INTO value SELECT n, colcrypt.encrypt_col($1::text || n, 'key ' || n)
             FROM generate_series($2::int, $3::int) n",
        )
        .unwrap();
    for (from, to) in [(1, 2200), (2201, 4400), (1, 4400)] {
        let rows = client.execute(&encrypt, &[&PLAINTEXT, &from, &to]).unwrap();
        assert_eq!(rows as i32, to - from + 1);
    }
    // In the session that wrote them, and in another.
    let all = "SELECT count(*) FROM value WHERE colcrypt.decrypt_col(v) = $1 || n";
    for client in [&mut client, &mut bed.cluster.client()] {
        for _ in 0..2 {
            let rows: i64 = client.query_one(all, &[&PLAINTEXT]).unwrap().get(0);
            assert_eq!(rows, 8800);
        }
    }
    // Two ciphers at once, each of which may take the other's place.
    let again =
        "SELECT count(*) FROM (SELECT n, colcrypt.reencrypt_col(v) AS v FROM value OFFSET 0) s
                 WHERE colcrypt.decrypt_col(v) = $1 || n";
    client
        .batch_execute("SELECT count(colcrypt.rotate_key(name)) FROM colcrypt.key")
        .unwrap();
    let rows: i64 = client.query_one(again, &[&PLAINTEXT]).unwrap().get(0);
    assert_eq!(rows, 8800);
}
