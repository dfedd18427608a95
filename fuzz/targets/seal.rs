//! What is sealed opens to the same bytes, and no changed bit of it, of its context or of its key does. Keys wrapped
//! alike.

#![no_main]

use colcrypt_core::{
    CryptoError, DataCipher, DataKey, Header, KekId, KeyCheckValue, KeyEncryptionKey, KeyId,
    KeyVersion, KeyringId, PlaintextType, Suite, Value, VersionId, WrapMethod, wrap,
};
use colcrypt_fuzz::Input;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let flags = input.byte();
    let key = DataKey::from_slice(&input.array::<32>()).expect("32 bytes");
    let nonce: [u8; 24] = input.array();
    let version = u32::from_be_bytes(input.array());
    let code = u16::from_be_bytes(input.array());
    let flip = u16::from_be_bytes(input.array());
    let (name, context) = (input.short(), input.short());
    let plaintext = input.0;

    let suite = if flags & 1 == 0 {
        Suite::Aes256Gcm
    } else {
        Suite::Xaes256Gcm
    };
    let nonce = &nonce[..suite.nonce_len()];
    let name = std::str::from_utf8(name).unwrap_or("public.mood");
    let header = Header {
        suite,
        key: KeyId(u64::from(flip) << 32 | u64::from(version)),
        version: KeyVersion::new(version).unwrap_or(KeyVersion::FIRST),
        plaintext_type: match code {
            0 => PlaintextType::Named(name),
            1 => PlaintextType::StoredJsonb,
            code => PlaintextType::BuiltIn(code),
        },
        has_context: !context.is_empty(),
        canonical_context: flags & 2 != 0,
        compressed: flags & 4 != 0,
    };
    let Ok(encoded) = header.encode() else {
        assert!(code >= 10_000 || code == 0 && name.is_empty());
        return;
    };
    let cipher = DataCipher::new(suite, &key);
    let mut sealed = vec![0; cipher.sealed_len(&encoded, plaintext.len())];
    match cipher.seal_into(&encoded, context, nonce, plaintext, &mut sealed) {
        Ok(()) => {}
        // A context that has no canonical form, or a header that claims one where there is no context.
        Err(CryptoError::Mismatch) => {
            assert!(header.canonical_context);
            return;
        }
        Err(other) => panic!("{other}"),
    }
    if header.canonical_context && context.is_empty() {
        assert!(Value::parse(&sealed).is_err());
        return;
    }
    let open = |bytes: &[u8], context: &[u8], cipher: &DataCipher| {
        let value = Value::parse(bytes).ok()?;
        let mut out = vec![0; value.ciphertext.len()];
        let opened = cipher.open_into(&value, context, &mut out);
        opened.is_ok().then_some(out)
    };
    let parsed = Value::parse(&sealed).expect("what was sealed is a value");
    assert_eq!(parsed.header, header);
    assert_eq!(open(&sealed, context, &cipher).as_deref(), Some(plaintext));

    let at = usize::from(flip) % (8 * sealed.len());
    let mut changed = sealed.clone();
    changed[at / 8] ^= 1 << (at % 8);
    assert_eq!(open(&changed, context, &cipher), None, "bit {at}");
    assert_eq!(open(&sealed[..sealed.len() - 1], context, &cipher), None);
    let mut other = *key.expose();
    other[at % 32] ^= 1;
    let other = DataCipher::new(suite, &DataKey::from_slice(&other).expect("32 bytes"));
    assert_eq!(open(&sealed, context, &other), None);
    if !header.canonical_context && context.first() != Some(&1) {
        let mut context = context.to_vec();
        context.push(0);
        assert_eq!(open(&sealed, &context, &cipher), None);
    }
    wrapping(&key, header.key, header.version, suite, at, plaintext);
});

fn wrapping(key: &DataKey, id: KeyId, version: KeyVersion, suite: Suite, at: usize, bytes: &[u8]) {
    let kek_id = KekId {
        keyring: KeyringId([3; 16]),
        version,
    };
    let aad = wrap::dek_aad(kek_id, VersionId { key: id, version }, suite);
    assert_eq!(wrap::kek_of_aad(&wrap::kek_aad(kek_id)), Some(kek_id));
    let kek = KeyEncryptionKey::from_slice(&[9; 32]).expect("32 bytes");
    let kcv = KeyCheckValue::of_data_key(key);
    for method in [WrapMethod::Aes256Gcm, WrapMethod::AesKwp] {
        let wrapped = wrap::wrap_data_key(&kek, method, &aad, key).expect("a wrapped key");
        let again = wrap::unwrap_data_key(&kek, method, &aad, &wrapped, kcv).expect("the same key");
        assert_eq!(again.expose(), key.expose());
        let mut changed = wrapped.clone();
        let bit = at % (8 * wrapped.len());
        changed[bit / 8] ^= 1 << (bit % 8);
        for damaged in [&changed[..], &wrapped[..wrapped.len() - 1]] {
            assert!(wrap::unwrap_data_key(&kek, method, &aad, damaged, kcv).is_err());
        }
        // The fuzzer remembers what was compared: it may hand back the same key, as an earlier run wrapped it.
        if let Ok(found) = wrap::unwrap_data_key(&kek, method, &aad, bytes, kcv) {
            assert_eq!(found.expose(), key.expose());
        }
    }
}
