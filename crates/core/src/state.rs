//! The life of a key version, after NIST SP 800-57 part 1 revision 5, section 7: its six states, and two
//! of ours, archived and destruction scheduled.
//!
//! [`Standing::apply`] is the only judge of what may happen to a version; SQL functions, workers and
//! the command line all ask it. `tests/core/states.rs` has the whole table.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// What a version may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyState {
    /// Made, not yet in use. One that was prepared decrypts what other servers write under it already.
    PreActive,
    /// Encrypts and decrypts.
    Active,
    /// Neither, until resumed or judged.
    Suspended,
    /// Decrypts only.
    Deactivated,
    /// Known or feared to be exposed: decrypts only, so that its rows can be moved away.
    Compromised,
    /// Put away: decrypts only after it is recovered.
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
    Recover,
    ScheduleDestruction,
    CancelDestruction,
    Destroy,
}

/// A version's number against that of the version its key encrypts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Age {
    Older,
    Current,
    Newer,
}

/// A version as the judge sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Standing {
    pub state: KeyState,
    /// What a suspended version, or one whose destruction is scheduled, came from.
    pub former: Option<KeyState>,
    /// Whether it was ever marked as compromised. Nothing takes that back.
    pub compromised: bool,
    pub age: Age,
}

/// Why there is no such transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The state has no such way out.
    State,
    /// A newer version encrypts already.
    Overtaken,
    /// It was marked as compromised before.
    Compromised,
}

/// A transition that SP 800-57 (or common sense) does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("cannot {verb} a key version that {}", self.standing())]
pub struct TransitionError {
    pub state: KeyState,
    pub verb: Verb,
    pub refusal: Refusal,
}

impl TransitionError {
    /// What stands in the way, to follow "the version".
    pub fn standing(&self) -> String {
        match self.refusal {
            Refusal::State => format!("is {}", self.state.in_words()),
            Refusal::Overtaken => {
                format!(
                    "is {} and older than the current one",
                    self.state.in_words()
                )
            }
            Refusal::Compromised => {
                format!(
                    "is {} and was marked as compromised before",
                    self.state.in_words()
                )
            }
        }
    }
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

impl KeyState {
    /// The state as a sentence has it, to follow "is".
    pub fn in_words(self) -> &'static str {
        match self {
            Self::DestructionScheduled => "scheduled for destruction",
            other => other.name(),
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

impl Standing {
    /// The standing after `verb`.
    ///
    /// Two ways go beyond SP 800-57, which has them neither forbidden nor named: what only decrypts can
    /// be suspended too, so that a whole key can be switched off; and what is archived can be recovered.
    ///
    /// # Errors
    /// [`TransitionError`] when there is no such transition.
    pub fn apply(self, verb: Verb) -> Result<Self, TransitionError> {
        use KeyState::*;
        let refused = |refusal| {
            Err(TransitionError {
                state: self.state,
                verb,
                refusal,
            })
        };
        let to = |state| {
            Ok(Self {
                state,
                former: None,
                ..self
            })
        };
        // Such a version remembers where it came from.
        let aside = |state| {
            Ok(Self {
                state,
                former: Some(self.state),
                ..self
            })
        };
        match (self.state, verb) {
            (PreActive, Verb::Activate) if self.age == Age::Older => refused(Refusal::Overtaken),
            (PreActive, Verb::Activate) => Ok(Self {
                state: Active,
                former: None,
                age: Age::Current,
                ..self
            }),
            (Active | Deactivated | Compromised, Verb::Suspend) => aside(Suspended),
            (Suspended, Verb::Resume) if self.compromised => to(Compromised),
            (Suspended, Verb::Resume) => {
                // Another version may have taken its place meanwhile; only one encrypts.
                let comes_back = self.former == Some(Active) && self.age == Age::Current;
                to(if comes_back { Active } else { Deactivated })
            }
            (Suspended, Verb::Deactivate) if self.compromised => refused(Refusal::Compromised),
            (Active | Suspended, Verb::Deactivate) => to(Deactivated),
            (Suspended | Archived | DestructionScheduled, Verb::MarkCompromised)
                if self.compromised =>
            {
                refused(Refusal::Compromised)
            }
            (PreActive | Active | Suspended | Deactivated | Archived, Verb::MarkCompromised) => {
                Ok(Self {
                    state: Compromised,
                    former: None,
                    compromised: true,
                    ..self
                })
            }
            // No row needs it any more, so there is nothing to move: it stays on its way out.
            (DestructionScheduled, Verb::MarkCompromised) => Ok(Self {
                compromised: true,
                ..self
            }),
            (Deactivated | Compromised, Verb::Archive) => to(Archived),
            (Archived, Verb::Recover) => to(if self.compromised {
                Compromised
            } else {
                Deactivated
            }),
            (PreActive | Deactivated | Compromised | Archived, Verb::ScheduleDestruction) => {
                aside(DestructionScheduled)
            }
            (DestructionScheduled, Verb::CancelDestruction) => to(match self.former {
                Some(PreActive | Deactivated | Compromised) if self.compromised => Compromised,
                Some(PreActive) => PreActive,
                Some(Deactivated) => Deactivated,
                // The least that keeps it, also where the catalog does not tell.
                _ => Archived,
            }),
            (DestructionScheduled, Verb::Destroy) => to(Destroyed),
            _ => refused(Refusal::State),
        }
    }
}

impl Verb {
    pub const ALL: [Self; 10] = [
        Self::Activate,
        Self::Suspend,
        Self::Resume,
        Self::Deactivate,
        Self::MarkCompromised,
        Self::Archive,
        Self::Recover,
        Self::ScheduleDestruction,
        Self::CancelDestruction,
        Self::Destroy,
    ];

    /// Whether who asks for it must say why: what takes a key away from its users, and what brings one
    /// back that was put away.
    pub fn needs_reason(self) -> bool {
        matches!(
            self,
            Self::Suspend | Self::MarkCompromised | Self::Recover | Self::ScheduleDestruction
        )
    }

    /// The SQL function that does it, which is also its name in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Activate => "activate_key",
            Self::Suspend => "suspend_key",
            Self::Resume => "resume_key",
            Self::Deactivate => "deactivate_key",
            Self::MarkCompromised => "mark_compromised",
            Self::Archive => "archive_key",
            Self::Recover => "recover_key",
            Self::ScheduleDestruction => "schedule_key_destruction",
            Self::CancelDestruction => "cancel_key_destruction",
            Self::Destroy => "destroy_key",
        }
    }
}

impl FromStr for Verb {
    type Err = ();
    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL
            .into_iter()
            .find(|verb| verb.name() == name)
            .ok_or(())
    }
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
            Self::Recover => "recover",
            Self::ScheduleDestruction => "schedule the destruction of",
            Self::CancelDestruction => "cancel the destruction of",
            Self::Destroy => "destroy",
        })
    }
}
