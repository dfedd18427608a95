//! Whatever answers in the place of Azure Key Vault, or of the login service.

#![no_main]

use colcrypt_fuzz::answered;
use colcrypt_kms::fuzzing::{Reply, azure_keyvault};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let own_form = |_: &Reply<'_>, body: &Value| {
        body["error"]["code"].is_string() || body["error_codes"].is_array()
    };
    answered(data, own_form, azure_keyvault::reply);
});
