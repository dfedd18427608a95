//! What a worker is for. Each database has at most one worker in each lane, so that what must not wait stands behind nobody
//! else's code.

use crate::server::session_lock::SessionLock;

/// The workers of a database, the one that is started first above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Keeps records and counts, rotates what is due, and asks for the others. It runs no code of a table's owner.
    Keeper,
    /// Destroys what is due. It runs no such code either, but reads every table that may need a key, however large.
    Destroyer,
    /// Moves rows under a compromised version.
    Urgent,
    /// Does all other jobs.
    Mover,
}

impl Lane {
    pub const ALL: [Self; 4] = [Self::Keeper, Self::Destroyer, Self::Urgent, Self::Mover];

    pub fn number(self) -> u32 {
        self as u32
    }

    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.number() == number)
    }

    /// The lock that makes a worker the only one of its lane in its database.
    pub fn lock(self) -> SessionLock {
        SessionLock::new(0, self.number())
    }

    /// As `pg_stat_activity` shows it.
    pub fn backend_type(self) -> &'static str {
        match self {
            Self::Keeper => "colcrypt keeper",
            Self::Destroyer => "colcrypt destroyer",
            Self::Urgent | Self::Mover => "colcrypt maintenance worker",
        }
    }

    pub fn moves_rows(self) -> bool {
        matches!(self, Self::Urgent | Self::Mover)
    }

    /// Whether both are counted together against `colcrypt.max_workers`.
    pub fn shares_places_with(self, other: Self) -> bool {
        self == other || (self.moves_rows() && other.moves_rows())
    }
}
