//! What a search index can be: what is asked for, and what the column and its search domain say to it.

use colcrypt_domain::error::SearchError;
use colcrypt_domain::quote::quote_identifier;
use colcrypt_search::{Class, Kind, Label, Pipeline, RangeSpec, TermBits, TextSpec};
use pgrx::pg_sys;

use crate::catalog::read::{self, Key};
use crate::catalog::uuid::uuid;
use crate::columns::registration::{self, Under};
use crate::columns::search::term::class_of;
use crate::error::{Error, Result};
use crate::server::call::Call;
use crate::server::relation::Held;
use crate::server::{spi, types};

/// Letters of an n-gram, where nobody says otherwise.
const LETTERS: i32 = 3;

/// The verb's own words, as they come.
pub struct Asked {
    pub kind: Kind,
    key: Option<String>,
    normalise: Vec<String>,
    pub is_unique: bool,
    bits: Option<i32>,
    domain: Option<String>,
    granularity: Option<i32>,
    sparsity: Option<i32>,
    gram: Option<i32>,
}

impl Asked {
    /// # Errors
    /// For no such kind.
    pub fn of(call: Call) -> Result<Self> {
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

impl Asked {
    /// An index of equality that takes the place of another on a column that is to be encrypted.
    pub fn in_place_of_another(key: &str, is_unique: bool) -> Self {
        Self {
            kind: Kind::Equality,
            key: Some(key.into()),
            normalise: Vec::new(),
            is_unique,
            bits: None,
            domain: None,
            granularity: None,
            sparsity: None,
            gram: None,
        }
    }
}

/// A list of names; none for NULL.
///
/// # Safety
/// The argument is declared as text[].
///
/// # Errors
/// For a name that is NULL.
pub unsafe fn names(call: Call, at: usize) -> Result<Vec<String>> {
    // SAFETY: the caller's promise.
    let listed = unsafe { call.long::<Vec<Option<String>>>(at, "normalise")? };
    listed
        .unwrap_or_default()
        .into_iter()
        .map(|name| name.ok_or(Error::NullArgument("a step of normalise")))
        .collect()
}

/// What the columns of a domain share.
pub struct Domain {
    pub id: pgrx::Uuid,
    pub key: Key,
    class: Class,
    normalise: Vec<String>,
    bits: i32,
}

/// # Errors
/// For a name that no search domain has.
pub fn domain(name: &str) -> Result<Domain> {
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
pub struct Plan {
    pub kind: Kind,
    pub class: Class,
    pub normalise: Vec<String>,
    pub key: Key,
    pub domain: Option<pgrx::Uuid>,
    pub bits: i32,
    pub is_unique: bool,
    pub range: Option<RangeSpec>,
    pub gram: Option<i32>,
}

/// A column, and what it is registered with.
pub struct Column {
    pub shown: String,
    pub plaintext_type: pg_sys::Oid,
    pub collation: Collation,
    /// None of a column that is not encrypted yet.
    pub under: Option<Under>,
}

/// How the column's texts compare.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Collation {
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

    /// What the column's values are compared as.
    ///
    /// # Errors
    /// For a type that is not searched by terms.
    pub fn class(&self) -> Result<Class> {
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

/// How texts compare under the collation `c` in the database `d`, as SQL.
const COMPARED: &str = "CASE WHEN c.oid IS NULL OR c.oid = 'pg_catalog.default'::regcollation \
     THEN CASE WHEN d.datcollate IN ('C', 'POSIX') AND d.datlocprovider = 'c' THEN 'c' ELSE 'd' END \
     WHEN NOT c.collisdeterministic THEN 'n' WHEN c.collname IN ('C', 'POSIX', 'ucs_basic') THEN 'c' ELSE 'd' END";

/// What a registered column is registered with, as SQL.
const REGISTERED: &str = "FROM colcrypt.protected_column p JOIN pg_database d ON d.datname = current_database() \
     LEFT JOIN pg_type t ON t.oid = p.plaintext_type \
     LEFT JOIN pg_collation c ON c.oid = coalesce(to_regcollation(nullif(split_part(p.declared, ' COLLATE ', 2), '')), t.typcollation) \
     WHERE p.relation = $1::oid::regclass AND p.attribute = $2::text::name";

/// A column that is not encrypted yet, as SQL.
const PLAIN: &str = "FROM pg_attribute p JOIN pg_database d ON d.datname = current_database() \
     LEFT JOIN pg_collation c ON c.oid = p.attcollation \
     WHERE p.attrelid = $1 AND p.attname = $2::text::name AND p.attnum > 0 AND NOT p.attisdropped";

/// A column, for whoever may manage what it is under; one that is not encrypted yet, for its owner.
///
/// # Errors
/// For others, for a column that is encrypted and not registered, and for one that the server computes.
pub fn column(table: pg_sys::Oid, attribute: &str, held: &Held) -> Result<Column> {
    let shown = format!("{}.{}", held.shown(), quote_identifier(attribute));
    let is_plain = held
        .attribute(attribute)
        .is_some_and(|attribute| !attribute.holds_ciphertext());
    let (under, selected) = if is_plain {
        registration::refuse_foreign_table(table)?;
        refuse_computed(table, attribute, &shown)?;
        (None, format!("SELECT p.atttypid, {COMPARED} {PLAIN}"))
    } else {
        let under = registration::managed(table, attribute)?;
        held.ciphertext_attribute(attribute)?;
        let selected = format!("SELECT p.plaintext_type::oid, {COMPARED} {REGISTERED}");
        (Some(under), selected)
    };
    let found = spi::query(&selected, &[table.into(), attribute.into()], |row| {
        Ok((spi::at::<pg_sys::Oid>(row, 1)?, spi::at::<String>(row, 2)?))
    })?;
    let Some((plaintext_type, collation)) = found.into_iter().next() else {
        return Err(registration::not_registered(table, attribute)?);
    };
    Ok(Column {
        shown,
        plaintext_type,
        collation: match collation.as_str() {
            "c" => Collation::C,
            "n" => Collation::Nondeterministic,
            _ => Collation::Deterministic,
        },
        under,
    })
}

/// Triggers before a row is written do not see what the server computes afterwards.
fn refuse_computed(table: pg_sys::Oid, attribute: &str, shown: &str) -> Result<()> {
    let found = spi::query(
        "SELECT attgenerated <> '' FROM pg_attribute WHERE attrelid = $1 AND attname = $2::text::name AND NOT attisdropped",
        &[table.into(), attribute.into()],
        |row| spi::at::<bool>(row, 1),
    )?;
    match found.first() {
        Some(true) => Err(Error::Column {
            message: format!("column {shown} is generated from others"),
            hint: "Such a column cannot be encrypted.".into(),
        }),
        _ => Ok(()),
    }
}

/// The search key that is meant: the one that is named, or the only one of the keyring.
fn search_key(asked: Option<&str>, under: Option<&Under>) -> Result<Key> {
    if let Some(name) = asked {
        return read::key_by_name(name);
    }
    let keyring = match under {
        Some(Under::Key(key)) => key.keyring,
        Some(Under::Rows(keyring)) => keyring.id,
        None => {
            return Err(Error::InvalidParameter {
                message: "the column is not encrypted yet, so no keyring tells its search key".into(),
                hint: "Say key => '…', or domain => '…'; or have encrypt_column make it: search_key => '…'.".into(),
            });
        }
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
///
/// # Errors
/// Where the column cannot have such an index.
pub fn plan(asked: Asked, column: &Column) -> Result<Plan> {
    let class = column.class()?;
    let domain = asked.domain.as_deref().map(domain).transpose()?;
    if domain.is_some() && asked.kind != Kind::Equality {
        return Err(column.unfit("a search domain is for equality", "Leave domain out."));
    }
    let wrong = |what: &str| column.unfit(what, "Leave it out, or choose another search domain.");
    let key = match &domain {
        None => search_key(asked.key.as_deref(), column.under.as_ref())?,
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
    if asked.kind != Kind::Range && (asked.granularity.is_some() || asked.sparsity.is_some()) {
        return Err(column.unfit(
            format!("kind {} has no intervals", asked.kind),
            "granularity and sparsity are of kind range: leave them out.",
        ));
    }
    if asked.kind != Kind::Text && asked.gram.is_some() {
        return Err(column.unfit(
            format!("kind {} has no n-grams", asked.kind),
            "gram is of kind text: leave it out.",
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
            "Encrypt a column that is declared with COLLATE \"C\", or register it with a domain over text that is (CREATE DOMAIN … COLLATE \"C\"), or search by patterns: kind => 'text'.",
        ));
    }
    Ok(())
}

/// # Errors
/// Where kind, class, normaliser and length do not go together.
pub fn check_label(
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
        more if more > 64 => levels.saturating_sub(1),
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
