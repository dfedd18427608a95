//! What registrations name is renamed or dropped, or a column that values are bound to gets another type or a foreign
//! key, or a label of an enum another name. Registrations
//! are by name, since numbers change over a dump; so whoever renames takes them along (`follow`), in his own statement.
//!
//! The server says what it alters in the middle of a statement, when nothing of it may be looked up yet. So that is
//! only noted, and seen to when the statement is over.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_int};

use pgrx::{PgList, pg_sys};

use crate::catalog::enum_labels;
use crate::columns::change::Change;
use crate::columns::follow;
use crate::error::Result;
use crate::server::accessed::{Accessed, CONSTRAINTS, Done, INHERITANCE};
use crate::server::names::{name_of, text_of};
use crate::server::xact::{End, PartEnd};
use crate::server::{altered, enclosure, heirs, ours, report, rethrow, scan, tree, types};

struct Note {
    change: Change,
    /// The subtransaction of the statement: that one's abort is its end.
    level: c_int,
}

thread_local! {
    static NOTES: RefCell<Vec<Note>> = const { RefCell::new(Vec::new()) };
    static UNHEEDED: Cell<bool> = const { Cell::new(false) };
}

static mut PREVIOUS_UTILITY: pg_sys::ProcessUtility_hook_type = None;

/// Looks at what is altered from now on. In the postmaster.
pub fn register() {
    // SAFETY: before any child; the hooks chain to whoever came before.
    unsafe {
        PREVIOUS_UTILITY = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(on_utility);
    }
}

/// While it lives, columns change their names and no registration follows: who made it sees to that.
pub struct Unheeded(bool);

impl Unheeded {
    pub fn begin() -> Self {
        Self(UNHEEDED.replace(true))
    }
}

impl Drop for Unheeded {
    fn drop(&mut self) {
        UNHEEDED.set(self.0);
    }
}

pub fn at_end(end: End) {
    if matches!(end, End::Commit | End::Abort | End::Prepare) {
        NOTES.with_borrow_mut(Vec::clear);
    }
}

pub fn at_part_end(end: PartEnd) {
    if let PartEnd::Abort { .. } = end {
        let level = enclosure::level();
        NOTES.with_borrow_mut(|notes| notes.retain(|note| note.level < level));
    }
}

/// Hears of what is altered.
pub fn hear(accessed: &Accessed) -> Result<()> {
    if UNHEEDED.get() {
        return Ok(());
    }
    let Accessed {
        done,
        class,
        object,
        part,
    } = *accessed;
    let is_made = matches!(done, Done::Made);
    let change = if class == pg_sys::TriggerRelationId {
        trigger(object, is_made)
    } else if is_made {
        (class == CONSTRAINTS).then_some(Change::Constraint(object))
    } else if matches!(done, Done::Dropped) {
        match class == pg_sys::RelationRelationId {
            true if part > 0 => dropped(object, part),
            true if is_table(object) => Some(Change::TableDropped(object)),
            true => index(object),
            false => None,
        }
    } else if class == INHERITANCE {
        Some(Change::Attached(object))
    } else if class == pg_sys::RelationRelationId && part > 0 {
        column(object, part)
    } else if class == pg_sys::RelationRelationId {
        table(object)
    } else if class == pg_sys::NamespaceRelationId {
        schema(object)
    } else if class == pg_sys::ProcedureRelationId {
        function(object)
    } else if class == pg_sys::TypeRelationId {
        label(object)
    } else {
        None
    };
    if let Some(change) = change {
        let level = enclosure::level();
        NOTES.with_borrow_mut(|notes| notes.push(Note { change, level }));
    }
    Ok(())
}

/// The table of a trigger, where that is the one that keeps terms. It is there still, if it is about to go.
fn trigger(trigger: pg_sys::Oid, is_made: bool) -> Option<Change> {
    // SAFETY: a system catalog's own columns by their layout; a look-up of the function's name.
    unsafe {
        altered::row(
            pg_sys::TriggerRelationId,
            pg_sys::TriggerOidIndexId,
            &[altered::is_oid(pg_sys::Anum_pg_trigger_oid, trigger)],
            |row: &pg_sys::FormData_pg_trigger| {
                types::is_function(row.tgfoid, &[c"keep_terms"]).then_some(row.tgrelid)
            },
        )
        .flatten()
        .map(|table| Change::Trigger { table, is_made })
    }
}

/// The table of an index that is about to go, and is there still.
fn index(relation: pg_sys::Oid) -> Option<Change> {
    // SAFETY: look-ups in the catalogs.
    unsafe {
        if !matches!(pg_sys::get_rel_relkind(relation) as u8, b'i' | b'I') {
            return None;
        }
        let table = pg_sys::IndexGetRelation(relation, true);
        (table != pg_sys::Oid::INVALID).then_some(Change::Index(table))
    }
}

/// A name that a look-up made, or none.
///
/// # Safety
/// A C string, or null.
unsafe fn text(name: *const c_char) -> Option<String> {
    if name.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    Some(text_of(unsafe { CStr::from_ptr(name) }))
}

fn is_table(oid: pg_sys::Oid) -> bool {
    // SAFETY: a look-up in the relation catalog.
    matches!(unsafe { pg_sys::get_rel_relkind(oid) } as u8, b'r' | b'p')
}

fn column(table: pg_sys::Oid, number: i16) -> Option<Change> {
    if !is_table(table) {
        return None;
    }
    // SAFETY: look-ups, and a system catalog's own columns by their layout.
    unsafe {
        let from = text(pg_sys::get_attname(table, number, true))?;
        let (mut type_oid, mut modifier, mut collation) =
            (pg_sys::Oid::INVALID, -1, pg_sys::Oid::INVALID);
        pg_sys::get_atttypetypmodcoll(table, number, &mut type_oid, &mut modifier, &mut collation);
        let (to, type_now) = altered::row(
            pg_sys::AttributeRelationId,
            pg_sys::AttributeRelidNumIndexId,
            &[
                altered::is_oid(pg_sys::Anum_pg_attribute_attrelid, table),
                altered::is_number(pg_sys::Anum_pg_attribute_attnum, number),
            ],
            |row: &pg_sys::FormData_pg_attribute| {
                let name = name_of(&row.attname);
                (!row.attisdropped).then_some((name, (row.atttypid, row.atttypmod)))
            },
        )??;
        if from != to {
            return Some(Change::Column {
                table,
                number,
                from,
                to,
            });
        }
        (type_now != (type_oid, modifier)).then_some(Change::Type {
            table,
            column: from,
            number,
            from: (type_oid, modifier),
            to: type_now,
        })
    }
}

fn dropped(table: pg_sys::Oid, number: i16) -> Option<Change> {
    if !is_table(table) {
        return None;
    }
    // SAFETY: a look-up, of a column that is there still.
    let column = unsafe { text(pg_sys::get_attname(table, number, true))? };
    Some(Change::Dropped { table, column })
}

fn table(table: pg_sys::Oid) -> Option<Change> {
    if !is_table(table) {
        return None;
    }
    // SAFETY: as column.
    unsafe {
        let from = text(pg_sys::get_rel_name(table))?;
        let schema = pg_sys::get_rel_namespace(table);
        let (to, schema_now) = altered::row(
            pg_sys::RelationRelationId,
            pg_sys::ClassOidIndexId,
            &[altered::is_oid(pg_sys::Anum_pg_class_oid, table)],
            |row: &pg_sys::FormData_pg_class| (name_of(&row.relname), row.relnamespace),
        )?;
        if schema != schema_now {
            return Some(Change::TableMoved {
                table,
                from: text(pg_sys::get_namespace_name(schema))?,
                to: text(pg_sys::get_namespace_name(schema_now))?,
            });
        }
        (from != to).then_some(Change::Table { table, from, to })
    }
}

fn label(type_oid: pg_sys::Oid) -> Option<Change> {
    // SAFETY: a look-up in the type catalog.
    let is_enum = unsafe { pg_sys::get_typtype(type_oid) } as u8 == b'e';
    let given = is_enum.then(|| enum_labels::given(type_oid)).flatten()?;
    Some(Change::Label { type_oid, given })
}

fn function(function: pg_sys::Oid) -> Option<Change> {
    // SAFETY: as column.
    unsafe {
        let from = text(pg_sys::get_func_name(function))?;
        let schema = pg_sys::get_func_namespace(function);
        let (to, schema_now) = altered::row(
            pg_sys::ProcedureRelationId,
            pg_sys::ProcedureOidIndexId,
            &[altered::is_oid(pg_sys::Anum_pg_proc_oid, function)],
            |row: &pg_sys::FormData_pg_proc| (name_of(&row.proname), row.pronamespace),
        )?;
        let schema_name = text(pg_sys::get_namespace_name(schema))?;
        if schema != schema_now {
            return Some(Change::FunctionMoved {
                function: from,
                from: schema_name,
                to: text(pg_sys::get_namespace_name(schema_now))?,
            });
        }
        (from != to).then_some(Change::Function {
            schema: schema_name,
            from,
            to,
        })
    }
}

/// Notes the columns that an ALTER TABLE computes anew with an expression of its own, which changes no name or type
/// that the server would tell of.
///
/// # Safety
/// A parsed statement.
unsafe fn note_computed(statement: *mut pg_sys::Node) {
    // SAFETY: a node is what its tag says; a name is looked up, and nothing locked.
    unsafe {
        if !tree::is(statement, pg_sys::NodeTag::T_AlterTableStmt) {
            return;
        }
        let alter = &*statement.cast::<pg_sys::AlterTableStmt>();
        for command in PgList::<pg_sys::AlterTableCmd>::from_pg(alter.cmds).iter_ptr() {
            let is_typed = (*command).subtype == pg_sys::AlterTableType::AT_AlterColumnType
                && tree::is((*command).def, pg_sys::NodeTag::T_ColumnDef);
            if !is_typed {
                continue;
            }
            let Some(column) = text((*command).name) else {
                continue;
            };
            let using = (*(*command).def.cast::<pg_sys::ColumnDef>()).raw_default;
            if using.is_null() || is_cast_of(using, &column) {
                continue;
            }
            let table = pg_sys::RangeVarGetRelidExtended(
                alter.relation,
                pg_sys::NoLock as pg_sys::LOCKMODE,
                pg_sys::RVROption::RVR_MISSING_OK,
                None,
                std::ptr::null_mut(),
            );
            if table == pg_sys::Oid::INVALID || !is_table(table) {
                continue;
            }
            // What has the column from this one is computed too.
            let level = enclosure::level();
            for table in heirs::with_heirs(table) {
                let column = column.clone();
                let change = Change::Computed { table, column };
                NOTES.with_borrow_mut(|notes| notes.push(Note { change, level }));
            }
        }
    }
}

/// Whether an expression is the column itself, or cast to another type, which the server tells of.
///
/// # Safety
/// A node of a parsed expression.
unsafe fn is_cast_of(expression: *mut pg_sys::Node, column: &str) -> bool {
    // SAFETY: a node is what its tag says.
    unsafe {
        let mut node = expression;
        while tree::is(node, pg_sys::NodeTag::T_TypeCast) {
            node = (*node.cast::<pg_sys::TypeCast>()).arg;
        }
        if !tree::is(node, pg_sys::NodeTag::T_ColumnRef) {
            return false;
        }
        let fields = PgList::<pg_sys::Node>::from_pg((*node.cast::<pg_sys::ColumnRef>()).fields);
        let last = fields.get_ptr(fields.len() - 1);
        last.is_some_and(|last| {
            tree::is(last, pg_sys::NodeTag::T_String)
                && text((*last.cast::<pg_sys::String>()).sval).as_deref() == Some(column)
        })
    }
}

fn schema(schema: pg_sys::Oid) -> Option<Change> {
    // SAFETY: as column.
    unsafe {
        let from = text(pg_sys::get_namespace_name(schema))?;
        let to = altered::row(
            pg_sys::NamespaceRelationId,
            pg_sys::NamespaceOidIndexId,
            &[altered::is_oid(pg_sys::Anum_pg_namespace_oid, schema)],
            |row: &pg_sys::FormData_pg_namespace| name_of(&row.nspname),
        )?;
        (from != to).then_some(Change::Schema { from, to })
    }
}

unsafe extern "C-unwind" fn on_utility(
    statement: *mut pg_sys::PlannedStmt,
    source: *const c_char,
    read_only: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    dest: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // Those of a statement around this one wait for its end: until then the table is half what it will be.
    let around = NOTES.with_borrow(Vec::len);
    // SAFETY: the server's call, passed on; this is its outermost frame, and holds nothing that wants dropping.
    unsafe {
        if let Err(error) = rethrow::guard(|| {
            note_computed((*statement).utilityStmt);
            Ok(())
        }) {
            report::raise_native(error);
        }
        if let Some(previous) = PREVIOUS_UTILITY {
            previous(
                statement,
                source,
                read_only,
                context,
                params,
                environment,
                dest,
                completion,
            );
        }
        if NOTES.with_borrow(|notes| notes.len() > around)
            && let Err(error) = rethrow::guard(|| see_to(around))
        {
            report::raise_native(error);
        }
    }
}

/// Has registrations follow what the statement altered, whose notes come after so many.
fn see_to(around: usize) -> Result<()> {
    let notes = NOTES.with_borrow_mut(|notes| notes.split_off(around.min(notes.len())));
    // SAFETY: the statement is over; what it wrote is to be seen from here on.
    unsafe { pg_sys::CommandCounterIncrement() };
    if !is_installed() {
        return Ok(());
    }
    let _now = scan::Now::look();
    notes
        .iter()
        .try_for_each(|note| follow::change(&note.change))
}

/// Whether the table of registrations is there, and as this version has it.
fn is_installed() -> bool {
    // SAFETY: look-ups by name, in a transaction.
    unsafe {
        // The last column that is asked for: an update to this version makes tables before it has all.
        ours::relation(c"protected_column")
            .is_some_and(|table| pg_sys::get_attnum(table, c"key_expression".as_ptr()) > 0)
    }
}
