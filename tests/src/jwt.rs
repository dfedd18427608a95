//! An issuer of JSON Web Tokens (ES256), as identity providers and Kubernetes are.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rcgen::KeyPair;
use serde_json::{Value, json};

/// A key that signs tokens.
pub struct Issuer {
    key: KeyPair,
}

impl Default for Issuer {
    fn default() -> Self {
        Self::new()
    }
}

impl Issuer {
    #[must_use]
    pub fn new() -> Self {
        Self {
            key: KeyPair::generate().expect("key"),
        }
    }

    /// What verifies its tokens.
    #[must_use]
    pub fn public_key_pem(&self) -> String {
        self.key.public_key_pem()
    }

    /// The same as a set of one JSON Web Key.
    #[must_use]
    pub fn key_set(&self) -> Value {
        let point = self.key.public_key_raw();
        let (x, y) = point[1..].split_at(32);
        json!({"keys": [{
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig",
            "x": base64url(x), "y": base64url(y),
        }]})
    }

    /// A token with these claims, issued now, which expires after a while; `None` is one that has expired.
    #[must_use]
    pub fn sign(&self, claims: &Value, life: Option<Duration>) -> String {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a clock after 1970");
        let hour = Duration::from_secs(3600);
        let (issued, expires) = match life {
            Some(life) => (now, now + life),
            None => (now - 2 * hour, now - hour),
        };
        let mut claims = claims.clone();
        claims["iat"] = json!(issued.as_secs());
        claims["nbf"] = json!(issued.as_secs());
        claims["exp"] = json!(expires.as_secs());
        let header = json!({"alg": "ES256", "typ": "JWT"});
        let signed = format!(
            "{}.{}",
            base64url(header.to_string().as_bytes()),
            base64url(claims.to_string().as_bytes())
        );
        let key = self.key.serialize_der();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key).expect("key");
        let signature = key
            .sign(&SystemRandom::new(), signed.as_bytes())
            .expect("signature");
        format!("{signed}.{}", base64url(signature.as_ref()))
    }
}

fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut word = [0; 4];
        word[1..=chunk.len()].copy_from_slice(chunk);
        let word = u32::from_be_bytes(word);
        for at in 0..=chunk.len() {
            let digit = word >> (18 - 6 * at) & 63;
            text.push(char::from(ALPHABET[digit as usize]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64url_as_in_rfc_4648() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg"),
        ] {
            assert_eq!(base64url(bytes.as_bytes()), text);
        }
        assert_eq!(base64url(&[0xff, 0xfe]), "__4");
    }
}
