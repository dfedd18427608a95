//! try_decrypt_col: NULL for a value that does not open, and an error for everything that decrypt_col refuses.

use colcrypt_tests::of_audit::{audited_table, count, event, is_whole, settle};
use colcrypt_tests::wait_for;

use crate::common::{LONG, Sql, db, role, wait_for_jobs};

#[test]
fn it_returns_what_decrypt_col_returns() {
    let mut db = db();
    db.client.run(
        "CREATE TYPE mood AS ENUM ('fine');
         CREATE DOMAIN short AS text CHECK (length(value) < 5);
         CREATE TABLE v AS SELECT encrypt_col('hush', 'k') AS t, encrypt_col('bound', 'k', row_context(1)) AS b,
             encrypt_col(date '1984-05-17', 'k', row_context(1)) AS d, encrypt_col(7::smallint, 'k') AS i,
             encrypt_col('fine'::mood, 'k') AS m, NULL::ciphertext AS n",
    );
    assert!(db.client.yes(
        "SELECT try_decrypt_col(t) = 'hush' AND try_decrypt_col(b, row_context(1)) = 'bound'
            AND try_decrypt_col(d, NULL::date, row_context(1)) = '1984-05-17' AND try_decrypt_col(i, NULL::bigint) = 7
            AND try_decrypt_col(m, NULL::mood) = 'fine' AND try_decrypt_col(t, NULL::short) = 'hush'
            AND try_decrypt_col(n) IS NULL AND try_decrypt_col(n, NULL::date) IS NULL FROM v"
    ));
    // The same marks for the planner, form by form.
    assert!(db.client.yes(
        "SELECT count(*) = 4 FROM pg_proc d JOIN pg_proc t ON t.proargtypes = d.proargtypes AND t.pronamespace = d.pronamespace
         WHERE d.proname = 'decrypt_col' AND t.proname = 'try_decrypt_col'
           AND (d.provolatile, d.proparallel, d.proisstrict, d.procost, d.prorettype, d.proacl::text, d.proargnames)
             IS NOT DISTINCT FROM (t.provolatile, t.proparallel, t.proisstrict, t.procost, t.prorettype, t.proacl::text, t.proargnames)"
    ));
    // What the caller does wrong stays his error, whatever the value.
    for (code, call) in [
        ("22004", "try_decrypt_col(b, NULL::context)"),
        ("22023", "try_decrypt_col(t, 'x'::text)"),
        ("42804", "try_decrypt_col(t, NULL::date)"),
        (
            "22P03",
            "try_decrypt_col(encrypt_col('too long', 'k'), NULL::short)",
        ),
        (
            "22003",
            "try_decrypt_col(encrypt_col(70000, 'k'), NULL::smallint)",
        ),
    ] {
        let theirs = db
            .client
            .fails(code, &format!("SELECT {} FROM v", call.replace("try_", "")));
        let ours = db.client.fails(code, &format!("SELECT {call} FROM v"));
        assert_eq!(ours.message, theirs.message);
    }
}

#[test]
fn a_value_that_does_not_open_is_null() {
    let mut db = db();
    db.client.run(
        "SELECT create_key('gone', 'ring');
         CREATE TABLE t AS SELECT encrypt_col('hush', 'k') AS w, encrypt_col('bound', 'k', row_context(1)) AS v,
             encrypt_col(5, 'k') AS i, encrypt_col('lost', 'gone') AS g",
    );
    let closed = |client: &mut postgres::Client, call: &str| {
        assert_eq!(client.opt(&format!("SELECT {call} FROM t")), None, "{call}");
    };
    closed(&mut db.client, "try_decrypt_col(v)");
    closed(&mut db.client, "try_decrypt_col(v, row_context(2))");
    closed(&mut db.client, "try_decrypt_col(w, row_context(1))");
    closed(
        &mut db.client,
        "try_decrypt_col(w, NULL::text, row_context(1))",
    );
    // A header that was altered names another type, or an integer of another width.
    for other in ["0019", "043a", "0014", "0015"] {
        closed(
            &mut db.client,
            &format!(
                "try_decrypt_col(overlay(i::bytea PLACING '\\x{other}' FROM 2)::ciphertext, NULL::int)"
            ),
        );
    }
    // Every byte, of the header as of the nonce, the text and the tag.
    let bytes = db.client.number("SELECT length(w::bytea) FROM t");
    let mut refused = 0;
    for at in 0..bytes {
        let altered = format!("set_byte(w::bytea, {at}, get_byte(w::bytea, {at}) # 1)::ciphertext");
        // What is no ciphertext at all any more is refused where it is made.
        if db
            .client
            .simple_query(&format!("SELECT {altered} FROM t"))
            .is_err()
        {
            refused += 1;
            continue;
        }
        closed(&mut db.client, &format!("try_decrypt_col({altered})"));
    }
    assert!(refused <= 3, "{refused}");
    // A version that is not there, and one that was destroyed.
    db.client.run("SELECT rotate_key('k')");
    wait_for_jobs(&mut db.client);
    db.client.run("CREATE TABLE two AS SELECT encrypt_col('new', 'k') AS w; DELETE FROM key_version WHERE version = 2");
    assert_eq!(db.client.opt("SELECT try_decrypt_col(w) FROM two"), None);
    db.client.fails("42704", "SELECT decrypt_col(w) FROM two");
    db.client.run("UPDATE key_version v SET state = 'destroyed' FROM key k WHERE k.key_id = v.key_id AND k.name = 'gone'");
    db.client.fails("KC030", "SELECT decrypt_col(g) FROM t");
    closed(&mut db.client, "try_decrypt_col(g)");
    db.client.run("DELETE FROM key WHERE name = 'gone'");
    closed(&mut db.client, "try_decrypt_col(g)");
}

#[test]
fn a_refusal_is_never_null() {
    let (mut db, name) = audited_table();
    let mut user = db.connect_as(&name);
    // Neither for a value that is whole, nor for one that is not, nor for a version that was destroyed.
    for call in ["w", "v", "v, row_context(2)", "w, NULL::date"] {
        user.fails("42501", &format!("SELECT try_decrypt_col({call}) FROM t"));
    }
    let denied =
        format!("event = 'try_decrypt_col' AND outcome = 'denied' AND session_role = '{name}'");
    wait_for("the refusals", LONG, || count(&mut db.client, &denied) == 4);
    db.client
        .run(&format!("SELECT grant_key('k', '{name}', '{{decrypt}}')"));
    assert_eq!(user.one("SELECT try_decrypt_col(w) FROM t"), "quiet");
    for state in [
        "suspended",
        "archived",
        "destruction scheduled",
        "pre-active",
    ] {
        db.client
            .run(&format!("UPDATE key_version SET state = '{state}'"));
        user.fails("KC001", "SELECT try_decrypt_col(w) FROM t");
        user.fails("KC001", "SELECT try_decrypt_col(v) FROM t");
    }
    db.client.run("UPDATE key_version SET state = 'active'");
    db.client.run(&format!("SELECT revoke_key('k', '{name}', '{{decrypt}}'); UPDATE key_version SET state = 'destroyed'"));
    user.fails("42501", "SELECT try_decrypt_col(w) FROM t");
}

#[test]
fn the_record_has_what_did_not_open_and_honeytokens_fire() {
    let (mut db, name) = audited_table();
    db.client.run(&format!(
        "SELECT grant_key('k', '{name}', '{{decrypt}}');
         INSERT INTO t SELECT 2, NULL, encrypt_col('bait', 'k');
         SELECT mark_honeytoken(w, 'bait') FROM t WHERE id = 2"
    ));
    let mut user = db.connect_as(&name);
    assert_eq!(
        user.opt("SELECT try_decrypt_col(v) FROM t WHERE id = 1"),
        None
    );
    event(
        &mut db.client,
        &format!(
            "event = 'try_decrypt_col' AND outcome = 'failed' AND sqlstate = 'KC003' AND key = 'k' AND version = 1
             AND session_role = '{name}'"
        ),
    );
    assert_eq!(
        user.one("SELECT try_decrypt_col(w) FROM t WHERE id = 2"),
        "bait"
    );
    event(
        &mut db.client,
        &format!("event = 'try_decrypt_col' AND outcome = 'alarm' AND session_role = '{name}'"),
    );
    // A scan that meets many makes few records.
    user.run("SELECT try_decrypt_col(v) FROM t, generate_series(1, 2000) WHERE id = 1");
    settle(&mut db.client);
    let records = db.client.number(
        "SELECT count(*) FROM audit_log WHERE event = 'try_decrypt_col' AND outcome = 'failed'",
    );
    assert!(records < 200, "{records}");
    is_whole(&mut db.client);
    let other = role(&mut db.client);
    db.connect_as(&other)
        .fails("42501", "SELECT try_decrypt_col(w) FROM t WHERE id = 2");
}
