//! What every provider can do, at SQL level and from the shell.

use std::fs;

use colcrypt_core::EscrowKey;
use colcrypt_tests::bed::{MOMENT, encrypt, wait_until_ok};
use colcrypt_tests::problem::Problem;
use colcrypt_tests::provider_bed::{ProviderBed, Trouble};
use colcrypt_tests::wait_for;
use serde_json::Value;

use crate::table::{self, NOTHING};
use crate::world::{PROVIDER, World};

on_every_bed!(crate::conformance::conforms);

const ROWS: [&str; 13] = [
    "`check_provider`: round trip, version",
    "`check_provider` without the rights",
    "`create_keyring`, `create_key`",
    "cold start of 20 keys",
    "`key_source 'provider'`",
    "`rotate_root` to a newer version",
    "former version switched off",
    "`move_keyring` to a file",
    "former root key switched off",
    "`move_keyring` back",
    "`rotate_kek`, former KEK unused",
    "`colcrypt check`: same findings",
    "`colcrypt check`: same error",
];

const YES: &str = "yes";
/// Of one keyring, so that one call serves them.
const KEYS: usize = 20;

fn conforms(bed: impl ProviderBed) {
    let world = World::new(&bed, &["colcrypt.kms_timeout = '10s'"]);
    let cells = [
        checks(&world),
        checks_rights(&world),
        YES.to_owned(),
        starts_cold(&world),
        generates(&world),
    ];
    let [rotated, retired] = rotates(&world);
    let [moved, left, back] = moves(&world);
    let [found, refused] = checks_from_the_shell(&world);
    let rewrapped = rotates_kek(&world);
    let rest = [
        rotated, retired, moved, left, back, rewrapped, found, refused,
    ];
    let cells = ROWS.into_iter().zip(cells.into_iter().chain(rest));
    let column = format!("`{}`", bed.kind());
    let cells: Vec<table::Cell> = cells
        .map(|(row, cell)| (row.to_owned(), column.clone(), cell))
        .collect();
    world.hide_secrets();
    table::check("operations", &ROWS, &cells);
}

fn checks(world: &World) -> String {
    let sql = "SELECT concat_ws(' ', length(server) > 0, length(root_key_version) > 0, latency > '0', \
               array_position(warnings, NULL) IS NULL) FROM colcrypt.check_provider($1, $2)";
    let root_key = world.provider.root_key();
    assert_eq!(world.run(sql, &[PROVIDER, &root_key]), "t t t t");
    world.run("SELECT colcrypt.check_provider($1)::text", &[PROVIDER]);
    YES.to_owned()
}

/// Troubles that take the rights away, the mildest first.
const WITHDRAWALS: [Trouble; 4] = [
    Trouble::Denied,
    Trouble::LoginRevoked,
    Trouble::KeyDisabled,
    Trouble::KeyDeleted,
];

/// Withdraws the rights on the root key, and gives them back.
fn withdrawn<T>(world: &World, troubles: &[Trouble], act: impl FnOnce() -> T) -> T {
    let provider = world.provider;
    let made = troubles.iter().find(|trouble| provider.make(**trouble));
    let made = *made.expect("a trouble that every provider knows");
    let result = act();
    assert!(provider.mend(made), "{made:?} cannot be mended");
    result
}

fn checks_rights(world: &World) -> String {
    let root_key = world.provider.root_key();
    let problem = withdrawn(world, &WITHDRAWALS, || {
        world.fails(
            "SELECT colcrypt.check_provider($1, $2)::text",
            &[PROVIDER, &root_key],
        )
    });
    problem.is(&problem.code);
    assert!(is_refusal(&problem), "{problem:?}");
    wait_until_ok("the rights again", MOMENT, || world.check_provider());
    format!("`{}`", problem.code)
}

fn is_refusal(problem: &Problem) -> bool {
    ["KC015", "KC016", "KC017"].contains(&problem.code.as_str())
}

/// One call unwraps the keyring's KEK, however many keys are under it.
fn starts_cold(world: &World) -> String {
    let mut values = vec![world.add_keyring("ring", &world.provider.root_key())];
    for number in 1..KEYS {
        let name = format!("key {number}");
        world.create_key(&name, "ring");
        values.push(encrypt(&mut world.cluster.client(), &name).unwrap());
    }
    world.cluster.restart();
    let before = world.provider.unwraps();
    let mut client = world.cluster.client();
    for value in &values {
        colcrypt_tests::bed::decrypt(&mut client, value).unwrap();
    }
    let calls = world.provider.unwraps().zip(before);
    verifies(world);
    calls.map_or(YES.to_owned(), |(after, before)| {
        assert_eq!(after - before, 1, "calls for {KEYS} keys of one keyring");
        "1 call".to_owned()
    })
}

/// One call asks the root key, however many keys there are.
fn verifies(world: &World) {
    let before = world.provider.unwraps();
    let sql = "SELECT concat_ws(' ', bool_and(ok), count(*), count(*) FILTER (WHERE checked = 'key version')) FROM colcrypt.verify_keys(true)";
    assert_eq!(world.run(sql, &[]), format!("t {} {KEYS}", KEYS + 1));
    if let Some((after, before)) = world.provider.unwraps().zip(before) {
        assert_eq!(after - before, 1, "calls to verify {KEYS} keys");
    }
}

fn generates(world: &World) -> String {
    let sql = "SELECT colcrypt.create_keyring('generated', $1, $2, key_source => 'provider')::text";
    let root_key = world.provider.root_key();
    if let Err(error) = world.ask(sql, &[PROVIDER, &root_key]) {
        let problem = Problem::of(&error);
        problem.is("KC010").in_detail("cannot generate keys");
        return format!("`{}`", problem.code);
    }
    world.create_key("generated", "generated");
    let value = encrypt(&mut world.cluster.client(), "generated").unwrap();
    world.reads(&value);
    YES.to_owned()
}

/// The keyring that followed the root key's rotation outlives the version before, and the one that did not, does not.
fn rotates(world: &World) -> [String; 2] {
    let (provider, root_key) = (world.provider, world.provider.root_key());
    let follows = world.add_keyring("follows", &root_key);
    let stays = world.add_keyring("stays", &root_key);
    if !provider.rotate(&root_key) {
        return [NOTHING.to_owned(), NOTHING.to_owned()];
    }
    let version = "SELECT root_key_version FROM colcrypt.keyring_status WHERE keyring = 'follows'";
    let before = world.run(version, &[]);
    for keyring in ["ring", "follows", "generated"] {
        let known = "SELECT count(*)::text FROM colcrypt.keyring WHERE name = $1";
        if world.run(known, &[keyring]) == "1" {
            world.run("SELECT colcrypt.rotate_root($1)", &[keyring]);
        }
    }
    let after = world.run(version, &[]);
    assert_ne!(before, after, "the newest version of the root key");
    if !provider.retire_old_versions(&root_key) {
        world.cluster.restart();
        world.reads(&follows);
        world.reads(&stays);
        return [YES.to_owned(), NOTHING.to_owned()];
    }
    world.cluster.restart();
    world.reads(&follows);
    let problem = world.refused(&mut world.cluster.client(), &stays);
    problem.is(&problem.code);
    [YES.to_owned(), "not missed".to_owned()]
}

/// To a file and back, each time with the root key that was left made useless.
fn moves(world: &World) -> [String; 3] {
    let root_key = world.provider.root_key();
    let value = world.add_keyring("moves", &root_key);
    let file = world.cluster.root_key("elsewhere.key");
    let config = serde_json::json!({"path": file}).to_string();
    world.run(
        "SELECT colcrypt.add_provider('elsewhere', 'file', $1::text::jsonb)::text",
        &[&config],
    );
    world.run("SELECT colcrypt.move_keyring('moves', 'elsewhere')", &[]);
    let gone = [Trouble::KeyDisabled, Trouble::KeyDeleted, Trouble::Denied];
    withdrawn(world, &gone, || {
        world.cluster.restart();
        world.reads(&value);
    });
    wait_until_ok("the root key again", MOMENT, || world.check_provider());
    world.run(
        "SELECT colcrypt.move_keyring('moves', $1, $2)",
        &[PROVIDER, &root_key],
    );
    fs::remove_file(&file).unwrap();
    world.cluster.restart();
    world.reads(&value);
    [YES.into(), "not missed".into(), YES.into()]
}

/// All keys of a keyring go under a new key encryption key, which the root key gives after a restart; with an escrow
/// among the root keys, too, to which the new one is sealed.
fn rotates_kek(world: &World) -> String {
    let value = world.add_keyring("rewrapped", &world.provider.root_key());
    world.run("SELECT colcrypt.rotate_key('rewrapped')::text", &[]);
    let recipient = EscrowKey::generate().unwrap().recipient().unwrap();
    let config = serde_json::json!({ "recipient": recipient.to_string() }).to_string();
    world.run(
        "SELECT colcrypt.add_provider('sealed', 'escrow', $1::text::jsonb)::text",
        &[&config],
    );
    world.run("SELECT colcrypt.add_root('rewrapped', 'sealed')", &[]);
    let newer = encrypt(&mut world.cluster.client(), "rewrapped").unwrap();
    assert_eq!(
        world.run("SELECT colcrypt.rotate_kek('rewrapped')::text", &[]),
        "2"
    );
    let keks = "SELECT string_agg(concat_ws(' ', kek_version, state, keys), ', ' ORDER BY kek_version) \
                FROM colcrypt.kek_status WHERE keyring = 'rewrapped'";
    wait_for("nothing to be under the former one", 2 * MOMENT, || {
        world.run(keks, &[]) == "1 deactivated 0, 2 active 2"
    });
    let copies = "SELECT count(*)::text FROM colcrypt.kek_copy JOIN colcrypt.keyring USING (keyring_id) \
                  WHERE name = 'rewrapped' AND version = 2";
    assert_eq!(world.run(copies, &[]), "2", "the root's and the escrow's");
    world.cluster.restart();
    for value in [&value, &newer] {
        world.reads(value);
    }
    encrypt(&mut world.cluster.client(), "rewrapped").unwrap();
    let asked = "SELECT string_agg(provider || ' ' || opens, ', ') FROM colcrypt.check_roots('rewrapped') WHERE kek_version = 2";
    assert_eq!(world.run(asked, &[]), format!("{PROVIDER} true"));
    YES.to_owned()
}

/// `colcrypt check` with the same settings says what check_provider says: to people, to programs, and when it fails.
fn checks_from_the_shell(world: &World) -> [String; 2] {
    let root_key = world.provider.root_key();
    let config = world.config().to_string();
    let file = world
        .cluster
        .write_file("provider.json", config.as_bytes(), 0o644);
    let check = |more: &[&str]| {
        let mut command = world.cluster.command("colcrypt");
        command
            .args(["check", "--provider", world.provider.kind()])
            .args(["--config", &format!("@{}", file.display())])
            .args(["--root-key", &root_key])
            .args(more);
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let sql = "SELECT jsonb_build_object('server', server, 'root_key_version', root_key_version, 'warnings', warnings)::text \
               FROM colcrypt.check_provider($1, $2)";
    let found: Value = serde_json::from_str(&world.run(sql, &[PROVIDER, &root_key])).unwrap();

    let (status, said, errors) = check(&["--json"]);
    assert_eq!((status, errors.as_str()), (Some(0), ""), "{said}");
    let mut object: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(object["ok"], true);
    let latency = object["report"].as_object_mut().unwrap();
    assert!(latency.remove("latency_us").unwrap().as_u64().unwrap() > 0);
    assert_eq!(object["report"], found);

    let (status, said, errors) = check(&[]);
    assert_eq!((status, errors.as_str()), (Some(0), ""), "{said}");
    let warnings = found["warnings"].as_array().unwrap().iter();
    let parts = [&found["server"], &found["root_key_version"]];
    for part in parts.into_iter().chain(warnings) {
        let part = part.as_str().unwrap();
        assert!(said.contains(part), "{part:?} is not in {said}");
    }

    let (problem, programs, people) = withdrawn(world, &WITHDRAWALS, || {
        let sql = "SELECT colcrypt.check_provider($1, $2)::text";
        let problem = world.fails(sql, &[PROVIDER, &root_key]);
        (problem, check(&["--json"]), check(&[]))
    });
    assert_eq!((programs.0, people.0), (Some(1), Some(1)), "{people:?}");
    let object: Value = serde_json::from_str(&programs.1).unwrap();
    assert_eq!(object["ok"], false);
    assert_eq!(object["failure"]["sqlstate"], problem.code);
    assert_eq!(object["failure"]["error"], problem.message);
    assert_eq!(object["failure"]["hint"], problem.hint);
    let kind = format!("provider \"{}\": ", world.provider.kind());
    let detail = problem
        .detail
        .replace(&format!("provider \"{PROVIDER}\": "), &kind);
    assert_eq!(object["failure"]["message"], detail);
    for part in [&problem.code, &problem.message, &detail, &problem.hint] {
        assert!(people.2.contains(part), "{part:?} is not in {people:?}");
    }
    for secret in world.provider.secrets() {
        let all = format!("{programs:?}{people:?}");
        assert!(!all.contains(secret.trim()), "a secret was shown");
    }
    [YES.to_owned(), format!("`{}`", problem.code)]
}
