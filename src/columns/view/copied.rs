//! COPY into an access view. The server gives the view's trigger row by row; the trigger collects them here, and each
//! thousand is encrypted and inserted by one statement, the last ones when COPY has read all. What the table's own
//! triggers and constraints say of a row comes with its thousand.

use std::cell::RefCell;
use std::ffi::{CString, c_char, c_int};

use colcrypt_domain::view::collected::{COLLECTED, ENCRYPTED};
use pgrx::pg_sys;

use crate::columns::view::copy_context;
use crate::columns::view::known::{Collected, KnownView, known_view};
use crate::columns::view::silent;
use crate::error::{Error, Result};
use crate::server::xact::{End, PartEnd};
use crate::server::{enclosure, report, rethrow, spi};
use crate::settings;

/// Rows that are collected at most, and their bytes.
const MOST_ROWS: u64 = 1000;
const MOST_BYTES: usize = 4 << 20;

/// A COPY that is under way.
struct Copying {
    statement: *mut pg_sys::PlannedStmt,
    level: c_int,
    view: pg_sys::Oid,
    /// Null until the first row.
    rows: *mut pg_sys::Tuplestorestate,
    count: u64,
    bytes: usize,
    /// Rows that the table's own triggers or rules held back: the server counted them.
    held_back: u64,
}

thread_local! {
    /// The innermost last. What lies in them is the transaction's memory.
    static UNDER_WAY: RefCell<Vec<Copying>> = const { RefCell::new(Vec::new()) };
}

static mut PREVIOUS: pg_sys::ProcessUtility_hook_type = None;

/// Puts the hook in place, before those there are: `enclosure` is one of them.
pub fn register() {
    // SAFETY: in the postmaster, in _PG_init.
    unsafe {
        PREVIOUS = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(on_utility);
    }
}

unsafe extern "C-unwind" fn on_utility(
    statement: *mut pg_sys::PlannedStmt,
    text: *const c_char,
    read_only: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    dest: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: the server's call; this is its outermost frame, and holds nothing that wants dropping. A node is what its
    // tag says.
    unsafe {
        let node = (*statement).utilityStmt;
        let from = copy_context::from_of(node);
        let copies = settings::VIEW_REWRITE.get() && from.is_some();
        let depth = if copies { begin(statement) } else { 0 };
        let run = || {
            if let Some(previous) = PREVIOUS {
                previous(
                    statement,
                    text,
                    read_only,
                    context,
                    params,
                    environment,
                    dest,
                    completion,
                );
            }
        };
        if from.is_some_and(|name| rethrow::guard(|| copy_context::is_of_view(name))) {
            if silent::is_replica() {
                report::raise_native(Error::ViewIsSilent);
            }
            copy_context::without_the_row(|| pg_sys::ffi::pg_guard_ffi_boundary(run));
        } else {
            run();
        }
        if copies {
            match rethrow::guard(|| end(depth)) {
                Err(error) => report::raise_native(error),
                Ok(held_back) if !completion.is_null() => {
                    let counted = &mut (*completion).nprocessed;
                    *counted = counted.saturating_sub(held_back);
                }
                Ok(_) => {}
            }
        }
    }
}

/// Notes that a COPY begins; returns how many there were before it.
fn begin(statement: *mut pg_sys::PlannedStmt) -> usize {
    let copying = Copying {
        statement,
        level: enclosure::level(),
        view: pg_sys::Oid::INVALID,
        rows: std::ptr::null_mut(),
        count: 0,
        bytes: 0,
        held_back: 0,
    };
    UNDER_WAY.with_borrow_mut(|all| {
        all.push(copying);
        all.len() - 1
    })
}

/// Inserts what is left; returns how many rows of all were held back.
fn end(depth: usize) -> Result<u64> {
    let copying = UNDER_WAY.with_borrow_mut(|all| {
        let copying = (all.len() > depth).then(|| all.swap_remove(depth));
        all.truncate(depth);
        copying
    });
    match copying {
        Some(copying) if !copying.rows.is_null() => {
            let held_back = insert(copying.view, copying.rows)?;
            // SAFETY: made by `collect`, and nobody else's.
            unsafe { pg_sys::tuplestore_end(copying.rows) };
            Ok(copying.held_back + held_back)
        }
        _ => Ok(0),
    }
}

/// Whether the trigger is fired by a COPY whose rows are to be collected, and by nothing within it.
pub fn is_under_way() -> bool {
    UNDER_WAY.with_borrow(|all| {
        all.last()
            .is_some_and(|copying| enclosure::utility_under_way() == Some(copying.statement))
    })
}

/// Whether this is the first row of a COPY.
pub fn is_first() -> bool {
    UNDER_WAY.with_borrow(|all| all.last().is_none_or(|copying| copying.rows.is_null()))
}

/// Takes in a row of the view, complete.
///
/// # Errors
/// Of the statement that inserts them.
///
/// # Safety
/// A tuple of this view; [`is_under_way`] said yes.
pub unsafe fn collect(view: pg_sys::Oid, tuple: pg_sys::HeapTuple) -> Result<()> {
    let (rows, is_full) = UNDER_WAY.with_borrow_mut(|all| {
        let Some(copying) = all.last_mut() else {
            return (std::ptr::null_mut(), false);
        };
        // SAFETY: the caller's promise. The rows lie in the transaction's memory, which the row's does not outlive.
        unsafe {
            if copying.rows.is_null() {
                let before = pg_sys::CurrentMemoryContext;
                pg_sys::CurrentMemoryContext = pg_sys::TopTransactionContext;
                // Never a file: they are plaintext.
                copying.rows = pg_sys::tuplestore_begin_heap(false, false, c_int::MAX);
                pg_sys::CurrentMemoryContext = before;
                copying.view = view;
            }
            pg_sys::tuplestore_puttuple(copying.rows, tuple);
            copying.count += 1;
            copying.bytes += (*tuple).t_len as usize;
        }
        let is_full = copying.count >= MOST_ROWS || copying.bytes >= MOST_BYTES;
        if is_full {
            (copying.count, copying.bytes) = (0, 0);
        }
        (copying.rows, is_full)
    });
    if is_full {
        let held_back = insert(view, rows)?;
        UNDER_WAY.with_borrow_mut(|all| {
            if let Some(copying) = all.last_mut() {
                copying.held_back += held_back;
            }
        });
        // SAFETY: the rows of this COPY, which go on being collected.
        unsafe { pg_sys::tuplestore_clear(rows) };
    }
    Ok(())
}

/// Inserts the rows into the view's table; returns how many of them were held back.
fn insert(view: pg_sys::Oid, rows: *mut pg_sys::Tuplestorestate) -> Result<u64> {
    // SAFETY: connects to SPI; an ERROR before the end leaves it, and the view, to the transaction's abort. The view
    // was locked by COPY.
    unsafe {
        let opened = pg_sys::relation_open(view, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        let known = known_view(opened)?;
        pg_sys::SPI_connect();
        register_rows(COLLECTED, rows, view, std::ptr::null_mut())?;
        if known.rows.hangs_on_search_path() {
            // The path is a safe one whenever the context is looked up: a plan that was made with another is made anew.
            let path = spi::safe_search_path();
            execute(&known, Collected::Encrypt)?;
            drop(path);
            let encrypted = pg_sys::SPI_tuptable;
            let rows = pg_sys::tuplestore_begin_heap(false, false, c_int::MAX);
            for at in 0..pg_sys::SPI_processed as usize {
                pg_sys::tuplestore_puttuple(rows, *(*encrypted).vals.add(at));
            }
            register_rows(ENCRYPTED, rows, pg_sys::Oid::INVALID, (*encrypted).tupdesc)?;
            execute(&known, Collected::InsertEncrypted)?;
        } else {
            execute(&known, Collected::Insert)?;
        }
        let inserted = pg_sys::SPI_processed;
        pg_sys::SPI_finish();
        pg_sys::relation_close(opened, pg_sys::NoLock as pg_sys::LOCKMODE);
        let all = pg_sys::tuplestore_tuple_count(rows).unsigned_abs();
        Ok(all.saturating_sub(inserted))
    }
}

fn failed() -> Error {
    Error::Spi("rows that were copied into an access view were not inserted".into())
}

/// Has statements of this connection to SPI find rows under a name: of a relation's type, or as described.
///
/// # Safety
/// Connected to SPI; rows of that type, which outlive the connection.
unsafe fn register_rows(
    name: &str,
    rows: *mut pg_sys::Tuplestorestate,
    relation: pg_sys::Oid,
    description: pg_sys::TupleDesc,
) -> Result<()> {
    let name = CString::new(name).unwrap_or_default();
    // SAFETY: the caller's promise; what is registered lies in memory that lives as long as the connection.
    unsafe {
        let registered = pg_sys::palloc0(size_of::<pg_sys::EphemeralNamedRelationData>())
            .cast::<pg_sys::EphemeralNamedRelationData>();
        (*registered).md = pg_sys::EphemeralNamedRelationMetadataData {
            name: pg_sys::pstrdup(name.as_ptr()),
            reliddesc: relation,
            tupdesc: description,
            enrtype: pg_sys::EphemeralNameRelationType::ENR_NAMED_TUPLESTORE,
            enrtuples: MOST_ROWS as f64,
        };
        (*registered).reldata = rows.cast();
        match pg_sys::SPI_register_relation(registered) {
            code if code == pg_sys::SPI_OK_REL_REGISTER as c_int => Ok(()),
            _ => Err(failed()),
        }
    }
}

/// # Safety
/// Connected to SPI, with the rows registered that the statement is over.
unsafe fn execute(known: &KnownView, step: Collected) -> Result<()> {
    let plan = known.plan_of_collected(step)?;
    let mut values = vec![pg_sys::Datum::from(0); known.parameters()];
    let nulls = vec![b'n' as c_char; known.parameters()];
    // SAFETY: the caller's promise; as many values as the statement has parameters.
    match unsafe { plan.execute(values.as_mut_ptr(), nulls.as_ptr())? } {
        0.. => Ok(()),
        _ => Err(failed()),
    }
}

/// What a transaction copied is over with it.
pub fn at_end(_end: End) {
    UNDER_WAY.with_borrow_mut(Vec::clear);
}

/// What a subtransaction copied is over with it.
pub fn at_part_end(end: PartEnd) {
    if let PartEnd::Abort { .. } = end {
        let level = enclosure::level();
        UNDER_WAY.with_borrow_mut(|all| all.retain(|copying| copying.level < level));
    }
}
