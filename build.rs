//! Tells pgrx which SQL files an installation consists of: those that `sql/ORDER` lists. `make install` puts the same
//! files together.

use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

fn main() {
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let order = Path::new(&root).join("sql/ORDER");
    println!("cargo::rerun-if-changed={}", order.display());
    println!("cargo::rerun-if-changed=build.rs");
    let order = fs::read_to_string(&order).expect("sql/ORDER is there");
    let files: Vec<&str> = order
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let mut calls = String::new();
    let mut before: Option<&str> = None;
    for (index, file) in files.iter().enumerate() {
        let name = file.trim_end_matches(".sql");
        let place = match before {
            None => ", bootstrap".into(),
            Some(before) if index + 1 == files.len() => {
                format!(", requires = [\"{before}\"], finalize")
            }
            Some(before) => format!(", requires = [\"{before}\"]"),
        };
        writeln!(
            calls,
            "pgrx::extension_sql_file!(\"{root}/sql/{file}\", name = \"{name}\"{place});"
        )
        .expect("a String takes it");
        before = Some(name);
    }
    let out = env::var("OUT_DIR").expect("cargo sets it");
    fs::write(Path::new(&out).join("sql_files.rs"), calls).expect("OUT_DIR can be written");
}
