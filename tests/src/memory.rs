//! Keys in a process's memory: what they expand to, and where that is found.

use std::fs;
use std::os::unix::fs::FileExt;

use crate::search::occurrences;

/// The round keys of AES-256 (FIPS 197, 5.2): fifteen blocks, the first two of which are the key itself.
pub fn round_keys(key: &[u8; 32]) -> Vec<[u8; 16]> {
    let mut words: Vec<[u8; 4]> = key.as_chunks().0.to_vec();
    let mut constant = 1;
    for at in 8..60 {
        let mut word = words[at - 1];
        if at % 8 == 0 {
            word.rotate_left(1);
        }
        if at % 4 == 0 {
            word = word.map(substitute);
        }
        if at % 8 == 0 {
            word[0] ^= constant;
            constant = product(constant, 2);
        }
        words.push(std::array::from_fn(|byte| words[at - 8][byte] ^ word[byte]));
    }
    let bytes = words.as_flattened();
    bytes.as_chunks().0.to_vec()
}

/// The S-box, computed: the inverse in GF(2⁸), then the affine map.
fn substitute(byte: u8) -> u8 {
    let inverse = (0..254).fold(1, |power, _| product(power, byte));
    (1..5).fold(0x63, |sum, turn| sum ^ inverse.rotate_left(turn)) ^ inverse
}

fn product(mut a: u8, mut b: u8) -> u8 {
    let mut sum = 0;
    while b != 0 {
        if b & 1 != 0 {
            sum ^= a;
        }
        a = (a << 1) ^ if a & 0x80 != 0 { 0x1b } else { 0 };
        b >>= 1;
    }
    sum
}

/// How often bytes occur in a process's memory: in what a core file would hold, and in what it leaves out.
pub fn in_memory(pid: i32, needles: &[Vec<u8>]) -> Vec<(usize, usize)> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let memory =
        fs::File::open(format!("/proc/{pid}/mem")).expect("the right to read the server's memory");
    let mut range = None;
    let mut counts = vec![(0, 0); needles.len()];
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [addresses, modes, ..] if modes.len() == 4 && addresses.contains('-') => {
                let (from, to) = addresses.split_once('-').unwrap();
                let at = |text| u64::from_str_radix(text, 16).unwrap();
                range = modes.starts_with('r').then(|| (at(from), at(to)));
            }
            ["VmFlags:", flags @ ..] => {
                let Some((from, to)) = range.take() else {
                    continue;
                };
                let mut bytes = vec![0; (to - from) as usize];
                // The kernel's own pages cannot be read.
                if memory.read_exact_at(&mut bytes, from).is_err() {
                    continue;
                }
                for (found, (dumped, hidden)) in
                    occurrences(&bytes, needles).into_iter().zip(&mut counts)
                {
                    if flags.contains(&"dd") {
                        *hidden += found;
                    } else {
                        *dumped += found;
                    }
                }
            }
            _ => {}
        }
    }
    counts
}

/// All keys in the slab, as a process that has it mapped sees them: 32 bytes each, on pages that are shared and left
/// out of core files.
pub fn slab_keys(pid: i32) -> Vec<[u8; 32]> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let memory =
        fs::File::open(format!("/proc/{pid}/mem")).expect("the right to read the server's memory");
    let (mut range, mut keys) = (None, Vec::new());
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [addresses, modes, ..] if modes.len() == 4 && addresses.contains('-') => {
                let (from, to) = addresses.split_once('-').unwrap();
                let at = |text| u64::from_str_radix(text, 16).unwrap();
                range = modes.ends_with('s').then(|| (at(from), at(to)));
            }
            ["VmFlags:", flags @ ..] if flags.contains(&"dd") => {
                let Some((from, to)) = range.take() else {
                    continue;
                };
                let mut bytes = vec![0; (to - from) as usize];
                memory.read_exact_at(&mut bytes, from).unwrap();
                keys.extend(bytes.as_chunks().0.iter().filter(|key| **key != [0; 32]));
            }
            _ => {}
        }
    }
    keys
}

/// The one-time key that XAES-256-GCM derives for a value: AES-CMAC over one block (C2SP, XAES-256-GCM).
#[must_use]
pub fn derived_key(key: &[u8; 32], nonce: &[u8]) -> [u8; 32] {
    let key = aws_lc_rs::cmac::Key::new(aws_lc_rs::cmac::AES_256, key).unwrap();
    let half = |counter| {
        let block = [&[0, counter, b'X', 0], &nonce[..12]].concat();
        aws_lc_rs::cmac::sign(&key, &block)
            .unwrap()
            .as_ref()
            .to_vec()
    };
    [half(1), half(2)].concat().try_into().unwrap()
}
