//! That a pattern's grams are among those of each value that it matches, whatever the server's lower case.

use std::collections::BTreeSet;

use icu_normalizer::DecomposingNormalizer;
use proptest::prelude::*;

use super::*;

fn spec(letters: u8, steps: &[&str]) -> TextSpec {
    TextSpec::new(letters, &Pipeline::parse(steps).unwrap()).unwrap()
}

fn plain() -> TextSpec {
    spec(3, &[])
}

fn both() -> [TextSpec; 2] {
    [plain(), spec(3, &["casefold", "unaccent"])]
}

fn folded(spec: TextSpec, text: &str) -> String {
    let mut letters = Vec::new();
    text.chars()
        .for_each(|letter| spec.fold(letter, &mut letters));
    letters.into_iter().collect()
}

fn shown(grams: &[Gram]) -> Vec<String> {
    let text = |gram: &Gram| gram.letters().iter().collect::<String>().replace(EDGE, "^");
    grams.iter().map(text).collect()
}

fn every_letter() -> impl Iterator<Item = char> {
    '\0'..=char::MAX
}

/// Lower cases that a server may have: of single letters (libc, the builtin provider) and of texts, by language (ICU).
fn lower_cases(text: &str) -> Vec<String> {
    let mut all = vec![
        text.to_lowercase(),
        text.to_ascii_lowercase(),
        text.chars().map(|it| CASE.simple_lowercase(it)).collect(),
        text.chars().flat_map(char::to_lowercase).collect(),
        // Turkish in a libc.
        text.chars()
            .map(|it| {
                if it == 'I' {
                    'ı'
                } else {
                    CASE.simple_lowercase(it)
                }
            })
            .collect(),
    ];
    for language in ["und", "tr", "az", "lt", "el", "hy", "nl"] {
        let language = language.parse().unwrap();
        all.push(CASE.lowercase_to_string(text, &language).into_owned());
    }
    all
}

#[test]
fn a_letter_is_folded_as_its_lower_case_is() {
    for spec in both() {
        for letter in every_letter() {
            let text = letter.to_string();
            let expected = folded(spec, &text);
            for lower in lower_cases(&text) {
                assert_eq!(
                    folded(spec, &lower),
                    expected,
                    "U+{:04X}",
                    u32::from(letter)
                );
            }
        }
    }
}

#[test]
fn a_letter_is_folded_as_its_upper_case_is() {
    for spec in both() {
        for letter in every_letter() {
            // Of one letter: where the upper case has more, it is of another word.
            let upper = CASE.simple_uppercase(letter).to_string();
            let expected = folded(spec, &letter.to_string());
            assert_eq!(
                folded(spec, &upper),
                expected,
                "U+{:04X}",
                u32::from(letter)
            );
        }
    }
}

#[test]
fn all_that_is_an_i_is_one_letter() {
    for form in ["i", "I", "İ", "ı", "i\u{307}", "I\u{307}", "ı\u{307}"] {
        assert_eq!(folded(plain(), form), "i", "{form}");
    }
    assert_eq!(folded(plain(), "ΣΑΣ σας"), "σασ σασ");
    assert_eq!(folded(plain(), "Straße"), "strasse");
    assert_eq!(folded(plain(), "Él"), "e\u{301}l");
    assert_eq!(folded(spec(3, &["unaccent"]), "Él Niño, ǖ"), "el nino, u");
}

#[test]
fn letters_are_taken_apart_as_by_normal_form_d() {
    let nfd = DecomposingNormalizer::new_nfd();
    for letter in every_letter() {
        let mut parts = String::new();
        take_apart(letter, &mut |part| parts.push(part));
        assert_eq!(parts, nfd.normalize(&letter.to_string()));
    }
}

#[test]
fn values_are_cut_with_an_edge_on_each_side() {
    let cut = |value| shown(&plain().grams_of(value));
    assert_eq!(cut(""), ["^^"]);
    assert_eq!(cut("A"), ["^a^"]);
    assert_eq!(cut("ab"), ["^ab", "ab^"]);
    assert_eq!(cut("banana"), ["^ba", "ana", "ban", "na^", "nan"]);
    assert_eq!(shown(&spec(2, &[]).grams_of("aaaa")), ["^a", "a^", "aa"]);
    assert_eq!(shown(&spec(5, &[]).grams_of("ab")), ["^ab^"]);
    assert_eq!(shown(&spec(5, &[]).grams_of("abc")), ["^abc^"]);
    assert_eq!(shown(&spec(5, &[]).grams_of("abcd")), ["^abcd", "abcd^"]);
}

#[test]
fn patterns_give_what_is_literal_in_them() {
    let cut = |pattern| {
        let grams = plain().like_grams(pattern, Some('\\'))?;
        Some(shown(&grams))
    };
    let some = |grams: &[&str]| Some(grams.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(cut("%abc%"), some(&["abc"]));
    assert_eq!(cut("ABC%"), some(&["^ab", "abc"]));
    assert_eq!(cut("%abc"), some(&["abc", "bc^"]));
    assert_eq!(cut("ab%"), some(&["^ab"]));
    assert_eq!(cut("%ab"), some(&["ab^"]));
    assert_eq!(cut("a"), some(&["^a^"]));
    assert_eq!(cut(""), some(&["^^"]));
    assert_eq!(cut("%abc_def%"), some(&["abc", "def"]));
    assert_eq!(cut("_bcd"), some(&["bcd", "cd^"]));
    assert_eq!(cut(r"%a\%b%"), some(&["a%b"]));
    assert_eq!(cut(r"%a\\b%"), some(&["a\\b"]));
    assert_eq!(cut(r"%\abc%"), some(&["abc"]));
    assert_eq!(cut("a%b%c"), None);
    for nothing in [
        "%", "%%", "_", "%ab%", "a%", "%a", "a_b", "___", r"%ab\", r"abcdef\",
    ] {
        assert_eq!(cut(nothing), None, "{nothing}");
    }
}

#[test]
fn any_escape_or_none() {
    let cut = |pattern, escape| {
        plain()
            .like_grams(pattern, escape)
            .map(|grams| shown(&grams))
    };
    assert_eq!(cut("%a!_b%", Some('!')), Some(vec!["a_b".into()]));
    assert_eq!(cut("%a!!b%", Some('!')), Some(vec!["a!b".into()]));
    assert_eq!(cut(r"%a\b%", Some('!')), Some(vec![r"a\b".into()]));
    assert_eq!(cut(r"%a\b%", None), Some(vec![r"a\b".into()]));
    assert_eq!(cut(r"%ab\", None), Some(vec![r"ab\".into(), r"b\^".into()]));
    // As SQL has it, an escape wins over what the character is otherwise.
    let expected = ["^%a", "%ab", "abc", "bc^"].map(String::from);
    assert_eq!(cut("%%abc", Some('%')), Some(expected.into()));
    assert_eq!(cut("abc%", Some('%')), None);
}

#[test]
fn what_a_query_looks_up_is_bounded_and_what_a_value_holds_is_by_its_size() {
    let long: String = (0..2000)
        .map(|it| char::from_u32(0x4e00 + it).unwrap())
        .collect();
    let value: BTreeSet<_> = plain().grams_of(&long).iter().copied().collect();
    assert_eq!(value.len(), 2000);
    let needle = plain().like_grams(&format!("%{long}%"), None).unwrap();
    assert_eq!(needle.len(), TextSpec::MAX_NEEDLE);
    assert_eq!(plain().equal_grams(&long).len(), TextSpec::MAX_NEEDLE);
    let different: BTreeSet<_> = needle.iter().copied().collect();
    assert_eq!(different.len(), needle.len());
    assert!(different.is_subset(&value));
    assert_eq!(plain().grams_of(&"ab".repeat(100_000)).len(), 4);
}

#[test]
fn what_cannot_be_is_refused() {
    let none = Pipeline::default();
    for letters in [0, 1, 6, 255] {
        assert_eq!(
            TextSpec::new(letters, &none),
            Err(TextError::Letters(letters))
        );
    }
    for step in [
        Step::Nfkc,
        Step::Trim,
        Step::Digits,
        Step::Alnum,
        Step::Email,
    ] {
        let pipeline = Pipeline::parse(&[step.name()]).unwrap();
        assert_eq!(TextSpec::new(3, &pipeline), Err(TextError::Step(step)));
    }
}

/// LIKE as `MatchText` of `src/backend/utils/adt/like_match.c` does it, letter by letter; `None` for its error.
fn like(text: &[char], pattern: &[char]) -> Option<bool> {
    match pattern {
        [] => Some(text.is_empty()),
        ['%', rest @ ..] => {
            for start in 0..=text.len() {
                if like(&text[start..], rest)? {
                    return Some(true);
                }
            }
            Some(false)
        }
        ['\\'] => None,
        ['\\', letter, rest @ ..] | [letter, rest @ ..] => match text {
            [first, after @ ..] if first == letter || (pattern[0] == '_') => like(after, rest),
            _ => Some(false),
        },
    }
}

fn letters() -> impl Strategy<Value = char> {
    prop_oneof![
        6 => prop::sample::select(&['a', 'b', 'A', 'i', 'I'][..]),
        3 => prop::sample::select(&[
            'ı', 'İ', '\u{307}', '\u{301}', 'j', 'J', 'Į', 'Ì', 'ì', 'ß', 'ẞ', 'Σ', 'ς', 'σ', 'ΐ', 'ᾳ', 'ᾼ',
            '\u{345}', 'Å', 'K', 'Ꭰ', 'ꭰ', '각', 'ﬁ', 'ŉ', 'Ǆ', 'ǅ', '\u{1c90}', '\\', ' ',
        ][..]),
        1 => any::<char>().prop_filter("no text has it", |letter| *letter != EDGE),
    ]
}

/// A text and a pattern that is likely to match it: its letters, some of them other case, wildcards or gone.
fn text_and_pattern() -> impl Strategy<Value = (String, String)> {
    let text = prop::collection::vec((letters(), 0..12u8), 0..12);
    (text, any::<bool>(), any::<bool>()).prop_map(|(text, start, end)| {
        let mut pattern = String::from(if start { "%" } else { "" });
        for (letter, fate) in &text {
            match fate {
                0 => pattern.push('%'),
                1 => pattern.push('_'),
                2 => pattern.extend(letter.to_lowercase()),
                3 => pattern.extend(letter.to_uppercase()),
                _ if matches!(letter, '%' | '_' | '\\') => pattern.extend(['\\', *letter]),
                _ => pattern.push(*letter),
            }
        }
        pattern.push_str(if end { "%" } else { "" });
        (
            text.into_iter().map(|(letter, _)| letter).collect(),
            pattern,
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6000))]

    #[test]
    fn a_text_is_folded_as_each_of_its_lower_cases((text, _) in text_and_pattern()) {
        for spec in both() {
            let expected = folded(spec, &text);
            for lower in lower_cases(&text) {
                prop_assert_eq!(folded(spec, &lower), &*expected);
            }
        }
    }

    #[test]
    fn what_is_like_a_pattern_has_its_grams((text, pattern) in text_and_pattern(), size in 2..=5u8, unaccent: bool) {
        let spec = spec(size, if unaccent { &["unaccent"] } else { &[] });
        let Some(needle) = spec.like_grams(&pattern, Some('\\')) else { return Ok(()) };
        let value: BTreeSet<_> = spec.grams_of(&text).iter().copied().collect();
        // LIKE itself, then ILIKE of each server.
        let mut sides = vec![(text.clone(), pattern.clone())];
        sides.extend(lower_cases(&text).into_iter().zip(lower_cases(&pattern)));
        for (text, pattern) in sides {
            let of = |text: &str| text.chars().collect::<Vec<_>>();
            if like(&of(&text), &of(&pattern)) == Some(true) {
                prop_assert!(needle.iter().all(|gram| value.contains(gram)), "{:?} of {:?}", shown(&needle), text);
            }
        }
    }

    #[test]
    fn what_is_equal_has_the_grams((text, _) in text_and_pattern(), size in 2..=5u8) {
        let spec = spec(size, &[]);
        prop_assert_eq!(shown(&spec.equal_grams(&text)), shown(&spec.grams_of(&text)));
        prop_assert!(!spec.grams_of(&text).is_empty());
    }
}

/// A search key, whichever.
fn prepared(spec: TextSpec) -> Prepared {
    let steps: &[&str] = if spec.unaccent {
        &["casefold", "unaccent"]
    } else {
        &[]
    };
    let label = crate::Label::new(
        [7; 16],
        crate::Kind::Text,
        crate::Class::Text,
        Pipeline::parse(steps).unwrap(),
        Pipeline::VERSION,
    );
    crate::SearchKey::new(&[3; 32]).prepare(&label.unwrap())
}

#[test]
fn a_long_value_has_the_terms_of_its_grams_and_is_interrupted() {
    for spec in [plain(), spec(2, &[]), spec(5, &[])] {
        let prepared = prepared(spec);
        for length in [
            0,
            1,
            2,
            5,
            CHUNK - 2,
            CHUNK - 1,
            CHUNK,
            CHUNK + 1,
            3 * CHUNK + 7,
        ] {
            let value: String = (0..length)
                .map(|at| char::from(b'a' + (at * at % 23) as u8))
                .collect();
            let mut pauses = 0;
            let terms = spec.terms(&prepared, &value, &mut || pauses += 1).unwrap();
            assert_eq!(terms, spec.grams_of(&value).terms(&prepared), "{length}");
            assert_eq!(pauses > 0, length + 1 >= CHUNK, "{length}");
        }
    }
}

#[test]
fn of_a_needle_that_is_huge_only_the_beginning_is_looked_at() {
    let spec = plain();
    let value: String = (0..3 * TextSpec::MAX_LOOKED_AT)
        .map(|at| char::from(b'a' + (at * at % 23) as u8))
        .collect();
    let all = spec.grams_of(&value);
    for needle in [
        spec.equal_grams(&value),
        spec.like_grams(&value, Some('\\')).unwrap(),
        spec.like_grams(&format!("%{value}"), None).unwrap(),
    ] {
        assert!(!needle.is_empty() && needle.iter().all(|gram| all.contains(gram)));
    }
}
