//! No UPDATE changes in silence what a value is bound to and leaves the value as it is: nobody could read it from then
//! on. A statement that sets a column which a registered context is made of, by hand, by a foreign key or from within a
//! function, has each of its rows looked at (`enforced.rs`); no other statement has anything to do with it.
//!
//! Columns that are enforced, or whose values follow, have a trigger of their own on the table.

use std::cell::RefCell;
use std::collections::HashMap;

use pgrx::pg_sys;

use crate::catalog::epoch;
use crate::catalog::scan::{self, Equals};
use crate::columns::enforced::{self, Binding};
use crate::error::Result;
use crate::server::{added_trigger, ours, report, rethrow, tree, watched};

/// Longest list of tables that are remembered; those of a session with more are looked up again.
const MOST: usize = 10_000;

thread_local! {
    static KNOWN: RefCell<HashMap<pg_sys::Oid, Known>> = RefCell::default();
}

/// Not in pgrx's bindings.
mod server {
    use pgrx::pg_sys;

    unsafe extern "C-unwind" {
        /// Raises no error; whether the relation is a partition or a child of another, or was.
        pub fn has_superclass(relation: pg_sys::Oid) -> bool;
    }
}

/// What values of a table's columns are bound to, until the catalog or the table changes; nothing of most tables.
struct Known {
    epoch: u64,
    generation: u64,
    bindings: Vec<Binding>,
    function: pg_sys::Oid,
}

impl Known {
    /// What to do about a statement that writes to the table.
    ///
    /// # Safety
    /// As [`look_at`].
    unsafe fn answer(
        &self,
        written: *mut pg_sys::ResultRelInfo,
        state: *mut pg_sys::EState,
    ) -> Answer {
        // SAFETY: the caller's promise.
        let set = |it: &&Binding| unsafe { added_trigger::sets(written, state, &[it.number]) };
        let Some(loosened) = self.bindings.iter().find(set) else {
            return Ok(None);
        };
        // SAFETY: as above. Partitions are opened as rows come, past us: the whole statement is refused.
        let opens_more = unsafe {
            (*(*(*written).ri_RelationDesc).rd_rel).relkind as u8
                == pg_sys::RELKIND_PARTITIONED_TABLE
                && !(*written).ri_onConflict.is_null()
        };
        match opens_more {
            true => Err(loosened.error()),
            false => Ok(Some(self.function)),
        }
    }
}

/// A function to call for each row, if any, or why not.
type Answer = Result<Option<pg_sys::Oid>>;

/// Has the rows looked at that a statement updates, where it sets what values are bound to.
///
/// # Safety
/// As [`started::Look`](crate::server::started::Look).
pub unsafe fn look(query: *mut pg_sys::QueryDesc) {
    // SAFETY: the caller's promise; a list of the relations that are written to.
    unsafe {
        let state = (*query).estate;
        if state.is_null() || !may_update(query) {
            return;
        }
        for written in tree::each::<pg_sys::ResultRelInfo>((*state).es_opened_result_relations) {
            let relation = (*written).ri_RelationDesc;
            if (*relation).rd_id.to_u32() < pg_sys::FirstNormalObjectId
                || !added_trigger::sets_any(written, state)
            {
                continue;
            }
            let outcome = rethrow::guard(|| look_at(written, state, (*relation).rd_id));
            if let Err(error) = outcome {
                report::raise_native(error);
            }
        }
    }
}

/// Whether a statement may update rows: all others, an INSERT above all, cost this look and no more.
///
/// # Safety
/// As [`look`].
unsafe fn may_update(query: *mut pg_sys::QueryDesc) -> bool {
    // SAFETY: the caller's promise; the plan of an INSERT writes at its top.
    unsafe {
        let plan = (*query).plannedstmt;
        if plan.is_null() || (*plan).hasModifyingCTE {
            return true;
        }
        match (*query).operation {
            pg_sys::CmdType::CMD_SELECT | pg_sys::CmdType::CMD_DELETE => false,
            pg_sys::CmdType::CMD_INSERT => {
                let top = (*plan).planTree;
                !tree::is(top, pg_sys::NodeTag::T_ModifyTable)
                    || (*top.cast::<pg_sys::ModifyTable>()).onConflictAction
                        == pg_sys::OnConflictAction::ONCONFLICT_UPDATE
            }
            _ => true,
        }
    }
}

/// # Safety
/// A table that the statement whose state this is writes to.
unsafe fn look_at(
    written: *mut pg_sys::ResultRelInfo,
    state: *mut pg_sys::EState,
    table: pg_sys::Oid,
) -> Result<()> {
    let (epoch, generation) = (epoch::refresh(false), watched::generation());
    // SAFETY: the caller's promise.
    let answer = |known: &Known| unsafe { known.answer(written, state) };
    let known = KNOWN.with_borrow(|all| {
        let known = all.get(&table)?;
        (known.epoch == epoch && known.generation == generation).then(|| answer(known))
    });
    let function = match known {
        Some(answer) => answer?,
        None => {
            let bindings = bound_to(table)?;
            watched::watch([table]);
            let function = match bindings.is_empty() {
                true => pg_sys::Oid::INVALID,
                false => enforced::function()?,
            };
            let known = Known {
                epoch,
                generation,
                bindings,
                function,
            };
            let answer = answer(&known);
            KNOWN.with_borrow_mut(|all| {
                if all.len() >= MOST {
                    all.clear();
                }
                all.insert(table, known);
            });
            answer?
        }
    };
    if let Some(function) = function {
        // SAFETY: the caller's promise; the extension's own trigger function.
        unsafe { added_trigger::add(written, state, function, c"~colcrypt") };
    }
    Ok(())
}

/// The columns that values of the table's columns are bound to, as it, or a table above it, is registered.
fn bound_to(table: pg_sys::Oid) -> Result<Vec<Binding>> {
    // SAFETY: in a transaction; looks-up in catalogs.
    unsafe {
        if ours::relation(c"protected_column").is_none() {
            return Ok(Vec::new());
        }
        let is_registered = scan::one(
            "protected_column",
            "protected_column_pkey",
            &[Equals::oid(1, table)],
            |_| Ok(()),
        )?;
        if is_registered.is_none() && !server::has_superclass(table) {
            return Ok(Vec::new());
        }
    }
    enforced::bound_to(table)
}
