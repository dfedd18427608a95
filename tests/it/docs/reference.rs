//! docs/reference.md: made from the comments and settings of a server that has the extension.

use std::fmt::Write;

use colcrypt_tests::Cluster;
use postgres::Client;

const HEAD: &str = "# Reference

Made from the comments of the SQL objects by a test (`UPDATE_DOCS=1 cargo test -p colcrypt-tests --test docs`); do not
edit. Everything is in schema `colcrypt`. [guide.md](guide.md) shows it in use.
";

fn section(client: &mut Client, out: &mut String, title: &str, columns: &[&str], sql: &str) {
    let rows = client.query(sql, &[]).expect(title);
    assert!(!rows.is_empty(), "no {title}");
    write!(out, "\n## {title}\n\n| {} |\n", columns.join(" | ")).unwrap();
    writeln!(out, "|{}", " --- |".repeat(columns.len())).unwrap();
    for row in rows {
        let cells: Vec<String> = (0..columns.len())
            .map(|at| {
                let cell: Option<String> = row.get(at);
                cell.unwrap_or_else(|| panic!("{title}: a comment is missing: {row:?}"))
                    .replace('|', "\\|")
            })
            .collect();
        writeln!(out, "| {} |", cells.join(" | ")).unwrap();
    }
}

fn reference(client: &mut Client) -> String {
    let mut out = HEAD.to_string();
    section(
        client,
        &mut out,
        "Types",
        &["type", "what"],
        "SELECT format('`%s`', t.typname), obj_description(t.oid, 'pg_type') FROM pg_type t \
         WHERE t.typnamespace = 'colcrypt'::regnamespace AND t.typtype = 'b' AND t.typelem = 0 ORDER BY 1",
    );
    section(
        client,
        &mut out,
        "Functions",
        &["function", "gives", "volatility", "who", "what"],
        "SELECT format('`%s(%s)`', p.proname, replace(pg_get_function_arguments(p.oid), 'colcrypt.', '')), \
                format('`%s`', replace(pg_get_function_result(p.oid), 'colcrypt.', '')), \
                CASE p.provolatile WHEN 'i' THEN 'immutable' WHEN 's' THEN 'stable' ELSE 'volatile' END, \
                CASE WHEN has_function_privilege('public', p.oid, 'EXECUTE') THEN 'everybody' \
                     WHEN has_function_privilege('pg_monitor', p.oid, 'EXECUTE') THEN 'pg_monitor' \
                     ELSE 'administrators' END, \
                obj_description(p.oid, 'pg_proc') \
         FROM pg_proc p WHERE p.pronamespace = 'colcrypt'::regnamespace \
           AND obj_description(p.oid, 'pg_proc') IS DISTINCT FROM 'I/O' \
         ORDER BY p.proname, pg_get_function_arguments(p.oid)",
    );
    section(
        client,
        &mut out,
        "Views",
        &["view", "columns", "what"],
        "SELECT format('`%s`', c.relname), \
                (SELECT string_agg(format('`%s`', attname), ', ' ORDER BY attnum) FROM pg_attribute \
                 WHERE attrelid = c.oid AND attnum > 0), obj_description(c.oid, 'pg_class') \
         FROM pg_class c WHERE c.relnamespace = 'colcrypt'::regnamespace AND c.relkind = 'v' ORDER BY 1",
    );
    section(
        client,
        &mut out,
        "Settings",
        &["setting", "default", "range", "change", "what"],
        "SELECT format('`%s`', name), format('`%s%s`', boot_val, CASE WHEN boot_val <> '0' THEN unit END), \
                coalesce(format('%s … %s', min_val, max_val), ''), \
                CASE context WHEN 'postmaster' THEN 'restart' WHEN 'sighup' THEN 'reload' ELSE 'session' END, \
                concat_ws(' ', short_desc, extra_desc) \
         FROM pg_settings WHERE name LIKE 'colcrypt.%' ORDER BY 1",
    );
    out
}

#[test]
fn the_reference_is_up_to_date() {
    let cluster = Cluster::builder().start();
    let mut client = cluster.client();
    client
        .batch_execute("CREATE EXTENSION colcrypt")
        .expect("the extension");
    let made = reference(&mut client);
    let path = super::repository("docs/reference.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &made).expect("docs/reference.md");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == made,
        "docs/reference.md is out of date: UPDATE_DOCS=1 cargo test -p colcrypt-tests --test docs"
    );
}
