//! One flight per key, and one unwrap of the KEK behind it, however many ask.

use std::thread;

use colcrypt_tests::bed::{MOMENT, VaultBed, decrypt, encrypt, wait_until_ok};
use colcrypt_tests::db::Sql;

const BACKENDS: usize = 100;

/// Starts the cluster anew (nothing is cached any more), lets 100 sessions ask at once while the key
/// server is halted, and counts what arrives there when it goes on.
fn storm(bed: &VaultBed, values: &[String]) {
    bed.cluster.restart();
    wait_until_ok("the broker", MOMENT, || {
        bed.cluster.client().query_one("SELECT 1", &[])
    });
    let before = bed.unwraps();
    let mut watcher = bed.cluster.client();
    let (loads, failed) = loads(&mut watcher);
    bed.bao.pause();
    let results: Vec<_> = thread::scope(|scope| {
        let sessions: Vec<_> = (0..BACKENDS)
            .map(|at| {
                let value = &values[at % values.len()];
                scope.spawn(move || decrypt(&mut bed.cluster.client(), value))
            })
            .collect();
        bed.wait_for_waiting(BACKENDS as i64);
        bed.bao.resume();
        sessions
            .into_iter()
            .map(|session| session.join().unwrap())
            .collect()
    });
    for result in results {
        result.unwrap();
    }
    assert_eq!(bed.unwraps() - before, 1, "calls at the key server");
    let after = self::loads(&mut watcher);
    assert_eq!(
        after,
        (loads + values.len() as i64, failed),
        "loads into the slab"
    );
}

fn loads(client: &mut postgres::Client) -> (i64, i64) {
    (
        client.number("SELECT loads FROM colcrypt.broker_status()"),
        client.number("SELECT loads_failed FROM colcrypt.broker_status()"),
    )
}

#[test]
fn a_hundred_cold_backends_make_one_call() {
    let bed = VaultBed::new(&["colcrypt.kms_timeout = '20s'"]);
    let value = encrypt(&mut bed.cluster.client(), "k").unwrap();
    storm(&bed, &[value]);

    // Ten keys of one keyring: ten loads, and still one call, since the KEK is the agent's.
    let mut client = bed.cluster.client();
    let values: Vec<String> = (0..10)
        .map(|at| {
            bed.create_key(&format!("k{at}"), "ring");
            encrypt(&mut client, &format!("k{at}")).unwrap()
        })
        .collect();
    drop(client);
    storm(&bed, &values);
}
