//! What every error must tell whoever reads it.

use std::collections::BTreeSet;

use colcrypt_core::state::{Refusal, TransitionError, Verb};
use colcrypt_core::{CryptoError, FormatError, KeyId, KeyState, KeyVersion};
use colcrypt_protocol::{Failure, FailureKind};
use proptest::prelude::*;

use crate::error::{Branch, Error, KeyringPrivilege, Privilege, SearchError, Unrecorded};
use crate::sql_text::{Token, tokens};

fn text() -> String {
    "x".into()
}

fn version() -> KeyVersion {
    KeyVersion::new(2).expect("a version")
}

/// One of each.
fn one_of_each() -> Vec<Error> {
    let refused = TransitionError {
        state: KeyState::Active,
        verb: Verb::Archive,
        refusal: Refusal::State,
    };
    let failure = Failure {
        kind: FailureKind::Timeout,
        message: text(),
    };
    vec![
        Error::NotPreloaded,
        Error::NullArgument("key"),
        Error::UnknownKey(text()),
        Error::NoKeyNamedSo,
        Error::KeyWiped {
            key: text(),
            version: version(),
        },
        Error::NoWatch { why: text() },
        Error::UnknownKeyId(KeyId(7)),
        Error::Follower { why: text() },
        Error::UnknownKeyVersion {
            key: text(),
            version: version(),
        },
        Error::UnknownObject {
            what: "provider",
            name: text(),
        },
        Error::Duplicate {
            what: "key",
            name: text(),
        },
        Error::Needed {
            what: "key",
            name: text(),
            by: text(),
            hint: "Do.".into(),
        },
        Error::InvalidParameter {
            message: text(),
            hint: "Do.".into(),
        },
        Error::KeyDenied {
            key: text(),
            role: text(),
            privilege: Privilege::Decrypt,
        },
        Error::KeyringDenied {
            keyring: text(),
            role: text(),
            privilege: KeyringPrivilege::Create,
        },
        Error::KeyState {
            key: text(),
            version: version(),
            state: KeyState::Suspended,
            by: text(),
            at: text(),
            privilege: Privilege::Encrypt,
        },
        Error::RowsNeedVersion {
            key: text(),
            version: version(),
            holders: text(),
        },
        Error::NodesNeedVersion {
            key: text(),
            version: version(),
            nodes: text(),
        },
        Error::RowsOutOfReach {
            relation: text(),
            why: text(),
        },
        Error::ReasonMissing(Verb::Suspend),
        Error::TransitionRefused {
            key: text(),
            version: version(),
            by: text(),
            at: text(),
            refused,
        },
        Error::NothingToDo {
            key: text(),
            verb: Verb::Resume,
            versions: text(),
        },
        Error::KeySuspended {
            key: text(),
            version: version(),
            by: text(),
            at: text(),
        },
        Error::WindowTooShort {
            asked: text(),
            floor: text(),
        },
        Error::Malformed(FormatError::Empty),
        Error::MalformedText,
        Error::Authentication {
            key: text(),
            version: version(),
            has_context: true,
            context_given: false,
            here: None,
        },
        Error::Authentication {
            key: text(),
            version: version(),
            has_context: true,
            context_given: true,
            here: Some(Branch {
                check_value: text(),
                made_at: text(),
            }),
        },
        Error::WrongType {
            stored: text(),
            asked: text(),
            is_known: true,
        },
        Error::WrongType {
            stored: text(),
            asked: text(),
            is_known: false,
        },
        Error::WitnessNotNull,
        Error::AlreadyEncrypted,
        Error::NoBinaryIo(text()),
        Error::UntypedParameter { number: 3 },
        Error::UntypedNull,
        Error::PlaintextInvalid { type_name: text() },
        Error::IntegerOutOfRange { type_name: text() },
        Error::ValueTooLarge { bytes: 1 },
        Error::ArgumentTooLong {
            name: "reason",
            bytes: 1,
        },
        Error::OutOfMemory { bytes: 1 },
        Error::Kms {
            keyring: Some(text()),
            failure,
        },
        Error::SlabFull { slots: 1 },
        Error::QueueFull,
        Error::KeyWaitTimeout {
            waited_ms: 1,
            broker_running: true,
        },
        Error::RootExists {
            keyring: text(),
            root: text(),
        },
        Error::UnknownRoot {
            keyring: text(),
            root: text(),
            roots: text(),
        },
        Error::RootNeeded {
            keyring: text(),
            root: text(),
            why: text(),
        },
        Error::CatalogCorrupt(text()),
        Error::CatalogOfOtherRelease(text()),
        Error::UsageLimit {
            key: text(),
            version: version(),
            total: 1,
            limit: 1,
            bound: 1,
        },
        Error::SearchLimit {
            key: text(),
            role: text(),
            most: 1,
            per: text(),
        },
        Error::UsageUnrecorded {
            key: text(),
            why: Unrecorded::Unflushed,
        },
        Error::PeriodOver {
            key: text(),
            version: version(),
            privilege: Privilege::Encrypt,
            end: text(),
        },
        Error::NotTableOwner { table: text() },
        Error::Search(SearchError::Brought {
            column: text(),
            key: text(),
            role: text(),
        }),
        Error::Search(SearchError::OfAnotherRow { column: text() }),
        Error::Search(SearchError::LaterTrigger { trigger: text() }),
        Error::Search(SearchError::Stands {
            what: text(),
            column: text(),
            hint: "Do.".into(),
        }),
        Error::Search(SearchError::Unfit {
            column: text(),
            why: text(),
            hint: "Do.".into(),
        }),
        Error::TemporaryTable { table: text() },
        Error::AuditAppendOnly,
        Error::Column {
            message: text(),
            hint: "Do.".into(),
        },
        Error::RowKey {
            message: text(),
            hint: "Do.".into(),
        },
        Error::JobState {
            job: 1,
            phase: text(),
            hint: "Do.".into(),
        },
        Error::NoRowKey { table: text() },
        Error::ColumnChanged { column: text() },
        Error::OtherRelation,
        Error::RowChanged { table: text() },
        Error::GeneratedColumn { column: text() },
        Error::ComesLoose {
            column: text(),
            by: text(),
        },
        Error::NotOfColumn {
            column: text(),
            key: text(),
            type_name: text(),
            is_bound: Some(true),
            why: text(),
        },
        Error::ViewIsSilent,
        Error::NotAccessView { name: text() },
        Error::MigrationBlocked {
            column: text(),
            blocks: text(),
        },
        Error::LossesNotAccepted {
            column: text(),
            losses: text(),
        },
        Error::MigrationUnderWay {
            table: text(),
            job: 1,
            phase: text(),
        },
        Error::OutOfStep { why: text() },
        Error::OtherKey { key: text() },
        Error::Unplaced {
            column: text(),
            values: 1,
        },
        Error::ValueUnplaced,
        Error::Enclosed {
            function: text(),
            why: text(),
        },
        Error::OwnRequest {
            request: 1,
            requested_by: text(),
        },
        Error::NotOwnRequest { request: 1 },
        Error::RequestExpired { request: 1 },
        Error::RequestDecided {
            request: 1,
            outcome: text(),
        },
        Error::RequestVoid {
            request: 1,
            why: text(),
        },
        Error::Random,
        Error::Spi(text()),
    ]
}

/// The variants' names, as the enum's text has them.
fn variants() -> BTreeSet<String> {
    let source = include_str!("mod.rs");
    let begin = source.find("pub enum Error {").expect("the enum");
    let body = &source[begin..];
    body[..body.find("\n}").expect("its end")]
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
        .map(word)
        .collect()
}

/// The name that a text begins with.
fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric()).collect()
}

#[test]
fn each_variant_says_what_happened_and_by_which_code() {
    let all = one_of_each();
    let shown: BTreeSet<String> = all
        .iter()
        .map(|error| word(&format!("{error:?}")))
        .collect();
    assert_eq!(shown, variants());
    for error in all {
        let report = error.report();
        let is_code = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit();
        assert!(
            report.sqlstate.len() == 5 && report.sqlstate.bytes().all(is_code),
            "{error:?}"
        );
        assert!(
            !report.message.is_empty() && !report.message.ends_with('.'),
            "{error:?}"
        );
        if let Some(sentence) = report.hint {
            assert!(sentence.ends_with('.'), "{error:?}: {sentence}");
        }
    }
}

#[test]
fn the_audit_log_tells_denials_from_slips() {
    for error in one_of_each() {
        assert!(!(error.is_denial() && error.is_callers_slip()), "{error:?}");
        if error.subject().version.is_some() {
            assert!(error.subject().key.is_some(), "{error:?}");
        }
    }
    let denied = Error::NotTableOwner { table: text() };
    assert!(denied.is_denial() && denied.subject().key.is_none());
    let wiped = Error::KeyWiped {
        key: "k".into(),
        version: version(),
    };
    assert_eq!(wiped.subject().key, Some("k"));
    assert_eq!(wiped.subject().version, Some(2));
}

#[test]
fn a_lack_of_memory_stays_one_on_its_way_up() {
    let gone = colcrypt_core::memory::OutOfMemory { bytes: 9 };
    for error in [
        Error::from(FormatError::OutOfMemory(gone)),
        Error::from(CryptoError::OutOfMemory(gone)),
        Error::from(gone),
    ] {
        assert_eq!(error.report().sqlstate, "53200");
    }
}

#[test]
fn a_state_names_its_way_back() {
    for (state, way) in [
        (KeyState::PreActive, "activate_key"),
        (KeyState::Suspended, "resume_key"),
        (KeyState::Archived, "recover_key"),
        (KeyState::DestructionScheduled, "cancel_key_destruction"),
        (KeyState::Compromised, "rotate_key"),
    ] {
        let report = Error::KeyState {
            key: text(),
            version: version(),
            state,
            by: text(),
            at: text(),
            privilege: Privilege::Encrypt,
        }
        .report();
        assert_eq!(report.sqlstate, "KC001");
        assert!(report.hint.expect("a hint").contains(way));
    }
}

/// Every five-character code in a source text's string literals or in backticks.
fn codes(text: &str, quote: char) -> BTreeSet<&str> {
    text.split(quote)
        .filter(|word| {
            word.len() == 5
                && word
                    .bytes()
                    .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
                && word.bytes().any(|b| b.is_ascii_digit())
        })
        .collect()
}

#[test]
fn the_documentation_lists_exactly_the_codes_there_are() {
    let mut ours = codes(include_str!("words.rs"), '"');
    ours.extend(codes(include_str!("search.rs"), '"'));
    ours.extend(codes(include_str!("../../../protocol/src/words.rs"), '"'));
    let documented = codes(include_str!("../../../../docs/errors.md"), '`');
    assert_eq!(ours, documented);
}

proptest! {
    #[test]
    fn a_statement_in_a_hint_has_every_name_as_one_literal(key in "[^\0]{1,40}", role in "[^\0]{1,40}") {
        let report = Error::KeyDenied { key: key.clone(), role: role.clone(), privilege: Privilege::Encrypt }.report();
        let hint = report.hint.expect("a hint");
        let literals: Vec<String> = tokens(hint.strip_prefix("An administrator can allow it: ").expect("a statement"))
            .into_iter()
            .filter_map(|token| match token { Token::Literal(text) => Some(text), _ => None })
            .collect();
        prop_assert_eq!(literals, vec![key, role, "{encrypt}".to_string()]);
    }
}

#[test]
fn what_is_refused_or_out_of_order_is_no_closed_value() {
    for error in one_of_each() {
        if !error.is_of_a_closed_value() {
            continue;
        }
        assert!(!error.is_denial() && !error.is_of_a_type(), "{error:?}");
        let code = error.report().sqlstate;
        assert!(
            ["KC002", "KC003", "KC030", "42704"].contains(&code),
            "{error:?}"
        );
    }
    let suspended = Error::KeyState {
        key: text(),
        version: version(),
        state: KeyState::Suspended,
        by: text(),
        at: text(),
        privilege: Privilege::Decrypt,
    };
    assert!(!suspended.is_of_a_closed_value());
}
