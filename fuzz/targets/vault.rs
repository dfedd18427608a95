//! Whatever answers in a Vault's or an OpenBao's place.

#![no_main]

use colcrypt_fuzz::Reply;
use colcrypt_kms::fuzzing::vault_transit;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let reply = Reply::of(data);
    let body = reply.json_body();
    let own_form = reply.json && body["errors"].is_array();
    let read = vault_transit::reply(
        reply.what,
        reply.status,
        reply.json,
        reply.retry_after,
        reply.body,
    );
    reply.judge(own_form, &read);
});
