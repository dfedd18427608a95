//! TTLV, KMIP's encoding, and what a KMIP server answers: an item has one spelling, and no answer of it does harm.

#![no_main]

use colcrypt_fuzz::{Input, judge, presentable};
use colcrypt_kms::fuzzing::kmip;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let what = input.byte();
    let bytes = input.0;
    if let Some(again) = kmip::encoded_again(bytes) {
        assert_eq!(*again, bytes, "one spelling");
    }
    // So many bytes are read from a connection; whatever is not a response's beginning ends it.
    if let Some(rest) = kmip::rest_of_response(bytes)
        && let Some(response) = bytes.get(..8 + rest)
    {
        match kmip::response(what, response) {
            Ok(shown) => shown.iter().for_each(|text| presentable(text)),
            Err(error) => judge(&error),
        }
    }
    if let Some(length) = kmip::wrapped_kek(bytes) {
        assert_eq!(length, bytes.len());
    }
    kmip::certificate(bytes);
});
