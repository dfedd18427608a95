//! Shares in their holders' hands: each checked alone, encrypted to its holder, on a sheet, at a terminal, and other
//! holders' in their place.

use std::fs;

use colcrypt_tests::of_escrow::{
    Ceremony, directory, done, escrow, forged, recipient, shown, stderr, swapped,
};
use colcrypt_tests::process::run;

use crate::common::{cluster, unique};

#[test]
fn one_share_alone_shows_that_it_is_whole_and_whose() {
    let ceremony = Ceremony::new("checked");
    let record = ["check", "--record", shown(&ceremony.record)];
    let output = escrow(&record, &[ceremony.share(3)]);
    assert!(done(&output).starts_with("colcrypt-escrow-receipt-1:"));
    assert!(stderr(&output).contains("Dan's share of escrow checked"));
    let refused = |share: &str, why: &str| {
        let output = escrow(&record, &[share]);
        assert!(!output.status.success());
        assert!(stderr(&output).contains(why), "{}", stderr(&output));
    };
    refused(Ceremony::new("other").share(3), "of another escrow");
    refused(&swapped(ceremony.share(3)), "do not fit their checksum");
    refused(
        &forged(ceremony.share(3)),
        "in the place of Dan's, but it is not that share",
    );
    refused("duckling enlarge colcrypt", "word 3 is none");
    refused("", "no share was given");
}

#[test]
fn other_holders_get_shares_of_the_same_key() {
    let ceremony = Ceremony::new("reshared");
    let record = ceremony.directory.join("new.json");
    let output = escrow(
        &[
            "reshare",
            "--old-record",
            shown(&ceremony.record),
            "--record",
            shown(&record),
            "--group",
            "directors:2/3",
            "--group",
            "auditors:2/3",
            "--print",
        ],
        &[2, 0, 1].map(|at| ceremony.share(at)),
    );
    let printed = done(&output);
    assert_eq!(recipient(&record), ceremony.recipient);
    let shares: Vec<&str> = printed
        .lines()
        .filter_map(|line| line.strip_prefix("holder ")?.split_once(": "))
        .map(|(_, words)| words)
        .collect();
    assert_eq!(shares.len(), 6);
    let check = ["check", "--record", shown(&record)];
    done(&escrow(&check, &[shares[5]]));
    let old = escrow(&check, &[ceremony.share(0)]);
    assert!(stderr(&old).contains("or of an earlier sharing of this one"));
}

#[test]
fn a_share_goes_to_its_holders_own_key_or_on_a_sheet() {
    let directory = directory();
    let record = directory.join("record.json");
    let identity = age::x25519::Identity::generate();
    let key_file = cluster().write_file(
        &unique("age"),
        age::secrecy::ExposeSecret::expose_secret(&identity.to_string()).as_bytes(),
        0o600,
    );
    let (encrypted, sheets) = (directory.join("encrypted"), directory.join("sheets"));
    let ada = format!("Ada={}", identity.to_public());
    let printed = done(&escrow(
        &[
            "create",
            "--name",
            "sheets",
            "--record",
            shown(&record),
            "--shares",
            "2",
            "--threshold",
            "2",
            "--holder",
            &ada,
            "--holder",
            "Ben",
            "--encrypted",
            shown(&encrypted),
            "--sheets",
            shown(&sheets),
        ],
        &[],
    ));
    assert!(
        printed.contains("Ada: encrypted") && printed.contains("Ben: a sheet"),
        "{printed}"
    );
    let file = format!("@{}", shown(&encrypted.join("share-01-Ada.age")));
    let check = ["check", "--record", shown(&record)];
    let refused = escrow(&check, &[&file]);
    assert!(
        stderr(&refused).contains("--identity"),
        "{}",
        stderr(&refused)
    );
    let with_key = [
        "check",
        "--record",
        shown(&record),
        "--identity",
        shown(&key_file),
    ];
    assert!(stderr(&escrow(&with_key, &[&file])).contains("Ada's share of escrow sheets"));

    // The sheet's words, in the order of their numbers, are Ben's share.
    let sheet = fs::read(sheets.join("share-02-Ben.pdf")).unwrap();
    assert!(sheet.starts_with(b"%PDF-"));
    let text = String::from_utf8_lossy(&sheet);
    let words: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix('(')?.strip_suffix(") Tj"))
        .filter_map(|shown| shown.trim().split_once(' '))
        .filter(|(number, _)| number.parse::<u8>().is_ok())
        .map(|(_, word)| word)
        .collect();
    assert_eq!(words.len(), 33, "{text}");
    assert!(stderr(&escrow(&check, &[&words.join(" ")])).contains("Ben's share"));
    // So is what a scanner reads from its square.
    assert_eq!(square(&text), words.join(" "));
}

/// What the squares on a sheet say, as they are drawn: rectangles, from the paper's lower left corner, in points.
pub(super) fn square(pdf: &str) -> String {
    let numbers = |line: &str| -> Option<[f32; 4]> {
        let parts: Vec<f32> = line
            .strip_suffix(" re")?
            .split(' ')
            .map(|part| part.parse().unwrap())
            .collect();
        parts.try_into().ok()
    };
    let drawn: Vec<[f32; 4]> = pdf.lines().filter_map(numbers).collect();
    // Three dots a point.
    let (width, height, scale) = (595 * 3, 842 * 3, 3.0);
    let mut paper = vec![255_u8; width * height];
    for [x, y, wide, high] in drawn {
        let (left, right) = (x * scale, (x + wide) * scale);
        let (top, bottom) = ((842.0 - y - high) * scale, (842.0 - y) * scale);
        for row in top.round() as usize..bottom.round() as usize {
            for column in left.round() as usize..right.round() as usize {
                paper[row * width + column] = 0;
            }
        }
    }
    let mut image =
        rqrr::PreparedImage::prepare_from_greyscale(width, height, |x, y| paper[y * width + x]);
    let grids = image.detect_grids();
    assert_eq!(grids.len(), 1, "one square");
    grids[0].decode().expect("a square that can be read").1
}

#[test]
fn nothing_of_a_share_is_written_unless_asked() {
    let directory = directory();
    let record = directory.join("record.json");
    let output = escrow(&["create", "--name", "x", "--record", shown(&record)], &[]);
    assert!(!output.status.success());
    assert!(stderr(&output).contains("nothing of them is written unencrypted unless asked"));
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    let ceremony = Ceremony::new("x");
    let files: Vec<_> = fs::read_dir(&ceremony.directory).unwrap().collect();
    assert_eq!(files.len(), 1, "the record alone");
    let record = fs::read_to_string(&ceremony.record).unwrap();
    for share in &ceremony.shares {
        let words = share.split(' ').skip(4).collect::<Vec<_>>();
        assert!(words.windows(2).all(|two| !record.contains(&two.join(" "))));
    }
}

/// A terminal of its own for the program: makes an escrow, copies each share from the screen, and types one in again.
const TERMINAL: &str = r#"
import os, pty, re, sys
program, record = sys.argv[1:]

def run(arguments, steps):
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(program, [program, "escrow", *arguments])
    shown, seen = [], b""
    for awaited, typed in steps:
        while awaited not in seen:
            seen += os.read(terminal, 65536)
        shown.append(seen)
        seen = b""
        os.write(terminal, typed())
    try:
        while data := os.read(terminal, 65536):
            seen += data
    except OSError:
        pass
    shown.append(seen)
    assert os.waitpid(pid, 0)[1] == 0, shown
    return shown

wipe = (b"Enter wipes the screen", lambda: b"\n")
shown = run(["create", "--name", "tty", "--shares", "2", "--threshold", "2", "--record", record], [wipe, wipe])
shares = [re.findall(rb"\d+\. ([a-z]+)", screen) for screen in shown[:2]]
assert [len(share) for share in shares] == [33, 33], shares
assert all(b"\x1b[2J\x1b[3J" in screen for screen in shown[1:]), "the screen is wiped"
share = shares[1]
typed = b" ".join(share[:15]) + b"\n" + b" ".join(share[15:]) + b"\n"
shown = run(["check", "--record", record], [(b"an empty line ends", lambda: typed)])
assert b"holder 2's share of escrow tty" in shown[1], shown
assert b" ".join(share[4:9]) not in b"".join(shown), "nothing that is typed is shown"
"#;

#[test]
fn at_a_terminal_shares_are_wiped_from_the_screen_and_typed_unseen() {
    let program = cluster().command("colcrypt");
    let record = directory().join("record.json");
    run(cluster()
        .server_user()
        .command("python3")
        .arg("-c")
        .arg(TERMINAL)
        .arg(program.get_program())
        .arg(&record));
}
