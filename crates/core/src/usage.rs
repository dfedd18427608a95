//! How often a key version may encrypt: shares of its bound at which to warn, rotate and refuse, and
//! how many encryptions a process may take at once without anyone going over.

/// The most encryptions that a process takes in one go.
const MOST_AT_ONCE: u64 = 1 << 16;
/// The smallest part of what is left that one process takes, so that many can share the rest.
const PART: u64 = 64;

/// Numbers of encryptions of one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub bound: u64,
    pub warn: u64,
    pub rotate: u64,
    pub refuse: u64,
}

impl Limits {
    /// The limits at these shares of the bound, in percent.
    pub fn new(bound: u64, warn: u32, rotate: u32, refuse: u32) -> Self {
        let share = |percent: u32| {
            let exact = u128::from(bound) * u128::from(percent.min(100)) / 100;
            u64::try_from(exact).unwrap_or(bound)
        };
        Self {
            bound,
            warn: share(warn),
            rotate: share(rotate),
            refuse: share(refuse),
        }
    }

    /// How many encryptions a process may take when `total` are taken already; 0 when none is left.
    /// Taking them never leads beyond `refuse`.
    pub fn block(&self, total: u64) -> u32 {
        let left = self.refuse.saturating_sub(total);
        let block = (left / PART).clamp(1, MOST_AT_ONCE).min(left);
        u32::try_from(block).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_down_and_do_not_overflow() {
        let limits = Limits::new(999, 50, 70, 85);
        assert_eq!((limits.warn, limits.rotate, limits.refuse), (499, 699, 849));
        let most = Limits::new(u64::MAX, 50, 70, 100);
        assert_eq!(most.refuse, u64::MAX);
        assert_eq!(Limits::new(10, 50, 70, 200).refuse, 10);
    }

    #[test]
    fn blocks_shrink_towards_the_limit_and_never_pass_it() {
        for bound in [0, 1, 2, 100, 1_000, 1 << 20, 1 << 32] {
            let limits = Limits::new(bound, 50, 70, 85);
            let mut total = 0;
            let mut blocks = 0;
            loop {
                let block = limits.block(total);
                if block == 0 {
                    break;
                }
                assert!(u64::from(block) <= MOST_AT_ONCE);
                total += u64::from(block);
                blocks += 1;
                assert!(total <= limits.refuse && blocks < 1 << 20);
            }
            assert_eq!(total, limits.refuse, "all of it can be used");
        }
        assert_eq!(Limits::new(100, 50, 70, 85).block(1_000), 0);
    }
}
