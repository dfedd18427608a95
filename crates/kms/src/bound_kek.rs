//! Binds a KEK to its identity under mechanisms that authenticate no additional data (RSA-OAEP, AES key wrap):
//! a digest of that data is wrapped together with the KEK, and compared after unwrapping.

use aws_lc_rs::digest;
use colcrypt_core::{KeyEncryptionKey, secret::KEY_LEN};
use zeroize::Zeroizing;

const DIGEST_LEN: usize = 32;

/// Why unwrapped bytes are not the KEK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotBound {
    /// They are a KEK with the digest of other additional data.
    Elsewhere,
    /// They are not a KEK and a digest.
    Shape,
}

/// Returns what is to be wrapped: the KEK and the digest.
pub(crate) fn bind(aad: &[u8], kek: &KeyEncryptionKey) -> Zeroizing<[u8; KEY_LEN + DIGEST_LEN]> {
    let mut plain = Zeroizing::new([0; KEY_LEN + DIGEST_LEN]);
    plain[..KEY_LEN].copy_from_slice(kek.expose());
    plain[KEY_LEN..].copy_from_slice(&digest_of(aad));
    plain
}

/// Returns the KEK in unwrapped bytes.
///
/// # Errors
/// When they are something else, or the KEK was bound to something else.
pub(crate) fn unbind(aad: &[u8], plain: &[u8]) -> Result<KeyEncryptionKey, NotBound> {
    let (key, digest) = plain
        .split_first_chunk::<KEY_LEN>()
        .filter(|(_, digest)| digest.len() == DIGEST_LEN)
        .ok_or(NotBound::Shape)?;
    if digest != digest_of(aad) {
        return Err(NotBound::Elsewhere);
    }
    KeyEncryptionKey::from_slice(key).map_err(|_| NotBound::Shape)
}

fn digest_of(aad: &[u8]) -> [u8; DIGEST_LEN] {
    let mut bytes = [0; DIGEST_LEN];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, aad).as_ref());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kek_comes_back_for_what_it_was_bound_to_alone() {
        let kek = KeyEncryptionKey::generate().unwrap();
        let plain = bind(b"app 1", &kek);
        assert!(unbind(b"app 1", &plain[..]).unwrap() == kek);
        let why = |aad: &[u8], plain: &[u8]| unbind(aad, plain).err();
        assert_eq!(why(b"app 2", &plain[..]), Some(NotBound::Elsewhere));
        // A bare KEK, as anyone with the public key could wrap one, is none.
        for plain in [&plain[..KEY_LEN], &plain[..KEY_LEN + 1], &[]] {
            assert_eq!(why(b"app 1", plain), Some(NotBound::Shape));
        }
    }
}
