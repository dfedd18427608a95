//! The agent against a server that checks signatures and policies as AWS does: what works, what is
//! refused, and what comes back by itself. What AWS would never answer is in `broken.rs`.

use std::{
    fs,
    time::{Duration, Instant},
};

use colcrypt_core::KeySource;
use colcrypt_protocol::{Event, FailureKind, KekRef, ProviderConfig, Reply, Request, Settings};
use colcrypt_tests::fake_aws::{Credentials, FakeAws, REGION, key_policy, policy};
use serde_json::{Value, json};

use crate::common::{self, PATIENCE, SETTINGS, agent, fails, ok, provider};

const USER: &str = "db";

fn kms(config: Value) -> ProviderConfig {
    provider("aws-kms", config)
}

/// A key, and a provider whose user may use it and nothing else.
fn with_key(aws: &FakeAws) -> (String, ProviderConfig, Credentials) {
    let key = aws.create_key();
    let who = aws.user(USER, &key_policy(&key));
    let root = kms(aws.config(&aws.credentials_file("credentials", &who)));
    (key, root, who)
}

fn check(provider: &ProviderConfig, root_key: Option<&str>) -> Request {
    Request::CheckProvider {
        provider: provider.clone(),
        root_key: root_key.map(str::to_owned),
    }
}

/// What an agent that has never seen the KEK is told.
async fn cold(kek: &KekRef) -> Result<Request, colcrypt_protocol::Failure> {
    agent(SETTINGS).await.create_dek(kek).await
}

fn id_of(key: &str) -> Value {
    json!({"KeyId": key})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_policy_suffices() {
    let aws = FakeAws::start();
    let (key, root, _) = with_key(&aws);
    let agent = agent(SETTINGS).await;
    let (Reply::ProviderChecked { report }, _) = ok(agent.call(check(&root, Some(&key))).await)
    else {
        unreachable!()
    };
    assert_eq!(report.root_key_version.as_deref(), Some(key.as_str()));
    assert!(
        report
            .server
            .contains("AWS KMS in eu-west-1 (http://127.0.0.1")
            && report.server.contains("the key is enabled")
            && report.server.contains("no rotation"),
        "{report:?}"
    );
    assert!(
        report.warnings.len() == 1 && report.warnings[0].starts_with("no automatic rotation"),
        "{report:?}"
    );
    aws.kms("EnableKeyRotation", &id_of(&key));
    let (Reply::ProviderChecked { report }, _) = ok(agent.call(check(&root, Some(&key))).await)
    else {
        unreachable!()
    };
    assert!(report.server.contains("every 365 days"), "{report:?}");

    let (encrypts, decrypts) = (aws.requests("Encrypt"), aws.requests("Decrypt"));
    let kek = ok(agent.create_kek(&root, &key).await);
    assert_eq!(kek.preferred.root_key_version, key);
    assert_eq!(aws.requests("Encrypt"), encrypts + 1);
    // Once as it is to be, and once as it must not be.
    assert_eq!(aws.requests("Decrypt"), decrypts + 2);
    let dek = ok(agent.create_dek(&kek).await);
    let plain = ok(agent.load(&dek).await).1;
    let restarted = common::agent(SETTINGS).await;
    assert!(ok(restarted.load(&dek).await).1.expose() == plain.expose());
    // By its id as well as by its ARN.
    let id = key.rsplit('/').next().unwrap();
    assert_eq!(
        ok(agent.create_kek(&root, id).await)
            .preferred
            .root_key_version,
        key
    );

    // Without a root key: whether the endpoint answers, and knows who asks.
    let (Reply::ProviderChecked { report }, _) = ok(agent.call(check(&root, None)).await) else {
        unreachable!()
    };
    assert!(report.warnings[0].contains("valid"), "{report:?}");

    // A server that may neither describe nor look at rotation can still work, and is told so.
    aws.user_policy(USER, &policy(&key, &["kms:Encrypt", "kms:Decrypt"]));
    let (Reply::ProviderChecked { report }, _) = ok(agent.call(check(&root, Some(&key))).await)
    else {
        unreachable!()
    };
    assert!(report.warnings[0].contains("kms:DescribeKey"), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_from_the_generator_of_aws() {
    let aws = FakeAws::start();
    let (key, root, _) = with_key(&aws);
    let agent = agent(SETTINGS).await;
    fails(
        agent
            .create_kek_from(KeySource::Provider, &root, &key)
            .await,
        FailureKind::Denied,
        &["kms:GenerateDataKey", &key],
    );
    let both = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": ["kms:Decrypt", "kms:GenerateDataKey"], "Resource": key},
        {"Effect": "Allow", "Action": "kms:GenerateRandom", "Resource": "*"},
    ]});
    aws.user_policy(USER, &both.to_string());
    let kek = ok(agent
        .create_kek_from(KeySource::Provider, &root, &key)
        .await);
    assert_eq!(kek.preferred.root_key_version, key);
    let dek = ok(agent.create_dek_from(KeySource::Provider, &kek).await);
    assert_eq!(
        (
            aws.requests("GenerateRandom"),
            aws.requests("GenerateDataKey")
        ),
        (1, 2)
    );
    ok(common::agent(SETTINGS).await.load(&dek).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrapped_kek_names_its_key() {
    let aws = FakeAws::start();
    let (key, root, _) = with_key(&aws);
    let kek = ok(agent(SETTINGS).await.create_kek(&root, &key).await);
    let second = aws.create_key();
    aws.user_policy(USER, &key_policy("*"));
    let mut elsewhere = kek.clone();
    elsewhere.preferred.root_key_version.clone_from(&second);
    fails(
        cold(&elsewhere).await,
        FailureKind::WrongRootKey,
        &["wrong root key", &second],
    );
    let mut altered = kek.clone();
    altered.preferred.root_key_version = "v1".to_owned();
    fails(cold(&altered).await, FailureKind::Corrupt, &["ARN"]);
    ok(cold(&kek).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_may_point_elsewhere_later() {
    let aws = FakeAws::start();
    let (first, second) = (aws.create_key(), aws.create_key());
    aws.point_alias("alias/colcrypt", &first);
    let who = aws.user(USER, &key_policy("*"));
    let root = kms(aws.config(&aws.credentials_file("credentials", &who)));
    let agent = agent(SETTINGS).await;
    let old = ok(agent.create_kek(&root, "alias/colcrypt").await);
    assert_eq!(old.preferred.root_key_version, first);
    aws.point_alias("alias/colcrypt", &second);
    let new = ok(agent.create_kek(&root, "alias/colcrypt").await);
    assert_eq!(new.preferred.root_key_version, second);
    ok(cold(&old).await);
    ok(cold(&new).await);
    let arn = format!("arn:aws:kms:{REGION}:111122223333:alias/colcrypt");
    assert_eq!(
        ok(agent.create_kek(&root, &arn).await)
            .preferred
            .root_key_version,
        second
    );
    fails(
        agent.create_kek(&root, "alias/typo").await,
        FailureKind::KeyNotFound,
        &["alias/typo", "create it there"],
    );
    fails(
        agent.create_kek(&root, "alias/ä").await,
        FailureKind::Config,
        &["alias"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_have_their_regions() {
    let aws = FakeAws::start();
    let made = aws.kms("CreateKey", &json!({"MultiRegion": true}));
    let key = made["KeyMetadata"]["Arn"].as_str().unwrap().to_owned();
    assert!(key.contains("key/mrk-"), "{key}");
    let who = aws.user(USER, &key_policy("*"));
    let file = aws.credentials_file("credentials", &who);
    let here = kms(aws.config(&file));
    let agent = agent(SETTINGS).await;
    let (Reply::ProviderChecked { report }, _) = ok(agent.call(check(&here, Some(&key))).await)
    else {
        unreachable!()
    };
    assert!(report.server.contains("multi-region"), "{report:?}");
    let kek = ok(agent.create_kek(&here, &key).await);

    ok(cold(&kek).await);
    let mut config = aws.config(&file);
    config["region"] = json!("eu-central-1");
    let there = kms(config);

    // A key that is not known there is a mistake, and no refusal.
    let local = aws.create_key();
    let kek = ok(agent.create_kek(&here, &local).await);
    let mut failed_over = kek;
    failed_over.preferred.provider = there;
    fails(
        cold(&failed_over).await,
        FailureKind::Config,
        &["eu-west-1", "eu-central-1"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_what_is_missing() {
    let aws = FakeAws::start();
    let (key, root, who) = with_key(&aws);
    let agent = agent(SETTINGS).await;
    let kek = ok(agent.create_kek(&root, &key).await);

    aws.user_policy(USER, &policy(&key, &["kms:Decrypt"]));
    fails(
        agent.create_kek(&root, &key).await,
        FailureKind::Denied,
        &["kms:Encrypt", &key],
    );
    ok(cold(&kek).await);
    aws.user_policy(USER, &policy(&key, &["kms:Encrypt"]));
    fails(
        cold(&kek).await,
        FailureKind::Denied,
        &["AccessDeniedException", "kms:Decrypt", &key],
    );
    aws.user_policy(USER, &key_policy(&key));
    ok(cold(&kek).await);

    aws.kms("DisableKey", &id_of(&key));
    fails(
        cold(&kek).await,
        FailureKind::KeyDisabled,
        &["disabled", &key],
    );
    fails(
        agent.call(check(&root, Some(&key))).await,
        FailureKind::KeyDisabled,
        &["disabled"],
    );
    aws.kms("EnableKey", &id_of(&key));
    ok(cold(&kek).await);
    let mut deletion = id_of(&key);
    deletion["PendingWindowInDays"] = json!(7);
    aws.kms("ScheduleKeyDeletion", &deletion);
    fails(cold(&kek).await, FailureKind::KeyDisabled, &["deletion"]);
    fails(
        agent.create_kek(&root, &key).await,
        FailureKind::KeyDisabled,
        &["deletion"],
    );
    fails(
        agent.call(check(&root, Some(&key))).await,
        FailureKind::KeyDisabled,
        &["to be deleted on 20"],
    );
    aws.kms("CancelKeyDeletion", &id_of(&key));
    aws.kms("EnableKey", &id_of(&key));
    ok(cold(&kek).await);

    aws.user_policy(USER, &key_policy("*"));
    let unknown = key.replace(
        key.rsplit('/').next().unwrap(),
        "1234abcd-0000-0000-0000-1234567890ab",
    );
    for name in [unknown.as_str(), "1234abcd-0000-0000-0000-1234567890ab"] {
        fails(
            agent.create_kek(&root, name).await,
            FailureKind::KeyNotFound,
            &["does not exist"],
        );
    }
    let signing = aws.kms(
        "CreateKey",
        &json!({"KeyUsage": "SIGN_VERIFY", "KeySpec": "ECC_NIST_P256"}),
    );
    let signing = signing["KeyMetadata"]["Arn"].as_str().unwrap();
    for request in [
        agent.create_kek(&root, signing).await.err(),
        agent.call(check(&root, Some(signing))).await.err(),
    ] {
        fails(
            Err::<(), _>(request.unwrap()),
            FailureKind::Config,
            &["SYMMETRIC_DEFAULT"],
        );
    }

    // Who asks is not known, or not who it says.
    aws.set_active(USER, &who, false);
    let failure = fails(
        cold(&kek).await,
        FailureKind::Denied,
        &["does not accept", "deactivated"],
    );
    assert!(!failure.message.contains(&who.secret_access_key));
    fails(
        agent.call(check(&root, None)).await,
        FailureKind::Denied,
        &["credentials"],
    );
    aws.set_active(USER, &who, true);
    ok(cold(&kek).await);
    let wrong = Credentials {
        secret_access_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
        ..who.clone()
    };
    aws.credentials_file("credentials", &wrong);
    let failure = fails(
        cold(&kek).await,
        FailureKind::Denied,
        &["secret does not belong"],
    );
    assert!(!failure.message.contains("wJalr") && !failure.message.contains("EXAMPLEKEY"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_session_is_replaced_on_disk() {
    let aws = FakeAws::start();
    let key = aws.create_key();
    let role = aws.role("db", &key_policy(&key));
    let session = aws.assume(&role);
    let file = aws.credentials_file("credentials", &session);
    let root = kms(aws.config(&file));
    let agent = agent(Settings {
        soft_ttl_ms: 100,
        ..SETTINGS
    })
    .await;
    let kek = ok(agent.create_kek(&root, &key).await);
    let dek = ok(agent.create_dek(&kek).await);
    aws.expire(&session);
    let failure = agent
        .event(|event| matches!(event, Event::RefreshFailed { .. }))
        .await;
    let Event::RefreshFailed { failure, .. } = failure else {
        unreachable!()
    };
    assert_eq!(failure.kind, FailureKind::Config, "{failure}");
    assert!(failure.message.contains("expired"), "{failure}");
    // An end that nobody decided is no refusal: keys serve on.
    ok(agent.load(&dek).await);
    fails(cold(&kek).await, FailureKind::Config, &["expired"]);

    aws.credentials_file("credentials", &aws.assume(&role));
    agent
        .event(|event| matches!(event, Event::KekLease { .. }))
        .await;
    ok(cold(&kek).await);

    // No file, no section, no profile: what is wrong is named.
    fs::write(&file, "[other]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\n").unwrap();
    fails(cold(&kek).await, FailureKind::Config, &["credentials"]);
    fs::write(&file, "aws_secret_access_key wJalrXUtnFEMI/K7MDENG").unwrap();
    let failure = fails(cold(&kek).await, FailureKind::Config, &["credentials"]);
    assert!(!failure.message.contains("wJalr"), "{failure}");
    fs::remove_file(&file).unwrap();
    fails(cold(&kek).await, FailureKind::Config, &["credentials"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_may_assume_a_role() {
    let aws = FakeAws::start();
    let key = aws.create_key();
    let role = aws.role("db", &key_policy(&key));
    let base = aws.user(USER, &policy(&role, &["sts:AssumeRole"]));
    let profiles = format!(
        "[profile base]\naws_access_key_id = {}\naws_secret_access_key = {}\n\
         [profile db]\nrole_arn = {role}\nsource_profile = base\nservices = local\n\
         [services local]\nsts =\n  endpoint_url = {}\n",
        base.access_key_id,
        base.secret_access_key,
        aws.endpoint()
    );
    let file = aws.private_file("config", &profiles);
    let config =
        json!({"region": REGION, "endpoint": aws.endpoint(), "config_file": file, "profile": "db"});
    let root = kms(config.clone());
    let agent = agent(Settings {
        soft_ttl_ms: 50,
        ..SETTINGS
    })
    .await;
    let kek = ok(agent.create_kek(&root, &key).await);
    ok(agent.create_dek(&kek).await);
    for _ in 0..5 {
        agent
            .event(|event| matches!(event, Event::KekLease { .. }))
            .await;
    }
    assert_eq!(aws.requests("AssumeRole"), 1, "a session is kept");
    let mut nobody = config;
    nobody["profile"] = json!("nobody");
    fails(
        agent.create_kek(&kms(nobody), &key).await,
        FailureKind::Config,
        &["credentials"],
    );
    // STS itself refuses: that is a refusal like any.
    aws.user_policy(USER, &policy(&role, &["s3:GetObject"]));
    fails(
        cold(&kek).await,
        FailureKind::Denied,
        &["STS", "trust policy"],
    );
    aws.user_policy(USER, &policy(&role, &["sts:AssumeRole"]));
    // A refused login rests for a second.
    let began = Instant::now();
    while let Err(failure) = cold(&kek).await {
        assert!(began.elapsed() < PATIENCE, "{failure}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
