//! Registered columns that are enforced: the trigger that looks at what is written to the table itself, past any view.
//! It refuses a value of another key or type than the column's, and one that is not bound to a context where the
//! column's are. All of that is in a value's header: nothing is opened. It also refuses an UPDATE of what a value is
//! bound to that leaves the value as it is: nobody could read it from then on. Where the column asks for that instead,
//! the value is bound anew (`bound_anew.rs`).
//!
//! Its name is before those of the triggers that migrations make, and behind those that people give: it sees the row as
//! it will be stored.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use colcrypt_core::KeyId;
use colcrypt_core::format::{Header, parse_header};
use colcrypt_domain::quote::quote_identifier;
use pgrx::{PgMemoryContexts, pg_sys};

use crate::catalog::{epoch, read};
use crate::columns::bound_anew::{Bound, Follows, Referring};
use crate::columns::row_key;
use crate::error::{Error, Result};
use crate::server::call::Call;
use crate::server::computed::Computed;
use crate::server::relation::{Held, Lock, Named};
use crate::server::scan::head_of;
use crate::server::trigger::{self, Rows};
use crate::server::varlena::image_of;
use crate::server::{reads, spi, types, watched};
use crate::values::codec::Codec;
use crate::values::seal::described;

/// The trigger's name on every table.
const TRIGGER: &str = "~colcrypt";

thread_local! {
    static KNOWN: RefCell<HashMap<pg_sys::Oid, Rc<KnownTable>>> = RefCell::default();
}

/// What a table's columns take, until the catalog or the table changes.
struct KnownTable {
    columns: Vec<Column>,
    referring: Referring,
    epoch: u64,
    generation: u64,
    /// Holds what the codecs looked up.
    _memory: PgMemoryContexts,
}

struct Column {
    number: i32,
    shown: String,
    keys: Keys,
    codec: Codec,
    /// Whether values are bound to a context; none while that is being changed.
    is_bound: Option<bool>,
    /// The columns that the context is made of.
    binding: Vec<(i32, String)>,
    /// Whether what is written is looked at; else the value only follows what it is bound to.
    is_enforced: bool,
    follows: Option<Follows>,
}

/// The key that values are to be under.
enum Keys {
    One(KeyId),
    /// Each row's own: its name, and the keyring's name.
    OfRow {
        name: Computed,
        keyring: String,
        /// The columns that the name is made of.
        from: Vec<i32>,
    },
}

impl Column {
    /// Why a value is none of this column's.
    fn refuses(&self, header: &Header<'_>, row: pg_sys::HeapTuple) -> Result<Option<String>> {
        let of = || read::key_name(header.key);
        let is_it = match &self.keys {
            Keys::One(key) => header.key == *key,
            Keys::OfRow { name, keyring, .. } => {
                // SAFETY: made for this table, to give a text.
                let wanted = unsafe { name.text(row) }.ok_or_else(row_key::lost::unnamed)?;
                row_key::refuse_other_key(wanted.as_bytes(), keyring)?;
                of() == Some(wanted)
            }
        };
        if !is_it {
            let of = of().map_or_else(
                || format!("unknown key {}", header.key),
                |name| format!("key \"{name}\""),
            );
            return Ok(Some(format!("It is encrypted with {of}.")));
        }
        let written = header.plaintext_type;
        // Types are renamed, of which no cache is told.
        let name = match self.codec.is_built_in() {
            true => String::new(),
            false => types::canonical_type_name(self.codec.base_type)?,
        };
        if !self.codec.reads(written, name.as_bytes()) && !self.codec.had_name(written)? {
            return Ok(Some(format!("It holds type {}.", described(written))));
        }
        Ok(match (self.is_bound, header.has_context) {
            (Some(true), false) => Some("It is bound to no context.".into()),
            (Some(false), true) => Some("It is bound to a context.".into()),
            _ => None,
        })
    }

    /// The column whose change would make a value unreadable that is left as it is.
    fn comes_loose(&self, rows: &Rows) -> Option<&str> {
        let mut binding = self.binding.iter();
        let changed = binding.find(|(number, _)| !rows.keeps(*number));
        changed.map(|(_, name)| name.as_str())
    }

    /// Whether the row's key may be another than before.
    fn is_named_anew(&self, rows: &Rows) -> bool {
        match &self.keys {
            Keys::One(_) => false,
            Keys::OfRow { from, .. } => from.iter().any(|number| !rows.keeps(*number)),
        }
    }

    fn refusal(&self, why: String) -> Error {
        Error::NotOfColumn {
            column: self.shown.clone(),
            key: match &self.keys {
                Keys::One(key) => read::key_name(*key).unwrap_or_else(|| key.to_string()),
                Keys::OfRow { .. } => "of its row".into(),
            },
            type_name: types::type_name(self.codec.base_type),
            is_bound: self.is_bound,
            why,
        }
    }
}

/// What each column of a table ($1) is registered with: a partition's or a child's own registration, or that of the
/// nearest table above it.
pub const NEAREST: &str = "WITH RECURSIVE up(relid, depth) AS (SELECT $1::oid, 0 UNION \
         SELECT i.inhparent, u.depth + 1 FROM pg_inherits i JOIN up u ON i.inhrelid = u.relid), \
     nearest AS (SELECT DISTINCT ON (p.attribute) u.relid, p.* \
         FROM up u JOIN colcrypt.protected_column p ON p.relation = u.relid ORDER BY p.attribute, u.depth)";

fn known_table(oid: pg_sys::Oid) -> Result<Rc<KnownTable>> {
    let epoch = epoch::refresh(false);
    let generation = watched::generation();
    let known = KNOWN.with_borrow(|known| known.get(&oid).cloned());
    if let Some(table) =
        known.filter(|table| table.epoch == epoch && table.generation == generation)
    {
        return Ok(table);
    }
    let held = Held::take(oid, Lock::Read)?;
    // SAFETY: a new context lies below the one that is current: this one outlives the statement.
    let memory = unsafe {
        PgMemoryContexts::TopMemoryContext.switch_to(|_| PgMemoryContexts::new("colcrypt enforced"))
    };
    let registered = spi::query(
        &format!(
            "{NEAREST} SELECT n.relid, n.attribute::text, n.enforce, n.key_id, n.plaintext_type::oid, \
                CASE WHEN n.becomes IS NULL THEN n.context IS NOT NULL END, n.context, n.follows, n.key_expression, r.name \
             FROM nearest n LEFT JOIN colcrypt.keyring r USING (keyring_id) ORDER BY n.attribute"
        ),
        &[oid.into()],
        |row| {
            Ok((
                row.get::<pg_sys::Oid>(1)?,
                row.get::<String>(2)?.unwrap_or_default(),
                row.get::<bool>(3)? == Some(true),
                row.get::<i64>(4)?.unwrap_or_default(),
                row.get::<pg_sys::Oid>(5)?.unwrap_or(pg_sys::Oid::INVALID),
                row.get::<bool>(6)?,
                row.get::<String>(7)?,
                row.get::<bool>(8)? == Some(true),
                row.get::<String>(9)?,
                row.get::<String>(10)?.unwrap_or_default(),
            ))
        },
    )?;
    let mut columns = Vec::new();
    for (
        owner,
        attribute,
        is_enforced,
        key,
        plaintext_type,
        is_bound,
        context,
        follows,
        by_row,
        keyring,
    ) in registered
    {
        watched::watch(owner);
        // A column that is no ciphertext any more is read as none.
        let Some(found) = held.attribute(&attribute).filter(|found| {
            (is_enforced || follows || context.is_some()) && found.holds_ciphertext()
        }) else {
            continue;
        };
        let keys = match (owner, by_row) {
            (Some(owner), Some(expression)) => {
                let (name, numbers) = named_by(oid, owner, &expression, &memory)?;
                Keys::OfRow {
                    name,
                    keyring,
                    from: numbers.into_iter().map(Into::into).collect(),
                }
            }
            _ => Keys::One(KeyId::of_bigint(key)),
        };
        columns.push(Column {
            number: found.number.into(),
            shown: format!("{}.{}", held.shown(), quote_identifier(&attribute)),
            keys,
            codec: Codec::for_type(plaintext_type, memory.value())?,
            is_bound,
            follows: match (owner, &context) {
                (Some(owner), Some(context)) if follows => {
                    Some(Follows::new(&held, owner, context)?)
                }
                _ => None,
            },
            binding: match (owner, context) {
                (Some(owner), Some(context)) => binding(&held, owner, &attribute, &context)?,
                _ => Vec::new(),
            },
            is_enforced,
        });
    }
    watched::watch([oid]);
    let referring = Referring::of(oid)?;
    let table = Rc::new(KnownTable {
        columns,
        referring,
        epoch,
        generation,
        _memory: memory,
    });
    KNOWN.with_borrow_mut(|known| known.insert(oid, table.clone()));
    Ok(table)
}

/// What names the key of a table's rows, as its own registration or that of a table above it says, and the columns that
/// it is made of.
fn named_by(
    table: pg_sys::Oid,
    registered: pg_sys::Oid,
    expression: &str,
    memory: &PgMemoryContexts,
) -> Result<(Computed, Vec<i16>)> {
    let held = Named::take(table, Lock::Read)?;
    let above = Held::take(registered, Lock::Read)?;
    // SAFETY: in a transaction; the relation is locked, and what is made lies in the memory of what is known of it. The
    // former context is put back on both ways, and by an ERROR's handler.
    unsafe {
        let before = pg_sys::MemoryContextSwitchTo(memory.value());
        let made =
            row_key::analyzed(&held, above.bare_name(), expression).map(|(node, numbers)| {
                let relation = pg_sys::relation_open(table, pg_sys::NoLock as pg_sys::LOCKMODE);
                let computed = Computed::new(node, (*relation).rd_att);
                pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
                (computed, numbers)
            });
        pg_sys::MemoryContextSwitchTo(before);
        made
    }
}

/// The columns of a table, or of a partition or child of it, that the context is made of.
///
/// # Errors
/// Where it does not fit the table any more.
pub fn binding(
    held: &Held,
    registered: pg_sys::Oid,
    attribute: &str,
    context: &str,
) -> Result<Vec<(i32, String)>> {
    let table = Named::take(registered, Lock::Read)?;
    let Some(numbers) = reads::columns(&table, context)? else {
        return Err(Error::Column {
            message: format!(
                "the context that column {}.{} is registered with does not fit the table any more",
                table.held.shown(),
                quote_identifier(attribute)
            ),
            hint: "Register the column again, with its label, and then its views.".into(),
        });
    };
    let is_whole = numbers.contains(&0);
    let columns = table.held.attributes().iter().filter(|column| {
        column.name != attribute && (is_whole || numbers.contains(&column.number))
    });
    Ok(columns
        .filter_map(|column| held.attribute(&column.name))
        .map(|column| (column.number.into(), quote_identifier(&column.name)))
        .collect())
}

/// A column that values of an encrypted one are bound to.
pub struct Binding {
    pub number: i32,
    name: String,
    encrypted: String,
}

impl Binding {
    pub fn error(&self) -> Error {
        Error::ComesLoose {
            column: self.encrypted.clone(),
            by: self.name.clone(),
        }
    }
}

/// The columns that values of a table are bound to which no trigger on it looks after, as it, or a table above it, is
/// registered.
///
/// # Errors
/// Of the look-ups.
pub fn bound_to(oid: pg_sys::Oid) -> Result<Vec<Binding>> {
    let registered = spi::look(
        &format!(
            "{NEAREST} SELECT relid, attribute::text, context FROM nearest \
             WHERE NOT (enforce OR follows) AND context IS NOT NULL ORDER BY attribute"
        ),
        &[oid.into()],
        |row| {
            Ok((
                spi::at::<pg_sys::Oid>(row, 1)?,
                spi::at::<String>(row, 2)?,
                spi::at::<String>(row, 3)?,
            ))
        },
    )?;
    let mut bindings = Vec::new();
    for (owner, attribute, context) in registered {
        watched::watch([owner]);
        let held = Held::take(oid, Lock::Read)?;
        let encrypted = format!("{}.{}", held.shown(), quote_identifier(&attribute));
        let bound = binding(&held, owner, &attribute, &context)?;
        bindings.extend(bound.into_iter().map(|(number, name)| Binding {
            number,
            name,
            encrypted: encrypted.clone(),
        }));
    }
    Ok(bindings)
}

/// The trigger's function.
///
/// # Errors
/// Of the look-up.
pub fn function() -> Result<pg_sys::Oid> {
    let found = spi::look(
        "SELECT 'colcrypt.check_encrypted_columns()'::regprocedure::oid",
        &[],
        |row| spi::at::<pg_sys::Oid>(row, 1),
    )?;
    found
        .into_iter()
        .next()
        .ok_or_else(|| Error::CatalogCorrupt("a function of the extension is missing".into()))
}

/// The trigger.
pub fn check_encrypted_columns(call: Call) -> Result<pg_sys::Datum> {
    let misuse = || Error::InvalidParameter {
        message: "check_encrypted_columns is a trigger BEFORE INSERT OR UPDATE, for each row"
            .into(),
        hint: "colcrypt.register_column makes it, with enforce => true.".into(),
    };
    let (trigger, rows) = trigger::before_row(call).ok_or_else(misuse)?;
    // SAFETY: the relation that the trigger was fired for is open for the length of the call.
    let oid = unsafe { (*trigger.tg_relation).rd_id };
    let table = known_table(oid)?;
    let mut anew = Vec::new();
    for column in &table.columns {
        let value = rows.value(column.number);
        let before = rows.former(column.number);
        let Some(value) = value else { continue };
        // SAFETY: two values of the column, which is a ciphertext.
        let is_kept = before.is_some_and(|before| unsafe { image_of(before) == image_of(value) });
        let loose = is_kept.then(|| column.comes_loose(&rows)).flatten();
        let is_named_anew = is_kept && column.is_enforced && column.is_named_anew(&rows);
        let is_settled = match is_kept {
            true => loose.is_none() && !is_named_anew,
            false => !column.is_enforced,
        };
        if is_settled {
            continue;
        }
        // SAFETY: the column is a ciphertext.
        let head = unsafe { head_of(value) };
        let (header, _) = parse_header(head.bytes())?;
        if let Some(by) = loose.filter(|_| header.has_context) {
            let Some(follows) = &column.follows else {
                return Err(Error::ComesLoose {
                    column: column.shown.clone(),
                    by: by.into(),
                });
            };
            match follows.bind_anew(trigger, &rows, column.number, &table.referring)? {
                Bound::Anew(moved) => {
                    moved.record(oid, &column.shown, by)?;
                    anew.push((column.number, moved.value));
                }
                Bound::Already => {}
                Bound::Refused(why) => {
                    return Err(column.refusal(format!(
                        "Column {by} changes, which it is bound to, and it is not bound anew: {why}."
                    )));
                }
            }
        }
        // What it is bound to is seen to; its row's key may be another.
        if is_kept && !is_named_anew {
            continue;
        }
        if let Some(why) = column.refuses(&header, rows.new)? {
            return Err(column.refusal(why));
        }
    }
    let new = anew.into_iter().fold(rows.new, |new, (number, value)| {
        Rows { new, ..rows }.with(number, Some(value))
    });
    Ok(pg_sys::Datum::from(new))
}

/// Gives the table, its partitions and its children the trigger, or takes it from them, as its registrations ask now.
/// Children that come later have none until the column is registered again; partitions do.
///
/// # Errors
/// Of DDL; the lock's.
pub fn settle(table: pg_sys::Oid) -> Result<()> {
    // The trigger of a partition that has it from above goes with that.
    let members = spi::query(
        "WITH RECURSIVE tree(relid) AS (SELECT $1::oid UNION \
             SELECT i.inhrelid FROM pg_inherits i JOIN tree t ON i.inhparent = t.relid), \
         member AS (SELECT c.oid, c.oid <> $1 AS is_below, c.relispartition, g.oid AS own, coalesce(g.tgparentid <> 0, false) AS is_clone, \
             (WITH RECURSIVE up(relid) AS (SELECT c.oid UNION SELECT i.inhparent FROM pg_inherits i JOIN up u ON i.inhrelid = u.relid) \
              SELECT EXISTS (SELECT FROM up u JOIN colcrypt.protected_column p ON p.relation = u.relid WHERE p.enforce OR p.follows)) AS is_wanted \
             FROM tree t JOIN pg_class c ON c.oid = t.relid \
             LEFT JOIN pg_trigger g ON g.tgrelid = c.oid AND g.tgfoid = 'colcrypt.check_encrypted_columns()'::regprocedure \
             WHERE c.relkind IN ('r', 'p')) \
         SELECT oid, is_wanted FROM member \
         WHERE is_wanted AND own IS NULL AND NOT (is_below AND relispartition) OR NOT is_wanted AND own IS NOT NULL AND NOT is_clone \
         ORDER BY is_below, oid",
        &[table.into()],
        |row| {
            Ok((
                row.get::<pg_sys::Oid>(1)?.unwrap_or(pg_sys::Oid::INVALID),
                row.get::<bool>(2)? == Some(true),
            ))
        },
    )?;
    for (member, is_wanted) in members {
        let table = Named::take(member, Lock::Read)?;
        let trigger = quote_identifier(TRIGGER);
        let statement = match is_wanted {
            true => format!(
                "CREATE TRIGGER {trigger} BEFORE INSERT OR UPDATE ON {} \
                 FOR EACH ROW EXECUTE FUNCTION colcrypt.check_encrypted_columns()",
                table.sql
            ),
            false => format!("DROP TRIGGER IF EXISTS {trigger} ON {}", table.sql),
        };
        spi::run_as(table.owner(), &[statement])?;
    }
    Ok(())
}
