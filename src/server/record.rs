//! Giving rows back to SQL: one record, or a set of them.

use pgrx::{IntoDatum, pg_sys};

use crate::error::{Error, Result};
use crate::server::call::Call;

/// Column values of one row, `None` for NULL.
#[derive(Default)]
pub struct Record {
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

impl Record {
    /// Adds the next column.
    pub fn push(&mut self, value: impl IntoDatum) -> &mut Self {
        let datum = value.into_datum();
        self.nulls.push(datum.is_none());
        self.values.push(datum.unwrap_or(pg_sys::Datum::from(0)));
        self
    }

    /// Adds the next column, of type name. One that is too long is cut, as the server cuts it.
    pub fn push_name(&mut self, name: &str) -> &mut Self {
        let room = pg_sys::NAMEDATALEN as usize;
        // SAFETY: palloc0 gives as many zero bytes, of which at least the last stays one.
        let datum = unsafe {
            let made = pg_sys::palloc0(room).cast::<u8>();
            made.copy_from_nonoverlapping(name.as_ptr(), name.len().min(room - 1));
            pg_sys::Datum::from(made)
        };
        self.nulls.push(false);
        self.values.push(datum);
        self
    }

    /// The row as the result of a function with OUT parameters.
    ///
    /// # Errors
    /// [`Error::CatalogCorrupt`] when the SQL declaration is not a row.
    pub fn into_datum(mut self, call: Call) -> Result<pg_sys::Datum> {
        let mut descriptor: pg_sys::TupleDesc = std::ptr::null_mut();
        // SAFETY: asks for the declared row type and forms a tuple of it; the values were pushed in
        // the declaration's order.
        unsafe {
            let class =
                pg_sys::get_call_result_type(call.fcinfo(), std::ptr::null_mut(), &mut descriptor);
            if class != pg_sys::TypeFuncClass::TYPEFUNC_COMPOSITE {
                return Err(Error::CatalogCorrupt("a function's declaration".into()));
            }
            let descriptor = pg_sys::BlessTupleDesc(descriptor);
            let tuple = pg_sys::heap_form_tuple(
                descriptor,
                self.values.as_mut_ptr(),
                self.nulls.as_mut_ptr(),
            );
            Ok(pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data))
        }
    }
}

/// All rows of a set-returning function, handed over at once.
pub fn return_set(call: Call, rows: Vec<Record>) -> pg_sys::Datum {
    // SAFETY: the materialize protocol: the server sets up the store, we fill it in declared order.
    unsafe {
        pg_sys::InitMaterializedSRF(call.fcinfo(), 0);
        let result = (*call.fcinfo()).resultinfo.cast::<pg_sys::ReturnSetInfo>();
        for mut row in rows {
            pg_sys::tuplestore_putvalues(
                (*result).setResult,
                (*result).setDesc,
                row.values.as_mut_ptr(),
                row.nulls.as_mut_ptr(),
            );
        }
    }
    call.null()
}
