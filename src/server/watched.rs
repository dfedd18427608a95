//! What caches of relations' shapes depend on: a number of this process that changes whenever one of the relations that
//! are watched, or a schema's name, may have changed.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;

use pgrx::{pg_guard, pg_sys};

thread_local! {
    static WATCHED: RefCell<HashSet<pg_sys::Oid>> = RefCell::new(HashSet::new());
    static GENERATION: Cell<u64> = const { Cell::new(0) };
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// The number as it is now: to be read before what is remembered is looked at or made.
pub fn generation() -> u64 {
    if !REGISTERED.replace(true) {
        // SAFETY: registers functions that live as long as the process.
        unsafe {
            pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), pg_sys::Datum::from(0));
            // A schema that is renamed changes its tables' names, and nothing of the tables.
            pg_sys::CacheRegisterSyscacheCallback(
                pg_sys::SysCacheIdentifier::NAMESPACEOID as i32,
                Some(schema_changed),
                pg_sys::Datum::from(0),
            );
        }
    }
    GENERATION.get()
}

/// Watches these, too.
pub fn watch(relations: impl IntoIterator<Item = pg_sys::Oid>) {
    WATCHED.with_borrow_mut(|watched| watched.extend(relations));
}

fn advance() {
    GENERATION.set(GENERATION.get() + 1);
}

#[pg_guard]
unsafe extern "C-unwind" fn relation_changed(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    // What is being changed just now is as good as changed.
    let is_watched = || {
        WATCHED.with(|watched| {
            watched
                .try_borrow()
                .map_or(true, |set| set.contains(&relation))
        })
    };
    if relation == pg_sys::Oid::INVALID || is_watched() {
        advance();
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn schema_changed(_argument: pg_sys::Datum, _cache: i32, _hash: u32) {
    advance();
}
