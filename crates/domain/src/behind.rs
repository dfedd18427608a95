//! What jobs leave behind as they go through a table: blocks full of former row versions, which can be made room of
//! when no transaction sees them any more.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

/// Stretches of blocks remembered for a table; the newest grows instead.
const MOST: usize = 64;

struct Stretch {
    blocks: Range<u32>,
    /// The transaction that was to come next when it was left: those before it may see the former versions.
    next: u32,
}

/// What was left in each table, by its OID, oldest first.
#[derive(Default)]
pub struct Behind(HashMap<u32, VecDeque<Stretch>>);

impl Behind {
    /// A transaction that is over wrote the rows of these blocks anew. `next`: the one that comes next.
    pub fn add(&mut self, table: u32, blocks: Range<u32>, next: u32) {
        if blocks.is_empty() {
            return;
        }
        let left = self.0.entry(table).or_default();
        let is_full = left.len() >= MOST;
        match left.back_mut() {
            Some(last) if is_full && last.blocks.end == blocks.start => {
                last.blocks.end = blocks.end;
                last.next = next;
            }
            _ => {
                // Where there is a gap, the oldest are autovacuum's.
                if is_full {
                    left.pop_front();
                }
                left.push_back(Stretch { blocks, next });
            }
        }
    }

    /// Takes out what nobody sees: `is_over` tells whether all transactions before one are over.
    pub fn take(&mut self, table: u32, is_over: impl Fn(u32) -> bool) -> Vec<Range<u32>> {
        let Some(left) = self.0.get_mut(&table) else {
            return Vec::new();
        };
        let over = left
            .iter()
            .take_while(|stretch| is_over(stretch.next))
            .count();
        let taken = left.drain(..over).map(|stretch| stretch.blocks).collect();
        if left.is_empty() {
            self.0.remove(&table);
        }
        taken
    }

    /// What is left in a table is no concern any more.
    pub fn forget(&mut self, table: u32) {
        self.0.remove(&table);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_somebody_sees_waits_and_what_came_after_it_too() {
        let mut behind = Behind::default();
        behind.add(1, 0..10, 100);
        behind.add(1, 10..20, 101);
        behind.add(2, 0..5, 50);
        assert!(behind.take(1, |next| next < 100).is_empty());
        let first = behind.take(1, |next| next <= 100);
        let rest = behind.take(1, |_| true);
        assert_eq!([first, rest].concat(), [0..10, 10..20]);
        assert!(behind.take(1, |_| true).is_empty());
        behind.forget(2);
        assert!(behind.take(2, |_| true).is_empty());
    }

    #[test]
    fn nothing_is_left_of_nothing() {
        let mut behind = Behind::default();
        behind.add(1, 7..7, 100);
        assert!(behind.take(1, |_| true).is_empty());
    }

    proptest! {
        #[test]
        fn however_long_it_waits_every_block_comes_once_and_little_is_remembered(
            batches in prop::collection::vec(1u32..1000, 1..300),
            looks in prop::collection::vec(any::<bool>(), 300),
        ) {
            let (mut behind, mut at, mut seen) = (Behind::default(), 0, Vec::new());
            for (number, (size, look)) in (0..).zip(batches.iter().zip(looks)) {
                behind.add(1, at..at + size, number + 1);
                at += size;
                prop_assert!(behind.0[&1].len() <= MOST);
                if look {
                    seen.extend(behind.take(1, |next| next <= number / 2));
                    behind.0.entry(1).or_default();
                }
            }
            seen.extend(behind.take(1, |_| true));
            let mut expected = 0;
            for blocks in seen {
                prop_assert_eq!(blocks.start, expected);
                expected = blocks.end;
            }
            prop_assert_eq!(expected, at);
        }
    }
}
