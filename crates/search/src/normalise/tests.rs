//! What each step makes of values, and which have no normal form.

use proptest::prelude::*;

use super::*;

fn apply(steps: &[&str], value: &str) -> Result<String, Unnormalisable> {
    Pipeline::parse(steps)
        .unwrap()
        .apply(value)
        .map(|normal| normal.to_string())
}

fn form(steps: &[&str], value: &str) -> String {
    apply(steps, value).unwrap()
}

#[test]
fn steps_do_what_they_are_named_for() {
    assert_eq!(form(&[], " Ä "), " Ä ");
    assert_eq!(form(&["nfkc"], "ﬁ ＡＢ① e\u{301}"), "fi AB1 é");
    assert_eq!(
        form(&["casefold"], "STRASSE Straße ΣΑΣ İ"),
        "strasse strasse σασ i\u{307}"
    );
    assert_eq!(
        form(&["unaccent"], "Él Niño Ångström Việt"),
        "El Nino Angstrom Viet"
    );
    assert_eq!(form(&["unaccent"], "Ёж 각 ø"), "Еж 각 ø");
    assert_eq!(form(&["trim"], "\u{a0}\t a b \u{3000}\n"), "a b");
    assert_eq!(form(&["trim"], "  "), "");
    assert_eq!(form(&["digits"], "+49 (0) 30/12-34"), "490301234");
    assert_eq!(form(&["digits"], "٣४𝟝９"), "3459");
    assert_eq!(form(&["alnum"], "DE89 3704-0044 é!"), "DE8937040044é");
    assert_eq!(
        form(&["email"], "  Ada.L@EXAMPLE.Org "),
        "Ada.L@example.org"
    );
    assert_eq!(form(&["email"], "\"a@b\"@Straße.de"), "\"a@b\"@strasse.de");
    assert_eq!(form(&["email"], "ada＠Ｅxample.org"), "ada@example.org");
    assert_eq!(form(&["email"], "\u{fe70}a@b"), "\u{64b}a@b");
    assert_eq!(
        form(&["email", "casefold"], "Ada@EXAMPLE.org"),
        "ada@example.org"
    );
}

#[test]
fn steps_follow_each_other_in_the_order_given() {
    // Of a ligature, unaccent alone leaves what it is; folded before, there are letters to fold.
    assert_eq!(form(&["nfkc", "casefold"], "ＬＥ"), "le");
    assert_eq!(form(&["digits", "nfkc"], "①2"), "2");
    assert_eq!(form(&["nfkc", "digits"], "①2"), "12");
    assert_eq!(
        Pipeline::parse(&["trim", "casefold"]).unwrap().names(),
        ["trim", "casefold"]
    );
    assert_ne!(
        Pipeline::parse(&["trim", "casefold"]),
        Pipeline::parse(&["casefold", "trim"])
    );
}

#[test]
fn the_normal_form_of_an_address_is_its_own() {
    let is_its_own = |value: &str| {
        if let Ok(once) = apply(&["email"], value) {
            assert_eq!(form(&["email"], &once), *once, "{value:?}");
        }
    };
    // Found by fuzzing.
    is_its_own(
        "\u{fe70}a\u{1}\u{2}i._n\u{344}n_nn\u{399}\u{344}_@ana._bn\u{344}\0*!\u{3a3}\u{1}\u{2}i._n\u{344}n_nn\u{399}\u{344}_ana._n\u{344}\0*!\u{3a3}",
    );
    for letter in '\0'..=char::MAX {
        is_its_own(&format!("x@y{letter}"));
        is_its_own(&format!("x@\u{399}{letter}\u{345}"));
        is_its_own(&format!("x@{letter}\u{308}\u{301}"));
    }
}

#[test]
fn what_has_no_normal_form_is_told_without_being_said() {
    assert_eq!(
        apply(&["email"], "ada.example.org"),
        Err(Unnormalisable::NoAt)
    );
    assert_eq!(apply(&["email"], ""), Err(Unnormalisable::NoAt));
    assert_eq!(
        apply(&["email"], " @example.org"),
        Err(Unnormalisable::NoLocalPart)
    );
    assert_eq!(apply(&["email"], "ada@ "), Err(Unnormalisable::NoDomain));
    for (step, value) in [
        (Step::Digits, "none"),
        (Step::Alnum, "--"),
        (Step::Unaccent, "\u{301}"),
    ] {
        let error = apply(&[step.name()], value).unwrap_err();
        assert_eq!(error, Unnormalisable::NothingLeft(step));
        assert!(!error.to_string().contains(value));
        assert_eq!(apply(&[step.name()], ""), Err(error));
    }
    let pipeline = Pipeline::parse(&["digits"]).unwrap();
    assert!(matches!(pipeline.apply_or_self("x"), Normalised::Itself(_)));
    assert!(matches!(pipeline.apply_or_self("x1"), Normalised::Form(form) if *form == "1"));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let parse = |steps: &[&str]| Pipeline::parse(steps).unwrap_err();
    assert_eq!(parse(&["lower"]), NormaliseError::Unknown("lower".into()));
    assert_eq!(parse(&["Trim"]), NormaliseError::Unknown("Trim".into()));
    assert_eq!(
        parse(&["trim", "casefold", "trim"]),
        NormaliseError::Twice(Step::Trim)
    );
    for (one, other) in [
        (Step::Email, Step::Digits),
        (Step::Email, Step::Alnum),
        (Step::Email, Step::Unaccent),
        (Step::Digits, Step::Alnum),
        (Step::Digits, Step::Casefold),
        (Step::Digits, Step::Unaccent),
    ] {
        assert_eq!(
            parse(&[one.name(), other.name()]),
            NormaliseError::Together(one, other)
        );
        assert_eq!(
            parse(&[other.name(), one.name()]),
            NormaliseError::Together(other, one)
        );
    }
    for fine in [
        &["trim", "casefold"][..],
        &["trim", "nfkc", "email", "casefold"],
        &["nfkc", "unaccent", "casefold", "alnum"],
        &["nfkc", "trim", "digits"],
    ] {
        assert_eq!(Pipeline::parse(fine).unwrap().names(), fine);
    }
}

#[test]
fn the_data_is_of_the_version_that_is_told() {
    // A version of Unicode is known by how many characters it has: all but controls, private ones and surrogates. Those
    // of 17.0 are 159,801 (https://www.unicode.org/versions/Unicode17.0.0/). A number that differs here is data of
    // another version: its name is in the README of icu_properties_data, and the vectors and what indexes keep are to
    // be looked at.
    let assigned = ('\0'..=char::MAX)
        .map(|letter| CATEGORY.get(letter))
        .filter(|category| {
            !matches!(
                category,
                GeneralCategory::Control
                    | GeneralCategory::PrivateUse
                    | GeneralCategory::Unassigned
            )
        })
        .count();
    assert_eq!((unicode_version(), assigned), ("18.0.0", 172_808));
}

#[test]
fn decimal_digits_stand_in_runs_of_ten() {
    let digits: Vec<_> = ('\0'..=char::MAX)
        .filter(|letter| CATEGORY.get(*letter) == GeneralCategory::DecimalNumber)
        .collect();
    assert!(digits.len() >= 660);
    for ten in digits.chunks(10) {
        assert_eq!(u32::from(ten[9]) - u32::from(ten[0]), 9);
        let shown: String = ten.iter().filter_map(|letter| digit(*letter)).collect();
        assert_eq!(shown, "0123456789", "U+{:04X}", u32::from(ten[0]));
    }
}

proptest! {
    #[test]
    fn no_value_breaks_a_step(value in any::<String>()) {
        for step in Step::ALL {
            let pipeline = Pipeline::parse(&[step.name()]).unwrap();
            // In normal form is what has been brought to it.
            if let Ok(normal) = pipeline.apply(&value) {
                prop_assert_eq!(&**pipeline.apply(&normal).unwrap(), &**normal, "{}", step);
            }
        }
    }
}

#[test]
fn what_is_huge_is_itself() {
    let longest = "A".repeat(Pipeline::LONGEST);
    assert_eq!(
        apply(&["casefold"], &longest).map(|form| form.len()),
        Ok(longest.len())
    );
    assert_eq!(
        apply(&["casefold"], &format!("{longest}A")),
        Err(Unnormalisable::TooLong)
    );
    assert_eq!(
        apply(&[], &format!("{longest}A")).map(|form| form.len()),
        Ok(longest.len() + 1)
    );
}
