//! Statements of ours are not compiled: that would take a hundred times as long as they do. With a server that compiles
//! whatever it plans, as auto_explain sees it.

use colcrypt_tests::left_out::left_out;
use colcrypt_tests::of_columns::said;
use colcrypt_tests::of_jobs::rotate;

use crate::common::{Sql, cluster, db};

/// The queries that were compiled, by their beginnings.
fn compiled(database: &str, sql: &str) -> Vec<String> {
    let messages = said(
        cluster(),
        database,
        &format!(
            "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on;
             SET auto_explain.log_analyze = on; SET client_min_messages = log; SET search_path = public, colcrypt;
             SET jit = on; SET jit_above_cost = 0; SET jit_inline_above_cost = 0; SET jit_optimize_above_cost = 0; {sql}"
        ),
    );
    messages
        .split("Query Text: ")
        .skip(1)
        .filter(|plan| plan.contains("JIT:"))
        .map(|plan| plan.lines().next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn maintenance_is_not_compiled() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext); SELECT register_column('t', 'v', 'k');
         INSERT INTO t SELECT n, encrypt_col('v', 'k', place_context('public.t.v', n)) FROM generate_series(1, 100) n",
    );
    rotate(&mut db.client);
    rotate(&mut db.client);
    // A server without a compiler compiles nothing.
    if !db.client.yes("SELECT pg_jit_available()") {
        left_out("the server has no LLVM");
        return;
    }
    // auto_explain tells what was compiled.
    if !db.client.has_contrib() {
        return;
    }
    let plain = compiled(&db.name, "SELECT count(*) FROM t");
    assert_eq!(plain.len(), 1, "a client's statement is: {plain:?}");
    for call in [
        "SELECT rows_needing_key('k', 1)",
        "SELECT take_census('t', 'v')",
        "SELECT mark_compromised('k', 1, 'lost')",
        "SELECT exposed_rows FROM exposed_rows",
        "SELECT schedule_key_destruction('k', 1, reason => 'over')",
        "SELECT cancel_key_destruction('k', 1)",
        "SELECT rotate_key('k')",
        "SELECT create_keys('{a,b,c}', 'ring')",
        "SELECT verify_keys(true)",
    ] {
        // The client's own, as it came: all that it sent.
        let is_ours = |query: &String| !query.starts_with("LOAD");
        let ours: Vec<String> = compiled(&db.name, call)
            .into_iter()
            .filter(is_ours)
            .collect();
        assert_eq!(ours, Vec::<String>::new(), "{call}");
    }
}
