//! The ways a token can wrap a KEK, and the check value by which a root key is known again.
//!
//! | name | what is wrapped | bound to keyring and KEK by |
//! | --- | --- | --- |
//! | `aes-gcm` | the KEK | additional data |
//! | `aes-kwp` | the KEK and a digest of its identity | that digest, under the wrap's integrity check |
//! | `rsa-oaep-sha256`, `rsa-oaep-sha1` | the same | that digest |

use aws_lc_rs::digest;
use colcrypt_core::{KeyEncryptionKey, secret};
use colcrypt_protocol::FailureKind;
use cryptoki::{
    mechanism::{
        Mechanism as Call, MechanismType,
        aead::GcmParams,
        rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource},
    },
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::fault::Fault;
use crate::{
    KmsError,
    bound_kek::{self, NotBound},
    error,
};

const NONCE_LEN: usize = 12;
const TAG_BITS: u64 = 128;
/// Bytes of a check value, as everywhere in colcrypt.
const CHECK_LEN: usize = 5;
/// The nonce and additional data of a GCM check value. The message is empty and always the same, so
/// using the nonce again says nothing new; a random nonce meets it once in 2⁹⁶.
const CHECK_NONCE: &[u8; NONCE_LEN] = b"colcrypt kcv";
const CHECK_AAD: &[u8] = b"colcrypt pkcs11 root key 1";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Mechanism {
    #[serde(rename = "aes-gcm")]
    AesGcm,
    #[serde(rename = "aes-kwp")]
    AesKwp,
    #[serde(rename = "rsa-oaep-sha256")]
    OaepSha256,
    #[serde(rename = "rsa-oaep-sha1")]
    OaepSha1,
}

impl Mechanism {
    const ALL: [Self; 4] = [Self::AesGcm, Self::AesKwp, Self::OaepSha256, Self::OaepSha1];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AesGcm => "aes-gcm",
            Self::AesKwp => "aes-kwp",
            Self::OaepSha256 => "rsa-oaep-sha256",
            Self::OaepSha1 => "rsa-oaep-sha1",
        }
    }

    pub(super) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }

    pub(super) fn is_rsa(self) -> bool {
        matches!(self, Self::OaepSha256 | Self::OaepSha1)
    }

    pub(super) fn call_type(self) -> MechanismType {
        match self {
            Self::AesGcm => MechanismType::AES_GCM,
            Self::AesKwp => MechanismType::AES_KEY_WRAP_PAD,
            Self::OaepSha256 | Self::OaepSha1 => MechanismType::RSA_PKCS_OAEP,
        }
    }

    fn oaep(self) -> Call<'static> {
        let (hash, mask) = match self {
            Self::OaepSha1 => (MechanismType::SHA1, PkcsMgfType::MGF1_SHA1),
            _ => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
        };
        // Without a label, which few tokens take.
        Call::RsaPkcsOaep(PkcsOaepParams::new(hash, mask, PkcsOaepSource::empty()))
    }
}

/// A root key on a token: a secret key, or the two halves of a pair.
#[derive(Clone, Copy)]
pub(super) struct Handle {
    /// Unwraps; the secret or private key.
    pub(super) key: ObjectHandle,
    /// Wraps, where that is another object.
    pub(super) public: Option<ObjectHandle>,
}

pub(super) fn wrap(
    session: &Session,
    mechanism: Mechanism,
    root: Handle,
    aad: &[u8],
    kek: &KeyEncryptionKey,
) -> Result<Vec<u8>, Fault> {
    match mechanism {
        Mechanism::AesGcm => {
            let mut nonce = [0; NONCE_LEN];
            secret::fill_random(&mut nonce).map_err(|e| error::crypto("the nonce", e))?;
            let sealed = seal(session, root.key, &mut nonce, aad, kek.expose())?;
            // The nonce as it is now: some tokens put their own into its place.
            Ok([&nonce[..], &sealed].concat())
        }
        Mechanism::AesKwp => with_object(session, &bound_kek::bind(aad, kek)[..], |object| {
            Ok(session.wrap_key(&Call::AesKeyWrapPad, root.key, object)?)
        }),
        Mechanism::OaepSha256 | Mechanism::OaepSha1 => {
            let public = root.public.ok_or_else(|| {
                KmsError::config("has the private key and not its public key: import that, too")
            })?;
            Ok(session.encrypt(&mechanism.oaep(), public, &bound_kek::bind(aad, kek)[..])?)
        }
    }
}

pub(super) fn unwrap(
    session: &Session,
    mechanism: Mechanism,
    root: Handle,
    aad: &[u8],
    wrapped: &[u8],
) -> Result<KeyEncryptionKey, Fault> {
    let plain = match mechanism {
        Mechanism::AesGcm => {
            let Some((nonce, sealed)) = wrapped.split_first_chunk::<NONCE_LEN>() else {
                return Err(altered());
            };
            let mut nonce = *nonce;
            let parameters = GcmParams::new(&mut nonce, aad, TAG_BITS.into())?;
            Zeroizing::new(session.decrypt(&Call::AesGcm(parameters), root.key, sealed)?)
        }
        Mechanism::AesKwp => {
            let object =
                session.unwrap_key(&Call::AesKeyWrapPad, root.key, wrapped, &template())?;
            let value = session.get_attributes(object, &[AttributeType::Value]);
            // The session's end destroys it, too.
            let _ = session.destroy_object(object);
            let mut found = value?.into_iter();
            match found.next() {
                Some(Attribute::Value(value)) => Zeroizing::new(value),
                _ => {
                    return Err(Fault::new(
                        FailureKind::BadReply,
                        "unwrapped the KEK and does not show it",
                    ));
                }
            }
        }
        Mechanism::OaepSha256 | Mechanism::OaepSha1 => {
            Zeroizing::new(session.decrypt(&mechanism.oaep(), root.key, wrapped)?)
        }
    };
    let strange = || {
        Fault::new(
            FailureKind::BadReply,
            "unwrapped something else than a 256-bit key",
        )
    };
    if mechanism == Mechanism::AesGcm {
        return KeyEncryptionKey::from_slice(&plain).map_err(|_| strange());
    }
    bound_kek::unbind(aad, &plain).map_err(|why| match why {
        NotBound::Elsewhere => Fault::new(
            FailureKind::Corrupt,
            "unwrapped the KEK of another keyring: it was moved from another row",
        ),
        NotBound::Shape => strange(),
    })
}

pub(super) fn altered() -> Fault {
    Fault::new(
        FailureKind::Corrupt,
        "cannot unwrap the KEK: it was altered, or moved from another row",
    )
}

/// What tells this root key from every other, without telling anything of it.
pub(super) fn check_value(
    session: &Session,
    mechanism: Mechanism,
    root: Handle,
) -> Result<String, Fault> {
    let value = match mechanism {
        Mechanism::AesGcm => {
            let mut nonce = *CHECK_NONCE;
            let tag = seal(session, root.key, &mut nonce, CHECK_AAD, &[])?;
            if nonce != *CHECK_NONCE {
                return id(session, root);
            }
            tag
        }
        Mechanism::AesKwp => with_object(session, &[0; secret::KEY_LEN], |object| {
            Ok(session.wrap_key(&Call::AesKeyWrapPad, root.key, object)?)
        })?,
        Mechanism::OaepSha256 | Mechanism::OaepSha1 => {
            let wanted = [AttributeType::Modulus];
            match session.get_attributes(root.key, &wanted)?.first() {
                Some(Attribute::Modulus(modulus)) => {
                    digest::digest(&digest::SHA256, modulus).as_ref().to_vec()
                }
                _ => return id(session, root),
            }
        }
    };
    match value.get(..CHECK_LEN) {
        Some(value) => Ok(hex::encode(value)),
        None => Err(Fault::new(
            FailureKind::BadReply,
            "gave too short an answer for a check value",
        )),
    }
}

/// For tokens that do not compute the same twice: the key's name for itself.
fn id(session: &Session, root: Handle) -> Result<String, Fault> {
    match session
        .get_attributes(root.key, &[AttributeType::Id])?
        .first()
    {
        Some(Attribute::Id(id)) if !id.is_empty() => Ok(format!("id-{}", hex::encode(id))),
        _ => Err(KmsError::config(
            "draws its own nonces, so the root key needs a CKA_ID to be known by",
        )
        .into()),
    }
}

fn seal(
    session: &Session,
    key: ObjectHandle,
    nonce: &mut [u8; NONCE_LEN],
    aad: &[u8],
    plain: &[u8],
) -> Result<Vec<u8>, Fault> {
    let parameters = GcmParams::new(nonce, aad, TAG_BITS.into())?;
    let sealed = session.encrypt(&Call::AesGcm(parameters), key, plain)?;
    if sealed.len() != plain.len() + TAG_BITS as usize / 8 {
        return Err(Fault::new(
            FailureKind::BadReply,
            "encrypted to another length than AES-GCM's",
        ));
    }
    Ok(sealed)
}

/// Of an object that lives as long as the session and may be taken out of the token again.
fn template() -> [Attribute; 6] {
    [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
    ]
}

/// C_WrapKey takes objects, so the bytes become one for as long as the call takes.
fn with_object<T>(
    session: &Session,
    value: &[u8],
    act: impl FnOnce(ObjectHandle) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let mut attributes = template().to_vec();
    attributes.push(Attribute::Value(value.to_vec()));
    let created = session.create_object(&attributes);
    for attribute in &mut attributes {
        if let Attribute::Value(value) = attribute {
            zeroize::Zeroize::zeroize(value);
        }
    }
    let object = created?;
    let result = act(object);
    let _ = session.destroy_object(object);
    result
}
