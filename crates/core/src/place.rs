//! The expression that binds a column's values to their place: `colcrypt.place_context('label', key, …)`, written and
//! recognized.

/// Longest label in bytes, as the context's form has it.
pub const MAX_LABEL: usize = 255;

const CALL: &str = "colcrypt.place_context(";
const ROW_CALL: &str = "colcrypt.row_context(";

/// What an expression binds to, if it is one call of place_context with a literal label and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub label: String,
    /// Whether all that follows the label are names of columns: then evaluating it runs nobody's code.
    pub is_plain: bool,
}

/// Whether a text can be a label that an expression holds as a plain literal.
#[must_use]
pub fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_LABEL
        && !text.contains(|c: char| c == '\\' || c.is_control())
}

/// A text as a label, with what a label cannot hold replaced, and as much of it as fits beside a suffix.
#[must_use]
pub fn to_label(text: &str, suffix: &str) -> String {
    let clean: String = text
        .chars()
        .map(|c| if c == '\\' || c.is_control() { '_' } else { c })
        .collect();
    let mut end = clean.len().min(MAX_LABEL - suffix.len());
    while !clean.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &clean[..end])
}

/// The expression, of a label ([`is_label`]) and of columns that are quoted already.
#[must_use]
pub fn expression(label: &str, columns: &[String]) -> String {
    let mut text = format!("{CALL}'{}'", label.replace('\'', "''"));
    for column in columns {
        text.push_str(", ");
        text.push_str(column);
    }
    text.push(')');
    text
}

/// Recognizes it. Rather too little than too much: what is not understood is no place.
#[must_use]
pub fn parse(expression: &str) -> Option<Place> {
    let rest = expression.trim().strip_prefix(CALL)?.trim_start();
    let (label, rest) = literal(rest)?;
    if !is_label(&label) {
        return None;
    }
    let rest = rest.trim_start();
    let (arguments, is_plain) = match rest.strip_prefix(',') {
        Some(arguments) => (arguments, are_names(arguments)),
        None => (rest, rest == ")"),
    };
    is_closed(arguments)?;
    Some(Place { label, is_plain })
}

/// Whether a context is one call of a function of ours on a literal label and columns' names alone: then what it means
/// hangs on no search path.
#[must_use]
pub fn is_plain(expression: &str) -> bool {
    match parse(expression) {
        Some(place) => place.is_plain,
        None => expression
            .trim()
            .strip_prefix(ROW_CALL)
            .is_some_and(are_names),
    }
}

/// A literal in single quotes at the beginning, and what follows it.
fn literal(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('\'')?;
    let mut value = String::new();
    loop {
        let end = rest.find('\'')?;
        value.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('\'') {
            Some(more) => {
                value.push('\'');
                rest = more;
            }
            None => return Some((value, rest)),
        }
    }
}

/// Whether the text goes on as names with commas between, up to the closing parenthesis at its end.
fn are_names(text: &str) -> bool {
    let Some(mut rest) = text.strip_suffix(')') else {
        return false;
    };
    loop {
        rest = rest.trim_start();
        rest = match rest.strip_prefix('"') {
            Some(mut quoted) => loop {
                let Some(end) = quoted.find('"') else {
                    return false;
                };
                quoted = &quoted[end + 1..];
                match quoted.strip_prefix('"') {
                    Some(more) => quoted = more,
                    None => break quoted,
                }
            },
            None => {
                let name = rest
                    .find(|c: char| !(c.is_alphanumeric() || c == '_'))
                    .unwrap_or(rest.len());
                // A keyword may be a function that is called without parentheses.
                if name == 0
                    || rest.starts_with(|c: char| c.is_ascii_digit())
                    || is_keyword(&rest[..name])
                {
                    return false;
                }
                &rest[name..]
            }
        };
        rest = rest.trim_start();
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return rest.is_empty(),
        }
    }
}

/// Words that are calls or constants without being quoted.
fn is_keyword(word: &str) -> bool {
    let word = word.to_lowercase();
    word.starts_with("current_")
        || word.starts_with("local")
        || matches!(
            word.as_str(),
            "session_user" | "system_user" | "user" | "null" | "true" | "false" | "default"
        )
}

/// That the call's parenthesis closes at the very end, and not before.
fn is_closed(text: &str) -> Option<()> {
    let (mut depth, mut before) = (1, ' ');
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\'' | '"' => {
                // A prefix such as E changes what quotes mean.
                if c == '\'' && (before.is_alphanumeric() || before == '&' || before == '_') {
                    return None;
                }
                loop {
                    let inside = rest.next()?;
                    if inside == '\\' {
                        return None;
                    }
                    if inside == c && rest.next_if_eq(&c).is_none() {
                        break;
                    }
                }
            }
            '(' => depth += 1,
            ')' => {
                depth -= 1;
                if depth == 0 {
                    return rest.next().is_none().then_some(());
                }
            }
            '$' | '\\' | ';' => return None,
            '-' if before == '-' => return None,
            '*' if before == '/' => return None,
            _ => {}
        }
        before = c;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_recognized() {
        for label in [
            "customer.iban",
            "it's",
            "public.Big Table.the \"Value\"",
            "ü",
        ] {
            for columns in [vec![], vec!["id"], vec!["\"Id\"\"s, )\"", "n"]] {
                let columns: Vec<String> = columns.into_iter().map(String::from).collect();
                let text = expression(label, &columns);
                assert_eq!(
                    parse(&text),
                    Some(Place {
                        label: label.into(),
                        is_plain: true
                    }),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn names_and_nothing_else_are_plain() {
        for text in [
            "colcrypt.place_context('a')",
            "colcrypt.place_context('a', id, \"B\")",
            " colcrypt.row_context(id, \"na\"\"me\") ",
        ] {
            assert!(is_plain(text), "{text}");
        }
        for text in [
            "row_context(id)",
            "colcrypt.row_context()",
            "colcrypt.row_context(lower(name))",
            "colcrypt.row_context(id + 1)",
            "colcrypt.row_context(id) || 'x'",
            "colcrypt.row_context(current_user)",
            "colcrypt.place_context('a', f(id))",
            "colcrypt.either_context(colcrypt.row_context(id), '')",
        ] {
            assert!(!is_plain(text), "{text}");
        }
    }

    #[test]
    fn only_a_whole_call_with_a_literal_label_is_a_place() {
        for text in [
            "colcrypt.row_context(id)",
            "colcrypt.place_context(label, id)",
            "colcrypt.place_context('')",
            "colcrypt.place_context('a', id",
            "colcrypt.place_context('a', id) || 'x'",
            "colcrypt.place_context('a', id)::bytea",
            "colcrypt.place_context('a' || 'b', id))",
            "colcrypt.place_context('a', E'\\')', id)",
            "colcrypt.place_context('a', $x$)$x$, id)",
            "colcrypt.place_context('a', id -- )\n)",
            "colcrypt.place_context('a', id /* ) */)",
            "CASE WHEN true THEN colcrypt.place_context('a') END",
            "his.place_context('a', id)",
            "colcrypt.place_context('a\\', id)",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn only_names_are_plain() {
        let plain = |text| parse(text).map(|place| place.is_plain);
        assert_eq!(
            plain(" colcrypt.place_context( 'a' , id , \"N\" ) "),
            Some(true)
        );
        assert_eq!(plain("colcrypt.place_context('a', lower(id))"), Some(false));
        assert_eq!(plain("colcrypt.place_context('a', 7)"), Some(false));
        assert_eq!(plain("colcrypt.place_context('a', t.id)"), Some(false));
        assert_eq!(
            plain("colcrypt.place_context('a', current_user)"),
            Some(false)
        );
        assert_eq!(plain("colcrypt.place_context('a', 'b', ')')"), Some(false));
    }

    #[test]
    fn a_label_is_cut_where_it_must_be() {
        assert_eq!(to_label("a\\b\nc", "_2"), "a_b_c_2");
        let long = to_label(&"ü".repeat(200), "_17");
        assert!(is_label(&long) && long.ends_with("ü_17"));
        assert!(!is_label("") && !is_label("a\\") && !is_label(&"x".repeat(256)));
    }
}
