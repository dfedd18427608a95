//! A time of day for work that happens by itself: `HH:MM` (an hour from then) or `HH:MM-HH:MM`.

/// Whether the text is empty (any time) or a window.
pub fn is_window(text: &str) -> bool {
    let text = text.trim();
    if text.is_empty() {
        return true;
    }
    match text.split_once('-') {
        Some((from, to)) => is_time(from) && is_time(to) && from != to,
        None => is_time(text),
    }
}

fn is_time(text: &str) -> bool {
    let Some((hours, minutes)) = text.split_once(':') else {
        return false;
    };
    let below = |text: &str, limit: u8| {
        text.len() == 2
            && text.bytes().all(|byte| byte.is_ascii_digit())
            && text.parse::<u8>().is_ok_and(|number| number < limit)
    };
    below(hours, 24) && below(minutes, 60)
}

#[cfg(test)]
mod tests {
    use super::is_window;

    #[test]
    fn windows_are_times_of_a_day() {
        for good in [
            "",
            " ",
            "00:00",
            "03:30",
            "23:59",
            "22:00-04:00",
            "01:00-01:01",
        ] {
            assert!(is_window(good), "{good:?}");
        }
        for bad in [
            "24:00",
            "12:60",
            "3:00",
            "03:00:00",
            "03:00-",
            "-03:00",
            "03:00-03:00",
            "+3:00",
            "x",
            "03:00-04:00-05:00",
            "03:00 - 04:00",
            "0٣:00",
        ] {
            assert!(!is_window(bad), "{bad:?}");
        }
    }
}
