//! What is asked of the database for a page of metrics.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postgres::Client;

use super::page::{Format, Page};
use crate::connection::{connect, explain};

/// Whoever scrapes has less; on a busy machine the next one finds what this one came to.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The whole audit log is read.
const PATIENCE_TO_VERIFY: Duration = Duration::from_secs(3600);

const VERIFY: &str = "SELECT ok FROM colcrypt.verify_audit_log()";

/// What `verify_audit_log` said last.
pub struct Verified {
    database: String,
    is_whole: bool,
    at: SystemTime,
}

impl Verified {
    pub fn now(connection: &str) -> Result<Self, String> {
        let mut client = connect("metrics", connection, PATIENCE_TO_VERIFY)?;
        let mut one = |sql: &str| client.query_one(sql, &[]).map_err(|error| explain(&error));
        let (found, database) = (one(VERIFY)?, one("SELECT current_database()::text")?);
        let read = || Ok::<_, postgres::Error>((found.try_get(0)?, database.try_get(0)?));
        let (is_whole, database) = read().map_err(|error| explain(&error))?;
        Ok(Self {
            database,
            is_whole,
            at: SystemTime::now(),
        })
    }
}

/// The page, with what was said of the audit log.
pub fn told(
    client: &mut Client,
    verified: Option<&Verified>,
    format: Format,
) -> Result<String, String> {
    let mut page = Page::of(client)?;
    if let Some(Verified {
        database,
        is_whole,
        at,
    }) = verified
    {
        let at = at
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64();
        let whole = f64::from(u8::from(*is_whole));
        page.tell(client, "colcrypt_audit_chain_whole", database, whole)?;
        page.tell(
            client,
            "colcrypt_audit_chain_verified_timestamp_seconds",
            database,
            at,
        )?;
    }
    page.text(format).map_err(|error| error.to_string())
}
