//! Which column of its table each column of an access view shows: read from the view's query, since names change,
//! and a column that was encrypted in place lies at the end of its table and where it was in the view.

use pgrx::{PgList, pg_sys};

use crate::error::{Error, Result};
use crate::server::relation;

/// The columns' numbers in the table, in the order of the view.
///
/// # Errors
/// [`Error::NotAccessView`] when a column is no column of a table.
pub fn order_of(view: pg_sys::Oid) -> Result<Vec<i16>> {
    // SAFETY: opens and closes the relation; its rule belongs to it and is only read meanwhile. An ERROR before
    // the end leaves it to the transaction's abort.
    let order = unsafe {
        let opened = pg_sys::relation_open(view, pg_sys::AccessShareLock as i32);
        let order = shown_by(opened);
        pg_sys::relation_close(opened, pg_sys::AccessShareLock as i32);
        order
    };
    match order {
        Some(order) => Ok(order),
        None => Err(Error::NotAccessView {
            name: relation::shown(view)?,
        }),
    }
}

/// # Safety
/// An open view.
unsafe fn shown_by(view: pg_sys::Relation) -> Option<Vec<i16>> {
    // SAFETY: the caller's promise; a view has one query, whose target list is one of TargetEntry.
    unsafe {
        let query = pg_sys::get_view_query(view);
        let entries = PgList::<pg_sys::TargetEntry>::from_pg((*query).targetList);
        entries
            .iter_ptr()
            .filter(|entry| !(**entry).resjunk)
            .map(|entry| column_in((*entry).expr.cast()))
            .collect()
    }
}

/// The column that an expression of ours shows: itself, or decrypted and cast.
///
/// # Safety
/// A node of an expression, or null.
unsafe fn column_in(mut node: *mut pg_sys::Node) -> Option<i16> {
    use pg_sys::NodeTag;
    // SAFETY: the caller's promise; each node is what its tag says, and its arguments are nodes or null.
    unsafe {
        while !node.is_null() {
            node = match (*node).type_ {
                NodeTag::T_Var => {
                    let number = (*node.cast::<pg_sys::Var>()).varattno;
                    return (number > 0).then_some(number);
                }
                NodeTag::T_RelabelType => (*node.cast::<pg_sys::RelabelType>()).arg.cast(),
                NodeTag::T_CoerceToDomain => (*node.cast::<pg_sys::CoerceToDomain>()).arg.cast(),
                NodeTag::T_CoerceViaIO => (*node.cast::<pg_sys::CoerceViaIO>()).arg.cast(),
                NodeTag::T_ArrayCoerceExpr => (*node.cast::<pg_sys::ArrayCoerceExpr>()).arg.cast(),
                NodeTag::T_CollateExpr => (*node.cast::<pg_sys::CollateExpr>()).arg.cast(),
                NodeTag::T_FuncExpr => first((*node.cast::<pg_sys::FuncExpr>()).args),
                NodeTag::T_CaseExpr => {
                    let when = first((*node.cast::<pg_sys::CaseExpr>()).args);
                    if when.is_null() || (*when).type_ != NodeTag::T_CaseWhen {
                        return None;
                    }
                    (*when.cast::<pg_sys::CaseWhen>()).result.cast()
                }
                _ => return None,
            };
        }
        None
    }
}

/// # Safety
/// A list of nodes, or null.
unsafe fn first(list: *mut pg_sys::List) -> *mut pg_sys::Node {
    // SAFETY: the caller's promise.
    unsafe { PgList::<pg_sys::Node>::from_pg(list) }
        .get_ptr(0)
        .unwrap_or(std::ptr::null_mut())
}
