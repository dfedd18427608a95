//! A version that decrypts on every server before it encrypts on any.

use colcrypt_tests::of_jobs::versions;
use colcrypt_tests::of_keys::states;
use colcrypt_tests::of_nodes::{Nodes, read, version_of};
use colcrypt_tests::process::run;
use colcrypt_tests::{Cluster, wait_for};

use crate::common::{self, LONG, Sql, cluster, db, wait_for_jobs};

#[test]
fn a_prepared_version_decrypts_and_does_not_encrypt() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t AS SELECT encrypt_col('x', 'k') AS v; SELECT register_column('t', 'v', 'k')",
    );
    let prepare = "SELECT prepare_key_version('k', 'the new quarter')";
    assert_eq!(db.client.one(prepare), "2");
    assert_eq!(states(&mut db.client), "1 active, 2 pre-active");
    let value = db.client.one("SELECT encrypt_col('y', 'k')");
    assert_eq!(version_of(&mut db.client, &value), "1");
    assert_eq!(db.client.one("SELECT count(*) FROM job"), "0");
    assert!(db.client.yes(
        "SELECT bool_and((prepared_at IS NOT NULL) = (version = 2)) FROM key_status WHERE key = 'k'"
    ));
    wait_for("the record", LONG, || {
        db.client.yes("SELECT EXISTS (SELECT FROM audit_log WHERE event = 'prepare_key_version' AND version = 2 AND detail = 'the new quarter')")
    });

    // One a key: who asks again is told.
    let heard = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let notices = heard.clone();
    let mut again = cluster()
        .config()
        .dbname(&db.name)
        .notice_callback(move |notice| notices.lock().unwrap().push(notice.message().to_owned()))
        .connect(postgres::NoTls)
        .unwrap();
    assert_eq!(again.one("SELECT colcrypt.prepare_key_version('k')"), "2");
    assert_eq!(
        *heard.lock().unwrap(),
        ["version 2 of key \"k\" is prepared already"]
    );

    // A rotation takes it, and another one makes one.
    assert_eq!(db.client.one("SELECT rotate_key('k')"), "2");
    wait_for_jobs(&mut db.client);
    assert_eq!(versions(&mut db.client, "t", "v"), "2:1");
    assert_eq!(db.client.one("SELECT rotate_key('k')"), "3");
    // So does an activation, by hand, also where another was made that is not prepared.
    assert_eq!(db.client.one(prepare), "4");
    db.client.run("SELECT create_key_version('k')");
    assert_eq!(db.client.one("SELECT activate_key('k', 4)"), "active");
    // Given up, it is destroyed as any that was never used; called off, it is prepared as before.
    assert_eq!(db.client.one(prepare), "6");
    db.client
        .run("SELECT schedule_key_destruction('k', 6, '1 day', 'not needed')");
    assert_eq!(db.client.one(prepare), "7");
    db.client.run("SELECT cancel_key_destruction('k', 6)");
    // The newest counts: what is older than the current one is activated no more.
    assert_eq!(db.client.one("SELECT rotate_key('k')"), "7");
    db.client.fails("KC033", "SELECT activate_key('k', 6)");
}

/// What is compromised is left for the version that other servers have already; what was prepared is compromised with
/// the whole key.
#[test]
fn a_compromised_key_takes_the_version_that_is_prepared() {
    let mut db = db();
    db.client
        .run("SELECT prepare_key_version('k'); SELECT mark_compromised('k', 1, 'leak')");
    assert_eq!(states(&mut db.client), "1 compromised, 2 active");
    db.client
        .run("SELECT prepare_key_version('k'); SELECT mark_compromised('k', NULL, 'leak')");
    assert_eq!(
        states(&mut db.client),
        "1 compromised, 2 compromised, 3 compromised, 4 active"
    );
}

/// A value that the primary wrote right after the switch is read by followers that have heard of the prepared version
/// only.
#[test]
fn followers_read_what_comes_under_a_version_before_they_hear_of_the_switch() {
    let mut nodes = Nodes::new(2);
    nodes.sync();
    let first = nodes.primary.encrypt("one");
    for follower in &mut nodes.followers {
        // Sessions that have used the key before.
        assert_eq!(follower.decrypt(&first), "one");
        follower
            .client
            .fails("KC050", "SELECT prepare_key_version('k')");
    }
    nodes
        .primary
        .client
        .run("SELECT prepare_key_version('k', 'a rotation')");
    let prepared = nodes.export();
    nodes.followers[0].import(&prepared);
    nodes.primary.client.run("SELECT rotate_key('k')");
    let second = nodes.primary.encrypt("two");
    assert_eq!(version_of(&mut nodes.primary.client, &second), "2");
    assert_eq!(nodes.followers[0].decrypt(&second), "two");
    // Until it has heard of the switch, it writes under the old one, which everybody reads.
    let between = nodes.followers[0].encrypt("three");
    assert_eq!(version_of(&mut nodes.primary.client, &between), "1");
    assert_eq!(nodes.primary.decrypt(&between), "three");

    // Who has not even heard of the version says so, and what to do.
    let problem = nodes.followers[1]
        .client
        .fails("42704", &read(&second))
        .says("has no version 2");
    assert!(problem.hint.contains("import_catalog"), "{problem:?}");
    // The catalog of before the switch, after it: older than what the primary has now, newer than what is here.
    nodes.followers[1].import(&prepared);
    assert_eq!(nodes.followers[1].decrypt(&second), "two");

    // The switch comes with the next import.
    nodes.sync();
    for follower in &mut nodes.followers {
        assert_eq!(states(&mut follower.client), "1 deactivated, 2 active");
        let third = follower.encrypt("four");
        assert_eq!(version_of(&mut follower.client, &third), "2");
        assert_eq!(nodes.primary.decrypt(&third), "four");
        assert_eq!(follower.decrypt(&first), "one");
    }
}

/// The other way round: without preparation there is a gap, and a version that is only pre-active does not close it.
#[test]
fn a_version_that_is_not_prepared_opens_nothing_on_a_follower() {
    let mut nodes = Nodes::new(1);
    nodes.primary.client.run("SELECT create_key_version('k')");
    nodes.sync();
    nodes.primary.client.run("SELECT activate_key('k', 2)");
    let value = nodes.primary.encrypt("two");
    let problem = nodes.followers[0].client.fails("KC001", &read(&value));
    assert!(problem.hint.contains("prepare_key_version"), "{problem:?}");
    nodes.sync();
    assert_eq!(nodes.followers[0].decrypt(&value), "two");
}

/// Keys and rows come by subscriptions of their own, in any order: the version has to be there before the first row.
#[test]
fn a_subscriber_with_the_prepared_version_reads_rows_that_come_before_the_switch() {
    let publisher = common::settings(Cluster::builder().conf("wal_level = logical")).start();
    let mut client = publisher.create_database("work");
    common::make_key(&publisher, &mut client);
    client.run(
        "SET search_path = public, colcrypt; CREATE TABLE t (id int PRIMARY KEY, v ciphertext);
         INSERT INTO t VALUES (1, encrypt_col('one', 'k'))",
    );
    let schema = publisher.dir().join("schema.sql");
    run(publisher
        .command("pg_dump")
        .args(["--schema-only", "-d", "work", "-f"])
        .arg(&schema));
    client.run(
        "CREATE PUBLICATION keys FOR TABLE provider, keyring, kek_version, kek_copy, key, key_version;
         CREATE PUBLICATION rows FOR TABLE t",
    );
    let subscriber = common::settings(Cluster::builder()).start();
    let mut reader = subscriber.create_database("work");
    run(subscriber
        .command("psql")
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "work", "-f"])
        .arg(&schema));
    reader.run("SET search_path = public, colcrypt");
    for name in ["keys", "rows"] {
        reader.run(&format!(
            "CREATE SUBSCRIPTION {name} CONNECTION 'host={} port=5432 user=postgres dbname=work' PUBLICATION {name}",
            publisher.dir().display()
        ));
    }
    reader.run("CREATE ROLE analyst LOGIN; GRANT SELECT ON t TO analyst");
    wait_for("the first copies", LONG, || {
        reader.yes("SELECT count(*) = 7 AND bool_and(srsubstate = 'r') FROM pg_subscription_rel")
    });
    reader.run("SELECT grant_key('k', 'analyst', '{decrypt}')");
    let mut analyst = subscriber
        .config()
        .dbname("work")
        .user("analyst")
        .connect(postgres::NoTls)
        .unwrap();
    let all = "SELECT string_agg(colcrypt.decrypt_col(v), ' ' ORDER BY id) FROM t";
    assert_eq!(analyst.one(all), "one");

    client.run("SELECT prepare_key_version('k')");
    // As it is waited for: the version is there when this is true.
    wait_for("the prepared version", LONG, || {
        reader.yes(
            "SELECT EXISTS (SELECT FROM key_version WHERE version = 2 AND prepared_at IS NOT NULL)",
        )
    });
    // Nothing more of the keys comes: rows overtake the switch.
    reader.run("ALTER SUBSCRIPTION keys DISABLE");
    client.run("SELECT rotate_key('k'); INSERT INTO t VALUES (2, encrypt_col('two', 'k'))");
    wait_for("the row", LONG, || {
        reader.one("SELECT count(*) FROM t") == "2"
    });
    assert_eq!(versions(&mut reader, "t", "v"), "1:1 2:1");
    assert_eq!(states(&mut reader), "1 active, 2 pre-active");
    assert_eq!(analyst.one(all), "one two");
    reader.run("ALTER SUBSCRIPTION keys ENABLE");
    wait_for("the switch", LONG, || {
        states(&mut reader) == "1 deactivated, 2 active"
    });
    assert_eq!(analyst.one(all), "one two");
    reader.run("DROP SUBSCRIPTION rows");
    reader.run("DROP SUBSCRIPTION keys");
}
