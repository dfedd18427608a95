//! create_search_index and its relatives: who may order a search index, what it can be, and the order itself. The job
//! does the rest.

use colcrypt_core::KeyringId;
use colcrypt_domain::quote::quote_identifier;
use colcrypt_domain::search::companion_name;
use colcrypt_search::{Kind, Pipeline, RangeSpec, TermBits, unicode_version};
use pgrx::{IntoDatum, pg_sys};

use crate::audit::Act;
use crate::catalog::read::{self, Key};
use crate::catalog::search::{self, CompanionState, SearchIndex};
use crate::columns::migration::refuse_second;
use crate::columns::registration::Under;
use crate::columns::search::catalog;
use crate::columns::search::wanted::{
    Asked, Collation, Column, Plan, check_label, column, domain, names, plan,
};
use crate::columns::search::work::order_on;
use crate::columns::search::{ddl, foreign_keys};
use crate::columns::{registered, registration, view};
use crate::error::{Error, Privilege, Result};
use crate::jobs::search::{Order, Task, end_jobs, queue as queue_job, queue_rotation, taken_names};
use crate::jobs::wake;
use crate::keys::approval;
use crate::rights;
use crate::rows::reach::{self, Elsewhere};
use crate::server::call::Call;
use crate::server::relation::{Held, Lock, Named};
use crate::server::varlena::varlena_from;
use crate::server::{reads, spi, types};

/// Refuses a table of which not every row is one that the trigger and the job get at.
fn check_table(table: pg_sys::Oid, held: &Held, is_unique: bool) -> Result<()> {
    if held.is_temporary() {
        return Err(Error::TemporaryTable {
            table: held.shown(),
        });
    }
    let unlogged = spi::query(
        &format!(
            "{} SELECT c.oid::regclass::text FROM tree t JOIN pg_class c ON c.oid = t.relid WHERE c.relpersistence <> 'p' LIMIT 1",
            crate::columns::migration::tree::TREE
        ),
        &[table.into()],
        |row| spi::at::<String>(row, 1),
    )?;
    if let Some(name) = unlogged.first() {
        return Err(Error::Column {
            message: format!("table {name} is unlogged"),
            hint: "After a crash it is empty, and so is every copy: search its values by a scan, or make it logged.".into(),
        });
    }
    reach::all_leaves(&[table], Elsewhere::Refused)?;
    if is_unique && ddl::members(table)?.len() > 1 {
        return Err(Error::Column {
            message: format!(
                "uniqueness would hold in each part of table {} alone",
                held.shown()
            ),
            hint: "A unique search index needs a table without partitions and children.".into(),
        });
    }
    Ok(())
}

/// A companion would be a part of what values are bound to that are bound to the whole row.
fn refuse_whole_row(table: pg_sys::Oid) -> Result<()> {
    let contexts = spi::query(
        "SELECT attribute::text, context FROM colcrypt.protected_column WHERE relation = $1::oid::regclass AND context IS NOT NULL",
        &[table.into()],
        |row| Ok((spi::at::<String>(row, 1)?, spi::at::<String>(row, 2)?)),
    )?;
    for (attribute, context) in contexts {
        let named = Named::take(table, Lock::Read)?;
        if reads::columns(&named, &context)?.is_none_or(|numbers| numbers.contains(&0)) {
            return Err(Error::Column {
                message: format!(
                    "values of column {}.{} are bound to the whole row, which a column for terms would change",
                    named.held.shown(),
                    quote_identifier(&attribute)
                ),
                hint: "Bind them to columns that are named: colcrypt.rebind_column.".into(),
            });
        }
    }
    Ok(())
}

/// On a keyring with four eyes grants wait for a second role; so must those of who may look up.
fn refuse_way_out(keyring: KeyringId, key: &Key) -> Result<()> {
    if approval::hold_rule(keyring)? && !approval::hold_rule(key.keyring)? {
        return Err(Error::InvalidParameter {
            message: format!(
                "the column's keyring asks for four eyes, and that of search key \"{}\" does not",
                key.name
            ),
            hint: "Whoever may search by it could ask which rows hold a value. Take a search key of a keyring with four eyes.".into(),
        });
    }
    Ok(())
}

pub fn create_search_index(call: Call) -> Result<pg_sys::Datum> {
    let (relation, attribute) = registered::target(call)?;
    let table = view::table_behind(relation)?;
    let job = order(table, &attribute, Asked::of(call)?)?;
    Ok(job.into_datum().expect("a number has a datum"))
}

/// Orders a search index; its job.
///
/// # Errors
/// For who may not, and where the column cannot have it.
pub fn order(table: pg_sys::Oid, attribute: &str, asked: Asked) -> Result<i64> {
    let held = Held::take(table, Lock::Read)?;
    let column = column(table, attribute, &held)?;
    refuse_second(table)?;
    if let Some(index) = search::index_of(table, attribute, asked.kind)? {
        if let Some(job) = taken_up(&index)? {
            return Ok(job);
        }
        return Err(Error::Duplicate {
            what: "search index",
            name: format!("{} of kind {}", column.shown, asked.kind),
        });
    }
    let plan = fitting(table, &held, &column, asked)?;
    let job = queue(table, attribute, &plan)?;
    Act::new("create_search_index")
        .key(&plan.key)
        .relation(table)
        .detail(format!("job {job}: {attribute}, {}", described(&plan)))
        .record()?;
    Ok(job)
}

/// Why [`order`] would refuse one that is not there yet, if it would.
///
/// # Errors
/// Of the table.
pub fn why_unfit(table: pg_sys::Oid, attribute: &str, asked: Asked) -> Result<Option<String>> {
    let held = Held::take(table, Lock::Read)?;
    let fits =
        column(table, attribute, &held).and_then(|column| fitting(table, &held, &column, asked));
    Ok(fits.err().map(|error| error.report().message))
}

/// What is made of an order by somebody who may give it, for a column that can have it.
fn fitting(table: pg_sys::Oid, held: &Held, column: &Column, asked: Asked) -> Result<Plan> {
    check_table(table, held, asked.is_unique)?;
    refuse_whole_row(table)?;
    let plan = plan(asked, column)?;
    if plan.key.suite.purpose() != colcrypt_core::suite::Purpose::Search {
        return Err(Error::InvalidParameter {
            message: format!("key \"{}\" is no search key", plan.key.name),
            hint: "Make one: colcrypt.create_key(name, keyring, 'hmac-sha-256').".into(),
        });
    }
    rights::require(&plan.key, Privilege::Manage)?;
    if let Some(under) = &column.under {
        let keyring = match under {
            Under::Key(key) => key.keyring,
            Under::Rows(keyring) => keyring.id,
        };
        refuse_way_out(keyring, &plan.key)?;
    }
    Ok(plan)
}

/// Refuses a search index of a column that is to be encrypted with this key, where [`order`] would have refused it of
/// one that is.
///
/// # Errors
/// As [`order`].
pub fn refuse_ways_out(table: pg_sys::Oid, attribute: &str, key: &Key) -> Result<()> {
    for index in search::indexes_of(table)?.iter() {
        if index.attribute == attribute {
            refuse_way_out(key.keyring, &read::key_by_id(index.key)?)?;
        }
    }
    Ok(())
}

/// Who may have a search index go: the table's owner who may manage what the column is under, or the search key where
/// the column is not encrypted yet. The key to tell in the record.
fn may_drop(index: &SearchIndex) -> Result<Key> {
    let held = Held::take(index.relation, Lock::Read)?;
    let is_plain = held
        .attribute(&index.attribute)
        .is_some_and(|attribute| !attribute.holds_ciphertext());
    let search_key = read::key_by_id(index.key)?;
    if is_plain {
        registration::refuse_foreign_table(index.relation)?;
        rights::require(&search_key, Privilege::Manage)?;
        return Ok(search_key);
    }
    match registration::managed(index.relation, &index.attribute)? {
        Under::Key(key) => Ok(key),
        Under::Rows(_) => Ok(search_key),
    }
}

/// The job of one that was being made when its database was dumped, where it is a copy's: jobs are not in a dump.
fn taken_up(index: &SearchIndex) -> Result<Option<i64>> {
    if index.awaits_order {
        return ordered(index);
    }
    let is_used = index.usable().is_some();
    let building = index
        .companions
        .iter()
        .find(|companion| companion.state == CompanionState::Building);
    let Some(companion) = building.filter(|_| !is_used) else {
        return Ok(None);
    };
    let jobs = spi::query(
        "SELECT 1 FROM colcrypt.search_job WHERE search_index_id = $1",
        &[pgrx::Uuid::from_bytes(index.id).into()],
        |row| row.get::<i32>(1),
    )?;
    if !jobs.is_empty() {
        return Ok(None);
    }
    wake::wake_at_commit();
    // Of one that was in use somebody had found that its terms are those of other rows.
    let task = match companion.has_been_ready {
        true => Task::Remake,
        false => Task::Make,
    };
    let job = queue_job(&order_on(index, companion, task))?;
    Ok(Some(job))
}

/// The first job of one for whose rows nobody answered: whoever manages the keys does. What was rotated meanwhile
/// follows.
fn ordered(index: &SearchIndex) -> Result<Option<i64>> {
    let key = read::key_by_id(index.key)?;
    rights::require(&key, Privilege::Manage)?;
    catalog::note_ordered(index)?;
    let mut job = None;
    for companion in &index.companions {
        if companion.state != CompanionState::Retired {
            let queued = queue_job(&order_on(index, companion, Task::Remake))?;
            job = job.or(Some(queued));
        }
    }
    queue_rotation(key.id.bigint(), key.current.int())?;
    wake::wake_at_commit();
    Act::new("create_search_index")
        .key(&key)
        .relation(index.relation)
        .detail(format!(
            "{}, {}: terms are made anew",
            index.attribute, index.kind
        ))
        .record()?;
    Ok(job)
}

/// What the record has of an index.
fn described(plan: &Plan) -> String {
    let mut said = plan.kind.to_string();
    if plan.is_unique {
        said.push_str(", unique");
    }
    if !plan.normalise.is_empty() {
        said.push_str(&format!(", normalised: {}", plan.normalise.join(", ")));
    }
    if plan.kind == Kind::Equality && plan.bits != i32::from(TermBits::FULL.get()) {
        said.push_str(&format!(", {} bits", plan.bits));
    }
    said
}

fn queue(table: pg_sys::Oid, attribute: &str, plan: &Plan) -> Result<i64> {
    let companion = companion_name(attribute, ddl::form(plan.kind), &taken_names(table)?);
    let range = plan.range;
    let number = |of: fn(RangeSpec) -> u8| range.map(|range| i32::from(of(range)));
    let made = spi::query(
        "WITH made AS (INSERT INTO colcrypt.search_index (relation, attribute, kind, class, normalise, normaliser_version, unicode_version, \
             key_id, domain_id, bits, is_unique, granularity, sparsity, levels, gram) \
             VALUES ($1::oid::regclass, $2::text::name, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) RETURNING search_index_id) \
         INSERT INTO colcrypt.search_companion (search_index_id, key_version, attribute) \
         SELECT search_index_id, $16, $17::text::name FROM made RETURNING search_index_id",
        &[
            table.into(),
            attribute.into(),
            plan.kind.name().into(),
            plan.class.name().into(),
            plan.normalise.clone().into(),
            i32::from(Pipeline::VERSION).into(),
            unicode_version().into(),
            plan.key.id.bigint().into(),
            plan.domain.into(),
            plan.bits.into(),
            plan.is_unique.into(),
            number(RangeSpec::granularity).into(),
            number(RangeSpec::sparsity).into(),
            number(RangeSpec::levels).into(),
            plan.gram.into(),
            plan.key.current.int().into(),
            companion.clone().into(),
        ],
        |row| spi::at::<pgrx::Uuid>(row, 1),
    )?;
    let index = made
        .into_iter()
        .next()
        .ok_or_else(|| Error::CatalogCorrupt("a search index was not made".into()))?;
    wake::wake_at_commit();
    queue_job(&Order {
        relation: table,
        attribute,
        companion: &companion,
        key: plan.key.id.bigint(),
        version: plan.key.current.int(),
        index: *index.as_bytes(),
        task: Task::Make,
    })
}

pub fn drop_search_index(call: Call) -> Result<pg_sys::Datum> {
    let (relation, attribute) = registered::target(call)?;
    let table = view::table_behind(relation)?;
    let name = call.text(2, "kind")?;
    let found = match name.parse() {
        Ok(kind) => search::index_of(table, &attribute, kind)?,
        Err(_) => None,
    };
    let Some(index) = found else {
        return Err(Error::UnknownObject {
            what: "search index",
            name: format!("of kind {name} of column {}", quote_identifier(&attribute)),
        });
    };
    let key = may_drop(&index)?;
    foreign_keys::refuse_tied(&index)?;
    catalog::retire(index.id)?;
    end_jobs(index.id, None, "the search index was dropped")?;
    let Some(first) = index.companions.first() else {
        catalog::forget(&index, &[])?;
        return Ok(call.null());
    };
    let job = queue_job(&order_on(&index, first, Task::Drop))?;
    wake::wake_at_commit();
    Act::new("drop_search_index")
        .key(&key)
        .relation(table)
        .detail(format!("job {job}: {attribute}, {}", index.kind))
        .record()?;
    Ok(job.into_datum().expect("a number has a datum"))
}

pub fn create_search_domain(call: Call) -> Result<pg_sys::Datum> {
    let name = call.text(0, "name")?;
    let key = read::key_by_name(&call.text(1, "key")?)?;
    rights::require(&key, Privilege::Manage)?;
    crate::keys::names::refuse_bad_name("search domain", &name)?;
    key.require(colcrypt_core::suite::Purpose::Search)?;
    // SAFETY: declared as text[] and integer.
    let (normalise, bits) = unsafe {
        (
            names(call, 2)?,
            call.get::<i32>(4)
                .unwrap_or(i32::from(TermBits::FULL.get())),
        )
    };
    let (plaintext_type, _) = types::with_length(&call.text(3, "plaintext_type")?)?;
    let domain = Column {
        shown: format!("of search domain {name}"),
        plaintext_type,
        collation: Collation::Deterministic,
        under: None,
    };
    let class = domain.class()?;
    check_label(Kind::Equality, class, &normalise, bits, &domain)?;
    let made = spi::query(
        "INSERT INTO colcrypt.search_domain (name, key_id, class, normalise, normaliser_version, unicode_version, bits) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (name) DO NOTHING RETURNING domain_id",
        &[
            name.clone().into(),
            key.id.bigint().into(),
            class.name().into(),
            normalise.into(),
            i32::from(Pipeline::VERSION).into(),
            unicode_version().into(),
            bits.into(),
        ],
        |row| spi::at::<pgrx::Uuid>(row, 1),
    )?;
    let Some(id) = made.into_iter().next() else {
        return Err(Error::Duplicate {
            what: "search domain",
            name,
        });
    };
    Act::new("create_search_domain")
        .key(&key)
        .detail(name)
        .record()?;
    Ok(id.into_datum().expect("a uuid has a datum"))
}

pub fn drop_search_domain(call: Call) -> Result<pg_sys::Datum> {
    let name = call.text(0, "name")?;
    let domain = domain(&name)?;
    rights::require(&domain.key, Privilege::Manage)?;
    let used = spi::query(
        "SELECT string_agg(format('column %s of %s', attribute, relation), ', ' ORDER BY attribute) \
         FROM colcrypt.search_index WHERE domain_id = $1",
        &[domain.id.into()],
        |row| row.get::<String>(1),
    )?;
    if let Some(by) = used.into_iter().flatten().next() {
        return Err(Error::Needed {
            what: "search domain",
            name,
            by,
            hint: "Drop their search indexes first (drop_search_index).".into(),
        });
    }
    spi::execute(
        "DELETE FROM colcrypt.search_domain WHERE domain_id = $1",
        &[domain.id.into()],
    )?;
    Act::new("drop_search_domain")
        .key(&domain.key)
        .detail(name)
        .record()?;
    varlena_from(b"dropped")
}
