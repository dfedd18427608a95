//! A server that answers as Google Cloud KMS does, and as the token servers and the metadata server of Google
//! Cloud, for one test, gone when dropped. Nothing of Google's can be run here, so this keeps to what Google
//! publishes: <https://cloud.google.com/kms/docs/reference/rest>. Real AES-256-GCM, checksums, versions and their
//! states, signatures of service accounts, and permissions by principal.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, DATE};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::runtime;
use tokio::sync::oneshot;

use crate::facts::Fact;
pub use crate::fake_gcp_cloud::VersionState;
use crate::fake_gcp_cloud::{Answer, Cloud, Key, error};
use crate::openbao::server_user;

/// Where all keys are.
pub const LOCATION: &str = "projects/p-1/locations/europe-west1";
/// A service account of the project.
pub const ACCOUNT: &str = "db@p-1.iam.gserviceaccount.com";
/// The permission to have random bytes made, on [`LOCATION`].
pub const GENERATE: &str = "cloudkms.locations.generateRandomBytes";
const METADATA: &str = "/computeMetadata/v1/instance/service-accounts/default/token";

type Shared = Arc<Mutex<Cloud>>;

/// A running server.
pub struct FakeGcp {
    dir: PathBuf,
    address: SocketAddr,
    cloud: Shared,
    /// Dropped, it ends the server.
    running: Option<oneshot::Sender<()>>,
    server: Option<JoinHandle<()>>,
}

impl FakeGcp {
    /// Without keys, and with nobody who may do anything.
    #[must_use]
    pub fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("colcrypt-gcp-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).expect("directory");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("mode");
        let cloud = Shared::default();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        listener.set_nonblocking(true).expect("non-blocking");
        let address = listener.local_addr().expect("an address");
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&cloud));
        let (running, ended) = oneshot::channel();
        let server = std::thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                tokio::select! {
                    result = axum::serve(listener, router).into_future() => result.expect("served"),
                    _ = ended => {}
                }
            });
        });
        Self {
            dir,
            address,
            cloud,
            running: Some(running),
            server: Some(server),
        }
    }

    /// `http://…`
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A directory for files of the test; others may look into it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn cloud(&self) -> MutexGuard<'_, Cloud> {
        lock(&self.cloud)
    }

    /// How often this was asked: a method of Cloud KMS such as `Decrypt`, `Token` or `Metadata`.
    #[must_use]
    pub fn requests(&self, method: &str) -> usize {
        self.cloud()
            .requests
            .get(method)
            .copied()
            .unwrap_or_default()
    }

    /// A symmetric key with one version: its name.
    #[must_use]
    pub fn create_key(&self, id: &str) -> String {
        let name = format!("{LOCATION}/keyRings/db/cryptoKeys/{id}");
        self.cloud().keys.insert(name.clone(), Key::new());
        name
    }

    /// Sets what `cryptoKeys.get` shows, such as `rotationPeriod`.
    pub fn set_property(&self, key: &str, property: &str, value: Value) {
        self.cloud().key(key).properties[property] = value;
    }

    /// A new primary version.
    pub fn rotate(&self, key: &str) {
        self.cloud().key(key).rotate();
    }

    /// Versions count from 1.
    pub fn set_state(&self, key: &str, version: usize, state: VersionState) {
        self.cloud().key(key).set_state(version, state);
    }

    /// Gives the principal these permissions on the resource and what is below it.
    pub fn grant(&self, principal: &str, resource: &str, permissions: &[&str]) {
        let grants = permissions.iter().map(|what| {
            (
                principal.to_owned(),
                resource.to_owned(),
                (*what).to_owned(),
            )
        });
        self.cloud().grants.extend(grants);
    }

    /// Takes all permissions on the resource away.
    pub fn revoke(&self, principal: &str, resource: &str) {
        let mut cloud = self.cloud();
        cloud
            .grants
            .retain(|(who, granted, _)| who != principal || granted != resource);
    }

    /// Lets the next calls of Cloud KMS be answered like this.
    pub fn fault(&self, times: usize, code: u16, status: &str, message: &str, details: &[Value]) {
        let fault = || error(code, status, message, details);
        self.cloud()
            .faults
            .extend(std::iter::repeat_with(fault).take(times));
    }

    /// A file with a new key of the service account. Replaced as a whole, as rotating programs do.
    pub fn service_account_file(&self, name: &str, account: &str) -> PathBuf {
        let key = self.cloud().logins.service_account_key(account);
        self.private_file(name, &key.to_string())
    }

    /// The same file with another key, and all that were before deleted.
    pub fn rotate_service_account(&self, name: &str, account: &str) {
        let key = self.cloud().logins.service_account_key(account);
        let _ = self.private_file(name, &key.to_string());
        self.cloud().logins.keep_only(account, &key);
    }

    /// A file as `gcloud auth application-default login` writes it.
    pub fn user_file(&self, name: &str, user: &str) -> PathBuf {
        let token = self.cloud().logins.know(user);
        let json = json!({
            "type": "authorized_user",
            "client_id": "764086051850.apps.googleusercontent.com",
            "client_secret": "d-not-so-secret",
            "refresh_token": token,
            "token_uri": format!("{}/token", self.endpoint()),
        });
        self.private_file(name, &json.to_string())
    }

    /// A file as `gcloud iam workload-identity-pools create-cred-config` writes it, and the other identity
    /// provider's token beside it.
    pub fn workload_file(&self, name: &str, workload: &str) -> PathBuf {
        let token = self.cloud().logins.know(workload);
        let token = self.private_file(&format!("{name}.token"), &token);
        let json = json!({
            "type": "external_account",
            "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/k8s",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": format!("{}/v1/token", self.endpoint()),
            "credential_source": {"file": token},
        });
        self.private_file(name, &json.to_string())
    }

    /// Whom the metadata server vouches for.
    pub fn set_machine(&self, principal: &str) {
        self.cloud().logins.machine = Some(principal.to_owned());
    }

    /// Deletes the keys of the service account, or brings them back.
    pub fn set_deleted(&self, account: &str, deleted: bool) {
        self.cloud().logins.set_deleted(account, deleted);
    }

    /// Makes the refresh tokens of a user, or the tokens of a workload, worthless.
    pub fn revoke_login(&self, principal: &str) {
        self.cloud().logins.forget(principal);
    }

    /// What the token servers tell who is not known to them from now on.
    pub fn refuse_logins_with(&self, fact: &Fact) {
        self.cloud().logins.refuses_with = Some(fact.clone());
    }

    /// Ends all access tokens that were issued before their time.
    pub fn end_tokens(&self) {
        self.cloud().logins.end_tokens();
    }

    /// Puts the server's clock forward.
    pub fn set_clock_ahead(&self, by: Duration) {
        self.cloud().logins.ahead = by;
    }

    /// A file that only the server's user (and root) can read.
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
        json!({"endpoint": self.endpoint(), "credentials_file": credentials_file, "generator": LOCATION})
    }

    /// Ends the server for good: connections are refused from now on.
    pub fn stop(&mut self) {
        self.running = None;
        if let Some(server) = self.server.take() {
            server.join().expect("the server ended well");
        }
    }
}

impl Drop for FakeGcp {
    fn drop(&mut self) {
        self.running = None;
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
        if std::env::var_os("COLCRYPT_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// The permissions that the documentation gives to the role for the root key.
#[must_use]
pub fn documented_permissions() -> Vec<&'static str> {
    let page = include_str!("../../docs/providers/gcp-kms.md");
    let (_, rest) = page.split_once("--permissions=").expect("a role");
    let (list, _) = rest
        .split_once(|c: char| c.is_whitespace())
        .expect("its end");
    list.split(',').collect()
}

fn lock(cloud: &Shared) -> MutexGuard<'_, Cloud> {
    cloud.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(
    State(cloud): State<Shared>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut cloud = lock(&cloud);
    let (status, body) = route(&mut cloud, uri.path(), &headers, &body);
    let date = httpdate::fmt_http_date(cloud.logins.now());
    let headers = [
        (CONTENT_TYPE, "application/json; charset=UTF-8".to_owned()),
        (DATE, date),
    ];
    (status, headers, body.to_string()).into_response()
}

fn route(cloud: &mut Cloud, path: &str, headers: &HeaderMap, body: &[u8]) -> Answer {
    let header = |name: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    };
    let json = || serde_json::from_slice::<Value>(body).unwrap_or_default();
    match path {
        "/token" => {
            cloud.count("Token");
            let asked = json();
            assert_eq!(asked["grant_type"], "refresh_token");
            let presented = asked["refresh_token"].as_str().unwrap_or_default();
            cloud.logins.exchange(presented)
        }
        "/v1/token" => {
            cloud.count("Exchange");
            let form = String::from_utf8_lossy(body);
            let presented = form
                .split('&')
                .find_map(|pair| pair.strip_prefix("subject_token="));
            cloud.logins.exchange(presented.unwrap_or_default())
        }
        METADATA if header("metadata-flavor") == "Google" => {
            cloud.count("Metadata");
            cloud.logins.metadata()
        }
        _ => match path.strip_prefix("/v1/") {
            Some(path) => cloud.serve(header(AUTHORIZATION.as_str()), path, &json()),
            None => (StatusCode::NOT_FOUND, json!("Not Found")),
        },
    }
}
