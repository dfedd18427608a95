//! The context of a row that is not stored yet, for triggers: the expression is its table owner's code, and runs with
//! his rights, and nothing else does.

use std::cell::Cell;
use std::ffi::CString;

use colcrypt_core::memory;
use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::server::roles::AsRole;
use crate::server::spi;
use crate::server::varlena::Varlena;

/// A context expression over a row of a table, planned once.
pub struct RowContext {
    sql: CString,
    row_type: pg_sys::Oid,
    owner: pg_sys::Oid,
    plan: Cell<pg_sys::SPIPlanPtr>,
}

impl Drop for RowContext {
    fn drop(&mut self) {
        let plan = self.plan.get();
        if !plan.is_null() && !std::thread::panicking() {
            // SAFETY: made by SPI_prepare and SPI_keepplan, and nobody else's.
            unsafe { pg_sys::SPI_freeplan(plan) };
        }
    }
}

impl RowContext {
    /// `sql` gives the context of the row `$1`, as bytea, and is code of `owner`'s.
    ///
    /// # Safety
    /// The descriptor is a table's.
    pub unsafe fn new(sql: String, descriptor: pg_sys::TupleDesc, owner: pg_sys::Oid) -> Self {
        Self {
            sql: CString::new(sql).unwrap_or_default(),
            // SAFETY: the caller's promise.
            row_type: unsafe { (*descriptor).tdtypeid },
            owner,
            plan: Cell::new(std::ptr::null_mut()),
        }
    }

    /// The context of a row; none for NULL.
    ///
    /// # Errors
    /// Of SPI. An ERROR of the expression's is raised.
    ///
    /// # Safety
    /// The tuple is a row of the table.
    pub unsafe fn of(
        &self,
        tuple: pg_sys::HeapTuple,
        descriptor: pg_sys::TupleDesc,
    ) -> Result<Option<Vec<u8>>> {
        let _path = spi::safe_search_path();
        let _role = AsRole::restricted(self.owner);
        // SAFETY: a tuple of the table; the connection is closed before the result is used, which is a copy. An
        // ERROR before that leaves it to the transaction's abort.
        unsafe {
            let mut row = pg_sys::heap_copy_tuple_as_datum(tuple, descriptor);
            pg_sys::SPI_connect();
            let bytes = self.run(&mut row);
            pg_sys::SPI_finish();
            bytes
        }
    }

    /// # Safety
    /// Connected to SPI, with a row of the table.
    unsafe fn run(&self, row: &mut pg_sys::Datum) -> Result<Option<Vec<u8>>> {
        // SAFETY: the caller's promise; the statement gives one bytea.
        unsafe {
            if self.plan.get().is_null() {
                let mut row_type = self.row_type;
                let plan = pg_sys::SPI_prepare(self.sql.as_ptr(), 1, &mut row_type);
                if plan.is_null() {
                    return Err(Error::Spi("a context was not prepared".into()));
                }
                pg_sys::SPI_keepplan(plan);
                self.plan.set(plan);
            }
            let code = pg_sys::SPI_execute_plan(self.plan.get(), row, c" ".as_ptr(), false, 1);
            if code < 0 || pg_sys::SPI_processed != 1 {
                return Err(Error::Spi("a context was not computed".into()));
            }
            let table = pg_sys::SPI_tuptable;
            let mut is_null = false;
            let datum = pg_sys::SPI_getbinval(*(*table).vals, (*table).tupdesc, 1, &mut is_null);
            if is_null {
                return Ok(None);
            }
            Ok(Some(memory::copied(Varlena::from_datum(datum).bytes())?))
        }
    }
}
