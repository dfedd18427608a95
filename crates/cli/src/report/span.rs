//! From when to when: what the options say, read strictly.

use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

/// Where a date stands for: its beginning, or its end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    Begin,
    End,
}

/// A date of UTC (`2026-11-01`), which is the whole day, or a moment with its zone (`2026-11-01T18:00:00+01:00`).
///
/// # Errors
/// In words, for anything else: 01/11/2026 is another day in another country, and a time without a zone is no moment.
pub fn moment(text: &str, edge: Edge) -> Result<OffsetDateTime, String> {
    let refused = || {
        format!(
            "{text:?} is neither a date like 2026-11-01, of UTC, nor a moment with its zone like 2026-11-01T18:00:00+01:00"
        )
    };
    let is_date = text.len() == 10;
    let full = if is_date {
        format!("{text}T00:00:00Z")
    } else {
        text.to_owned()
    };
    let parsed = OffsetDateTime::parse(&full, &Rfc3339).map_err(|_| refused())?;
    if is_date && edge == Edge::End {
        return parsed.checked_add(Duration::DAY).ok_or_else(refused);
    }
    Ok(parsed)
}

/// For the server.
pub fn written(moment: OffsetDateTime) -> Result<String, String> {
    moment
        .to_offset(time::UtcOffset::UTC)
        .format(&Rfc3339)
        .map_err(|error| error.to_string())
}

/// The unit that leaves a period of so many seconds some sixty bars.
pub fn unit(seconds: i64) -> &'static str {
    const DAY: i64 = 86_400;
    match seconds {
        ..=5_356_800 => "day",
        s if s <= 62 * 7 * DAY => "week",
        s if s <= 62 * 31 * DAY => "month",
        _ => "year",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, edge: Edge) -> Option<String> {
        written(moment(text, edge).ok()?).ok()
    }

    #[test]
    fn a_date_is_the_whole_day_and_a_moment_has_its_zone() {
        for (text, begin, end) in [
            ("2026-11-01", "2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z"),
            ("2024-02-29", "2024-02-29T00:00:00Z", "2024-03-01T00:00:00Z"),
            (
                "2026-11-01T18:00:00+01:00",
                "2026-11-01T17:00:00Z",
                "2026-11-01T17:00:00Z",
            ),
            (
                "2026-11-01T18:00:00.5Z",
                "2026-11-01T18:00:00.5Z",
                "2026-11-01T18:00:00.5Z",
            ),
        ] {
            assert_eq!(read(text, Edge::Begin).as_deref(), Some(begin));
            assert_eq!(read(text, Edge::End).as_deref(), Some(end));
        }
    }

    #[test]
    fn whatever_could_be_two_things_is_none() {
        for text in [
            "",
            "today",
            "2026-11",
            "2026-11-31",
            "2025-02-29",
            "2026-13-01",
            "01/11/2026",
            "11.01.2026",
            "2026-11-1",
            " 2026-11-01",
            "2026-11-01 18:00",
            "2026-11-01T18:00:00",
            "2026-11-01T25:00:00Z",
            "2026-11-01T18:00:00 CET",
            "20261101",
            "1764547200",
            "2026-11-01'; DROP TABLE x",
            "infinity",
        ] {
            let refused = moment(text, Edge::Begin);
            assert!(refused.is_err(), "{text:?} is {refused:?}");
        }
    }

    #[test]
    fn no_period_has_more_bars_than_a_page_takes() {
        let day = 86_400;
        for days in [0, 1, 30, 62, 63, 365, 434, 435, 1_922, 1_923, 20_000] {
            let bars = match unit(days * day) {
                "day" => days,
                "week" => days / 7,
                "month" => days / 30,
                _ => days / 365,
            };
            assert!(bars <= 65, "{days} days are {bars} bars");
        }
    }
}
