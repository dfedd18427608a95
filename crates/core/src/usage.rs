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
    /// The same shares of what all servers with the key may together.
    pub all_rotate: u64,
    pub all_refuse: u64,
}

impl Limits {
    /// The limits at these shares of the bound, in percent.
    pub fn new(bound: u64, warn: u32, rotate: u32, refuse: u32) -> Self {
        Self::of_one(bound, 1, warn, rotate, refuse)
    }

    /// The limits of one of so many servers that use the key, each an equal part of the bound.
    pub fn of_one(bound: u64, servers: u32, warn: u32, rotate: u32, refuse: u32) -> Self {
        let part = (bound / u64::from(servers.max(1))).max(1);
        let share = |of: u64, percent: u32| {
            let exact = u128::from(of) * u128::from(percent.min(100)) / 100;
            u64::try_from(exact).unwrap_or(of)
        };
        Self {
            bound: part,
            warn: share(part, warn),
            rotate: share(part, rotate),
            refuse: share(part, refuse),
            all_rotate: share(bound, rotate),
            all_refuse: share(bound, refuse),
        }
    }

    /// How many encryptions a process may take when `total` are taken already here, and `elsewhere` by other servers as
    /// far as is known; 0 when none is left. Taking them never leads beyond `refuse`, nor all together beyond
    /// `all_refuse`.
    pub fn block(&self, total: u64, elsewhere: u64) -> u32 {
        let all = total.saturating_add(elsewhere);
        let left = self
            .refuse
            .saturating_sub(total)
            .min(self.all_refuse.saturating_sub(all));
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
                let block = limits.block(total, 0);
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
        assert_eq!(Limits::new(100, 50, 70, 85).block(1_000, 0), 0);
    }

    #[test]
    fn servers_that_share_a_bound_stay_within_it_together() {
        for servers in 1..=7 {
            let limits = Limits::of_one(1_000, servers, 50, 70, 100);
            assert!(limits.refuse * u64::from(servers) <= 1_000);
            assert_eq!(limits.all_refuse, 1_000);
        }
        let limits = Limits::of_one(100, 2, 50, 70, 85);
        assert_eq!(
            (limits.bound, limits.refuse, limits.all_refuse),
            (50, 42, 85)
        );
        assert_eq!(limits.block(42, 0), 0, "its own part is used");
        assert_eq!(limits.block(10, 75), 0, "all of it is used, whoever did");
        assert!(limits.block(10, 74) == 1);
        assert_eq!(Limits::of_one(1, 5, 50, 70, 100).bound, 1);
    }
}
