//! How often each of many may do something: a burst, then so many a second. Plain data that may lie in shared memory,
//! where all zeros is nobody has done anything yet.

/// What one may do at once.
pub const BURST: i64 = 200;
/// Milliseconds between two more.
const PERIOD_MS: i64 = 100;

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Allowance {
    who: u32,
    /// When everything that was done will have been made up for.
    until_ms: i64,
}

impl Allowance {
    fn take(&mut self, now_ms: i64) -> bool {
        let until = self.until_ms.max(now_ms);
        if until - now_ms > (BURST - 1) * PERIOD_MS {
            return false;
        }
        self.until_ms = until + PERIOD_MS;
        true
    }
}

/// A fixed number of places, each somebody's for as long as he has something to make up for. Whoever finds none free
/// shares the last one.
#[repr(C)]
pub struct Rates<const N: usize> {
    places: [Allowance; N],
    others: Allowance,
}

impl<const N: usize> Default for Rates<N> {
    fn default() -> Self {
        Self {
            places: [Allowance::default(); N],
            others: Allowance::default(),
        }
    }
}

impl<const N: usize> Rates<N> {
    /// Whether `who` may do it once more now, by a clock that never goes back.
    pub fn allows(&mut self, who: u32, now_ms: i64) -> bool {
        let known = self.places.iter().position(|place| place.who == who);
        let free = || {
            self.places
                .iter()
                .position(|place| place.until_ms <= now_ms)
        };
        match known.or_else(free) {
            Some(at) => {
                self.places[at].who = who;
                self.places[at].take(now_ms)
            }
            None => self.others.take(now_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed<const N: usize>(rates: &mut Rates<N>, who: u32, now_ms: i64, tries: usize) -> usize {
        (0..tries).filter(|_| rates.allows(who, now_ms)).count()
    }

    #[test]
    fn a_burst_and_then_so_many_a_second() {
        let mut rates = Rates::<4>::default();
        assert_eq!(allowed(&mut rates, 7, 1_000, 20_000), BURST as usize);
        assert_eq!(allowed(&mut rates, 7, 2_000, 20_000), 10);
        assert_eq!(allowed(&mut rates, 7, 100_000, 20_000), BURST as usize);
    }

    #[test]
    fn one_does_not_take_from_another() {
        let mut rates = Rates::<4>::default();
        allowed(&mut rates, 7, 0, 20_000);
        assert_eq!(allowed(&mut rates, 8, 0, 5), 5);
    }

    #[test]
    fn many_share_what_is_left() {
        let mut rates = Rates::<4>::default();
        let all: usize = (1..1_000)
            .map(|who| allowed(&mut rates, who, 0, 1_000))
            .sum();
        assert_eq!(all, 5 * BURST as usize);
        // A place is free again when its holder has made up for all.
        assert!(rates.allows(5_000, 20_000));
    }
}
