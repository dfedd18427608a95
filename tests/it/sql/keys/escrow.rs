//! An escrow among the root keys of a keyring: each key encryption key is sealed to it, it opens nothing, and what asks
//! root keys does not ask it.

use colcrypt_core::{EscrowKey, KekId, KeyCheckValue, KeyVersion, KeyringId, wrap};
use postgres::Client;

use crate::common::{Sql, cluster, db, unique};

/// Adds a provider that is a new escrow; returns its private key, which no server has.
fn add_escrow(client: &mut Client, name: &str) -> EscrowKey {
    let key = EscrowKey::generate().unwrap();
    client.run(&format!(
        "SELECT add_provider('{name}', 'escrow', '{{\"recipient\": \"{}\"}}')",
        key.recipient().unwrap()
    ));
    key
}

/// Opens each copy that the escrow has with its private key, and compares; returns how many.
fn open_all(client: &mut Client, escrow: &str, key: &EscrowKey) -> usize {
    let copies = client
        .query(
            "SELECT replace(c.keyring_id::text, '-', ''), c.version, c.wrapped, v.kcv
             FROM colcrypt.kek_copy c JOIN colcrypt.kek_version v USING (keyring_id, version)
                  JOIN colcrypt.provider p USING (provider_id)
             WHERE p.name = $1",
            &[&escrow],
        )
        .unwrap();
    for copy in &copies {
        let mut keyring = [0; 16];
        hex::decode_to_slice(copy.get::<_, String>(0), &mut keyring).unwrap();
        let aad = wrap::kek_aad(KekId {
            keyring: KeyringId(keyring),
            version: KeyVersion::of_int(copy.get(1)).unwrap(),
        });
        let kek = key.open(&aad, copy.get(2)).unwrap();
        assert_eq!(
            KeyCheckValue::of_kek(&kek).to_string(),
            copy.get::<_, String>(3)
        );
    }
    copies.len()
}

#[test]
fn each_key_encryption_key_is_sealed_to_it_and_it_counts_as_no_root() {
    let mut db = db();
    let key = add_escrow(&mut db.client, "escrow");
    assert!(
        db.client
            .one("SELECT warnings[1] FROM check_provider('escrow', '')")
            .contains("opens nothing by itself")
    );
    assert_eq!(db.client.one("SELECT add_root('ring', 'escrow')"), "added");
    assert_eq!(open_all(&mut db.client, "escrow", &key), 1);

    // A new version is sealed to it without a ceremony.
    db.client.run("SELECT rotate_kek('ring')");
    assert_eq!(open_all(&mut db.client, "escrow", &key), 2);
    db.client.run("SELECT rotate_root('ring')");
    assert_eq!(open_all(&mut db.client, "escrow", &key), 2);

    db.client
        .run("SELECT decrypt_col(encrypt_col('v', 'k')), suspend_key('k', NULL, 'test'), resume_key('k', NULL, 'test')");
    db.client.run("SELECT encrypt_col('v', 'k')");
    assert_eq!(
        db.client
            .one("SELECT string_agg(DISTINCT provider, ', ') FROM check_roots('ring')"),
        "local"
    );
    assert_eq!(
        db.client.one("SELECT string_agg(DISTINCT root, ', ') || bool_and(ok) FROM verify_keys() WHERE checked = 'root key'"),
        "provider \"local\"true"
    );
    assert_eq!(
        db.client
            .one("SELECT string_agg(DISTINCT provider || ' ' || roots, ', ') FROM kek_status"),
        "local 1"
    );
    assert_eq!(
        db.client.one(
            "SELECT string_agg(DISTINCT state, ', ') FROM root_status WHERE provider = 'escrow'"
        ),
        "escrow"
    );
}

#[test]
fn nothing_stands_on_it_alone() {
    let mut db = db();
    let key = add_escrow(&mut db.client, "escrow");
    db.client
        .fails("22023", "SELECT create_keyring('other', 'escrow')")
        .says("opens nothing by itself");
    db.client
        .fails("22023", "SELECT move_keyring('ring', 'escrow')")
        .says("opens nothing by itself");
    db.client
        .fails("KC010", "SELECT add_root('ring', 'escrow', 'a name')");
    db.client.run("SELECT add_root('ring', 'escrow')");
    db.client
        .fails("KC049", "SELECT drop_root('ring', 'local')")
        .in_detail("opens nothing by itself");
    db.client
        .fails("42710", "SELECT add_root('ring', 'escrow')");

    // Another root key in the place of the first, which is asked before the escrow whatever their order.
    let file = cluster().root_key(&format!("{}.key", unique("spare")));
    db.client.run(&format!(
        "SELECT add_provider('spare', 'file', jsonb_build_object('path', '{}'));
         SELECT add_root('ring', 'spare');
         SELECT drop_root('ring', 'local')",
        file.display()
    ));
    db.client.run("SELECT rotate_kek('ring')");
    assert_eq!(open_all(&mut db.client, "escrow", &key), 2);
    assert_eq!(
        db.client.one("SELECT decrypt_col(encrypt_col('v', 'k'))"),
        "v"
    );
    assert_eq!(
        db.client.one("SELECT move_keyring('ring', 'local')"),
        "moved"
    );
    assert_eq!(
        db.client.one("SELECT string_agg(provider, ', ' ORDER BY preference) FROM root_status WHERE kek_version = 2"),
        "escrow, local"
    );
}

#[test]
fn its_key_is_not_changed_under_what_is_sealed_to_it() {
    let mut db = db();
    add_escrow(&mut db.client, "escrow");
    let other = EscrowKey::generate().unwrap().recipient().unwrap();
    let alter = format!("SELECT alter_provider('escrow', '{{\"recipient\": \"{other}\"}}')");
    db.client.run("SELECT add_root('ring', 'escrow')");
    db.client
        .fails("22023", &alter)
        .says("its own shares open and no others");
    db.client.run("SELECT drop_root('ring', 'escrow')");
    assert_eq!(db.client.one(&alter), "altered");

    let misspelt = other
        .to_string()
        .replace(&other.fingerprint(), "0123456789ab");
    db.client
        .fails(
            "KC010",
            &format!("SELECT add_provider('typo', 'escrow', '{{\"recipient\": \"{misspelt}\"}}')"),
        )
        .in_detail("copy it once more");
}
