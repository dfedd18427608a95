//! Whatever answers in Google Cloud KMS's place.

#![no_main]

use colcrypt_fuzz::answered;
use colcrypt_kms::fuzzing::{Reply, gcp_kms};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let own_form =
        |reply: &Reply<'_>, body: &Value| reply.json && body["error"]["status"].is_string();
    answered(data, own_form, gcp_kms::reply);
});
