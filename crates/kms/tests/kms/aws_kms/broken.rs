//! The provider `aws-kms` against servers that answer what AWS would only on a bad day, or never.

use colcrypt_core::{KeyCheckValue, KeyEncryptionKey, WrapMethod};
use colcrypt_protocol::{FailureKind, KekCopy, KekRef, ProviderConfig};
use colcrypt_tests::facts;
use serde_json::{Value, json};

use crate::common::{
    self, Dir, SETTINGS, agent,
    broken::{Kind, Reaction, strangers},
    provider,
    raw::{Act, http, json_reply, listen},
};
use crate::facts::kind;

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const KEY: &str = "arn:aws:kms:eu-west-1:111122223333:key/k";
const ZEROS: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const ENCRYPTED: &str =
    r#"{"CiphertextBlob":"AAAA","KeyId":"arn:aws:kms:eu-west-1:111122223333:key/k"}"#;

const AWS: Kind = Kind {
    root_key: KEY,
    secret: SECRET,
    provider: |port, dir| at(port, dir, "eu-west-1"),
    aside: |_| None,
    operation: |request| {
        let target = request.head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            let value = value.strip_prefix("TrentService.")?;
            name.eq_ignore_ascii_case("x-amz-target").then_some(value)
        });
        target.unwrap_or_default()
    },
};

fn at(port: u16, dir: &Dir, region: &str) -> ProviderConfig {
    let file = dir.path("credentials");
    let text = format!(
        "[default]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = {SECRET}\n"
    );
    std::fs::write(&file, text).unwrap();
    let endpoint = format!("http://127.0.0.1:{port}");
    provider(
        "aws-kms",
        json!({"region": region, "endpoint": endpoint, "credentials_file": file}),
    )
}

fn aws_error(status: &str, code: &str, message: &str) -> Act {
    let body = json!({"__type": code, "message": message}).to_string();
    json_reply(status, &body)
}

#[tokio::test]
async fn every_error_of_aws_has_its_meaning() {
    use FailureKind::{BadReply, Denied, Throttled, Unavailable};
    for fact in facts::of("aws-kms", "kms") {
        let (status, body) = (format!("{} Said", fact.status()), fact.body().to_string());
        let (failure, tries) = AWS
            .failure(SETTINGS, move |_, _| json_reply(&status, &body))
            .await;
        assert_eq!(failure.kind, kind(&fact), "{fact:?}: {failure}");
        assert_eq!(tries, 1, "{fact:?}: the SDK does not try again by itself");
    }
    // The form in which the code may come as well, and what nobody has heard of.
    for (status, code, kind) in [
        (
            "400 Bad Request",
            "com.amazonaws.kms#AccessDeniedException",
            Denied,
        ),
        ("429 Too Many Requests", "Unheard", Throttled),
        ("503 Service Unavailable", "Unheard", Unavailable),
        ("418 I'm a teapot", "Unheard", BadReply),
    ] {
        let (failure, _) = AWS
            .failure(SETTINGS, move |_, _| aws_error(status, code, "no"))
            .await;
        assert_eq!(failure.kind, kind, "{code}: {failure}");
    }
}

#[tokio::test]
async fn what_is_not_of_aws_is_not_believed() {
    use FailureKind::{BadReply, Unavailable, Unreachable};
    let html = "<html>go away</html>";
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"Cipher";
    let cases: Vec<(&str, FailureKind, Reaction)> = vec![
        (
            "a proxy's 403",
            BadReply,
            Box::new(move || http("403 Forbidden", "content-type: text/html\r\n", html)),
        ),
        (
            "a proxy's 404",
            BadReply,
            Box::new(move || http("404 Not Found", "content-type: text/html\r\n", html)),
        ),
        (
            "JSON of someone else",
            BadReply,
            Box::new(|| json_reply("403 Forbidden", r#"{"errors":["permission denied"]}"#)),
        ),
        (
            "a gateway's error",
            Unavailable,
            Box::new(move || http("502 Bad Gateway", "", html)),
        ),
        (
            "a redirect",
            BadReply,
            Box::new(|| {
                http(
                    "307 Temporary Redirect",
                    "location: http://127.0.0.1:1/\r\n",
                    "",
                )
            }),
        ),
        (
            "not JSON",
            BadReply,
            Box::new(move || http("200 OK", "", html)),
        ),
        (
            "cut JSON",
            BadReply,
            Box::new(|| json_reply("200 OK", &ENCRYPTED[..20])),
        ),
        ("nothing", BadReply, Box::new(|| json_reply("200 OK", "{}"))),
        (
            "no ARN",
            BadReply,
            Box::new(|| json_reply("200 OK", r#"{"CiphertextBlob":"AAAA","KeyId":"k"}"#)),
        ),
        (
            "no base64",
            BadReply,
            Box::new(|| json_reply("200 OK", r#"{"CiphertextBlob":"!","KeyId":"k"}"#)),
        ),
        (
            "a body that ends early",
            Unreachable,
            Box::new(move || Act::Send(cut.into())),
        ),
    ];
    AWS.are_called(cases.into_iter().chain(strangers()).collect())
        .await;
}

#[tokio::test]
async fn slow_answers_end_in_a_timeout() {
    AWS.slow_answers_end_in_a_timeout().await;
}

/// The stand-in for AWS cannot decrypt with a replica, so what is asked of one is looked at here.
#[tokio::test]
async fn after_a_failover_the_replica_is_asked() {
    let (port, _) = listen(|request| {
        let body: Value = serde_json::from_str(&request.body).unwrap();
        if body["KeyId"] != "arn:aws:kms:eu-central-1:111122223333:key/mrk-1" {
            let said = "Key 'arn:aws:kms:eu-central-1:111122223333:key/mrk-2' does not exist";
            return aws_error("400 Bad Request", "NotFoundException", said);
        }
        let context = body["EncryptionContext"].as_object().unwrap();
        assert_eq!(context["colcrypt-kek-version"], "1");
        assert_eq!(context["colcrypt-keyring"].as_str().unwrap().len(), 36);
        let answer = json!({"Plaintext": ZEROS, "KeyId": body["KeyId"]});
        json_reply("200 OK", &answer.to_string())
    })
    .await;
    let dir = Dir::new();
    let zeros = KeyEncryptionKey::from_slice(&[0; 32]).unwrap();
    let mut kek = KekRef {
        id: common::kek_id(),
        keyring: "app".to_owned(),
        preferred: KekCopy {
            provider: at(port, &dir, "eu-central-1"),
            root_key: "alias/app".to_owned(),
            root_key_version: "arn:aws:kms:eu-west-1:111122223333:key/mrk-1".to_owned(),
            wrapped: b"wrapped".to_vec(),
        },
        others: Vec::new(),
        kcv: KeyCheckValue::of_kek(&zeros),
        dek_wrap: WrapMethod::Aes256Gcm,
    };
    let agent = agent(SETTINGS).await;
    common::ok(agent.create_dek(&kek).await);
    // A region to which the key was never replicated has not lost it.
    let mut unknown = kek.clone();
    unknown.preferred.root_key_version = "arn:aws:kms:eu-west-1:111122223333:key/mrk-2".to_owned();
    common::fails(
        agent.create_dek(&unknown).await,
        FailureKind::Config,
        &["no replica in eu-central-1", "eu-west-1"],
    );
    kek.preferred.root_key_version = "arn:aws:kms:eu-west-1:111122223333:key/1".to_owned();
    common::fails(
        agent.create_dek(&kek).await,
        FailureKind::Config,
        &["eu-west-1", "eu-central-1"],
    );
}

#[tokio::test]
async fn wrong_content_of_the_right_form_is_refused() {
    let other = "arn:aws:kms:eu-west-1:111122223333:key/other";
    for decrypted in [
        json!({"Plaintext": "AAAA", "KeyId": KEY}),
        json!({"Plaintext": "", "KeyId": KEY}),
        json!({"KeyId": KEY}),
        json!({"Plaintext": ZEROS}),
        json!({"Plaintext": ZEROS, "KeyId": other}),
        // A key, but not the one that was wrapped.
        json!({"Plaintext": ZEROS, "KeyId": KEY}),
    ] {
        let decrypted = decrypted.to_string();
        let (failure, _) = AWS
            .failure(SETTINGS, move |target, _| {
                let body = if target == "Encrypt" {
                    ENCRYPTED
                } else {
                    decrypted.as_str()
                };
                json_reply("200 OK", body)
            })
            .await;
        assert_eq!(failure.kind, FailureKind::BadReply, "{failure}");
    }
}

#[tokio::test]
async fn an_echo_of_the_request_is_not_repeated() {
    AWS.echoes_are_not_repeated(|_, body| {
        aws_error(
            "400 Bad Request",
            "ValidationException",
            &format!("cannot parse: {body}"),
        )
    })
    .await;
}

#[tokio::test]
async fn a_throttling_server_is_left_alone_as_long_as_it_asks() {
    let rest = |seconds: &'static str| {
        move |_: &str, _: &str| {
            let headers =
                format!("content-type: application/x-amz-json-1.1\r\nretry-after: {seconds}\r\n");
            http(
                "400 Bad Request",
                &headers,
                r#"{"__type":"ThrottlingException"}"#,
            )
        }
    };
    AWS.rests_are_kept(rest).await;
}
