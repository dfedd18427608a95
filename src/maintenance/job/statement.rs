//! The SQL of a job on one leaf table, and the way to run it.
//!
//! It runs as the table's owner in a security-restricted operation, since indexes, checks and the context
//! expression are other people's code, and with session_replication_role = replica, so that ordinary
//! triggers and rules do not fire, unless the job was asked to fire them.

use pgrx::spi::quote_identifier;
use pgrx::{Spi, pg_sys};

use super::{Job, pace};
use crate::catalog::write::{self, AsRole, safe_search_path};
use crate::error::Result;
use crate::maintenance::breath::Breathing;
use crate::maintenance::{priority, relation};
use crate::session;

/// A column as a job moves it.
#[derive(Clone)]
pub struct Column {
    name: String,
    /// Whether a row's value is to be moved, as SQL.
    stale: String,
    /// What it becomes.
    value: String,
}

impl Column {
    fn new(
        attribute: &str,
        key: i64,
        target: i32,
        from_keys: &[i64],
        context: Option<&str>,
    ) -> Self {
        let name = quote_identifier(attribute);
        let context = context.map_or_else(String::new, |expression| {
            format!(", ({expression})::pg_catalog.bytea")
        });
        let stale = format!("colcrypt.ciphertext_is_stale({name}, {key}, {target})");
        if from_keys.is_empty() {
            return Self {
                stale,
                value: format!("colcrypt.reencrypt_col({name}{context})"),
                name,
            };
        }
        let others: Vec<String> = from_keys.iter().map(i64::to_string).collect();
        let others = others.join(",");
        Self {
            stale: format!(
                "{stale} OR colcrypt.ciphertext_key({name}) = ANY ('{{{others}}}'::pg_catalog.int8[])"
            ),
            value: format!("colcrypt.reencrypt_col_to({name}, {key}{context})"),
            name,
        }
    }
}

/// The columns that other jobs have yet to move in the same table.
pub fn others(job: &Job) -> Result<Vec<Column>> {
    write::query(
        "SELECT j.attribute::text, j.key_id, j.target_version, j.from_keys, c.context \
         FROM colcrypt.job j JOIN colcrypt.protected_column c USING (relation, attribute) \
         JOIN pg_attribute p ON p.attrelid = j.relation AND p.attname = j.attribute AND NOT p.attisdropped \
         WHERE j.relation = $1::oid::regclass AND j.job_id <> $2 AND j.finished_at IS NULL AND NOT j.paused \
           AND j.phase IN ('queued', 'moving') AND j.fire_triggers = $3",
        &[job.table.into(), job.id.into(), job.fires_triggers.into()],
        |row| {
            Ok(Column::new(
                &row.get::<String>(1)?.unwrap_or_default(),
                row.get(2)?.unwrap_or_default(),
                row.get(3)?.unwrap_or_default(),
                &row.get::<Vec<i64>>(4)?.unwrap_or_default(),
                row.get::<String>(5)?.as_deref(),
            ))
        },
    )
}

/// How long one waits that may meet a locked row: what it has changed so far stays locked meanwhile.
pub const LITTLE_PATIENCE: &std::ffi::CStr = c"20ms";

pub struct Statement {
    table: String,
    owner: pg_sys::Oid,
    column: Column,
    /// Columns of the same table that have jobs of their own: a row is written once for all of them.
    others: Vec<Column>,
    fires_triggers: bool,
    urgent: bool,
}

impl Statement {
    pub fn new(job: &Job, leaf: pg_sys::Oid) -> Result<Self> {
        let described = relation::describe(leaf)?;
        Ok(Self {
            table: described.name,
            owner: described.owner,
            column: Column::new(
                &job.attribute,
                job.key,
                job.target,
                &job.from_keys,
                job.context.as_deref(),
            ),
            others: Vec::new(),
            fires_triggers: job.fires_triggers,
            urgent: job.urgent,
        })
    }

    /// Takes along what other jobs have yet to move in the same rows.
    pub fn with(mut self, others: Vec<Column>) -> Self {
        self.others = others;
        self
    }

    /// Moves the rows that nobody holds, in one pass: xmax tells who changes or locks a row, or last did. Of a row locked
    /// by several it names a group of transactions, not one; and a row may be taken between the look and the change. So it
    /// may have to wait, which [`run`](Self::run) bounds; [`update`](Self::update) never does.
    pub fn update_free(&self, rows: &str) -> String {
        let (assignments, stale) = self.changes();
        format!(
            "UPDATE ONLY {} SET {assignments} WHERE {rows} AND (xmax = 0 OR colcrypt.is_settled(xmax)) AND ({stale})",
            self.table
        )
    }

    /// Moves the rows that can be locked at once, skipping the others: locks them first, which costs a second pass and a
    /// WAL record for each.
    pub fn update(&self, rows: &str) -> String {
        let table = &self.table;
        let (assignments, stale) = self.changes();
        format!(
            "UPDATE ONLY {table} SET {assignments} WHERE ctid = ANY(ARRAY(\
             SELECT ctid FROM ONLY {table} WHERE {rows} AND ({stale}) FOR NO KEY UPDATE SKIP LOCKED))"
        )
    }

    /// What is assigned, and which rows it concerns, as SQL.
    fn changes(&self) -> (String, String) {
        let mut assignments = format!("{} = {}", self.column.name, self.column.value);
        let mut stale = self.column.stale.clone();
        if !self.others.is_empty() {
            let all = || std::iter::once(&self.column).chain(&self.others);
            assignments = joined(all(), ", ", |column| {
                let Column { name, stale, value } = column;
                format!("{name} = CASE WHEN ({stale}) THEN {value} ELSE {name} END")
            });
            stale = joined(all(), " OR ", |column| column.stale.clone());
        }
        (assignments, stale)
    }

    /// Runs a data-changing statement as the job may, waiting for no lock longer than `patience`; gives the number of rows.
    pub fn run(&self, sql: &str, patience: &std::ffi::CStr) -> Result<i64> {
        if !self.fires_triggers {
            set_local(c"session_replication_role", c"replica");
        }
        set_local(c"lock_timeout", patience);
        set_local(c"row_security", c"off");
        let _path = safe_search_path();
        let _role = AsRole::restricted(self.owner);
        let _moving = MovingRows::begin();
        // No brake holds what is urgent.
        let share = if self.urgent { 1.0 } else { pace::share() };
        if !self.urgent {
            priority::give_way();
        }
        let _breathing = Breathing::begin(share);
        let count =
            Spi::connect_mut(|client| client.update(sql, None, &[]).map(|rows| rows.len()))?;
        Ok(count as i64)
    }

    pub fn stale_rows(&self, rows: &str) -> Result<Vec<String>> {
        set_local(c"row_security", c"off");
        let _path = safe_search_path();
        let _role = AsRole::restricted(self.owner);
        Ok(Spi::connect(|client| {
            client
                .select(
                    &format!(
                        "SELECT ctid::text FROM ONLY {} WHERE {rows} AND ({})",
                        self.table, self.column.stale
                    ),
                    None,
                    &[],
                )?
                .map(|row| Ok(row.get::<String>(1)?.unwrap_or_default()))
                .collect::<std::result::Result<Vec<_>, pgrx::spi::Error>>()
        })?)
    }

    /// What a row's value says of its key: name and version.
    pub fn key_of(&self, row: &str) -> Result<Option<(Option<String>, Option<i32>)>> {
        set_local(c"row_security", c"off");
        let _path = safe_search_path();
        let _role = AsRole::restricted(self.owner);
        let sql = format!(
            "SELECT (i).key, (i).version FROM (SELECT colcrypt.ciphertext_info({}) AS i \
             FROM ONLY {} WHERE ctid = '{row}' OFFSET 0) AS value",
            self.column.name, self.table
        );
        Ok(Spi::connect(|client| {
            client
                .select(&sql, None, &[])?
                .next()
                .map(|row| Ok::<_, pgrx::spi::Error>((row.get(1)?, row.get(2)?)))
                .transpose()
        })?)
    }
}

fn joined<'a>(
    columns: impl Iterator<Item = &'a Column>,
    separator: &str,
    as_sql: impl Fn(&Column) -> String,
) -> String {
    columns.map(as_sql).collect::<Vec<_>>().join(separator)
}

/// SET LOCAL with the worker's own rights.
pub fn set_local(name: &std::ffi::CStr, value: &std::ffi::CStr) {
    // SAFETY: C strings; the change ends with the transaction.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_LOCAL,
            true,
            0,
            false,
        );
    }
}

/// While it lives, reencrypt_col asks for no grant.
struct MovingRows;

impl MovingRows {
    fn begin() -> Self {
        session::set_moving_rows(true);
        Self
    }
}

impl Drop for MovingRows {
    fn drop(&mut self) {
        session::set_moving_rows(false);
    }
}
