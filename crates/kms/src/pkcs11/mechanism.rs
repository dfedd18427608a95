//! The ways a token can wrap a KEK, and the check value by which a root key is known again.
//!
//! | name | what is wrapped | bound to keyring and KEK by |
//! | --- | --- | --- |
//! | `aes-gcm` | the KEK | additional data |
//! | `aes-gcm-iv16` | the same, under a nonce of 16 bytes that the token drew and appended | additional data |
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
        vendor_defined::VendorDefinedMechanism,
    },
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{fault::Fault, token::Token};
use crate::{
    KmsError,
    bound_kek::{self, NotBound},
    error,
};

const NONCE_LEN: usize = 12;
/// What a Thales Luna HSM in FIPS mode draws by itself, whatever it is given, and appends to what it encrypted.
const APPENDED_NONCE_LEN: usize = 16;
/// CKM_AES_KWP as Thales Luna HSMs have numbered it: RFC 5649, as AES_KEY_WRAP_PAD is here.
const LUNA_AES_KWP: u64 = 0x8000_0171;
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
    #[serde(rename = "aes-gcm-iv16")]
    AesGcmAppended,
    #[serde(rename = "aes-kwp")]
    AesKwp,
    #[serde(rename = "rsa-oaep-sha256")]
    OaepSha256,
    #[serde(rename = "rsa-oaep-sha1")]
    OaepSha1,
}

impl Mechanism {
    const ALL: [Self; 5] = [
        Self::AesGcm,
        Self::AesGcmAppended,
        Self::AesKwp,
        Self::OaepSha256,
        Self::OaepSha1,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AesGcm => "aes-gcm",
            Self::AesGcmAppended => "aes-gcm-iv16",
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

    /// Whether a token offers it. `offered` is its list as the binding has it, which leaves out vendors' own numbers.
    pub(super) fn is_offered(self, token: &Token<'_>, offered: &[MechanismType]) -> bool {
        let in_list = match self {
            Self::AesGcm | Self::AesGcmAppended => MechanismType::AES_GCM,
            Self::AesKwp => MechanismType::AES_KEY_WRAP_PAD,
            Self::OaepSha256 | Self::OaepSha1 => MechanismType::RSA_PKCS_OAEP,
        };
        let by_luna = || {
            let luna = luna_kwp().filter(|_| self == Self::AesKwp);
            luna.is_some_and(|luna| token.context.get_mechanism_info(token.slot, luna).is_ok())
        };
        offered.contains(&in_list) || by_luna()
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

fn luna_kwp() -> Option<MechanismType> {
    MechanismType::new_vendor_defined(LUNA_AES_KWP).ok()
}

/// The ways to call AES key wrap with padding as an encryption.
fn kwp_calls() -> impl Iterator<Item = Call<'static>> {
    let luna = luna_kwp().map(|kind| {
        let call = VendorDefinedMechanism::new::<()>(kind, None);
        Call::VendorDefined(call)
    });
    std::iter::once(Call::AesKeyWrapPad).chain(luna)
}

/// Wraps the KEK. Returns what did it as well, since only the token's answer tells who drew the nonce.
pub(super) fn wrap(
    session: &Session,
    mechanism: Mechanism,
    root: Handle,
    aad: &[u8],
    kek: &KeyEncryptionKey,
) -> Result<(Mechanism, Vec<u8>), Fault> {
    let wrapped = match mechanism {
        Mechanism::AesGcm | Mechanism::AesGcmAppended => {
            let mut nonce = [0; NONCE_LEN];
            secret::fill_random(&mut nonce).map_err(|e| error::crypto("the nonce", e))?;
            let sealed = seal(session, root.key, nonce, aad, kek.expose())?;
            let by = match sealed.nonce.len() {
                APPENDED_NONCE_LEN => Mechanism::AesGcmAppended,
                _ => Mechanism::AesGcm,
            };
            return Ok((by, [sealed.nonce, sealed.bytes].concat()));
        }
        Mechanism::AesKwp => kwp_wrap(session, root.key, &bound_kek::bind(aad, kek)[..])?,
        Mechanism::OaepSha256 | Mechanism::OaepSha1 => {
            let public = root.public.ok_or_else(|| {
                KmsError::config("has the private key and not its public key: import that, too")
            })?;
            session.encrypt(&mechanism.oaep(), public, &bound_kek::bind(aad, kek)[..])?
        }
    };
    Ok((mechanism, wrapped))
}

/// Encrypted, where the token does that: the bytes then never become an object that can be taken out of it.
fn kwp_wrap(session: &Session, key: ObjectHandle, plain: &[u8]) -> Result<Vec<u8>, Fault> {
    for call in kwp_calls() {
        match session.encrypt(&call, key, plain).map_err(Fault::from) {
            Err(fault) if fault.is_about_the_way() => {}
            other => return other,
        }
    }
    with_object(session, plain, |object| {
        Ok(session.wrap_key(&Call::AesKeyWrapPad, key, object)?)
    })
}

fn kwp_unwrap(
    session: &Session,
    key: ObjectHandle,
    wrapped: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Fault> {
    for call in kwp_calls() {
        match session.decrypt(&call, key, wrapped).map_err(Fault::from) {
            Err(fault) if fault.is_about_the_way() => {}
            other => return other.map(Zeroizing::new),
        }
    }
    let object = session.unwrap_key(&Call::AesKeyWrapPad, key, wrapped, &template())?;
    let value = session.get_attributes(object, &[AttributeType::Value]);
    // The session's end destroys it, too.
    let _ = session.destroy_object(object);
    match value?.into_iter().next() {
        Some(Attribute::Value(value)) => Ok(Zeroizing::new(value)),
        _ => Err(Fault::new(
            FailureKind::BadReply,
            "unwrapped the KEK and does not show it",
        )),
    }
}

pub(super) fn unwrap(
    session: &Session,
    mechanism: Mechanism,
    root: Handle,
    aad: &[u8],
    wrapped: &[u8],
) -> Result<KeyEncryptionKey, Fault> {
    let is_gcm = matches!(mechanism, Mechanism::AesGcm | Mechanism::AesGcmAppended);
    let plain = match mechanism {
        Mechanism::AesGcm | Mechanism::AesGcmAppended => {
            let length = match mechanism {
                Mechanism::AesGcmAppended => APPENDED_NONCE_LEN,
                _ => NONCE_LEN,
            };
            let Some((nonce, sealed)) = wrapped.split_at_checked(length) else {
                return Err(altered());
            };
            let mut nonce = nonce.to_vec();
            let parameters = GcmParams::new(&mut nonce, aad, TAG_BITS.into())?;
            Zeroizing::new(session.decrypt(&Call::AesGcm(parameters), root.key, sealed)?)
        }
        Mechanism::AesKwp => kwp_unwrap(session, root.key, wrapped)?,
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
    if is_gcm {
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
        Mechanism::AesGcm | Mechanism::AesGcmAppended => {
            let sealed = seal(session, root.key, *CHECK_NONCE, CHECK_AAD, &[])?;
            if sealed.nonce != *CHECK_NONCE {
                return id(session, root);
            }
            sealed.bytes
        }
        Mechanism::AesKwp => kwp_wrap(session, root.key, &[0; secret::KEY_LEN])?,
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

/// What AES-GCM made: ciphertext with tag, and the nonce it was made with.
struct Sealed {
    nonce: Vec<u8>,
    bytes: Vec<u8>,
}

/// Encrypts under this nonce, or under one that the token insists on: put into the place of ours, as some do, put into
/// an empty place only, as AWS CloudHSM does, or appended to what was encrypted, as Thales Luna does in FIPS mode.
fn seal(
    session: &Session,
    key: ObjectHandle,
    nonce: [u8; NONCE_LEN],
    aad: &[u8],
    plain: &[u8],
) -> Result<Sealed, Fault> {
    let encrypt = |nonce: &mut [u8; NONCE_LEN]| -> Result<Vec<u8>, Fault> {
        let parameters = GcmParams::new(nonce, aad, TAG_BITS.into())?;
        Ok(session.encrypt(&Call::AesGcm(parameters), key, plain)?)
    };
    let mut used = nonce;
    let mut bytes = match encrypt(&mut used) {
        Err(fault) if fault.is_about_parameters() => {
            used = [0; NONCE_LEN];
            encrypt(&mut used).map_err(|_| fault)?
        }
        other => other?,
    };
    let expected = plain.len() + TAG_BITS as usize / 8;
    if bytes.len() == expected + APPENDED_NONCE_LEN {
        let nonce = bytes.split_off(expected);
        return Ok(Sealed { nonce, bytes });
    }
    if bytes.len() != expected {
        return Err(Fault::new(
            FailureKind::BadReply,
            "encrypted to another length than AES-GCM's",
        ));
    }
    // The same nonce twice would give the key away.
    if used == [0; NONCE_LEN] {
        return Err(Fault::new(
            FailureKind::BadReply,
            "wants to draw the nonce and drew none",
        ));
    }
    Ok(Sealed {
        nonce: used.to_vec(),
        bytes,
    })
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
