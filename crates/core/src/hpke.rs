//! HPKE (RFC 9180) in its base mode with X25519, HKDF-SHA256 and AES-256-GCM, for one message a key: what seals a KEK
//! to a public key whose private key is nowhere near.
//!
//! The pieces are aws-lc's; what is here is how the RFC puts them together. Libraries that do the same hide the
//! sender's ephemeral key, with which alone it can be shown that what was sealed opens. `crates/kms` tests seal and
//! open against rustls' HPKE, both ways, and `docs/escrow_reader.py` is a third reader.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    agreement::{self, PrivateKey, UnparsedPublicKey, X25519},
    hmac,
};
use zeroize::Zeroizing;

use crate::{CryptoError, secret::fill_random};

/// Bytes of a public key, a private key and a key that is derived.
const LEN: usize = 32;
/// What comes before the ciphertext: the sender's ephemeral public key.
pub const ENCAPSULATED_LEN: usize = LEN;
pub const TAG_LEN: usize = 16;
const NONCE_LEN: usize = 12;
const KEM: &[u8] = b"KEM\x00\x20";
const SUITE: &[u8] = b"HPKE\x00\x20\x00\x01\x00\x02";

type Bytes = Zeroizing<[u8; LEN]>;

/// The public key of a private key.
///
/// # Errors
/// [`CryptoError::Mismatch`] when the library does not take it.
pub fn public_key(private: &[u8; LEN]) -> Result<[u8; LEN], CryptoError> {
    let public = parse(private)?
        .compute_public_key()
        .map_err(|_| CryptoError::Mismatch)?;
    public
        .as_ref()
        .try_into()
        .map_err(|_| CryptoError::Mismatch)
}

/// Seals `plain`: `ephemeral public key ‖ ciphertext ‖ tag`. Before the ephemeral private key is wiped, it opens what
/// was sealed, and compares.
///
/// # Errors
/// [`CryptoError::Mismatch`] for a public key to which nothing can be sealed, [`CryptoError::Random`].
pub fn seal(
    recipient: &[u8; LEN],
    info: &[u8],
    aad: &[u8],
    plain: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    let mut ephemeral = Zeroizing::new([0; LEN]);
    fill_random(&mut ephemeral[..])?;
    let encapsulated = public_key(&ephemeral)?;
    let context = Context::of(&ephemeral, recipient, &encapsulated, recipient, info)?;
    let mut sealed = encapsulated.to_vec();
    sealed.extend_from_slice(plain);
    let tag = context
        .key
        .seal_in_place_separate_tag(
            context.nonce(),
            Aad::from(aad),
            &mut sealed[ENCAPSULATED_LEN..],
        )
        .map_err(|_| CryptoError::TooLarge)?;
    sealed.extend_from_slice(tag.as_ref());
    // Derived anew, so that a fault in the first derivation is found as well.
    let again = Context::of(&ephemeral, recipient, &encapsulated, recipient, info)?;
    if again.open(aad, &sealed)?.as_slice() != plain {
        return Err(CryptoError::Authentication);
    }
    Ok(sealed)
}

/// Opens what [`seal`] made.
///
/// # Errors
/// [`CryptoError::Authentication`] when it is for another key, was altered, or bound to something else.
pub fn open(
    private: &[u8; LEN],
    info: &[u8],
    aad: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let encapsulated = sealed
        .first_chunk::<ENCAPSULATED_LEN>()
        .ok_or(CryptoError::Authentication)?;
    let recipient = public_key(private)?;
    Context::of(private, encapsulated, encapsulated, &recipient, info)
        // A point of small order, which nobody who seals sends.
        .map_err(|_| CryptoError::Authentication)?
        .open(aad, sealed)
}

fn parse(private: &[u8; LEN]) -> Result<PrivateKey, CryptoError> {
    PrivateKey::from_private_key(&X25519, private).map_err(|_| CryptoError::Mismatch)
}

/// The key and nonce of the one message.
struct Context {
    key: LessSafeKey,
    base_nonce: [u8; NONCE_LEN],
}

impl Context {
    /// `mine` and `theirs` agree; `encapsulated` and `recipient` are the sender's and the receiver's public keys.
    fn of(
        mine: &[u8; LEN],
        theirs: &[u8; LEN],
        encapsulated: &[u8; LEN],
        recipient: &[u8; LEN],
        info: &[u8],
    ) -> Result<Self, CryptoError> {
        let theirs = UnparsedPublicKey::new(&X25519, theirs);
        let shared = agreement::agree(&parse(mine)?, theirs, CryptoError::Mismatch, |dh| {
            let prk = extract(&[], &[KEM, b"eae_prk", dh]);
            Ok(expand(
                &prk[..],
                LEN,
                &[KEM, b"shared_secret", encapsulated, recipient],
            ))
        })?;
        let id_hash = extract(&[], &[SUITE, b"psk_id_hash"]);
        let info_hash = extract(&[], &[SUITE, b"info_hash", info]);
        let secret = extract(&shared[..], &[SUITE, b"secret"]);
        let derive = |label: &[u8], length| {
            expand(
                &secret[..],
                length,
                &[SUITE, label, &[0], &id_hash[..], &info_hash[..]],
            )
        };
        let key = derive(b"key", LEN);
        let mut base_nonce = [0; NONCE_LEN];
        base_nonce.copy_from_slice(&derive(b"base_nonce", NONCE_LEN)[..NONCE_LEN]);
        let key =
            UnboundKey::new(&AES_256_GCM, &key[..]).expect("AES-256-GCM takes any 32-byte key");
        Ok(Self {
            key: LessSafeKey::new(key),
            base_nonce,
        })
    }

    fn nonce(&self) -> Nonce {
        Nonce::assume_unique_for_key(self.base_nonce)
    }

    fn open(&self, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        let text = sealed
            .get(ENCAPSULATED_LEN..)
            .filter(|text| text.len() >= TAG_LEN)
            .ok_or(CryptoError::Authentication)?;
        let mut plain = Zeroizing::new(text.to_vec());
        self.key
            .open_in_place(self.nonce(), Aad::from(aad), &mut plain)
            .map_err(|_| CryptoError::Authentication)?;
        plain.truncate(text.len() - TAG_LEN);
        Ok(plain)
    }
}

/// LabeledExtract: HMAC under the salt of the version, and of the suite, label and key material that are given.
fn extract(salt: &[u8], parts: &[&[u8]]) -> Bytes {
    authenticate(salt, &[b"HPKE-v1"], parts, &[])
}

/// LabeledExpand, of at most one block: `length` counts in it, and is what the caller takes of it.
fn expand(prk: &[u8], length: usize, parts: &[&[u8]]) -> Bytes {
    let length = (length as u16).to_be_bytes();
    authenticate(prk, &[&length, b"HPKE-v1"], parts, &[1])
}

fn authenticate(key: &[u8], before: &[&[u8]], parts: &[&[u8]], after: &[u8]) -> Bytes {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in before.iter().chain(parts).chain([&after]) {
        context.update(part);
    }
    let mut bytes = Zeroizing::new([0; LEN]);
    bytes.copy_from_slice(context.sign().as_ref());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> ([u8; LEN], [u8; LEN]) {
        let mut private = [0; LEN];
        fill_random(&mut private).unwrap();
        (private, public_key(&private).unwrap())
    }

    #[test]
    fn what_is_sealed_opens_with_the_private_key_and_as_it_was_bound_alone() {
        let (private, public) = pair();
        let sealed = seal(&public, b"info", b"aad", b"plain").unwrap();
        assert_eq!(sealed.len(), ENCAPSULATED_LEN + 5 + TAG_LEN);
        assert_eq!(
            &open(&private, b"info", b"aad", &sealed).unwrap()[..],
            b"plain"
        );
        let refused = |private: &[u8; LEN], info: &[u8], aad: &[u8], sealed: &[u8]| {
            assert_eq!(
                open(private, info, aad, sealed).unwrap_err(),
                CryptoError::Authentication
            );
        };
        refused(&pair().0, b"info", b"aad", &sealed);
        refused(&private, b"other", b"aad", &sealed);
        refused(&private, b"info", b"other", &sealed);
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            refused(&private, b"info", b"aad", &altered);
            refused(&private, b"info", b"aad", &sealed[..at]);
        }
        refused(&private, b"info", b"aad", &[0; 64]);
    }

    #[test]
    fn nothing_is_sealed_to_a_point_of_small_order() {
        assert_eq!(
            seal(&[0; LEN], b"", b"", b"x").unwrap_err(),
            CryptoError::Mismatch
        );
    }
}
