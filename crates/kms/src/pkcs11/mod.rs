//! The provider `pkcs11`: a key on a hardware security module or another PKCS#11 token.
//!
//! The vendor's library is loaded into the agent and called from a thread of its own ([`module`]).
//! A provider may name several tokens with the same key: each call takes the first that serves.

mod fault;
mod key;
mod library;
mod mechanism;
mod module;
mod pin;
mod token;

use std::sync::Arc;

use async_trait::async_trait;
use colcrypt_core::{DataKey, KeyEncryptionKey, secret};
use colcrypt_protocol::FailureKind;
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use self::{
    fault::Fault,
    key::{KeyName, Root, Version},
    library::{Library, TokenName},
    mechanism::Mechanism,
    module::Module,
    pin::{EnvName, PinSource},
    token::{Token, at_token},
};
use crate::{
    Findings, KmsError, Provider, WrappedKek,
    config::{self, AbsolutePath},
    error,
};

const KIND: &str = "pkcs11";
/// A label and a serial number in CK_TOKEN_INFO.
const MAX_LABEL: usize = 32;
const MAX_SERIAL: usize = 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    module: AbsolutePath,
    slots: Vec<SlotConfig>,
    pin_file: Option<AbsolutePath>,
    pin_env: Option<EnvName>,
    mechanism: Option<Mechanism>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SlotConfig {
    label: Option<String>,
    serial: Option<String>,
    pin_file: Option<AbsolutePath>,
    pin_env: Option<EnvName>,
}

/// A token and its PIN.
struct PinnedToken {
    token: TokenName,
    pin: Option<PinSource>,
}

pub(crate) struct Pkcs11Provider {
    module: Arc<Module>,
    places: Arc<[PinnedToken]>,
    mechanism: Option<Mechanism>,
    endpoint: String,
}

impl Pkcs11Provider {
    pub(crate) fn connect(config: &Value) -> Result<Self, KmsError> {
        let config: Config = config::parse(KIND, config)?;
        let pin = PinSource::of(config.pin_file, config.pin_env)?;
        let places = config
            .slots
            .into_iter()
            .map(|slot| slot.place(pin.as_ref()))
            .collect::<Result<Vec<_>, _>>()?;
        if places.is_empty() {
            return Err(KmsError::config(
                "\"slots\" must name at least one token, such as [{\"label\": \"colcrypt\"}]",
            ));
        }
        let names: Vec<String> = places.iter().map(|place| place.token.to_string()).collect();
        let path = config.module.as_path();
        Ok(Self {
            endpoint: format!("PKCS#11 module {}, {}", path.display(), names.join(", ")),
            module: Module::at(path),
            places: places.into(),
            mechanism: config.mechanism,
        })
    }
}

impl SlotConfig {
    fn place(self, pin: Option<&PinSource>) -> Result<PinnedToken, KmsError> {
        let sound = |text: &Option<String>, max| {
            text.as_deref()
                .is_none_or(|text| !text.is_empty() && text.len() <= max)
        };
        if self.label.is_none() && self.serial.is_none()
            || !sound(&self.label, MAX_LABEL)
            || !sound(&self.serial, MAX_SERIAL)
        {
            return Err(KmsError::config(
                "each of \"slots\" names a token by its \"label\" (up to 32 bytes), its \"serial\" (up to 16), or both",
            ));
        }
        Ok(PinnedToken {
            pin: PinSource::of(self.pin_file, self.pin_env)?.or_else(|| pin.cloned()),
            token: TokenName {
                label: self.label,
                serial: self.serial,
            },
        })
    }
}

/// Asks one token after the other until one serves. A refusal counts only if all tokens refuse: a token that is
/// away may still have the key. What does not authenticate at the key it names is told, whoever else is away.
fn first_that_serves<T>(
    library: &mut Library,
    places: &[PinnedToken],
    mut act: impl FnMut(&Token<'_>) -> Result<T, Fault>,
) -> Result<(usize, T), KmsError> {
    let mut failures: Vec<KmsError> = Vec::new();
    for (index, place) in places.iter().enumerate() {
        match at_token(library, &place.token, place.pin.as_ref(), &mut act) {
            Ok(value) => return Ok((index, value)),
            Err(error) => failures.push(error),
        }
    }
    Err(joined(failures))
}

fn joined(failures: Vec<KmsError>) -> KmsError {
    let kinds = || failures.iter().map(|error| error.kind);
    let kind = kinds()
        .find(|kind| *kind == FailureKind::Corrupt)
        .or(kinds().find(|kind| !kind.is_refusal()))
        .or(kinds().next())
        .unwrap_or(FailureKind::Config);
    let answered = failures.iter().filter_map(|error| error.answered).min();
    let mut messages: Vec<String> = failures.into_iter().map(|error| error.message).collect();
    messages.dedup();
    KmsError {
        answered,
        ..KmsError::new(kind, messages.join("; "))
    }
}

/// Wraps at one token, and unwraps at every other that is present, which proves that it has the same key. A spare
/// token with another key would otherwise fail only when it is needed.
fn wrap_everywhere(
    library: &mut Library,
    places: &[PinnedToken],
    name: &KeyName,
    mechanism: Option<Mechanism>,
    aad: &[u8],
    kek: &KeyEncryptionKey,
) -> Result<(usize, WrappedKek, Vec<KmsError>), KmsError> {
    let (at, made) = first_that_serves(library, places, |token| {
        Root::newest(token, name, mechanism)?.wrap(token, aad, kek)
    })?;
    let version = Version::parse(&made.root_key_version)?;
    let mut away = Vec::new();
    for (index, place) in places.iter().enumerate() {
        let again = at_token(library, &place.token, place.pin.as_ref(), |token| {
            key::unwrap(token, name, &version, aad, &made.wrapped)
        });
        match again {
            Ok(again) if again == *kek => {}
            Ok(_) => {
                return Err(KmsError::new(
                    FailureKind::BadReply,
                    format!("{}: wrap and unwrap gave another key", place.token),
                ));
            }
            Err(error) if index == at || error.kind == FailureKind::WrongRootKey => {
                return Err(error);
            }
            Err(error) => away.push(error),
        }
    }
    Ok((at, made, away))
}

#[async_trait]
impl Provider for Pkcs11Provider {
    fn endpoint(&self) -> &str {
        &self.endpoint
    }

    async fn check(&self, root_key: Option<&str>) -> Result<Findings, KmsError> {
        let name = root_key.map(KeyName::parse).transpose()?;
        let (places, mechanism) = (Arc::clone(&self.places), self.mechanism);
        self.module
            .run(move |library| check(library, &places, name.as_ref(), mechanism))
            .await
    }

    async fn wrap_kek(
        &self,
        root_key: &str,
        aad: &[u8],
        kek: &KeyEncryptionKey,
    ) -> Result<WrappedKek, KmsError> {
        let name = KeyName::parse(root_key)?;
        let (places, mechanism) = (Arc::clone(&self.places), self.mechanism);
        let aad = aad.to_vec();
        let kek = copy(kek)?;
        self.module
            .run(move |library| {
                wrap_everywhere(library, &places, &name, mechanism, &aad, &kek)
                    .map(|(_, made, _)| made)
            })
            .await
    }

    async fn generate_kek(
        &self,
        root_key: &str,
        aad: &[u8],
    ) -> Result<(KeyEncryptionKey, WrappedKek), KmsError> {
        let name = KeyName::parse(root_key)?;
        let (places, mechanism) = (Arc::clone(&self.places), self.mechanism);
        let aad = aad.to_vec();
        self.module
            .run(move |library| {
                let bytes = random(library, &places)?;
                let kek = KeyEncryptionKey::from_slice(&bytes[..])
                    .map_err(|error| error::crypto("the new KEK", error))?;
                wrap_everywhere(library, &places, &name, mechanism, &aad, &kek)
                    .map(|(_, made, _)| (kek, made))
            })
            .await
    }

    async fn generate_dek(&self) -> Result<DataKey, KmsError> {
        let places = Arc::clone(&self.places);
        self.module
            .run(move |library| {
                DataKey::from_slice(&random(library, &places)?[..])
                    .map_err(|error| error::crypto("the new DEK", error))
            })
            .await
    }

    async fn unwrap_kek(
        &self,
        root_key: &str,
        aad: &[u8],
        wrapped: &WrappedKek,
    ) -> Result<KeyEncryptionKey, KmsError> {
        let name = KeyName::parse(root_key)?;
        let version = Version::parse(&wrapped.root_key_version)?;
        let places = Arc::clone(&self.places);
        let (aad, wrapped) = (aad.to_vec(), wrapped.wrapped.clone());
        self.module
            .run(move |library| {
                first_that_serves(library, &places, |token| {
                    key::unwrap(token, &name, &version, &aad, &wrapped)
                })
                .map(|(_, kek)| kek)
            })
            .await
    }
}

/// Draws as many random bytes from the token as a key has.
fn random(
    library: &mut Library,
    places: &[PinnedToken],
) -> Result<Zeroizing<[u8; secret::KEY_LEN]>, KmsError> {
    let drawn = first_that_serves(library, places, |token| {
        let mut bytes = Zeroizing::new([0; secret::KEY_LEN]);
        token.session.generate_random_slice(&mut bytes[..])?;
        if bytes.iter().all(|byte| *byte == 0) {
            return Err(Fault::new(
                FailureKind::BadReply,
                "drew nothing but zeros for a new key",
            ));
        }
        Ok(bytes)
    });
    drawn.map(|(_, bytes)| bytes)
}

/// Copies the KEK for the library's thread, which may still use it after the caller has given up.
fn copy(kek: &KeyEncryptionKey) -> Result<KeyEncryptionKey, KmsError> {
    KeyEncryptionKey::from_slice(kek.expose()).map_err(|error| error::crypto("the KEK", error))
}

fn check(
    library: &mut Library,
    places: &[PinnedToken],
    name: Option<&KeyName>,
    mechanism: Option<Mechanism>,
) -> Result<Findings, KmsError> {
    let mut warnings = Vec::new();
    let mut root_key_version = None;
    let (at, server) = match name {
        None => {
            let (at, server) = first_that_serves(library, places, describe)?;
            for place in places.iter().skip(at + 1) {
                if let Err(error) = at_token(library, &place.token, place.pin.as_ref(), describe) {
                    warnings.push(error.message);
                }
            }
            (at, server)
        }
        Some(name) => {
            let random = KeyEncryptionKey::generate()
                .map_err(|error| error::crypto("the test key", error))?;
            let aad = b"colcrypt check";
            let (at, made, away) = wrap_everywhere(library, places, name, mechanism, aad, &random)?;
            let place = &places[at];
            let (server, of_key) = at_token(library, &place.token, place.pin.as_ref(), |token| {
                let root = Root::newest(token, name, mechanism)?;
                Ok((describe(token)?, root.warnings(token)?))
            })?;
            warnings.extend(of_key);
            warnings.extend(away.into_iter().map(|error| error.message));
            root_key_version = Some(made.root_key_version);
            (at, server)
        }
    };
    let place = &places[at];
    let info = at_token(library, &place.token, place.pin.as_ref(), token::info)?;
    if info.user_pin_count_low() {
        warnings.push(format!(
            "{}: somebody has entered a wrong PIN since the last login",
            place.token
        ));
    }
    if info.model().contains("SoftHSM") {
        warnings.push(
            "SoftHSM keeps keys in files, under the PIN: good for tests, no hardware protects them"
                .to_owned(),
        );
    }
    Ok(Findings {
        server,
        root_key_version,
        warnings,
    })
}

fn describe(token: &Token<'_>) -> Result<String, Fault> {
    let info = token::info(token)?;
    let logged_in = token::is_user(&token.session.get_session_info()?);
    Ok(format!(
        "{} {} {}.{}, token \"{}\" (serial {}){}",
        info.manufacturer_id(),
        info.model(),
        info.firmware_version().major(),
        info.firmware_version().minor(),
        info.label(),
        info.serial_number(),
        if logged_in { ", logged in" } else { "" }
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refusal(config: Value) -> String {
        let error = Pkcs11Provider::connect(&config).err().expect("a refusal");
        assert_eq!(error.kind, FailureKind::Config);
        error.message
    }

    #[test]
    fn configurations_are_parsed_and_pins_refused() {
        let good = json!({"module": "/m.so", "slots": [{"label": "t", "pin_env": "PIN"}, {"serial": "1"}],
            "pin_file": "/pin", "mechanism": "aes-kwp"});
        let provider = Pkcs11Provider::connect(&good).unwrap();
        assert_eq!(
            provider.places[0].pin.as_ref().unwrap().name(),
            "environment variable PIN"
        );
        assert_eq!(
            provider.places[1].pin.as_ref().unwrap().name(),
            "PIN file /pin"
        );
        for (config, part) in [
            (json!({"slots": []}), "missing field `module`"),
            (
                json!({"module": "m.so", "slots": [{"label": "t"}]}),
                "absolute",
            ),
            (
                json!({"module": "/m.so", "slots": []}),
                "at least one token",
            ),
            (
                json!({"module": "/m.so", "slots": [{}]}),
                "names a token by",
            ),
            (
                json!({"module": "/m.so", "slots": [{"label": ""}]}),
                "names a token by",
            ),
            (
                json!({"module": "/m.so", "slots": [{"label": "t", "pin": "hunter2"}]}),
                "\"pin\" looks like a secret",
            ),
            (
                json!({"module": "/m.so", "slots": [{"label": "t"}], "user_pin": "hunter2"}),
                "looks like a secret",
            ),
            (
                json!({"module": "/m.so", "slots": [{"label": "t"}], "pin_env": "hunter2"}),
                "NAME",
            ),
            (
                json!({"module": "/m.so", "slots": [{"label": "t"}], "pin_env": "471100"}),
                "NAME",
            ),
            (
                json!({"module": "/m.so", "slots": [{"label": "t"}], "pin_env": "A", "pin_file": "/a"}),
                "not both",
            ),
            (
                json!({"module": "/m.so", "slots": [{"label": "t"}], "mechanism": "hunter2"}),
                "expected one of",
            ),
        ] {
            let message = refusal(config);
            assert!(
                message.contains(part) && !message.contains("hunter2"),
                "{message}"
            );
        }
    }

    #[test]
    fn one_token_that_is_away_makes_a_refusal_an_outage() {
        let error = |kind| KmsError::new(kind, format!("{kind:?}"));
        let refused = || error(FailureKind::KeyNotFound);
        assert_eq!(
            joined(vec![refused(), refused()]).kind,
            FailureKind::KeyNotFound
        );
        let mixed = joined(vec![refused(), error(FailureKind::Unreachable)]);
        assert_eq!(mixed.kind, FailureKind::Unreachable);
        assert_eq!(mixed.message, "KeyNotFound; Unreachable");
    }
}
