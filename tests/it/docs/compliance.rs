//! docs/compliance.md against the tests: an assessor runs what "shown by" names, so each name is a test's.

use std::collections::HashSet;
use std::path::Path;

/// The names of all test functions below a folder.
fn tests_in(folder: &Path, names: &mut HashSet<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder of the repository") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target") {
                tests_in(&path, names);
            }
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source");
            names.extend(test_functions(&text));
        }
    }
}

/// The functions that stand below an attribute `#[test]`, other attributes between.
fn test_functions(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some(name) = line
            .trim_start_matches("pub ")
            .trim_start_matches("async ")
            .strip_prefix("fn ")
        {
            if is_test {
                found.extend(name.split('(').next().map(str::to_owned));
            }
            is_test = false;
        }
    }
    found
}

/// The cells of the column "shown by", with the line that each is from.
fn shown_by(page: &str) -> Vec<(String, &str)> {
    let mut cells = Vec::new();
    let mut column = None;
    for line in page.lines() {
        if !line.starts_with('|') {
            column = None;
            continue;
        }
        let row: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        if let Some(at) = row.iter().position(|cell| *cell == "shown by") {
            column = Some(at);
        } else if let (Some(at), false) = (column, line.starts_with("| ---")) {
            let cell = row
                .get(at)
                .unwrap_or_else(|| panic!("too few cells: {line}"));
            cells.push(((*cell).to_owned(), line));
        }
    }
    cells
}

#[test]
fn the_compliance_page_names_tests_that_exist() {
    let page = std::fs::read_to_string(super::repository("docs/compliance.md")).expect("the page");
    let mut tests = HashSet::new();
    for folder in ["tests", "crates"] {
        tests_in(&super::repository(folder), &mut tests);
    }
    assert!(tests.len() > 500, "{} tests were found", tests.len());
    let mut named = 0;
    for (cell, line) in shown_by(&page) {
        for name in cell.split('`').skip(1).step_by(2) {
            assert!(tests.contains(name), "{name} is no test: {line}");
            named += 1;
        }
        let words = cell.split('`').step_by(2).collect::<String>();
        assert!(
            words.split(", ").all(str::is_empty)
                || ["–", "as 3.6.1.2", "the rows below", "the rows above"]
                    .contains(&words.as_str()),
            "only tests show anything: {line}"
        );
    }
    assert!(named > 80, "the page has lost its tests");
}
