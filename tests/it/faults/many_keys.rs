//! Ten thousand keys after a restart: the key server is asked once per keyring, counted there.

use colcrypt_tests::openbao::OpenBao;

use crate::bed::{Bed, PLAINTEXT, number};

const KEYRINGS: usize = 10;
const KEYS: i32 = 1_000;
const ALL: i64 = KEYRINGS as i64 * KEYS as i64;

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
    assert_eq!(number(&mut client, used), ALL, "every key was loaded");

    // Warm, and from another session, they cost nothing.
    let rows = bed.cluster.client().query_one(sql, &[&PLAINTEXT]);
    assert_eq!((rows.unwrap().get::<_, i64>(0), unwraps()), (ALL, KEYRINGS));
}
