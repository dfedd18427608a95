//! Which rows need a key version: asked of the rows themselves.
//!
//! Every stored column counts whose type is `ciphertext` or holds one (domains, arrays and composites, in
//! any depth), registered or not, in every table, partition, child and materialized view. Temporary tables
//! do not: nobody else can read them.
//!
//! Tables are read by scans without SQL, in which nobody's code, policies and privileges have a part: a row that nobody
//! sees is lost all the same.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};

use colcrypt_domain::quote::{quote_identifier, quote_literal};
use colcrypt_domain::rotation::Rotation;
use pgrx::{Spi, pg_sys};

use crate::catalog::read::Key;
use crate::error::{Error, Result};
use crate::rows::primary_key::{Listed, PrimaryKey};
use crate::rows::reach::{self, OwnersCode};
use crate::rows::shards::{self, Shards};
use crate::server::relation::{Held, Lock};
use crate::server::roles::AsRole;
use crate::server::scan;
use crate::server::spi::safe_search_path;
use crate::settings;

/// Rows that are listed at a time.
const CHUNK: usize = 4096;

/// A column that can hold ciphertexts.
pub struct CiphertextColumn {
    pub relation: pg_sys::Oid,
    /// The relation's name, qualified and quoted, as it was when it was found: for messages and records.
    pub name: String,
    pub attribute: String,
    /// Its table's file, which another takes the place of when all rows are written anew.
    pub file: Option<pg_sys::Oid>,
    /// Whether rotation takes care of it, by its own registration or a parent's.
    pub registered: bool,
    /// What becomes of its values at a rotation, where it is registered.
    rotation: Option<Rotation>,
    holds: pg_sys::Oid,
}

impl CiphertextColumn {
    /// The column's name as errors and records have it.
    pub fn describe(&self) -> String {
        format!("{}.{}", self.name, quote_identifier(&self.attribute))
    }
}

/// How a type holds ciphertexts.
enum Holds {
    Ciphertext,
    Domain(pg_sys::Oid),
    Array(pg_sys::Oid),
    /// Fields that hold some, by name and type.
    Composite(Vec<(String, pg_sys::Oid)>),
}

/// A column of a foreign partition or child that can hold ciphertexts.
pub struct ForeignColumn {
    pub relation: pg_sys::Oid,
    /// The keys that its values may be under, where a parent's registration says so.
    keys: Option<Vec<i64>>,
}

impl ForeignColumn {
    fn may_need(&self, key: &Key) -> bool {
        let keys = self.keys.as_ref();
        keys.is_none_or(|keys| keys.contains(&key.id.bigint()))
    }
}

/// Every column that can hold ciphertexts, and how to look into it.
pub struct Columns {
    pub all: Vec<CiphertextColumn>,
    foreign: Vec<ForeignColumn>,
    /// Tables whose rows lie in shards, those that are here among `all`.
    sharded: HashSet<pg_sys::Oid>,
    shapes: HashMap<pg_sys::Oid, Holds>,
    /// Versions that a row was found to need, of those that were asked about; not always all of them.
    met: RefCell<BTreeSet<i32>>,
}

pub const HOLDING: &str = "WITH RECURSIVE holding(type) AS (\
    SELECT t.oid FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace \
    WHERE n.nspname = 'colcrypt' AND t.typname = 'ciphertext' \
    UNION SELECT t.oid FROM holding h JOIN pg_type t \
        ON (t.typtype = 'd' AND t.typbasetype = h.type) \
        OR (t.typcategory = 'A' AND t.typelem = h.type) \
        OR (t.typtype = 'c' AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = t.typrelid \
            AND a.atttypid = h.type AND a.attnum > 0 AND NOT a.attisdropped)))";

impl Columns {
    /// Finds them in the catalogs.
    ///
    /// # Errors
    /// Of SPI.
    pub fn find() -> Result<Self> {
        let _path = safe_search_path();
        let _role = AsRole::owner();
        let mut all = columns()?;
        let shards = shards::of(None)?;
        shown_as_their_tables(&mut all, &shards);
        let sharded = shards.into_keys().collect();
        Ok(Self {
            shapes: shapes()?,
            all,
            foreign: foreign_columns()?,
            sharded,
            met: RefCell::default(),
        })
    }

    /// Which of the versions that were asked about some row needs: where any row does, one of them at least.
    pub fn met(&self) -> Vec<i32> {
        self.met.borrow().iter().copied().collect()
    }

    /// Foreign tables whose rows may be under the key and cannot be looked at.
    pub fn out_of_reach(&self, key: &Key) -> impl Iterator<Item = Error> {
        let foreign = self.foreign.iter().filter(|column| column.may_need(key));
        foreign.map(|column| reach::out_of_reach(column.relation, reach::FOREIGN))
    }

    /// How many rows of the column need one of these versions; none when its table is gone. By a scan without SQL:
    /// whatever the owner's code, policies and privileges are.
    ///
    /// # Errors
    /// [`Error::ColumnChanged`]; [`Error::RowsOutOfReach`]; when a value has no header.
    pub fn count(&self, column: &CiphertextColumn, key: &Key, versions: &[i32]) -> Result<i64> {
        self.count_by(column, key, versions, |table, visit| {
            scan::each_row(table, visit)
        })
    }

    /// The same of rows in blocks that were changed since a place in the log, of a table that nobody changes.
    ///
    /// # Errors
    /// As [`count`](Self::count).
    pub fn count_since(
        &self,
        column: &CiphertextColumn,
        key: &Key,
        versions: &[i32],
        since: u64,
    ) -> Result<i64> {
        self.count_by(column, key, versions, |table, visit| {
            scan::each_row_since(table, since, visit)
        })
    }

    fn count_by(
        &self,
        column: &CiphertextColumn,
        key: &Key,
        versions: &[i32],
        scan: impl FnOnce(&Held, &mut dyn FnMut(&scan::Row) -> Result<()>) -> Result<()>,
    ) -> Result<i64> {
        let Some(table) = held(column, Held::take(column.relation, Lock::Read))? else {
            return Ok(0);
        };
        let Some(attribute) = table.attribute(&column.attribute) else {
            return Ok(0);
        };
        let number = attribute.number;
        let mut count = 0;
        scan(&table, &mut |row| {
            let needs = match row.value(number) {
                // SAFETY: of the type that the column has, as was just looked at under the lock.
                Some(value) => unsafe { self.needs(column.holds, value, key, versions)? },
                None => false,
            };
            count += i64::from(needs);
            Ok(())
        })?;
        self.refuse_hidden_rows(&table)?;
        Ok(count)
    }

    /// The columns that hold rows under one of these versions, and how many.
    ///
    /// # Errors
    /// [`Error::RowsOutOfReach`] where nobody can tell; as [`count`](Self::count).
    pub fn needing(&mut self, key: &Key, versions: &[i32]) -> Result<Vec<(CiphertextColumn, i64)>> {
        if let Some(error) = self.out_of_reach(key).next() {
            return Err(error);
        }
        let counts = self
            .all
            .iter()
            .map(|column| self.count(column, key, versions));
        let counts = counts.collect::<Result<Vec<i64>>>()?;
        let found = std::mem::take(&mut self.all).into_iter().zip(counts);
        Ok(found.filter(|(_, count)| *count > 0).collect())
    }

    /// Whether a value of a type that holds ciphertexts holds one under one of these versions.
    ///
    /// # Safety
    /// The value is of that type.
    unsafe fn needs(
        &self,
        holds: pg_sys::Oid,
        value: pg_sys::Datum,
        key: &Key,
        versions: &[i32],
    ) -> Result<bool> {
        // SAFETY: the caller vouches for the type, and each part's type is its container's say.
        unsafe {
            match self.shapes.get(&holds) {
                Some(Holds::Ciphertext) => {
                    let (of, version) = scan::version_of(value)?;
                    let version = version.int();
                    let needs = of == key.id && versions.contains(&version);
                    if needs {
                        self.met.borrow_mut().insert(version);
                    }
                    Ok(needs)
                }
                Some(Holds::Domain(base)) => self.needs(*base, value, key, versions),
                Some(Holds::Array(element)) => {
                    for part in elements(*element, value) {
                        if self.needs(*element, part, key, versions)? {
                            return Ok(true);
                        }
                    }
                    Ok(false)
                }
                Some(Holds::Composite(parts)) => {
                    for (holds, part) in fields(value, parts)? {
                        if self.needs(holds, part, key, versions)? {
                            return Ok(true);
                        }
                    }
                    Ok(false)
                }
                None => Ok(false),
            }
        }
    }

    /// Hands over address and primary key of the rows that need the version, [`CHUNK`] at a time. By a scan, as
    /// [`count`](Self::count).
    ///
    /// # Errors
    /// As [`count`](Self::count); of SPI; of the taker.
    pub fn list(
        &self,
        column: &CiphertextColumn,
        key: &Key,
        version: i32,
        mut take: impl FnMut(&PrimaryKey, Vec<Listed>) -> Result<()>,
    ) -> Result<()> {
        let Some(table) = held(column, Held::take(column.relation, Lock::Read))? else {
            return Ok(());
        };
        let Some(attribute) = table.attribute(&column.attribute) else {
            return Ok(());
        };
        let primary_key = PrimaryKey::of(&table)?;
        let mut found = Vec::new();
        scan::each_row(&table, |row| {
            let Some(value) = row.value(attribute.number) else {
                return Ok(());
            };
            // SAFETY: of the type that the column has, as was just looked at under the lock.
            if unsafe { self.needs(column.holds, value, key, &[version])? } {
                found.push(Listed {
                    address: row.address(),
                    // SAFETY: as above, of each part's type.
                    key: unsafe { primary_key.values(row) },
                });
            }
            if found.len() == CHUNK {
                take(&primary_key, std::mem::take(&mut found))?;
            }
            Ok(())
        })?;
        take(&primary_key, found)?;
        self.refuse_hidden_rows(&table)
    }

    /// Those of a distributed table lie in shards, which are looked at one by one, each on its server.
    fn refuse_hidden_rows(&self, table: &Held) -> Result<()> {
        if self.sharded.contains(&table.oid) {
            return Ok(());
        }
        reach::refuse_hidden_rows(table, OwnersCode::MustNotRun)
    }
}

/// What is registered of a distributed table holds for its shards.
fn shown_as_their_tables(all: &mut [CiphertextColumn], shards: &Shards) {
    let mut rotations = HashMap::new();
    for (table, here) in shards {
        for column in all.iter().filter(|column| column.relation == *table) {
            for shard in here {
                let place = (*shard, column.attribute.clone());
                rotations.insert(place, (column.registered, column.rotation));
            }
        }
    }
    for column in all {
        let place = (column.relation, column.attribute.clone());
        if let Some((registered, rotation)) = rotations.remove(&place) {
            column.registered = registered;
            column.rotation = rotation;
        }
    }
}

/// A column's table as it is now: the column was found under no lock. None when the table is gone.
fn held(column: &CiphertextColumn, table: Result<Held>) -> Result<Option<Held>> {
    let table = match table {
        Err(Error::UnknownObject { .. }) => return Ok(None),
        other => other?,
    };
    let is_the_same = table.holds_rows()
        && table
            .attribute(&column.attribute)
            .is_some_and(|attribute| attribute.type_oid == column.holds);
    if is_the_same {
        return Ok(Some(table));
    }
    Err(Error::ColumnChanged {
        column: column.describe(),
    })
}

/// The elements of an array that are not NULL.
///
/// # Safety
/// The value is an array of this type.
unsafe fn elements(element: pg_sys::Oid, array: pg_sys::Datum) -> Vec<pg_sys::Datum> {
    let (mut length, mut by_value, mut align) = (0, false, 0);
    let (mut values, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
    // SAFETY: the caller vouches for the array; the server allocates two arrays of `count`.
    unsafe {
        pg_sys::get_typlenbyvalalign(element, &mut length, &mut by_value, &mut align);
        let array = pg_sys::pg_detoast_datum(array.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        pg_sys::deconstruct_array(
            array,
            element,
            length.into(),
            by_value,
            align,
            &mut values,
            &mut nulls,
            &mut count,
        );
        (0..count as usize)
            .filter(|&at| !*nulls.add(at))
            .map(|at| *values.add(at))
            .collect()
    }
}

/// Those fields of a composite value that hold ciphertexts and are not NULL, with their types.
///
/// # Safety
/// The value is of a composite type with these fields.
unsafe fn fields(
    value: pg_sys::Datum,
    parts: &[(String, pg_sys::Oid)],
) -> Result<Vec<(pg_sys::Oid, pg_sys::Datum)>> {
    let mut found = Vec::new();
    // SAFETY: the caller vouches for the composite; its own header says which row type it was made with.
    unsafe {
        let header =
            pg_sys::pg_detoast_datum(value.cast_mut_ptr()).cast::<pg_sys::HeapTupleHeaderData>();
        let datum_fields = (*header).t_choice.t_datum;
        let descriptor = pg_sys::lookup_rowtype_tupdesc_copy(
            datum_fields.datum_typeid,
            datum_fields.datum_typmod,
        );
        let mut tuple = pg_sys::HeapTupleData {
            t_len: pgrx::varlena::varsize_any(header.cast()) as u32,
            t_data: header,
            ..Default::default()
        };
        for (name, holds) in parts {
            let name = std::ffi::CString::new(name.as_str()).unwrap_or_default();
            let number = pg_sys::SPI_fnumber(descriptor, name.as_ptr());
            if number <= 0 || pg_sys::SPI_gettypeid(descriptor, number) != *holds {
                return Err(Error::ColumnChanged {
                    column: name.to_string_lossy().into_owned(),
                });
            }
            let mut is_null = false;
            let part = pg_sys::heap_getattr(&mut tuple, number, descriptor, &mut is_null);
            if !is_null {
                found.push((*holds, part));
            }
        }
    }
    Ok(found)
}

/// What still needs one of these versions: the columns that hold such rows, and how many.
///
/// # Errors
/// [`Error::RowsOutOfReach`] where nobody can tell; of SPI.
pub fn needing(key: &Key, versions: &[i32]) -> Result<Vec<(CiphertextColumn, i64)>> {
    Columns::find()?.needing(key, versions)
}

/// One line a column, for errors and records.
pub fn describe(holders: &[(CiphertextColumn, i64)]) -> String {
    holders
        .iter()
        .map(|(column, count)| {
            let rows = if *count == 1 { "row" } else { "rows" };
            let left = column.rotation.map_or("", Rotation::of_rows);
            format!("{}: {count} {rows}{left}", column.describe())
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// Runs a query with the snapshot that is active, whatever this transaction did before: tables that are
/// read one after the other are seen at one instant, and no row slips from one to the other unseen.
pub fn read_only(sql: &str) -> Result<Vec<Vec<Option<String>>>> {
    let c_sql = std::ffi::CString::new(sql).map_err(|_| Error::Spi("a name holds NUL".into()))?;
    Spi::connect(|_| {
        // SAFETY: connected; the result is read before the connection ends. SPI_getvalue gives a C string
        // or null.
        unsafe {
            let code = pg_sys::SPI_execute(c_sql.as_ptr(), true, 0);
            if code != pg_sys::SPI_OK_SELECT as i32 {
                return Err(Error::Spi(format!("SPI_execute gave {code}")));
            }
            let table = pg_sys::SPI_tuptable;
            let descriptor = (*table).tupdesc;
            let columns = (*descriptor).natts;
            Ok((0..pg_sys::SPI_processed as usize)
                .map(|at| {
                    let tuple = *(*table).vals.add(at);
                    (1..=columns)
                        .map(|column| {
                            let text = pg_sys::SPI_getvalue(tuple, descriptor, column);
                            (!text.is_null()).then(|| {
                                std::ffi::CStr::from_ptr(text)
                                    .to_string_lossy()
                                    .into_owned()
                            })
                        })
                        .collect()
                })
                .collect())
        }
    })
}

fn shapes() -> Result<HashMap<pg_sys::Oid, Holds>> {
    let rows = read_only(&format!(
        "{HOLDING} SELECT t.oid, t.typtype, t.typbasetype, t.typelem, a.attname, a.atttypid \
         FROM holding h JOIN pg_type t ON t.oid = h.type \
         LEFT JOIN (pg_attribute a JOIN holding f ON f.type = a.atttypid) \
             ON t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped \
         ORDER BY t.oid, a.attnum"
    ))?;
    let mut shapes = HashMap::new();
    for row in rows {
        let oid = |at: usize| oid(row.get(at).cloned().flatten());
        let text = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
        let this = oid(0);
        match (text(1).as_str(), oid(3)) {
            ("d", _) => {
                shapes.insert(this, Holds::Domain(oid(2)));
            }
            ("c", _) => {
                let fields = shapes
                    .entry(this)
                    .or_insert_with(|| Holds::Composite(Vec::new()));
                if let Holds::Composite(fields) = fields {
                    fields.push((text(4), oid(5)));
                }
            }
            (_, pg_sys::Oid::INVALID) => {
                shapes.insert(this, Holds::Ciphertext);
            }
            (_, element) => {
                shapes.insert(this, Holds::Array(element));
            }
        }
    }
    Ok(shapes)
}

fn columns() -> Result<Vec<CiphertextColumn>> {
    let rows = read_only(&format!(
        "{HOLDING} SELECT c.oid, a.attname, a.atttypid, (\
             WITH RECURSIVE up(relid, depth) AS (SELECT c.oid, 0 UNION \
                 SELECT i.inhparent, u.depth + 1 FROM pg_inherits i JOIN up u ON i.inhrelid = u.relid) \
             SELECT p.rotation FROM up JOIN colcrypt.protected_column p ON p.relation = up.relid AND p.attribute = a.attname \
             ORDER BY up.depth LIMIT 1), \
             n.nspname, c.relname, pg_relation_filenode(c.oid) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid JOIN holding h ON h.type = a.atttypid \
         WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND c.relispopulated \
           AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v' \
         ORDER BY c.oid, a.attnum"
    ))?;
    rows.into_iter()
        .map(|row| {
            let text = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
            let relation = oid(Some(text(0)));
            Ok(CiphertextColumn {
                relation,
                name: colcrypt_domain::quote::quote_qualified_identifier(text(4), text(5)),
                attribute: text(1),
                holds: oid(Some(text(2))),
                registered: row.get(3).is_some_and(Option::is_some),
                rotation: Rotation::parse(&text(3)).ok(),
                file: row.get(6).cloned().flatten().map(|file| oid(Some(file))),
            })
        })
        .collect()
}

/// A condition: whether a foreign table's rows are looked after on its server, as the operator has said.
pub fn elsewhere(table: &str) -> String {
    let servers = settings::rows_elsewhere();
    let servers: Vec<String> = servers.iter().map(quote_literal).collect();
    format!(
        "EXISTS (SELECT FROM pg_foreign_table e JOIN pg_foreign_server s ON s.oid = e.ftserver \
             WHERE e.ftrelid = {table} AND s.srvname::text = ANY (ARRAY[{}]::text[]))",
        servers.join(", ")
    )
}

/// Foreign tables that are a part of one of ours. Those that stand alone are another server's affair, and so are those
/// whose server looks after them.
fn foreign_columns() -> Result<Vec<ForeignColumn>> {
    let rows = read_only(&format!(
        "{HOLDING} SELECT c.oid, (\
             WITH RECURSIVE up(relid) AS (SELECT c.oid UNION \
                 SELECT i.inhparent FROM pg_inherits i JOIN up u ON i.inhrelid = u.relid), \
             own AS (SELECT coalesce(p.key_id, k.key_id) AS key_id FROM up JOIN colcrypt.protected_column p ON p.relation = up.relid AND p.attribute = a.attname LEFT JOIN colcrypt.key k ON k.keyring_id = p.keyring_id), \
             former AS (SELECT k FROM up JOIN colcrypt.job j ON j.relation = up.relid AND j.attribute = a.attname, \
                 unnest(j.from_keys || j.key_id) AS k) \
             SELECT string_agg(key_id::text, ' ') FROM (SELECT key_id FROM own UNION SELECT k FROM former) o \
             WHERE EXISTS (SELECT FROM own)) \
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid JOIN holding h ON h.type = a.atttypid \
         WHERE c.relkind = 'f' AND a.attnum > 0 AND NOT a.attisdropped \
           AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid) AND NOT {} \
         ORDER BY c.oid, a.attnum",
        elsewhere("c.oid")
    ))?;
    let columns = rows.into_iter().map(|row| {
        let text = |at: usize| row.get(at).cloned().flatten();
        let keys = text(1).map(|keys| keys.split(' ').filter_map(|key| key.parse().ok()).collect());
        ForeignColumn {
            relation: oid(text(0)),
            keys,
        }
    });
    Ok(columns.collect())
}

fn oid(text: Option<String>) -> pg_sys::Oid {
    text.and_then(|text| text.parse::<u32>().ok())
        .map_or(pg_sys::Oid::INVALID, pg_sys::Oid::from)
}
