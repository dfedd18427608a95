//! Text for a terminal: what comes from a database has no power over it, and a line is no wider than it is.

use console::{Alignment, measure_text_width, pad_str, truncate_str};

/// Whether a letter is not seen, or turns the direction of what stands around it: with one in it, a name reads as
/// another.
pub fn is_hidden(letter: char) -> bool {
    matches!(letter,
        '\u{061c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Names and messages come from whoever made the table: no control character of theirs reaches the terminal, and none
/// that is hidden.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            c if c.is_control() || is_hidden(c) => '�',
            c => c,
        })
        .collect()
}

/// At most as many columns; wide letters take two.
pub fn fit(text: &str, columns: usize) -> String {
    truncate_str(&printable(text), columns, "…").into_owned()
}

/// Exactly as many columns.
pub fn cell(text: &str, columns: usize) -> String {
    pad_str(&printable(text), columns, Alignment::Left, Some("…")).into_owned()
}

/// Columns that a text takes.
pub fn width(text: &str) -> usize {
    measure_text_width(text)
}

/// A name in at most as many columns, of which the end says more than the beginning: table.column, not schema.
pub fn fit_name(name: &str, columns: usize) -> String {
    let name = printable(name);
    if width(&name) <= columns {
        return name;
    }
    let mut kept = String::new();
    for letter in name.chars().rev() {
        let longer = format!("{letter}{kept}");
        if width(&longer) + 1 > columns {
            break;
        }
        kept = longer;
    }
    format!("…{kept}")
}

/// A count with its thousands told apart.
pub fn count(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut told = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            told.push(',');
        }
        told.push(digit);
    }
    if number < 0 { format!("-{told}") } else { told }
}

/// A time in its two largest units.
pub fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match (
        seconds / 86_400,
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
    ) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m {s}s"),
        (0, h, m, _) => format!("{h}h {m}m"),
        (d, h, ..) => format!("{d}d {h}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_tables_name_reaches_the_terminal_but_letters() {
        assert_eq!(printable("a\u{1b}[2Jb\n\u{202e}c"), "a�[2Jb��c");
        assert_eq!(printable("a\u{9b}2J\u{61c}\u{206a}\u{e0041}ż"), "a�2J���ż");
    }

    #[test]
    fn wide_letters_take_two_columns() {
        assert_eq!(fit("顧客.口座番号", 8), "顧客.口…");
        assert_eq!(fit_name("public.顧客.口座番号", 9), "…口座番号");
        assert_eq!(fit_name("public.顧客.口座番号", 10), "….口座番号");
        assert_eq!(fit_name("t.v", 11), "t.v");
        assert_eq!(cell("口座", 6), "口座  ");
        assert_eq!(cell("abcdefgh", 6), "abcde…");
    }

    #[test]
    fn numbers_as_people_read_them() {
        assert_eq!(
            [0, 999, 1000, 1_234_567, -1000].map(count),
            ["0", "999", "1,000", "1,234,567", "-1,000"]
        );
        assert_eq!(
            [0.4, 61.0, 3_700.0, 90_000.0, -1.0].map(duration),
            ["0s", "1m 1s", "1h 1m", "1d 1h", "0s"]
        );
    }
}
