//! create_search_index and its relatives: who may order a search index, what it can be, and the order itself. The job does the rest.

use colcrypt_domain::error::SearchError;
use colcrypt_domain::quote::quote_identifier;
use colcrypt_domain::search::companion_name;
use colcrypt_search::{
    Class, Kind, Label, Pipeline, RangeSpec, TermBits, TextSpec, unicode_version,
};
use pgrx::{IntoDatum, pg_sys};

use crate::audit::Act;
use crate::catalog::read::{self, Key};
use crate::catalog::search;
use crate::catalog::uuid::uuid;
use crate::columns::migration::orders::refuse_second;
use crate::columns::registration::Under;
use crate::columns::search::catalog;
use crate::columns::search::ddl;
use crate::columns::search::term::class_of;
use crate::columns::{registered, registration, view};
use crate::error::{Error, Privilege, Result};
use crate::jobs::search::{Order, end_jobs, queue as queue_job, taken_names};
use crate::jobs::wake;
use crate::keys::approval;
use crate::rights;
use crate::rows::reach::{self, Elsewhere};
use crate::server::call::Call;
use crate::server::relation::{Held, Lock, Named};
use crate::server::varlena::varlena_from;
use crate::server::{reads, spi, types};

/// Letters of an n-gram, where nobody says otherwise.
const LETTERS: i32 = 3;

/// The verb's own words, as they come.
struct Asked {
    kind: Kind,
    key: Option<String>,
    normalise: Vec<String>,
    is_unique: bool,
    bits: Option<i32>,
    domain: Option<String>,
    granularity: Option<i32>,
    sparsity: Option<i32>,
    gram: Option<i32>,
}

impl Asked {
    fn of(call: Call) -> Result<Self> {
        let kind = call.text(2, "kind")?;
        // SAFETY: declared as text, text[], boolean and integers.
        unsafe {
            Ok(Self {
                kind: kind.parse().map_err(|unknown: colcrypt_search::UnknownKind| {
                    Error::InvalidParameter {
                        message: unknown.to_string(),
                        hint: "Say kind => 'equality' for =, IN and joins, 'range' for < and BETWEEN, 'text' for LIKE.".into(),
                    }
                })?,
                key: call.long(3, "key")?,
                normalise: names(call, 4)?,
                is_unique: call.get(5).unwrap_or_default(),
                bits: call.get(6),
                domain: call.long(7, "domain")?,
                granularity: call.get(8),
                sparsity: call.get(9),
                gram: call.get(10),
            })
        }
    }
}

/// A list of names; none for NULL.
///
/// # Safety
/// The argument is declared as text[].
unsafe fn names(call: Call, at: usize) -> Result<Vec<String>> {
    // SAFETY: the caller's promise.
    let listed = unsafe { call.long::<Vec<Option<String>>>(at, "normalise")? };
    listed
        .unwrap_or_default()
        .into_iter()
        .map(|name| name.ok_or(Error::NullArgument("a step of normalise")))
        .collect()
}

/// What the columns of a domain share.
struct Domain {
    id: pgrx::Uuid,
    key: Key,
    class: Class,
    normalise: Vec<String>,
    bits: i32,
}

fn domain(name: &str) -> Result<Domain> {
    let found = spi::query(
        "SELECT domain_id, key_id, class, normalise, bits FROM colcrypt.search_domain WHERE name = $1",
        &[name.into()],
        |row| {
            Ok((
                spi::at::<pgrx::Uuid>(row, 1)?,
                spi::at::<i64>(row, 2)?,
                spi::at::<String>(row, 3)?,
                spi::at::<Vec<String>>(row, 4)?,
                spi::at::<i32>(row, 5)?,
            ))
        },
    )?;
    let Some((id, key, class, normalise, bits)) = found.into_iter().next() else {
        return Err(Error::UnknownObject {
            what: "search domain",
            name: name.into(),
        });
    };
    Ok(Domain {
        id,
        key: read::key_by_id(colcrypt_core::KeyId::of_bigint(key))?,
        class: Class::parse(&class)
            .ok_or_else(|| Error::CatalogCorrupt(format!("{class:?} is no class of values")))?,
        normalise,
        bits,
    })
}

/// What is to be made, once it is known to be possible.
struct Plan {
    kind: Kind,
    class: Class,
    normalise: Vec<String>,
    key: Key,
    domain: Option<pgrx::Uuid>,
    bits: i32,
    is_unique: bool,
    range: Option<RangeSpec>,
    gram: Option<i32>,
}

/// A column, and what it is registered with.
struct Column {
    shown: String,
    plaintext_type: pg_sys::Oid,
    collation: Collation,
    under: Under,
}

/// How the column's texts compare.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Collation {
    /// Byte by byte.
    C,
    Deterministic,
    Nondeterministic,
}

impl Column {
    fn unfit(&self, why: impl ToString, hint: &str) -> Error {
        SearchError::Unfit {
            column: self.shown.clone(),
            why: why.to_string(),
            hint: hint.into(),
        }
        .into()
    }

    fn class(&self) -> Result<Class> {
        class_of(self.plaintext_type).ok_or_else(|| {
            let type_name = types::type_name(self.plaintext_type);
            // SAFETY: a look-up in the type catalog.
            let is_boolean =
                unsafe { pg_sys::getBaseType(self.plaintext_type) } == pg_sys::BOOLOID;
            match is_boolean {
                true => self.unfit(
                    "terms of a boolean would tell the values",
                    "Search it together with another column that narrows the rows.",
                ),
                false => self.unfit(
                    format!("nothing is known of how values of type {type_name} compare"),
                    "Values of numbers, texts, bytea, uuid, dates, times and intervals are found by terms.",
                ),
            }
        })
    }
}

fn column(table: pg_sys::Oid, attribute: &str, held: &Held) -> Result<Column> {
    let under = registration::managed(table, attribute)?;
    held.ciphertext_attribute(attribute)?;
    let found = spi::query(
        "SELECT p.plaintext_type::oid, \
             CASE WHEN c.oid IS NULL OR c.oid = 'pg_catalog.default'::regcollation \
                  THEN CASE WHEN d.datcollate IN ('C', 'POSIX') AND d.datlocprovider = 'c' THEN 'c' ELSE 'd' END \
                  WHEN NOT c.collisdeterministic THEN 'n' WHEN c.collname IN ('C', 'POSIX', 'ucs_basic') THEN 'c' ELSE 'd' END \
         FROM colcrypt.protected_column p JOIN pg_database d ON d.datname = current_database() \
         LEFT JOIN pg_type t ON t.oid = p.plaintext_type \
         LEFT JOIN pg_collation c ON c.oid = coalesce(to_regcollation(nullif(split_part(p.declared, ' COLLATE ', 2), '')), t.typcollation) \
         WHERE p.relation = $1::oid::regclass AND p.attribute = $2::text::name",
        &[table.into(), attribute.into()],
        |row| Ok((spi::at::<pg_sys::Oid>(row, 1)?, spi::at::<String>(row, 2)?)),
    )?;
    let Some((plaintext_type, collation)) = found.into_iter().next() else {
        return Err(registration::not_registered(table, attribute)?);
    };
    Ok(Column {
        shown: format!("{}.{}", held.shown(), quote_identifier(attribute)),
        plaintext_type,
        collation: match collation.as_str() {
            "c" => Collation::C,
            "n" => Collation::Nondeterministic,
            _ => Collation::Deterministic,
        },
        under,
    })
}

/// The search key that is meant: the one that is named, or the only one of the keyring.
fn search_key(asked: Option<&str>, under: &Under) -> Result<Key> {
    if let Some(name) = asked {
        return read::key_by_name(name);
    }
    let keyring = match under {
        Under::Key(key) => key.keyring,
        Under::Rows(keyring) => keyring.id,
    };
    let names = spi::query(
        "SELECT name FROM colcrypt.key WHERE keyring_id = $1 AND suite = 'hmac-sha-256' ORDER BY name LIMIT 2",
        &[uuid(keyring).into()],
        |row| spi::at::<String>(row, 1),
    )?;
    match &names[..] {
        [only] => read::key_by_name(only),
        [] => Err(Error::InvalidParameter {
            message: "the keyring has no search key".into(),
            hint: "Make one: colcrypt.create_key(name, keyring, 'hmac-sha-256').".into(),
        }),
        _ => Err(Error::InvalidParameter {
            message: "which of the keyring's search keys is meant is not told".into(),
            hint: "Say key => '…', or domain => '…'.".into(),
        }),
    }
}

/// What becomes of an order.
fn plan(asked: Asked, column: &Column) -> Result<Plan> {
    let class = column.class()?;
    let domain = asked.domain.as_deref().map(domain).transpose()?;
    if domain.is_some() && asked.kind != Kind::Equality {
        return Err(column.unfit("a search domain is for equality", "Leave domain out."));
    }
    let wrong = |what: &str| column.unfit(what, "Leave it out, or choose another search domain.");
    let key = match &domain {
        None => search_key(asked.key.as_deref(), &column.under)?,
        Some(domain) => {
            if asked
                .key
                .as_ref()
                .is_some_and(|key| *key != domain.key.name)
            {
                return Err(wrong("its search domain has another key"));
            }
            if !asked.normalise.is_empty() && asked.normalise != domain.normalise {
                return Err(wrong("its search domain has another normaliser"));
            }
            if asked.bits.is_some_and(|bits| bits != domain.bits) {
                return Err(wrong("its search domain has terms of another length"));
            }
            if class != domain.class {
                return Err(wrong(
                    "its values are of another class than its search domain's",
                ));
            }
            domain.key.clone()
        }
    };
    let normalise = match &domain {
        Some(domain) => domain.normalise.clone(),
        None => asked.normalise,
    };
    let full = i32::from(TermBits::FULL.get());
    let bits = match &domain {
        Some(domain) => domain.bits,
        None => asked.bits.unwrap_or(full),
    };
    check_collation(asked.kind, class, column)?;
    check_label(asked.kind, class, &normalise, bits, column)?;
    if asked.kind != Kind::Equality && (asked.is_unique || asked.bits.is_some()) {
        return Err(column.unfit(
            format!(
                "kind {} has neither uniqueness nor a length of terms",
                asked.kind
            ),
            "Make an equality index for it, beside this one.",
        ));
    }
    if asked.is_unique && bits != full {
        return Err(column.unfit(
            "truncated terms are the same of values that differ",
            "A unique index needs terms of full length: leave bits out.",
        ));
    }
    let range = (asked.kind == Kind::Range)
        .then(|| range_spec(class, asked.granularity, asked.sparsity, column))
        .transpose()?;
    let gram = (asked.kind == Kind::Text)
        .then(|| letters(asked.gram, &normalise, column))
        .transpose()?;
    Ok(Plan {
        kind: asked.kind,
        class,
        normalise,
        key,
        domain: domain.map(|domain| domain.id),
        bits,
        is_unique: asked.is_unique,
        range,
        gram,
    })
}

fn check_collation(kind: Kind, class: Class, column: &Column) -> Result<()> {
    if !class.is_text() {
        return Ok(());
    }
    if column.collation == Collation::Nondeterministic {
        return Err(column.unfit(
            "texts of a nondeterministic collation are equal that have other letters",
            "Use a deterministic collation with a normaliser: normalise => '{nfkc,casefold}'.",
        ));
    }
    if kind == Kind::Range && column.collation != Collation::C {
        return Err(column.unfit(
            "a range of texts is one of collation \"C\", which the column does not have",
            "Encrypt a column that is declared with COLLATE \"C\", or search by patterns: kind => 'text'.",
        ));
    }
    Ok(())
}

fn check_label(
    kind: Kind,
    class: Class,
    normalise: &[String],
    bits: i32,
    column: &Column,
) -> Result<()> {
    const HINT: &str = "The steps are nfkc, casefold, unaccent, trim, digits, alnum and email, for texts: see docs/search.md.";
    let pipeline = Pipeline::parse(normalise).map_err(|why| column.unfit(why, HINT))?;
    Label::new([0; 16], kind, class, pipeline, Pipeline::VERSION)
        .map_err(|why| column.unfit(why, HINT))?;
    u16::try_from(bits)
        .ok()
        .and_then(|bits| TermBits::new(bits).ok())
        .ok_or_else(|| {
            column.unfit(format!("terms of {bits} bits"), "A term has 8 to 256 bits.")
        })?;
    Ok(())
}

fn range_spec(
    class: Class,
    granularity: Option<i32>,
    sparsity: Option<i32>,
    column: &Column,
) -> Result<RangeSpec> {
    // SAFETY: a look-up in the type catalog.
    let base = unsafe { pg_sys::getBaseType(column.plaintext_type) };
    let usual = match base {
        pg_sys::INT2OID | pg_sys::INT4OID => RangeSpec::for_int4(),
        _ => RangeSpec::for_class(class),
    };
    if granularity.is_none() && sparsity.is_none() {
        return Ok(usual);
    }
    const HINT: &str = "granularity is the low bits of a value that are dropped, 0 to 63; sparsity the bits from one level to the next, 1 to 8.";
    let small = |number: i32| {
        u8::try_from(number).map_err(|_| column.unfit(format!("{number} bits"), HINT))
    };
    let granularity = granularity
        .map(small)
        .transpose()?
        .unwrap_or(usual.granularity());
    let sparsity = sparsity.map(small).transpose()?.unwrap_or(usual.sparsity());
    // As many bits as it has otherwise.
    let bits = usual.granularity() + usual.sparsity() * usual.levels();
    let levels = bits.saturating_sub(granularity).div_ceil(sparsity.max(1));
    let levels = match u32::from(granularity) + u32::from(sparsity) * u32::from(levels) {
        more if more > 64 => levels - 1,
        _ => levels,
    };
    RangeSpec::new(class, granularity, sparsity, levels).map_err(|why| column.unfit(why, HINT))
}

fn letters(asked: Option<i32>, normalise: &[String], column: &Column) -> Result<i32> {
    let letters = asked.unwrap_or(LETTERS);
    const HINT: &str = "Say gram => 2, 3, 4 or 5.";
    let pipeline = Pipeline::parse(normalise).map_err(|why| column.unfit(why, HINT))?;
    u8::try_from(letters)
        .map_err(|_| column.unfit(format!("grams of {letters} letters"), HINT))
        .and_then(|letters| {
            TextSpec::new(letters, &pipeline).map_err(|why| column.unfit(why, HINT))
        })?;
    Ok(letters)
}

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
fn refuse_way_out(under: &Under, key: &Key) -> Result<()> {
    let keyring = match under {
        Under::Key(key) => key.keyring,
        Under::Rows(keyring) => keyring.id,
    };
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
    let held = Held::take(table, Lock::Read)?;
    let asked = Asked::of(call)?;
    let column = column(table, &attribute, &held)?;
    refuse_second(table)?;
    if search::index_of(table, &attribute, asked.kind)?.is_some() {
        return Err(Error::Duplicate {
            what: "search index",
            name: format!("{} of kind {}", column.shown, asked.kind),
        });
    }
    check_table(table, &held, asked.is_unique)?;
    refuse_whole_row(table)?;
    let plan = plan(asked, &column)?;
    if plan.key.suite.purpose() != colcrypt_core::suite::Purpose::Search {
        return Err(Error::InvalidParameter {
            message: format!("key \"{}\" is no search key", plan.key.name),
            hint: "Make one: colcrypt.create_key(name, keyring, 'hmac-sha-256').".into(),
        });
    }
    rights::require(&plan.key, Privilege::Manage)?;
    refuse_way_out(&column.under, &plan.key)?;
    let job = queue(table, &attribute, &plan)?;
    Act::new("create_search_index")
        .key(&plan.key)
        .relation(table)
        .detail(format!("job {job}: {attribute}, {}", described(&plan)))
        .record()?;
    Ok(job.into_datum().expect("a number has a datum"))
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
        drops: false,
        remakes: false,
    })
}

pub fn drop_search_index(call: Call) -> Result<pg_sys::Datum> {
    let (relation, attribute) = registered::target(call)?;
    let table = view::table_behind(relation)?;
    let under = registration::managed(table, &attribute)?;
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
    catalog::retire(index.id)?;
    end_jobs(index.id, "the search index was dropped")?;
    let Some(first) = index.companions.first() else {
        catalog::forget(&index, &[])?;
        return Ok(call.null());
    };
    let job = queue_job(&Order {
        relation: table,
        attribute: &attribute,
        companion: &first.attribute,
        key: index.key.bigint(),
        version: first.version.int(),
        index: index.id,
        drops: true,
        remakes: false,
    })?;
    wake::wake_at_commit();
    under
        .act("drop_search_index")
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
        under: Under::Key(key.clone()),
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
