//! Adds the counts in shared memory to the catalog, in the maintenance worker.
//!
//! What is written is taken off shared memory in the commit's own callback, which nothing interrupts:
//! a worker that is ended before it has counted nothing, one that is ended after it all. A process that
//! is killed takes shared memory with it, so nothing is counted twice.

use std::cell::RefCell;
use std::collections::HashMap;

use pgrx::pg_sys;

use crate::error::Result;
use crate::server::txn::{Next, attempt};
use crate::server::xact::End;
use crate::server::{clock, process, spi};
use crate::settings;
use crate::usage::shared::{self, Unflushed};

struct Written {
    counts: Unflushed,
    totals: Vec<i64>,
    /// When they were read, by the server's clock and by the one that is never set.
    since: i64,
    now: i64,
}

thread_local! {
    static WRITTEN: RefCell<Option<Written>> = const { RefCell::new(None) };
}

/// Flushes when it is time to, or somebody waits for it.
pub fn step() -> Next {
    if !shared::due().contains(&process::my_database().to_u32()) {
        return Next::Nothing;
    }
    if let Err(failed) = attempt(flush) {
        pgrx::log!("colcrypt: the use of keys cannot be recorded: {failed}");
        return Next::Soon;
    }
    Next::Again
}

fn flush() -> Result<()> {
    // Before the counts are read: what comes later waits no longer than it may.
    // SAFETY: reads the clock.
    let (since, now) = (
        unsafe { pg_sys::GetCurrentTimestamp() },
        clock::boottime_us(),
    );
    let counts = shared::unflushed()?;
    write_uses(&counts)?;
    let totals = write_totals(&counts)?;
    compact()?;
    WRITTEN.set(Some(Written {
        counts,
        totals,
        since,
        now,
    }));
    Ok(())
}

fn write_uses(counts: &Unflushed) -> Result<()> {
    let column =
        |value: fn(&shared::Used) -> i64| counts.uses.iter().map(value).collect::<Vec<_>>();
    spi::execute(
        "INSERT INTO colcrypt.usage_count AS c (minute, key_id, version, role, encryptions, decryptions) \
         SELECT date_trunc('minute', timestamptz '2000-01-01 00:00+00' + u.since * interval '1 microsecond'), \
                u.key_id, u.version, \
                coalesce(r.rolname, CASE u.role WHEN 0 THEN '(other)' ELSE format('(dropped role %s)', u.role) END), \
                sum(u.encryptions), sum(u.decryptions) \
         FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[]) \
              AS u(since, key_id, version, role, encryptions, decryptions) \
         LEFT JOIN pg_catalog.pg_roles r ON r.oid::bigint = u.role \
         WHERE u.encryptions > 0 OR u.decryptions > 0 \
         GROUP BY 1, 2, 3, 4 \
         ON CONFLICT (minute, key_id, version, role) DO UPDATE \
         SET encryptions = c.encryptions + excluded.encryptions, decryptions = c.decryptions + excluded.decryptions",
        &[
            column(|used| used.done.since).into(),
            column(|used| used.id.key()).into(),
            column(|used| used.id.version().into()).into(),
            column(|used| used.role.into()).into(),
            column(|used| used.done.encryptions).into(),
            column(|used| used.done.decryptions).into(),
        ],
    )?;
    Ok(())
}

/// The totals that the table holds now, one a version.
fn write_totals(counts: &Unflushed) -> Result<Vec<i64>> {
    let column = |value: fn(&shared::VersionCount) -> i64| {
        counts.versions.iter().map(value).collect::<Vec<_>>()
    };
    let written = spi::query(
        "INSERT INTO colcrypt.version_usage AS t (key_id, version, encryptions) \
         SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS u(key_id, version, encryptions) \
         WHERE u.encryptions > 0 \
         ON CONFLICT (key_id, version) DO UPDATE SET encryptions = t.encryptions + excluded.encryptions \
         RETURNING key_id, version, encryptions",
        &[
            column(|count| count.id.key()).into(),
            column(|count| count.id.version().into()).into(),
            column(|count| count.unflushed).into(),
        ],
        |row| {
            Ok((
                (
                    row.get::<i64>(1)?.unwrap_or_default(),
                    row.get::<i32>(2)?.unwrap_or_default(),
                ),
                row.get::<i64>(3)?.unwrap_or_default(),
            ))
        },
    )?;
    let written: HashMap<_, _> = written.into_iter().collect();
    let total = |count: &shared::VersionCount| {
        let version = (count.id.key(), count.id.version());
        written.get(&version).copied().unwrap_or(0)
    };
    Ok(counts.versions.iter().map(total).collect())
}

/// Minutes that are old enough become days (of UTC), and counts of keys that are gone go.
fn compact() -> Result<()> {
    spi::execute(
        "WITH old AS (\
             DELETE FROM colcrypt.usage_count \
             WHERE NOT whole_day AND minute < date_trunc('day', now(), 'UTC') - $1 * interval '1 day' \
             RETURNING *) \
         INSERT INTO colcrypt.usage_count AS c (minute, key_id, version, role, encryptions, decryptions, whole_day) \
         SELECT date_trunc('day', minute, 'UTC'), key_id, version, role, sum(encryptions), sum(decryptions), true \
         FROM old GROUP BY 1, 2, 3, 4 \
         ON CONFLICT (minute, key_id, version, role) DO UPDATE \
         SET encryptions = c.encryptions + excluded.encryptions, decryptions = c.decryptions + excluded.decryptions",
        &[settings::USAGE_DAYS.get().into()],
    )?;
    Ok(())
}

/// At the end of each transaction: what a worker wrote down is off the counts in memory.
pub fn at_end(end: End) {
    match end {
        End::Commit => {
            if let Some(written) = WRITTEN.take() {
                let Written { since, now, .. } = written;
                shared::subtract(&written.counts, &written.totals, since, now);
            }
        }
        End::Abort => WRITTEN.set(None),
        End::Prepare | End::OfParallelWorker => {}
    }
}
