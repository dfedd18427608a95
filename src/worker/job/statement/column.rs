//! A column as a job moves it: which of its values, to which key, and what they are bound to.

use colcrypt_core::format::RenewedHeader;
use colcrypt_core::{KeyId, KeyringId, Value, VersionId, place};
use pgrx::pg_sys;
use pgrx::spi::quote_identifier;

use crate::catalog::read;
use crate::error::{Error, Result};
use crate::jobs::job::{Job, SHREDDED, pairs};
use crate::server::relation::Held;
use crate::server::scan::{self, Row};
use crate::server::spi;
use crate::session::Permit;
use crate::values::reseal;

/// A column as a job moves it: from which key versions to which key, and what its values are bound to.
#[derive(Clone)]
pub struct MovedColumn {
    pub attribute: String,
    key: KeyId,
    /// Where rows have keys of their own and all of them are concerned: the keyring that these are of.
    keyring: Option<KeyringId>,
    /// What names a row's key, where values are only opened.
    pub key_expression: Option<String>,
    target: i32,
    /// Other keys whose values go to this one.
    from_keys: Vec<i64>,
    /// Key versions whose values nobody can read any more, nor shall.
    shredded: Vec<(i64, i32)>,
    pub context: Option<String>,
    /// Whether values are bound to another context: the first of a pair.
    pub rebinds: bool,
    /// Whether every value is taken, and only opened.
    verifies: bool,
    /// The label of values that go to another key or context, and whether others go too.
    label: Option<String>,
    accepts_unplaced: bool,
}

impl MovedColumn {
    pub fn of(job: &Job) -> Self {
        Self {
            attribute: job.attribute.clone(),
            key: KeyId::of_bigint(job.key),
            keyring: job.keyring,
            key_expression: job.key_expression.clone().filter(|_| job.verifies),
            target: job.target,
            from_keys: job.from_keys.clone(),
            shredded: job.shredded.clone(),
            context: job.context.clone(),
            rebinds: job.rebinds,
            verifies: job.verifies,
            label: job.label.clone(),
            accepts_unplaced: job.accepts_unplaced,
        }
    }

    pub fn name(&self) -> String {
        quote_identifier(&self.attribute)
    }

    /// Whether a row's value is to be moved, as SQL.
    pub fn stale(&self) -> String {
        // Which keys are of the keyring is looked at when the value is there.
        if self.verifies || self.keyring.is_some() {
            return format!("{} IS NOT NULL", self.name());
        }
        let stale = self.stale_or_lost();
        if self.shredded.is_empty() {
            return stale;
        }
        let name = self.name();
        let readable = self.shredded.iter().map(|(key, version)| {
            format!(" AND colcrypt.ciphertext_version({name}, {key}) IS DISTINCT FROM {version}")
        });
        format!("({stale}){}", readable.collect::<String>())
    }

    fn stale_or_lost(&self) -> String {
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
    pub fn moves(&self, value: VersionId) -> bool {
        let older =
            value.key == self.key && i64::from(value.version.number()) < i64::from(self.target);
        (older || self.from_keys.contains(&value.key.bigint())) && !self.is_lost(value)
    }

    /// The key that a value goes to, or stays under and is bound anew; none of a value that is not the job's.
    ///
    /// # Errors
    /// Of the catalog.
    pub fn target_of(&self, value: VersionId) -> Result<Option<KeyId>> {
        if self.is_lost(value) {
            return Ok(None);
        }
        if let Some(keyring) = self.keyring {
            return match read::key_by_id(value.key) {
                Ok(key) => Ok((key.keyring == keyring).then_some(key.id)),
                Err(Error::UnknownKeyId(_)) => Ok(None),
                Err(error) => Err(error),
            };
        }
        let is_its = self.moves(value) || self.rebinds && value.key == self.key;
        Ok(is_its.then_some(self.key))
    }

    /// Whether nobody can read the value any more, as was ordered: there is nothing to do for it.
    pub fn is_lost(&self, value: VersionId) -> bool {
        let id = (value.key.bigint(), value.version.int());
        self.shredded.contains(&id)
    }

    /// Whether its values are bound to nothing, and stay so.
    pub fn is_unbound(&self) -> bool {
        self.context.is_none() && !self.rebinds
    }

    /// Whether the context may be code of the table's owner.
    pub fn runs_code(&self) -> bool {
        let context = self.context.as_deref();
        context.is_some_and(|context| !place::parse(context).is_some_and(|place| place.is_plain))
    }

    /// Whether there is an expression of the owner's that may name the table.
    pub fn has_own_words(&self) -> bool {
        self.runs_code() || self.key_expression.is_some()
    }

    /// Whether a value goes where others may read it, or open it elsewhere.
    pub fn crosses(&self, value: VersionId) -> bool {
        self.from_keys.contains(&value.key.bigint())
    }

    /// Refuses a value that may have been put here from another table, unless the order covers such.
    pub fn refuse_unplaced(&self, value: &Value<'_>, context: &[u8]) -> Result<()> {
        if self.accepts_unplaced || reseal::is_placed(value, context, self.label.as_deref()) {
            return Ok(());
        }
        Err(Error::ValueUnplaced)
    }

    /// Under the column's key and that key's current version, and bound as it shall be; none when it is so already.
    pub fn sealed(
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

/// Columns of a leaf that is held, as a scan finds their values.
pub struct Scanned<'a>(Vec<(&'a MovedColumn, i16)>);

impl<'a> Scanned<'a> {
    /// # Errors
    /// When a column is not a ciphertext's (any more).
    pub fn of(held: &Held, columns: &'a [MovedColumn]) -> Result<Self> {
        let numbered = columns.iter().map(|column| {
            let attribute = held.ciphertext_attribute(&column.attribute)?;
            Ok((column, attribute.number))
        });
        numbered.collect::<Result<_>>().map(Self)
    }

    /// Each with its attribute's number.
    pub fn columns(&self) -> impl Iterator<Item = (&'a MovedColumn, i16)> {
        self.0.iter().copied()
    }

    /// The value that a row has there, if it is to be moved.
    ///
    /// # Errors
    /// Of a value's header.
    pub fn stale_value(
        &self,
        row: &Row,
        column: &MovedColumn,
        number: i16,
    ) -> Result<Option<pg_sys::Datum>> {
        let Some(value) = row.value(number) else {
            return Ok(None);
        };
        // SAFETY: the attribute is a ciphertext's, of a table that is held.
        let (key, version) = unsafe { scan::version_of(value)? };
        Ok(column.moves(VersionId { key, version }).then_some(value))
    }

    /// Whether any of them is to be moved.
    ///
    /// # Errors
    /// Of a value's header.
    pub fn is_stale(&self, row: &Row) -> Result<bool> {
        for (column, number) in self.columns() {
            if self.stale_value(row, column, number)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The columns that other jobs have yet to move in the same table.
pub fn others(job: &Job) -> Result<Vec<MovedColumn>> {
    // Its rows are few, and those of other keys of the same column are not among them.
    if job.by_row {
        return Ok(Vec::new());
    }
    spi::query(
        &format!(
            "SELECT j.attribute::text, j.key_id, j.target_version, j.from_keys, c.context, j.label, j.accept_unplaced, {SHREDDED} \
             FROM colcrypt.job j JOIN colcrypt.protected_column c USING (relation, attribute) \
             JOIN pg_attribute p ON p.attrelid = j.relation AND p.attname = j.attribute AND NOT p.attisdropped \
             WHERE j.relation = $1::oid::regclass AND j.job_id <> $2 AND j.finished_at IS NULL AND NOT j.paused \
               AND j.phase IN ('queued', 'moving') AND j.fire_triggers = $3 AND NOT j.rebinds AND NOT j.verifies AND NOT j.by_row"
        ),
        &[job.table.into(), job.id.into(), job.fires_triggers.into()],
        |row| {
            Ok(MovedColumn {
                attribute: row.get::<String>(1)?.unwrap_or_default(),
                key: KeyId::of_bigint(row.get::<i64>(2)?.unwrap_or_default()),
                keyring: None,
                key_expression: None,
                target: row.get(3)?.unwrap_or_default(),
                from_keys: row.get::<Vec<i64>>(4)?.unwrap_or_default(),
                context: row.get::<String>(5)?,
                rebinds: false,
                verifies: false,
                label: row.get(6)?,
                accepts_unplaced: row.get::<bool>(7)?.unwrap_or_default(),
                shredded: pairs(row.get(8)?, row.get(9)?),
            })
        },
    )
}
