//! The audit log's chain: fixed vectors, made by an independent computation, and every way to bend it.

use colcrypt_core::audit::{Anchor, Fault, GENESIS_EVENT, Hash, Record, Verifier, genesis};

const LOG: [u8; 16] = *b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f";

fn first() -> Record<'static> {
    Record {
        seq: 1,
        at: 0,
        event: GENESIS_EVENT,
        outcome: "done",
        session_role: "postgres",
        current_role: "postgres",
        client_addr: None,
        database: "d",
        pid: 7,
        key_id: None,
        key: None,
        version: None,
        relation: None,
        repeats: 1,
        detail: Some("000102030405060708090a0b0c0d0e0f"),
        sqlstate: None,
    }
}

fn second() -> Record<'static> {
    Record {
        seq: 2,
        at: 848_000_000_000_001,
        event: "decrypt_col",
        outcome: "denied",
        session_role: "mallory",
        current_role: "Ünser",
        client_addr: Some("192.0.2.7"),
        key_id: Some("00000000000000ff"),
        key: Some("k"),
        version: Some(3),
        relation: Some("public.t"),
        repeats: 12,
        detail: Some(""),
        sqlstate: Some("42501"),
        ..first()
    }
}

/// Records with the hashes that stand in them.
fn chain() -> Vec<(Record<'static>, Hash, Hash)> {
    let mut previous = genesis(&LOG);
    let mut chain = Vec::new();
    for seq in 1..=5 {
        let record = Record {
            seq,
            ..if seq == 1 { first() } else { second() }
        };
        let hash = record.hash(previous);
        chain.push((record, previous, hash));
        previous = hash;
    }
    chain
}

fn judge(
    chain: &[(Record<'_>, Hash, Hash)],
    anchors: Vec<Anchor>,
) -> Result<Option<Anchor>, (i64, Fault)> {
    let mut verifier = Verifier::new(anchors);
    for (record, previous, hash) in chain {
        verifier
            .push(record, *previous, *hash)
            .map_err(|fault| (record.seq, fault))?;
    }
    verifier.finish().map_err(|fault| (0, fault))?;
    Ok(verifier.head())
}

fn anchor(chain: &[(Record<'_>, Hash, Hash)], at: usize) -> Anchor {
    Anchor {
        seq: chain[at].0.seq,
        hash: chain[at].2,
    }
}

/// Computed with Python's hashlib from the description at the top of the module.
#[test]
fn the_hashes_are_those_of_an_independent_computation() {
    assert_eq!(
        genesis(&LOG).to_string(),
        "b4ff42708b018ae6dc68b1269a7eddebba7df4a75340b445ece112fc83331af2"
    );
    let one = first().hash(genesis(&LOG));
    assert_eq!(
        one.to_string(),
        "1cfd26e3305865f25ef4a97078ccbc3ebc2c017f9f5e82480a50b9a77149483f"
    );
    assert_eq!(
        second().hash(one).to_string(),
        "c90daa7b55588b2e387c6703700cd9e4f2e7656127b5cad315c8741faa6a7be1"
    );
}

#[test]
fn a_whole_chain_is_good_with_and_without_anchors() {
    let chain = chain();
    let head = anchor(&chain, 4);
    assert_eq!(judge(&chain, vec![]), Ok(Some(head)));
    assert_eq!(judge(&chain, vec![anchor(&chain, 1), head]), Ok(Some(head)));
    assert_eq!(judge(&[], vec![]), Ok(None));
}

#[test]
fn every_field_counts() {
    let edits: [fn(&mut Record<'static>); 16] = [
        |r| r.seq += 0x100,
        |r| r.at += 1,
        |r| r.event = "encrypt_col",
        |r| r.outcome = "done",
        |r| r.session_role = "alice",
        |r| r.current_role = "alice",
        |r| r.client_addr = None,
        |r| r.database = "e",
        |r| r.pid += 1,
        |r| r.key_id = None,
        |r| r.key = Some("l"),
        |r| r.version = None,
        |r| r.relation = None,
        |r| r.repeats = 1,
        |r| r.detail = None,
        |r| r.sqlstate = Some("KC003"),
    ];
    for (at, edit) in edits.iter().enumerate() {
        let mut chain = chain();
        edit(&mut chain[2].0);
        let (seq, fault) = judge(&chain, vec![]).unwrap_err();
        let expected = if at == 0 {
            (0x103, Fault::Gap { expected: 3 })
        } else {
            (3, Fault::Altered)
        };
        assert_eq!((seq, fault), expected, "edit {at}");
    }
    // Moving bytes from one field to the next is an edit, too.
    let mut chain = chain();
    chain[2].0.session_role = "mal";
    chain[2].0.current_role = "loryÜnser";
    assert_eq!(judge(&chain, vec![]), Err((3, Fault::Altered)));
}

#[test]
fn gaps_insertions_and_reordering_are_found() {
    let whole = chain();
    let mut gap = whole.clone();
    gap.remove(2);
    assert_eq!(judge(&gap, vec![]), Err((4, Fault::Gap { expected: 3 })));

    // Numbered anew, it does not stand on what is before it.
    let mut closed = gap;
    closed[2].0.seq = 3;
    assert_eq!(judge(&closed, vec![]), Err((3, Fault::Previous)));

    let mut swapped = whole.clone();
    swapped.swap(2, 3);
    assert_eq!(
        judge(&swapped, vec![]),
        Err((4, Fault::Gap { expected: 3 }))
    );

    let mut inserted = whole.clone();
    inserted.insert(2, whole[2]);
    assert_eq!(
        judge(&inserted, vec![]),
        Err((3, Fault::Gap { expected: 4 }))
    );

    assert_eq!(
        judge(&whole[1..], vec![]),
        Err((2, Fault::Gap { expected: 1 }))
    );
    let mut beheaded = whole[1..2].to_vec();
    beheaded[0].0.seq = 1;
    assert_eq!(judge(&beheaded, vec![]), Err((1, Fault::Genesis)));
}

#[test]
fn an_anchor_finds_a_cut_tail_and_a_chain_made_anew() {
    let whole = chain();
    let anchors = vec![anchor(&whole, 3)];
    assert_eq!(
        judge(&whole[..3], anchors.clone()),
        Err((0, Fault::Truncated))
    );
    assert!(judge(&whole[..4], anchors.clone()).is_ok());

    let mut forged = whole.clone();
    forged[2].0.outcome = "done";
    for at in 2..5 {
        forged[at].1 = forged[at - 1].2;
        forged[at].2 = forged[at].0.hash(forged[at].1);
    }
    assert!(judge(&forged, vec![]).is_ok());
    assert_eq!(judge(&forged, anchors), Err((4, Fault::Anchor)));
}
