//! Rotations by themselves: the view rotation_schedule says which key, when and why; what it says is
//! due is done here, each key in a transaction of its own. One that fails is tried again later, a little
//! later each time, and holds up no other.

use std::cell::Cell;

use colcrypt_domain::backoff;

use crate::error::Result;
use crate::keys::rotation;
use crate::server::txn::{Next, attempt, transaction};
use crate::server::{clock, report, spi};

/// Shortest pause between two looks, for a worker that moves rows all the while.
const PAUSE_MS: i64 = 500;
/// The pause is at least so many times what the look took: a thousand keys take a good part of a second.
const PAUSE_LOOKS: i64 = 30;

thread_local! {
    static LOOK_NEXT_AT: Cell<i64> = const { Cell::new(i64::MIN) };
}

/// Begins the pause after a look that began then.
fn pause_after(began: i64) {
    let now = clock::boottime_ms();
    LOOK_NEXT_AT.set(now + (PAUSE_LOOKS * (now - began)).max(PAUSE_MS));
}

struct Due {
    key: i64,
    name: String,
    why: String,
}

/// Rotates the key that is most overdue.
pub fn step() -> Next {
    let now = clock::boottime_ms();
    if now < LOOK_NEXT_AT.get() {
        return Next::Nothing;
    }
    let due = match attempt(|| due(None)) {
        Ok(Some(due)) => due,
        Ok(None) => {
            pause_after(now);
            return Next::Nothing;
        }
        Err(failed) => return unreadable(now, &failed.message),
    };
    if let Err(failed) = transaction(|| rotate(&due)) {
        pgrx::log!(
            "colcrypt: scheduled rotation of key \"{}\" failed: {failed}",
            due.name
        );
        // Not recorded, it would be tried again at once.
        if attempt(|| postpone(&due, &failed.message)).is_err() {
            pause_after(now);
            return Next::Nothing;
        }
    }
    Next::Again
}

fn unreadable(began: i64, message: &str) -> Next {
    pause_after(began);
    pgrx::log!("colcrypt: the schedule of rotations cannot be read: {message}");
    Next::Nothing
}

fn due(key: Option<i64>) -> Result<Option<Due>> {
    // Times of day are dear to compute: only for keys that may be due by then. The view has a rotation at most a day
    // before a period's last tenth, or last day.
    let mut found = spi::query(
        &format!(
            "SELECT k.key_id, s.key, s.why \
         FROM (SELECT k.key_id, k.name \
               FROM colcrypt.key k \
               JOIN colcrypt.key_version v ON v.key_id = k.key_id AND v.version = k.current_version \
               JOIN colcrypt.key_usage u ON u.key = k.name AND u.version = k.current_version \
               WHERE k.rotation_interval IS NOT NULL OR u.state IN ('rotate', 'refuse') \
                  OR coalesce(v.activated_at, v.created_at) + k.originator_usage_period \
                     - least(k.originator_usage_period / 10, interval '1 day') <= now() + interval '2 days' \
               OFFSET 0) k \
         JOIN colcrypt.rotation_schedule s ON s.key = k.name \
         WHERE s.next_rotation_at <= now() AND {} AND k.key_id = coalesce($1, k.key_id) \
         AND NOT EXISTS (SELECT FROM colcrypt.approval_request a WHERE a.key_id = k.key_id AND a.function = 'activate_key' \
                         AND a.outcome IS NULL AND a.expires_at > clock_timestamp()) \
         ORDER BY s.next_rotation_at, s.key LIMIT 1",
            clock::is_over("s.retry_at", backoff::OF_KEYS)
        ),
        &[key.into()],
        |row| {
            Ok(Due {
                key: row.get(1)?.unwrap_or_default(),
                name: row.get(2)?.unwrap_or_default(),
                why: row.get(3)?.unwrap_or_default(),
            })
        },
    )?;
    Ok(found.pop())
}

/// Any error aborts the transaction: no half of a rotation is committed.
fn rotate(wanted: &Due) {
    let rotated = (|| -> Result<()> {
        spi::execute(
            "SELECT FROM colcrypt.key WHERE key_id = $1 FOR NO KEY UPDATE",
            &[wanted.key.into()],
        )?;
        // Somebody else may have rotated it meanwhile.
        if let Some(due) = due(Some(wanted.key))? {
            rotation::rotate(&due.name, &format!("by schedule: {}", due.why))?;
        }
        spi::execute(
            "DELETE FROM colcrypt.rotation_try WHERE key_id = $1",
            &[wanted.key.into()],
        )?;
        Ok(())
    })();
    if let Err(error) = rotated {
        report::raise(&error);
    }
}

fn postpone(due: &Due, message: &str) -> Result<()> {
    let found = spi::query(
        "SELECT tries FROM colcrypt.rotation_try WHERE key_id = $1 FOR UPDATE",
        &[due.key.into()],
        |row| row.get::<i32>(1),
    )?;
    let tries = found.into_iter().flatten().next().unwrap_or(0);
    spi::execute(
        "INSERT INTO colcrypt.rotation_try AS t (key_id, tries, last_error, retry_at) \
         VALUES ($1, 1, $2, clock_timestamp() + $3 * interval '1 second') \
         ON CONFLICT (key_id) DO UPDATE SET tries = t.tries + 1, last_error = excluded.last_error, \
             retry_at = excluded.retry_at",
        &[
            due.key.into(),
            message.into(),
            backoff::ROTATION.seconds_after(tries).into(),
        ],
    )?;
    Ok(())
}
