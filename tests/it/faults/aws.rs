//! The whole way with the root key in AWS KMS: credentials of a file that is replaced, and a key that is
//! disabled while sessions decrypt.

use std::time::Duration;

use colcrypt_tests::bed::{
    Bed, MOMENT, decrypt, encrypt, keep_on, wait_until_failed, wait_until_ok,
};
use colcrypt_tests::fake_aws::{FakeAws, key_policy};
use serde_json::json;

#[test]
fn a_keyring_lives_there_and_dies_with_its_root_key() {
    let aws = FakeAws::start();
    let key = aws.create_key();
    aws.point_alias("alias/colcrypt", &key);
    let role = aws.role("db", &key_policy(&key));
    let session = aws.assume(&role);
    let file = aws.credentials_file("credentials", &session);
    let bed = Bed::bare(&[
        "log_min_messages = debug5",
        "log_statement = none",
        "colcrypt.soft_ttl = '300ms'",
        "colcrypt.kms_timeout = '2s'",
    ]);
    bed.hide(&session.secret_access_key);
    bed.hide(session.session_token.as_ref().unwrap());
    let mut client = bed.cluster.client();
    let config = aws.config(&file).to_string();
    client
        .execute(
            "SELECT colcrypt.add_provider('aws', 'aws-kms', $1::text::jsonb)",
            &[&config],
        )
        .unwrap();
    client
        .execute(
            "SELECT colcrypt.check_provider('aws', 'alias/colcrypt')",
            &[],
        )
        .unwrap();
    client
        .execute(
            "SELECT colcrypt.create_keyring('ring', 'aws', 'alias/colcrypt')",
            &[],
        )
        .unwrap();
    bed.create_key("k", "ring");
    let value = encrypt(&mut client, "k").unwrap();
    bed.cluster.restart();
    let mut client = bed.cluster.client();
    decrypt(&mut client, &value).unwrap();

    // The session ends, and what was cached serves on; a new one in the file is taken up by itself.
    aws.expire(&session);
    keep_on(Duration::from_secs(1), || {
        decrypt(&mut client, &value).unwrap()
    });
    let session = aws.assume(&role);
    bed.hide(&session.secret_access_key);
    aws.credentials_file("credentials", &session);
    let before = aws.requests("Decrypt");
    keep_on(Duration::from_secs(1), || {
        decrypt(&mut client, &value).unwrap()
    });
    assert!(aws.requests("Decrypt") > before);

    // The kill switch, and the way back.
    aws.kms("DisableKey", &json!({"KeyId": key}));
    let (problem, _) = wait_until_failed("the refusal", MOMENT, || decrypt(&mut client, &value));
    problem.is("KC017").in_detail("disabled");
    bed.is_clean(&problem);
    aws.kms("EnableKey", &json!({"KeyId": key}));
    wait_until_ok("the key again", MOMENT, || decrypt(&mut client, &value));
}
