//! A connection to PostgreSQL for the subcommands that ask it, and what goes wrong with one, in words.

use std::{env, time::Duration};

use postgres::{Client, Config, NoTls, config::Host};

use crate::screen::printable;

/// Connects for a subcommand; a statement that takes longer than `patience` is cancelled. Names in it come with their
/// schema.
///
/// # Errors
/// In words for who typed it, without what a password could be.
pub fn connect(command: &str, connection: &str, patience: Duration) -> Result<Client, String> {
    let mut config: Config = connection
        .parse()
        .map_err(|error: postgres::Error| format!("the connection string: {}", explain(&error)))?;
    if config.get_password().is_some() {
        return Err(
            "a password on the command line is visible to every user of the machine: put it into PGPASSWORD".into(),
        );
    }
    let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    if config.get_hosts().is_empty() {
        config.host(
            variable("PGHOST")
                .as_deref()
                .unwrap_or("/var/run/postgresql"),
        );
    }
    if config.get_ports().is_empty()
        && let Some(port) = variable("PGPORT")
    {
        config.port(port.parse().map_err(|_| "PGPORT is no port".to_owned())?);
    }
    if config.get_user().is_none()
        && let Some(user) = variable("PGUSER").or_else(|| variable("USER"))
    {
        config.user(&user);
    }
    if config.get_dbname().is_none()
        && let Some(database) = variable("PGDATABASE")
    {
        config.dbname(&database);
    }
    if let Some(password) = variable("PGPASSWORD") {
        config.password(password);
    }
    config
        .application_name(&format!("colcrypt {command}"))
        .options(&format!(
            "-c statement_timeout={} -c search_path=pg_catalog",
            patience.as_millis()
        ))
        .connect(NoTls)
        .map_err(|error| format!("{}: {}", place(&config), explain(&error)))
}

fn place(config: &Config) -> String {
    match config.get_hosts().first() {
        Some(Host::Tcp(name)) => name.clone(),
        Some(Host::Unix(path)) => path.display().to_string(),
        None => "the server".into(),
    }
}

/// What the server, or the way there, had to say.
pub fn explain(error: &postgres::Error) -> String {
    let message = match error.as_db_error() {
        Some(error) => match error.code().code() {
            "3F000" | "42P01" | "42703" | "42883" => {
                "this database has no extension colcrypt, or an older one".to_owned()
            }
            "42501" => format!("{}; members of pg_monitor may look", error.message()),
            _ => error.message().to_owned(),
        },
        None => match std::error::Error::source(error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        },
    };
    printable(&message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_on_the_command_line_is_refused_and_not_repeated() {
        let error = connect("watch", "host=localhost password=hunter2", Duration::ZERO)
            .err()
            .unwrap();
        assert!(error.contains("PGPASSWORD") && !error.contains("hunter2"));
        let error = connect("watch", "nonsense", Duration::ZERO).err().unwrap();
        assert!(error.contains("connection string"), "{error}");
    }
}
