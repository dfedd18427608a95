//! Whatever answers in a Vault's or an OpenBao's place.

#![no_main]

use colcrypt_fuzz::answered;
use colcrypt_kms::fuzzing::{Reply, vault_transit};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let own_form = |reply: &Reply<'_>, body: &Value| reply.json && body["errors"].is_array();
    answered(data, own_form, vault_transit::reply);
});
