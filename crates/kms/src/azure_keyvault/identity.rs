//! Who the agent is to Azure: the SDK's credentials, made anew for each token, so that a new secret or a new
//! federated token counts at once.
//!
//! A token is kept until shortly before its end or until the vault refuses it ([`Tokens`]). It is sent to the
//! vault's own service only, whatever the vault asks for.

use std::{env, error::Error as _, fmt, io::Read, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use azure_core::{
    cloud::CloudConfiguration,
    credentials::{AccessToken, Secret, TokenCredential, TokenRequestOptions},
    error::ErrorKind,
    http::ClientOptions,
};
use azure_identity::{
    ClientAssertionCredentialOptions, ClientSecretCredential, ClientSecretCredentialOptions,
    ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId,
    WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};
use colcrypt_protocol::FailureKind;
use reqwest::Client;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{
    KmsError,
    azure_keyvault::{
        cause::{foreign_scope, in_sdk, known_cause},
        http::{self, LoginHttp},
        tokens::Tokens,
    },
    config::AbsolutePath,
    login_pause::{self, Account, Pauses},
    private_file::{self, NotOpened},
    quote::presentable,
};

/// Longer than any secret: a wrong path must not read a whole disk into memory.
const MAX_SECRET: u64 = 16 * 1024;
/// Set in pods that have a workload identity.
const FEDERATED_TOKEN_FILE: &str = "AZURE_FEDERATED_TOKEN_FILE";

/// `auth` in the provider's configuration.
#[derive(Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum AuthConfig {
    ManagedIdentity {
        client_id: Option<String>,
        object_id: Option<String>,
        resource_id: Option<String>,
    },
    WorkloadIdentity {
        tenant_id: Option<String>,
        client_id: Option<String>,
        token_file: Option<AbsolutePath>,
    },
    ClientSecret {
        tenant_id: String,
        client_id: String,
        client_secret_file: AbsolutePath,
    },
}

enum Source {
    ManagedIdentity(Option<UserAssignedId>),
    WorkloadIdentity {
        tenant_id: Option<String>,
        client_id: Option<String>,
        token_file: Option<AbsolutePath>,
    },
    ClientSecret {
        tenant_id: String,
        client_id: String,
        file: AbsolutePath,
    },
}

impl Source {
    fn new(config: Option<AuthConfig>) -> Result<Self, KmsError> {
        Ok(match config {
            None if env::var_os(FEDERATED_TOKEN_FILE).is_some() => Self::WorkloadIdentity {
                tenant_id: None,
                client_id: None,
                token_file: None,
            },
            None => Self::ManagedIdentity(None),
            Some(AuthConfig::ManagedIdentity {
                client_id,
                object_id,
                resource_id,
            }) => {
                let mut ids = [
                    client_id.map(UserAssignedId::ClientId),
                    object_id.map(UserAssignedId::ObjectId),
                    resource_id.map(UserAssignedId::ResourceId),
                ]
                .into_iter()
                .flatten();
                let id = ids.next();
                if ids.next().is_some() {
                    return Err(KmsError::config(
                        "auth method managed-identity takes one of \"client_id\", \"object_id\" and \"resource_id\"",
                    ));
                }
                Self::ManagedIdentity(id)
            }
            Some(AuthConfig::WorkloadIdentity {
                tenant_id,
                client_id,
                token_file,
            }) => Self::WorkloadIdentity {
                tenant_id,
                client_id,
                token_file,
            },
            Some(AuthConfig::ClientSecret {
                tenant_id,
                client_id,
                client_secret_file,
            }) => Self::ClientSecret {
                tenant_id,
                client_id,
                file: client_secret_file,
            },
        })
    }
}

/// The agent's identity. The SDK asks it for a token before each request.
pub(crate) struct Identity {
    source: Source,
    client: Client,
    cloud: Option<Arc<CloudConfiguration>>,
    scope: String,
    tokens: Arc<Tokens>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

impl Identity {
    /// # Errors
    /// When the settings contradict each other.
    pub(crate) fn new(
        auth: Option<AuthConfig>,
        client: Client,
        cloud: Option<Arc<CloudConfiguration>>,
        scope: String,
    ) -> Result<Self, KmsError> {
        Ok(Self {
            source: Source::new(auth)?,
            client,
            cloud,
            scope,
            tokens: Arc::default(),
        })
    }

    pub(crate) fn tokens(&self) -> &Arc<Tokens> {
        &self.tokens
    }

    async fn fetch(&self) -> Result<AccessToken, KmsError> {
        let client_options = ClientOptions {
            cloud: self.cloud.clone(),
            ..http::options(LoginHttp {
                client: self.client.clone(),
            })
        };
        let account = self.account()?;
        let credential = self.credential(client_options)?;
        let login = async {
            let token = credential.get_token(&[&self.scope], None).await;
            token.map_err(|error| failure(&error))
        };
        login_pause::log_in(account, Pauses::USUAL, login).await
    }

    /// With its credential as it is now.
    fn account(&self) -> Result<Account, KmsError> {
        let login = format!("{:?} {}", self.cloud, self.scope);
        Ok(match &self.source {
            Source::ManagedIdentity(id) => {
                Account::of(&[login.as_bytes(), format!("{id:?}").as_bytes()])
            }
            Source::WorkloadIdentity {
                tenant_id,
                client_id,
                token_file,
            } => {
                let file = match token_file {
                    Some(file) => Some(file.as_path().to_owned()),
                    None => env::var_os(FEDERATED_TOKEN_FILE).map(PathBuf::from),
                };
                // Whether it can be read is for the login to say.
                let token = file.and_then(|file| std::fs::read(file).ok());
                let token = Zeroizing::new(token.unwrap_or_default());
                let who = format!("{tenant_id:?} {client_id:?}");
                Account::of(&[login.as_bytes(), who.as_bytes(), &token])
            }
            Source::ClientSecret {
                tenant_id,
                client_id,
                file,
            } => {
                let secret = read_secret(file)?;
                let who = format!("{tenant_id} {client_id}");
                let secret = secret.secret().as_bytes();
                Account::of(&[login.as_bytes(), who.as_bytes(), secret])
            }
        })
    }

    fn credential(
        &self,
        client_options: ClientOptions,
    ) -> Result<Arc<dyn TokenCredential>, KmsError> {
        let made: azure_core::Result<Arc<dyn TokenCredential>> = match &self.source {
            Source::ManagedIdentity(id) => {
                let mut options = ManagedIdentityCredentialOptions::default();
                options.user_assigned_id.clone_from(id);
                options.client_options = client_options;
                ManagedIdentityCredential::new(Some(options)).map(|made| made as _)
            }
            Source::WorkloadIdentity {
                tenant_id,
                client_id,
                token_file,
            } => WorkloadIdentityCredential::new(Some(WorkloadIdentityCredentialOptions {
                credential_options: ClientAssertionCredentialOptions { client_options },
                client_id: client_id.clone(),
                tenant_id: tenant_id.clone(),
                token_file_path: token_file.as_ref().map(|file| file.as_path().to_owned()),
            }))
            .map(|made| made as _),
            Source::ClientSecret {
                tenant_id,
                client_id,
                file,
            } => ClientSecretCredential::new(
                tenant_id,
                client_id.clone(),
                read_secret(file)?,
                Some(ClientSecretCredentialOptions { client_options }),
            )
            .map(|made| made as _),
        };
        made.map_err(|error| failure(&error))
    }
}

#[async_trait]
impl TokenCredential for Identity {
    async fn get_token(
        &self,
        scopes: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        // A token of another service would give the vault access to that service.
        if scopes != [self.scope.as_str()] {
            let asked = scopes.join(" ");
            return Err(in_sdk(foreign_scope("the vault", &asked, &self.scope)));
        }
        self.tokens.get(self.fetch()).await.map_err(in_sdk)
    }
}

fn read_secret(file: &AbsolutePath) -> Result<Secret, KmsError> {
    let path = file.as_path();
    let shown = path.display();
    let failed = |error| KmsError::config(format!("client_secret_file {shown}: {error}"));
    let file = private_file::open("client_secret_file", path).map_err(|error| match error {
        NotOpened::Io(error) => failed(error),
        NotOpened::Refused(error) => error,
    })?;
    let mut text = Zeroizing::new(String::with_capacity(MAX_SECRET as usize));
    file.take(MAX_SECRET)
        .read_to_string(&mut text)
        .map_err(failed)?;
    match text.trim() {
        "" => Err(KmsError::config(format!(
            "client_secret_file {shown} is empty"
        ))),
        secret => Ok(Secret::new(secret.to_owned())),
    }
}

fn failure(error: &azure_core::Error) -> KmsError {
    if let Some(known) = known_cause(error) {
        return KmsError {
            message: format!("no Azure token: {}", known.message),
            ..known.clone()
        };
    }
    if matches!(error.kind(), ErrorKind::Credential)
        && error.source().is_none_or(|cause| !is_of_json(cause))
    {
        return KmsError::config(format!(
            "no Azure token: {}; is \"auth\" right?",
            presentable(&error.to_string())
        ));
    }
    KmsError::new(
        FailureKind::BadReply,
        "no Azure token: what the login service answered is not a token",
    )
}

/// Whether reading JSON failed: such an error may quote the text.
fn is_of_json(error: &(dyn std::error::Error + 'static)) -> bool {
    error
        .downcast_ref::<azure_core::Error>()
        .is_some_and(|error| matches!(error.kind(), ErrorKind::DataConversion))
        || error.source().is_some_and(is_of_json)
}
