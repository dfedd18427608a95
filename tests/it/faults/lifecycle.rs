//! The life cycle when the key server is away and when the server is killed: what takes a key out of use
//! must not wait, and what is due must not be lost.

use colcrypt_tests::bed::{Bed, MOMENT, QUICK, VaultBed, decrypt, encrypt, ready_keys};
use colcrypt_tests::db::Sql;
use colcrypt_tests::problem::failed;
use colcrypt_tests::{process, wait_for};

#[test]
fn a_key_is_taken_out_of_use_while_the_key_server_is_away() {
    let bed = VaultBed::new(&QUICK);
    let mut client = bed.cluster.client();
    let value = encrypt(&mut client, "k").unwrap();
    client
        .batch_execute(
            "CREATE TABLE t AS SELECT colcrypt.encrypt_col(g::text, 'k') AS v FROM generate_series(1, 20) g;
             SELECT colcrypt.register_column('t', 'v', 'k')",
        )
        .unwrap();
    bed.bao.pause();
    // A new agent knows no KEK, so that no new version can be made.
    let agent = bed.cluster.agent_pid().expect("an agent");
    process::kill9(agent);
    wait_for("another agent", MOMENT, || {
        bed.cluster.agent_pid().is_some_and(|pid| pid != agent)
    });

    client
        .batch_execute("SELECT colcrypt.suspend_key('k', reason => 'an outage and a leak')")
        .unwrap();
    assert_eq!(failed(decrypt(&mut client, &value)).code, "KC001");
    assert_eq!(ready_keys(&mut client), 0);
    client
        .batch_execute("SELECT colcrypt.mark_compromised('k', reason => 'it is one')")
        .unwrap();
    assert!(
        bed.cluster
            .log()
            .contains("key \"k\" has no new version yet and cannot encrypt")
    );
    assert_eq!(
        client.number("SELECT count(*) FROM colcrypt.exposed_rows"),
        20
    );
    let problem = failed(encrypt(&mut client, "k"));
    assert_eq!(problem.code, "KC001");
    assert!(
        problem.message.ends_with("it is compromised"),
        "{problem:?}"
    );
    bed.is_clean(&problem);
    failed(client.batch_execute("SELECT colcrypt.create_key_version('k')")).is("KC012");

    bed.bao.resume();
    wait_for("the rotation", MOMENT, || {
        client
            .batch_execute("SELECT colcrypt.rotate_key('k')")
            .is_ok()
    });
    encrypt(&mut client, "k").unwrap();
    decrypt(&mut client, &value).unwrap();
    wait_for("the rows to move", MOMENT, || {
        client.number("SELECT count(*) FROM t WHERE (colcrypt.ciphertext_info(v)).version = 1") == 0
    });
    assert_eq!(
        client.number("SELECT max(priority)::bigint FROM colcrypt.job"),
        1
    );
}

#[test]
fn a_destruction_outlives_the_servers_death() {
    let bed = Bed::on_file(&["colcrypt.destruction_window_floor = 0"]);
    let mut client = bed.cluster.client();
    let value = encrypt(&mut client, "k").unwrap();
    client
        .batch_execute(
            "SELECT colcrypt.rotate_key('k');
             SELECT colcrypt.schedule_key_destruction('k', 1, '2 seconds', 'a test')",
        )
        .unwrap();
    process::kill9(bed.cluster.postmaster_pid());
    drop(client);
    wait_for("the server to start again", MOMENT * 6, || {
        bed.cluster.try_start().is_ok()
    });
    let mut client = bed.cluster.client();
    wait_for("the destruction", MOMENT * 6, || {
        failed(decrypt(&mut client, &value)).code == "KC030"
    });
    assert_eq!(
        client
            .number("SELECT count(*) FROM colcrypt.key_version WHERE wrapped = '' AND version = 1"),
        1
    );
    assert_eq!(failed(decrypt(&mut client, &value)).code, "KC030");
}
