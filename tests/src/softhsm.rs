//! SoftHSM with tokens of its own, keys made by `pkcs11-tool`, and a module in between that fails on demand.
//!
//! PKCS#11 is one state per process, and SoftHSM finds its tokens by an environment variable. So a
//! suite runs each test in a process of its own, with [`SoftHsm::environment`] in it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::openbao::server_user;
use crate::process::run;

/// Where SoftHSM's packages put it.
const MODULES: [&str; 3] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
];
const VARIABLE: &str = "SOFTHSM2_CONF";
const SO_PIN: &str = "so-pin-20611";

/// Tokens in a directory. The directory ends with the value that [`SoftHsm::start`] made.
pub struct SoftHsm {
    dir: PathBuf,
    owner: Option<(u32, u32)>,
    temporary: bool,
}

impl SoftHsm {
    /// For use by processes of this user.
    #[must_use]
    pub fn start() -> Self {
        Self::make(None)
    }

    /// For use by a server that root hands over to another user.
    #[must_use]
    pub fn start_for_server() -> Self {
        Self::make(server_user())
    }

    /// The one that this process's environment names.
    #[must_use]
    pub fn of_environment() -> Self {
        let conf = std::env::var_os(VARIABLE).expect("SOFTHSM2_CONF");
        let dir = Path::new(&conf).parent().expect("a directory").to_owned();
        Self {
            dir,
            owner: None,
            temporary: false,
        }
    }

    fn make(owner: Option<(u32, u32)>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("colcrypt-hsm-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        for dir in [&dir, &dir.join("tokens"), &dir.join("away")] {
            fs::create_dir(dir).expect("directory");
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("mode");
        }
        let tokens = dir.join("tokens");
        let conf = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            tokens.display()
        );
        fs::write(dir.join("softhsm2.conf"), conf).expect("configuration");
        let hsm = Self {
            dir,
            owner,
            temporary: true,
        };
        hsm.hand_over();
        hsm
    }

    /// What a process that uses the tokens needs in its environment.
    #[must_use]
    pub fn environment(&self) -> (&'static str, String) {
        let conf = self.dir.join("softhsm2.conf");
        (VARIABLE, conf.to_str().expect("UTF-8 path").to_owned())
    }

    /// SoftHSM itself.
    #[must_use]
    pub fn module() -> PathBuf {
        let found = MODULES
            .iter()
            .map(PathBuf::from)
            .find(|path| path.is_file());
        found.expect("SoftHSM is not installed: run 'make setup'")
    }

    /// A directory for files of the test.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The PIN of a token made by [`Self::create_token`].
    #[must_use]
    pub fn pin(token: &str) -> String {
        format!("pin-of-{token}-4711")
    }

    /// A token with this label.
    pub fn create_token(&self, label: &str) {
        let before = self.tokens();
        let pin = Self::pin(label);
        self.command(
            "softhsm2-util",
            &[
                "--init-token",
                "--free",
                "--label",
                label,
                "--so-pin",
                SO_PIN,
                "--pin",
                &pin,
            ],
        );
        let new = self
            .tokens()
            .into_iter()
            .find(|token| !before.contains(token));
        fs::write(
            self.dir.join(format!("{label}.dir")),
            new.expect("a new token"),
        )
        .expect("file");
    }

    /// An AES key as docs/providers/pkcs11.md makes it.
    pub fn create_key(&self, token: &str, label: &str, id: &str) {
        self.tool(
            token,
            &[
                "--keygen",
                "--key-type",
                "AES:32",
                "--label",
                label,
                "--id",
                id,
                "--sensitive",
                "--private",
            ],
        );
    }

    /// A pair of RSA keys.
    pub fn create_pair(&self, token: &str, label: &str, id: &str) {
        self.tool(
            token,
            &[
                "--keypairgen",
                "--key-type",
                "rsa:2048",
                "--label",
                label,
                "--id",
                id,
                "--usage-decrypt",
            ],
        );
    }

    /// The same AES key on every token, as a vendor's replication would bring it.
    pub fn import_key(&self, tokens: &[&str], label: &str, id: &str, key: &[u8; 32]) {
        let file = self.dir.join("import.key");
        fs::write(&file, key).expect("file");
        for token in tokens {
            let path = file.to_str().expect("UTF-8 path");
            self.tool(
                token,
                &[
                    "--write-object",
                    path,
                    "--type",
                    "secrkey",
                    "--key-type",
                    "AES:32",
                    "--label",
                    label,
                    "--id",
                    id,
                    "--sensitive",
                    "--private",
                    "--usage-decrypt",
                    "--usage-wrap",
                ],
            );
        }
        fs::remove_file(file).expect("removal");
    }

    /// Deletes a secret key.
    pub fn delete_key(&self, token: &str, label: &str) {
        self.tool(
            token,
            &["--delete-object", "--type", "secrkey", "--label", label],
        );
    }

    /// Runs pkcs11-tool, logged in.
    pub fn tool(&self, token: &str, args: &[&str]) {
        let module = Self::module();
        let module = module.to_str().expect("UTF-8 path");
        let mut all = vec![
            "--module",
            module,
            "--token-label",
            token,
            "--login",
            "--pin",
            "env:HSM_PIN",
        ];
        all.extend(args);
        run(Command::new("pkcs11-tool")
            .args(all)
            .env("HSM_PIN", Self::pin(token))
            .envs([self.environment()])
            .stdin(Stdio::null()));
        self.hand_over();
    }

    fn command(&self, program: &str, args: &[&str]) {
        run(Command::new(program)
            .args(args)
            .envs([self.environment()])
            .stdin(Stdio::null()));
        self.hand_over();
    }

    /// Takes a token out, as pulling its plug would.
    pub fn remove_token(&self, label: &str) {
        let name = self.directory_of(label);
        fs::rename(
            self.dir.join("tokens").join(&name),
            self.dir.join("away").join(&name),
        )
        .expect("removal");
    }

    /// Puts it back.
    pub fn put_back_token(&self, label: &str) {
        let name = self.directory_of(label);
        fs::rename(
            self.dir.join("away").join(&name),
            self.dir.join("tokens").join(&name),
        )
        .expect("return");
    }

    fn directory_of(&self, label: &str) -> String {
        fs::read_to_string(self.dir.join(format!("{label}.dir"))).expect("a token of this label")
    }

    fn tokens(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.join("tokens")).expect("tokens");
        entries
            .map(|entry| {
                entry
                    .expect("entry")
                    .file_name()
                    .into_string()
                    .expect("UTF-8")
            })
            .collect()
    }

    /// A file only its owner can read, with a PIN in it. Written anew when it exists.
    #[must_use]
    pub fn pin_file(&self, name: &str, pin: &str) -> PathBuf {
        let path = self.dir.join(name);
        fs::write(&path, format!("{pin}\n")).expect("PIN file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("mode");
        self.hand_over();
        path
    }

    /// A provider's configuration for one token, with the right PIN in a file.
    #[must_use]
    pub fn config(&self, module: &Path, token: &str) -> Value {
        let pin_file = self.pin_file(&format!("{token}.pin"), &Self::pin(token));
        json!({"module": module, "slots": [{"label": token}], "pin_file": pin_file})
    }

    /// A module that passes everything on to SoftHSM, or fails as [`Self::fault`] says.
    #[must_use]
    pub fn shim(&self) -> PathBuf {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pkcs11_shim.c");
        let library = self.dir.join("shim.so");
        let quoted = |name: &str, path: &Path| format!("-D{name}=\"{}\"", path.display());
        run(Command::new("cc")
            .args([
                "-shared",
                "-fPIC",
                "-O1",
                "-Wall",
                "-Werror",
                "-Wno-cast-function-type",
                "-o",
            ])
            .arg(&library)
            .arg(quoted("REAL", &Self::module()))
            .arg(quoted("PLACE", &self.dir))
            .arg(source));
        fs::write(self.dir.join("calls"), "").expect("calls");
        fs::set_permissions(self.dir.join("calls"), fs::Permissions::from_mode(0o666))
            .expect("mode");
        library
    }

    /// What the shim does from now on, for example `C_Decrypt hang`.
    pub fn fault(&self, what: &str) {
        // By a rename, so that no call reads half of it.
        let new = self.dir.join("fault.new");
        fs::write(&new, format!("{what}\n")).expect("fault");
        fs::rename(new, self.dir.join("fault")).expect("fault");
    }

    /// Ends [`Self::fault`].
    pub fn mend(&self) {
        let _ = fs::remove_file(self.dir.join("fault"));
    }

    /// Gives the shim ways of other HSMs, as `pkcs11_manners.h` names them.
    pub fn manners(&self, manners: &str) {
        fs::write(self.dir.join("manners"), manners).expect("manners");
    }

    /// How often the shim's function was called.
    #[must_use]
    pub fn calls(&self, function: &str) -> usize {
        let calls = fs::read_to_string(self.dir.join("calls")).unwrap_or_default();
        calls.lines().filter(|line| *line == function).count()
    }

    /// Whatever root's tools made belongs to the server's user.
    fn hand_over(&self) {
        if let Some((uid, gid)) = self.owner {
            give(&self.dir, uid, gid);
        }
    }
}

fn give(path: &Path, uid: u32, gid: u32) {
    chown(path, Some(uid), Some(gid)).expect("chown");
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("directory") {
            give(&entry.expect("entry").path(), uid, gid);
        }
    }
}

impl Drop for SoftHsm {
    fn drop(&mut self) {
        if self.temporary && std::env::var_os("COLCRYPT_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}
