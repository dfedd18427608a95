//! Waiting for a key that does not come: it can be cancelled, ends with its time-outs, holds nobody else
//! up, and leaves nothing behind.

use std::thread;
use std::time::{Duration, Instant};

use colcrypt_tests::bed::{Bed, MOMENT, VaultBed, decrypt, encrypt, wait_until_ok};
use colcrypt_tests::db::Sql;
use colcrypt_tests::problem::{Problem, failed};
use postgres::NoTls;

const AT_ONCE: Duration = Duration::from_secs(3);

/// A bed whose key server answers nobody for longer than any test lasts, and a value nobody has the
/// key for; a second keyring is on a key file.
fn hung() -> (VaultBed, String) {
    let bed = VaultBed::new(&[
        "colcrypt.kms_timeout = '60s'",
        "colcrypt.soft_ttl = '10min'",
    ]);
    bed.add_file_keyring("local");
    bed.create_key("near", "local");
    let value = encrypt(&mut bed.cluster.client(), "k").unwrap();
    bed.cluster.restart();
    bed.bao.pause();
    (bed, value)
}

/// Runs a statement with a setting; how it failed and how long that took.
fn fails_with(bed: &Bed, setting: &str, value: &str) -> (Problem, Duration) {
    let mut client = bed.cluster.client();
    client.batch_execute(setting).unwrap();
    let began = Instant::now();
    let problem = bed.refused(&mut client, value);
    let took = began.elapsed();
    assert_eq!(client.number("SELECT 1::bigint"), 1, "the session lives on");
    (problem, took)
}

#[test]
fn cancel_and_timeouts_end_the_wait_at_once() {
    let (bed, value) = hung();
    let (problem, took) = fails_with(&bed, "SET statement_timeout = '300ms'", &value);
    assert_eq!(problem.code, "57014");
    assert!(took < AT_ONCE, "{took:?}");

    let (problem, took) = fails_with(&bed, "SET colcrypt.key_wait_timeout = '300ms'", &value);
    problem.is("KC020").in_detail("The broker runs");
    assert!(
        took >= Duration::from_millis(300) && took < AT_ONCE,
        "{took:?}"
    );

    let mut client = bed.cluster.client();
    let cancel = client.cancel_token();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| (failed(decrypt(&mut client, &value)), Instant::now()));
        bed.wait_for_waiting(1);
        let asked = Instant::now();
        cancel.cancel_query(NoTls).unwrap();
        let (problem, ended) = waiting.join().unwrap();
        assert_eq!(problem.code, "57014");
        assert!(ended - asked < AT_ONCE);
    });
    // An administrative call waits in another way: for a reply, not for a slot of the slab.
    let mut client = bed.cluster.client();
    client
        .batch_execute("SET statement_timeout = '300ms'")
        .unwrap();
    let began = Instant::now();
    let problem = failed(client.execute("SELECT colcrypt.check_provider('bao')", &[]));
    assert_eq!(problem.code, "57014");
    assert!(began.elapsed() < AT_ONCE);

    bed.bao.resume();
    wait_until_ok("the key, when the server goes on", MOMENT, || {
        decrypt(&mut bed.cluster.client(), &value)
    });
}

#[test]
fn a_hung_provider_holds_no_other_keyring_up() {
    let (bed, value) = hung();
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let (mut client, value) = (bed.cluster.client(), value.clone());
            thread::spawn(move || decrypt(&mut client, &value))
        })
        .collect();
    bed.wait_for_waiting(20);
    let began = Instant::now();
    let mut client = bed.cluster.client();
    let near = encrypt(&mut client, "near").unwrap();
    decrypt(&mut client, &near).unwrap();
    bed.create_key("another", "local");
    bed.add_file_keyring("third");
    encrypt(&mut client, "another").unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    bed.bao.resume();
    for session in waiting {
        session.join().unwrap().unwrap();
    }
}

/// Ends 200 waiting sessions, 20 at a time, in the given way: more than the queue has places.
fn end_many(bed: &Bed, sql: &str, ending: &str) {
    let mut admin = bed.cluster.client();
    for _ in 0..10 {
        let (pids, sessions): (Vec<i32>, Vec<_>) = (0..20)
            .map(|_| {
                let mut client = bed.cluster.client();
                let pid: i32 = client
                    .query_one("SELECT pg_backend_pid()", &[])
                    .unwrap()
                    .get(0);
                let sql = sql.to_owned();
                (pid, thread::spawn(move || client.execute(&sql, &[])))
            })
            .unzip();
        bed.wait_for_waiting(20);
        let began = Instant::now();
        let ended = format!("SELECT bool_and({ending}(pid)) FROM unnest($1::int4[]) AS pid");
        assert!(admin.query_one(&ended, &[&pids]).unwrap().get::<_, bool>(0));
        for session in sessions {
            let error = session.join().unwrap().unwrap_err();
            // A terminated session's last word may be lost with its connection.
            if !error.is_closed() {
                let problem = Problem::of(&error);
                assert!(
                    ["57014", "57P01"].contains(&problem.code.as_str()),
                    "{problem:?}"
                );
            }
        }
        assert!(
            began.elapsed() < Duration::from_secs(3),
            "{:?}",
            began.elapsed()
        );
    }
}

#[test]
fn sessions_that_were_ended_leave_no_place_taken() {
    let (bed, value) = hung();
    let pids = bed.pids();
    let load = format!("SELECT colcrypt.decrypt_col('{value}'::colcrypt.ciphertext)");
    end_many(&bed, &load, "pg_cancel_backend");
    end_many(&bed, &load, "pg_terminate_backend");
    let call = "SELECT colcrypt.check_provider('bao')";
    end_many(&bed, call, "pg_cancel_backend");
    end_many(&bed, call, "pg_terminate_backend");

    // The queue serves others as before.
    let began = Instant::now();
    let mut client = bed.cluster.client();
    encrypt(&mut client, "near").unwrap();
    client
        .execute("SELECT colcrypt.check_provider('local')", &[])
        .unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    bed.bao.resume();
    decrypt(&mut client, &value).unwrap();
    client
        .execute("SELECT colcrypt.check_provider('bao')", &[])
        .unwrap();
    assert_eq!(bed.pids(), pids, "nothing crashed");
}

#[test]
fn a_full_queue_is_an_error_and_empties_when_its_sessions_give_up() {
    const PLACES: usize = 64;
    let (bed, value) = hung();
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..PLACES)
            .map(|_| {
                let mut client = bed.cluster.client();
                let cancel = client.cancel_token();
                let session = scope
                    .spawn(move || client.execute("SELECT colcrypt.check_provider('bao')", &[]));
                (cancel, session)
            })
            .collect();
        bed.wait_for_waiting(PLACES as i64);
        let (problem, took) = fails_with(&bed, "SET colcrypt.key_wait_timeout = '300ms'", &value);
        problem.is("KC022");
        assert!(took < AT_ONCE, "{took:?}");
        for (cancel, session) in waiting {
            cancel.cancel_query(NoTls).unwrap();
            assert_eq!(failed(session.join().unwrap()).code, "57014");
        }
    });
    encrypt(&mut bed.cluster.client(), "near").unwrap();
}
