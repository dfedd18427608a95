//! How an audited act ended.

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    Done,
    /// Its transaction was prepared; a record of it as done follows if that is committed.
    Prepared,
    RolledBack,
    Denied,
    Failed,
    /// A honeytoken was decrypted.
    Alarm,
}

impl Outcome {
    pub const ALL: [Self; 6] = [
        Self::Done,
        Self::Prepared,
        Self::RolledBack,
        Self::Denied,
        Self::Failed,
        Self::Alarm,
    ];

    /// Of a number in shared memory, which may be any.
    #[must_use]
    pub fn of(number: u8) -> Self {
        Self::ALL
            .get(usize::from(number))
            .copied()
            .unwrap_or(Self::Failed)
    }

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Prepared => "prepared",
            Self::RolledBack => "rolled back",
            Self::Denied => "denied",
            Self::Failed => "failed",
            Self::Alarm => "alarm",
        }
    }

    /// What only tells that somebody tried. It is limited, so that it drowns nothing else.
    #[must_use]
    pub const fn is_a_try(self) -> bool {
        !matches!(self, Self::Alarm | Self::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_read_back_from_its_number_and_any_other_is_a_failure() {
        for outcome in Outcome::ALL {
            assert_eq!(Outcome::of(outcome as u8), outcome);
        }
        assert_eq!(Outcome::of(200), Outcome::Failed);
    }
}
