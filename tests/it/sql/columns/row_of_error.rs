//! An error about a value says in which row of which table that is, to whoever may read the table.

use crate::common::{Db, Sql, db, role};

/// Table `t`, whose 700th row holds a value of another row.
fn with_a_bad_row() -> Db {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int PRIMARY KEY, note text, v ciphertext);
         SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id)'); SELECT create_access_view('t');
         INSERT INTO t_access SELECT g, 'n', 'v' || g FROM generate_series(1, 1000) g;
         UPDATE t SET v = (SELECT v FROM t WHERE id = 1) WHERE id = 700; ANALYZE t",
    );
    db
}

#[test]
fn the_row_is_named() {
    let mut db = with_a_bad_row();
    let c = &mut db.client;
    let place = c.one("SELECT ctid FROM t WHERE id = 700");
    let said = format!("It is in row {place} of table public.t.");
    for statement in [
        "SELECT decrypt_col(v, row_context(id)) FROM t",
        "SELECT decrypt_col(v, row_context(id)) FROM t WHERE id = 700",
        "SELECT v FROM t_access",
        "SELECT count(*) FROM t_access WHERE v LIKE 'v7%'",
        "UPDATE t_access SET id = 7000 WHERE id = 700",
        "INSERT INTO t_access (id, v) SELECT id + 5000, v FROM t_access",
        "SELECT decrypt_col(v, NULL::int, row_context(1)) FROM t WHERE id = 700",
        "SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
         SELECT max(decrypt_col(v, row_context(id))) FROM t",
    ] {
        let code = if statement.contains("::int") { "42804" } else { "KC003" };
        let problem = c.fails(code, statement);
        assert!(problem.detail.ends_with(&said), "{statement}: {problem:?}");
    }
    // One that does not come from a table says nothing.
    let problem = c.fails(
        "KC003",
        "SELECT decrypt_col(encrypt_col('x', 'k'), row_context(2))",
    );
    assert!(!problem.detail.contains("row ("), "{problem:?}");
    let problem = c.fails(
        "KC003",
        "DO $$ DECLARE x colcrypt.ciphertext := (SELECT v FROM public.t WHERE id = 700); BEGIN PERFORM colcrypt.decrypt_col(x, colcrypt.row_context(700)); END $$",
    );
    assert!(!problem.detail.contains("row ("), "{problem:?}");
}

/// A view of others' hides the table from whoever reads it.
#[test]
fn whoever_may_not_read_the_table_is_not_told() {
    let mut db = with_a_bad_row();
    let reader = role(&mut db.client);
    db.client.run(&format!(
        "CREATE VIEW hiding AS SELECT id, v FROM t; GRANT SELECT ON hiding TO {reader}; SELECT grant_key('k', '{reader}', '{{decrypt}}')"
    ));
    let read = "SELECT decrypt_col(v, row_context(id)) FROM hiding";
    let mut his = db.connect_as(&reader);
    let problem = his.fails("KC003", read);
    assert!(!problem.detail.contains("public.t"), "{problem:?}");
    db.client.run(&format!("GRANT SELECT ON t TO {reader}"));
    let problem = his.fails("KC003", read);
    assert!(problem.detail.contains("of table public.t."), "{problem:?}");
}
