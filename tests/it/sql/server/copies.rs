//! Copies of a server made in the middle of a rotation, by every means there is: each decrypts everything, and
//! goes on with what was left to do.

use colcrypt_tests::of_jobs::{
    phases, rotate, slow_table, still_under_way, versions, wait_until_under_way,
};
use std::fs;
use std::path::PathBuf;

use colcrypt_tests::cluster::Builder;
use colcrypt_tests::process::{self, run};
use colcrypt_tests::{Cluster, wait_for};
use postgres::Client;

use crate::common::{self, LONG, Sql, cluster, db, role, wait_for_jobs};

const ROWS: u32 = 2000;
const RIGHT: &str = "SELECT count(*) FROM t WHERE colcrypt.decrypt_col(v, NULL::text, int4send(id)) = 'secret ' || id";
const MIXED: &str = "SELECT count(DISTINCT (colcrypt.ciphertext_info(v)).version) = 2 FROM t";

/// A server whose table `t` is being moved to version 2, and will be for seconds.
fn in_mid_rotation(builder: Builder) -> (Cluster, Client) {
    let cluster = common::settings(builder)
        .conf("colcrypt.batch_blocks = 1")
        .start();
    let mut client = cluster.create_database("work");
    common::make_key(&cluster, &mut client);
    slow_table(&mut client, ROWS);
    client.run("SELECT colcrypt.rotate_key('k')");
    wait_until_under_way(&mut client);
    (cluster, client)
}

/// All rows are right as they are, some of them still under the old version; the job ends by itself, and the next
/// rotation works, too.
fn goes_on(copy: &Cluster, how: &str) {
    let mut client = copy.client_db("work");
    assert!(
        client.yes(MIXED),
        "{how}: not in the middle of the rotation"
    );
    assert_eq!(client.one(RIGHT), ROWS.to_string(), "{how}");
    wait_for_jobs(&mut client);
    assert_eq!(phases(&mut client), ["done"], "{how}");
    assert_eq!(
        versions(&mut client, "t", "v"),
        format!("2:{ROWS}"),
        "{how}"
    );
    assert_eq!(client.one(RIGHT), ROWS.to_string(), "{how}");
    client.run("CREATE OR REPLACE FUNCTION slow(id int) RETURNS bytea LANGUAGE sql AS $$ SELECT pg_catalog.int4send(id) $$");
    rotate(&mut client);
    assert_eq!(
        versions(&mut client, "t", "v"),
        format!("3:{ROWS}"),
        "{how}"
    );
    assert_eq!(client.one(RIGHT), ROWS.to_string(), "{how}");
    assert!(client.yes("SELECT ok FROM colcrypt.verify_audit_log()"));
}

#[test]
fn a_standby_promoted_in_mid_rotation() {
    let (primary, mut client) = in_mid_rotation(Cluster::builder());
    let standby = primary.standby();
    // The job goes on on the primary, and the standby sees it do so.
    let done = "SELECT rows_done FROM colcrypt.job_progress";
    let before: i64 = client.one(done).parse().unwrap();
    let mut watcher = standby.client_db("work");
    wait_for("progress to be replayed", LONG, || {
        watcher.one(done).parse::<i64>().unwrap() > before
    });
    still_under_way(&mut client);
    drop(client);
    process::kill9(primary.postmaster_pid());
    standby.promote();
    goes_on(&standby, "standby");
    assert_eq!(
        watcher.one(RIGHT),
        ROWS.to_string(),
        "a session that was there before"
    );
}

#[test]
fn a_base_backup_taken_during_a_rotation() {
    let (original, mut client) = in_mid_rotation(Cluster::builder().durable());
    let copy = original.base_backup(&[]);
    still_under_way(&mut client);
    copy.start();
    goes_on(&copy, "base backup");
    // Neither knows of the other.
    wait_for_jobs(&mut client);
    assert_eq!(versions(&mut client, "t", "v"), format!("2:{ROWS}"));
}

#[test]
fn recovery_to_a_point_in_the_middle_of_a_rotation() {
    let archive = std::env::temp_dir().join(format!("colcrypt-archive-{}", std::process::id()));
    let archive = Archive::new(archive);
    let (original, mut client) = in_mid_rotation(
        Cluster::builder()
            .durable()
            .conf("archive_mode = on")
            .conf(format!(
                "archive_command = 'cp %p {}/%f'",
                archive.0.display()
            )),
    );
    let copy = original.base_backup(&[]);
    let version = "SELECT count(*) FROM t WHERE (colcrypt.ciphertext_info(v)).version = 2";
    let in_backup: i64 = client.one(version).parse().unwrap();
    wait_for("more rows to be moved", LONG, || {
        client.one(version).parse::<i64>().unwrap() > in_backup + 200
    });
    client.run("SELECT pg_create_restore_point('middle')");
    still_under_way(&mut client);
    // Afterwards the rotation ends, and another one; none of it must be seen.
    wait_for_jobs(&mut client);
    client.run("SELECT colcrypt.rotate_key('k'); SELECT pg_switch_wal()");
    let last = client.one("SELECT pg_walfile_name(pg_current_wal_lsn())");
    wait_for("the archive", LONG, || {
        client.yes(&format!("SELECT last_archived_wal >= '{last}' OR last_archived_wal >= pg_walfile_name(pg_switch_wal()) FROM pg_stat_archiver"))
    });
    original.stop();

    for line in [
        format!("restore_command = 'cp {}/%f %p'", archive.0.display()),
        "recovery_target_name = 'middle'".into(),
        "recovery_target_action = promote".into(),
        "archive_mode = off".into(),
    ] {
        copy.append_conf(&line);
    }
    fs::write(copy.data().join("recovery.signal"), "").unwrap();
    copy.start();
    let mut restored = copy.client_db("work");
    wait_for("the end of recovery", LONG, || {
        !restored.yes("SELECT pg_is_in_recovery()")
    });
    assert_eq!(
        restored.one("SELECT max(version) FROM colcrypt.key_version"),
        "2",
        "recovered past the point"
    );
    goes_on(&copy, "recovery to a point in time");
}

/// A directory of WAL, gone when dropped.
struct Archive(PathBuf);

impl Archive {
    fn new(path: PathBuf) -> Self {
        fs::create_dir(&path).expect("archive");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(&path, open).expect("mode");
        Self(path)
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_dump_taken_during_a_rotation_restores_in_every_format() {
    let (original, mut client) = in_mid_rotation(Cluster::builder());
    let file = |format: &str| original.dir().join(format!("mid.{format}"));
    for format in ["plain", "custom", "directory"] {
        let mut dump = original.command("pg_dump");
        dump.args(["-d", "work", "-F", format, "-f"])
            .arg(file(format));
        if format == "directory" {
            dump.args(["-j", "2"]);
        }
        run(&mut dump);
    }
    still_under_way(&mut client);
    for format in ["plain", "custom", "directory"] {
        let mut copy = original.create_database(format);
        let mut restore = if format == "plain" {
            let mut psql = original.command("psql");
            psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"]);
            psql
        } else {
            let mut restore = original.command("pg_restore");
            restore.args(["--exit-on-error", "-j", "2"]);
            restore
        };
        run(restore.arg(file(format)).args(["-d", format]));
        assert!(
            copy.yes(MIXED),
            "{format}: not in the middle of the rotation"
        );
        assert_eq!(copy.one(RIGHT), ROWS.to_string(), "{format}");
        // Jobs are not dumped: asking for it goes on where the rotation was.
        copy.run(
            "CREATE OR REPLACE FUNCTION slow(id int) RETURNS bytea LANGUAGE sql AS $$ SELECT pg_catalog.int4send(id) $$;
             SELECT colcrypt.reencrypt_column('t', 'v')",
        );
        wait_for_jobs(&mut copy);
        assert_eq!(phases(&mut copy), ["done"], "{format}");
        assert_eq!(
            versions(&mut copy, "t", "v"),
            format!("2:{ROWS}"),
            "{format}"
        );
        assert_eq!(copy.one(RIGHT), ROWS.to_string(), "{format}");
    }
}

/// The tables that carry keys. Grants name roles and jobs belong to a server, so neither is among them.
const KEY_TABLES: &str = "colcrypt.provider, colcrypt.keyring, colcrypt.kek_version, colcrypt.kek_copy, colcrypt.key, colcrypt.key_version";

/// A subscriber to table `t` and the keys of the publisher's database, with all that was there.
fn subscribe(publisher: &Cluster, client: &mut Client) -> (Cluster, Client) {
    let schema = publisher.dir().join("schema.sql");
    run(publisher
        .command("pg_dump")
        .args(["--schema-only", "-d", "work", "-f"])
        .arg(&schema));
    client.run(&format!(
        "CREATE PUBLICATION everything FOR TABLE t, {KEY_TABLES}"
    ));

    let subscriber = common::settings(Cluster::builder()).start();
    let mut reader = subscriber.create_database("work");
    run(subscriber
        .command("psql")
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "work", "-f"])
        .arg(&schema));
    assert_eq!(reader.one("SELECT count(*) FROM colcrypt.key"), "0");
    reader.run(&format!(
        "CREATE SUBSCRIPTION everything CONNECTION 'host={} port=5432 user=postgres dbname=work' PUBLICATION everything",
        publisher.dir().display()
    ));
    wait_for("the first copy", LONG, || {
        reader.yes("SELECT count(*) = 7 AND bool_and(srsubstate = 'r') FROM pg_subscription_rel")
    });
    (subscriber, reader)
}

#[test]
fn a_subscriber_gets_the_keys_with_the_rows() {
    let (publisher, mut client) = in_mid_rotation(Cluster::builder().conf("wal_level = logical"));
    client.run("ALTER TABLE t ADD PRIMARY KEY (id)");
    let (subscriber, mut reader) = subscribe(&publisher, &mut client);
    reader.run("CREATE ROLE analyst LOGIN; SELECT colcrypt.grant_key('k', 'analyst', '{decrypt}'); GRANT SELECT ON t TO analyst");
    let mut analyst = subscriber
        .config()
        .dbname("work")
        .user("analyst")
        .connect(postgres::NoTls)
        .unwrap();
    assert_eq!(analyst.one(RIGHT), ROWS.to_string(), "while rows move");

    // What the job moves arrives as updates; the next version arrives before the first row under it.
    wait_for_jobs(&mut client);
    client.run("CREATE OR REPLACE FUNCTION slow(id int) RETURNS bytea LANGUAGE sql AS $$ SELECT pg_catalog.int4send(id) $$");
    rotate(&mut client);
    client.run("INSERT INTO t VALUES (2001, colcrypt.encrypt_col('secret 2001', 'k', int4send(2001))); DELETE FROM t WHERE id = 1");
    let all = format!("3:{ROWS}");
    wait_for("the rows", LONG, || versions(&mut reader, "t", "v") == all);
    assert_eq!(
        analyst.one(RIGHT),
        ROWS.to_string(),
        "a warm session reads the new version"
    );
    assert_eq!(reader.one("SELECT count(*) FROM colcrypt.key_version"), "3");
    // Nothing there moves rows by itself.
    assert_eq!(reader.one("SELECT count(*) FROM colcrypt.job"), "0");
    // What is forbidden at the publisher is forbidden to a session that read a moment ago, and to a new one.
    client.run("SELECT colcrypt.suspend_key('k', 3, 'an incident')");
    wait_for("the suspension", LONG, || {
        reader.yes("SELECT state = 'suspended' FROM colcrypt.key_version WHERE version = 3")
    });
    analyst.fails("KC001", RIGHT);
    let mut newcomer = subscriber.client_db("work");
    newcomer.fails("KC001", RIGHT);
    client.run("SELECT colcrypt.resume_key('k', 3, 'it is over')");
    wait_for("the resumption", LONG, || {
        reader.yes("SELECT state = 'active' FROM colcrypt.key_version WHERE version = 3")
    });
    assert_eq!(analyst.one(RIGHT), ROWS.to_string());
    reader.run("DROP SUBSCRIPTION everything");
}

/// Whatever is due by schedule, of a key, a key encryption key or a root key, the publisher does it, once, and the
/// subscriber has the very same: two of one number would be two keys, and would end the replication.
#[test]
fn what_is_due_is_made_by_the_publisher_alone() {
    let builder = common::settings(Cluster::builder().conf("wal_level = logical"));
    let publisher = builder.conf("colcrypt.naptime = 1").start();
    let mut client = publisher.create_database("work");
    common::make_key(&publisher, &mut client);
    client.run(
        "CREATE TABLE t (id int PRIMARY KEY, v colcrypt.ciphertext);
         INSERT INTO t SELECT g, colcrypt.encrypt_col('secret ' || g, 'k', int4send(g)) FROM generate_series(1, 10) g;
         SELECT colcrypt.set_rotation_interval('k', '1 day'), colcrypt.set_root_interval('ring', '12 hours')",
    );
    let (subscriber, mut reader) = subscribe(&publisher, &mut client);
    subscriber.append_conf("colcrypt.naptime = 1");
    subscriber.reload();
    const AGED: &str =
        "UPDATE colcrypt.key_version SET activated_at = activated_at - interval '2 days';
                        UPDATE colcrypt.kek_version SET created_at = created_at - interval '1 year';
                        UPDATE colcrypt.kek_copy SET wrapped_at = wrapped_at - interval '1 day'";
    const KEYS: &str = "SELECT string_agg(concat_ws(' ', version, kcv, kek_version, wrapped), ', ' ORDER BY version) FROM colcrypt.key_version";
    const KEKS: &str = "SELECT string_agg(concat_ws(' ', version, kcv, wrapped), ', ' ORDER BY version) FROM colcrypt.kek_version JOIN colcrypt.kek_copy USING (keyring_id, version)";
    let before = [KEYS, KEKS].map(|sql| client.one(sql));
    assert_eq!([KEYS, KEKS].map(|sql| reader.one(sql)), before);

    // There it is due first, and the worker looks at it: more than once.
    reader.run(AGED);
    assert!(reader.yes(
        "SELECT bool_and(overdue AND next_rotation_at IS NULL) FROM colcrypt.rotation_schedule"
    ));
    assert!(
        reader.yes(
            "SELECT bool_and(overdue AND next_rotation_at IS NULL) FROM colcrypt.kek_schedule"
        )
    );
    for privilege in ["encrypt", "decrypt"] {
        reader.run(&format!(
            "SELECT colcrypt.grant_key('k', 'public', '{{{privilege}}}')"
        ));
        wait_for("the worker", LONG, || {
            reader.yes("SELECT NOT EXISTS (SELECT FROM colcrypt.audit_outbox)")
        });
    }
    assert_eq!([KEYS, KEKS].map(|sql| reader.one(sql)), before);
    reader.fails("KC050", "SELECT colcrypt.rotate_kek('ring')");

    client.run(AGED);
    wait_for("the publisher's rotations", LONG, || {
        client.yes(
            "SELECT (SELECT current_version = 2 FROM colcrypt.key) AND (SELECT current_version = 2 FROM colcrypt.keyring)
                 AND (SELECT bool_and(kek_version = 2) FROM colcrypt.key_version)
                 AND (SELECT bool_and(wrapped_at > now() - interval '12 hours') FROM colcrypt.kek_copy)",
        )
    });
    wait_for("the same on the subscriber", LONG, || {
        [KEYS, KEKS].map(|sql| reader.one(sql)) == [KEYS, KEKS].map(|sql| client.one(sql))
    });
    assert_eq!(reader.one("SELECT count(*) FROM colcrypt.key_version"), "2");
    // And it goes on.
    client.run("INSERT INTO t VALUES (11, colcrypt.encrypt_col('secret 11', 'k', int4send(11)))");
    wait_for("the row", LONG, || reader.one(RIGHT) == "11");
    reader.run("DROP SUBSCRIPTION everything");
}

/// Two branches of one database give the same number to different keys: what the other one wrote does not open, and the
/// message says that it may be from there. What both have from before opens in both.
#[test]
fn a_value_of_another_branch_is_told_from_an_altered_one_by_its_message() {
    let mut here = db();
    let old = here.client.one("SELECT encrypt_col('old', 'k')");
    let dump = cluster().dump(&here.name);
    let name = common::unique("branch");
    drop(cluster().create_database(&name));
    cluster().restore(&dump, &name);
    let mut there = cluster().client_db(&name);
    there.run("SET search_path = public, colcrypt");
    let [own, others] = [&mut here.client, &mut there].map(|client| {
        client.run("SELECT rotate_key('k')");
        client.one("SELECT encrypt_col('new', 'k')")
    });
    let mut kcvs = Vec::new();
    for (client, opens, stays_shut) in [
        (&mut here.client, &own, &others),
        (&mut there, &others, &own),
    ] {
        let read = |value: &str| format!("SELECT decrypt_col('{value}'::ciphertext)");
        assert_eq!(client.one(&read(opens)), "new");
        assert_eq!(client.one(&read(&old)), "old");
        let failure = client.fails("KC003", &read(stays_shut));
        assert!(
            failure
                .detail
                .contains("written under a version 2 that this database does not have"),
            "{failure:?}"
        );
        assert!(failure.hint.contains("Branches"), "{failure:?}");
        // What this server has under that number, to be compared with the other's.
        let here = client.one("SELECT 'Version 2 here was made ' || created_at || ', its check value is ' || kcv || '.' FROM colcrypt.key_version WHERE version = 2");
        assert!(failure.detail.contains(&here), "{failure:?}: {here}");
        kcvs.push(client.one("SELECT kcv FROM colcrypt.key_version WHERE version = 2"));
    }
    assert_ne!(kcvs[0], kcvs[1]);
}

/// A role that is missing where a dump is restored costs nobody else his grants, and gets its own when it is there.
#[test]
fn grants_are_restored_one_by_one() {
    let mut db = db();
    let [kept, gone] = [0; 2].map(|_| role(&mut db.client));
    db.client.run(&format!(
        "CREATE TABLE public.v AS SELECT encrypt_col('x', 'k') AS v; GRANT SELECT ON public.v TO {kept};
         SELECT grant_key('k', '{kept}', '{{decrypt}}'), grant_key('k', '{gone}', '{{encrypt}}'),
                grant_key('k', 'PUBLIC', '{{encrypt}}'), grant_keyring('ring', '{gone}', '{{create}}')"
    ));
    let grants = "SELECT string_agg(concat_ws(' ', CASE grantee::oid WHEN 0 THEN 'PUBLIC' ELSE grantee::text END,
                      can_encrypt, can_decrypt, can_manage), ', ' ORDER BY grantee::text COLLATE \"C\") FROM colcrypt.key_grant";
    let before = db.client.one(grants);
    let dump = cluster().dump(&db.name);
    db.client.run(&format!(
        "SELECT revoke_key('k', '{gone}', '{{encrypt}}'), revoke_keyring('ring', '{gone}', '{{create}}');
         DROP OWNED BY {gone}; DROP ROLE {gone}"
    ));
    let name = format!("{}_copy", db.name);
    cluster().client().run(&format!("CREATE DATABASE {name}"));
    cluster().restore(&dump, &name);
    let mut copy = cluster().client_db(&name);
    let waits = format!(
        "SELECT string_agg(grantee, ',') FROM colcrypt.restored_grant WHERE grantee = '{gone}'"
    );
    assert_eq!(copy.one(&waits), format!("{gone},{gone}"));
    let mut reader = cluster().client_db(&name);
    reader.run(&format!("SET ROLE {kept}"));
    assert_eq!(
        reader.one("SELECT colcrypt.decrypt_col(v) FROM public.v"),
        "x"
    );
    // A dump of that has them still.
    let again = format!("{}_again", db.name);
    cluster().client().run(&format!("CREATE DATABASE {again}"));
    cluster().restore(&cluster().dump(&name), &again);
    let mut again = cluster().client_db(&again);
    again.run(&format!("CREATE ROLE {gone}"));
    for copy in [&mut copy, &mut again] {
        assert_eq!(copy.one("SELECT colcrypt.restore_grants()"), "2");
        assert_eq!(
            copy.one("SELECT count(*) FROM colcrypt.restored_grant"),
            "0"
        );
        assert_eq!(copy.one(grants), before);
        assert_eq!(
            copy.one("SELECT count(*) FROM colcrypt.keyring_grant WHERE can_create"),
            "2"
        );
    }
}

/// Whose role is missing after a restore is told: by `verify_keys`, and by the view itself where nobody is left who
/// sees more than NULL. With the name alone a role has no grant yet, and an error says so.
#[test]
fn a_view_restored_without_its_readers_says_so() {
    let mut db = db();
    let [gone, other] = [0; 2].map(|_| role(&mut db.client));
    db.client.run(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext, w ciphertext);
         SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id)', '{{{gone}}}'),
                register_column('t', 'w', 'k', 'colcrypt.row_context(id)', '{{{gone},{other}}}');
         SELECT create_access_view('t'), grant_key('k', '{gone}', '{{decrypt}}'), grant_key('k', '{other}', '{{decrypt}}');
         INSERT INTO t_access VALUES (1, 'vee', 'wee'); GRANT SELECT ON t, t_access TO PUBLIC"
    ));
    let problems =
        "SELECT checked || ': ' || problem FROM colcrypt.verify_keys() WHERE NOT ok ORDER BY 1";
    assert!(db.client.rows(problems).is_empty());
    let dump = cluster().dump(&db.name);
    db.client.run(&format!(
        "SELECT revoke_key('k', '{gone}', '{{decrypt}}'); DROP OWNED BY {gone}; DROP ROLE {gone}"
    ));
    let name = format!("{}_copy", db.name);
    cluster().client().run(&format!("CREATE DATABASE {name}"));
    cluster().restore(&dump, &name);
    let mut copy = cluster().client_db(&name);
    let found: Vec<String> = copy
        .rows(problems)
        .into_iter()
        .map(|mut row| row.remove(0).unwrap())
        .collect();
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].starts_with(&format!("grant: there is no role {gone} ")));
    assert!(found[1].starts_with(&format!(
        "readers: column public.t.v is read by {gone}, and there is no role {gone}:"
    )));
    assert!(found[2].starts_with("readers: column public.t.w is read by "));
    // Who reads the view hears of the column that nobody sees, whoever he is, and of no other.
    let warned = |column: &str| {
        cluster()
            .log()
            .matches(&format!("nobody reads column public.t.{column}"))
            .count()
    };
    let before = warned("v");
    assert_eq!(
        copy.rows("SELECT v, w FROM t_access"),
        [[None, Some("wee".to_owned())]]
    );
    assert!(warned("v") > before);
    let mut reader = cluster()
        .config()
        .dbname(&name)
        .user(&other)
        .connect(postgres::NoTls)
        .unwrap();
    let before = warned("v");
    assert_eq!(
        reader.rows("SELECT v, w FROM t_access"),
        [[None, Some("wee".to_owned())]]
    );
    assert!(warned("v") > before);
    assert_eq!(warned("w"), 0);
    // The role is there again by its name, and then with its grant.
    copy.run(&format!("CREATE ROLE {gone} LOGIN"));
    let mut back = cluster()
        .config()
        .dbname(&name)
        .user(&gone)
        .connect(postgres::NoTls)
        .unwrap();
    back.fails("42501", "SELECT v FROM t_access")
        .says("permission denied to decrypt with key");
    assert_eq!(copy.one("SELECT colcrypt.restore_grants()"), "1");
    assert_eq!(back.one("SELECT v || w FROM t_access"), "veewee");
    assert!(copy.rows(problems).is_empty());
}
