//! What the verbs of the life cycle do. `colcrypt_core::state` judges; here the outcome is recorded, with
//! who and why, and takes effect: jobs are queued, keys wiped, exposed rows listed.
//!
//! A verb locks its key's row, so that verbs on one key happen one after the other. An [`Order`] is a verb
//! with its arguments, so that one which waits for approval can be carried out later.

use colcrypt_core::state::{Standing, TransitionError, Verb};
use colcrypt_core::{KeyState, VersionId};
use colcrypt_domain::lifecycle::{self, Destruction, Version, Versions};
use pgrx::{PgLogLevel, PgSqlErrorCode, ereport, pg_sys};

use crate::audit::Act;
use crate::catalog::read::{self, Key, KeyVersionRow};
use crate::error::{Error, Result};
use crate::jobs::wake;
use crate::keys::{nodes, version, window, wipe};
use crate::rows::{exposure, holders, lost, terms, unseen};
use crate::server::{clock, key_clock, roles, spi};
use crate::settings;

/// A verb with its arguments.
pub struct Order {
    pub verb: Verb,
    pub key: String,
    /// `None` is what the verb says it is, see [`Versions::targets`].
    pub version: Option<i32>,
    pub reason: Option<String>,
    /// Time until a destruction; `None` is the setting's.
    pub destroy_after_ms: Option<i64>,
    /// Whether a destruction is done although rows need the version.
    pub shred: bool,
}

/// A version that an order is about, and its standing afterwards.
struct Target<'a> {
    row: &'a KeyVersionRow,
    after: Standing,
}

/// The version, as far as the judge asks.
fn judged(row: &KeyVersionRow) -> Version {
    Version {
        number: row.id.version,
        state: row.state,
        former: row.former,
        compromised: row.compromised,
        shreds: false,
    }
}

fn judge(key: &Key, row: &KeyVersionRow, verb: Verb) -> Result<Standing> {
    judged(row)
        .standing(key.current)
        .apply(verb)
        .map_err(refusal(key, row))
}

fn refusal(key: &Key, row: &KeyVersionRow) -> impl FnOnce(TransitionError) -> Error {
    |refused| Error::TransitionRefused {
        key: key.name.clone(),
        version: row.id.version,
        by: row.changed_by.clone(),
        at: clock::timestamp(row.changed_at),
        refused,
    }
}

/// The versions of a key that are destroyed, or will be, although rows need them.
///
/// # Errors
/// Of SPI.
fn shredded(key: &Key) -> Result<Vec<i32>> {
    let versions = spi::query(
        "SELECT version FROM colcrypt.key_version WHERE key_id = $1 AND shreds",
        &[key.id.bigint().into()],
        |row| row.get::<i32>(1),
    )?;
    Ok(versions.into_iter().flatten().collect())
}

/// Who acts, for the record.
fn actor() -> String {
    // SAFETY: reads a static.
    let session = roles::role_name(unsafe { pg_sys::GetSessionUserId() });
    lifecycle::actor(&session, &roles::role_name(roles::current_user()))
}

/// Whether the judge has nothing against an order on one version.
///
/// # Errors
/// An unknown key or version, or one that the current role may not manage.
pub fn may(order: &Order) -> Result<bool> {
    let key = version::lock(&order.key)?;
    let versions = read::key_versions(&key)?;
    match order.targets(&key, &versions) {
        Ok(_) => Ok(true),
        Err(Error::TransitionRefused { .. }) => Ok(false),
        Err(other) => Err(other),
    }
}

/// Records a version's new standing.
fn set_standing(row: &KeyVersionRow, after: Standing, reason: Option<&str>) -> Result<()> {
    spi::execute(
        "UPDATE colcrypt.key_version SET state = $3, former_state = $4, \
            state_changed_at = clock_timestamp(), state_changed_by = $5, state_reason = $6, \
            activated_at = CASE WHEN $3 = 'active' THEN coalesce(activated_at, $8) ELSE activated_at END, \
            deactivated_at = CASE WHEN activated_at IS NOT NULL AND $3 NOT IN ('active', 'suspended') \
                             THEN coalesce(deactivated_at, $8) ELSE deactivated_at END, \
            compromised_at = CASE WHEN $7 THEN coalesce(compromised_at, clock_timestamp()) END, \
            destroy_at = CASE WHEN $3 = 'destruction scheduled' THEN destroy_at END, \
            shreds = $3 = 'destruction scheduled' AND shreds \
         WHERE key_id = $1 AND version = $2",
        &[
            row.id.key.bigint().into(),
            row.id.version.int().into(),
            after.state.name().into(),
            after.former.map(KeyState::name).into(),
            actor().into(),
            reason.map(str::to_owned).into(),
            after.compromised.into(),
            key_clock::now().into(),
        ],
    )?;
    if !after.state.may_decrypt() {
        wipe::at_commit(crate::session::slot_key(row));
    }
    Ok(())
}

impl Order {
    /// Does it; returns the new state, of several versions the newest one's.
    ///
    /// # Errors
    /// Whatever keeps it from being done; nothing is done then.
    pub fn carry_out(&self) -> Result<KeyState> {
        let reason = self.reason()?;
        let key = version::lock(&self.key)?;
        let versions = read::key_versions(&key)?;
        let targets = self.targets(&key, &versions)?;
        if self.verb == Verb::ScheduleDestruction {
            self.take_leave(&key, &targets)?;
        }
        let mut state = KeyState::PreActive;
        for &Target { row, after } in &targets {
            match self.verb {
                Verb::Activate => activate(&key, row, reason)?,
                Verb::ScheduleDestruction => self.schedule(&key, row, after, reason)?,
                Verb::CancelDestruction => {
                    set_standing(row, after, reason)?;
                    forget_destruction(row.id)?;
                }
                _ => set_standing(row, after, reason)?,
            }
            let mut act = Act::new(self.verb.name())
                .key(&key)
                .version(row.id.version.number());
            if let Some(reason) = reason {
                act = act.detail(reason);
            }
            act.record()?;
            state = after.state;
        }
        match self.verb {
            Verb::MarkCompromised => move_away(&key, &rows(&targets))?,
            Verb::Archive => warn_of_unreadable_rows(&key, &rows(&targets))?,
            // Jobs that met the versions while these could not be read have given up.
            Verb::Resume | Verb::Recover | Verb::CancelDestruction => queue_again(&key)?,
            _ => {}
        }
        Ok(state)
    }

    /// Refuses what could not be carried out now. Gives the version, if it is about one.
    ///
    /// # Errors
    /// As [`Order::carry_out`].
    pub fn check(&self) -> Result<Option<i32>> {
        self.reason()?;
        let key = version::lock(&self.key)?;
        let versions = read::key_versions(&key)?;
        let targets = self.targets(&key, &versions)?;
        if self.verb == Verb::ScheduleDestruction {
            self.window()?;
            self.losses(&key, &targets)?;
            // A whole key's destruction is about the versions that there are when it is approved.
            return Ok(self.version);
        }
        Ok(match &targets[..] {
            [only] => Some(only.row.id.version.int()),
            _ => None,
        })
    }

    fn reason(&self) -> Result<Option<&str>> {
        lifecycle::reason(self.verb, self.reason.as_deref())
    }

    /// The versions it is about, oldest first, each with what the judge says of it; see [`Versions::targets`].
    fn targets<'a>(&self, key: &Key, versions: &'a [KeyVersionRow]) -> Result<Vec<Target<'a>>> {
        let destroys = self.verb == Verb::ScheduleDestruction;
        let shredded = if destroys { shredded(key)? } else { Vec::new() };
        let all = versions.iter().map(|row| Version {
            shreds: shredded.contains(&row.id.version.int()),
            ..judged(row)
        });
        let all: Vec<Version> = all.collect();
        let versions_of_key = Versions {
            key: &key.name,
            current: key.current,
            all: &all,
        };
        let order = Destruction {
            whole: destroys && self.version.is_none(),
            shred: self.shred,
        };
        let targets = if order.whole {
            versions_of_key.left_to_destroy(order)?
        } else {
            versions_of_key.targets(self.verb, self.version)?
        };
        let targets = targets.into_iter().map(|at| {
            let row = &versions[at];
            let after = if destroys {
                all[at].ordered(key.current, order)
            } else {
                all[at].standing(key.current).apply(self.verb)
            };
            let after = after.map_err(refusal(key, row))?;
            Ok(Target { row, after })
        });
        targets.collect()
    }

    /// The time until the destruction in milliseconds. Who is to be forgotten does not wait longer than need be.
    ///
    /// # Errors
    /// For less than the floor.
    fn window(&self) -> Result<i64> {
        let default = if self.shred {
            0
        } else {
            settings::DESTRUCTION_WINDOW.get()
        };
        lifecycle::destruction_window(
            self.destroy_after_ms,
            default,
            settings::DESTRUCTION_WINDOW_FLOOR.get(),
        )
    }

    /// What is lost with these versions, in words; nothing where nothing may be.
    ///
    /// # Errors
    /// [`Error::RowsNeedVersion`], [`Error::NodesNeedVersion`] and [`Error::RowsOutOfReach`] where rows are not to be
    /// lost.
    fn losses(&self, key: &Key, targets: &[Target<'_>]) -> Result<Option<String>> {
        let numbers: Vec<i32> = targets
            .iter()
            .map(|target| target.row.id.version.int())
            .collect();
        if self.shred {
            return Ok(Some(lost::losses(key, &numbers)));
        }
        for target in targets {
            nodes::refuse_needed(key, target.row.id.version)?;
        }
        terms::refuse_needed(key, &numbers)?;
        // One look at all tables for all of them; which one it is, only where there is any.
        if holders::needing(key, &numbers)?.is_empty() {
            return Ok(None);
        }
        for target in targets {
            let holders = holders::needing(key, &[target.row.id.version.int()])?;
            if !holders.is_empty() {
                return Err(Error::RowsNeedVersion {
                    key: key.name.clone(),
                    version: target.row.id.version,
                    holders: holders::describe(&holders),
                });
            }
        }
        Ok(None)
    }

    /// Refuses to lose rows that are not to be lost. Those that are to be are counted for the record.
    fn take_leave(&self, key: &Key, targets: &[Target<'_>]) -> Result<()> {
        self.window()?;
        let Some(losses) = self.losses(key, targets)? else {
            return Ok(());
        };
        let mut act = Act::new("shred_rows").key(key);
        if let Some(version) = self.version {
            act = act.version(version.unsigned_abs());
        }
        ereport!(
            PgLogLevel::WARNING,
            PgSqlErrorCode::ERRCODE_WARNING,
            format!(
                "values will be lost with key \"{}\" on purpose: {losses}",
                key.name
            )
        );
        act.detail(losses).record()
    }

    fn schedule(
        &self,
        key: &Key,
        row: &KeyVersionRow,
        after: Standing,
        reason: Option<&str>,
    ) -> Result<()> {
        let window = self.window()?;
        set_standing(row, after, reason)?;
        let due = spi::query(
            "UPDATE colcrypt.key_version SET destroy_at = clock_timestamp() + $3 * interval '1 millisecond', shreds = $4 \
             WHERE key_id = $1 AND version = $2 RETURNING destroy_at::text",
            &[
                row.id.key.bigint().into(),
                row.id.version.int().into(),
                window.into(),
                self.shred.into(),
            ],
            |row| row.get::<String>(1),
        )?;
        let due = due.into_iter().next().flatten().unwrap_or_default();
        forget_destruction(row.id)?;
        window::begin(row.id)?;
        wake::wake_at_commit();
        let unseen = unseen::look(&[row.id])?;
        ereport!(
            PgLogLevel::WARNING,
            PgSqlErrorCode::ERRCODE_WARNING,
            format!(
                "version {} of key \"{}\" will be destroyed at {due}; backups are not looked into",
                row.id.version, key.name
            ),
            format!(
                "A backup, dump or WAL archive whose values are under this version can be read after that only together with its own key catalog. {}Until then colcrypt.cancel_key_destruction brings the version back.",
                unseen.in_warning()
            )
        );
        Ok(())
    }
}

fn rows<'a>(targets: &[Target<'a>]) -> Vec<&'a KeyVersionRow> {
    targets.iter().map(|target| target.row).collect()
}

/// Makes a version the one that the key encrypts with. The former one only decrypts from here on; if it is
/// suspended it stays so.
pub fn activate(key: &Key, row: &KeyVersionRow, reason: Option<&str>) -> Result<()> {
    let after = judge(key, row, Verb::Activate)?;
    if row.id.version != key.current {
        let former = read::key_version(key, key.current)?;
        if former.state == KeyState::Active {
            let reason = format!("version {} took its place", row.id.version);
            set_standing(
                &former,
                judge(key, &former, Verb::Deactivate)?,
                Some(&reason),
            )?;
        }
    }
    set_standing(row, after, reason)?;
    let number = row.id.version.int();
    spi::execute(
        "UPDATE colcrypt.key SET current_version = $2 WHERE key_id = $1",
        &[key.id.bigint().into(), number.into()],
    )?;
    version::queue_jobs(key, number)
}

/// Has the rows under older versions moved, if there is a version to move them to.
fn queue_again(key: &Key) -> Result<()> {
    let key = read::key_by_id(key.id)?;
    if read::key_version(&key, key.current)?.state.may_encrypt() {
        version::queue_jobs(&key, key.current.int())?;
    }
    Ok(())
}

/// After versions were marked as compromised: lists their rows, gives the key a new version if it encrypted
/// with one of them, and has their rows moved before all others.
fn move_away(key: &Key, marked: &[&KeyVersionRow]) -> Result<()> {
    for row in marked {
        exposure::list(key, row)?;
    }
    let all: Vec<Version> = marked.iter().map(|row| judged(row)).collect();
    let versions = Versions {
        key: &key.name,
        current: key.current,
        all: &all,
    };
    if !versions.needs_another() {
        return queue_again(key);
    }
    // The mark must not wait for a provider that is down.
    match version::next_version(key) {
        Ok(version) => {
            let row = read::key_version(key, version)?;
            activate(key, &row, Some("its predecessor was marked as compromised"))?;
            Act::new("rotate_key")
                .key(key)
                .version(version.number())
                .detail("its predecessor was marked as compromised")
                .record()
        }
        Err(error) => {
            let report = error.report();
            ereport!(
                PgLogLevel::WARNING,
                PgSqlErrorCode::ERRCODE_WARNING,
                format!(
                    "key \"{}\" has no new version yet and cannot encrypt: {}",
                    key.name, report.message
                ),
                "Rotate it with colcrypt.rotate_key as soon as the provider answers; the rows are moved then."
            );
            Ok(())
        }
    }
}

fn warn_of_unreadable_rows(key: &Key, archived: &[&KeyVersionRow]) -> Result<()> {
    for row in archived {
        let detail = match holders::needing(key, &[row.id.version.int()]) {
            Ok(holders) if holders.is_empty() => continue,
            Ok(holders) => holders::describe(&holders),
            Err(error @ Error::RowsOutOfReach { .. }) => error.report().message,
            Err(error) => return Err(error),
        };
        ereport!(
            PgLogLevel::WARNING,
            PgSqlErrorCode::ERRCODE_WARNING,
            format!(
                "rows under version {} of key \"{}\" cannot be read while it is archived",
                row.id.version, key.name
            ),
            detail
        );
    }
    Ok(())
}

/// Forgets how far the destruction of a version got: it was cancelled, scheduled anew, or is done.
pub fn forget_destruction(id: VersionId) -> Result<()> {
    spi::execute(
        "DELETE FROM colcrypt.destruction WHERE key_id = $1 AND version = $2",
        &[id.key.bigint().into(), id.version.int().into()],
    )?;
    window::forget(id)
}
