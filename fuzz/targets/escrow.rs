//! What people and files bring to an escrow: a share as words, the public record, a receipt or a drill's report, a
//! dump. Whatever it is, it is refused in words, and what is taken reads the same once it is written again.

#![no_main]

use colcrypt_escrow::drill::Report;
use colcrypt_escrow::record::Record;
use colcrypt_escrow::{Share, dump};
use colcrypt_fuzz::{Input, presentable};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let kind = input.byte() % 3;
    let Ok(text) = std::str::from_utf8(input.0) else {
        return;
    };
    match kind {
        0 => share(text),
        1 => record(text),
        _ => of_a_dump(text),
    }
});

fn share(text: &str) {
    match Share::parse(text) {
        Ok(share) => {
            let words = share.words();
            let again = Share::parse(&words).expect("what it says itself is a share");
            assert_eq!(*again.words(), *words);
            assert!(share.is_of_the_set_of(&again));
        }
        Err(error) => presentable(&error.to_string()),
    }
}

/// A record, and behind a line of its own what somebody says he signed with it.
fn record(text: &str) {
    let (json, signed) = text.split_once("\n---\n").unwrap_or((text, text));
    match Record::parse(json) {
        Ok(record) => {
            let written = record.text();
            let again = Record::parse(&written).expect("what is written is a record");
            assert_eq!(again.text(), written);
            assert_eq!(again.fingerprint(), record.fingerprint());
            if let Err(error) = record.verify(signed) {
                presentable(&error.to_string());
            }
            if let Err(error) = Report::believed(&record, signed) {
                presentable(&error.to_string());
            }
        }
        Err(error) => presentable(&error.to_string()),
    }
}

fn of_a_dump(text: &str) {
    match dump::keks(text) {
        Ok(keks) => keks.iter().for_each(|kek| presentable(&kek.name())),
        Err(error) => presentable(&error.to_string()),
    }
}
