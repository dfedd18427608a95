//! Who the agent is to Google Cloud: google-cloud-auth's application default credentials, or a file of any kind
//! that it knows.
//!
//! The library keeps tokens and renews them four minutes before they end. It repeats an old failure for ever, so a
//! login that failed is discarded, and so is one whose token was refused: the next call logs in again, with the
//! file as it is then.
//!
//! What cannot be wiped here: the library's copies of the file and of its tokens.

use std::{
    env,
    error::Error,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use colcrypt_core::Secret;
use colcrypt_protocol::FailureKind;
use google_cloud_auth::{
    build_errors,
    credentials::{
        self, CacheableResource, Credentials, external_account, impersonated, service_account,
        user_account,
    },
    errors::CredentialsError,
};
use reqwest::header::HeaderMap;
use serde_json::Value;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use crate::{
    KmsError,
    clock::Moment,
    config::AbsolutePath,
    credential,
    gcp_kms::reply::is_of_access,
    http_address::HttpAddress,
    login_pause::{self, Account, Pauses},
    quote::presentable,
};

const ENV: &str = "GOOGLE_APPLICATION_CREDENTIALS";
const OF_GCLOUD: &str = ".config/gcloud/application_default_credentials.json";
/// Enough for Cloud KMS; what may be done is for IAM to say.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// A token server that has been silent for so long is asked anew. Sooner would pile up requests to it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Settings of a credentials file that say where secrets and tokens are sent to.
const TOKEN_SERVERS: [&str; 4] = [
    "token_uri",
    "token_url",
    "token_info_url",
    "service_account_impersonation_url",
];

/// How a token server words that somebody took the login back; whatever else is wrong with one has the same code.
const REVOKED: [&str; 7] = [
    "Invalid JWT Signature",
    "account not found",
    "Invalid email or User ID",
    "Not a valid email or user ID",
    "has been deleted",
    "has been disabled",
    "rejected by the attribute condition",
];

/// How the library ends its messages. The agent does try again.
const PROPHECIES: [&str; 2] = [
    " but future attempts may succeed",
    " and future attempts will not succeed",
];

pub(crate) struct Identity {
    file: Option<AbsolutePath>,
    is_self_signed: AtomicBool,
    /// Locked while a token is waited for, so that many who ask make one login.
    login: Mutex<Option<Login>>,
}

struct Login {
    credentials: Credentials,
    /// None for the machine's own identity, which is no login.
    account: Option<Account>,
    /// When callers that were cut off began to wait for its token.
    waiting: Option<Moment>,
    /// The headers that it returned last.
    given: HeaderMap,
}

impl Identity {
    pub(crate) fn new(file: Option<AbsolutePath>) -> Self {
        Self {
            file,
            is_self_signed: AtomicBool::default(),
            login: Mutex::default(),
        }
    }

    /// The headers that prove it.
    ///
    /// # Errors
    /// Why there are none.
    pub(crate) async fn headers(&self) -> Result<HeaderMap, KmsError> {
        let mut slot = self.login.lock().await;
        let stuck = |login: &Login| login.waiting.is_some_and(|since| since.age() > PATIENCE);
        if slot.as_ref().is_none_or(stuck) {
            *slot = Some(self.log_in().await?);
        }
        let Some(login) = slot.as_mut() else {
            return Err(KmsError::config("no Google credentials"));
        };
        login.waiting.get_or_insert_with(Moment::now);
        let ask = async {
            let headers = login.credentials.headers(Default::default()).await;
            headers.map_err(|error| failure(&error))
        };
        let answer = match login.account {
            Some(account) => login_pause::log_in(account, Pauses::USUAL, ask).await,
            None => ask.await,
        };
        match answer {
            Ok(CacheableResource::New { data, .. }) => {
                login.waiting = None;
                login.given.clone_from(&data);
                Ok(data)
            }
            Ok(CacheableResource::NotModified) => Ok(login.given.clone()),
            Err(error) => {
                *slot = None;
                Err(error)
            }
        }
    }

    /// Forgets the login whose token was refused, unless somebody else has done so.
    pub(crate) async fn forget(&self, refused: &HeaderMap) {
        let mut slot = self.login.lock().await;
        if slot.as_ref().is_some_and(|login| login.given == *refused) {
            *slot = None;
        }
    }

    /// Whether the tokens in use are signed here, with a service account's own key.
    pub(crate) fn is_self_signed(&self) -> bool {
        self.is_self_signed.load(Ordering::Relaxed)
    }

    /// What to know about the file.
    pub(crate) fn warn(&self, warnings: &mut Vec<String>) {
        let Some(path) = self.path() else { return };
        let open = fs::metadata(&path).is_ok_and(|meta| meta.mode() & 0o007 != 0);
        if open {
            warnings.push(format!(
                "the credentials file {} can be read by everybody on this machine: if a key is in it, chmod 0600 it",
                path.display()
            ));
        }
    }

    /// Returns the file that the library would use, so that it can be checked first.
    fn path(&self) -> Option<PathBuf> {
        if let Some(file) = &self.file {
            return Some(file.as_path().to_owned());
        }
        let of_gcloud = || {
            let path = Path::new(&env::var_os("HOME")?).join(OF_GCLOUD);
            path.exists().then_some(path)
        };
        env::var_os(ENV).map(PathBuf::from).or_else(of_gcloud)
    }

    async fn log_in(&self) -> Result<Login, KmsError> {
        let login = |credentials, account| Login {
            credentials,
            account,
            waiting: None,
            given: HeaderMap::new(),
        };
        let adc = || {
            let builder = credentials::Builder::default().with_scopes([SCOPE]);
            let built = builder.build();
            built.map_err(|error| KmsError::config(default_ones(&error)))
        };
        let Some(path) = self.path() else {
            self.is_self_signed.store(false, Ordering::Relaxed);
            return Ok(login(adc()?, None));
        };
        let text = credential::read("credentials file", &path).await?;
        let json = parse(&path, &text)?;
        // A workload's own token is beside it. Whether it can be read is for the login to say.
        let token = json["credential_source"]["file"].as_str();
        let token = Zeroizing::new(
            token
                .and_then(|file| fs::read(file).ok())
                .unwrap_or_default(),
        );
        let account = Account::of(&[text.expose(), &token]);
        let is_self_signed = json["type"] == "service_account";
        self.is_self_signed.store(is_self_signed, Ordering::Relaxed);
        let credentials = if self.file.is_some() {
            of_file(&path, json)?
        } else {
            adc()?
        };
        Ok(login(credentials, Some(account)))
    }
}

fn parse(path: &Path, text: &Secret) -> Result<Value, KmsError> {
    let json = serde_json::from_slice(text.expose())
        .ok()
        .filter(Value::is_object)
        .ok_or_else(|| bad_file(path, "is not a JSON object"))?;
    sound(&json).map_err(|what| bad_file(path, what))?;
    Ok(json)
}

/// Secrets and tokens go to HTTPS only, and no other program is started beside the keys.
fn sound(json: &Value) -> Result<(), &'static str> {
    let Value::Object(settings) = json else {
        return Ok(());
    };
    for (name, value) in settings {
        if name == "executable" {
            return Err("names a program to run, which the agent, which holds keys, does not");
        }
        if TOKEN_SERVERS.contains(&name.as_str())
            && let Some(url) = value.as_str()
        {
            HttpAddress::try_from(url.to_owned())
                .map_err(|_| "names a token server that is not an https:// address")?;
        }
        sound(value)?;
    }
    Ok(())
}

fn of_file(path: &Path, json: Value) -> Result<Credentials, KmsError> {
    let kind = json["type"].as_str().unwrap_or_default().to_owned();
    let scopes = [SCOPE];
    let built = match kind.as_str() {
        "service_account" => service_account::Builder::new(json)
            .with_access_specifier(service_account::AccessSpecifier::from_scopes(scopes))
            .build(),
        "authorized_user" => user_account::Builder::new(json).with_scopes(scopes).build(),
        "external_account" => external_account::Builder::new(json)
            .with_scopes(scopes)
            .build(),
        "impersonated_service_account" => {
            impersonated::Builder::new(json).with_scopes(scopes).build()
        }
        _ => {
            return Err(bad_file(
                path,
                "has no \"type\" that is known here: service_account, authorized_user, external_account or \
                 impersonated_service_account",
            ));
        }
    };
    // The library's words may repeat what is in the file.
    built.map_err(|_| {
        bad_file(
            path,
            &format!("lacks something that a file of type {kind} has"),
        )
    })
}

fn bad_file(path: &Path, what: &str) -> KmsError {
    KmsError::config(format!("the credentials file {} {what}", path.display()))
}

fn default_ones(error: &build_errors::Error) -> String {
    let why = if error.is_loading() {
        "their file cannot be read by the server's user"
    } else {
        "their file is not one of them"
    };
    format!("no Google application default credentials: {why}")
}

/// Why there is no token, which is never about the root key: only a login that a token server refuses in its own
/// form is a refusal.
fn failure(error: &CredentialsError) -> KmsError {
    let mut server = String::new();
    let mut answered = None;
    let mut said = None;
    // The library's own words come first and say little, the cause comes last.
    let mut cause = String::new();
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(this) = next {
        if let Some(error) = this.downcast_ref::<reqwest::Error>() {
            answered = error.status().map(|status| status.as_u16());
            if let Some(url) = error.url() {
                server = format!(" from {}", url.origin().ascii_serialization());
            }
        }
        cause = this.to_string();
        said = said.or_else(|| Said::parse(&cause));
        next = this.source();
    }
    let refused = matches!(answered, Some(400 | 401 | 403));
    let why = match &said {
        Some(said) => presentable(&format!("{}: {}", said.code, said.words)),
        None => PROPHECIES.iter().fold(presentable(&cause), |words, end| {
            words.trim_end_matches(end).to_owned()
        }),
    };
    let meaning = said
        .filter(|_| refused)
        .map_or(Meaning::Unclear, |said| said.meaning());
    let (kind, hint) = if meaning == Meaning::Refusal {
        (
            FailureKind::Denied,
            "the server's credentials were revoked, or may not act for the service account",
        )
    } else if meaning == Meaning::IssuerAway {
        (
            FailureKind::Unavailable,
            "Google cannot reach the identity provider that issued the token",
        )
    } else if meaning == Meaning::Lapsed {
        (
            FailureKind::Config,
            "the login ran out, and nothing has put a new one in its place; is this machine's clock right?",
        )
    } else if error.is_transient() {
        (
            FailureKind::Unavailable,
            "outside of Google Cloud, name a \"credentials_file\"",
        )
    } else {
        (
            FailureKind::Config,
            "are the server's credentials whole and still good?",
        )
    };
    KmsError::new(
        kind,
        format!("no token for Google Cloud{server} ({why}): {hint}"),
    )
}

/// What a refused login is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Refusal,
    /// The server could not ask who issued the token: that passes.
    IssuerAway,
    /// A login or a token past its time: nobody has revoked anything.
    Lapsed,
    Unclear,
}

/// What a token server says, in the form of OAuth (RFC 6749, section 5.2) or of Google's APIs.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    code: String,
    words: String,
    /// OAuth's further code, or the reason in google.rpc.ErrorInfo.
    subtype: String,
}

impl Said {
    /// Out of the library's message, which holds the body.
    fn parse(message: &str) -> Option<Self> {
        let (_, rest) = message.split_once("body=<")?;
        let (body, _) = rest.rsplit_once('>')?;
        let body: Value = serde_json::from_str(body).ok()?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        match &body["error"] {
            Value::String(code) => Some(Self {
                code: code.clone(),
                words: text(&body["error_description"]).unwrap_or_default(),
                subtype: text(&body["error_subtype"]).unwrap_or_default(),
            }),
            error => Some(Self {
                code: text(&error["status"])?,
                words: text(&error["message"]).unwrap_or_default(),
                subtype: error["details"]
                    .as_array()
                    .and_then(|details| details.iter().find_map(|detail| text(&detail["reason"])))
                    .unwrap_or_default(),
            }),
        }
    }

    fn meaning(&self) -> Meaning {
        let says = |part: &str| self.words.contains(part);
        match self.code.as_str() {
            "PERMISSION_DENIED" if is_of_access(&self.subtype) => Meaning::Refusal,
            _ if says("connecting to the given credential's issuer") => Meaning::IssuerAway,
            // The identity provider's token was too old, a user has to log in once more, or the clock is off.
            _ if says("stale")
                || says("reasonable timeframe")
                || says("invalid_rapt")
                || matches!(self.subtype.as_str(), "invalid_rapt" | "rapt_required") =>
            {
                Meaning::Lapsed
            }
            // The last one: the pool or its provider is disabled or deleted.
            "access_denied"
            | "admin_policy_enforced"
            | "deleted_client"
            | "disabled_client"
            | "unauthorized_client"
            | "invalid_target" => Meaning::Refusal,
            "invalid_grant" if REVOKED.iter().any(|part| says(part)) => Meaning::Refusal,
            // In the same words for what ran out and for what was taken back, or for anything else.
            _ => Meaning::Unclear,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use colcrypt_tests::facts;
    use serde_json::json;

    #[test]
    fn what_token_servers_say_has_its_meaning() {
        for fact in facts::of("gcp-kms", "token") {
            let said = Said::parse(&format!("failed, body=<{}>", fact.body())).unwrap();
            let kind = match said.meaning() {
                Meaning::Refusal => "denied",
                Meaning::IssuerAway => "unavailable",
                Meaning::Lapsed | Meaning::Unclear => "config",
            };
            assert_eq!(kind, fact.kind, "{fact:?}");
        }
        for (status, meaning) in [
            ("PERMISSION_DENIED", Meaning::Refusal),
            ("FAILED_PRECONDITION", Meaning::Unclear),
        ] {
            let body = json!({"error": {"code": 403, "status": status, "message": "no"}});
            let said = Said::parse(&format!("failed, body=<{body}>")).unwrap();
            assert_eq!(said.meaning(), meaning, "{body}");
        }
        // The service that mints tokens may be switched off for the project: nobody has decided anything about the key.
        let off = json!({"error": {"code": 403, "status": "PERMISSION_DENIED", "message": "no",
            "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED"}]}});
        let said = Said::parse(&format!("failed, body=<{off}>")).unwrap();
        assert_eq!(said.meaning(), Meaning::Unclear);
        for strange in [
            "",
            "failed, body=<<html>>",
            "failed, body=<{}>",
            "failed, body=<{\"error\": 1}>",
        ] {
            assert_eq!(Said::parse(strange), None, "{strange}");
        }
    }

    #[test]
    fn failures_of_the_library_have_their_kind() {
        for (transient, kind) in [
            (true, FailureKind::Unavailable),
            (false, FailureKind::Config),
        ] {
            let echo = "the cause is 1//0gFU2xNmTokenTokenTokenTokenToken";
            let failure = failure(&CredentialsError::from_msg(transient, echo));
            assert_eq!(failure.kind, kind);
            assert!(failure.message.contains("(the cause is …)"), "{failure}");
        }
    }
}
