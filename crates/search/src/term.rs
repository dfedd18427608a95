//! Terms: what an index holds in a value's place.
//!
//! A term is HMAC-SHA-256 (FIPS 198-1, RFC 2104) of a label and what the index enters of a value, under a search key.
//! The label names the index (or the search domain that several share), the kind, the class and the normaliser, so that
//! no term of one means anything in another. `docs/search_term.py` makes the same terms from the standard library of
//! Python alone.
//!
//! ```text
//! message := "CCST" layout:1 domain:16 name(kind) name(class) rules:2 steps:1 name(step)… tag:1 payload
//! name    := length:1 bytes          numbers in network byte order; the payload is all that follows
//! tag     := 1 value, 2 value without a normal form, 3 n-gram, 4 interval
//! ```

use std::fmt;

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use crate::canonical::{Class, Value};
use crate::decimal::NotNumeric;
use crate::kind::Kind;
use crate::normalise::{Normalised, Pipeline, Step};

const MAGIC: &[u8; 4] = b"CCST";
const LAYOUT: u8 = 1;

/// What a payload is.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Tag {
    Value = 1,
    Itself = 2,
    Gram = 3,
    Interval = 4,
}

/// A key that terms are made under. It lies in the value itself, so that its owner decides which pages hold it.
pub struct SearchKey(hmac::Key);

/// Nothing of the key.
impl fmt::Debug for SearchKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SearchKey(…)")
    }
}

impl SearchKey {
    /// The key of 32 secret bytes; the caller's copy stays the caller's to wipe. aws-lc wipes its own when this is
    /// dropped.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// The key with a label taken in: terms of it are made without allocating.
    #[must_use]
    pub fn prepare(&self, label: &Label) -> Prepared {
        Prepared {
            context: Box::new(self.labelled(label)),
            pipeline: label.pipeline.clone(),
        }
    }

    /// [`Prepared::equality_of`] of one value, for which nothing is kept.
    ///
    /// # Errors
    /// As that.
    pub fn equality_of(
        &self,
        label: &Label,
        value: Value<'_>,
        bits: TermBits,
    ) -> Result<Term, NotNumeric> {
        equality_of(&label.pipeline, value, bits, |tag, payload| {
            finish(self.labelled(label), tag, payload)
        })
    }

    fn labelled(&self, label: &Label) -> hmac::Context {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&label.encoded);
        context
    }
}

/// What a term is of, besides the value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Label {
    domain: [u8; 16],
    kind: Kind,
    class: Class,
    pipeline: Pipeline,
    version: u16,
    /// All of that, as it stands in a message.
    encoded: Vec<u8>,
}

/// Why there can be no such index.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    #[error("a normaliser is for text, not for {0}")]
    NoText(Class),
    #[error("an index of kind text is for text, not for {0}")]
    NoGrams(Class),
    #[error("an index of kind {0} takes no step \"{1}\" of a normaliser")]
    Step(Kind, Step),
    #[error("version {0} of the normalisers' rules is unknown: the newest is {newest}", newest = Pipeline::VERSION)]
    Version(u16),
}

impl Label {
    /// The label of an index. `domain` is the index's own identity or that of the search domain that it is in,
    /// `version` that of the normalisers' rules that it was made with.
    ///
    /// # Errors
    /// [`LabelError`] where kind, class and normaliser do not go together.
    pub fn new(
        domain: [u8; 16],
        kind: Kind,
        class: Class,
        pipeline: Pipeline,
        version: u16,
    ) -> Result<Self, LabelError> {
        if version == 0 || version > Pipeline::VERSION {
            return Err(LabelError::Version(version));
        }
        if !pipeline.is_empty() && !class.is_text() {
            return Err(LabelError::NoText(class));
        }
        // LIKE on character(n) sees its blanks, `=` does not: no set of n-grams serves both.
        if kind == Kind::Text && class != Class::Text {
            return Err(LabelError::NoGrams(class));
        }
        // A range is one of SQL's order, which no normaliser keeps; n-grams have to be the same wherever they stand.
        let takes = |step: Step| match kind {
            Kind::Equality => true,
            Kind::Range => false,
            Kind::Text => matches!(step, Step::Casefold | Step::Unaccent),
        };
        if let Some(step) = pipeline.steps().iter().find(|step| !takes(**step)) {
            return Err(LabelError::Step(kind, *step));
        }
        let mut label = Self {
            domain,
            kind,
            class,
            pipeline,
            version,
            encoded: Vec::new(),
        };
        label.encoded = label.encode();
        Ok(label)
    }

    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    #[must_use]
    pub const fn class(&self) -> Class {
        self.class
    }

    #[must_use]
    pub const fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// One sequence of bytes for each label, none of which begins another.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(96);
        bytes.extend_from_slice(MAGIC);
        bytes.push(LAYOUT);
        bytes.extend_from_slice(&self.domain);
        let name = |name: &str, bytes: &mut Vec<u8>| {
            bytes.push(name.len() as u8);
            bytes.extend_from_slice(name.as_bytes());
        };
        name(self.kind.name(), &mut bytes);
        name(self.class.name(), &mut bytes);
        bytes.extend_from_slice(&self.version.to_be_bytes());
        bytes.push(self.pipeline.steps().len() as u8);
        for step in self.pipeline.steps() {
            name(step.name(), &mut bytes);
        }
        bytes
    }
}

/// How many bits of an equality term are kept: 8 to 256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TermBits(u16);

/// No term has so many bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a term has 8 to 256 bits, not {0}")]
pub struct BadTermBits(pub u16);

impl TermBits {
    /// All of them: what UNIQUE, joins and foreign keys need.
    pub const FULL: Self = Self(256);

    /// # Errors
    /// [`BadTermBits`] for fewer than 8 and more than 256.
    pub const fn new(bits: u16) -> Result<Self, BadTermBits> {
        if 8 <= bits && bits <= 256 {
            Ok(Self(bits))
        } else {
            Err(BadTermBits(bits))
        }
    }

    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Bytes of a term.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.0.div_ceil(8) as usize
    }

    #[must_use]
    pub const fn is_full(self) -> bool {
        self.0 == 256
    }
}

/// An equality term: the first bits of an HMAC, filled up to a byte with zeros (RFC 2104, section 5, on truncation).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Term {
    bytes: [u8; 32],
    len: u8,
}

impl Term {
    fn new(mac: &[u8; 32], bits: TermBits) -> Self {
        let len = bits.bytes();
        let mut bytes = [0; 32];
        bytes[..len].copy_from_slice(&mac[..len]);
        let spare = len * 8 - usize::from(bits.get());
        bytes[len - 1] &= 0xff << spare;
        Self {
            bytes,
            len: len as u8,
        }
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// As it stands in the table, where it is no secret.
impl fmt::Debug for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Term({})", hex::encode(self.as_bytes()))
    }
}

/// A search key with a label taken in.
pub struct Prepared {
    context: Box<hmac::Context>,
    pipeline: Pipeline,
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Prepared(…)")
    }
}

impl Prepared {
    fn mac(&self, tag: Tag, payload: &[u8]) -> [u8; 32] {
        finish((*self.context).clone(), tag, payload)
    }

    /// The equality term of a value: normalised where the label has a normaliser, by itself where it has no normal
    /// form.
    ///
    /// # Errors
    /// [`NotNumeric`] for a numeric that `numeric_out` did not write.
    pub fn equality_of(&self, value: Value<'_>, bits: TermBits) -> Result<Term, NotNumeric> {
        equality_of(&self.pipeline, value, bits, |tag, payload| {
            self.mac(tag, payload)
        })
    }

    /// The term of an n-gram, in UTF-8.
    #[must_use]
    pub fn gram(&self, gram: &[u8]) -> i64 {
        first_eight(&self.mac(Tag::Gram, gram))
    }

    /// The term of an interval: of all keys which are `prefix` above their lowest `shift` bits.
    #[must_use]
    pub fn interval(&self, shift: u8, prefix: u64) -> i64 {
        let mut payload = Zeroizing::new([0; 9]);
        payload[0] = shift;
        payload[1..].copy_from_slice(&prefix.to_be_bytes());
        first_eight(&self.mac(Tag::Interval, &payload[..]))
    }
}

fn equality_of(
    pipeline: &Pipeline,
    value: Value<'_>,
    bits: TermBits,
    mac: impl FnOnce(Tag, &[u8]) -> [u8; 32],
) -> Result<Term, NotNumeric> {
    let canonical = value.canonical()?;
    let form = match value.letters() {
        Some(text) if !pipeline.is_empty() => Some(pipeline.apply_or_self(text)),
        _ => None,
    };
    let mac = match (&form, pipeline.is_empty()) {
        (Some(Normalised::Form(form)), _) => mac(Tag::Value, form.as_bytes()),
        (_, true) => mac(Tag::Value, &canonical),
        (_, false) => mac(Tag::Itself, &canonical),
    };
    Ok(Term::new(&mac, bits))
}

fn finish(mut context: hmac::Context, tag: Tag, payload: &[u8]) -> [u8; 32] {
    context.update(&[tag as u8]);
    context.update(payload);
    let mac = context.sign();
    mac.as_ref().try_into().expect("HMAC-SHA-256 has 32 bytes")
}

/// For an array of int8 under GIN. Terms that collide cost a recheck.
fn first_eight(mac: &[u8; 32]) -> i64 {
    let [a, b, c, d, e, f, g, h, ..] = *mac;
    i64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests;
