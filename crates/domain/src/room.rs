//! When what a job leaves behind out of line is vacuumed: now and then as it goes through the table, so that the values
//! to come go there and it does not double.

use std::collections::HashMap;
use std::ops::Range;

/// Part of a table that a job writes anew before what it leaves behind is made room of. A vacuum looks at what is
/// behind and at the rows that came into the room of the one before: many cost more than they save.
const PART: i64 = 6;
/// Blocks for which it is not worth it.
pub const FEW: i64 = 128;

/// What jobs went through in a table since its last vacuum.
#[derive(Debug, Default)]
struct Table {
    behind: i64,
    /// Blocks that it had when the first batch ended; those that came since hold what was moved there.
    size: Option<i64>,
}

/// What jobs went through, by the tables' OIDs.
#[derive(Debug, Default)]
pub struct Through(HashMap<u32, Table>);

impl Through {
    /// A job went through these blocks: tells if there may be enough of them for a vacuum.
    pub fn add(&mut self, table: u32, went: Range<i64>) -> bool {
        let table = self.0.entry(table).or_default();
        if went.start == 0 {
            table.size = None;
        }
        let blocks = went.end.saturating_sub(went.start);
        table.behind = table.behind.saturating_add(blocks);
        table.behind >= FEW
    }

    /// Whether a vacuum is worth it in a table of so many blocks, before the job goes on at `next`: there is much
    /// behind, and enough still to come, for which there will be room. The end is left to autovacuum.
    pub fn is_due(&mut self, table: u32, next: i64, blocks: i64) -> bool {
        let table = self.0.entry(table).or_default();
        let size = *table.size.get_or_insert(blocks);
        table.behind >= size / PART && size.saturating_sub(next) >= size / (2 * PART)
    }

    /// The table is vacuumed.
    pub fn forget(&mut self, table: u32) {
        if let Some(table) = self.0.get_mut(&table) {
            table.behind = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_sixth_of_a_large_table_is_due() {
        let mut through = Through::default();
        assert!(!through.add(1, 0..127));
        assert!(through.add(1, 127..128));
        assert!(through.is_due(1, 128, 768));
        through.forget(1);
        assert!(!through.add(1, 128..255), "it begins anew");
    }

    #[test]
    fn what_came_behind_the_end_is_no_row_to_come() {
        let mut through = Through::default();
        assert!(through.add(1, 0..600));
        assert!(through.is_due(1, 600, 1_200));
        through.forget(1);
        assert!(through.add(1, 600..1_200));
        assert!(!through.is_due(1, 1_200, 1_800));
        // Another pass over the larger table.
        through.forget(1);
        assert!(through.add(1, 0..600));
        assert!(through.is_due(1, 600, 1_800));
    }

    proptest! {
        #[test]
        fn a_pass_vacuums_few_times_and_leaves_little_behind_until_near_its_end(
            size in 1_000i64..100_000,
            batch in 1i64..2_000,
        ) {
            let (mut through, mut vacuums, mut at, mut dead) = (Through::default(), 0, 0, 0);
            while at < size {
                let to = (at + batch).min(size);
                dead += to - at;
                if through.add(1, at..to) && through.is_due(1, to, size) {
                    through.forget(1);
                    vacuums += 1;
                    dead = 0;
                }
                at = to;
                let most = size / PART + batch + FEW;
                prop_assert!(dead <= most || size - at < size / PART);
            }
            prop_assert!(vacuums <= PART);
        }
    }
}
