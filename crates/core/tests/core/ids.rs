//! Identities as text: what is shown is read back, and nothing else is read.

use colcrypt_core::{KeyId, KeyVersion, KeyringId};

#[test]
fn key_ids() {
    let id = KeyId(0x00ab_cdef_0123_4567);
    assert_eq!(id.to_string(), "00abcdef01234567");
    assert_eq!("00abcdef01234567".parse(), Ok(id));
    for bad in [
        "",
        "abcdef01234567",
        "00abcdef0123456",
        "00abcdef012345678",
        "+0abcdef01234567",
        " 0abcdef01234567",
        "0x00abcdef012345",
        "00abcdef0123456g",
    ] {
        assert!(bad.parse::<KeyId>().is_err(), "{bad:?}");
    }
    assert_ne!(KeyId::random().unwrap(), KeyId::random().unwrap());
    for id in [KeyId(0), KeyId(1), KeyId(1 << 63), KeyId(u64::MAX)] {
        assert_eq!(KeyId::of_bigint(id.bigint()), id);
    }
    assert_eq!(KeyId(u64::MAX).bigint(), -1);
}

#[test]
fn keyring_ids() {
    let id = KeyringId(*b"\x12\x34\x56\x78\x9a\xbc\x4d\xef\x80\x12\x34\x56\x78\x9a\xbc\xde");
    assert_eq!(id.to_string(), "123456789abc4def80123456789abcde");
    assert_eq!(id.to_string().parse(), Ok(id));
    assert_eq!("12345678-9abc-4def-8012-3456789abcde".parse(), Ok(id));
    for bad in [
        "",
        "123456789abc4def80123456789abcd",
        "123456789abc4def80123456789abcdeff",
    ] {
        assert!(bad.parse::<KeyringId>().is_err(), "{bad:?}");
    }
}

#[test]
fn versions_start_at_1() {
    assert_eq!(KeyVersion::new(0), None);
    assert_eq!(KeyVersion::new(1), Some(KeyVersion::FIRST));
    assert!(serde_json::from_str::<KeyVersion>("0").is_err());
}
