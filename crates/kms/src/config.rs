//! From a provider's JSON to its own typed settings: unknown keys are refused, and so is anything
//! that looks like a secret. No message repeats a value, since that value may be the secret.

use std::path::{Path, PathBuf};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::KmsError;

/// Parts of a setting's name that announce a secret, unless the name says it is a place to find one.
const SECRET_NAMES: [&str; 11] = [
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "pin",
    "privatekey",
    "apikey",
    "accesskey",
    "credential",
    "authorization",
];
const PLACES: [&str; 3] = ["_file", "_env", "_path"];
/// How secrets of common servers begin, whatever the setting is called.
const SECRET_VALUES: [&str; 7] = [
    "hvs.",
    "hvb.",
    "hvr.",
    "sbs.",
    "eyJ",
    "-----BEGIN",
    "colcrypt-root-key-",
];
/// A Vault or OpenBao token of the older form: `s.` and 24 more, without a dot for a host name.
const OLD_TOKEN_LEN: usize = 26;

/// Parses a provider's settings.
///
/// # Errors
/// [`FailureKind::Config`](colcrypt_protocol::FailureKind::Config) naming the setting.
pub(crate) fn parse<T: DeserializeOwned>(kind: &str, config: &Value) -> Result<T, KmsError> {
    if !config.is_object() {
        return Err(KmsError::config(format!(
            "the configuration of a {kind} provider must be a JSON object"
        )));
    }
    refuse_secrets(config)?;
    T::deserialize(config).map_err(|error| {
        KmsError::config(format!(
            "the configuration of a {kind} provider is not valid: {}",
            without_values(&error.to_string())
        ))
    })
}

fn refuse_secrets(value: &Value) -> Result<(), KmsError> {
    match value {
        Value::Object(settings) => settings.iter().try_for_each(|(name, value)| {
            if names_a_secret(name) && !value.is_object() {
                return Err(inline_secret(name));
            }
            if let Value::String(text) = value
                && looks_secret(text)
            {
                return Err(inline_secret(name));
            }
            refuse_secrets(value)
        }),
        Value::Array(values) => values.iter().try_for_each(refuse_secrets),
        Value::String(text) if looks_secret(text) => Err(inline_secret("a list")),
        _ => Ok(()),
    }
}

fn names_a_secret(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    if PLACES.iter().any(|place| lower.ends_with(place)) {
        return false;
    }
    let plain = lower.replace(['_', '-', '.'], "");
    // "pin" is part of honest words (ping, mapping).
    SECRET_NAMES
        .iter()
        .any(|secret| plain == *secret || (*secret != "pin" && plain.contains(secret)))
        || plain.ends_with("userpin")
}

fn looks_secret(text: &str) -> bool {
    let text = text.trim();
    SECRET_VALUES.iter().any(|start| text.starts_with(start))
        || (text.len() == OLD_TOKEN_LEN
            && text
                .strip_prefix("s.")
                .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_alphanumeric())))
}

fn inline_secret(name: &str) -> KmsError {
    KmsError::config(format!(
        "setting \"{name}\" looks like a secret, and the catalog must not hold one: put it into a file only the \
         server's user can read and name that file (\"token_file\", \"secret_id_file\"), or name an environment \
         variable of the server (\"token_env\")"
    ))
}

/// serde quotes the offending value in these messages: keep what was expected, drop what was found.
fn without_values(message: &str) -> String {
    for start in [
        "invalid type",
        "invalid value",
        "unknown variant",
        "invalid length",
    ] {
        if message.starts_with(start) {
            return match message.rsplit_once(", expected ") {
                Some((_, expected)) => format!("{start}, expected {expected}"),
                None => start.to_owned(),
            };
        }
    }
    message.to_owned()
}

/// An absolute path: the agent's working directory means nothing to the person who writes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "PathBuf")]
pub(crate) struct AbsolutePath(PathBuf);

impl TryFrom<PathBuf> for AbsolutePath {
    type Error = &'static str;
    fn try_from(path: PathBuf) -> Result<Self, Self::Error> {
        if path.is_absolute() {
            Ok(Self(path))
        } else {
            Err("a path must be absolute, starting with /")
        }
    }
}

impl AbsolutePath {
    pub(crate) fn as_path(&self) -> &Path {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Sample {
        path: AbsolutePath,
        token_file: Option<AbsolutePath>,
        number: Option<u32>,
    }

    fn refusal(config: Value) -> String {
        parse::<Sample>("sample", &config).unwrap_err().message
    }

    #[test]
    fn secrets_are_refused_and_not_repeated() {
        for name in [
            "token",
            "Token",
            "secret_id",
            "secret-id",
            "password",
            "db_password",
            "pin",
            "user_pin",
            "apiKey",
            "aws_secret_access_key",
            "client_secret",
        ] {
            let message = refusal(json!({"path": "/k", "auth": {name: "hunter2"}}));
            assert!(
                message.contains(name) && message.contains("looks like a secret"),
                "{message}"
            );
            assert!(!message.contains("hunter2"));
        }
        for value in [
            "hvs.CAESIJ",
            "s.abcdefghijklmnopqrstuvwx",
            "eyJhbGciOiJFUzI1NiJ9.e30.c2ln",
            "-----BEGIN PRIVATE KEY-----",
        ] {
            let message = refusal(json!({"path": value}));
            assert!(message.contains("looks like a secret") && !message.contains(value));
        }
    }

    #[test]
    fn mistakes_are_named_and_values_are_not() {
        assert!(refusal(json!({"path": "/k", "paht": 1})).contains("unknown field `paht`"));
        assert!(refusal(json!({})).contains("missing field `path`"));
        assert!(refusal(json!({"path": "k"})).contains("absolute"));
        assert!(refusal(json!("k")).contains("JSON object"));
        let message = refusal(json!({"path": "/k", "number": "hunter2"}));
        assert!(
            message.contains("expected u32") && !message.contains("hunter2"),
            "{message}"
        );
        parse::<Sample>("sample", &json!({"path": "/k", "token_file": "/t"})).unwrap();
    }
}
