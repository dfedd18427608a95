//! A context expression after something that it names was renamed. It is kept as text, since numbers of tables and
//! columns change over a dump; so its words are looked at as PostgreSQL's scanner does. What comes out is checked by
//! the server's own analysis before it is believed.

use crate::quote::quote_identifier;

/// What got another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renamed<'a> {
    /// A column of the table, which is called `table`.
    Column {
        table: &'a str,
        from: &'a str,
        to: &'a str,
    },
    /// The table; `has_column` is whether one of its columns is called as it was.
    Table {
        from: &'a str,
        to: &'a str,
        has_column: bool,
    },
    /// A schema; the expression is about a table called `table`.
    Schema {
        table: &'a str,
        from: &'a str,
        to: &'a str,
    },
    /// The table's schema, which is another one now.
    TableMoved {
        table: &'a str,
        from: &'a str,
        to: &'a str,
    },
    /// A function in the schema `schema`.
    Function {
        schema: &'a str,
        from: &'a str,
        to: &'a str,
    },
    /// The schema of a function, which is another one now.
    FunctionMoved {
        function: &'a str,
        from: &'a str,
        to: &'a str,
    },
}

impl<'a> Renamed<'a> {
    /// The word that is another one now, and which.
    #[must_use]
    pub fn words(self) -> (&'a str, &'a str) {
        match self {
            Self::Column { from, to, .. }
            | Self::Table { from, to, .. }
            | Self::Schema { from, to, .. }
            | Self::TableMoved { from, to, .. }
            | Self::Function { from, to, .. }
            | Self::FunctionMoved { from, to, .. } => (from, to),
        }
    }
}

/// What becomes of an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Follows {
    /// It does not speak of what was renamed.
    Untouched,
    To(String),
    /// It holds a subquery, in which the name may be another thing's.
    Unsure,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// A name as the server reads it, and whether it stands in quotes.
    Name(String, bool),
    Dot,
    Opens,
    /// `::`
    Cast,
    Other,
}

struct Word {
    kind: Kind,
    begin: usize,
    end: usize,
}

/// Whether a column's name stands in the expression, as a column's or otherwise.
#[must_use]
pub fn names(expression: &str, column: &str) -> bool {
    words(expression).is_some_and(|words| words.iter().any(|word| is(&word.kind, column)))
}

/// The expression with the columns of its table qualified by the table's name alone, where the schema stands before
/// that: statements that are made of it may have the row from elsewhere, and call it by that name. None where there is
/// nothing of the kind.
#[must_use]
pub fn without_schema(expression: &str, schema: &str, table: &str) -> Option<String> {
    let words = words(expression)?;
    let kind = |at: usize| words.get(at).map(|word| &word.kind);
    let is_its = |&at: &usize| {
        let before = at.checked_sub(1).and_then(kind);
        is(&words[at].kind, schema)
            && !matches!(before, Some(Kind::Dot | Kind::Cast))
            && kind(at + 1) == Some(&Kind::Dot)
            && kind(at + 2).is_some_and(|word| is(word, table))
            && kind(at + 3) == Some(&Kind::Dot)
            && kind(at + 5) != Some(&Kind::Opens)
    };
    let mut text = String::new();
    let mut done = 0;
    for at in (0..words.len()).filter(is_its) {
        text.push_str(&expression[done..words[at].begin]);
        done = words[at + 2].begin;
    }
    text.push_str(&expression[done..]);
    (done > 0).then_some(text)
}

/// The expression as it is to be after a renaming.
#[must_use]
pub fn follow(expression: &str, renamed: Renamed<'_>) -> Follows {
    let Some(words) = words(expression) else {
        return Follows::Unsure;
    };
    let (from, to) = renamed.words();
    let at: Vec<usize> = (0..words.len())
        .filter(|&at| is(&words[at].kind, from) && means(&words, at, renamed))
        .collect();
    // A word of the language's, as in extract(month FROM …), is no column's name where it has no quotes.
    let is_word = |&at: &usize| {
        matches!(&words[at].kind, Kind::Name(name, false)
            if quote_identifier(name) != *name
                || words.get(at + 1).is_some_and(|next| is(&next.kind, "from")))
    };
    if at.iter().any(is_word) {
        return Follows::Unsure;
    }
    let meant: Vec<&Word> = at.into_iter().map(|at| &words[at]).collect();
    if meant.is_empty() {
        return Follows::Untouched;
    }
    // A name in a subquery may be that of another table's column, or become one.
    if words
        .iter()
        .any(|word| matches!(&word.kind, Kind::Name(name, false) if name == "select"))
    {
        return Follows::Unsure;
    }
    let mut text = String::new();
    let mut done = 0;
    for word in meant {
        text.push_str(&expression[done..word.begin]);
        text.push_str(&quote_identifier(to));
        done = word.end;
    }
    text.push_str(&expression[done..]);
    Follows::To(text)
}

/// Whether the name at this place is that of what was renamed.
fn means(words: &[Word], at: usize, renamed: Renamed<'_>) -> bool {
    let kind = |at: Option<usize>| at.and_then(|at| words.get(at)).map(|word| &word.kind);
    let before = |steps: usize| kind(at.checked_sub(steps));
    let next = kind(Some(at + 1));
    let is_qualified = before(1) == Some(&Kind::Dot);
    let is_call = next == Some(&Kind::Opens);
    let is_cast = before(1) == Some(&Kind::Cast);
    let qualifies = next == Some(&Kind::Dot);
    match renamed {
        Renamed::Column { table, .. } => {
            let of_table = before(2).is_some_and(|word| is(word, table));
            !is_call && !is_cast && !qualifies && (!is_qualified || of_table)
        }
        Renamed::Table { has_column, .. } => {
            let is_whole_row = !is_call && !is_qualified && !has_column;
            qualifies || is_cast || is_whole_row
        }
        Renamed::Schema { table, from, .. } => {
            let inside = kind(Some(at + 3));
            let is_column =
                table == from && !is_cast && !matches!(inside, Some(Kind::Opens | Kind::Dot));
            qualifies && !is_qualified && !is_column
        }
        Renamed::TableMoved { table, .. } => {
            let is_its = kind(Some(at + 2)).is_some_and(|word| is(word, table));
            let inside = kind(Some(at + 3));
            let is_row = is_cast && inside != Some(&Kind::Opens);
            qualifies && is_its && !is_qualified && (is_row || inside == Some(&Kind::Dot))
        }
        Renamed::Function { schema, .. } => {
            is_call && is_qualified && before(2).is_some_and(|word| is(word, schema))
        }
        Renamed::FunctionMoved { function, .. } => {
            let is_its = kind(Some(at + 2)).is_some_and(|word| is(word, function));
            qualifies && is_its && !is_qualified && kind(Some(at + 3)) == Some(&Kind::Opens)
        }
    }
}

fn is(kind: &Kind, wanted: &str) -> bool {
    matches!(kind, Kind::Name(name, _) if name == wanted)
}

/// The words of an expression; none where it cannot be told how it goes on.
fn words(text: &str) -> Option<Vec<Word>> {
    let mut all = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let begin = at;
        let kind = if c.is_whitespace() {
            at += c.len_utf8();
            continue;
        } else if rest.starts_with("--") {
            at += rest.find('\n').unwrap_or(rest.len());
            continue;
        } else if rest.starts_with("/*") {
            at += comment(rest)?;
            continue;
        } else if c == '"' {
            let (name, length) = quoted(rest, '"', false)?;
            at += length;
            Kind::Name(name, true)
        } else if c == '\'' {
            at += quoted(rest, '\'', false)?.1;
            Kind::Other
        } else if rest.starts_with("E'") || rest.starts_with("e'") {
            at += 1 + quoted(&rest[1..], '\'', true)?.1;
            Kind::Other
        } else if rest.starts_with("U&") || rest.starts_with("u&") {
            // Escapes of their own, which nobody writes here.
            return None;
        } else if c == '$' {
            at += dollars(rest)?;
            Kind::Other
        } else if c.is_alphabetic() || c == '_' || !c.is_ascii() {
            let length = rest
                .find(|c: char| {
                    c.is_ascii() && !(c.is_ascii_alphanumeric() || c == '_' || c == '$')
                })
                .unwrap_or(rest.len());
            at += length;
            Kind::Name(rest[..length].to_ascii_lowercase(), false)
        } else if c.is_ascii_digit() {
            // Of a number with a dot or an exponent no part is a name.
            at += rest
                .find(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '_'))
                .unwrap_or(rest.len());
            Kind::Other
        } else if rest.starts_with("::") {
            at += 2;
            Kind::Cast
        } else {
            at += c.len_utf8();
            match c {
                '.' => Kind::Dot,
                '(' => Kind::Opens,
                _ => Kind::Other,
            }
        };
        all.push(Word {
            kind,
            begin,
            end: at,
        });
    }
    Some(all)
}

/// What stands between the quotes at the beginning, and how long that is with them.
fn quoted(text: &str, quote: char, escapes: bool) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut rest = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = rest.next() {
        if escapes && c == '\\' {
            value.push(rest.next()?.1);
        } else if c != quote {
            value.push(c);
        } else if rest.next_if(|(_, c)| *c == quote).is_some() {
            value.push(quote);
        } else {
            return Some((value, at + 1));
        }
    }
    None
}

/// How long a comment is, with those inside.
fn comment(text: &str) -> Option<usize> {
    let (mut depth, mut at) = (0, 0);
    loop {
        let rest = text.get(at..)?;
        if rest.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += rest.chars().next()?.len_utf8();
        }
    }
}

/// How long a text in dollar quotes is, or a parameter.
fn dollars(text: &str) -> Option<usize> {
    let inside = &text[1..];
    let tag = inside.find(|c: char| !(c.is_alphanumeric() || c == '_'))?;
    if !inside[tag..].starts_with('$') {
        return None;
    }
    let fence = &text[..tag + 2];
    let end = text[fence.len()..].find(fence)?;
    Some(2 * fence.len() + end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sql_text::{Token, tokens};

    fn column(text: &str) -> Follows {
        let renamed = Renamed::Column {
            table: "t",
            from: "id",
            to: "No",
        };
        follow(text, renamed)
    }

    fn to(text: &str) -> Follows {
        Follows::To(text.into())
    }

    #[test]
    fn a_column_is_followed_where_it_is_one() {
        for (text, then) in [
            (
                "colcrypt.place_context('id', id)",
                "colcrypt.place_context('id', \"No\")",
            ),
            (
                "row_context(ID, t.id, s.t.\"id\")",
                "row_context(\"No\", t.\"No\", s.t.\"No\")",
            ),
            (
                "id::text||id /* id */ -- id",
                "\"No\"::text||\"No\" /* id */ -- id",
            ),
            (
                "f(id, E'\\'id', $x$id$x$, 'id''id')",
                "f(\"No\", E'\\'id', $x$id$x$, 'id''id')",
            ),
            (
                "f(id, (a).id, id(x), x::id, 1.id)",
                "f(\"No\", (a).id, id(x), x::id, 1.id)",
            ),
        ] {
            assert_eq!(column(text), to(then), "{text}");
        }
        for text in [
            "colcrypt.place_context('id', ident, \"ID\")",
            "other.id",
            "id(x)",
            "colcrypt.row_context(t.*)",
        ] {
            assert_eq!(column(text), Follows::Untouched, "{text}");
        }
        assert_eq!(column("f((SELECT id FROM u))"), Follows::Unsure);
        assert_eq!(column("f(id, 'open)"), Follows::Unsure);
        assert_eq!(column("f(U&\"id\")"), Follows::Unsure);
    }

    #[test]
    fn a_table_is_followed_where_it_qualifies_or_is_a_row() {
        let table = |text: &str, has_column| {
            let renamed = Renamed::Table {
                from: "t",
                to: "u",
                has_column,
            };
            follow(text, renamed)
        };
        assert_eq!(
            table("f(t.id, s.t.id, t.*, x::t)", true),
            to("f(u.id, s.u.id, u.*, x::u)")
        );
        assert_eq!(table("f(t)", false), to("f(u)"));
        assert_eq!(table("f(t, t(1))", true), Follows::Untouched);
    }

    #[test]
    fn a_tables_schema_is_left_out() {
        let without = |text: &str| without_schema(text, "s", "T");
        assert_eq!(
            without("s.f(s.\"T\".id, \"s\" . \"T\".*, x::s.\"T\", s.\"T\"(1), 's.\"T\".id')")
                .as_deref(),
            Some("s.f(\"T\".id, \"T\".*, x::s.\"T\", s.\"T\"(1), 's.\"T\".id')")
        );
        assert_eq!(
            without("(SELECT max(u.a) FROM s.\"T\" u WHERE s.\"T\".a = u.a)").as_deref(),
            Some("(SELECT max(u.a) FROM s.\"T\" u WHERE \"T\".a = u.a)")
        );
        for text in [
            "f(\"T\".id, id)",
            "d.s.\"T\".id",
            "s.t.id",
            "s.\"T\".f(1)",
            "s.\"T\".id || 'open",
        ] {
            assert_eq!(without(text), None, "{text}");
        }
    }

    #[test]
    fn a_table_and_a_function_are_followed_into_another_schema() {
        let table = Renamed::TableMoved {
            table: "t",
            from: "s",
            to: "u",
        };
        assert_eq!(
            follow("s.f(s.t.id, s.t.*, x::s.t, s.t(1), a.s.t.id, s.id)", table),
            to("s.f(u.t.id, u.t.*, x::u.t, s.t(1), a.s.t.id, s.id)")
        );
        let function = Renamed::FunctionMoved {
            function: "f",
            from: "s",
            to: "u",
        };
        assert_eq!(
            follow("s.f(s.f.id, s.g(s.\"f\"(1)), 's.f(1)')", function),
            to("u.f(s.f.id, s.g(u.\"f\"(1)), 's.f(1)')")
        );
        let renamed = Renamed::Function {
            schema: "s",
            from: "f",
            to: "G",
        };
        assert_eq!(
            follow("s.f(s.f, f(1), u.f(2), s.f (3))", renamed),
            to("s.\"G\"(s.f, f(1), u.f(2), s.\"G\" (3))")
        );
    }

    #[test]
    fn a_schema_is_followed_where_it_qualifies() {
        let schema = |text: &str, table| {
            let renamed = Renamed::Schema {
                table,
                from: "app",
                to: "App",
            };
            follow(text, renamed)
        };
        assert_eq!(
            schema("app.ctx(id, x::app.kind, app.t.id)", "t"),
            to("\"App\".ctx(id, x::\"App\".kind, \"App\".t.id)")
        );
        assert_eq!(
            schema("app.ctx(app.id, app.app.id)", "app"),
            to("\"App\".ctx(app.id, \"App\".app.id)")
        );
        assert_eq!(schema("f(app, x.app.y)", "t"), Follows::Untouched);
    }

    proptest! {
        #[test]
        fn any_name_is_read_and_written_as_the_server_does(name in "[^\0]{1,20}", new in "[^\0]{1,20}") {
            prop_assume!(name != new);
            let text = format!("f({}, 'x''y', g)", quote_identifier(&name));
            let renamed = Renamed::Column { table: "t", from: &name, to: &new };
            prop_assume!(name != "g");
            let Follows::To(then) = follow(&text, renamed) else {
                return Err(TestCaseError::fail("it was not found"));
            };
            prop_assert_eq!(&tokens(&then)[2], &Token::Name(new));
            prop_assert_eq!(tokens(&then).len(), tokens(&text).len());
        }

        #[test]
        fn no_text_is_too_odd(text in ".{0,60}") {
            let _ = column(&text);
        }
    }
}
