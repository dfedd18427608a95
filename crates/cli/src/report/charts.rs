//! Where the bars of a chart are. All lengths are units of the drawing, which is as wide as the page whatever it is
//! printed on.

/// As wide as a drawing is.
pub const WIDTH: f64 = 680.0;
/// What a line of text takes beside its bar.
const LABEL: f64 = 215.0;
const VALUE: f64 = 150.0;
const LINE: f64 = 22.0;
const BAR: f64 = 14.0;
/// Characters of a name that fit beside its bar.
const LETTERS: usize = 30;

/// A rectangle of a drawing.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
    pub class: &'static str,
    /// What a reader is shown who points at it.
    pub title: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Word {
    pub x: f64,
    pub y: f64,
    /// `start`, `middle` or `end`.
    pub anchor: &'static str,
    pub text: String,
}

/// A line from top to bottom.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    pub x: f64,
    pub from: f64,
    pub to: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    pub id: &'static str,
    pub title: String,
    /// For who cannot see it.
    pub summary: String,
    pub height: f64,
    pub bars: Vec<Bar>,
    pub words: Vec<Word>,
    pub marks: Vec<Mark>,
    pub legend: Vec<(&'static str, &'static str)>,
}

/// A name with a bar of some length and what is written behind it.
#[derive(Clone, Debug)]
pub struct Line {
    pub name: String,
    pub value: f64,
    pub says: String,
    pub class: &'static str,
}

/// A line for each name. Bars are as long as their share of `full`, and of the longest where one is longer; at `full`
/// there is a mark if it is asked for.
pub fn lines(id: &'static str, title: &str, lines: &[Line], full: Option<f64>) -> Chart {
    let longest = lines
        .iter()
        .map(|line| line.value)
        .fold(full.unwrap_or(0.0), f64::max);
    let room = WIDTH - LABEL - VALUE;
    let scale = |value: f64| {
        if longest > 0.0 {
            value.max(0.0) / longest * room
        } else {
            0.0
        }
    };
    let top = |at: usize| 4.0 + LINE * at as f64;
    let mut chart = Chart {
        id,
        title: title.into(),
        summary: lines
            .iter()
            .map(|line| format!("{}: {}", line.name, line.says))
            .collect::<Vec<_>>()
            .join("; "),
        height: top(lines.len()) + 4.0,
        bars: Vec::new(),
        words: Vec::new(),
        marks: Vec::new(),
        legend: Vec::new(),
    };
    for (at, line) in lines.iter().enumerate() {
        let width = scale(line.value);
        chart.words.push(Word {
            x: LABEL - 8.0,
            y: top(at) + 12.0,
            anchor: "end",
            text: short(&line.name, LETTERS),
        });
        chart.bars.push(Bar {
            x: LABEL,
            y: top(at) + 1.0,
            // What is there can be seen.
            width: if line.value > 0.0 {
                width.max(1.5)
            } else {
                0.0
            },
            height: BAR,
            class: line.class,
            title: format!("{}: {}", line.name, line.says),
        });
        chart.words.push(Word {
            x: LABEL + width.max(1.5) + 6.0,
            y: top(at) + 12.0,
            anchor: "start",
            text: line.says.clone(),
        });
    }
    if let Some(full) = full.filter(|_| !lines.is_empty()) {
        chart.marks.push(Mark {
            x: LABEL + scale(full),
            from: 0.0,
            to: chart.height,
        });
    }
    chart
}

/// Of one stretch of time: how many of each kind.
#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    pub parts: [i64; 3],
}

/// A column for each stretch of time, its parts above one another.
pub fn columns(
    id: &'static str,
    title: &str,
    columns: &[Column],
    classes: [(&'static str, &'static str); 3],
) -> Chart {
    const LEFT: f64 = 58.0;
    const HIGH: f64 = 130.0;
    const TOP: f64 = 12.0;
    let sum = |column: &Column| column.parts.iter().sum::<i64>();
    let highest = round_up(columns.iter().map(sum).max().unwrap_or(0).max(1));
    let step = (WIDTH - LEFT) / columns.len().max(1) as f64;
    let wide = (step * 0.8).min(40.0);
    let total: [i64; 3] =
        std::array::from_fn(|part| columns.iter().map(|column| column.parts[part]).sum());
    let mut chart = Chart {
        id,
        title: title.into(),
        summary: (0..3)
            .map(|part| format!("{}: {}", classes[part].1, total[part]))
            .collect::<Vec<_>>()
            .join("; "),
        height: TOP + HIGH + 22.0,
        bars: Vec::new(),
        words: vec![
            Word {
                x: LEFT - 6.0,
                y: TOP + 8.0,
                anchor: "end",
                text: coarse(highest),
            },
            Word {
                x: LEFT - 6.0,
                y: TOP + HIGH,
                anchor: "end",
                text: "0".into(),
            },
        ],
        marks: vec![Mark {
            x: LEFT - 2.0,
            from: TOP,
            to: TOP + HIGH,
        }],
        legend: classes.to_vec(),
    };
    for (at, column) in columns.iter().enumerate() {
        let x = LEFT + step * at as f64 + (step - wide) / 2.0;
        let mut bottom = TOP + HIGH;
        for (part, count) in column
            .parts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
        {
            let height = (*count as f64 / highest as f64 * HIGH).max(1.5);
            bottom -= height;
            chart.bars.push(Bar {
                x,
                y: bottom,
                width: wide,
                height,
                class: classes[part].0,
                title: format!("{}: {} {}", column.name, count, classes[part].1),
            });
        }
        // As many names as have room.
        let every = (columns.len() / 8).max(1);
        if at % every == 0 {
            chart.words.push(Word {
                x: (x + wide / 2.0).clamp(LEFT + 18.0, WIDTH - 22.0),
                y: TOP + HIGH + 16.0,
                anchor: "middle",
                text: column.name.clone(),
            });
        }
    }
    chart
}

/// The next number of the kind 1, 2 or 5 with noughts.
fn round_up(number: i64) -> i64 {
    let mut unit = 1_i64;
    loop {
        for factor in [1, 2, 5] {
            if unit.saturating_mul(factor) >= number {
                return unit.saturating_mul(factor);
            }
        }
        unit = unit.saturating_mul(10);
    }
}

/// A number for an axis, which has little room.
fn coarse(number: i64) -> String {
    const MILLION: i64 = 1_000_000;
    if number >= MILLION {
        format!("{} M", grouped(number / MILLION))
    } else {
        grouped(number)
    }
}

/// A name that fits, its end cut off where it is too long.
pub fn short(name: &str, letters: usize) -> String {
    if name.chars().count() <= letters {
        return name.into();
    }
    let mut text: String = name.chars().take(letters - 1).collect();
    text.push('…');
    text
}

/// A number for people: 1,234,567.
pub fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(value: f64) -> Line {
        Line {
            name: "k".into(),
            value,
            says: value.to_string(),
            class: "good",
        }
    }

    #[test]
    fn bars_are_as_long_as_their_share_and_none_leaves_the_drawing() {
        let chart = lines("c", "t", &[line(0.0), line(50.0), line(100.0)], None);
        let widths: Vec<f64> = chart.bars.iter().map(|bar| bar.width).collect();
        assert_eq!(
            widths,
            [0.0, (WIDTH - LABEL - VALUE) / 2.0, WIDTH - LABEL - VALUE]
        );
        assert!(chart.marks.is_empty());
        // Beyond the mark, the longest is the measure.
        let chart = lines("c", "t", &[line(2.0), line(0.5)], Some(1.0));
        assert_eq!(chart.marks[0].x, LABEL + (WIDTH - LABEL - VALUE) / 2.0);
        assert!(chart.bars.iter().all(|bar| bar.x + bar.width <= WIDTH));
        assert_eq!(lines("c", "t", &[], Some(1.0)).marks, []);
        assert!(lines("c", "t", &[line(0.0)], None).bars[0].width == 0.0);
    }

    #[test]
    fn parts_of_a_column_stand_on_one_another() {
        let parts = |parts| Column {
            name: "1 Nov".into(),
            parts,
        };
        let classes = [("good", "done"), ("bad", "refused"), ("alarm", "alarms")];
        let chart = columns(
            "c",
            "t",
            &[parts([5, 0, 5]), parts([0, 0, 0]), parts([10, 0, 0])],
            classes,
        );
        assert_eq!(chart.bars.len(), 3);
        let [done, alarms, other] = &chart.bars[..] else {
            panic!()
        };
        assert_eq!((done.class, alarms.class), ("good", "alarm"));
        assert!((alarms.y + alarms.height - done.y).abs() < 1e-9);
        assert!((other.height - 130.0).abs() < 1e-9);
        assert!(
            chart
                .bars
                .iter()
                .all(|bar| bar.x + bar.width <= WIDTH && bar.y >= 0.0)
        );
        assert_eq!(chart.summary, "done: 15; refused: 0; alarms: 5");
        for many in [0, 1, 62] {
            let chart = columns("c", "t", &vec![parts([1, 1, 1]); many], classes);
            assert!(chart.words.len() <= 2 + 9, "{}", chart.words.len());
        }
    }

    #[test]
    fn numbers_and_names_are_for_people() {
        assert_eq!(
            [0, 7, 999, 1000, -1_234_567].map(grouped),
            ["0", "7", "999", "1,000", "-1,234,567"]
        );
        assert_eq!([1, 2, 3, 6, 11, 501].map(round_up), [1, 2, 5, 10, 20, 1000]);
        assert_eq!(round_up(i64::MAX), i64::MAX);
        assert_eq!([500_000, 20_000_000].map(coarse), ["500,000", "20 M"]);
        assert_eq!(short("ä".repeat(5).as_str(), 5), "äääää");
        assert_eq!(short("äbcdef", 5), "äbcd…");
    }
}
