//! Search indexes as tests make and watch them.

use postgres::Client;

use crate::db::{Db, Sql, db, wait_for_jobs};

/// A database with a search key `s` beside the key `k`.
#[must_use]
pub fn with_search_key() -> Db {
    let mut db = db();
    db.client
        .run("SELECT create_key('s', 'ring', 'hmac-sha-256')");
    db
}

/// Table `t` of so many people, with e-mail addresses that are bound to their rows; every tenth has none.
pub fn people(client: &mut Client, rows: u32) {
    client.run(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, email ciphertext, n int DEFAULT 0);
         SELECT register_column('t', 'email', 'k');
         INSERT INTO t SELECT g, CASE WHEN g % 10 > 0 THEN {} END FROM generate_series(1, {rows}) g",
        sealed("'p' || g || '@example.org'", "g")
    ));
}

/// A text encrypted as table `t` has it, for the row with this id.
#[must_use]
pub fn sealed(text: &str, id: &str) -> String {
    format!("encrypt_col({text}, 'k', place_context('t.email', {id}))")
}

/// The plaintext of a row of `t`.
pub const OPENED: &str = "decrypt_col(email, place_context('t.email', id))";

/// Waits for all jobs, each of which must end well.
pub fn wait_for_good_jobs(client: &mut Client) {
    wait_for_jobs(client);
    let bad = client.rows(
        "SELECT kind, phase, last_error FROM colcrypt.job_progress WHERE phase NOT IN ('done', 'cancelled')",
    );
    assert!(bad.is_empty(), "{bad:?}");
}

/// Orders a search index on `t.email` and waits for it.
pub fn index(client: &mut Client, more: &str) {
    client.run(&format!("SELECT create_search_index('t', 'email'{more})"));
    wait_for_good_jobs(client);
}

/// Rows of `t` whose term in a companion is not what it is when it is made again, under a version of the search key.
#[must_use]
pub fn wrong_terms(companion: &str, version: i32) -> String {
    format!(
        "SELECT count(*) FROM t WHERE {companion} IS DISTINCT FROM \
         CASE WHEN email IS NOT NULL THEN search_term('t', 'email', {OPENED}, {version}) END"
    )
}

/// All terms of `t` are those of their values.
pub fn terms_are_right(client: &mut Client) {
    assert_eq!(client.number(&wrong_terms("email_term", 1)), 0);
}
