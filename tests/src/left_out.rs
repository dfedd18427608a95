//! What a test leaves out because the server was built without it. A test that passes tells nobody, so it is written to
//! the file that `COLCRYPT_LEFT_OUT` names, and the runner (`scripts/run_tests.py`) ends with it.

use std::fs::OpenOptions;
use std::io::Write;

/// Says that the running test goes without this.
pub fn left_out(lacks: &str) {
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    let Some(file) = std::env::var_os("COLCRYPT_LEFT_OUT") else {
        eprintln!("left out: {test}: {lacks}");
        return;
    };
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&file)
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    // One write: other tests tell theirs at the same time.
    file.write_all(format!("{test}: {lacks}\n").as_bytes())
        .expect("a line is written");
}
