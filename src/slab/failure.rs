//! A failure as shared memory keeps it.

use colcrypt_protocol::{Failure, FailureKind};

/// Longest error text kept about a failure, in bytes: enough for two roots that fail at once.
const FAILURE_TEXT: usize = 600;

/// A [`Failure`] in shared memory, its text cut to what there is room for.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StoredFailure {
    /// Index into [`KINDS`].
    kind: u8,
    length: u16,
    text: [u8; FAILURE_TEXT],
}

/// Every failure kind, to pass one through shared memory as a number.
const KINDS: [FailureKind; 13] = [
    FailureKind::Config,
    FailureKind::Unreachable,
    FailureKind::Timeout,
    FailureKind::Unavailable,
    FailureKind::Throttled,
    FailureKind::Denied,
    FailureKind::KeyNotFound,
    FailureKind::KeyDisabled,
    FailureKind::BadReply,
    FailureKind::WrongRootKey,
    FailureKind::Corrupt,
    FailureKind::BadRequest,
    FailureKind::Agent,
];

impl StoredFailure {
    pub const NONE: Self = Self {
        kind: 0,
        length: 0,
        text: [0; FAILURE_TEXT],
    };

    pub fn of(failure: &Failure) -> Self {
        let mut length = failure.message.len().min(FAILURE_TEXT);
        while !failure.message.is_char_boundary(length) {
            length -= 1;
        }
        let mut text = [0; FAILURE_TEXT];
        text[..length].copy_from_slice(&failure.message.as_bytes()[..length]);
        let kind = KINDS.iter().position(|kind| *kind == failure.kind);
        Self {
            kind: kind.unwrap_or_default() as u8,
            length: length as u16,
            text,
        }
    }

    pub fn kind(&self) -> FailureKind {
        KINDS[usize::from(self.kind) % KINDS.len()]
    }

    pub fn failure(&self) -> Failure {
        let text = &self.text[..usize::from(self.length)];
        Failure {
            kind: self.kind(),
            message: String::from_utf8_lossy(text).into_owned(),
        }
    }
}
