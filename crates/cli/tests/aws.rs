//! `colcrypt check --provider aws-kms`, with every way in which a server may come by AWS credentials: each is
//! a matter of the environment, so each check is a process of its own.

use std::{
    io::{Read, Write},
    net::TcpListener,
    process::{Command, Output, Stdio},
    thread,
};

use colcrypt_tests::fake_aws::{Credentials, FakeAws, REGION, key_policy};
use serde_json::{Value, json};

/// A check in this environment and no other.
fn check(aws: &FakeAws, key: &str, environment: &[(&str, &str)]) -> Output {
    let config = json!({"region": REGION, "endpoint": aws.endpoint()}).to_string();
    Command::new(env!("CARGO_BIN_EXE_colcrypt"))
        .args(["check", "--provider", "aws-kms", "--config", &config])
        .args(["--root-key", key, "--json"])
        .env_clear()
        .env("HOME", aws.dir())
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[track_caller]
fn succeeds(output: &Output, key: &str) {
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["ok"], true, "{object}");
    assert_eq!(object["report"]["root_key_version"], key);
    assert!(output.status.success());
}

#[track_caller]
fn fails(output: &Output, kind: &str, part: &str) {
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["failure"]["kind"], kind, "{object}");
    let message = object["failure"]["message"].as_str().unwrap();
    assert!(message.contains(part), "{message}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn credentials_of_the_environment_and_of_files() {
    let aws = FakeAws::start();
    let key = aws.create_key();
    let who = aws.user("db", &key_policy(&key));
    let environment = [
        ("AWS_ACCESS_KEY_ID", who.access_key_id.as_str()),
        ("AWS_SECRET_ACCESS_KEY", who.secret_access_key.as_str()),
    ];
    succeeds(&check(&aws, &key, &environment), &key);
    let file = aws.credentials_file("credentials", &who);
    let file = file.to_str().unwrap();
    let environment = [("AWS_SHARED_CREDENTIALS_FILE", file)];
    succeeds(&check(&aws, &key, &environment), &key);
    let none = [("AWS_EC2_METADATA_DISABLED", "true")];
    fails(
        &check(&aws, &key, &none),
        "config",
        "no AWS credentials found",
    );
    // For people, too.
    let config = aws.config(file.as_ref()).to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_colcrypt"))
        .args(["check", "--provider", "aws-kms", "--config", &config])
        .args(["--root-key", &key])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("AWS KMS in eu-west-1") && said.contains(&key),
        "{said}"
    );
}

#[test]
fn the_identity_of_a_pod() {
    let aws = FakeAws::start();
    let key = aws.create_key();
    let role = aws.role("db", &key_policy(&key));
    let token = aws.private_file("token", "header.payload.signature");
    let endpoint = aws.endpoint();
    let mut environment = [
        ("AWS_ROLE_ARN", role.as_str()),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
        ("AWS_ENDPOINT_URL_STS", &endpoint),
    ];
    succeeds(&check(&aws, &key, &environment), &key);
    assert_eq!(aws.requests("AssumeRoleWithWebIdentity"), 1);
    let nobody = role.replace("/db", "/nobody");
    environment[0].1 = &nobody;
    fails(&check(&aws, &key, &environment), "denied", "STS");
}

#[test]
fn the_identity_of_an_instance_and_of_a_task() {
    let aws = FakeAws::start();
    let key = aws.create_key();
    let role = aws.role("db", &key_policy(&key));
    let metadata = metadata(&aws.assume(&role));
    let instance = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.as_str())];
    succeeds(&check(&aws, &key, &instance), &key);
    let uri = format!("{metadata}/task");
    let task = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri.as_str())];
    succeeds(&check(&aws, &key, &task), &key);
}

#[test]
fn the_proxy_of_the_environment_is_used() {
    let aws = FakeAws::start();
    let key = aws.create_key();
    let who = aws.user("db", &key_policy(&key));
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", proxy.local_addr().unwrap());
    let environment = [
        ("AWS_ACCESS_KEY_ID", who.access_key_id.as_str()),
        ("AWS_SECRET_ACCESS_KEY", who.secret_access_key.as_str()),
        ("HTTPS_PROXY", address.as_str()),
    ];
    // Not on the way to this machine.
    succeeds(&check(&aws, &key, &environment), &key);
    let asked = thread::spawn(move || {
        let (mut socket, _) = proxy.accept().unwrap();
        let mut request = [0; 40];
        socket.read_exact(&mut request).unwrap();
        String::from_utf8_lossy(&request).into_owned()
    });
    let config = json!({"region": REGION}).to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_colcrypt"))
        .args(["check", "--provider", "aws-kms", "--config", &config])
        .args(["--root-key", &key, "--json"])
        .env_clear()
        .envs(environment)
        .output()
        .unwrap();
    fails(&output, "unreachable", "kms.eu-west-1.amazonaws.com");
    let asked = asked.join().unwrap();
    assert!(
        asked.starts_with("CONNECT kms.eu-west-1.amazonaws.com:443"),
        "{asked}"
    );
}

/// The metadata service of an instance, which asks for a token of its second version, and of a task.
fn metadata(who: &Credentials) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let credentials = json!({
        "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2026-01-01T00:00:00Z",
        "Expiration": "2099-01-01T00:00:00Z", "AccessKeyId": who.access_key_id,
        "SecretAccessKey": who.secret_access_key, "Token": who.session_token,
    })
    .to_string();
    thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if socket.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                request.push(byte[0]);
            }
            let request = String::from_utf8_lossy(&request).to_lowercase();
            let with_token = request.contains("x-aws-ec2-metadata-token: the-token");
            let list = "/latest/meta-data/iam/security-credentials";
            let path = request.split(' ').nth(1).unwrap_or_default();
            let (status, body) = match path.trim_end_matches('/') {
                "/latest/api/token" if request.starts_with("put") => ("200 OK", "the-token"),
                "/task" => ("200 OK", credentials.as_str()),
                _ if !with_token => ("401 Unauthorized", ""),
                path if path == list => ("200 OK", "db"),
                path if path == format!("{list}/db") => ("200 OK", credentials.as_str()),
                _ => ("404 Not Found", ""),
            };
            let _ = write!(
                socket,
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\nx-aws-ec2-metadata-token-ttl-seconds: 21600\r\n\
                 content-type: application/json\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
        }
    });
    address
}
