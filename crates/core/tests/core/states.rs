//! The key life cycle, written out: every state and every verb.

use colcrypt_core::{
    KeyState,
    state::{TransitionError, Verb},
};

/// The states in `KeyState::ALL`'s order by one letter each; `-` refuses.
const STATES: &str = "pASDCRXZ";

/// One row a state; columns: Activate, Suspend, Resume, Deactivate, MarkCompromised, Archive,
/// ScheduleDestruction, CancelDestruction, Destroy.
const TABLE: [(KeyState, &str); 8] = [
    (KeyState::PreActive, "A---C-X--"),
    (KeyState::Active, "-S-DC----"),
    (KeyState::Suspended, "--DDC----"),
    (KeyState::Deactivated, "AS--CRX--"),
    (KeyState::Compromised, "-----RX--"),
    (KeyState::Archived, "----C-X--"),
    (KeyState::DestructionScheduled, "-------RZ"),
    (KeyState::Destroyed, "---------"),
];

const VERBS: [Verb; 9] = [
    Verb::Activate,
    Verb::Suspend,
    Verb::Resume,
    Verb::Deactivate,
    Verb::MarkCompromised,
    Verb::Archive,
    Verb::ScheduleDestruction,
    Verb::CancelDestruction,
    Verb::Destroy,
];

fn letter(state: KeyState) -> char {
    match state {
        KeyState::PreActive => 'p',
        KeyState::Active => 'A',
        KeyState::Suspended => 'S',
        KeyState::Deactivated => 'D',
        KeyState::Compromised => 'C',
        KeyState::Archived => 'R',
        KeyState::DestructionScheduled => 'X',
        KeyState::Destroyed => 'Z',
    }
}

#[test]
fn every_state_and_verb() {
    let states: String = KeyState::ALL.into_iter().map(letter).collect();
    assert_eq!(states, STATES);
    assert_eq!(Verb::ALL, VERBS);
    assert_eq!(TABLE.map(|(state, _)| state), KeyState::ALL);
    for (state, row) in TABLE {
        assert_eq!(row.len(), VERBS.len());
        for (verb, expected) in VERBS.into_iter().zip(row.chars()) {
            match state.apply(verb) {
                Ok(next) => assert_eq!(letter(next), expected, "{verb} from {state}"),
                Err(error) => {
                    assert_eq!('-', expected, "{verb} from {state}");
                    assert_eq!(error, TransitionError { state, verb });
                }
            }
        }
    }
}

#[test]
fn uses_by_state() {
    let may = |judge: fn(KeyState) -> bool| {
        let states = KeyState::ALL.into_iter().filter(|&state| judge(state));
        states.map(letter).collect::<String>()
    };
    assert_eq!(may(KeyState::may_encrypt), "A");
    assert_eq!(may(KeyState::may_decrypt), "ADC");
}

/// Once feared to be exposed, a version never encrypts again, by whatever way.
#[test]
fn no_way_leads_from_compromised_to_active() {
    let mut reached = vec![KeyState::Compromised];
    let mut at = 0;
    while let Some(&state) = reached.get(at) {
        for next in VERBS.into_iter().filter_map(|verb| state.apply(verb).ok()) {
            if !reached.contains(&next) {
                reached.push(next);
            }
        }
        at += 1;
    }
    assert!(!reached.contains(&KeyState::Active));
    assert!(reached.contains(&KeyState::Destroyed));
}

#[test]
fn names_are_read_back() {
    for state in KeyState::ALL {
        assert_eq!(state.name().parse(), Ok(state));
        assert_eq!(state.to_string(), state.name());
    }
    assert!("Active".parse::<KeyState>().is_err());
    assert!("".parse::<KeyState>().is_err());
    let error = KeyState::Destroyed.apply(Verb::Activate).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot activate a key version that is destroyed"
    );
}
