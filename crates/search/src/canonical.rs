//! Values as bytes that are equal where SQL's `=` says so, and as numbers in the order of SQL's `<`.
//!
//! A term is made of the bytes, so what SQL holds for equal must give the same bytes; a range index is made of the
//! numbers, which may merge neighbours but never swap them. Every answer is rechecked by decrypting: merging costs
//! time, swapping would cost rows. `boolean` has no class, since a term of a boolean tells the value.

use std::fmt;
use std::ops::Deref;

use zeroize::Zeroizing;

use crate::decimal::{Decimal, NotNumeric};

/// Types whose values are compared alike. The SQL type is the caller's to map: `int2`, `int4` and `int8` are one class,
/// so are `text`, `varchar` and enum labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    Int,
    Float,
    Numeric,
    Text,
    Bpchar,
    Bytea,
    Uuid,
    Date,
    Timestamp,
    Timestamptz,
    Time,
    Interval,
}

impl Class {
    pub const ALL: [Self; 12] = [
        Self::Int,
        Self::Float,
        Self::Numeric,
        Self::Text,
        Self::Bpchar,
        Self::Bytea,
        Self::Uuid,
        Self::Date,
        Self::Timestamp,
        Self::Timestamptz,
        Self::Time,
        Self::Interval,
    ];

    /// The name in the catalog and in labels: it never changes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Int => "int",
            Self::Float => "float",
            Self::Numeric => "numeric",
            Self::Text => "text",
            Self::Bpchar => "bpchar",
            Self::Bytea => "bytea",
            Self::Uuid => "uuid",
            Self::Date => "date",
            Self::Timestamp => "timestamp",
            Self::Timestamptz => "timestamptz",
            Self::Time => "time",
            Self::Interval => "interval",
        }
    }

    /// The class of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }

    /// Whether its values are letters, so that normalisers apply.
    #[must_use]
    pub const fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::Bpchar)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A value of a class, in PostgreSQL's own units.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    Int(i64),
    Float(f64),
    /// As `numeric_out` writes it.
    Numeric(&'a str),
    /// In UTF-8, whatever the database's encoding.
    Text(&'a str),
    /// With its blanks or without.
    Bpchar(&'a str),
    Bytea(&'a [u8]),
    Uuid([u8; 16]),
    /// Days since 2000-01-01.
    Date(i32),
    /// Microseconds since 2000-01-01.
    Timestamp(i64),
    /// Microseconds since 2000-01-01 UTC.
    Timestamptz(i64),
    /// Microseconds since midnight.
    Time(i64),
    Interval {
        months: i32,
        days: i32,
        micros: i64,
    },
}

/// The class alone: a value is plaintext.
impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({})", self.class())
    }
}

/// Bytes that stand for a value, within its class. They are the plaintext or as good as it: wiped where they are ours.
pub enum Canonical<'a> {
    Borrowed(&'a [u8]),
    Inline(Zeroizing<[u8; 16]>, usize),
    Owned(Zeroizing<Vec<u8>>),
}

impl Canonical<'_> {
    fn inline<const N: usize>(bytes: [u8; N]) -> Self {
        let mut all = Zeroizing::new([0; 16]);
        all[..N].copy_from_slice(&bytes);
        Self::Inline(all, N)
    }
}

impl Deref for Canonical<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Inline(bytes, len) => &bytes[..*len],
            Self::Owned(bytes) => bytes,
        }
    }
}

const SIGN: u64 = 1 << 63;

impl<'a> Value<'a> {
    #[must_use]
    pub const fn class(self) -> Class {
        match self {
            Self::Int(_) => Class::Int,
            Self::Float(_) => Class::Float,
            Self::Numeric(_) => Class::Numeric,
            Self::Text(_) => Class::Text,
            Self::Bpchar(_) => Class::Bpchar,
            Self::Bytea(_) => Class::Bytea,
            Self::Uuid(_) => Class::Uuid,
            Self::Date(_) => Class::Date,
            Self::Timestamp(_) => Class::Timestamp,
            Self::Timestamptz(_) => Class::Timestamptz,
            Self::Time(_) => Class::Time,
            Self::Interval { .. } => Class::Interval,
        }
    }

    /// The letters of a value that has some, as far as SQL compares them.
    #[must_use]
    pub fn letters(self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Bpchar(text) => Some(without_blanks(text)),
            _ => None,
        }
    }

    /// Bytes that two values of one class share exactly where SQL's `=` holds (a deterministic collation taken for
    /// granted).
    ///
    /// # Errors
    /// [`NotNumeric`] for a numeric that `numeric_out` did not write.
    pub fn canonical(self) -> Result<Canonical<'a>, NotNumeric> {
        Ok(match self {
            Self::Int(number)
            | Self::Timestamp(number)
            | Self::Timestamptz(number)
            | Self::Time(number) => Canonical::inline(number.to_be_bytes()),
            Self::Date(days) => Canonical::inline(days.to_be_bytes()),
            Self::Float(number) => {
                Canonical::inline(one_zero_one_nan(number).to_bits().to_be_bytes())
            }
            Self::Numeric(text) => Canonical::Owned(Decimal::parse(text)?.shortest()),
            Self::Text(text) => Canonical::Borrowed(text.as_bytes()),
            Self::Bpchar(text) => Canonical::Borrowed(without_blanks(text).as_bytes()),
            Self::Bytea(bytes) => Canonical::Borrowed(bytes),
            Self::Uuid(bytes) => Canonical::inline(bytes),
            Self::Interval {
                months,
                days,
                micros,
            } => Canonical::inline(span(months, days, micros).to_be_bytes()),
        })
    }

    /// A number that does not fall where the value rises, in SQL's order; that of text and bpchar is of collation "C".
    /// Values that share a number are neighbours: numerics and texts beyond the first 8 bytes.
    ///
    /// # Errors
    /// [`NotNumeric`] for a numeric that `numeric_out` did not write.
    pub fn order(self) -> Result<u64, NotNumeric> {
        Ok(match self {
            Self::Int(number)
            | Self::Timestamp(number)
            | Self::Timestamptz(number)
            | Self::Time(number) => number.cast_unsigned() ^ SIGN,
            Self::Date(days) => i64::from(days).cast_unsigned() ^ SIGN,
            Self::Float(number) => float_order(number),
            Self::Numeric(text) => float_order(Decimal::parse(text)?.nearest()),
            Self::Text(text) => first_eight(text.as_bytes()),
            Self::Bpchar(text) => first_eight(without_blanks(text).as_bytes()),
            Self::Bytea(bytes) => first_eight(bytes),
            Self::Uuid(bytes) => first_eight(&bytes),
            Self::Interval {
                months,
                days,
                micros,
            } => ((span(months, days, micros) >> SPAN_DROPPED) as i64).cast_unsigned() ^ SIGN,
        })
    }
}

/// Bits that are dropped of an interval's span, which has 74 with its sign, for a number of 64: about a millisecond.
const SPAN_DROPPED: u32 = 10;

/// What `interval_cmp` compares (`src/backend/utils/adt/timestamp.c`): microseconds, with months of 30 days and days of
/// 24 hours. PostgreSQL 17's infinite intervals have the extremes of all three fields, and so of this.
fn span(months: i32, days: i32, micros: i64) -> i128 {
    const DAY: i128 = 24 * 60 * 60 * 1_000_000;
    (i128::from(months) * 30 + i128::from(days)) * DAY + i128::from(micros)
}

/// A character value compares without its trailing blanks (`bpchartruelen`): the ASCII space only.
fn without_blanks(text: &str) -> &str {
    text.trim_end_matches(' ')
}

/// SQL has one zero and one NaN (`float8_cmp_internal`). The NaN is the one that PostgreSQL's `float8in` makes; the
/// bits of Rust's are not specified.
fn one_zero_one_nan(number: f64) -> f64 {
    if number.is_nan() {
        f64::from_bits(0x7ff8_0000_0000_0000)
    } else {
        // −0 + 0 is 0.
        number + 0.0
    }
}

/// IEEE 754's numbers in their order (its totalOrder, clause 5.10, of which one zero and one NaN are left), NaN
/// greatest, as in SQL.
fn float_order(number: f64) -> u64 {
    let bits = one_zero_one_nan(number).to_bits();
    if bits & SIGN == 0 { bits | SIGN } else { !bits }
}

/// The first 8 bytes as a number; a shorter value stands before what it begins.
fn first_eight(bytes: &[u8]) -> u64 {
    let mut first = [0; 8];
    for (to, from) in first.iter_mut().zip(bytes) {
        *to = *from;
    }
    u64::from_be_bytes(first)
}

#[cfg(test)]
mod tests;
