//! Columns that everybody reads who may decrypt: an access view asks of each of its columns who reads it, in case
//! somebody restricts it later, and a statement on the view would ask so again in each execution. Where nobody is shut
//! out the plan is made without the question, and made again when the registration changes.

use std::ffi::CStr;

use pgrx::pg_sys::{self, NodeTag};

use crate::catalog::epoch;
use crate::columns::view::has_readers;
use crate::server::{planned, rethrow, tree, types};

/// What a view asks of each of its columns.
const QUESTION: &CStr = c"may_read_column";

/// Takes the questions out of what a query reads by access views.
///
/// # Safety
/// A query that is about to be planned, from a frame that holds nothing that wants dropping.
pub unsafe fn look(query: *mut pg_sys::Query) -> Option<pg_sys::Oid> {
    // SAFETY: the caller's promise.
    unsafe {
        if !reads_a_subquery(query) {
            return None;
        }
        // Without it nothing would end the plan.
        let marker = epoch::learn_marker();
        (marker != pg_sys::Oid::INVALID && in_query(query)).then_some(marker)
    }
}

/// # Safety
/// A query.
unsafe fn reads_a_subquery(query: *mut pg_sys::Query) -> bool {
    // SAFETY: the caller's promise; its lists hold what they are named after.
    unsafe {
        !(*query).cteList.is_null()
            || tree::each::<pg_sys::RangeTblEntry>((*query).rtable)
                .any(|entry| (*entry).rtekind == pg_sys::RTEKind::RTE_SUBQUERY)
    }
}

/// # Safety
/// A query.
unsafe fn in_query(query: *mut pg_sys::Query) -> bool {
    let mut is_changed = false;
    // SAFETY: the caller's promise; its lists hold what they are named after.
    unsafe {
        for entry in tree::each::<pg_sys::RangeTblEntry>((*query).rtable) {
            let below = (*entry).subquery;
            if (*entry).rtekind == pg_sys::RTEKind::RTE_SUBQUERY && !below.is_null() {
                for target in tree::each::<pg_sys::TargetEntry>((*below).targetList) {
                    is_changed |= in_expression((&raw mut (*target).expr).cast());
                }
                is_changed |= in_query(below);
            }
        }
        for with in tree::each::<pg_sys::CommonTableExpr>((*query).cteList) {
            let below = (*with).ctequery;
            if tree::is(below, NodeTag::T_Query) {
                is_changed |= in_query(below.cast());
            }
        }
    }
    is_changed
}

/// Puts what a view's column shows in the place of the CASE that asks who reads it.
///
/// # Safety
/// A place that holds an expression.
unsafe fn in_expression(place: *mut *mut pg_sys::Node) -> bool {
    // SAFETY: the caller's promise; a node is what its tag says.
    unsafe {
        let Some(place) = case_in(place) else {
            return false;
        };
        match planned::guarded((*place).cast()) {
            Some((asks, shown)) if is_answered(asks) => {
                *place = shown;
                true
            }
            _ => false,
        }
    }
}

/// Where the CASE is by which a view shows an encrypted column.
///
/// # Safety
/// A place that holds an expression.
unsafe fn case_in(mut place: *mut *mut pg_sys::Node) -> Option<*mut *mut pg_sys::Node> {
    // SAFETY: the caller's promise; a node is what its tag says.
    unsafe {
        loop {
            let node = *place;
            if node.is_null() {
                return None;
            }
            place = match (*node).type_ {
                NodeTag::T_CaseExpr => return Some(place),
                NodeTag::T_RelabelType => {
                    (&raw mut (*node.cast::<pg_sys::RelabelType>()).arg).cast()
                }
                NodeTag::T_CollateExpr => {
                    (&raw mut (*node.cast::<pg_sys::CollateExpr>()).arg).cast()
                }
                NodeTag::T_CoerceToDomain => {
                    (&raw mut (*node.cast::<pg_sys::CoerceToDomain>()).arg).cast()
                }
                NodeTag::T_CoerceViaIO => {
                    (&raw mut (*node.cast::<pg_sys::CoerceViaIO>()).arg).cast()
                }
                NodeTag::T_ArrayCoerceExpr => {
                    (&raw mut (*node.cast::<pg_sys::ArrayCoerceExpr>()).arg).cast()
                }
                NodeTag::T_FuncExpr => {
                    let arguments = (*node.cast::<pg_sys::FuncExpr>()).args;
                    if arguments.is_null() {
                        return None;
                    }
                    (*arguments).elements.cast()
                }
                _ => return None,
            };
        }
    }
}

/// Has what a view shows ask who reads it as a view asks now, where it is one of an earlier release: those asked in
/// subqueries.
///
/// # Safety
/// A list of target entries, which nobody else has.
pub unsafe fn ask_plainly(targets: *mut pg_sys::List) {
    // SAFETY: the caller's promise; a node is what its tag says.
    unsafe {
        for target in tree::each::<pg_sys::TargetEntry>(targets) {
            let Some(place) = case_in((&raw mut (*target).expr).cast()) else {
                continue;
            };
            let whens = (*(*place).cast::<pg_sys::CaseExpr>()).args;
            for when in tree::each::<pg_sys::CaseWhen>(whens) {
                if let Some(call) = call_in((*when).expr.cast())
                    && types::is_function((*call).funcid, &[QUESTION])
                {
                    (*when).expr = call.cast();
                }
            }
        }
    }
}

/// Whether a condition is the question who reads a column, and the answer is everybody.
///
/// # Safety
/// An expression.
unsafe fn is_answered(condition: *mut pg_sys::Node) -> bool {
    // SAFETY: the caller's promise; a node is what its tag says, the arguments are constants of the declared types, and
    // a name ends with NUL.
    unsafe {
        let Some(call) = call_in(condition) else {
            return false;
        };
        let arguments = tree::items::<pg_sys::Node>((*call).args);
        let [table, attribute] = arguments[..] else {
            return false;
        };
        let (Some(table), Some(attribute)) = (
            constant(table, pg_sys::REGCLASSOID),
            constant(attribute, pg_sys::NAMEOID),
        ) else {
            return false;
        };
        if !types::is_function((*call).funcid, &[QUESTION]) {
            return false;
        }
        let attribute = CStr::from_ptr(attribute.cast_mut_ptr()).to_string_lossy();
        let table = pg_sys::Oid::from(table.value() as u32);
        // Where the catalog cannot be read the question stays, and says so.
        rethrow::guard(|| has_readers(table, attribute.into_owned())).is_ok_and(|has| !has)
    }
}

/// The call that a condition is, or that a subquery of nothing else is: views of earlier releases have those.
///
/// # Safety
/// An expression.
unsafe fn call_in(condition: *mut pg_sys::Node) -> Option<*mut pg_sys::FuncExpr> {
    // SAFETY: the caller's promise; a node is what its tag says.
    unsafe {
        if tree::is(condition, NodeTag::T_FuncExpr) {
            return Some(condition.cast());
        }
        if !tree::is(condition, NodeTag::T_SubLink) {
            return None;
        }
        let link = &*condition.cast::<pg_sys::SubLink>();
        if link.subLinkType != pg_sys::SubLinkType::EXPR_SUBLINK
            || !tree::is(link.subselect, NodeTag::T_Query)
        {
            return None;
        }
        let asks = &*link.subselect.cast::<pg_sys::Query>();
        let targets = tree::items::<pg_sys::TargetEntry>(asks.targetList);
        let [target] = targets[..] else { return None };
        (is_bare(asks) && tree::is((*target).expr, NodeTag::T_FuncExpr))
            .then_some((*target).expr.cast())
    }
}

/// Whether a query is `SELECT expression`, and nothing else: one row, whatever there is.
///
/// # Safety
/// A query.
unsafe fn is_bare(query: &pg_sys::Query) -> bool {
    let lists = [
        query.rtable,
        query.cteList,
        query.groupClause,
        query.groupingSets,
        query.windowClause,
        query.distinctClause,
        query.sortClause,
        query.rowMarks,
    ];
    let clauses = [
        query.havingQual,
        query.limitOffset,
        query.limitCount,
        query.setOperations,
    ];
    // SAFETY: the caller's promise.
    let is_of_nothing = unsafe {
        query
            .jointree
            .as_ref()
            .is_none_or(|from| from.fromlist.is_null() && from.quals.is_null())
    };
    query.commandType == pg_sys::CmdType::CMD_SELECT
        && is_of_nothing
        && lists.iter().all(|list| list.is_null())
        && clauses.iter().all(|clause| clause.is_null())
        && !(query.hasTargetSRFs || query.hasAggs || query.hasSubLinks)
}

/// The value of a constant of a type.
///
/// # Safety
/// An expression.
unsafe fn constant(node: *mut pg_sys::Node, type_oid: pg_sys::Oid) -> Option<pg_sys::Datum> {
    // SAFETY: the caller's promise; a node is what its tag says.
    unsafe {
        if !tree::is(node, NodeTag::T_Const) {
            return None;
        }
        let constant = &*node.cast::<pg_sys::Const>();
        (constant.consttype == type_oid && !constant.constisnull).then_some(constant.constvalue)
    }
}
