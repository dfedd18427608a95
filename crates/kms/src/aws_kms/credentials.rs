//! The agent's credentials for AWS, from the SDK's credential chain.
//!
//! Credentials without an end (from a file or the environment) are looked up at each use, so that a new file is
//! used at once. Others are kept until shortly before their end.

use std::{
    env,
    error::Error,
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use aws_config::{
    BehaviorVersion, Region, default_provider::credentials::DefaultCredentialsChain,
    profile::ProfileFileCredentialsProvider, provider_config::ProviderConfig, retry::RetryConfig,
};
use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, error::CredentialsError},
};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_sts::operation::{
    assume_role::AssumeRoleError, assume_role_with_web_identity::AssumeRoleWithWebIdentityError,
};
use aws_smithy_types::error::metadata::ErrorMetadata;
use colcrypt_protocol::FailureKind;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use crate::{
    KmsError,
    aws_kms::{
        http::AwsHttp,
        reply::{self, Refusal},
    },
    config::AbsolutePath,
    login_pause::{self, Account, Pauses},
    quote::presentable,
};

/// New credentials are fetched so long before the old ones end. The metadata services have them ready five
/// minutes before.
const EARLY: Duration = Duration::from_secs(4 * 60);

/// Set in pods that assume a role by a token.
const WEB_IDENTITY_TOKEN_FILE: &str = "AWS_WEB_IDENTITY_TOKEN_FILE";

/// Where credentials come from, when not from the whole default chain.
#[derive(Clone, Default)]
pub(crate) struct Source {
    pub(crate) profile: Option<String>,
    pub(crate) config_file: Option<AbsolutePath>,
    pub(crate) credentials_file: Option<AbsolutePath>,
}

impl Source {
    /// As with the command-line client, a profile asked for goes before the environment.
    fn is_profile(&self) -> bool {
        self.profile.is_some() || self.config_file.is_some() || self.credentials_file.is_some()
    }
}

pub(crate) struct Identity {
    source: Source,
    region: Region,
    /// Whether STS is asked at its FIPS endpoint.
    use_fips: bool,
    http: AwsHttp,
    /// Locked while credentials are fetched, so that many callers make one call.
    kept: Mutex<Option<Credentials>>,
}

impl Identity {
    pub(crate) fn new(source: Source, region: Region, use_fips: bool, http: AwsHttp) -> Self {
        Self {
            source,
            region,
            use_fips,
            http,
            kept: Mutex::default(),
        }
    }

    /// # Errors
    /// Why there are none.
    pub(crate) async fn credentials(&self) -> Result<Credentials, KmsError> {
        let mut kept = self.kept.lock().await;
        if let Some(credentials) = kept.as_ref().filter(|kept| lasts(kept, EARLY)) {
            return Ok(credentials.clone());
        }
        let login = async {
            match self.load().await {
                // Only what STS says is a refused login.
                Err(error) if causes(&error).any(|cause| said_by_sts(cause).is_some()) => {
                    Err(failure(&error))
                }
                loaded => Ok(loaded.map_err(|error| failure(&error))),
            }
        };
        let loaded = login_pause::log_in(self.account(), Pauses::USUAL, login).await;
        match loaded.and_then(|loaded| loaded) {
            Ok(credentials) => {
                *kept = credentials.expiry().map(|_| credentials.clone());
                Ok(credentials)
            }
            // The old ones are still valid, so a metadata service that is away for a moment does no harm.
            Err(_)
                if kept
                    .as_ref()
                    .is_some_and(|kept| lasts(kept, Duration::ZERO)) =>
            {
                kept.clone().ok_or_else(none_found)
            }
            Err(error) => Err(error),
        }
    }

    /// With its files as they are now.
    fn account(&self) -> Account {
        let Source {
            profile,
            config_file,
            credentials_file,
        } = &self.source;
        let named = [config_file, credentials_file]
            .into_iter()
            .flatten()
            .map(|file| file.as_path().to_owned());
        let files: Vec<_> = named
            .chain(env::var_os(WEB_IDENTITY_TOKEN_FILE).map(PathBuf::from))
            // Whether they can be read is for the login to say.
            .map(|file| Zeroizing::new(fs::read(file).unwrap_or_default()))
            .collect();
        let profile = profile.as_deref().unwrap_or_default();
        let mut parts = vec![self.region.as_ref().as_bytes(), profile.as_bytes()];
        parts.extend(files.iter().map(|file| file.as_slice()));
        Account::of(&parts)
    }

    /// Forgets credentials that were refused. Returns whether the chain may return others.
    pub(crate) async fn forget(&self, refused: &Credentials) -> bool {
        let mut kept = self.kept.lock().await;
        if kept.as_ref() == Some(refused) {
            *kept = None;
            return true;
        }
        // Somebody else has fetched newer ones meanwhile.
        kept.is_some()
    }

    /// The chain is built anew each time, since it reads its files once.
    async fn load(&self) -> Result<Credentials, CredentialsError> {
        let config = ProviderConfig::without_region()
            .with_behavior_version(Some(BehaviorVersion::v2026_01_12()))
            .with_region(Some(self.region.clone()))
            .with_use_fips(Some(self.use_fips))
            .with_http_client(self.http.clone())
            .with_retry_config(RetryConfig::disabled());
        if !self.source.is_profile() {
            let chain = DefaultCredentialsChain::builder().configure(config);
            return chain.build().await.provide_credentials().await;
        }
        let mut profile = ProfileFileCredentialsProvider::builder().configure(&config);
        if let Some(name) = &self.source.profile {
            profile = profile.profile_name(name);
        }
        let files = [
            (EnvConfigFileKind::Config, &self.source.config_file),
            (
                EnvConfigFileKind::Credentials,
                &self.source.credentials_file,
            ),
        ];
        if files.iter().any(|(_, file)| file.is_some()) {
            let mut named = EnvConfigFiles::builder();
            for (kind, file) in files {
                if let Some(file) = file {
                    named = named.with_file(kind, file.as_path());
                }
            }
            profile = profile.profile_files(named.build());
        }
        profile.build().provide_credentials().await
    }
}

fn lasts(credentials: &Credentials, at_least: Duration) -> bool {
    credentials
        .expiry()
        .is_some_and(|end| end > SystemTime::now() + at_least)
}

fn none_found() -> KmsError {
    KmsError::config(
        "no AWS credentials found: give the server an instance, task or pod role, set AWS_… variables in its \
         environment, or name a \"profile\" or \"credentials_file\"",
    )
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let this = next?;
        next = this.source();
        Some(this)
    })
}

fn failure(error: &CredentialsError) -> KmsError {
    let chain = || causes(error);
    // STS or a metadata service was not reached: the error says so already.
    if let Some(known) = chain().find_map(|error| error.downcast_ref::<KmsError>()) {
        return KmsError {
            message: format!("no AWS credentials: {}", known.message),
            ..known.clone()
        };
    }
    if let Some(meta) = chain().find_map(said_by_sts) {
        return refused_by_sts(meta);
    }
    let why = chain()
        .map(ToString::to_string)
        .reduce(|mut all, next| {
            if !all.contains(&next) {
                all = format!("{all}: {next}");
            }
            all
        })
        .unwrap_or_default();
    let why = presentable(&why);
    match error {
        CredentialsError::CredentialsNotLoaded(_) => {
            let KmsError { message, .. } = none_found();
            KmsError::config(format!("{message} ({why})"))
        }
        CredentialsError::ProviderTimedOut(_) => KmsError::new(
            FailureKind::Timeout,
            format!("no AWS credentials in time: {why}"),
        ),
        CredentialsError::InvalidConfiguration(_) => {
            KmsError::config(format!("AWS credentials are not set up well: {why}"))
        }
        _ => KmsError::new(
            FailureKind::Unavailable,
            format!("AWS credentials could not be fetched: {why}"),
        ),
    }
}

fn said_by_sts<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a ErrorMetadata> {
    error
        .downcast_ref::<AssumeRoleWithWebIdentityError>()
        .map(|error| error.meta())
        .or_else(|| {
            error
                .downcast_ref::<AssumeRoleError>()
                .map(|error| error.meta())
        })
}

fn refused_by_sts(meta: &ErrorMetadata) -> KmsError {
    let code = meta.code().unwrap_or_default();
    let quoted = reply::quoted(code, meta.message());
    let (kind, hint) = match reply::refusal(code, meta.message()) {
        Some(Refusal::Permission | Refusal::Credentials) => (
            FailureKind::Denied,
            "does the role's trust policy name this server's identity?",
        ),
        Some(Refusal::Expired) => (
            FailureKind::Config,
            "the token with which the role is assumed has expired, and nothing has put a new one in its place",
        ),
        Some(Refusal::Clock) => (FailureKind::Config, "is this machine's clock right?"),
        Some(Refusal::Scope) => (
            FailureKind::Config,
            "is it asked in the region that the request was signed for?",
        ),
        None if reply::is_throttling(code) => (FailureKind::Throttled, "it asks for a rest"),
        // The issuer of the token did not answer in time, which passes.
        None if code == "InvalidIdentityToken"
            && meta
                .message()
                .is_some_and(|text| text.contains("retrieve verification key")) =>
        {
            (
                FailureKind::Unavailable,
                "it cannot get the keys of the token's issuer",
            )
        }
        None if code == "InvalidIdentityToken"
            && meta
                .message()
                .is_some_and(|text| text.contains("No OpenIDConnect provider found")) =>
        {
            (
                FailureKind::Denied,
                "the account does not know the token's issuer (any more)",
            )
        }
        // Said of one that ran out as well as of one that was taken back, and of whatever is wrong with the issuer's
        // certificate.
        None if code == "InvalidIdentityToken" || code == "IDPRejectedClaim" => (
            FailureKind::Config,
            "the identity provider's token is not accepted: has it expired, and does the account know the issuer as it is?",
        ),
        None if code == "RegionDisabledException" => (
            FailureKind::Config,
            "the account has not activated it in this region",
        ),
        None => (FailureKind::Unavailable, "it cannot serve now"),
    };
    KmsError::new(
        kind,
        format!("AWS STS gives no credentials{quoted}: {hint}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_the_chain_have_their_kind() {
        let away = KmsError::new(FailureKind::Unreachable, "cannot connect to X");
        for (error, kind, part) in [
            (
                CredentialsError::not_loaded("nothing"),
                FailureKind::Config,
                "no AWS credentials found",
            ),
            (
                CredentialsError::provider_timed_out(Duration::from_secs(1)),
                FailureKind::Timeout,
                "in time",
            ),
            (
                CredentialsError::invalid_configuration("bad line"),
                FailureKind::Config,
                "bad line",
            ),
            (
                CredentialsError::provider_error("broken"),
                FailureKind::Unavailable,
                "broken",
            ),
            (
                CredentialsError::provider_error(away),
                FailureKind::Unreachable,
                "cannot connect to X",
            ),
        ] {
            let failure = failure(&error);
            assert_eq!(failure.kind, kind, "{failure}");
            assert!(failure.message.contains(part), "{failure}");
        }
    }

    #[test]
    fn sts_has_its_say() {
        for fact in colcrypt_tests::facts::of("aws-kms", "sts") {
            let code = fact.code.split(' ').nth(1).unwrap();
            let meta = ErrorMetadata::builder()
                .code(code)
                .message(&fact.message)
                .build();
            let error = CredentialsError::provider_error(AssumeRoleError::generic(meta));
            let kind: FailureKind = serde_json::from_value(fact.kind.into()).unwrap();
            assert_eq!(failure(&error).kind, kind, "{fact:?}");
        }
    }
}
