//! Kind 5: code of a table's owner holds up neither records and counts, nor destructions and emergencies, nor for long
//! the jobs on other tables; and a job over which workers die ends.

use colcrypt_tests::{Cluster, process, wait_for};
use postgres::Client;

use crate::common::{LONG, Sql, cluster, db, role, set_up, settings, unique};

/// A cluster in which a statement on somebody's table may take two seconds.
fn impatient() -> Cluster {
    let cluster = settings(Cluster::builder())
        .conf("colcrypt.owner_code_timeout = '2s'")
        .conf("colcrypt.destruction_window_floor = '0'")
        .conf("colcrypt.usage_flush_interval = '200ms'")
        .start();
    set_up(&cluster);
    cluster
}

/// A database in which mallory's table is registered under a key of his, `mine`; `owner_code` makes it slow. All else
/// is the administrator's, under key `k`.
struct Scene {
    client: Client,
}

/// How mallory's table comes to run what never ends. SLOW is the code.
const WAYS: [(&str, &str); 4] = [
    (
        "CHECK",
        "CREATE FUNCTION slow(int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN SLOW RETURN true; END $$;
         ALTER TABLE notes ADD CHECK (slow(id)) NOT VALID",
    ),
    (
        "trigger",
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN SLOW RETURN NEW; END $$;
         CREATE TRIGGER slow BEFORE UPDATE ON notes FOR EACH ROW EXECUTE FUNCTION slow();
         ALTER TABLE notes ENABLE ALWAYS TRIGGER slow",
    ),
    (
        "index",
        "CREATE FUNCTION slow(bytea) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
             $$ BEGIN IF EXISTS (SELECT FROM m.armed) THEN SLOW END IF; RETURN 1; END $$;
         CREATE INDEX ON notes (slow(v::bytea)); INSERT INTO armed VALUES (1)",
    ),
    (
        "context",
        "CREATE FUNCTION slow(int) RETURNS bytea LANGUAGE plpgsql STABLE AS
             $$ BEGIN IF EXISTS (SELECT FROM m.armed) THEN SLOW END IF; RETURN '\\x01'; END $$;
         INSERT INTO armed VALUES (1)",
    ),
];

const SLEEPS: &str = "PERFORM pg_sleep(1000);";
/// Code that hears of its end and goes on.
const STUBBORN: &str =
    "LOOP BEGIN PERFORM pg_sleep(1000); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP;";

fn scene(cluster: &Cluster, way: &str, code: &str) -> Scene {
    let name = unique("fair");
    cluster
        .client()
        .run(&format!("CREATE DATABASE {name} TEMPLATE tpl"));
    let mut client = cluster.client_db(&name);
    client.run("SET search_path = public, colcrypt");
    let mallory = role(&mut client);
    client.run(&format!(
        "CREATE SCHEMA m AUTHORIZATION {mallory}; GRANT USAGE ON SCHEMA m TO PUBLIC;
         SELECT create_key('mine', 'ring');
         CREATE TABLE m.armed (n int);
         CREATE TABLE m.notes (id int, v ciphertext);
         INSERT INTO m.notes SELECT g, encrypt_col('x', 'mine', '\\x01'::bytea) FROM generate_series(1, 20) g;
         ALTER TABLE m.armed OWNER TO {mallory}; ALTER TABLE m.notes OWNER TO {mallory};
         CREATE TABLE payment (id int, v ciphertext);
         INSERT INTO payment SELECT g, encrypt_col('x', 'k') FROM generate_series(1, 500) g;
         SELECT register_column('payment', 'v', 'k', 'none')"
    ));
    let mut owner = cluster.client_db(&name);
    owner.run(&format!(
        "SET SESSION AUTHORIZATION {mallory}; SET search_path = m, colcrypt"
    ));
    let (_, sql) = WAYS.iter().find(|(known, _)| *known == way).unwrap();
    owner.run(&sql.replace("SLOW", code));
    let context = if way == "context" {
        "m.slow(id)"
    } else {
        "''\\x01''::bytea"
    };
    client.run(&format!(
        "SELECT register_column('m.notes', 'v', 'mine', '{context}')"
    ));
    Scene { client }
}

impl Scene {
    fn phase(&mut self, table: &str) -> String {
        self.client.one(&format!(
            "SELECT coalesce((SELECT phase FROM job_progress WHERE relation = '{table}'::regclass ORDER BY job_id DESC LIMIT 1), 'none')"
        ))
    }

    fn a_worker_is_at_it(&mut self) {
        wait_for("a worker in the owner's code", LONG, || {
            assert_ne!(
                self.phase("m.notes"),
                "failed",
                "{}",
                self.client
                    .one("SELECT string_agg(last_error, '; ') FROM job_progress")
            );
            self.client.yes(
                "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'colcrypt maintenance worker'
                                AND datname = current_database() AND wait_event = 'PgSleep')",
            )
        });
    }
}

/// While it sleeps, and whatever its setting: here the time is so long that nothing of it ends before the rest is seen.
#[test]
fn what_must_not_wait_stands_behind_nobodys_code() {
    let cluster = impatient();
    let mut scene = scene(&cluster, "CHECK", SLEEPS);
    scene.client.run(
        "SELECT create_key('due', 'ring'); CREATE TABLE used AS SELECT encrypt_col('x', 'due') AS v; DROP TABLE used;
         SELECT rotate_key('due'); SELECT rotate_key('mine')",
    );
    scene.a_worker_is_at_it();
    let worker = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'colcrypt maintenance worker' AND datname = current_database()";
    // The worker stops altogether: nothing of what follows can be its.
    let pid: i32 = scene.client.one(worker).parse().unwrap();
    process::signal(pid, "STOP");
    scene.client.run(
        "SELECT encrypt_col('x', 'k') FROM generate_series(1, 77);
         SELECT schedule_key_destruction('due', 1, interval '0', 'test');
         SELECT mark_compromised('k', 1, 'test')",
    );
    wait_for("the record", LONG, || {
        scene
            .client
            .yes("SELECT EXISTS (SELECT FROM audit_log WHERE event = 'mark_compromised')")
    });
    wait_for("the count", LONG, || {
        scene.client.yes(
            "SELECT EXISTS (SELECT FROM version_usage u JOIN key k USING (key_id) WHERE k.name = 'k' AND version = 1 AND encryptions >= 577)",
        )
    });
    wait_for("the emergency's rows", LONG, || {
        scene
            .client
            .yes("SELECT bool_and((ciphertext_info(v)).version = 2) FROM payment")
    });
    // What waits for old transactions waits for this one as for any other, and it has its limit.
    process::signal(pid, "CONT");
    wait_for("the destruction", LONG, || {
        scene
            .client
            .yes("SELECT EXISTS (SELECT FROM key_status WHERE key = 'due' AND state = 'destroyed')")
    });
    wait_for("the emergency's job", LONG, || {
        scene.phase("payment") == "done"
    });
}

#[test]
fn an_owners_code_has_a_time_limit_and_others_their_turn() {
    let cluster = impatient();
    for (way, _) in WAYS {
        for code in [SLEEPS, STUBBORN] {
            let mut scene = scene(&cluster, way, code);
            scene.client.run("SELECT rotate_key('mine')");
            println!("{way}, {code}");
            scene.a_worker_is_at_it();
            scene.client.run("SELECT rotate_key('k')");
            wait_for("the other table's job", LONG, || {
                scene.phase("payment") == "done"
            });
            assert_ne!(scene.phase("m.notes"), "done", "{way}");
            wait_for("the word of it", LONG, || {
                scene.client.yes(
                    "SELECT count(*) = 1 FROM job_progress WHERE last_error LIKE '%colcrypt.owner_code_timeout%'",
                )
            });
            assert_eq!(
                scene
                    .client
                    .one("SELECT count(DISTINCT (ciphertext_info(v)).version) FROM m.notes"),
                "1",
                "{way}"
            );
        }
    }
}

#[test]
fn a_job_that_takes_too_long_again_and_again_fails_and_can_be_tried_again() {
    let cluster = impatient();
    let mut scene = scene(&cluster, "context", SLEEPS);
    scene.client.run("SELECT rotate_key('mine')");
    wait_for("the end of it", LONG * 2, || {
        scene.phase("m.notes") == "failed"
    });
    let said = scene
        .client
        .one("SELECT last_error FROM job_progress ORDER BY job_id DESC LIMIT 1");
    assert!(
        said.contains("colcrypt.owner_code_timeout (2000 ms)"),
        "{said}"
    );
    assert_eq!(scene.client.one("SELECT count(*) FROM job_error"), "0");
    scene
        .client
        .run("DELETE FROM m.armed; SELECT retry_job(max(job_id)) FROM job_progress");
    wait_for("the retry", LONG, || scene.phase("m.notes") == "done");
}

/// Whoever kills the worker, or what: the third time is enough.
#[test]
fn a_job_over_which_workers_die_is_given_up_and_others_go_on() {
    let cluster = settings(Cluster::builder()).start();
    set_up(&cluster);
    cluster.client().run("CREATE DATABASE fatal TEMPLATE tpl");
    let connect = || {
        let mut client = cluster.client_db("fatal");
        client.run("SET search_path = public, colcrypt");
        client
    };
    let mut client = connect();
    client.run(
        "CREATE FUNCTION deadly(int) RETURNS bytea LANGUAGE plpgsql STABLE AS $$ BEGIN PERFORM pg_sleep(1000); RETURN ''; END $$;
         SELECT create_key('mine', 'ring');
         CREATE TABLE notes (id int, v ciphertext); INSERT INTO notes SELECT 1, encrypt_col('x', 'mine');
         CREATE TABLE payment (id int, v ciphertext); INSERT INTO payment SELECT g, encrypt_col('x', 'k') FROM generate_series(1, 50) g;
         SELECT register_column('notes', 'v', 'mine', 'public.deadly(id)'), register_column('payment', 'v', 'k', 'none');
         SELECT rotate_key('mine')",
    );
    drop(client);
    let mut deaths = 0;
    loop {
        let mut client = connect();
        let mut victim = None;
        wait_for("a worker at it, or its end", LONG, || {
            let found = client.rows(
                "SELECT pid FROM pg_stat_activity WHERE backend_type = 'colcrypt maintenance worker' AND wait_event = 'PgSleep'",
            );
            victim = found.first().and_then(|row| row[0].clone());
            victim.is_some() || client.yes("SELECT bool_or(phase = 'failed') FROM job_progress")
        });
        drop(client);
        let Some(pid) = victim else { break };
        let crashes = cluster.crashes();
        process::kill9(pid.parse().unwrap());
        cluster.wait_for_recovery(crashes);
        deaths += 1;
        assert!(deaths <= 4, "it goes on for ever");
    }
    assert!(deaths >= 3, "{deaths}");
    let mut client = connect();
    assert!(
        client
            .one("SELECT last_error FROM job_progress WHERE phase = 'failed'")
            .contains("workers in a row died over this job")
    );
    client.run("SELECT rotate_key('k')");
    wait_for("the other table's job", LONG, || {
        client.yes(
            "SELECT bool_or(phase = 'done' AND relation = 'payment'::regclass) FROM job_progress",
        )
    });
}

/// Whatever a role locks by itself, and whatever owners' code gives back, keeps no worker from its work.
#[test]
fn no_lock_that_a_role_can_take_keeps_the_workers_away() {
    let mut db = db();
    db.client.run(
        "CREATE FUNCTION gives_back(int) RETURNS bytea LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_unlock_all(); RETURN ''; END $$;
         SELECT create_key('mine', 'ring');
         CREATE TABLE notes (id int, v ciphertext);
         INSERT INTO notes SELECT g, encrypt_col('x', 'mine', ''::bytea) FROM generate_series(1, 20) g;
         CREATE TABLE payment (id int, v ciphertext); INSERT INTO payment SELECT g, encrypt_col('x', 'k') FROM generate_series(1, 50) g;
         SELECT register_column('notes', 'v', 'mine', 'public.gives_back(id)'), register_column('payment', 'v', 'k', 'none')",
    );
    let stranger = role(&mut db.client);
    let mut stranger = db.connect_as(&stranger);
    // The numbers that releases had, and those that come to mind.
    stranger.run(
        "SELECT pg_advisory_lock(x'636f6c6372797074'::bigint + g) FROM generate_series(0, 9) g;
         SELECT pg_advisory_lock(x'636f6c63'::int, g) FROM generate_series(0, 50) g;
         SELECT pg_advisory_lock(0, g), pg_advisory_lock(1, g) FROM generate_series(0, 50) g",
    );
    let complaints = || cluster().log().matches("you don't own a lock").count();
    let before = complaints();
    db.client
        .run("SELECT rotate_key('k'); SELECT rotate_key('mine')");
    for table in ["payment", "notes"] {
        wait_for(table, LONG, || {
            db.client.yes(&format!(
            "SELECT count(*) = 1 FROM job_progress WHERE relation = '{table}'::regclass AND phase = 'done'"
        ))
        });
    }
    wait_for("the record", LONG, || {
        db.client
            .yes("SELECT count(*) = 2 FROM audit_log WHERE event = 'rotate_key'")
    });
    assert_eq!(complaints(), before);
}

/// What takes long is ours: no owner's code is to blame, so one long text holds up no search index for good.
#[test]
fn terms_of_a_long_text_take_the_time_they_take() {
    let cluster = impatient();
    let mut client = cluster.create_database(&unique("long"));
    crate::common::make_key(&cluster, &mut client);
    client.run(
        "SET search_path = public, colcrypt; SELECT create_key('s', 'ring', 'hmac-sha-256');
         CREATE TABLE t (id int PRIMARY KEY, v ciphertext); SELECT register_column('t', 'v', 'k', 'none');
         INSERT INTO t SELECT 1, encrypt_col(string_agg(encode(sha512(g::text::bytea), 'base64'), ''), 'k') FROM generate_series(1, 40000) g;
         SELECT create_search_index('t', 'v', 'text')",
    );
    wait_for("the index", LONG * 2, || {
        client.yes("SELECT phase IN ('done', 'failed') FROM job_progress")
    });
    assert_eq!(
        client.one("SELECT phase || coalesce(last_error, '') FROM job_progress"),
        "done"
    );
}
