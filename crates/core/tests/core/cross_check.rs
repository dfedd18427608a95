//! RustCrypto's AES-GCM beside ours: each reads what the other wrote.

use aes_gcm::{
    Aes256Gcm,
    aead::{Aead, Payload},
};
use cipher::{BlockCipherEncrypt, KeyInit};
use colcrypt_core::{PlaintextType, Suite, Value};

use crate::support::{Repeatable, SUITES, cipher, open, plain_header, seal};

/// XAES-256-GCM's derivation by SP 800-108's and SP 800-38B's own words: a counter KDF over a CMAC
/// that doubles its subkey bit by bit.
fn derive(key: &[u8], nonce: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let aes = aes::Aes256::new_from_slice(key).unwrap();
    let encrypt = |block: [u8; 16]| {
        let mut block = block.into();
        aes.encrypt_block(&mut block);
        <[u8; 16]>::from(block)
    };
    let l = encrypt([0; 16]);
    let mut subkey = [0u8; 16];
    for bit in 0..127 {
        let next = bit + 1;
        let set = l[next / 8] >> (7 - next % 8) & 1;
        subkey[bit / 8] |= set << (7 - bit % 8);
    }
    if l[0] >= 0x80 {
        subkey[15] ^= 0x87;
    }
    let mut derived = Vec::new();
    for counter in 1u16..=2 {
        let mut message = counter.to_be_bytes().to_vec();
        message.extend(b"X\0");
        message.extend(&nonce[..12]);
        let masked: Vec<u8> = message.iter().zip(subkey).map(|(m, k)| m ^ k).collect();
        derived.extend(encrypt(masked.try_into().unwrap()));
    }
    (derived, nonce[12..].to_vec())
}

fn theirs(suite: Suite, key: &[u8], nonce: &[u8]) -> (Aes256Gcm, Vec<u8>) {
    let (key, nonce) = match suite {
        Suite::Aes256Gcm => (key.to_vec(), nonce.to_vec()),
        Suite::Xaes256Gcm => derive(key, nonce),
        Suite::HmacSha256 => panic!("it encrypts nothing"),
    };
    (Aes256Gcm::new_from_slice(&key).unwrap(), nonce)
}

fn check(random: &mut Repeatable, suite: Suite, plaintext_len: usize, context_len: usize) {
    let key = random.bytes(32);
    let nonce = random.bytes(suite.nonce_len());
    let plaintext = random.bytes(plaintext_len);
    let context = random.bytes(context_len);
    let mut header = plain_header(suite, context_len > 0);
    if context_len % 2 == 1 {
        header.plaintext_type = PlaintextType::Named("public.mood");
    }
    let ours = cipher(suite, &key);
    let (theirs, their_nonce) = theirs(suite, &key, &nonce);
    let their_nonce = their_nonce[..].try_into().unwrap();
    let header_bytes = header.encode().unwrap();
    let aad = [header_bytes.as_bytes(), &context].concat();

    let value = seal(&ours, &header, &context, &nonce, &plaintext);
    let parts = Value::parse(&value).unwrap();
    assert_eq!(parts.nonce, nonce);
    let sealed = [parts.ciphertext, parts.tag].concat();
    let payload = Payload {
        msg: &sealed,
        aad: &aad,
    };
    let they_read = theirs.decrypt(&their_nonce, payload);
    assert!(they_read.is_ok_and(|text| text == plaintext));

    let payload = Payload {
        msg: &plaintext,
        aad: &aad,
    };
    let they_wrote = theirs.encrypt(&their_nonce, payload).unwrap();
    let value = [header_bytes.as_bytes(), &nonce, &they_wrote].concat();
    assert!(open(&ours, &value, &context).is_ok_and(|text| text == plaintext));
}

#[test]
fn each_reads_what_the_other_wrote() {
    let mut random = Repeatable::new("cross-check");
    for suite in SUITES {
        for plaintext_len in [0, 1, 15, 16, 17, 31, 32, 33, 4096, 100_000] {
            // 244 fills the buffer for short additional data with a 12-byte header, 245 exceeds it.
            for context_len in [0, 1, 17, 243, 244, 245, 5000] {
                check(&mut random, suite, plaintext_len, context_len);
            }
        }
        for _ in 0..500 {
            let (plaintext_len, context_len) = (random.below(2000), random.below(300));
            check(&mut random, suite, plaintext_len, context_len);
        }
    }
}

/// A cipher keeps the last derived key: whatever came before, it writes and reads what a fresh one does.
#[test]
fn a_kept_derived_key_changes_nothing() {
    let mut random = Repeatable::new("kept");
    let key = random.bytes(32);
    let firsts = [random.bytes(12), random.bytes(12)];
    let kept = cipher(Suite::Xaes256Gcm, &key);
    let header = plain_header(Suite::Xaes256Gcm, false);
    for round in [0, 0, 1, 0, 1, 1, 1, 0] {
        let nonce = [firsts[round].clone(), random.bytes(12)].concat();
        let fresh = || cipher(Suite::Xaes256Gcm, &key);
        let value = seal(&kept, &header, b"", &nonce, b"value");
        assert_eq!(value, seal(&fresh(), &header, b"", &nonce, b"value"));
        assert_eq!(open(&fresh(), &value, b"").unwrap(), b"value");
        assert_eq!(open(&kept, &value, b"").unwrap(), b"value");
        // A refused value leaves the kept key as good as it was.
        let mut altered = value.clone();
        *altered.last_mut().unwrap() ^= 1;
        assert!(open(&kept, &altered, b"").is_err());
    }
}
