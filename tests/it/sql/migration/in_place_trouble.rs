//! Migrations disturbed: long transactions, triggers switched off, values that cannot be moved, rotations, crashes.

use colcrypt_tests::of_columns::{SLOWLY, migrate, nothing_is_lost, people, slow, state};
use colcrypt_tests::of_jobs::versions;
use std::time::{Duration, Instant};

use colcrypt_tests::{Cluster, process, wait_for};
use postgres::Client;

use crate::common::{Db, LONG, Sql, cluster, make_key, settings, unique, wait_for_jobs};

/// As `people`, and a context function that takes a millisecond a row.
fn slow_people(rows: u32) -> Db {
    let mut db = people(rows);
    slow(&mut db.client);
    db
}

/// Pauses the job in a phase, after its first batches.
fn pause_while(client: &mut Client, phase: &str) {
    // In the server: on a busy machine the phase would be over by the time a client has asked twice.
    client.run(&format!(
        "DO $$ BEGIN
             WHILE NOT (SELECT phase = '{phase}' AND blocks_done > 0 FROM colcrypt.job_progress WHERE job_id = 1) LOOP
                 PERFORM pg_catalog.pg_sleep(0.002);
                 COMMIT;
             END LOOP;
             PERFORM colcrypt.pause_job(1);
         END $$"
    ));
    assert!(state(client).starts_with(phase), "{}", state(client));
}

#[test]
fn nobody_queues_up_behind_a_migration_that_waits_for_a_long_transaction() {
    for step in ["queued", "swapping"] {
        let mut db = slow_people(600);
        let mut holder = db.connect();
        if step == "queued" {
            holder.run("BEGIN; SELECT count(*) FROM people");
        }
        db.client.run(&format!("{SLOWLY})"));
        if step == "swapping" {
            wait_for("the verification", LONG, || {
                state(&mut db.client) == "verifying"
            });
            holder.run("BEGIN; SELECT count(*) FROM people");
        }
        wait_for("tries", LONG, || {
            db.client.yes(&format!(
                "SELECT phase = '{step}' AND last_error IS NOT NULL FROM job_progress"
            ))
        });
        let mut slowest = Duration::ZERO;
        for id in 1..=60 {
            let began = Instant::now();
            db.client
                .run(&format!("UPDATE people SET ssn = 'n' WHERE id = {id}"));
            slowest = slowest.max(began.elapsed());
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(slowest < Duration::from_secs(2), "{slowest:?}");
        holder.run("COMMIT");
        wait_for_jobs(&mut db.client);
        assert_eq!(state(&mut db.client), "done");
        assert!(
            db.client
                .yes("SELECT bool_and(ssn = 'n') FROM people WHERE id <= 60")
        );
    }
}

#[test]
fn rows_that_were_written_behind_its_back_are_found_and_mended() {
    let mut db = slow_people(1200);
    db.client.run(&format!("{SLOWLY})"));
    pause_while(&mut db.client, "verifying");
    db.client.run(
        "ALTER TABLE people_encrypted DISABLE TRIGGER USER;
         UPDATE people_encrypted SET ssn = 'behind its back' WHERE id <= 20;
         UPDATE shadow SET ssn = 'behind its back' WHERE id <= 20;
         SELECT resume_job(1)",
    );
    // The trigger is off: no swap. What a pass touches stays out of step, and it does not run after it.
    let size = "SELECT pg_relation_size('people_encrypted')";
    let before: f64 = db.client.one(size).parse().unwrap();
    wait_for("the reason", LONG, || {
        state(&mut db.client).contains("missing or switched off")
    });
    let after: f64 = db.client.one(size).parse().unwrap();
    assert!(after < before * 1.6, "{:.2} times the size", after / before);
    db.client.run(
        "ALTER TABLE people_encrypted ENABLE TRIGGER USER;
         ALTER TABLE people_encrypted ENABLE ALWAYS TRIGGER \"~colcrypt_1\"",
    );
    // Also a twin that somebody wrote himself.
    db.client
        .run("UPDATE people_encrypted SET ssn_encrypted = NULL WHERE id = 30");
    wait_for_jobs(&mut db.client);
    assert_eq!(state(&mut db.client), "done");
    nothing_is_lost(&mut db.client);
}

#[test]
fn it_is_cancelled_in_any_phase_before_the_swap_and_not_after() {
    for phase in ["moving", "verifying"] {
        let mut db = slow_people(1200);
        db.client.run(&format!("{SLOWLY})"));
        pause_while(&mut db.client, phase);
        db.client.run("INSERT INTO people (ssn) VALUES ('meanwhile'); INSERT INTO shadow SELECT max(id), 'meanwhile' FROM people");
        db.client.run("SELECT cancel_job(1)");
        wait_for_jobs(&mut db.client);
        assert_eq!(state(&mut db.client), "cancelled");
        nothing_is_lost(&mut db.client);
        assert_eq!(
            db.client.one(
                "SELECT string_agg(relname || relkind::text, ',') FROM pg_class WHERE relname LIKE 'people%' AND relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')"
            ),
            "peopler"
        );
        assert_eq!(
            db.client.one(
                "SELECT count(*) FROM pg_attribute WHERE attrelid = 'people'::regclass AND attnum > 0 AND NOT attisdropped"
            ),
            "4"
        );
        migrate(&mut db.client, "encrypt_column('people', 'ssn', 'k')");
        let failure = db.client.fails("55000", "SELECT cancel_job(2)");
        assert!(failure.message.contains("done"), "{}", failure.message);
        nothing_is_lost(&mut db.client);
    }
}

#[test]
fn a_rotation_meanwhile_is_made_good_afterwards() {
    let mut db = slow_people(1000);
    db.client.run(&format!("{SLOWLY})"));
    pause_while(&mut db.client, "moving");
    db.client
        .run("SELECT rotate_key('k'); SELECT resume_job(1)");
    wait_for_jobs(&mut db.client);
    assert_eq!(
        db.client
            .one("SELECT string_agg(kind || ' ' || phase, ', ' ORDER BY job_id) FROM job_progress"),
        "encrypt_column done, reencrypt_column done"
    );
    assert_eq!(versions(&mut db.client, "people_encrypted", "ssn"), "2:900");
    nothing_is_lost(&mut db.client);
}

#[test]
fn values_that_cannot_be_decrypted_stop_the_way_back() {
    let mut db = people(300);
    migrate(
        &mut db.client,
        "encrypt_column('people', 'ssn', 'k', access_view => false)",
    );
    let spoil = "UPDATE people SET ssn = set_byte(ssn::bytea, length(ssn::bytea) - 1, get_byte(ssn::bytea, length(ssn::bytea) - 1) # 1)::ciphertext
                 WHERE id IN (3, 7)";
    db.client.run(spoil);
    db.client.run("SELECT decrypt_column('people', 'ssn')");
    wait_for_jobs(&mut db.client);
    assert!(
        state(&mut db.client).starts_with("failed: "),
        "{}",
        state(&mut db.client)
    );
    assert_eq!(
        db.client.one(
            "SELECT string_agg(p.id::text, ',' ORDER BY p.id) FROM job_error e JOIN people p ON p.ctid = e.row_ctid WHERE reason LIKE '%authenticate%'"
        ),
        "3,7"
    );
    // The column is as it was, and another order waits for this one's end.
    assert!(
        db.client
            .yes("SELECT count(*) = 270 FROM people WHERE (ciphertext_info(ssn)).key = 'k'")
    );
    db.client
        .fails("55000", "SELECT decrypt_column('people', 'ssn')")
        .says("cancel_job");
    db.client.run(spoil);
    db.client.run("SELECT retry_job(2)");
    wait_for_jobs(&mut db.client);
    assert_eq!(state(&mut db.client), "done");
    nothing_is_lost(&mut db.client);
}

#[test]
fn it_says_what_still_holds_plaintext() {
    let mut db = people(100);
    migrate(&mut db.client, "encrypt_column('people', 'ssn', 'k')");
    let left = db
        .client
        .rows("SELECT place, state, remedy FROM plaintext_left(1)");
    let left: Vec<String> = left
        .into_iter()
        .map(|row| row.into_iter().flatten().collect::<Vec<_>>().join(": "))
        .collect();
    for part in [
        "the column: dropped at ",
        "rows and dead row versions: every row was written anew and the table vacuumed",
        "VACUUM FULL public.people_encrypted",
        "WAL: up to the end of the job",
        "backups and dumps: all that were made before",
        "statistics (pg_statistic): dropped",
        "log_statement = none",
    ] {
        assert!(
            left.iter().any(|line| line.contains(part)),
            "no {part:?} in {left:#?}"
        );
    }
    assert_eq!(
        db.client.one("SELECT count(*) FROM plaintext_left(99)"),
        "0"
    );
}

/// Jobs are not dumped: what a migration has put up so far does nothing without its own.
#[test]
fn a_dump_in_the_midst_of_a_migration_restores_a_table_that_works() {
    let mut db = slow_people(600);
    db.client.run(&format!("{SLOWLY})"));
    pause_while(&mut db.client, "verifying");
    let dump = cluster().dump(&db.name);
    let copy = unique("restored");
    drop(cluster().create_database(&copy));
    cluster().restore(&dump, &copy);
    db.client.run("SELECT cancel_job(1)");
    let mut restored = cluster().client_db(&copy);
    restored.run("SET search_path = public, colcrypt");
    nothing_is_lost(&mut restored);
    restored.run(
        "INSERT INTO people (ssn) VALUES ('new'); UPDATE people SET ssn = 'changed' WHERE id = 1",
    );
    assert_eq!(
        restored.one("SELECT string_agg(ssn, ',' ORDER BY id) FROM people WHERE id IN (1, 601)"),
        "changed,new"
    );
    restored.run(
        "DROP TRIGGER \"~colcrypt_1\" ON people_encrypted; ALTER TABLE people_encrypted DROP COLUMN ssn_encrypted",
    );
    migrate(&mut restored, "encrypt_column('people', 'ssn', 'k')");
    assert_eq!(
        restored.one("SELECT ssn FROM people WHERE id = 1"),
        "changed"
    );
    wait_for_jobs(&mut db.client);
}

/// kill -9 of the worker, which takes the whole server down, in every phase; and a crash of the server itself.
#[test]
fn a_crash_at_any_instant_loses_nothing_and_it_goes_on() {
    let cluster = settings(Cluster::builder()).start();
    let mut client = cluster.client();
    make_key(&cluster, &mut client);
    client.run(
        "CREATE TABLE people (id int PRIMARY KEY, ssn text, owner int NOT NULL DEFAULT 0);
         INSERT INTO people SELECT g, 'plain ' || g FROM generate_series(1, 1500) g;
         CREATE TABLE shadow WITH (autovacuum_enabled = false) AS SELECT id, ssn FROM people",
    );
    slow(&mut client);
    client.run(&format!("{SLOWLY})"));
    for (kill, phase) in ["queued", "moving", "verifying", "scrubbing", "moving"]
        .into_iter()
        .enumerate()
    {
        wait_for(phase, LONG, || {
            let now = state(&mut client);
            now.starts_with(phase)
                || phase == "queued"
                || (phase == "moving" && kill > 1 || now.starts_with("done"))
        });
        client.run(&format!(
            "INSERT INTO people (id, ssn) VALUES ({0}, 'written {0}'); INSERT INTO shadow VALUES ({0}, 'written {0}')",
            2000 + kill
        ));
        drop(client);
        match cluster.pids_of("colcrypt maintenance worker").first() {
            Some(&worker) if kill % 2 == 0 && process::kill9_if_there(worker) => {
                wait_for("the server", LONG, || {
                    !process::is_alive(worker) && cluster.config().connect(postgres::NoTls).is_ok()
                });
            }
            _ => {
                cluster.stop_immediately();
                cluster.start();
            }
        }
        client = cluster.client();
    }
    wait_for_jobs(&mut client);
    assert_eq!(state(&mut client), "done");
    nothing_is_lost(&mut client);
    assert!(client.yes(
        "SELECT count(*) = 1505 AND bool_and((colcrypt.ciphertext_info(ssn)).key = 'k') FROM people_encrypted"
    ));
}
