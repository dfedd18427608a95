//! Whatever answers in Google Cloud KMS's place.

#![no_main]

use colcrypt_fuzz::Reply;
use colcrypt_kms::fuzzing::gcp_kms;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let reply = Reply::of(data);
    let body = reply.json_body();
    let own_form = reply.json && body["error"]["status"].is_string();
    let read = gcp_kms::reply(
        reply.what,
        reply.status,
        reply.json,
        reply.retry_after,
        reply.body,
    );
    reply.judge(own_form, &read);
});
