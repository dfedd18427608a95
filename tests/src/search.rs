//! Looking for secrets where they must not be: in memory, core files, logs, WAL, dumps.

use std::fs;
use std::path::Path;

use memchr::memmem;

/// How often each of the needles occurs.
#[must_use]
pub fn occurrences(haystack: &[u8], needles: &[Vec<u8>]) -> Vec<usize> {
    assert!(
        needles.iter().all(|needle| needle.len() >= 4),
        "too short to search for"
    );
    needles
        .iter()
        .map(|needle| memmem::find_iter(haystack, needle).count())
        .collect()
}

/// Calls `found` with the path and the contents of each file below a directory.
pub fn each_file(directory: &Path, found: &mut impl FnMut(&Path, &[u8])) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => each_file(&path, found),
            Ok(kind) if kind.is_file() => {
                let bytes =
                    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                found(&path, &bytes);
            }
            _ => {}
        }
    }
}
