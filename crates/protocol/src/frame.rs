//! Frames on the socket between broker and agent.
//!
//! ```text
//! u32 BE   length of the rest, at most MAX_FRAME
//! u32 BE   length of the JSON message
//! bytes    the JSON message
//! bytes    the secret tail: empty, or one key
//! ```
//!
//! [`Decoder`] is fed whatever a non-blocking read returned, so a frame may arrive in any number of
//! pieces.

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use colcrypt_core::Secret;

/// Largest frame body in bytes: far above any real message, low enough to bound a broken peer.
pub const MAX_FRAME: usize = 1 << 20;

#[derive(Debug, Error)]
pub enum FrameError {
    #[error("a frame of {0} bytes exceeds the limit of {MAX_FRAME}")]
    TooLarge(usize),
    #[error("a frame's lengths contradict each other")]
    Malformed,
    #[error("a frame's message is not understood: {0}")]
    Json(#[from] serde_json::Error),
}

/// One frame as bytes. Wiped on drop, since it may carry a secret tail.
///
/// # Errors
/// [`FrameError::TooLarge`] beyond [`MAX_FRAME`].
pub fn encode<M: Serialize>(message: &M, secret: &[u8]) -> Result<Zeroizing<Vec<u8>>, FrameError> {
    let json = serde_json::to_vec(message)?;
    let body = 4 + json.len() + secret.len();
    if body > MAX_FRAME {
        return Err(FrameError::TooLarge(body));
    }
    let mut frame = Zeroizing::new(Vec::with_capacity(4 + body));
    frame.extend_from_slice(&(body as u32).to_be_bytes());
    frame.extend_from_slice(&(json.len() as u32).to_be_bytes());
    frame.extend_from_slice(&json);
    frame.extend_from_slice(secret);
    Ok(frame)
}

/// Collects bytes and returns whole frames.
#[derive(Default)]
pub struct Decoder {
    buffer: Zeroizing<Vec<u8>>,
}

impl Decoder {
    /// Adds bytes as they came from the socket.
    pub fn push(&mut self, bytes: &[u8]) {
        let needed = self.buffer.len() + bytes.len();
        if needed > self.buffer.capacity() {
            // A growing Vec would leave the old allocation, and a key in it, unwiped.
            let mut grown = Zeroizing::new(Vec::with_capacity(needed.next_power_of_two()));
            grown.extend_from_slice(&self.buffer);
            self.buffer = grown;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, `None` while one is incomplete.
    ///
    /// # Errors
    /// A frame that is too large, contradicts itself or is not valid JSON; the stream is unusable
    /// afterwards.
    pub fn next_frame<M: DeserializeOwned>(&mut self) -> Result<Option<(M, Secret)>, FrameError> {
        let Some(header) = self.buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let body_len = u32::from_be_bytes(*header) as usize;
        if body_len > MAX_FRAME {
            return Err(FrameError::TooLarge(body_len));
        }
        let Some(body) = self.buffer.get(4..4 + body_len) else {
            return Ok(None);
        };
        let (json_len, rest) = body.split_first_chunk::<4>().ok_or(FrameError::Malformed)?;
        let (json, secret) = rest
            .split_at_checked(u32::from_be_bytes(*json_len) as usize)
            .ok_or(FrameError::Malformed)?;
        let message = serde_json::from_slice(json)?;
        let secret = Secret::new(secret.to_vec());
        let consumed = 4 + body_len;
        let remaining = self.buffer.len() - consumed;
        self.buffer.copy_within(consumed.., 0);
        self.buffer[remaining..].zeroize();
        self.buffer.truncate(remaining);
        Ok(Some((message, secret)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FromAgent, Reply};

    #[test]
    fn frames_survive_any_fragmentation() {
        let message = FromAgent::Reply {
            id: 7,
            result: Ok(Reply::DekLoaded { lease_ms: 5 }),
        };
        let mut stream = encode(&message, &[9; 32]).unwrap().to_vec();
        stream.extend_from_slice(&encode(&message, &[]).unwrap());
        for piece in 1..stream.len() {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for chunk in stream.chunks(piece) {
                decoder.push(chunk);
                while let Some((message, secret)) = decoder.next_frame::<FromAgent>().unwrap() {
                    seen.push((message, secret.expose().to_vec()));
                }
            }
            assert_eq!(
                seen,
                [(message.clone(), vec![9; 32]), (message.clone(), vec![])]
            );
        }
    }

    #[test]
    fn garbage_is_refused() {
        let mut decoder = Decoder::default();
        decoder.push(&[0xff; 8]);
        assert!(matches!(
            decoder.next_frame::<FromAgent>(),
            Err(FrameError::TooLarge(_))
        ));
        let mut decoder = Decoder::default();
        decoder.push(&[0, 0, 0, 4, 0, 0, 0, 9]);
        assert!(matches!(
            decoder.next_frame::<FromAgent>(),
            Err(FrameError::Malformed)
        ));
    }
}
