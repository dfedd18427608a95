//! What the fuzz targets share: inputs taken apart, and what must hold of every failure that a person reads.

use colcrypt_kms::KmsError;
use colcrypt_kms::fuzzing::Reply;
use colcrypt_protocol::FailureKind;
use serde_json::Value;

/// Longest message: a few sentences of ours, an address, and what is quoted of a server.
const LONGEST_MESSAGE: usize = 4096;

/// An input in pieces: numbers from its beginning, then what is left.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// The next byte; zero at the end.
    pub fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        byte
    }

    /// The next `N` bytes, with zeros behind the end.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    /// As many bytes as the next byte says, or what is left.
    pub fn short(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()).min(self.0.len());
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }
}

/// An answer over HTTP: a provider that reads it, and what must hold of whatever it takes it for. `own_form`: whether
/// the answer, with its body as JSON, has the server's own form of a refusal.
pub fn answered(
    data: &[u8],
    own_form: impl FnOnce(&Reply<'_>, &Value) -> bool,
    read: impl FnOnce(&Reply<'_>) -> Result<Vec<String>, KmsError>,
) {
    let reply = reply_of(data);
    match read(&reply) {
        Ok(shown) => shown.iter().for_each(|text| presentable(text)),
        Err(error) => {
            judge(&error);
            // In whatever encoding: a parser passes over what it does not ask for.
            let body = serde_json::from_str(&String::from_utf8_lossy(reply.body));
            let is_success = (200..300).contains(&reply.status);
            assert!(
                is_success
                    || !error.kind.is_refusal()
                    || own_form(&reply, &body.unwrap_or_default()),
                "a page of somebody in between must not wipe keys: {error:?}"
            );
        }
    }
}

fn reply_of(data: &[u8]) -> Reply<'_> {
    let mut input = Input(data);
    let what = input.byte();
    let flags = input.byte();
    let status = u16::from_be_bytes(input.array()).clamp(100, 999);
    let retry_after = (flags & 2 != 0).then(|| u64::from_be_bytes(input.array()));
    Reply {
        what,
        status,
        json: flags & 1 == 0,
        retry_after,
        body: input.0,
    }
}

/// What must hold of every failure.
pub fn judge(error: &KmsError) {
    presentable(&error.message);
    assert!(!error.message.is_empty());
    assert_ne!(error.kind, FailureKind::Timeout, "nothing here takes time");
}

/// What a person is shown is short, and changes nothing on his screen.
pub fn presentable(text: &str) {
    assert!(text.len() <= LONGEST_MESSAGE, "{} bytes", text.len());
    assert!(!text.chars().any(char::is_control), "{text:?}");
}
