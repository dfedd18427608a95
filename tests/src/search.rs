//! Looking for secrets where they must not be: in memory, core files, logs, WAL, dumps.

use std::fs;
use std::path::Path;

/// How often each of the needles occurs. All in one pass, since haystacks are large.
#[must_use]
pub fn occurrences(haystack: &[u8], needles: &[Vec<u8>]) -> Vec<usize> {
    assert!(
        needles.iter().all(|needle| needle.len() >= 4),
        "too short to search for"
    );
    let mut begins = vec![false; 1 << 16];
    for needle in needles {
        begins[usize::from(needle[0]) << 8 | usize::from(needle[1])] = true;
    }
    let mut counts = vec![0; needles.len()];
    for (at, pair) in haystack.windows(2).enumerate() {
        if !begins[usize::from(pair[0]) << 8 | usize::from(pair[1])] {
            continue;
        }
        for (needle, count) in needles.iter().zip(&mut counts) {
            *count += usize::from(haystack[at..].starts_with(needle));
        }
    }
    counts
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
