//! A statement of ours that says a table's name is checked to mean the relation that was meant, whenever the server
//! analyzes it.
//!
//! A name is looked up when a statement is analyzed, and again when a cached plan is: by then the schema may have been
//! renamed and another relation have taken the name. The hook sees what the look-up found before anything of it is
//! planned or run. So a statement that people run all day needs no lock on its table's schema
//! ([`crate::server::relation::Named`] takes one).

use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::rc::Rc;

use pgrx::{PgList, pg_sys};

use crate::error::{Error, Result};
use crate::server::{analyzed, report};

/// A statement's text and the one relation that its outermost level reads or writes.
struct Meant {
    text: Rc<CString>,
    relation: pg_sys::Oid,
}

thread_local! {
    /// Those that are under way, the innermost last.
    static UNDER_WAY: RefCell<Vec<Meant>> = const { RefCell::new(Vec::new()) };
}

/// Ends what began, also where an ERROR passed an inner one.
struct Ends(usize);

impl Drop for Ends {
    fn drop(&mut self) {
        UNDER_WAY.with_borrow_mut(|all| all.truncate(self.0));
    }
}

/// Prepares or runs a statement of this text, which may only be about this relation: anything else is an ERROR before
/// it is planned.
///
/// # Errors
/// [`Error::NotPreloaded`] where nobody would look.
pub fn relation<T>(
    text: &Rc<CString>,
    relation: pg_sys::Oid,
    work: impl FnOnce() -> T,
) -> Result<T> {
    if !analyzed::is_registered() {
        return Err(Error::NotPreloaded);
    }
    let depth = UNDER_WAY.with_borrow_mut(|all| {
        all.push(Meant {
            text: text.clone(),
            relation,
        });
        all.len() - 1
    });
    let _ends = Ends(depth);
    Ok(work())
}

/// Refuses a statement of ours that is about another relation than was meant.
///
/// # Safety
/// As [`analyzed::Look`].
pub unsafe fn look(state: *mut pg_sys::ParseState, query: *mut pg_sys::Query) {
    // SAFETY: the caller's promise. Nothing here wants dropping when raise goes.
    unsafe {
        if is_other(state, query) {
            report::raise_native(Error::OtherRelation);
        }
    }
}

/// # Safety
/// As [`look`].
unsafe fn is_other(state: *mut pg_sys::ParseState, query: *mut pg_sys::Query) -> bool {
    UNDER_WAY.with_borrow(|all| {
        let Some(meant) = all.last() else {
            return false;
        };
        // SAFETY: a C string or null; the range table is a list of RangeTblEntry.
        unsafe {
            let text = (*state).p_sourcetext;
            if text.is_null() || CStr::from_ptr(text) != meant.text.as_c_str() {
                return false;
            }
            let ranges = PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable);
            let mut relations = ranges
                .iter_ptr()
                .filter(|range| (**range).rtekind == pg_sys::RTEKind::RTE_RELATION)
                .map(|range| (*range).relid)
                .peekable();
            relations.peek().is_none() || relations.any(|found| found != meant.relation)
        }
    })
}
