//! Search indexes in copies of a database, and through the end of its processes.

use colcrypt_tests::of_search::{
    index, people, sealed, terms_are_right, wait_for_good_jobs, wrong_terms,
};
use colcrypt_tests::process::{self, run};
use colcrypt_tests::{Cluster, wait_for};
use postgres::Client;

use crate::common::{self, LONG, Sql, unique};

/// A server of its own with the database `work`, a search key in it, and table `t`.
fn server(builder: colcrypt_tests::cluster::Builder, rows: u32) -> (Cluster, Client) {
    let cluster = common::settings(builder).start();
    let mut client = cluster.create_database("work");
    common::make_key(&cluster, &mut client);
    client
        .run("SET search_path = public, colcrypt; SELECT create_key('s', 'ring', 'hmac-sha-256')");
    people(&mut client, rows);
    (cluster, client)
}

fn connect(cluster: &Cluster) -> Client {
    let mut client = cluster.client_db("work");
    client.run("SET search_path = public, colcrypt");
    client
}

#[test]
fn a_dump_takes_it_along() {
    let mut db = colcrypt_tests::of_search::with_search_key();
    people(&mut db.client, 200);
    index(&mut db.client, ", is_unique => true");
    let dump = common::cluster().dump(&db.name);
    let name = unique("restored");
    let mut copy = common::cluster().create_database(&name);
    common::cluster().restore(&dump, &name);
    copy.run("SET search_path = public, colcrypt");
    terms_are_right(&mut copy);
    assert_eq!(
        copy.one("SELECT state || ' ' || tgenabled::text FROM search_companion, pg_trigger WHERE tgfoid = 'colcrypt.keep_terms()'::regprocedure"),
        "ready A"
    );
    copy.run(&format!(
        "INSERT INTO t VALUES (500, {})",
        sealed("'new'", "500")
    ));
    copy.fails(
        "23505",
        &format!(
            "INSERT INTO t VALUES (501, {})",
            sealed("'p7@example.org'", "501")
        ),
    );
    terms_are_right(&mut copy);
    assert_eq!(
        copy.number(
            "SELECT id FROM t WHERE email_term = search_term('t', 'email', 'p7@example.org'::text)"
        ),
        7
    );
}

/// A dump has no jobs: what was being made is ordered again.
#[test]
fn one_that_was_being_made_is_ordered_again_in_a_copy() {
    let mut db = colcrypt_tests::of_search::with_search_key();
    people(&mut db.client, 50);
    let mut holder = db.connect();
    holder.run("BEGIN; SELECT pg_current_xact_id()");
    let c = &mut db.client;
    c.run("SELECT create_search_index('t', 'email')");
    wait_for("the rows to be filled", LONG, || {
        c.yes("SELECT phase = 'waiting for old transactions' FROM job_progress")
    });
    let dump = common::cluster().dump(&db.name);
    holder.run("COMMIT");
    let name = unique("restored");
    let mut copy = common::cluster().create_database(&name);
    common::cluster().restore(&dump, &name);
    copy.run("SET search_path = public, colcrypt");
    assert_eq!(copy.one("SELECT state FROM search_companion"), "building");
    index(&mut copy, "");
    assert_eq!(copy.one("SELECT state FROM search_companion"), "ready");
    terms_are_right(&mut copy);
    copy.fails("42710", "SELECT create_search_index('t', 'email')");
}

/// Terms that were being made anew may be those of other values, so a copy makes all of them.
#[test]
fn one_that_was_being_made_anew_is_made_anew_in_a_copy() {
    let mut db = colcrypt_tests::of_search::with_search_key();
    people(&mut db.client, 50);
    index(&mut db.client, ", is_unique => true");
    db.client.run(&format!(
        "BEGIN; ALTER TABLE t DISABLE TRIGGER \"~colcrypt:terms\"; UPDATE t SET email = {} WHERE id = 3;
         ALTER TABLE t ENABLE ALWAYS TRIGGER \"~colcrypt:terms\";
         SELECT pause_job(job_id) FROM job_progress WHERE finished_at IS NULL; COMMIT",
        sealed("'moved'", "3")
    ));
    let dump = common::cluster().dump(&db.name);
    let name = unique("restored");
    let mut copy = common::cluster().create_database(&name);
    common::cluster().restore(&dump, &name);
    copy.run("SET search_path = public, colcrypt");
    assert_eq!(copy.one("SELECT state FROM search_companion"), "building");
    assert_eq!(copy.number(&wrong_terms("email_term", 1)), 1);
    index(&mut copy, ", is_unique => true");
    assert_eq!(copy.one("SELECT state FROM search_companion"), "ready");
    terms_are_right(&mut copy);
    copy.fails(
        "23505",
        &format!("INSERT INTO t VALUES (0, {})", sealed("'moved'", "0")),
    );
}

#[test]
fn kill_9_of_the_worker_in_every_phase() {
    let builder = Cluster::builder().conf("colcrypt.job_rows_per_second = 400");
    let (cluster, mut client) = server(builder, 2000);
    client.run("SELECT create_search_index('t', 'email', is_unique => true)");
    let in_phase = |client: &mut Client, phase: &str| {
        wait_for(phase, LONG, || {
            client.yes(&format!(
                "SELECT phase = '{phase}' AND (phase <> 'filling' OR blocks_done > 0) FROM job_progress WHERE job_id = 1"
            ))
        });
    };
    let kill = || {
        let before = cluster.crashes();
        let worker = || cluster.children_titled("colcrypt maintenance worker");
        wait_for("a worker", LONG, || {
            worker()
                .first()
                .is_some_and(|pid| process::kill9_if_there(*pid))
        });
        cluster.wait_for_recovery(before);
    };
    in_phase(&mut client, "filling");
    kill();
    let mut client = connect(&cluster);
    client.run(&format!(
        "INSERT INTO t VALUES (5000, {})",
        sealed("'between'", "5000")
    ));
    let mut holder = connect(&cluster);
    holder.run("BEGIN; SELECT pg_current_xact_id()");
    in_phase(&mut client, "waiting for old transactions");
    // The worker that comes knows nobody of before. It would begin with the index: not before the next transaction has.
    let window = client.one(
        "SELECT to_char(t + interval '1 hour', 'HH24:MI-') || to_char(t + interval '62 minutes', 'HH24:MI')
         FROM (SELECT now() AT TIME ZONE current_setting('log_timezone') AS t) n",
    );
    cluster.append_conf(&format!("colcrypt.job_window = '{window}'"));
    kill();
    let mut late = connect(&cluster);
    late.run("BEGIN; UPDATE t SET n = 5 WHERE id = 5");
    let mut client = connect(&cluster);
    client.run("UPDATE t SET email = email WHERE id = 1; SELECT retry_job(1) WHERE false");
    cluster.append_conf("colcrypt.job_window = ''");
    cluster.reload();
    wait_for("the index to be made", LONG, || {
        client.yes("SELECT count(*) = 1 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relname = 't_email_term_idx' AND NOT i.indisvalid")
    });
    kill();
    let mut client = connect(&cluster);
    wait_for_good_jobs(&mut client);
    terms_are_right(&mut client);
    assert_eq!(
        client.one("SELECT count(*) || ' ' || bool_and(i.indisvalid) FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] \
                    WHERE i.indrelid = 't'::regclass AND a.attname = 'email_term'"),
        "1 true"
    );
    client.fails(
        "23505",
        &format!(
            "INSERT INTO t VALUES (0, {})",
            sealed("'p7@example.org'", "0")
        ),
    );
}

#[test]
fn a_standby_finds_by_it_and_goes_on_with_the_job() {
    let builder = Cluster::builder().conf("colcrypt.job_rows_per_second = 400");
    let (cluster, mut client) = server(builder, 1500);
    index(&mut client, "");
    let standby = cluster.standby();
    cluster.wait_for_replay(&standby);
    let mut reader = connect(&standby);
    assert_eq!(
        reader.number(
            "SELECT id FROM t WHERE email_term = search_term('t', 'email', 'p7@example.org'::text)"
        ),
        7
    );
    client.run("SELECT rotate_key('s')");
    wait_for("rows to be filled", LONG, || {
        client.yes("SELECT bool_or(phase = 'filling' AND blocks_done > 0) FROM job_progress")
    });
    cluster.wait_for_replay(&standby);
    cluster.stop_immediately();
    drop(reader);
    standby.promote();
    let mut client = connect(&standby);
    wait_for_good_jobs(&mut client);
    assert_eq!(client.number(&wrong_terms("email_term2", 2)), 0);
    assert_eq!(
        client.one("SELECT string_agg(attribute || ' ' || state, ', ') FROM search_companion"),
        "email_term2 ready"
    );
}

/// Whether the publisher sends terms along or not, a subscriber's are those of its values.
#[test]
fn a_subscriber_has_the_terms_of_its_rows() {
    for published in ["t", "t (id, email, n)"] {
        let (publisher, mut client) = server(Cluster::builder().conf("wal_level = logical"), 100);
        index(&mut client, "");
        let dump = publisher.dump("work");
        client.run(&format!("CREATE PUBLICATION p FOR TABLE {published}"));
        let subscriber = common::settings(Cluster::builder()).start();
        let mut reader = subscriber.create_database("work");
        subscriber.restore(&dump, "work");
        reader.run("SET search_path = public, colcrypt; TRUNCATE t");
        reader.run(&format!(
            "CREATE SUBSCRIPTION s CONNECTION 'host={} port=5432 user=postgres dbname=work' PUBLICATION p",
            publisher.dir().display()
        ));
        let same = "SELECT count(*) || ' ' || coalesce(sum(hashtext(email::text)), 0) FROM t";
        let catches_up = |client: &mut Client, reader: &mut Client| {
            let wanted = client.one(same);
            wait_for("the rows", LONG, || reader.one(same) == wanted);
            terms_are_right(reader);
        };
        catches_up(&mut client, &mut reader);
        client.run(&format!(
            "INSERT INTO t VALUES (500, {}); UPDATE t SET email = {} WHERE id = 1; UPDATE t SET n = 2; UPDATE t SET email = NULL WHERE id = 2;
             UPDATE t SET email = reencrypt_col(email, place_context('t.email', id)) WHERE id < 20",
            sealed("'new'", "500"),
            sealed("'other'", "1")
        ));
        catches_up(&mut client, &mut reader);
        reader.run("DROP SUBSCRIPTION s");
    }
}

/// What the publisher sent has been asked for there. What a table owner's code writes at a subscriber has not.
#[test]
fn code_that_a_change_sets_off_makes_no_terms_by_the_right_to_apply() {
    let (publisher, mut client) = server(Cluster::builder().conf("wal_level = logical"), 1);
    client.run(
        "CREATE TABLE inbox (id int PRIMARY KEY); CREATE TABLE probe (id int PRIMARY KEY, v bytea);
         CREATE PUBLICATION p FOR TABLE inbox; CREATE PUBLICATION q FOR TABLE probe",
    );
    let (subscriber, mut reader) = server(Cluster::builder(), 5);
    reader.run(
        "CREATE ROLE mallory; CREATE TABLE inbox (id int PRIMARY KEY); CREATE TABLE probe (id int PRIMARY KEY, v ciphertext);
         CREATE FUNCTION ctx(int) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$ SELECT colcrypt.place_context('t.email', $1) $$;
         SELECT register_column('probe', 'v', 'k', 'public.ctx(id)', plaintext_type => 'text');
         SELECT create_search_index('probe', 'v')",
    );
    wait_for_good_jobs(&mut reader);
    reader.run(
        "ALTER TABLE inbox OWNER TO mallory; ALTER TABLE probe OWNER TO mallory; GRANT SELECT ON t TO mallory;
         CREATE FUNCTION copies() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS
             $$ BEGIN INSERT INTO probe SELECT id, email FROM t; RETURN NULL; END $$;
         CREATE FUNCTION brings() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN NEW.v := (SELECT email FROM public.t WHERE id = NEW.id); RETURN NEW; END $$;
         ALTER FUNCTION copies() OWNER TO mallory;
         CREATE TRIGGER copies AFTER INSERT ON inbox FOR EACH ROW EXECUTE FUNCTION copies();
         ALTER TABLE inbox ENABLE ALWAYS TRIGGER copies;
         CREATE TRIGGER brings BEFORE INSERT ON probe FOR EACH ROW EXECUTE FUNCTION brings();
         ALTER TABLE probe ENABLE ALWAYS TRIGGER brings",
    );
    let refused = |log: &str| log.matches("a value of column").count();
    let mut before = 0;
    let version: i32 = client
        .one("SELECT current_setting('server_version_num')::int / 10000")
        .parse()
        .expect("a number");
    for (publication, table) in [("p", "inbox"), ("q", "probe")] {
        // Before 16 changes are applied as the superuser who subscribed: a trigger's code is his to let in.
        if publication == "q" && version < 16 {
            continue;
        }
        reader.run(&format!(
            "CREATE SUBSCRIPTION {publication} CONNECTION 'host={} port=5432 user=postgres dbname=work' PUBLICATION {publication}",
            publisher.dir().display()
        ));
        client.run(&format!("INSERT INTO {table} VALUES (1)"));
        wait_for("a refusal", LONG, || refused(&subscriber.log()) > before);
        assert_eq!(reader.number("SELECT count(*) FROM probe"), 0, "{table}");
        reader.run(&format!("DROP SUBSCRIPTION {publication}"));
        before = refused(&subscriber.log());
    }
}

/// A dump of the rows alone, restored past the triggers, as pg_restore does it.
#[test]
fn rows_restored_past_the_trigger_are_looked_at() {
    let (cluster, mut client) = server(Cluster::builder(), 100);
    index(&mut client, "");
    let rows = cluster.dir().join("rows.dump");
    run(cluster
        .command("pg_dump")
        .args(["-Fc", "-a", "-t", "t", "-d", "work", "-f"])
        .arg(&rows));
    client.run("TRUNCATE t");
    run(cluster
        .command("pg_restore")
        .args(["--exit-on-error", "--disable-triggers", "-a", "-d", "work"])
        .arg(&rows));
    wait_for_good_jobs(&mut client);
    terms_are_right(&mut client);
    assert_eq!(
        client.one("SELECT state || ' ' || tgenabled::text FROM search_companion, pg_trigger WHERE tgfoid = 'colcrypt.keep_terms()'::regprocedure"),
        "ready A"
    );
}
