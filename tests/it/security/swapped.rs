//! Kind 2: whatever a table is swapped for while a function of ours waits for it, the code of whoever swapped it runs
//! with nobody else's rights: not as a view's, nor as an index's, a policy's or a statistic's. And what the server
//! plans or runs for a table that is no other's, it runs as its owner.

use std::sync::mpsc;
use std::time::Duration;

use colcrypt_tests::wait_for;
use postgres::Client;

use crate::common::{LONG, Sql, cluster, unique};
use crate::held::{Scene, scene};

/// A view in the table's place.
pub const VIEW: &str = "DROP TABLE SCHEMA.t; SET SESSION AUTHORIZATION MALLORY;
     CREATE VIEW SCHEMA.t AS SELECT 1::bigint AS id, SCHEMA.evil2() AS c, 'x'::text AS p";

/// A table in its place, with the same rows, in which everything that may be code is mallory's. Functions of constants
/// run when somebody plans.
pub const TABLE: &str = "ALTER TABLE SCHEMA.t RENAME TO before;
     CREATE TABLE SCHEMA.t (id bigint, c colcrypt.ciphertext, p text, g bigint GENERATED ALWAYS AS (id) STORED);
     INSERT INTO SCHEMA.t SELECT id, c, p FROM SCHEMA.before; DROP TABLE SCHEMA.before;
     ALTER TABLE SCHEMA.t OWNER TO MALLORY; SET SESSION AUTHORIZATION MALLORY; SLY
     ALTER TABLE SCHEMA.t DROP g, ADD CHECK (SCHEMA.sly(id) > SCHEMA.sly(-1)), ALTER p SET DEFAULT SCHEMA.sly(2)::text,
         ADD g bigint GENERATED ALWAYS AS (SCHEMA.sly(id + SCHEMA.sly(3))) STORED;
     CREATE INDEX ON SCHEMA.t (SCHEMA.sly(id + SCHEMA.sly(4))) WHERE SCHEMA.sly(5) > 0;
     CREATE STATISTICS SCHEMA.st ON (SCHEMA.sly(id) + SCHEMA.sly(6)), id FROM SCHEMA.t; ANALYZE SCHEMA.t;
     CREATE POLICY p ON SCHEMA.t USING (SCHEMA.sly(id) > SCHEMA.sly(-7)); ALTER TABLE SCHEMA.t ENABLE ROW LEVEL SECURITY;
     ALTER TABLE SCHEMA.t FORCE ROW LEVEL SECURITY";

/// The same table, by its OID, as a view: until PostgreSQL 16 an empty table could become one.
pub const BECOMES_A_VIEW: &str = "ALTER TABLE SCHEMA.t OWNER TO MALLORY; SET SESSION AUTHORIZATION MALLORY; DELETE FROM SCHEMA.t;
     CREATE RULE \"_RETURN\" AS ON SELECT TO SCHEMA.t DO INSTEAD SELECT 1::bigint AS id, SCHEMA.evil2() AS c, 'x'::text AS p";

/// Calls that go through the rows of one table, and of all.
const WALKS: [&str; 2] = [
    "SELECT * FROM take_census('SCHEMA.t', 'c')",
    "SELECT register_column('SCHEMA.t', 'c', 'ka')",
];
const ARCHIVE: &str = "SELECT archive_key('ka', 1, 'test')";
const NEEDING: &str = "SELECT * FROM rows_needing_key('ka', 2)";
const COMPROMISED: &str = "SELECT mark_compromised('ka', 2, 'test')";

/// Calls that order something to be done with a table.
const ORDERS: [&str; 6] = [
    "SELECT move_column('SCHEMA.t', 'c', 'k', accept_unplaced => true)",
    "SELECT rebind_column('SCHEMA.t', 'c', accept_unplaced => true)",
    "SELECT * FROM decrypt_column('SCHEMA.t', 'c', accept_unplaced => true)",
    "SELECT * FROM encrypt_column('SCHEMA.t', 'p', 'ka', access_view => false)",
    "SELECT * FROM encrypt_column('SCHEMA.t', 'p', 'ka', 'colcrypt.row_context(id)', access_view => false)",
    "SELECT create_access_view('SCHEMA.t', 'seen')",
];

/// A statement of these tests, with the names that it is about.
pub fn about(scene: &Scene, sql: &str) -> String {
    sql.replace(
        "SLY",
        "CREATE FUNCTION SCHEMA.sly(bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS
             $$ BEGIN PERFORM SCHEMA.evil2(); RETURN $1; END $$;",
    )
    .replace("SCHEMA", &scene.schema)
    .replace("MALLORY", &scene.mallory)
}

/// Whether somebody waits for a lock on the table.
pub fn is_wanted(client: &mut Client, schema: &str) -> bool {
    client.yes(&format!(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = '{schema}.t'::regclass AND NOT granted)"
    ))
}

/// The same, in another schema of mallory's: a scene of its own takes a second.
fn next(mut scene: Scene) -> Scene {
    scene.schema = unique("s");
    scene.db.client.run(&format!(
        "CREATE SCHEMA {} AUTHORIZATION {}",
        scene.schema, scene.mallory
    ));
    let sql = "CREATE TABLE SCHEMA.t (id bigint, c ciphertext, p text);
         INSERT INTO SCHEMA.t SELECT g, encrypt_col('x', 'ka') FROM generate_series(1, 5) g;
         SELECT register_column('SCHEMA.t', 'c', 'ka')";
    let sql = about(&scene, sql);
    scene.db.client.run(&sql);
    let evil2 = about(
        &scene,
        "CREATE FUNCTION SCHEMA.evil2() RETURNS colcrypt.ciphertext LANGUAGE plpgsql VOLATILE AS
             $$ BEGIN INSERT INTO public.who VALUES (current_user); RETURN NULL; END $$",
    );
    scene.db.connect_as(&scene.mallory).run(&evil2);
    scene
}

/// Runs each call in a table's scene of its own, so that it waits for the table, which is swapped meanwhile.
fn swapped_under(swap: &str, calls: &[&str]) {
    let crashes = cluster().crashes();
    let mut scene = scene();
    for call in calls {
        let sql = about(&scene, call);
        let mut swapper = scene.db.connect();
        swapper.run(&about(&scene, "BEGIN; LOCK TABLE SCHEMA.t"));
        let (done, is_done) = mpsc::channel();
        std::thread::scope(|scope| {
            let mut caller = scene.db.connect();
            scope.spawn(move || {
                // It may well be refused: what counts is whose code ran.
                let _ = caller.simple_query(&sql);
                done.send(()).unwrap();
            });
            wait_for("the caller to wait", LONG, || {
                assert!(
                    is_done.recv_timeout(Duration::from_millis(20)).is_err(),
                    "{call} did not wait"
                );
                is_wanted(&mut swapper, &scene.schema)
            });
            swapper.run(&about(&scene, swap));
            swapper.run("COMMIT");
        });
        assert_eq!(cluster().crashes(), crashes, "{call}: the server crashed");
        scene.nobody_ran_it(call);
        // Jobs that were ordered have no table, or another's; the lines that are registered hold up nobody after this.
        scene.db.client.run(
            "SELECT cancel_job(job_id) FROM job_progress WHERE finished_at IS NULL AND phase <> 'cancelling'",
        );
        scene = next(scene);
    }
}

fn calls(others: &[&'static str]) -> Vec<&'static str> {
    [others, &WALKS, &ORDERS].concat()
}

#[test]
fn a_view_in_the_tables_place() {
    swapped_under(VIEW, &calls(&[ARCHIVE]));
}

#[test]
fn a_table_full_of_code_in_the_tables_place() {
    swapped_under(TABLE, &calls(&[COMPROMISED]));
}

#[test]
fn a_table_that_becomes_a_view() {
    if can_become_a_view() {
        swapped_under(BECOMES_A_VIEW, &calls(&[NEEDING]));
    }
}

pub fn can_become_a_view() -> bool {
    cluster().client().one("SHOW server_version_num").as_str() < "160000"
}

/// What the server plans of it, it folds: a function of a constant runs then, with the rights of who plans.
#[test]
fn what_is_planned_for_a_table_full_of_code_runs_as_its_owner() {
    let mut scene = scene();
    let schema = scene.schema.clone();
    let setup = about(&scene, TABLE);
    scene.db.connect().run(&setup);
    let whole = about(
        &scene,
        "CREATE TABLE SCHEMA.whole (id bigint, c colcrypt.ciphertext, p text)
             PARTITION BY RANGE ((SCHEMA.sly(id) + SCHEMA.sly(8)));
         CREATE TABLE SCHEMA.part PARTITION OF SCHEMA.whole FOR VALUES FROM (0) TO (100);
         ALTER TABLE SCHEMA.part ADD CHECK (SCHEMA.sly(9) > 0);
         CREATE STATISTICS SCHEMA.parts ON (SCHEMA.sly(id) + SCHEMA.sly(10)), id FROM SCHEMA.part",
    );
    scene.db.connect_as(&scene.mallory).run(&whole);
    scene.db.client.run(&about(
        &scene,
        "INSERT INTO SCHEMA.whole SELECT id, c, p FROM SCHEMA.t; UPDATE SCHEMA.whole SET p = 'x'; TRUNCATE public.who",
    ));
    let steps = [
        "SELECT register_column('SCHEMA.t', 'c', 'ka', 'none'), register_column('SCHEMA.whole', 'c', 'ka', 'none')",
        "SELECT register_column('SCHEMA.t', 'c', 'ka', 'SCHEMA.sly(11)::text::bytea')",
        "SELECT register_column('SCHEMA.t', 'c', 'ka', 'none')",
        "SELECT * FROM take_census('SCHEMA.t', 'c'); SELECT * FROM take_census('SCHEMA.whole', 'c')",
        "SELECT * FROM rows_needing_key('ka', 2)",
        // With a policy that is forced a job does nothing but say so.
        "SELECT reencrypt_column('SCHEMA.t', 'c')",
        "ALTER TABLE SCHEMA.t NO FORCE ROW LEVEL SECURITY",
        "SELECT rotate_key('ka')",
        "SELECT move_column('SCHEMA.t', 'c', 'k', accept_unplaced => true), move_column('SCHEMA.whole', 'c', 'k', accept_unplaced => true)",
        "SELECT rebind_column('SCHEMA.t', 'c', accept_unplaced => true), rebind_column('SCHEMA.whole', 'c', accept_unplaced => true)",
        "SELECT * FROM encrypt_column('SCHEMA.whole', 'p', 'ka', access_view => false, accept_losses => true);
         SELECT * FROM encrypt_column('SCHEMA.t', 'p', 'ka', access_view => false, accept_losses => true)",
        "SELECT * FROM decrypt_column('SCHEMA.whole', 'p', accept_unplaced => true, accept_losses => true);
         SELECT * FROM decrypt_column('SCHEMA.t', 'p', accept_unplaced => true, accept_losses => true)",
        "SELECT create_access_view('SCHEMA.t')",
        "SELECT mark_compromised('k', 1, 'test')",
    ];
    for step in steps {
        let sql = about(&scene, step);
        // The table's owner owns the views, too; the superuser's own statements are his own affair.
        scene.db.client.run(&sql);
        wait_for(step, LONG, || {
            scene.db.client.yes("SELECT NOT EXISTS (SELECT FROM job_progress WHERE finished_at IS NULL AND last_error IS NULL)")
        });
        scene.nobody_ran_it(step);
    }
    assert_ne!(
        scene.db.client.one("SELECT count(*) FROM public.who"),
        "0",
        "{schema}: her code ran, as hers"
    );
    assert_eq!(
        scene.db.client.one("SELECT coalesce(string_agg(DISTINCT concat_ws(' ', kind, phase, last_error), '; '), '') FROM job_progress WHERE phase <> 'done'"),
        ""
    );
}
