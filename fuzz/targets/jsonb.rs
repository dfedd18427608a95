//! jsonb as it is stored: what passes the check is JSON, costs memory and breaths in proportion, and nothing else is
//! anything.

#![no_main]

use colcrypt_core::jsonb;
use libfuzzer_sys::fuzz_target;

/// The longest number that PostgreSQL's numeric has, with its sign, point and a comma.
const LONGEST_NUMBER: usize = 131_072 + 16_384 + 8;
/// A numeric and its entry have so many bytes at least.
const LEAST_NUMBER: usize = 7;
/// Elements between two breaths, and the bytes of an entry.
const BREATH: usize = 256;
const ENTRY: usize = 4;

fuzz_target!(|data: &[u8]| {
    let mut breaths = 0;
    let json = jsonb::to_json(data, || breaths += 1);
    let checked = jsonb::check(data, false, || ());
    assert_eq!(checked, json.as_ref().map(|_| ()).map_err(|error| *error));
    // Each step is an entry, or the end of a container, which is one.
    assert!(
        breaths * BREATH <= 2 * data.len() / ENTRY + 2,
        "{breaths} breaths"
    );
    if checked.is_ok() {
        assert_eq!(jsonb::check(data, true, || ()), Ok(()));
    }
    let Ok(json) = json else { return };
    let bound = 8 * data.len() + LONGEST_NUMBER * (data.len() / LEAST_NUMBER);
    assert!(
        json.len() <= bound,
        "{} bytes of {}",
        json.len(),
        data.len()
    );
    // serde's parser recurses where a document is nested. Its numbers have an exponent of 64 bits at most, as ours have
    // none.
    if json.len() < 1 << 16 && data.len() < 2_000 {
        serde_json::from_str::<serde::de::IgnoredAny>(&json)
            .unwrap_or_else(|error| panic!("{error}: {}", *json));
    }
});
