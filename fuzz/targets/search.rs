//! Search: whatever a value, a pattern, a normaliser or a number is, the terms of a query are among those of each row
//! that SQL would find.

#![no_main]

use std::cmp::Ordering;

use colcrypt_fuzz::Input;
use colcrypt_search::{Class, Pipeline, RangeSpec, Step, TextSpec, Value};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    match input.byte() % 4 {
        0 => pattern(input),
        1 => normaliser(input),
        2 => numerics(input),
        _ => range(input),
    }
});

/// What is LIKE a pattern has its grams, in lower case, too.
fn pattern(mut input: Input<'_>) {
    let settings = input.byte();
    let steps: &[&str] = if settings & 4 == 0 {
        &[]
    } else {
        &["unaccent"]
    };
    let pipeline = Pipeline::parse(steps).expect("a step");
    let spec = TextSpec::new(2 + settings % 4, &pipeline).expect("2 to 5");
    let (Ok(pattern), Ok(value)) = (str::from_utf8(input.short()), str::from_utf8(input.0)) else {
        return;
    };
    let grams = spec.grams_of(value);
    assert!(!grams.is_empty() && grams.windows(2).all(|two| two[0] < two[1]));
    let Some(needle) = spec.like_grams(pattern, Some('\\')) else {
        return;
    };
    assert!(!needle.is_empty() && needle.len() <= TextSpec::MAX_NEEDLE);
    let letters = |text: &str| text.chars().take(40).collect::<Vec<_>>();
    let short =
        value.chars().count() <= 40 && pattern.chars().count() <= 40 && !value.contains('\0');
    let lower = |text: &str| letters(&text.to_lowercase());
    let found = short
        && (like(&letters(value), &letters(pattern)) || {
            let (value, pattern) = (value.to_lowercase(), pattern.to_lowercase());
            value.chars().count().max(pattern.chars().count()) <= 40
                && like(&lower(&value), &lower(&pattern))
        });
    if found {
        assert!(needle.iter().all(|gram| grams.binary_search(gram).is_ok()));
    }
}

/// The server's `MatchText`, where one row of a table of positions stands for all ways to match.
fn like(value: &[char], pattern: &[char]) -> bool {
    let mut at = vec![false; value.len() + 1];
    at[0] = true;
    let mut letters = pattern.iter();
    while let Some(letter) = letters.next() {
        let literal = match letter {
            '%' => {
                let first = at.iter().position(|it| *it).unwrap_or(at.len());
                at[first..].fill(true);
                continue;
            }
            '_' => None,
            '\\' => match letters.next() {
                Some(escaped) => Some(escaped),
                None => return false,
            },
            other => Some(other),
        };
        for end in (0..at.len()).rev() {
            at[end] = end > 0 && at[end - 1] && literal.is_none_or(|it| *it == value[end - 1]);
        }
    }
    at[value.len()]
}

/// A normal form is its own.
fn normaliser(mut input: Input<'_>) {
    let step = Step::ALL[usize::from(input.byte()) % Step::ALL.len()];
    let Ok(value) = str::from_utf8(input.0) else {
        return;
    };
    let pipeline = Pipeline::parse(&[step.name()]).expect("a step");
    if let Ok(form) = pipeline.apply(value) {
        let again = pipeline.apply(&form).expect("a normal form has one");
        assert_eq!(*again, *form, "{step}");
    }
}

/// Numbers are equal and in order as their nearest of binary64 are.
fn numerics(mut input: Input<'_>) {
    let (Ok(one), Ok(other)) = (str::from_utf8(input.short()), str::from_utf8(input.0)) else {
        return;
    };
    let (one, other) = (Value::Numeric(one), Value::Numeric(other));
    let (Ok(a), Ok(b)) = (one.canonical(), other.canonical()) else {
        assert!(one.order().is_err() || other.order().is_err());
        return;
    };
    let order = |value: Value<'_>| value.order().expect("it has canonical bytes");
    // What is canonical is a number again, and the same.
    let again = Value::Numeric(str::from_utf8(&a).expect("ASCII"));
    assert_eq!(again.canonical().expect("a number")[..], a[..]);
    assert_eq!(order(again), order(one));
    if a[..] == b[..] {
        assert_eq!(order(one), order(other));
    }
    let number = |bytes: &[u8]| {
        str::from_utf8(bytes)
            .ok()
            .and_then(|text| text.parse::<f64>().ok())
    };
    if let (Some(x), Some(y)) = (number(&a), number(&b))
        && let Some(expected) = x.partial_cmp(&y)
    {
        let keys = order(one).cmp(&order(other));
        assert!(keys == expected || keys == Ordering::Equal);
    }
}

/// A range's intervals hold each key between the bounds.
fn range(mut input: Input<'_>) {
    let class = Class::ALL[usize::from(input.byte()) % Class::ALL.len()];
    let [granularity, sparsity, levels] = input.array();
    let Ok(spec) = RangeSpec::new(class, granularity, sparsity, levels) else {
        return;
    };
    let [low, high, key] = std::array::from_fn(|_| u64::from_be_bytes(input.array()));
    let nodes = spec.nodes_of(key);
    assert_eq!(nodes.len(), usize::from(levels));
    let covers = [
        (
            spec.cover(Some(low), Some(high), usize::MAX),
            low <= key && key <= high,
        ),
        (spec.cover(Some(low), None, usize::MAX), low <= key),
        (spec.cover(None, Some(high), usize::MAX), key <= high),
    ];
    for (cover, between) in covers {
        let cover = cover.expect("no limit, and a bound");
        assert!(cover.len() <= 2 * ((1 << sparsity) - 1) * usize::from(levels) + 1);
        assert!(!between || nodes.iter().any(|node| cover.contains(node)));
    }
}
