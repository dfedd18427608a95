//! The SQL of a job on one leaf table, and the way to run it.
//!
//! It runs as the table's owner in a security-restricted operation, since indexes, checks and the context
//! expression are other people's code, and with session_replication_role = replica, so that ordinary
//! triggers and rules do not fire, unless the job was asked to fire them. No right on any key is in force while it
//! runs: old values are read by one statement, re-encrypted between statements, and written by another.

mod reading;

use colcrypt_core::format::RenewedHeader;
use colcrypt_core::{KeyId, Value, VersionId, place};
use pgrx::spi::quote_identifier;
use pgrx::{Spi, pg_sys};

use crate::columns::moved::Batch;
use crate::error::{Error, Result};
use crate::jobs::job::Job;
use crate::server::breath::{self, Breathing};
use crate::server::priority;
use crate::server::relation::{Held, Lock, Named};
use crate::server::roles::AsRole;
use crate::server::selected::selected;
use crate::server::spi::{self, safe_search_path};
use crate::server::txn::{PATIENCE, set_local};
use crate::server::varlena::Varlena;
use crate::session::Permit;
use crate::values::reseal;
use crate::worker::job::pace;
use crate::worker::job::progress::{BlockRange, in_blocks};

pub use reading::context_at;

/// A column as a job moves it: from which key versions to which key, and what its values are bound to.
#[derive(Clone)]
pub struct MovedColumn {
    attribute: String,
    key: KeyId,
    target: i32,
    /// Other keys whose values go to this one.
    from_keys: Vec<i64>,
    context: Option<String>,
    /// Whether values are bound to another context: the first of a pair.
    rebinds: bool,
    /// The label of values that go to another key or context, and whether others go too.
    label: Option<String>,
    accepts_unplaced: bool,
}

impl MovedColumn {
    fn of(job: &Job) -> Self {
        Self {
            attribute: job.attribute.clone(),
            key: KeyId::of_bigint(job.key),
            target: job.target,
            from_keys: job.from_keys.clone(),
            context: job.context.clone(),
            rebinds: job.rebinds,
            label: job.label.clone(),
            accepts_unplaced: job.accepts_unplaced,
        }
    }

    fn name(&self) -> String {
        quote_identifier(&self.attribute)
    }

    /// Whether a row's value is to be moved, as SQL.
    fn stale(&self) -> String {
        let (name, key) = (self.name(), self.key.bigint());
        if self.rebinds {
            let mut keys = self.from_keys.clone();
            keys.push(key);
            return Self::under(&name, &keys);
        }
        let older = format!(
            "colcrypt.ciphertext_is_stale({name}, {key}, {})",
            self.target
        );
        if self.from_keys.is_empty() {
            return older;
        }
        format!("{older} OR {}", Self::under(&name, &self.from_keys))
    }

    fn under(name: &str, keys: &[i64]) -> String {
        let keys: Vec<String> = keys.iter().map(i64::to_string).collect();
        format!(
            "colcrypt.ciphertext_key({name}) = ANY ('{{{}}}'::pg_catalog.int8[])",
            keys.join(",")
        )
    }

    /// The same, of a value at hand: what the statement selected is not taken on trust.
    fn moves(&self, value: VersionId) -> bool {
        let older =
            value.key == self.key && i64::from(value.version.number()) < i64::from(self.target);
        older || self.from_keys.contains(&value.key.bigint())
    }

    /// Whether the context may be code of the table's owner.
    fn runs_code(&self) -> bool {
        let context = self.context.as_deref();
        context.is_some_and(|context| !place::parse(context).is_some_and(|place| place.is_plain))
    }

    /// Whether a value goes where others may read it, or open it elsewhere.
    fn crosses(&self, value: VersionId) -> bool {
        self.from_keys.contains(&value.key.bigint())
    }

    /// Refuses a value that may have been put here from another table, unless the order covers such.
    fn refuse_unplaced(&self, value: &Value<'_>, context: &[u8]) -> Result<()> {
        if self.accepts_unplaced || reseal::is_placed(value, context, self.label.as_deref()) {
            return Ok(());
        }
        Err(Error::ValueUnplaced)
    }

    /// Under the column's key and that key's current version, and bound as it shall be; none when it is so already.
    fn sealed(
        &self,
        from: &Permit,
        to: &Permit,
        header: &mut RenewedHeader,
        value: &Value<'_>,
        context: &[u8],
    ) -> Result<Option<pg_sys::Datum>> {
        let id = VersionId {
            key: value.header.key,
            version: value.header.version,
        };
        if self.rebinds {
            let may = |bound: &[u8]| self.refuse_unplaced(value, bound);
            return reseal::rebind(from, to, value, context, self.moves(id), may);
        }
        if self.crosses(id) {
            self.refuse_unplaced(value, context)?;
        }
        // What is bound to nothing stays so.
        let is_loose = !value.header.has_context;
        let context = if is_loose { &[] } else { context };
        reseal::reseal(from, to, header, value, context).map(Some)
    }
}

/// The columns that other jobs have yet to move in the same table.
pub fn others(job: &Job) -> Result<Vec<MovedColumn>> {
    spi::query(
        "SELECT j.attribute::text, j.key_id, j.target_version, j.from_keys, c.context, j.label, j.accept_unplaced \
         FROM colcrypt.job j JOIN colcrypt.protected_column c USING (relation, attribute) \
         JOIN pg_attribute p ON p.attrelid = j.relation AND p.attname = j.attribute AND NOT p.attisdropped \
         WHERE j.relation = $1::oid::regclass AND j.job_id <> $2 AND j.finished_at IS NULL AND NOT j.paused \
           AND j.phase IN ('queued', 'moving') AND j.fire_triggers = $3 AND NOT j.rebinds",
        &[job.table.into(), job.id.into(), job.fires_triggers.into()],
        |row| {
            Ok(MovedColumn {
                attribute: row.get::<String>(1)?.unwrap_or_default(),
                key: KeyId::of_bigint(row.get::<i64>(2)?.unwrap_or_default()),
                target: row.get(3)?.unwrap_or_default(),
                from_keys: row.get::<Vec<i64>>(4)?.unwrap_or_default(),
                context: row.get::<String>(5)?,
                rebinds: false,
                label: row.get(6)?,
                accepts_unplaced: row.get::<bool>(7)?.unwrap_or_default(),
            })
        },
    )
}

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

/// What became of some rows.
pub struct Outcome {
    pub moved: i64,
    /// Whether none was left for want of memory.
    pub complete: bool,
}

const LOCKED: &str = " FOR NO KEY UPDATE SKIP LOCKED";

/// One leaf table, held, and the columns that are moved in it.
pub struct Statement {
    table: Named,
    /// The first is the job's own; the others have jobs of their own: a row is written once for all of them.
    columns: Vec<MovedColumn>,
    fires_triggers: bool,
    urgent: bool,
}

impl Statement {
    /// Takes hold of the leaf.
    ///
    /// # Errors
    /// When it is gone, a column is not a ciphertext's (any more), or its context would run with rights of others than
    /// who set it.
    pub fn new(job: &Job, leaf: pg_sys::Oid) -> Result<Self> {
        let table = Named::take(leaf, Lock::Write)?;
        let statement = Self {
            columns: vec![MovedColumn::of(job)],
            fires_triggers: job.fires_triggers,
            urgent: job.urgent,
            table,
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

    fn check(&self, job: &Job) -> Result<()> {
        for column in &self.columns {
            self.table.held.ciphertext_attribute(&column.attribute)?;
        }
        if self.columns.iter().any(MovedColumn::runs_code) {
            refuse_lent_context(job.table, &self.table)?;
        }
        Ok(())
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
        let mut batch = Batch::new();
        let rows = which.sql();
        let complete = match which {
            Which::In(place) if taking == Taking::Free && self.needs_no_code() => {
                let found = batch.keep(self.scanned(place)?);
                self.reseal(&found, &mut batch)? && found.complete
            }
            _ => self.read(&rows, taking, &mut batch)?,
        };
        if batch.is_empty() {
            return Ok(Outcome { moved: 0, complete });
        }
        let _known = batch.publish(0);
        let moved = write_back(&self.update(&rows, taking))?;
        Ok(Outcome { moved, complete })
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
        let shown: Vec<String> = self
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
        let stale: Vec<String> = self.columns.iter().map(MovedColumn::stale).collect();
        let lock = match taking {
            Taking::Free => "",
            Taking::Locked => LOCKED,
        };
        format!(
            "SELECT ctid, {} FROM ONLY {} WHERE {} AND ({}){lock}",
            shown.join(", "),
            self.table.sql,
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

    /// Shows the job's own values in some rows, each with its context, as the active snapshot sees them.
    ///
    /// # Errors
    /// Of the statement, and of `look`.
    pub fn each_value(
        &self,
        rows: &str,
        mut look: impl FnMut(&Value<'_>, &[u8]) -> Result<()>,
    ) -> Result<()> {
        set_local(c"row_security", c"off");
        let _path = safe_search_path();
        let _role = AsRole::restricted(self.table.owner());
        let sql = self.select(rows, Taking::Locked);
        let sql = sql.trim_end_matches(LOCKED);
        selected(sql, true, usize::MAX, |found| {
            found.expect_ciphertext(2)?;
            for at in 0..found.len() {
                breath::take();
                let Some(value) = found.value(at, 2) else {
                    continue;
                };
                let context = context_at(&found, at, 3, false)?;
                // SAFETY: a ciphertext, as was just asked of the result's description.
                let stored = unsafe { Varlena::from_datum(value) };
                let value = Value::parse(stored.bytes())?;
                look(&value, context.as_ref().map_or(&[][..], Varlena::bytes))?;
            }
            Ok(())
        })
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
fn write_back(sql: &str) -> Result<i64> {
    let count = Spi::connect_mut(|client| client.update(sql, None, &[]).map(|rows| rows.len()))
        .map_err(crate::error::of_spi)?;
    Ok(count as i64)
}
