//! The phases of a job, and which follows which.
//!
//! ```text
//! queued → moving → waiting for old transactions → verifying → done, failed
//!             ↑                ↑                       │
//!             └────────────────│── rows left ──────────┘
//!          retrying ───────────┘
//! ```
//!
//! A migration goes from verifying on to swapping; one that encrypts scrubs, waits and vacuums after it. What is
//! cancelled before the swap takes its changes of the table back first.
//!
//! A search index goes from filling to waiting for old transactions, to indexing, checking and done.

use std::fmt;
use std::str::FromStr;

/// A phase of a job, as `colcrypt.job` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    Queued,
    Moving,
    /// Rows that could not be moved are tried again, one by one.
    Retrying,
    WaitingForOld,
    Verifying,
    Swapping,
    Scrubbing,
    Vacuuming,
    /// Terms of a search index are made.
    Filling,
    /// The index on them is built, while the table is written to.
    Indexing,
    /// Rows without terms are counted.
    Checking,
    Cancelling,
    Done,
    Failed,
    Cancelled,
}

/// A text that names no phase.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownPhase;

impl Phase {
    pub const ALL: [Self; 15] = [
        Self::Queued,
        Self::Moving,
        Self::Retrying,
        Self::WaitingForOld,
        Self::Verifying,
        Self::Swapping,
        Self::Scrubbing,
        Self::Vacuuming,
        Self::Filling,
        Self::Indexing,
        Self::Checking,
        Self::Cancelling,
        Self::Done,
        Self::Failed,
        Self::Cancelled,
    ];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Moving => "moving",
            Self::Retrying => "retrying",
            Self::WaitingForOld => "waiting for old transactions",
            Self::Verifying => "verifying",
            Self::Swapping => "swapping",
            Self::Scrubbing => "scrubbing",
            Self::Vacuuming => "vacuuming",
            Self::Filling => "filling",
            Self::Indexing => "indexing",
            Self::Checking => "checking",
            Self::Cancelling => "cancelling",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether the job goes through the table's blocks and writes rows, which the brakes and the pace hold back.
    #[must_use]
    pub const fn moves_rows(self) -> bool {
        matches!(
            self,
            Self::Moving | Self::Retrying | Self::Scrubbing | Self::Filling
        )
    }

    /// Whether nothing of the table is touched, however long it takes.
    #[must_use]
    pub const fn only_waits(self) -> bool {
        matches!(self, Self::WaitingForOld)
    }

    /// Whether a migration in this phase has not swapped its columns yet.
    #[must_use]
    pub const fn is_before_the_swap(self) -> bool {
        matches!(
            self,
            Self::Queued | Self::Moving | Self::Verifying | Self::Swapping
        )
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Phase {
    type Err = UnknownPhase;

    fn from_str(name: &str) -> Result<Self, UnknownPhase> {
        Self::ALL
            .into_iter()
            .find(|phase| phase.name() == name)
            .ok_or(UnknownPhase)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_phase_is_read_back_from_its_name() {
        for phase in Phase::ALL {
            assert_eq!(phase.name().parse(), Ok(phase));
        }
    }

    #[test]
    fn what_is_over_does_nothing_more() {
        for phase in [Phase::Done, Phase::Failed, Phase::Cancelled] {
            assert!(!phase.moves_rows() && !phase.only_waits() && !phase.is_before_the_swap());
        }
    }

    proptest! {
        #[test]
        fn no_other_text_names_a_phase(text in "\\PC{0,30}") {
            let known = Phase::ALL.iter().any(|phase| phase.name() == text);
            prop_assert_eq!(text.parse::<Phase>().is_ok(), known);
        }
    }
}
