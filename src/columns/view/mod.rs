//! Access views: a table as those see it who may read its encrypted columns, made by create_access_view.
//!
//! The view runs with the rights of who uses it, so the grants on the key, on the table and its row
//! security decide as they do without it. The readers of a column narrow further what the view shows.
//! A statement that writes becomes one on the table (`rewrite`); what is not understood there goes through
//! one trigger (`write`). A dump carries the rows of the table only, as ciphertext.

pub mod anybody;
pub mod copied;
mod copy_context;
pub mod known;
pub mod order;
pub mod rewrite;
pub mod silent;
pub mod write;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;

use colcrypt_domain::quote::{quote_identifier, quote_literal, quote_qualified_identifier};
use colcrypt_domain::view::{self, Encryption, KeyOf, ViewColumn};
use pgrx::{IntoDatum, pg_sys};

use crate::audit::Act;
use crate::catalog::epoch;
use crate::catalog::scan::{Equals, one};
use crate::catalog::type_names;
use crate::columns::view::order::order_of;
use crate::columns::{registered, registration, row_key};
use crate::error::{Error, Result};
use crate::server::call::Call;
use crate::server::call_site::site;
use crate::server::names::name_of;
use crate::server::relation::{Held, Lock, Named};
use crate::server::{clock, enclosure, process, relation, roles, spi};

/// The table's columns in order, but for those that hold search terms.
///
/// # Errors
/// Of SPI; for an expression of keys that does not do as such (any more).
pub fn columns_of(table: pg_sys::Oid) -> Result<Vec<ViewColumn>> {
    let columns = spi::query(
        &format!(
            "SELECT a.attname::text, coalesce(p.plaintext_type::oid, a.atttypid), k.name, p.context, format_type(p.plaintext_type, -1), \
                a.attgenerated <> '', a.attidentity = 'a', \
                CASE WHEN a.attidentity <> '' THEN pg_get_serial_sequence(a.attrelid::regclass::text, a.attname::text)::regclass::oid END, \
                pg_get_expr(d.adbin, d.adrelid), col_description(a.attrelid, a.attnum), a.attnum, {}, \
                k.key_id IS NOT NULL OR p.key_expression IS NOT NULL, p.key_expression, r.name \
         FROM pg_attribute a \
         LEFT JOIN colcrypt.protected_column p ON p.relation = a.attrelid AND p.attribute = a.attname \
         LEFT JOIN colcrypt.key k USING (key_id) \
         LEFT JOIN colcrypt.keyring r ON r.keyring_id = p.keyring_id \
         LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
         WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped \
           AND NOT EXISTS (SELECT FROM colcrypt.search_index i JOIN colcrypt.search_companion c USING (search_index_id) \
               WHERE i.relation = $1::oid::regclass AND c.attribute = a.attname) ORDER BY a.attnum",
            type_names::declared_now("p")
        ),
        &[table.into()],
        |row| {
            let encrypted = match row.get::<bool>(13)? == Some(true) {
                false => None,
                true => Some(Encryption {
                    key: match row.get(14)? {
                        None => KeyOf::Column(row.get(3)?.unwrap_or_default()),
                        Some(expression) => KeyOf::Row {
                            expression,
                            keyring: row.get(15)?.unwrap_or_default(),
                        },
                    },
                    context: row.get(4)?,
                    plaintext_type: row.get(5)?.unwrap_or_default(),
                    declared: row.get(12)?,
                }),
            };
            Ok(ViewColumn {
                number: row.get(11)?.unwrap_or_default(),
                name: row.get(1)?.unwrap_or_default(),
                shown_as: None,
                type_oid: row.get::<pg_sys::Oid>(2)?.map_or(0, pg_sys::Oid::to_u32),
                encrypted,
                is_generated: row.get(6)?.unwrap_or_default(),
                is_always: row.get(7)?.unwrap_or_default(),
                identity: row.get::<pg_sys::Oid>(8)?.map(pg_sys::Oid::to_u32),
                default: row.get(9)?,
                comment: row.get(10)?,
            })
        },
    )?;
    let mut registered = columns
        .iter()
        .filter_map(|column| column.encrypted.as_ref())
        .filter_map(Encryption::key_expression)
        .peekable();
    if registered.peek().is_some() {
        let held = Named::take(table, Lock::Read)?;
        for expression in registered {
            row_key::check(&held, expression)?;
        }
    }
    Ok(columns)
}

/// The one table that a view reads; `None` for any other kind of view.
pub fn table_of(view: pg_sys::Oid) -> Result<Option<pg_sys::Oid>> {
    let mut tables = spi::query(
        "SELECT DISTINCT c.oid FROM pg_rewrite r \
         JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass \
         JOIN pg_class c ON c.oid = d.refobjid AND c.oid <> r.ev_class AND c.relkind <> 'c' \
         WHERE r.ev_class = $1",
        &[view.into()],
        |row| row.get::<pg_sys::Oid>(1),
    )?;
    Ok(match tables.len() {
        1 => tables.pop().flatten(),
        _ => None,
    })
}

/// The name that a context expression may qualify its columns with.
pub fn relation_name(table: pg_sys::Oid) -> String {
    // SAFETY: palloc's a C string, or gives null for a relation that is gone.
    unsafe {
        let name = pg_sys::get_rel_name(table);
        if name.is_null() {
            return String::new();
        }
        std::ffi::CStr::from_ptr(name)
            .to_string_lossy()
            .into_owned()
    }
}

/// The table of an access view; any other relation is itself.
///
/// # Errors
/// Of SPI.
pub fn table_behind(relation: pg_sys::Oid) -> Result<pg_sys::Oid> {
    match table_of(relation)? {
        Some(table) if is_access_view(relation, table)? => Ok(table),
        _ => Ok(relation),
    }
}

/// The view that is meant where nobody names one: the one that was pointed at, or that there is, or a new one. A second
/// one would leave the first, which clients use, as it was. Returns the name, and the view where it is there.
fn meant(
    asked: pg_sys::Oid,
    table: &Named,
    named: Option<String>,
) -> Result<(String, Option<pg_sys::Oid>)> {
    let oid = table.held.oid;
    // SAFETY: a look-up in the relation catalog.
    let schema = unsafe { pg_sys::get_rel_namespace(oid) };
    if let Some(name) = named {
        let existing = find(schema, &name);
        return Ok((name, existing));
    }
    if asked != oid {
        return Ok((relation_name(asked), Some(asked)));
    }
    let mut views = Vec::new();
    for (view, name) in views_of(oid)? {
        if relation::owner(view)? == table.owner() {
            views.push((view, name));
        }
    }
    let default = view::default_name(table.held.bare_name());
    let existing = find(schema, &default);
    if existing.is_some_and(|existing| views.iter().any(|(view, _)| *view == existing)) {
        return Ok((default, existing));
    }
    match views.as_slice() {
        [] => Ok((default, existing)),
        [(view, _)] => Ok((relation_name(*view), Some(*view))),
        [(_, first), ..] => {
            let names: Vec<&str> = views.iter().map(|(_, name)| name.as_str()).collect();
            Err(Error::Column {
                message: format!(
                    "table {} has several access views: {}",
                    table.sql,
                    names.join(", ")
                ),
                hint: format!(
                    "Say which is to be made anew: colcrypt.create_access_view({}).",
                    quote_literal(first)
                ),
            })
        }
    }
}

pub fn create_access_view(call: Call) -> Result<pg_sys::Datum> {
    // SAFETY: declared as regclass and name; a name datum points to NAMEDATALEN bytes.
    let (asked, named) = unsafe {
        let named = call
            .datum(1)
            .map(|name| name_of(&*name.cast_mut_ptr::<pg_sys::NameData>()));
        (call.get::<pg_sys::Oid>(0), named)
    };
    let asked = asked.ok_or(Error::NullArgument("relation"))?;
    let table = table_behind(asked)?;
    let held = Named::take(table, Lock::Read)?;
    registration::refuse_foreign_table(table)?;
    if !held.held.is_table() {
        return Err(Error::Column {
            message: format!("{} is not a table", held.sql),
            hint: "Make access views of tables and partitioned tables.".into(),
        });
    }
    let mut columns = columns_of(table)?;
    if columns.iter().all(|column| column.encrypted.is_none()) {
        return Err(Error::Column {
            message: format!("table {} has no registered column", held.sql),
            hint: "Register its encrypted columns with colcrypt.register_column.".into(),
        });
    }
    let (name, existing) = meant(asked, &held, named)?;
    let qualified = match existing {
        None => held.beside(&name),
        Some(view) => {
            if !is_access_view(view, table)? || relation::owner(view)? != held.owner() {
                return Err(Error::NotAccessView {
                    name: relation::shown(view)?,
                });
            }
            let view = Named::take(view, Lock::Exclusive)?;
            let shown = shown_by(&view)?;
            columns = view::called(view::in_order(columns, &numbers(&shown)), &shown);
            view.sql
        }
    };
    // As the table's owner: the view is the owner's, and nobody gets a view that the owner could not make.
    spi::run_as(
        held.owner(),
        &statements(table, &held.sql, &qualified, &columns),
    )?;
    // SAFETY: a look-up in the relation catalog.
    let schema = unsafe { pg_sys::get_rel_namespace(table) };
    let made = existing
        .or_else(|| find(schema, &name))
        .ok_or_else(|| Error::CatalogCorrupt(format!("view {qualified} was not made")))?;
    // The schema's owner may have made one of that name in between, which only seems to be ours.
    let view = Held::take(made, Lock::Read)?;
    if view.owner != held.owner() {
        return Err(Error::NotAccessView { name: qualified });
    }
    if table_of(made)? != Some(table) {
        return Err(Error::Column {
            message: format!(
                "a context expression of table {} reads another table",
                held.sql
            ),
            hint: "Register the column with a context made of its own row's columns.".into(),
        });
    }
    Act::new("create_access_view")
        .relation(table)
        .detail(qualified)
        .record()?;
    Ok(made.into_datum().expect("an OID has a datum"))
}

/// The access views of a table: each one's OID and qualified name.
pub fn views_of(table: pg_sys::Oid) -> Result<Vec<(pg_sys::Oid, String)>> {
    let found = spi::query(
        "SELECT DISTINCT c.oid, n.nspname::text, c.relname::text FROM pg_depend d \
         JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid \
         JOIN pg_class c ON c.oid = r.ev_class AND c.relkind = 'v' \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_trigger g ON g.tgrelid = c.oid AND g.tgfoid = 'colcrypt.write_access_view()'::regprocedure \
         WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 ORDER BY 1",
        &[table.into()],
        |row| {
            Ok((
                row.get::<pg_sys::Oid>(1)?.unwrap_or(pg_sys::Oid::INVALID),
                quote_qualified_identifier(
                    row.get::<String>(2)?.unwrap_or_default(),
                    row.get::<String>(3)?.unwrap_or_default(),
                ),
            ))
        },
    )?;
    let mut views = Vec::new();
    for (view, name) in found {
        if table_of(view)? == Some(table) {
            views.push((view, name));
        }
    }
    Ok(views)
}

fn find(schema: pg_sys::Oid, name: &str) -> Option<pg_sys::Oid> {
    let name = CString::new(name).ok()?;
    // SAFETY: a look-up by name.
    let found = unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) };
    (found != pg_sys::Oid::INVALID).then_some(found)
}

/// Whether the relation is a view that writes to the table through our trigger.
pub fn is_access_view(relation: pg_sys::Oid, table: pg_sys::Oid) -> Result<bool> {
    let ours = spi::query(
        "SELECT 1 FROM pg_trigger WHERE tgrelid = $1 AND tgfoid = 'colcrypt.write_access_view()'::regprocedure",
        &[relation.into()],
        |row| row.get::<i32>(1),
    )?;
    Ok(!ours.is_empty() && table_of(relation)? == Some(table))
}

/// Whether a table that rows of this one lie in has a registration of its own that says otherwise: what is written to
/// its rows through a view of this one would not be read through its own.
///
/// # Errors
/// Of SPI.
pub fn is_otherwise_below(table: pg_sys::Oid) -> Result<bool> {
    let found = spi::query(
        "WITH RECURSIVE below(relid) AS (SELECT inhrelid FROM pg_inherits WHERE inhparent = $1 UNION \
             SELECT i.inhrelid FROM pg_inherits i JOIN below b ON i.inhparent = b.relid) \
         SELECT 1 FROM below b JOIN colcrypt.protected_column c ON c.relation = b.relid \
         JOIN colcrypt.protected_column p ON p.relation = $1 AND p.attribute = c.attribute \
         WHERE (p.key_id, p.key_expression, p.keyring_id, p.context, p.plaintext_type) \
            IS DISTINCT FROM (c.key_id, c.key_expression, c.keyring_id, c.context, c.plaintext_type) LIMIT 1",
        &[table.into()],
        |row| row.get::<i32>(1),
    )?;
    Ok(!found.is_empty())
}

/// Everything there is to run to make a view, in order.
pub fn statements(
    table: pg_sys::Oid,
    name: &str,
    view: &str,
    columns: &[ViewColumn],
) -> Vec<String> {
    view::statements(&relation_name(table), name, view, columns)
}

/// The columns of the table that a view shows, by number, with the names that it has for them. Clients know these: a
/// column that is renamed in the table keeps its name in the view.
///
/// # Errors
/// As [`order_of`].
pub fn shown_by(view: &Named) -> Result<Vec<(i16, String)>> {
    let names = view.held.attributes().iter();
    let numbers = order_of(view.held.oid)?.into_iter();
    Ok(numbers
        .zip(names.map(|column| column.name.clone()))
        .collect())
}

fn numbers(shown: &[(i16, String)]) -> Vec<i16> {
    shown.iter().map(|(number, _)| *number).collect()
}

/// The table's columns as they are to be shown so.
///
/// # Errors
/// Of SPI.
pub fn columns_shown(table: pg_sys::Oid, shown: &[(i16, String)]) -> Result<Vec<ViewColumn>> {
    let columns = view::only(columns_of(table)?, &numbers(shown));
    Ok(view::called(columns, shown))
}

/// Makes the table's access views anew, with the columns that they show, after a registration has changed. Views of
/// others than the table's owner are none of the table's.
///
/// # Errors
/// Of DDL, the lock's among them.
pub fn make_anew(table: &Named) -> Result<()> {
    let oid = table.held.oid;
    for (view, _) in views_of(oid)? {
        let view = Named::take(view, Lock::Exclusive)?;
        if view.owner() != table.owner() {
            continue;
        }
        let columns = columns_shown(oid, &shown_by(&view)?)?;
        spi::run_as(
            table.owner(),
            &statements(oid, &table.sql, &view.sql, &columns),
        )?;
        if table_of(view.held.oid)? != Some(oid) {
            return Err(Error::Column {
                message: format!(
                    "a context expression of table {} reads another table",
                    table.sql
                ),
                hint: "Give a context made of its own row's columns.".into(),
            });
        }
    }
    Ok(())
}

/// The roles that see a column's plaintext, by name; none where everybody does.
type Readers = Option<Vec<CString>>;

/// What was read of the catalog in an epoch of it, by table and column.
#[derive(Default)]
struct ReadersOf {
    epoch: u64,
    columns: HashMap<(pg_sys::Oid, String), Readers>,
}

thread_local! {
    static READERS: RefCell<ReadersOf> = RefCell::default();
}

/// The readers of a registered column, and the epoch that they are of.
fn with_readers<T>(
    table: pg_sys::Oid,
    attribute: String,
    ask: impl FnOnce(&Readers) -> T,
) -> Result<(T, u64)> {
    let epoch = epoch::refresh(false);
    let place = (table, attribute);
    let is_known = READERS.with_borrow_mut(|kept| {
        if kept.epoch != epoch {
            kept.epoch = epoch;
            kept.columns.clear();
        }
        kept.columns.contains_key(&place)
    });
    if !is_known {
        let readers = one(
            "protected_column",
            "protected_column_pkey",
            &[Equals::oid(1, table), Equals::name(2, &place.1)],
            |row| row.optional::<Vec<Option<String>>>("readers"),
        )?;
        let Some(readers) = readers else {
            return Err(registration::not_registered(table, &place.1)?);
        };
        let names = |names: Vec<Option<String>>| -> Vec<CString> {
            let names = names.into_iter().flatten();
            names.filter_map(|name| CString::new(name).ok()).collect()
        };
        READERS.with_borrow_mut(|kept| kept.columns.insert(place.clone(), readers.map(names)));
    }
    let answer =
        READERS.with_borrow(|kept| ask(kept.columns.get(&place).unwrap_or(&Some(Vec::new()))));
    Ok((answer, epoch))
}

/// Whether not everybody reads a registered column, as of now.
///
/// # Errors
/// For a column that is not registered.
pub fn has_readers(table: pg_sys::Oid, attribute: String) -> Result<bool> {
    Ok(with_readers(table, attribute, Option::is_some)?.0)
}

/// Readers that were dropped, or not there when a dump was restored: without a word everybody would see NULL.
fn warn_of_nobody(table: pg_sys::Oid, attribute: &str) {
    let relation = relation::shown(table).unwrap_or_default();
    pgrx::ereport!(
        pgrx::PgLogLevel::WARNING,
        pgrx::PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
        format!(
            "nobody reads column {relation}.{}: none of the roles that it is registered for exists",
            quote_identifier(attribute)
        ),
        "Access views show NULL in its place. Create a role of them, or register the column again."
    );
}

/// What a call site was answered, for as long as nothing that it rests on changes: a statement asks for each row.
#[derive(Clone, Copy)]
struct Answer {
    table: pg_sys::Oid,
    attribute: pg_sys::NameData,
    user: pg_sys::Oid,
    statement: i64,
    epoch: u64,
    may: bool,
}

pub fn may_read_column(call: Call) -> Result<pg_sys::Datum> {
    // SAFETY: declared as regclass and name, whose datum points to NAMEDATALEN bytes; this call site only ever uses
    // this type.
    let (asked, kept) = unsafe {
        let attribute = call.datum(1).ok_or(Error::NullArgument("attribute"))?;
        let asked = Answer {
            table: call.get(0).ok_or(Error::NullArgument("relation"))?,
            attribute: *attribute.cast_mut_ptr::<pg_sys::NameData>(),
            user: roles::current_user(),
            statement: clock::statement_start(),
            epoch: epoch::current(),
            may: false,
        };
        (asked, site::<Option<Answer>>(call, || Ok(None))?)
    };
    if let Some(answer) = kept
        && answer.holds_for(&asked)
    {
        return Ok(pg_sys::Datum::from(answer.may));
    }
    let (table, attribute) = registered::target(call)?;
    let (may, epoch) = may_read(table, attribute, asked.user)?;
    *kept = Some(Answer {
        may,
        epoch,
        ..asked
    });
    Ok(pg_sys::Datum::from(may))
}

impl Answer {
    fn holds_for(&self, asked: &Self) -> bool {
        self.statement == asked.statement
            && self.epoch == asked.epoch
            && self.user == asked.user
            && self.table == asked.table
            && self.attribute.data == asked.attribute.data
    }
}

/// Whether a role is among the readers, and the epoch that these are of.
fn may_read(table: pg_sys::Oid, attribute: String, user: pg_sys::Oid) -> Result<(bool, u64)> {
    let shown = attribute.clone();
    let ((may, is_anybody), epoch) = with_readers(table, attribute, |readers| match readers {
        None => (true, true),
        Some(names) => {
            // SAFETY: a look-up in the role catalog.
            let role = |name: &CString| unsafe { pg_sys::get_role_oid(name.as_ptr(), true) };
            let mut roles = names
                .iter()
                .map(role)
                .filter(|role| *role != pg_sys::Oid::INVALID)
                .peekable();
            let is_anybody = roles.peek().is_some();
            // SAFETY: as above; a role that does not exist is no reader.
            let may = roles.any(|role| unsafe { pg_sys::has_privs_of_role(user, role) });
            (may, is_anybody)
        }
    })?;
    // Once: neither where the planner asks for its estimates, nor in each parallel worker.
    if !is_anybody && !enclosure::is_planning() && !process::is_parallel_worker() {
        warn_of_nobody(table, &shown);
    }
    Ok((may, epoch))
}
