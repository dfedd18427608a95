//! What is told of jobs: figures of the run at hand, what holds one up, and what is left of dropped tables.

use colcrypt_tests::of_jobs::{fill, slow_table, wait_until_under_way};
use colcrypt_tests::wait_for;

use crate::common::{LONG, Sql, cluster, db, wait_for_jobs};

#[test]
fn a_job_that_is_sent_further_counts_its_own_rows() {
    let mut db = db();
    slow_table(&mut db.client, 600);
    db.client.run("SELECT rotate_key('k')");
    wait_until_under_way(&mut db.client);
    db.client.run("SELECT rotate_key('k')");
    wait_for_jobs(&mut db.client);
    let figures = "SELECT phase, rows_done <= 600, rows_per_second < 20000 FROM job_progress";
    let row = db.client.rows(figures).pop().unwrap();
    assert_eq!(row, ["done", "t", "t"].map(|text| Some(text.to_owned())));
}

#[test]
fn the_server_log_says_why_a_job_does_not_go_on() {
    let mut db = db();
    fill(&mut db.client, 10);
    let reason = format!("no more room in {}", db.name);
    db.client.run(&format!(
        "CREATE FUNCTION full_disk(v ciphertext) RETURNS boolean LANGUAGE plpgsql AS
             $$ BEGIN IF (colcrypt.ciphertext_info(v)).version > 1 THEN RAISE EXCEPTION USING ERRCODE = 'disk_full', MESSAGE = '{reason}'; END IF;
                RETURN true; END $$;
         ALTER TABLE t ADD CHECK (full_disk(v)); SELECT rotate_key('k')"
    ));
    wait_for("the log", LONG, || {
        cluster().log().contains(&format!("is put off: {reason}"))
    });
    db.client.run("SELECT cancel_job(max(job_id)) FROM job");
}

#[test]
fn registrations_of_dropped_tables_can_be_taken_away() {
    let mut db = db();
    fill(&mut db.client, 1);
    db.client.run("DROP TABLE t");
    db.client
        .run("SELECT unregister_column(relation, attribute) FROM protected_column");
    assert_eq!(db.client.one("SELECT count(*) FROM protected_column"), "0");
    // Whoever may not manage the key may not do that either.
    fill(&mut db.client, 1);
    let name = crate::common::role(&mut db.client);
    db.client.run(&format!(
        "DROP TABLE t; GRANT EXECUTE ON FUNCTION unregister_column TO {name}; GRANT SELECT ON protected_column TO {name}"
    ));
    let relation = db.client.one("SELECT relation::oid FROM protected_column");
    db.connect_as(&name).fails(
        "42501",
        &format!("SELECT colcrypt.unregister_column({relation}::regclass, 'v')"),
    );
}
