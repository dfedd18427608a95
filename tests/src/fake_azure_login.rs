//! Who may ask Azure: Entra ID's token endpoint, the endpoint of managed identities, and what a vault makes of a
//! token.
//!
//! Token requests: <https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow>. Errors:
//! <https://learn.microsoft.com/entra/identity-platform/reference-error-codes>. Managed identities:
//! <https://learn.microsoft.com/azure/app-service/overview-managed-identity#rest-endpoint-reference>.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::facts;
use crate::fake_azure_vault::{Answer, error, now, random};

/// The tenant of everybody here.
pub const TENANT: &str = "7b795fb9-09d3-42f4-a494-38864f99ba3c";
/// Longer than any test.
const LONG: Duration = Duration::from_secs(3600);

/// An application, or a managed identity.
#[derive(Default)]
pub(crate) struct Application {
    pub(crate) secret: Option<String>,
    /// Whether the secret is past its last day.
    pub(crate) expired: bool,
    /// The token of its pod.
    pub(crate) federated: Option<String>,
    /// What its roles allow, as [`Vault::action`](crate::fake_azure_vault::Vault::action) has it.
    pub(crate) actions: Vec<String>,
    /// The keys its roles are assigned on, where not on the whole vault.
    pub(crate) keys: Option<Vec<String>>,
}

struct Token {
    client: String,
    resource: String,
    ends: Instant,
    revoked: bool,
}

pub(crate) struct Login {
    pub(crate) applications: HashMap<String, Application>,
    /// The header that proves a request to come from the machine, and the client id of its identity.
    pub(crate) machine: Option<(String, String)>,
    pub(crate) life: Duration,
    tokens: HashMap<String, Token>,
    /// Wrong on purpose: assertions and tokens are judged by a clock that is hours off.
    pub(crate) clock_skew: bool,
}

impl Default for Login {
    fn default() -> Self {
        Self {
            applications: HashMap::new(),
            machine: None,
            life: LONG,
            tokens: HashMap::new(),
            clock_skew: false,
        }
    }
}

impl Login {
    fn issue(&mut self, client: &str, resource: &str) -> String {
        // As tokens begin, and long enough to be cut out of every quotation.
        let token = format!("eyJ0eXAiOiJKV1QifQ.{}.sig", hex::encode(random::<48>()));
        self.tokens.insert(
            token.clone(),
            Token {
                client: client.to_owned(),
                resource: resource.to_owned(),
                ends: Instant::now() + self.life,
                revoked: false,
            },
        );
        token
    }

    pub(crate) fn revoke_all(&mut self) {
        for token in self.tokens.values_mut() {
            token.revoked = true;
        }
    }

    pub(crate) fn issued(&self) -> Vec<String> {
        self.tokens.keys().cloned().collect()
    }

    /// `POST /TENANT/oauth2/v2.0/token`.
    pub(crate) fn token(&mut self, tenant: &str, form: &str) -> Answer {
        let form = parse_form(form);
        let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        if tenant != TENANT {
            let words = format!(
                "Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID."
            );
            return refused(400, "invalid_request", 90_002, &words);
        }
        let client = field("client_id");
        let Some(application) = self.applications.get(client) else {
            let words = format!(
                "Application with identifier '{client}' was not found in the directory 'Test'."
            );
            return refused(400, "unauthorized_client", 700_016, &words);
        };
        if let Some(secret) = form.get("client_secret") {
            if application.expired {
                let fact = facts::the("azure-keyvault", "entra", "keys are expired");
                return (fact.status(), fact.body());
            }
            if application.secret.as_ref() != Some(secret) {
                let words = format!(
                    "Invalid client secret provided. Ensure the secret being sent in the request is the client secret \
                     value, not the client secret ID, for a secret added to app '{client}'."
                );
                return refused(401, "invalid_client", 7_000_215, &words);
            }
        } else if field("client_assertion_type")
            == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        {
            if self.clock_skew {
                let words = "Client assertion is not within its valid time range. Current time: 2026-01-01T00:00:00Z.";
                return refused(401, "invalid_client", 700_024, words);
            }
            if application.federated.as_deref() != Some(field("client_assertion")) {
                let words = "No matching federated identity record found for presented assertion subject 'db'.";
                return refused(401, "invalid_client", 700_213, words);
            }
        } else {
            let words = "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.";
            return refused(401, "invalid_client", 7_000_218, words);
        }
        let Some(resource) = field("scope").strip_suffix("/.default") else {
            return refused(
                400,
                "invalid_scope",
                1_002_012,
                "The provided value for scope is not valid.",
            );
        };
        let (client, resource) = (client.to_owned(), resource.to_owned());
        let life = self.life.as_secs();
        let token = self.issue(&client, &resource);
        (
            200,
            json!({"token_type": "Bearer", "expires_in": life, "ext_expires_in": life, "access_token": token}),
        )
    }

    /// `GET /msi/token`, as in App Service.
    pub(crate) fn managed(&mut self, header: Option<&str>, query: &str) -> Answer {
        let query = parse_form(query);
        let not_so = |status: u16, message: &str| {
            (status, json!({"statusCode": status, "message": message}))
        };
        let client = self
            .machine
            .clone()
            .filter(|(secret, _)| header == Some(secret.as_str()))
            .map(|(_, client)| client);
        let Some(client) = client else {
            return not_so(401, "The X-IDENTITY-HEADER header is missing or wrong.");
        };
        if query.get("api-version").map(String::as_str) != Some("2019-08-01") {
            return not_so(400, "The api-version is not supported.");
        }
        if query.get("client_id").is_some_and(|asked| *asked != client) {
            return not_so(
                400,
                "No User Assigned or Delegated Managed Identity found for specified ClientId.",
            );
        }
        let resource = query.get("resource").cloned().unwrap_or_default();
        let ends = now() + self.life.as_secs();
        let token = self.issue(&client, &resource);
        (
            200,
            json!({"access_token": token, "expires_on": ends.to_string(), "resource": resource, "token_type": "Bearer",
                   "client_id": client}),
        )
    }

    /// Who a token is of, or why the vault does not take it.
    pub(crate) fn who(&self, token: Option<&str>, resource: &str) -> Result<&str, Answer> {
        let unauthorized = |part: &str| {
            let fact = facts::the("azure-keyvault", "vault", part);
            Err((fact.status(), fact.body()))
        };
        let Some(token) = token else {
            let words = "AKV10000: Request is missing a Bearer or PoP token.";
            return Err(error(401, "Unauthorized", None, words));
        };
        match self.tokens.get(token) {
            Some(token) if token.ends <= Instant::now() || self.clock_skew => {
                unauthorized("[TokenExpired]")
            }
            Some(token) if token.resource != resource => unauthorized("AKV10022"),
            Some(token) if !token.revoked => Ok(&token.client),
            // A vault does not know of revocations: it is Entra that gives no new one.
            _ => unauthorized("[TokenExpired]"),
        }
    }

    pub(crate) fn may(&self, client: &str, action: &str, key: Option<&str>) -> bool {
        self.applications.get(client).is_some_and(|known| {
            let keys = known.keys.as_ref();
            known.actions.iter().any(|allowed| allowed == action)
                && keys.is_none_or(|keys| keys.iter().any(|assigned| key == Some(assigned)))
        })
    }
}

fn refused(status: u16, error: &str, code: u64, words: &str) -> Answer {
    let words = format!(
        "AADSTS{code}: {words} Trace ID: 0f1e2d3c-0000-0000-0000-000000000000 Correlation ID: \
         0f1e2d3c-0000-0000-0000-000000000001 Timestamp: 2026-01-01 00:00:00Z"
    );
    let body = json!({
        "error": error, "error_description": words, "error_codes": [code], "timestamp": "2026-01-01 00:00:00Z",
        "trace_id": "0f1e2d3c-0000-0000-0000-000000000000",
        "correlation_id": "0f1e2d3c-0000-0000-0000-000000000001",
        "error_uri": format!("https://login.microsoftonline.com/error?code={code}"),
    });
    (status, body)
}

fn parse_form(text: &str) -> HashMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

fn decode(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        let escaped = tail.get(..2).and_then(|digits| hex::decode(digits).ok());
        rest = match (byte, escaped) {
            (b'%', Some(bytes)) => {
                out.extend(bytes);
                &tail[2..]
            }
            (b'+', _) => {
                out.push(b' ');
                tail
            }
            _ => {
                out.push(*byte);
                tail
            }
        };
    }
    String::from_utf8(out).expect("UTF-8")
}

/// For the bodies of requests that are no form.
pub(crate) fn json_of(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or(Value::Null)
}
