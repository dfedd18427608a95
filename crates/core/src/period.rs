//! Which of two periods is the longer one. A period is months, days and microseconds, each of its own length by the
//! calendar.

const HOUR: i128 = 3_600_000_000;

/// Whether a period may end later than another that begins at the same moment, whatever moment that is.
#[must_use]
pub fn may_be_longer(new: [i64; 3], old: [i64; 3]) -> bool {
    let part_by_part = new.iter().zip(&old).all(|(new, old)| new <= old);
    let signed = new.iter().chain(&old).any(|part| *part < 0);
    !part_by_part && (signed || longest(new) > shortest(old))
}

/// With months of 31 days and days of 25 hours.
fn longest([months, days, micros]: [i64; 3]) -> i128 {
    (i128::from(months) * 31 + i128::from(days)) * 25 * HOUR + i128::from(micros)
}

/// With months of 28 days and days of 23 hours.
fn shortest([months, days, micros]: [i64; 3]) -> i128 {
    (i128::from(months) * 28 + i128::from(days)) * 23 * HOUR + i128::from(micros)
}

#[cfg(test)]
mod tests {
    use super::may_be_longer;

    #[test]
    fn what_may_be_longer_is() {
        let (year, quarter) = ([12, 0, 0], [0, 90, 0]);
        assert!(!may_be_longer(year, year));
        assert!(!may_be_longer(quarter, year));
        assert!(may_be_longer(year, quarter));
        assert!(!may_be_longer([11, 0, 0], year));
        assert!(may_be_longer([13, 0, 0], year));
        // A month is 28 to 31 days.
        assert!(may_be_longer([0, 31, 0], [1, 0, 0]));
        assert!(may_be_longer([1, 0, 0], [0, 30, 0]));
        assert!(!may_be_longer([0, 25, 0], [1, 0, 0]));
        assert!(may_be_longer([0, 0, 1], [0, 0, 0]));
        assert!(may_be_longer([24, -365, 0], year));
        assert!(!may_be_longer([12, -1, 0], year));
    }
}
