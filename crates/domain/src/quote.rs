//! Names and texts in SQL, as PostgreSQL's `quote_identifier` and `quote_literal` write them.

use crate::keywords::KEYWORDS;

/// Longest name in bytes, as PostgreSQL is built by default (`NAMEDATALEN` less the zero at the end).
pub const LONGEST_NAME: usize = 63;

/// A name as SQL: itself where it is a plain one, else in double quotes. A name holds no zero byte and is not empty, as
/// PostgreSQL's.
#[must_use]
pub fn quote_identifier(name: impl AsRef<str>) -> String {
    let name = name.as_ref();
    if is_plain(name) {
        name.into()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// A name in its schema.
#[must_use]
pub fn quote_qualified_identifier(schema: impl AsRef<str>, name: impl AsRef<str>) -> String {
    format!("{}.{}", quote_identifier(schema), quote_identifier(name))
}

/// A text as a literal, whatever `standard_conforming_strings` is.
#[must_use]
pub fn quote_literal(text: impl AsRef<str>) -> String {
    let text = text.as_ref();
    let prefix = if text.contains('\\') { "E" } else { "" };
    let inside = text.replace('\'', "''").replace('\\', "\\\\");
    format!("{prefix}'{inside}'")
}

/// A name and a suffix, cut to what a name may be. The suffix has at most [`LONGEST_NAME`] bytes.
#[must_use]
pub fn with_suffix(name: &str, suffix: &str) -> String {
    let mut end = name.len().min(LONGEST_NAME.saturating_sub(suffix.len()));
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &name[..end])
}

/// Whether SQL reads the name back as it is.
fn is_plain(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && KEYWORDS.binary_search(&name).is_err()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sql_text::{Token, tokens};

    #[test]
    fn the_words_are_in_order_and_once() {
        assert!(KEYWORDS.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn what_the_server_would_write() {
        for (name, quoted) in [
            ("iban", "iban"),
            ("_x1", "_x1"),
            ("Iban", "\"Iban\""),
            ("1x", "\"1x\""),
            ("größe", "\"größe\""),
            ("a b", "\"a b\""),
            ("a\"b", "\"a\"\"b\""),
            ("a$", "\"a$\""),
            ("select", "\"select\""),
            ("user", "\"user\""),
            ("value", "value"),
        ] {
            assert_eq!(quote_identifier(name), quoted);
        }
        for (text, quoted) in [
            ("", "''"),
            ("it's", "'it''s'"),
            ("a\\b", "E'a\\\\b'"),
            ("'\\", "E'''\\\\'"),
        ] {
            assert_eq!(quote_literal(text), quoted);
        }
        assert_eq!(quote_qualified_identifier("Public", "t"), "\"Public\".t");
    }

    proptest! {
        #[test]
        fn whatever_name_goes_in_one_identifier_comes_out(name in "[^\0]{1,63}") {
            prop_assert_eq!(tokens(&quote_identifier(&name)), vec![Token::Name(name)]);
        }

        #[test]
        fn plain_names_of_letters_too(name in "[a-z_][a-z0-9_]{0,12}") {
            prop_assert_eq!(tokens(&quote_identifier(&name)), vec![Token::Name(name)]);
        }

        #[test]
        fn whatever_text_goes_in_one_literal_comes_out(text in "[^\0]{0,80}") {
            prop_assert_eq!(tokens(&quote_literal(&text)), vec![Token::Literal(text)]);
        }

        #[test]
        fn a_name_with_a_suffix_is_a_name(name in "\\PC{1,70}", suffix in "_[a-z]{0,20}") {
            let whole = with_suffix(&name, &suffix);
            prop_assert!(whole.len() <= LONGEST_NAME && whole.ends_with(&suffix));
            prop_assert!(name.starts_with(&whole[..whole.len() - suffix.len()]));
        }

        #[test]
        fn two_names_stay_two(schema in "[^\0]{1,20}", name in "[^\0]{1,20}") {
            let expected = vec![Token::Name(schema.clone()), Token::Other('.'), Token::Name(name.clone())];
            prop_assert_eq!(tokens(&quote_qualified_identifier(&schema, &name)), expected);
        }
    }
}
