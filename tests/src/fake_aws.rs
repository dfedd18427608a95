//! A server that answers as AWS KMS, IAM and STS do, for one test, gone when dropped: `tests/fake-aws`, which
//! checks signatures and policies. Set up over its own API, by an access key id that may do everything.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::facts::Fact;
use crate::openbao::server_user;
use crate::process::wait_for;

/// The region of everything that is made without another.
pub const REGION: &str = "eu-west-1";
const ACCOUNT: &str = "111122223333";
const START: Duration = Duration::from_secs(30);

/// A running server.
pub struct FakeAws {
    dir: PathBuf,
    server: Child,
    port: u16,
}

/// What signs a request.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: Option<String>,
}

impl FakeAws {
    /// Without keys and users.
    #[must_use]
    pub fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("colcrypt-aws-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).expect("directory");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("mode");
        let program = program();
        let log = File::create(dir.join("requests.log")).expect("log");
        let errors = File::create(dir.join("server.log")).expect("log");
        let server = Command::new(&program)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let mut aws = Self {
            dir,
            server,
            port: 0,
        };
        wait_for("the server to listen", START, || {
            let port = aws.log().lines().next().and_then(|line| {
                let port = line.strip_prefix("port ")?;
                port.parse().ok()
            });
            aws.port = port.unwrap_or_default();
            aws.port != 0
        });
        aws
    }

    /// `http://…`
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The TCP port of [`Self::endpoint`].
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A directory for files of the test; others may look into it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("requests.log")).unwrap_or_default()
    }

    /// How often this was asked, such as `Decrypt` or `AssumeRoleWithWebIdentity`.
    #[must_use]
    pub fn requests(&self, action: &str) -> usize {
        let log = self.log();
        let asked = log.lines().filter_map(|line| line.split(' ').next());
        asked
            .filter(|asked| asked.rsplit('.').next() == Some(action))
            .count()
    }

    /// Calls KMS in the usual region as one who may do everything.
    pub fn kms(&self, action: &str, body: &Value) -> Value {
        self.kms_in(REGION, action, body)
    }

    /// Calls KMS in another region.
    pub fn kms_in(&self, region: &str, action: &str, body: &Value) -> Value {
        let target = format!(
            "content-type: application/x-amz-json-1.1\r\nx-amz-target: TrentService.{action}\r\n"
        );
        let answer = self.admin(region, "kms", &target, &body.to_string());
        serde_json::from_str(&answer).unwrap_or(Value::Null)
    }

    /// Calls IAM or STS, and gives back the XML.
    pub fn query(&self, service: &str, action: &str, parameters: &[(&str, &str)]) -> String {
        let version = if service == "iam" {
            "2010-05-08"
        } else {
            "2011-06-15"
        };
        let mut form = format!("Action={action}&Version={version}");
        for (name, value) in parameters {
            form += &format!("&{name}={}", percent(value));
        }
        let kind = "content-type: application/x-www-form-urlencoded\r\n";
        self.admin(REGION, service, kind, &form)
    }

    fn admin(&self, region: &str, service: &str, headers: &str, body: &str) -> String {
        let headers = format!(
            "{headers}x-amz-date: 20260101T000000Z\r\nauthorization: AWS4-HMAC-SHA256 \
             Credential=test/20260101/{region}/{service}/aws4_request, SignedHeaders=host, Signature=none\r\n"
        );
        let (status, answer) = self.post("/", &headers, body);
        assert_eq!(status, 200, "{body}: {answer}");
        answer
    }

    fn post(&self, path: &str, headers: &str, body: &str) -> (u16, String) {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).expect("connected");
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nconnection: close\r\ncontent-length: {length}\r\n\
             {headers}\r\n{body}",
            self.port
        );
        socket.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("answered");
        let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        (status.expect("a status"), body.to_owned())
    }

    /// A symmetric key: its ARN.
    #[must_use]
    pub fn create_key(&self) -> String {
        text(&self.kms("CreateKey", &json!({}))["KeyMetadata"]["Arn"])
    }

    /// Lets the alias point to the key, wherever it pointed before.
    pub fn point_alias(&self, alias: &str, key: &str) {
        let known = self.kms("ListAliases", &json!({}));
        let exists = known["Aliases"]
            .as_array()
            .is_some_and(|all| all.iter().any(|known| known["AliasName"] == alias));
        let action = if exists { "UpdateAlias" } else { "CreateAlias" };
        let id = key.rsplit('/').next();
        self.kms(action, &json!({"AliasName": alias, "TargetKeyId": id}));
    }

    /// A user with this policy, and its access key.
    #[must_use]
    pub fn user(&self, name: &str, policy: &str) -> Credentials {
        self.query("iam", "CreateUser", &[("UserName", name)]);
        self.user_policy(name, policy);
        self.access_key(name)
    }

    /// One more access key of a user.
    #[must_use]
    pub fn access_key(&self, name: &str) -> Credentials {
        let xml = self.query("iam", "CreateAccessKey", &[("UserName", name)]);
        Credentials {
            access_key_id: element(&xml, "AccessKeyId"),
            secret_access_key: element(&xml, "SecretAccessKey"),
            session_token: None,
        }
    }

    /// Gives the user another policy.
    pub fn user_policy(&self, name: &str, policy: &str) {
        let parameters = [
            ("UserName", name),
            ("PolicyName", "colcrypt"),
            ("PolicyDocument", policy),
        ];
        self.query("iam", "PutUserPolicy", &parameters);
    }

    pub fn delete_access_key(&self, name: &str, who: &Credentials) {
        let parameters = [
            ("UserName", name),
            ("AccessKeyId", who.access_key_id.as_str()),
        ];
        self.query("iam", "DeleteAccessKey", &parameters);
    }

    /// Access key off or on.
    pub fn set_active(&self, name: &str, who: &Credentials, active: bool) {
        let status = if active { "Active" } else { "Inactive" };
        let parameters = [
            ("UserName", name),
            ("AccessKeyId", who.access_key_id.as_str()),
            ("Status", status),
        ];
        self.query("iam", "UpdateAccessKey", &parameters);
    }

    /// A role that anyone may assume, with this policy: its ARN.
    #[must_use]
    pub fn role(&self, name: &str, policy: &str) -> String {
        let trust = json!({"Version": "2012-10-17", "Statement": [{
            "Effect": "Allow", "Principal": {"AWS": "*"},
            "Action": ["sts:AssumeRole", "sts:AssumeRoleWithWebIdentity"],
        }]});
        let parameters = [
            ("RoleName", name),
            ("AssumeRolePolicyDocument", &trust.to_string()),
        ];
        self.query("iam", "CreateRole", &parameters);
        let parameters = [
            ("RoleName", name),
            ("PolicyName", "colcrypt"),
            ("PolicyDocument", policy),
        ];
        self.query("iam", "PutRolePolicy", &parameters);
        format!("arn:aws:iam::{ACCOUNT}:role/{name}")
    }

    /// A session of the role.
    #[must_use]
    pub fn assume(&self, role: &str) -> Credentials {
        let parameters = [("RoleArn", role), ("RoleSessionName", "colcrypt")];
        let xml = self.query("sts", "AssumeRole", &parameters);
        Credentials {
            access_key_id: element(&xml, "AccessKeyId"),
            secret_access_key: element(&xml, "SecretAccessKey"),
            session_token: Some(element(&xml, "SessionToken")),
        }
    }

    /// Ends a session before its time.
    pub fn expire(&self, who: &Credentials) {
        let path = format!("/expire?access_key_id={}", who.access_key_id);
        assert_eq!(self.post(&path, "", "").0, 200);
    }

    /// Lets the next answers be this one.
    pub fn fault(&self, status: u16, times: u32, body: &str) {
        let path = format!("/fault?status={status}&times={times}");
        assert_eq!(self.post(&path, "", body).0, 200);
    }

    /// Lets the next answers be what the fact says.
    pub fn script(&self, fact: &Fact, times: u32) {
        self.fault(fact.status(), times, &fact.body().to_string());
    }

    /// From now on the server answers for itself.
    pub fn end_script(&self) {
        self.fault(200, 0, "");
    }

    /// A credentials file that only the server's user (and root) can read. Replaced as a whole, as rotating
    /// programs do.
    pub fn credentials_file(&self, name: &str, who: &Credentials) -> PathBuf {
        let mut text = format!(
            "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
            who.access_key_id, who.secret_access_key
        );
        if let Some(token) = &who.session_token {
            text += &format!("aws_session_token = {token}\n");
        }
        self.private_file(name, &text)
    }

    /// A file like [`Self::credentials_file`]'s.
    pub fn private_file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir.join(name);
        let new = self.dir.join(format!("{name}.new"));
        fs::write(&new, content).expect("file");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("mode");
        if let Some((uid, gid)) = server_user() {
            chown(&new, Some(uid), Some(gid)).expect("chown");
        }
        fs::rename(&new, &path).expect("rename");
        path
    }

    /// A provider's configuration, as `colcrypt.add_provider` takes it.
    #[must_use]
    pub fn config(&self, credentials_file: &Path) -> Value {
        json!({"region": REGION, "endpoint": self.endpoint(), "credentials_file": credentials_file})
    }
}

impl Drop for FakeAws {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        if std::thread::panicking() {
            let errors = fs::read_to_string(self.dir.join("server.log")).unwrap_or_default();
            eprintln!("--- the server was asked:\n{}{errors}", self.log());
        }
        if std::env::var_os("COLCRYPT_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// The policy that the documentation gives, for this key.
#[must_use]
pub fn key_policy(key: &str) -> String {
    let page = include_str!("../../docs/providers/aws-kms.md");
    let (_, rest) = page.split_once("```json\n").expect("a policy");
    let (policy, _) = rest.split_once("```").expect("its end");
    let mut policy: Value = serde_json::from_str(policy).expect("JSON");
    policy["Statement"][0]["Resource"] = json!(key);
    policy.to_string()
}

/// A policy that allows these actions on the key.
#[must_use]
pub fn policy(key: &str, actions: &[&str]) -> String {
    json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": actions, "Resource": key},
    ]})
    .to_string()
}

fn program() -> PathBuf {
    let program =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/fake-aws/debug/fake-aws");
    assert!(
        program.is_file(),
        "no stand-in for AWS at {}: run scripts/install-fake-aws.sh",
        program.display()
    );
    program
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

fn element(xml: &str, name: &str) -> String {
    let (_, rest) = xml.split_once(&format!("<{name}>")).expect("the element");
    rest.split('<').next().expect("its text").to_owned()
}

fn percent(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            out.push(char::from(byte));
        } else {
            out += &format!("%{byte:02X}");
        }
    }
    out
}
