//! Whatever answers in AWS KMS's place, read by the vendor's SDK first.

#![no_main]

use colcrypt_fuzz::answered;
use colcrypt_kms::fuzzing::{Reply, aws_kms};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    // The SDK's parser takes more than JSON: what no page of a proxy is.
    let own_form = |reply: &Reply<'_>, _: &Value| reply.body.trim_ascii_start().starts_with(b"{");
    answered(data, own_form, aws_kms::reply);
});
