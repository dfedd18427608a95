//! Suspension and revocation reach every session at its next statement, however warm it is: prepared
//! statements, open cursors, functions, parallel workers, and sessions of a standby.

use colcrypt_tests::Cluster;
use colcrypt_tests::problem::Problem;
use postgres::{Client, NoTls};

use crate::common::{self, Db, Sql, db, role};

const ALL: &str = "SELECT count(*) FROM t WHERE colcrypt.decrypt_col(v) = 'v' || id";

/// 3000 rows under version 1, of which version 2 is the current one.
fn fill(client: &mut Client, reader: &str) {
    client.run(&format!(
        "CREATE TABLE t (id int, v colcrypt.ciphertext);
         INSERT INTO t SELECT g, colcrypt.encrypt_col('v' || g, 'k') FROM generate_series(1, 3000) g;
         CREATE FUNCTION peek(wanted int) RETURNS text LANGUAGE plpgsql AS
             $$ BEGIN RETURN (SELECT colcrypt.decrypt_col(v) FROM public.t WHERE id = wanted); END $$;
         GRANT SELECT ON t TO {reader};
         SELECT colcrypt.grant_key('k', '{reader}')"
    ));
}

fn table() -> (Db, String) {
    let mut db = db();
    let reader = role(&mut db.client);
    fill(&mut db.client, &reader);
    (db, reader)
}

/// A session with everything warm: a generic plan, a portal that is half read, a cursor, a function.
struct Warm {
    client: Client,
    prepared: postgres::Statement,
}

const FORMS: [&str; 6] = [
    ALL,
    "EXECUTE d(7)",
    "FETCH 1 FROM c",
    "SELECT peek(8)",
    "EXECUTE e",
    "DO $$ BEGIN FOR i IN 1..3 LOOP PERFORM public.peek(i); END LOOP; END $$",
];

impl Warm {
    fn new(mut client: Client) -> Self {
        client.run(
            "SET plan_cache_mode = force_generic_plan;
             PREPARE d(int) AS SELECT colcrypt.decrypt_col(v) FROM t WHERE id = $1;
             PREPARE e AS SELECT length(colcrypt.encrypt_col('x', 'k')::bytea)",
        );
        let prepared = client
            .prepare("SELECT colcrypt.decrypt_col(v) FROM t WHERE id = $1")
            .unwrap();
        let mut warm = Self { client, prepared };
        warm.begin();
        warm.works();
        warm.client.run("COMMIT");
        warm
    }

    /// A transaction with an open cursor.
    fn begin(&mut self) {
        self.client
            .run("BEGIN; DECLARE c CURSOR FOR SELECT colcrypt.decrypt_col(v) FROM t ORDER BY id; FETCH 5 FROM c");
    }

    /// In a transaction with the cursor.
    fn works(&mut self) {
        for form in FORMS {
            self.client.run(form);
        }
        self.client.query_one(&self.prepared, &[&9]).unwrap();
    }

    /// Every form of use fails, each in a transaction of its own; so does the cursor opened before.
    fn is_refused(&mut self, code: &str, encrypts: bool) -> Problem {
        // The transaction that began before: its next statement is the cursor's.
        let failure = self.client.fails(code, "FETCH 1 FROM c");
        self.client.run("ROLLBACK");
        for form in FORMS {
            if form.contains("FROM c") || (form == "EXECUTE e" && encrypts) {
                continue;
            }
            self.client.fails(code, form);
        }
        let error = self.client.query_one(&self.prepared, &[&9]).unwrap_err();
        Problem::of(&error).coded(code);
        failure
    }
}

#[test]
fn a_suspension_reaches_warm_sessions_at_their_next_statement() {
    let (mut db, reader) = table();
    let mut admin = Warm::new(db.connect());
    let mut user = Warm::new(db.connect_as(&reader));
    for round in 0..3 {
        admin.begin();
        user.begin();
        user.works();
        db.client.run("SELECT suspend_key('k', reason => 'a test')");
        // The key is in memory no more, before anybody asks for it.
        assert_eq!(
            db.client
                .one("SELECT count(*) FROM cache_status WHERE state = 'ready'"),
            "0",
            "round {round}"
        );
        for warm in [&mut admin, &mut user] {
            let failure = warm.is_refused("KC001", false);
            assert!(
                failure.message.ends_with("it is suspended"),
                "{}",
                failure.message
            );
            assert!(
                failure.detail.starts_with("It is suspended since 20")
                    && failure.detail.ends_with(", by postgres."),
                "{}",
                failure.detail
            );
        }
        db.client.run("SELECT resume_key('k')");
        for warm in [&mut admin, &mut user] {
            warm.begin();
            warm.works();
            warm.client.run("COMMIT");
        }
    }
}

#[test]
fn a_statement_under_way_ends_too_when_the_key_is_suspended() {
    let (mut db, _) = table();
    let mut other = db.connect();
    let pid = other.one("SELECT pg_backend_pid()");
    std::thread::scope(|scope| {
        let long = scope.spawn(move || {
            other.fails(
                "KC001",
                "SELECT count(decrypt_col(v)), pg_sleep(min(0)) FROM (SELECT v, pg_sleep(0.02) FROM t ORDER BY id OFFSET 0) r",
            )
        });
        colcrypt_tests::wait_for("the long statement", common::LONG, || {
            db.client.yes(&format!(
                "SELECT coalesce(wait_event = 'PgSleep', false) FROM pg_stat_activity WHERE pid = {pid}"
            ))
        });
        db.client.run("SELECT suspend_key('k', reason => 'now')");
        long.join().unwrap();
    });
}

#[test]
fn a_revocation_reaches_warm_sessions_at_their_next_statement() {
    let (mut db, reader) = table();
    let mut user = Warm::new(db.connect_as(&reader));
    user.begin();
    user.works();
    db.client.run(&format!(
        "SELECT revoke_key('k', '{reader}', '{{decrypt}}')"
    ));
    user.is_refused("42501", true);
    user.client.run("EXECUTE e");
    db.client.run(&format!(
        "SELECT revoke_key('k', '{reader}', '{{encrypt}}')"
    ));
    user.client.fails("42501", "EXECUTE e");
}

#[test]
fn a_suspension_reaches_parallel_workers() {
    let (mut db, _) = table();
    let mut other = db.connect();
    other.run(
        "SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
         SET min_parallel_table_scan_size = 0; SET parallel_leader_participation = off; SET plan_cache_mode = force_generic_plan",
    );
    other.run(&format!("PREPARE p AS {ALL}"));
    let plan = other.rows("EXPLAIN (ANALYZE, COSTS OFF) EXECUTE p");
    assert!(
        format!("{plan:?}").contains("Workers Launched: 2"),
        "{plan:?}"
    );
    assert_eq!(other.one("EXECUTE p"), "3000");
    db.client.run("SELECT suspend_key('k', reason => 'a test')");
    other
        .fails("KC001", "EXECUTE p")
        .says("it is suspended")
        .says("parallel worker");
    db.client.run("SELECT resume_key('k')");
    assert_eq!(other.one("EXECUTE p"), "3000");
}

#[test]
fn a_standby_obeys_when_replay_gets_there() {
    let primary = common::settings(Cluster::builder()).start();
    let mut client = primary.create_database("work");
    common::make_key(&primary, &mut client);
    client.run("CREATE ROLE reader LOGIN; CREATE ROLE officer SUPERUSER LOGIN");
    fill(&mut client, "reader");
    let standby = primary.standby();
    primary.wait_for_replay(&standby);
    let connect = |role: &str| {
        standby
            .config()
            .dbname("work")
            .user(role)
            .connect(NoTls)
            .unwrap()
    };
    let mut admin = Warm::new(connect("postgres"));
    let mut user = Warm::new(connect("reader"));
    let mut officer = primary
        .config()
        .dbname("work")
        .user("officer")
        .connect(NoTls)
        .unwrap();

    for (verb, undo, state) in [
        (
            "suspend_key('k', reason => 'a test')",
            "resume_key('k')",
            "suspended",
        ),
        (
            "deactivate_key('k'), colcrypt.archive_key('k', 1)",
            "recover_key('k', 1, 'a test')",
            "archived",
        ),
    ] {
        admin.begin();
        user.begin();
        user.works();
        officer.run(&format!("SELECT colcrypt.{verb}"));
        primary.wait_for_replay(&standby);
        for warm in [&mut admin, &mut user] {
            let failure = warm.is_refused("KC001", false);
            assert!(
                failure.message.ends_with(state) && failure.detail.ends_with(", by officer."),
                "{} {}",
                failure.message,
                failure.detail
            );
        }
        officer.run(&format!("SELECT colcrypt.{undo}"));
        if state == "archived" {
            officer.run("SELECT colcrypt.rotate_key('k')");
        }
        primary.wait_for_replay(&standby);
        for warm in [&mut admin, &mut user] {
            warm.begin();
            warm.works();
            warm.client.run("COMMIT");
        }
    }

    user.begin();
    user.works();
    officer.run("SELECT colcrypt.revoke_key('k', 'reader')");
    primary.wait_for_replay(&standby);
    user.is_refused("42501", false);
    admin.client.run(ALL);
    // Looking needs no right to write; the verbs do.
    assert_eq!(
        admin
            .client
            .one("SELECT rows FROM colcrypt.rows_needing_key('k', 1)"),
        "3000"
    );
    for verb in [
        "suspend_key('k', reason => 'x')",
        "mark_compromised('k', reason => 'x')",
        "create_key_version('k')",
    ] {
        admin
            .client
            .fails("25006", &format!("SELECT colcrypt.{verb}"));
    }

    // Destroyed is destroyed here too.
    officer.run(
        "CREATE TABLE old AS SELECT v::bytea AS v FROM t LIMIT 1; DELETE FROM t;
         SELECT colcrypt.schedule_key_destruction('k', 1, '1 second', 'a test')",
    );
    crate::keys::lifecycle_destruction::wait_until_destroyed(&mut officer, 1);
    primary.wait_for_replay(&standby);
    admin
        .client
        .fails(
            "KC030",
            "SELECT colcrypt.decrypt_col(v::colcrypt.ciphertext) FROM old",
        )
        .says("as ordered by officer");
    assert_eq!(
        admin.client.one(
            "SELECT count(*) FROM colcrypt.cache_status WHERE version = 1 AND state = 'ready'"
        ),
        "0"
    );
}
