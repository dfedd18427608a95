//! Statements as trees, as the server's parser and rewriter have them: nodes, lists, variables and rights.

use std::ffi::{CString, c_int};

use pgrx::{PgList, pg_sys};

/// The number that column numbers in sets of columns are counted from.
const LOWEST: c_int = pg_sys::FirstLowInvalidHeapAttributeNumber;

/// A new node, all zero.
///
/// # Safety
/// `T` is the node that the tag says.
pub unsafe fn node<T>(tag: pg_sys::NodeTag) -> *mut T {
    // SAFETY: zeroed memory of the node's size; each node begins with its tag.
    unsafe {
        let made = pg_sys::palloc0(size_of::<T>());
        (*made.cast::<pg_sys::Node>()).type_ = tag;
        made.cast()
    }
}

/// # Safety
/// A node or list, or null.
pub unsafe fn copy<T>(node: *const T) -> *mut T {
    // SAFETY: the caller's promise.
    unsafe { pg_sys::copyObjectImpl(node.cast()).cast() }
}

/// # Safety
/// Two nodes, or null.
pub unsafe fn same<T, U>(one: *const T, other: *const U) -> bool {
    // SAFETY: the caller's promise.
    unsafe { pg_sys::equal(one.cast(), other.cast()) }
}

/// Whether a node is of this kind.
///
/// # Safety
/// A node, or null.
pub unsafe fn is<T>(node: *const T, tag: pg_sys::NodeTag) -> bool {
    // SAFETY: the caller's promise.
    unsafe { !node.is_null() && (*node.cast::<pg_sys::Node>()).type_ == tag }
}

/// A list's members.
///
/// # Safety
/// A list of pointers to `T`, or null.
pub unsafe fn items<T>(list: *mut pg_sys::List) -> Vec<*mut T> {
    // SAFETY: the caller's promise.
    unsafe { PgList::<T>::from_pg(list) }.iter_ptr().collect()
}

/// The same one after the other, without a list of our own. The list stays as it is meanwhile.
///
/// # Safety
/// A list of pointers to `T`, or null, which outlives what is returned.
pub unsafe fn each<T>(list: *mut pg_sys::List) -> impl Iterator<Item = *mut T> {
    // SAFETY: the caller's promise; so many elements as the list says.
    let count = unsafe { list.as_ref() }.map_or(0, |list| list.length.max(0) as usize);
    // SAFETY: as above.
    (0..count).map(move |at| unsafe { (*(*list).elements.add(at)).ptr_value.cast() })
}

/// A new list of them; null of none.
pub fn list<T>(members: impl IntoIterator<Item = *mut T>) -> *mut pg_sys::List {
    let mut made = PgList::<T>::new();
    for member in members {
        made.push(member);
    }
    made.into_pg()
}

/// The range table entry of this index.
///
/// # Safety
/// A range table that has it.
pub unsafe fn entry(rtable: *mut pg_sys::List, index: c_int) -> *mut pg_sys::RangeTblEntry {
    // SAFETY: the caller's promise.
    let entries: Vec<*mut pg_sys::RangeTblEntry> = unsafe { items(rtable) };
    entries[index as usize - 1]
}

/// Puts a range table entry at the end, and returns its index.
///
/// # Safety
/// A query's range table.
pub unsafe fn append(rtable: &mut *mut pg_sys::List, entry: *mut pg_sys::RangeTblEntry) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        *rtable = pg_sys::lappend(*rtable, entry.cast());
        pg_sys::list_length(*rtable)
    }
}

/// An entry for a relation that is open, without any rights asked for.
///
/// # Safety
/// An open relation, locked in this mode.
pub unsafe fn entry_of(
    relation: pg_sys::Relation,
    lock: pg_sys::LOCKMODE,
    alias: *mut pg_sys::Alias,
    inherits: bool,
) -> *mut pg_sys::RangeTblEntry {
    // SAFETY: the caller's promise; the state is there to put the entry in.
    unsafe {
        let state = pg_sys::make_parsestate(std::ptr::null_mut());
        let item =
            pg_sys::addRangeTableEntryForRelation(state, relation, lock, alias, inherits, false);
        let entry = (*item).p_rte;
        #[cfg(feature = "pg15")]
        {
            (*entry).requiredPerms = 0;
        }
        #[cfg(not(feature = "pg15"))]
        {
            (*entry).perminfoindex = 0;
        }
        entry
    }
}

/// An entry that is there only so that those behind it keep their index.
pub fn placeholder() -> *mut pg_sys::RangeTblEntry {
    // SAFETY: the node that the tag says; the names are C strings.
    unsafe {
        let entry: *mut pg_sys::RangeTblEntry = node(pg_sys::NodeTag::T_RangeTblEntry);
        (*entry).rtekind = pg_sys::RTEKind::RTE_RESULT;
        (*entry).eref = pg_sys::makeAlias(c"*RESULT*".as_ptr(), std::ptr::null_mut());
        entry
    }
}

/// What a statement asks to be allowed of a relation. Columns are in sets of the server's.
#[derive(Clone, Copy)]
pub struct Rights {
    pub required: pg_sys::AclMode,
    pub selected: *mut pg_sys::Bitmapset,
    pub inserted: *mut pg_sys::Bitmapset,
    pub updated: *mut pg_sys::Bitmapset,
}

/// # Safety
/// An entry of the query's range table that has rights asked for.
#[cfg(feature = "pg15")]
pub unsafe fn rights(_query: *mut pg_sys::Query, entry: *mut pg_sys::RangeTblEntry) -> Rights {
    // SAFETY: the caller's promise.
    unsafe {
        Rights {
            required: (*entry).requiredPerms,
            selected: (*entry).selectedCols,
            inserted: (*entry).insertedCols,
            updated: (*entry).updatedCols,
        }
    }
}

/// # Safety
/// An entry of the query's range table that has rights asked for.
#[cfg(not(feature = "pg15"))]
pub unsafe fn rights(query: *mut pg_sys::Query, entry: *mut pg_sys::RangeTblEntry) -> Rights {
    // SAFETY: the caller's promise.
    unsafe {
        let asked = pg_sys::getRTEPermissionInfo((*query).rteperminfos, entry);
        Rights {
            required: (*asked).requiredPerms,
            selected: (*asked).selectedCols,
            inserted: (*asked).insertedCols,
            updated: (*asked).updatedCols,
        }
    }
}

/// The columns that a statement asks to select of a relation; null where nothing is asked of it.
///
/// # Safety
/// An entry of the query's range table.
pub unsafe fn selected(
    query: *mut pg_sys::Query,
    entry: *mut pg_sys::RangeTblEntry,
) -> *mut pg_sys::Bitmapset {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(not(feature = "pg15"))]
        if (*entry).perminfoindex == 0 {
            return std::ptr::null_mut();
        }
        rights(query, entry).selected
    }
}

/// Has the entry ask for these rights, of whoever runs the statement.
///
/// # Safety
/// An entry of the query's range table for which none were asked.
pub unsafe fn ask(query: *mut pg_sys::Query, entry: *mut pg_sys::RangeTblEntry, rights: Rights) {
    // SAFETY: the caller's promise.
    unsafe { ask_of(query, entry, pg_sys::Oid::INVALID, rights) };
}

/// Has the entry of a relation that is named for its changes alone ask its owner for the right to read it. Since
/// version 16 the server takes no relation for which nothing is asked.
///
/// # Safety
/// As [`ask`]; the entry's relation is open.
pub unsafe fn ask_owner(
    query: *mut pg_sys::Query,
    entry: *mut pg_sys::RangeTblEntry,
    relation: pg_sys::Relation,
) {
    let rights = Rights {
        required: pg_sys::ACL_SELECT as pg_sys::AclMode,
        selected: std::ptr::null_mut(),
        inserted: std::ptr::null_mut(),
        updated: std::ptr::null_mut(),
    };
    // SAFETY: the caller's promise.
    unsafe { ask_of(query, entry, (*(*relation).rd_rel).relowner, rights) };
}

/// # Safety
/// As [`ask`].
unsafe fn ask_of(
    query: *mut pg_sys::Query,
    entry: *mut pg_sys::RangeTblEntry,
    role: pg_sys::Oid,
    rights: Rights,
) {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(feature = "pg15")]
        let asked = entry;
        #[cfg(not(feature = "pg15"))]
        let asked = pg_sys::addRTEPermissionInfo(&mut (*query).rteperminfos, entry);
        #[cfg(feature = "pg15")]
        let _ = query;
        (*asked).requiredPerms = rights.required;
        (*asked).checkAsUser = role;
        (*asked).selectedCols = rights.selected;
        (*asked).insertedCols = rights.inserted;
        (*asked).updatedCols = rights.updated;
    }
}

/// A set of columns.
///
/// # Safety
/// In a memory context that outlives the set.
pub unsafe fn columns(numbers: impl IntoIterator<Item = i16>) -> *mut pg_sys::Bitmapset {
    let mut set = std::ptr::null_mut();
    for number in numbers {
        // SAFETY: a set, or null for the empty one.
        set = unsafe { pg_sys::bms_add_member(set, c_int::from(number) - LOWEST) };
    }
    set
}

/// The numbers in a set of columns. 0 is the whole row, lower ones are the system's.
///
/// # Safety
/// A set, or null.
pub unsafe fn numbers(set: *const pg_sys::Bitmapset) -> Vec<i16> {
    let (mut found, mut at) = (Vec::new(), -1);
    loop {
        // SAFETY: the caller's promise.
        at = unsafe { pg_sys::bms_next_member(set, at) };
        if at < 0 {
            return found;
        }
        found.push((at + LOWEST) as i16);
    }
}

/// The columns of a relation that an expression without subqueries names.
///
/// # Safety
/// An expression.
pub unsafe fn columns_in(expression: *mut pg_sys::Node, relation: c_int) -> Vec<i16> {
    let mut set = std::ptr::null_mut();
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::pull_varattnos(expression, relation as pg_sys::Index, &mut set);
        numbers(set)
    }
}

/// Puts expressions in place of the columns of a relation: in an expression or a whole statement, in which the
/// relation `result` is written to. `sublinks` is set where a subquery came in with them.
///
/// # Safety
/// A node; a list of target entries, one for each column that is named; the relation's entry where whole rows are
/// named.
pub unsafe fn replace<T>(
    node: *mut T,
    relation: c_int,
    entry: *mut pg_sys::RangeTblEntry,
    by: *mut pg_sys::List,
    result: c_int,
    sublinks: *mut bool,
) -> *mut T {
    let _ = result;
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::ReplaceVarsFromTargetList(
            node.cast(),
            relation,
            0,
            entry,
            by,
            #[cfg(feature = "pg18")]
            result,
            pg_sys::ReplaceVarsNoMatchOption::REPLACEVARS_REPORT_ERROR,
            0,
            sublinks,
        )
        .cast()
    }
}

/// The statement of a text of ours, analyzed with no hook asked.
///
/// # Safety
/// In a transaction, with a snapshot.
pub unsafe fn analyzed(text: &str) -> *mut pg_sys::Query {
    let text = CString::new(text).unwrap_or_default();
    // SAFETY: the text is copied where the server keeps any of it, and outlives the state.
    unsafe {
        let kept = pg_sys::pstrdup(text.as_ptr());
        let parsed = items::<pg_sys::RawStmt>(pg_sys::pg_parse_query(kept));
        let Some(&statement) = parsed.first() else {
            return std::ptr::null_mut();
        };
        let state = pg_sys::make_parsestate(std::ptr::null_mut());
        (*state).p_sourcetext = kept;
        let query = pg_sys::transformTopLevelStmt(state, statement);
        pg_sys::free_parsestate(state);
        query
    }
}

/// What a target list's member says is `expression`.
///
/// # Safety
/// An expression.
pub unsafe fn target<T>(
    expression: *mut T,
    number: i16,
    name: &std::ffi::CStr,
) -> *mut pg_sys::TargetEntry {
    // SAFETY: the caller's promise; the name is copied.
    unsafe {
        pg_sys::makeTargetEntry(
            expression.cast(),
            number,
            pg_sys::pstrdup(name.as_ptr()),
            false,
        )
    }
}

/// Whether an expression's value may be another each time, or takes a subquery to find.
///
/// # Safety
/// An expression.
pub unsafe fn is_costly_or_volatile(expression: *mut pg_sys::Node) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::contain_volatile_functions(expression) || pg_sys::checkExprHasSubLink(expression)
    }
}

/// Memory of the session's, freed when dropped.
pub struct Memory(pg_sys::MemoryContext);

impl Memory {
    /// Runs `work` with its memory in this.
    pub fn of<T>(name: &'static std::ffi::CStr, work: impl FnOnce() -> T) -> (Self, T) {
        // SAFETY: a context that lives until it is deleted; the one before is put back.
        unsafe {
            let memory = pg_sys::AllocSetContextCreateInternal(
                pg_sys::TopMemoryContext,
                name.as_ptr(),
                0,
                8 * 1024,
                8 * 1024 * 1024,
            );
            let made = Self(memory);
            let before = pg_sys::CurrentMemoryContext;
            pg_sys::CurrentMemoryContext = memory;
            let result = work();
            pg_sys::CurrentMemoryContext = before;
            (made, result)
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Deleting may not raise, so it is right in an unwinding, too.
        // SAFETY: made by `of`, and nobody else's.
        unsafe { pg_sys::MemoryContextDelete(self.0) };
    }
}
