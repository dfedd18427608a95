//! The header: every field there and back, one spelling only, and no panic whatever the bytes.

use colcrypt_core::{
    CryptoError, FormatError, Header, KeyId, KeyVersion, PlaintextType, Suite, Value,
    format::{MAX_HEADER_LEN, parse_header},
};

use crate::support::{Repeatable, SUITES, cipher, open, plain_header};

const FIXED: [u8; 11] = [0x11, 0x00, 0x19, 1, 2, 3, 4, 5, 6, 7, 8];

/// A whole value with this version field; what follows is long enough for any suite.
fn with_version(version: &[u8]) -> Vec<u8> {
    [&FIXED[..], version, &[1; 40]].concat()
}

fn refusal(bytes: &[u8]) -> FormatError {
    Value::parse(bytes).expect_err("must be refused")
}

#[test]
fn headers_survive_the_round_trip() {
    let mut random = Repeatable::new("headers");
    let names = ["public.mood", "t", "\"Büro\".\"Größe\"", &"n".repeat(255)];
    for _ in 0..20_000 {
        let bits = 1 + random.below(32);
        let version = random.number() as u32 >> (32 - bits);
        let plaintext_type = match random.below(3) {
            0 => PlaintextType::Named(names[random.below(names.len())]),
            1 => PlaintextType::StoredJsonb,
            _ => PlaintextType::BuiltIn(1 + random.below(9999) as u16),
        };
        let has_context = random.below(2) == 1;
        let header = Header {
            suite: SUITES[random.below(2)],
            key: KeyId(random.number()),
            version: KeyVersion::new(version.max(1)).unwrap(),
            plaintext_type,
            has_context,
            canonical_context: has_context && random.below(2) == 1,
            compressed: random.below(2) == 1,
        };
        let encoded = header.encode().unwrap();
        let bytes = encoded.as_bytes();
        assert!(bytes.len() <= MAX_HEADER_LEN);
        assert_eq!(parse_header(bytes), Ok((header, bytes.len())));
        // What follows the header is not the header's business.
        let mut longer = bytes.to_vec();
        longer.extend(random.bytes(50));
        assert_eq!(parse_header(&longer), Ok((header, bytes.len())));
        let value = Value::parse(&longer).unwrap();
        assert_eq!(value.header_bytes, bytes);
        assert_eq!(value.nonce.len(), header.suite.nonce_len());
        assert_eq!(value.tag.len(), 16);
        for cut in 0..bytes.len() {
            assert!(matches!(
                parse_header(&bytes[..cut]),
                Err(FormatError::Truncated { .. } | FormatError::Empty)
            ));
        }
    }
}

#[test]
fn each_field_stands_where_the_document_says() {
    let mut header = Header {
        suite: Suite::Xaes256Gcm,
        key: KeyId(0x1122_3344_5566_7788),
        version: KeyVersion::new(300).unwrap(),
        plaintext_type: PlaintextType::BuiltIn(1700),
        has_context: true,
        canonical_context: false,
        compressed: false,
    };
    let encoded = hex::encode(header.encode().unwrap().as_bytes());
    assert_eq!(encoded, "12_46a4_1122334455667788_ac02".replace('_', ""));
    header.has_context = false;
    header.plaintext_type = PlaintextType::Named("a.b");
    let encoded = hex::encode(header.encode().unwrap().as_bytes());
    assert_eq!(
        encoded,
        "12_0000_1122334455667788_ac02_03_612e62".replace('_', "")
    );
}

#[test]
fn overhead_is_as_documented() {
    for (suite, least) in [(Suite::Aes256Gcm, 40), (Suite::Xaes256Gcm, 52)] {
        let cipher = cipher(suite, &[7; 32]);
        for (version, more) in [
            (1, 0),
            (127, 0),
            (128, 1),
            (16_383, 1),
            (16_384, 2),
            (2_097_152, 3),
            (268_435_456, 4),
            (u32::MAX, 4),
        ] {
            let mut header = plain_header(suite, false);
            header.version = KeyVersion::new(version).unwrap();
            let overhead =
                |header: &Header<'_>| cipher.sealed_len(&header.encode().unwrap(), 1000) - 1000;
            assert_eq!(overhead(&header), least + more, "version {version}");
            header.plaintext_type = PlaintextType::Named("public.mood");
            assert_eq!(overhead(&header), least + more + 1 + 11);
        }
    }
}

#[test]
fn versions_have_one_spelling() {
    for (bytes, number) in [
        (&[0x01][..], 1),
        (&[0x7f], 127),
        (&[0x80, 0x01], 128),
        (&[0xac, 0x02], 300),
        (&[0xff, 0xff, 0xff, 0xff, 0x0f], u32::MAX),
    ] {
        let value = with_version(bytes);
        assert_eq!(
            Value::parse(&value).unwrap().header.version.number(),
            number
        );
    }
    for bytes in [
        &[0x00][..],
        // 0 and 1 with bytes that add nothing.
        &[0x80, 0x00],
        &[0x81, 0x00],
        &[0x81, 0x80, 0x00],
        &[0x81, 0x80, 0x80, 0x80, 0x00],
        &[0xff, 0x80, 0x00],
        // 2³² and more.
        &[0x80, 0x80, 0x80, 0x80, 0x10],
        &[0xff, 0xff, 0xff, 0xff, 0x1f],
        &[0xff, 0xff, 0xff, 0xff, 0x7f],
        // More than five bytes.
        &[0x81, 0x80, 0x80, 0x80, 0x80, 0x00],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    ] {
        let value = with_version(bytes);
        assert_eq!(refusal(&value), FormatError::BadKeyVersion, "{bytes:02x?}");
    }
}

#[test]
fn unknown_formats_suites_flags_and_types_are_refused() {
    let value = with_version(&[1]);
    assert!(Value::parse(&value).is_ok());
    let changed = |at: usize, bytes: &[u8]| {
        let mut value = value.clone();
        value[at..at + bytes.len()].copy_from_slice(bytes);
        value
    };
    for format in (0..=15).filter(|&format| format != 1) {
        let refused = refusal(&changed(0, &[format << 4 | 1]));
        assert_eq!(refused, FormatError::UnknownFormat(format));
    }
    for suite in (0..=15).filter(|suite| ![1, 2].contains(suite)) {
        let refused = refusal(&changed(0, &[0x10 | suite]));
        assert_eq!(refused, FormatError::UnknownSuite(suite));
    }
    // The form of a context that is not there.
    let refused = refusal(&changed(0, &[0x19]));
    assert_eq!(refused, FormatError::UnknownSuite(9));
    let both = changed(0, &[0x19, 0x40, 0x19]);
    let parsed = Value::parse(&both).unwrap().header;
    assert!(parsed.canonical_context && parsed.suite == Suite::Aes256Gcm);
    for code in [10_000u16, 10_001, 13_801, 13_803, 16_383] {
        let refused = refusal(&changed(1, &code.to_be_bytes()));
        assert_eq!(refused, FormatError::TypeCode(code.into()));
    }
    let parsed = changed(1, &9999u16.to_be_bytes());
    let parsed = Value::parse(&parsed).unwrap().header;
    assert_eq!(parsed.plaintext_type, PlaintextType::BuiltIn(9999));
    assert!(!parsed.has_context);
    for (flags, has_context, compressed) in
        [(0x40, true, false), (0x80, false, true), (0xc0, true, true)]
    {
        let value = changed(1, &[flags, 0x19]);
        let header = Value::parse(&value).unwrap().header;
        assert_eq!(
            (header.has_context, header.compressed),
            (has_context, compressed)
        );
    }
}

#[test]
fn type_names_have_1_to_255_bytes_of_utf8() {
    let head = [0x11, 0x00, 0x00, 1, 2, 3, 4, 5, 6, 7, 8, 1];
    let value = |name: &[u8]| [&head[..], name, &[1; 28]].concat();
    assert_eq!(refusal(&value(b"\0")), FormatError::TypeNameLength(0));
    for bad in [&b"\x01\xff"[..], b"\x02\xc3(", b"\x01\xc3"] {
        assert_eq!(refusal(&value(bad)), FormatError::BadTypeName);
    }
    assert!(matches!(
        refusal(&value(b"\xffshort")),
        FormatError::Truncated { .. }
    ));

    let encode = |plaintext_type| {
        let header = Header {
            plaintext_type,
            ..plain_header(Suite::Aes256Gcm, false)
        };
        header.encode().err()
    };
    let long = "n".repeat(256);
    let named = PlaintextType::Named;
    assert_eq!(encode(named("")), Some(FormatError::TypeNameLength(0)));
    assert_eq!(encode(named(&long)), Some(FormatError::TypeNameLength(256)));
    assert_eq!(encode(named(&long[1..])), None);
    for code in [0, 10_000, 16_384, u16::MAX] {
        let refused = encode(PlaintextType::BuiltIn(code));
        assert_eq!(refused, Some(FormatError::TypeCode(code.into())));
    }
    for oid in [0, 10_000, 65_536 + 25, u32::MAX] {
        assert_eq!(
            PlaintextType::built_in(oid),
            Err(FormatError::TypeCode(oid))
        );
    }
    assert_eq!(
        PlaintextType::built_in(9999),
        Ok(PlaintextType::BuiltIn(9999))
    );
}

#[test]
fn no_bytes_make_the_parser_panic() {
    let mut random = Repeatable::new("any bytes");
    let cipher = cipher(Suite::Aes256Gcm, &[7; 32]);
    let mut parsed = 0;
    for round in 0..200_000 {
        let length = random.below(80);
        let mut bytes = random.bytes(length);
        // Half of the inputs get past the first checks.
        if round % 2 == 0 && bytes.len() > 2 {
            bytes[0] = 0x10 | (1 + bytes[0] % 2);
            bytes[1] &= 0x67;
            if round % 4 == 0 {
                bytes[1..3].fill(0);
            }
        }
        if let Ok(value) = Value::parse(&bytes) {
            parsed += 1;
            // One spelling: what parses is exactly what would be written.
            let header = value.header.encode().unwrap();
            assert_eq!(header.as_bytes(), value.header_bytes);
            assert!(open(&cipher, &bytes, b"").is_err());
        }
    }
    assert!(parsed > 1000, "only {parsed} inputs parsed");
    assert_eq!(refusal(b""), FormatError::Empty);
}

#[test]
fn a_header_that_misdescribes_the_value_is_not_sealed() {
    for suite in SUITES {
        let cipher = cipher(suite, &[7; 32]);
        let other = SUITES.into_iter().find(|&it| it != suite).unwrap();
        let nonce = vec![1; suite.nonce_len()];
        let try_seal = |header: Header<'_>, context: &[u8], nonce: &[u8], excess: usize| {
            let header = header.encode().unwrap();
            let mut out = vec![0; cipher.sealed_len(&header, 5) + excess];
            cipher.seal_into(&header, context, nonce, b"hello", &mut out)
        };
        let misfit = Err(CryptoError::Mismatch);
        assert!(try_seal(plain_header(suite, false), b"", &nonce, 0).is_ok());
        assert!(try_seal(plain_header(suite, true), b"c", &nonce, 0).is_ok());
        assert_eq!(try_seal(plain_header(other, false), b"", &nonce, 0), misfit);
        assert_eq!(try_seal(plain_header(suite, true), b"", &nonce, 0), misfit);
        assert_eq!(
            try_seal(plain_header(suite, false), b"c", &nonce, 0),
            misfit
        );
        assert_eq!(
            try_seal(plain_header(suite, false), b"", &nonce[1..], 0),
            misfit
        );
        assert_eq!(
            try_seal(plain_header(suite, false), b"", &[1; 25], 0),
            misfit
        );
        assert_eq!(try_seal(plain_header(suite, false), b"", &nonce, 1), misfit);
    }
}
