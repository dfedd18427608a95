//! The trigger that keeps terms in step with the values they are of, BEFORE each row is written, behind all triggers
//! that people give.
//!
//! Nobody brings a term: whatever a statement puts into a companion, the trigger overwrites. A value that stays keeps
//! its terms, and so does one that was only encrypted again in this statement. Of a value that this process encrypted
//! in the client's statement terms are made whoever writes the row, since its plaintext was there; one that comes from
//! elsewhere is opened with the writer's own right, or refused. The context expression is the table owner's code: it
//! runs before anything is opened, with his rights, and only where the statement's own encryption has not told the
//! context. A column that is not encrypted yet has its values in the row.
//!
//! Rows that logical replication applies bring their terms along, since the publisher's trigger made them.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use colcrypt_core::{KeyVersion, Value};
use colcrypt_domain::context::{BYTES, over};
use colcrypt_domain::error::SearchError;
use colcrypt_domain::quote::quote_identifier;
use colcrypt_search::Kind;
use pgrx::{PgMemoryContexts, pg_sys};

use crate::catalog::epoch;
use crate::catalog::search::CompanionState;
use crate::columns::enforced;
use crate::columns::moved::{self, Address, Of};
use crate::columns::row_context::RowContext;
use crate::columns::search::column::{Registered, Source, companion_in, indexes_above};
use crate::columns::search::foreign_keys;
use crate::columns::search::making::Making;
use crate::columns::search::marked;
use crate::columns::search::opened::{Opener, Plain, Right};
use crate::error::{Error, Result};
use crate::server::call::Call;
use crate::server::departed::Place;
use crate::server::relation::{Held, Lock};
use crate::server::trigger::{self, Rows};
use crate::server::varlena::{Varlena, image_of, varlena_from};
use crate::server::xact::End;
use crate::server::{enclosure, roles, watched};
use crate::session::made::{self, Made, tag_of};
use crate::values::seal;

/// Rows that may be on their way from one partition to another are remembered, so many, with so many bytes of values: a
/// row is put into the other right after it was taken out.
const ON_THE_WAY: usize = 16;
const BYTES_ON_THE_WAY: usize = 16 << 20;

/// A value that is on its way, all of it: its last bytes may be put behind others.
type Whole = Vec<u8>;

/// The terms of one value, as stored; none where a companion has none yet.
type Terms = Vec<(Of, Option<Vec<u8>>)>;

/// A value that may be on its way.
struct Moving {
    from: Place,
    value: Whole,
    terms: Terms,
}

thread_local! {
    static KNOWN: RefCell<HashMap<pg_sys::Oid, Rc<KnownTable>>> = RefCell::default();
    static ON_THEIR_WAY: RefCell<VecDeque<Moving>> = const { RefCell::new(VecDeque::new()) };
}

/// What of a table is searched, until the catalog or the table changes.
struct KnownTable {
    oid: pg_sys::Oid,
    columns: Vec<Column>,
    owner: pg_sys::Oid,
    is_partition: bool,
    epoch: u64,
    generation: u64,
    /// Holds what the codecs looked up.
    _memory: PgMemoryContexts,
}

struct Column {
    number: i32,
    values: Values,
    companions: Vec<Kept>,
}

/// How its values are had.
enum Values {
    Sealed(Box<Sealed>),
    /// They are in the row: the column is not encrypted yet.
    Plain,
}

struct Sealed {
    opener: Box<Opener>,
    /// What values that come from elsewhere are bound to.
    context: Option<RowContext>,
    /// The columns that it is made of; none where the server computes one of them.
    bound_to: Option<Vec<i32>>,
}

struct Kept {
    number: i32,
    of: Of,
    version: KeyVersion,
    is_equality: bool,
    making: Making,
}

/// What becomes of a companion.
type Change = (i32, Option<pg_sys::Datum>);

fn known_table(relation: pg_sys::Relation) -> Result<Rc<KnownTable>> {
    let epoch = epoch::refresh(false);
    let generation = watched::generation();
    // SAFETY: the relation that the trigger was fired for.
    let oid = unsafe { (*relation).rd_id };
    let known = KNOWN.with_borrow(|known| known.get(&oid).cloned());
    if let Some(table) =
        known.filter(|table| table.epoch == epoch && table.generation == generation)
    {
        return Ok(table);
    }
    let held = Held::take(oid, Lock::Read)?;
    watched::watch([oid]);
    // SAFETY: a new context lies below the one that is current: this one outlives the statement.
    let memory = unsafe {
        PgMemoryContexts::TopMemoryContext.switch_to(|_| PgMemoryContexts::new("colcrypt terms"))
    };
    let mut columns: Vec<Column> = Vec::new();
    for index in indexes_above(oid)? {
        let Some(attribute) = held.attribute(&index.attribute) else {
            continue;
        };
        let number = i32::from(attribute.number);
        let Some(source) = Source::of(&held, attribute, memory.value())? else {
            continue;
        };
        let type_oid = source.type_oid();
        let at = match columns.iter().position(|column| column.number == number) {
            Some(at) => at,
            None => {
                let values = match source {
                    Source::Plain(_) => Values::Plain,
                    Source::Sealed(registered, opener) => {
                        watched::watch([registered.relation]);
                        Values::Sealed(Box::new(Sealed {
                            opener,
                            context: context_of(&held, relation, &registered)?,
                            bound_to: bound_to(&held, &registered, &index.attribute)?,
                        }))
                    }
                };
                columns.push(Column {
                    number,
                    values,
                    companions: Vec::new(),
                });
                columns.len() - 1
            }
        };
        let column = &mut columns[at];
        for companion in &index.companions {
            // One that is not there yet has nothing to be kept, nor has one that is about to go, but for what
            // rests on its values still.
            let place = companion_in(&held, index.kind, &companion.attribute);
            let Some(place) = place.filter(|_| companion.is_made) else {
                continue;
            };
            if companion.state == CompanionState::Retired
                && !foreign_keys::are_on(oid, place.number)?
            {
                continue;
            }
            column.companions.push(Kept {
                number: place.number.into(),
                of: Of {
                    index: index.id,
                    version: companion.version.int(),
                },
                version: companion.version,
                is_equality: index.kind == Kind::Equality,
                making: Making::new(&index, companion, type_oid)?,
            });
        }
    }
    let table = Rc::new(KnownTable {
        oid,
        columns,
        owner: held.owner,
        is_partition: held.is_partition(),
        epoch,
        generation,
        _memory: memory,
    });
    KNOWN.with_borrow_mut(|known| known.insert(oid, table.clone()));
    Ok(table)
}

/// The context of the table's rows.
fn context_of(
    held: &Held,
    relation: pg_sys::Relation,
    registered: &Registered,
) -> Result<Option<RowContext>> {
    let Some(expression) = &registered.context else {
        return Ok(None);
    };
    let above = Held::take(registered.relation, Lock::Read)?;
    let columns = held.attributes().iter().map(|column| {
        let name = quote_identifier(&column.name);
        format!("($1).{name} AS {name}")
    });
    let sql = over(
        expression,
        BYTES,
        &columns.collect::<Vec<_>>(),
        None,
        &quote_identifier(above.bare_name()),
    );
    // SAFETY: the relation that the trigger was fired for.
    Ok(Some(unsafe {
        RowContext::new(sql, (*relation).rd_att, above.owner)
    }))
}

/// The columns that the context of a table's rows is made of; none where the server computes one, or there is none.
fn bound_to(held: &Held, registered: &Registered, attribute: &str) -> Result<Option<Vec<i32>>> {
    let Some(expression) = &registered.context else {
        return Ok(None);
    };
    let bound = enforced::binding(held, registered.relation, attribute, expression)?;
    let is_computed = |number: i32| {
        let mut columns = held.attributes().iter();
        columns.any(|column| i32::from(column.number) == number && column.is_generated)
    };
    let numbers: Vec<i32> = bound.into_iter().map(|(number, _)| number).collect();
    let are_there = !numbers.iter().any(|number| is_computed(*number));
    Ok(are_there.then_some(numbers))
}

impl Column {
    fn keep(
        &self,
        table: &KnownTable,
        rows: &Rows,
        is_applied: bool,
        changes: &mut Vec<Change>,
    ) -> Result<()> {
        // A default gives what the publisher never saw.
        let is_applied = is_applied && !rows.has_default(self.number);
        let Some(stored) = rows.value(self.number) else {
            for companion in &self.companions {
                if rows.value(companion.number).is_some() {
                    changes.push((companion.number, None));
                }
            }
            return Ok(());
        };
        let is_kept = rows.keeps(self.number);
        let Values::Sealed(sealed) = &self.values else {
            return self.keep_plain(rows, stored, is_kept, is_applied, changes);
        };
        if is_kept && !table.is_partition {
            self.keep_former(rows, stored, changes);
            return Ok(());
        }
        // SAFETY: the column is a ciphertext.
        let bytes = unsafe { Varlena::from_datum(stored) };
        let value = Value::parse(bytes.bytes())?;
        let tag = tag_of(bytes.bytes());
        let made = tag.as_ref().and_then(made::made);
        if is_kept || self.is_of_former(rows, &made) {
            self.keep_former(rows, stored, changes);
            if let Some(old) = rows.old.filter(|_| table.is_partition) {
                // SAFETY: the row that the trigger was fired for.
                let from = unsafe { Place::of(table.oid, old) };
                self.remember(from, bytes.bytes().to_vec(), rows, changes);
            }
            return Ok(());
        }
        if is_applied {
            return self.keep_applied(sealed, rows, &value, changes);
        }
        if rows.old.is_none()
            && table.is_partition
            && self.put_remembered(bytes.bytes(), changes)?
        {
            return Ok(());
        }
        let plain = match made {
            Some(Made::Encrypted { role, context })
                if role == roles::current_user() || role == table.owner =>
            {
                sealed.refuse_another_rows(rows, &value, &context)?;
                sealed.opener.open(&value, &context, Right::Order)?
            }
            _ => sealed.brought(rows, &value, Right::Writer)?,
        };
        self.make(&value, &plain, changes)
    }

    /// A value that is not encrypted: whoever writes the row has it. A term that the row had stays with its value, but
    /// where somebody, the job that fills it for one, takes it out.
    fn keep_plain(
        &self,
        rows: &Rows,
        stored: pg_sys::Datum,
        is_kept: bool,
        is_applied: bool,
        changes: &mut Vec<Change>,
    ) -> Result<()> {
        if is_applied && self.terms_come(rows) {
            return Ok(());
        }
        for companion in &self.companions {
            let now = rows.value(companion.number);
            let former = rows
                .former(companion.number)
                .filter(|_| is_kept && now.is_some());
            let term = match former {
                Some(former) => former,
                // SAFETY: a value of the column's type, which the making is for.
                None => unsafe { companion.making.term_of(stored)? },
            };
            // SAFETY: companions are varlenas.
            let is_there = now.is_some_and(|now| unsafe { image_of(term) == image_of(now) });
            if !is_there {
                changes.push((companion.number, Some(term)));
            }
        }
        Ok(())
    }

    /// Whether each companion has a term that the row before had not, and that no default of this server's gave.
    fn terms_come(&self, rows: &Rows) -> bool {
        self.companions.iter().all(|companion| {
            rows.value(companion.number).is_some()
                && !rows.keeps(companion.number)
                && !rows.has_default(companion.number)
        })
    }

    fn make(&self, value: &Value<'_>, plain: &Plain, changes: &mut Vec<Change>) -> Result<()> {
        for companion in &self.companions {
            // SAFETY: the opener gives values of the type that the making is for.
            let term = unsafe { companion.making.term(plain)? };
            if companion.is_equality {
                // SAFETY: such a term is a bytea.
                unsafe {
                    marked::remember_written(companion.of.index, companion.version, value, term)?
                };
            }
            changes.push((companion.number, Some(term)));
        }
        Ok(())
    }

    /// Whether a value was only made anew of the one that the row had.
    fn is_of_former(&self, rows: &Rows, made: &Option<Made>) -> bool {
        let (Some(Made::Again { from }), Some(former)) = (made, rows.former(self.number)) else {
            return false;
        };
        // SAFETY: the column is a ciphertext.
        let former = unsafe { Varlena::from_datum(former) };
        tag_of(former.bytes()) == Some(*from)
    }

    /// The row keeps the terms that it has, or gets those which the job that is at it has made.
    fn keep_former(&self, rows: &Rows, stored: pg_sys::Datum, changes: &mut Vec<Change>) {
        for companion in &self.companions {
            let filled = rows.old.and_then(|old| {
                // SAFETY: a tuple with its address, and a value of a column that holds ciphertexts.
                unsafe {
                    let address = Address::of(&raw const (*old).t_self);
                    moved::look_up_term(companion.of, address, stored)
                }
            });
            let wanted = filled.or_else(|| rows.former(companion.number));
            let is_there = match (wanted, rows.value(companion.number)) {
                (None, None) => true,
                // SAFETY: companions are varlenas.
                (Some(wanted), Some(now)) => unsafe { image_of(wanted) == image_of(now) },
                _ => false,
            };
            if !is_there {
                changes.push((companion.number, wanted));
            }
        }
    }

    /// Terms that come by logical replication are the publisher's. Where none come, or those of the value before, they
    /// are made here: the publisher has asked who wrote it.
    fn keep_applied(
        &self,
        sealed: &Sealed,
        rows: &Rows,
        value: &Value<'_>,
        changes: &mut Vec<Change>,
    ) -> Result<()> {
        if self.terms_come(rows) {
            return Ok(());
        }
        let plain = sealed.brought(rows, value, Right::Order)?;
        self.make(value, &plain, changes)
    }

    /// Remembers the terms of a row that may be put into another partition next.
    fn remember(&self, from: Place, value: Whole, rows: &Rows, changes: &[Change]) {
        let terms = self.companions.iter().map(|companion| {
            let changed = changes
                .iter()
                .find(|(number, _)| *number == companion.number);
            let term = match changed {
                Some((_, term)) => *term,
                None => rows.value(companion.number),
            };
            // SAFETY: companions are varlenas.
            let bytes = term.map(|term| unsafe { Varlena::from_datum(term) }.bytes().to_vec());
            (companion.of, bytes)
        });
        let terms = terms.collect();
        ON_THEIR_WAY.with_borrow_mut(|rows| {
            let bytes =
                |rows: &VecDeque<Moving>| rows.iter().map(|row| row.value.len()).sum::<usize>();
            while rows.len() >= ON_THE_WAY || bytes(rows) > BYTES_ON_THE_WAY {
                rows.pop_front();
            }
            rows.push_back(Moving { from, value, terms });
        });
    }

    /// Gives a row the terms that it had in the partition which it comes from; whether it comes from one. It comes
    /// once, and only what has gone from there comes: of a value that stays whoever can write a row could make another.
    fn put_remembered(&self, value: &[u8], changes: &mut Vec<Change>) -> Result<bool> {
        let found = ON_THEIR_WAY.with_borrow_mut(|rows| {
            let is_it = |row: &Moving| row.value == value && row.from.has_departed();
            let at = rows.iter().rposition(is_it)?;
            rows.remove(at)
        });
        let Some(Moving { terms, .. }) = found else {
            return Ok(false);
        };
        let is_whole = self
            .companions
            .iter()
            .all(|companion| terms.iter().any(|(of, _)| *of == companion.of));
        if !is_whole {
            return Ok(false);
        }
        for companion in &self.companions {
            let term = terms.iter().find(|(of, _)| *of == companion.of);
            let term = term.and_then(|(_, term)| term.as_deref());
            changes.push((companion.number, term.map(varlena_from).transpose()?));
        }
        Ok(true)
    }
}

impl Sealed {
    /// The context of the row that is written; none where the value is bound to none, or the row's is NULL.
    fn context_of(&self, rows: &Rows, value: &Value<'_>) -> Result<Option<Vec<u8>>> {
        match &self.context {
            // SAFETY: a row of the table that the trigger was fired for.
            Some(context) if value.header.has_context => unsafe {
                context.of(rows.new, rows.descriptor)
            },
            _ => Ok(None),
        }
    }

    /// An upsert proposes a row, and updates another: a value that was encrypted for the one opens in the other for
    /// nobody. Of what the server computes later nothing is known.
    fn refuse_another_rows(&self, rows: &Rows, value: &Value<'_>, of: &[u8]) -> Result<()> {
        let (Some(context), Some(bound_to)) = (&self.context, &self.bound_to) else {
            return Ok(());
        };
        if rows.old.is_none() || !value.header.has_context {
            return Ok(());
        }
        // SAFETY: a row of the table that the trigger was fired for, with all that the context reads.
        let context = unsafe { context.of(rows.narrowed_to(bound_to), rows.descriptor)? };
        match context {
            Some(context) if context != of && !seal::is_opened_by(of, &context)? => {
                Err(SearchError::OfAnotherRow {
                    column: self.opener.shown.clone(),
                }
                .into())
            }
            _ => Ok(()),
        }
    }

    /// Opens a value that comes from elsewhere.
    fn brought(&self, rows: &Rows, value: &Value<'_>, right: Right) -> Result<Plain> {
        let context = match self.context_of(rows, value)? {
            Some(context) => context,
            None if self.context.is_some() && value.header.has_context => {
                return Err(Error::NullArgument("context"));
            }
            None => Vec::new(),
        };
        // From here on nothing runs but what is ours.
        self.opener
            .open(value, &context, right)
            .map_err(|error| match error {
                Error::KeyDenied { key, role, .. } => SearchError::Brought {
                    column: self.opener.shown.clone(),
                    key,
                    role,
                }
                .into(),
                other => other,
            })
    }
}

/// The trigger's function.
///
/// # Errors
/// For a value whose terms nobody here may make; of the keys.
pub fn keep_terms(call: Call) -> Result<pg_sys::Datum> {
    let misuse = || Error::InvalidParameter {
        message: "keep_terms is a trigger BEFORE INSERT OR UPDATE, for each row".into(),
        hint: "colcrypt.create_search_index makes it.".into(),
    };
    let (trigger, rows) = trigger::before_row(call).ok_or_else(misuse)?;
    let table = known_table(trigger.tg_relation)?;
    if table.columns.is_empty() {
        return Ok(pg_sys::Datum::from(rows.new));
    }
    // What another trigger puts there nobody would have looked at.
    if let Some(name) = trigger::later(trigger, &[c"keep_in_step"]) {
        return Err(SearchError::LaterTrigger {
            trigger: quote_identifier(name),
        }
        .into());
    }
    let is_applied = is_applied(trigger);
    let mut changes = Vec::new();
    for column in &table.columns {
        column.keep(&table, &rows, is_applied, &mut changes)?;
    }
    let new = match changes.is_empty() {
        true => rows.new,
        false => rows.with_all(&changes),
    };
    Ok(pg_sys::Datum::from(new))
}

/// Whether the row is as the publisher sent it, who has asked who wrote it: a superuser has subscribed to it, and no
/// code of anybody's has had it in hand. What a trigger or a function writes in the same process is that code's.
fn is_applied(trigger: &pg_sys::TriggerData) -> bool {
    // SAFETY: asks what this process is, and whom it was started for.
    let by_superuser =
        unsafe { pg_sys::IsLogicalWorker() && pg_sys::superuser_arg(pg_sys::GetSessionUserId()) };
    by_superuser && !enclosure::is_within_statement() && !trigger::is_after_others(trigger)
}

/// What was on its way stays there no longer than its transaction.
pub fn at_end(_end: End) {
    ON_THEIR_WAY.with_borrow_mut(VecDeque::clear);
}
