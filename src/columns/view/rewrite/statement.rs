//! One statement on a view, made anew as one on its table.

use std::ffi::c_int;

use pgrx::pg_sys::{self, NodeTag};

use crate::catalog::epoch;
use crate::columns::view::rewrite::assign::{self, Places};
use crate::columns::view::rewrite::shape::{Kind, ViewShape};
use crate::server::tree::{self, Rights};

const INSERT: pg_sys::AclMode = pg_sys::ACL_INSERT as pg_sys::AclMode;
const SELECT: pg_sys::AclMode = pg_sys::ACL_SELECT as pg_sys::AclMode;
const UPDATE: pg_sys::AclMode = pg_sys::ACL_UPDATE as pg_sys::AclMode;
const DELETE: pg_sys::AclMode = pg_sys::ACL_DELETE as pg_sys::AclMode;

/// A statement in the making.
struct Making<'a> {
    query: *mut pg_sys::Query,
    shape: &'a ViewShape,
    view: pg_sys::Relation,
    table: pg_sys::Relation,
    /// The view's index and entry.
    at: c_int,
    entry: *mut pg_sys::RangeTblEntry,
    /// What was asked for of the view, before anything was changed.
    asked: Rights,
}

/// The statement on the table that does what this one on the view says; None where that is not certain.
///
/// # Safety
/// A query that writes to the open view of this shape, whose table is locked for writing.
pub unsafe fn rewritten(
    query: *mut pg_sys::Query,
    view: pg_sys::Relation,
    shape: &ViewShape,
) -> Option<*mut pg_sys::Query> {
    // SAFETY: the caller's promise; what is changed is a copy.
    unsafe {
        let query: *mut pg_sys::Query = tree::copy(query);
        let at = (*query).resultRelation;
        let entry = tree::entry((*query).rtable, at);
        let lock = pg_sys::NoLock as pg_sys::LOCKMODE;
        let table = pg_sys::relation_open(shape.table, lock);
        let making = Making {
            query,
            shape,
            view,
            table,
            at,
            entry,
            asked: tree::rights(query, entry),
        };
        // A rule would have what is assigned computed once more, and other values drawn.
        let has_rules = !(*table).rd_rules.is_null();
        let made = match (*query).commandType {
            _ if has_rules => None,
            pg_sys::CmdType::CMD_INSERT => making.insert(),
            pg_sys::CmdType::CMD_UPDATE => making.update(),
            pg_sys::CmdType::CMD_DELETE => Some(making.delete()),
            _ => None,
        };
        pg_sys::relation_close(table, lock);
        made
    }
}

impl Making<'_> {
    /// # Safety
    /// As [`rewritten`].
    unsafe fn update(self) -> Option<*mut pg_sys::Query> {
        // SAFETY: the caller's promise.
        unsafe {
            let table = self.add_table();
            let places = Places {
                table,
                excluded: None,
            };
            let assigned = assign::update(self.view, self.shape, (*self.query).targetList, places)?;
            (*self.query).targetList = assigned.targets;
            self.ask(
                table,
                UPDATE | SELECT,
                self.all_columns(),
                &[],
                &assigned.numbers,
            );
            Some(self.finished(table))
        }
    }

    /// # Safety
    /// As [`rewritten`].
    unsafe fn delete(self) -> *mut pg_sys::Query {
        // SAFETY: the caller's promise.
        unsafe {
            let table = self.add_table();
            self.ask(table, DELETE | SELECT, self.all_columns(), &[], &[]);
            self.finished(table)
        }
    }

    /// # Safety
    /// As [`rewritten`].
    unsafe fn insert(mut self) -> Option<*mut pg_sys::Query> {
        // SAFETY: the caller's promise.
        unsafe {
            let query = self.query;
            let conflict = (*query).onConflict;
            let is_update = !conflict.is_null()
                && (*conflict).action == pg_sys::OnConflictAction::ONCONFLICT_UPDATE;
            // The trigger knows nothing of that word.
            let overrides = (*query).override_ != pg_sys::OverridingKind::OVERRIDING_NOT_SET;
            if self.at != 1
                || has_default_among_values(query)
                // The trigger gives back what was written, also to who may not read it.
                || (conflict.is_null() && self.names_encrypted_columns() && !overrides)
            {
                return None;
            }
            let said = (*query).override_;
            let mut values = assign::values(self.view, self.shape, (*query).targetList, said)?;
            if values.must_be_computed_once {
                self.compute_once(&mut values.of)?;
            }
            let table = self.add_table();
            let inserted = assign::insert(self.shape, &values.of);
            (*query).targetList = inserted.targets;
            (*query).override_ = pg_sys::OverridingKind::OVERRIDING_SYSTEM_VALUE;
            let mut updated = Vec::new();
            let mut required = INSERT | (self.asked.required & SELECT);
            let mut selected = self.selected_columns();
            if is_update {
                selected.extend(self.selected_of_excluded(conflict));
                updated = self.update_on_conflict(conflict, table)?;
                required |= UPDATE | SELECT;
                // What is bound anew, or stays, is read.
                selected.extend(updated.iter().copied());
                selected.extend(self.used_by(&updated));
            }
            self.ask(table, required, selected, &inserted.numbers, &updated);
            Some(self.finished(table))
        }
    }

    /// The part of an INSERT that updates on conflict; returns the columns that it sets.
    ///
    /// # Safety
    /// As [`rewritten`].
    unsafe fn update_on_conflict(
        &self,
        conflict: *mut pg_sys::OnConflictExpr,
        table: c_int,
    ) -> Option<Vec<i16>> {
        // SAFETY: the caller's promise. The entry is made as the server makes it.
        unsafe {
            let said = (*conflict).exclRelIndex;
            let said_entry = tree::entry((*self.query).rtable, said);
            let alias = pg_sys::makeAlias(c"excluded".as_ptr(), std::ptr::null_mut());
            let lock = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
            let entry = tree::entry_of(self.table, lock, alias, false);
            (*entry).relkind = pg_sys::RELKIND_COMPOSITE_TYPE as std::ffi::c_char;
            let excluded = tree::append(&mut (*self.query).rtable, entry);
            let places = Places {
                table,
                excluded: Some((said, excluded)),
            };
            let assigned =
                assign::update(self.view, self.shape, (*conflict).onConflictSet, places)?;
            (*conflict).onConflictSet = assigned.targets;
            (*conflict).exclRelIndex = excluded;
            (*conflict).exclRelTlist =
                pg_sys::BuildOnConflictExcludedTargetlist(self.table, excluded as pg_sys::Index);
            let mut sublinks = (*self.query).hasSubLinks;
            (*self.query).onConflict = tree::replace(
                conflict,
                said,
                said_entry,
                self.shape.shown(excluded),
                table,
                &mut sublinks,
            );
            (*self.query).hasSubLinks = sublinks;
            Some(assigned.numbers)
        }
    }

    /// Makes the values of an INSERT rows of a subquery, so that each is computed once, however often it is named.
    ///
    /// # Safety
    /// As [`rewritten`].
    unsafe fn compute_once(&mut self, values: &mut [(usize, *mut pg_sys::Node)]) -> Option<()> {
        // SAFETY: the caller's promise; new nodes are what their tags say.
        unsafe {
            let query = self.query;
            if !(*query).cteList.is_null() {
                return None;
            }
            let conflict = (*query).onConflict;
            let excluded = if conflict.is_null() {
                0
            } else {
                (*conflict).exclRelIndex
            };
            let inner: *mut pg_sys::Query = tree::node(NodeTag::T_Query);
            (*inner).commandType = pg_sys::CmdType::CMD_SELECT;
            (*inner).canSetTag = true;
            (*inner).jointree = (*query).jointree;
            (*inner).hasSubLinks = (*query).hasSubLinks;
            (*inner).hasTargetSRFs = (*query).hasTargetSRFs;
            #[cfg(not(feature = "pg15"))]
            {
                (*inner).rteperminfos = tree::copy((*query).rteperminfos);
            }
            let (mut kept, mut moved) = (Vec::new(), Vec::new());
            for (entry, index) in tree::items::<pg_sys::RangeTblEntry>((*query).rtable)
                .into_iter()
                .zip(1..)
            {
                let stays = index == self.at || index == excluded;
                kept.push(if stays { entry } else { tree::placeholder() });
                moved.push(if stays { tree::placeholder() } else { entry });
            }
            (*inner).rtable = tree::list(moved);
            (*query).rtable = tree::list(kept);
            let (mut targets, mut names) = (Vec::new(), Vec::new());
            for ((at, value), number) in values.iter().zip(1..) {
                let name = &self.shape.columns[*at].name;
                targets.push(tree::target(*value, number, name));
                names.push(pg_sys::makeString(pg_sys::pstrdup(name.as_ptr())));
            }
            (*inner).targetList = tree::list(targets);
            // The statement may be one of a WITH list and name another of it: that is one level further out now.
            pg_sys::IncrementVarSublevelsUp(inner.cast(), 1, 1);
            let entry: *mut pg_sys::RangeTblEntry = tree::node(NodeTag::T_RangeTblEntry);
            (*entry).rtekind = pg_sys::RTEKind::RTE_SUBQUERY;
            (*entry).subquery = inner;
            (*entry).eref = pg_sys::makeAlias(c"values".as_ptr(), tree::list(names));
            (*entry).inFromCl = true;
            let index = tree::append(&mut (*query).rtable, entry);
            for ((_, value), number) in values.iter_mut().zip(1..) {
                *value = pg_sys::makeVar(
                    index,
                    number,
                    pg_sys::exprType(*value),
                    pg_sys::exprTypmod(*value),
                    pg_sys::exprCollation(*value),
                    0,
                )
                .cast();
            }
            let reference: *mut pg_sys::RangeTblRef = tree::node(NodeTag::T_RangeTblRef);
            (*reference).rtindex = index;
            (*query).jointree = pg_sys::makeFromExpr(tree::list([reference]), std::ptr::null_mut());
            (*query).hasTargetSRFs = false;
        }
        Some(())
    }

    /// Puts the table into the range table, and the key catalog: when that changes, a plan is made anew.
    ///
    /// # Safety
    /// As [`rewritten`].
    unsafe fn add_table(&self) -> c_int {
        // SAFETY: the caller's promise; the table is locked already.
        unsafe {
            let lock = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
            // ONLY says nothing of a view.
            let inherits = (*self.query).commandType != pg_sys::CmdType::CMD_INSERT;
            let entry = tree::entry_of(self.table, lock, std::ptr::null_mut(), inherits);
            let table = tree::append(&mut (*self.query).rtable, entry);
            let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
            let catalog = pg_sys::table_open(epoch::learn_marker(), lock);
            let entry = tree::entry_of(catalog, lock, std::ptr::null_mut(), false);
            tree::ask_owner(self.query, entry, catalog);
            pg_sys::table_close(catalog, pg_sys::NoLock as pg_sys::LOCKMODE);
            tree::append(&mut (*self.query).rtable, entry);
            table
        }
    }

    /// # Safety
    /// As [`rewritten`]; the table's index.
    unsafe fn ask(
        &self,
        table: c_int,
        required: pg_sys::AclMode,
        selected: Vec<i16>,
        inserted: &[i16],
        updated: &[i16],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let rights = Rights {
                required,
                selected: tree::columns(selected),
                inserted: tree::columns(inserted.iter().copied()),
                updated: tree::columns(updated.iter().copied()),
            };
            tree::ask(self.query, tree::entry((*self.query).rtable, table), rights);
        }
    }

    /// Has all that named the view name the table.
    ///
    /// # Safety
    /// As [`rewritten`]; the table's index.
    unsafe fn finished(self, table: c_int) -> *mut pg_sys::Query {
        // SAFETY: the caller's promise. As the server does for views that it can write to by itself.
        unsafe {
            let shown = self.shape.shown(table);
            let query = tree::replace(
                self.query,
                self.at,
                self.entry,
                shown,
                table,
                std::ptr::null_mut(),
            );
            pg_sys::ChangeVarNodes(query.cast(), self.at, table, 0);
            query
        }
    }

    /// The table's columns that the view shows: whoever selects from the view must be allowed to select them all.
    fn all_columns(&self) -> Vec<i16> {
        self.shape
            .columns
            .iter()
            .map(|column| column.number)
            .collect()
    }

    /// The table's columns behind those of the view that the statement reads.
    ///
    /// # Safety
    /// As [`rewritten`].
    unsafe fn selected_columns(&self) -> Vec<i16> {
        // SAFETY: the caller's promise.
        unsafe { self.behind(self.asked.selected) }
    }

    /// The table's columns behind those that are taken over from the row that was to be inserted.
    ///
    /// # Safety
    /// As [`rewritten`]; the statement's conflict.
    unsafe fn selected_of_excluded(&self, conflict: *mut pg_sys::OnConflictExpr) -> Vec<i16> {
        // SAFETY: the caller's promise.
        unsafe {
            let said = tree::entry((*self.query).rtable, (*conflict).exclRelIndex);
            self.behind(tree::selected(self.query, said))
        }
    }

    /// # Safety
    /// A set of the view's columns.
    unsafe fn behind(&self, read: *const pg_sys::Bitmapset) -> Vec<i16> {
        // SAFETY: the caller's promise.
        let read = unsafe { tree::numbers(read) };
        if read.iter().any(|&number| number <= 0) {
            return self.all_columns();
        }
        let mut columns: Vec<i16> = read
            .into_iter()
            .filter_map(|number| Some(self.shape.columns.get(number as usize - 1)?.number))
            .collect();
        columns.extend(self.used_by(&columns));
        columns
    }

    /// What the contexts of these columns of the table are made of.
    fn used_by(&self, columns: &[i16]) -> Vec<i16> {
        let encrypted = self
            .shape
            .columns
            .iter()
            .filter(|column| columns.contains(&column.number));
        let uses = encrypted.filter_map(|column| match &column.kind {
            Kind::Encrypted(it) => Some(it.uses.clone()),
            _ => None,
        });
        uses.flatten().collect()
    }

    /// Whether the statement reads an encrypted column of the view.
    ///
    /// # Safety
    /// As [`rewritten`].
    unsafe fn names_encrypted_columns(&self) -> bool {
        // SAFETY: the caller's promise.
        let read = unsafe { tree::numbers(self.asked.selected) };
        read.into_iter().any(|number| {
            number <= 0
                || self
                    .shape
                    .columns
                    .get(number as usize - 1)
                    .is_none_or(|column| matches!(column.kind, Kind::Encrypted(_)))
        })
    }
}

/// Whether one of several rows of values says DEFAULT.
///
/// # Safety
/// An analyzed INSERT.
unsafe fn has_default_among_values(query: *mut pg_sys::Query) -> bool {
    // SAFETY: the caller's promise; the lists of a VALUES are lists of expressions.
    unsafe {
        tree::items::<pg_sys::RangeTblEntry>((*query).rtable)
            .into_iter()
            .filter(|&entry| (*entry).rtekind == pg_sys::RTEKind::RTE_VALUES)
            .flat_map(|entry| tree::items::<pg_sys::List>((*entry).values_lists))
            .flat_map(|row| tree::items::<pg_sys::Node>(row))
            .any(|value| tree::is(value, NodeTag::T_SetToDefault))
    }
}
