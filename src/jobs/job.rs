//! The table `job`: read, and how far a job got.

use colcrypt_core::KeyringId;
use colcrypt_domain::backoff;
use colcrypt_domain::phase::Phase;
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::jobs::lane::Lane;
use crate::server::txn::Next;
use crate::server::{clock, relation, spi};

/// How `held_by` begins where a key is waited for.
const FOR_A_KEY: &str = "key: ";

#[derive(Clone)]
pub struct Job {
    pub id: i64,
    pub table: pg_sys::Oid,
    pub attribute: String,
    /// Of no key where it is about all of a keyring.
    pub key: i64,
    pub target: i32,
    /// Other keys whose values go to this one.
    pub from_keys: Vec<i64>,
    /// Versions of these keys, by key id and number, that are destroyed, or will be, although values are under
    /// them: such values are passed by.
    pub shredded: Vec<(i64, i32)>,
    pub phase: Phase,
    pub leaf: Option<pg_sys::Oid>,
    pub next_block: i64,
    pub rows_failed: i64,
    /// How often the table was gone through, this time counted.
    pub passes: i32,
    pub tries: i32,
    pub context: Option<String>,
    pub registered: bool,
    /// Rows under a compromised version: no brake holds it.
    pub urgent: bool,
    pub fires_triggers: bool,
    pub held_by: Option<String>,
    pub due: bool,
    /// Whether it encrypts or decrypts a column in place.
    pub migrates: bool,
    /// Whether it makes or drops the terms of a search index: its attribute is their companion.
    pub searches: bool,
    /// Whether it binds values to another context.
    pub rebinds: bool,
    /// Whether it only opens values.
    pub verifies: bool,
    /// Whether it is about a column whose rows have keys of their own: about one of these, or about all of `keyring`.
    pub by_row: bool,
    pub keyring: Option<KeyringId>,
    /// What names the key of a row, where rows have their own.
    pub key_expression: Option<String>,
    /// The label that values are bound to when they go to another key or context, and whether others go too.
    pub label: Option<String>,
    pub accepts_unplaced: bool,
    /// The table's, as it is now.
    pub owner: pg_sys::Oid,
}

/// The lanes in which a job is due, or will be soon.
///
/// # Errors
/// Of SPI.
pub fn lanes_with_work() -> Result<Vec<Lane>> {
    let found = spi::look(
        &format!(
            "SELECT DISTINCT priority > 0 FROM colcrypt.job WHERE finished_at IS NULL AND NOT paused AND {}",
            clock::is_over("(retry_at - interval '30 seconds')", backoff::OF_JOBS)
        ),
        &[],
        |row| row.get::<bool>(1),
    )?;
    Ok(found.into_iter().flatten().map(Lane::of_job).collect())
}

/// Two columns of SQL over `colcrypt.job j`, which [`pairs`] takes: the key versions that its values may be under and
/// that are destroyed although they are.
pub const SHREDDED: &str = "\
    (SELECT array_agg(v.key_id ORDER BY v.key_id, v.version) FROM colcrypt.key_version v \
     WHERE v.key_id = ANY (j.from_keys || j.key_id) AND v.shreds), \
    (SELECT array_agg(v.version ORDER BY v.key_id, v.version) FROM colcrypt.key_version v \
     WHERE v.key_id = ANY (j.from_keys || j.key_id) AND v.shreds)";

/// Key ids with the version numbers at the same places.
pub fn pairs(keys: Option<Vec<i64>>, versions: Option<Vec<i32>>) -> Vec<(i64, i32)> {
    let keys = keys.unwrap_or_default().into_iter();
    keys.zip(versions.unwrap_or_default()).collect()
}

/// The same of all keys of a keyring.
fn shredded_of(keyring: KeyringId) -> Result<Vec<(i64, i32)>> {
    spi::look(
        "SELECT v.key_id, v.version FROM colcrypt.key k JOIN colcrypt.key_version v USING (key_id) \
         WHERE k.keyring_id = $1 AND v.shreds",
        &[pgrx::Uuid::from_bytes(keyring.0).into()],
        |row| {
            Ok((
                row.get::<i64>(1)?.unwrap_or_default(),
                row.get::<i32>(2)?.unwrap_or_default(),
            ))
        },
    )
}

/// DROP EXTENSION locks our tables before those that have a column of our type. In the same order here,
/// it waits for the batch that is under way, and nobody waits in a circle.
pub fn lock_jobs() -> Result<()> {
    spi::execute("LOCK TABLE colcrypt.job IN ROW EXCLUSIVE MODE", &[])?;
    Ok(())
}

impl Job {
    /// The lane's job that comes next, in turn after the job that had the last one. Those of `owners` go behind the
    /// others, and those that rest move nothing; those that wait for old transactions go before all others where they
    /// are to be looked at, else behind them; of several that wait, the one that began first has the fewest to wait
    /// for.
    pub fn next(
        lane: Lane,
        after: i64,
        owners: Vec<pg_sys::Oid>,
        resting: Vec<i64>,
        looks_at_waiting: bool,
    ) -> Result<Option<Self>> {
        let moving: Vec<String> = Phase::ALL
            .into_iter()
            .filter(|phase| phase.moves_rows())
            .map(|phase| phase.name().into())
            .collect();
        let mut jobs = spi::look(
            &format!(
                "SELECT j.job_id, j.relation::oid, j.attribute::text, j.key_id, j.target_version, j.phase, \
                            j.current_relation, j.next_block, j.rows_failed, j.tries, c.context, \
                            c.relation IS NOT NULL AND p.attrelid IS NOT NULL AND (c.key_expression IS NOT NULL) = j.by_row \
                                AND (j.keyring_id IS NULL OR j.keyring_id IS NOT DISTINCT FROM c.keyring_id), j.priority > 0, j.fire_triggers, j.held_by, \
                            {} \
                                AND NOT (j.job_id = ANY ($4) AND j.phase = ANY ($5)) AS due, \
                            EXISTS (SELECT FROM colcrypt.migration m WHERE m.job_id = j.job_id), j.passes, j.from_keys, \
                            j.rebinds, j.label, j.accept_unplaced, o.relowner, {}, j.verifies, j.by_row, \
                            j.keyring_id, c.key_expression, \
                            EXISTS (SELECT FROM colcrypt.search_job s WHERE s.job_id = j.job_id) \
                     FROM colcrypt.job j \
                     LEFT JOIN pg_class o ON o.oid = j.relation \
                     LEFT JOIN colcrypt.protected_column c USING (relation, attribute) \
                     LEFT JOIN pg_attribute p ON p.attrelid = j.relation AND p.attname = j.attribute AND NOT p.attisdropped \
                     WHERE j.finished_at IS NULL AND NOT j.paused AND (j.priority > 0) = $2 \
                     ORDER BY due DESC, $7 AND j.phase = $6 DESC, coalesce(o.relowner = ANY ($3), false), j.phase = $6, \
                              CASE j.phase WHEN $6 THEN j.settle_before END, \
                              j.job_id <= $1, j.job_id LIMIT 1",
                clock::is_over("j.retry_at", backoff::OF_JOBS),
                SHREDDED
            ),
            &[
                after.into(),
                (lane == Lane::Urgent).into(),
                owners.into(),
                resting.into(),
                moving.into(),
                Phase::WaitingForOld.name().into(),
                looks_at_waiting.into(),
            ],
            |row| {
                let (id, phase): (i64, String) = (
                    row.get(1)?.unwrap_or_default(),
                    row.get(6)?.unwrap_or_default(),
                );
                let Ok(phase) = phase.parse() else {
                    let what = format!("job {id} is in phase {phase:?}");
                    return Ok(Err(Error::CatalogCorrupt(what)));
                };
                Ok(Ok(Self {
                    id,
                    table: row.get(2)?.unwrap_or(pg_sys::Oid::INVALID),
                    attribute: row.get(3)?.unwrap_or_default(),
                    key: row.get(4)?.unwrap_or_default(),
                    target: row.get(5)?.unwrap_or_default(),
                    phase,
                    leaf: row.get(7)?,
                    next_block: row.get(8)?.unwrap_or_default(),
                    rows_failed: row.get(9)?.unwrap_or_default(),
                    tries: row.get(10)?.unwrap_or_default(),
                    context: row.get(11)?,
                    registered: row.get(12)?.unwrap_or_default(),
                    urgent: row.get(13)?.unwrap_or_default(),
                    fires_triggers: row.get(14)?.unwrap_or_default(),
                    held_by: row.get(15)?,
                    due: row.get(16)?.unwrap_or_default(),
                    migrates: row.get(17)?.unwrap_or_default(),
                    passes: row.get(18)?.unwrap_or_default(),
                    from_keys: row.get(19)?.unwrap_or_default(),
                    rebinds: row.get(20)?.unwrap_or_default(),
                    label: row.get(21)?,
                    accepts_unplaced: row.get(22)?.unwrap_or_default(),
                    owner: row.get(23)?.unwrap_or(pg_sys::Oid::INVALID),
                    shredded: pairs(row.get(24)?, row.get(25)?),
                    verifies: row.get(26)?.unwrap_or_default(),
                    by_row: row.get(27)?.unwrap_or_default(),
                    keyring: row
                        .get::<pgrx::Uuid>(28)?
                        .map(|id| KeyringId(*id.as_bytes())),
                    key_expression: row.get(29)?,
                    searches: row.get(30)?.unwrap_or_default(),
                }))
            },
        )?;
        let Some(job) = jobs.pop().transpose()? else {
            return Ok(None);
        };
        Ok(Some(Self {
            // A registration outlives a change of the column's type.
            registered: job.registered && relation::holds_ciphertext(job.table, &job.attribute),
            shredded: match job.keyring {
                Some(keyring) => shredded_of(keyring)?,
                None => job.shredded,
            },
            ..job
        }))
    }

    /// Whether it is about one key of a column whose rows have keys of their own.
    pub const fn is_of_one_key_by_row(&self) -> bool {
        self.by_row && self.keyring.is_none()
    }

    /// Updates the job's row: `assignments` may use $2, $3, … for `arguments`. A job that was cancelled, or sent
    /// after another version, since it was read is left as it is now: what was found out is about the former one.
    pub fn record<const N: usize>(
        &self,
        assignments: &str,
        arguments: [DatumWithOid; N],
    ) -> Result<()> {
        let mut all: Vec<DatumWithOid> = vec![self.id.into()];
        all.extend(arguments);
        all.extend([self.phase.name().into(), self.target.into()]);
        spi::execute(
            &format!(
                "UPDATE colcrypt.job SET {assignments}, taken = false, deaths = 0 WHERE job_id = $1 AND phase = ${} AND target_version = ${}",
                N + 2,
                N + 3
            ),
            &all,
        )?;
        Ok(())
    }

    /// `held_by` of a job that waits for a key: what keeps that away.
    #[must_use]
    pub fn held_for_a_key(why: &str) -> String {
        format!("{FOR_A_KEY}{why}")
    }

    pub fn is_held_for_a_key(&self) -> bool {
        let held_by = self.held_by.as_deref();
        held_by.is_some_and(|held_by| held_by.starts_with(FOR_A_KEY))
    }

    /// Failed tries in a row that were more than an outage.
    pub fn failures(&self) -> i32 {
        if self.is_held_for_a_key() {
            0
        } else {
            self.tries
        }
    }

    /// Ends the job. One that is done keeps no error of a try before.
    ///
    /// # Errors
    /// Of SPI.
    pub fn finish(&self, phase: Phase, last_error: Option<String>) -> Result<Next> {
        self.record(
            "phase = $2, finished_at = clock_timestamp(), held_by = NULL, last_error = CASE WHEN $4 THEN $3 ELSE coalesce($3, last_error) END",
            [phase.name().into(), last_error.into(), (phase == Phase::Done).into()],
        )?;
        Ok(Next::Again)
    }
}
