//! The ways to log in to Vault or OpenBao: what each needs, and what it sends. Credentials are read at
//! each login, since other programs rotate them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    KmsError,
    config::AbsolutePath,
    credential::{self, EnvName},
    http_json::json,
    login_pause::Pauses,
    vault_transit::{
        http::{ClientCertificate, VaultHttp},
        path::MountPath,
        reply::LoginKind,
    },
};

/// Where Kubernetes puts a pod's token.
const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

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
        mount: MountPath,
        role_id: Option<String>,
        role_id_file: Option<AbsolutePath>,
        secret_id_file: AbsolutePath,
    },
    Kubernetes {
        #[serde(default = "kubernetes")]
        mount: MountPath,
        role: String,
        #[serde(default = "service_account_token")]
        token_file: AbsolutePath,
    },
    Jwt {
        #[serde(default = "jwt")]
        mount: MountPath,
        /// None: the mount's default.
        role: Option<String>,
        jwt_file: AbsolutePath,
    },
    Userpass {
        #[serde(default = "userpass")]
        mount: MountPath,
        username: UserName,
        password_file: AbsolutePath,
    },
    Ldap {
        #[serde(default = "ldap")]
        mount: MountPath,
        username: UserName,
        password_file: AbsolutePath,
    },
    Cert {
        #[serde(default = "cert")]
        mount: MountPath,
        /// None: whichever role the certificate fits.
        name: Option<String>,
        certificate_file: AbsolutePath,
        private_key_file: AbsolutePath,
    },
}

fn approle() -> MountPath {
    MountPath::known("approle")
}

fn kubernetes() -> MountPath {
    MountPath::known("kubernetes")
}

fn jwt() -> MountPath {
    MountPath::known("jwt")
}

/// It becomes part of a path.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct UserName(String);

impl TryFrom<String> for UserName {
    type Error = &'static str;
    fn try_from(name: String) -> Result<Self, Self::Error> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'@');
        let is_dots = name.bytes().all(|b| b == b'.');
        if !is_dots && name.len() <= 256 && name.bytes().all(allowed) {
            Ok(Self(name))
        } else {
            Err("\"username\" consists of letters, digits, '_', '-', '.' and '@'")
        }
    }
}

fn userpass() -> MountPath {
    MountPath::known("userpass")
}

fn ldap() -> MountPath {
    MountPath::known("ldap")
}

fn cert() -> MountPath {
    MountPath::known("cert")
}

fn service_account_token() -> AbsolutePath {
    AbsolutePath::try_from(PathBuf::from(SERVICE_ACCOUNT_TOKEN)).expect("an absolute path")
}

impl AuthConfig {
    /// What every connection presents, where the login is by certificate.
    pub(crate) fn client_certificate(&self) -> Option<ClientCertificate> {
        match self {
            Self::Cert {
                certificate_file,
                private_key_file,
                ..
            } => Some(ClientCertificate {
                certificate_file: certificate_file.clone(),
                private_key_file: private_key_file.clone(),
            }),
            _ => None,
        }
    }
}

/// Where tokens come from.
pub(crate) enum Source {
    /// From outside; another program may replace them.
    File(AbsolutePath),
    Env(EnvName),
    Login(Login),
}

/// A login that returns a token.
pub(crate) struct Login {
    pub(crate) path: String,
    method: Method,
}

enum Method {
    AppRole {
        role_id: RoleId,
        secret_id_file: AbsolutePath,
    },
    Kubernetes {
        role: String,
        token_file: AbsolutePath,
    },
    Jwt {
        role: Option<String>,
        jwt_file: AbsolutePath,
    },
    Password {
        name: &'static str,
        file: AbsolutePath,
    },
    Cert {
        name: Option<String>,
        certificate_file: AbsolutePath,
    },
}

enum RoleId {
    Inline(String),
    File(AbsolutePath),
}

impl TryFrom<AuthConfig> for Source {
    type Error = KmsError;

    fn try_from(config: AuthConfig) -> Result<Self, KmsError> {
        let (mount, method) = match config {
            AuthConfig::Token {
                token_file,
                token_env,
            } => {
                return match (token_file, token_env) {
                    (Some(file), None) => Ok(Self::File(file)),
                    (None, Some(name)) => Ok(Self::Env(name)),
                    _ => Err(KmsError::config(
                        "auth method token needs either \"token_file\" or \"token_env\"",
                    )),
                };
            }
            AuthConfig::AppRole {
                mount,
                role_id,
                role_id_file,
                secret_id_file,
            } => {
                let role_id = match (role_id, role_id_file) {
                    (Some(id), None) => RoleId::Inline(id),
                    (None, Some(file)) => RoleId::File(file),
                    _ => {
                        return Err(KmsError::config(
                            "auth method approle needs either \"role_id\" or \"role_id_file\"",
                        ));
                    }
                };
                let method = Method::AppRole {
                    role_id,
                    secret_id_file,
                };
                (mount, method)
            }
            AuthConfig::Kubernetes {
                mount,
                role,
                token_file,
            } => (mount, Method::Kubernetes { role, token_file }),
            AuthConfig::Jwt {
                mount,
                role,
                jwt_file,
            } => (mount, Method::Jwt { role, jwt_file }),
            AuthConfig::Userpass {
                mount,
                username,
                password_file,
            } => return Ok(by_password("userpass", &mount, &username, password_file)),
            AuthConfig::Ldap {
                mount,
                username,
                password_file,
            } => return Ok(by_password("LDAP", &mount, &username, password_file)),
            AuthConfig::Cert {
                mount,
                name,
                certificate_file,
                ..
            } => {
                let method = Method::Cert {
                    name,
                    certificate_file,
                };
                (mount, method)
            }
        };
        Ok(Self::Login(Login {
            path: format!("auth/{mount}/login"),
            method,
        }))
    }
}

fn by_password(
    name: &'static str,
    mount: &MountPath,
    UserName(user): &UserName,
    file: AbsolutePath,
) -> Source {
    Source::Login(Login {
        path: format!("auth/{mount}/login/{user}"),
        method: Method::Password { name, file },
    })
}

/// Whatever a login sends; each method uses some of it.
#[derive(Default, Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<&'a str>,
}

impl Login {
    /// How long a refused login rests. Those by a secret that could be guessed lock the account.
    pub(crate) fn pauses(&self) -> Pauses {
        match self.method {
            Method::AppRole { .. } | Method::Password { .. } => Pauses::BEFORE_LOCKOUT,
            Method::Kubernetes { .. } | Method::Jwt { .. } | Method::Cert { .. } => Pauses::USUAL,
        }
    }

    /// What proves the login and is not in its body: the client certificate, which every connection presents.
    pub(crate) fn proof(&self) -> Vec<u8> {
        match &self.method {
            Method::Cert {
                certificate_file, ..
            } => std::fs::read(certificate_file.as_path()).unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    pub(crate) fn kind(&self) -> LoginKind {
        let (name, advice, asks) = match self.method {
            Method::AppRole { .. } => (
                "AppRole",
                "give it a valid role_id and a fresh secret_id_file",
                None,
            ),
            Method::Kubernetes { .. } => (
                "Kubernetes",
                "check \"role\", what is bound to it, and the token in token_file",
                Some("the Kubernetes API server"),
            ),
            Method::Jwt { .. } => (
                "JWT",
                "check \"role\", what is bound to it, and the token in jwt_file",
                None,
            ),
            Method::Password { name, .. } => (
                name,
                "check \"username\", and the password in password_file",
                None,
            ),
            Method::Cert { .. } => (
                "TLS certificate",
                "check \"name\", what is bound to it, and the certificate in certificate_file",
                None,
            ),
        };
        LoginKind { name, advice, asks }
    }

    /// Reads the credentials as they are now: what is to be sent.
    pub(crate) async fn body(&self, http: &VaultHttp) -> Result<Zeroizing<Vec<u8>>, KmsError> {
        match &self.method {
            Method::AppRole {
                role_id,
                secret_id_file,
            } => {
                let from_file;
                let role_id = match role_id {
                    RoleId::Inline(id) => id,
                    RoleId::File(file) => {
                        from_file = credential::read("role_id_file", file.as_path()).await?;
                        credential::text(&from_file)?
                    }
                };
                let secret_id =
                    credential::read("secret_id_file", secret_id_file.as_path()).await?;
                Ok(json(&Body {
                    role_id: Some(role_id),
                    secret_id: Some(credential::text(&secret_id)?),
                    ..Body::default()
                }))
            }
            Method::Kubernetes { role, token_file } => {
                let token = credential::read("token_file", token_file.as_path()).await?;
                Ok(json(&Body {
                    role: Some(role),
                    jwt: Some(credential::text(&token)?),
                    ..Body::default()
                }))
            }
            Method::Jwt { role, jwt_file } => {
                let token = credential::read("jwt_file", jwt_file.as_path()).await?;
                Ok(json(&Body {
                    role: role.as_deref(),
                    jwt: Some(credential::text(&token)?),
                    ..Body::default()
                }))
            }
            Method::Password { file, .. } => {
                let password = credential::read("password_file", file.as_path()).await?;
                Ok(json(&Body {
                    password: Some(credential::text(&password)?),
                    ..Body::default()
                }))
            }
            Method::Cert { name, .. } => {
                http.reload_certificate().await?;
                Ok(json(&Body {
                    name: name.as_deref(),
                    ..Body::default()
                }))
            }
        }
    }
}
