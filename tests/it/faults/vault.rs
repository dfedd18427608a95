//! The whole way on a real OpenBao: token file and AppRole, plain and TLS, with the server's log at its
//! most talkative and searched for everything that must not be in it.

use std::time::Duration;

use base64ct::{Base64, Encoding};
use colcrypt_core::wrap::{WrapMethod, dek_aad, kek_aad, unwrap_data_key};
use colcrypt_core::{DataKey, KekId, KeyEncryptionKey, KeyVersion, KeyringId, Suite, VersionId};
use colcrypt_tests::bed::{
    Bed, MOMENT, PLAINTEXT, VaultBed, decrypt, encrypt, keep_on, wait_until_ok,
};
use colcrypt_tests::openbao::{OpenBao, generator_policy, key_policy};
use colcrypt_tests::problem::failed;
use postgres::Client;
use serde_json::json;

/// Rotates, and reads what both versions wrote.
fn whole_way(bed: &Bed, key: &str) {
    let mut client = bed.cluster.client();
    let first = encrypt(&mut client, key).unwrap();
    let version: i32 = client
        .query_one("SELECT colcrypt.rotate_key($1)", &[&key])
        .unwrap()
        .get(0);
    assert_eq!(version, 2);
    let second = encrypt(&mut client, key).unwrap();
    let sql = "SELECT (colcrypt.ciphertext_info(v::colcrypt.ciphertext)).version FROM unnest($1::text[]) AS v";
    let rows = client.query(sql, &[&vec![&first, &second]]).unwrap();
    let versions: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(versions, [1, 2]);
    bed.cluster.restart();
    let mut client = bed.cluster.client();
    decrypt(&mut client, &first).unwrap();
    decrypt(&mut client, &second).unwrap();
    let sql = "SELECT colcrypt.decrypt_col(colcrypt.reencrypt_col($1::text::colcrypt.ciphertext))";
    let text: String = client.query_one(sql, &[&first]).unwrap().get(0);
    assert_eq!(text, PLAINTEXT);
}

/// The KEK of keyring `ring` and the first DEK of key `k`, unwrapped beside the extension.
pub fn keys_of(bed: &VaultBed, client: &mut Client) -> (KeyEncryptionKey, DataKey) {
    let sql = "SELECT keyring_id::text, wrapped FROM colcrypt.kek_copy JOIN colcrypt.keyring USING (keyring_id) \
               WHERE name = 'ring'";
    let row = client.query_one(sql, &[]).unwrap();
    let aad = kek_aad(kek_id(&row.get::<_, String>(0)));
    let wrapped = String::from_utf8(row.get(1)).unwrap();
    let plain = bed.bao.bao(&[
        "write",
        "-field=plaintext",
        "transit/decrypt/app",
        &format!("ciphertext={wrapped}"),
        &format!("associated_data={}", Base64::encode_string(&aad)),
    ]);
    let bytes = Base64::decode_vec(plain.trim()).unwrap();
    let kek = KeyEncryptionKey::from_slice(&bytes).unwrap();
    let dek = data_key(client, &kek, ("k", Suite::Aes256Gcm), 1);
    (kek, dek)
}

fn kek_id(keyring: &str) -> KekId {
    KekId {
        keyring: keyring.parse::<KeyringId>().unwrap(),
        version: KeyVersion::FIRST,
    }
}

/// The DEK of a version of a key, given by its name and suite.
pub fn data_key(
    client: &mut Client,
    kek: &KeyEncryptionKey,
    (name, suite): (&str, Suite),
    version: u32,
) -> DataKey {
    let sql = "SELECT k.keyring_id::text, k.key_id, v.wrapped, v.kcv \
               FROM colcrypt.key k JOIN colcrypt.key_version v USING (key_id) WHERE k.name = $1 AND v.version = $2";
    let row = client
        .query_one(sql, &[&name, &version.cast_signed()])
        .unwrap();
    let id = VersionId {
        key: colcrypt_core::KeyId(row.get::<_, i64>(1).cast_unsigned()),
        version: KeyVersion::new(version).unwrap(),
    };
    let aad = dek_aad(kek_id(&row.get::<_, String>(0)), id, suite);
    let kcv = row.get::<_, String>(3).parse().unwrap();
    unwrap_data_key(kek, WrapMethod::Aes256Gcm, &aad, row.get(2), kcv).unwrap()
}

#[test]
fn keys_come_from_the_providers_generator_where_asked() {
    let bed = VaultBed::new(&[]);
    let mut client = bed.cluster.client();
    let make = "SELECT colcrypt.create_keyring('hsm', 'bao', 'app', key_source => 'provider')";
    failed(client.execute(make, &[]))
        .is("KC015")
        .in_detail("\"update\" on \"transit/random/32\"");
    bed.bao.write_policy(
        "use-app",
        &format!("{}{}", key_policy("app"), generator_policy()),
    );
    client.execute(make, &[]).unwrap();
    // The denied one, and the KEK.
    let asked = bed.bao.requests("transit/random/32");
    assert_eq!(asked, 2);
    bed.create_key("generated", "hsm");
    assert_eq!(bed.bao.requests("transit/random/32"), asked + 1);
    whole_way(&bed, "generated");
    assert_eq!(
        bed.bao.requests("transit/random/32"),
        asked + 2,
        "rotation asks, too"
    );
    whole_way(&bed, "k");
    assert_eq!(bed.bao.requests("transit/random/32"), asked + 2);
    let mut client = bed.cluster.client();
    let sql = "SELECT string_agg(keyring || ' ' || key_source || ' ' || root_key, ', ' ORDER BY keyring) \
               FROM colcrypt.keyring_status";
    let shown: String = client.query_one(sql, &[]).unwrap().get(0);
    assert_eq!(shown, "hsm provider app, ring system app");

    bed.bao.write_policy("use-app", &key_policy("app"));
    failed(client.execute("SELECT colcrypt.rotate_key('generated')", &[]))
        .is("KC015")
        .in_detail("\"update\" on \"transit/random/32\"");
    let value = encrypt(&mut client, "generated").unwrap();
    decrypt(&mut client, &value).unwrap();
}

#[test]
fn with_a_token_file_and_the_most_talkative_log() {
    let bed = VaultBed::new(&[
        "log_min_messages = debug5",
        "log_statement = none",
        "colcrypt.soft_ttl = '300ms'",
        "colcrypt.kms_timeout = '1s'",
    ]);
    whole_way(&bed, "k");
    let mut client = bed.cluster.client();
    let (kek, dek) = keys_of(&bed, &mut client);
    for key in [kek.expose(), dek.expose()] {
        bed.hide(&hex::encode(key));
        bed.hide(&hex::encode_upper(key));
        bed.hide(&format!("{key:?}"));
    }
    // Errors of all sorts while the log listens: an outage, a refusal, a damaged value.
    let value = encrypt(&mut client, "k").unwrap();
    bed.bao.pause();
    keep_on(Duration::from_millis(1500), || {
        decrypt(&mut client, &value).unwrap()
    });
    bed.bao.resume();
    bed.bao.revoke(&bed.token_file);
    colcrypt_tests::bed::wait_until_failed("the refusal", MOMENT, || decrypt(&mut client, &value));
    bed.renew_token();
    wait_until_ok("the new token", MOMENT, || decrypt(&mut client, &value));
    let last = value.len() - 1;
    let digit = if value.ends_with('0') { '1' } else { '0' };
    let damaged = format!("{}{digit}", &value[..last]);
    let problem = colcrypt_tests::problem::failed(decrypt(&mut client, &damaged));
    assert_eq!(problem.code, "KC003", "{problem:?}");
    bed.is_clean(&problem);
    // What may be shown and is not secret is no credential either.
    let shown: String = client
        .query_one(
            "SELECT string_agg(p::text, '') FROM colcrypt.provider AS p",
            &[],
        )
        .unwrap()
        .get(0);
    assert!(!shown.contains(std::fs::read_to_string(&bed.token_file).unwrap().trim()));
    assert!(
        bed.cluster.log().contains("DEBUG:"),
        "the log was talkative"
    );
}

#[test]
fn with_approle_over_tls_past_the_end_of_many_tokens() {
    let bao = OpenBao::start_tls();
    bao.create_key("app");
    let role = bao.approle("db", &bao.allow_key("app"), "2s", "4s");
    let bed = Bed::bare(&["colcrypt.soft_ttl = '300ms'", "colcrypt.hard_ttl = '2s'"]);
    bed.hide(&std::fs::read_to_string(&role.secret_id_file).unwrap());
    let auth = json!({"method": "approle", "role_id": role.role_id, "secret_id_file": role.secret_id_file});
    let config = json!({"address": bao.tls_address(), "ca_file": bao.ca_file(), "auth": auth});
    let mut client = bed.cluster.client();
    let add = "SELECT colcrypt.add_provider($1, 'vault-transit', $2::text::jsonb)";
    client.execute(add, &[&"bao", &config.to_string()]).unwrap();
    client
        .execute("SELECT colcrypt.check_provider('bao', 'app')", &[])
        .unwrap();
    client
        .execute("SELECT colcrypt.create_keyring('ring', 'bao', 'app')", &[])
        .unwrap();
    bed.create_key("k", "ring");
    whole_way(&bed, "k");
    // Longer than a token lives, and than it can be renewed.
    let mut client = bed.cluster.client();
    let value = encrypt(&mut client, "k").unwrap();
    keep_on(Duration::from_secs(6), || {
        decrypt(&mut client, &value).unwrap()
    });
    assert!(bao.requests("auth/approle/login") >= 2);

    // Without the CA the certificate means nothing.
    let mut stranger = config.clone();
    stranger.as_object_mut().unwrap().remove("ca_file");
    client
        .execute(add, &[&"stranger", &stranger.to_string()])
        .unwrap();
    let problem = colcrypt_tests::problem::failed(
        client.execute("SELECT colcrypt.check_provider('stranger')", &[]),
    );
    problem.is("KC011").in_detail("is not accepted");
    // Tokens that are taken back, and no new one: somebody decided that. The role alone could have run out.
    let long = [
        "write",
        "auth/approle/role/db",
        "token_ttl=1h",
        "token_max_ttl=1h",
    ];
    bao.bao(&long);
    let revoke = || bao.bao(&["token", "revoke", "-mode=path", "auth/approle"]);
    revoke();
    wait_until_ok("a long token", MOMENT, || decrypt(&mut client, &value));
    let logins = bao.requests("auth/approle/login");
    keep_on(Duration::from_secs(1), || {
        decrypt(&mut client, &value).unwrap()
    });
    assert!(bao.requests("auth/approle/login") <= logins + 1);
    bao.bao(&["delete", "auth/approle/role/db"]);
    revoke();
    let (problem, _) = colcrypt_tests::bed::wait_until_failed("the refusal", MOMENT, || {
        decrypt(&mut client, &value)
    });
    problem.is("KC015");
    bed.is_clean(&problem);
}
