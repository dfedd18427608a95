//! How the agent proves itself to Vault or OpenBao: a token from a file or an environment variable,
//! or an AppRole login.
//!
//! The file is read at every use, so a token that another program renews or replaces is always the
//! current one. A login is renewed after half of its lease, and made anew when it cannot be. Failures
//! are never remembered.

use std::{env, fs::File, io::Read, sync::Arc, time::Duration};

use colcrypt_core::Secret;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use crate::{
    KmsError,
    clock::Moment,
    config::AbsolutePath,
    vault_http::VaultHttp,
    vault_reply::{self, Question},
};

/// Longer than any token or secret id: a wrong path must not read a whole disk into memory.
const MAX_CREDENTIAL: u64 = 16 * 1024;

/// `auth` in the provider's configuration.
#[derive(Deserialize)]
#[serde(tag = "method", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum AuthConfig {
    Token {
        token_file: Option<AbsolutePath>,
        token_env: Option<EnvName>,
    },
    AppRole {
        #[serde(default = "approle")]
        mount: crate::vault_transit::MountPath,
        role_id: Option<String>,
        role_id_file: Option<AbsolutePath>,
        secret_id_file: AbsolutePath,
    },
}

fn approle() -> crate::vault_transit::MountPath {
    crate::vault_transit::MountPath::known("approle")
}

/// The name of an environment variable; a token pasted in its place is not one.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct EnvName(String);

impl TryFrom<String> for EnvName {
    type Error = &'static str;
    fn try_from(name: String) -> Result<Self, Self::Error> {
        let fits = name
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        if fits && !name.is_empty() {
            Ok(Self(name))
        } else {
            Err("\"token_env\" is the NAME of an environment variable, such as VAULT_TOKEN")
        }
    }
}

enum Source {
    File(AbsolutePath),
    Env(EnvName),
    AppRole {
        login_path: String,
        role_id: RoleId,
        secret_id_file: AbsolutePath,
    },
}

enum RoleId {
    Inline(String),
    File(AbsolutePath),
}

struct Login {
    token: Arc<Secret>,
    obtained: Moment,
    /// Zero for a token that does not expire.
    lease: Duration,
    renewable: bool,
}

pub(crate) struct Auth {
    source: Source,
    /// Held while logging in, so that many callers make one login.
    login: Mutex<Option<Login>>,
}

impl Auth {
    pub(crate) fn new(config: AuthConfig) -> Result<Self, KmsError> {
        let source = match config {
            AuthConfig::Token {
                token_file: Some(file),
                token_env: None,
            } => Source::File(file),
            AuthConfig::Token {
                token_file: None,
                token_env: Some(name),
            } => Source::Env(name),
            AuthConfig::Token { .. } => {
                return Err(KmsError::config(
                    "auth method token needs either \"token_file\" or \"token_env\"",
                ));
            }
            AuthConfig::AppRole {
                mount,
                role_id,
                role_id_file,
                secret_id_file,
            } => Source::AppRole {
                login_path: format!("auth/{mount}/login"),
                role_id: match (role_id, role_id_file) {
                    (Some(id), None) => RoleId::Inline(id),
                    (None, Some(file)) => RoleId::File(file),
                    _ => {
                        return Err(KmsError::config(
                            "auth method approle needs either \"role_id\" or \"role_id_file\"",
                        ));
                    }
                },
                secret_id_file,
            },
        };
        Ok(Self {
            source,
            login: Mutex::default(),
        })
    }

    /// Whether tokens come from outside and nothing here renews them.
    pub(crate) fn is_static(&self) -> bool {
        !matches!(self.source, Source::AppRole { .. })
    }

    /// A token to use now.
    pub(crate) async fn token(&self, http: &VaultHttp) -> Result<Arc<Secret>, KmsError> {
        match &self.source {
            Source::File(file) => read_credential("token file", file).await.map(Arc::new),
            Source::Env(EnvName(name)) => from_env(name).map(Arc::new),
            Source::AppRole { .. } => {
                let mut login = self.login.lock().await;
                if let Some(current) = login.as_mut() {
                    match current.lease_state() {
                        LeaseState::Good => return Ok(Arc::clone(&current.token)),
                        LeaseState::Renew => {
                            if current.renew(http).await.is_ok() {
                                return Ok(Arc::clone(&current.token));
                            }
                        }
                        LeaseState::Over => {}
                    }
                }
                let new = self.log_in(http).await?;
                Ok(Arc::clone(&login.insert(new).token))
            }
        }
    }

    /// Another token than the one just denied, if there is one: the file may have been replaced, and a
    /// login can be made again.
    pub(crate) async fn after_denial(
        &self,
        http: &VaultHttp,
        denied: &Secret,
    ) -> Result<Option<Arc<Secret>>, KmsError> {
        {
            let mut login = self.login.lock().await;
            if login
                .as_ref()
                .is_some_and(|login| login.token.expose() == denied.expose())
            {
                *login = None;
            }
        }
        let token = self.token(http).await?;
        Ok((token.expose() != denied.expose()).then_some(token))
    }

    async fn log_in(&self, http: &VaultHttp) -> Result<Login, KmsError> {
        let Source::AppRole {
            login_path,
            role_id,
            secret_id_file,
        } = &self.source
        else {
            return Err(KmsError::config("this auth method has no login"));
        };
        let role_id = match role_id {
            RoleId::Inline(id) => Secret::new(id.as_bytes().to_vec()),
            RoleId::File(file) => read_credential("role_id_file", file).await?,
        };
        let secret_id = read_credential("secret_id_file", secret_id_file).await?;
        let body = json(&LoginBody {
            role_id: text(&role_id)?,
            secret_id: text(&secret_id)?,
        });
        let answer = http.post(login_path, None, body).await?;
        let question = Question {
            address: http.address(),
            path: login_path,
            capability: "update",
            about_key: false,
        };
        Ok(vault_reply::parse::<LoginReply>(&question, &answer)?.into())
    }
}

enum LeaseState {
    Good,
    Renew,
    Over,
}

impl Login {
    fn lease_state(&self) -> LeaseState {
        let age = self.obtained.age();
        if self.lease.is_zero() || age < self.lease / 2 {
            LeaseState::Good
        } else if self.renewable && age < self.lease.mul_f64(0.9) {
            LeaseState::Renew
        } else {
            LeaseState::Over
        }
    }

    async fn renew(&mut self, http: &VaultHttp) -> Result<(), KmsError> {
        let path = "auth/token/renew-self";
        let answer = http
            .post(path, Some(&self.token), Zeroizing::new(b"{}".to_vec()))
            .await?;
        let question = Question {
            address: http.address(),
            path,
            capability: "update",
            about_key: false,
        };
        let renewed: Self = vault_reply::parse::<LoginReply>(&question, &answer)?.into();
        // Near its maximum age a renewal gives ever less: the next one is a login.
        self.renewable = renewed.renewable && renewed.lease > self.lease / 2;
        self.lease = renewed.lease;
        self.obtained = renewed.obtained;
        Ok(())
    }
}

#[derive(Serialize)]
struct LoginBody<'a> {
    role_id: &'a str,
    secret_id: &'a str,
}

#[derive(Deserialize)]
struct LoginReply<'a> {
    #[serde(borrow)]
    auth: LoginAuth<'a>,
}

#[derive(Deserialize)]
struct LoginAuth<'a> {
    /// Borrowed from the wiped body, unless the server escaped a character in it.
    #[serde(borrow)]
    client_token: Cow<'a, str>,
    lease_duration: u64,
    renewable: bool,
}

impl From<LoginReply<'_>> for Login {
    fn from(LoginReply { auth }: LoginReply) -> Self {
        Self {
            token: Arc::new(Secret::new(auth.client_token.as_bytes().to_vec())),
            obtained: Moment::now(),
            lease: Duration::from_secs(auth.lease_duration),
            renewable: auth.renewable,
        }
    }
}

/// A JSON body that is wiped after use.
pub(crate) fn json<T: Serialize>(body: &T) -> Zeroizing<Vec<u8>> {
    // Far larger than any body of ours, so that the vector does not grow and leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(2 * MAX_CREDENTIAL as usize));
    serde_json::to_writer(&mut *bytes, body).expect("strings serialise");
    bytes
}

fn text(secret: &Secret) -> Result<&str, KmsError> {
    std::str::from_utf8(secret.expose()).map_err(|_| KmsError::config("a credential is not text"))
}

fn from_env(name: &str) -> Result<Secret, KmsError> {
    match env::var(name) {
        Ok(token) if !token.trim().is_empty() => Ok(Secret::new(token.trim().as_bytes().to_vec())),
        _ => Err(KmsError::config(format!(
            "the environment variable {name} (\"token_env\") is not set in the server's environment"
        ))),
    }
}

/// Never a refusal: a credential that is not there yet says nothing about the root key.
async fn read_credential(what: &'static str, file: &AbsolutePath) -> Result<Secret, KmsError> {
    let path = file.as_path().to_owned();
    let shown = path.display().to_string();
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_CREDENTIAL as usize + 1));
        File::open(path)?
            .take(MAX_CREDENTIAL)
            .read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    })
    .await
    .unwrap_or_else(|_| Err(std::io::Error::other("interrupted")));
    let bytes = read.map_err(|error| {
        KmsError::config(format!(
            "{what} {shown} cannot be read by the server's user: {error}"
        ))
    })?;
    let trimmed = bytes.trim_ascii();
    if trimmed.is_empty() {
        return Err(KmsError::config(format!("{what} {shown} is empty")));
    }
    Ok(Secret::new(trimmed.to_vec()))
}
