//! Columns encrypted or decrypted in place, while the application runs.
//!
//! A *twin* column is added and kept in step by a trigger (`in_step`), a job fills and verifies it, and in one
//! short transaction it takes the column's name and the column is dropped (`ddl`). `survey` tells beforehand
//! what becomes of everything that hangs on the column; `values` is the one place where plaintext and
//! ciphertext meet. The job's phases are in `maintenance::job::migrate`.
//!
//! Who orders a migration is asked for his rights then, and the job and the trigger act on that order: a
//! session that writes the table needs no right on the key until the swap.

pub mod ddl;
pub mod in_step;
pub mod orders;
pub mod survey;
pub mod tree;
pub mod values;

use colcrypt_core::KeyId;
use colcrypt_domain::migration::Pair;
use pgrx::pg_sys;

use crate::catalog::read::{self, Key};
use crate::catalog::scan::{Equals, one};
use crate::error::{Error, Result};
use crate::server::{relation, spi};

pub use colcrypt_domain::migration::Kind;

/// What a migration job has to do.
pub struct Migration {
    pub job: i64,
    pub kind: Kind,
    pub table: pg_sys::Oid,
    pub attribute: String,
    pub twin: String,
    pub key: KeyId,
    pub context: Option<String>,
    /// Of a new column the label in its context; of one that is to be decrypted the one that its values are bound to.
    pub label: Option<String>,
    /// Whether values that are bound to no place are decrypted too.
    pub accepts_unplaced: bool,
    pub plaintext_type: pg_sys::Oid,
    pub declared: String,
    /// The name that an access view takes over from the table, and the table's new one; none without such a view.
    pub names: Option<(String, String)>,
    pub accepted: Vec<String>,
    pub fence: Option<String>,
    /// What the job began with: see [`tree::origins`].
    pub origins: Vec<String>,
}

impl Migration {
    /// The migration of a job, if it is one.
    ///
    /// # Errors
    /// Of the catalog scan.
    pub fn of_job(job: i64) -> Result<Option<Self>> {
        one(
            "migration",
            "migration_pkey",
            &[Equals::int8(1, job)],
            |row| {
                let name = |column: &str| row.optional::<&std::ffi::CStr>(column);
                let text = |value: Option<&std::ffi::CStr>| {
                    value.map(|name| name.to_string_lossy().into_owned())
                };
                let kind: String = row.get("kind")?;
                let kind = kind.parse().map_err(|_| {
                    Error::CatalogCorrupt(format!("job {job} is a migration of kind {kind:?}"))
                })?;
                Ok(Self {
                    job,
                    kind,
                    table: row.get("relation")?,
                    attribute: text(name("attribute")?).unwrap_or_default(),
                    twin: text(name("twin")?).unwrap_or_default(),
                    key: KeyId::of_bigint(row.get("key_id")?),
                    context: row.optional("context")?,
                    label: row.optional("label")?,
                    accepts_unplaced: row.get("accept_unplaced")?,
                    plaintext_type: row.get("plaintext_type")?,
                    declared: row.get("declared")?,
                    names: text(name("view_name")?).zip(text(name("table_name")?)),
                    accepted: row
                        .get::<Vec<Option<String>>>("accepted")?
                        .into_iter()
                        .flatten()
                        .collect(),
                    fence: row.optional("fence")?,
                    origins: row
                        .optional::<Vec<Option<String>>>("origins")?
                        .unwrap_or_default()
                        .into_iter()
                        .flatten()
                        .collect(),
                })
            },
        )
    }

    /// Its key.
    ///
    /// # Errors
    /// When the key is gone.
    pub fn key(&self) -> Result<Key> {
        read::key_by_id(self.key)
    }

    /// The column and its twin.
    pub fn pair(&self) -> Pair<'_> {
        Pair {
            job: self.job,
            kind: self.kind,
            attribute: &self.attribute,
            twin: &self.twin,
        }
    }

    /// See [`Pair::source`].
    pub fn source(&self) -> String {
        self.pair().source()
    }

    /// See [`Pair::quoted_twin`].
    pub fn quoted_twin(&self) -> String {
        self.pair().quoted_twin()
    }

    /// See [`Pair::plaintext_and_ciphertext`].
    pub fn plaintext_and_ciphertext(&self) -> (String, String) {
        self.pair().plaintext_and_ciphertext()
    }

    /// See [`Pair::trigger`].
    pub fn trigger(&self) -> String {
        self.pair().trigger()
    }
}

/// Refuses a second migration of the table.
///
/// # Errors
/// [`Error::MigrationUnderWay`].
pub fn refuse_second(table: pg_sys::Oid) -> Result<()> {
    let others = spi::query(
        "SELECT j.job_id, j.phase FROM colcrypt.job j JOIN colcrypt.migration m USING (job_id) \
         WHERE m.relation = $1::oid::regclass AND (j.finished_at IS NULL OR j.phase = 'failed') LIMIT 1",
        &[table.into()],
        |row| Ok((row.get::<i64>(1)?, row.get::<String>(2)?)),
    )?;
    match others.into_iter().next() {
        None => Ok(()),
        Some((job, phase)) => Err(Error::MigrationUnderWay {
            table: relation::shown(table)?,
            job: job.unwrap_or_default(),
            phase: phase.unwrap_or_default(),
        }),
    }
}
