//! Why uses of keys are not counted, in words.

/// Why a use is not counted, and so not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unrecorded {
    /// A standby has counted all that it may in memory.
    Standby,
    /// The keeper does not write down what was counted.
    Unflushed,
    /// Look-ups that are limited are counted for each role, and there is no place for one more.
    NoPlace,
}

impl Unrecorded {
    pub(super) const fn detail(self) -> &'static str {
        match self {
            Self::Standby => "A standby keeps its counts in memory, and that has no room for more.",
            Self::Unflushed => {
                "More is counted in memory than may be lost in a crash, and the database's keeper did not record it within colcrypt.key_wait_timeout."
            }
            Self::NoPlace => {
                "Look-ups by a key that has a limit are counted in memory for each role, and all its places are taken by roles whose look-ups still count."
            }
        }
    }

    pub(super) const fn hint(self) -> &'static str {
        match self {
            Self::Standby => "Encrypt on the primary.",
            Self::Unflushed => {
                "See the server log for what hinders the colcrypt keeper; a free place among max_worker_processes is needed."
            }
            Self::NoPlace => {
                "Raise colcrypt.usage_entries, which takes a restart, above the number of keys that have a limit times the roles that look up by them."
            }
        }
    }
}
