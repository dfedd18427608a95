//! The socket between broker and agent: any bytes in any pieces are the same frames, what is read is written alike, and
//! memory is bounded by what came.

#![no_main]

use colcrypt_fuzz::Input;
use colcrypt_protocol::{FromAgent, Numbered, frame};
use libfuzzer_sys::fuzz_target;
use serde::{Serialize, de::DeserializeOwned};

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let piece = usize::from(input.byte()).max(1);
    both_ways::<Numbered>(input.0, piece);
    both_ways::<FromAgent>(input.0, piece);
});

fn both_ways<M: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(
    stream: &[u8],
    piece: usize,
) {
    let whole = frames::<M>(stream, stream.len().max(1));
    assert_eq!(whole, frames::<M>(stream, piece), "in pieces of {piece}");
    let mut again = Vec::new();
    for (message, secret) in &whole {
        match frame::encode(message, secret) {
            Ok(frame) => again.extend_from_slice(&frame),
            Err(frame::FrameError::TooLarge(_)) => return,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(frames::<M>(&again, usize::MAX), whole);
}

/// The frames up to the first that is none.
fn frames<M: DeserializeOwned>(stream: &[u8], piece: usize) -> Vec<(M, Vec<u8>)> {
    let mut decoder = frame::Decoder::default();
    let mut found = Vec::new();
    for piece in stream.chunks(piece) {
        decoder.push(piece);
        loop {
            match decoder.next_frame::<M>() {
                Ok(Some((message, secret))) => found.push((message, secret.expose().to_vec())),
                Ok(None) => break,
                Err(_) => return found,
            }
        }
    }
    found
}
