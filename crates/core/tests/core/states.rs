//! The key life cycle, written out: every state and every verb.

use colcrypt_core::KeyState::{self, *};
use colcrypt_core::state::{Age, Refusal, Standing, TransitionError, Verb};

const VERBS: [Verb; 10] = [
    Verb::Activate,
    Verb::Suspend,
    Verb::Resume,
    Verb::Deactivate,
    Verb::MarkCompromised,
    Verb::Archive,
    Verb::Recover,
    Verb::ScheduleDestruction,
    Verb::CancelDestruction,
    Verb::Destroy,
];

/// What became of a version: a state by one letter; `-` no such way, `o` overtaken by a newer one, `c`
/// marked as compromised before.
fn letter(state: KeyState) -> char {
    match state {
        PreActive => 'p',
        Active => 'A',
        Suspended => 'S',
        Deactivated => 'D',
        Compromised => 'C',
        Archived => 'R',
        DestructionScheduled => 'X',
        Destroyed => 'Z',
    }
}

type Row = (KeyState, Option<KeyState>, bool, &'static str, &'static str);

/// State, the state before where it is remembered, whether ever compromised; then the outcome of each verb
/// in the order of `VERBS` for the current version, and where it differs, for an older and a newer one.
#[rustfmt::skip]
const TABLE: [Row; 25] = [
    //                                                     ASRDMARSCD, letters of the verbs' names
    (PreActive, None, false,                               "A---C--X--", "older o---C--X--"),
    (Active, None, false,                                  "-S-DC-----", ""),
    (Suspended, Some(Active), false,                       "--ADC-----", "other --DDC-----"),
    (Suspended, Some(Deactivated), false,                  "--DDC-----", ""),
    (Suspended, Some(Compromised), true,                   "--Ccc-----", ""),
    (Suspended, None, false,                               "--DDC-----", ""),
    (Suspended, None, true,                                "--Ccc-----", ""),
    (Deactivated, None, false,                             "-S--CR-X--", ""),
    (Compromised, None, true,                              "-S---R-X--", ""),
    (Archived, None, false,                                "----C-DX--", ""),
    (Archived, None, true,                                 "----c-CX--", ""),
    (DestructionScheduled, Some(PreActive), false,         "----X---pZ", ""),
    (DestructionScheduled, Some(PreActive), true,          "----c---CZ", ""),
    (DestructionScheduled, Some(Deactivated), false,       "----X---DZ", ""),
    (DestructionScheduled, Some(Deactivated), true,        "----c---CZ", ""),
    (DestructionScheduled, Some(Compromised), true,        "----c---CZ", ""),
    (DestructionScheduled, Some(Archived), false,          "----X---RZ", ""),
    (DestructionScheduled, Some(Archived), true,           "----c---RZ", ""),
    (DestructionScheduled, None, false,                    "----X---RZ", ""),
    (DestructionScheduled, None, true,                     "----c---RZ", ""),
    // What no verb makes, but a damaged catalog might hold: it gains nothing.
    (Suspended, Some(Active), true,                        "--Ccc-----", ""),
    (DestructionScheduled, Some(Active), false,            "----X---RZ", ""),
    (DestructionScheduled, Some(Active), true,             "----c---RZ", ""),
    (Destroyed, None, false,                               "----------", ""),
    (Destroyed, None, true,                                "----------", ""),
];

fn outcome(standing: Standing, verb: Verb) -> char {
    match standing.apply(verb) {
        Ok(next) => letter(next.state),
        Err(error) => {
            assert_eq!((error.state, error.verb), (standing.state, verb));
            match error.refusal {
                Refusal::State => '-',
                Refusal::Overtaken => 'o',
                Refusal::Compromised => 'c',
            }
        }
    }
}

#[test]
fn every_state_and_verb() {
    assert_eq!(Verb::ALL, VERBS);
    let mut seen: Vec<KeyState> = TABLE.iter().map(|row| row.0).collect();
    seen.dedup();
    for state in KeyState::ALL {
        assert!(seen.contains(&state), "{state} is not in the table");
    }
    for (state, former, compromised, current, elsewhere) in TABLE {
        for age in [Age::Older, Age::Current, Age::Newer] {
            let expected = match (age, elsewhere.split_once(' ')) {
                (Age::Older, Some(("older" | "other", row)))
                | (Age::Newer, Some(("other", row))) => row,
                _ => current,
            };
            let standing = Standing {
                state,
                former,
                compromised,
                age,
            };
            let found: String = VERBS
                .into_iter()
                .map(|verb| outcome(standing, verb))
                .collect();
            assert_eq!(found, expected, "{standing:?}");
        }
    }
}

/// Every standing there can be, sensible or not.
fn standings() -> Vec<Standing> {
    let formers = KeyState::ALL.into_iter().map(Some).chain([None]);
    let mut all = Vec::new();
    for former in formers {
        for state in KeyState::ALL {
            for compromised in [false, true] {
                for age in [Age::Older, Age::Current, Age::Newer] {
                    all.push(Standing {
                        state,
                        former,
                        compromised,
                        age,
                    });
                }
            }
        }
    }
    all
}

/// What verbs, and other versions taking or leaving the first place, can make of a version.
fn reachable(from: Standing) -> Vec<Standing> {
    let mut reached = vec![from];
    let mut at = 0;
    while let Some(&standing) = reached.get(at) {
        let moved = [Age::Older, Age::Current, Age::Newer].map(|age| Standing { age, ..standing });
        let verbs = VERBS
            .into_iter()
            .filter_map(|verb| standing.apply(verb).ok());
        for next in moved.into_iter().chain(verbs) {
            if !reached.contains(&next) {
                reached.push(next);
            }
        }
        at += 1;
    }
    reached
}

/// A new version, from which all sensible standings come.
const NEW: Standing = Standing {
    state: PreActive,
    former: None,
    compromised: false,
    age: Age::Newer,
};

#[test]
fn nothing_compromised_or_destroyed_ever_encrypts_again() {
    let begun = reachable(NEW)
        .into_iter()
        .filter(|standing| standing.compromised || standing.state == Destroyed);
    let strange = standings()
        .into_iter()
        .filter(|standing| matches!(standing.state, Compromised | Destroyed))
        .map(|standing| Standing {
            compromised: true,
            ..standing
        });
    let mut looked_at = 0;
    for from in begun.chain(strange) {
        for standing in reachable(from) {
            assert!(!standing.state.may_encrypt(), "{from:?} -> {standing:?}");
            // Nor does it pass for one that was only put out of use.
            assert!(standing.state != Deactivated, "{from:?} -> {standing:?}");
        }
        looked_at += 1;
    }
    assert!(looked_at > 20);
}

#[test]
fn a_compromise_is_never_forgotten_and_destruction_is_the_end() {
    for standing in standings() {
        for verb in VERBS {
            let Ok(next) = standing.apply(verb) else {
                continue;
            };
            assert!(
                next.compromised >= standing.compromised,
                "{verb} {standing:?}"
            );
            assert_ne!(standing.state, Destroyed, "{verb} {standing:?}");
        }
    }
}

#[test]
fn there_is_no_dead_end() {
    for from in reachable(NEW) {
        if from.state == Destroyed {
            continue;
        }
        let onward = reachable(from);
        let any = |judge: fn(KeyState) -> bool| onward.iter().any(|to| judge(to.state));
        assert!(any(|state| state == Destroyed), "{from:?}");
        assert!(any(KeyState::may_decrypt), "{from:?}");
    }
}

/// At most the current version encrypts, so long as a key has one current version.
#[test]
fn only_the_current_version_becomes_active() {
    for standing in standings() {
        for verb in VERBS {
            if let Ok(next) = standing.apply(verb)
                && next.state == Active
            {
                assert_eq!(next.age, Age::Current, "{verb} {standing:?}");
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

#[test]
fn reasons_are_asked_for_where_they_matter() {
    let asked: Vec<&str> = VERBS
        .into_iter()
        .filter(|verb| verb.needs_reason())
        .map(Verb::name)
        .collect();
    assert_eq!(
        asked,
        [
            "suspend_key",
            "mark_compromised",
            "recover_key",
            "schedule_key_destruction"
        ]
    );
}

#[test]
fn names_are_read_back() {
    for state in KeyState::ALL {
        assert_eq!(state.name().parse(), Ok(state));
        assert_eq!(state.to_string(), state.name());
    }
    for verb in VERBS {
        assert_eq!(verb.name().parse(), Ok(verb));
    }
    assert!("Active".parse::<KeyState>().is_err());
    assert!("".parse::<KeyState>().is_err());
    assert!("rotate_key".parse::<Verb>().is_err());
    for (state, refusal, text) in [
        (
            Destroyed,
            Refusal::State,
            "cannot activate a key version that is destroyed",
        ),
        (
            PreActive,
            Refusal::Overtaken,
            "cannot activate a key version that is pre-active and older than the current one",
        ),
        (
            Suspended,
            Refusal::Compromised,
            "cannot activate a key version that is suspended and was marked as compromised before",
        ),
    ] {
        let error = TransitionError {
            state,
            verb: Verb::Activate,
            refusal,
        };
        assert_eq!(error.to_string(), text);
    }
}
