//! Search indexes in plans: a condition on a decrypted column gets one on its terms beside it, which an index of the
//! server's serves, and stays as a filter. The rows are the same with it and without; what a search index spares is to
//! decrypt the others.
//!
//! The hook comes late (`server::planned`) and looks at one relation of one level of a query at a time, in the
//! conditions that are there then. `X` becomes `recheck(X) AND T`, where `T` holds wherever `X` does. So it is the same
//! whatever join the condition is in, and only below NOT, where it is not looked for, it would not be.

mod asked;
pub mod calls;
mod decided;
mod names;
mod plaintext;
mod rechecked;
mod rewriter;
mod shown;
mod spans;
mod tables;
mod terms;
mod unions;
pub mod unserved;

use std::ffi::c_int;

use pgrx::pg_sys;

use crate::columns::search::plan::rewriter::Rewriter;
use crate::error::Result;
use crate::server::{planned, rethrow};
use crate::settings;

/// Puts conditions on terms beside those on the encrypted columns of a relation.
///
/// # Safety
/// As [`planned::Look`], from a frame that holds nothing that wants dropping.
pub unsafe fn look(
    root: *mut pg_sys::PlannerInfo,
    relation: pg_sys::Oid,
    place: *mut pg_sys::RelOptInfo,
) {
    // The server's own tables have no encrypted columns.
    if relation.to_u32() < pg_sys::FirstNormalObjectId
        || !(settings::SEARCH_REWRITE.get() || decided::is_asked())
    {
        return;
    }
    // SAFETY: the caller's promise.
    unsafe {
        let (index, kind) = ((*place).relid as c_int, (*place).reloptkind);
        // Where the key catalog cannot be read, a query that uses no key goes on, and one that does will say so.
        let _ = rethrow::guard(|| match kind {
            pg_sys::RelOptKind::RELOPT_BASEREL => rewrite(root, relation, index),
            pg_sys::RelOptKind::RELOPT_OTHER_MEMBER_REL => unions::look(root, relation, index),
            _ => Ok(()),
        });
    }
}

/// # Safety
/// As [`look`].
unsafe fn rewrite(
    root: *mut pg_sys::PlannerInfo,
    table: pg_sys::Oid,
    relation: c_int,
) -> Result<()> {
    if let Some(rewriter) = Rewriter::of(root, table, relation)? {
        // SAFETY: the caller's promise.
        unsafe { planned::each_list(root, &mut |join, list| rewriter.list(join, list)) };
    }
    Ok(())
}
