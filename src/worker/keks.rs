//! Key encryption keys by themselves: rotated when the view kek_schedule says so, keys wrapped anew that are under a former
//! version, and former versions destroyed. A keyring whose root keys fail is tried again later, a little later each time,
//! and holds up no other.

use std::cell::Cell;

use colcrypt_core::KeyringId;
use colcrypt_domain::backoff;

use crate::error::Result;
use crate::keys::kek_rotation;
use crate::keys::keks::{self, Done, Former};
use crate::server::txn::{Next, all_or_nothing, attempt};
use crate::server::{clock, report, spi};

/// Shortest pause between two looks.
const PAUSE_MS: i64 = 500;
/// The pause is at least so many times what the look took.
const PAUSE_LOOKS: i64 = 30;

thread_local! {
    static LOOK_NEXT_AT: Cell<i64> = const { Cell::new(i64::MIN) };
    /// What the last look left to do, until the next.
    static LEFT: Cell<Next> = const { Cell::new(Next::Nothing) };
}

/// Begins the pause after a look that began then, with this left to do.
fn pause_after(began: i64, left: Next) -> Next {
    let now = clock::boottime_ms();
    LOOK_NEXT_AT.set(now + (PAUSE_LOOKS * (now - began)).max(PAUSE_MS));
    LEFT.set(left);
    left
}

/// What is to be done for one keyring.
enum Task {
    Rewrap(Former),
    Destroy(Former),
    Rotate { keyring: KeyringId, why: String },
}

impl Task {
    fn keyring(&self) -> KeyringId {
        match self {
            Self::Rewrap(former) | Self::Destroy(former) => former.keyring,
            Self::Rotate { keyring, .. } => *keyring,
        }
    }

    fn run(&self) -> Result<Done> {
        match self {
            Self::Rewrap(former) => keks::rewrap_some(former),
            Self::Destroy(former) => keks::destroy(former),
            Self::Rotate { keyring, why } => {
                kek_rotation::rotate(*keyring, Some(&format!("by schedule: {why}")))?;
                kek_rotation::follow_compromise(*keyring)?;
                kek_rotation::forget_tries(*keyring)?;
                Ok(Done::Some)
            }
        }
    }
}

/// A batch of keys wrapped anew for each keyring that has some, a version destroyed, a rotation.
pub fn step() -> Next {
    let now = clock::boottime_ms();
    if now < LOOK_NEXT_AT.get() {
        return LEFT.get();
    }
    let tasks = match attempt(tasks) {
        Ok(tasks) => tasks,
        // The extension is gone, or of another version.
        Err(_) => return pause_after(now, Next::Nothing),
    };
    let (mut is_more, mut is_left) = (false, false);
    for task in tasks {
        match done(&task) {
            Ok(Done::Some) => is_more = true,
            Ok(Done::Held) => is_left = true,
            Err(problem) => {
                pgrx::log!("colcrypt: work on a key encryption key failed: {problem}");
                // Not recorded, it would be tried again at once: so that one waits for the pause, too.
                let _ = attempt(|| postpone(task.keyring(), &problem));
                is_left = true;
            }
        }
    }
    if is_more && !is_left {
        return Next::Again;
    }
    let left = if is_more || is_left || matches!(attempt(is_due_soon), Ok(true)) {
        Next::Soon
    } else {
        Next::Nothing
    };
    pause_after(now, left)
}

/// Any error aborts the transaction: no half of a task is committed. Answers what went wrong, in a line.
fn done(task: &Task) -> std::result::Result<Done, String> {
    match all_or_nothing(|| task.run()) {
        Ok(done) => done.map_err(|error| report::one_line(&error)),
        Err(failed) => Err(failed.message),
    }
}

fn tasks() -> Result<Vec<Task>> {
    let may_be_tried = clock::is_over("t.retry_at", backoff::OF_KEYS);
    // What another server wraps is left to it.
    let is_subscriber = spi::look(
        "SELECT EXISTS (SELECT FROM pg_subscription_rel \
             WHERE srrelid IN ('colcrypt.keyring'::regclass, 'colcrypt.kek_version'::regclass, 'colcrypt.key_version'::regclass))",
        &[],
        |row| row.get::<bool>(1),
    )?;
    if is_subscriber.into_iter().flatten().next() != Some(false) {
        return Ok(Vec::new());
    }
    let mut tasks: Vec<Task> = keks::to_empty(&may_be_tried)?
        .into_iter()
        .map(Task::Rewrap)
        .collect();
    tasks.extend(keks::to_destroy()?.into_iter().map(Task::Destroy));
    let due = spi::look(
        &format!(
            "SELECT r.keyring_id, s.why FROM colcrypt.keyring r JOIN colcrypt.kek_schedule s ON s.keyring = r.name \
             LEFT JOIN colcrypt.kek_try t USING (keyring_id) WHERE s.next_rotation_at <= now() AND {may_be_tried}"
        ),
        &[],
        |row| Ok((spi::at::<pgrx::Uuid>(row, 1)?, spi::at::<String>(row, 2)?)),
    )?;
    tasks.extend(due.into_iter().map(|(keyring, why)| Task::Rotate {
        keyring: KeyringId(*keyring.as_bytes()),
        why,
    }));
    Ok(tasks)
}

/// Whether something falls due, or is tried again, while a worker would stay for it.
fn is_due_soon() -> Result<bool> {
    let soon = spi::look(
        "SELECT EXISTS (SELECT FROM colcrypt.kek_try \
             WHERE retry_at BETWEEN clock_timestamp() AND clock_timestamp() + interval '5 seconds') \
         OR EXISTS (SELECT FROM colcrypt.kek_schedule \
             WHERE next_rotation_at BETWEEN now() AND now() + interval '5 seconds')",
        &[],
        |row| row.get::<bool>(1),
    )?;
    Ok(soon.into_iter().flatten().next() == Some(true))
}

fn postpone(keyring: KeyringId, message: &str) -> Result<()> {
    let id = pgrx::Uuid::from_bytes(keyring.0);
    let found = spi::query(
        "SELECT tries FROM colcrypt.kek_try WHERE keyring_id = $1 FOR UPDATE",
        &[id.into()],
        |row| row.get::<i32>(1),
    )?;
    let tries = found.into_iter().flatten().next().unwrap_or(0);
    spi::execute(
        "INSERT INTO colcrypt.kek_try AS t (keyring_id, tries, last_error, retry_at) \
         VALUES ($1, 1, $2, clock_timestamp() + $3 * interval '1 second') \
         ON CONFLICT (keyring_id) DO UPDATE SET tries = t.tries + 1, last_error = excluded.last_error, \
             retry_at = excluded.retry_at",
        &[
            id.into(),
            message.into(),
            backoff::ROTATION.seconds_after(tries).into(),
        ],
    )?;
    Ok(())
}
