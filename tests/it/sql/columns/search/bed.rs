//! Tables with search indexes, and ways to look at what these are used for.

use colcrypt_tests::of_search::{wait_for_good_jobs, with_search_key};
use colcrypt_tests::wait_for;
use postgres::Client;

use crate::common::{Db, LONG, Sql};

/// Orders search indexes and waits until every snapshot sees the terms: others of the cluster may hold on to older
/// ones.
pub fn add(client: &mut Client, indexes: &[&str]) {
    for index in indexes {
        client.run(&format!("SELECT create_search_index({index})"));
    }
    wait_for_good_jobs(client);
    wait_until_seen(client);
    client.run("ANALYZE");
}

pub fn wait_until_seen(client: &mut Client) {
    wait_for("every snapshot to see the terms", LONG, || {
        client.yes("SELECT pg_snapshot_xmin(pg_current_snapshot()) > max(ready_xid) FROM colcrypt.search_companion")
    });
}

/// Two tables whose encrypted columns are found by terms, and their views.
pub fn shop() -> Db {
    let mut db = with_search_key();
    db.client.run(
        "CREATE TABLE customer (id int PRIMARY KEY, city text, boss int, email ciphertext, born ciphertext, score ciphertext, tag ciphertext, note ciphertext);
         SELECT register_column('customer', 'email', 'k', 'colcrypt.row_context(id)', plaintext_type => 'varchar(40)'),
                register_column('customer', 'born', 'k', 'colcrypt.row_context(id)', plaintext_type => 'date'),
                register_column('customer', 'score', 'k', 'none', plaintext_type => 'numeric(10,2)'),
                register_column('customer', 'tag', 'k', 'none', plaintext_type => 'char(6)'),
                register_column('customer', 'note', 'k', 'none');
         SELECT create_access_view('customer');
         INSERT INTO customer_access (id, city, boss, email, born, score, tag, note)
         SELECT n, (ARRAY['Rome', 'Oslo', 'Bern', NULL])[n % 4 + 1], n / 3, CASE WHEN n % 11 > 0 THEN 'user' || n % 50 || '@example.org' END,
                date '1990-01-01' + n % 90, CASE WHEN n % 7 > 0 THEN (n % 60) * 1.5 END, 't' || n % 40, 'note ' || n % 25
         FROM generate_series(1, 100) n;
         CREATE TABLE letter (id int PRIMARY KEY, sender ciphertext, plain text, sent date);
         SELECT register_column('letter', 'sender', 'k', 'none');
         SELECT create_access_view('letter');
         INSERT INTO letter_access (id, sender, plain, sent)
         SELECT n, CASE WHEN n % 5 > 0 THEN 'user' || n % 200 || '@example.org' END, CASE WHEN n % 6 > 0 THEN 'user' || n % 170 || '@example.org' END, date '1990-01-01' + n % 100
         FROM generate_series(1, 60) n;
         SELECT create_search_domain('people', 's')",
    );
    add(&mut db.client, INDEXES);
    db
}

const INDEXES: &[&str] = &[
    "'customer', 'email', domain => 'people'",
    "'customer', 'born'",
    "'customer', 'score'",
    "'customer', 'tag'",
    "'letter', 'sender', domain => 'people'",
];

/// Indexes of the other kinds.
pub const OF_OTHER_KINDS: &[&str] = &[
    "'customer', 'born', 'range'",
    "'customer', 'score', 'range'",
    "'customer', 'note', 'text'",
];

/// A statement's plan, without costs.
pub fn plan(client: &mut Client, sql: &str) -> String {
    let rows = client.rows(&format!("EXPLAIN (COSTS OFF) {sql}"));
    let lines: Vec<String> = rows
        .into_iter()
        .filter_map(|mut row| row.remove(0))
        .collect();
    lines.join("\n")
}

/// Whether a plan finds rows by terms: by an index's condition on a companion, or a join's.
pub fn looks_up(plan: &str) -> bool {
    let is_companion = |line: &str| {
        ["_term ", "_range ", "_grams ", "_term)"]
            .iter()
            .any(|name| line.contains(name))
    };
    plan.lines()
        .any(|line| line.contains(" Cond: ") && is_companion(line))
}

pub fn assert_looks_up(client: &mut Client, sql: &str) {
    let plan = plan(client, sql);
    assert!(looks_up(&plan), "{sql}\n{plan}");
}

pub fn assert_does_not(client: &mut Client, sql: &str) {
    let plan = plan(client, sql);
    assert!(
        !looks_up(&plan) && !plan.contains("recheck"),
        "{sql}\n{plan}"
    );
}
