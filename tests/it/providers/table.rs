//! Tables in docs/providers/README.md, between `<!-- table NAME -->` and `<!-- end -->`. Each test knows one column, or
//! some rows: those cells are compared, or written anew.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What does not apply.
pub const NOTHING: &str = "–";

/// A cell's row and column, and what is in it.
pub type Cell = (String, String, String);

/// Compares the cells with the page's table of this name, or with `UPDATE_DOCS` puts them there. The table has these
/// rows, in this order.
pub fn check(name: &str, rows: &[&str], cells: &[Cell]) {
    // The tests of one process change one page.
    static PAGE: Mutex<()> = Mutex::new(());
    let _one_at_a_time = PAGE.lock().unwrap_or_else(PoisonError::into_inner);

    let path = page();
    let text = fs::read_to_string(&path).expect("the page");
    let start = format!("<!-- table {name} -->\n");
    let (before, rest) = text.split_once(&start).expect("the table's place");
    let (kept, after) = rest.split_once("<!-- end -->").expect("the table's end");
    let mut table = Table::parse(kept);
    for (row, column, cell) in cells {
        table.set(row, column, cell);
    }
    let made = table.print(rows);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{before}{start}{made}<!-- end -->{after}")).expect("the page");
    } else {
        assert!(
            kept == made,
            "table {name} of docs/providers/README.md is out of date (UPDATE_DOCS=1 cargo test -p colcrypt-tests \
             --test providers): it should be\n{made}"
        );
    }
}

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/providers/README.md")
}

/// Columns in alphabetical order, each with the cells of its rows; the first column, of the rows' names, apart.
#[derive(Default)]
struct Table {
    corner: String,
    columns: BTreeMap<String, BTreeMap<String, String>>,
}

impl Table {
    fn parse(text: &str) -> Self {
        let mut lines = text.lines().map(|line| {
            let cells = line.trim_matches('|').split('|');
            cells.map(|cell| cell.trim().to_owned()).collect()
        });
        let head: Vec<String> = lines.next().expect("a head");
        let mut table = Self {
            corner: head[0].clone(),
            ..Self::default()
        };
        for row in lines.skip(1) {
            for (column, cell) in head.iter().zip(&row).skip(1) {
                table.set(&row[0], column, cell);
            }
        }
        table
    }

    fn set(&mut self, row: &str, column: &str, cell: &str) {
        let column = self.columns.entry(column.to_owned()).or_default();
        column.insert(row.to_owned(), cell.to_owned());
    }

    fn print(&self, rows: &[&str]) -> String {
        let mut out = format!("| {} |", self.corner);
        for column in self.columns.keys() {
            write!(out, " {column} |").unwrap();
        }
        writeln!(out, "\n|{}", " --- |".repeat(self.columns.len() + 1)).unwrap();
        for row in rows {
            write!(out, "| {row} |").unwrap();
            for cells in self.columns.values() {
                let cell = cells.get(*row).map_or(NOTHING, String::as_str);
                write!(out, " {cell} |").unwrap();
            }
            out.push('\n');
        }
        out
    }
}
