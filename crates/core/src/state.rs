//! The life of a key version, after NIST SP 800-57 part 1 revision 5, section 7.
//!
//! [`KeyState::apply`] is the only judge of what may happen to a version; SQL functions, workers and
//! the command line all ask it.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// What a version may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyState {
    /// Made, not yet in use.
    PreActive,
    /// Encrypts and decrypts.
    Active,
    /// Neither, until resumed or judged.
    Suspended,
    /// Decrypts only.
    Deactivated,
    /// Known or feared to be exposed: decrypts only, so that its rows can be moved away.
    Compromised,
    /// Kept for recovery: decrypts only after it is brought back.
    Archived,
    /// Waiting for its destruction date; usable for nothing.
    DestructionScheduled,
    /// The wrapped key is gone.
    Destroyed,
}

/// What can be asked of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    Activate,
    Suspend,
    Resume,
    Deactivate,
    MarkCompromised,
    Archive,
    ScheduleDestruction,
    CancelDestruction,
    Destroy,
}

/// A transition that SP 800-57 (or common sense) does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("cannot {verb} a key version that is {state}")]
pub struct TransitionError {
    pub state: KeyState,
    pub verb: Verb,
}

impl KeyState {
    pub const ALL: [Self; 8] = [
        Self::PreActive,
        Self::Active,
        Self::Suspended,
        Self::Deactivated,
        Self::Compromised,
        Self::Archived,
        Self::DestructionScheduled,
        Self::Destroyed,
    ];

    pub fn may_encrypt(self) -> bool {
        self == Self::Active
    }

    pub fn may_decrypt(self) -> bool {
        matches!(self, Self::Active | Self::Deactivated | Self::Compromised)
    }

    /// The state after `verb`.
    ///
    /// # Errors
    /// [`TransitionError`] when there is no such transition.
    pub fn apply(self, verb: Verb) -> Result<Self, TransitionError> {
        use KeyState::*;
        match (self, verb) {
            (PreActive, Verb::Activate) => Ok(Active),
            (Active | Deactivated, Verb::Suspend) => Ok(Suspended),
            // What was suspended comes back to decrypt; encrypting again takes an activation.
            (Suspended, Verb::Resume) => Ok(Deactivated),
            (Deactivated, Verb::Activate) => Ok(Active),
            (Active | Suspended, Verb::Deactivate) => Ok(Deactivated),
            (PreActive | Active | Suspended | Deactivated | Archived, Verb::MarkCompromised) => {
                Ok(Compromised)
            }
            (Deactivated | Compromised, Verb::Archive) => Ok(Archived),
            (PreActive | Deactivated | Compromised | Archived, Verb::ScheduleDestruction) => {
                Ok(DestructionScheduled)
            }
            // The least that keeps it: reading again takes a further decision.
            (DestructionScheduled, Verb::CancelDestruction) => Ok(Archived),
            (DestructionScheduled, Verb::Destroy) => Ok(Destroyed),
            (state, verb) => Err(TransitionError { state, verb }),
        }
    }

    /// The name in the catalog.
    pub fn name(self) -> &'static str {
        match self {
            Self::PreActive => "pre-active",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Deactivated => "deactivated",
            Self::Compromised => "compromised",
            Self::Archived => "archived",
            Self::DestructionScheduled => "destruction scheduled",
            Self::Destroyed => "destroyed",
        }
    }
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KeyState {
    type Err = ();
    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL
            .into_iter()
            .find(|state| state.name() == name)
            .ok_or(())
    }
}

impl Verb {
    pub const ALL: [Self; 9] = [
        Self::Activate,
        Self::Suspend,
        Self::Resume,
        Self::Deactivate,
        Self::MarkCompromised,
        Self::Archive,
        Self::ScheduleDestruction,
        Self::CancelDestruction,
        Self::Destroy,
    ];
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Activate => "activate",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Deactivate => "deactivate",
            Self::MarkCompromised => "mark as compromised",
            Self::Archive => "archive",
            Self::ScheduleDestruction => "schedule the destruction of",
            Self::CancelDestruction => "cancel the destruction of",
            Self::Destroy => "destroy",
        })
    }
}
