//! Which columns of its row an expression reads: found by the server's own analysis, which runs none of it.

use std::ffi::CString;
use std::panic::AssertUnwindSafe;

use pgrx::{PgList, PgTryBuilder, pg_sys};

use crate::error::{Error, Result};
use crate::server::relation::Named;
use crate::server::roles::AsRole;
use crate::server::spi::safe_search_path;
use crate::server::tree;

/// The numbers of the columns, outside subqueries; 0 is the whole row. None where the expression does not fit the table
/// (any more): then the transaction is to end.
///
/// # Errors
/// For an expression with NUL in it.
pub fn columns(table: &Named, expression: &str) -> Result<Option<Vec<i16>>> {
    let sql = CString::new(format!("SELECT ({expression}) FROM ONLY {}", table.sql))
        .map_err(|_| Error::Spi("an expression holds NUL".into()))?;
    let _role = AsRole::restricted(table.owner());
    let _path = safe_search_path();
    let found = PgTryBuilder::new(AssertUnwindSafe(|| {
        // SAFETY: a C string; what is made lives as long as the statement. The table is the statement's only relation,
        // so its number there is 1.
        unsafe {
            let parsed = PgList::<pg_sys::RawStmt>::from_pg(pg_sys::raw_parser(
                sql.as_ptr(),
                pg_sys::RawParseMode::RAW_PARSE_DEFAULT,
            ));
            let query = pg_sys::parse_analyze_fixedparams(
                parsed.get_ptr(0)?,
                sql.as_ptr(),
                std::ptr::null(),
                0,
                std::ptr::null_mut(),
            );
            let targets = PgList::<pg_sys::TargetEntry>::from_pg((*query).targetList);
            Some(tree::columns_in((*targets.get_ptr(0)?).expr.cast(), 1))
        }
    }))
    .catch_others(|_| None)
    .execute();
    Ok(found)
}
