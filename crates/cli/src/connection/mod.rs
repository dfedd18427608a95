//! A connection to PostgreSQL for the subcommands that ask it, and what goes wrong with one, in words.

mod given;
mod passfile;
mod tls;

use std::{env, time::Duration};

use postgres::{Client, Config, config::Host, config::SslMode};

use crate::connection::{given::Given, passfile::Account, tls::Wanted};
use crate::screen::printable;

/// A server that does not answer at all is not waited for.
const CONNECT: Duration = Duration::from_secs(10);
const PORT: u16 = 5432;

/// Connects for a subcommand; a statement that takes longer than `patience` is cancelled. Names in it come with their
/// schema.
///
/// # Errors
/// In words for who typed it, without what a password could be.
pub fn connect(command: &str, connection: &str, patience: Duration) -> Result<Client, String> {
    let given = Given::of(connection);
    let mut config = config(&given)?;
    let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    if let Some(password) = variable("PGPASSWORD") {
        config.password(password);
    } else {
        let file = variable("PGPASSFILE");
        let file = given.get("passfile").or(file.as_deref());
        let user = config.get_user().unwrap_or_default();
        let account = Account {
            host: &host(&config),
            port: config.get_ports().first().copied().unwrap_or(PORT),
            database: config.get_dbname().unwrap_or(user),
            user,
        };
        if let Some(password) = passfile::password(file, account) {
            config.password(password);
        }
    }
    let named = ["PGSSLMODE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY"].map(variable);
    let asked = |name: &str, at: usize| given.get(name).map(str::to_owned).or(named[at].clone());
    let [mode, root, certificate, key] = [
        asked("sslmode", 0),
        asked("sslrootcert", 1),
        asked("sslcert", 2),
        asked("sslkey", 3),
    ];
    let (mut mode, tls) = Wanted {
        mode: mode.as_deref(),
        root: root.as_deref(),
        certificate: certificate.as_deref(),
        key: key.as_deref(),
    }
    .connector()?;
    // A socket has no TLS, and needs none.
    if (config.get_hosts().iter()).all(|host| matches!(host, Host::Unix(_))) {
        mode = SslMode::Disable;
    }
    config
        .ssl_mode(mode)
        .application_name(&format!("colcrypt {command}"))
        .options(&format!(
            "-c statement_timeout={} -c search_path=pg_catalog",
            patience.as_millis()
        ))
        .connect(tls)
        .map_err(|error| format!("{}: {}", host(&config), explain(&error)))
}

/// Where a connection string leads to, without user and password: what a server is called where nobody named it.
///
/// # Errors
/// In words for people.
pub fn place(connection: &str) -> Result<String, String> {
    let config = config(&Given::of(connection))?;
    let port = config.get_ports().first().copied().unwrap_or(PORT);
    let database = config.get_dbname().or(config.get_user());
    let database = database.map_or_else(String::new, |database| format!("/{database}"));
    Ok(format!("{}:{port}{database}", host(&config)))
}

/// The same connection to another server; none of one that is written as a URL.
pub fn elsewhere(connection: &str, host: &str, port: i32) -> Option<String> {
    given::elsewhere(connection, host, port)
}

/// What is given, and what the environment has of the rest.
fn config(given: &Given) -> Result<Config, String> {
    let mut config: Config = (given.rest)
        .parse()
        .map_err(|error: postgres::Error| format!("the connection string: {}", explain(&error)))?;
    if config.get_password().is_some() {
        return Err(
            "a password on the command line is visible to every user of the machine: put it into ~/.pgpass or PGPASSWORD".into(),
        );
    }
    let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
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
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT);
    }
    Ok(config)
}

fn host(config: &Config) -> String {
    match (config.get_hosts().first(), config.get_hostaddrs().first()) {
        (Some(Host::Tcp(name)), _) => name.clone(),
        (Some(Host::Unix(path)), _) => path.display().to_string(),
        (None, Some(address)) => address.to_string(),
        (None, None) => "the server".into(),
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

/// The same of an act, which may have been refused: with the details, and what to do.
pub fn refusal(error: &postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) if !matches!(error.code().code(), "3F000" | "42P01" | "42703" | "42883") => {
            let parts = [Some(error.message()), error.detail(), error.hint()];
            printable(&parts.into_iter().flatten().collect::<Vec<_>>().join("; "))
        }
        _ => explain(error),
    }
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
