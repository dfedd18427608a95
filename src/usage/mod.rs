//! How often keys are used, by whom, and when that is too often.
//!
//! A process holds, for each role and version, an allowance of encryptions that it took from the
//! version's total before it encrypts (`shared`): a value costs one decrement. At the transaction's
//! end, commit or not, it says how many it used and gives the rest back. Decryptions are counted the
//! same way, without a limit. The maintenance worker adds the counts to the catalog (`flush`). What a
//! crash loses is bounded by colcrypt.usage_max_unflushed, for which the bound leaves room; a stop loses nothing
//! (`kept`).

pub mod flush;
pub mod kept;
pub mod look_ups;
pub mod shared;
mod version_key;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use colcrypt_core::rolling::Limit;
use colcrypt_core::usage::Limits;
use colcrypt_core::{Suite, VersionId};
use colcrypt_domain::error::Unrecorded;
use colcrypt_domain::usage::{Crossed, Reserved};
use pgrx::datum::Interval;
use pgrx::{PgLogLevel, ereport, pg_sys};

use crate::catalog::read::{self, Key};
use crate::error::{Error, Result};
use crate::jobs::wake;
use crate::server::waiting::Waiting;
use crate::server::xact::End;
use crate::server::{clock, hidden, process, roles};
use crate::settings;
use crate::usage::look_ups::Taken;
use crate::usage::shared::reporting::{Place, Report, Reporting};
use crate::usage::version_key::VersionKey;

/// Decryptions of a transaction that are not told yet, at most.
const DECRYPTIONS: u32 = 1 << 16;
const PAUSE_MS: i64 = 20;

/// What this process does with a version on behalf of a role. Never freed, since call sites point here.
pub struct Counter {
    id: VersionId,
    role: pg_sys::Oid,
    suite: Suite,
    /// The key's own bound, which may be lower than the suite's.
    bound: Cell<Option<i64>>,
    /// Of a search key: how often a role may look up by it.
    search_limit: Cell<Option<Limit>>,
    /// Encryptions that may be done before asking again, of how many.
    encrypt_left: Cell<u32>,
    encrypt_granted: Cell<u32>,
    /// Decryptions that may be done before telling, of how many.
    decrypt_left: Cell<u32>,
    decrypt_granted: Cell<u32>,
    touched: Cell<bool>,
    warned: Cell<bool>,
    /// Where it is told.
    place: Cell<Place>,
}

thread_local! {
    static COUNTERS: RefCell<HashMap<(VersionId, pg_sys::Oid), &'static Counter>> = RefCell::default();
    /// Those that hold or did something in this transaction.
    static TOUCHED: RefCell<Vec<&'static Counter>> = const { RefCell::new(Vec::new()) };
}

/// The counter of this role and version.
pub fn counter(key: &Key, id: VersionId, role: pg_sys::Oid) -> &'static Counter {
    let counter = COUNTERS.with_borrow_mut(|counters| {
        *counters.entry((id, role)).or_insert_with(|| {
            Box::leak(Box::new(Counter {
                id,
                role,
                suite: key.suite,
                bound: Cell::new(None),
                search_limit: Cell::new(None),
                encrypt_left: Cell::new(0),
                encrypt_granted: Cell::new(0),
                decrypt_left: Cell::new(0),
                decrypt_granted: Cell::new(0),
                touched: Cell::new(false),
                warned: Cell::new(false),
                place: Cell::default(),
            }))
        })
    });
    counter.bound.set(key.usage_bound);
    counter.search_limit.set(key.search_limit);
    counter
}

impl Counter {
    /// Counts an encryption, before it happens.
    ///
    /// # Errors
    /// The limit is reached, or what is counted cannot be recorded.
    #[inline(always)]
    pub fn encryption(&'static self) -> Result<()> {
        let left = self.encrypt_left.get();
        if left == 0 {
            return self.take_more();
        }
        self.encrypt_left.set(left - 1);
        Ok(())
    }

    /// Counts a decryption that succeeded.
    #[inline(always)]
    pub fn decryption(&'static self) {
        let left = self.decrypt_left.get();
        if left == 0 {
            return self.begin_decrypting();
        }
        self.decrypt_left.set(left - 1);
    }

    /// Whether look-ups by this key are limited.
    pub fn has_limit(&self) -> bool {
        self.search_limit.get().is_some()
    }

    /// Counts look-ups by a search key, before they happen. They are counted where decryptions are.
    ///
    /// # Errors
    /// The role has looked up as often as it may.
    pub fn look_ups(&'static self, count: u32) -> Result<()> {
        if let Some(limit) = self.search_limit.get()
            && count > 0
        {
            match look_ups::take(self.id.key, self.role, limit, count)? {
                Taken::Counted => {}
                Taken::Over => {
                    return Err(Error::SearchLimit {
                        key: self.key_name(),
                        role: roles::role_name(self.role),
                        most: limit.most,
                        per: clock::interval_text(Interval::from_micros(limit.per_us)),
                    });
                }
                Taken::NoPlace => {
                    return Err(Error::UsageUnrecorded {
                        key: self.key_name(),
                        why: Unrecorded::NoPlace,
                    });
                }
            }
        }
        for _ in 0..count {
            self.decryption();
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn begin_decrypting(&'static self) {
        if self.decrypt_granted.get() > 0 {
            self.tell();
        }
        self.touch();
        // What could not be told stays counted.
        let kept = self.decrypt_granted.get() - self.decrypt_left.get();
        self.decrypt_granted.set(kept + DECRYPTIONS);
        self.decrypt_left.set(DECRYPTIONS - 1);
    }

    /// Takes the next allowance and uses one of it.
    #[cold]
    #[inline(never)]
    fn take_more(&'static self) -> Result<()> {
        self.touch();
        self.tell();
        let here = VersionKey::here(self.id);
        let limits = self.limits();
        let mut patience = i64::from(settings::KEY_WAIT_TIMEOUT.get());
        loop {
            match shared::reserve(here, &limits, oldest_reading())? {
                Reserved::Granted {
                    block,
                    before,
                    after,
                    elsewhere,
                } => {
                    self.encrypt_granted.set(self.encrypt_granted.get() + block);
                    self.encrypt_left.set(block - 1);
                    self.look_at_limits(&limits, before, after, elsewhere);
                    return Ok(());
                }
                Reserved::TotalUnknown => {
                    let now = clock::boottime_us();
                    let (total, elsewhere) =
                        (read::encryptions(self.id)?, read::elsewhere(self.id)?);
                    if shared::learn(here, total, elsewhere, now)? {
                        continue;
                    }
                }
                Reserved::Refused { total, limit } => {
                    return Err(Error::UsageLimit {
                        key: self.key_name(),
                        version: self.id.version,
                        total,
                        limit,
                        bound: limits.bound,
                    });
                }
                Reserved::Unflushed => {}
            }
            // SAFETY: reads shared memory.
            let standby = unsafe { pg_sys::RecoveryInProgress() };
            if standby || patience <= 0 {
                return Err(Error::UsageUnrecorded {
                    key: self.key_name(),
                    why: if standby {
                        Unrecorded::Standby
                    } else {
                        Unrecorded::Unflushed
                    },
                });
            }
            // What this process holds back might be what the flush needs.
            tell_all();
            shared::want_flush()?;
            wake::wake_now();
            process::nap(PAUSE_MS, Waiting::UsageFlush);
            self.touch();
            patience -= PAUSE_MS;
        }
    }

    fn limits(&self) -> Limits {
        limits(self.suite, self.bound.get())
    }

    fn key_name(&self) -> String {
        read::key_name(self.id.key).unwrap_or_else(|| self.id.key.to_string())
    }

    fn look_at_limits(&self, limits: &Limits, before: u64, after: u64, elsewhere: u64) {
        let crossed = Crossed::between(before, after, elsewhere, limits);
        if crossed.rotates {
            // The worker rotates it; see wake::schedule.
            let _ = shared::want_flush();
            wake::wake_now();
        }
        if crossed.warns && !self.warned.replace(true) {
            ereport!(
                PgLogLevel::WARNING,
                pgrx::PgSqlErrorCode::ERRCODE_WARNING,
                format!(
                    "version {} of key \"{}\" has encrypted {} of the {} values it may",
                    self.id.version,
                    self.key_name(),
                    before,
                    limits.refuse
                ),
                "Rotate it: SELECT colcrypt.rotate_key(…)."
            );
        }
    }

    fn touch(&'static self) {
        if self.touched.replace(true) {
            return;
        }
        TOUCHED.with_borrow_mut(|touched| touched.push(self));
    }

    /// As [`tell_to`](Self::tell_to), by itself.
    fn tell(&self) -> bool {
        let told = Reporting::begin().map(|mut tables| self.tell_to(&mut tables));
        if told == Some(Told::Urgently) {
            wake::wake_now();
        }
        told.is_some_and(|told| told != Told::Not)
    }

    /// Says what was done and gives back what was not.
    fn tell_to(&self, tables: &mut Reporting) -> Told {
        let reserved = self.encrypt_granted.get();
        if reserved == 0 && self.decrypt_granted.get() == 0 {
            return Told::AsEver;
        }
        let report = Report {
            id: VersionKey::here(self.id),
            role: self.role.to_u32(),
            reserved,
            encryptions: reserved - self.encrypt_left.get(),
            decryptions: self.decrypt_granted.get() - self.decrypt_left.get(),
        };
        let Some(is_urgent) = tables.report(&report, &self.place) else {
            return Told::Not;
        };
        for cell in [
            &self.encrypt_left,
            &self.encrypt_granted,
            &self.decrypt_left,
            &self.decrypt_granted,
        ] {
            cell.set(0);
        }
        match is_urgent {
            true => Told::Urgently,
            false => Told::AsEver,
        }
    }
}

/// What became of a report.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    /// There was no place: what it says stays counted here.
    Not,
    AsEver,
    /// A flush should not wait.
    Urgently,
}

/// This server's limits of a key with this suite and bound, as the settings have the shares.
pub fn limits(suite: Suite, bound: Option<i64>) -> Limits {
    let own = bound.and_then(|bound| u64::try_from(bound).ok());
    let share = |setting: &pgrx::GucSetting<i32>| setting.get() as u32;
    Limits::of_one(
        own.map_or(suite.bound(), |own| own.min(suite.bound())),
        share(&settings::USAGE_NODES),
        share(&settings::USAGE_WARN),
        share(&settings::USAGE_ROTATE),
        share(&settings::USAGE_REFUSE),
    )
}

/// A total read before this is read again: on a standby the primary counts on, and a restore may bring
/// a total along.
fn oldest_reading() -> i64 {
    clock::boottime_us() - i64::from(settings::USAGE_FLUSH_INTERVAL.get()) * 1000
}

fn tell_all() {
    let is_urgent = TOUCHED.with_borrow_mut(|touched| {
        if touched.is_empty() {
            return false;
        }
        let Some(mut tables) = Reporting::begin() else {
            return false;
        };
        let mut is_urgent = false;
        touched.retain(|counter| {
            let told = counter.tell_to(&mut tables);
            is_urgent |= told == Told::Urgently;
            counter.touched.set(told == Told::Not);
            told == Told::Not
        });
        is_urgent
    });
    if is_urgent {
        wake::wake_now();
    }
}

/// The end of a transaction, in whatever process and way: what was encrypted was, rolled back or not.
pub fn at_end(_end: End) {
    // A session without a counter has used no cipher yet.
    if COUNTERS.with_borrow(HashMap::is_empty) {
        return;
    }
    tell_all();
    hidden::wipe_registers();
}
