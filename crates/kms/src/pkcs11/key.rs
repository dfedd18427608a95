//! Root keys as objects on a token: found by label or id, judged by their attributes, never created.

use colcrypt_core::KeyEncryptionKey;
use colcrypt_protocol::FailureKind;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};

use super::{
    fault::Fault,
    mechanism::{self, Handle, Mechanism},
    token::Token,
};
use crate::{KmsError, WrappedKek};

/// More keys of one label than rotations in a lifetime.
const MAX_KEYS: usize = 64;
const AES_256_LEN: u64 = 32;

/// The root key as SQL names it: a label, or `id:` and hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KeyName {
    Label(String),
    Id(Vec<u8>),
}

impl KeyName {
    pub(super) fn parse(root_key: &str) -> Result<Self, KmsError> {
        match root_key.strip_prefix("id:") {
            _ if root_key.is_empty() => Err(KmsError::config(
                "give the label of a key on the token as the root key, or 'id:' and its CKA_ID in hexadecimal",
            )),
            None => Ok(Self::Label(root_key.to_owned())),
            Some(digits) => match hex::decode(digits) {
                Ok(id) if !id.is_empty() => Ok(Self::Id(id)),
                _ => Err(KmsError::config(
                    "after 'id:' the root key's CKA_ID is expected in hexadecimal digits",
                )),
            },
        }
    }

    fn attribute(&self) -> Attribute {
        match self {
            Self::Label(label) => Attribute::Label(label.clone().into_bytes()),
            Self::Id(id) => Attribute::Id(id.clone()),
        }
    }
}

/// Which root key was used how, as it is kept beside the wrapped KEK: `aes-gcm:1f2e3d4c5b`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) mechanism: Mechanism,
    pub(super) check_value: String,
}

impl Version {
    pub(super) fn parse(text: &str) -> Result<Self, KmsError> {
        let parts = text.split_once(':');
        match parts.and_then(|(name, value)| Some((Mechanism::of_name(name)?, value))) {
            Some((mechanism, check_value)) => Ok(Self {
                mechanism,
                check_value: check_value.to_owned(),
            }),
            None => Err(KmsError::new(
                FailureKind::Corrupt,
                "the root key's version is not one that this provider writes: it was altered",
            )),
        }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.mechanism.name(), self.check_value)
    }
}

struct Found {
    handle: Handle,
    id: Vec<u8>,
}

/// Every key of this name that the mechanism's kind of key fits, the highest CKA_ID last.
fn find(token: &Token<'_>, name: &KeyName, rsa: bool) -> Result<Vec<Found>, Fault> {
    let (class, kind) = if rsa {
        (ObjectClass::PRIVATE_KEY, KeyType::RSA)
    } else {
        (ObjectClass::SECRET_KEY, KeyType::AES)
    };
    let objects = token.session.find_objects(&[
        Attribute::Class(class),
        Attribute::KeyType(kind),
        name.attribute(),
    ])?;
    if objects.len() > MAX_KEYS {
        return Err(KmsError::config("has too many keys of this name").into());
    }
    let mut found = Vec::with_capacity(objects.len());
    for key in objects {
        let id = id_of(token, key)?;
        let public = if rsa {
            public_of(token, name, &id)?
        } else {
            None
        };
        found.push(Found {
            handle: Handle { key, public },
            id,
        });
    }
    // As numbers: a longer id is a higher one.
    found.sort_by(|a, b| (a.id.len(), &a.id).cmp(&(b.id.len(), &b.id)));
    Ok(found)
}

fn id_of(token: &Token<'_>, key: ObjectHandle) -> Result<Vec<u8>, Fault> {
    let attributes = token.session.get_attributes(key, &[AttributeType::Id])?;
    Ok(match attributes.into_iter().next() {
        Some(Attribute::Id(id)) => id,
        _ => Vec::new(),
    })
}

fn public_of(token: &Token<'_>, name: &KeyName, id: &[u8]) -> Result<Option<ObjectHandle>, Fault> {
    let mut template = vec![
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::KeyType(KeyType::RSA),
        name.attribute(),
    ];
    if let (KeyName::Label(_), false) = (name, id.is_empty()) {
        template.push(Attribute::Id(id.to_vec()));
    }
    Ok(token.session.find_objects(&template)?.into_iter().next())
}

fn not_found(name: &KeyName) -> Fault {
    let what = match name {
        KeyName::Label(label) => format!("label \"{label}\""),
        KeyName::Id(id) => format!("id {}", hex::encode(id)),
    };
    Fault::new(
        FailureKind::KeyNotFound,
        format!("has no AES or RSA key of {what} that this login can see"),
    )
}

/// The newest key of this name, and how to use it.
pub(super) struct Root {
    handle: Handle,
    mechanism: Mechanism,
}

impl Root {
    pub(super) fn newest(
        token: &Token<'_>,
        name: &KeyName,
        wanted: Option<Mechanism>,
    ) -> Result<Self, Fault> {
        let kinds: &[bool] = match wanted {
            Some(mechanism) if mechanism.is_rsa() => &[true],
            Some(_) => &[false],
            None => &[false, true],
        };
        for &rsa in kinds {
            let mut found = find(token, name, rsa)?;
            let Some(newest) = found.pop() else { continue };
            if found.last().is_some_and(|next| next.id == newest.id) {
                return Err(KmsError::config(
                    "has several keys of this name and CKA_ID: give the newest the highest CKA_ID",
                )
                .into());
            }
            refuse_pin_each_time(token, newest.handle.key)?;
            let mechanism = match wanted {
                Some(mechanism) => mechanism,
                None => choose(token, newest.handle, rsa)?,
            };
            return Ok(Self {
                handle: newest.handle,
                mechanism,
            });
        }
        Err(not_found(name))
    }

    pub(super) fn wrap(
        &mut self,
        token: &Token<'_>,
        aad: &[u8],
        kek: &KeyEncryptionKey,
    ) -> Result<WrappedKek, Fault> {
        let wrap = |mechanism| mechanism::wrap(token.session, mechanism, self.handle, aad, kek);
        let (by, wrapped) = match wrap(self.mechanism) {
            // OAEP's hash is in no list: the better one is tried first.
            Err(fault)
                if self.mechanism == Mechanism::OaepSha256 && fault.is_about_parameters() =>
            {
                wrap(Mechanism::OaepSha1)?
            }
            other => other?,
        };
        self.mechanism = by;
        let check_value = mechanism::check_value(token.session, self.mechanism, self.handle)?;
        let version = Version {
            mechanism: self.mechanism,
            check_value,
        };
        Ok(WrappedKek {
            wrapped,
            root_key_version: version.to_string(),
        })
    }

    /// What a careful keeper of the key would want to know.
    pub(super) fn warnings(&self, token: &Token<'_>) -> Result<Vec<String>, Fault> {
        let wanted = [
            AttributeType::Sensitive,
            AttributeType::Extractable,
            AttributeType::ValueLen,
            AttributeType::EndDate,
        ];
        let mut warnings = Vec::new();
        for attribute in token.session.get_attributes(self.handle.key, &wanted)? {
            match attribute {
                Attribute::Sensitive(false) => warnings.push(
                    "the root key is not sensitive (CKA_SENSITIVE): whoever has the PIN can read it"
                        .to_owned(),
                ),
                Attribute::Extractable(true) => warnings.push(
                    "the root key is extractable (CKA_EXTRACTABLE): it can be taken out of the token"
                        .to_owned(),
                ),
                Attribute::ValueLen(length) if *length < AES_256_LEN => warnings.push(format!(
                    "the root key has {} bits: AES-256 is what the keys below it have",
                    *length * 8
                )),
                Attribute::EndDate(date) if !date.is_empty() => warnings.push(
                    "the root key has an end date (CKA_END_DATE): the token may refuse it from then on"
                        .to_owned(),
                ),
                _ => {}
            }
        }
        match self.mechanism {
            Mechanism::AesGcm | Mechanism::AesGcmAppended => {}
            Mechanism::AesKwp => warnings.push(
                "AES-KWP may show the KEK to the token as an extractable object for a moment: prefer AES-GCM"
                    .to_owned(),
            ),
            Mechanism::OaepSha256 | Mechanism::OaepSha1 => warnings.push(
                "RSA-OAEP: whoever has the public key can wrap a KEK of their own; prefer an AES key"
                    .to_owned(),
            ),
        }
        Ok(warnings)
    }
}

/// A key that asks for the PIN at each use cannot be used by a server: better said when a keyring is made.
fn refuse_pin_each_time(token: &Token<'_>, key: ObjectHandle) -> Result<(), Fault> {
    let wanted = [AttributeType::AlwaysAuthenticate];
    match token.session.get_attributes(key, &wanted)?.first() {
        Some(Attribute::AlwaysAuthenticate(true)) => Err(KmsError::config(
            "wants the PIN at each use of the root key (CKA_ALWAYS_AUTHENTICATE), which is not done here: make the key \
             without it",
        )
        .into()),
        _ => Ok(()),
    }
}

/// The best that key and token can do.
fn choose(token: &Token<'_>, handle: Handle, rsa: bool) -> Result<Mechanism, Fault> {
    if rsa {
        return Ok(Mechanism::OaepSha256);
    }
    let offered = token.context.get_mechanism_list(token.slot)?;
    let wanted = [
        AttributeType::Encrypt,
        AttributeType::Decrypt,
        AttributeType::Wrap,
        AttributeType::Unwrap,
    ];
    let attributes = token.session.get_attributes(handle.key, &wanted)?;
    let (mut encrypts, mut wraps) = (true, true);
    for attribute in attributes {
        match attribute {
            Attribute::Encrypt(false) | Attribute::Decrypt(false) => encrypts = false,
            Attribute::Wrap(false) | Attribute::Unwrap(false) => wraps = false,
            _ => {}
        }
    }
    if encrypts && Mechanism::AesGcm.is_offered(token, &offered) {
        Ok(Mechanism::AesGcm)
    } else if (wraps || encrypts) && Mechanism::AesKwp.is_offered(token, &offered) {
        Ok(Mechanism::AesKwp)
    } else {
        Err(KmsError::config(
            "offers neither AES-GCM nor AES key wrap with padding with this key: see CKA_ENCRYPT, CKA_DECRYPT, \
             CKA_WRAP and CKA_UNWRAP, or use an RSA key",
        )
        .into())
    }
}

/// Unwraps with the key that wrapped, which need not be the newest.
pub(super) fn unwrap(
    token: &Token<'_>,
    name: &KeyName,
    version: &Version,
    aad: &[u8],
    wrapped: &[u8],
) -> Result<KeyEncryptionKey, Fault> {
    let mechanism = version.mechanism;
    let found = find(token, name, mechanism.is_rsa())?;
    let check = |key: &Found| mechanism::check_value(token.session, mechanism, key.handle);
    match found.as_slice() {
        [] => Err(not_found(name)),
        [key] => {
            let result = mechanism::unwrap(token.session, mechanism, key.handle, aad, wrapped);
            match result {
                // The code says nothing: another key, an altered KEK, or a defect? The key can tell.
                Err(fault) if fault.is_ambiguous() => match check(key) {
                    Ok(got) if got == version.check_value => Err(mechanism::altered()),
                    Ok(got) => Err(another(&version.check_value, &got)),
                    // It may unwrap and not wrap: then only the first answer is left.
                    Err(second) if second.is_refused_use() => Err(mechanism::altered()),
                    Err(_) => Err(fault),
                },
                other => other,
            }
        }
        keys => {
            let mut others = Vec::new();
            for key in keys {
                let got = check(key)?;
                if got == version.check_value {
                    let result =
                        mechanism::unwrap(token.session, mechanism, key.handle, aad, wrapped);
                    return match result {
                        Err(fault) if fault.is_ambiguous() => Err(mechanism::altered()),
                        other => other,
                    };
                }
                others.push(got);
            }
            Err(another(&version.check_value, &others.join(", ")))
        }
    }
}

fn another(expected: &str, got: &str) -> Fault {
    Fault::new(
        FailureKind::WrongRootKey,
        format!(
            "has another key of this name: wrong root key: expected check value {expected}, got {got}"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_by_label_or_id() {
        let parse = |text: &str| KeyName::parse(text);
        assert_eq!(parse("app"), Ok(KeyName::Label("app".to_owned())));
        assert_eq!(parse("id:0A0b"), Ok(KeyName::Id(vec![10, 11])));
        for bad in ["", "id:", "id:0", "id:zz"] {
            assert_eq!(parse(bad).unwrap_err().kind, FailureKind::Config, "{bad}");
        }
    }

    #[test]
    fn versions_read_as_they_are_written() {
        for text in ["aes-gcm:0011223344", "rsa-oaep-sha1:id-07"] {
            assert_eq!(Version::parse(text).unwrap().to_string(), text);
        }
        for bad in ["", "aes-gcm", "aes-ecb:00", "v1"] {
            let error = Version::parse(bad).unwrap_err();
            assert_eq!(error.kind, FailureKind::Corrupt, "{bad}");
        }
    }
}
