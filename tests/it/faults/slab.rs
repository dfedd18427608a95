//! A slab that is too small: keys make room for one another, but one that is being loaded does not.

use std::thread;

use colcrypt_tests::bed::{Bed, MOMENT, VaultBed, decrypt, encrypt, ready_keys};
use colcrypt_tests::db::Sql;
use colcrypt_tests::problem::Problem;
use colcrypt_tests::{Cluster, wait_for};
use postgres::Client;

const SLOTS: usize = 16;

#[test]
fn many_keys_take_turns() {
    const KEYS: usize = 200;
    let bed = Bed::on_file(&["colcrypt.slab_keys = 16"]);
    let mut client = bed.cluster.client();
    client
        .execute(
            "SELECT colcrypt.create_key('turn ' || n, 'ring') FROM generate_series(1, 200) AS n",
            &[],
        )
        .unwrap();
    let values: Vec<String> = (1..=KEYS)
        .map(|at| encrypt(&mut client, &format!("turn {at}")).unwrap())
        .collect();
    let mut another = bed.cluster.client();
    for value in values.iter().rev() {
        decrypt(&mut another, value).unwrap();
    }
    // All of them in one statement, so that a key is evicted while the statement that used it goes on.
    let sql = "SELECT count(*) FROM unnest($1::text[]) AS v, generate_series(1, 3) \
               WHERE colcrypt.decrypt_col(v::colcrypt.ciphertext) IS NOT NULL";
    assert_eq!(
        another.query_one(sql, &[&values]).unwrap().get::<_, i64>(0),
        3 * KEYS as i64
    );
    let evictions = client.number("SELECT evictions FROM colcrypt.broker_status()");
    assert!(
        evictions >= (2 * KEYS - 2 * SLOTS) as i64,
        "{evictions} evictions"
    );
    let used = client.number("SELECT slots_used::bigint FROM colcrypt.broker_status()");
    assert_eq!(used, SLOTS as i64);
    // That is said, with the number that would do.
    wait_for("the warning", MOMENT, || {
        bed.cluster.log().contains("the key slab is too small")
    });
    let log = bed.cluster.log();
    let said = log.split("colcrypt.slab_keys = ").nth(1).unwrap();
    let wanted: usize = said.split(' ').next().unwrap().parse().unwrap();
    assert!((SLOTS..=KEYS + KEYS / 4).contains(&wanted), "{wanted}");
}

#[test]
fn many_sessions_fight_for_few_slots() {
    let bed = Bed::on_file(&["colcrypt.slab_keys = 16"]);
    let mut client = bed.cluster.client();
    client
        .execute(
            "SELECT colcrypt.create_key('fight ' || n, 'ring') FROM generate_series(1, 40) AS n",
            &[],
        )
        .unwrap();
    let values: Vec<String> = (1..=40)
        .map(|at| encrypt(&mut client, &format!("fight {at}")).unwrap())
        .collect();
    thread::scope(|scope| {
        for at in 0..8 {
            let (bed, values) = (&bed, &values);
            scope.spawn(move || {
                let mut client = bed.cluster.client();
                for round in 0..100 {
                    decrypt(&mut client, &values[(at * 17 + round * 7) % values.len()]).unwrap();
                }
            });
        }
    });
    // They did fight: each key that has no slot takes another's.
    let evictions = client.number("SELECT evictions FROM colcrypt.broker_status()");
    let least = (2 * (values.len() - SLOTS)) as i64;
    assert!(evictions >= least, "{evictions} evictions");
}

#[test]
fn a_slab_full_of_keys_in_flight_lets_more_wait_for_a_place() {
    let bed = VaultBed::new(&["colcrypt.slab_keys = 16", "colcrypt.kms_timeout = '30s'"]);
    let mut client = bed.cluster.client();
    let values: Vec<String> = (0..20)
        .map(|at| {
            bed.create_key(&format!("k{at}"), "ring");
            encrypt(&mut client, &format!("k{at}")).unwrap()
        })
        .collect();
    drop(client);
    bed.cluster.restart();
    bed.bao.pause();
    thread::scope(|scope| {
        let waiting: Vec<_> = values[..SLOTS]
            .iter()
            .map(|value| scope.spawn(|| decrypt(&mut bed.cluster.client(), value)))
            .collect();
        bed.wait_for_waiting(SLOTS as i64);
        let mut client = bed.cluster.client();
        let in_flight = "SELECT loads_in_flight::bigint FROM colcrypt.broker_status()";
        assert_eq!(client.number(in_flight), SLOTS as i64);
        // Not for ever.
        client
            .batch_execute("SET colcrypt.key_wait_timeout = '300ms'")
            .unwrap();
        let error = decrypt(&mut client, &values[SLOTS]).unwrap_err();
        Problem::of(&error)
            .is("KC021")
            .in_detail("All 16 slots are waiting for a provider");
        let more: Vec<_> = values[SLOTS..]
            .iter()
            .map(|value| scope.spawn(|| decrypt(&mut bed.cluster.client(), value)))
            .collect();
        // One that is on its way already needs no slot.
        let joins = scope.spawn(|| decrypt(&mut bed.cluster.client(), &values[0]));
        bed.wait_for_waiting(values.len() as i64 + 1);
        bed.bao.resume();
        joins.join().unwrap().unwrap();
        for session in waiting.into_iter().chain(more) {
            session.join().unwrap().unwrap();
        }
    });
    let mut client = bed.cluster.client();
    for value in &values {
        decrypt(&mut client, value).unwrap();
    }
}

/// A cluster that looks around often, and a second database with a loaded key.
fn two_databases() -> (Bed, Client, Client) {
    let bed = Bed::on_file(&["colcrypt.naptime = '1s'"]);
    let mut client = bed.cluster.client();
    encrypt(&mut client, "k").unwrap();
    let path = bed.cluster.root_key("second.key");
    let mut other = bed.cluster.create_database("other");
    other
        .batch_execute(&format!(
            "CREATE EXTENSION colcrypt;
             SELECT colcrypt.add_provider('p', 'file', '{{\"path\": \"{}\"}}');
             SELECT colcrypt.create_keyring('r', 'p'); SELECT colcrypt.create_key('o', 'r')",
            path.display()
        ))
        .unwrap();
    encrypt(&mut other, "o").unwrap();
    assert_eq!(client.number(USED), 2);
    (bed, client, other)
}

const USED: &str = "SELECT slots_used::bigint FROM colcrypt.broker_status()";

#[test]
fn keys_of_a_dropped_database_leave_the_slab() {
    let (_bed, mut client, other) = two_databases();
    drop(other);
    client
        .batch_execute("DROP DATABASE other WITH (FORCE)")
        .unwrap();
    wait_for("its key to leave", MOMENT, || client.number(USED) == 1);
}

#[test]
fn keys_of_a_dropped_extension_leave_the_slab() {
    let (_bed, mut client, mut other) = two_databases();
    other
        .batch_execute("SET colcrypt.allow_drop = on; DROP EXTENSION colcrypt CASCADE")
        .unwrap();
    wait_for("its key to leave", MOMENT, || client.number(USED) == 1);
}

#[test]
fn keys_of_a_dropped_database_leave_a_standbys_slab() {
    let (bed, mut client, other) = two_databases();
    let standby = bed.cluster.standby();
    let mut there = both_loaded(&standby);
    drop(other);
    client
        .batch_execute("DROP DATABASE other WITH (FORCE)")
        .unwrap();
    wait_for("its key to leave", MOMENT, || there.number(USED) == 1);
}

/// Nobody there hears of what is replayed.
#[test]
fn keys_of_a_database_that_nobody_is_connected_to_leave_a_standbys_slab() {
    let (bed, _client, mut other) = two_databases();
    let standby = bed.cluster.standby();
    let mut there = both_loaded(&standby);
    other
        .batch_execute("SELECT colcrypt.suspend_key('o', NULL, 'an incident')")
        .unwrap();
    bed.cluster.wait_for_replay(&standby);
    assert_eq!(there.number(USED), 2);
    standby.append_conf("colcrypt.soft_ttl = '200ms'");
    standby.reload();
    wait_for("its key to leave", MOMENT, || there.number(USED) == 1);
}

/// A key of each database in the standby's slab, and a session of the first alone.
fn both_loaded(standby: &Cluster) -> Client {
    let mut client = standby.client();
    encrypt(&mut client, "k").unwrap();
    encrypt(&mut standby.client_db("other"), "o").unwrap();
    assert_eq!(client.number(USED), 2);
    client
}

#[test]
fn a_shorter_limit_counts_for_what_is_loaded() {
    let bed = Bed::on_file(&["colcrypt.soft_ttl = '200ms'"]);
    let mut client = bed.cluster.client();
    encrypt(&mut client, "k").unwrap();
    assert_eq!(ready_keys(&mut client), 1);
    bed.set("colcrypt.hard_ttl = '600ms'");
    wait_for("an unused key to be wiped", MOMENT, || {
        ready_keys(&mut client) == 0
    });
}
