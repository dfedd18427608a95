//! A real OpenBao server for one test, on a free port of this machine, gone when dropped.
//!
//! Driven through its own command-line client. [`OpenBao::start`] runs in memory and is up in a third of a second;
//! [`OpenBao::start_durable`] takes some seconds and survives [`OpenBao::stop`] and [`OpenBao::restart`]. Requests are
//! counted where they arrive: in the server's audit log.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::port::Port;
use crate::process::{is_stopped, run, signal, wait_for};

const START: Duration = Duration::from_secs(30);
const ROOT_TOKEN: &str = "root-token-of-a-test";

/// A running server.
pub struct OpenBao {
    program: PathBuf,
    dir: PathBuf,
    /// None while stopped.
    server: Option<Child>,
    kind: Kind,
    /// Its successor is the cluster's.
    plain: Port,
    tls: Option<Port>,
    root_token: String,
}

enum Kind {
    InMemory,
    Durable { unseal_key: String },
}

/// What an AppRole login needs.
pub struct AppRole {
    pub role_id: String,
    pub secret_id_file: PathBuf,
}

impl OpenBao {
    /// In memory, unsealed, with a Transit engine at `transit/` and AppRole at `approle/`.
    #[must_use]
    pub fn start() -> Self {
        Self::build(false, false)
    }

    /// The same, listening with TLS as well: see [`Self::tls_address`] and [`Self::ca_file`].
    #[must_use]
    pub fn start_tls() -> Self {
        Self::build(false, true)
    }

    /// The same on disk.
    #[must_use]
    pub fn start_durable() -> Self {
        Self::build(true, false)
    }

    fn build(durable: bool, with_tls: bool) -> Self {
        let program = program();
        let dir = fresh_directory();
        let plain = Port::hold();
        let tls = with_tls.then(Port::hold);
        let mut config = format!(
            "audit \"file\" \"log\" {{\n  options = {{ file_path = \"{}\" }}\n}}\n",
            dir.join("audit.log").display()
        );
        if let Some(tls) = &tls {
            let port = tls.number();
            make_certificates(&dir, &["127.0.0.1"]);
            config += &format!(
                "listener \"tcp\" {{\n  address = \"127.0.0.1:{port}\"\n  tls_cert_file = \"{0}/server.pem\"\n  \
                 tls_key_file = \"{0}/server.key\"\n}}\n",
                dir.display()
            );
        }
        if durable {
            let data = dir.join("data");
            fs::create_dir(&data).expect("data directory");
            let (port, cluster) = (plain.number(), plain.number() + 1);
            config += &format!(
                "storage \"raft\" {{\n  path = \"{}\"\n  node_id = \"one\"\n  performance_multiplier = 1\n}}\n\
                 api_addr = \"http://127.0.0.1:{port}\"\ncluster_addr = \"http://127.0.0.1:{cluster}\"\n\
                 listener \"tcp\" {{\n  address = \"127.0.0.1:{port}\"\n  cluster_address = \"127.0.0.1:{cluster}\"\n  \
                 tls_disable = true\n}}\n",
                data.display()
            );
        }
        fs::write(dir.join("server.hcl"), config).expect("configuration");

        let mut bao = Self {
            program,
            dir,
            server: None,
            kind: Kind::InMemory,
            plain,
            tls,
            root_token: ROOT_TOKEN.to_owned(),
        };
        bao.launch(durable);
        if durable {
            let init = bao.bao(&[
                "operator",
                "init",
                "-key-shares=1",
                "-key-threshold=1",
                "-format=json",
            ]);
            let init: Value = serde_json::from_str(&init).expect("JSON from init");
            let text = |value: &Value| value.as_str().expect("a string").to_owned();
            bao.root_token = text(&init["root_token"]);
            bao.kind = Kind::Durable {
                unseal_key: text(&init["unseal_keys_b64"][0]),
            };
            bao.unseal();
        }
        bao.bao(&["secrets", "enable", "transit"]);
        bao.bao(&["auth", "enable", "approle"]);
        bao
    }

    fn launch(&mut self, durable: bool) {
        let mut command = Command::new(&self.program);
        command
            .arg("server")
            .arg(format!("-config={}", self.dir.join("server.hcl").display()));
        if !durable {
            command.args([
                "-dev",
                "-dev-no-store-token",
                &format!("-dev-root-token-id={ROOT_TOKEN}"),
                &format!("-dev-listen-address=127.0.0.1:{}", self.plain.number()),
            ]);
        }
        let log = File::create(self.dir.join("server.log")).expect("log");
        let server = command
            .env("HOME", &self.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.program.display()));
        self.server = Some(server);
        // 0: unsealed, 2: sealed or not initialised; anything else: not there yet.
        let ready: &[i32] = if durable { &[0, 2] } else { &[0] };
        wait_for("OpenBao to answer", START, || {
            if let Some(server) = &mut self.server
                && let Ok(Some(status)) = server.try_wait()
            {
                panic!("OpenBao ended with {status}:\n{}", self.log());
            }
            let status = self
                .command(&["status"])
                .output()
                .expect("bao status")
                .status;
            status.code().is_some_and(|code| ready.contains(&code))
        });
    }

    /// `http://…`
    #[must_use]
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.plain.number())
    }

    /// The TCP port of [`Self::address`].
    #[must_use]
    pub fn port(&self) -> u16 {
        self.plain.number()
    }

    /// `https://…`, when started with TLS.
    #[must_use]
    pub fn tls_address(&self) -> String {
        let tls = self.tls.as_ref().expect("started with start_tls");
        format!("https://127.0.0.1:{}", tls.number())
    }

    /// The certificate that signed the TLS listener's.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// A directory for files of the test; others may look into it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the server has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("server.log")).unwrap_or_default()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(args)
            .env("BAO_ADDR", self.address())
            .env("BAO_TOKEN", &self.root_token)
            .env("HOME", &self.dir)
            .env_remove("BAO_NAMESPACE")
            .stdin(Stdio::null());
        command
    }

    /// Runs the client as root, and gives back what it printed.
    pub fn bao(&self, args: &[&str]) -> String {
        output(&mut self.command(args))
    }

    /// The same in a namespace.
    pub fn bao_in(&self, namespace: &str, args: &[&str]) -> String {
        output(self.command(args).env("BAO_NAMESPACE", namespace))
    }

    /// Makes a Transit key.
    pub fn create_key(&self, name: &str) {
        self.bao(&["write", "-f", &format!("transit/keys/{name}")]);
    }

    /// Deletes a Transit key for good.
    pub fn delete_key(&self, name: &str) {
        self.bao(&[
            "write",
            &format!("transit/keys/{name}/config"),
            "deletion_allowed=true",
        ]);
        self.bao(&["delete", &format!("transit/keys/{name}")]);
    }

    /// Writes a policy.
    pub fn write_policy(&self, name: &str, hcl: &str) {
        let file = self.dir.join(format!("{name}.hcl"));
        fs::write(&file, hcl).expect("policy file");
        self.bao(&["policy", "write", name, file.to_str().expect("UTF-8 path")]);
    }

    /// Writes the policy that suffices for using one Transit key, and returns its name.
    pub fn allow_key(&self, key: &str) -> String {
        let name = format!("use-{key}");
        self.write_policy(&name, &key_policy(key));
        name
    }

    /// A new token with a policy, in a file that only the server's user (and root) can read.
    pub fn token_file(&self, policy: &str) -> PathBuf {
        self.private_file("token", &self.token(policy, "1h"))
    }

    /// A new token with a policy.
    pub fn token(&self, policy: &str, ttl: &str) -> String {
        let policy = format!("-policy={policy}");
        let ttl = format!("-ttl={ttl}");
        self.bao(&["token", "create", "-field=token", &policy, &ttl])
    }

    /// The root token in a file like [`Self::token_file`]'s.
    pub fn root_token_file(&self) -> PathBuf {
        self.private_file("token", &self.root_token)
    }

    /// Revokes the token in a file.
    pub fn revoke(&self, token_file: &Path) {
        let token = fs::read_to_string(token_file).expect("token file");
        self.bao(&["token", "revoke", token.trim()]);
    }

    /// Makes a role with a policy, whose tokens live for `ttl` and can be renewed up to `max_ttl`.
    pub fn approle(&self, role: &str, policy: &str, ttl: &str, max_ttl: &str) -> AppRole {
        let path = format!("auth/approle/role/{role}");
        self.bao(&[
            "write",
            &path,
            &format!("token_policies={policy}"),
            &format!("token_ttl={ttl}"),
            &format!("token_max_ttl={max_ttl}"),
        ]);
        let role_id = self.bao(&["read", "-field=role_id", &format!("{path}/role-id")]);
        let secret_id = self.secret_id(role);
        AppRole {
            role_id: role_id.trim().to_owned(),
            secret_id_file: self.private_file("secret-id", &secret_id),
        }
    }

    /// Another secret id of a role.
    pub fn secret_id(&self, role: &str) -> String {
        let path = format!("auth/approle/role/{role}/secret-id");
        let secret_id = self.bao(&["write", "-f", "-field=secret_id", &path]);
        secret_id.trim().to_owned()
    }

    /// A file that only the server's user (and root) can read. Written anew when it exists.
    pub fn private_file(&self, stem: &str, content: &str) -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let path = self
            .dir
            .join(format!("{stem}-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::write(&path, format!("{}\n", content.trim())).expect("file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("mode");
        if let Some((uid, gid)) = server_user() {
            chown(&path, Some(uid), Some(gid)).expect("chown");
        }
        path
    }

    /// A provider's configuration with a token file, as `colcrypt.add_provider` takes it.
    #[must_use]
    pub fn config(&self, token_file: &Path) -> Value {
        json!({"address": self.address(), "auth": {"method": "token", "token_file": token_file}})
    }

    /// Requests that arrived at paths beginning so, in the root namespace.
    #[must_use]
    pub fn requests(&self, path: &str) -> usize {
        let log = fs::read_to_string(self.dir.join("audit.log")).unwrap_or_default();
        let requests = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|entry| entry["type"] == "request")
            .filter(|entry| {
                entry["request"]["path"]
                    .as_str()
                    .is_some_and(|p| p.starts_with(path))
            });
        requests.count()
    }

    /// Seals the server: it answers 503.
    pub fn seal(&self) {
        self.bao(&["operator", "seal"]);
    }

    /// Unseals a durable server.
    pub fn unseal(&self) {
        let Kind::Durable { unseal_key } = &self.kind else {
            panic!("only a durable server can be unsealed");
        };
        self.bao(&["operator", "unseal", unseal_key]);
        // Unsealed is not yet active: the election is still to come.
        wait_for("OpenBao to be active", START, || {
            self.command(&["token", "lookup"])
                .output()
                .is_ok_and(|output| output.status.success())
        });
    }

    /// SIGSTOP: connections are accepted by the kernel and nothing answers.
    pub fn pause(&self) {
        signal(self.pid(), "STOP");
        wait_for("the server to stand still", START, || {
            is_stopped(self.pid())
        });
    }

    /// Ends [`Self::pause`].
    pub fn resume(&self) {
        signal(self.pid(), "CONT");
    }

    fn pid(&self) -> i32 {
        self.server
            .as_ref()
            .expect("not stopped")
            .id()
            .cast_signed()
    }

    /// Kills the server: connections are refused from now on.
    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().expect("kill");
            server.wait().expect("wait");
        }
    }

    /// Starts a stopped durable server at the same address, and unseals it.
    pub fn restart(&mut self) {
        assert!(
            matches!(self.kind, Kind::Durable { .. }),
            "only a durable server can be restarted"
        );
        self.launch(true);
        self.unseal();
    }
}

impl Drop for OpenBao {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- OpenBao said:\n{}", self.log());
        }
        if std::env::var_os("COLCRYPT_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// The least that a token needs to use one Transit key.
#[must_use]
pub fn key_policy(key: &str) -> String {
    format!(
        "path \"transit/keys/{key}\" {{ capabilities = [\"read\"] }}\n\
         path \"transit/encrypt/{key}\" {{ capabilities = [\"update\"] }}\n\
         path \"transit/decrypt/{key}\" {{ capabilities = [\"update\"] }}\n"
    )
}

/// What a token needs on top of [`key_policy`] for keyrings whose keys the server generates.
#[must_use]
pub fn generator_policy() -> &'static str {
    "path \"transit/random/32\" { capabilities = [\"update\"] }\n"
}

fn output(command: &mut Command) -> String {
    String::from_utf8(run(command).stdout).expect("UTF-8")
}

fn program() -> PathBuf {
    let program = std::env::var_os("COLCRYPT_BAO").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/bao"),
        PathBuf::from,
    );
    assert!(
        program.is_file(),
        "no OpenBao at {}: run scripts/install-openbao.sh",
        program.display()
    );
    program
}

fn fresh_directory() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir =
        std::env::temp_dir().join(format!("colcrypt-openbao-{}-{number}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir(&dir).expect("directory");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("mode");
    dir
}

/// Root hands PostgreSQL over to this user, whose agent then reads our files.
pub(crate) fn server_user() -> Option<(u32, u32)> {
    let id = |args: &[&str]| -> Option<u32> {
        let output = Command::new("id").args(args).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    if id(&["-u"])? != 0 {
        return None;
    }
    Some((id(&["-u", "postgres"])?, id(&["-g", "postgres"])?))
}

/// A certification authority and a certificate for these names that it signed: `ca.pem`, `server.pem`, `server.key`.
pub(crate) fn make_certificates(dir: &Path, names: &[&str]) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let key = || KeyPair::generate().expect("key");
    let mut ca = CertificateParams::new(vec![]).expect("parameters");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = key();
    let ca_certificate = ca.self_signed(&ca_key).expect("CA");
    let issuer = Issuer::new(ca, ca_key);
    let server_key = key();
    let server = CertificateParams::new(
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>(),
    )
    .and_then(|parameters| parameters.signed_by(&server_key, &issuer))
    .expect("certificate");
    for (name, pem) in [
        ("ca.pem", ca_certificate.pem()),
        ("server.pem", server.pem()),
        ("server.key", server_key.serialize_pem()),
    ] {
        fs::write(dir.join(name), pem).expect("PEM file");
    }
}
