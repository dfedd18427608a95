//! The bare AEADs against published vectors (tests/vectors/README.md names their sources).

use serde::Deserialize;
use shake::{
    Shake128,
    digest::{ExtendableOutput, Update, XofReader},
};

use super::*;

/// One vector; `plaintext` is `None` where opening must fail.
struct Vector {
    name: String,
    key: Vec<u8>,
    nonce: Vec<u8>,
    aad: Vec<u8>,
    ciphertext: Vec<u8>,
    tag: Vec<u8>,
    plaintext: Option<Vec<u8>>,
}

impl Vector {
    fn check(&self, suite: Suite) {
        let name = &self.name;
        let key = self.key[..].try_into().expect("a 256-bit key");
        let aead = Aead::new(suite, key);
        // Not zero, so that an open that writes nothing is seen.
        let mut opened = vec![0xa5; self.ciphertext.len()];
        let result = aead.open(
            &self.nonce,
            &self.aad,
            &self.ciphertext,
            &self.tag,
            &mut opened,
        );
        let Some(plaintext) = &self.plaintext else {
            assert!(result.is_err(), "{name}: opened");
            return;
        };
        assert!(result.is_ok(), "{name}: not opened");
        assert_eq!(&opened, plaintext, "{name}: plaintext");
        for plaintext in [None, Some(&plaintext[..])] {
            let (mut out, mut tag) = (opened.clone(), [0; 16]);
            if plaintext.is_some() {
                out.fill(0x5a);
            }
            aead.seal(&self.nonce, &self.aad, plaintext, &mut out, &mut tag)
                .unwrap();
            assert_eq!(out, self.ciphertext, "{name}: ciphertext");
            assert_eq!(tag[..], self.tag[..], "{name}: tag");
        }
    }
}

fn unhex(text: &str) -> Vec<u8> {
    hex::decode(text).expect("hexadecimal")
}

#[test]
fn wycheproof() {
    #[derive(Deserialize)]
    struct File {
        #[serde(rename = "testGroups")]
        groups: Vec<Group>,
    }
    #[derive(Deserialize)]
    struct Group {
        tests: Vec<Case>,
    }
    #[derive(Deserialize)]
    struct Case {
        #[serde(rename = "tcId")]
        id: u32,
        key: String,
        iv: String,
        aad: String,
        msg: String,
        ct: String,
        tag: String,
        result: String,
    }
    let text = include_str!("../../../../tests/vectors/wycheproof_aes_gcm_256.json");
    let file: File = serde_json::from_str(text).unwrap();
    let mut seen = (0, 0);
    for case in file.groups.into_iter().flat_map(|group| group.tests) {
        let valid = match case.result.as_str() {
            "valid" => true,
            "invalid" => false,
            other => panic!("unknown result {other}"),
        };
        seen.0 += u32::from(valid);
        seen.1 += 1;
        Vector {
            name: format!("Wycheproof {}", case.id),
            key: unhex(&case.key),
            nonce: unhex(&case.iv),
            aad: unhex(&case.aad),
            ciphertext: unhex(&case.ct),
            tag: unhex(&case.tag),
            plaintext: valid.then(|| unhex(&case.msg)),
        }
        .check(Suite::Aes256Gcm);
    }
    assert_eq!(seen, (39, 66), "valid vectors, all vectors");
}

/// Counts the vectors that open, and all.
fn check_nist(text: &str) -> (u32, u32) {
    let mut seen = (0, 0);
    for block in text.split("\n\n").filter(|it| it.starts_with("Count = ")) {
        let field = |name: &str| {
            block
                .lines()
                .filter_map(|line| line.split_once('='))
                .find_map(|(key, value)| (key.trim() == name).then(|| unhex(value.trim())))
        };
        let plaintext = field("PT");
        assert_eq!(plaintext.is_none(), block.ends_with("FAIL"), "{block}");
        seen.0 += u32::from(plaintext.is_some());
        seen.1 += 1;
        Vector {
            name: block.to_owned(),
            key: field("Key").unwrap(),
            nonce: field("IV").unwrap(),
            aad: field("AAD").unwrap(),
            ciphertext: field("CT").unwrap(),
            tag: field("Tag").unwrap(),
            plaintext,
        }
        .check(Suite::Aes256Gcm);
    }
    seen
}

#[test]
fn nist_cavp() {
    let vectors = include_str!("../../../../tests/vectors/nist_gcm_encrypt_ext_iv_256.rsp");
    assert_eq!(check_nist(vectors.trim_end()), (375, 375));
    let vectors = include_str!("../../../../tests/vectors/nist_gcm_decrypt_256.rsp");
    assert_eq!(check_nist(vectors.trim_end()), (184, 375));
}

fn xaes_file() -> serde_json::Value {
    let text = include_str!("../../../../tests/vectors/c2sp_xaes_256_gcm.json");
    serde_json::from_str(text).unwrap()
}

#[test]
fn xaes_specification() {
    let file = xaes_file();
    let cases = file["vectors"].as_array().unwrap();
    assert_eq!(cases.len(), 2);
    for case in cases {
        let field = |name: &str| unhex(case[name].as_str().unwrap());
        let (key, nonce) = (field("key"), field("nonce"));
        let mut ciphertext = field("ciphertext");
        let tag = ciphertext.split_off(12);
        // The derivation by itself: a wrong one would otherwise show as a bare tag mismatch.
        let derived =
            Deriver::new(key[..].try_into().unwrap()).derive(nonce.first_chunk().unwrap());
        assert_eq!(derived[..], field("derived_key"));
        assert_eq!(nonce[12..], field("derived_nonce"));
        Vector {
            name: "XAES".to_owned(),
            key,
            nonce,
            aad: field("aad"),
            ciphertext,
            tag,
            plaintext: Some(field("plaintext")),
        }
        .check(Suite::Xaes256Gcm);
    }
}

/// The specification's randomized test: inputs from one SHAKE-128, ciphertexts into another.
fn accumulated(iterations: u32) -> String {
    let mut random = Shake128::default().finalize_xof();
    let mut hash = Shake128::default();
    let mut opaque = |length: usize| {
        let mut bytes = vec![0; length];
        random.read(&mut bytes);
        bytes
    };
    for _ in 0..iterations {
        let (key, nonce) = (opaque(32), opaque(24));
        let plaintext_len = opaque(1)[0].into();
        let plaintext = opaque(plaintext_len);
        let aad_len = opaque(1)[0].into();
        let aad = opaque(aad_len);
        let aead = Aead::new(Suite::Xaes256Gcm, key[..].try_into().unwrap());
        let (mut ciphertext, mut tag) = (vec![0; plaintext_len], [0; 16]);
        aead.seal(&nonce, &aad, Some(&plaintext), &mut ciphertext, &mut tag)
            .unwrap();
        hash.update(&ciphertext);
        hash.update(tag.as_ref());
        let mut opened = vec![0; plaintext_len];
        aead.open(&nonce, &aad, &ciphertext, &tag, &mut opened)
            .unwrap();
        assert_eq!(opened, plaintext);
    }
    let mut digest = [0; 32];
    hash.finalize_xof().read(&mut digest);
    hex::encode(digest)
}

#[test]
fn xaes_accumulated_ten_thousand() {
    let file = xaes_file();
    let mut random = [0; 16];
    Shake128::default().finalize_xof().read(&mut random);
    assert_eq!(
        file["accumulated"]["rng_starts_with"],
        hex::encode(random),
        "the generator is not the specification's"
    );
    assert_eq!(file["accumulated"]["10000"], accumulated(10_000));
}

#[test]
#[ignore = "several seconds; run with --ignored"]
fn xaes_accumulated_million() {
    assert_eq!(
        xaes_file()["accumulated"]["1000000"],
        accumulated(1_000_000)
    );
}
