//! What the fuzz targets share: inputs taken apart, and what must hold of every failure that a person reads.

use colcrypt_kms::KmsError;
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

/// An answer over HTTP: which question it answers, a status, whether it says it is JSON, Retry-After, a body.
pub struct Reply<'a> {
    pub what: u8,
    pub status: u16,
    pub json: bool,
    pub retry_after: Option<u64>,
    pub body: &'a [u8],
}

impl<'a> Reply<'a> {
    pub fn of(data: &'a [u8]) -> Self {
        let mut input = Input(data);
        let what = input.byte();
        let flags = input.byte();
        let status = u16::from_be_bytes(input.array()).clamp(100, 999);
        let retry_after = (flags & 2 != 0).then(|| u64::from_be_bytes(input.array()));
        Self {
            what,
            status,
            json: flags & 1 == 0,
            retry_after,
            body: input.0,
        }
    }

    /// The body, where it is JSON in whatever encoding: a parser passes over what it does not ask for.
    pub fn json_body(&self) -> Value {
        serde_json::from_str(&String::from_utf8_lossy(self.body)).unwrap_or_default()
    }

    /// The header as a server writes it.
    pub fn retry_after_text(&self) -> String {
        self.retry_after
            .map_or_else(String::new, |seconds| seconds.to_string())
    }

    /// What must hold of whatever an answer is taken for. `own_form`: whether it has the server's own form of a
    /// refusal.
    pub fn judge(&self, own_form: bool, read: &Result<Vec<String>, KmsError>) {
        match read {
            Ok(shown) => shown.iter().for_each(|text| presentable(text)),
            Err(error) => {
                judge(error);
                let is_success = (200..300).contains(&self.status);
                assert!(
                    own_form || is_success || !error.kind.is_refusal(),
                    "a page of somebody in between must not wipe keys: {error:?}"
                );
            }
        }
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
