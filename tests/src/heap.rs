//! Heap pages as they lie on disk: what the live row versions of a relation hold, dropped columns included, which no
//! SQL shows.

use std::path::Path;

const PAGE: usize = 8192;
const HEADER: usize = 24;
const NORMAL: u32 = 1;

/// How many row versions that are in use in a relation's file contain these bytes. The server must have checkpointed.
///
/// # Panics
/// When the file cannot be read.
#[must_use]
pub fn row_versions_with(file: &Path, bytes: &[u8]) -> usize {
    let contents =
        std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    contents
        .chunks(PAGE)
        .map(|page| {
            // pd_lower, the end of the line pointers; zero on a page never used.
            let lower = usize::from(u16::from_ne_bytes([page[12], page[13]])).max(HEADER);
            page[HEADER..lower]
                .chunks_exact(4)
                .filter(|pointer| {
                    let pointer =
                        u32::from_ne_bytes([pointer[0], pointer[1], pointer[2], pointer[3]]);
                    // lp_off: 15, lp_flags: 2, lp_len: 15 bits.
                    let (offset, flags, length) =
                        (pointer & 0x7fff, pointer >> 15 & 3, pointer >> 17);
                    let (offset, length) = (offset as usize, length as usize);
                    flags == NORMAL
                        && page[offset..offset + length]
                            .windows(bytes.len())
                            .any(|window| window == bytes)
                })
                .count()
        })
        .sum()
}
