//! What chapters are made of, and values as people read them.

use super::{
    charts::{Chart, grouped},
    facts::{Act, Listed, Section},
    standards,
};

pub const TIME: &str = "time";
pub const TEXT: &str = "text";
pub const NUMBER: &str = "number";
pub const CODE: &str = "code";

/// Lines that a chart has room for.
pub const LINES: usize = 18;

pub struct Chapter {
    pub id: &'static str,
    pub title: &'static str,
    /// What it is about, for a reader who knows no SQL.
    pub about: String,
    pub standards: Vec<String>,
    pub blocks: Vec<Block>,
}

pub enum Block {
    Text(String),
    Warning(String),
    LeftOut { what: String, reason: String },
    Table(Table),
    Chart(Chart),
}

pub struct Table {
    pub caption: String,
    pub columns: Vec<Column>,
    pub rows: Vec<Row>,
    /// How many rows the whole list has.
    pub total: String,
    pub is_cut: bool,
    /// What is said in the place of no rows.
    pub empty: &'static str,
}

pub struct Column {
    pub name: &'static str,
    /// `text`, `number`, `time` or `code`.
    pub class: &'static str,
    /// Its part of the width, in percent.
    pub width: u8,
}

pub struct Row {
    /// `bad`, `warn` or nothing.
    pub class: &'static str,
    pub cells: Vec<String>,
}

pub fn chapter(id: &'static str, title: &'static str, about: &str, blocks: Vec<Block>) -> Chapter {
    Chapter {
        id,
        title,
        about: about.into(),
        standards: standards::of(id),
        blocks,
    }
}

pub fn column(name: &'static str, class: &'static str, width: u8) -> Column {
    Column { name, class, width }
}

pub fn left_out(what: &str, reason: &str) -> Block {
    Block::LeftOut {
        what: what.into(),
        reason: reason.into(),
    }
}

/// Columns are name, class and width in percent; a row is its class and its cells.
pub fn table<T>(
    caption: &str,
    empty: &'static str,
    section: &Section<Listed<T>>,
    columns: &[(&'static str, &'static str, u8)],
    row: impl Fn(&T) -> (&'static str, Vec<String>),
) -> Block {
    let listed = match section {
        Section::LeftOut(reason) => return left_out(caption, reason),
        Section::Facts(listed) => listed,
    };
    Block::Table(Table {
        caption: caption.into(),
        columns: columns
            .iter()
            .map(|(name, class, width)| column(name, class, *width))
            .collect(),
        rows: listed
            .shown
            .iter()
            .map(|it| {
                let (class, cells) = row(it);
                Row { class, cells }
            })
            .collect(),
        total: grouped(listed.total),
        is_cut: listed.is_cut(),
        empty,
    })
}

pub fn text_or(text: Option<&String>, none: &str) -> String {
    text.map_or_else(|| none.into(), Clone::clone)
}

pub fn yes(it: bool) -> String {
    if it { "yes" } else { "no" }.into()
}

/// Whether a condition is bad, or not worth a colour.
pub fn bad_if(it: bool) -> &'static str {
    if it { "bad" } else { "" }
}

pub fn key_version(key: Option<&String>, version: Option<i32>) -> String {
    match (key, version) {
        (Some(key), Some(version)) => format!("{key}, version {version}"),
        (Some(key), None) => key.clone(),
        _ => "–".into(),
    }
}

pub fn acts(caption: &str, empty: &'static str, section: &Section<Listed<Act>>) -> Block {
    table(
        caption,
        empty,
        section,
        &[
            ("when", TIME, 14),
            ("what", CODE, 18),
            ("key", TEXT, 20),
            ("by", TEXT, 18),
            ("reason or detail", TEXT, 30),
        ],
        |act| {
            let mut what = act.event.clone();
            if act.outcome != "done" {
                what = format!("{what} ({})", act.outcome);
            }
            if act.repeats > 1 {
                what = format!("{what}, {} times", grouped(act.repeats));
            }
            let by = if act.role == act.acting_as {
                act.role.clone()
            } else {
                format!("{} as {}", act.role, act.acting_as)
            };
            let about = match (&act.relation, &act.detail) {
                (Some(relation), Some(detail)) => format!("{relation}: {detail}"),
                (Some(text), None) | (None, Some(text)) => text.clone(),
                (None, None) => "–".into(),
            };
            let class = bad_if(act.outcome == "alarm");
            let key = key_version(act.key.as_ref(), act.version);
            (class, vec![moment(&act.at), what, key, by, about])
        },
    )
}

/// A moment of UTC to the second.
pub fn moment(text: &str) -> String {
    match text {
        "infinity" => return "never".into(),
        "-infinity" => return "always".into(),
        _ => {}
    }
    match text.split_once('T') {
        Some((date, time)) => format!("{date} {}", time.get(..8).unwrap_or(time)),
        None => text.into(),
    }
}

/// A moment that there may be none of.
pub fn moment_or(text: Option<&String>, none: &str) -> String {
    text.map_or_else(|| none.into(), |text| moment(text))
}

/// A length of time, as coarse as people say it.
pub fn duration(seconds: f64) -> String {
    let (number, unit) = match seconds.max(0.0) {
        s if s < 120.0 => (s, "second"),
        s if s < 7_200.0 => (s / 60.0, "minute"),
        s if s < 172_800.0 => (s / 3_600.0, "hour"),
        s => (s / 86_400.0, "day"),
    };
    let number = number.floor() as i64;
    format!(
        "{} {unit}{}",
        grouped(number),
        if number == 1 { "" } else { "s" }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_lengths_of_time_are_for_people() {
        for (text, said) in [
            ("2026-11-29T12:34:56.789012+00:00", "2026-11-29 12:34:56"),
            ("2026-11-01T00:00:00Z", "2026-11-01 00:00:00"),
            ("2026-11-29", "2026-11-29"),
            ("infinity", "never"),
            ("-infinity", "always"),
        ] {
            assert_eq!(moment(text), said);
        }
        for (seconds, said) in [
            (-5.0, "0 seconds"),
            (1.0, "1 second"),
            (150.0, "2 minutes"),
            (7_200.0, "2 hours"),
            (86_400.0 * 365.0, "365 days"),
        ] {
            assert_eq!(duration(seconds), said);
        }
    }
}
