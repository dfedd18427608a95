//! verify_keys: a catalog that is whole, and each way in which one is not.

use postgres::Client;

use crate::common::{self, LONG, Sql, cluster, db, unique, wait_for_jobs};
use colcrypt_tests::{Cluster, wait_for};

/// What is not in order, a line each.
fn problems(client: &mut Client, deep: bool) -> Vec<String> {
    let sql = format!(
        "SELECT concat_ws(' | ', checked, key, version, problem) FROM colcrypt.verify_keys({deep}) WHERE NOT ok ORDER BY 1"
    );
    let rows = client.rows(&sql);
    rows.into_iter()
        .map(|row| row[0].clone().unwrap())
        .collect()
}

fn is(found: &[String], expected: &[(&str, &str)]) {
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (line, (begin, part)) in found.iter().zip(expected) {
        assert!(line.starts_with(begin) && line.contains(part), "{line}");
    }
}

#[test]
fn a_whole_catalog_is_whole() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t AS SELECT encrypt_col('v', 'k') AS v;
         SELECT register_column('t', 'v', 'k'), rotate_key('k'), create_key('other', 'ring', suite => 'xaes-256-gcm')",
    );
    wait_for_jobs(&mut db.client);
    db.client.run("SELECT take_census('t', 'v')");
    for deep in [false, true] {
        assert!(problems(&mut db.client, deep).is_empty());
        assert_eq!(
            db.client.one(&format!(
                "SELECT string_agg(concat_ws(' ', keyring, checked, coalesce(key, root), version), ', ') FROM verify_keys({deep})"
            )),
            "ring root key provider \"local\" 1, ring key version k 1, ring key version k 2, ring key version other 1"
        );
    }
    // Nothing is written, and no key is brought into memory.
    let slots = "SELECT count(*) FROM cache_slots()";
    let before = db.client.number(slots);
    db.client
        .run("BEGIN READ ONLY; SELECT verify_keys(true); COMMIT");
    // Others on the cluster have keys wiped meanwhile.
    assert!(db.client.number(slots) <= before);
}

#[test]
fn what_was_altered_or_is_missing_is_named() {
    let mut db = db();
    db.client.run(
        "SELECT create_key('altered', 'ring'), create_key('swapped', 'ring'), create_key('nonsense', 'ring'), create_key('gap', 'ring');
         SELECT rotate_key('gap'), rotate_key('gap')",
    );
    db.client.run(
        "UPDATE key_version SET wrapped = set_byte(wrapped, 20, get_byte(wrapped, 20) # 1) WHERE key_id = (SELECT key_id FROM key WHERE name = 'altered');
         UPDATE key_version SET wrapped = (SELECT wrapped FROM key_version JOIN key USING (key_id) WHERE name = 'k')
             WHERE key_id = (SELECT key_id FROM key WHERE name = 'swapped');
         UPDATE key_version SET kcv = 'nonsense' WHERE key_id = (SELECT key_id FROM key WHERE name = 'nonsense');
         DELETE FROM key_version WHERE version = 2 AND key_id = (SELECT key_id FROM key WHERE name = 'gap')",
    );
    let found = problems(&mut db.client, false);
    is(
        &found,
        &[
            ("key version | altered | 1", "wrapped DEK"),
            ("key version | gap | 2", "the catalog lacks it"),
            ("key version | nonsense | 1", "no key check value"),
            ("key version | swapped | 1", "wrapped DEK"),
        ],
    );
    assert_eq!(
        db.client
            .one("SELECT string_agg(key || version, ' ' ORDER BY key, version) FROM verify_keys() WHERE ok AND checked = 'key version'"),
        "gap1 gap3 k1"
    );
    db.client.run("DELETE FROM kek_copy");
    let found = problems(&mut db.client, false);
    assert!(
        found.iter().any(|line| line.starts_with("root key | 1 | ")),
        "{found:?}"
    );
    assert!(
        found
            .iter()
            .any(|line| line.starts_with("key version | k | 1 | no root key opens")),
        "{found:?}"
    );
    db.client.run("DELETE FROM kek_version");
    let found = problems(&mut db.client, false);
    assert!(
        found.iter().any(|line| line
            == "key version | k | 1 | the catalog lacks version 1 of its key encryption key"),
        "{found:?}"
    );
}

/// A value of known text under each version, which nobody's rows are needed to read.
#[test]
fn canary_values_are_read() {
    let mut db = db();
    db.client.run(
        "SELECT create_keys('{altered,moved,other,none}', 'ring'), create_key('extended', 'ring', suite => 'xaes-256-gcm'), rotate_key('k')",
    );
    let text = "SELECT concat_ws(' ', count(*), min(text), max(text), bool_and(info.type = 'text' AND NOT info.has_context)) \
         FROM key_version v, LATERAL (SELECT ('\\x' || encode(v.canary, 'hex'))::ciphertext) AS c(value), \
              LATERAL decrypt_col(c.value) AS text, LATERAL ciphertext_info(c.value) AS info";
    assert_eq!(db.client.one(text), "7 colcrypt canary colcrypt canary t");
    let of = |name: &str| format!("key_id = (SELECT key_id FROM key WHERE name = '{name}')");
    db.client.run(&format!(
        "UPDATE key_version SET canary = set_byte(canary, 40, get_byte(canary, 40) # 1) WHERE {};
         UPDATE key_version SET canary = (SELECT canary FROM key_version WHERE {}) WHERE {};
         UPDATE key_version SET canary = NULL WHERE {}",
        of("altered"),
        of("other"),
        of("moved"),
        of("none"),
    ));
    let damaged = |client: &mut Client| {
        is(
            &problems(client, false),
            &[
                (
                    "key version | altered | 1 | the canary value of key ",
                    "does not decrypt",
                ),
                (
                    "key version | moved | 1 | the canary value of key ",
                    "does not decrypt",
                ),
            ],
        );
    };
    damaged(&mut db.client);
    // Versions of a release that made none get theirs with the next key encryption key. No other is replaced.
    let without = "SELECT count(*) FROM key_version WHERE canary IS NULL";
    assert_eq!(db.client.one(without), "1");
    db.client.run("SELECT rotate_kek('ring')");
    wait_for("keys under the new key encryption key", LONG, || {
        db.client
            .yes("SELECT bool_and(kek_version = 2) FROM key_version")
    });
    assert_eq!(db.client.one(without), "0");
    damaged(&mut db.client);
}

#[test]
fn each_root_key_is_asked_whatever_is_cached() {
    let mut db = db();
    let spare = cluster().root_key(&format!("{}.key", unique("spare")));
    db.client.run(&format!(
        "SELECT add_provider('spare', 'file', jsonb_build_object('path', '{}')); SELECT add_root('ring', 'spare'); SELECT encrypt_col('v', 'k')",
        spare.display()
    ));
    assert!(problems(&mut db.client, false).is_empty());
    std::fs::remove_file(&spare).unwrap();
    let found = problems(&mut db.client, false);
    is(&found, &[("root key | 1 | ", "spare")]);
    // The other opens the keyring still.
    assert!(
        db.client
            .yes("SELECT bool_and(ok) FROM verify_keys() WHERE checked = 'key version'")
    );
}

#[test]
fn a_restored_dump_says_what_it_lacks() {
    let mut source = db();
    source.client.run(
        "CREATE TABLE t (v ciphertext); CREATE TABLE loose (v ciphertext);
         SELECT register_column('t', 'v', 'k')",
    );
    source.client.run("SELECT rotate_key('k')");
    wait_for_jobs(&mut source.client);
    source.client.run(
        "INSERT INTO t SELECT encrypt_col('v', 'k') FROM generate_series(1, 3);
         INSERT INTO loose SELECT encrypt_col('w', 'k')",
    );
    let dump = cluster().dump(&source.name);
    let to = common::settings(Cluster::builder()).start();
    let mut copy = to.create_database("copy");
    to.restore(&dump, "copy");
    // The root key has another place here.
    let key = std::fs::read(common::root_key(cluster())).unwrap();
    let key = to.write_file("copied.key", &key, 0o600);
    copy.run(&format!(
        "SELECT colcrypt.alter_provider(name, jsonb_build_object('path', '{}')) FROM colcrypt.provider",
        key.display()
    ));
    assert!(problems(&mut copy, true).is_empty());
    copy.run(
        "DELETE FROM colcrypt.key_version WHERE version = 2;
         UPDATE colcrypt.key SET current_version = 1",
    );
    let lacks = "the catalog lacks it, and ";
    // Counts are not dumped: without a count, only rows know.
    assert!(problems(&mut copy, false).is_empty());
    copy.run("SELECT colcrypt.take_census('t', 'v')");
    is(
        &problems(&mut copy, false),
        &[(
            "rows | k | 2",
            &format!("{lacks}3 rows of public.t.v are under it as last counted"),
        )],
    );
    is(
        &problems(&mut copy, true),
        &[
            (
                "rows | k | 2",
                &format!("{lacks}1 rows of public.loose.v are under it now"),
            ),
            (
                "rows | k | 2",
                &format!("{lacks}3 rows of public.t.v are under it now"),
            ),
        ],
    );
    // A value that is none at all is told, and hides no other.
    copy.run(
        "CREATE UNLOGGED TABLE damaged AS SELECT 'none'::bytea AS v;
         UPDATE pg_attribute SET atttypid = 'colcrypt.ciphertext'::regtype WHERE attrelid = 'damaged'::regclass AND attname = 'v'",
    );
    is(
        &problems(&mut copy, true),
        &[
            ("rows | k | 2", "public.loose.v"),
            ("rows | k | 2", "public.t.v"),
            ("rows | public.damaged.v: ", "ciphertext"),
        ],
    );
    copy.run("DROP TABLE damaged");
    copy.run("DELETE FROM colcrypt.key_version; DELETE FROM colcrypt.key");
    let found = problems(&mut copy, true);
    is(
        &found,
        &[
            ("rows | 2 | the catalog lacks key id", "loose.v"),
            ("rows | 2 | the catalog lacks key id", "t.v"),
        ],
    );
}
