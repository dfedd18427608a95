//! What loosens the rules of a key, and so may wait for approval. What tightens them never waits.

use colcrypt_core::compression::Method;
use colcrypt_core::period;
use colcrypt_core::rolling::Limit;
use colcrypt_core::suite::Suite;

use crate::error::{Error, Result};

/// The lowest bound on values: so that one percent of it is a value, and no share is reached by none.
const LEAST_BOUND: u64 = 100;

/// An interval as PostgreSQL counts it: months, days and microseconds, none of which is a fixed number of another.
pub type Interval = [i64; 3];

/// Whether one period may reach further than another, from whatever moment they are counted. None is without end.
#[must_use]
pub fn may_be_longer(new: Option<Interval>, old: Option<Interval>) -> bool {
    match (new, old) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(new), Some(old)) => period::may_be_longer(new, old),
    }
}

/// The shortest cryptoperiod of a key encryption key, in microseconds. Each rotation asks every root key and wraps
/// every key anew: it must be over long before the next.
const LEAST_KEK_PERIOD: i64 = 3_600_000_000;

/// Refuses a cryptoperiod of a key encryption key that is too short, or may be: one with parts of both signs is as long
/// as the calendar says. None is without end.
///
/// # Errors
/// [`Error::InvalidParameter`].
pub fn refuse_short_kek_period(new: Option<Interval>) -> Result<()> {
    let least = [0, 0, LEAST_KEK_PERIOD];
    match new {
        Some(new) if period::may_be_longer(least, new) => Err(Error::InvalidParameter {
            message: "the cryptoperiod of a key encryption key must be an hour or longer".into(),
            hint:
                "Each rotation wraps every key of the keyring anew; pass null for one without end."
                    .into(),
        }),
        _ => Ok(()),
    }
}

/// How often root keys' newest versions are taken: not at every look. Null is never by itself.
///
/// # Errors
/// [`Error::InvalidParameter`].
pub fn refuse_short_root_interval(new: Option<Interval>) -> Result<()> {
    match new {
        Some(new) if period::may_be_longer([0, 0, LEAST_KEK_PERIOD], new) => {
            Err(Error::InvalidParameter {
                message: "root keys' newest versions are taken every hour or more seldom".into(),
                hint: "Each time asks every root key; pass null for never by itself.".into(),
            })
        }
        _ => Ok(()),
    }
}

/// Whether a key may encrypt more values than before. None is the suite's bound.
#[must_use]
pub fn may_encrypt_more(suite: Suite, new: Option<i64>, old: Option<i64>) -> bool {
    let highest =
        |bound: Option<i64>| bound.map_or(suite.bound(), |bound| u64::try_from(bound).unwrap_or(0));
    highest(new) > highest(old)
}

/// Whether a value's length tells more than before, as it does once it is compressed.
#[must_use]
pub const fn tells_more(new: Option<Method>, old: Option<Method>) -> bool {
    new.is_some() && old.is_none()
}

/// Refuses a bound that is none for the suite.
///
/// # Errors
/// [`Error::InvalidParameter`].
pub fn refuse_bound(suite: Suite, bound: i64) -> Result<()> {
    let most = suite.bound();
    if u64::try_from(bound).is_ok_and(|bound| (LEAST_BOUND..=most).contains(&bound)) {
        return Ok(());
    }
    Err(Error::InvalidParameter {
        message: format!("the bound must be {LEAST_BOUND} to {most}, not {bound}"),
        hint: format!("Suite {} sets the highest; pass null for it.", suite.name()),
    })
}

/// The longest time that look-ups are limited for: what was done is kept in memory.
const LONGEST_LIMIT_US: i64 = 31 * 24 * 3_600_000_000;

/// A limit on look-ups: so many in so many microseconds.
///
/// # Errors
/// [`Error::InvalidParameter`].
pub fn search_limit(look_ups: i32, per_us: i64) -> Result<Limit> {
    match u32::try_from(look_ups) {
        Ok(most @ 1..) if (1_000_000..=LONGEST_LIMIT_US).contains(&per_us) => {
            Ok(Limit { most, per_us })
        }
        _ => Err(Error::InvalidParameter {
            message: "a limit is one look-up or more, in a time of a second to 31 days".into(),
            hint: "Pass null for both to have none; to have no look-ups at all, revoke the right to search.".into(),
        }),
    }
}

/// Whether there may be more look-ups than before. None is no limit.
#[must_use]
pub fn may_look_up_more(new: Option<Limit>, old: Option<Limit>) -> bool {
    match (new, old) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(new), Some(old)) => new.most > old.most || new.per_us < old.per_us,
    }
}

/// The compression method of this name.
///
/// # Errors
/// [`Error::InvalidParameter`] for none.
pub fn method_named(name: &str) -> Result<Method> {
    name.parse::<Method>().map_err(|_| Error::InvalidParameter {
        message: format!("unknown compression method \"{name}\""),
        hint: "Pass 'lz4', or null for none.".into(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: Interval = [0, 1, 0];

    fn suites() -> Vec<Suite> {
        vec![Suite::Aes256Gcm, Suite::Xaes256Gcm, Suite::HmacSha256]
    }

    #[test]
    fn what_has_no_end_is_the_longest() {
        assert!(may_be_longer(None, Some(DAY)));
        assert!(!may_be_longer(Some(DAY), None));
        assert!(!may_be_longer(None, None));
        assert!(!may_be_longer(Some(DAY), Some(DAY)));
        assert!(may_be_longer(Some([0, 2, 0]), Some(DAY)));
    }

    #[test]
    fn a_bound_is_within_the_suites() {
        assert!(!suites().is_empty());
        for suite in suites() {
            assert!(refuse_bound(suite, 99).is_err());
            assert!(refuse_bound(suite, 100).is_ok());
            assert!(refuse_bound(suite, -1).is_err());
            assert!(may_encrypt_more(suite, None, Some(100)));
            assert!(!may_encrypt_more(suite, Some(100), None));
            assert!(!may_encrypt_more(suite, None, None));
        }
    }

    #[test]
    fn fewer_look_ups_or_a_longer_time_never_wait() {
        let hour = 3_600_000_000;
        let limit = |look_ups, per_us| search_limit(look_ups, per_us).ok();
        assert!(limit(0, hour).is_none() && limit(-1, hour).is_none());
        assert!(limit(1, 999_999).is_none() && limit(1, 32 * 24 * hour).is_none());
        let ten = limit(10, hour);
        assert!(ten.is_some());
        assert!(!may_look_up_more(ten, None) && !may_look_up_more(None, None));
        assert!(!may_look_up_more(ten, ten) && !may_look_up_more(limit(9, 2 * hour), ten));
        assert!(may_look_up_more(None, ten));
        assert!(may_look_up_more(limit(11, hour), ten));
        // Fewer, but the same may soon be done again.
        assert!(may_look_up_more(limit(9, hour / 2), ten));
    }

    #[test]
    fn a_key_encryption_key_serves_for_an_hour_at_least() {
        for good in [[0, 0, LEAST_KEK_PERIOD], DAY, [1, 0, 0]] {
            assert!(refuse_short_kek_period(Some(good)).is_ok(), "{good:?}");
            assert!(refuse_short_root_interval(Some(good)).is_ok(), "{good:?}");
        }
        assert!(refuse_short_kek_period(None).is_ok());
        assert!(refuse_short_root_interval(None).is_ok());
        for bad in [
            [0, 0, 1],
            [0, 0, 0],
            [0, 0, LEAST_KEK_PERIOD - 1],
            [0, -1, 0],
            [1, -31, LEAST_KEK_PERIOD],
        ] {
            assert!(refuse_short_kek_period(Some(bad)).is_err(), "{bad:?}");
            assert!(refuse_short_root_interval(Some(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn compression_loosens_when_it_begins() {
        let lz4 = method_named("lz4").ok();
        assert!(lz4.is_some());
        assert!(tells_more(lz4, None));
        assert!(!tells_more(None, lz4));
        assert!(!tells_more(lz4, lz4));
        assert!(matches!(
            method_named("zip"),
            Err(Error::InvalidParameter { .. })
        ));
    }

    proptest! {
        #[test]
        fn of_two_bounds_at_most_one_way_loosens(new in 100_i64.., old in 100_i64..) {
            for suite in suites() {
                let (there, back) = (may_encrypt_more(suite, Some(new), Some(old)), may_encrypt_more(suite, Some(old), Some(new)));
                prop_assert!(!(there && back));
                prop_assert_eq!(there || back, new != old);
            }
        }

        #[test]
        fn a_longer_day_or_month_is_longer(months in 0_i64..100, days in 0_i64..100, more in 1_i64..100) {
            let old = [months, days, 0];
            prop_assert!(may_be_longer(Some([months + more, days, 0]), Some(old)));
            prop_assert!(may_be_longer(Some([months, days + more, 0]), Some(old)));
            prop_assert!(!may_be_longer(Some(old), Some([months + more, days + more, 0])));
        }
    }
}
