//! A column moved to another key, of another suite too: wholly, under writes, by whoever may, and back.

use colcrypt_tests::of_jobs::{phases, slow_table, wait_until_under_way};
use std::sync::atomic::{AtomicBool, Ordering};

use postgres::Client;

use colcrypt_tests::wait_for;

use crate::common::{ACTS, Db, LONG, Sql, db, role, wait_for_jobs};

/// Key `other`, with the other suite; table `t` with this many rows under two versions of `k`, registered.
fn two_keys(rows: u32) -> Db {
    let mut db = db();
    db.client.run(&format!(
        "SELECT create_key('other', 'ring', 'xaes-256-gcm');
         CREATE TABLE t (id int, v ciphertext, w ciphertext);
         INSERT INTO t SELECT n, encrypt_col('secret ' || n, 'k', row_context(n)), encrypt_col('w', 'k') FROM generate_series(1, {rows}) n;
         SELECT rotate_key('k');
         INSERT INTO t SELECT n, encrypt_col('secret ' || n, 'k', row_context(n)), NULL FROM generate_series({rows} + 1, {rows} + 50) n;
         INSERT INTO t VALUES (0, NULL, NULL);
         SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id)')"
    ));
    db
}

/// "key suite rows" of the column.
fn holders(client: &mut Client, column: &str) -> String {
    client.one(&format!(
        "SELECT string_agg(key || ' ' || suite || ' ' || n, ', ' ORDER BY key) FROM (
             SELECT (ciphertext_info({column})).key, (ciphertext_info({column})).suite, count(*) n FROM t
             WHERE {column} IS NOT NULL GROUP BY 1, 2) s"
    ))
}

fn all_right(client: &mut Client) -> bool {
    client.yes("SELECT bool_and(decrypt_col(v, NULL::text, row_context(id)) = 'secret ' || id) FROM t WHERE id > 0")
}

fn registered_key(client: &mut Client) -> String {
    client.one("SELECT k.name FROM protected_column JOIN colcrypt.key k USING (key_id) WHERE attribute = 'v'")
}

#[test]
fn every_value_goes_to_the_other_key_and_back() {
    let mut db = two_keys(500);
    let client = &mut db.client;
    client.run("SELECT move_column('t', 'v', 'other', accept_unplaced => true)");
    assert_eq!(
        client.one("SELECT kind || ' ' || key FROM job_progress"),
        "move_column other"
    );
    wait_for_jobs(client);
    assert_eq!(phases(client), ["done"]);
    assert_eq!(holders(client, "v"), "other xaes-256-gcm 550");
    assert_eq!(
        holders(client, "w"),
        "k aes-256-gcm 500",
        "the other column is nobody's"
    );
    assert!(all_right(client));
    assert_eq!(registered_key(client), "other");
    assert_eq!(
        client.one(
            "SELECT string_agg(key || ' ' || version || ' ' || rows, ', ') FROM key_version_census"
        ),
        "other 1 550"
    );
    assert_eq!(
        client.one(&format!(
            "SELECT key_name || ': ' || detail FROM {ACTS} WHERE event = 'move_column'"
        )),
        "other: v, from key k, 550 values accepted that are bound to no place"
    );
    // From now on its rotations are the other key's.
    client.run("SELECT rotate_key('other')");
    wait_for_jobs(client);
    assert!(client.yes("SELECT bool_and((ciphertext_info(v)).version = 2) FROM t WHERE id > 0"));
    // The former key's first version is not needed by it any more.
    client.run("DROP TABLE IF EXISTS nothing; UPDATE t SET w = NULL");
    assert!(client.yes("SELECT count(*) = 0 FROM rows_needing_key('k', 1)"));
    client.run("SELECT move_column('t', 'v', 'k', accept_unplaced => true)");
    wait_for_jobs(client);
    assert_eq!(holders(client, "v"), "k aes-256-gcm 550");
    assert!(all_right(client));
}

#[test]
fn who_writes_under_the_former_key_meanwhile_is_not_left_behind() {
    let mut db = two_keys(2000);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut writer = db.connect();
        let stop = &stop;
        scope.spawn(move || {
            for n in 10_000.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                writer.run(&format!(
                    "INSERT INTO t VALUES ({n}, encrypt_col('secret {n}', 'k', row_context({n})));
                     UPDATE t SET v = encrypt_col('secret ' || id, 'k', row_context(id)) WHERE id = {}",
                    1 + n % 2000
                ));
            }
        });
        db.client
            .run("SELECT move_column('t', 'v', 'other', accept_unplaced => true)");
        wait_for("most of it", LONG, || {
            db.client.yes("SELECT rows_done > 1500 FROM job_progress")
        });
        stop.store(true, Ordering::Relaxed);
    });
    wait_for_jobs(&mut db.client);
    assert_eq!(phases(&mut db.client), ["done"]);
    assert!(holders(&mut db.client, "v").starts_with("other xaes-256-gcm "));
    assert!(!holders(&mut db.client, "v").contains("k aes"));
    assert!(all_right(&mut db.client));
}

#[test]
fn cancelled_or_killed_it_goes_on_where_it_was() {
    let mut db = db();
    slow_table(&mut db.client, 400);
    db.client.run(
        "SELECT create_key('other', 'ring', 'xaes-256-gcm'); SELECT move_column('t', 'v', 'other', accept_unplaced => true)",
    );
    wait_until_under_way(&mut db.client);
    db.client.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'colcrypt maintenance worker' AND datname = current_database()");
    wait_until_under_way(&mut db.client);
    db.client
        .run("SELECT cancel_job(max(job_id)) FROM job_progress");
    wait_for_jobs(&mut db.client);
    assert_eq!(phases(&mut db.client), ["cancelled"]);
    let right =
        "SELECT bool_and(decrypt_col(v, NULL::text, int4send(id)) = 'secret ' || id) FROM t";
    assert!(
        db.client.yes(right),
        "half here, half there, all of it readable"
    );
    assert!(holders(&mut db.client, "v").starts_with("k aes-256-gcm "));
    db.client
        .run("SELECT move_column('t', 'v', 'other', accept_unplaced => true)");
    wait_for_jobs(&mut db.client);
    assert_eq!(holders(&mut db.client, "v"), "other xaes-256-gcm 400");
    assert!(db.client.yes(right));
}

#[test]
fn it_asks_for_both_keys_and_for_the_table() {
    let mut db = two_keys(5);
    let name = role(&mut db.client);
    let mut user = db.connect_as(&name);
    let order = "SELECT move_column('t', 'v', 'other', accept_unplaced => true)";
    user.fails("42501", order);
    db.client
        .run(&format!("GRANT EXECUTE ON FUNCTION move_column TO {name}"));
    user.fails("42501", order).says("owner");
    db.client.run(&format!("ALTER TABLE t OWNER TO {name}"));
    user.fails("42501", order).says("grant_key('k'");
    db.client
        .run(&format!("SELECT grant_key('k', '{name}', '{{manage}}')"));
    user.fails("42501", order).says("grant_key('other'");
    db.client.run(&format!(
        "SELECT grant_key('other', '{name}', '{{manage}}')"
    ));
    user.run(order);
    wait_for_jobs(&mut db.client);
    assert_eq!(holders(&mut db.client, "v"), "other xaes-256-gcm 55");
    db.client
        .fails("42704", "SELECT move_column('t', 'v', 'nosuch')");
    db.client
        .run("SELECT require_four_eyes('ring', true, interval '1 hour')");
    db.client
        .fails("22023", "SELECT move_column('t', 'v', 'k')")
        .says("four eyes");
}

/// Readers of an access view read and write through it all the while; a marked value stays marked.
#[test]
fn access_views_and_honeytokens_follow() {
    let mut db = two_keys(300);
    let client = &mut db.client;
    client.run("ALTER TABLE t ADD PRIMARY KEY (id); SELECT create_access_view('t', 'people')");
    client.run("SELECT mark_honeytoken(v) FROM t WHERE id = 7");
    client.run("SELECT move_column('t', 'v', 'other', accept_unplaced => true)");
    client.run("UPDATE people SET v = 'secret 8' WHERE id = 8");
    wait_for_jobs(client);
    client.run("UPDATE people SET v = 'secret 9 again' WHERE id = 9; UPDATE people SET v = 'secret 9' WHERE id = 9");
    assert_eq!(holders(client, "v"), "other xaes-256-gcm 350");
    assert!(client.yes("SELECT bool_and(v = 'secret ' || id) FROM people WHERE id NOT IN (0, 7)"));
    client.run("SELECT decrypt_col(v, NULL::text, row_context(id)) FROM t WHERE id = 7");
    wait_for("the alarm", LONG, || {
        client.yes(
            "SELECT count(*) > 0 FROM audit_log WHERE outcome = 'alarm' AND event = 'decrypt_col' AND key = 'other'",
        )
    });
}
