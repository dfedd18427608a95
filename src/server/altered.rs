//! The system catalogs in the middle of a statement that alters them: what the statement has written already, of which
//! the look-up caches hear only when it is over. So both are there to be compared: how it was, and how it will be.

use pgrx::pg_sys;

/// One equality of a look into a catalog.
pub struct Is {
    column: u32,
    function: u32,
    value: pg_sys::Datum,
}

pub fn is_oid(column: u32, value: pg_sys::Oid) -> Is {
    Is {
        column,
        function: pg_sys::F_OIDEQ,
        value: pg_sys::Datum::from(value),
    }
}

pub fn is_number(column: u32, value: i16) -> Is {
    Is {
        column,
        function: pg_sys::F_INT2EQ,
        value: pg_sys::Datum::from(value),
    }
}

/// A catalog's row, as this very statement left it.
///
/// # Safety
/// `T` is the row of that catalog, and the index has these columns.
pub unsafe fn row<T, R>(
    catalog: pg_sys::Oid,
    index: u32,
    conditions: &[Is],
    read: impl Fn(&T) -> R,
) -> Option<R> {
    // SAFETY: the caller's promise.
    unsafe { find(catalog, index, conditions, |row| Some(read(row))) }
}

/// The first of a catalog's rows, as this very statement left them, of which `read` makes something.
///
/// # Safety
/// As [`row`].
pub unsafe fn find<T, R>(
    catalog: pg_sys::Oid,
    index: u32,
    conditions: &[Is],
    read: impl Fn(&T) -> Option<R>,
) -> Option<R> {
    // SAFETY: a scan by the catalog's own index, with a snapshot that needs no registration.
    unsafe {
        let heap = pg_sys::table_open(catalog, pg_sys::AccessShareLock as i32);
        let mut keys = vec![pg_sys::ScanKeyData::default(); conditions.len()];
        for (key, condition) in keys.iter_mut().zip(conditions) {
            pg_sys::ScanKeyInit(
                key,
                condition.column as i16,
                pg_sys::BTEqualStrategyNumber as u16,
                condition.function.into(),
                condition.value,
            );
        }
        let scan = pg_sys::systable_beginscan(
            heap,
            index.into(),
            true,
            &raw mut pg_sys::SnapshotSelfData,
            keys.len() as i32,
            keys.as_mut_ptr(),
        );
        let mut found = None;
        while found.is_none() {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            found = read(&*pg_sys::GETSTRUCT(tuple).cast::<T>());
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(heap, pg_sys::AccessShareLock as i32);
        found
    }
}
