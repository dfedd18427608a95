//! What a worker is for. Each database has at most one worker in each lane, so that what must not wait stands behind
//! nobody else's code.

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

    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32
    }

    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.number() == number)
    }

    /// The lane of a job, urgent where its rows are under a compromised version.
    #[must_use]
    pub const fn of_job(is_urgent: bool) -> Self {
        if is_urgent { Self::Urgent } else { Self::Mover }
    }

    /// As `pg_stat_activity` shows it.
    #[must_use]
    pub const fn backend_type(self) -> &'static str {
        match self {
            Self::Keeper => "colcrypt keeper",
            Self::Destroyer => "colcrypt destroyer",
            Self::Urgent | Self::Mover => "colcrypt maintenance worker",
        }
    }

    #[must_use]
    pub const fn moves_rows(self) -> bool {
        matches!(self, Self::Urgent | Self::Mover)
    }

    /// Whether both are counted together against `colcrypt.max_workers`.
    #[must_use]
    pub fn shares_places_with(self, other: Self) -> bool {
        self == other || (self.moves_rows() && other.moves_rows())
    }
}

/// A worker's place: there is one of each lane in a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Post {
    /// The database's OID.
    pub database: u32,
    pub lane: Lane,
}

impl Post {
    /// Both in one number, as a worker's argument.
    #[must_use]
    pub const fn packed(self) -> u64 {
        (self.lane.number() as u64) << 32 | self.database as u64
    }

    #[must_use]
    pub fn unpacked(packed: u64) -> Option<Self> {
        Some(Self {
            database: packed as u32,
            lane: Lane::from_number(u32::try_from(packed >> 32).ok()?)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lanes_that_move_rows_share_places_and_no_others() {
        for a in Lane::ALL {
            for b in Lane::ALL {
                let both_move = a.moves_rows() && b.moves_rows();
                assert_eq!(a.shares_places_with(b), a == b || both_move);
                assert_eq!(a.shares_places_with(b), b.shares_places_with(a));
            }
            assert_eq!(Lane::from_number(a.number()), Some(a));
        }
    }

    proptest! {
        #[test]
        fn a_post_is_read_back_from_a_workers_argument(database: u32, lane in 0usize..4) {
            let post = Post { database, lane: Lane::ALL[lane] };
            prop_assert_eq!(Post::unpacked(post.packed()), Some(post));
        }

        #[test]
        fn what_names_no_lane_is_no_post(packed in 4u64 << 32..) {
            prop_assert_eq!(Post::unpacked(packed), None);
        }
    }
}
