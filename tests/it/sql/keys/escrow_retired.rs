//! What is known of an escrow over the years: records that are registered again, and an escrow that is used no more.

use std::fs;

use colcrypt_tests::of_audit::event;
use colcrypt_tests::of_escrow::{Ceremony, done, escrow, shown};

use crate::common::{Sql, db};

const OVERDUE: &str = "SELECT coalesce(string_agg(holder, ' ' ORDER BY holder), '') FROM colcrypt.custodian_status WHERE is_overdue";

fn register(record: &str) -> String {
    format!("SELECT register_escrow('escrow', $r${record}$r$)")
}

#[test]
fn a_record_that_is_registered_again_makes_nothing_due_later() {
    let mut db = db();
    let ceremony = Ceremony::new("years");
    ceremony.provider(&mut db.client);
    db.client.run("SELECT add_root('ring', 'escrow')");
    let old = fs::read_to_string(&ceremony.record).unwrap();
    db.client.run(&register(&old));
    let check = ["check", "--record", shown(&ceremony.record)];
    let receipt = done(&escrow(&check, &[ceremony.share(1)]));
    db.client.run(&format!(
        "SELECT set_custodian('escrow', 'Ben', 'a safe'), record_escrow_check('escrow', 'Ben', '{}')",
        receipt.trim()
    ));
    db.client.run(
        "UPDATE colcrypt.custodian SET since = now() - interval '91 days'; UPDATE colcrypt.escrow SET registered_at = now() - interval '91 days'",
    );
    assert_eq!(db.client.one(OVERDUE), "Ada Cleo Dan Eve");
    let drill = "SELECT drill_overdue FROM escrow_status";
    assert!(db.client.yes(drill));

    // The same one.
    db.client.run(&register(&old));
    assert_eq!(db.client.one(OVERDUE), "Ada Cleo Dan Eve");
    assert!(db.client.yes(drill));
    assert_eq!(
        db.client
            .one("SELECT location FROM custodian_status WHERE checked_at IS NOT NULL"),
        "a safe"
    );

    // Of other shares nothing was shown; and then of the old ones again, which is no way to gain time either.
    let record = ceremony.directory.join("new.json");
    let arguments = [
        "reshare",
        "--old-record",
        shown(&ceremony.record),
        "--record",
        shown(&record),
        "--print",
    ];
    done(&escrow(&arguments, &[0, 1, 2].map(|at| ceremony.share(at))));
    let new = fs::read_to_string(&record).unwrap();
    for (record, count) in [(&new, "5"), (&old, "5"), (&new, "5")] {
        db.client.run(&register(record));
        assert_eq!(
            db.client
                .one("SELECT checks_overdue FROM colcrypt.escrow_status"),
            count
        );
        assert!(db.client.yes(drill));
    }
}

#[test]
fn a_retired_escrow_opens_nothing_new_and_nothing_is_due_of_it() {
    let mut db = db();
    let ceremony = Ceremony::new("retired");
    ceremony.provider(&mut db.client);
    db.client.run(
        "SELECT create_keyring('more', 'local'), create_keyring('without', 'local');
         SELECT add_root(r, 'escrow') FROM unnest('{ring,more}'::text[]) r; SELECT rotate_kek('ring')",
    );
    db.client
        .fails("22023", "SELECT retire_escrow('escrow')")
        .says("is not here: register_escrow");
    db.client
        .fails("22023", "SELECT retire_escrow('local')")
        .says("is no escrow");
    let record = fs::read_to_string(&ceremony.record).unwrap();
    db.client.run(&register(&record));
    db.client.run(
        "UPDATE colcrypt.escrow SET check_interval = '1 microsecond', drill_interval = '1 microsecond'",
    );
    let status = "SELECT concat_ws(' ', keyrings, keyrings_without, holders, checks_overdue, coalesce(drill_due::text, '-'), drill_overdue, \
                  retired_at > now() - interval '1 minute', retired_by = session_user) FROM escrow_status";
    assert!(
        db.client.one(status).starts_with("2 1 5 5 2"),
        "{}",
        db.client.one(status)
    );
    assert_eq!(
        db.client
            .one("SELECT retire_escrow('escrow', 'other holders')"),
        "retired"
    );
    assert_eq!(db.client.one(status), "0 0 5 0 - f t t");
    assert_eq!(db.client.one(OVERDUE), "");
    assert_eq!(
        db.client
            .one("SELECT count(*) FROM root_status WHERE provider = 'escrow'"),
        "0"
    );
    let told = event(
        &mut db.client,
        "event = 'retire_escrow' AND outcome = 'done'",
    );
    assert!(told.contains("escrow: 2 keyrings: other holders"), "{told}");

    let receipt = done(&escrow(
        &["check", "--record", shown(&ceremony.record)],
        &[ceremony.share(0)],
    ));
    for call in [
        "add_root('ring', 'escrow')".to_owned(),
        "retire_escrow('escrow')".into(),
        "set_custodian('escrow', 'Ada', 'home')".into(),
        format!("record_escrow_check('escrow', 'Ada', '{}')", receipt.trim()),
        format!("register_escrow('escrow', $r${record}$r$)"),
    ] {
        db.client
            .fails("22023", &format!("SELECT {call}"))
            .says("was retired on");
    }
    db.client.run("SELECT rotate_kek('ring')");
    assert_eq!(db.client.one(status), "0 0 5 0 - f t t");
    // It leaves the catalog as any provider does.
    db.client.run("SELECT drop_provider('escrow')");
    assert_eq!(db.client.one("SELECT count(*) FROM escrow_status"), "0");
}

#[test]
fn it_stays_where_another_root_key_does_not_open() {
    let mut db = db();
    let ceremony = Ceremony::new("needed");
    let file =
        crate::common::cluster().root_key(&format!("{}.key", crate::common::unique("needed")));
    ceremony.provider(&mut db.client);
    db.client.run(&format!(
        "SELECT add_provider('lost', 'file', jsonb_build_object('path', '{}'));
         SELECT create_keyring('doomed', 'lost'), add_root('doomed', 'escrow')",
        file.display()
    ));
    let record = fs::read_to_string(&ceremony.record).unwrap();
    db.client.run(&register(&record));
    fs::remove_file(&file).unwrap();
    db.client.fails("KC049", "SELECT retire_escrow('escrow')");
    assert_eq!(
        db.client
            .one("SELECT keyrings || coalesce(retired_by, ' in use') FROM escrow_status"),
        "1 in use"
    );
}
