//! A page as its reader has it: Chromium, by `browser.py`, measures it on paper and on a screen.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The width of A4 without the report's margins, in CSS pixels.
const PAPER: u32 = 688;

/// A part of the page as a picture: where to, from which element on, and up to which; `-` is the page's end.
pub struct Picture<'a> {
    pub path: &'a Path,
    pub from: &'a str,
    pub to: &'a str,
}

/// What was measured.
///
/// # Panics
/// Where there is no Chromium, or it cannot open the page.
#[must_use]
pub fn look(page: &Path, pictures: &[Picture]) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/browser.py");
    let mut command = Command::new("python3");
    command.arg(script).arg(page).arg(PAPER.to_string());
    for picture in pictures {
        command.arg(picture.path).arg(picture.from).arg(picture.to);
    }
    let output = command.output().expect("python3");
    assert!(
        output.status.success(),
        "run scripts/install-chromium.sh? {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("JSON")
}
