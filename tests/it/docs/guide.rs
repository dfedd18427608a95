//! Every SQL block of docs/guide.md, in order, in one session.

use std::time::Duration;

use colcrypt_tests::Cluster;
use colcrypt_tests::process::wait_for;

#[test]
fn the_guide_works_as_written() {
    let guide = std::fs::read_to_string(super::repository("docs/guide.md")).expect("the guide");
    let cluster = Cluster::builder().start();
    let root_key = cluster.root_key("root.key");
    let mut client = cluster.client();
    let blocks = super::blocks(&guide, "sql");
    assert!(blocks.len() >= 5, "the guide has lost its SQL");
    for block in blocks {
        let block = block.replace("/etc/colcrypt/root.key", &root_key.to_string_lossy());
        if let Err(error) = client.batch_execute(&block) {
            panic!("{error:?}\nin the guide's block:\n{block}");
        }
    }
    wait_for("the guide's rotation", Duration::from_secs(30), || {
        let sql = "SELECT count(*) FILTER (WHERE phase = 'done') = 4 FROM job_progress";
        client.query_one(sql, &[]).expect("job_progress").get(0)
    });
    let row = client
        .query_one(
            "SELECT decrypt_col(iban, place_context('customer.iban', id)), decrypt_col(born, NULL::date, place_context('customer.born', id))::text, \
                    (ciphertext_info(iban)).version, (ciphertext_info(born)).version FROM customer",
            &[],
        )
        .expect("the customer");
    assert_eq!(row.get::<_, &str>(0), "DE89 3704 0044 0532 0130 00");
    assert_eq!(row.get::<_, &str>(1), "1984-05-17");
    assert_eq!((row.get::<_, i32>(2), row.get::<_, i32>(3)), (2, 2));

    client
        .batch_execute("SET ROLE clerk")
        .expect("the guide's role");
    let refused = client
        .query(
            "SELECT decrypt_col(iban, place_context('customer.iban', id)) FROM customer",
            &[],
        )
        .expect_err("the clerk may not decrypt");
    assert_eq!(refused.code().map(|code| code.code()), Some("42501"));
    client
        .batch_execute("RESET ROLE; SET ROLE officer")
        .expect("the guide's role");
    client
        .query(
            "SELECT decrypt_col(iban, place_context('customer.iban', id)) FROM customer",
            &[],
        )
        .expect("the officer may decrypt");
}
