//! Wrapped keys: only the right KEK, identity and bytes unwrap, and a wrong key is named.

use colcrypt_core::{
    CryptoError, DataKey, KekId, KeyCheckValue, KeyEncryptionKey, KeyId, KeyVersion, KeyringId,
    Suite, VersionId, WrapMethod,
    wrap::{dek_aad, kek_aad, unwrap_data_key, unwrap_kek, wrap_data_key, wrap_kek},
};

const METHODS: [WrapMethod; 2] = [WrapMethod::Aes256Gcm, WrapMethod::AesKwp];
const AUTHENTICATION: Option<CryptoError> = Some(CryptoError::Authentication);

fn kek_id() -> KekId {
    KekId {
        keyring: KeyringId([0x11; 16]),
        version: KeyVersion::FIRST,
    }
}

fn version_id() -> VersionId {
    VersionId {
        key: KeyId(0x2222_2222_2222_2222),
        version: KeyVersion::FIRST,
    }
}

fn aad() -> Vec<u8> {
    dek_aad(kek_id(), version_id(), Suite::Aes256Gcm)
}

fn new_kek() -> KeyEncryptionKey {
    KeyEncryptionKey::generate().unwrap()
}

#[test]
fn deks_survive_the_round_trip() {
    for method in METHODS {
        let (kek, dek) = (new_kek(), DataKey::generate().unwrap());
        let wrapped = wrap_data_key(&kek, method, &aad(), &dek).unwrap();
        let expected_len = match method {
            WrapMethod::Aes256Gcm => 60,
            WrapMethod::AesKwp => 40,
        };
        assert_eq!(wrapped.len(), expected_len);
        assert!(!wrapped.windows(8).any(|piece| piece == &dek.expose()[..8]));
        let kcv = KeyCheckValue::of_data_key(&dek);
        let unwrapped = unwrap_data_key(&kek, method, &aad(), &wrapped, kcv);
        assert!(unwrapped.is_ok_and(|unwrapped| unwrapped == dek));
        assert_eq!(method.name().parse(), Ok(method));
    }
    assert!("aes-kw".parse::<WrapMethod>().is_err());
}

#[test]
fn each_wrapping_draws_its_own_nonce() {
    let (kek, dek) = (new_kek(), DataKey::generate().unwrap());
    let wrap = || wrap_data_key(&kek, WrapMethod::Aes256Gcm, b"", &dek).unwrap();
    assert_ne!(wrap()[..12], wrap()[..12]);
}

#[test]
fn another_kek_does_not_unwrap() {
    for method in METHODS {
        let dek = DataKey::generate().unwrap();
        let kcv = KeyCheckValue::of_data_key(&dek);
        let wrapped = wrap_data_key(&new_kek(), method, &aad(), &dek).unwrap();
        let unwrapped = unwrap_data_key(&new_kek(), method, &aad(), &wrapped, kcv);
        assert_eq!(unwrapped.err(), AUTHENTICATION);
    }
}

#[test]
fn every_flipped_bit_and_length_is_seen() {
    for method in METHODS {
        let (kek, dek) = (new_kek(), DataKey::generate().unwrap());
        let kcv = KeyCheckValue::of_data_key(&dek);
        let wrapped = wrap_data_key(&kek, method, &aad(), &dek).unwrap();
        let error = |wrapped: &[u8]| unwrap_data_key(&kek, method, &aad(), wrapped, kcv).err();
        for bit in 0..wrapped.len() * 8 {
            let mut changed = wrapped.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(error(&changed), AUTHENTICATION, "{method:?} bit {bit}");
        }
        for length in 0..wrapped.len() {
            assert_eq!(error(&wrapped[..length]), AUTHENTICATION);
        }
        for more in [1, 8, 16] {
            let longer = [&wrapped[..], &vec![0; more]].concat();
            assert_eq!(error(&longer), AUTHENTICATION);
        }
    }
}

/// AES-GCM binds a wrapped DEK to every part of its identity.
#[test]
fn another_identity_does_not_unwrap() {
    let (kek, dek) = (new_kek(), DataKey::generate().unwrap());
    let kcv = KeyCheckValue::of_data_key(&dek);
    let second = KeyVersion::new(2).unwrap();
    let other_keyring = KekId {
        keyring: KeyringId([0x12; 16]),
        ..kek_id()
    };
    let other_kek_version = KekId {
        version: second,
        ..kek_id()
    };
    let other_key = VersionId {
        key: KeyId(0x2222_2222_2222_2223),
        ..version_id()
    };
    let other_version = VersionId {
        version: second,
        ..version_id()
    };
    let suite = Suite::Aes256Gcm;
    let others = [
        dek_aad(other_keyring, version_id(), suite),
        dek_aad(other_kek_version, version_id(), suite),
        dek_aad(kek_id(), other_key, suite),
        dek_aad(kek_id(), other_version, suite),
        dek_aad(kek_id(), version_id(), Suite::Xaes256Gcm),
        kek_aad(kek_id()),
        Vec::new(),
    ];
    let gcm = WrapMethod::Aes256Gcm;
    let wrapped = wrap_data_key(&kek, gcm, &aad(), &dek).unwrap();
    assert!(unwrap_data_key(&kek, gcm, &aad(), &wrapped, kcv).is_ok());
    for other in others {
        let unwrapped = unwrap_data_key(&kek, gcm, &other, &wrapped, kcv);
        assert_eq!(unwrapped.err(), AUTHENTICATION);
    }

    let root = new_kek();
    let wrapped = wrap_kek(&root, &kek_aad(kek_id()), &kek).unwrap();
    assert!(unwrap_kek(&root, &kek_aad(kek_id()), &wrapped).is_ok_and(|got| got == kek));
    for other in [kek_aad(other_keyring), kek_aad(other_kek_version), aad()] {
        assert_eq!(unwrap_kek(&root, &other, &wrapped).err(), AUTHENTICATION);
    }
    let wrong_root = unwrap_kek(&new_kek(), &kek_aad(kek_id()), &wrapped);
    assert_eq!(wrong_root.err(), AUTHENTICATION);
}

#[test]
fn a_sound_wrapping_of_another_key_says_expected_and_got() {
    for method in METHODS {
        let kek = new_kek();
        let wanted = DataKey::from_slice(&[1; 32]).unwrap();
        let other = DataKey::from_slice(&[2; 32]).unwrap();
        let expected = KeyCheckValue::of_data_key(&wanted);
        let got = KeyCheckValue::of_data_key(&other);
        let wrapped = wrap_data_key(&kek, method, &aad(), &other).unwrap();
        let error = unwrap_data_key(&kek, method, &aad(), &wrapped, expected)
            .err()
            .unwrap();
        assert_eq!(error, CryptoError::KeyCheckValue { expected, got });
        let text = format!("key check value mismatch: expected {expected}, got {got}");
        assert_eq!(error.to_string(), text);
        assert_ne!(expected, got);
    }
}

#[test]
fn check_values_are_read_back() {
    let kcv = KeyCheckValue([0x00, 0xff, 0x10, 0x02, 0xab]);
    assert_eq!(kcv.to_string(), "00ff1002ab");
    assert_eq!("00ff1002ab".parse(), Ok(kcv));
    for bad in ["", "00ff1002", "00ff1002abcd", "00ff1002ag"] {
        assert!(bad.parse::<KeyCheckValue>().is_err(), "{bad:?}");
    }
    assert_eq!(kcv.verify(kcv), Ok(()));
}

/// CMAC, not AES: the first bytes of AES over a zero block are GCM's hash subkey.
#[test]
fn a_check_value_is_not_the_hash_subkey() {
    use cipher::{BlockCipherEncrypt, KeyInit};
    let mut block = [0; 16].into();
    aes::Aes256::new(&[7; 32].into()).encrypt_block(&mut block);
    let kcv = KeyCheckValue::of_data_key(&DataKey::from_slice(&[7; 32]).unwrap());
    assert_ne!(kcv.0, block[..5]);
}
