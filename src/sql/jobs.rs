//! Jobs: re-encryptions asked for by hand; any job paused, resumed, cancelled and tried again.

use colcrypt_core::KeyId;
use colcrypt_core::suite::Purpose;
use colcrypt_domain::binding;
use pgrx::{IntoDatum, pg_sys};

use crate::audit::Act;
use crate::catalog::{read, uuid};
use crate::columns::migration::{Kind, Migration};
use crate::columns::registration::Under;
use crate::columns::{place, registered, registration};
use crate::error::{Error, Privilege, Result};
use crate::jobs::wake;
use crate::rights;
use crate::server::call::Call;
use crate::server::{spi, txn, varlena};
use crate::sql::entry::sql_functions;

/// What there is to do instead where each row has a key of its own.
const BY_ROW: &str = "Rotate the key of the rows that are to move (colcrypt.rotate_key). Values go to another key when their rows are written through the access view.";

fn reencrypt_column(call: Call) -> Result<pg_sys::Datum> {
    let (table, attribute) = registered::target(call)?;
    // SAFETY: declared as boolean.
    let fire_triggers = unsafe { call.get::<bool>(2) }.unwrap_or(false);
    let key = registration::managed_column(table, &attribute, BY_ROW)?;
    let jobs = spi::query(
        "INSERT INTO colcrypt.job (relation, attribute, key_id, target_version, fire_triggers) \
         SELECT c.relation, c.attribute, c.key_id, k.current_version, $3 \
         FROM colcrypt.protected_column c JOIN colcrypt.key k USING (key_id) \
         WHERE c.relation = $1::oid::regclass AND c.attribute = $2::text::name \
         ON CONFLICT (relation, attribute) WHERE finished_at IS NULL AND NOT verifies AND NOT by_row \
         DO UPDATE SET target_version = EXCLUDED.target_version, fire_triggers = EXCLUDED.fire_triggers, \
                       retry_at = NULL, tries = 0 \
         RETURNING job_id",
        &[table.into(), attribute.clone().into(), fire_triggers.into()],
        |row| row.get::<i64>(1),
    )?;
    let Some(Some(job)) = jobs.into_iter().next() else {
        return Err(registration::not_registered(table, &attribute)?);
    };
    wake::wake_at_commit();
    Act::new("reencrypt_column")
        .key(&key)
        .relation(table)
        .detail(attribute)
        .record()?;
    Ok(job.into_datum().expect("a number has a datum"))
}

fn verify_column(call: Call) -> Result<pg_sys::Datum> {
    let (table, attribute) = registered::target(call)?;
    // Where rows have keys of their own, whoever manages the keyring may look at all of them.
    let under = registration::managed(table, &attribute)?;
    let jobs = spi::query(
        "INSERT INTO colcrypt.job (relation, attribute, key_id, keyring_id, by_row, target_version, verifies) \
         SELECT c.relation, c.attribute, c.key_id, CASE WHEN c.key_id IS NULL THEN c.keyring_id END, c.key_id IS NULL, \
                coalesce(k.current_version, 0), true \
         FROM colcrypt.protected_column c LEFT JOIN colcrypt.key k USING (key_id) \
         WHERE c.relation = $1::oid::regclass AND c.attribute = $2::text::name \
         ON CONFLICT (relation, attribute) WHERE finished_at IS NULL AND verifies DO UPDATE SET retry_at = NULL, tries = 0 \
         RETURNING job_id",
        &[table.into(), attribute.clone().into()],
        |row| row.get::<i64>(1),
    )?;
    let Some(Some(job)) = jobs.into_iter().next() else {
        return Err(registration::not_registered(table, &attribute)?);
    };
    wake::wake_at_commit();
    let detail = match under.keyring() {
        None => attribute,
        Some(keyring) => format!("{attribute}, under keys of keyring {}", keyring.name),
    };
    under
        .act("verify_column")
        .relation(table)
        .detail(detail)
        .record()?;
    Ok(job.into_datum().expect("a number has a datum"))
}

fn move_column(call: Call) -> Result<pg_sys::Datum> {
    let (table, attribute) = registered::target(call)?;
    let to = read::key_by_name(&call.text(2, "key")?)?;
    to.require(Purpose::Values)?;
    // SAFETY: declared as boolean.
    let fire_triggers = unsafe { call.get::<bool>(3) }.unwrap_or(false);
    // SAFETY: as above.
    let accepts = unsafe { call.get::<bool>(4) }.unwrap_or(false);
    let from = registration::managed_column(table, &attribute, BY_ROW)?;
    rights::require(&to, Privilege::Manage)?;
    // Whoever may decrypt with the new key will read the values: it is a grant in other words.
    for key in registration::keys_of_values(table, &attribute)? {
        if key.id != to.id {
            registration::refuse_way_out(&key)?;
        }
    }
    let registered = registration::registered(table, &attribute)?;
    let context = registered.and_then(|(bound, _)| bound.context);
    let place = place::place_bound(context.as_deref());
    let unplaced = place::unplaced(table, &attribute, place.as_ref())?;
    let accepted = binding::accepted(unplaced, accepts, &attribute)?;
    spi::execute(
        "UPDATE colcrypt.protected_column SET key_id = $3 WHERE relation = $1::oid::regclass AND attribute = $2::text::name",
        &[
            table.into(),
            attribute.clone().into(),
            to.id.bigint().into(),
        ],
    )?;
    // An open job goes on to the new key. Asked for again after it was cancelled or failed, it takes what is left.
    let jobs = spi::query(
        "WITH last AS ( \
             SELECT from_keys, key_id FROM colcrypt.job \
             WHERE relation = $1::oid::regclass AND attribute = $2::text::name AND NOT verifies ORDER BY job_id DESC LIMIT 1), \
         former AS ( \
             SELECT array_agg(DISTINCT k.key_id) AS keys \
             FROM (SELECT $4 UNION ALL SELECT unnest(from_keys) FROM last UNION ALL SELECT key_id FROM last) AS k(key_id) \
             WHERE k.key_id <> $3) \
         INSERT INTO colcrypt.job (relation, attribute, key_id, target_version, from_keys, fire_triggers, label, accept_unplaced) \
         SELECT $1::oid::regclass, $2::text::name, $3, $5, coalesce(keys, '{}'), $6, $7, $8 FROM former \
         ON CONFLICT (relation, attribute) WHERE finished_at IS NULL AND NOT verifies AND NOT by_row \
         DO UPDATE SET key_id = EXCLUDED.key_id, target_version = EXCLUDED.target_version, from_keys = EXCLUDED.from_keys, \
                       label = EXCLUDED.label, accept_unplaced = EXCLUDED.accept_unplaced, \
                       fire_triggers = EXCLUDED.fire_triggers, phase = 'queued', retry_at = NULL, tries = 0 \
         RETURNING job_id",
        &[
            table.into(),
            attribute.clone().into(),
            to.id.bigint().into(),
            from.id.bigint().into(),
            to.current.int().into(),
            fire_triggers.into(),
            place.map(|place| place.label).into(),
            accepts.into(),
        ],
        |row| row.get::<i64>(1),
    )?;
    let Some(Some(job)) = jobs.into_iter().next() else {
        return Err(registration::not_registered(table, &attribute)?);
    };
    wake::wake_at_commit();
    Act::new("move_column")
        .key(&to)
        .relation(table)
        .detail(format!("{attribute}, from key {}{accepted}", from.name))
        .record()?;
    Ok(job.into_datum().expect("a number has a datum"))
}

/// A job, locked, whose column the caller may order moved.
struct Managed {
    id: i64,
    table: pg_sys::Oid,
    attribute: String,
    under: Under,
    phase: String,
    paused: bool,
    open: bool,
    /// Whether it only opens values.
    verifies: bool,
    /// Whether it is about a search index, and only drops it.
    searches: bool,
    drops: bool,
    /// What it does, when it is no re-encryption.
    migration: Option<Migration>,
}

impl Managed {
    fn find(call: Call) -> Result<Self> {
        // SAFETY: declared as bigint.
        let id = unsafe { call.get::<i64>(0) }.ok_or(Error::NullArgument("job"))?;
        let found = spi::query(
            "SELECT relation::oid, j.attribute::text, phase, paused, finished_at IS NULL, verifies, \
                    CASE WHEN by_row OR s.job_id IS NOT NULL THEN key_id END, keyring_id, s.job_id IS NOT NULL, coalesce(s.drops, false) \
             FROM colcrypt.job j LEFT JOIN colcrypt.search_job s USING (job_id) WHERE job_id = $1 FOR NO KEY UPDATE OF j",
            &[id.into()],
            |row| {
                Ok((
                    row.get::<pg_sys::Oid>(1)?.unwrap_or(pg_sys::Oid::INVALID),
                    row.get::<String>(2)?.unwrap_or_default(),
                    row.get::<String>(3)?.unwrap_or_default(),
                    row.get::<bool>(4)?.unwrap_or_default(),
                    row.get::<bool>(5)?.unwrap_or_default(),
                    row.get::<bool>(6)?.unwrap_or_default(),
                    row.get::<i64>(7)?,
                    row.get::<pgrx::Uuid>(8)?,
                    (
                        row.get::<bool>(9)?.unwrap_or_default(),
                        row.get::<bool>(10)?.unwrap_or_default(),
                    ),
                ))
            },
        )?;
        let Some((table, attribute, phase, paused, open, verifies, of_rows, keyring, of_search)) =
            found.into_iter().next()
        else {
            return Err(Error::UnknownObject {
                what: "job",
                name: id.to_string(),
            });
        };
        let migration = Migration::of_job(id)?;
        registration::refuse_foreign_table(table)?;
        let under = match (&migration, of_rows, keyring) {
            (Some(migration), ..) => Under::Key(migration.key()?),
            (None, Some(key), _) => Under::Key(read::key_by_id(KeyId::of_bigint(key))?),
            (None, None, Some(keyring)) => {
                Under::Rows(read::keyring_by_id(uuid::keyring_id(keyring))?)
            }
            (None, None, None) => match registration::under(table, &attribute)? {
                Some(under @ Under::Key(_)) => under,
                _ => return Err(registration::not_registered(table, &attribute)?),
            },
        };
        under.require_manage()?;
        Ok(Self {
            id,
            table,
            attribute,
            under,
            phase,
            paused,
            open,
            verifies,
            searches: of_search.0,
            drops: of_search.1,
            migration,
        })
    }

    /// Whether the terms that it makes are made only once somebody who manages the column's key, too, orders it.
    fn awaits_order(&self) -> Result<bool> {
        let waits = spi::query(
            "SELECT i.awaits_order FROM colcrypt.search_job s JOIN colcrypt.search_index i USING (search_index_id) WHERE s.job_id = $1",
            &[self.id.into()],
            |row| spi::at::<bool>(row, 1),
        )?;
        Ok(waits.contains(&true))
    }

    fn must_be_open(&self) -> Result<()> {
        if self.open {
            return Ok(());
        }
        let function = match &self.migration {
            None if self.verifies => "verify_column",
            None if self.drops => "drop_search_index",
            None if self.searches => "create_search_index",
            None => "reencrypt_column",
            Some(migration) => migration.kind.function(),
        };
        Err(self.refused(&format!("colcrypt.{function} queues a new one.")))
    }

    fn refused(&self, hint: &str) -> Error {
        Error::JobState {
            job: self.id,
            phase: self.phase.clone(),
            hint: hint.into(),
        }
    }

    /// Refuses to let go on what takes values out from under a key whose keyring asks for four eyes by now.
    fn refuse_way_out(&self) -> Result<()> {
        let from = spi::query(
            "SELECT unnest(from_keys) FROM colcrypt.job WHERE job_id = $1 \
             UNION SELECT key_id FROM colcrypt.migration WHERE job_id = $1 AND kind = 'decrypt'",
            &[self.id.into()],
            |row| row.get::<i64>(1),
        )?;
        for id in from.into_iter().flatten() {
            registration::refuse_way_out(&read::key_by_id(KeyId::of_bigint(id))?)?;
        }
        Ok(())
    }

    fn update(&self, assignments: &str) -> Result<()> {
        spi::execute(
            &format!("UPDATE colcrypt.job SET {assignments} WHERE job_id = $1"),
            &[self.id.into()],
        )?;
        Ok(())
    }

    fn record(&self, verb: &'static str) -> Result<()> {
        self.under
            .act(verb)
            .relation(self.table)
            .detail(format!("job {}: {}", self.id, self.attribute))
            .record()
    }
}

fn pause_job(call: Call) -> Result<pg_sys::Datum> {
    let job = Managed::find(call)?;
    job.must_be_open()?;
    if !job.paused {
        job.update("paused = true")?;
        job.record("pause_job")?;
    }
    varlena::varlena_from(b"paused")
}

fn resume_job(call: Call) -> Result<pg_sys::Datum> {
    let job = Managed::find(call)?;
    job.must_be_open()?;
    if job.paused {
        job.refuse_way_out()?;
        job.update("paused = false, retry_at = NULL")?;
        job.record("resume_job")?;
        wake::wake_at_commit();
    }
    varlena::varlena_from(b"resumed")
}

fn cancel_job(call: Call) -> Result<pg_sys::Datum> {
    let job = Managed::find(call)?;
    if let Some(migration) = &job.migration {
        return cancel_migration(&job, migration);
    }
    if job.searches {
        return cancel_search(&job);
    }
    job.must_be_open()?;
    job.update(
        "phase = 'cancelled', paused = false, held_by = NULL, finished_at = clock_timestamp()",
    )?;
    job.record("cancel_job")?;
    varlena::varlena_from(b"cancelled")
}

/// The worker takes back what was done so far, which needs a lock that nobody is to wait for here.
fn cancel_migration(job: &Managed, migration: &Migration) -> Result<pg_sys::Datum> {
    if job.phase != "failed" {
        job.must_be_open()?;
    }
    match job.phase.as_str() {
        "queued" => job.update("phase = 'cancelled', paused = false, held_by = NULL, finished_at = clock_timestamp()")?,
        "moving" | "verifying" | "swapping" | "cancelling" | "failed" => job.update(
            "phase = 'cancelling', paused = false, held_by = NULL, finished_at = NULL, tries = 0, retry_at = NULL",
        )?,
        _ => {
            return Err(job.refused(match migration.kind {
                Kind::Encrypt => "The old column is gone; colcrypt.decrypt_column is the way back.",
                Kind::Decrypt => "The old column is gone; colcrypt.encrypt_column is the way back.",
            }));
        }
    }
    wake::wake_at_commit();
    job.record("cancel_job")?;
    varlena::varlena_from(b"cancelled")
}

/// The same of a search index that is being made. What is dropped is not used any more.
fn cancel_search(job: &Managed) -> Result<pg_sys::Datum> {
    if job.phase != "failed" {
        job.must_be_open()?;
    }
    if job.drops {
        return Err(
            job.refused("No query uses what it drops; colcrypt.create_search_index makes another.")
        );
    }
    job.update("phase = 'cancelling', paused = false, held_by = NULL, finished_at = NULL, tries = 0, retry_at = NULL")?;
    wake::wake_at_commit();
    job.record("cancel_job")?;
    varlena::varlena_from(b"cancelled")
}

fn retry_job(call: Call) -> Result<pg_sys::Datum> {
    let job = Managed::find(call)?;
    if job.open || job.phase != "failed" {
        return Err(job.refused("Only a job that failed can be tried again."));
    }
    job.refuse_way_out()?;
    if job.awaits_order()? {
        return Err(job.refused(
            "Rows have come that nobody who may read them answers for: colcrypt.create_search_index orders their terms.",
        ));
    }
    let others = spi::query(
        "SELECT o.job_id FROM colcrypt.job o JOIN colcrypt.job j USING (relation, attribute, verifies) \
         WHERE j.job_id = $1 AND o.finished_at IS NULL AND NOT (j.by_row AND o.by_row AND o.key_id IS DISTINCT FROM j.key_id)",
        &[job.id.into()],
        |row| row.get::<i64>(1),
    )?;
    if let Some(Some(other)) = others.first() {
        return Err(job.refused(&format!("Job {other} is at this column already.")));
    }
    if job.verifies || job.searches {
        // Nothing was written, or what was is found: it begins anew.
        job.update("phase = 'queued', finished_at = NULL, retried_at = clock_timestamp(), tries = 0, retry_at = NULL")?;
        wake::wake_at_commit();
        job.record("retry_job")?;
        return varlena::varlena_from(b"queued");
    }
    if job.migration.is_some() {
        // What is out of step is found, and tried, by reading all of it again.
        job.update(
            "phase = CASE WHEN EXISTS (SELECT FROM colcrypt.migration m WHERE m.job_id = job.job_id AND m.swapped_in IS NOT NULL) \
                 THEN 'scrubbing' ELSE 'moving' END, \
             current_relation = NULL, next_block = 0, blocks_done = 0, rows_failed = 0, \
             finished_at = NULL, retried_at = clock_timestamp(), tries = 0, retry_at = NULL",
        )?;
        wake::wake_at_commit();
        job.record("retry_job")?;
        return varlena::varlena_from(b"queued");
    }
    job.update(&format!(
        "phase = 'retrying', finished_at = NULL, retried_at = clock_timestamp(), tries = 0, retry_at = NULL, \
         target_version = coalesce((SELECT k.current_version FROM colcrypt.key k WHERE k.key_id = job.key_id), target_version), \
         settle_before = clock_timestamp(), settle_transactions = {}, settle_prepared = NULL",
        txn::RUNNING_TRANSACTIONS
    ))?;
    spi::execute(
        "UPDATE colcrypt.job_error SET again = true WHERE job_id = $1",
        &[job.id.into()],
    )?;
    wake::wake_at_commit();
    job.record("retry_job")?;
    varlena::varlena_from(b"queued")
}

sql_functions! {
    Decides {
        cancel_job => cancel_job;
        move_column => move_column;
        pause_job => pause_job;
        reencrypt_column => reencrypt_column;
        resume_job => resume_job;
        retry_job => retry_job;
        verify_column => verify_column;
    }
}
