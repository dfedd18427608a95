//! The SQL of a job on one leaf table, and the way to run it.
//!
//! It runs as the table's owner in a security-restricted operation, since indexes, checks and the context
//! expression are other people's code, and with session_replication_role = replica, so that ordinary
//! triggers and rules do not fire, unless the job was asked to fire them. No right on any key is in force while it
//! runs: old values are read by one statement (`reading`), re-encrypted between statements, and written by another.

mod column;
mod reading;
mod resealing;
mod writing;

use colcrypt_core::{Value, VersionId};
use colcrypt_domain::quote::quote_identifier;
use pgrx::{Spi, pg_sys};

use crate::columns::moved::{Address, Batch};
use crate::error::{Error, Result};
use crate::jobs::job::Job;
use crate::server::breath::{self, Breathing};
use crate::server::priority;
use crate::server::relation::{Attribute, Held, Lock, Named};
use crate::server::rewrite::Rewriter;
use crate::server::roles::AsRole;
use crate::server::selected::selected;
use crate::server::spi::safe_search_path;
use crate::server::txn::{PATIENCE, set_local};
use crate::server::varlena::Varlena;
use crate::worker::job::pace;
use crate::worker::job::progress::{BlockRange, in_blocks};

pub use column::{MovedColumn, others};
pub use reading::context_at;
pub use writing::Outcome;

use reading::Reading;

/// How long one waits that may meet a locked row: what it has changed so far stays locked meanwhile.
pub const LITTLE_PATIENCE: &std::ffi::CStr = c"20ms";

/// Which rows a batch takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Taking {
    /// Those that nobody holds, in one pass: xmax tells who changes or locks a row, or last did. Of a row locked by
    /// several it names a group of transactions, not one; and a row may be taken between the look and the change. So it
    /// may have to wait, which [`LITTLE_PATIENCE`] bounds.
    Free,
    /// Those that can be locked at once, skipping the others: never waits, and costs a WAL record for each.
    Locked,
}

/// The rows that are gone through.
pub enum Which<'a> {
    In(&'a BlockRange),
    /// By its address, as text.
    Row(&'a str),
}

impl Which<'_> {
    fn sql(&self) -> String {
        match self {
            Self::In(place) => in_blocks(place),
            Self::Row(address) => format!("ctid = '{address}'"),
        }
    }
}

const LOCKED: &str = " FOR NO KEY UPDATE SKIP LOCKED";

/// One leaf table, held, and the columns that are moved in it.
pub struct Statement {
    table: Named,
    /// The first is the job's own; the others have jobs of their own: a row is written once for all of them.
    columns: Vec<MovedColumn>,
    fires_triggers: bool,
    urgent: bool,
    /// What expressions of the owner's may qualify their columns with, where the leaf is called otherwise.
    alias: Option<String>,
}

/// A value as it is stored, with what its row says of it.
pub struct Stored<'a> {
    /// The row's address.
    pub row: String,
    pub value: &'a [u8],
    /// None for one that is NULL.
    pub context: Option<&'a [u8]>,
    /// The name of the row's key, where that is asked for; none for NULL.
    pub key: Option<String>,
}

impl Statement {
    /// Takes hold of the leaf.
    ///
    /// # Errors
    /// When it is gone, a column is not a ciphertext's (any more), or its context would run with rights of others than
    /// who set it.
    pub fn new(job: &Job, leaf: pg_sys::Oid) -> Result<Self> {
        let table = Named::take(leaf, Lock::Write)?;
        let mut statement = Self {
            columns: vec![MovedColumn::of(job)],
            fires_triggers: job.fires_triggers,
            urgent: job.urgent,
            table,
            alias: None,
        };
        statement.check(job)?;
        Ok(statement)
    }

    /// Takes along what other jobs have yet to move in the same rows.
    pub fn with(mut self, job: &Job, others: Vec<MovedColumn>) -> Result<Self> {
        self.columns.extend(others);
        self.check(job)?;
        Ok(self)
    }

    fn check(&mut self, job: &Job) -> Result<()> {
        for column in &self.columns {
            self.table.held.ciphertext_attribute(&column.attribute)?;
        }
        if self.table.held.oid == job.table {
            return Ok(());
        }
        if self.columns.iter().any(MovedColumn::runs_code) {
            refuse_lent_context(job.table, &self.table)?;
        }
        if self.columns.iter().any(MovedColumn::has_own_words) {
            let top = Held::take(job.table, Lock::Read)?;
            self.alias = Some(quote_identifier(top.bare_name()));
        }
        Ok(())
    }

    /// The leaf, as expressions of the registered table's owner may speak of it.
    fn from(&self) -> String {
        match &self.alias {
            None => format!("ONLY {}", self.table.sql),
            Some(alias) => format!("ONLY {} AS {alias}", self.table.sql),
        }
    }

    /// Moves those of the rows that are stale. Reading and writing are two statements, in which the owner's code runs
    /// and has nothing of ours; between them values are re-encrypted, and nobody's code runs.
    ///
    /// # Errors
    /// Of a value, of its key, or of the statements.
    pub fn move_rows(&self, which: &Which<'_>, taking: Taking) -> Result<Outcome> {
        if !self.fires_triggers {
            set_local(c"session_replication_role", c"replica");
        }
        let patience = match taking {
            Taking::Free => LITTLE_PATIENCE,
            Taking::Locked => PATIENCE,
        };
        set_local(c"lock_timeout", patience);
        set_local(c"row_security", c"off");
        let _path = safe_search_path();
        let _role = AsRole::restricted(self.table.owner());
        // No brake holds what is urgent.
        let share = if self.urgent { 1.0 } else { pace::share() };
        if !self.urgent {
            priority::give_way();
        }
        let _breathing = Breathing::begin(share);
        let in_passing = match which {
            Which::In(place)
                if taking == Taking::Free && place.rows.is_none() && self.needs_no_code() =>
            {
                Some(place)
            }
            _ => None,
        };
        let held = &self.table.held;
        let columns = &self.columns;
        if let Some(place) = in_passing
            && let Some(rewriter) = self.rewriter(taking)?
        {
            return writing::move_rows(held, columns, place, rewriter);
        }
        let mut batch = Batch::new();
        let rows = which.sql();
        let reading = Reading::new(held, columns);
        let complete = match in_passing {
            Some(place) => reading.by_scan(place, &mut batch)?,
            None => reading.by_sql(
                &self.select(&rows, taking),
                taking == Taking::Free,
                &mut batch,
            )?,
        };
        if batch.is_empty() {
            return Ok(Outcome { moved: 0, complete });
        }
        let moved = match self.rewriter(taking)? {
            Some(rewriter) => writing::write_back(held, columns, &batch, rewriter)?,
            None => {
                let _known = batch.publish(0);
                update(&self.update(&rows, taking))?
            }
        };
        Ok(Outcome { moved, complete })
    }

    /// The way to write rows without SQL; none where the owner's code may take part.
    fn rewriter(&self, taking: Taking) -> Result<Option<Rewriter>> {
        let held = &self.table.held;
        let changed = self.columns.iter();
        let changed: Vec<&Attribute> = changed
            .map(|column| held.ciphertext_attribute(&column.attribute))
            .collect::<Result<_>>()?;
        // Who locked a row has it already; beside him others may hold its key.
        Rewriter::of(held, &changed, taking == Taking::Locked)
    }

    /// Whether the rows can be read without the executor: none of the values is bound to anything.
    fn needs_no_code(&self) -> bool {
        self.columns.iter().all(MovedColumn::is_unbound)
    }

    fn condition(rows: &str, taking: Taking) -> String {
        match taking {
            Taking::Free => format!("{rows} AND (xmax = 0 OR colcrypt.is_settled(xmax))"),
            Taking::Locked => rows.into(),
        }
    }

    /// The address of each stale row, and for each column the value, if it is stale, and its context.
    fn select(&self, rows: &str, taking: Taking) -> String {
        let is_alone = self.columns.len() == 1;
        let mut shown: Vec<String> = self
            .columns
            .iter()
            .map(|column| {
                // One column alone is stale in every row that is found.
                let if_stale = |what: String| {
                    if is_alone {
                        what
                    } else {
                        format!("CASE WHEN {} THEN {what} END", column.stale())
                    }
                };
                let context = match &column.context {
                    Some(expression) => if_stale(format!("({expression})::pg_catalog.bytea")),
                    None => "NULL::pg_catalog.bytea".into(),
                };
                format!("{}, {context}", if_stale(column.name()))
            })
            .collect();
        // The job's alone, which only opens values.
        if let Some(expression) = &self.columns[0].key_expression {
            shown.push(format!("({expression})::pg_catalog.text"));
        }
        let stale: Vec<String> = self.columns.iter().map(MovedColumn::stale).collect();
        let lock = match taking {
            Taking::Free => "",
            Taking::Locked => LOCKED,
        };
        format!(
            "SELECT ctid, {} FROM {} WHERE {} AND ({}){lock}",
            shown.join(", "),
            self.from(),
            Self::condition(rows, taking),
            stale.join(" OR ")
        )
    }

    fn update(&self, rows: &str, taking: Taking) -> String {
        let numbered = || self.columns.iter().zip(0..);
        let assignments: Vec<String> = numbered()
            .map(|(column, number)| {
                let name = column.name();
                format!("{name} = colcrypt.batch_value(ctid, {number}::pg_catalog.int2, {name})")
            })
            .collect();
        let known: Vec<String> = numbered()
            .map(|(column, number)| {
                let name = column.name();
                format!("colcrypt.is_in_batch(ctid, {number}::pg_catalog.int2, {name})")
            })
            .collect();
        format!(
            "UPDATE ONLY {} SET {} WHERE {} AND ({})",
            self.table.sql,
            assignments.join(", "),
            Self::condition(rows, taking),
            known.join(" OR ")
        )
    }

    /// Shows the job's own values in some rows, each with its context, as the active snapshot sees them: those that it
    /// moves or binds.
    ///
    /// # Errors
    /// Of the statement, and of `look`.
    pub fn each_value(
        &self,
        rows: &str,
        mut look: impl FnMut(&Value<'_>, &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.each_stored(rows, usize::MAX, |stored| {
            let value = Value::parse(stored.value)?;
            let id = VersionId {
                key: value.header.key,
                version: value.header.version,
            };
            if self.columns[0].target_of(id)?.is_none() {
                return Ok(());
            }
            look(&value, stored.context.unwrap_or_default())
        })?;
        Ok(())
    }

    /// Shows the values in some rows as they are stored. Nothing is shown where the rows have more bytes than these:
    /// whether they were.
    ///
    /// # Errors
    /// As [`each_value`](Self::each_value).
    pub fn each_stored(
        &self,
        rows: &str,
        most_bytes: usize,
        mut look: impl FnMut(Stored<'_>) -> Result<()>,
    ) -> Result<bool> {
        set_local(c"row_security", c"off");
        let _path = safe_search_path();
        let _role = AsRole::restricted(self.table.owner());
        let sql = self.select(rows, Taking::Locked);
        let sql = sql.trim_end_matches(LOCKED);
        selected(sql, true, most_bytes, |found| {
            if !found.is_complete() {
                return Ok(false);
            }
            found.expect_ciphertext(2)?;
            for at in 0..found.len() {
                breath::take();
                let (Some(row), Some(value)) = (found.value(at, 1), found.value(at, 2)) else {
                    continue;
                };
                let context = context_at(&found, at, 3, false)?;
                // SAFETY: a tid, and a ciphertext, as was just asked of the result's description.
                let (row, stored) = unsafe {
                    (
                        Address::of(row.cast_mut_ptr()).text(),
                        Varlena::from_datum(value),
                    )
                };
                let key = self.columns[0].key_expression.as_ref();
                let key = key.and_then(|_| found.value(at, 4)).map(|name| {
                    // SAFETY: the statement casts it to text.
                    let name = unsafe { Varlena::from_datum(name) };
                    String::from_utf8_lossy(name.bytes()).into_owned()
                });
                look(Stored {
                    row,
                    value: stored.bytes(),
                    context: context.as_ref().map(Varlena::bytes),
                    key,
                })?;
            }
            Ok(true)
        })
    }

    /// Has the context of rows computed, and nothing done with it.
    ///
    /// # Errors
    /// Of the expression.
    pub fn contexts(&self, rows: &str) -> Result<()> {
        let Some(expression) = &self.columns[0].context else {
            return Ok(());
        };
        let _path = safe_search_path();
        let _role = AsRole::restricted(self.table.owner());
        let sql = format!(
            "SELECT ({expression})::pg_catalog.bytea FROM {} WHERE {rows}",
            self.from()
        );
        selected(&sql, true, usize::MAX, |_| Ok(()))
    }

    pub fn stale_rows(&self, rows: &str) -> Result<Vec<String>> {
        set_local(c"row_security", c"off");
        let _path = safe_search_path();
        let _role = AsRole::restricted(self.table.owner());
        Spi::connect(|client| {
            client
                .select(
                    &format!(
                        "SELECT ctid::text FROM ONLY {} WHERE {rows} AND ({})",
                        self.table.sql,
                        self.columns[0].stale()
                    ),
                    None,
                    &[],
                )?
                .map(|row| Ok(row.get::<String>(1)?.unwrap_or_default()))
                .collect::<std::result::Result<Vec<_>, pgrx::spi::Error>>()
        })
        .map_err(crate::error::of_spi)
    }

    /// What a row's value says of its key: name and version.
    pub fn key_of(&self, row: &str) -> Result<Option<(Option<String>, Option<i32>)>> {
        set_local(c"row_security", c"off");
        let _path = safe_search_path();
        let _role = AsRole::restricted(self.table.owner());
        let sql = format!(
            "SELECT (i).key, (i).version FROM (SELECT colcrypt.ciphertext_info({}) AS i \
             FROM ONLY {} WHERE ctid = '{row}' OFFSET 0) AS value",
            self.columns[0].name(),
            self.table.sql
        );
        Spi::connect(|client| {
            client
                .select(&sql, None, &[])?
                .next()
                .map(|row| Ok::<_, pgrx::spi::Error>((row.get(1)?, row.get(2)?)))
                .transpose()
        })
        .map_err(crate::error::of_spi)
    }
}

/// A context is code of the registered table's owner; a partition may have another owner, with whose rights it must not
/// run unless the former has them anyway.
///
/// # Errors
/// [`Error::Column`].
pub fn refuse_lent_context(top: pg_sys::Oid, leaf: &Named) -> Result<()> {
    if leaf.held.oid == top {
        return Ok(());
    }
    let top = Held::take(top, Lock::Read)?;
    // SAFETY: reads the role catalogs.
    if unsafe { pg_sys::has_privs_of_role(top.owner, leaf.owner()) } {
        return Ok(());
    }
    Err(Error::Column {
        message: format!("{} and {} have different owners", leaf.sql, top.shown()),
        hint: "The context expression is code of the second one's owner: give both the same owner."
            .into(),
    })
}

/// Runs the statement that writes; the number of rows.
fn update(sql: &str) -> Result<i64> {
    let count = Spi::connect_mut(|client| client.update(sql, None, &[]).map(|rows| rows.len()))
        .map_err(crate::error::of_spi)?;
    Ok(count as i64)
}
