//! numeric between its stored and its sent form: there and back is the same number, byte by byte where it is in normal
//! form.

#![no_main]

use colcrypt_core::numeric::{BUFFER_LEN, receive, send};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (mut one, mut two, mut three) = ([0; BUFFER_LEN], [0; BUFFER_LEN], [0; BUFFER_LEN]);
    // What a client sent: stored, and sent again as it was.
    if let Some(length) = receive(data, &mut one) {
        let sent = send(&one[..length], &mut two).expect("what is stored can be sent");
        assert_eq!(&two[..sent], data);
    }
    // What a row holds: sent, and where that can be stored here, it is the same number in the shortest form.
    if let Some(length) = send(data, &mut one)
        && let Some(stored) = receive(&one[..length], &mut two)
    {
        assert!(stored <= data.len());
        let again = send(&two[..stored], &mut three).expect("what is stored can be sent");
        assert_eq!(three[..again], one[..length]);
    }
});
