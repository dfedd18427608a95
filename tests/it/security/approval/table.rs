//! The table of administrative functions says what is so.

use colcrypt_core::verbs::{ASKS, EVERYBODYS, Gate, VERBS};
use colcrypt_tests::of_approval::{Managers, office, request_number};
use colcrypt_tests::of_escrow::Ceremony;

use crate::common::{Sql, cluster, db, unique};

/// Every function and procedure of the extension, in whatever schema: its name, C symbol, and whether PUBLIC may call
/// it.
const FUNCTIONS: &str = "
    SELECT p.proname, p.prosrc, l.lanname,
           EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
                   WHERE a.grantee = 0 AND a.privilege_type = 'EXECUTE')
    FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid JOIN pg_language l ON l.oid = p.prolang
    WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
      AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'colcrypt') ORDER BY 1";

#[test]
fn every_function_is_in_one_list_and_every_overload_is_what_the_list_says() {
    let mut db = db();
    let found: Vec<[String; 4]> = db
        .client
        .rows(FUNCTIONS)
        .into_iter()
        .map(|row| row.map_to_four())
        .collect();
    assert!(found.len() > 80, "{}", found.len());
    let is_verb = |name: &str| VERBS.iter().any(|verb| verb.name == name);
    let lists = |name: &str| {
        [
            is_verb(name),
            ASKS.contains(&name),
            EVERYBODYS.contains(&name),
        ]
        .into_iter()
        .filter(|is_in| *is_in)
        .count()
    };
    for [name, symbol, language, is_public] in &found {
        assert_eq!(lists(name), 1, "{name} is in none of the lists, or in two");
        let is_everybodys = EVERYBODYS.contains(&name.as_str());
        assert_eq!(is_public == "t", is_everybodys, "who may call {name}");
        // A decision is refused inside other people's code by its symbol: another one would not be.
        if is_verb(name) {
            assert_eq!(symbol, &format!("colcrypt_{name}"), "{name}");
            assert_eq!(language, "c", "{name}");
        }
    }
    for name in VERBS
        .iter()
        .map(|verb| verb.name)
        .chain(ASKS.iter().chain(EVERYBODYS).copied())
    {
        assert!(
            found.iter().any(|row| row[0] == name),
            "{name} is no function"
        );
    }
}

trait Four {
    fn map_to_four(self) -> [String; 4];
}

impl Four for Vec<Option<String>> {
    fn map_to_four(self) -> [String; 4] {
        let fields: Vec<String> = self.into_iter().map(Option::unwrap_or_default).collect();
        fields.try_into().unwrap()
    }
}

/// Everything that an administrative function may change.
fn catalog(it: &mut Managers) -> String {
    let tables = [
        "provider",
        "escrow",
        "keyring",
        "kek_version",
        "kek_copy",
        "key",
        "key_version",
        "key_grant",
        "keyring_grant",
        "protected_column",
        "job",
        "migration",
        "honeytoken",
    ];
    let parts: Vec<String> = tables
        .iter()
        .map(|table| format!("SELECT '{table}' AS name, t::text AS line FROM colcrypt.{table} t"))
        .collect();
    let all = parts.join(" UNION ALL ");
    it.db.client.one(&format!(
        "SELECT coalesce(string_agg(name || line, E'\\n' ORDER BY name, line), '') FROM ({all}) a"
    ))
}

/// What alice asks for, for each function that the table says waits.
const WAITING: &[(&str, &str)] = &[
    ("activate_key", "activate_key('k')"),
    ("add_root", "add_root('ring', 'second')"),
    ("alter_provider", "alter_provider('local', CONFIG)"),
    ("grant_key", "grant_key('k', 'public', '{decrypt}')"),
    (
        "grant_keyring",
        "grant_keyring('ring', 'public', '{create}')",
    ),
    ("move_keyring", "move_keyring('ring', 'second')"),
    ("recover_key", "recover_key('old', 1, 'why')"),
    ("resume_key", "resume_key('off')"),
    ("retire_escrow", "retire_escrow('escrow', 'why')"),
    (
        "schedule_key_destruction",
        "schedule_key_destruction('old', 2, '40 days', 'why')",
    ),
];

/// What loosens, and what tightens.
const LOOSENING: &[(&str, &str, &str)] = &[
    // The way back when all others are lost, and one of several.
    (
        "drop_root",
        "drop_root('ring', 'vault')",
        "drop_root('ring', 'third')",
    ),
    (
        "register_escrow",
        "register_escrow('archive', RECORD, '91 days')",
        "register_escrow('archive', RECORD, '89 days')",
    ),
    (
        "set_compression",
        "set_compression('k', 'lz4')",
        "set_compression('k', NULL)",
    ),
    (
        "set_cryptoperiods",
        "set_cryptoperiods('k', '2 years', NULL)",
        "set_cryptoperiods('k', '90 days', '1 year')",
    ),
    (
        "set_kek_cryptoperiod",
        "set_kek_cryptoperiod('ring', NULL)",
        "set_kek_cryptoperiod('ring', '80 days')",
    ),
    (
        "set_search_limit",
        "set_search_limit('s', NULL, NULL)",
        "set_search_limit('s', 50, '2 hours')",
    ),
    (
        "set_usage_bound",
        "set_usage_bound('k', NULL)",
        "set_usage_bound('k', 500)",
    ),
];

const REFUSED: &[(&str, &str)] = &[
    (
        "decrypt_column",
        "decrypt_column('t', 'v', accept_unplaced => true)",
    ),
    (
        "move_column",
        "move_column('t', 'v', 'free', accept_unplaced => true)",
    ),
    (
        "rebind_column",
        "rebind_column('t', 'v', accept_unplaced => true)",
    ),
    ("register_column", "register_column('t', 'v', 'free')"),
    ("resume_job", "resume_job(PAUSED)"),
    ("retry_job", "retry_job(FAILED)"),
];

fn gated(gate: Gate) -> Vec<&'static str> {
    VERBS
        .iter()
        .filter(|verb| verb.gate == gate)
        .map(|verb| verb.name)
        .collect()
}

/// A keyring with keys in all states, columns and jobs, which asks for four eyes from now on.
fn furnished() -> Managers {
    let mut it = office();
    for name in ["second", "third"] {
        let file = cluster().root_key(&format!("{}.key", unique(name)));
        it.db.client.run(&format!(
            "SELECT add_provider('{name}', 'file', jsonb_build_object('path', '{}'))",
            file.display()
        ));
    }
    for name in ["escrow", "archive", "vault"] {
        let ceremony = Ceremony::new(name);
        let record = std::fs::read_to_string(&ceremony.record).unwrap();
        it.db.client.run(&format!(
            "SELECT add_provider('{name}', 'escrow', '{{\"recipient\": \"{}\"}}'); SELECT register_escrow('{name}', $r${record}$r$)",
            ceremony.recipient
        ));
        it.alice()
            .run(&format!("SELECT add_root('ring', '{name}')"));
    }
    it.alice().run("SELECT add_root('ring', 'third')");
    it.alice().run(
        "SELECT create_key('off', 'ring'), create_key('old', 'ring');
         SELECT suspend_key('off', NULL, 'why'), rotate_key('old'), rotate_key('old'), archive_key('old', 1, 'why');
         SELECT create_key_version('k'), set_usage_bound('k', 1000), create_key('s', 'ring', 'hmac-sha-256'), set_search_limit('s', 100, '1 hour');
         CREATE TABLE t AS SELECT 1 AS id, colcrypt.encrypt_col('x', 'k') AS v;
         CREATE TABLE paused AS TABLE t; CREATE TABLE failed AS TABLE t;
         SELECT register_column(r, 'v', 'k') FROM unnest('{t,paused,failed}'::regclass[]) r;
         BEGIN; SELECT pause_job(move_column('paused', 'v', 'free', accept_unplaced => true)); COMMIT;
         BEGIN; SELECT move_column('failed', 'v', 'free', accept_unplaced => true), unregister_column('failed', 'v'), register_column('failed', 'v', 'free'); COMMIT",
    );
    it.require_four_eyes();
    it
}

/// A call with what it takes from the catalog.
fn filled(it: &mut Managers, call: &str) -> String {
    let config = it
        .db
        .client
        .one("SELECT quote_literal(config) FROM provider WHERE name = 'local'");
    let record = it.db.client.one(
        "SELECT quote_literal(record) FROM colcrypt.escrow JOIN provider USING (provider_id) WHERE name = 'archive'",
    );
    call.replace("CONFIG", &config).replace("RECORD", &record)
}

#[test]
fn what_waits_leaves_a_request_and_changes_nothing() {
    let mut it = furnished();
    let names: Vec<_> = WAITING.iter().map(|(name, _)| *name).collect();
    assert_eq!(gated(Gate::Waits), names);
    let names: Vec<_> = LOOSENING.iter().map(|(name, ..)| *name).collect();
    assert_eq!(gated(Gate::WaitsToLoosen), names);
    let mut alice = it.alice();
    let calls = WAITING.iter().map(|(_, call)| *call);
    for call in calls.chain(LOOSENING.iter().map(|(_, loosens, _)| *loosens)) {
        let (before, requests) = (catalog(&mut it), it.requests());
        let answer = alice.one(&format!("SELECT {}", filled(&mut it, call)));
        let request = request_number(&answer);
        assert_eq!(it.requests(), requests + 1, "{call}");
        assert_eq!(catalog(&mut it), before, "{call}");
        alice.fails("KC045", &format!("SELECT approve_request({request})"));
    }
    for (_, _, tightens) in LOOSENING {
        let requests = it.requests();
        let tightens = filled(&mut it, tightens);
        let answer = alice.one(&format!("SELECT {tightens}"));
        let is_done = ["set", "registered"].contains(&answer.as_str());
        assert!(is_done || answer.starts_with("left: "), "{answer}");
        assert_eq!(it.requests(), requests, "{tightens}");
    }
}

#[test]
fn what_was_asked_for_is_done_when_another_approves() {
    let mut it = furnished();
    let (mut alice, mut bob) = (it.alice(), it.bob());
    for key in ["off", "old", "s"] {
        // Of those bob is no manager.
        let request = request_number(&alice.one(&format!(
            "SELECT grant_key('{key}', '{}', '{{manage}}')",
            it.bob
        )));
        bob.fails("42501", &format!("SELECT approve_request({request})"));
        it.db
            .client
            .run(&format!("SELECT approve_request({request})"));
    }
    let calls = WAITING.iter().map(|(_, call)| *call);
    for call in calls.chain(LOOSENING.iter().map(|(_, loosens, _)| *loosens)) {
        // The second of the ways to the second root key is one that the keyring has by then.
        if call.starts_with("move_keyring") {
            continue;
        }
        let before = catalog(&mut it);
        let call = filled(&mut it, call);
        let request = request_number(&alice.one(&format!("SELECT {call}")));
        bob.run(&format!("SELECT approve_request({request})"));
        if !call.starts_with("alter_provider") {
            assert_ne!(catalog(&mut it), before, "{call}");
        }
    }
    assert_eq!(
        it.db.client.one(
            "SELECT concat_ws(' ', originator_usage_period, recipient_usage_period, usage_bound, compression) FROM colcrypt.key WHERE name = 'k'"
        ),
        "2 years lz4"
    );
}

#[test]
fn what_waits_to_be_activated_is_of_no_use_before() {
    let mut it = furnished();
    assert_eq!(
        gated(Gate::WaitsToActivate),
        ["create_key", "create_keys", "rotate_key"]
    );
    let mut alice = it.alice();
    let active = "SELECT string_agg(key || version, ' ' ORDER BY key, version) FROM key_status WHERE state NOT IN ('pre-active', 'destroyed')";
    let before = it.db.client.one(active);
    for call in [
        "create_key('new', 'ring')",
        "create_keys('{newer}', 'ring')",
        "rotate_key('k')",
    ] {
        let requests = it.requests();
        alice.run(&format!("SELECT {call}"));
        assert_eq!(it.requests(), requests + 1, "{call}");
        assert_eq!(it.db.client.one(active), before, "{call}");
    }
    alice.fails("KC001", "SELECT encrypt_col('x', 'new')");
    assert_eq!(
        alice.one("SELECT (ciphertext_info(encrypt_col('x', 'k'))).version"),
        "1"
    );
}

#[test]
fn what_is_refused_is_refused() {
    let mut it = furnished();
    let names: Vec<_> = REFUSED.iter().map(|(name, _)| *name).collect();
    assert_eq!(gated(Gate::Refused), names);
    let mut job = |table: &str| {
        it.db.client.one(&format!(
            "SELECT max(job_id) FROM job_progress WHERE relation = '{table}'::regclass"
        ))
    };
    let (paused, failed) = (job("paused"), job("failed"));
    let mut alice = it.alice();
    for (_, call) in REFUSED {
        let call = call.replace("PAUSED", &paused).replace("FAILED", &failed);
        let before = catalog(&mut it);
        alice
            .fails("22023", &format!("SELECT {call}"))
            .says("four eyes");
        assert_eq!(catalog(&mut it), before, "{call}");
    }
    assert_eq!(
        alice.one(&format!("SELECT cancel_job({paused})")),
        "cancelled"
    );
}
