//! Terms never change: an index on disk holds them. `vectors.json` was made by `docs/search_term.py`, which shares
//! nothing with this crate, neither its HMAC nor its Unicode data. Both must make the same terms of it, for good.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use colcrypt_search::{
    Class, Kind, Label, Pipeline, Prepared, RangeSpec, SearchKey, TermBits, TextSpec, Value,
};
use serde_json::{Value as Json, json};

const KEY: &str = "00112233445566778899aabbccddeeff0123456789abcdeffedcba9876543210";

fn vectors_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors.json")
}

fn vectors() -> Vec<Json> {
    serde_json::from_str(&std::fs::read_to_string(vectors_file()).unwrap()).unwrap()
}

/// A value as the script reads it.
enum Read {
    Value(Value<'static>),
    Bytes(Vec<u8>),
}

impl Read {
    fn value(&self) -> Value<'_> {
        match self {
            Self::Value(value) => *value,
            Self::Bytes(bytes) => Value::Bytea(bytes),
        }
    }
}

fn read(class: Class, text: &Json) -> Read {
    let text: &'static str = text.as_str().unwrap().to_owned().leak();
    let number = || text.parse::<i64>().unwrap();
    Read::Value(match class {
        Class::Int => Value::Int(number()),
        Class::Float => Value::Float(text.parse().unwrap()),
        Class::Numeric => Value::Numeric(text),
        Class::Text => Value::Text(text),
        Class::Bpchar => Value::Bpchar(text),
        Class::Bytea => return Read::Bytes(hex::decode(text).unwrap()),
        Class::Uuid => Value::Uuid(hex::decode(text).unwrap().try_into().unwrap()),
        Class::Date => Value::Date(text.parse().unwrap()),
        Class::Timestamp => Value::Timestamp(number()),
        Class::Timestamptz => Value::Timestamptz(number()),
        Class::Time => Value::Time(number()),
        Class::Interval => {
            let parts: Vec<i64> = text.split(' ').map(|it| it.parse().unwrap()).collect();
            Value::Interval {
                months: parts[0] as i32,
                days: parts[1] as i32,
                micros: parts[2],
            }
        }
    })
}

fn terms(case: &Json) -> Json {
    let text = |field: &str| case[field].as_str().unwrap();
    let small = |field: &str, default: u64| case[field].as_u64().unwrap_or(default) as u8;
    let (kind, class) = (
        text("kind").parse::<Kind>().unwrap(),
        Class::parse(text("class")).unwrap(),
    );
    let steps: Vec<_> = case["normalise"]
        .as_array()
        .map(|steps| steps.iter().map(|it| it.as_str().unwrap()).collect())
        .unwrap_or_default();
    let pipeline = Pipeline::parse::<&str>(&steps).unwrap();
    let domain = hex::decode(text("domain")).unwrap().try_into().unwrap();
    let label = Label::new(domain, kind, class, pipeline.clone(), 1).unwrap();
    let secret = hex::decode(KEY).unwrap().try_into().unwrap();
    let prepared: Prepared = SearchKey::new(&secret).prepare(&label);
    let order = |field: &str| {
        let bound = &case[field];
        (!bound.is_null()).then(|| read(class, bound).value().order().unwrap())
    };
    match kind {
        Kind::Equality => {
            let bits = TermBits::new(case["bits"].as_u64().unwrap_or(256) as u16).unwrap();
            let value = read(class, &case["value"]);
            let term = prepared.equality_of(value.value(), bits).unwrap();
            let once = SearchKey::new(&secret).equality_of(&label, value.value(), bits);
            assert_eq!(once.unwrap(), term);
            json!(hex::encode(term.as_bytes()))
        }
        Kind::Range => {
            let part = |field| small(field, 0);
            let spec = RangeSpec::new(class, part("granularity"), part("sparsity"), part("levels"));
            let spec = spec.unwrap();
            json!(match order("value") {
                Some(key) => spec.terms(&prepared, key),
                None => spec
                    .cover_terms(&prepared, order("low"), order("high"), usize::MAX)
                    .unwrap(),
            })
        }
        Kind::Text => {
            let spec = TextSpec::new(small("letters", 3), &pipeline).unwrap();
            let escape = match case.get("escape") {
                None => Some('\\'),
                Some(escape) => escape.as_str().and_then(|it| it.chars().next()),
            };
            json!(match case["like"].as_str() {
                Some(pattern) => spec.like_terms(&prepared, pattern, escape).unwrap(),
                None => spec.terms(&prepared, text("value"), &mut || {}).unwrap(),
            })
        }
    }
}

#[test]
fn the_crate_makes_the_terms_that_are_kept() {
    let vectors = vectors();
    for kind in Kind::ALL {
        let of = vectors.iter().filter(|case| case["kind"] == kind.name());
        assert!(of.count() >= 20, "{kind}");
    }
    for case in vectors {
        assert_eq!(terms(&case), case["terms"], "{case}");
    }
}

#[test]
fn the_script_makes_them_too() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/search_term.py");
    // The key on its standard input, so that no test writes one to disk.
    let mut python = Command::new("python3")
        .args([&script, Path::new("/dev/stdin"), &vectors_file()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 must be installed");
    let mut stdin = python.stdin.take().unwrap();
    stdin.write_all(KEY.as_bytes()).unwrap();
    drop(stdin);
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    let made: Vec<Json> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(made, vectors());
}
