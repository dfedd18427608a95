//! An escrow's two keys: the public one, to which KEKs are sealed on any server, and the private one, which is in
//! shares with people and opens them.

use std::{fmt, str::FromStr};

use aws_lc_rs::digest;

use crate::{CryptoError, EscrowKey, KeyEncryptionKey, hpke, secret::KEY_LEN};

const PREFIX: &str = "colcrypt-escrow-1:";
/// What tells a KEK that is sealed from any other message under the same keys.
const INFO: &[u8] = b"colcrypt escrow 1";
const FINGERPRINT_LEN: usize = 6;

/// The public key of an escrow, as `colcrypt-escrow-1:<64 hex digits>:<fingerprint>`. The fingerprint is the escrow's
/// name where one is short, and finds a slip of the pen: what is sealed to a key that nobody has is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipient([u8; KEY_LEN]);

impl Recipient {
    /// Twelve hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut bytes = INFO.to_vec();
        bytes.extend_from_slice(&self.0);
        hex::encode(&digest::digest(&digest::SHA256, &bytes).as_ref()[..FINGERPRINT_LEN])
    }

    /// Seals a KEK, authenticating `aad`, and opens it once with the sender's ephemeral key.
    ///
    /// # Errors
    /// As [`hpke::seal`].
    pub fn seal(&self, aad: &[u8], kek: &KeyEncryptionKey) -> Result<Vec<u8>, CryptoError> {
        hpke::seal(&self.0, INFO, aad, kek.expose())
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let public = hex::encode(self.0);
        write!(f, "{PREFIX}{public}:{}", self.fingerprint())
    }
}

/// Why a text is no public key of an escrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotARecipient {
    #[error(
        "not the public key of an escrow: \"colcrypt-escrow-1:<64 hex digits>:<fingerprint>\" expected, as \
         `colcrypt escrow create` prints it"
    )]
    Malformed,
    #[error("a public key of an escrow that does not fit its own fingerprint: copy it once more")]
    Misspelt,
}

impl FromStr for Recipient {
    type Err = NotARecipient;

    fn from_str(text: &str) -> Result<Self, NotARecipient> {
        let (public, fingerprint) = text
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once(':'))
            .filter(|(_, fingerprint)| fingerprint.len() == 2 * FINGERPRINT_LEN)
            .ok_or(NotARecipient::Malformed)?;
        let mut bytes = [0; KEY_LEN];
        hex::decode_to_slice(public, &mut bytes).map_err(|_| NotARecipient::Malformed)?;
        let recipient = Self(bytes);
        if recipient.fingerprint() != fingerprint {
            return Err(NotARecipient::Misspelt);
        }
        Ok(recipient)
    }
}

impl EscrowKey {
    /// The public key to it.
    ///
    /// # Errors
    /// [`CryptoError::Mismatch`] when the library does not take it.
    pub fn recipient(&self) -> Result<Recipient, CryptoError> {
        Ok(Recipient(hpke::public_key(self.expose())?))
    }

    /// Opens a KEK. The caller compares the key check value.
    ///
    /// # Errors
    /// [`CryptoError::Authentication`] when it was sealed to another escrow, altered, or is another keyring's.
    pub fn open(&self, aad: &[u8], sealed: &[u8]) -> Result<KeyEncryptionKey, CryptoError> {
        KeyEncryptionKey::from_slice(&hpke::open(self.expose(), INFO, aad, sealed)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipient_is_read_as_it_is_written_and_a_slip_is_found() {
        let key = EscrowKey::generate().unwrap();
        let recipient = key.recipient().unwrap();
        let text = recipient.to_string();
        assert_eq!(text.parse(), Ok(recipient));
        let other = EscrowKey::generate().unwrap().recipient().unwrap();
        let mixed = text.replace(&recipient.fingerprint(), &other.fingerprint());
        assert_eq!(mixed.parse::<Recipient>(), Err(NotARecipient::Misspelt));
        for bad in [
            "",
            "age1qqqq",
            &text[1..],
            &text[..text.len() - 1],
            &text.replace(':', ""),
            &text.to_uppercase(),
        ] {
            assert_eq!(
                bad.parse::<Recipient>(),
                Err(NotARecipient::Malformed),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_kek_comes_back_for_its_own_identity_alone() {
        let key = EscrowKey::generate().unwrap();
        let kek = KeyEncryptionKey::generate().unwrap();
        let sealed = key.recipient().unwrap().seal(b"ring 1", &kek).unwrap();
        assert!(key.open(b"ring 1", &sealed).unwrap() == kek);
        assert!(key.open(b"ring 2", &sealed).is_err());
        assert!(
            EscrowKey::generate()
                .unwrap()
                .open(b"ring 1", &sealed)
                .is_err()
        );
    }
}
