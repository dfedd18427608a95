//! A real KMIP server for one test, on a free port of this machine, gone when dropped: PyKMIP, started by
//! `pykmip_server.py`. Keys are made and changed by PyKMIP's own client; requests are counted in its engine.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};

use crate::authority::{Authority, Identity};
use crate::openbao::server_user;
use crate::provider_bed::{ProviderBed, Route, Trouble};
use crate::proxy::Upstream;

/// The client whose rights suffice.
pub const CLIENT: &str = "colcrypt";
/// The group that the operation policy lets use keys.
const GROUP: &str = "databases";
const ROOT_KEY: &str = "app-root";
const OTHER_ROOT_KEY: &str = "other-root";

/// How a server is to be.
pub struct Options {
    /// `1.2`, as PyKMIP's own main program, or `1.3`.
    pub tls: &'static str,
    /// The versions of KMIP it speaks.
    pub versions: &'static [&'static str],
    /// What its certificate is for.
    pub names: &'static [&'static str],
    pub expired: bool,
    /// Whom the clients' private keys belong to, if not to this process.
    pub owner: Option<(u32, u32)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tls: "1.3",
            versions: &["2.0", "1.4", "1.3", "1.2", "1.1", "1.0"],
            names: &["localhost", "127.0.0.1"],
            expired: false,
            owner: None,
        }
    }
}

/// A running server.
pub struct PyKmip {
    dir: PathBuf,
    options: Options,
    authority: Authority,
    port: u16,
    /// None while stopped.
    server: Mutex<Option<Running>>,
    /// The keys of each name, oldest first.
    keys: Mutex<HashMap<String, Vec<String>>>,
    secrets: Vec<String>,
}

struct Running {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl PyKmip {
    /// With two clients, [`CLIENT`] and `admin`, and without keys.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(Options::default())
    }

    /// With two root keys, as the suites over every kind of provider use it, for the server's user.
    #[must_use]
    pub fn bed() -> Self {
        Self::bed_of(server_user())
    }

    /// The same for an agent in this process.
    #[must_use]
    pub fn local_bed() -> Self {
        Self::bed_of(None)
    }

    fn bed_of(owner: Option<(u32, u32)>) -> Self {
        let kmip = Self::start_with(Options {
            owner,
            ..Options::default()
        });
        kmip.create_key(ROOT_KEY);
        kmip.create_key(OTHER_ROOT_KEY);
        kmip
    }

    #[must_use]
    pub fn start_with(options: Options) -> Self {
        let dir = fresh_directory();
        let authority = Authority::new();
        let mut kmip = Self {
            dir,
            options,
            authority,
            port: 0,
            server: Mutex::new(None),
            keys: Mutex::default(),
            secrets: Vec::new(),
        };
        kmip.write("ca.pem", &kmip.authority.pem());
        let names = kmip.options.names;
        let server = if kmip.options.expired {
            kmip.authority.expired_server(names)
        } else {
            kmip.authority.server(names)
        };
        kmip.write_identity("server", &server);
        for client in [CLIENT, "admin"] {
            let identity = kmip.authority.client(client);
            kmip.write_identity(client, &identity);
            kmip.secrets.extend(
                identity
                    .private_key
                    .lines()
                    .filter(|line| !line.starts_with('-'))
                    .map(str::to_owned),
            );
        }
        kmip.write("policy.json", &policy().to_string());
        kmip.set_users(&json!({CLIENT: [GROUP], "admin": ["admins"]}));
        kmip.restart();
        kmip
    }

    /// Starts a stopped server at the same address.
    pub fn restart(&mut self) {
        let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/pykmip");
        assert!(
            package.is_dir(),
            "no PyKMIP at {}: run scripts/install-pykmip.sh",
            package.display()
        );
        let errors = fs::File::create(self.dir.join("errors.log")).expect("log");
        let mut child = Command::new("python3")
            // Of old ciphers, which nothing here uses.
            .args([
                "-W",
                "ignore::DeprecationWarning",
                "-W",
                "ignore::UserWarning",
            ])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pykmip_server.py"))
            .arg(&self.dir)
            .arg(self.port.to_string())
            .arg(self.options.tls)
            .args(self.options.versions)
            .env("PYTHONPATH", &package)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            // Its client reads settings from the home directory.
            .env("HOME", &self.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .expect("python3");
        let mut running = Running {
            commands: child.stdin.take().expect("a pipe"),
            answers: BufReader::new(child.stdout.take().expect("a pipe")),
            child,
        };
        let port = running.answer(&self.dir);
        self.port = u16::try_from(port.as_u64().expect("a port")).expect("a port");
        *self.server.lock().expect("not poisoned") = Some(running);
    }

    /// Kills the server: connections are refused from now on.
    pub fn stop(&mut self) {
        if let Some(mut running) = self.server.lock().expect("not poisoned").take() {
            running.child.kill().expect("kill");
            running.child.wait().expect("wait");
        }
    }

    fn command(&self, command: &Value) -> Value {
        let mut server = self.server.lock().expect("not poisoned");
        let running = server.as_mut().expect("running");
        writeln!(running.commands, "{command}").expect("a server that listens");
        running.answer(&self.dir)
    }

    /// `localhost:…`
    #[must_use]
    pub fn address(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// A directory for files of the test; others may look into it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The authority of its own certificate and of its clients'.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// A provider's configuration for this client, as `colcrypt.add_provider` takes it.
    #[must_use]
    pub fn config(&self, client: &str) -> Value {
        json!({
            "address": self.address(),
            "ca_file": self.dir.join("ca.pem"),
            "certificate_file": self.dir.join(format!("{client}.pem")),
            "private_key_file": self.dir.join(format!("{client}.key")),
        })
    }

    /// A client's certificate and key as files, the key for its owner (and root) only.
    pub fn write_identity(&self, name: &str, identity: &Identity) {
        self.write(&format!("{name}.pem"), &identity.certificate);
        let file = format!("{name}.key");
        let path = self.write(&file, &identity.private_key);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("mode");
        if let Some((uid, gid)) = self.options.owner {
            chown(&path, Some(uid), Some(gid)).expect("chown");
        }
    }

    /// A file in [`Self::dir`].
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir.join(name);
        fs::write(&path, content).expect("file");
        path
    }

    /// Users and their groups: who is not among them is not let in.
    pub fn set_users(&self, users: &Value) {
        self.write("users.new", &users.to_string());
        fs::rename(self.dir.join("users.new"), self.dir.join("users.json")).expect("rename");
    }

    /// Makes an active AES-256 key: its unique identifier.
    pub fn create_key(&self, name: &str) -> String {
        self.create_key_with(name, json!({}))
    }

    /// The same with arguments of the script's function `create`.
    pub fn create_key_with(&self, name: &str, arguments: Value) -> String {
        let mut command = arguments;
        command["do"] = json!("create");
        command["name"] = json!(name);
        let id = self.command(&command);
        let id = id.as_str().expect("an identifier").to_owned();
        let mut keys = self.keys.lock().expect("not poisoned");
        keys.entry(name.to_owned()).or_default().push(id.clone());
        id
    }

    /// A rekey, which PyKMIP has not: the name goes over to a new key. Its identifier.
    pub fn rekey(&self, name: &str) -> String {
        let old = self.newest(name);
        self.rename(&old, &format!("{name} until {old}"));
        self.create_key(name)
    }

    /// The identifier of the newest key of this name.
    #[must_use]
    pub fn newest(&self, name: &str) -> String {
        let keys = self.keys.lock().expect("not poisoned");
        keys[name].last().expect("a key").clone()
    }

    pub fn activate(&self, key: &str) {
        self.command(&json!({"do": "activate", "key": key}));
    }

    pub fn rename(&self, key: &str, name: &str) {
        self.command(&json!({"do": "rename", "key": key, "name": name}));
    }

    /// Deactivates a key.
    pub fn deactivate(&self, key: &str) {
        self.command(&json!({"do": "revoke", "key": key}));
    }

    /// Marks a key as compromised.
    pub fn compromise(&self, key: &str) {
        self.command(&json!({"do": "revoke", "key": key, "reason": "KEY_COMPROMISE"}));
    }

    /// Destroys a key that is not active.
    pub fn destroy(&self, key: &str) {
        self.command(&json!({"do": "destroy", "key": key}));
    }

    /// Copies the database aside.
    pub fn backup(&self) {
        self.command(&json!({"do": "backup"}));
    }

    /// Brings back the database as it was at [`Self::backup`].
    pub fn restore(&self) {
        self.command(&json!({"do": "restore"}));
    }

    /// How often this client asked for an operation, such as `DECRYPT`.
    #[must_use]
    pub fn requests(&self, operation: &str, client: &str) -> usize {
        let log = fs::read_to_string(self.dir.join("requests.log")).unwrap_or_default();
        let asked = format!("{operation} {client}");
        log.lines().filter(|line| *line == asked).count()
    }
}

impl Running {
    fn answer(&mut self, dir: &Path) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("a pipe");
        let answer: Value = serde_json::from_str(&line).unwrap_or_default();
        match answer.get("ok") {
            Some(value) => value.clone(),
            None => panic!("PyKMIP: {answer}\n{}", said(dir)),
        }
    }
}

impl Drop for PyKmip {
    fn drop(&mut self) {
        if let Ok(Some(running)) = self.server.get_mut() {
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- PyKMIP said:\n{}", said(&self.dir));
        }
        if std::env::var_os("COLCRYPT_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

fn said(dir: &Path) -> String {
    let read = |name| fs::read_to_string(dir.join(name)).unwrap_or_default();
    format!("{}{}", read("server.log"), read("errors.log"))
}

fn fresh_directory() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("colcrypt-kmip-{}-{number}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir(&dir).expect("directory");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("mode");
    dir
}

/// The operation policy that the documentation gives, and what the administrators of the test need.
fn policy() -> Value {
    let page = include_str!("../../docs/providers/kmip.md");
    let (_, rest) = page.split_once("```json\n").expect("a policy");
    let (policy, _) = rest.split_once("```").expect("its end");
    let mut policy: Value = serde_json::from_str(policy).expect("JSON");
    let operations = [
        "ACTIVATE",
        "DESTROY",
        "GET",
        "GET_ATTRIBUTES",
        "LOCATE",
        "MODIFY_ATTRIBUTE",
        "REVOKE",
    ];
    let all = operations.map(|operation| (operation.to_owned(), json!("ALLOW_ALL")));
    let all: serde_json::Map<_, _> = all.into_iter().collect();
    let all = json!({"SYMMETRIC_KEY": all});
    policy["colcrypt"]["groups"]["admins"] = all.clone();
    policy["administrators"] = json!({"groups": {"admins": all}});
    policy
}

impl ProviderBed for PyKmip {
    fn kind(&self) -> &'static str {
        "kmip"
    }

    fn config(&self, route: &Route<'_>) -> Value {
        let mut config = self.config(CLIENT);
        if let Route::Proxy { port, ca_file } = route {
            config["address"] = json!(format!("localhost:{port}"));
            config["ca_file"] = json!(ca_file);
        }
        config
    }

    fn upstream(&self) -> Option<Upstream> {
        let read = |name: String| fs::read(self.dir.join(name)).expect("file");
        let mut trusted = rustls::RootCertStore::empty();
        let ca = read("ca.pem".to_owned());
        trusted.add_parsable_certificates(CertificateDer::pem_slice_iter(&ca).flatten());
        let certificate = CertificateDer::from_pem_slice(&read(format!("{CLIENT}.pem")));
        let key = PrivateKeyDer::from_pem_slice(&read(format!("{CLIENT}.key")));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(trusted)
            .with_client_auth_cert(vec![certificate.expect("PEM")], key.expect("PEM"))
            .expect("a certificate and its key");
        Some(Upstream::Tls {
            address: SocketAddr::from(([127, 0, 0, 1], self.port)),
            name: "localhost".to_owned(),
            config: Arc::new(config),
        })
    }

    fn root_key(&self) -> String {
        ROOT_KEY.to_owned()
    }

    fn other_root_key(&self) -> String {
        OTHER_ROOT_KEY.to_owned()
    }

    fn rotate(&self, root_key: &str) -> bool {
        self.rekey(root_key);
        true
    }

    fn retire_old_versions(&self, root_key: &str) -> bool {
        let mut keys = self.keys.lock().expect("not poisoned").clone();
        let all = keys.remove(root_key).expect("keys of this name");
        for old in &all[..all.len() - 1] {
            self.deactivate(old);
            self.destroy(old);
        }
        let mut keys = self.keys.lock().expect("not poisoned");
        keys.insert(root_key.to_owned(), all[all.len() - 1..].to_vec());
        true
    }

    fn unwraps(&self) -> Option<usize> {
        Some(self.requests("DECRYPT", CLIENT))
    }

    fn make(&self, trouble: Trouble) -> bool {
        let key = self.newest(ROOT_KEY);
        match trouble {
            Trouble::Denied => self.set_users(&json!({CLIENT: ["nobodies"], "admin": ["admins"]})),
            Trouble::LoginRevoked => self.set_users(&json!({"admin": ["admins"]})),
            Trouble::KeyDisabled => {
                self.backup();
                self.deactivate(&key);
            }
            Trouble::KeyDeleted => {
                self.backup();
                self.deactivate(&key);
                self.destroy(&key);
            }
            Trouble::WrongPlaintext => {
                self.write("wrong-plaintext", "");
            }
            Trouble::KeyPendingDeletion | Trouble::WrongChecksum | Trouble::ClockSkew => {
                return false;
            }
        }
        true
    }

    fn mend(&self, trouble: Trouble) -> bool {
        match trouble {
            Trouble::Denied | Trouble::LoginRevoked => {
                self.set_users(&json!({CLIENT: [GROUP], "admin": ["admins"]}));
            }
            Trouble::KeyDisabled | Trouble::KeyDeleted => self.restore(),
            Trouble::WrongPlaintext => {
                fs::remove_file(self.dir.join("wrong-plaintext")).expect("the trouble was made");
            }
            Trouble::KeyPendingDeletion | Trouble::WrongChecksum | Trouble::ClockSkew => {
                return false;
            }
        }
        true
    }

    fn rotate_login(&self) {
        self.write_identity(CLIENT, &self.authority.client(CLIENT));
    }

    fn secrets(&self) -> Vec<String> {
        self.secrets.clone()
    }
}
