//! What an access view is to its trigger: its table, columns and key, and the statements made of them.
//!
//! Kept for the session until the view, its table or a registration changes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_char};
use std::rc::Rc;

use colcrypt_domain::quote::quote_identifier;
use colcrypt_domain::view::rows::{Step, ViewRows, row_key};
use colcrypt_domain::view::{ViewColumn, collected, only};
use pgrx::pg_sys;

use crate::catalog::epoch;
use crate::columns::view;
use crate::columns::view::order::order_of;
use crate::error::{Error, Result};
use crate::server::{meant, relation, spi, watched};

thread_local! {
    static KNOWN: RefCell<HashMap<pg_sys::Oid, Rc<KnownView>>> = RefCell::new(HashMap::new());
}

/// A prepared statement, kept for the session.
pub struct Plan {
    statement: pg_sys::SPIPlanPtr,
    text: Rc<CString>,
    /// The table, in a statement that is about it.
    about: Option<pg_sys::Oid>,
}

impl Plan {
    /// Runs it; returns what SPI_execute_plan does. A statement about the table is about no other relation, whatever
    /// the name means by now.
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

/// A statement over rows that were collected.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Collected {
    Insert,
    Encrypt,
    InsertEncrypted,
}

/// A view and its table, as they are until either changes.
pub struct KnownView {
    pub table: pg_sys::Oid,
    pub rows: ViewRows,
    row_type: pg_sys::Oid,
    plans: RefCell<HashMap<Step, Rc<Plan>>>,
    of_collected: RefCell<HashMap<Collected, Rc<Plan>>>,
    epoch: u64,
    generation: u64,
}

/// What is known of the view that the trigger was fired for, from the session's memory if nothing changed.
pub fn known_view(view: pg_sys::Relation) -> Result<Rc<KnownView>> {
    let epoch = epoch::refresh(false);
    // SAFETY: the relation that the trigger was fired for.
    let oid = unsafe { (*view).rd_id };
    let generation = watched::generation();
    let known = KNOWN.with_borrow(|known| known.get(&oid).cloned());
    if let Some(view) = known.filter(|view| view.epoch == epoch && view.generation == generation) {
        return Ok(view);
    }
    let known = Rc::new(KnownView::new(view, epoch, generation)?);
    watched::watch([oid, known.table]);
    KNOWN.with_borrow_mut(|all| all.insert(oid, known.clone()));
    Ok(known)
}

impl KnownView {
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
        // Columns that the table got later are not in the view; their defaults hold.
        let columns = only(view::columns_of(table)?, &order);
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
        let matches = attributes.len() == columns.len()
            && attributes
                .iter()
                .zip(&columns)
                .all(|((_, type_oid), column)| type_oid.to_u32() == column.type_oid);
        if !matches {
            return Err(not_ours()?);
        }
        let names: Vec<String> = attributes.into_iter().map(|(name, _)| name).collect();
        let key = key_of(table, &columns, &names)?;
        let relation = view::relation_name(table);
        Ok(Self {
            table,
            rows: ViewRows::new(&relation, relation::shown(table)?, columns, names, key),
            row_type: descriptor.tdtypeid,
            plans: RefCell::default(),
            of_collected: RefCell::default(),
            epoch,
            generation,
        })
    }

    /// Parameters that each statement has, whichever it uses.
    pub fn parameters(&self) -> usize {
        2 + 2 * self.rows.encrypted.len()
    }

    /// The statement, prepared at its first use.
    pub fn plan(&self, step: Step) -> Result<Rc<Plan>> {
        if let Some(plan) = self.plans.borrow().get(&step) {
            return Ok(plan.clone());
        }
        let about = (!step.computes()).then_some(self.table);
        let plan = Rc::new(self.prepared(self.rows.sql(&step)?, about)?);
        self.plans.borrow_mut().insert(step, plan.clone());
        Ok(plan)
    }

    /// A statement over what was collected, prepared at its first use. The relation of it is registered.
    pub fn plan_of_collected(&self, step: Collected) -> Result<Rc<Plan>> {
        if let Some(plan) = self.of_collected.borrow().get(&step) {
            return Ok(plan.clone());
        }
        let (text, about) = match step {
            Collected::Insert => (collected::insert(&self.rows), Some(self.table)),
            Collected::Encrypt => (collected::encrypted(&self.rows), None),
            Collected::InsertEncrypted => {
                (collected::insert_encrypted(&self.rows), Some(self.table))
            }
        };
        let plan = Rc::new(self.prepared(text, about)?);
        self.of_collected.borrow_mut().insert(step, plan.clone());
        Ok(plan)
    }

    fn prepared(&self, text: String, about: Option<pg_sys::Oid>) -> Result<Plan> {
        let text = Rc::new(CString::new(text).unwrap_or_default());
        let ciphertext = crate::server::types::ciphertext_oid()
            .ok_or_else(|| Error::CatalogCorrupt("type ciphertext does not exist".into()))?;
        let mut types = vec![self.row_type; 2];
        types.resize(self.parameters(), ciphertext);
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
        Ok(Plan {
            statement,
            text,
            about,
        })
    }
}

pub fn view_descriptor(view: pg_sys::Relation) -> pg_sys::TupleDesc {
    // SAFETY: the relation that the trigger was fired for.
    unsafe { (*view).rd_att }
}

/// The condition that finds the row $1: by the primary key, or another unique key without NULLs. A
/// table that others inherit from has none, since keys do not reach across.
pub fn key_of(
    table: pg_sys::Oid,
    columns: &[ViewColumn],
    names: &[String],
) -> Result<Option<String>> {
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
    Ok(row_key(&parts, columns, names))
}
