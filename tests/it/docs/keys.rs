//! Every SQL block of docs/keys.md, in order, as a DBA would type it.

use std::time::Duration;

use colcrypt_tests::Cluster;
use colcrypt_tests::process::wait_for;
use postgres::Client;

const LONG: Duration = Duration::from_secs(60);

fn yes(client: &mut Client, sql: &str) -> bool {
    client
        .query_one(sql, &[])
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"))
        .get(0)
}

#[test]
fn the_life_of_a_key_works_as_written() {
    let text = std::fs::read_to_string(super::repository("docs/keys.md")).expect("keys.md");
    let cluster = Cluster::builder().start();
    let root_key = cluster.root_key("root.key");
    let elsewhere = cluster.root_key("elsewhere.key");
    let mut client = cluster.client();
    let blocks = super::blocks(&text, "sql");
    assert!(blocks.len() >= 12, "keys.md has lost its SQL");
    for block in blocks {
        // What the text says has happened by then.
        if block.contains("rows_needing_key") {
            wait_for("the jobs", LONG, || {
                yes(
                    &mut client,
                    "SELECT bool_and(phase = 'done') FROM job_progress",
                )
            });
        }
        let block = block
            .replace("/etc/colcrypt/root.key", &root_key.to_string_lossy())
            .replace("/mnt/elsewhere/root.key", &elsewhere.to_string_lossy());
        if let Err(error) = client.batch_execute(&block) {
            panic!("{error:?}\nin the block of keys.md:\n{block}");
        }
    }

    // The trap springs, and looks like nothing.
    let trapped: String = client
        .query_one(
            "SELECT decrypt_col(iban, place_context('payment.iban', id)) FROM payment WHERE id = 0",
            &[],
        )
        .expect("the honeytoken")
        .get(0);
    assert_eq!(trapped, "DE00 0000");
    wait_for("the alarm", LONG, || {
        yes(
            &mut client,
            "SELECT EXISTS (SELECT FROM audit_log WHERE outcome = 'alarm' AND key = 'payments')",
        )
    });
    assert!(yes(&mut client, "SELECT ok FROM verify_audit_log()"));

    // Every act of the page is in the log.
    for event in [
        "create_keyring",
        "create_key",
        "grant_key",
        "register_column",
        "rotate_key",
        "activate_key",
        "suspend_key",
        "resume_key",
        "mark_compromised",
        "rotate_kek",
        "set_kek_cryptoperiod",
        "mark_kek_compromised",
        "schedule_key_destruction",
        "cancel_key_destruction",
        "add_root",
        "drop_root",
        "require_four_eyes",
        "mark_honeytoken",
    ] {
        wait_for(event, LONG, || {
            yes(
                &mut client,
                &format!(
                    "SELECT EXISTS (SELECT FROM audit_log WHERE event = '{event}' AND outcome = 'done')"
                ),
            )
        });
    }

    // Every row still decrypts, under a version that is neither compromised nor gone.
    wait_for("the rows to be moved", LONG, || {
        yes(
            &mut client,
            "SELECT count(*) = 1000 AND bool_and(decrypt_col(iban, place_context('payment.iban', id)) = 'DE' || id)
                    AND bool_and((ciphertext_info(iban)).version = 5)
             FROM payment WHERE id > 0",
        )
    });

    // The day of destruction comes.
    client
        .batch_execute("UPDATE key_version SET destroy_at = now() WHERE version = 1")
        .expect("a later day");
    wait_for("the destruction", LONG, || {
        client
            .batch_execute("SELECT create_key('wake ' || clock_timestamp(), 'finance')")
            .ok();
        yes(
            &mut client,
            "SELECT state = 'destroyed' FROM key_status WHERE key = 'payments' AND version = 1",
        )
    });
}
