//! The binary as PostgreSQL and people run it: as a process.

use std::{
    fs,
    io::{Read, Write},
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, net::UnixStream},
    },
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use colcrypt_core::{KekId, KeySource, KeyVersion, KeyringId};
use colcrypt_protocol::{
    FromAgent, Numbered, ProviderConfig, Reply, Request, Settings,
    frame::{self, Decoder},
};
use colcrypt_tests::{openbao::OpenBao, process::signal, softhsm::SoftHsm, wait_for};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);

fn colcrypt(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_colcrypt"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("colcrypt-cli-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn root_key(&self) -> String {
        let path = self.path("root.key");
        assert!(colcrypt(&["keygen", "--out", &path]).status.success());
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// `colcrypt agent` with our end of its socket.
struct Agent {
    child: Child,
    socket: UnixStream,
    decoder: Decoder,
}

impl Agent {
    fn start() -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_colcrypt"))
            .arg("agent")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            child,
            socket: ours,
            decoder: Decoder::default(),
        }
    }

    fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    fn call(&mut self, request: Request) -> FromAgent {
        let frame = frame::encode(&Numbered { id: 1, request }, &[]).unwrap();
        self.socket.write_all(&frame).unwrap();
        let mut buffer = [0; 4096];
        loop {
            if let Some((message, _)) = self.decoder.next_frame().unwrap() {
                return message;
            }
            let length = self.socket.read(&mut buffer).expect("an answer in time");
            assert!(length > 0, "the agent ended");
            self.decoder.push(&buffer[..length]);
        }
    }

    fn configure(&mut self) {
        let settings = Settings::default();
        let reply = self.call(Request::Configure { settings });
        assert!(
            matches!(
                reply,
                FromAgent::Reply {
                    result: Ok(Reply::Configured { .. }),
                    ..
                }
            ),
            "{reply:?}"
        );
    }

    fn ended(&mut self) -> i32 {
        wait_for("the agent to end", PATIENCE, || {
            self.child.try_wait().unwrap().is_some()
        });
        self.child
            .wait()
            .unwrap()
            .code()
            .expect("an exit code, not a signal")
    }

    fn said(&mut self) -> String {
        let mut text = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_agent_wants_its_socket() {
    let output = colcrypt(&["agent"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).starts_with("colcrypt agent: "),
        "{}",
        stderr(&output)
    );
    assert!(stderr(&output).contains("started by PostgreSQL"));
}

#[test]
fn the_agent_serves_and_ends_with_its_socket() {
    let dir = Dir::new();
    let path = dir.root_key();
    let mut agent = Agent::start();
    agent.configure();
    let reply = agent.call(Request::CreateKek {
        provider: ProviderConfig {
            name: "root".into(),
            kind: "file".into(),
            config: json!({"path": path}),
        },
        root_key: String::new(),
        id: KekId {
            keyring: KeyringId([7; 16]),
            version: KeyVersion::FIRST,
        },
        source: KeySource::System,
    });
    assert!(
        matches!(
            reply,
            FromAgent::Reply {
                result: Ok(Reply::KekCreated { .. }),
                ..
            }
        ),
        "{reply:?}"
    );
    agent.socket.shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(agent.ended(), 0);
    let said = agent.said();
    assert!(
        said.lines()
            .all(|line| line.starts_with("colcrypt agent: ")),
        "{said}"
    );
}

#[test]
fn the_agent_heeds_sigterm_and_not_sigint() {
    let mut agent = Agent::start();
    agent.configure();
    signal(agent.pid(), "INT");
    agent.configure();
    signal(agent.pid(), "TERM");
    assert_eq!(agent.ended(), 0);
}

#[test]
fn the_agent_is_locked_down() {
    let mut agent = Agent::start();
    agent.configure();
    let limits = fs::read_to_string(format!("/proc/{}/limits", agent.pid())).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    // A process that is not dumpable belongs to root in /proc, whoever runs it.
    let environ = format!("/proc/{}/environ", agent.pid());
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(environ).unwrap());
    assert_eq!(owner, 0);
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let locked = status
        .lines()
        .find(|line| line.starts_with("VmLck"))
        .unwrap();
    let is_locked = locked.split_whitespace().nth(1) != Some("0");
    agent.socket.shutdown(std::net::Shutdown::Both).unwrap();
    agent.ended();
    let said = agent.said();
    assert!(
        is_locked || said.contains("memory is not locked"),
        "{locked}: {said}"
    );
}

#[test]
fn garbage_ends_the_agent_with_an_error() {
    let mut agent = Agent::start();
    agent.socket.write_all(&[0xff; 100]).unwrap();
    assert_eq!(agent.ended(), 1);
    assert!(agent.said().contains("not a request"));
}

#[test]
fn keygen_tells_the_check_value_and_never_the_key() {
    let dir = Dir::new();
    let path = dir.path("root.key");
    let output = colcrypt(&["keygen", "--out", &path]);
    assert!(output.status.success(), "{}", stderr(&output));
    let file = fs::read_to_string(&path).unwrap();
    let (key, kcv) = file.trim_end().rsplit_once(':').unwrap();
    let said = stdout(&output);
    assert!(
        said.contains(kcv) && said.contains(&path) && said.contains("Back it up"),
        "{said}"
    );
    assert!(!said.contains(&key[20..40]));
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
        0o600
    );
    let again = colcrypt(&["keygen", "--out", &path]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("never written over"));
    assert_eq!(fs::read_to_string(&path).unwrap(), file);
}

#[test]
fn check_speaks_to_people_and_to_programs() {
    let dir = Dir::new();
    let path = dir.root_key();
    let config = json!({"path": path}).to_string();
    let good = colcrypt(&["check", "--provider", "file", "--config", &config]);
    assert!(
        good.status.success() && stdout(&good).contains("wrap and unwrap work"),
        "{}",
        stderr(&good)
    );
    fs::write(dir.path("config.json"), &config).unwrap();
    let from_file = format!("@{}", dir.path("config.json"));
    let good = colcrypt(&[
        "check",
        "--provider",
        "file",
        "--config",
        &from_file,
        "--json",
    ]);
    let object: Value = serde_json::from_str(&stdout(&good)).unwrap();
    assert_eq!(object["ok"], true);
    assert!(object["report"]["root_key_version"].is_string());

    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let bad = colcrypt(&["check", "--provider", "file", "--config", &config]);
    assert_eq!(bad.status.code(), Some(1));
    for part in ["not configured correctly (KC010)", "chmod 0600", "hint: "] {
        assert!(stderr(&bad).contains(part), "{}", stderr(&bad));
    }
    let bad = colcrypt(&["check", "--provider", "file", "--config", &config, "--json"]);
    assert_eq!(bad.status.code(), Some(1));
    let object: Value = serde_json::from_str(&stdout(&bad)).unwrap();
    assert_eq!(
        (&object["ok"], &object["failure"]["kind"]),
        (&json!(false), &json!("config"))
    );
    for config in ["{", "@/does/not/exist", "{\"token\": \"hunter2\"}"] {
        let bad = colcrypt(&["check", "--provider", "file", "--config", config]);
        assert_eq!(bad.status.code(), Some(1));
        assert!(!stderr(&bad).is_empty() && !stderr(&bad).contains("hunter2"));
    }
}

#[test]
fn check_reaches_a_key_server() {
    let bao = OpenBao::start();
    bao.create_key("app");
    let policy = bao.allow_key("app");
    let config = bao.config(&bao.token_file(&policy)).to_string();
    let check = |key: &str| {
        colcrypt(&[
            "check",
            "--provider",
            "vault-transit",
            "--config",
            &config,
            "--root-key",
            key,
        ])
    };
    let good = check("app");
    assert!(good.status.success(), "{}", stderr(&good));
    assert!(
        stdout(&good).contains("app, version v1: wrap and unwrap work"),
        "{}",
        stdout(&good)
    );
    let bad = check("other");
    assert_eq!(bad.status.code(), Some(1));
    assert!(
        stderr(&bad).contains("transit/keys/other"),
        "{}",
        stderr(&bad)
    );
}

#[test]
fn check_reaches_a_token() {
    let hsm = SoftHsm::start();
    hsm.create_token("tok");
    hsm.create_key("tok", "app", "01");
    let config = hsm.config(&SoftHsm::module(), "tok").to_string();
    let check = |more: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_colcrypt"))
            .args(["check", "--provider", "pkcs11", "--config", &config])
            .args(more)
            .envs([hsm.environment()])
            .output()
            .unwrap()
    };
    let good = check(&["--root-key", "app"]);
    let said = stdout(&good);
    assert!(good.status.success(), "{}", stderr(&good));
    for part in [
        "SoftHSM",
        "token \"tok\"",
        "app, version aes-gcm:",
        "wrap and unwrap work",
        "note:",
    ] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    assert!(stdout(&check(&[])).contains("not tried"));
    let good = check(&["--root-key", "app", "--json"]);
    let object: Value = serde_json::from_str(&stdout(&good)).unwrap();
    assert_eq!(object["ok"], true);
    assert!(object["report"]["warnings"][0].is_string());
    let bad = check(&["--root-key", "other", "--json"]);
    assert_eq!(bad.status.code(), Some(1));
    let object: Value = serde_json::from_str(&stdout(&bad)).unwrap();
    assert_eq!(object["failure"]["kind"], "key_not_found");

    let _ = hsm.pin_file("tok.pin", "pin-hunter2");
    let bad = check(&["--root-key", "app"]);
    assert_eq!(bad.status.code(), Some(1));
    assert!(stderr(&bad).contains("refuses the PIN"), "{}", stderr(&bad));
    assert!(!stderr(&bad).contains("hunter2"));
}
