//! Integers and untyped parameters as drivers bind them: psycopg chooses a type by the number, asyncpg asks the server,
//! node-postgres sends text. Whatever wrote a row, the column's own expression reads it.

use std::collections::BTreeMap;

use colcrypt_tests::of_drivers::application;
use serde_json::{Value, json};

use crate::common::{Sql, db};

fn run(database: &str, program: &str, script: &str, driver: &str, numbers: &[i64]) -> Value {
    let output = application(program, script, database)
        .arg(driver)
        .args(numbers.iter().map(i64::to_string))
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{driver}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn what_any_driver_writes_the_column_s_own_expression_reads() {
    let mut db = db();
    let name = db.name.clone();
    let client = &mut db.client;
    client.run(&format!(
        "ALTER DATABASE {name} SET search_path = public, colcrypt;
         CREATE TABLE numbers (id bigint PRIMARY KEY, c ciphertext);
         SELECT register_column('numbers', 'c', 'k', context => $$colcrypt.place_context('numbers.c', id)$$)"
    ));
    let mut expected = BTreeMap::new();
    for (at, (program, script, driver)) in [
        ("python3", "integers.py", "psycopg"),
        ("python3", "integers.py", "asyncpg"),
        ("node", "integers.js", "node-postgres"),
    ]
    .into_iter()
    .enumerate()
    {
        // A smallint, an integer and a bigint of each sign, others for each driver.
        let numbers: Vec<i64> = [5, 70_000, 1 << 40]
            .into_iter()
            .flat_map(|number| [number + at as i64, -number - at as i64])
            .collect();
        expected.extend(numbers.iter().map(|n| (n.to_string(), n.to_string())));
        let said = run(&name, program, script, driver, &numbers);
        assert_eq!(said["read"], json!(expected), "{driver}");
        let untyped: (String, Option<String>) =
            serde_json::from_value(said["untyped"].clone()).expect("an error");
        assert_eq!(untyped.0, "42P18", "{driver}");
        let hint = untyped.1.expect("a hint");
        assert!(hint.contains("$1::bigint"), "{driver}: {hint}");
    }
    let widths = client.rows("SELECT DISTINCT (ciphertext_info(c)).type FROM numbers ORDER BY 1");
    assert_eq!(widths.len(), 3, "psycopg wrote all widths: {widths:?}");
    // What rotation makes of them is read the same way.
    colcrypt_tests::of_jobs::rotate(client);
    assert!(client.yes(
        "SELECT bool_and(decrypt_col(c, NULL::bigint, place_context('numbers.c', id)) = id) FROM numbers"
    ));
    // A number that is no integer has other bytes.
    client.fails("42809", "ALTER TABLE numbers ALTER id TYPE numeric");
    assert!(client.yes(
        "SELECT bool_and(decrypt_col(c, NULL::numeric, place_context('numbers.c', id)) = id) FROM numbers"
    ));
}

/// Drivers that send a list as text without a type have it stored as text, and no server can tell. A column that is
/// registered for another type, and enforced, says so.
#[test]
fn a_list_that_comes_as_text_is_refused_by_an_enforced_column() {
    type Answer = Option<(String, String, String, String)>;
    let mut db = db();
    let name = db.name.clone();
    let client = &mut db.client;
    client.run(&format!(
        "ALTER DATABASE {name} SET search_path = public, colcrypt;
         CREATE TABLE loose (id int PRIMARY KEY, tags ciphertext); CREATE TABLE enforced (LIKE loose INCLUDING ALL);
         SELECT register_column('loose', 'tags', 'k', 'colcrypt.row_context(id)', plaintext_type => 'text[]'),
                register_column('enforced', 'tags', 'k', 'colcrypt.row_context(id)', plaintext_type => 'text[]', enforce => true)"
    ));
    for (id, program, script) in [("1", "python3", "lists.py"), ("2", "node", "lists.js")] {
        let said = run(&name, program, script, id, &[]);
        let answer = |to: &str| -> Answer { serde_json::from_value(said[to].clone()).unwrap() };
        // Taken without a word.
        assert_eq!(answer("loose"), None, "{script}");
        let kept = format!("SELECT (ciphertext_info(tags)).type FROM loose WHERE id = {id}");
        assert_eq!(client.one(&kept), "text", "{script}");
        let (code, message, detail, hint) = answer("enforced").expect("an error");
        assert_eq!(code, "KC065", "{script}");
        assert!(message.contains("enforced"), "{script}: {message}");
        assert!(detail.contains("type text"), "{script}: {detail}");
        assert!(hint.contains("text[]"), "{script}: {hint}");
        assert_eq!(answer("cast"), None, "{script}");
    }
    assert_eq!(
        client.one("SELECT string_agg(array_to_string(decrypt_col(tags, NULL::text[], row_context(id)), '|'), ' ' ORDER BY id) FROM enforced"),
        "a|b, c|d\"e a|b, c|d\"e"
    );
}
