//! Stored values as anybody may have written them: what parses has one spelling, its parts are all of it, and nothing
//! of it opens.

#![no_main]

use colcrypt_core::{
    CryptoError, DataCipher, DataKey, PlaintextType, Value,
    context::{Pieces, Typed},
    format::{MAX_HEADER_LEN, parse_header},
    place, record,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let value = Value::parse(data);
    match parse_header(data) {
        Ok((header, length)) => {
            let again = header.encode().expect("what was parsed can be written");
            assert_eq!(again.as_bytes(), &data[..length], "one spelling");
            // A census passes the first bytes only.
            let first = &data[..data.len().min(MAX_HEADER_LEN)];
            assert_eq!(parse_header(first), Ok((header, length)));
        }
        Err(error) => assert_eq!(value, Err(error)),
    }
    if let Ok(value) = value {
        let parts = [value.header_bytes, value.nonce, value.ciphertext, value.tag];
        assert_eq!(parts.concat(), data);
        let key = DataKey::from_slice(&[7; 32]).expect("32 bytes");
        let cipher = DataCipher::new(value.header.suite, &key);
        let mut out = vec![1; value.ciphertext.len()];
        for context in [&b""[..], b"\x01", data] {
            assert_eq!(
                cipher.open_into(&value, context, &mut out),
                Err(CryptoError::Authentication)
            );
            assert!(
                out.iter().all(|&byte| byte == 0),
                "no plaintext of what does not authenticate"
            );
        }
        if let PlaintextType::Named(name) = value.header.plaintext_type {
            let _ = place::parse(name);
        }
    }
    contexts(data);
    composites(data);
});

/// The canonical form of a context is a context, its own canonical form, and no longer than said.
fn contexts(data: &[u8]) {
    let written = |typed: Typed<'_>| {
        let mut room = vec![0; typed.max_len()];
        let mut out = Pieces::new(&mut room);
        typed.write(&mut out);
        out.written().to_vec()
    };
    if let Some(typed) = Typed::parse(data) {
        let canonical = written(typed);
        assert!(canonical.len() <= typed.max_len());
        let again = Typed::parse(&canonical).expect("a context");
        assert_eq!(again.label(), typed.label());
        assert_eq!(written(again), canonical);
        let _ = typed.former();
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Some(place) = place::parse(text)
    {
        assert!(place::is_label(&place.label));
        let again = place::parse(&place::expression(&place.label, &[])).expect("a place");
        assert_eq!(again.label, place.label);
    }
}

/// A composite value is widened once, and never made shorter.
fn composites(data: &[u8]) {
    let shape_of = |oid: u32| match oid % 4 {
        0 => record::Shape::Record(vec![1, 2, oid / 4, 4]),
        1 => record::Shape::Array(oid / 4),
        _ => record::Shape::Other,
    };
    for oid in [4, 20, 33] {
        if let Ok(Some(wide)) = record::widened(data, oid, &shape_of) {
            assert!(wide.len() > data.len());
            assert!(
                wide.len() <= 40 * data.len(),
                "at most four attributes of eight bytes for each"
            );
            assert!(matches!(record::widened(&wide, oid, &shape_of), Ok(None)));
        }
    }
}
