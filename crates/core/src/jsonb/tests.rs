//! Stored documents by hand, and damaged ones.

use std::time::{Duration, Instant};

use super::*;

/// What is JSON passes the check, and nothing else.
fn json(stored: &[u8]) -> Result<Zeroizing<String>, JsonbError> {
    let json = to_json(stored, || ());
    assert_eq!(
        check(stored, false, || ()),
        json.as_ref().map(|_| ()).map_err(|error| *error)
    );
    json
}

/// As PostgreSQL 15 stores them, by hand from jsonb.h; the suites compare with a server's.
fn object() -> Vec<u8> {
    let mut stored = (OBJECT | 2).to_le_bytes().to_vec();
    // Keys "a" and "bc", then the values 1.50 and [true, null, "x\n"].
    for entry in [HAS_OFFSET | 1, 2, 0x1000_0000 | 9, 0x5000_0000 | 18] {
        stored.extend(entry.to_le_bytes());
    }
    stored.extend(b"abc\0");
    // A numeric of 8 bytes: length word, short header with scale 2, digits 1 and 5000.
    stored.extend((10u32 << 2).to_le_bytes());
    for field in [0x8000u16 | 2 << 7, 1, 5000] {
        stored.extend(field.to_le_bytes());
    }
    stored
}

fn array(entries: &[u32], data: &[u8]) -> Vec<u8> {
    let mut stored = (ARRAY | entries.len() as u32).to_le_bytes().to_vec();
    for entry in entries {
        stored.extend(entry.to_le_bytes());
    }
    stored.extend(data);
    stored
}

#[test]
fn scalars_arrays_and_strings() {
    let text = |stored: &[u8]| json(stored).map(|text| text.to_string());
    assert_eq!(text(&array(&[], b"")).unwrap(), "[]");
    assert_eq!(text(&OBJECT.to_le_bytes()).unwrap(), "{}");
    let stored = array(
        &[HAS_OFFSET | 5, 0x2000_0000, 0x3000_0000, 0x4000_0000],
        "a\"\u{e9}\n".as_bytes(),
    );
    assert_eq!(text(&stored).unwrap(), "[\"a\\\"é\\n\", false, true, null]");
    let mut scalar = array(&[HAS_OFFSET | 2], b"hi");
    scalar[3] |= 0x10;
    assert_eq!(text(&scalar).unwrap(), "\"hi\"");
    // One in another: the inner one begins at a multiple of four.
    let inner = array(&[0x4000_0000 | HAS_OFFSET], b"");
    let outer = array(
        &[HAS_OFFSET | 1, 0x5000_0000 | 11],
        &[&b"a\0\0\0"[..], &inner].concat(),
    );
    assert_eq!(text(&outer).unwrap(), "[\"a\", [null]]");
}

#[test]
fn numbers() {
    let text = |fields: &[u16]| {
        let mut stored = ((4 + 2 * fields.len() as u32) << 2).to_le_bytes().to_vec();
        stored.extend(fields.iter().flat_map(|field| field.to_le_bytes()));
        let entry = HAS_OFFSET | 0x1000_0000 | stored.len() as u32;
        json(&array(&[entry], &stored)).map(|text| text.trim_matches(['[', ']']).to_owned())
    };
    for (number, fields) in [
        ("0", &[0x8000][..]),
        ("0.00", &[0x8100]),
        ("1", &[0x8000, 1]),
        ("-12345.67", &[0xa101, 1, 2345, 6700]),
        ("0.0001", &[0x827f, 1]),
        ("0.00001000", &[0x847e, 1000]),
        ("10000", &[0x8001, 1]),
        ("100000000.5", &[0x8082, 1, 0, 0, 5000]),
        // A long header: sign and scale, weight.
        ("-70000", &[0x4000, 1, 7]),
        // Not normalised: zeros before the first digit, and behind the last.
        ("12", &[0x8002, 0, 0, 12]),
        ("0", &[0x8002]),
        ("0.50", &[0x8101, 0, 0, 5000, 0]),
        ("3", &[0x8000, 3, 0, 0]),
    ] {
        assert_eq!(text(fields).as_deref(), Ok(number), "{fields:x?}");
    }
    for refused in [&[][..], &[0xc000], &[0xd000], &[0x8000, 10_000]] {
        assert_eq!(text(refused), Err(NotJsonb), "{refused:x?}");
    }
}

#[test]
fn what_is_damaged_is_an_error_and_never_a_panic() {
    let mut whole = object();
    assert_eq!(json(&whole), Err(NotJsonb), "its last element is missing");
    for cut in 0..whole.len() {
        assert!(json(&whole[..cut]).is_err());
    }
    for at in 0..whole.len() {
        let before = whole[at];
        for byte in 0..=255 {
            whole[at] = byte;
            let _ = json(&whole);
        }
        whole[at] = before;
    }
}

/// The same numeric of many digits, named once by each entry: 388 bytes were 201 MB.
#[test]
fn no_byte_is_in_two_elements() {
    let mut numeric = (8u32 << 2).to_le_bytes().to_vec();
    numeric.extend([0u16, 0x7fff].iter().flat_map(|field| field.to_le_bytes()));
    let once = HAS_OFFSET | 0x1000_0000 | 8;
    assert!(json(&array(&[once], &numeric)).is_ok());
    let back = HAS_OFFSET | 0x4000_0000;
    let entries: Vec<u32> = (0..46).flat_map(|_| [once, back]).collect();
    assert_eq!(json(&array(&entries, &numeric)).unwrap_err(), NotJsonb);
}

/// PostgreSQL writes an end for every 32nd entry. Without them it is the same document, in the same time: twice as
/// much takes about twice as long. The bound is generous; it was quadratic, 100 times as long.
#[test]
fn lengths_alone_cost_no_more() {
    let took = |elements: usize, entry: u32| {
        let stored = array(&vec![entry; elements], &vec![b'x'; elements]);
        let began = Instant::now();
        json(&stored).unwrap();
        began.elapsed()
    };
    let few = took(2_000, 1).max(Duration::from_millis(1));
    assert!(took(200_000, 1) < few * 2_000);
    let keys = 50_000;
    let mut object = (OBJECT | keys as u32).to_le_bytes().to_vec();
    object.extend((0..2 * keys).flat_map(|_| 1u32.to_le_bytes()));
    object.extend(vec![b'k'; 2 * keys]);
    let began = Instant::now();
    json(&object).unwrap();
    assert!(began.elapsed() < few * 2_000);
}

#[test]
fn a_long_walk_breathes() {
    let stored = array(&vec![0x4000_0000; 10_000], b"");
    let mut breaths = 0;
    to_json(&stored, || breaths += 1).unwrap();
    assert!(breaths >= 30, "{breaths}");
    check(&stored, false, || breaths += 1).unwrap();
    assert!(breaths >= 60, "{breaths}");
}

#[test]
fn texts_of_no_encoding_are_left_where_they_are() {
    let stored = array(&[HAS_OFFSET | 1], b"\xff");
    assert_eq!(check(&stored, false, || ()), Err(NotJsonb));
    assert_eq!(check(&stored, true, || ()), Ok(()));
    assert_eq!(to_json(&stored, || ()).unwrap_err(), NotJsonb);
}
