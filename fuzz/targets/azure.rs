//! Whatever answers in the place of Azure Key Vault, or of the login service.

#![no_main]

use colcrypt_fuzz::Reply;
use colcrypt_kms::fuzzing::azure_keyvault;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let reply = Reply::of(data);
    let body = reply.json_body();
    let own_form = body["error"]["code"].is_string() || body["error_codes"].is_array();
    let read = azure_keyvault::reply(
        reply.what,
        reply.status,
        &reply.retry_after_text(),
        reply.body,
    );
    reply.judge(own_form, &read);
});
