//! Servers that follow a primary: what may be written down about how they are reached.

/// Whether a connection string, as keywords or as an address, has a password in it.
#[must_use]
pub fn has_password(connection: &str) -> bool {
    let lower = connection.to_lowercase();
    let names_one = lower
        .match_indices("password")
        .any(|(at, word)| lower[at + word.len()..].trim_start().starts_with('='));
    let is_address = ["postgres://", "postgresql://"]
        .iter()
        .find_map(|scheme| lower.trim_start().strip_prefix(scheme));
    let in_address = is_address.is_some_and(|rest| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        // The last one: a password may hold another.
        rest.rsplit_once('@')
            .map(|(user, _)| user)
            .or_else(|| authority.rsplit_once('@').map(|(user, _)| user))
            .is_some_and(|user| user.contains(':'))
    });
    names_one || in_address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_seen_in_whatever_form() {
        for with in [
            "host=db2 password=hunter2",
            "host=db2 PASSWORD = 'hunter2'",
            "host=db2 sslpassword=x",
            "postgres://app:hunter2@db2/app",
            "postgresql://app:p/w@db2/app",
            "postgresql://db2/app?password=hunter2",
            "Postgres://app:@db2",
        ] {
            assert!(has_password(with), "{with}");
        }
        for without in [
            "",
            "host=db2 dbname=app user=app passfile=/etc/colcrypt/pgpass",
            "postgresql://app@db2:5433/app",
            "postgresql://db2:5433,db3:5433/app",
            "host=password dbname=app",
            "service=db2",
        ] {
            assert!(!has_password(without), "{without}");
        }
    }
}
