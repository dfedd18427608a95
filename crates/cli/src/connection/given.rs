//! A connection string as libpq reads it: what the driver does not know of it is taken out and kept.

/// What libpq knows beyond the driver.
const OURS: [&str; 5] = ["sslmode", "sslrootcert", "sslcert", "sslkey", "passfile"];

/// A connection string without what is ours, and that.
#[derive(Debug, Default, PartialEq)]
pub struct Given {
    pub rest: String,
    ours: Vec<(String, String)>,
}

impl Given {
    /// What no one can read stays as it is, for the driver to refuse.
    pub fn of(connection: &str) -> Self {
        let is_url = ["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| connection.starts_with(scheme));
        let given = if is_url {
            of_url(connection)
        } else {
            of_words(connection)
        };
        given.unwrap_or_else(|| Self {
            rest: connection.into(),
            ours: Vec::new(),
        })
    }

    /// One of these settings; the last counts, as everywhere.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.ours.iter().rev().find(|(key, _)| key == name);
        found
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    fn take(&mut self, name: &str, value: String) -> bool {
        let is_ours = OURS.contains(&name);
        if is_ours {
            self.ours.push((name.into(), value));
        }
        is_ours
    }
}

/// The same words with another place in them.
pub fn elsewhere(connection: &str, host: &str, port: i32) -> Option<String> {
    let words = words(connection)?
        .into_iter()
        .filter(|(name, _)| !matches!(name.as_str(), "host" | "hostaddr" | "port"))
        .chain([
            ("host".into(), host.into()),
            ("port".into(), port.to_string()),
        ]);
    Some(words.map(|(name, value)| written(&name, &value)).collect())
}

fn written(name: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('\'', "\\'");
    format!("{name}='{value}' ")
}

fn of_url(url: &str) -> Option<Given> {
    let Some((place, query)) = url.split_once('?') else {
        return Some(Given {
            rest: url.into(),
            ..Given::default()
        });
    };
    let mut given = Given::default();
    let mut kept = Vec::new();
    for parameter in query.split('&') {
        let (name, value) = parameter.split_once('=')?;
        if !given.take(name, decoded(value)?) {
            kept.push(parameter);
        }
    }
    given.rest = place.into();
    if !kept.is_empty() {
        given.rest += &format!("?{}", kept.join("&"));
    }
    Some(given)
}

/// Without its percent signs.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?].map(|digit| char::from(digit).to_digit(16));
        bytes.push(u8::try_from(digits[0]? * 16 + digits[1]?).ok()?);
    }
    String::from_utf8(bytes).ok()
}

fn of_words(text: &str) -> Option<Given> {
    let mut given = Given::default();
    for (name, value) in words(text)? {
        let written = written(&name, &value);
        if !given.take(&name, value) {
            given.rest += &written;
        }
    }
    Some(given)
}

fn words(text: &str) -> Option<Vec<(String, String)>> {
    let mut words = Vec::new();
    let mut letters = text.chars().peekable();
    loop {
        while letters.next_if(|c| c.is_whitespace()).is_some() {}
        if letters.peek().is_none() {
            return Some(words);
        }
        let mut name = String::new();
        while let Some(c) = letters.next_if(|c| *c != '=' && !c.is_whitespace()) {
            name.push(c);
        }
        while letters.next_if(|c| c.is_whitespace()).is_some() {}
        letters.next_if_eq(&'=')?;
        while letters.next_if(|c| c.is_whitespace()).is_some() {}
        let quoted = letters.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match letters.next() {
                Some('\\') => value.push(letters.next()?),
                Some('\'') if quoted => break,
                Some(c) if !quoted && c.is_whitespace() => break,
                Some(c) => value.push(c),
                None if quoted => return None,
                None => break,
            }
        }
        words.push((name, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_driver_does_not_know_is_taken_out() {
        let given = Given::of(
            r"host = db1  sslmode=verify-full dbname='a \'b\\' sslrootcert='/x y' user=u\ v",
        );
        assert_eq!(given.rest, r"host='db1' dbname='a \'b\\' user='u v' ");
        assert_eq!(given.get("sslmode"), Some("verify-full"));
        assert_eq!(given.get("sslrootcert"), Some("/x y"));
        assert_eq!(given.get("passfile"), None);
        let given = Given::of(
            "postgresql://u@h:1/d?sslmode=require&connect_timeout=3&sslrootcert=%2Fx%20y",
        );
        assert_eq!(given.rest, "postgresql://u@h:1/d?connect_timeout=3");
        assert_eq!(given.get("sslrootcert"), Some("/x y"));
        assert_eq!(
            Given::of("postgres://h/d?sslmode=require").rest,
            "postgres://h/d"
        );
    }

    #[test]
    fn the_same_words_lead_elsewhere() {
        assert_eq!(
            elsewhere("host=a port=1 dbname='d e' sslmode=require", "b", 2).unwrap(),
            "dbname='d e' sslmode='require' host='b' port='2' "
        );
        assert_eq!(elsewhere("postgres://a/d", "b", 2), None);
    }

    #[test]
    fn nobody_can_read_it_and_the_driver_says_so() {
        for text in [
            "nonsense",
            "host='x",
            "a=b c",
            "postgres://h/d?x",
            "postgres://h/d?sslkey=%f",
        ] {
            let given = Given::of(text);
            assert_eq!((given.rest.as_str(), given.ours.len()), (text, 0));
        }
    }
}
