//! Kind 7, and the end of kind 1: what was put into a column before an order is not decrypted, moved or rebound with
//! the order's right, unless whoever gives it accepts that; and values move to their place while applications run.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use colcrypt_tests::wait_for;
use postgres::Client;

use crate::common::{ACTS, Db, LONG, Sql, db, role, wait_for_jobs};

fn last_job(client: &mut Client) -> String {
    client.one("SELECT concat_ws(' ', kind, phase, rows_failed) FROM job_progress ORDER BY job_id DESC LIMIT 1")
}

/// Mallory may write `notes` and read `payment`, and has no right on their key. She puts payments into notes of the
/// same id.
fn planted(notes: &str, payment: &str) -> (Db, String) {
    let mut db = db();
    let mallory = role(&mut db.client);
    db.client.run(&format!(
        "CREATE TABLE notes (id int PRIMARY KEY, body ciphertext);
         CREATE TABLE payment (id int PRIMARY KEY, iban ciphertext);
         SELECT create_key('other', 'ring');
         SELECT register_column('notes', 'body', 'k'{notes}), register_column('payment', 'iban', 'k'{payment});
         SELECT create_access_view('notes'), create_access_view('payment');
         INSERT INTO notes_access SELECT g, 'note ' || g FROM generate_series(1, 10) g;
         INSERT INTO payment_access SELECT g, 'secret ' || g FROM generate_series(1, 10) g;
         GRANT SELECT, INSERT, UPDATE ON notes TO {mallory}; GRANT SELECT ON payment TO {mallory}"
    ));
    let mut attacker = db.connect_as(&mallory);
    attacker
        .run("UPDATE notes SET body = p.iban FROM payment p WHERE p.id = notes.id AND p.id = 7");
    attacker.fails("42501", "SELECT decrypt_col(body) FROM notes");
    (db, mallory)
}

const ORDERS: [&str; 3] = [
    "decrypt_column('notes', 'body')",
    "move_column('notes', 'body', 'other')",
    "rebind_column('notes', 'body', label => 'notes.new')",
];

fn nothing_is_shown(db: &mut Db, mallory: &str, order: &str) {
    let mut attacker = db.connect_as(mallory);
    assert_eq!(
        attacker.one("SELECT count(*) FROM notes n WHERE to_jsonb(n)::text LIKE '%secret%'"),
        "0",
        "{order}"
    );
}

#[test]
fn values_bound_to_their_place_cannot_be_planted_before_an_order() {
    for order in ORDERS {
        let (mut db, mallory) = planted("", "");
        db.client.run(&format!("SELECT colcrypt.{order}"));
        wait_for("the job to end", LONG, || {
            db.client
                .yes("SELECT bool_and(finished_at IS NOT NULL) FROM job_progress")
        });
        let kind = order.split('(').next().unwrap();
        assert_eq!(
            last_job(&mut db.client),
            format!("{kind} failed 1"),
            "{order}"
        );
        assert_eq!(
            db.client.one("SELECT count(*) FROM colcrypt.job_error"),
            "1",
            "{order}"
        );
        nothing_is_shown(&mut db, &mallory, order);
        // It is where it was, under the key it was under.
        db.client
            .fails("KC003", "SELECT body FROM notes_access WHERE id = 7");
        if kind == "move_column" {
            assert!(
                db.client
                    .yes("SELECT (ciphertext_info(body)).key = 'k' FROM notes WHERE id = 7")
            );
        }
    }
}

#[test]
fn orders_on_values_bound_to_the_row_alone_say_how_many_there_are() {
    for form in [", 'colcrypt.row_context(id)'", ", 'none'"] {
        for order in ORDERS {
            let (mut db, mallory) = planted(form, form);
            db.client
                .fails("KC064", &format!("SELECT colcrypt.{order}"))
                .says("10 values")
                .says("accept_unplaced");
            nothing_is_shown(&mut db, &mallory, order);
            assert_eq!(db.client.one("SELECT count(*) FROM job_progress"), "0");
            let accepted = order.replace(')', ", accept_unplaced => true)");
            db.client.run(&format!("SELECT colcrypt.{accepted}"));
            let event = order.split('(').next().unwrap();
            assert!(
                db.client
                    .one(&format!(
                        "SELECT string_agg(detail, ';') FROM {ACTS} WHERE event = '{event}'"
                    ))
                    .contains("10 values accepted"),
                "{order}"
            );
            wait_for_jobs(&mut db.client);
            assert_eq!(
                last_job(&mut db.client),
                format!("{event} done 0"),
                "{accepted}"
            );
        }
    }
}

#[test]
fn a_dry_run_counts_values_without_a_place() {
    let (mut db, _) = planted(", 'none'", ", 'none'");
    assert!(
        db.client
            .one("SELECT string_agg(object || ' ' || becomes, ';') FROM decrypt_column('notes', 'body', dry_run => true)")
            .contains("10 values are not bound to their place")
    );
}

/// What is bound to nothing, in a column whose values are bound to their place, is not taken along unasked; nor is what
/// was put there between the order and the job.
#[test]
fn what_is_bound_to_nothing_is_told_apart_in_a_placed_column() {
    for order in ORDERS {
        let (mut db, mallory) = planted("", ", 'none'");
        db.client
            .fails("KC064", &format!("SELECT colcrypt.{order}"))
            .says("1 values");
        let mut attacker = db.connect_as(&mallory);
        attacker.run("UPDATE notes SET body = NULL WHERE id = 7");
        // Not there when it is ordered.
        db.client.run(&format!("BEGIN; SELECT colcrypt.{order}"));
        attacker.run(
            "UPDATE notes SET body = p.iban FROM payment p WHERE p.id = notes.id AND p.id = 7",
        );
        db.client.run("COMMIT");
        wait_for("the job to end", LONG, || {
            db.client
                .yes("SELECT bool_and(finished_at IS NOT NULL) FROM job_progress")
        });
        let kind = order.split('(').next().unwrap();
        assert_eq!(
            last_job(&mut db.client),
            format!("{kind} failed 1"),
            "{order}"
        );
        nothing_is_shown(&mut db, &mallory, order);
    }
}

fn writer(client: &mut Client, stop: &AtomicBool, done: &AtomicUsize) {
    while !stop.load(Ordering::Relaxed) {
        let number = done.fetch_add(1, Ordering::Relaxed);
        let id = number % 500 + 1;
        client.run(&format!(
            "UPDATE t_access SET v = 'v' || id || '.' || {number} WHERE id = {id};
             INSERT INTO t_access (id, v) VALUES ({number} + 10000, 'v' || {number} + 10000 || '.')"
        ));
        assert!(
            client.yes("SELECT bool_and(v LIKE 'v' || id || '%') FROM t_access"),
            "a reader saw something else"
        );
    }
}

#[test]
fn values_move_to_their_place_while_clients_read_and_write() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext, w ciphertext, n int);
         INSERT INTO t SELECT g, encrypt_col('v' || g, 'k', row_context(g)), encrypt_col('w' || g, 'k'), g FROM generate_series(1, 2000) g;
         SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id)'), register_column('t', 'w', 'k');
         SELECT create_access_view('t')",
    );
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let (stop, done) = (&stop, &done);
        for _ in 0..2 {
            let mut client = db.connect();
            scope.spawn(move || writer(&mut client, stop, done));
        }
        wait_for("the writers", LONG, || done.load(Ordering::Relaxed) > 4);
        let mut client = db.connect();
        client.run(
            "SELECT rebind_column('t', 'v', label => 't.v', accept_unplaced => true),
                    rebind_column('t', 'w', accept_unplaced => true)",
        );
        let before = done.load(Ordering::Relaxed);
        wait_for_jobs(&mut client);
        wait_for("the writers again", LONG, || {
            done.load(Ordering::Relaxed) > before + 4
        });
        stop.store(true, Ordering::Relaxed);
    });
    let client = &mut db.client;
    assert_eq!(
        client.one("SELECT string_agg(concat_ws(' ', kind, phase), ',') FROM job_progress"),
        "rebind_column done,rebind_column done"
    );
    assert!(client.yes("SELECT sum(rows_done) >= 3500 FROM job_progress"));
    assert_eq!(
        client.one("SELECT string_agg(concat_ws(' ', context, becomes), ' | ' ORDER BY attribute) FROM protected_column"),
        "colcrypt.place_context('t.v', id) | colcrypt.place_context('public.t.w', id)"
    );
    // None is left under the old context, by any reader's account.
    assert!(client.yes(
        "SELECT count(*) > 2000 AND bool_and(decrypt_col(v, place_context('t.v', id)) LIKE 'v' || id || '%') FROM t"
    ));
    assert!(client.yes("SELECT bool_and(decrypt_col(w, place_context('public.t.w', id)) = 'w' || id) FROM t WHERE w IS NOT NULL"));
    client.fails("KC003", "SELECT decrypt_col(v, row_context(id)) FROM t");
    assert!(
        !client
            .one("SELECT pg_get_viewdef('t_access'::regclass)")
            .contains("either_context")
    );
    // And now it holds.
    client.run("UPDATE t SET v = w, w = v WHERE id = 3");
    client.fails("KC003", "SELECT v FROM t_access WHERE id = 3");
}

/// An application that encrypts by hand first reads both, then the job runs, then it reads the new alone.
#[test]
fn an_application_follows_at_its_own_pace() {
    let mut db = db();
    let client = &mut db.client;
    client.run(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext);
         INSERT INTO t SELECT g, encrypt_col('v' || g, 'k', row_context(g)) FROM generate_series(1, 20) g;
         SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id)')",
    );
    let both = "either_context(place_context('t.v', id), row_context(id))";
    let reads = format!("SELECT bool_and(decrypt_col(v, {both}) = 'v' || id) FROM t");
    assert!(client.yes(&reads));
    client.run(&format!(
        "UPDATE t SET v = encrypt_col('v' || id, 'k', {both}) WHERE id <= 5; UPDATE t SET v = reencrypt_col(v, {both}) WHERE id IN (4, 6)"
    ));
    assert!(client.yes(&reads));
    assert!(client.yes(
        "SELECT bool_and(decrypt_col(v, place_context('t.v', id)) = 'v' || id) FROM t WHERE id <= 5"
    ));
    assert!(
        client.yes(
            "SELECT bool_and(decrypt_col(v, row_context(id)) = 'v' || id) FROM t WHERE id > 5"
        )
    );
    client.run("SELECT rebind_column('t', 'v', label => 't.v', accept_unplaced => true)");
    wait_for_jobs(client);
    assert!(client.yes(&reads));
    assert!(
        client.yes("SELECT bool_and(decrypt_col(v, place_context('t.v', id)) = 'v' || id) FROM t")
    );
    client.fails("22004", "SELECT either_context(NULL, ''::bytea)");
    client.fails(
        "KC003",
        &format!("SELECT decrypt_col(v, {both}) FROM (SELECT v, id + 1 AS id FROM t) t"),
    );
    client.fails(
        "KC003",
        "SELECT decrypt_col(encrypt_col('x', 'k'), either_context(row_context(1), row_context(2)))",
    );
    assert_eq!(
        client.one("SELECT decrypt_col(encrypt_col('x', 'k'), either_context(row_context(1), ''))"),
        "x"
    );
}

#[test]
fn a_rebinding_can_be_stopped_and_gone_on_with_and_lists_what_opens_with_neither() {
    let mut db = db();
    let client = &mut db.client;
    client.run(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext);
         INSERT INTO t SELECT g, encrypt_col('v' || g, 'k', row_context(g)) FROM generate_series(1, 400) g;
         UPDATE t SET v = encrypt_col('lost', 'k', row_context('elsewhere')) WHERE id = 9;
         SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id)'); SELECT create_access_view('t')",
    );
    let job = client.one("BEGIN; SELECT rebind_column('t', 'v', accept_unplaced => true)");
    client.run(&format!("SELECT cancel_job({job}); COMMIT"));
    // Whatever became of it, the view opens both.
    client.run("INSERT INTO t_access VALUES (1000, 'v1000')");
    assert!(client.yes("SELECT bool_and(v = 'v' || id) FROM t_access WHERE id <> 9"));
    client.fails(
        "42809",
        "SELECT rebind_column('t', 'v', 'colcrypt.row_context(1, id)', accept_unplaced => true)",
    );
    client.fails("42809", "SELECT register_column('t', 'v', 'k', 'none')");
    client.fails(
        "42809",
        "SELECT decrypt_column('t', 'v', accept_unplaced => true)",
    );
    client.run("SELECT rebind_column('t', 'v', accept_unplaced => true)");
    client.fails(
        "55000",
        "SELECT rebind_column('t', 'v', accept_unplaced => true)",
    );
    wait_for_jobs(client);
    assert_eq!(last_job(client), "rebind_column failed 1");
    assert_eq!(
        client.one("SELECT reason LIKE '%does not authenticate%' FROM job_error"),
        "t"
    );
    assert!(client.yes("SELECT bool_and(v = 'v' || id) FROM t_access WHERE id <> 9"));
    client.run(
        "DELETE FROM t WHERE id = 9; SELECT retry_job(max(job_id)) FROM job_progress; SELECT rotate_key('k')",
    );
    wait_for_jobs(client);
    assert_eq!(last_job(client).split(' ').nth(1), Some("done"));
    client.run("SELECT rebind_column('t', 'v')");
    wait_for_jobs(client);
    assert_eq!(last_job(client), "rebind_column done 0");
    assert_eq!(
        client.one("SELECT concat_ws(' ', context, becomes) FROM protected_column"),
        "colcrypt.place_context('public.t.v', id)"
    );
    assert!(client.yes(
        "SELECT bool_and(decrypt_col(v, place_context('public.t.v', id)) = 'v' || id) FROM t"
    ));
}

#[test]
fn who_may_rebind() {
    let mut db = db();
    let name = role(&mut db.client);
    db.client.run(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext); SELECT register_column('t', 'v', 'k', 'none');
         GRANT EXECUTE ON FUNCTION rebind_column TO {name}"
    ));
    let mut user = db.connect_as(&name);
    user.run("SET search_path = public, colcrypt");
    user.fails("42501", "SELECT rebind_column('t', 'v')");
    db.client.run(&format!("ALTER TABLE t OWNER TO {name}"));
    user.fails("42501", "SELECT rebind_column('t', 'v')");
    db.client
        .run(&format!("SELECT grant_key('k', '{name}', '{{manage}}')"));
    user.run("SELECT rebind_column('t', 'v')");
    wait_for_jobs(&mut db.client);
    db.client
        .fails("22023", "SELECT rebind_column('t', 'v', 'none')");
    db.client.fails("42809", "SELECT rebind_column('t', 'id')");
    db.client.run("CREATE TABLE u (id int, v ciphertext)");
    db.client.fails("42809", "SELECT rebind_column('u', 'v')");
    // Values of four-eyes keyrings are not bound to where somebody put them, by one person.
    db.client.run("SELECT require_four_eyes('ring')");
    db.client
        .fails("22023", "SELECT rebind_column('t', 'v', label => 'x')")
        .says("four eyes");
}
