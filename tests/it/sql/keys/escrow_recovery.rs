//! An escrow from the ceremony to the day it is needed: shares made, checked, refused by name, put together; keyrings
//! recovered from a dump alone, from a database that is up, and with nothing of ours.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use colcrypt_tests::{Cluster, process::run};
use postgres::Client;
use serde_json::Value;

use crate::common::{Sql, cluster, db, unique};

/// Runs `colcrypt escrow` with these lines on its standard input.
fn escrow(arguments: &[&str], lines: &[&str]) -> Output {
    let restore = cluster().command("pg_restore");
    let bindir = Path::new(restore.get_program())
        .parent()
        .unwrap()
        .to_owned();
    let mut child = cluster()
        .command("colcrypt")
        .arg("escrow")
        .args(arguments)
        .env("PATH", format!("{}:/usr/bin:/bin", bindir.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    // It may have ended before it read everything.
    let _ = input.write_all(lines.join("\n").as_bytes());
    drop(input);
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    stdout(output)
}

/// A directory of the server's user.
fn directory() -> PathBuf {
    let path = cluster().dir().join(unique("escrow"));
    run(cluster().server_user().command("mkdir").arg(&path));
    path
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An escrow of five, three of whom it takes.
struct Ceremony {
    directory: PathBuf,
    record: PathBuf,
    recipient: String,
    /// In the order of the names.
    shares: Vec<String>,
}

const NAMES: [&str; 5] = ["Ada", "Ben", "Cleo", "Dan", "Eve"];

impl Ceremony {
    fn new(name: &str) -> Self {
        let directory = directory();
        let record = directory.join("record.json");
        let mut arguments = vec![
            "create",
            "--name",
            name,
            "--record",
            shown(&record),
            "--print",
        ];
        arguments.extend(NAMES.iter().flat_map(|name| ["--holder", name]));
        let printed = done(&escrow(&arguments, &[]));
        let shares = NAMES.map(|name| {
            let begin = format!("{name}: ");
            let mut lines = printed.lines();
            lines
                .find_map(|line| line.strip_prefix(&begin))
                .unwrap()
                .to_owned()
        });
        Self {
            recipient: recipient(&record),
            directory,
            record,
            shares: shares.to_vec(),
        }
    }

    fn provider(&self, client: &mut Client) {
        client.run(&format!(
            "SELECT add_provider('escrow', 'escrow', '{{\"recipient\": \"{}\"}}')",
            self.recipient
        ));
    }

    fn share(&self, at: usize) -> &str {
        &self.shares[at]
    }
}

fn recipient(record: &Path) -> String {
    let record: Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
    record["recipient"].as_str().unwrap().to_owned()
}

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

/// What a swapped pair of letters makes of a share, in words that all exist and fit their checksum, is as hard to hit
/// as another share; so this one is of another escrow with its first word changed to ours, or ours with two words
/// swapped.
fn swapped(share: &str) -> String {
    let mut words: Vec<&str> = share.split(' ').collect();
    let at = (5..30).find(|&at| words[at] != words[at + 1]).unwrap();
    words.swap(at, at + 1);
    words.join(" ")
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
}

#[test]
fn one_share_alone_shows_that_it_is_whole_and_whose() {
    let ceremony = Ceremony::new("checked");
    let record = ["check", "--record", shown(&ceremony.record)];
    let output = escrow(&record, &[ceremony.share(3)]);
    assert!(done(&output).starts_with("colcrypt-escrow-receipt-1:"));
    assert!(stderr(&output).contains("Dan's share of escrow checked"));
    let refused = |share: &str, why: &str| {
        let output = escrow(&record, &[share]);
        assert!(!output.status.success());
        assert!(stderr(&output).contains(why), "{}", stderr(&output));
    };
    refused(Ceremony::new("other").share(3), "of another escrow");
    refused(&swapped(ceremony.share(3)), "do not fit their checksum");
    refused("duckling enlarge colcrypt", "word 3 is none");
    refused("", "no share was given");
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
    assert_eq!(report["signatures"].as_array().unwrap().len(), 3);

    // A keyring that nobody sealed to it is found out.
    db.client.run("SELECT create_keyring('forgotten', 'local')");
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
}

#[test]
fn other_holders_get_shares_of_the_same_key() {
    let ceremony = Ceremony::new("reshared");
    let record = ceremony.directory.join("new.json");
    let output = escrow(
        &[
            "reshare",
            "--old-record",
            shown(&ceremony.record),
            "--record",
            shown(&record),
            "--group",
            "directors:2/3",
            "--group",
            "auditors:2/3",
            "--print",
        ],
        &[2, 0, 1].map(|at| ceremony.share(at)),
    );
    let printed = done(&output);
    assert_eq!(recipient(&record), ceremony.recipient);
    let shares: Vec<&str> = printed
        .lines()
        .filter_map(|line| line.strip_prefix("holder ")?.split_once(": "))
        .map(|(_, words)| words)
        .collect();
    assert_eq!(shares.len(), 6);
    let check = ["check", "--record", shown(&record)];
    done(&escrow(&check, &[shares[5]]));
    let old = escrow(&check, &[ceremony.share(0)]);
    assert!(stderr(&old).contains("or of an earlier sharing of this one"));
}

#[test]
fn a_share_goes_to_its_holders_own_key_or_on_a_sheet() {
    let directory = directory();
    let record = directory.join("record.json");
    let identity = age::x25519::Identity::generate();
    let key_file = cluster().write_file(
        &unique("age"),
        age::secrecy::ExposeSecret::expose_secret(&identity.to_string()).as_bytes(),
        0o600,
    );
    let (encrypted, sheets) = (directory.join("encrypted"), directory.join("sheets"));
    let ada = format!("Ada={}", identity.to_public());
    let printed = done(&escrow(
        &[
            "create",
            "--name",
            "sheets",
            "--record",
            shown(&record),
            "--shares",
            "2",
            "--threshold",
            "2",
            "--holder",
            &ada,
            "--holder",
            "Ben",
            "--encrypted",
            shown(&encrypted),
            "--sheets",
            shown(&sheets),
        ],
        &[],
    ));
    assert!(
        printed.contains("Ada: encrypted") && printed.contains("Ben: a sheet"),
        "{printed}"
    );
    let file = format!("@{}", shown(&encrypted.join("share-01-Ada.age")));
    let check = ["check", "--record", shown(&record)];
    let refused = escrow(&check, &[&file]);
    assert!(
        stderr(&refused).contains("--identity"),
        "{}",
        stderr(&refused)
    );
    let with_key = [
        "check",
        "--record",
        shown(&record),
        "--identity",
        shown(&key_file),
    ];
    assert!(stderr(&escrow(&with_key, &[&file])).contains("Ada's share of escrow sheets"));

    // The sheet's words, in the order of their numbers, are Ben's share.
    let sheet = fs::read(sheets.join("share-02-Ben.pdf")).unwrap();
    assert!(sheet.starts_with(b"%PDF-"));
    let text = String::from_utf8_lossy(&sheet);
    let words: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix('(')?.strip_suffix(") Tj"))
        .filter_map(|shown| shown.trim().split_once(' '))
        .filter(|(number, _)| number.parse::<u8>().is_ok())
        .map(|(_, word)| word)
        .collect();
    assert_eq!(words.len(), 33, "{text}");
    assert!(stderr(&escrow(&check, &[&words.join(" ")])).contains("Ben's share"));
    // So is what a scanner reads from its square.
    assert_eq!(square(&text), words.join(" "));
}

/// What the squares on a sheet say, as they are drawn: rectangles, from the paper's lower left corner, in points.
fn square(pdf: &str) -> String {
    let numbers = |line: &str| -> Option<[f32; 4]> {
        let parts: Vec<f32> = line
            .strip_suffix(" re")?
            .split(' ')
            .map(|part| part.parse().unwrap())
            .collect();
        parts.try_into().ok()
    };
    let drawn: Vec<[f32; 4]> = pdf.lines().filter_map(numbers).collect();
    // Three dots a point.
    let (width, height, scale) = (595 * 3, 842 * 3, 3.0);
    let mut paper = vec![255_u8; width * height];
    for [x, y, wide, high] in drawn {
        let (left, right) = (x * scale, (x + wide) * scale);
        let (top, bottom) = ((842.0 - y - high) * scale, (842.0 - y) * scale);
        for row in top.round() as usize..bottom.round() as usize {
            for column in left.round() as usize..right.round() as usize {
                paper[row * width + column] = 0;
            }
        }
    }
    let mut image =
        rqrr::PreparedImage::prepare_from_greyscale(width, height, |x, y| paper[y * width + x]);
    let grids = image.detect_grids();
    assert_eq!(grids.len(), 1, "one square");
    grids[0].decode().expect("a square that can be read").1
}

#[test]
fn nothing_of_a_share_is_written_unless_asked() {
    let directory = directory();
    let record = directory.join("record.json");
    let output = escrow(&["create", "--name", "x", "--record", shown(&record)], &[]);
    assert!(!output.status.success());
    assert!(stderr(&output).contains("nothing of them is written unencrypted unless asked"));
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    let ceremony = Ceremony::new("x");
    let files: Vec<_> = fs::read_dir(&ceremony.directory).unwrap().collect();
    assert_eq!(files.len(), 1, "the record alone");
    let record = fs::read_to_string(&ceremony.record).unwrap();
    for share in &ceremony.shares {
        let words = share.split(' ').skip(4).collect::<Vec<_>>();
        assert!(words.windows(2).all(|two| !record.contains(&two.join(" "))));
    }
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
