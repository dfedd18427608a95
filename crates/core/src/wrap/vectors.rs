//! AES-KWP against Wycheproof's vectors (tests/vectors/README.md names the source).

use serde_json::Value;

use super::*;

#[test]
fn wycheproof_kwp() {
    let text = include_str!("../../../../tests/vectors/wycheproof_aes_kwp_256.json");
    let file: Value = serde_json::from_str(text).unwrap();
    let groups = file["testGroups"].as_array().unwrap();
    let cases = groups
        .iter()
        .flat_map(|group| group["tests"].as_array().unwrap());
    let any_kcv = KeyCheckValue([0; 5]);
    let (mut valid, mut keys, mut invalid) = (0, 0, 0);
    for case in cases {
        let id = &case["tcId"];
        let field = |name: &str| hex::decode(case[name].as_str().unwrap()).unwrap();
        let kek = KeyEncryptionKey::from_slice(&field("key")).unwrap();
        let (payload, wrapped) = (field("msg"), field("ct"));
        let got = unwrap(&kek, WrapMethod::AesKwp, b"", &wrapped);
        let as_key = unwrap_data_key(&kek, WrapMethod::AesKwp, b"", &wrapped, any_kcv);
        match case["result"].as_str().unwrap() {
            "valid" => {
                valid += 1;
                assert!(got.is_ok_and(|got| *got == payload), "case {id}");
            }
            "invalid" => {
                invalid += 1;
                assert!(got == Err(CryptoError::Authentication), "case {id}");
                assert!(as_key.err() == Some(CryptoError::Authentication));
                continue;
            }
            other => panic!("unknown result {other}"),
        }
        let Ok(key) = DataKey::from_slice(&payload) else {
            // A sound wrapping of something that is not a 256-bit key.
            let refused = CryptoError::KeyLength(payload.len());
            assert_eq!(as_key.err(), Some(refused), "case {id}");
            continue;
        };
        keys += 1;
        assert!(matches!(
            as_key.err(),
            Some(CryptoError::KeyCheckValue { .. })
        ));
        let kcv = KeyCheckValue::of_data_key(&key);
        let unwrapped = unwrap_data_key(&kek, WrapMethod::AesKwp, b"", &wrapped, kcv);
        assert!(unwrapped.is_ok_and(|got| got == key), "case {id}");
        let again = wrap_data_key(&kek, WrapMethod::AesKwp, b"", &key);
        assert_eq!(again, Ok(wrapped), "case {id}");
    }
    assert_eq!((valid, keys, invalid), (25, 3, 69));
}
