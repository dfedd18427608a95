//! Who asks, for the stand-in for Google Cloud: service accounts that sign their own tokens
//! (<https://google.aip.dev/auth/4111>), users with refresh tokens, workloads of another identity provider
//! (<https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token>) and the metadata server of a machine
//! (<https://cloud.google.com/compute/docs/metadata/predefined-metadata-keys>).

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use axum::http::StatusCode;
use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use serde_json::{Value, json};

use crate::facts::{self, Fact};
use crate::fake_gcp_cloud::{Answer, error};

const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// What Google's own libraries ask for, with their ten seconds on either side.
const LONGEST_ASSERTION: u64 = 3_600 + 20;
/// What Google lets clocks differ by is not published; that hours are too much is.
const LEEWAY: u64 = 60;

struct PublicKey {
    account: String,
    der: Vec<u8>,
    deleted: bool,
}

struct Token {
    principal: String,
    until: SystemTime,
}

pub(crate) struct Logins {
    /// By their ids.
    keys: HashMap<String, PublicKey>,
    tokens: HashMap<String, Token>,
    /// Principals by their refresh tokens, and by the tokens of another identity provider.
    known: HashMap<String, String>,
    /// Who the machine is, for its metadata server.
    pub(crate) machine: Option<String>,
    pub(crate) life: Duration,
    /// How much later than ours the server's clock is.
    pub(crate) ahead: Duration,
    /// What who is not known is told, if not that the login was revoked.
    pub(crate) refuses_with: Option<Fact>,
}

impl Default for Logins {
    fn default() -> Self {
        Self {
            keys: HashMap::new(),
            tokens: HashMap::new(),
            known: HashMap::new(),
            machine: None,
            life: Duration::from_secs(3_600),
            ahead: Duration::ZERO,
            refuses_with: None,
        }
    }
}

impl Logins {
    pub(crate) fn now(&self) -> SystemTime {
        SystemTime::now() + self.ahead
    }

    /// A new key of a service account, as `gcloud iam service-accounts keys create` writes it.
    pub(crate) fn service_account_key(&mut self, account: &str) -> Value {
        let pair = KeyPair::generate(KeySize::Rsa2048).expect("an RSA key");
        let private: Pkcs8V1Der = pair.as_der().expect("PKCS#8");
        let id = random_hex();
        let key = PublicKey {
            account: account.to_owned(),
            der: pair.public_key().as_ref().to_vec(),
            deleted: false,
        };
        self.keys.insert(id.clone(), key);
        let base64 = Base64::encode_string(private.as_ref());
        json!({
            "type": "service_account",
            "project_id": "p-1",
            "private_key_id": id,
            "private_key": format!("-----BEGIN PRIVATE KEY-----\n{base64}\n-----END PRIVATE KEY-----\n"),
            "client_email": account,
            "client_id": "100000000000000000001",
            "token_uri": "https://oauth2.googleapis.com/token",
        })
    }

    /// Deletes the account's keys but this one, for good.
    pub(crate) fn keep_only(&mut self, account: &str, key: &Value) {
        self.keys
            .retain(|id, known| known.account != account || key["private_key_id"] == id.as_str());
    }

    /// Deletes the account's keys, or brings them back.
    pub(crate) fn set_deleted(&mut self, account: &str, deleted: bool) {
        let keys = self.keys.values_mut();
        for key in keys.filter(|key| key.account == account) {
            key.deleted = deleted;
        }
    }

    /// A refresh token, or a token of another identity provider.
    pub(crate) fn know(&mut self, principal: &str) -> String {
        let token = random_hex();
        self.known.insert(token.clone(), principal.to_owned());
        token
    }

    pub(crate) fn forget(&mut self, principal: &str) {
        self.known.retain(|_, known| known != principal);
    }

    pub(crate) fn end_tokens(&mut self) {
        self.tokens.clear();
    }

    fn issue(&mut self, principal: String) -> Value {
        let token = format!("ya29.{}", random_hex());
        let until = self.now() + self.life;
        self.tokens
            .insert(token.clone(), Token { principal, until });
        json!({"access_token": token, "expires_in": self.life.as_secs(), "token_type": "Bearer"})
    }

    /// For a refresh token or one of another identity provider.
    pub(crate) fn exchange(&mut self, presented: &str) -> Answer {
        if let Some(principal) = self.known.get(presented).cloned() {
            let mut token = self.issue(principal);
            token["issued_token_type"] = json!("urn:ietf:params:oauth:token-type:access_token");
            return (StatusCode::OK, token);
        }
        let fact = self
            .refuses_with
            .clone()
            .unwrap_or_else(|| facts::the("gcp-kms", "token", "attribute condition"));
        let status = StatusCode::from_u16(fact.status()).expect("a status");
        (status, fact.body())
    }

    /// For whatever runs on the machine.
    pub(crate) fn metadata(&mut self) -> Answer {
        match self.machine.clone() {
            Some(principal) => (StatusCode::OK, self.issue(principal)),
            None => (StatusCode::NOT_FOUND, json!("no service account")),
        }
    }

    /// Who this header proves.
    pub(crate) fn principal(&self, authorization: &str) -> Result<String, Answer> {
        let token = authorization.strip_prefix("Bearer ").unwrap_or_default();
        if let Some(known) = self.tokens.get(token) {
            return if known.until > self.now() {
                Ok(known.principal.clone())
            } else {
                Err(unauthenticated("ACCESS_TOKEN_EXPIRED"))
            };
        }
        self.signer(token)
            .ok_or_else(|| unauthenticated("ACCESS_TOKEN_TYPE_UNSUPPORTED"))
    }

    /// The service account that has signed this token for itself.
    fn signer(&self, token: &str) -> Option<String> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let (header, claims) = (part(header)?, part(claims)?);
        let key = self.keys.get(header["kid"].as_str()?)?;
        let signature = Base64UrlUnpadded::decode_vec(signature).ok()?;
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &key.der)
            .verify(signed.as_bytes(), &signature)
            .ok()?;
        let now = self.now().duration_since(UNIX_EPOCH).ok()?.as_secs();
        let (from, to) = (claims["iat"].as_u64()?, claims["exp"].as_u64()?);
        let timely = from <= now + LEEWAY
            && now <= to + LEEWAY
            && to.checked_sub(from)? <= LONGEST_ASSERTION;
        let sound = header["alg"] == "RS256"
            && claims["iss"] == key.account.as_str()
            && claims["sub"] == key.account.as_str()
            && claims["scope"] == SCOPE;
        (sound && timely && !key.deleted).then(|| key.account.clone())
    }
}

fn part(text: &str) -> Option<Value> {
    let json = Base64UrlUnpadded::decode_vec(text).ok()?;
    serde_json::from_slice(&json).ok()
}

fn unauthenticated(reason: &str) -> Answer {
    let message = "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or \
                   other valid authentication credential. See \
                   https://developers.google.com/identity/sign-in/web/devconsole-project.";
    let info = json!({
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "googleapis.com",
        "metadata": {"service": "cloudkms.googleapis.com"},
    });
    error(401, "UNAUTHENTICATED", message, &[info])
}

fn random_hex() -> String {
    let mut bytes = [0; 20];
    rand::fill(&mut bytes).expect("random bytes");
    hex::encode(bytes)
}
