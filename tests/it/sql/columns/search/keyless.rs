//! Queries that a search index would serve whose key is suspended, or out of reach: they scan, or say why they do not.

use std::fs;

use colcrypt_tests::process::kill9;
use colcrypt_tests::{Cluster, wait_for};

use super::bed::{OF_OTHER_KINDS, add, assert_does_not, assert_looks_up, looks_up, plan, shop};
use crate::common::{self, LONG, Sql, role};

const ONE: &str = "SELECT id FROM customer_access WHERE email = 'user7@example.org'";

/// The query decrypts, and asks the provider for nothing.
#[test]
fn a_search_key_out_of_use_leaves_the_scan() {
    let mut db = shop();
    let c = &mut db.client;
    c.run("SET enable_seqscan = off");
    assert_looks_up(c, ONE);
    c.run("SELECT suspend_key('s', reason => 'test')");
    assert_does_not(c, ONE);
    assert_eq!(c.rows(ONE).len(), 2);
    assert_eq!(
        c.one(&format!("SELECT why FROM explain_search($q${ONE}$q$)")),
        "the search key is not in use now"
    );
    c.run("SELECT resume_key('s')");
    assert_looks_up(c, ONE);
}

/// Whoever would rather know than scan is told, of each kind of condition, and only where he would look up.
#[test]
fn or_an_error_that_says_why() {
    let mut db = shop();
    add(&mut db.client, OF_OTHER_KINDS);
    let reader = role(&mut db.client);
    let c = &mut db.client;
    c.run(&format!(
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}; SELECT grant_key('k', '{reader}', '{{decrypt}}');
         GRANT {reader} TO CURRENT_USER; SET enable_seqscan = off; SET colcrypt.search_without_key = 'error';
         SET plan_cache_mode = force_generic_plan; PREPARE one(text) AS SELECT id FROM customer_access WHERE email = $1"
    ));
    let asked = [
        ONE,
        "EXECUTE one('user7@example.org')",
        "SELECT id FROM customer_access WHERE email = ANY ('{user7@example.org,user8@example.org}')",
        "SELECT id FROM customer_access WHERE born = '1990-01-09'",
        "SELECT id FROM customer_access WHERE born BETWEEN '1990-01-09' AND '1990-01-12'",
        "SELECT id FROM customer_access WHERE note LIKE '%ote 7%'",
        "SELECT c.id FROM customer_access c JOIN letter_access l ON c.email = l.sender WHERE l.sender = 'user7@example.org'",
    ];
    let found = asked.map(|sql| {
        assert_looks_up(c, sql);
        c.rows(sql).len()
    });
    c.run("SELECT suspend_key('s', reason => 'test')");
    for sql in asked {
        // The plan is shown all the same.
        assert_looks_up(c, sql);
        let said = c.fails("KC001", sql);
        assert!(said.message.contains("\"s\""), "{sql}: {said:?}");
    }
    assert_eq!(
        c.number("SELECT count(*) FROM customer_access WHERE city = 'Rome'"),
        25
    );
    // Who may not search scans, whatever the key is.
    c.run(&format!("SET ROLE {reader}"));
    assert_eq!(c.rows(ONE).len(), 2);
    c.run("RESET ROLE; SET colcrypt.search_without_key = 'scan'");
    for (sql, found) in asked.into_iter().zip(found) {
        assert_does_not(c, sql);
        assert_eq!(c.rows(sql).len(), found, "{sql}");
    }
    c.run("SET colcrypt.search_without_key = 'error'; SELECT resume_key('s')");
    for (sql, found) in asked.into_iter().zip(found) {
        assert_looks_up(c, sql);
        assert_eq!(c.rows(sql).len(), found, "{sql}");
    }
}

/// A key whose period is over is in memory all the same, where estimates find it.
#[test]
fn a_search_key_whose_period_is_over_says_so_when_it_is_used() {
    let mut db = shop();
    let c = &mut db.client;
    c.run("SET enable_seqscan = off; SET colcrypt.search_without_key = 'error'");
    assert_eq!(c.rows(ONE).len(), 2);
    c.run(
        "SELECT set_cryptoperiods('s', '1 hour', '1 hour');
         UPDATE colcrypt.key_version v SET activated_at = now() - interval '3 hours' FROM colcrypt.key k WHERE v.key_id = k.key_id AND k.name = 's'",
    );
    assert_looks_up(c, ONE);
    c.fails("KC040", ONE);
    c.run("SET colcrypt.search_without_key = 'scan'");
    assert_does_not(c, ONE);
    assert_eq!(c.rows(ONE).len(), 2);
}

/// A key that no provider gives, and none has at hand. The one that values are under is in shared memory.
#[test]
fn a_search_key_out_of_reach_leaves_the_scan_or_says_so() {
    let cluster = common::settings(Cluster::builder())
        .conf("colcrypt.kms_retries = 0")
        // The key that is at hand stays there, whatever the provider says meanwhile.
        .conf("colcrypt.refusal_interval = '1h'")
        .start();
    let mut client = cluster.create_database("work");
    common::make_key(&cluster, &mut client);
    let c = &mut client;
    c.run(
        "SET search_path = public, colcrypt; SELECT create_key('s', 'ring', 'hmac-sha-256');
         CREATE TABLE t (id int PRIMARY KEY, email ciphertext); SELECT register_column('t', 'email', 'k', 'none');
         INSERT INTO t SELECT n, encrypt_col('p' || n, 'k') FROM generate_series(1, 50) n;
         CREATE TABLE u (id int PRIMARY KEY, email ciphertext); SELECT register_column('u', 'email', 'k', 'none');
         INSERT INTO u SELECT n, encrypt_col('p' || n, 'k') FROM generate_series(40, 60) n; SELECT create_search_domain('d', 's')",
    );
    add(
        c,
        &["'t', 'email', domain => 'd'", "'u', 'email', domain => 'd'"],
    );
    cluster.restart();
    let connect = || {
        let mut client = cluster.client_db("work");
        client.run("SET search_path = public, colcrypt; SET enable_seqscan = off");
        client
    };
    let mut client = connect();
    let c = &mut client;
    assert_eq!(
        c.number("SELECT count(*) FROM t WHERE decrypt_col(email) IS NULL"),
        0
    );
    let (key, away) = (
        common::root_key(&cluster),
        cluster.dir().join("root.key.away"),
    );
    fs::rename(&key, &away).expect("the root key is there");
    // It had the key encryption key.
    let former = cluster.agent_pid().expect("an agent");
    kill9(former);
    wait_for("another agent", LONG, || {
        cluster.agent_pid().is_some_and(|pid| pid != former)
    });
    let sql = "SELECT id FROM t WHERE decrypt_col(email) = 'p7'";
    c.run(
        "SET plan_cache_mode = force_generic_plan; PREPARE one AS SELECT id FROM t WHERE decrypt_col(email) = 'p7'",
    );
    for asked in [sql, "EXECUTE one"] {
        assert_does_not(c, asked);
        assert_eq!(c.number(asked), 7);
    }
    assert_eq!(
        c.one(&format!("SELECT why FROM explain_search($q${sql}$q$)")),
        "the search key is out of reach now"
    );
    // Terms are compared without a key.
    let join = "SELECT count(*) FROM t JOIN u ON decrypt_col(t.email) = decrypt_col(u.email)";
    assert_looks_up(c, join);
    assert_eq!(c.number(join), 11);
    let mut other = connect();
    other.run("SET colcrypt.search_without_key = 'error'");
    assert_looks_up(&mut other, sql);
    other.fails("KC016", sql);
    fs::rename(&away, &key).expect("the root key comes back");
    // Of its own accord, once its patience is over, whoever else is at work.
    other.run("BEGIN; SELECT pg_current_xact_id()");
    for asked in ["EXECUTE one", sql] {
        wait_for("the look-up", LONG, || looks_up(&plan(c, asked)));
        assert_eq!(c.number(asked), 7);
    }
    assert_eq!(connect().number(sql), 7);
}
