//! How often a condition on an encrypted column was planned that a search index would have served, if there were one,
//! or the one that there is could be used: in shared memory, since the server started. It is advice, so what has no
//! room is not counted.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;

use colcrypt_search::Kind;

use crate::columns::search::plan::decided::LACKS;
use crate::error::Result;
use crate::server::call::Call;
use crate::server::record::{Record, return_set};
use crate::server::shmem::{self, Region};
use crate::server::{heirs, lwlock, process};

const REGION: &std::ffi::CStr = c"colcrypt unserved search";
/// Columns and kinds that are counted.
const PLACES: usize = 512;

#[repr(C)]
struct Shared {
    /// Protects the places.
    lock: *mut pg_sys::LWLock,
    places: std::cell::UnsafeCell<[Place; PLACES]>,
}

/// One that is empty counts nothing.
#[repr(C)]
#[derive(Clone, Copy)]
struct Place {
    database: u32,
    table: u32,
    number: i16,
    kind: u16,
    /// Its place in [`LACKS`].
    lack: u16,
    times: u64,
    latest: i64,
}

static SHARED: Region<Shared> = Region::new();

/// Asks for the memory and the lock. From the shmem request hook.
pub fn request() {
    shmem::request(size_of::<Shared>(), Some(REGION));
}

/// Lays the region out, empty. From the shmem startup hook; again after a crash.
pub fn startup() {
    // SAFETY: the startup phase, with the size that was asked for; zero bytes are empty places.
    unsafe {
        let shared = shmem::zeroed::<Shared>(REGION, size_of::<Shared>());
        (*shared).lock = shmem::lock(REGION);
        SHARED.publish(shared);
    }
}

/// Counts one for a column of this table, which lacks this of an index of this kind.
pub fn count(table: pg_sys::Oid, number: i16, kind: Kind, lack: u16) {
    let Some(shared) = SHARED.get() else { return };
    let database = process::my_database().to_u32();
    let is_it = |place: &Place| {
        (place.database, place.table, place.number) == (database, table.to_u32(), number)
            && (place.kind, place.lack) == (kind as u16, lack)
    };
    // SAFETY: reads the clock.
    let now = unsafe { pg_sys::GetCurrentTimestamp() };
    let _guard = lwlock::exclusive(shared.lock);
    // SAFETY: the exclusive lock is held.
    let places = unsafe { &mut *shared.places.get() };
    let found = places
        .iter_mut()
        .find(|place| place.times == 0 || is_it(place));
    if let Some(place) = found {
        *place = Place {
            database,
            table: table.to_u32(),
            number,
            kind: kind as u16,
            lack,
            times: place.times + 1,
            latest: now,
        };
    }
}

/// unserved_searches(): what was counted of this database's columns.
pub fn unserved_searches(call: Call) -> Result<pg_sys::Datum> {
    let database = process::my_database().to_u32();
    let mut found: Vec<Place> = Vec::new();
    if let Some(shared) = SHARED.get() {
        let _guard = lwlock::shared(shared.lock);
        // SAFETY: the shared lock is held.
        let places = unsafe { &*shared.places.get() };
        found.extend(
            places
                .iter()
                .filter(|place| place.times > 0 && place.database == database),
        );
    }
    let rows = found.into_iter().filter_map(|place| {
        let table = pg_sys::Oid::from(place.table);
        // A table that is gone by now is nobody's business.
        let name = heirs::column_name(table, place.number)?;
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| *kind as u16 == place.kind)?;
        let mut row = Record::default();
        row.push(table)
            .push_name(&name)
            .push(kind.name())
            .push(
                LACKS
                    .get(usize::from(place.lack))
                    .copied()
                    .unwrap_or_default(),
            )
            .push(place.times as i64)
            .push(TimestampWithTimeZone::try_from(place.latest).ok());
        Some(row)
    });
    Ok(return_set(call, rows.collect()))
}
