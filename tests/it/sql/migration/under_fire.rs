//! A migration in place whose server is taken from it in each of its phases: by the promotion of a standby, by kill -9
//! of the worker, by kill -9 of the postmaster. It ends by itself, every row is there, and no plaintext is in use.

use colcrypt_tests::of_columns::{SLOWLY, in_use, nothing_is_lost, slow, state};
use colcrypt_tests::of_jobs::{phases, rotate, versions};
use colcrypt_tests::{Cluster, process, wait_for};
use postgres::Client;

use crate::common::{self, LONG, Sql, wait_for_jobs};

const ROWS: u32 = 2500;

/// A server whose `people` have a shadow table beside them, and whose jobs take seconds for each of their phases.
fn server() -> (Cluster, Client) {
    let cluster = common::settings(Cluster::builder())
        .conf("colcrypt.job_rows_per_second = 800")
        .start();
    let mut client = cluster.create_database("work");
    common::make_key(&cluster, &mut client);
    client.run(&format!(
        "CREATE TABLE people (id int PRIMARY KEY, ssn text NOT NULL);
         INSERT INTO people SELECT g, 'plain ' || g FROM generate_series(1, {ROWS}) g;
         ANALYZE people;
         CREATE TABLE shadow WITH (autovacuum_enabled = false) AS SELECT id, ssn FROM people"
    ));
    slow(&mut client);
    (cluster, client)
}

/// Waits until the migration is in the midst of a phase. What is given back keeps it there as long as it lives, where
/// the phase does not last by itself.
fn reach(cluster: &Cluster, client: &mut Client, phase: &str) -> Client {
    let mut holder = cluster.client_db("work");
    match phase {
        "swapping" => {
            wait_for("the verification", LONG, || {
                state(client).starts_with("verifying")
            });
            holder.run("BEGIN; SELECT count(*) FROM people_encrypted");
            wait_for("tries of the swap", LONG, || {
                state(client).starts_with("swapping: ")
            });
            // What comes next must not be over before somebody looks.
            cluster.append_conf("colcrypt.job_rows_per_second = 200");
            cluster.reload();
        }
        "waiting for old transactions" => {
            holder.run("BEGIN; SELECT 1");
            assert!(state(client) != "done", "{phase} was over too soon");
            cluster.append_conf("colcrypt.job_rows_per_second = 2000");
            cluster.reload();
            wait_for(phase, LONG, || state(client).starts_with(phase));
        }
        _ => {
            wait_for(phase, LONG, || {
                let now = state(client);
                assert!(now != "done", "{phase} was over too soon");
                client.yes(&format!(
                    "SELECT phase = '{phase}' AND blocks_done > 0 FROM colcrypt.job_progress WHERE job_id = 1"
                ))
            });
            if phase == "scrubbing" {
                // It is not over before the next phase is asked for, however slow the machine is.
                cluster.append_conf("colcrypt.job_rows_per_second = 5");
                cluster.reload();
            }
        }
    }
    holder
}

/// A row that comes at the last moment.
fn write(client: &mut Client, id: u32) {
    client.run(&format!(
        "BEGIN; INSERT INTO people VALUES ({id}, 'plain {id}'); INSERT INTO shadow VALUES ({id}, 'plain {id}');
         UPDATE people SET ssn = 'plain new' WHERE id = {0}; UPDATE shadow SET ssn = 'plain new' WHERE id = {0}; COMMIT",
        id % ROWS
    ));
}

fn ends_well(cluster: &Cluster, client: &mut Client, rows: u32) {
    wait_for_jobs(client);
    assert_eq!(state(client), "done");
    nothing_is_lost(client);
    assert_eq!(
        versions(client, "people_encrypted", "ssn"),
        format!("1:{rows}")
    );
    assert_eq!(in_use(cluster, client, "people_encrypted", "plain "), 0);
    // Autovacuum may have gathered other texts with the word.
    assert_eq!(in_use(cluster, client, "pg_statistic", "plain 1"), 0);
    rotate(client);
    assert_eq!(
        versions(client, "people_encrypted", "ssn"),
        format!("2:{rows}")
    );
    nothing_is_lost(client);
}

fn promoted_while(phase: &str) {
    let (primary, mut client) = server();
    let standby = primary.standby();
    client.run(&format!("{SLOWLY})"));
    let holder = reach(&primary, &mut client, phase);
    write(&mut client, ROWS + 7);
    primary.wait_for_replay(&standby);
    process::kill9(primary.postmaster_pid());
    drop((client, holder));
    let mut watcher = standby.client_db("work");
    assert!(
        state(&mut watcher).starts_with(phase),
        "{}",
        state(&mut watcher)
    );
    nothing_is_lost(&mut watcher);
    standby.promote();
    nothing_is_lost(&mut watcher);
    write(&mut watcher, ROWS + 8);
    ends_well(&standby, &mut watcher, ROWS + 2);
}

#[test]
fn a_standby_promoted_while_rows_are_moved() {
    promoted_while("moving");
}

#[test]
fn a_standby_promoted_while_rows_are_verified() {
    promoted_while("verifying");
}

#[test]
fn a_standby_promoted_before_the_swap() {
    promoted_while("swapping");
}

#[test]
fn a_standby_promoted_while_rows_are_scrubbed() {
    promoted_while("scrubbing");
}

#[test]
fn a_standby_promoted_before_the_vacuum() {
    promoted_while("waiting for old transactions");
}

fn killed_in_every_phase(kill: impl Fn(&Cluster)) {
    let (cluster, mut client) = server();
    client.run(&format!("{SLOWLY})"));
    let all = [
        "moving",
        "verifying",
        "swapping",
        "scrubbing",
        "waiting for old transactions",
    ];
    for (at, phase) in (1..).zip(all) {
        let holder = reach(&cluster, &mut client, phase);
        write(&mut client, ROWS + at);
        kill(&cluster);
        drop(holder);
        client = cluster.client_db("work");
        nothing_is_lost(&mut client);
    }
    assert_eq!(phases(&mut client).len(), 1);
    ends_well(&cluster, &mut client, ROWS + 5);
}

#[test]
fn kill_9_of_the_worker_in_every_phase() {
    killed_in_every_phase(|cluster| {
        let before = cluster.crashes();
        let worker = || {
            cluster
                .children_titled("colcrypt maintenance worker")
                .first()
                .copied()
        };
        wait_for("a worker", LONG, || {
            worker().is_some_and(process::kill9_if_there)
        });
        cluster.wait_for_recovery(before);
    });
}

#[test]
fn kill_9_of_the_postmaster_in_every_phase() {
    killed_in_every_phase(|cluster| {
        process::kill9(cluster.postmaster_pid());
        // Its children notice and end; until then their shared memory is in the way.
        wait_for("the server to start again", LONG, || {
            cluster.try_start().is_ok()
        });
    });
}
