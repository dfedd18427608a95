//! docs/format_reader.py: the reader for a day without colcrypt. It must read every golden value and
//! what this code writes, and refuse what was changed.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use colcrypt_core::{DataKey, PlaintextType, Suite, compression::Method, jsonb};
use serde_json::json;

use crate::support::{GoldenType, GoldenValue, cipher, golden, plain_header, repository, seal};

/// Runs the reader with the key on its standard input, so that no test writes a key to disk.
fn run(key: &[u8], arguments: &[String]) -> Output {
    let mut reader = Command::new("python3")
        .arg(repository("docs/format_reader.py"))
        .arg("/dev/stdin")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python3 must be installed");
    reader.stdin.take().unwrap().write_all(key).unwrap();
    reader.wait_with_output().unwrap()
}

fn assert_success(output: &Output) {
    assert!(
        output.status.success(),
        "python3 with the package `cryptography` must be installed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn arguments(value: &[u8], context: &[u8]) -> Vec<String> {
    let mut arguments = vec![hex::encode(value)];
    if !context.is_empty() {
        arguments.push(hex::encode(context));
    }
    arguments
}

fn expected(it: &GoldenValue) -> serde_json::Value {
    json!({
        "suite": it.suite.name(),
        "key_id": it.key_id.to_string(),
        "version": it.version.number(),
        "type": match &it.plaintext_type {
            GoldenType::BuiltIn(code) => json!(code),
            GoldenType::Named(name) => json!(name),
        },
        "has_context": !it.context.0.is_empty(),
        "compressed": it.compressed,
        "plaintext": hex::encode(it.unpacked()),
        "text": match it.header().plaintext_type {
            PlaintextType::StoredJsonb => jsonb::to_json(&it.unpacked()).ok().map(|text| text.to_string()),
            _ => String::from_utf8(it.unpacked()).ok(),
        },
    })
}

/// All of them through the reader's own function, in one Python process.
#[test]
fn the_reader_reads_every_golden_value() {
    const LOOP: &str = "
import json, sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
from format_reader import read
values = json.load(open(sys.argv[2], encoding='utf-8'))['values']
json.dump([read(*(bytes.fromhex(it[name]) for name in ('dek', 'value', 'context'))) for it in values], sys.stdout)
";
    let output = Command::new("python3")
        .args(["-c", LOOP])
        .arg(repository("docs"))
        .arg(repository("tests/vectors/golden.json"))
        .output()
        .expect("python3 must be installed");
    assert_success(&output);
    let answers: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let values = golden().values;
    assert_eq!(answers.len(), values.len());
    for (it, answer) in values.iter().zip(answers) {
        assert_eq!(answer, expected(it), "{}", it.name);
    }
}

/// As a person runs it: one value without context, one with, in each suite.
#[test]
fn the_reader_works_from_the_command_line() {
    let values = golden().values;
    for name in [
        "worked example",
        "aes-256-gcm bytea",
        "xaes-256-gcm version 300 with context",
        "xaes-256-gcm enum",
    ] {
        let it = values.iter().find(|it| it.name == name).expect(name);
        let output = run(&it.dek.0, &arguments(&it.value.0, &it.context.0));
        assert_success(&output);
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer, expected(it), "{name}");
    }
}

#[test]
fn the_reader_reads_what_this_code_writes() {
    let key = DataKey::generate().unwrap();
    let path = std::env::temp_dir().join(format!("colcrypt-reader-{}", std::process::id()));
    let _wiped = Removed(path.clone());
    std::fs::write(&path, hex::encode(key.expose()) + "\n").unwrap();
    for suite in [Suite::Aes256Gcm, Suite::Xaes256Gcm] {
        let cipher = cipher(suite, key.expose());
        let nonce = vec![9; suite.nonce_len()];
        let value = seal(&cipher, &plain_header(suite, true), b"ctx", &nonce, b"text");
        // The key as a file of hexadecimal digits, the value as psql prints it.
        let output = Command::new("python3")
            .arg(repository("docs/format_reader.py"))
            .arg(&path)
            .arg(format!("\\x{}", hex::encode(&value)))
            .arg(hex::encode(b"ctx"))
            .output()
            .unwrap();
        assert_success(&output);
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["text"], "text");
        assert_eq!(answer["suite"], suite.name());
    }
}

/// LZ4 of another implementation, in all its turns: long literals, long copies, copies that overlap themselves.
#[test]
fn the_reader_unpacks_what_this_code_packs() {
    let texts = [
        "the quick brown fox ".repeat(3000),
        (0..2000).map(|n| format!("{n} {} ", n * n)).collect(),
        "a".repeat(100_000),
        format!("{}{}", "x".repeat(70_000), "yz".repeat(300)),
    ];
    let key = DataKey::generate().unwrap();
    let cipher = cipher(Suite::Aes256Gcm, key.expose());
    let mut header = plain_header(Suite::Aes256Gcm, false);
    header.compressed = true;
    for text in texts {
        let packed = Method::Lz4.pack(text.as_bytes()).unwrap().unwrap();
        let value = seal(&cipher, &header, b"", &[7; 12], &packed);
        let path = std::env::temp_dir().join(format!("colcrypt-packed-{}", std::process::id()));
        let _removed = Removed(path.clone());
        std::fs::write(&path, hex::encode(value)).unwrap();
        let output = Command::new("python3")
            .args(["-c", UNPACK])
            .arg(repository("docs"))
            .arg(&path)
            .arg(hex::encode(key.expose()))
            .output()
            .unwrap();
        assert_success(&output);
        assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
    }
}

/// The key may be an argument here: it is a test's.
const UNPACK: &str = "
import sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
from format_reader import read
sys.stdout.write(read(bytes.fromhex(sys.argv[3]), bytes.fromhex(open(sys.argv[2]).read()))['text'])
";

#[test]
fn the_reader_refuses_what_was_changed() {
    let golden = golden();
    let it = &golden.values[0];
    let mut tampered = it.value.0.clone();
    *tampered.last_mut().unwrap() ^= 1;
    let mut compressed = it.value.0.clone();
    compressed[1] |= 0x80;
    for arguments in [
        arguments(&tampered, &it.context.0),
        arguments(&compressed, &it.context.0),
        arguments(&it.value.0, b""),
        arguments(&it.value.0, b"another context"),
        arguments(b"", b""),
    ] {
        let output = run(&it.dek.0, &arguments);
        assert!(!output.status.success());
        assert!(output.stdout.is_empty());
    }
}

struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
