//! Index scans over our own tables with a fresh catalog snapshot, columns by name.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::CString;

use pgrx::{FromDatum, IntoDatum, pg_sys};

use crate::error::{Error, Result};

/// One equality of an index scan.
pub struct Equals {
    pub attribute: i16,
    pub function: u32,
    pub value: pg_sys::Datum,
}

impl Equals {
    pub fn text(attribute: i16, value: &str) -> Self {
        Self::new(attribute, pg_sys::F_TEXTEQ, value)
    }

    pub fn int4(attribute: i16, value: i32) -> Self {
        Self::new(attribute, pg_sys::F_INT4EQ, value)
    }

    pub fn int8(attribute: i16, value: i64) -> Self {
        Self::new(attribute, pg_sys::F_INT8EQ, value)
    }

    pub fn oid(attribute: i16, value: pg_sys::Oid) -> Self {
        // Not by IntoDatum, for which OID 0 is NULL.
        Self {
            attribute,
            function: pg_sys::F_OIDEQ,
            value: pg_sys::Datum::from(value),
        }
    }

    /// The index compares names, so the datum must be one, not a text.
    pub fn name(attribute: i16, value: &str) -> Self {
        let length = value.len().min(pg_sys::NAMEDATALEN as usize - 1);
        // SAFETY: palloc0 gives NAMEDATALEN zero bytes, of which at least the last stays one.
        let name = unsafe {
            let name = pg_sys::palloc0(pg_sys::NAMEDATALEN as usize).cast::<u8>();
            name.copy_from_nonoverlapping(value.as_ptr(), length);
            name
        };
        Self {
            attribute,
            function: pg_sys::F_NAMEEQ,
            value: pg_sys::Datum::from(name),
        }
    }

    pub fn bytea(attribute: i16, value: &[u8]) -> Self {
        Self::new(attribute, pg_sys::F_BYTEAEQ, value)
    }

    pub fn uuid(attribute: i16, value: [u8; 16]) -> Self {
        Self::new(attribute, pg_sys::F_UUID_EQ, pgrx::Uuid::from_bytes(value))
    }

    fn new(attribute: i16, function: u32, value: impl IntoDatum) -> Self {
        Self {
            attribute,
            function,
            value: value.into_datum().expect("a plain value has a datum"),
        }
    }
}

/// A row in the hands of the visitor.
pub struct Row {
    tuple: pg_sys::HeapTuple,
    descriptor: pg_sys::TupleDesc,
}

impl Row {
    /// The column's value, `None` for NULL.
    ///
    /// # Errors
    /// [`Error::CatalogOfOtherRelease`] when there is no such column.
    pub fn optional<T: FromDatum>(&self, column: &str) -> Result<Option<T>> {
        let missing = || Error::CatalogOfOtherRelease(format!("column {column}"));
        let name = CString::new(column).map_err(|_| missing())?;
        // SAFETY: tuple and descriptor belong to the scan that is under way; T is the column's type
        // by the table's definition in sql/20_catalog.sql.
        unsafe {
            let number = pg_sys::SPI_fnumber(self.descriptor, name.as_ptr());
            if number <= 0 {
                return Err(missing());
            }
            let mut is_null = false;
            let datum = pg_sys::heap_getattr(self.tuple, number, self.descriptor, &mut is_null);
            Ok(T::from_datum(datum, is_null))
        }
    }

    /// The column's value.
    ///
    /// # Errors
    /// [`Error::CatalogCorrupt`] when it is NULL, [`Error::CatalogOfOtherRelease`] when there is no such column.
    pub fn get<T: FromDatum>(&self, column: &str) -> Result<T> {
        self.optional(column)?
            .ok_or_else(|| Error::CatalogCorrupt(format!("{column} is null")))
    }
}

thread_local! {
    static SCHEMA: Cell<pg_sys::Oid> = const { Cell::new(pg_sys::Oid::INVALID) };
}

/// Forgets what was cached about the schema: after DROP EXTENSION it is another one.
pub fn forget_schema() {
    SCHEMA.set(pg_sys::Oid::INVALID);
}

fn relation(name: &str) -> Result<pg_sys::Oid> {
    let missing = || Error::CatalogOfOtherRelease(format!("table {name}"));
    let c_name = CString::new(name).map_err(|_| missing())?;
    // SAFETY: catalog look-ups in a transaction; the names are C strings.
    unsafe {
        let mut schema = SCHEMA.get();
        if schema == pg_sys::Oid::INVALID {
            schema = pg_sys::get_namespace_oid(c"colcrypt".as_ptr(), true);
            SCHEMA.set(schema);
        }
        let oid = pg_sys::get_relname_relid(c_name.as_ptr(), schema);
        if oid == pg_sys::Oid::INVALID {
            forget_schema();
            return Err(missing());
        }
        Ok(oid)
    }
}

/// Looks at a table in a session that read it whole, where it is small.
const WHOLE_LOOKS: u32 = 3;
/// Blocks of a table that is small.
const FEW_BLOCKS: u32 = 4;

thread_local! {
    /// How often this session looked at a table whose rows may come in any order.
    static LOOKS: RefCell<HashMap<pg_sys::Oid, u32>> = RefCell::default();
}

/// Visits the rows of `table` that `index` finds, in the index's order.
pub fn each(
    table: &str,
    index: &str,
    conditions: &[Equals],
    mut visit: impl FnMut(&Row) -> Result<()>,
) -> Result<()> {
    let visit = |row: &Row| visit(row).map(|()| true);
    each_while(table, index, conditions, |_| false, visit)
}

/// The same in any order.
pub fn any(
    table: &str,
    index: &str,
    conditions: &[Equals],
    mut visit: impl FnMut(&Row) -> Result<()>,
) -> Result<()> {
    let visit = |row: &Row| visit(row).map(|()| true);
    each_while(table, index, conditions, is_read_whole, visit)
}

/// Whether to read a table whole rather than by an index. A new session makes what it needs of each index in more time
/// than a few blocks take, and most sessions look only once.
fn is_read_whole(heap: pg_sys::Relation) -> bool {
    // SAFETY: reads a variable; the table is open.
    let (serializable, table) = unsafe {
        // A serializable transaction would have read all rows, and be in the way of whoever writes any.
        (
            pg_sys::XactIsoLevel >= pg_sys::XACT_SERIALIZABLE as i32,
            (*heap).rd_id,
        )
    };
    let looks = LOOKS.with_borrow_mut(|looks| {
        let looks = looks.entry(table).or_default();
        *looks = looks.saturating_add(1);
        *looks
    });
    let main = pg_sys::ForkNumber::MAIN_FORKNUM;
    // SAFETY: the table is open.
    !serializable
        && looks <= WHOLE_LOOKS
        && unsafe { pg_sys::RelationGetNumberOfBlocksInFork(heap, main) } <= FEW_BLOCKS
}

/// Visits all rows of a table of ours that the caller's statement has locked, and may have no index of any more.
pub fn all(table: pg_sys::Oid, mut visit: impl FnMut(&Row) -> Result<()>) -> Result<()> {
    let visit = |row: &Row| visit(row).map(|()| true);
    let no_index = |_| Ok(pg_sys::Oid::INVALID);
    scan(table, no_index, &[], visit)
}

/// Visits rows for as long as `visit` asks for more.
fn each_while(
    table: &str,
    index: &str,
    conditions: &[Equals],
    whole: impl FnOnce(pg_sys::Relation) -> bool,
    visit: impl FnMut(&Row) -> Result<bool>,
) -> Result<()> {
    let index_of = |heap| {
        if whole(heap) {
            Ok(pg_sys::Oid::INVALID)
        } else {
            relation(index)
        }
    };
    scan(relation(table)?, index_of, conditions, visit)
}

/// The same with the index, or none, that `index_of` the open table gives.
fn scan(
    table: pg_sys::Oid,
    index_of: impl FnOnce(pg_sys::Relation) -> Result<pg_sys::Oid>,
    conditions: &[Equals],
    mut visit: impl FnMut(&Row) -> Result<bool>,
) -> Result<()> {
    // SAFETY: a plain system-table scan: open, begin, next until null, end, close. On an ERROR the
    // transaction's abort releases what is open. A null snapshot asks for the latest catalog one. Columns are named by
    // their numbers in the table either way.
    unsafe {
        let heap = pg_sys::table_open(table, pg_sys::AccessShareLock as i32);
        let index = match index_of(heap) {
            Ok(index) => index,
            Err(error) => {
                pg_sys::table_close(heap, pg_sys::AccessShareLock as i32);
                return Err(error);
            }
        };
        let mut keys: Vec<pg_sys::ScanKeyData> = Vec::with_capacity(conditions.len());
        for condition in conditions {
            let mut key = pg_sys::ScanKeyData::default();
            pg_sys::ScanKeyInit(
                &mut key,
                condition.attribute,
                pg_sys::BTEqualStrategyNumber as u16,
                condition.function.into(),
                condition.value,
            );
            keys.push(key);
        }
        let scan = pg_sys::systable_beginscan(
            heap,
            index,
            index != pg_sys::Oid::INVALID,
            std::ptr::null_mut(),
            keys.len() as i32,
            keys.as_mut_ptr(),
        );
        let mut outcome = Ok(true);
        while matches!(outcome, Ok(true)) {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            outcome = visit(&Row {
                tuple,
                descriptor: (*heap).rd_att,
            });
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(heap, pg_sys::AccessShareLock as i32);
        outcome.map(|_| ())
    }
}

/// The row that a unique index finds, as `read` makes it.
pub fn one<T>(
    table: &str,
    index: &str,
    conditions: &[Equals],
    read: impl Fn(&Row) -> Result<T>,
) -> Result<Option<T>> {
    let mut found = None;
    each_while(table, index, conditions, is_read_whole, |row| {
        found = Some(read(row)?);
        Ok(false)
    })?;
    Ok(found)
}
