//! What the rewriter knows of an access view: that it is to the letter what `create_access_view` would make now, and
//! the expressions that are put into statements. Of any other view it knows nothing, and leaves it alone.
//!
//! Kept for the session until the view, its table or a registration changes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_int};
use std::rc::Rc;

use colcrypt_domain::view::{ViewColumn, only, parts};
use pgrx::pg_sys::{self, NodeTag};

use crate::catalog::epoch;
use crate::columns::view;
use crate::columns::view::anybody;
use crate::columns::view::order::order_of;
use crate::columns::view::silent;
use crate::error::Result;
use crate::server::tree::{self, Memory};
use crate::server::{relation, spi, types, watched};

/// Stand in for relations in the expressions that are kept; far above what a statement numbers its own.
const ROW: c_int = 50_001;
const VALUE: c_int = 50_002;
const CHOICE: c_int = 50_003;

/// A column of the view.
pub struct KnownColumn {
    /// Its number and name in the table.
    pub number: i16,
    pub name: CString,
    /// As the view shows it: type, modifier, collation.
    pub shown: (pg_sys::Oid, i32, pg_sys::Oid),
    stored: (pg_sys::Oid, i32, pg_sys::Oid),
    pub kind: Kind,
}

pub enum Kind {
    Plain,
    /// Computed by the table.
    Generated,
    Identity {
        sequence: pg_sys::Oid,
        is_always: bool,
    },
    Encrypted(Encrypted),
}

/// The expressions of an encrypted column: over [`ROW`], and [`VALUE`] with one column for each encrypted one.
pub struct Encrypted {
    nth: i16,
    encrypt: *mut pg_sys::Node,
    context: *mut pg_sys::Node,
    decrypted: *mut pg_sys::Node,
    may_read: *mut pg_sys::Node,
    /// The table's columns that the context is made of.
    pub uses: Vec<i16>,
    /// Whether not everybody sees the plaintext. A change of that ends the shape, and each plan made with it.
    pub has_readers: bool,
}

/// A view that is known to the letter.
pub struct ViewShape {
    pub table: pg_sys::Oid,
    /// In the order of the view.
    pub columns: Vec<KnownColumn>,
    /// What the view selects, over [`ROW`].
    targets: *mut pg_sys::List,
    rebound: *mut pg_sys::Node,
    kept: *mut pg_sys::Node,
    _memory: Memory,
}

/// A row of the table in a statement: an expression for each column of the view, by its number in the table.
#[derive(Clone)]
pub struct Row(Vec<(i16, *mut pg_sys::Node)>);

impl Row {
    pub fn set(&mut self, number: i16, expression: *mut pg_sys::Node) {
        for (at, known) in &mut self.0 {
            if *at == number {
                *known = expression;
            }
        }
    }

    pub fn get(&self, number: i16) -> Option<*mut pg_sys::Node> {
        let found = self.0.iter().find(|(at, _)| *at == number);
        found.map(|&(_, expression)| expression)
    }

    fn targets(&self) -> *mut pg_sys::List {
        // SAFETY: expressions of the statement that is rewritten.
        tree::list(
            self.0
                .iter()
                .map(|&(number, expression)| unsafe { tree::target(expression, number, c"") }),
        )
    }
}

impl ViewShape {
    /// The row of the table that has this index in a statement.
    pub fn row(&self, index: c_int) -> Row {
        Row(self
            .columns
            .iter()
            .map(|column| (column.number, self.variable(index, column)))
            .collect())
    }

    /// A column's value as it lies in the table.
    pub fn variable(&self, index: c_int, column: &KnownColumn) -> *mut pg_sys::Node {
        let (type_oid, modifier, collation) = column.stored;
        // SAFETY: a column of the table.
        unsafe { pg_sys::makeVar(index, column.number, type_oid, modifier, collation, 0).cast() }
    }

    /// What the view shows of the table that has this index.
    pub fn shown(&self, index: c_int) -> *mut pg_sys::List {
        // SAFETY: the kept list is copied before it is changed.
        unsafe {
            let targets = tree::copy(self.targets);
            pg_sys::ChangeVarNodes(targets.cast(), ROW, index, 0);
            targets
        }
    }

    /// The value encrypted, bound to what it is bound to in this row. A NULL is one without a key.
    pub fn encrypted(
        &self,
        of: &Encrypted,
        value: *mut pg_sys::Node,
        row: &Row,
    ) -> *mut pg_sys::Node {
        // SAFETY: kept expressions are copied by what puts others into them; a node is what its tag says.
        unsafe {
            if tree::is(value, NodeTag::T_Const) && (*value.cast::<pg_sys::Const>()).constisnull {
                let (type_oid, collation) = (pg_sys::exprType(of.encrypt), pg_sys::Oid::INVALID);
                return pg_sys::makeNullConst(type_oid, -1, collation).cast();
            }
            let mut sublinks = false;
            let value = tree::list([tree::target(value, of.nth, c"")]);
            let valued = tree::replace(
                of.encrypt,
                VALUE,
                std::ptr::null_mut(),
                value,
                0,
                &mut sublinks,
            );
            self.over(valued, row)
        }
    }

    /// The column's value in `from` as it is to lie in `to`: bound anew where what it is bound to is another. Opens the
    /// value only then.
    pub fn rebound(
        &self,
        column: &KnownColumn,
        of: &Encrypted,
        from: &Row,
        to: &Row,
    ) -> *mut pg_sys::Node {
        let as_it_is = from.get(column.number).unwrap_or(std::ptr::null_mut());
        if of.uses.is_empty() {
            return as_it_is;
        }
        let anew = self.encrypted(of, self.over(of.decrypted, from), to);
        let choice = [
            self.over(of.context, from),
            self.over(of.context, to),
            as_it_is,
            anew,
        ];
        self.chosen(self.rebound, choice)
    }

    /// The new value, or what stays of one that the writer does not see and so cannot erase.
    pub fn kept(
        &self,
        of: &Encrypted,
        new: *mut pg_sys::Node,
        stays: *mut pg_sys::Node,
    ) -> *mut pg_sys::Node {
        // SAFETY: a kept expression is copied.
        let may_read = unsafe { tree::copy(of.may_read) };
        self.chosen(self.kept, [new, may_read, stays])
    }

    fn over(&self, expression: *mut pg_sys::Node, row: &Row) -> *mut pg_sys::Node {
        let mut sublinks = false;
        // SAFETY: a row has all the columns that our expressions name.
        unsafe {
            tree::replace(
                expression,
                ROW,
                std::ptr::null_mut(),
                row.targets(),
                0,
                &mut sublinks,
            )
        }
    }

    fn chosen<const N: usize>(
        &self,
        form: *mut pg_sys::Node,
        by: [*mut pg_sys::Node; N],
    ) -> *mut pg_sys::Node {
        let mut sublinks = false;
        // SAFETY: as many expressions as the form has columns.
        unsafe {
            let by = by
                .into_iter()
                .zip(1..)
                .map(|(expression, number)| tree::target(expression, number, c""));
            tree::replace(
                form,
                CHOICE,
                std::ptr::null_mut(),
                tree::list(by),
                0,
                &mut sublinks,
            )
        }
    }

    /// Whether a context is made of this column of the table.
    pub fn is_in_a_context(&self, number: i16) -> bool {
        self.columns.iter().any(|column| match &column.kind {
            Kind::Encrypted(encrypted) => encrypted.uses.contains(&number),
            _ => false,
        })
    }
}

struct Known {
    shape: Option<Rc<ViewShape>>,
    epoch: u64,
    generation: u64,
}

thread_local! {
    static KNOWN: RefCell<HashMap<pg_sys::Oid, Known>> = RefCell::default();
}

/// The view's shape, if it has the one that it should have.
///
/// # Errors
/// Of SPI.
///
/// # Safety
/// An open view, in a transaction with a snapshot.
pub unsafe fn shape_of(view: pg_sys::Relation) -> Result<Option<Rc<ViewShape>>> {
    let epoch = epoch::refresh(false);
    let generation = watched::generation();
    // SAFETY: the caller's promise.
    let oid = unsafe { (*view).rd_id };
    let known = KNOWN.with_borrow(|all| {
        let known = all.get(&oid)?;
        (known.epoch == epoch && known.generation == generation).then(|| known.shape.clone())
    });
    if let Some(shape) = known {
        return Ok(shape);
    }
    // SAFETY: the caller's promise.
    let shape = unsafe { made(view)? }.map(Rc::new);
    watched::watch(shape.iter().map(|shape| shape.table).chain([oid]));
    let known = Known {
        shape: shape.clone(),
        epoch,
        generation,
    };
    KNOWN.with_borrow_mut(|all| all.insert(oid, known));
    Ok(shape)
}

/// The table that a view reads, and nothing but it, and its index in the view's query.
///
/// # Safety
/// A view's query.
pub unsafe fn read_by(query: *mut pg_sys::Query) -> Option<(pg_sys::Oid, c_int)> {
    // SAFETY: the caller's promise; lists are what their names say.
    unsafe {
        let it = &*query;
        let is_plain = it.commandType == pg_sys::CmdType::CMD_SELECT
            && !(it.hasAggs
                || it.hasWindowFuncs
                || it.hasTargetSRFs
                || it.hasDistinctOn
                || it.hasModifyingCTE
                || it.hasForUpdate)
            && [
                it.cteList,
                it.groupClause,
                it.groupingSets,
                it.windowClause,
                it.distinctClause,
                it.sortClause,
                it.rowMarks,
            ]
            .iter()
            .all(|list| list.is_null())
            && [
                it.havingQual,
                it.limitOffset,
                it.limitCount,
                it.setOperations,
                (*it.jointree).quals,
            ]
            .iter()
            .all(|node| node.is_null());
        let from = tree::items::<pg_sys::RangeTblRef>((*it.jointree).fromlist);
        let [reference] = from[..] else {
            return None;
        };
        if !is_plain || !tree::is(reference, NodeTag::T_RangeTblRef) {
            return None;
        }
        let index = (*reference).rtindex;
        let entry = &*tree::entry(it.rtable, index);
        let is_table = entry.rtekind == pg_sys::RTEKind::RTE_RELATION
            && matches!(entry.relkind as u8, b'r' | b'p')
            && entry.inh
            && entry.tablesample.is_null()
            && entry.securityQuals.is_null();
        is_table.then_some((entry.relid, index))
    }
}

/// # Safety
/// As [`shape_of`].
unsafe fn made(view: pg_sys::Relation) -> Result<Option<ViewShape>> {
    // SAFETY: the caller's promise; the view's rule is read, and copied where it is changed.
    unsafe {
        let (oid, query) = ((*view).rd_id, pg_sys::get_view_query(view));
        let Some((table, index)) = read_by(query) else {
            return Ok(None);
        };
        let Ok(order) = order_of(oid) else {
            return Ok(None);
        };
        let columns = only(view::columns_of(table)?, &order);
        if columns.len() != (*(*view).rd_att).natts as usize {
            return Ok(None);
        }
        let (name, bare) = (relation::shown(table)?, view::relation_name(table));
        let _path = spi::safe_search_path();
        let targets: *mut pg_sys::List = tree::copy((*query).targetList);
        pg_sys::ChangeVarNodes(targets.cast(), index, ROW, 0);
        anybody::ask_plainly(targets);
        let expected = tree::analyzed(&parts::shown(&bare, &name, &columns));
        if !is_over(expected, table) {
            return Ok(None);
        }
        pg_sys::ChangeVarNodes((*expected).targetList.cast(), 1, ROW, 0);
        let (has, should) = (expressions(targets), expressions((*expected).targetList));
        let is_same = has.len() == columns.len()
            && should.len() == columns.len()
            && has
                .iter()
                .zip(&should)
                .all(|(&one, &other)| tree::same(one, other));
        if !is_same || view::is_otherwise_below(table)? {
            return Ok(None);
        }
        let parts = tree::analyzed(&parts::parts(&bare, &name, &columns));
        if !is_over(parts, table)
            || (*parts).hasAggs
            || (*parts).hasWindowFuncs
            || (*parts).hasTargetSRFs
        {
            return Ok(None);
        }
        pg_sys::ChangeVarNodes((*parts).targetList.cast(), 1, ROW, 0);
        pg_sys::ChangeVarNodes((*parts).targetList.cast(), 2, VALUE, 0);
        let parts = expressions((*parts).targetList);
        let forms = [form(parts::REBOUND), form(parts::KEPT)];
        let readers = columns.iter().map(|column| match column.encrypted {
            Some(_) => view::has_readers(table, column.name.clone()),
            None => Ok(false),
        });
        let readers = readers.collect::<Result<Vec<bool>>>()?;
        Ok(assembled(table, &columns, &readers, targets, &parts, forms))
    }
}

/// Whether a statement of ours is about the table that was meant, whatever its name means by now.
///
/// # Safety
/// A query, or null.
unsafe fn is_over(query: *mut pg_sys::Query, table: pg_sys::Oid) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        !query.is_null()
            && tree::items::<pg_sys::RangeTblEntry>((*query).rtable)
                .first()
                .is_some_and(|&entry| (*entry).relid == table)
    }
}

/// # Safety
/// A list of target entries.
unsafe fn expressions(targets: *mut pg_sys::List) -> Vec<*mut pg_sys::Node> {
    // SAFETY: the caller's promise.
    unsafe {
        let entries = tree::items::<pg_sys::TargetEntry>(targets);
        entries
            .into_iter()
            .map(|entry| (*entry).expr.cast())
            .collect()
    }
}

/// The one expression of a statement of ours over one row.
///
/// # Safety
/// As [`tree::analyzed`].
unsafe fn form(text: &str) -> *mut pg_sys::Node {
    // SAFETY: the caller's promise; the statement has one target.
    unsafe {
        let query = tree::analyzed(text);
        pg_sys::ChangeVarNodes((*query).targetList.cast(), 1, CHOICE, 0);
        expressions((*query).targetList)[0]
    }
}

/// # Safety
/// As [`made`]; `parts` are of these columns.
unsafe fn assembled(
    table: pg_sys::Oid,
    columns: &[ViewColumn],
    readers: &[bool],
    targets: *mut pg_sys::List,
    parts: &[*mut pg_sys::Node],
    forms: [*mut pg_sys::Node; 2],
) -> Option<ViewShape> {
    let ciphertext = types::ciphertext_oid()?;
    let known: Vec<i16> = columns
        .iter()
        .filter(|column| column.is_plain())
        .map(|column| column.number)
        .collect();
    let mut all = Vec::new();
    let mut parts = parts.chunks(parts::EACH);
    // SAFETY: the caller's promise; the table is locked.
    let (memory, (targets, rebound, kept)) = unsafe {
        let shown = expressions(targets);
        for ((column, shown), &has_readers) in columns.iter().zip(shown).zip(readers) {
            let mut stored = (pg_sys::Oid::INVALID, 0, pg_sys::Oid::INVALID);
            pg_sys::get_atttypetypmodcoll(
                table,
                column.number,
                &mut stored.0,
                &mut stored.1,
                &mut stored.2,
            );
            let kind = match (&column.encrypted, column.identity) {
                (Some(_), _) => {
                    let &[encrypt, context, decrypted, may_read] = parts.next()? else {
                        return None;
                    };
                    let uses = tree::columns_in(context, ROW);
                    // A context that asks of more than the row's own values, or is another each time, is no matter of
                    // ours.
                    let is_simple = stored.0 == ciphertext
                        && uses.iter().all(|number| known.contains(number))
                        && ![encrypt, decrypted]
                            .iter()
                            .any(|&part| pg_sys::checkExprHasSubLink(part))
                        && !tree::is_costly_or_volatile(context);
                    if !is_simple {
                        return None;
                    }
                    let nth = all
                        .iter()
                        .filter(|column: &&KnownColumn| matches!(column.kind, Kind::Encrypted(_)))
                        .count();
                    Kind::Encrypted(Encrypted {
                        nth: nth as i16 + 1,
                        encrypt,
                        context,
                        decrypted,
                        may_read,
                        uses,
                        has_readers,
                    })
                }
                (None, Some(sequence)) => Kind::Identity {
                    sequence: sequence.into(),
                    is_always: column.is_always,
                },
                (None, None) if column.is_generated => Kind::Generated,
                (None, None) => Kind::Plain,
            };
            all.push(KnownColumn {
                number: column.number,
                name: CString::new(column.name.as_str()).ok()?,
                shown: (
                    pg_sys::exprType(shown),
                    pg_sys::exprTypmod(shown),
                    pg_sys::exprCollation(shown),
                ),
                stored,
                kind,
            });
        }
        Memory::of(c"colcrypt: access view", || {
            for column in &mut all {
                if let Kind::Encrypted(it) = &mut column.kind {
                    for part in [
                        &mut it.encrypt,
                        &mut it.context,
                        &mut it.decrypted,
                        &mut it.may_read,
                    ] {
                        *part = tree::copy(*part);
                    }
                }
            }
            (
                tree::copy(targets),
                tree::copy(forms[0]),
                tree::copy(forms[1]),
            )
        })
    };
    Some(ViewShape {
        table,
        columns: all,
        targets,
        rebound,
        kept,
        _memory: memory,
    })
}

/// Whether the view is one of ours as far as its options, rules and triggers go: it writes through our trigger and
/// nothing else does anything when it is written to.
///
/// # Safety
/// An open relation.
pub unsafe fn is_ours(view: pg_sys::Relation) -> bool {
    // SAFETY: the caller's promise; the relation cache's entry is there while it is open.
    unsafe {
        let it = &*view;
        let (rules, triggers) = (it.rd_rules, it.trigdesc);
        if (*it.rd_rel).relkind as u8 != pg_sys::RELKIND_VIEW
            || rules.is_null()
            || triggers.is_null()
            || it.rd_options.is_null()
        {
            return false;
        }
        let options = &*it.rd_options.cast::<pg_sys::ViewOptions>();
        if (*rules).numLocks != 1
            || (*triggers).numtriggers != 1
            || !options.security_invoker
            || options.check_option != pg_sys::ViewOptCheckOption::VIEW_OPTION_CHECK_OPTION_NOT_SET
            || silent::is_replica()
        {
            return false;
        }
        let trigger = &*(*triggers).triggers;
        let events = pg_sys::TRIGGER_TYPE_ROW
            | pg_sys::TRIGGER_TYPE_INSTEAD
            | pg_sys::TRIGGER_TYPE_INSERT
            | pg_sys::TRIGGER_TYPE_UPDATE
            | pg_sys::TRIGGER_TYPE_DELETE;
        trigger.tgenabled as u8 == pg_sys::TRIGGER_FIRES_ON_ORIGIN
            && i64::from(trigger.tgtype) == i64::from(events)
            && trigger.tgnattr == 0
            && types::is_function(trigger.tgfoid, &[c"write_access_view"])
    }
}
