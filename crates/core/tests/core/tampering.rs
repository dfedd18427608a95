//! A value that was changed in any way, or is read with anything else than it was written with, does
//! not open.

use colcrypt_core::{CryptoError, KeyId, PlaintextType, Suite};

use crate::support::{Refusal, SUITES, cipher, open, plain_header, seal};

const CONTEXT: &[u8] = b"customers 42";
const TEXT: &[u8] = b"a plaintext of more than sixteen bytes";

struct Sealed {
    suite: Suite,
    context: &'static [u8],
    value: Vec<u8>,
}

impl Sealed {
    fn open(&self, value: &[u8]) -> Result<Vec<u8>, Refusal> {
        open(&cipher(self.suite, &[7; 32]), value, self.context)
    }
}

/// Both suites, with and without context, built-in and named types, empty and longer plaintexts.
fn samples() -> Vec<Sealed> {
    let mut samples = Vec::new();
    for suite in SUITES {
        for context in [b"", CONTEXT] {
            for plaintext_type in [
                PlaintextType::BuiltIn(25),
                PlaintextType::Named("public.mood"),
            ] {
                for text in [b"", TEXT] {
                    let mut header = plain_header(suite, !context.is_empty());
                    header.plaintext_type = plaintext_type;
                    let nonce = vec![3; suite.nonce_len()];
                    let value = seal(&cipher(suite, &[7; 32]), &header, context, &nonce, text);
                    let sealed = Sealed {
                        suite,
                        context,
                        value,
                    };
                    assert_eq!(sealed.open(&sealed.value).as_deref(), Ok(text));
                    samples.push(sealed);
                }
            }
        }
    }
    samples
}

#[test]
fn every_flipped_bit_is_seen() {
    for sealed in samples() {
        for bit in 0..sealed.value.len() * 8 {
            let mut value = sealed.value.clone();
            value[bit / 8] ^= 1 << (bit % 8);
            assert!(sealed.open(&value).is_err(), "bit {bit} of {value:02x?}");
        }
    }
}

#[test]
fn every_truncation_and_extension_is_seen() {
    for sealed in samples() {
        for length in 0..sealed.value.len() {
            assert!(sealed.open(&sealed.value[..length]).is_err());
            assert!(
                sealed
                    .open(&sealed.value[sealed.value.len() - length..])
                    .is_err()
            );
        }
        for more in [&b"\0"[..], b"\x80", &[0; 16], &sealed.value] {
            assert!(sealed.open(&[&sealed.value, more].concat()).is_err());
            assert!(sealed.open(&[more, &sealed.value].concat()).is_err());
        }
    }
}

#[test]
fn another_context_does_not_open() {
    let refused = Err(Refusal::Crypto(CryptoError::Authentication));
    for sealed in samples() {
        let longer = [sealed.context, b"\0"].concat();
        let mut others = vec![b"".to_vec(), b"customers 43".to_vec(), longer];
        others.push(sealed.context[..sealed.context.len().saturating_sub(1)].to_vec());
        others.push(vec![b'c'; 300]);
        for other in others.iter().filter(|&other| *other != sealed.context) {
            let cipher = cipher(sealed.suite, &[7; 32]);
            assert_eq!(open(&cipher, &sealed.value, other), refused);
        }
    }
}

/// Bytes moved between the header's end and the context's start must not authenticate: the header
/// says where it ends.
#[test]
fn header_and_context_do_not_run_together() {
    for suite in SUITES {
        let cipher = cipher(suite, &[7; 32]);
        let nonce = vec![3; suite.nonce_len()];
        let mut header = plain_header(suite, true);
        header.plaintext_type = PlaintextType::Named("ab");
        let value = seal(&cipher, &header, b"cd", &nonce, TEXT);
        header.plaintext_type = PlaintextType::Named("abc");
        let end = header.encode().unwrap().as_bytes().len();
        let moved = [header.encode().unwrap().as_bytes(), &value[end - 1..]].concat();
        assert!(open(&cipher, &moved, b"d").is_err());
    }
}

#[test]
fn another_key_suite_or_identity_does_not_open() {
    let refused = Err(Refusal::Crypto(CryptoError::Authentication));
    for sealed in samples() {
        let mut key = [7; 32];
        key[31] ^= 1;
        let other_key = cipher(sealed.suite, &key);
        assert_eq!(open(&other_key, &sealed.value, sealed.context), refused);
        let other = SUITES.into_iter().find(|&it| it != sealed.suite).unwrap();
        let other_suite = cipher(other, &[7; 32]);
        assert_eq!(open(&other_suite, &sealed.value, sealed.context), refused);
    }
    // A value that claims to be another key's, though sealed with these bytes.
    let cipher = cipher(Suite::Aes256Gcm, &[7; 32]);
    let mut header = plain_header(Suite::Aes256Gcm, false);
    let value = seal(&cipher, &header, b"", &[3; 12], TEXT);
    header.key = KeyId(header.key.0 + 1);
    let head = header.encode().unwrap();
    let claimed = [head.as_bytes(), &value[head.as_bytes().len()..]].concat();
    assert_eq!(open(&cipher, &claimed, b""), refused);
}
