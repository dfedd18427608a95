//! docs/format_reader.py: the reader for a day without colcrypt. It must read every golden value and
//! what this code writes, and refuse what was changed.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use colcrypt_core::{
    DataKey, PlaintextType, Suite, Value,
    compression::{Method, Packed},
    jsonb,
};
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
            PlaintextType::StoredJsonb => jsonb::to_json(&it.unpacked(), || ()).ok().map(|text| text.to_string()),
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

/// A generator of numbers, the same in each run.
struct Noise(u32);

impl Noise {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as usize % most
    }

    /// A copy with a few bytes changed, or some cut off.
    fn damaged(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..self.below(3) {
            let at = self.below(bytes.len());
            bytes[at] = match self.below(3) {
                0 => bytes[at] ^ 1 << self.below(8),
                1 => 0xff,
                _ => self.below(256) as u8,
            };
        }
        if self.below(4) == 0 {
            bytes.truncate(bytes.len() - self.below(bytes.len()));
        }
        bytes
    }
}

/// What the reader's function makes of each of these, as text; none where it refuses them.
fn answers(function: &str, inputs: &[Vec<u8>]) -> Vec<Option<String>> {
    const LOOP: &str = "
import json, sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
import format_reader
def answer(line):
    try:
        return getattr(format_reader, sys.argv[2])(bytes.fromhex(line.strip()))
    except (ValueError, KeyError):
        return None
def as_text(answer):
    return answer.hex() if isinstance(answer, bytes) else str(answer[0]['version']) if isinstance(answer, tuple) else answer
json.dump([as_text(answer(line)) for line in sys.stdin], sys.stdout)
";
    let mut reader = Command::new("python3")
        .args(["-c", LOOP])
        .arg(repository("docs"))
        .arg(function)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python3 must be installed");
    let lines: String = inputs
        .iter()
        .map(|bytes| hex::encode(bytes) + "\n")
        .collect();
    let mut stdin = reader.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(lines.as_bytes()).unwrap());
    let output = reader.wait_with_output().unwrap();
    writer.join().unwrap();
    assert_success(&output);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// One array of jsonb: entries, then data.
fn stored(head: u32, entries: &[u32], data: &[u8]) -> Vec<u8> {
    let mut bytes = (head | entries.len() as u32).to_le_bytes().to_vec();
    bytes.extend(entries.iter().flat_map(|entry| entry.to_le_bytes()));
    bytes.extend(data);
    bytes
}

const ARRAY: u32 = 0x4000_0000;
const OBJECT: u32 = 0x2000_0000;
const OFFSET: u32 = 0x8000_0000;
const NUMERIC: u32 = 0x1000_0000;
const CONTAINER: u32 = 0x5000_0000;

fn numeric(fields: &[u16]) -> Vec<u8> {
    let mut bytes = ((4 + 2 * fields.len() as u32) << 2).to_le_bytes().to_vec();
    bytes.extend(fields.iter().flat_map(|field| field.to_le_bytes()));
    bytes
}

/// `{"a": 1.50, "bc": [true, null, "x", 70000]}`.
fn document() -> Vec<u8> {
    let number = numeric(&[0x4000, 1, 7, 0]);
    let mut data = b"x\0\0\0".to_vec();
    data.extend(&number);
    let inner = stored(
        ARRAY,
        &[
            OFFSET | 0x3000_0000,
            0x4000_0000,
            1,
            NUMERIC | (3 + number.len() as u32),
        ],
        &data,
    );
    let price = numeric(&[0x8100, 1, 5000]);
    let mut data = b"abc\0".to_vec();
    data.extend(&price);
    data.extend([0; 2]);
    data.extend(&inner);
    let entries = [
        OFFSET | 1,
        2,
        NUMERIC | (1 + price.len() as u32),
        CONTAINER | (2 + inner.len() as u32),
    ];
    // Objects count pairs.
    let mut whole = stored(OBJECT, &entries, &data);
    whole[0] = 2;
    whole
}

/// Numbers of more digits than Python makes a number of, deep nesting, and whatever damage: the reader says of it what
/// our own code says.
#[test]
fn the_reader_and_this_code_agree_on_documents() {
    let deep = (0..2_000).fold(stored(ARRAY, &[], b""), |inner, _| {
        stored(ARRAY, &[CONTAINER | inner.len() as u32], &inner)
    });
    let large = numeric(&[&[0x0005, 0x7fff, 1][..], &[1234; 3_000]].concat());
    let mut documents = vec![
        document(),
        deep,
        stored(ARRAY, &[NUMERIC | large.len() as u32], &large),
        stored(ARRAY, &[NUMERIC | 8], &numeric(&[0x8002, 0])),
    ];
    for whole in &documents {
        assert!(jsonb::to_json(whole, || ()).is_ok());
    }
    let mut noise = Noise(1);
    let whole = document();
    documents.extend((0..6_000).map(|_| noise.damaged(&whole)));
    let mut refused = 0;
    for (bytes, answer) in documents.iter().zip(answers("jsonb", &documents)) {
        let ours = jsonb::to_json(bytes, || ())
            .ok()
            .map(|text| text.to_string());
        assert_eq!(answer.is_some(), ours.is_some(), "{}", hex::encode(bytes));
        refused += usize::from(ours.is_none());
        // Python has short names for two more control characters.
        if let (Some(answer), Some(ours)) = (answer, ours)
            && !ours.contains("\\u00")
        {
            assert_eq!(answer, ours);
        }
    }
    assert!((500..5_500).contains(&refused), "{refused}");
}

#[test]
fn the_reader_and_this_code_agree_on_blocks_and_headers() {
    let text = "the quick brown fox jumps over the lazy dog, the quick brown fox ".repeat(3);
    let packed = Method::Lz4.pack(text.as_bytes()).unwrap().unwrap();
    let mut noise = Noise(2);
    let blocks: Vec<_> = (0..6_000).map(|_| noise.damaged(&packed)).collect();
    for (bytes, answer) in blocks.iter().zip(answers("unpack", &blocks)) {
        let ours = Packed::parse(bytes).ok().and_then(|packed| {
            let mut out = vec![0; packed.len().min(1 << 20)];
            packed.unpack_into(&mut out).ok().map(|()| hex::encode(out))
        });
        assert_eq!(answer, ours, "{}", hex::encode(bytes));
    }
    let values: Vec<_> = golden().values.into_iter().map(|it| it.value.0).collect();
    let values: Vec<_> = (0..6_000)
        .map(|round| {
            let value = &values[round % values.len()];
            // Where the header is.
            let mut damaged = noise.damaged(&value[..value.len().min(40)]);
            damaged.extend(&value[value.len().min(40)..]);
            damaged
        })
        .collect();
    for (bytes, answer) in values.iter().zip(answers("parse", &values)) {
        let ours = Value::parse(bytes).ok();
        let ours = ours.map(|value| value.header.version.number().to_string());
        assert_eq!(answer, ours, "{}", hex::encode(bytes));
    }
}

struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
