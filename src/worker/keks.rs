//! Key encryption keys by themselves: rotated when the view kek_schedule says so, wrapped under their root keys' newest
//! versions when root_schedule does, keys wrapped anew that are under a former version, and former versions destroyed.
//! A keyring whose root keys fail is tried again later, a little later each time, and holds up no other.

use std::cell::Cell;

use colcrypt_core::KeyringId;

use crate::catalog::uuid::keyring_id;
use crate::error::Result;
use crate::keys::keks::{self, Done, Former};
use crate::keys::tries::{self, Tried};
use crate::keys::{kek_rotation, node, root_rotation};
use crate::server::txn::{Next, all_or_nothing, attempt};
use crate::server::{clock, report, spi};
use crate::worker::pause::Pause;

thread_local! {
    static PAUSE: Pause = const { Pause::new() };
    /// What the last look left to do, until the next.
    static LEFT: Cell<Next> = const { Cell::new(Next::Nothing) };
}

/// Begins the pause after a look that began then, with this left to do.
fn pause_after(began: i64, left: Next) -> Next {
    PAUSE.with(|pause| pause.begin_after(began));
    LEFT.set(left);
    left
}

/// What is to be done for one keyring.
enum Task {
    Rewrap(Former),
    Destroy(Former),
    Rotate { keyring: KeyringId, why: String },
    RotateRoot(KeyringId),
}

impl Task {
    fn keyring(&self) -> KeyringId {
        match self {
            Self::Rewrap(former) | Self::Destroy(former) => former.keyring,
            Self::Rotate { keyring, .. } | Self::RotateRoot(keyring) => *keyring,
        }
    }

    fn run(&self) -> Result<Done> {
        match self {
            Self::Rewrap(former) => keks::rewrap_some(former),
            Self::Destroy(former) => keks::destroy(former),
            Self::Rotate { keyring, why } => {
                kek_rotation::rotate(*keyring, Some(&format!("by schedule: {why}")))?;
                kek_rotation::follow_compromise(*keyring)?;
                Tried::Keks(*keyring).forget()?;
                Ok(Done::Some)
            }
            Self::RotateRoot(keyring) => {
                root_rotation::take_newest(*keyring, Some("by schedule"))?;
                Tried::Keks(*keyring).forget()?;
                Ok(Done::Some)
            }
        }
    }
}

/// A batch of keys wrapped anew for each keyring that has some, a version destroyed, a rotation.
pub fn step() -> Next {
    let now = clock::boottime_ms();
    if PAUSE.with(Pause::is_on) {
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
                let _ = attempt(|| Tried::Keks(task.keyring()).postpone(&problem));
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
    let may_be_tried = tries::may_be_tried("t");
    if node::follows()?.is_some() {
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
        keyring: keyring_id(keyring),
        why,
    }));
    // After those: a new key encryption key is under the newest versions.
    let due = spi::look(
        &format!(
            "SELECT r.keyring_id FROM colcrypt.keyring r JOIN colcrypt.root_schedule s ON s.keyring = r.name \
             LEFT JOIN colcrypt.kek_try t USING (keyring_id) WHERE s.next_rotation_at <= now() AND {may_be_tried}"
        ),
        &[],
        |row| spi::at::<pgrx::Uuid>(row, 1),
    )?;
    tasks.extend(due.into_iter().map(keyring_id).map(Task::RotateRoot));
    Ok(tasks)
}

/// Whether something falls due, or is tried again, while a worker would stay for it.
fn is_due_soon() -> Result<bool> {
    let soon = spi::look(
        "SELECT EXISTS (SELECT FROM colcrypt.kek_try \
             WHERE retry_at BETWEEN clock_timestamp() AND clock_timestamp() + interval '5 seconds') \
         OR EXISTS (SELECT FROM (SELECT next_rotation_at AS at FROM colcrypt.kek_schedule \
                UNION ALL SELECT next_rotation_at FROM colcrypt.root_schedule) n \
             WHERE n.at BETWEEN now() AND now() + interval '5 seconds')",
        &[],
        |row| row.get::<bool>(1),
    )?;
    Ok(soon.into_iter().flatten().next() == Some(true))
}
