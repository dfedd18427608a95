//! A provider's configuration as SQL takes it: it is refused without repeating what may be a secret, or it makes a
//! provider. No connection is made, and no thread stays.

#![no_main]

use colcrypt_fuzz::{Input, judge, presentable};
use colcrypt_protocol::ProviderConfig;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const KINDS: [&str; 9] = [
    "aws-kms",
    "azure-keyvault",
    "file",
    "gcp-kms",
    "kmip",
    "pkcs11",
    "vault-transit",
    "none",
    "escrow",
];
/// Letters and digits that no message may repeat.
const SECRET: &str = "hvs.q83vASNFZ4mrze8BI0VniavN7wEjRWeJ";

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let kind = KINDS[usize::from(input.byte()) % KINDS.len()];
    let Ok(config) = serde_json::from_slice::<Value>(input.0) else {
        return;
    };
    // It is put in below. The fuzzer finds it in comparisons, and puts it into paths, which are shown.
    if config.to_string().contains(SECRET) {
        return;
    }
    try_one(kind, config.clone());
    // The same with a secret in the place of each text.
    let mut secret = config;
    if put_secret(&mut secret) {
        try_one(kind, secret);
    }
});

fn try_one(kind: &str, config: Value) {
    let provider = ProviderConfig {
        name: "p".to_owned(),
        kind: kind.to_owned(),
        config,
    };
    let threads = threads();
    match colcrypt_kms::connect(&provider) {
        Ok(connected) => {
            assert!(!connected.endpoint().contains(SECRET));
            presentable(connected.endpoint());
        }
        Err(error) => {
            judge(&error);
            assert!(!error.message.contains(SECRET), "{}", error.message);
        }
    }
    assert!(
        self::threads() <= threads,
        "a configuration that is looked at starts no thread"
    );
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

fn put_secret(value: &mut Value) -> bool {
    match value {
        Value::String(text) => {
            SECRET.clone_into(text);
            true
        }
        Value::Array(values) => values
            .iter_mut()
            .fold(false, |any, value| put_secret(value) | any),
        Value::Object(values) => values
            .values_mut()
            .fold(false, |any, value| put_secret(value) | any),
        _ => false,
    }
}
