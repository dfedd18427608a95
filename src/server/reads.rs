//! Which columns of its row an expression reads: found by the server's own analysis, which runs none of it.

use std::ffi::CString;
use std::panic::AssertUnwindSafe;

use pgrx::{PgList, PgTryBuilder, pg_sys};

use crate::error::{Error, Result};
use crate::server::relation::Named;
use crate::server::roles::AsRole;
use crate::server::spi::safe_search_path;
use crate::server::tree;

/// Whether two expressions over the table's rows are the same to the server.
///
/// # Errors
/// The server's, of a text that it cannot analyze.
pub fn are_same(table: &Named, one: &str, other: &str) -> Result<bool> {
    let _role = AsRole::restricted(table.owner());
    let _path = safe_search_path();
    let text = format!("SELECT ({one}), ({other}) FROM ONLY {}", table.sql);
    // SAFETY: in a transaction; what is analyzed lives as long as the statement.
    unsafe {
        let query = tree::analyzed(&text);
        if query.is_null() || (*query).commandType != pg_sys::CmdType::CMD_SELECT {
            return Ok(false);
        }
        let targets = tree::items::<pg_sys::TargetEntry>((*query).targetList);
        let [one, other] = targets[..] else {
            return Ok(false);
        };
        Ok(tree::same((*one).expr, (*other).expr))
    }
}

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
