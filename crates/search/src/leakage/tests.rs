//! The numbers, against what is counted with real terms.

use std::collections::HashSet;

use super::*;
use crate::canonical::{Class, Value};
use crate::kind::Kind;
use crate::normalise::Pipeline;
use crate::term::{Label, Prepared, SearchKey};

fn judge(counts: &[u64], rows: u64) -> Equality {
    let sample = Sample {
        counts,
        rows,
        boolean: false,
    };
    equality(sample, WARN_PERCENT)
}

fn near(one: f64, other: f64) -> bool {
    (one - other).abs() <= 1e-9 * other.abs().max(1.0)
}

fn prepared(key: u8) -> Prepared {
    let label = Label::new([1; 16], Kind::Equality, Class::Int, Pipeline::default(), 1).unwrap();
    SearchKey::new(&[key; 32]).prepare(&label)
}

#[test]
fn shares_and_entropies_are_of_the_sample() {
    let even = judge(&[10; 64], 640);
    assert_eq!((even.sampled, even.distinct), (640, 64));
    assert!(near(even.min_entropy, 6.0) && near(even.entropy, 6.0));
    assert_eq!(even.largest.len(), LARGEST);
    let uneven = judge(&[1, 0, 2, 5, 0], 8);
    assert_eq!(uneven.distinct, 3);
    assert_eq!(uneven.largest, [0.625, 0.25, 0.125]);
    assert!(near(uneven.min_entropy, -0.625f64.log2()));
    assert!(near(
        uneven.entropy,
        -(0.625 * 0.625f64.log2()) + 0.5 + 0.375
    ));
}

#[test]
fn distinct_values_are_estimated_as_analyze_does() {
    // All seen, all once, and in between: 30,000 of a million rows with 10,000 values once and 10,000 twice.
    assert!(near(judge(&[2; 100], 200).estimated_distinct, 100.0));
    assert!(near(
        judge(&[1; 100], 1_000_000).estimated_distinct,
        1_000_000.0
    ));
    let counts = [[1; 10_000], [2; 10_000]].concat();
    let expected = 30_000.0 * 20_000.0 / (20_000.0 + 10_000.0 * 0.03);
    assert!(near(judge(&counts, 1_000_000).estimated_distinct, expected));
}

#[test]
fn what_a_look_up_decrypts_is_what_real_terms_have_it_decrypt() {
    const KEYS: u8 = 50;
    // A table seen whole: 200 values, the first in 200 rows, the last in one.
    let counts: Vec<u64> = (1..=200).rev().collect();
    let rows: u64 = counts.iter().sum();
    let judged = judge(&counts, rows);
    for bits in [8, 9, 12, 256] {
        let bits = TermBits::new(bits).unwrap();
        let length = judged.lengths.iter().find(|it| it.bits == bits).unwrap();
        let (mut rechecked, mut others, mut different) = (0, 0, 0);
        for key in 0..KEYS {
            let prepared = prepared(key);
            let terms: Vec<_> = (0..200)
                .map(|value| prepared.equality_of(Value::Int(value), bits).unwrap())
                .collect();
            different += terms.iter().collect::<HashSet<_>>().len();
            // Each row looked up once.
            for (one, count) in counts.iter().enumerate() {
                for (other, more) in counts.iter().enumerate() {
                    if terms[one] == terms[other] {
                        rechecked += count * more;
                        others += if one == other { 0 } else { count * more };
                    }
                }
            }
        }
        let mean = |sum: u64| sum as f64 / rows as f64 / f64::from(KEYS);
        let close = |one: f64, other: f64| (one - other).abs() <= 0.1 * one.max(other) + 0.1;
        assert!(close(mean(rechecked), length.rechecked), "{bits:?}");
        assert!(close(mean(others), length.others), "{bits:?}");
        assert!(
            close(different as f64 / f64::from(KEYS), length.terms),
            "{bits:?}"
        );
    }
    let bits: Vec<_> = judged.lengths.iter().map(|it| it.bits.get()).collect();
    assert_eq!(bits, [256].into_iter().chain(8..=32).collect::<Vec<_>>());
}

#[test]
fn long_terms_tell_values_apart_and_a_unique_column_has_one_row_a_term() {
    let unique = judge(&[1; 1000], 1_000_000);
    let full = unique.lengths[0];
    assert!(near(full.rechecked, 1.0) && full.others < 1e-60);
    assert!(near(full.terms, 1_000_000.0));
    let short = unique
        .lengths
        .iter()
        .find(|it| it.bits.get() == 10)
        .unwrap();
    assert!((short.others - 1_000_000.0 / 1024.0).abs() < 1.0);
    assert!((short.terms - 1024.0).abs() < 1e-6);
}

#[test]
fn a_truncated_term_is_as_long_as_ciphersweet_has_it() {
    let of = |rows| {
        let truncation = judge(&[1; 10], rows).truncation?;
        Some((truncation.least.get(), truncation.most.get()))
    };
    assert_eq!(of(1 << 20), Some((10, 19)));
    assert_eq!(of(1_000_000), Some((10, 18)));
    // 2 ≤ C ≤ √R with the 8 bits that a term has at least: from 512 rows on.
    assert_eq!(of(512), Some((8, 8)));
    assert_eq!(of(511), None);
    assert_eq!(of(10), None);
    for rows in [512u64, 5000, 123_456, 1 << 40] {
        let (least, most) = of(rows).unwrap();
        let others = |bits: u16| rows as f64 / f64::from(bits).exp2();
        assert!(others(most) >= 2.0 && others(most + 1) < 2.0);
        assert!(others(least) <= (rows as f64).sqrt());
    }
}

#[test]
fn verdicts_are_what_the_numbers_say() {
    let verdict = |counts: &[u64]| judge(counts, 0).verdict;
    let sample = Sample {
        counts: &[],
        rows: 0,
        boolean: true,
    };
    assert_eq!(
        equality(sample, 5.0).verdict,
        Verdict::Refuse(Refusal::Boolean)
    );
    assert_eq!(verdict(&[]), Verdict::Warn(Warning::NothingSampled));
    assert_eq!(verdict(&[900]), Verdict::Refuse(Refusal::FewValues(1)));
    assert_eq!(
        verdict(&[900, 0, 1]),
        Verdict::Refuse(Refusal::FewValues(2))
    );
    assert_eq!(verdict(&[1, 1]), Verdict::Good);
    assert_eq!(verdict(&[1; 3]), Verdict::Good);
    assert_eq!(verdict(&[1; 100]), Verdict::Good);
    let mut counts = vec![1; 94];
    counts.push(5);
    assert_eq!(
        judge(&counts, 99).verdict,
        Verdict::Warn(Warning::LargestShare {
            percent: 500.0 / 99.0,
            limit: 5.0
        })
    );
    counts.push(1);
    assert_eq!(verdict(&counts), Verdict::Good);
    let warning = Verdict::Warn(Warning::LargestShare {
        percent: 37.04,
        limit: 5.0,
    });
    assert!(warning.to_string().contains("37.0 per cent"));
    assert_eq!(warning.name(), "warn");
}

#[test]
fn an_empty_table_has_numbers_too() {
    let empty = judge(&[], 0);
    assert_eq!(
        (empty.sampled, empty.distinct, empty.truncation),
        (0, 0, None)
    );
    assert_eq!(
        (empty.min_entropy, empty.entropy, empty.estimated_distinct),
        (0.0, 0.0, 0.0)
    );
    for length in empty.lengths {
        assert_eq!(
            (length.rechecked, length.others, length.terms),
            (0.0, 0.0, 0.0)
        );
    }
}

#[test]
fn levels_of_a_range_are_counted() {
    let spec = RangeSpec::new(Class::Int, 0, 2, 3).unwrap();
    let keys: Vec<_> = [0, 0, 1, 2, 3, 4, 16, -32]
        .into_iter()
        .map(|it| Value::Int(it).order().unwrap())
        .collect();
    let level = |shift, intervals, largest| Level {
        shift,
        intervals,
        largest,
    };
    assert_eq!(
        range(spec, &keys),
        [level(0, 7, 0.25), level(2, 4, 0.625), level(4, 3, 0.75)]
    );
    assert!(
        range(spec, &[])
            .iter()
            .all(|level| level.intervals == 0 && level.largest == 0.0)
    );
}

#[test]
fn common_grams_are_counted_once_a_row() {
    let spec = TextSpec::new(3, &Pipeline::default()).unwrap();
    let told = text(spec, ["Anna", "ANNA", "hannahanna", "x"]);
    // ann, nna in three rows; ^an, na^ in two or three; x is one of its own.
    assert_eq!(told.largest, [0.75, 0.75, 0.75, 0.5, 0.25]);
    assert_eq!(told.grams, 9);
    assert!(near(told.per_value, (4.0 + 4.0 + 7.0 + 1.0) / 4.0));
    assert_eq!(
        text(spec, []),
        Text {
            grams: 0,
            largest: vec![],
            per_value: 0.0
        }
    );
}

#[test]
fn values_are_counted_as_the_normaliser_tells_them_apart() {
    let count = |steps: &[&str], values: &[&str]| {
        let pipeline = Pipeline::parse(steps).unwrap();
        let mut all = Occurrences::default();
        for value in values {
            all.add(&pipeline, Value::Text(value)).unwrap();
        }
        let mut counts = all.counts();
        counts.sort_unstable();
        (counts, all.without_form)
    };
    let values = ["Ada", "ada", " ada", "Bob"];
    assert_eq!(count(&[], &values), (vec![1, 1, 1, 1], 0));
    assert_eq!(count(&["trim", "casefold"], &values), (vec![1, 3], 0));
    // What has no normal form is not what has one of the same letters.
    assert_eq!(
        count(&["digits"], &["1", "a1", "x", "x", "y"]),
        (vec![1, 2, 2], 3)
    );
    let mut numbers = Occurrences::default();
    for number in ["1.0", "1.00", "2"] {
        numbers
            .add(&Pipeline::default(), Value::Numeric(number))
            .unwrap();
    }
    assert_eq!(numbers.counts().iter().max(), Some(&2));
    assert!(
        numbers
            .add(&Pipeline::default(), Value::Numeric("x"))
            .is_err()
    );
}
