//! When the dead row versions that a job leaves behind are vacuumed: now and then as it goes, so that the rows to come
//! go there and the table does not double.

use std::collections::HashMap;

/// Part of a table that a job writes anew before what it leaves behind is made room of.
const PART: i64 = 8;
/// Blocks for which it is not worth it.
const FEW: i64 = 128;

/// Blocks of each table, by its OID, that jobs went through since its last vacuum.
#[derive(Debug, Default)]
pub struct Behind(HashMap<u32, i64>);

/// Blocks of one of them that it may be worth to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Much(i64);

impl Behind {
    /// Jobs went through further blocks: tells if there may be enough of them.
    pub fn add(&mut self, table: u32, blocks: i64) -> Option<Much> {
        let behind = self.0.entry(table).or_default();
        *behind = behind.saturating_add(blocks);
        (*behind >= FEW).then_some(Much(*behind))
    }

    /// The table is vacuumed.
    pub fn forget(&mut self, table: u32) {
        self.0.remove(&table);
    }
}

impl Much {
    /// Whether it is, of a table of so many blocks.
    #[must_use]
    pub const fn is_due(self, size: i64) -> bool {
        self.0 >= size / PART
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_eighth_of_a_large_table_is_due() {
        let mut behind = Behind::default();
        assert_eq!(behind.add(1, 127), None);
        let much = behind.add(1, 1).unwrap();
        assert!(much.is_due(1_024) && !much.is_due(1_032));
        behind.forget(1);
        assert_eq!(behind.add(1, 127), None, "it begins anew");
    }

    proptest! {
        #[test]
        fn a_pass_vacuums_at_most_eight_times_and_some(size in 1i64..100_000, batch in 1i64..2_000) {
            let (mut behind, mut vacuums, mut at) = (Behind::default(), 0, 0);
            while at < size {
                let blocks = batch.min(size - at);
                at += blocks;
                if behind.add(1, blocks).is_some_and(|much| much.is_due(size)) {
                    behind.forget(1);
                    vacuums += 1;
                }
            }
            prop_assert!(vacuums <= PART + 1);
        }
    }
}
