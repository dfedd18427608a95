//! Compression: what was packed comes back and is shorter, and no bytes make more memory than they say or than LZ4 can.

#![no_main]

use colcrypt_core::compression::{LEAST, Method, Packed};
use libfuzzer_sys::fuzz_target;

/// As much as a test may take; the server compares with what a value may have.
const MOST: usize = 1 << 20;
/// LZ4 writes at most so many bytes for one of its own.
const RATIO: usize = 255;

fuzz_target!(|data: &[u8]| {
    if let Ok(packed) = Packed::parse(data)
        && packed.len() <= MOST
    {
        let mut out = vec![0; packed.len()];
        if packed.unpack_into(&mut out).is_ok() {
            assert!(
                out.len() <= RATIO * data.len(),
                "{} bytes of {}",
                out.len(),
                data.len()
            );
            if out.len() >= 4 * LEAST {
                assert!(
                    packed.unpack_into(&mut out[1..]).is_err(),
                    "another length than it has"
                );
            }
        }
    }
    if let Some(packed) = Method::Lz4.pack(data).expect("memory") {
        assert!(packed.len() < data.len() && data.len() >= LEAST);
        let parsed = Packed::parse(&packed).expect("its head");
        let mut out = vec![0; parsed.len()];
        parsed.unpack_into(&mut out).expect("its block");
        assert_eq!(out, data);
    }
});
