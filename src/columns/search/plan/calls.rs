//! What SQL calls of the planner's part: explain_search, and the functions that stand in conditions while they are
//! planned.

use pgrx::pg_sys;

use crate::columns::search::plan::{decided, unions};
use crate::error::Result;
use crate::server::call::Call;
use crate::server::explained;
use crate::server::record::{Record, return_set};

/// explain_search(query): what is decided of each condition on an encrypted column when the query is planned.
pub fn explain_search(call: Call) -> Result<pg_sys::Datum> {
    let query = call.text(0, "query")?;
    let mut outcome = Ok(());
    let decisions = decided::during(|| outcome = explained::plan(&query));
    outcome?;
    let rows = decisions.into_iter().map(|decision| {
        let mut row = Record::default();
        row.push(decision.condition)
            .push(decision.relation)
            .push_name(&decision.attribute)
            .push(decision.kind.map(|kind| kind.name()))
            .push(decision.why.is_none())
            .push(decision.why.map(|why| why.to_string()));
        row
    });
    Ok(return_set(call, rows.collect()))
}

/// on_terms(condition): true, of a call that nobody made anything of.
pub fn on_terms(_call: Call) -> Result<pg_sys::Datum> {
    Ok(pg_sys::Datum::from(true))
}

/// Its support function: the call becomes the conditions on terms that it stands for.
pub fn on_terms_support(call: Call) -> Result<pg_sys::Datum> {
    let Some(request) = call.datum(0) else {
        return Ok(call.null());
    };
    let node = request.cast_mut_ptr::<pg_sys::Node>();
    // SAFETY: the planner passes a node of one of its requests, whose tag says which.
    let made = unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_SupportRequestSimplify => unions::simplified(node.cast()),
            _ => std::ptr::null_mut(),
        }
    };
    Ok(pg_sys::Datum::from(made))
}
