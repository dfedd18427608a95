//! Whatever answers in AWS KMS's place, read by the vendor's SDK first.

#![no_main]

use colcrypt_fuzz::Reply;
use colcrypt_kms::fuzzing::aws_kms;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let reply = Reply::of(data);
    // The SDK's parser takes more than JSON: what no page of a proxy is.
    let own_form = reply.body.trim_ascii_start().starts_with(b"{");
    let read = aws_kms::reply(
        reply.what,
        reply.status,
        &reply.retry_after_text(),
        reply.body,
    );
    reply.judge(own_form, &read);
});
