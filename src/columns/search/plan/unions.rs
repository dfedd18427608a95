//! Members of a UNION ALL that is part of its query: their conditions are those of the whole, and are made theirs when
//! the planner has given all of them their places.
//!
//! So the whole is given one more, `on_terms(X)`, which becomes what it stands for once the planner has put a member's
//! columns into `X` and simplifies the call: the conditions on terms that hold wherever X does, or nothing. Of what
//! remains as a call the value is true.

use std::ffi::c_int;

use pgrx::pg_sys::{self, NodeTag};

use crate::columns::search::plan::names::Names;
use crate::columns::search::plan::rewriter::Rewriter;
use crate::error::Result;
use crate::server::{constants, planned, tree};

/// Puts the call beside the conditions of the whole that this relation is a member of, if terms would serve one of them
/// here.
///
/// # Safety
/// As [`planned::Look`]; the relation is a member of another.
pub unsafe fn look(
    root: *mut pg_sys::PlannerInfo,
    table: pg_sys::Oid,
    member: c_int,
) -> Result<()> {
    // SAFETY: the caller's promise: the planner has an entry of how a member's columns are those of the whole.
    unsafe {
        let part = *(*root).append_rel_array.add(member as usize);
        if part.is_null() {
            return Ok(());
        }
        let whole = (*part).parent_relid as usize;
        let entry = *(*root).simple_rte_array.add(whole);
        if (*entry).rtekind != pg_sys::RTEKind::RTE_SUBQUERY {
            // Partitions and heirs: the conditions of the whole have been looked at.
            return Ok(());
        }
        let Some(mut rewriter) = Rewriter::of(root, table, member)? else {
            return Ok(());
        };
        let whole = *(*root).simple_rel_array.add(whole);
        let conditions = planned::conditions(whole);
        if conditions
            .iter()
            .any(|&condition| is_call(&rewriter.names, condition))
        {
            return Ok(());
        }
        let list = tree::list(conditions.iter().copied());
        let here: *mut pg_sys::List = planned::of_member(root, part, list.cast()).cast();
        // What is decided is told when the call is simplified, and here where that will not be.
        rewriter.is_trial = true;
        if rewriter.terms(here).is_empty() {
            rewriter.is_trial = false;
            rewriter.terms(here);
            return Ok(());
        }
        let all = planned::all_of(&conditions);
        let call = planned::call(rewriter.names.on_terms, pg_sys::BOOLOID, [tree::copy(all)]);
        planned::add_condition(root, whole, call);
    }
    Ok(())
}

/// # Safety
/// An expression.
unsafe fn is_call(names: &Names, condition: *mut pg_sys::Node) -> bool {
    // SAFETY: the caller's promise; a node is what its tag says.
    unsafe {
        tree::is(condition, NodeTag::T_FuncExpr)
            && (*condition.cast::<pg_sys::FuncExpr>()).funcid == names.on_terms
    }
}

/// What a call stands for, made of a member's columns; null where it stands for itself.
///
/// # Safety
/// A request of the planner's for a call of `on_terms`.
pub unsafe fn simplified(request: *mut pg_sys::SupportRequestSimplify) -> *mut pg_sys::Node {
    // SAFETY: the caller's promise; a call has the one argument that it is declared with.
    unsafe {
        let (root, call) = ((*request).root, (*request).fcall);
        let arguments = tree::items::<pg_sys::Node>((*call).args);
        let [condition] = arguments[..] else {
            return std::ptr::null_mut();
        };
        // Of the whole nothing is known yet.
        let Some(relation) = planned::only_relation(condition) else {
            return constants::truth();
        };
        if root.is_null() {
            return std::ptr::null_mut();
        }
        let entry = *(*root).simple_rte_array.add(relation as usize);
        if (*entry).rtekind != pg_sys::RTEKind::RTE_RELATION {
            return std::ptr::null_mut();
        }
        let made = Rewriter::of(root, (*entry).relid, relation)
            .ok()
            .flatten()
            .map(|rewriter| rewriter.terms(planned::list_of(condition)))
            .unwrap_or_default();
        match made[..] {
            [] => constants::truth(),
            _ => planned::all_of(&made),
        }
    }
}
