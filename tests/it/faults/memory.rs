//! Keys in memory: the slab's pages are locked and left out of core files.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use crate::bed::{VaultBed, encrypt};
use crate::vault::keys_of;

/// Sizes in kB and flags of all shared mappings that are marked as not to be dumped.
fn hidden_mappings(pid: i32) -> Vec<(u64, String)> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let (mut found, mut shared, mut size) = (Vec::new(), false, 0);
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [range, modes, ..] if range.contains('-') && modes.len() == 4 => {
                shared = modes.ends_with('s')
            }
            ["Size:", kb, "kB"] => size = kb.parse().unwrap(),
            ["VmFlags:", flags @ ..] if shared && flags.contains(&"dd") => {
                found.push((size, flags.join(" ")))
            }
            _ => {}
        }
    }
    found
}

#[test]
fn the_slab_is_locked_and_left_out_of_core_files() {
    let bed = VaultBed::new(&["colcrypt.slab_keys = 1024"]);
    let mut client = bed.cluster.client();
    encrypt(&mut client, "k").unwrap();
    let backend: i32 = client
        .query_one("SELECT pg_backend_pid()", &[])
        .unwrap()
        .get(0);
    let (postmaster, broker) = bed.pids();

    // 1024 keys of 32 bytes: eight pages and no more.
    let in_postmaster = hidden_mappings(postmaster);
    assert_eq!(in_postmaster.len(), 1, "{in_postmaster:?}");
    let (size, flags) = &in_postmaster[0];
    assert_eq!(*size, 32);
    let locked: bool = client
        .query_one("SELECT memory_locked FROM colcrypt.broker_status()", &[])
        .unwrap()
        .get(0);
    assert!(
        locked && flags.split(' ').any(|flag| flag == "lo"),
        "locked: {locked}, flags: {flags}"
    );
    for child in [broker, backend] {
        let mappings = hidden_mappings(child);
        assert_eq!(mappings.len(), 1, "{mappings:?}");
        assert_eq!(mappings[0].0, 32);
    }
    let agent = bed.cluster.agent_pid().unwrap();
    let limits = fs::read_to_string(format!("/proc/{agent}/limits")).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert!(core.split_whitespace().nth(4) == Some("0"), "{core}");
}

fn occurrences(haystack: &[u8], needle: &[u8]) -> usize {
    haystack
        .windows(needle.len())
        .filter(|window| *window == needle)
        .count()
}

/// How often bytes occur in a process's memory: in what a core file would hold, and in what it leaves out.
fn in_memory(pid: i32, needle: &[u8]) -> (usize, usize) {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let memory =
        fs::File::open(format!("/proc/{pid}/mem")).expect("the right to read the server's memory");
    let (mut dumped, mut hidden, mut range) = (0, 0, None);
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
                let found = occurrences(&bytes, needle);
                if flags.contains(&"dd") {
                    hidden += found;
                } else {
                    dumped += found;
                }
            }
            _ => {}
        }
    }
    (dumped, hidden)
}

#[test]
fn no_core_of_a_process_that_used_no_key_holds_one() {
    let bed = VaultBed::new(&["shared_buffers = '8MB'"]);
    let mut user = bed.cluster.client();
    encrypt(&mut user, "k").unwrap();
    let (kek, dek) = keys_of(&bed, &mut user);
    let mut other = bed.cluster.client();
    let other: i32 = other
        .query_one("SELECT pg_backend_pid()", &[])
        .map(|row| row.get(0))
        .unwrap();
    let (postmaster, broker) = bed.pids();
    let token = fs::read_to_string(&bed.token_file).unwrap();
    for (who, pid) in [
        ("another backend", other),
        ("broker", broker),
        ("postmaster", postmaster),
    ] {
        // That it is found where it must be proves that the search works.
        assert_eq!(
            in_memory(pid, dek.expose()),
            (0, 1),
            "the data key in the memory of the {who}"
        );
        for secret in [&kek.expose()[..], token.trim().as_bytes()] {
            assert_eq!(
                in_memory(pid, secret),
                (0, 0),
                "the agent's secrets in the memory of the {who}"
            );
        }
    }
    // The same in a core file as a debugger writes it, where there is one.
    if Command::new("gcore").arg("--help").output().is_err() {
        return;
    }
    for pid in [other, broker] {
        let core = core(pid, bed.cluster.dir());
        assert!(
            occurrences(&core, b"colcrypt key broker") > 0,
            "the core holds shared memory"
        );
        assert_eq!(occurrences(&core, dek.expose()), 0);
    }
}

/// A core file of a running process.
fn core(pid: i32, dir: &Path) -> Vec<u8> {
    let output = Command::new("gcore")
        .arg("-o")
        .arg(dir.join("core"))
        .arg(pid.to_string())
        .output()
        .expect("gcore");
    let file = dir.join(format!("core.{pid}"));
    let bytes =
        fs::read(&file).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    fs::remove_file(file).unwrap();
    bytes
}
