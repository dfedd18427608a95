//! Rows that a statement of ours selected, looked at as datums while SPI is connected.

use std::ffi::CString;

use pgrx::{Spi, pg_sys};

use crate::error::{Error, Result};
use crate::server::types;

/// The rows of a SELECT.
pub struct Rows {
    table: *mut pg_sys::SPITupleTable,
    count: usize,
}

impl Rows {
    pub fn len(&self) -> usize {
        self.count
    }

    /// A column's value, `None` for NULL; columns begin with 1.
    pub fn value(&self, row: usize, column: i32) -> Option<pg_sys::Datum> {
        assert!(row < self.count);
        let mut is_null = false;
        // SAFETY: the result of the connection that is open; the row is one of it.
        let datum = unsafe {
            let tuple = *(*self.table).vals.add(row);
            pg_sys::SPI_getbinval(tuple, (*self.table).tupdesc, column, &mut is_null)
        };
        (!is_null).then_some(datum)
    }

    /// The type that a column has in this very result.
    pub fn type_of(&self, column: i32) -> pg_sys::Oid {
        // SAFETY: as above.
        unsafe { pg_sys::SPI_gettypeid((*self.table).tupdesc, column) }
    }

    /// Refuses a column that is not of type ciphertext, or of a domain over it.
    ///
    /// # Errors
    /// [`Error::OutOfStep`].
    pub fn expect_ciphertext(&self, column: i32) -> Result<()> {
        // SAFETY: a look-up in the type catalog.
        let base = unsafe { pg_sys::getBaseType(self.type_of(column)) };
        if Some(base) == types::ciphertext_oid() {
            Ok(())
        } else {
            Err(type_changed())
        }
    }
}

pub fn type_changed() -> Error {
    Error::OutOfStep {
        why: "the column's type was changed".into(),
    }
}

/// Runs a SELECT and gives its rows to `look` before the connection ends. `read_only`: with the snapshot that is
/// active, and no row locks.
///
/// # Errors
/// Of the statement, and of `look`.
pub fn selected<R>(sql: &str, read_only: bool, look: impl FnOnce(&Rows) -> Result<R>) -> Result<R> {
    let sql = CString::new(sql).map_err(|_| Error::Spi("a name holds NUL".into()))?;
    Spi::connect(|_| {
        // SAFETY: connected; the rows are looked at before the connection ends.
        let rows = unsafe {
            let code = pg_sys::SPI_execute(sql.as_ptr(), read_only, 0);
            if code != pg_sys::SPI_OK_SELECT as i32 {
                return Err(Error::Spi(format!("SPI_execute gave {code}")));
            }
            Rows {
                table: pg_sys::SPI_tuptable,
                count: pg_sys::SPI_processed as usize,
            }
        };
        look(&rows)
    })
}
