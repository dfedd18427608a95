//! What a statement assigns to the columns of a view, as assignments to the columns of its table.

use std::ffi::c_int;

use pgrx::pg_sys::{self, NodeTag};

use crate::columns::view::rewrite::shape::{Kind, KnownColumn, Row, ViewShape};
use crate::server::tree;

/// Assignments to the table, and the columns that they set.
pub struct Assignments {
    pub targets: *mut pg_sys::List,
    pub numbers: Vec<i16>,
}

/// Where the rows are that a statement assigns to and takes values from.
#[derive(Clone, Copy)]
pub struct Places {
    /// The table's index.
    pub table: c_int,
    /// Of an INSERT that updates on conflict: the row that was to be inserted, as the statement names it and as a row
    /// of the table.
    pub excluded: Option<(c_int, c_int)>,
}

/// What a column is given by a list of the statement's targets, in the order of the view. None where the statement
/// gives part of a value, or one twice.
///
/// # Safety
/// A list of target entries for columns of the view.
pub unsafe fn given(
    shape: &ViewShape,
    targets: *mut pg_sys::List,
) -> Option<Vec<Option<*mut pg_sys::Node>>> {
    let mut given = vec![None; shape.columns.len()];
    // SAFETY: the caller's promise.
    unsafe {
        for target in tree::items::<pg_sys::TargetEntry>(targets) {
            let expression: *mut pg_sys::Node = (*target).expr.cast();
            let at = usize::try_from((*target).resno).ok()?.checked_sub(1)?;
            let is_part = tree::is(expression, NodeTag::T_FieldStore)
                || tree::is(expression, NodeTag::T_SubscriptingRef);
            if (*target).resjunk || at >= given.len() || given[at].is_some() {
                return None;
            }
            if is_part && !matches!(shape.columns[at].kind, Kind::Plain) {
                return None;
            }
            given[at] = Some(expression);
        }
    }
    Some(given)
}

/// The view's default for a column, NULL where it has none. None for a domain, whose NULL the server has to look at.
///
/// # Safety
/// The open view.
pub unsafe fn default_of(
    view: pg_sys::Relation,
    at: usize,
    column: &KnownColumn,
) -> Option<*mut pg_sys::Node> {
    // SAFETY: the caller's promise.
    unsafe {
        let default = pg_sys::build_column_default(view, at as c_int + 1);
        if !default.is_null() {
            return Some(default);
        }
        let (type_oid, modifier, collation) = column.shown;
        (pg_sys::getBaseType(type_oid) == type_oid)
            .then(|| pg_sys::makeNullConst(type_oid, modifier, collation).cast())
    }
}

/// The assignments of an UPDATE, or of an INSERT's conflict.
///
/// # Safety
/// The open view; a list of target entries for its columns.
pub unsafe fn update(
    view: pg_sys::Relation,
    shape: &ViewShape,
    targets: *mut pg_sys::List,
    places: Places,
) -> Option<Assignments> {
    let before = shape.row(places.table);
    let mut after = before.clone();
    let mut moved = Vec::new();
    // SAFETY: the caller's promise; expressions are the statement's.
    unsafe {
        let mut given = given(shape, targets)?;
        for (at, column) in shape.columns.iter().enumerate() {
            let Some(expression) = &mut given[at] else {
                continue;
            };
            if tree::is(*expression, NodeTag::T_SetToDefault) {
                match column.kind {
                    Kind::Generated => {}
                    Kind::Identity { .. } => return None,
                    Kind::Plain | Kind::Encrypted(_) => *expression = default_of(view, at, column)?,
                }
            }
            if shape.is_in_a_context(column.number) {
                // It is said twice: in the column and in what values are bound to.
                if tree::is_costly_or_volatile(*expression) {
                    return None;
                }
                after.set(column.number, *expression);
                moved.push(column.number);
            }
        }
        let (mut numbers, mut list) = (Vec::new(), Vec::new());
        for (at, column) in shape.columns.iter().enumerate() {
            let assigned = match (&column.kind, given[at]) {
                (Kind::Encrypted(it), given) => {
                    let is_moved = it.uses.iter().any(|number| moved.contains(number));
                    let stays = || match is_moved {
                        true => shape.rebound(column, it, &before, &after),
                        false => shape.variable(places.table, column),
                    };
                    match given {
                        None if !is_moved => continue,
                        None => stays(),
                        Some(expression) => {
                            let new = match excluded_value(expression, at, places) {
                                Some(excluded) => {
                                    shape.rebound(column, it, &shape.row(excluded), &after)
                                }
                                None => shape.encrypted(it, expression, &after),
                            };
                            match it.has_readers {
                                true => shape.kept(it, new, stays()),
                                false => new,
                            }
                        }
                    }
                }
                (_, None) => continue,
                (_, Some(expression)) => expression,
            };
            numbers.push(column.number);
            list.push(tree::target(assigned, column.number, &column.name));
        }
        Some(Assignments {
            targets: tree::list(list),
            numbers,
        })
    }
}

/// The index of the excluded row, where the expression is its value of the very column that is assigned to: that is
/// encrypted already.
///
/// # Safety
/// An expression of the statement.
unsafe fn excluded_value(
    expression: *mut pg_sys::Node,
    at: usize,
    places: Places,
) -> Option<c_int> {
    let (said, table) = places.excluded?;
    // SAFETY: the caller's promise; a node is what its tag says.
    unsafe {
        if !tree::is(expression, NodeTag::T_Var) {
            return None;
        }
        let variable = &*expression.cast::<pg_sys::Var>();
        let is_it = variable.varno as c_int == said
            && variable.varlevelsup == 0
            && variable.varattno as usize == at + 1;
        is_it.then_some(table)
    }
}

/// The values of an INSERT, one for each column of the table that is set, and whether one of them that is said twice
/// may be said only once.
pub struct Values {
    pub of: Vec<(usize, *mut pg_sys::Node)>,
    pub must_be_computed_once: bool,
}

/// The values of an INSERT, which may say `OVERRIDING … VALUE`: then what is given for an identity column counts in any
/// case, or in none.
///
/// # Safety
/// The open view; a list of target entries for its columns.
pub unsafe fn values(
    view: pg_sys::Relation,
    shape: &ViewShape,
    targets: *mut pg_sys::List,
    said: pg_sys::OverridingKind::Type,
) -> Option<Values> {
    let overrides_system = said == pg_sys::OverridingKind::OVERRIDING_SYSTEM_VALUE;
    let overrides_user = said == pg_sys::OverridingKind::OVERRIDING_USER_VALUE;
    // SAFETY: the caller's promise.
    unsafe {
        let given = given(shape, targets)?;
        let (mut of, mut must_be_computed_once) = (Vec::new(), false);
        for (at, column) in shape.columns.iter().enumerate() {
            let given =
                given[at].filter(|&expression| !tree::is(expression, NodeTag::T_SetToDefault));
            let is_part = given.is_some_and(|it| {
                tree::is(it, NodeTag::T_FieldStore) || tree::is(it, NodeTag::T_SubscriptingRef)
            });
            if is_part {
                return None;
            }
            let value = match (&column.kind, given) {
                (Kind::Generated, None) => continue,
                (Kind::Generated, Some(_)) => return None,
                (Kind::Identity { sequence, .. }, _) if overrides_user => {
                    identity(column, *sequence, None)
                }
                (
                    Kind::Identity {
                        is_always: true, ..
                    },
                    Some(_),
                ) if !overrides_system => return None,
                (Kind::Identity { sequence, .. }, given) => identity(column, *sequence, given),
                (_, Some(expression)) => expression,
                (_, None) => default_of(view, at, column)?,
            };
            if shape.is_in_a_context(column.number) && tree::is_costly_or_volatile(value) {
                must_be_computed_once = true;
            }
            of.push((at, value));
        }
        Some(Values {
            of,
            must_be_computed_once,
        })
    }
}

/// The next value of an identity column, where none was given.
///
/// # Safety
/// An expression of the statement.
unsafe fn identity(
    column: &KnownColumn,
    sequence: pg_sys::Oid,
    given: Option<*mut pg_sys::Node>,
) -> *mut pg_sys::Node {
    // SAFETY: new nodes, each what its tag says.
    unsafe {
        let next: *mut pg_sys::NextValueExpr = tree::node(NodeTag::T_NextValueExpr);
        (*next).seqid = sequence;
        (*next).typeId = column.shown.0;
        let Some(given) = given else {
            return next.cast();
        };
        let either: *mut pg_sys::CoalesceExpr = tree::node(NodeTag::T_CoalesceExpr);
        (*either).coalescetype = column.shown.0;
        (*either).args = tree::list([given, next.cast()]);
        (*either).location = -1;
        either.cast()
    }
}

/// The targets of an INSERT into the table, made of its values.
pub fn insert(shape: &ViewShape, values: &[(usize, *mut pg_sys::Node)]) -> Assignments {
    let mut row: Row = shape.row(1);
    for &(at, value) in values {
        row.set(shape.columns[at].number, value);
    }
    let mut numbers = Vec::new();
    let mut list = Vec::new();
    for &(at, value) in values {
        let column = &shape.columns[at];
        let value = match &column.kind {
            Kind::Encrypted(it) => shape.encrypted(it, value, &row),
            _ => value,
        };
        numbers.push(column.number);
        // SAFETY: an expression of the statement's.
        list.push(unsafe { tree::target(value, column.number, &column.name) });
    }
    Assignments {
        targets: tree::list(list),
        numbers,
    }
}
