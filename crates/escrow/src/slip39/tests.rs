//! The standard's vectors, and what we make by ourselves.

use serde_json::Value;

use super::*;

/// The passphrase of all vectors.
const TREZOR: &[u8] = b"TREZOR";

fn parsed(lines: &[String]) -> Result<Vec<Share>, NotAShare> {
    lines.iter().map(|line| Share::parse(line)).collect()
}

/// The standard's last two vectors, of the extendable kind, are among them.
#[test]
fn the_vectors_of_the_standard() {
    let vectors: Vec<(String, Vec<String>, String, Value)> =
        serde_json::from_str(include_str!("../../../../tests/vectors/slip39.json")).unwrap();
    assert_eq!(vectors.len(), 45);
    for (name, lines, secret, _) in vectors {
        let got = parsed(&lines).map(|shares| {
            for (share, line) in shares.iter().zip(&lines) {
                assert_eq!(share.words().as_str(), line, "{name}");
            }
            combine(&shares.iter().collect::<Vec<_>>(), TREZOR)
        });
        match got {
            Ok(Ok(got)) => assert_eq!(hex::encode(&got[..]), secret, "{name}"),
            Ok(Err(_)) | Err(_) => assert!(secret.is_empty(), "{name}"),
        }
    }
}

/// Every choice of `count` of so many.
fn choices(of: usize, count: usize) -> Vec<Vec<usize>> {
    (0..1_u32 << of)
        .filter(|set| set.count_ones() as usize == count)
        .map(|set| (0..of).filter(|at| set >> at & 1 == 1).collect())
        .collect()
}

#[test]
fn any_that_are_enough_give_the_secret_and_fewer_do_not() {
    let secret = [7; 32];
    let group = Group {
        threshold: 3,
        members: 5,
    };
    let shares = split(&secret, b"", 1, &[group]).unwrap().remove(0);
    let words: Vec<String> = shares
        .iter()
        .map(|share| share.words().to_string())
        .collect();
    assert!(words.iter().all(|words| words.split(' ').count() == 33));
    let shares = parsed(&words).unwrap();
    for count in 1..=5 {
        for choice in choices(5, count) {
            let chosen: Vec<&Share> = choice.iter().map(|&at| &shares[at]).collect();
            let got = combine(&chosen, b"");
            if count == 3 {
                assert_eq!(got.unwrap()[..], secret);
            } else {
                assert_eq!(got.unwrap_err(), CombineError::Count);
            }
        }
    }
    let twice = [&shares[0], &shares[1], &shares[1]];
    assert_eq!(combine(&twice, b"").unwrap_err(), CombineError::Count);
    let other = split(&secret, b"", 1, &[group]).unwrap().remove(0);
    let mixed = [&shares[0], &shares[1], &other[2]];
    assert_eq!(combine(&mixed, b"").unwrap_err(), CombineError::Mixed);
    let mut altered = shares[2].clone();
    altered.value[0] ^= 1;
    let altered = [&shares[0], &shares[1], &altered];
    assert_eq!(combine(&altered, b"").unwrap_err(), CombineError::Digest);
}

#[test]
fn groups_have_thresholds_of_their_own() {
    let secret: Vec<u8> = (0..32).collect();
    let groups = [(2, 3), (2, 3), (1, 1)].map(|(threshold, members)| Group { threshold, members });
    let shares = split(&secret, b"", 2, &groups).unwrap();
    let of = |places: &[(usize, usize)]| {
        let chosen: Vec<&Share> = places
            .iter()
            .map(|&(group, at)| &shares[group][at])
            .collect();
        combine(&chosen, b"").map(|secret| secret.to_vec())
    };
    assert_eq!(of(&[(0, 0), (0, 2), (1, 1), (1, 2)]).unwrap(), secret);
    assert_eq!(of(&[(2, 0), (1, 0), (1, 2)]).unwrap(), secret);
    assert_eq!(
        of(&[(0, 0), (0, 2), (1, 1)]).unwrap_err(),
        CombineError::Count
    );
    assert_eq!(
        of(&[(0, 0), (0, 1), (0, 2)]).unwrap_err(),
        CombineError::Count
    );
}

#[test]
fn what_cannot_be_split_is_refused() {
    let group = |threshold, members| Group { threshold, members };
    for (secret, threshold, groups, why) in [
        (&[1; 31][..], 1, vec![group(2, 3)], SplitError::Length),
        (&[1; 14], 1, vec![group(2, 3)], SplitError::Length),
        (&[1; 32], 1, vec![], SplitError::Threshold),
        (&[1; 32], 0, vec![group(2, 3)], SplitError::Threshold),
        (&[1; 32], 2, vec![group(2, 3)], SplitError::Threshold),
        (&[1; 32], 1, vec![group(4, 3)], SplitError::Threshold),
        (&[1; 32], 1, vec![group(2, 17)], SplitError::Threshold),
        (&[1; 32], 1, vec![group(1, 3)], SplitError::Single),
    ] {
        assert_eq!(split(secret, b"", threshold, &groups).err(), Some(why));
    }
}

#[test]
fn a_slip_is_told_by_its_place() {
    let shares = split(
        &[7; 32],
        b"",
        1,
        &[Group {
            threshold: 1,
            members: 1,
        }],
    )
    .unwrap();
    let words = shares[0][0].words();
    assert!(Share::parse(&words.to_uppercase().replace(' ', "\n ")).is_ok());
    let mut list: Vec<&str> = words.split(' ').collect();
    list.swap(10, 11);
    if list[10] != list[11] {
        assert_eq!(
            Share::parse(&list.join(" ")).err(),
            Some(NotAShare::Checksum)
        );
    }
    assert_eq!(
        Share::parse(&list[1..].join(" ")).err(),
        Some(NotAShare::Length(32))
    );
    assert_eq!(Share::parse("").err(), Some(NotAShare::Length(0)));
    let misspelt = Share::parse("duckling academia").err().unwrap();
    assert_eq!(
        misspelt.to_string(),
        "word 2 is none of SLIP-39's: \"academic\" is meant?"
    );
}

/// Whatever somebody types is a share that is written as it was read, or an error.
#[test]
fn no_line_of_words_is_too_much() {
    let mut drawn = [0; 200];
    for round in 0..20_000 {
        fill_random(&mut drawn).unwrap();
        let mut words: Vec<u16> = drawn
            .chunks_exact(2)
            .take(18 + round % 50)
            .map(|two| u16::from_be_bytes([two[0], two[1]]) & 0x3ff)
            .collect();
        share::fit_checksum(&mut words);
        let line: Vec<&str> = words.iter().map(|&word| crate::words::word(word)).collect();
        let line = line.join(" ");
        if let Ok(share) = Share::parse(&line) {
            assert_eq!(share.words().as_str(), line);
            assert!(share.group < share.groups && share.group_threshold <= share.groups);
        }
    }
}
