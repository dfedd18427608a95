//! The time between the order of a destruction and the destruction, by the server's own running time: a clock that is
//! set forward shortens nothing. It is recorded now and then; what a stop or a crash loses of it only makes the wait
//! longer.

use colcrypt_core::{KeyState, VersionId};

use crate::error::Result;
use crate::server::{clock, spi};

/// This run of the server, in SQL: no other has begun in the same microsecond.
const RUN: &str = "extract(epoch FROM pg_postmaster_start_time())::text";

/// How long the server has run since the order, in microseconds, as SQL over `colcrypt.destruction_wait w`, which may
/// be missing or of another order: one that came by replication, too, takes its own time here. `destroy_at` is the
/// order's, `now` the parameter with [`clock::boottime_us`].
fn ran(destroy_at: &str, now: &str) -> String {
    format!(
        "CASE WHEN w.destroy_at IS NOT DISTINCT FROM {destroy_at} \
              THEN coalesce(w.ran_us + CASE WHEN w.run = {RUN} AND w.at_us <= {now} THEN {now} - w.at_us ELSE 0 END, 0) \
              ELSE 0 END"
    )
}

/// How much of the window is left by that time, in microseconds, as SQL over `colcrypt.key_version v` and that table.
pub fn left(now: &str) -> String {
    format!(
        "((extract(epoch FROM v.destroy_at - v.state_changed_at) * 1000000)::bigint - {})",
        ran("v.destroy_at", now)
    )
}

/// Begins to count for a destruction that is ordered now.
///
/// # Errors
/// Of SPI.
pub fn begin(id: VersionId) -> Result<()> {
    spi::execute(
        &format!(
            "INSERT INTO colcrypt.destruction_wait (key_id, version, ran_us, run, at_us, destroy_at) \
             SELECT v.key_id, v.version, 0, {RUN}, $3, v.destroy_at FROM colcrypt.key_version v WHERE v.key_id = $1 AND v.version = $2 \
             ON CONFLICT (key_id, version) DO UPDATE SET ran_us = 0, run = excluded.run, at_us = excluded.at_us, destroy_at = excluded.destroy_at"
        ),
        &[
            id.key.bigint().into(),
            id.version.int().into(),
            clock::boottime_us().into(),
        ],
    )?;
    Ok(())
}

/// Forgets a destruction that was cancelled or is done.
///
/// # Errors
/// Of SPI.
pub fn forget(id: VersionId) -> Result<()> {
    spi::execute(
        "DELETE FROM colcrypt.destruction_wait WHERE key_id = $1 AND version = $2",
        &[id.key.bigint().into(), id.version.int().into()],
    )?;
    Ok(())
}

/// Records the time so far of every destruction that is ordered. One that has no record, of an earlier release or of a
/// restored database, begins now.
///
/// # Errors
/// Of SPI.
pub fn keep() -> Result<()> {
    spi::execute(
        &format!(
            "INSERT INTO colcrypt.destruction_wait AS w (key_id, version, ran_us, run, at_us, destroy_at) \
             SELECT v.key_id, v.version, 0, {RUN}, $1, v.destroy_at FROM colcrypt.key_version v WHERE v.state = $2 AND v.destroy_at IS NOT NULL \
             ON CONFLICT (key_id, version) DO UPDATE SET ran_us = {}, run = excluded.run, at_us = excluded.at_us, destroy_at = excluded.destroy_at",
            ran("excluded.destroy_at", "excluded.at_us")
        ),
        &[
            clock::boottime_us().into(),
            KeyState::DestructionScheduled.name().into(),
        ],
    )?;
    Ok(())
}
