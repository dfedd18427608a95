//! A statement of somebody's, planned as it would be for him, and not run.

use std::ffi::{CString, c_int};

use pgrx::pg_sys::{self, NodeTag};

use crate::error::{Error, Result};
use crate::server::tree;

/// Plans one statement, whose parameters have no values yet. Who may not run it may not have it planned either.
///
/// # Errors
/// For anything but one statement that has a plan.
pub fn plan(text: &str) -> Result<()> {
    let text = CString::new(text).map_err(|_| not_one())?;
    // SAFETY: in a transaction with a snapshot; the text is copied, and outlives what is made of it.
    unsafe {
        let kept = pg_sys::pstrdup(text.as_ptr());
        let parsed = tree::items::<pg_sys::RawStmt>(pg_sys::pg_parse_query(kept));
        let [statement] = parsed[..] else {
            return Err(not_one());
        };
        let has_plan = matches!(
            (*(*statement).stmt).type_,
            NodeTag::T_SelectStmt
                | NodeTag::T_InsertStmt
                | NodeTag::T_UpdateStmt
                | NodeTag::T_DeleteStmt
                | NodeTag::T_MergeStmt
        );
        if !has_plan {
            return Err(not_one());
        }
        let (mut types, mut count) = (std::ptr::null_mut(), 0);
        let queries = pg_sys::pg_analyze_and_rewrite_varparams(
            statement,
            kept,
            &raw mut types,
            &raw mut count,
            std::ptr::null_mut(),
        );
        for query in tree::items::<pg_sys::Query>(queries) {
            if (*query).commandType == pg_sys::CmdType::CMD_UTILITY {
                continue;
            }
            let options = pg_sys::CURSOR_OPT_PARALLEL_OK as c_int;
            let plan = pg_sys::pg_plan_query(query, kept, options, std::ptr::null_mut());
            #[cfg(feature = "pg15")]
            pg_sys::ExecCheckRTPerms((*plan).rtable, true);
            #[cfg(not(feature = "pg15"))]
            pg_sys::ExecCheckPermissions((*plan).rtable, (*plan).permInfos, true);
        }
    }
    Ok(())
}

fn not_one() -> Error {
    Error::InvalidParameter {
        message: "there is not one statement that has a plan".into(),
        hint: "Give one SELECT, INSERT, UPDATE, DELETE or MERGE, with $1 and so on for parameters."
            .into(),
    }
}
