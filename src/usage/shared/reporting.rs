//! What a process says that it did with keys: at the end of a transaction, all of it under the lock once.

use std::cell::Cell;

use crate::settings;
use crate::usage::shared::{Tables, Use, want};
use crate::usage::version_key::VersionKey;

/// What a process did with a version.
pub struct Report {
    pub id: VersionKey,
    pub role: u32,
    /// How much of what it had reserved it gives up, used or not.
    pub reserved: u32,
    pub encryptions: u32,
    pub decryptions: u32,
}

/// Where a role's use of a version is counted, for as long as no use is removed.
#[derive(Clone, Copy, Default)]
pub struct Place(Option<(u64, *mut Use)>);

/// The tables, held for as long as a process says what it did. Nothing may raise, wait or call SPI meanwhile.
pub struct Reporting(Tables);

impl Reporting {
    /// None without the memory.
    pub fn begin() -> Option<Self> {
        Tables::change().ok().map(Self)
    }

    /// Counts what a process did; returns whether a flush should not wait. `None`: there is no place, keep it
    /// for later.
    pub fn report(&mut self, report: &Report, place: &Cell<Place>) -> Option<bool> {
        let tables = &mut self.0;
        if report.encryptions > 0 || report.decryptions > 0 {
            let removals = tables.header.removals.get();
            let used = match place.get() {
                Place(Some((of, used))) if of == removals => used,
                _ => {
                    let used = std::ptr::from_mut(tables.enter_use(report.id, report.role)?);
                    // SAFETY: an entry of the table, under its lock. One for what has no place of its own is not kept.
                    let is_own = unsafe { (*used).key.role == report.role };
                    place.set(Place(is_own.then_some((removals, used))));
                    used
                }
            };
            // SAFETY: an entry of the table, which was not removed, under its lock.
            unsafe { (*used).done.add(report.encryptions, report.decryptions) };
        }
        let mut urgent = false;
        if report.reserved > 0
            && let Some(version) = tables.version(report.id)
        {
            let most = i64::from(settings::USAGE_MAX_UNFLUSHED.get());
            urgent = version
                .count
                .report(report.reserved, report.encryptions, most);
        }
        if urgent {
            want(tables, report.id.database);
        }
        Some(urgent)
    }
}
