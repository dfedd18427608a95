//! What an index would tell whoever steals the disk: measured on a sample.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

use crate::canonical::Value;
use crate::decimal::NotNumeric;
use crate::normalise::{Normalised, Pipeline};
use crate::range::RangeSpec;
use crate::term::TermBits;
use crate::text::TextSpec;

/// A column, by a sample of its values.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// How often each different value (in its normal form) is in the sample.
    pub counts: &'a [u64],
    /// Rows of the table, estimated.
    pub rows: u64,
    /// Whether the type has two values only.
    pub boolean: bool,
}

/// Percent of all rows that one value may have before a warning, where nobody says otherwise.
pub const WARN_PERCENT: f64 = 5.0;
/// How many of the largest shares are told.
pub const LARGEST: usize = 5;

/// What equality terms tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Equality {
    /// Rows in the sample.
    pub sampled: u64,
    /// Different values in the sample.
    pub distinct: u64,
    /// Different values in the table, estimated as ANALYZE does.
    pub estimated_distinct: f64,
    /// The largest shares of all rows, from 0 to 1, the largest first.
    pub largest: Vec<f64>,
    /// Bits that the likeliest value gives away when it is guessed: −log₂ of the largest share.
    pub min_entropy: f64,
    /// Shannon's entropy of a row's term in bits.
    pub entropy: f64,
    /// What each length of a term costs and tells: all of 256 bits, then 8 to 32.
    pub lengths: Vec<Length>,
    /// The lengths between which a shorter term hides equality, at a price that is bearable.
    pub truncation: Option<Truncation>,
    pub verdict: Verdict,
}

/// A length of terms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Length {
    pub bits: TermBits,
    /// Rows that a look-up decrypts, on average over the table's values as often as they occur.
    pub rechecked: f64,
    /// Those among them that hold another value.
    pub others: f64,
    /// Different terms in the table.
    pub terms: f64,
}

/// By CipherSweet's rule for truncated indexes: with C = R / 2^bits rows of other values under a term, 2 ≤ C ≤ √R.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncation {
    pub least: TermBits,
    /// The cheapest, and so what is recommended.
    pub most: TermBits,
}

/// What is to be thought of an equality index.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    Refuse(Refusal),
    Warn(Warning),
    Good,
}

/// Why there should be none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Boolean,
    /// So many different values.
    FewValues(u64),
}

/// What should be known before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Warning {
    /// No rows, so nothing is known.
    NothingSampled,
    /// One value has this percentage of all rows, more than that.
    LargestShare { percent: f64, limit: f64 },
}

impl Verdict {
    /// In one word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refuse(_) => "refuse",
            Self::Warn(_) => "warn",
            Self::Good => "good",
        }
    }
}

/// In a sentence.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refuse(Refusal::Boolean) => f.write_str(
                "a boolean has two values: how often each term occurs tells which is which",
            ),
            Self::Refuse(Refusal::FewValues(1)) => {
                f.write_str("all values are the same: an index finds nothing")
            }
            Self::Refuse(Refusal::FewValues(count)) => write!(
                f,
                "there are only {count} different values: how often each term occurs tells which is which"
            ),
            Self::Warn(Warning::NothingSampled) => {
                f.write_str("there are no values yet: nothing can be said of them")
            }
            Self::Warn(Warning::LargestShare { percent, limit }) => write!(
                f,
                "one value is in {percent:.1} per cent of the rows, more than {limit:.1}: \
                 who knows that it is the commonest knows these rows"
            ),
            Self::Good => f.write_str("no value stands out"),
        }
    }
}

/// How often each different value occurs, by a hash under a key of its own, so that no plaintext is kept.
#[derive(Default)]
pub struct Occurrences {
    hash: RandomState,
    rows: HashMap<u64, u64>,
    /// Values without a normal form, which are found by themselves only.
    pub without_form: u64,
}

impl Occurrences {
    /// Counts a value as an index with this normaliser tells it from others.
    ///
    /// # Errors
    /// [`NotNumeric`] for a numeric that `numeric_out` did not write.
    pub fn add(&mut self, pipeline: &Pipeline, value: Value<'_>) -> Result<(), NotNumeric> {
        let canonical = value.canonical()?;
        let text = value.letters().filter(|_| !pipeline.is_empty());
        let hash = match text.map(|text| pipeline.apply_or_self(text)) {
            Some(Normalised::Form(form)) => self.hash.hash_one((true, form.as_bytes())),
            Some(Normalised::Itself(_)) => {
                self.without_form += 1;
                self.hash.hash_one((false, &canonical[..]))
            }
            None => self.hash.hash_one((true, &canonical[..])),
        };
        *self.rows.entry(hash).or_default() += 1;
        Ok(())
    }

    /// For [`Sample::counts`].
    #[must_use]
    pub fn counts(&self) -> Vec<u64> {
        self.rows.values().copied().collect()
    }
}

/// Judges a column for an equality index. `warn_percent` is the share of one value from which on there is a warning.
#[must_use]
pub fn equality(sample: Sample<'_>, warn_percent: f64) -> Equality {
    let mut counts: Vec<_> = sample.counts.iter().copied().filter(|it| *it > 0).collect();
    counts.sort_unstable_by(|one, other| other.cmp(one));
    let sampled: u64 = counts.iter().sum();
    let rows = sample.rows.max(sampled) as f64;
    let shares: Vec<_> = counts
        .iter()
        .map(|count| *count as f64 / sampled as f64)
        .collect();
    let estimated_distinct = estimated_distinct(&counts, rows);
    let most = shares.first().copied().unwrap_or(1.0);
    let same: f64 = same_value(&counts);
    let lengths = std::iter::once(256)
        .chain(8..=32)
        .map(|bits| length(bits, rows, same, estimated_distinct))
        .collect();
    Equality {
        sampled,
        distinct: counts.len() as u64,
        estimated_distinct,
        largest: shares.iter().copied().take(LARGEST).collect(),
        // Not −0.
        min_entropy: 0.0 - most.log2(),
        entropy: shares.iter().map(|share| 0.0 - share * share.log2()).sum(),
        lengths,
        truncation: truncation(rows),
        verdict: verdict(sample, &counts, most * 100.0, warn_percent),
    }
}

fn verdict(sample: Sample<'_>, counts: &[u64], percent: f64, limit: f64) -> Verdict {
    match counts {
        _ if sample.boolean => Verdict::Refuse(Refusal::Boolean),
        [] => Verdict::Warn(Warning::NothingSampled),
        // A table of one row or two says nothing of what will be in it.
        [_] | [_, _] if counts.iter().sum::<u64>() > 2 => {
            Verdict::Refuse(Refusal::FewValues(counts.len() as u64))
        }
        _ if percent > limit && counts[0] > 1 => {
            Verdict::Warn(Warning::LargestShare { percent, limit })
        }
        _ => Verdict::Good,
    }
}

/// How likely two rows have the same value, estimated without bias from a sample (Simpson 1949).
fn same_value(counts: &[u64]) -> f64 {
    let all: f64 = counts.iter().map(|count| *count as f64).sum();
    if all < 2.0 {
        return 0.0;
    }
    let pairs: f64 = counts
        .iter()
        .map(|count| *count as f64 * (*count as f64 - 1.0))
        .sum();
    pairs / (all * (all - 1.0))
}

/// Haas and Stokes' Duj1, which ANALYZE uses (`compute_distinct_stats`): n·d / (n − f₁ + f₁·n/N), with f₁ values that
/// occur once.
fn estimated_distinct(counts: &[u64], rows: f64) -> f64 {
    let sampled: f64 = counts.iter().map(|count| *count as f64).sum();
    let distinct = counts.len() as f64;
    let once = counts.iter().filter(|count| **count == 1).count() as f64;
    if sampled == 0.0 {
        return 0.0;
    }
    let estimate = sampled * distinct / (sampled - once + once * sampled / rows);
    estimate.clamp(distinct, rows)
}

/// A look-up finds the value's own rows, itself among them, and each other row by chance of 1 in 2^bits.
fn length(bits: u16, rows: f64, same: f64, distinct: f64) -> Length {
    let chance = (-f64::from(bits)).exp2();
    let own = if rows < 1.0 {
        0.0
    } else {
        1.0 + (rows - 1.0) * same
    };
    let others = (rows - own) * chance;
    // 2^b·(1 − (1 − 2^−b)^D), without losing what is small.
    let terms = -(distinct * (-chance).ln_1p()).exp_m1() / chance;
    Length {
        bits: TermBits::new(bits).expect("8 to 256"),
        rechecked: own + others,
        others,
        terms: terms.min(distinct),
    }
}

fn truncation(rows: f64) -> Option<Truncation> {
    // C ≥ 2 and C ≤ √R.
    let most = (rows / 2.0).log2().floor();
    let least = (rows.log2() / 2.0).ceil();
    let bits = |bits: f64| TermBits::new((bits.max(0.0) as u16).max(8)).ok();
    if most < 8.0 || least > most {
        return None;
    }
    Some(Truncation {
        least: bits(least)?,
        most: bits(most)?,
    })
}

/// What the intervals of a level tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// Low bits of the key that its intervals do not tell.
    pub shift: u8,
    /// Intervals with a row.
    pub intervals: u64,
    /// The share of rows in the fullest interval, from 0 to 1.
    pub largest: f64,
}

/// For each level of a range index, the smallest intervals first: how many there are, and how full the fullest is.
#[must_use]
pub fn range(spec: RangeSpec, keys: &[u64]) -> Vec<Level> {
    (0..usize::from(spec.levels()))
        .map(|level| {
            let mut rows: HashMap<u64, u64> = HashMap::new();
            let mut shift = 0;
            for key in keys {
                let node = spec.nodes_of(*key)[level];
                *rows.entry(node.prefix).or_default() += 1;
                shift = node.shift;
            }
            let most = rows.values().copied().max().unwrap_or(0);
            Level {
                shift,
                intervals: rows.len() as u64,
                largest: most as f64 / keys.len().max(1) as f64,
            }
        })
        .collect()
}

/// What n-grams tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// Different n-grams in the sample.
    pub grams: u64,
    /// The shares of rows that have the commonest n-grams, from 0 to 1, the largest first. Not which they are: that is
    /// plaintext.
    pub largest: Vec<f64>,
    /// N-grams that a value has on average.
    pub per_value: f64,
}

/// How often each n-gram occurs, by a hash under a key of its own, so that no plaintext is kept.
pub struct GramOccurrences {
    spec: TextSpec,
    hash: RandomState,
    rows: HashMap<u64, u64>,
    values: u64,
    grams: u64,
}

impl GramOccurrences {
    #[must_use]
    pub fn new(spec: TextSpec) -> Self {
        Self {
            spec,
            hash: RandomState::new(),
            rows: HashMap::new(),
            values: 0,
            grams: 0,
        }
    }

    /// Counts a value's n-grams.
    pub fn add(&mut self, value: &str) {
        self.values += 1;
        for gram in self.spec.grams_of(value).iter() {
            self.grams += 1;
            *self.rows.entry(self.hash.hash_one(gram)).or_default() += 1;
        }
    }

    /// How common the commonest are.
    #[must_use]
    pub fn told(&self) -> Text {
        let mut counts: Vec<_> = self.rows.values().copied().collect();
        counts.sort_unstable_by(|one, other| other.cmp(one));
        let part = |count: u64| count as f64 / self.values.max(1) as f64;
        Text {
            grams: counts.len() as u64,
            largest: counts
                .iter()
                .take(LARGEST)
                .map(|count| part(*count))
                .collect(),
            per_value: part(self.grams),
        }
    }
}

/// How common the commonest n-grams are.
#[must_use]
pub fn text<'a>(spec: TextSpec, values: impl IntoIterator<Item = &'a str>) -> Text {
    let mut occurrences = GramOccurrences::new(spec);
    values.into_iter().for_each(|value| occurrences.add(value));
    occurrences.told()
}

#[cfg(test)]
mod tests;
