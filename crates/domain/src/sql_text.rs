//! For tests: SQL taken apart as PostgreSQL's scanner does it, as far as what we write needs it.

/// A piece of SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// A name, quoted or plain, as the server reads it.
    Name(String),
    /// A word that is no name without quotes.
    Keyword(String),
    Literal(String),
    /// A number, or a parameter with its dollar sign.
    Number(String),
    Other(char),
}

/// The pieces of a text that is whole.
///
/// # Panics
/// For a quote that nothing closes.
pub fn tokens(sql: &str) -> Vec<Token> {
    let mut all = Vec::new();
    let mut rest = sql;
    while let Some(c) = rest.chars().next() {
        if c == '"' {
            let (name, after) = quoted(&rest[1..], '"', false);
            all.push(Token::Name(name));
            rest = after;
        } else if c == '\'' {
            let (text, after) = quoted(&rest[1..], '\'', false);
            all.push(Token::Literal(text));
            rest = after;
        } else if rest.starts_with("E'") {
            let (text, after) = quoted(&rest[2..], '\'', true);
            all.push(Token::Literal(text));
            rest = after;
        } else if c.is_alphabetic() || c == '_' {
            let end = rest
                .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'))
                .unwrap_or(rest.len());
            let word = rest[..end].to_ascii_lowercase();
            all.push(if crate::keywords::KEYWORDS.contains(&word.as_str()) {
                Token::Keyword(word)
            } else {
                Token::Name(word)
            });
            rest = &rest[end..];
        } else if c.is_ascii_digit() || c == '$' {
            let end = rest[1..]
                .find(|c: char| !c.is_ascii_digit())
                .map_or(rest.len(), |end| end + 1);
            all.push(Token::Number(rest[..end].into()));
            rest = &rest[end..];
        } else {
            if !c.is_whitespace() {
                all.push(Token::Other(c));
            }
            rest = &rest[c.len_utf8()..];
        }
    }
    all
}

/// What is between the quotes, and what follows them.
fn quoted(text: &str, quote: char, escapes: bool) -> (String, &str) {
    let mut value = String::new();
    let mut rest = text.chars();
    loop {
        match rest.next().expect("a closing quote") {
            '\\' if escapes => value.push(rest.next().expect("an escaped character")),
            c if c == quote => {
                if !rest.as_str().starts_with(quote) {
                    return (value, rest.as_str());
                }
                rest.next();
                value.push(quote);
            }
            c => value.push(c),
        }
    }
}
