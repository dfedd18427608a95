//! Equal bytes for what SQL calls equal and for nothing else, and numbers that keep its order.

use std::cmp::Ordering;

use proptest::prelude::*;

use super::*;

fn bytes(value: Value<'_>) -> Vec<u8> {
    value.canonical().unwrap().to_vec()
}

fn order(value: Value<'_>) -> u64 {
    value.order().unwrap()
}

fn interval(months: i32, days: i32, micros: i64) -> Value<'static> {
    Value::Interval {
        months,
        days,
        micros,
    }
}

const DAY: i64 = 86_400_000_000;

#[test]
fn every_class_is_read_back_and_no_other() {
    for class in Class::ALL {
        assert_eq!(Class::parse(class.name()), Some(class));
    }
    for name in ["", "Int", "int4", "boolean", "bool", "inet"] {
        assert_eq!(Class::parse(name), None);
    }
}

#[test]
fn what_is_equal_in_sql_has_equal_bytes() {
    let equal: &[&[Value<'_>]] = &[
        &[
            Value::Bpchar("ab"),
            Value::Bpchar("ab  "),
            Value::Bpchar("ab "),
        ],
        &[Value::Bpchar(""), Value::Bpchar("   ")],
        &[Value::Float(0.0), Value::Float(-0.0)],
        &[
            Value::Float(f64::NAN),
            Value::Float(-f64::NAN),
            Value::Float(f64::from_bits(0x7ff0_0000_0000_0001)),
        ],
        &[
            Value::Numeric("1"),
            Value::Numeric("1.0"),
            Value::Numeric("1.000"),
            Value::Numeric("01."),
        ],
        &[
            Value::Numeric("0"),
            Value::Numeric("-0"),
            Value::Numeric("0.00"),
            Value::Numeric("-0.0"),
            Value::Numeric(".0"),
        ],
        &[Value::Numeric("-0.5"), Value::Numeric("-.50")],
        &[Value::Numeric("100"), Value::Numeric("100.00")],
        &[
            interval(1, 0, 0),
            interval(0, 30, 0),
            interval(0, 0, 30 * DAY),
            interval(2, -30, 0),
        ],
    ];
    for class in equal {
        for value in *class {
            assert_eq!(bytes(*value), bytes(class[0]), "{value:?}");
            assert_eq!(order(*value), order(class[0]), "{value:?}");
        }
    }
}

#[test]
fn what_differs_in_sql_has_other_bytes() {
    let different: &[&[Value<'_>]] = &[
        &[
            Value::Text("ab"),
            Value::Text("ab "),
            Value::Text("aB"),
            Value::Text(""),
        ],
        &[
            Value::Bpchar("ab"),
            Value::Bpchar(" ab"),
            Value::Bpchar("ab\t"),
            Value::Bpchar("ab\u{a0}"),
        ],
        &[
            Value::Numeric("1"),
            Value::Numeric("10"),
            Value::Numeric("0.1"),
            Value::Numeric("-1"),
            Value::Numeric("1.01"),
        ],
        &[
            Value::Numeric("NaN"),
            Value::Numeric("Infinity"),
            Value::Numeric("-Infinity"),
        ],
        &[
            interval(0, 1, 0),
            interval(0, 0, DAY - 1),
            interval(0, 0, 0),
            interval(0, -1, 0),
        ],
        &[
            Value::Bytea(b""),
            Value::Bytea(b"\0"),
            Value::Bytea(b"\0\0"),
        ],
    ];
    for class in different {
        for (at, value) in class.iter().enumerate() {
            for other in &class[at + 1..] {
                assert_ne!(bytes(*value), bytes(*other), "{value:?}");
            }
        }
    }
}

#[test]
fn orders_are_sqls() {
    let up = |values: &[Value<'_>]| {
        for two in values.windows(2) {
            assert!(order(two[0]) < order(two[1]), "{:?}", order(two[1]));
        }
    };
    up(&[i64::MIN, -1, 0, 1, i64::MAX].map(Value::Int));
    up(&[
        f64::NEG_INFINITY,
        f64::MIN,
        -1.5,
        -f64::MIN_POSITIVE,
        0.0,
        5e-324,
        1.0,
        f64::MAX,
        f64::INFINITY,
        f64::NAN,
    ]
    .map(Value::Float));
    up(&[
        "-Infinity",
        "-1e",
        "-12.5",
        "-0.001",
        "0",
        "0.001",
        "12",
        "12.5",
        "Infinity",
        "NaN",
    ]
    .into_iter()
    .filter(|text| !text.ends_with('e'))
    .map(Value::Numeric)
    .collect::<Vec<_>>());
    up(&["", "A", "Z", "a", "ab", "b", "é"].map(Value::Text));
    up(&[i32::MIN, -1, 0, 9282, i32::MAX].map(Value::Date));
    up(&[i64::MIN, -1, 0, i64::MAX].map(Value::Timestamptz));
    // The infinities of PostgreSQL 17 are the extremes, and the widest intervals fit.
    up(&[
        interval(i32::MIN, i32::MIN, i64::MIN),
        interval(-1, 0, 0),
        interval(0, 0, 0),
        interval(0, 0, 2000),
        interval(1, 0, 0),
        interval(i32::MAX, i32::MAX, i64::MAX),
    ]);
    up(&[[0; 16], [1; 16], [0xff; 16]].map(Value::Uuid));
}

#[test]
fn numbers_of_any_size_keep_their_order() {
    let (huge, larger) = (format!("1{}", "0".repeat(131_000)), "9".repeat(131_072));
    let tiny = format!("0.{}1", "0".repeat(16_000));
    let minus = format!("-{tiny}");
    let values = [
        "-Infinity",
        &minus,
        "0",
        &tiny,
        "1",
        &huge,
        &larger,
        "Infinity",
        "NaN",
    ];
    for two in values.windows(2) {
        assert!(order(Value::Numeric(two[0])) <= order(Value::Numeric(two[1])));
    }
    assert_ne!(bytes(Value::Numeric(&tiny)), bytes(Value::Numeric("0")));
    assert!(order(Value::Numeric(&larger)) < order(Value::Numeric("NaN")));
}

#[test]
fn what_numeric_out_does_not_write_is_refused_without_saying_it() {
    for text in [
        "", "-", ".", "-.", "1e5", "+1", " 1", "1 ", "0x10", "1_000", "inf", "nan", "-NaN",
        "1.2.3", "--1", "١",
    ] {
        assert_eq!(
            Value::Numeric(text).canonical().err(),
            Some(NotNumeric),
            "{text}"
        );
        assert_eq!(Value::Numeric(text).order(), Err(NotNumeric), "{text}");
    }
    assert_eq!(format!("{:?}", Value::Text("secret")), "Value(text)");
}

/// Digits as `numeric_out` writes them, and their value in units of the sixth decimal place.
fn numerics() -> impl Strategy<Value = (String, i128)> {
    let whole = prop_oneof![0..20u64, 990..1010u64, any::<u64>()];
    (any::<bool>(), whole, 0..=6usize, 0..1_000_000u64).prop_map(
        |(negative, whole, scale, fraction)| {
            let fraction = fraction / 10u64.pow(6 - scale as u32);
            let units =
                i128::from(whole) * 1_000_000 + i128::from(fraction) * 10i128.pow(6 - scale as u32);
            let sign = if negative { "-" } else { "" };
            let point = if scale > 0 {
                format!(".{fraction:0scale$}")
            } else {
                String::new()
            };
            (
                format!("{sign}{whole}{point}"),
                if negative { -units } else { units },
            )
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn numerics_are_equal_and_ordered_as_numbers((one, a) in numerics(), (other, b) in numerics()) {
        prop_assert_eq!(bytes(Value::Numeric(&one)) == bytes(Value::Numeric(&other)), a == b);
        let keys = order(Value::Numeric(&one)).cmp(&order(Value::Numeric(&other)));
        prop_assert!(keys == Ordering::Equal || keys == a.cmp(&b));
        // What is far enough apart for binary64 is told apart.
        if a.abs().max(b.abs()) < 1 << 53 {
            prop_assert_eq!(keys, a.cmp(&b));
        }
    }

    #[test]
    fn floats_are_equal_and_ordered_as_numbers(a: f64, b: f64) {
        let sql = match (a.is_nan(), b.is_nan()) {
            (false, false) => a.partial_cmp(&b).unwrap(),
            (one, other) => one.cmp(&other),
        };
        prop_assert_eq!(order(Value::Float(a)).cmp(&order(Value::Float(b))), sql);
        prop_assert_eq!(bytes(Value::Float(a)) == bytes(Value::Float(b)), sql == Ordering::Equal);
    }

    #[test]
    fn texts_are_ordered_by_bytes(a in "[ab\u{e9}]{0,10}", b in "[ab\u{e9} ]{0,10}") {
        let keys = order(Value::Text(&a)).cmp(&order(Value::Text(&b)));
        prop_assert!(keys == Ordering::Equal || keys == a.cmp(&b));
        let (left, right) = (a.trim_end_matches(' '), b.trim_end_matches(' '));
        let keys = order(Value::Bpchar(&a)).cmp(&order(Value::Bpchar(&b)));
        prop_assert!(keys == Ordering::Equal || keys == left.cmp(right));
        prop_assert_eq!(bytes(Value::Bpchar(&a)) == bytes(Value::Bpchar(&b)), left == right);
    }

    #[test]
    fn intervals_are_ordered_by_their_span(a: (i32, i32, i64), b: (i32, i32, i64), near in -5000..5000i64) {
        for b in [b, (a.0, a.1, a.2.saturating_add(near)), (a.0.wrapping_sub(1), a.1.wrapping_add(30), a.2)] {
            let of = |(months, days, micros): (i32, i32, i64)| {
                (i128::from(months) * 30 + i128::from(days)) * i128::from(DAY) + i128::from(micros)
            };
            let (one, other) = (interval(a.0, a.1, a.2), interval(b.0, b.1, b.2));
            let keys = order(one).cmp(&order(other));
            prop_assert!(keys == Ordering::Equal || keys == of(a).cmp(&of(b)));
            prop_assert_eq!(bytes(one) == bytes(other), of(a) == of(b));
        }
    }
}
