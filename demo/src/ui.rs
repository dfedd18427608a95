//! What a person sees: numbered steps, progress, and the box at the end.
//! On a terminal the progress is bars; elsewhere it is a line every few seconds.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

const QUIET: Duration = Duration::from_secs(3);

/// The console.
pub struct Ui {
    terminal: bool,
    bars: MultiProgress,
    /// Bars leave the cursor at their end: the next text must begin on a line of its own.
    drawn: Cell<bool>,
    step: u32,
}

impl Ui {
    pub fn new() -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self {
            terminal,
            bars: bars(),
            drawn: Cell::new(false),
            step: 0,
        }
    }

    /// The heading of a step.
    pub fn step(&mut self, title: &str) {
        self.leave_bars();
        self.step += 1;
        // Bars of an earlier step would be drawn again below what was printed since.
        self.bars = bars();
        if self.terminal {
            println!("\n\x1b[1m{}. {title}\x1b[0m", self.step);
        } else {
            println!("\n{}. {title}", self.step);
        }
    }

    /// A line below a heading.
    pub fn line(&self, text: impl AsRef<str>) {
        self.leave_bars();
        println!("   {}", text.as_ref());
    }

    fn leave_bars(&self) {
        if self.drawn.take() {
            println!();
        }
    }

    /// Progress towards `total` of something.
    pub fn bar(&self, label: &str, total: u64) -> Bar {
        self.drawn.set(self.terminal);
        let bar = if self.terminal {
            self.bars.add(ProgressBar::new(total))
        } else {
            ProgressBar::hidden()
        };
        let template = "   {prefix:<12} {bar:28.cyan/blue} {percent:>3}%  {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar.set_prefix(label.to_owned());
        bar.set_length(total.max(1));
        Bar {
            bar,
            label: label.to_owned(),
            terminal: self.terminal,
            spoke: Instant::now(),
            at: 0,
            total: total.max(1),
        }
    }
}

fn bars() -> MultiProgress {
    MultiProgress::with_draw_target(ProgressDrawTarget::stdout_with_hz(10))
}

/// One line of progress.
pub struct Bar {
    bar: ProgressBar,
    label: String,
    terminal: bool,
    spoke: Instant,
    at: u64,
    total: u64,
}

impl Bar {
    pub fn set(&mut self, at: u64, message: impl Into<String>) {
        let message = message.into();
        self.at = at.min(self.total);
        self.bar.set_position(self.at);
        if !self.terminal && self.spoke.elapsed() > QUIET {
            println!(
                "   {:<12} {:>3}%  {message}",
                self.label,
                self.at * 100 / self.total
            );
            self.spoke = Instant::now();
        }
        self.bar.set_message(message);
    }

    pub fn total(&mut self, total: u64) {
        self.total = total.max(1);
        self.bar.set_length(self.total);
    }

    pub fn done(self, message: impl Into<String>) {
        let message = message.into();
        if !self.terminal {
            println!("   {:<12} done  {message}", self.label);
        }
        self.bar.set_position(self.total);
        self.bar.finish_with_message(message);
    }
}

/// 1234567 → 1,234,567
pub fn thousands(n: impl TryInto<u64>) -> String {
    let digits = n
        .try_into()
        .map_or_else(|_| "?".to_owned(), |n: u64| n.to_string());
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(c);
    }
    out
}

pub fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// How many a second, as a number to read.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss
)]
pub fn per_second(n: u64, duration: Duration) -> String {
    thousands((n as f64 / duration.as_secs_f64().max(1e-6)) as u64)
}

#[expect(clippy::cast_precision_loss)]
pub fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// A table of numbers: the first column to the left, the others to the right.
pub fn table(rows: &[Vec<String>]) -> Vec<String> {
    aligned(rows, |column| column > 0)
}

/// A table of texts.
pub fn texts(rows: &[Vec<String>]) -> Vec<String> {
    aligned(rows, |_| false)
}

fn aligned(rows: &[Vec<String>], right: impl Fn(usize) -> bool) -> Vec<String> {
    let length = |cell: &String| cell.chars().count();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter()
                .filter_map(|row| row.get(column).map(length))
                .max()
                .unwrap_or(0)
        })
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, width))| {
                let pad = " ".repeat(width - length(cell));
                if right(column) {
                    format!("{pad}{cell}")
                } else {
                    format!("{cell}{pad}")
                }
            });
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// A frame around lines; an empty one becomes a rule.
pub fn framed(title: &str, lines: &[String]) -> String {
    let longest = lines
        .iter()
        .map(|line| line.chars().count())
        .max()
        .unwrap_or(0);
    let width = longest.max(title.chars().count() + 2);
    let mut out = format!(
        "╭─ {title} {}╮\n",
        "─".repeat(width - title.chars().count() - 1)
    );
    for line in lines {
        if line.is_empty() {
            out.push_str(&format!("├{}┤\n", "─".repeat(width + 2)));
        } else {
            out.push_str(&format!(
                "│ {line}{} │\n",
                " ".repeat(width - line.chars().count())
            ));
        }
    }
    out.push_str(&format!("╰{}╯", "─".repeat(width + 2)));
    out
}

/// The summary's rows: a name, a figure, and what to know about it.
pub fn summary(rows: &[Vec<String>]) -> Vec<String> {
    aligned(rows, |column| column == 1)
}
