//! The table of docs/security.md, "Four eyes, function by function", against the list that the extension goes by.

use std::collections::BTreeSet;

use colcrypt_core::verbs::{Gate, VERBS};

/// The rows, by how their first cell begins.
const WAIT: &str = "wait";
const WAIT_TO_LOOSEN: &str = "wait where they loosen";
const WAIT_TO_ACTIVATE: &str = "make a version";
const REFUSED: &str = "are refused";
const DONE: &str = "are done at once";

/// The SQL functions that a row names: all words in backticks.
fn named(section: &str, row: &str) -> BTreeSet<String> {
    let starts = |line: &str| {
        let cell = line
            .strip_prefix("| ")
            .and_then(|rest| rest.split(" |").next());
        cell.is_some_and(|cell| cell == row || row != WAIT && cell.starts_with(row))
    };
    let rows: Vec<&str> = section.lines().filter(|line| starts(line)).collect();
    let [line] = rows[..] else {
        panic!("{} rows begin with {row:?}", rows.len());
    };
    line.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

fn gated(is_wanted: impl Fn(&Gate) -> bool) -> BTreeSet<String> {
    VERBS
        .iter()
        .filter(|verb| is_wanted(&verb.gate))
        .map(|verb| verb.name.to_owned())
        .collect()
}

#[test]
fn the_table_names_each_function_where_its_gate_is() {
    let text = std::fs::read_to_string(super::repository("docs/security.md")).expect("security.md");
    let (_, section) = text
        .split_once("## Four eyes, function by function")
        .expect("the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    for (row, expected) in [
        (WAIT, gated(|gate| matches!(gate, Gate::Waits))),
        (
            WAIT_TO_LOOSEN,
            gated(|gate| matches!(gate, Gate::WaitsToLoosen)),
        ),
        (
            WAIT_TO_ACTIVATE,
            gated(|gate| matches!(gate, Gate::WaitsToActivate)),
        ),
        (REFUSED, gated(|gate| matches!(gate, Gate::Refused))),
    ] {
        assert_eq!(named(section, row), expected, "the row {row:?}");
    }
    // "And the rest": so not all, but none that waits.
    let (done, open) = (
        named(section, DONE),
        gated(|gate| matches!(gate, Gate::Open(_))),
    );
    assert!(done.len() > 5);
    assert!(done.is_subset(&open), "{:?}", done.difference(&open));
}
