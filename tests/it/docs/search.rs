//! docs/search.md: its SQL in order, and its table of what an index tells, which the extension has, too.

use std::time::Duration;

use colcrypt_tests::Cluster;
use colcrypt_tests::process::wait_for;
use postgres::Client;

const LONG: Duration = Duration::from_secs(60);

fn jobs_end(client: &mut Client) {
    wait_for("the jobs", LONG, || {
        client
            .query_one(
                "SELECT coalesce(bool_and(phase = 'done'), true) FROM colcrypt.job_progress",
                &[],
            )
            .expect("the jobs")
            .get(0)
    });
}

fn one(client: &mut Client, sql: &str) -> String {
    client
        .query_one(&format!("SELECT ({sql})::text"), &[])
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"))
        .get(0)
}

#[test]
fn search_works_as_written() {
    let page = std::fs::read_to_string(super::repository("docs/search.md")).expect("the page");
    let cluster = Cluster::builder().start();
    let root_key = cluster.root_key("root.key");
    let mut client = cluster.client();
    client
        .batch_execute(&format!(
            "CREATE EXTENSION colcrypt;
             SELECT colcrypt.add_provider('local', 'file', jsonb_build_object('path', '{}'));
             SELECT colcrypt.create_keyring('app', 'local')",
            root_key.display()
        ))
        .expect("a keyring");
    let blocks = super::blocks(&page, "sql");
    assert!(blocks.len() >= 12, "the page has lost its SQL");
    for block in blocks {
        if let Err(error) = client.batch_execute(&block) {
            panic!("{error:?}\nin the block of docs/search.md:\n{block}");
        }
        jobs_end(&mut client);
    }
    // What the page says of them.
    for (sql, wanted) in [
        (
            "SELECT count(*) FROM customer WHERE email_term = search_term('customer', 'email', ' USER77@example.org')",
            "1",
        ),
        (
            "SELECT count(*) FROM customer_access WHERE born BETWEEN '1984-05-01' AND '1984-05-31'",
            "2",
        ),
        ("SELECT count(*) FROM customer", "1000"),
        (
            "SELECT string_agg(DISTINCT kind, ' ' ORDER BY kind) FROM explain_search($$SELECT * FROM customer_access WHERE email = 'a@b.c' AND born < '1960-01-01' AND name LIKE '%me 12%'$$) WHERE served",
            "equality range text",
        ),
        (
            "SELECT note LIKE 'warn: one value is in 33.4 per cent%' FROM plan_search_index('customer', 'city') WHERE item = 'verdict'",
            "true",
        ),
        (
            "SELECT string_agg(DISTINCT versions, ', ') FROM search_overview",
            "1 ready",
        ),
    ] {
        assert_eq!(one(&mut client, sql), wanted, "{sql}");
    }
    // The table is what the extension says.
    let (_, table) = page.split_once("<!-- told -->\n").expect("the table");
    let (table, _) = table.split_once("<!-- end -->").expect("its end");
    let shown: Vec<&str> = table.lines().skip(2).collect();
    let said = one(
        &mut client,
        "SELECT string_agg(format('| %s | %s | %s |', i.name, t.viewer, t.learns), E'\\n' ORDER BY i.nth, t.nth)
         FROM (VALUES (1, 'equality', 'equality', false, 256), (2, 'equality, unique', 'equality', true, 256),
                      (3, 'equality, truncated', 'equality', false, 16), (4, 'range', 'range', false, 256),
                      (5, 'text', 'text', false, 256)) i(nth, name, kind, is_unique, bits),
              search_told(i.kind, i.is_unique, i.bits) WITH ORDINALITY t(viewer, learns, nth)",
    );
    assert_eq!(shown.join("\n"), said);
}
