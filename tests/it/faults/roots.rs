//! Keyrings moved between root keys: nothing is lost at any point, and the old root key is needed no more.

use std::fs;
use std::time::Duration;

use colcrypt_tests::bed::{Bed, MOMENT, QUICK, VaultBed, decrypt, encrypt, wait_until_ok};
use colcrypt_tests::problem::failed;
use colcrypt_tests::wait_for;

/// Longest wait for what a worker tries again.
const LONG: Duration = Duration::from_secs(120);

fn catalog(bed: &Bed) -> String {
    bed.cluster
        .client()
        .query_one(
            "SELECT string_agg(t::text, '' ORDER BY t::text) FROM colcrypt.kek_copy t",
            &[],
        )
        .unwrap()
        .get(0)
}

fn move_to(bed: &Bed, provider: &str, root_key: &str) -> Result<String, postgres::Error> {
    let sql = "SELECT colcrypt.move_keyring('ring', $1, $2)";
    Ok(bed
        .cluster
        .client()
        .query_one(sql, &[&provider, &root_key])?
        .get(0))
}

/// From Transit to a file and back, each time with the former root key destroyed afterwards.
#[test]
fn a_keyring_moves_between_providers_of_any_kind() {
    let bed = VaultBed::new(&QUICK);
    let value = encrypt(&mut bed.cluster.client(), "k").unwrap();
    // A version made before the move is under the same KEK.
    bed.cluster
        .client()
        .batch_execute("SELECT colcrypt.rotate_key('k')")
        .unwrap();
    let newer = encrypt(&mut bed.cluster.client(), "k").unwrap();
    let file = bed.cluster.root_key("new.key");
    bed.cluster
        .client()
        .execute(
            "SELECT colcrypt.add_provider('disk', 'file', jsonb_build_object('path', $1::text))",
            &[&file.to_str().unwrap()],
        )
        .unwrap();

    assert_eq!(move_to(&bed, "disk", "").unwrap(), "moved");
    bed.bao.delete_key("app");
    bed.cluster.restart();
    for value in [&value, &newer] {
        decrypt(&mut bed.cluster.client(), value).unwrap();
    }

    bed.bao.create_key("app");
    assert_eq!(move_to(&bed, "bao", "app").unwrap(), "moved");
    fs::remove_file(&file).unwrap();
    bed.cluster.restart();
    for value in [&value, &newer] {
        decrypt(&mut bed.cluster.client(), value).unwrap();
    }
    encrypt(&mut bed.cluster.client(), "k").unwrap();
    let acts: i64 = bed
        .cluster
        .client()
        .query_one(
            "SELECT (SELECT count(*) FROM colcrypt.audit_log WHERE event = 'move_keyring' AND outcome = 'done')
                  + (SELECT count(*) FROM colcrypt.audit_outbox WHERE event = 'move_keyring')",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(acts, 2);
}

/// While keys are cached in the agent, a root that cannot be reached any more can be left.
#[test]
fn a_root_that_is_away_does_not_hold_the_move_up() {
    let bed = VaultBed::new(&[]);
    let value = encrypt(&mut bed.cluster.client(), "k").unwrap();
    let file = bed.cluster.root_key("new.key");
    bed.cluster
        .client()
        .execute(
            "SELECT colcrypt.add_provider('disk', 'file', jsonb_build_object('path', $1::text))",
            &[&file.to_str().unwrap()],
        )
        .unwrap();
    bed.bao.pause();
    assert_eq!(move_to(&bed, "disk", "").unwrap(), "moved");
    bed.cluster.restart();
    decrypt(&mut bed.cluster.client(), &value).unwrap();
    bed.bao.resume();
}

/// A move that fails, is rolled back or is killed leaves everything as it was.
#[test]
fn a_move_that_does_not_commit_changes_nothing() {
    let bed = VaultBed::new(&QUICK);
    let value = encrypt(&mut bed.cluster.client(), "k").unwrap();
    let before = catalog(&bed);
    let file = bed.cluster.root_key("new.key");
    let mut client = bed.cluster.client();
    client
        .batch_execute(&format!(
            "SELECT colcrypt.add_provider('disk', 'file', jsonb_build_object('path', '{}'));
             SELECT colcrypt.add_provider('gone', 'file', '{{\"path\": \"/nowhere/root.key\"}}')",
            file.display()
        ))
        .unwrap();

    let problem = failed(move_to(&bed, "gone", ""));
    assert_eq!(problem.code, "KC013", "{problem:?}");
    let problem = failed(move_to(&bed, "bao", "no-such-key"));
    assert_eq!(problem.code, "KC015", "{problem:?}");
    let problem = failed(move_to(&bed, "nobody", ""));
    assert_eq!(problem.code, "42704", "{problem:?}");
    client
        .batch_execute("BEGIN; SELECT colcrypt.move_keyring('ring', 'disk'); ROLLBACK")
        .unwrap();
    assert_eq!(catalog(&bed), before);

    // Killed between the rewrapping and the commit.
    client
        .batch_execute("BEGIN; SELECT colcrypt.move_keyring('ring', 'disk')")
        .unwrap();
    bed.cluster.stop_immediately();
    bed.cluster.start();
    wait_until_ok("the old root serves", MOMENT, || {
        decrypt(&mut bed.cluster.client(), &value)
    });
    assert_eq!(catalog(&bed), before);
}

/// The server's newest version of the root key is taken, and the older one may then be switched off.
#[test]
fn rotate_root_takes_the_newest_version() {
    let bed = VaultBed::new(&QUICK);
    let value = encrypt(&mut bed.cluster.client(), "k").unwrap();
    bed.bao.bao(&["write", "-f", "transit/keys/app/rotate"]);
    let version: String = bed
        .cluster
        .client()
        .query_one("SELECT colcrypt.rotate_root('ring')", &[])
        .unwrap()
        .get(0);
    assert!(version.contains('2'), "{version}");
    let stored: String = bed
        .cluster
        .client()
        .query_one("SELECT root_key_version FROM colcrypt.keyring_status", &[])
        .unwrap()
        .get(0);
    assert_eq!(stored, version);
    bed.bao.bao(&[
        "write",
        "transit/keys/app/config",
        "min_decryption_version=2",
    ]);
    bed.cluster.restart();
    decrypt(&mut bed.cluster.client(), &value).unwrap();
}

/// By schedule, where the provider makes new versions on a calendar of its own. An outage is waited out, and shows.
#[test]
fn the_worker_takes_the_newest_version_by_schedule() {
    let bed = VaultBed::new(&QUICK);
    let value = encrypt(&mut bed.cluster.client(), "k").unwrap();
    let asks = |sql: &str| -> String { bed.cluster.client().query_one(sql, &[]).unwrap().get(0) };
    for short in ["59 minutes", "0", "-1 day"] {
        let sql = format!("SELECT colcrypt.set_root_interval('ring', '{short}')");
        let problem = failed(bed.cluster.client().query_one(&sql, &[]));
        assert_eq!(problem.code, "22023", "{problem:?}");
    }
    let none = "SELECT count(*)::text FROM colcrypt.root_schedule";
    assert_eq!(asks(none), "0", "nothing is done by itself unless asked");
    assert_eq!(
        asks("SELECT colcrypt.set_root_interval('ring', '30 days')"),
        "set"
    );
    assert_eq!(
        asks(
            "SELECT (next_rotation_at BETWEEN now() + interval '29 days' AND now() + interval '31 days' AND NOT overdue)::text \
             FROM colcrypt.root_schedule"
        ),
        "true"
    );
    bed.bao.bao(&["write", "-f", "transit/keys/app/rotate"]);
    let version = "SELECT root_key_version FROM colcrypt.keyring_status";
    let before = asks(version);
    bed.bao.pause();
    // As if a month had passed; to set the interval again has the worker look.
    bed.cluster
        .client()
        .batch_execute(
            "UPDATE colcrypt.kek_copy SET wrapped_at = now() - interval '31 days';
             SELECT colcrypt.set_root_interval('ring', '30 days')",
        )
        .unwrap();
    wait_for("a try that fails", LONG, || {
        asks(
            "SELECT coalesce(bool_and(overdue AND tries >= 1 AND last_error <> ''), false)::text FROM colcrypt.root_schedule",
        ) == "true"
    });
    assert_eq!(asks(version), before);
    bed.bao.resume();
    wait_for("the newest version", LONG, || asks(version) != before);
    assert_eq!(
        asks("SELECT (NOT overdue AND last_error IS NULL)::text FROM colcrypt.root_schedule"),
        "true"
    );
    assert_eq!(
        asks(
            "SELECT count(*)::text FROM colcrypt.audit_log WHERE event = 'rotate_root' AND detail LIKE '%(by schedule)'"
        ),
        "1"
    );
    wait_until_ok("the key serves", MOMENT, || {
        decrypt(&mut bed.cluster.client(), &value)
    });
}
