//! From a provider's JSON to its own typed settings: unknown keys are refused, and so is anything
//! that looks like a secret. No message repeats a value, since that value may be the secret, nor a name that is no
//! setting's nor near one.

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
        // A path, an address or a name is shown with whatever goes wrong there.
        Value::String(text) if text.contains(char::is_control) => Err(KmsError::config(
            "no setting of a provider holds a control character, such as a line's end",
        )),
        // What has more digits than a double comes out of the catalog as another number than it went in as.
        Value::Number(number) if number.is_f64() => Err(KmsError::config(
            "no setting of a provider is a number with decimals, or one beyond 64 bits",
        )),
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

/// Longest name of a setting that is repeated, and longest word that is repeated though no setting is called so.
const LONGEST_NAME: usize = 40;
const LONGEST_WORD: usize = 16;
/// So many hexadecimal digits without another letter are no word.
const LEAST_HEX: usize = 8;

/// A name as a message may repeat it: a word or a few, as a person writes them. A secret that was pasted in its place
/// has digits, or other characters, or is longer.
fn shown(name: &str) -> String {
    let is_word = |byte: u8| byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'-' | b'.');
    if name.len() <= LONGEST_NAME && name.bytes().all(is_word) && !looks_secret(name) {
        format!("setting \"{name}\"")
    } else {
        "a setting (its name is not repeated: it may be one)".to_owned()
    }
}

fn inline_secret(name: &str) -> KmsError {
    KmsError::config(format!(
        "{} looks like a secret, and the catalog must not hold one: put it into a file only the \
         server's user can read and name that file (\"token_file\", \"secret_id_file\"), or name an environment \
         variable of the server (\"token_env\")",
        shown(name)
    ))
}

/// serde quotes the offending value in these messages: keep what was expected, drop what was found. The name of a
/// setting that there is none of is kept where it is a slip of the pen, or a short word.
fn without_values(message: &str) -> String {
    const UNKNOWN: &str = "unknown field `";
    if let Some(rest) = message.strip_prefix(UNKNOWN) {
        // From the back: the name may hold anything.
        let (name, known) = rest
            .rsplit_once("`, expected ")
            .or_else(|| rest.rsplit_once("`, there are no fields"))
            .unwrap_or((rest, ""));
        let (name, known) = match name.split_once("`, expected ") {
            // A name that ends the sentence by itself is none that a message repeats.
            Some(_) => ("", ""),
            None => (name, known),
        };
        let is_slip = known
            .split('`')
            .skip(1)
            .step_by(2)
            .any(|known| are_near(name, known));
        let is_hex = name.len() >= LEAST_HEX && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_word = (1..=LONGEST_WORD).contains(&name.len())
            && !is_hex
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let what = if is_slip || is_word {
            format!("{UNKNOWN}{name}`")
        } else {
            "an unknown setting, whose name is not repeated since it may be a secret".to_owned()
        };
        return if known.is_empty() {
            what
        } else {
            format!("{what}, expected {known}")
        };
    }
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

/// Whether one name becomes the other by few changes, for its length, of single characters.
fn are_near(one: &str, other: &str) -> bool {
    const LONGEST: usize = 64;
    if one.len() > LONGEST || !one.is_ascii() || one.bytes().any(|byte| byte.is_ascii_control()) {
        return false;
    }
    let (one, other) = (one.as_bytes(), other.as_bytes());
    // Levenshtein's distance, row by row.
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, byte) in one.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (column, wanted) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(byte != wanted);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()] <= (other.len() / 3).max(2)
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

    #[test]
    fn a_secret_in_a_names_place_is_not_repeated() {
        for name in [
            "hunter2-hunter2",
            "hvs.CAESIJ",
            "deadbeefdeadbeef",
            "p\u{7}th",
            "two\nlines",
            "x`, expected `x",
            "x`, there are no fields",
            "correct horse battery staple",
            "secret-0123456789abcdef",
            &"token".repeat(50),
        ] {
            for config in [
                json!({"path": "/k", name: 1}),
                json!({"path": "/k", name: "v"}),
            ] {
                let message = refusal(config);
                assert!(!message.contains(name), "{message}");
                assert!(!message.chars().any(char::is_control), "{message:?}");
            }
        }
        let message = refusal(json!({"path": "/k", "tokn_file": "/t"}));
        assert!(
            message.contains("`tokn_file`, expected one of `path`, `token_file`"),
            "{message}"
        );
    }

    /// They would be in the messages that name a path or an address. Found by fuzzing.
    #[test]
    fn values_hold_no_control_characters() {
        for config in [
            json!({"path": "/k\u{7f}"}),
            json!({"path": "/k", "token_file": "/a\nb"}),
            json!({"path": "/k", "slots": [{"label": "\u{85}"}]}),
        ] {
            let message = refusal(config);
            assert!(message.contains("control character"), "{message}");
            assert!(!message.contains(char::is_control), "{message:?}");
        }
    }

    /// Through the catalog's jsonb and ours a number of many digits becomes another.
    #[test]
    fn numbers_that_change_on_the_way_are_refused() {
        for number in [
            "0.1234567890123456789",
            "1.5",
            "123456789012345678901234567890",
        ] {
            let config = format!("{{\"path\": \"/k\", \"number\": {number}}}");
            let message = refusal(serde_json::from_str(&config).unwrap());
            assert!(
                message.contains("decimals") && !message.contains("1"),
                "{message}"
            );
        }
    }
}
