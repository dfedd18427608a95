//! What an access view is to its trigger: its table, columns and key, and the statements made of them.
//!
//! Kept for the session until the view, its table or a registration changes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_char};
use std::rc::Rc;

use colcrypt_domain::quote::{quote_identifier, quote_literal};
use pgrx::pg_sys;

use crate::catalog::epoch;
use crate::columns::view::order::order_of;
use crate::columns::view::{self, Column, Registered};
use crate::error::{Error, Result};
use crate::server::{meant, relation, spi, watched};

thread_local! {
    static SHAPES: RefCell<HashMap<pg_sys::Oid, Rc<Shape>>> = RefCell::new(HashMap::new());
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    Insert,
    Update,
    Delete,
}

/// A statement of this view, by what it depends on.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Step {
    Current,
    /// Whether the row is there, whatever it holds.
    There,
    /// Whether it is there and holds what it held.
    Unchanged,
    Compute(Operation),
    Insert {
        returning: bool,
    },
    /// The columns to set.
    Update(Vec<bool>),
    Delete,
}

/// A prepared statement, kept for the session.
pub struct Plan {
    statement: pg_sys::SPIPlanPtr,
    text: Rc<CString>,
    /// The table, in a statement that is about it.
    about: Option<pg_sys::Oid>,
}

impl Plan {
    /// Runs it; what SPI_execute_plan gives. A statement about the table is about no other relation, whatever the name
    /// means by now.
    ///
    /// # Safety
    /// Connected to SPI; as many values as the statement has parameters.
    ///
    /// # Errors
    /// As [`meant::relation`].
    pub unsafe fn execute(&self, values: *mut pg_sys::Datum, nulls: *const c_char) -> Result<i32> {
        // SAFETY: the caller's promise; the plan was kept.
        let run = || unsafe { pg_sys::SPI_execute_plan(self.statement, values, nulls, false, 0) };
        match self.about {
            Some(table) => meant::relation(&self.text, table, run),
            None => Ok(run()),
        }
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made by SPI_prepare and SPI_keepplan, and nobody else's.
            unsafe { pg_sys::SPI_freeplan(self.statement) };
        }
    }
}

/// A view and its table, as they are until either changes.
pub struct Shape {
    pub table: pg_sys::Oid,
    /// Qualified and quoted.
    pub table_name: String,
    pub alias: String,
    pub columns: Vec<Column>,
    /// The columns' names in the view, quoted: those of the table when the view was made.
    pub names: Vec<String>,
    /// Which columns are encrypted.
    pub encrypted: Vec<usize>,
    /// Finds the row that the view gave as $1.
    pub key: Option<String>,
    pub row_type: pg_sys::Oid,
    pub plans: RefCell<HashMap<Step, Rc<Plan>>>,
    pub epoch: u64,
    pub generation: u64,
}

/// The shape of the view that the trigger was fired for, from the session's memory if nothing changed.
pub fn shape_of(view: pg_sys::Relation) -> Result<Rc<Shape>> {
    let epoch = epoch::refresh(false);
    // SAFETY: the relation that the trigger was fired for.
    let oid = unsafe { (*view).rd_id };
    let generation = watched::generation();
    let known = SHAPES.with_borrow(|shapes| shapes.get(&oid).cloned());
    if let Some(shape) =
        known.filter(|shape| shape.epoch == epoch && shape.generation == generation)
    {
        return Ok(shape);
    }
    let shape = Rc::new(Shape::new(view, epoch, generation)?);
    watched::watch([oid, shape.table]);
    SHAPES.with_borrow_mut(|shapes| shapes.insert(oid, shape.clone()));
    Ok(shape)
}

impl Shape {
    fn new(view: pg_sys::Relation, epoch: u64, generation: u64) -> Result<Self> {
        // SAFETY: the relation that the trigger was fired for, open for the length of the call.
        let (oid, descriptor) = unsafe { ((*view).rd_id, &*(*view).rd_att) };
        let not_ours = || -> Result<Error> {
            Ok(Error::NotAccessView {
                name: relation::shown(oid)?,
            })
        };
        let Some(table) = view::table_of(oid)? else {
            return Err(not_ours()?);
        };
        let order = order_of(oid)?;
        let mut columns = view::in_order(view::columns_of(table)?, &order);
        let attributes: Vec<(String, pg_sys::Oid)> = (1..=descriptor.natts)
            .map(|number| {
                // SAFETY: a descriptor has natts attributes; the name is a palloc'd C string.
                unsafe {
                    let name = pg_sys::SPI_fname(view_descriptor(view), number);
                    let name = std::ffi::CStr::from_ptr(name).to_string_lossy();
                    let type_oid = pg_sys::SPI_gettypeid(view_descriptor(view), number);
                    (quote_identifier(name), type_oid)
                }
            })
            .collect();
        // Columns that the table got later are not in the view; their defaults hold.
        columns.retain(|column| order.contains(&column.number));
        let matches = attributes.len() == columns.len()
            && attributes
                .iter()
                .zip(&columns)
                .all(|((_, type_oid), column)| *type_oid == column.type_oid);
        if !matches {
            return Err(not_ours()?);
        }
        let names: Vec<String> = attributes.into_iter().map(|(name, _)| name).collect();
        let key = key_of(table, &columns, &names)?;
        Ok(Self {
            table,
            table_name: relation::shown(table)?,
            alias: quote_identifier(view::relation_name(table)),
            encrypted: (0..columns.len())
                .filter(|&at| columns[at].encrypted.is_some())
                .collect(),
            columns,
            names,
            key,
            row_type: descriptor.tdtypeid,
            plans: RefCell::default(),
            epoch,
            generation,
        })
    }

    fn registered(&self, at: usize) -> &Registered {
        self.columns[at]
            .encrypted
            .as_ref()
            .expect("an encrypted column")
    }

    /// The parameter that holds an encrypted column's value as it is.
    fn current(&self, nth: usize) -> String {
        format!("${}", 3 + nth)
    }

    /// The parameter that holds its value as it shall be.
    fn future(&self, nth: usize) -> String {
        format!("${}", 3 + self.encrypted.len() + nth)
    }

    /// Columns whose values are the table's own and not computed from others.
    fn plain(&self) -> impl Iterator<Item = usize> {
        (0..self.columns.len())
            .filter(|&at| self.columns[at].encrypted.is_none() && !self.columns[at].is_generated)
    }

    pub fn key(&self) -> Result<&str> {
        self.key.as_deref().ok_or_else(|| Error::NoRowKey {
            table: self.table_name.clone(),
        })
    }

    /// That the row holds what it held.
    fn unchanged(&self) -> String {
        let (mut stored, mut seen) = (Vec::new(), Vec::new());
        for at in self.plain() {
            stored.push(self.columns[at].quoted());
            seen.push(format!("($1).{}", self.names[at]));
        }
        for (nth, &at) in self.encrypted.iter().enumerate() {
            let column = self.columns[at].quoted();
            stored.push(format!("{column}::colcrypt.ciphertext::pg_catalog.bytea"));
            seen.push(format!("{}::pg_catalog.bytea", self.current(nth)));
        }
        same(&stored.join(", "), &seen.join(", "))
    }

    /// The context over the row that is this parameter.
    fn context(&self, expression: &str, row: &str) -> String {
        let known: Vec<String> = self
            .plain()
            .map(|at| {
                let name = &self.names[at];
                format!("({row}).{name} AS {}", self.columns[at].quoted())
            })
            .collect();
        format!(
            "(SELECT ({expression})::pg_catalog.bytea FROM (SELECT {}) AS {})",
            known.join(", "),
            self.alias
        )
    }

    fn sql(&self, step: &Step) -> Result<String> {
        let table = &self.table_name;
        Ok(match step {
            Step::Current => {
                let columns: Vec<String> = self
                    .encrypted
                    .iter()
                    .map(|&at| format!("{}::colcrypt.ciphertext", self.columns[at].quoted()))
                    .collect();
                format!(
                    "SELECT {} FROM {table} WHERE {}",
                    columns.join(", "),
                    self.key()?
                )
            }
            Step::There => format!("SELECT FROM {table} WHERE {}", self.key()?),
            Step::Unchanged => format!(
                "SELECT FROM {table} WHERE {} AND {}",
                self.key()?,
                self.unchanged()
            ),
            Step::Compute(Operation::Insert) => self.compute_insert(),
            Step::Compute(_) => self.compute_update(),
            Step::Insert { returning } => self.insert(*returning),
            Step::Update(changed) => {
                let mut sets = Vec::new();
                for (at, _) in changed.iter().enumerate().filter(|&(_, &set)| set) {
                    let value = match self.encrypted.iter().position(|&other| other == at) {
                        Some(nth) => self.future(nth),
                        None => format!("($2).{}", self.names[at]),
                    };
                    sets.push(format!("{} = {value}", self.columns[at].quoted()));
                }
                format!(
                    "UPDATE {table} SET {} WHERE {} AND {} RETURNING {}",
                    sets.join(", "),
                    self.key()?,
                    self.unchanged(),
                    self.returned().join(", ")
                )
            }
            Step::Delete => format!(
                "DELETE FROM {table} WHERE {} AND {}",
                self.key()?,
                self.unchanged()
            ),
        })
    }

    /// Columns that are given back as stored; encrypted ones are given back as written.
    fn returned(&self) -> Vec<String> {
        self.columns
            .iter()
            .map(|column| match column.encrypted {
                Some(_) => "NULL".into(),
                None => column.quoted(),
            })
            .collect()
    }

    fn insert(&self, returning: bool) -> String {
        let (mut columns, mut values) = (Vec::new(), Vec::new());
        for (at, column) in self.columns.iter().enumerate() {
            if column.is_generated {
                continue;
            }
            columns.push(column.quoted());
            values.push(match self.encrypted.iter().position(|&e| e == at) {
                Some(_) if !self.has_contexts() => self.encryption(at),
                Some(nth) => self.future(nth),
                None => format!("($2).{}", self.names[at]),
            });
        }
        let returned = if returning {
            format!(" RETURNING {}", self.returned().join(", "))
        } else {
            String::new()
        };
        format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({}){returned}",
            self.table_name,
            columns.join(", "),
            values.join(", ")
        )
    }

    /// Whether encryption runs expressions of others, and so needs a step of its own with a safe search path. Where it does
    /// not, an INSERT encrypts by itself, which is a third faster.
    pub fn has_contexts(&self) -> bool {
        let mut registered = self.encrypted.iter().map(|&at| self.registered(at));
        registered.any(|registered| registered.context.is_some())
    }

    fn compute_insert(&self) -> String {
        let values: Vec<String> = self
            .encrypted
            .iter()
            .map(|&at| self.encryption(at))
            .collect();
        format!("SELECT {}", values.join(", "))
    }

    /// The new row's value of this column, encrypted.
    fn encryption(&self, at: usize) -> String {
        let registered = self.registered(at);
        let context = match &registered.context {
            Some(expression) => format!(", {}", self.context(expression, "$2")),
            None => String::new(),
        };
        format!(
            "colcrypt.encrypt_col(($2).{}, {}{context})",
            self.names[at],
            quote_literal(&registered.key)
        )
    }

    /// For each encrypted column: whether the plaintext is what it was, whether it must be written, and
    /// what; then for each column whether it changed.
    fn compute_update(&self) -> String {
        let (mut values, mut from) = (Vec::new(), Vec::new());
        for (nth, &at) in self.encrypted.iter().enumerate() {
            let registered = self.registered(at);
            let (name, current) = (&self.names[at], self.current(nth));
            let (before, after, moved) = match &registered.context {
                Some(expression) => {
                    from.push(format!(
                        "(SELECT {} AS o, {} AS n) AS x{nth}",
                        self.context(expression, "$1"),
                        self.context(expression, "$2")
                    ));
                    (
                        format!(", x{nth}.o"),
                        format!(", x{nth}.n"),
                        format!("{current} IS NOT NULL AND x{nth}.o IS DISTINCT FROM x{nth}.n"),
                    )
                }
                None => (String::new(), String::new(), "false".into()),
            };
            let sees = view::may_read(&self.table_name, &self.columns[at]);
            let stored = format!(
                "colcrypt.decrypt_col({current}, NULL::{}{before})",
                registered.plaintext_type
            );
            let given = format!(
                "NOT {}",
                same(&format!("($1).{name}"), &format!("($2).{name}"))
            );
            values.push(format!(
                "CASE WHEN {sees} THEN {} ELSE true END",
                same(&stored, &format!("($1).{name}"))
            ));
            values.push(format!("({given} OR {moved})"));
            values.push(format!(
                "CASE WHEN {given} OR {moved} THEN colcrypt.encrypt_col(\
                 CASE WHEN {given} OR {sees} THEN ($2).{name} ELSE {stored} END, {}{after}) END",
                quote_literal(&registered.key)
            ));
        }
        for name in &self.names {
            values.push(format!(
                "NOT {}",
                same(&format!("($1).{name}"), &format!("($2).{name}"))
            ));
        }
        let from = if from.is_empty() {
            String::new()
        } else {
            format!(" FROM {}", from.join(", "))
        };
        format!("SELECT {}{from}", values.join(", "))
    }

    /// The statement, prepared at its first use.
    pub fn plan(&self, step: Step) -> Result<Rc<Plan>> {
        if let Some(plan) = self.plans.borrow().get(&step) {
            return Ok(plan.clone());
        }
        let text = Rc::new(CString::new(self.sql(&step)?).unwrap_or_default());
        let about = (!matches!(step, Step::Compute(_))).then_some(self.table);
        let ciphertext = crate::server::types::ciphertext_oid()
            .ok_or_else(|| Error::CatalogCorrupt("type ciphertext does not exist".into()))?;
        let mut types = vec![self.row_type; 2];
        types.resize(2 + 2 * self.encrypted.len(), ciphertext);
        let _path = spi::safe_search_path();
        // SAFETY: connected to SPI; the text and the types are copied.
        let mut prepare = || unsafe {
            pg_sys::SPI_prepare(text.as_ptr(), types.len() as i32, types.as_mut_ptr())
        };
        let statement = match about {
            Some(table) => meant::relation(&text, table, prepare)?,
            None => prepare(),
        };
        if statement.is_null() {
            return Err(Error::Spi(
                "an access view's statement was not prepared".into(),
            ));
        }
        // SAFETY: just made.
        unsafe { pg_sys::SPI_keepplan(statement) };
        let plan = Rc::new(Plan {
            statement,
            text,
            about,
        });
        self.plans.borrow_mut().insert(step, plan.clone());
        Ok(plan)
    }
}

/// Whether two lists of values are the same, bit by bit: every type can be compared so.
fn same(left: &str, right: &str) -> String {
    format!(
        "(ROW({left})::pg_catalog.record OPERATOR(pg_catalog.*=) ROW({right})::pg_catalog.record)"
    )
}

pub fn view_descriptor(view: pg_sys::Relation) -> pg_sys::TupleDesc {
    // SAFETY: the relation that the trigger was fired for.
    unsafe { (*view).rd_att }
}

/// The condition that finds the row $1: by the primary key, or another unique key without NULLs. A
/// table that others inherit from has none, since keys do not reach across.
pub fn key_of(table: pg_sys::Oid, columns: &[Column], names: &[String]) -> Result<Option<String>> {
    let parts = spi::query(
        "SELECT a.attname::text, n.nspname::text, o.oprname::text \
         FROM (SELECT * FROM pg_index i WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate \
                   AND i.indpred IS NULL AND i.indexprs IS NULL \
                   AND NOT EXISTS (SELECT FROM generate_series(0, i.indnkeyatts - 1) at \
                                   JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[at] \
                                   WHERE NOT a.attnotnull) \
                   AND NOT EXISTS (SELECT FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhparent \
                                   WHERE h.inhparent = i.indrelid AND c.relkind = 'r') \
               ORDER BY i.indisprimary DESC, i.indexrelid LIMIT 1) i \
         CROSS JOIN LATERAL generate_series(0, i.indnkeyatts - 1) at \
         JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[at] \
         JOIN pg_opclass c ON c.oid = i.indclass[at] \
         JOIN pg_amop m ON m.amopfamily = c.opcfamily AND m.amoplefttype = c.opcintype \
                       AND m.amoprighttype = c.opcintype AND m.amopstrategy = 3 AND m.amopmethod = c.opcmethod \
         JOIN pg_operator o ON o.oid = m.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace",
        &[table.into()],
        |row| {
            Ok([
                row.get::<String>(1)?.unwrap_or_default(),
                row.get::<String>(2)?.unwrap_or_default(),
                row.get::<String>(3)?.unwrap_or_default(),
            ])
        },
    )?;
    let conditions: Option<Vec<String>> = parts
        .iter()
        .map(|[column, schema, operator]| {
            let at = columns.iter().position(|other| other.name == *column)?;
            Some(format!(
                "{} OPERATOR({}.{operator}) ($1).{}",
                columns[at].quoted(),
                quote_identifier(schema),
                names[at]
            ))
        })
        .collect();
    Ok(conditions
        .filter(|all| !all.is_empty())
        .map(|all| all.join(" AND ")))
}
