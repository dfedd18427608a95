//! Reading every row, decrypting, and comparing: what a swap rests on.

use colcrypt_domain::backoff;
use colcrypt_domain::phase::Phase;
use colcrypt_domain::verdict::Fate;
use pgrx::pg_sys;

use crate::columns::migration::values::Values;
use crate::columns::migration::{Kind, Migration, ddl, tree};
use crate::columns::moved::Address;
use crate::error::{Error, Result};
use crate::jobs::job::Job;
use crate::server::limit;
use crate::server::relation::{Lock, Named};
use crate::server::roles::AsRole;
use crate::server::selected::{selected, type_changed};
use crate::server::spi::{self, safe_search_path};
use crate::server::txn::{Next, attempt, next_transaction};
use crate::server::varlena::Varlena;
use crate::worker::job::migrate::blocks::{among, from_the_start, through_blocks};
use crate::worker::job::migrate::decrypted::{context_of, refuse_brought};
use crate::worker::job::migrate::rows::{touch, touch_one_by_one};
use crate::worker::job::one_by_one::forget_errors;
use crate::worker::job::progress;
use crate::worker::job::statement::context_at;
use crate::worker::job::step::{fate_of_batch, postpone};

/// Passes of the verification that found rows out of step, after which it says so and takes its time.
const PASSES: i32 = 5;

/// Begins to read all rows, the first time or once more.
pub fn begin(job: &Job, migration: &Migration, passes: i32) -> Result<Next> {
    // A child that came meanwhile has no trigger yet; its rows are the next pass's.
    if ddl::mend(migration)? {
        job.record(&from_the_start(Phase::Moving), [])?;
        return Ok(Next::Again);
    }
    if let Some(why) = tree::out_of_step(migration)? {
        return Err(Error::OutOfStep { why });
    }
    let fence = tree::fence(migration)?;
    let mut origins = match migration.kind {
        // What is not as it was at the order is not decrypted.
        Kind::Decrypt => migration.origins.clone(),
        Kind::Encrypt => known_after_a_pass(&migration.origins, tree::origins(migration)?),
    };
    origins.retain(|line| !line.starts_with(SINCE));
    // Read last: whoever changed what was just looked at is before it.
    origins.push(format!("{SINCE}{}", next_transaction()));
    spi::execute(
        "UPDATE colcrypt.migration SET fence = $2, strays = 0, origins = $3 WHERE job_id = $1",
        &[job.id.into(), fence.into(), origins.into()],
    )?;
    forget_errors(job)?;
    job.record(
        &format!(
            "{}, rows_failed = 0, passes = $2",
            from_the_start(Phase::Verifying)
        ),
        [(passes + 1).into()],
    )?;
    Ok(Next::Again)
}

/// Marks a table that is not as it was known: the coming pass makes all its twins anew.
const REMADE: &str = "remade ";

/// Marks the transaction that comes first after the tables were looked at for the pass: who writes a row from then on
/// finds the trigger there, or leaves a trace. It is not the one that looks: that has its number for some time, in
/// which others may come and go.
const SINCE: &str = "since ";

/// That a row of `t` was written before the pass, as SQL. A number that is half the numbers away counts as older.
fn is_before(migration: &Migration) -> String {
    let mut origins = migration.origins.iter();
    match origins.find_map(|line| line.strip_prefix(SINCE)) {
        Some(since) => format!(
            "(pg_catalog.age(t.xmin) > pg_catalog.age('{since}'::pg_catalog.xid) OR pg_catalog.age(t.xmin) < -1000000000)"
        ),
        None => "true".into(),
    }
}

/// What is known of the tables at the beginning of a pass: one that was changed is marked, and known again if it is the
/// same after the pass.
fn known_after_a_pass(before: &[String], now: Vec<String>) -> Vec<String> {
    now.into_iter()
        .map(|line| {
            let marked = format!("{REMADE}{line}");
            if before.contains(&line) || before.contains(&marked) {
                line
            } else {
                marked
            }
        })
        .collect()
}

/// Has a table that is marked stay so: a row of it was passed by.
fn stays_unknown(migration: &Migration, leaf: pg_sys::Oid) -> Result<()> {
    spi::execute(
        "UPDATE colcrypt.migration SET origins = \
             ARRAY(SELECT line FROM unnest(origins) AS line WHERE NOT starts_with(line, $2)) WHERE job_id = $1",
        &[
            migration.job.into(),
            format!("{REMADE}{} ", leaf.to_u32()).into(),
        ],
    )?;
    Ok(())
}

pub fn verify(job: &Job, migration: &Migration) -> Next {
    let outcome = through_blocks(
        job,
        |place| {
            let found = strays(migration, place)?;
            if found.count > 0 {
                spi::execute(
                    "UPDATE colcrypt.migration SET strays = strays + $2 WHERE job_id = $1",
                    &[job.id.into(), found.count.into()],
                )?;
            }
            if !found.to_touch.is_empty() {
                let touched = touch(migration, place.leaf, &among(&found.to_touch))?;
                if touched < found.to_touch.len() as i64 {
                    stays_unknown(migration, place.leaf)?;
                }
            }
            Ok(0)
        },
        || end(job, migration),
    );
    match outcome {
        Ok(next) => next,
        Err(failed) if fate_of_batch(job, &failed) == Fate::OneByOne => {
            let found = attempt(|| match progress::place(job)? {
                Some(place) => {
                    stays_unknown(migration, place.leaf)?;
                    Ok(Some(among(&strays(migration, &place)?.to_touch)))
                }
                None => Ok(None),
            });
            match found {
                Ok(Some(which)) => touch_one_by_one(job, migration, &which, &failed),
                _ => postpone(job, &failed),
            }
        }
        Err(failed) => postpone(job, &failed),
    }
}

/// Rows whose two columns do not hold the same.
#[derive(Default)]
struct Strays {
    count: i64,
    /// Those that were written before the pass. The pass itself moves what it touches to the table's end: were one that
    /// stays out of step touched again there, the pass would have no end.
    to_touch: Vec<String>,
}

/// The rows of some blocks whose two columns do not hold the same. Whether they do is asked only of twins that nobody
/// but the trigger and the job made: the answer would tell somebody who put another's ciphertext there whether he
/// guessed it.
fn strays(migration: &Migration, place: &progress::BlockRange) -> Result<Strays> {
    let table = Named::take(place.leaf, Lock::Write)?;
    let (plaintext, ciphertext) = migration.plaintext_and_ciphertext();
    let sql = format!(
        "SELECT t.ctid, t.{plaintext}, t.{ciphertext}, {}, {} FROM ONLY {} AS t \
         WHERE {} AND (t.{plaintext} IS NOT NULL OR t.{ciphertext} IS NOT NULL)",
        context_of(migration, &table)?,
        is_before(migration),
        table.sql,
        progress::in_blocks(place)
    );
    let _path = safe_search_path();
    let _role = AsRole::unfiltered(table.owner());
    selected(&sql, true, usize::MAX, |found| {
        if found.type_of(2) != migration.plaintext_type {
            return Err(type_changed());
        }
        found.expect_ciphertext(3)?;
        let is_known = match migration.kind {
            Kind::Encrypt => tree::is_as_known(migration, place.leaf)?,
            Kind::Decrypt => {
                refuse_brought(migration, place.leaf)?;
                true
            }
        };
        // SAFETY: reads a static: the memory of the connection that is open.
        let memory = unsafe { pg_sys::CurrentMemoryContext };
        let values = Values::new(migration, migration.plaintext_type, memory)?;
        let mut strays = Strays::default();
        for at in 0..found.len() {
            let context = context_at(&found, at, 4, migration.context.is_some())?;
            let context = context.as_ref().map_or(&[][..], Varlena::bytes);
            let is_before = found
                .value(at, 5)
                .is_none_or(|is_before| is_before.value() != 0);
            let in_step = match (found.value(at, 2), found.value(at, 3)) {
                (Some(_), Some(_)) if !is_known => !is_before,
                (Some(plaintext), Some(ciphertext)) => {
                    values.agree(plaintext, ciphertext, context)?
                }
                (None, None) => true,
                _ => false,
            };
            strays.count += i64::from(!in_step);
            if !in_step
                && is_before
                && let Some(row) = found.value(at, 1)
            {
                // SAFETY: the statement gives a tid first.
                let address = unsafe { Address::of(row.cast_mut_ptr()) };
                strays.to_touch.push(address.text());
            }
        }
        Ok(strays)
    })
}

fn end(job: &Job, migration: &Migration) -> Result<Next> {
    if job.rows_failed > 0 {
        return job.finish(Phase::Failed, None);
    }
    let found = spi::query(
        "SELECT m.strays, j.passes FROM colcrypt.migration m JOIN colcrypt.job j USING (job_id) WHERE job_id = $1",
        &[job.id.into()],
        |row| {
            Ok((
                row.get::<i64>(1)?.unwrap_or_default(),
                row.get::<i32>(2)?.unwrap_or_default(),
            ))
        },
    )?;
    let (strays, passes) = found.into_iter().next().unwrap_or_default();
    let mut problem = None;
    if strays == 0 {
        // What follows reads the whole table at once.
        limit::allow(progress::size(job)?.blocks);
        problem = ddl::uneven(migration)?;
    }
    if strays == 0 && problem.is_none() {
        ddl::prove_not_null(migration)?;
        job.record(
            &format!("{}, last_error = NULL", from_the_start(Phase::Swapping)),
            [],
        )?;
        return Ok(Next::Again);
    }
    begin(job, migration, passes)?;
    if problem.is_none() && passes >= PASSES {
        let out = Error::OutOfStep { why: String::new() };
        problem = Some(format!(
            "{}: {strays} in pass {passes}",
            out.report().message
        ));
    }
    // Rows that were locked come soon; for others somebody has to do something.
    spi::execute(
        "UPDATE colcrypt.job SET last_error = coalesce($2, last_error), \
             retry_at = clock_timestamp() + $3 * interval '1 second' \
         WHERE job_id = $1",
        &[
            job.id.into(),
            problem.into(),
            backoff::PASS.seconds_after(passes + 1 - PASSES).into(),
        ],
    )?;
    Ok(Next::Again)
}
