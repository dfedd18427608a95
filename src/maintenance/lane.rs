//! What a worker is for. Each database has at most one worker in each lane, so that what must not wait stands behind nobody
//! else's code.

/// The workers of a database, the one that is started first above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Keeps records and counts, destroys and rotates what is due, and asks for the others. It runs no code of a table's owner.
    Keeper,
    /// Moves rows under a compromised version.
    Urgent,
    /// Does all other jobs.
    Mover,
}

impl Lane {
    pub const ALL: [Self; 3] = [Self::Keeper, Self::Urgent, Self::Mover];

    pub fn number(self) -> u32 {
        self as u32
    }

    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.number() == number)
    }

    /// The advisory lock that makes a worker the only one of its lane in its database ("colcrypt" in ASCII, and on).
    pub fn advisory_lock(self) -> i64 {
        0x636f_6c63_7279_7074 + i64::from(self.number())
    }

    /// As `pg_stat_activity` shows it.
    pub fn backend_type(self) -> &'static str {
        if self.moves_rows() {
            "colcrypt maintenance worker"
        } else {
            "colcrypt keeper"
        }
    }

    pub fn moves_rows(self) -> bool {
        self != Self::Keeper
    }
}
