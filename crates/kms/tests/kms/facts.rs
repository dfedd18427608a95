//! The facts about the services (`crates/kms/facts`) as docs/providers/README.md lists them: one row a fact, and what
//! each is to keys in use. That each provider means what the facts say is asked in the providers' own folders.

use std::{fmt::Write, fs, path::Path};

use colcrypt_protocol::FailureKind;
use colcrypt_tests::facts::{self, Fact};

use FailureKind::{
    BadReply, Config, Corrupt, Denied, KeyDisabled, KeyNotFound, Throttled, Timeout, Unavailable,
    Unreachable, WrongRootKey,
};

const START: &str = "<!-- table answers -->\n";
const COLUMNS: [&str; 5] = [
    "outage",
    "refusal",
    "confirmed refusal",
    "configuration",
    "damage",
];

/// The kind of failure that the fact names.
pub fn kind(fact: &Fact) -> FailureKind {
    serde_json::from_value(fact.kind.into()).unwrap_or_else(|_| panic!("{fact:?}"))
}

fn column(kind: FailureKind) -> usize {
    match kind {
        Unreachable | Timeout | Unavailable | Throttled | BadReply => 0,
        KeyDisabled => 1,
        Denied | KeyNotFound => 2,
        Config => 3,
        Corrupt | WrongRootKey => 4,
        other => panic!("{other:?} is of no provider"),
    }
}

fn table() -> String {
    let mut out = format!("| provider | answer | {} |\n", COLUMNS.join(" | "));
    writeln!(out, "|{}", " --- |".repeat(COLUMNS.len() + 2)).unwrap();
    for fact in facts::all() {
        let words = fact
            .message
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        let said = if words.is_empty() {
            String::new()
        } else {
            format!(": {}", words.replace('<', "&lt;"))
        };
        write!(
            out,
            "| `{}` {} | [`{}`]({}){said} |",
            fact.provider, fact.service, fact.code, fact.source
        )
        .unwrap();
        for at in 0..COLUMNS.len() {
            let mark = if at == column(kind(&fact)) { "●" } else { "" };
            write!(out, " {mark} |").unwrap();
        }
        out.push('\n');
    }
    out
}

#[test]
fn the_page_lists_every_fact() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/providers/README.md");
    let text = fs::read_to_string(&path).expect("the page");
    let (before, rest) = text.split_once(START).expect("the table's place");
    let (kept, after) = rest.split_once("<!-- end -->").expect("the table's end");
    let made = table();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{before}{START}{made}<!-- end -->{after}")).expect("the page");
    } else {
        assert!(
            kept == made,
            "table answers of docs/providers/README.md is out of date (UPDATE_DOCS=1 cargo test -p colcrypt-kms --test \
             kms facts)"
        );
    }
}

#[test]
fn every_fact_is_there_once_and_has_a_source() {
    let facts = facts::all();
    for (at, fact) in facts.iter().enumerate() {
        assert!(fact.source.starts_with("https://"), "{fact:?}");
        let same = |other: &&Fact| {
            (other.provider, other.service, other.code) == (fact.provider, fact.service, fact.code)
                && other.message == fact.message
        };
        assert!(!facts[..at].iter().any(|other| same(&other)), "{fact:?}");
    }
}
