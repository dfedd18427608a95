//! Passwords in a file, as libpq has them: `host:port:database:user:password`, the first line that fits.

use std::{env, fs, os::unix::fs::PermissionsExt, path::PathBuf};

/// Where libpq looks for a host that is none.
const LOCALHOST: &str = "localhost";

/// Whose password is looked for.
#[derive(Clone, Copy)]
pub struct Account<'a> {
    /// A name, an address, or the directory of a socket.
    pub host: &'a str,
    pub port: u16,
    pub database: &'a str,
    pub user: &'a str,
}

/// The password of the file that is named, or else of `~/.pgpass`; none where there is no such file or line.
pub fn password(file: Option<&str>, account: Account<'_>) -> Option<String> {
    let path = match file {
        Some(file) => PathBuf::from(file),
        None => PathBuf::from(env::var_os("HOME")?).join(".pgpass"),
    };
    let metadata = fs::metadata(&path).ok()?;
    if !metadata.is_file() {
        return None;
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        eprintln!(
            "colcrypt: {} is left alone: others may read it, which mode 0600 ends",
            path.display()
        );
        return None;
    }
    found(&fs::read_to_string(&path).ok()?, account)
}

fn found(text: &str, account: Account<'_>) -> Option<String> {
    let host = match account.host {
        "/var/run/postgresql" | "/tmp" => LOCALHOST,
        host => host,
    };
    let wanted = [
        host,
        &account.port.to_string(),
        account.database,
        account.user,
    ];
    text.lines().find_map(|line| {
        let mut fields = fields(line)?;
        let password = fields.pop()?;
        let fits = |(field, wanted): (&String, &&str)| field == "*" || field == wanted;
        fields.iter().zip(&wanted).all(fits).then_some(password)
    })
}

/// The four that say whose it is, and the password; a backslash takes the meaning from the letter behind it.
fn fields(line: &str) -> Option<Vec<String>> {
    let line = line.trim_end_matches(['\r', '\n']);
    if line.starts_with('#') {
        return None;
    }
    let mut fields = vec![String::new()];
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ':' if fields.len() < 5 => fields.push(String::new()),
            '\\' => fields.last_mut()?.push(letters.next()?),
            letter => fields.last_mut()?.push(letter),
        }
    }
    (fields.len() == 5).then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let text = "# a comment:x:y:z:w\nshort:5432\ndb1:5432:app:dba:a\\:b\\\\c\nlocalhost:*:*:dba:local\n*:5433:*:*:any:more\n";
        let account = |host, port| Account {
            host,
            port,
            database: "app",
            user: "dba",
        };
        let password = |host, port| found(text, account(host, port));
        assert_eq!(password("db1", 5432).as_deref(), Some("a:b\\c"));
        assert_eq!(
            password("/var/run/postgresql", 5432).as_deref(),
            Some("local")
        );
        assert_eq!(password("db2", 5433).as_deref(), Some("any:more"));
        assert_eq!(password("db2", 5432), None);
    }
}
