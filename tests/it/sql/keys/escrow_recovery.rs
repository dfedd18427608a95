//! An escrow from the ceremony to the day it is needed: shares made, checked, refused by name, put together; keyrings
//! recovered from a dump alone, from a database that is up, and with nothing of ours.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use colcrypt_tests::Cluster;
use colcrypt_tests::of_audit::event;
use colcrypt_tests::of_escrow::{
    Ceremony, directory, done, escrow, forged, recipient, shown, stderr, swapped,
};
use colcrypt_tests::process::run;
use postgres::Client;
use serde_json::Value;

use crate::common::{Sql, cluster, db, unique};
use crate::keys::escrow_sharing::square;

/// A keyring `doomed` with the key `d` under a root key file of its own; a table `t` with a value under it.
fn doomed(client: &mut Client, ceremony: &Ceremony) -> PathBuf {
    let file = cluster().root_key(&format!("{}.key", unique("doomed")));
    ceremony.provider(client);
    client.run(&format!(
        "SELECT add_provider('doomed', 'file', jsonb_build_object('path', '{}'));
         SELECT create_keyring('doomed', 'doomed'), add_root('doomed', 'escrow'), add_root('ring', 'escrow');
         SELECT create_key('d', 'doomed');
         CREATE TABLE t AS SELECT encrypt_col('what matters', 'd') AS v;
         SELECT rotate_kek('doomed')",
        file.display()
    ));
    file
}

#[test]
fn three_of_five_shares_and_a_dump_are_enough_on_an_empty_cluster() {
    let mut db = db();
    let ceremony = Ceremony::new("payments");
    let root_key = doomed(&mut db.client, &ceremony);
    let name = db.client.one("SELECT current_database()");
    let dump = cluster().dump(&name);
    fs::remove_file(&root_key).unwrap();

    // Elsewhere, where nothing is.
    let elsewhere = Cluster::builder().start();
    elsewhere.client().run("CREATE DATABASE restored");
    elsewhere.restore(&dump, "restored");
    let mut restored = elsewhere.client_db("restored");
    restored.run("SET search_path = public, colcrypt");
    restored.fails("KC016", "SELECT decrypt_col(v) FROM t");

    let other = Ceremony::new("other");
    let altered = swapped(ceremony.share(1));
    let forged = forged(ceremony.share(1));
    let new_key = elsewhere.dir().join("recovered.key");
    let sql = ceremony.directory.join("recover.sql");
    let output = escrow(
        &[
            "recover",
            "--record",
            shown(&ceremony.record),
            "--dump",
            shown(&dump),
            "--root-key",
            shown(&new_key),
            "--sql",
            shown(&sql),
        ],
        &[
            ceremony.share(4),
            ceremony.share(4),
            other.share(0),
            &altered,
            &forged,
            ceremony.share(0),
            ceremony.share(2),
        ],
    );
    let told = stderr(&output);
    let printed = done(&output);
    let mut rest = told.as_str();
    for part in [
        "missing: 3 of 5",
        "taken: Eve's share",
        "missing: 2 more",
        "refused: Eve's share was given already",
        "refused: this share is of another escrow",
        "refused: no whole share: the words do not fit their checksum",
        "refused: this share is in the place of Ben's, but it is not that share",
        "taken: Ada's share",
        "missing: 1 more",
        "taken: Cleo's share",
    ] {
        let at = rest
            .find(part)
            .unwrap_or_else(|| panic!("no {part:?} in {rest}"));
        rest = &rest[at + part.len()..];
    }
    for keyring in [
        "doomed\", version 1",
        "doomed\", version 2",
        "ring\", version 1",
    ] {
        assert!(
            printed.contains(&format!("recovered: keyring \"{keyring}")),
            "{printed}"
        );
    }
    // Nobody's words, and no key, are in what is left behind.
    let script = fs::read_to_string(&sql).unwrap();
    assert!(!script.contains(ceremony.share(0)) && !told.contains(ceremony.share(0)));

    restored.run(&script);
    restored.run("SET search_path = public, colcrypt");
    assert_eq!(restored.one("SELECT decrypt_col(v) FROM t"), "what matters");
    assert_eq!(
        restored.one("SELECT count(*) FROM verify_keys() WHERE NOT ok AND checked <> 'root key'"),
        "0"
    );
    assert!(
        restored
            .one("SELECT drop_root('doomed', 'doomed')")
            .starts_with("left: provider \"recovered\"; ")
    );
}

/// Whatever pg_dump wrote, and in whatever form a holder has his share: encrypted to his key, or read from the square
/// on his sheet.
#[test]
fn any_dump_and_any_form_of_a_share_will_do() {
    let mut db = db();
    let directory = directory();
    let record = directory.join("record.json");
    let (encrypted, sheets) = (directory.join("encrypted"), directory.join("sheets"));
    let identity = age::x25519::Identity::generate();
    let key_file = cluster().write_file(
        &unique("age"),
        age::secrecy::ExposeSecret::expose_secret(&identity.to_string()).as_bytes(),
        0o600,
    );
    let ada = format!("Ada={}", identity.to_public());
    done(&escrow(
        &[
            "create",
            "--name",
            "forms",
            "--record",
            shown(&record),
            "--shares",
            "3",
            "--threshold",
            "2",
            "--holder",
            &ada,
            "--holder",
            "Ben",
            "--holder",
            "Cleo",
            "--encrypted",
            shown(&encrypted),
            "--sheets",
            shown(&sheets),
        ],
        &[],
    ));
    db.client.run(&format!(
        "SELECT add_provider('escrow', 'escrow', '{{\"recipient\": \"{}\"}}'), add_root('ring', 'escrow')",
        recipient(&record)
    ));
    let share = format!("@{}", shown(&encrypted.join("share-01-Ada.age")));
    let sheet = fs::read(sheets.join("share-02-Ben.pdf")).unwrap();
    let square = square(&String::from_utf8_lossy(&sheet));
    let name = db.client.one("SELECT current_database()");
    for form in ["plain", "directory", "tar", "custom"] {
        let dump = directory.join(format!("dump-{form}"));
        run(cluster()
            .command("pg_dump")
            .args(["--format", form, "-d", &name, "-f"])
            .arg(&dump));
        let (key, sql) = (
            directory.join(format!("{form}.key")),
            directory.join(format!("{form}.sql")),
        );
        let output = escrow(
            &[
                "recover",
                "--record",
                shown(&record),
                "--identity",
                shown(&key_file),
                "--dump",
                shown(&dump),
                "--root-key",
                shown(&key),
                "--sql",
                shown(&sql),
            ],
            &[&share, &square],
        );
        let printed = done(&output);
        assert!(
            printed.contains("recovered: keyring \"ring\", version 1"),
            "{form}: {printed}"
        );
        assert!(stderr(&output).contains("taken: Ben's share"), "{form}");
    }
    // And what the last one wrote opens the keyring.
    db.client
        .run(&fs::read_to_string(directory.join("custom.sql")).unwrap());
    assert_eq!(
        db.client.one("SELECT colcrypt.drop_root('ring', 'local')"),
        "left: provider \"recovered\"; provider \"escrow\""
    );
    db.client
        .run("SELECT colcrypt.decrypt_col(colcrypt.encrypt_col('x', 'k'))");
}

#[test]
fn a_database_that_is_up_gets_another_root_key() {
    let mut db = db();
    let ceremony = Ceremony::new("live");
    let root_key = doomed(&mut db.client, &ceremony);
    let name = db.client.one("SELECT current_database()");
    fs::remove_file(&root_key).unwrap();
    let sql = ceremony.directory.join("recover.sql");
    let connection = format!("host={} dbname={name}", cluster().dir().display());
    let new_key = ceremony.directory.join("new.key");
    let arguments = [
        "recover",
        "--connect",
        &connection,
        "--root-key",
        shown(&new_key),
        "--sql",
        shown(&sql),
    ];
    // Without the record, as if that were lost as well.
    let output = escrow(&arguments, &[1, 2, 3].map(|at| ceremony.share(at)));
    assert!(stderr(&output).contains("taken: share 2 of group 1"));
    assert!(done(&output).contains("recovered: keyring \"doomed\""));
    db.client.run(&fs::read_to_string(&sql).unwrap());
    assert_eq!(
        db.client
            .one("SELECT colcrypt.drop_root('doomed', 'doomed')"),
        "left: provider \"recovered\"; provider \"escrow\""
    );
    assert_eq!(
        db.client
            .one("SELECT colcrypt.decrypt_col(v) FROM public.t"),
        "what matters"
    );
    // On record as what it is: the program has no rights in the database, and nobody called a function of ours.
    for what in [
        "INSERT on colcrypt.provider of 1 rows",
        "UPDATE on colcrypt.kek_copy of",
        "INSERT on colcrypt.kek_copy of 1 rows",
    ] {
        let told = event(
            &mut db.client,
            &format!("event = 'changed_by_hand' AND outcome = 'done' AND detail LIKE '{what}%'"),
        );
        assert!(told.contains("postgres"), "{told}");
    }
}

#[test]
fn a_drill_opens_every_key_of_a_backup_and_is_signed_by_who_took_part() {
    let mut db = db();
    let ceremony = Ceremony::new("drilled");
    doomed(&mut db.client, &ceremony);
    let name = db.client.one("SELECT current_database()");
    let dump = cluster().dump(&name);
    let arguments = [
        "drill",
        "--record",
        shown(&ceremony.record),
        "--backup",
        shown(&dump),
    ];
    let shares = [0, 1, 4].map(|at| ceremony.share(at));
    let report: Value = serde_json::from_str(&done(&escrow(&arguments, &shares))).unwrap();
    let said: Value = serde_json::from_str(report["drill"].as_str().unwrap()).unwrap();
    assert_eq!(said["holders"], serde_json::json!(["Ada", "Ben", "Eve"]));
    assert_eq!(said["keyrings"], serde_json::json!(["doomed", "ring"]));
    assert_eq!(
        (&said["key_encryption_keys"], &said["key_versions"]),
        (&3.into(), &2.into())
    );
    assert_eq!(said["canaries"], 2, "one of each key version");
    assert_eq!(report["signatures"].as_array().unwrap().len(), 3);

    // A keyring that nobody sealed to it is found out, and a key that does not decrypt what it should.
    db.client.run(
        "SELECT create_keyring('forgotten', 'local');
         UPDATE colcrypt.key_version SET canary = set_byte(canary, 40, get_byte(canary, 40) # 1)
             WHERE key_id = (SELECT key_id FROM colcrypt.key WHERE name = 'd')",
    );
    let dump = cluster().dump(&name);
    let arguments = [
        "drill",
        "--record",
        shown(&ceremony.record),
        "--backup",
        shown(&dump),
    ];
    let output = escrow(&arguments, &shares);
    assert!(!output.status.success());
    assert!(
        stderr(&output)
            .contains("keyring \"forgotten\", version 1 of its key encryption key is not sealed")
    );
    assert!(stderr(&output).contains("key \"d\", version 1: its canary value does not decrypt"));
}

#[test]
fn python_alone_opens_a_value_with_three_shares() {
    let mut db = db();
    let ceremony = Ceremony::new("python");
    doomed(&mut db.client, &ceremony);
    let row = db
        .client
        .query_one(
            "SELECT r.keyring_id::text, c.version::text, encode(c.wrapped, 'hex'), k.key_id::text, v.version::text, k.suite,
                    encode(v.wrapped, 'hex'), encode(colcrypt.ciphertext_send(t.v), 'hex')
             FROM public.t t, colcrypt.key k JOIN colcrypt.key_version v USING (key_id) JOIN colcrypt.keyring r USING (keyring_id)
                  JOIN colcrypt.kek_copy c ON c.keyring_id = r.keyring_id AND c.version = v.kek_version
                  JOIN colcrypt.provider p USING (provider_id)
             WHERE k.name = 'd' AND p.name = 'escrow'",
            &[],
        )
        .unwrap();
    let fields: Vec<String> = (0..8).map(|at| row.get(at)).collect();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let python = |reader: &str, arguments: &[String], input: &str| {
        let mut child = Command::new("python3")
            .arg(docs.join(reader))
            .args(arguments)
            .env("PYTHONPATH", docs.join("../target/tools/shamir"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        done(&child.wait_with_output().unwrap())
    };
    let shares = [3, 1, 2].map(|at| ceremony.share(at)).join("\n");
    let key = python("escrow_reader.py", &fields[..7], &shares);
    let value = python(
        "format_reader.py",
        &["/dev/stdin".into(), fields[7].clone()],
        key.trim(),
    );
    let value: Value = serde_json::from_str(&value).unwrap();
    assert_eq!(value["text"], "what matters");
}

#[test]
fn checks_and_drills_are_on_record_and_due() {
    let mut db = db();
    let ceremony = Ceremony::new("recorded");
    doomed(&mut db.client, &ceremony);
    let record = fs::read_to_string(&ceremony.record).unwrap();
    let call = |function: &str, arguments: &[&str]| {
        let quoted: Vec<String> = arguments.iter().map(|one| format!("$t${one}$t$")).collect();
        format!("SELECT colcrypt.{function}({})", quoted.join(", "))
    };
    let register = call("register_escrow", &["escrow", &record]);
    db.client
        .fails("22023", &call("register_escrow", &["local", &record]))
        .says("is no escrow");
    let other = Ceremony::new("other");
    let others = fs::read_to_string(&other.record).unwrap();
    db.client
        .fails("22023", &call("register_escrow", &["escrow", &others]))
        .says("of another escrow");
    assert_eq!(db.client.one(&register), "registered");
    assert_eq!(
        db.client.one("SELECT string_agg(holder, ' ' ORDER BY holder) FROM colcrypt.custodian_status WHERE NOT is_overdue"),
        "Ada Ben Cleo Dan Eve"
    );
    db.client
        .run(&call("set_custodian", &["escrow", "Ben", "a safe"]));
    db.client.fails(
        "42704",
        &call("set_custodian", &["escrow", "Zoe", "a safe"]),
    );

    // Only Ben's share signs Ben's receipt, and it counts once.
    let check = ["check", "--record", shown(&ceremony.record)];
    let receipt = done(&escrow(&check, &[ceremony.share(1)]));
    let receipt = receipt.trim();
    db.client
        .fails(
            "22023",
            &call("record_escrow_check", &["escrow", "Ada", receipt]),
        )
        .says("Ben's and not Ada's");
    let (said, signature) = receipt.rsplit_once(':').unwrap();
    let forged = format!("{}:{signature}", said.replace(":0:1:", ":0:0:"));
    db.client
        .fails(
            "22023",
            &call("record_escrow_check", &["escrow", "Ada", &forged]),
        )
        .says("not signed with Ada's share");
    let record_check = call("record_escrow_check", &["escrow", "Ben", receipt]);
    db.client.run(&record_check);
    db.client
        .fails("22023", &record_check)
        .says("recorded already");
    assert_eq!(
        db.client.one("SELECT holder || ' ' || location FROM colcrypt.custodian_status WHERE checked_at IS NOT NULL"),
        "Ben a safe"
    );

    let dump = cluster().dump(&db.client.one("SELECT current_database()"));
    let drill = [
        "drill",
        "--record",
        shown(&ceremony.record),
        "--backup",
        shown(&dump),
    ];
    let report = done(&escrow(&drill, &[0, 1, 2].map(|at| ceremony.share(at))));
    let report = report.trim();
    let forged = report.replace("key_versions\\\":2", "key_versions\\\":9");
    assert_ne!(forged, report);
    db.client
        .fails("22023", &call("record_drill", &["escrow", &forged]))
        .says("not signed with Ada's share");
    assert_eq!(
        db.client.one(&call("record_drill", &["escrow", report])),
        "succeeded"
    );
    assert_eq!(
        db.client.one("SELECT concat_ws(' ', keyrings, keyrings_without, holders, checks_overdue, drilled_at > now() - interval '1 hour', drill_overdue) FROM colcrypt.escrow_status"),
        "2 0 5 0 t f"
    );
    // What is due shows as soon as it is.
    db.client.run("UPDATE colcrypt.escrow SET check_interval = '1 microsecond', drill_interval = '1 microsecond'");
    assert_eq!(
        db.client.one(
            "SELECT concat_ws(' ', checks_overdue, drill_overdue) FROM colcrypt.escrow_status"
        ),
        "5 t"
    );
    colcrypt_tests::of_audit::settle(&mut db.client);
    assert_eq!(
        db.client.one("SELECT string_agg(DISTINCT event, ' ' ORDER BY event) FROM colcrypt.audit_log WHERE detail LIKE 'escrow: %'"),
        "record_drill record_escrow_check register_escrow set_custodian"
    );
}
