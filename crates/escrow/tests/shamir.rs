//! shamir-mnemonic, SLIP-39's reference implementation in Python, reads our shares, and we read its.

use std::path::Path;
use std::process::Command;

use colcrypt_escrow::{
    Share,
    slip39::{self, Group},
};

fn python(program: &str, arguments: &[&str]) -> String {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/shamir");
    assert!(
        package.is_dir(),
        "no shamir-mnemonic at {}: run scripts/install-shamir.sh",
        package.display()
    );
    let output = Command::new("python3")
        .arg("-c")
        .arg(program)
        .args(arguments)
        .env("PYTHONPATH", package)
        .output()
        .expect("python3 must be installed");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

const COMBINE: &str =
    "import sys, shamir_mnemonic as s; print(s.combine_mnemonics(sys.argv[1:]).hex())";
const GENERATE: &str = "import sys, shamir_mnemonic as s
groups = [(2, 3), (3, 5)]
for group in s.generate_mnemonics(2, groups, bytes.fromhex(sys.argv[1]), extendable=sys.argv[2] == 'yes', iteration_exponent=int(sys.argv[3])):
    print('|'.join(group))";

#[test]
fn it_reads_our_shares() {
    let secret: Vec<u8> = (100..132).collect();
    let groups = [(3, 5), (2, 2)].map(|(threshold, members)| Group { threshold, members });
    for threshold in [1, 2] {
        let shares = slip39::split(&secret, b"", threshold, &groups).unwrap();
        let mut words: Vec<String> = [4, 0, 2]
            .map(|at: usize| shares[0][at].words().to_string())
            .to_vec();
        if threshold == 2 {
            words.extend(shares[1].iter().map(|share| share.words().to_string()));
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        assert_eq!(python(COMBINE, &words).trim(), hex::encode(&secret));
    }
}

#[test]
fn we_read_its() {
    for (secret, extendable, exponent) in [
        ("00112233445566778899aabbccddeeff", "no", "0"),
        (
            "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef",
            "yes",
            "1",
        ),
    ] {
        let printed = python(GENERATE, &[secret, extendable, exponent]);
        let groups: Vec<Vec<Share>> = printed
            .lines()
            .map(|group| {
                group
                    .split('|')
                    .map(|words| Share::parse(words).unwrap())
                    .collect()
            })
            .collect();
        let chosen = [
            &groups[0][2],
            &groups[0][0],
            &groups[1][1],
            &groups[1][4],
            &groups[1][2],
        ];
        assert_eq!(
            hex::encode(&slip39::combine(&chosen, b"").unwrap()[..]),
            secret
        );
    }
}
