//! A server that answers as Azure Key Vault or Managed HSM does, as Entra ID's login and as the endpoint of managed
//! identities, over TLS, for one test, gone when dropped. Nothing of Azure's can be run here, so this keeps to what
//! Microsoft publishes (see `fake_azure_vault` and `fake_azure_login`): the challenge before the first token, roles by
//! data action, and every error in Azure's own words.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::oneshot;

use crate::facts;
pub use crate::fake_azure_login::TENANT;
use crate::fake_azure_login::{Application, Login, json_of};
pub use crate::fake_azure_vault::Kind;
use crate::fake_azure_vault::{Answer, Key, Vault, error};
use crate::openbao::make_certificates;
use crate::tls_server::{TlsListener, acceptor};

/// Proves a request for a managed identity's token to come from the machine.
pub const IDENTITY_HEADER: &str = "853b9a84-5bfa-4b22-a3f3-0b9a43d9ad8a";

/// What everything here is made of.
#[derive(Default)]
pub(crate) struct Azure {
    pub(crate) vault: Vault,
    pub(crate) login: Login,
    /// In place of its own challenge.
    challenge: Option<String>,
    /// The vault lets nobody in, whoever asks.
    firewall: bool,
    requests: HashMap<String, usize>,
    faults: HashMap<&'static str, VecDeque<Fault>>,
}

#[derive(Clone)]
struct Fault {
    answer: Answer,
    retry_after: Option<u64>,
}

type Shared = Arc<Mutex<Azure>>;

/// A running server.
pub struct FakeAzure {
    dir: PathBuf,
    address: SocketAddr,
    served: Shared,
    /// Dropped, it ends the server.
    running: Option<oneshot::Sender<()>>,
    server: Option<JoinHandle<()>>,
}

impl FakeAzure {
    /// A vault without keys, which nobody may use.
    #[must_use]
    pub fn start() -> Self {
        Self::start_as(false)
    }

    /// A Managed HSM.
    #[must_use]
    pub fn start_managed_hsm() -> Self {
        Self::start_as(true)
    }

    fn start_as(managed_hsm: bool) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("colcrypt-azure-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).expect("directory");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("mode");
        make_certificates(&dir, &["localhost"]);
        let acceptor = acceptor(&dir);
        let mut azure = Azure::default();
        azure.vault.managed_hsm = managed_hsm;
        let served = Arc::new(Mutex::new(azure));
        // Not tokio's: a test may be asynchronous itself, and could not wait for that.
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        listener.set_nonblocking(true).expect("a mode");
        let address = listener.local_addr().expect("an address");
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&served));
        let (running, ended) = oneshot::channel();
        let server = std::thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                let listener = TlsListener::new(listener, acceptor);
                tokio::select! {
                    result = axum::serve(listener, router).into_future() => result.expect("served"),
                    _ = ended => {}
                }
            });
        });
        Self {
            dir,
            address,
            served,
            running: Some(running),
            server: Some(server),
        }
    }

    /// `https://localhost:…`
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The CA of its certificate.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// A directory for files of the test; others may look into it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn azure(&self) -> MutexGuard<'_, Azure> {
        lock(&self.served)
    }

    /// How often this was asked: `get`, `wrapkey`, `unwrapkey`, `rotationpolicy`, `rng`, `token` or `msi`. Requests
    /// without a token, which the vault answers with a challenge, count as `challenge` alone.
    #[must_use]
    pub fn requests(&self, operation: &str) -> usize {
        self.azure()
            .requests
            .get(operation)
            .copied()
            .unwrap_or_default()
    }

    /// A key with one version.
    pub fn create_key(&self, name: &str, kind: Kind) {
        self.azure()
            .vault
            .keys
            .insert(name.to_owned(), Key::new(kind));
    }

    fn with_key<T>(&self, name: &str, act: impl FnOnce(&mut Key) -> T) -> T {
        act(self.azure().vault.keys.get_mut(name).expect("a key"))
    }

    /// Makes a newer version: its id.
    pub fn rotate(&self, name: &str) -> String {
        self.with_key(name, Key::rotate)
    }

    /// Enables or disables every version.
    pub fn set_enabled(&self, name: &str, enabled: bool) {
        self.with_key(name, |key| {
            key.versions()
                .iter_mut()
                .for_each(|version| version.enabled = enabled);
        });
    }

    /// Disables every version but the newest.
    pub fn retire_old_versions(&self, name: &str) {
        self.set_enabled(name, false);
        self.with_key(name, |key| key.newest().enabled = true);
    }

    /// Moves the time in which the newest version is valid, in seconds since 1970.
    pub fn set_validity(&self, name: &str, not_before: Option<u64>, expires: Option<u64>) {
        self.with_key(name, |key| {
            let version = key.newest();
            (version.not_before, version.expires) = (not_before, expires);
        });
    }

    /// What the key may be used for, such as `wrapKey`.
    pub fn set_operations(&self, name: &str, operations: &[&str]) {
        self.with_key(name, |key| {
            key.operations = operations.iter().map(ToString::to_string).collect()
        });
    }

    /// How well the key is protected against deletion, such as `Recoverable+Purgeable`.
    pub fn set_recovery_level(&self, name: &str, level: &'static str) {
        self.with_key(name, |key| key.recovery_level = level);
    }

    pub fn set_rotation_policy(&self, name: &str, policy: Value) {
        self.with_key(name, |key| key.rotation_policy = policy);
    }

    /// Soft-deletes the key, or recovers it.
    pub fn set_deleted(&self, name: &str, deleted: bool) {
        self.with_key(name, |key| key.deleted = deleted);
    }

    /// Deletes the key for good.
    pub fn purge(&self, name: &str) {
        self.azure().vault.purge(name);
    }

    /// Brings a purged key back from its backup, with all its versions.
    pub fn restore(&self, name: &str) {
        self.azure().vault.restore(name);
    }

    /// An application with a secret, which may do nothing yet.
    pub fn application(&self, client: &str, secret: &str) {
        let application = Application {
            secret: Some(secret.to_owned()),
            ..Application::default()
        };
        self.azure()
            .login
            .applications
            .insert(client.to_owned(), application);
    }

    /// Another secret of an application.
    pub fn set_secret(&self, client: &str, secret: &str) {
        self.with_application(client, |known| known.secret = Some(secret.to_owned()));
    }

    /// Whether the application's secret is past its last day.
    pub fn set_secret_expired(&self, client: &str, expired: bool) {
        self.with_application(client, |known| known.expired = expired);
    }

    /// Lets an application log in with this federated token alone.
    pub fn federate(&self, client: &str, token: &str) {
        self.with_application(client, |known| {
            (known.secret, known.federated) = (None, Some(token.to_owned()));
        });
    }

    /// Makes an application the identity of the machine, for requests with [`IDENTITY_HEADER`].
    pub fn assign_to_machine(&self, client: &str) {
        self.azure().login.machine = Some((IDENTITY_HEADER.to_owned(), client.to_owned()));
    }

    /// Gives an application a role with these data actions, after `Microsoft.KeyVault/vaults/`, and no other.
    pub fn set_role(&self, client: &str, actions: &[&str]) {
        let actions = actions.iter().map(ToString::to_string).collect();
        self.with_application(client, |known| known.actions = actions);
    }

    /// Assigns its role on these keys alone, or on the whole vault.
    pub fn set_role_keys(&self, client: &str, keys: Option<&[&str]>) {
        let keys = keys.map(|keys| keys.iter().map(ToString::to_string).collect());
        self.with_application(client, |known| known.keys = keys);
    }

    fn with_application(&self, client: &str, act: impl FnOnce(&mut Application)) {
        act(self
            .azure()
            .login
            .applications
            .get_mut(client)
            .expect("an application"));
    }

    /// How long tokens live that are issued from now on.
    pub fn set_token_life(&self, life: Duration) {
        self.azure().login.life = life;
    }

    /// Every token issued so far is refused from now on.
    pub fn revoke_tokens(&self) {
        self.azure().login.revoke_all();
    }

    /// Every token issued so far.
    #[must_use]
    pub fn tokens(&self) -> Vec<String> {
        self.azure().login.issued()
    }

    /// What the vault asks for in place of its own challenge.
    pub fn set_challenge(&self, challenge: Option<&str>) {
        self.azure().challenge = challenge.map(str::to_owned);
    }

    /// Lets nobody into the vault, or everybody again.
    pub fn set_firewall(&self, closed: bool) {
        self.azure().firewall = closed;
    }

    /// Wrong on purpose: what is unwrapped is something else.
    pub fn set_wrong_plaintext(&self, wrong: bool) {
        self.azure().vault.wrong_plaintext = wrong;
    }

    /// Wrong on purpose: times are judged by a clock that is hours off.
    pub fn set_clock_skew(&self, skewed: bool) {
        self.azure().login.clock_skew = skewed;
    }

    /// Lets the next answers to an operation (see [`Self::requests`]) be an error of Azure.
    pub fn fault(
        &self,
        operation: &'static str,
        times: usize,
        status: u16,
        code: &str,
        retry_after: Option<u64>,
    ) {
        let fault = Fault {
            answer: error(status, code, None, "Request was not processed."),
            retry_after,
        };
        let mut azure = self.azure();
        let faults = azure.faults.entry(operation).or_default();
        faults.extend(std::iter::repeat_n(fault, times));
    }

    /// A file that only its owner can read. Replaced as a whole, as rotating programs do.
    pub fn private_file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir.join(name);
        let new = self.dir.join(format!("{name}.new"));
        fs::write(&new, content).expect("file");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("mode");
        fs::rename(&new, &path).expect("rename");
        path
    }

    /// A provider's configuration, as `colcrypt.add_provider` takes it.
    #[must_use]
    pub fn config(&self, auth: Value) -> Value {
        self.config_at(&self.url(), &self.ca_file(), auth)
    }

    /// The same by way of a server in between.
    #[must_use]
    pub fn config_at(&self, url: &str, ca_file: &Path, auth: Value) -> Value {
        json!({"vault": url, "authority": url, "resource": self.azure().vault.resource(), "ca_file": ca_file,
               "auth": auth})
    }

    /// Settings of a login with a secret.
    #[must_use]
    pub fn secret_auth(&self, client: &str, secret_file: &Path) -> Value {
        json!({"method": "client-secret", "tenant_id": TENANT, "client_id": client, "client_secret_file": secret_file})
    }
}

impl Drop for FakeAzure {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the server was asked: {:?}", self.azure().requests);
        }
        self.running.take();
        if let Some(server) = self.server.take() {
            server.join().expect("the server's end");
        }
        if std::env::var_os("COLCRYPT_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// The data actions of the role that the documentation gives, as [`FakeAzure::set_role`] takes them.
#[must_use]
pub fn documented_role() -> Vec<String> {
    let page = include_str!("../../docs/providers/azure-keyvault.md");
    let (_, rest) = page.split_once("```json\n").expect("a role");
    let (role, _) = rest.split_once("```").expect("its end");
    let role: Value = serde_json::from_str(role).expect("JSON");
    let actions = role["DataActions"].as_array().expect("data actions");
    let names = actions.iter().filter_map(Value::as_str);
    let names = names.map(|name| name.strip_prefix("Microsoft.KeyVault/vaults/"));
    names
        .map(|name| name.expect("of a vault").to_owned())
        .collect()
}

fn lock(served: &Mutex<Azure>) -> MutexGuard<'_, Azure> {
    served.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(
    State(served): State<Shared>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    lock(&served).answer(&method, &uri, &headers, &body)
}

impl Azure {
    fn answer(
        &mut self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Response {
        let header = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let path: Vec<&str> = uri.path().trim_start_matches('/').split('/').collect();
        let query = uri.query().unwrap_or_default();
        match path.as_slice() {
            [tenant, "oauth2", "v2.0", "token"] if method == Method::POST => {
                self.count("token", |azure| {
                    azure
                        .login
                        .token(tenant, std::str::from_utf8(body).unwrap_or_default())
                })
            }
            ["msi", "token"] if method == Method::GET => {
                let secret = header(HeaderName::from_static("x-identity-header"));
                self.count("msi", |azure| azure.login.managed(secret, query))
            }
            path => {
                let token = header(AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
                let host = header(HOST).unwrap_or_default();
                self.vault(method, host, path, query, token, body)
            }
        }
    }

    fn count(
        &mut self,
        operation: &'static str,
        act: impl FnOnce(&mut Self) -> Answer,
    ) -> Response {
        *self.requests.entry(operation.to_owned()).or_default() += 1;
        if let Some(fault) = self.faults.get_mut(operation).and_then(VecDeque::pop_front) {
            let mut response = respond(fault.answer);
            if let Some(seconds) = fault.retry_after {
                response.headers_mut().insert("retry-after", seconds.into());
            }
            return response;
        }
        respond(act(self))
    }

    fn vault(
        &mut self,
        method: &Method,
        host: &str,
        path: &[&str],
        query: &str,
        token: Option<&str>,
        body: &Bytes,
    ) -> Response {
        let resource = self.vault.resource();
        let client = match self.login.who(token, resource) {
            Ok(client) => client.to_owned(),
            Err(refused) => {
                let name = if token.is_some() {
                    "refused"
                } else {
                    "challenge"
                };
                *self.requests.entry(name.to_owned()).or_default() += 1;
                return self.challenged(refused);
            }
        };
        let operation = match path {
            ["keys", _, _, "wrapkey"] if method == Method::POST => "wrapkey",
            ["keys", _, _, "unwrapkey"] if method == Method::POST => "unwrapkey",
            ["keys", _, "rotationpolicy"] if method == Method::GET => "rotationpolicy",
            ["keys", ..] if method == Method::GET => "get",
            ["rng"] if method == Method::POST => "rng",
            _ => return respond(error(404, "NotFound", None, "Resource not found")),
        };
        self.count(operation, |azure| {
            if !query.contains("api-version=") {
                return error(400, "BadParameter", None, "api-version must be specified");
            }
            if azure.firewall {
                let fact = facts::the("azure-keyvault", "vault", "ForbiddenByFirewall");
                return (fact.status(), fact.body());
            }
            let action = Vault::action(path).unwrap_or_default();
            let key = path
                .first()
                .filter(|first| **first == "keys")
                .and(path.get(1));
            if !azure.login.may(&client, action, key.copied()) {
                return azure.denied(&client, action);
            }
            azure.vault.answer(host, path, &json_of(body))
        })
    }

    fn challenged(&self, refused: Answer) -> Response {
        let ours = || {
            let resource = self.vault.resource();
            format!(
                r#"Bearer authorization="https://login.windows.net/{TENANT}", resource="{resource}""#
            )
        };
        let challenge = self.challenge.clone().unwrap_or_else(ours);
        let mut response = respond(refused);
        let value = HeaderValue::from_str(&challenge).expect("a header");
        response.headers_mut().insert(WWW_AUTHENTICATE, value);
        response
    }

    fn denied(&self, client: &str, action: &str) -> Answer {
        if self.vault.managed_hsm {
            let words = "not permitted by RBAC (Activity ID: 0f1e2d3c-0000-0000-0000-000000000002)";
            return error(403, "AccessDenied", None, words);
        }
        let words = format!(
            "Caller is not authorized to perform action on resource.\r\nIf role assignments, deny assignments or role \
             definitions were changed recently, please observe propagation time.\r\nCaller: appid={client};oid={client};\
             iss=https://sts.windows.net/{TENANT}/\r\nAction: 'Microsoft.KeyVault/vaults/{action}'\r\nAssignment: (not \
             found)\r\nDenyAssignmentId: null\r\nDecisionReason: null \r\nVault: app;location=westeurope\r\n"
        );
        error(403, "Forbidden", Some("ForbiddenByRbac"), &words)
    }
}

fn respond((status, body): Answer) -> Response {
    let status = StatusCode::from_u16(status).expect("a status");
    let kind = [(CONTENT_TYPE, "application/json; charset=utf-8")];
    (status, kind, body.to_string()).into_response()
}
