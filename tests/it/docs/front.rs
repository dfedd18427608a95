//! The SQL blocks of README.md and docs/from-pgcrypto.md, in order.

use std::time::Duration;

use colcrypt_tests::Cluster;
use colcrypt_tests::db::Sql;
use colcrypt_tests::process::wait_for;
use postgres::Client;

const LONG: Duration = Duration::from_secs(60);

fn run(client: &mut Client, page: &str, block: &str) {
    if let Err(error) = client.batch_execute(block) {
        panic!("{error:?}\nin the block of {page}:\n{block}");
    }
}

fn jobs_end(client: &mut Client) {
    wait_for("the jobs", LONG, || {
        client
            .query_one("SELECT bool_and(phase = 'done') FROM job_progress", &[])
            .is_ok_and(|row| row.get(0))
    });
}

#[test]
fn the_front_page_works_as_written() {
    let text = std::fs::read_to_string(super::repository("README.md")).expect("README.md");
    let cluster = Cluster::builder().start();
    let root_key = cluster.root_key("root.key");
    let mut client = cluster.client();
    let blocks = super::blocks(&text, "sql");
    assert!(blocks.len() >= 3, "README.md has lost its SQL");
    for block in blocks {
        if block.contains("rotate_key") {
            jobs_end(&mut client);
        }
        let block = block.replace("/etc/colcrypt/root.key", &root_key.to_string_lossy());
        run(&mut client, "README.md", &block);
    }
    jobs_end(&mut client);
    let row = client
        .query_one(
            "SELECT decrypt_col(iban, place_context('customer.iban', id)), (ciphertext_info(iban)).version, \
                    (SELECT ssn FROM person WHERE id = 7), (SELECT (ciphertext_info(ssn)).version FROM person_encrypted WHERE id = 7) \
             FROM customer",
            &[],
        )
        .expect("the customer and the person");
    assert_eq!(row.get::<_, &str>(0), "DE89 3704 0044 0532 0130 00");
    assert_eq!(row.get::<_, &str>(2), "078-05-1007");
    assert_eq!((row.get::<_, i32>(1), row.get::<_, i32>(3)), (2, 2));
    client.batch_execute("SET ROLE clerk").expect("the role");
    let refused = client
        .query(
            "SELECT decrypt_col(iban, place_context('customer.iban', id)) FROM customer",
            &[],
        )
        .expect_err("the clerk may not decrypt");
    assert_eq!(refused.code().map(|code| code.code()), Some("42501"));
}

#[test]
fn coming_from_pgcrypto_works_as_written() {
    let page = "docs/from-pgcrypto.md";
    let text = std::fs::read_to_string(super::repository(page)).expect(page);
    let (_cluster, mut client) = super::pages::prepared();
    // pgcrypto comes with the others.
    if !client.has_contrib() {
        return;
    }
    let blocks = super::blocks(&text, "sql");
    assert!(blocks.len() >= 5, "{page} has lost its SQL");
    for block in blocks {
        if block.starts_with("SELECT count(*)") {
            let differing: i64 = client.query_one(&block, &[]).expect("compared").get(0);
            assert_eq!(differing, 0);
        }
        run(&mut client, page, &block);
    }
    let row = client
        .query_one(
            "SELECT a.iban, c.label, (SELECT count(*) FROM customer WHERE iban IS NOT NULL) \
             FROM customer_access a, protected_column c WHERE a.id = 7 AND c.attribute = 'iban'",
            &[],
        )
        .expect("the customer");
    assert_eq!(row.get::<_, &str>(0), "DE7");
    assert_eq!(row.get::<_, &str>(1), "customer.iban");
    assert_eq!(row.get::<_, i64>(2), 1000);
}

/// What the page of operations says of dumps: who may, and what `-n public` leaves behind.
#[test]
fn a_dump_takes_the_keys_along_for_who_may_read_all() {
    let (cluster, mut client) = super::pages::prepared();
    client
        .batch_execute(
            "CREATE ROLE owner LOGIN; CREATE ROLE dumper LOGIN IN ROLE pg_read_all_data; \
             SELECT create_key('k', 'app'); CREATE TABLE t AS SELECT encrypt_col('v', 'k') AS v; ALTER TABLE t OWNER TO owner",
        )
        .expect("a table");
    let dump = |arguments: &[&str]| {
        let output = cluster
            .command("pg_dump")
            .args(["-d", "postgres"])
            .args(arguments)
            .output()
            .expect("pg_dump");
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).contains("COPY colcrypt.key_version"),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (is_whole, has_keys, said) = dump(&["-U", "dumper"]);
    assert!(is_whole && has_keys, "{said}");
    let (is_whole, _, said) = dump(&["-U", "owner"]);
    assert!(!is_whole && said.contains("permission denied"), "{said}");
    let (is_whole, has_keys, said) = dump(&["-U", "dumper", "-n", "public"]);
    assert!(is_whole && !has_keys, "{said}");
}
