//! Values, wrapped keys, check values and contexts made by another implementation
//! (tests/vectors/make_golden.py). They stand for data that exists: they must open for ever.

use std::{collections::HashSet, process::Command};

use colcrypt_core::{
    DataKey, KekId, KeyCheckValue, KeyEncryptionKey, KeyId, KeyVersion, KeyringId, PlaintextType,
    Suite, Value, VersionId, WrapMethod,
    context::ContextBuilder,
    wrap::{dek_aad, kek_aad, unwrap_data_key, unwrap_kek, wrap_data_key},
};

use crate::support::{GoldenValue, golden, open, repository, seal, unhex};

#[test]
fn golden_values_open() {
    for it in golden().values {
        let value = Value::parse(&it.value.0).unwrap();
        assert_eq!(value.header, it.header(), "{}", it.name);
        assert_eq!(value.nonce, it.nonce.0, "{}", it.name);
        let opened = open(&it.cipher(), &it.value.0, &it.context.0);
        assert_eq!(opened, Ok(it.plaintext.0), "{}", it.name);
    }
}

#[test]
fn sealing_reproduces_the_golden_values() {
    for it in golden().values {
        let cipher = it.cipher();
        let value = seal(
            &cipher,
            &it.header(),
            &it.context.0,
            &it.nonce.0,
            &it.plaintext.0,
        );
        assert_eq!(value, it.value.0, "{}", it.name);
    }
}

/// Removing a kind of value from the file must not go unseen.
#[test]
fn golden_values_cover_the_format() {
    let values = golden().values;
    let (mut covered, mut forms) = (HashSet::new(), HashSet::new());
    for it in &values {
        let header = it.header();
        let named = matches!(header.plaintext_type, PlaintextType::Named(_));
        covered.insert((
            it.suite,
            header.has_context,
            named,
            it.plaintext.0.is_empty(),
        ));
        if header.plaintext_type == PlaintextType::StoredJsonb {
            forms.insert((it.suite, "jsonb"));
        }
        if header.compressed {
            forms.insert((it.suite, "compressed"));
        }
    }
    for suite in [Suite::Aes256Gcm, Suite::Xaes256Gcm] {
        for wanted in [
            (suite, false, false, false),
            (suite, true, false, false),
            (suite, false, true, false),
            (suite, true, true, false),
            (suite, false, false, true),
            (suite, true, false, true),
        ] {
            assert!(covered.contains(&wanted), "{wanted:?}");
        }
        for form in ["jsonb", "compressed"] {
            assert!(forms.contains(&(suite, form)), "{suite:?} {form}");
        }
        for version in [1, 127, 128, 300, u32::MAX] {
            let has = |it: &GoldenValue| it.suite == suite && it.version.number() == version;
            assert!(values.iter().any(has), "{suite:?} version {version}");
        }
    }
}

/// The file is what the independent script writes, so nobody can have "repaired" it by hand or with
/// our own code.
#[test]
fn the_golden_file_is_what_the_script_writes() {
    let script = repository("tests/vectors/make_golden.py");
    let output = Command::new("python3")
        .arg(&script)
        .output()
        .expect("python3 must be installed");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "python3 with the package `cryptography` must be installed:\n{stderr}"
    );
    let file = std::fs::read(repository("tests/vectors/golden.json")).unwrap();
    assert!(
        output.stdout == file,
        "golden.json is not make_golden.py's output"
    );
}

fn text<'a>(it: &'a serde_json::Value, name: &str) -> &'a str {
    it[name].as_str().expect("a text")
}

fn version(it: &serde_json::Value, name: &str) -> KeyVersion {
    let number = it[name].as_u64().expect("a number");
    KeyVersion::new(number.try_into().unwrap()).unwrap()
}

fn key(it: &serde_json::Value, name: &str) -> KeyEncryptionKey {
    KeyEncryptionKey::from_slice(&unhex(text(it, name))).unwrap()
}

#[test]
fn golden_wrapped_deks() {
    let golden = golden();
    assert_eq!(golden.wrapped_deks.len(), 6);
    for it in &golden.wrapped_deks {
        let kek_id = KekId {
            keyring: text(it, "keyring").parse::<KeyringId>().unwrap(),
            version: version(it, "kek_version"),
        };
        let id = VersionId {
            key: text(it, "key_id").parse::<KeyId>().unwrap(),
            version: version(it, "version"),
        };
        let suite: Suite = text(it, "suite").parse().unwrap();
        let aad = dek_aad(kek_id, id, suite);
        assert_eq!(hex::encode(&aad), text(it, "aad"));

        let kek = key(it, "kek");
        let dek = DataKey::from_slice(&unhex(text(it, "dek"))).unwrap();
        let kcv: KeyCheckValue = text(it, "dek_kcv").parse().unwrap();
        assert_eq!(KeyCheckValue::of_data_key(&dek), kcv);
        assert_eq!(KeyCheckValue::of_kek(&kek).to_string(), text(it, "kek_kcv"));
        for method in [WrapMethod::Aes256Gcm, WrapMethod::AesKwp] {
            let wrapped = unhex(text(it, method.name()));
            let unwrapped = unwrap_data_key(&kek, method, &aad, &wrapped, kcv);
            assert!(unwrapped.is_ok_and(|unwrapped| unwrapped == dek));
        }
        let again = wrap_data_key(&kek, WrapMethod::AesKwp, &aad, &dek).unwrap();
        assert_eq!(hex::encode(again), text(it, "aes-kwp"));
    }
}

#[test]
fn golden_wrapped_keks() {
    let golden = golden();
    assert_eq!(golden.wrapped_keks.len(), 3);
    for it in &golden.wrapped_keks {
        let aad = kek_aad(KekId {
            keyring: text(it, "keyring").parse().unwrap(),
            version: version(it, "version"),
        });
        assert_eq!(hex::encode(&aad), text(it, "aad"));
        let kek = unwrap_kek(&key(it, "root"), &aad, &unhex(text(it, "wrapped"))).unwrap();
        assert!(kek == key(it, "kek"));
        assert_eq!(KeyCheckValue::of_kek(&kek).to_string(), text(it, "kek_kcv"));
    }
}

#[test]
fn golden_row_contexts() {
    let golden = golden();
    assert_eq!(golden.row_contexts.len(), 10);
    let mut different = HashSet::new();
    for it in golden.row_contexts {
        let mut context = ContextBuilder::default();
        for (type_name, value) in &it.columns {
            let value = value.as_ref().map(|value| &value.0[..]);
            context.push(type_name, value).unwrap();
        }
        let bytes = context.finish();
        assert_eq!(bytes, it.bytes.0);
        assert!(different.insert(bytes), "two rows with one context");
    }
}

/// Values of the first encoding had char(n) under the name of text, blanks and all.
#[test]
fn values_of_the_first_encoding_open_with_contexts_of_today() {
    let cipher = crate::support::cipher(Suite::Aes256Gcm, &[7; 32]);
    let header = crate::support::plain_header(Suite::Aes256Gcm, true);
    let context = |name: &str, value: &[u8]| {
        let mut context = ContextBuilder::default();
        context.push("int4", Some(&[0, 0, 0, 1])).unwrap();
        context.push(name, Some(value)).unwrap();
        context.finish()
    };
    let value = seal(&cipher, &header, &context("text", b"ab  "), &[1; 12], b"x");
    for (name, value_of_it, opens) in [
        ("text", &b"ab  "[..], true),
        ("bpchar", b"ab  ", true),
        ("bpchar", b"ab", false),
        ("text", b"ab", false),
    ] {
        let opened = open(&cipher, &value, &context(name, value_of_it));
        assert_eq!(opened.is_ok(), opens, "{name}");
    }
}
