//! Terms: told apart by all that a label says, equal where values are, and cut to length.

use std::collections::HashSet;

use super::*;

fn key() -> SearchKey {
    SearchKey::new(&[7; 32])
}

fn pipeline(steps: &[&str]) -> Pipeline {
    Pipeline::parse(steps).unwrap()
}

fn label(domain: u8, kind: Kind, class: Class, steps: &[&str]) -> Label {
    Label::new([domain; 16], kind, class, pipeline(steps), 1).unwrap()
}

#[test]
fn hmac_is_the_standards() {
    // RFC 4231 has no key of 32 bytes: case 1 and 2 by their shorter ones, which HMAC fills with zeros (FIPS 198-1,
    // table 1).
    let mac = |key: &[u8], text: &[u8]| {
        let mut secret = [0; 32];
        secret[..key.len()].copy_from_slice(key);
        let tag = hmac::sign(&SearchKey::new(&secret).0, text);
        hex::encode(tag)
    };
    assert_eq!(
        mac(&[0x0b; 20], b"Hi There"),
        "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
    );
    assert_eq!(
        mac(b"Jefe", b"what do ya want for nothing?"),
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    );
}

#[test]
fn a_term_is_of_its_key_and_all_of_its_label() {
    let of = |key: &SearchKey, label: &Label| key.prepare(label).mac(Tag::Value, b"value");
    let labels = [
        label(1, Kind::Equality, Class::Text, &[]),
        label(2, Kind::Equality, Class::Text, &[]),
        label(1, Kind::Equality, Class::Bpchar, &[]),
        label(1, Kind::Range, Class::Text, &[]),
        label(1, Kind::Equality, Class::Text, &["trim"]),
        label(1, Kind::Equality, Class::Text, &["trim", "casefold"]),
        label(1, Kind::Equality, Class::Text, &["casefold", "trim"]),
    ];
    let mut all: HashSet<_> = labels.iter().map(|label| of(&key(), label)).collect();
    all.insert(of(&SearchKey::new(&[8; 32]), &labels[0]));
    assert_eq!(all.len(), labels.len() + 1);
}

#[test]
fn no_label_begins_another_and_no_payload_is_anothers() {
    let mut labels = Vec::new();
    for kind in Kind::ALL {
        for class in Class::ALL {
            for steps in [
                &[][..],
                &["trim"],
                &["casefold"],
                &["casefold", "unaccent"],
                &["unaccent"],
            ] {
                labels.extend(Label::new([1; 16], kind, class, pipeline(steps), 1));
            }
        }
    }
    assert!(labels.len() > 30);
    for (at, one) in labels.iter().enumerate() {
        for other in &labels[at + 1..] {
            let (one, other) = (one.encode(), other.encode());
            assert!(!one.starts_with(&other) && !other.starts_with(&one));
        }
    }
    let prepared = key().prepare(&labels[0]);
    let payload = [0, 0, 0, 0, 0, 0, 0, 0, 0];
    let all = [
        first_eight(&prepared.mac(Tag::Value, &payload)),
        first_eight(&prepared.mac(Tag::Itself, &payload)),
        prepared.gram(&payload),
        prepared.interval(0, 0),
        prepared.interval(1, 0),
        prepared.interval(0, 1),
    ];
    assert_eq!(all.into_iter().collect::<HashSet<_>>().len(), all.len());
}

#[test]
fn a_shorter_term_is_the_beginning_of_the_longer() {
    let prepared = key().prepare(&label(1, Kind::Equality, Class::Int, &[]));
    let full = Term::new(&prepared.mac(Tag::Value, b"x"), TermBits::FULL);
    let bits = |term: &Term, count: usize| {
        let all = term.as_bytes().iter();
        all.flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1))
            .take(count)
            .collect::<Vec<_>>()
    };
    for count in 8..=256u16 {
        let cut = Term::new(
            &prepared.mac(Tag::Value, b"x"),
            TermBits::new(count).unwrap(),
        );
        let count = usize::from(count);
        assert_eq!(cut.as_bytes().len(), count.div_ceil(8));
        assert_eq!(bits(&cut, count), bits(&full, count));
        assert!(bits(&cut, 256)[count..].iter().all(|bit| *bit == 0));
    }
    for count in [0, 7, 257, u16::MAX] {
        assert_eq!(TermBits::new(count), Err(BadTermBits(count)));
    }
}

#[test]
fn values_are_entered_in_their_normal_form_or_as_themselves() {
    let prepared = key().prepare(&label(1, Kind::Equality, Class::Text, &["email"]));
    let of = |text| {
        prepared
            .equality_of(Value::Text(text), TermBits::FULL)
            .unwrap()
    };
    assert_eq!(of("a@B.org"), of(" a@b.ORG "));
    assert_ne!(of("A@b.org"), of("a@b.org"));
    // Without a normal form each is itself, and none is what another's form is.
    assert_eq!(of("nobody"), of("nobody"));
    assert_ne!(of("nobody"), of("nobody "));
    assert_ne!(
        of("nobody"),
        Term::new(&prepared.mac(Tag::Value, b"nobody"), TermBits::FULL)
    );
    let blanks = key().prepare(&label(1, Kind::Equality, Class::Bpchar, &["casefold"]));
    let of = |text| {
        blanks
            .equality_of(Value::Bpchar(text), TermBits::FULL)
            .unwrap()
    };
    assert_eq!(of("AB  "), of("ab"));
    let none = key().prepare(&label(1, Kind::Equality, Class::Numeric, &[]));
    let of = |text| none.equality_of(Value::Numeric(text), TermBits::FULL);
    assert_eq!(of("1.50"), of("1.5"));
    assert_eq!(of("one"), Err(NotNumeric));
}

#[test]
fn labels_that_make_no_sense_are_refused() {
    let new = |kind, class, steps: &[&str], version| {
        Label::new([0; 16], kind, class, pipeline(steps), version).unwrap_err()
    };
    let (equality, range, text) = (Kind::Equality, Kind::Range, Kind::Text);
    assert_eq!(
        new(equality, Class::Int, &["trim"], 1),
        LabelError::NoText(Class::Int)
    );
    assert_eq!(
        new(text, Class::Date, &[], 1),
        LabelError::NoGrams(Class::Date)
    );
    assert_eq!(
        new(text, Class::Bpchar, &[], 1),
        LabelError::NoGrams(Class::Bpchar)
    );
    assert_eq!(
        new(range, Class::Text, &["casefold"], 1),
        LabelError::Step(range, Step::Casefold)
    );
    assert_eq!(
        new(text, Class::Text, &["unaccent", "trim"], 1),
        LabelError::Step(text, Step::Trim)
    );
    assert_eq!(new(equality, Class::Text, &[], 0), LabelError::Version(0));
    assert_eq!(new(equality, Class::Text, &[], 2), LabelError::Version(2));
}

#[test]
fn nothing_prints_a_key() {
    let prepared = key().prepare(&label(1, Kind::Equality, Class::Int, &[]));
    assert_eq!(
        format!("{:?} {prepared:?}", key()),
        "SearchKey(…) Prepared(…)"
    );
}
