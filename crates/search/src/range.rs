//! Ranges as keyed intervals: a dyadic cover.
//!
//! A value's order key is cut into granules, and lies in one interval of each *level*; a row holds the terms of these.
//! A range is the union of few intervals, whose terms a query looks up (Faber et al., "Rich Queries on Encrypted Data:
//! Beyond Exact Matches", ESORICS 2015; with a sparsity in MongoDB's queryable encryption). No term tells which of two
//! is the greater.
//!
//! Two things keep the number of terms small. *Sparsity*: only one level in so many bits is stored, so a row has fewer
//! terms and a query more. A *window*: a date needs no intervals of millions of years. Keys outside the window around
//! the class's zero are entered as the nearest inside, and so are bounds. That, as the granularity, merges neighbours
//! and never swaps them; answers are rechecked.

use std::ops::RangeInclusive;

use crate::canonical::Class;
use crate::term::Prepared;

/// How a class is cut into intervals. An index keeps the three numbers that it was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeSpec {
    granularity: u8,
    sparsity: u8,
    levels: u8,
    /// The least key of the window.
    base: u64,
}

/// An interval: the keys, counted from the window's least, that are `prefix` above their lowest `shift` bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node {
    pub shift: u8,
    pub prefix: u64,
}

/// Why ranges cannot be cut like this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    #[error("a value has 1 to {max} levels of intervals, not {0}", max = RangeSpec::MAX_LEVELS)]
    Levels(u8),
    #[error("levels of intervals are 1 to {max} bits apart, not {0}", max = RangeSpec::MAX_SPARSITY)]
    Sparsity(u8),
    #[error("a granularity of {0} bits and the levels above have {1} bits; a key has 64")]
    TooWide(u8, u32),
    #[error("a granularity of {0} bits and the levels above must have 64 bits for {2}, not {1}")]
    NotWhole(u8, u32, Class),
}

/// Where a class's keys are.
enum Window {
    /// Around zero, which is in the middle of the keys.
    Around,
    /// From zero, which is in the middle of the keys.
    From,
    /// Everywhere: a key's first bits say most.
    Whole,
}

const MIDDLE: u64 = 1 << 63;

const fn window(class: Class) -> Window {
    match class {
        Class::Int | Class::Date | Class::Timestamp | Class::Timestamptz | Class::Interval => {
            Window::Around
        }
        Class::Time => Window::From,
        Class::Float
        | Class::Numeric
        | Class::Text
        | Class::Bpchar
        | Class::Bytea
        | Class::Uuid => Window::Whole,
    }
}

impl RangeSpec {
    /// Terms of a value, at most.
    pub const MAX_LEVELS: u8 = 16;
    /// Bits between two levels, at most: with 8, a bound takes up to 255 terms a level.
    pub const MAX_SPARSITY: u8 = 8;
    /// Terms that a query may well look up, for [`cover`](Self::cover): more than any range takes with the default
    /// sparsity.
    pub const MAX_COVER: usize = 512;

    /// `granularity` low bits of a key are dropped; above, each level has `sparsity` bits more.
    ///
    /// # Errors
    /// [`RangeError`] where a key does not have so many bits, or is not told by them.
    pub fn new(
        class: Class,
        granularity: u8,
        sparsity: u8,
        levels: u8,
    ) -> Result<Self, RangeError> {
        if sparsity == 0 || sparsity > Self::MAX_SPARSITY {
            return Err(RangeError::Sparsity(sparsity));
        }
        if levels == 0 || levels > Self::MAX_LEVELS {
            return Err(RangeError::Levels(levels));
        }
        let bits = u32::from(granularity) + u32::from(sparsity) * u32::from(levels);
        if bits > 64 {
            return Err(RangeError::TooWide(granularity, bits));
        }
        let base = match window(class) {
            Window::Whole if bits < 64 => {
                return Err(RangeError::NotWhole(granularity, bits, class));
            }
            Window::Whole => 0,
            Window::Around => MIDDLE - (1 << (bits - 1)),
            // From the middle on there are 63 bits.
            Window::From if bits > 63 => return Err(RangeError::TooWide(granularity, bits + 1)),
            Window::From => MIDDLE,
        };
        Ok(Self {
            granularity,
            sparsity,
            levels,
            base,
        })
    }

    /// What serves a class well where nobody says otherwise; each has a sparsity of 4.
    ///
    /// | class | granule | window | terms a value |
    /// | --- | --- | --- | --- |
    /// | date | a day | 565 to 3435 | 5 |
    /// | timestamp, timestamptz | 72 minutes | 858 to 3141 | 6 |
    /// | time | 34 seconds | all | 3 |
    /// | interval | 72 minutes | ±1158 years of 360 days | 6 |
    /// | int | 1 | all; [`for_int4`](Self::for_int4) has half the terms | 16 |
    /// | float, numeric | 8 decimal digits | all | 10 |
    /// | text, bpchar, bytea | 5 bytes | all | 10 |
    /// | uuid | 65 seconds of a version 7's clock (RFC 9562, 5.7) | all | 8 |
    #[must_use]
    pub fn for_class(class: Class) -> Self {
        let (granularity, levels) = match class {
            Class::Date => (0, 5),
            Class::Timestamp | Class::Timestamptz => (32, 6),
            Class::Time => (25, 3),
            Class::Interval => (22, 6),
            Class::Int => (0, 16),
            Class::Float | Class::Numeric => (24, 10),
            Class::Text | Class::Bpchar | Class::Bytea => (24, 10),
            Class::Uuid => (32, 8),
        };
        Self::new(class, granularity, 4, levels).expect("the table is right: a test")
    }

    /// For integers of 32 bits: eight terms.
    #[must_use]
    pub fn for_int4() -> Self {
        Self::new(Class::Int, 0, 4, 8).expect("32 bits are a window")
    }

    #[must_use]
    pub const fn granularity(self) -> u8 {
        self.granularity
    }

    #[must_use]
    pub const fn sparsity(self) -> u8 {
        self.sparsity
    }

    #[must_use]
    pub const fn levels(self) -> u8 {
        self.levels
    }

    /// The keys that are entered as they are.
    #[must_use]
    pub const fn window(self) -> RangeInclusive<u64> {
        let bits = self.granularity + self.sparsity * self.levels;
        self.base..=self.base + (u64::MAX >> (64 - bits))
    }

    const fn shift(self, level: u8) -> u8 {
        self.granularity + self.sparsity * level
    }

    /// A key, counted from the window's least.
    fn inside(self, key: u64) -> u64 {
        let window = self.window();
        key.clamp(*window.start(), *window.end()) - self.base
    }

    /// The intervals that a key lies in, the smallest first.
    #[must_use]
    pub fn nodes_of(self, key: u64) -> Vec<Node> {
        let key = self.inside(key);
        (0..self.levels)
            .map(|level| self.shift(level))
            .map(|shift| Node {
                shift,
                prefix: key >> shift,
            })
            .collect()
    }

    /// The fewest intervals that hold the keys from `low` to `high`, both included, and no granule more. A bound that
    /// is `None` is open. Empty where no key can be between. `None`, for a scan, where it would take more than `max`,
    /// and without any bound.
    #[must_use]
    pub fn cover(self, low: Option<u64>, high: Option<u64>, max: usize) -> Option<Vec<Node>> {
        if low.is_none() && high.is_none() {
            return None;
        }
        if low.zip(high).is_some_and(|(low, high)| low > high) {
            return Some(Vec::new());
        }
        let granule = |key| u128::from(self.inside(key) >> self.granularity);
        // From the first granule to the one after the last, which may need a bit more than a key has.
        let mut from = granule(low.unwrap_or(u64::MIN));
        let mut to = granule(high.unwrap_or(u64::MAX)) + 1;
        let mut nodes = Vec::new();
        let mut add = |shift: u8, prefixes: std::ops::Range<u128>| {
            nodes.extend(prefixes.map(|prefix| Node {
                shift,
                prefix: prefix as u64,
            }));
            nodes.len() <= max
        };
        for level in 0..self.levels {
            let (shift, above) = (self.shift(level), 1 << self.sparsity);
            // What the level above holds whole.
            let (first, last) = (from.div_ceil(above), to / above);
            if level + 1 == self.levels || first >= last {
                return add(shift, from..to).then_some(nodes);
            }
            if !add(shift, from..first * above) || !add(shift, last * above..to) {
                return None;
            }
            (from, to) = (first, last);
        }
        unreachable!("the last level returns")
    }

    /// The terms that a row with this key holds, sorted.
    #[must_use]
    pub fn terms(self, prepared: &Prepared, key: u64) -> Vec<i64> {
        terms_of(prepared, &self.nodes_of(key))
    }

    /// The terms one of which each row between the bounds holds, sorted; see [`cover`](Self::cover).
    #[must_use]
    pub fn cover_terms(
        self,
        prepared: &Prepared,
        low: Option<u64>,
        high: Option<u64>,
        max: usize,
    ) -> Option<Vec<i64>> {
        Some(terms_of(prepared, &self.cover(low, high, max)?))
    }
}

/// Sorted, so that their order tells nothing of levels.
fn terms_of(prepared: &Prepared, nodes: &[Node]) -> Vec<i64> {
    let mut terms: Vec<_> = nodes
        .iter()
        .map(|node| prepared.interval(node.shift, node.prefix))
        .collect();
    terms.sort_unstable();
    terms.dedup();
    terms
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::canonical::Value;

    fn specs() -> impl Strategy<Value = RangeSpec> {
        let class = prop::sample::select(&Class::ALL[..]);
        prop_oneof![
            class.clone().prop_map(RangeSpec::for_class),
            Just(RangeSpec::for_int4()),
            (class, 0..=40u8, 1..=8u8, 1..=16u8).prop_filter_map("bits", |(class, g, s, l)| {
                RangeSpec::new(class, g, s, l).ok()
            }),
        ]
    }

    /// Keys near each other, near the edges and anywhere.
    fn keys() -> impl Strategy<Value = u64> {
        prop_oneof![
            any::<u64>(),
            (MIDDLE - 5000..MIDDLE + 5000),
            (0..64u32, -3..3i64).prop_map(|(bit, by)| (1u64 << bit).wrapping_add_signed(by)),
            (0..64u32, -3..3i64)
                .prop_map(|(bit, by)| { MIDDLE.wrapping_add(1 << bit).wrapping_add_signed(by) }),
            (0..64u32, -3..3i64)
                .prop_map(|(bit, by)| { MIDDLE.wrapping_sub(1 << bit).wrapping_add_signed(by) }),
        ]
    }

    fn hit(spec: RangeSpec, cover: &[Node], key: u64) -> bool {
        let cover: HashSet<_> = cover.iter().collect();
        spec.nodes_of(key).iter().any(|node| cover.contains(node))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn a_cover_hits_what_is_between_and_no_granule_more(
            spec in specs(), one in keys(), other in keys(), among in prop::collection::vec(keys(), 8),
            part in 0.0..1.0f64
        ) {
            let (low, high) = (one.min(other), one.max(other));
            let cover = spec.cover(Some(low), Some(high), usize::MAX).unwrap();
            let between = low + ((high - low) as f64 * part) as u64;
            let granule = |key| spec.inside(key) >> spec.granularity;
            let edges = [low, high, between.min(high), low.wrapping_sub(1), high.wrapping_add(1)];
            let all = among.iter().copied().chain(edges);
            for key in all {
                let expected = (granule(low)..=granule(high)).contains(&granule(key));
                prop_assert_eq!(hit(spec, &cover, key), expected);
                prop_assert!(expected || !(low..=high).contains(&key));
            }
            // No interval twice, none inside another.
            for node in &cover {
                let inside = |other: &&Node| other.shift >= node.shift
                    && node.prefix >> (other.shift - node.shift) == other.prefix;
                prop_assert_eq!(cover.iter().filter(inside).count(), 1);
            }
            let most = 2 * ((1 << spec.sparsity) - 1) * usize::from(spec.levels);
            prop_assert!(cover.len() <= most.max(1 << spec.sparsity), "{} of {most}", cover.len());
            let just_so = spec.cover(Some(low), Some(high), cover.len());
            prop_assert_eq!(just_so.as_ref(), Some(&cover));
            prop_assert_eq!(spec.cover(Some(low), Some(high), cover.len() - 1), None);
        }

        #[test]
        fn an_open_end_takes_half_as_many(spec in specs(), bound in keys(), other in keys()) {
            let above = spec.cover(Some(bound), None, usize::MAX).unwrap();
            let below = spec.cover(None, Some(bound), usize::MAX).unwrap();
            prop_assert!(hit(spec, &above, other) || other < bound);
            prop_assert!(hit(spec, &below, other) || other > bound);
            let most = ((1 << spec.sparsity) - 1) * usize::from(spec.levels) + 1;
            prop_assert!(above.len() <= most && below.len() <= most);
        }

        #[test]
        fn a_value_has_an_interval_of_each_level(spec in specs(), key in keys()) {
            let nodes = spec.nodes_of(key);
            prop_assert_eq!(nodes.len(), usize::from(spec.levels));
            prop_assert!(nodes.windows(2).all(|two| two[1].prefix == two[0].prefix >> spec.sparsity));
            prop_assert!(nodes.last().unwrap().prefix < 1 << spec.sparsity);
        }
    }

    #[test]
    fn small_covers_are_the_ones_that_one_would_draw() {
        let spec = RangeSpec::new(Class::Int, 0, 2, 3).unwrap();
        assert_eq!(spec.window(), MIDDLE - 32..=MIDDLE + 31);
        let cover = |low: i64, high: i64| {
            let key = |number| Value::Int(number).order().unwrap();
            let nodes = spec
                .cover(Some(key(low)), Some(key(high)), usize::MAX)
                .unwrap();
            nodes
                .iter()
                .map(|node| (node.shift, node.prefix))
                .collect::<Vec<_>>()
        };
        assert_eq!(cover(-32, -32), [(0, 0)]);
        assert_eq!(cover(-32, -29), [(2, 0)]);
        assert_eq!(cover(-32, 31), [(4, 0), (4, 1), (4, 2), (4, 3)]);
        assert_eq!(cover(-31, -25), [(0, 1), (0, 2), (0, 3), (2, 1)]);
        assert_eq!(
            cover(-30, 2),
            [
                (0, 2),
                (0, 3),
                (0, 32),
                (0, 33),
                (0, 34),
                (2, 1),
                (2, 2),
                (2, 3),
                (4, 1)
            ]
        );
        // Beyond the window all is its edge.
        assert_eq!(cover(-1000, -900), [(0, 0)]);
        assert_eq!(cover(40, i64::MAX), [(0, 63)]);
    }

    #[test]
    fn bounds_that_leave_nothing_and_none_at_all() {
        let spec = RangeSpec::for_class(Class::Date);
        assert_eq!(spec.cover(Some(2), Some(1), 100), Some(vec![]));
        assert_eq!(spec.cover(None, None, usize::MAX), None);
    }

    #[test]
    fn defaults_are_as_the_table_says() {
        for class in Class::ALL {
            let spec = RangeSpec::for_class(class);
            assert_eq!(
                RangeSpec::new(class, spec.granularity(), spec.sparsity(), spec.levels()),
                Ok(spec)
            );
            // No range takes more than what is documented.
            assert!(2 * 15 * usize::from(spec.levels()) <= RangeSpec::MAX_COVER);
        }
        let key = |value: Value<'_>| value.order().unwrap();
        let of = |class| RangeSpec::for_class(class).window();
        // 24:00:00 is the last time of a day.
        assert!(of(Class::Time).contains(&key(Value::Time(0))));
        assert!(of(Class::Time).contains(&key(Value::Time(86_400_000_000))));
        // 0565-01-01 and 3435-01-01.
        for days in [-524_122, 524_123] {
            assert!(of(Class::Date).contains(&key(Value::Date(days))));
        }
        assert!(!of(Class::Date).contains(&key(Value::Date(i32::MAX))));
        assert_eq!(of(Class::Int), 0..=u64::MAX);
    }

    #[test]
    fn a_week_back_to_now_takes_few_terms() {
        // 2025-06-01 12:00 UTC in PostgreSQL's microseconds.
        let now = Value::Timestamptz(802_094_400_000_000).order().unwrap();
        let spec = RangeSpec::for_class(Class::Timestamptz);
        let week = 7 * 86_400_000_000;
        let open = spec.cover(Some(now - week), None, usize::MAX).unwrap();
        assert!(open.len() <= 60, "{}", open.len());
        let month = spec.cover(Some(now - 30 * 86_400_000_000), Some(now), usize::MAX);
        assert!(month.unwrap().len() <= 60);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let new = RangeSpec::new;
        assert_eq!(new(Class::Int, 0, 4, 0), Err(RangeError::Levels(0)));
        assert_eq!(new(Class::Int, 0, 4, 17), Err(RangeError::Levels(17)));
        assert_eq!(new(Class::Int, 0, 0, 4), Err(RangeError::Sparsity(0)));
        assert_eq!(new(Class::Int, 0, 9, 4), Err(RangeError::Sparsity(9)));
        assert_eq!(new(Class::Int, 4, 4, 16), Err(RangeError::TooWide(4, 68)));
        assert_eq!(
            new(Class::Int, 255, 8, 16),
            Err(RangeError::TooWide(255, 383))
        );
        assert_eq!(new(Class::Time, 0, 4, 16), Err(RangeError::TooWide(0, 65)));
        let error = RangeError::NotWhole(4, 32, Class::Text);
        assert_eq!(new(Class::Text, 4, 4, 7), Err(error));
    }
}
