//! What search indexes tell: of one that is planned, by a sample of the column; of those that there are, by their terms
//! alone, as whoever has the disk could count them.

use colcrypt_domain::quote::quote_identifier;
use colcrypt_search::leakage::{self, GramOccurrences, Occurrences, Sample, Verdict, WARN_PERCENT};
use colcrypt_search::{Class, Kind, Label, Pipeline, RangeSpec, TermBits, TextSpec, Value, told};
use pgrx::pg_sys;
use zeroize::Zeroizing;

use crate::catalog::search::{self, SearchIndex};
use crate::columns::search::column::{self, companion_in};
use crate::columns::search::lookups::elements;
use crate::columns::search::sampled::{self, Sampled};
use crate::columns::search::term::class_of;
use crate::columns::{registered, registration};
use crate::error::{Error, Result};
use crate::rows::reach::{self, Elsewhere};
use crate::server::call::Call;
use crate::server::record::{Record, return_set};
use crate::server::relation::{self, Held, Lock};
use crate::server::sorted::Sorted;
use crate::server::varlena::Varlena;
use crate::server::{report, scan, spi, types};

/// Lengths of terms that are shown, beside the full one and those that are recommended.
const SHOWN: [u16; 7] = [8, 12, 16, 20, 24, 28, 32];

/// What is told, line by line.
#[derive(Default)]
struct Lines(Vec<Record>);

impl Lines {
    fn add(
        &mut self,
        item: &str,
        bits: Option<u16>,
        value: Option<f64>,
        note: impl Into<String>,
    ) -> &mut Self {
        let mut record = Record::default();
        record
            .push(item.to_owned())
            .push(bits.map(i32::from))
            .push(value)
            .push(note.into());
        self.0.push(record);
        self
    }
}

fn wrong(why: impl ToString) -> Error {
    Error::InvalidParameter {
        message: why.to_string(),
        hint: "Kinds are equality, range and text; normalisers are for texts: see docs/search.md."
            .into(),
    }
}

/// plan_search_index(relation, attribute, kind, normalise, sample).
///
/// # Errors
/// For others than those who own the table and may manage and decrypt with its key; for what cannot be searched so.
pub fn plan_search_index(call: Call) -> Result<pg_sys::Datum> {
    let (table, attribute) = registered::target(call)?;
    let kind: Kind = call.text(2, "kind")?.parse().map_err(wrong)?;
    // SAFETY: declared as text[] and int.
    let (steps, size) = unsafe {
        (
            call.long::<Vec<Option<String>>>(3, "normalise")?,
            call.get::<i32>(4).ok_or(Error::NullArgument("sample"))?,
        )
    };
    let steps: Vec<String> = steps.unwrap_or_default().into_iter().flatten().collect();
    let pipeline = Pipeline::parse(&steps).map_err(wrong)?;
    let size = sampled::size(size)?;
    registration::managed(table, &attribute)?;
    let held = Held::take(table, Lock::Read)?;
    held.ciphertext_attribute(&attribute)?;
    let registered = column::registered(table, &attribute)?
        .ok_or_else(|| Error::CatalogCorrupt("a registered column".into()))?;
    // SAFETY: the memory of this call is the server's to name; the opener is not kept.
    let opener = registered.opener(&held, &attribute, unsafe { pg_sys::CurrentMemoryContext })?;
    let base_type = opener.type_oid();
    let is_boolean = base_type == pg_sys::BOOLOID;
    let class = match class_of(base_type) {
        Some(class) => class,
        None if is_boolean => Class::Int,
        None => {
            return Err(wrong(format!(
                "values of type {} are not searched by terms",
                types::type_name(base_type)
            )));
        }
    };
    Label::new([0; 16], kind, class, pipeline.clone(), Pipeline::VERSION).map_err(wrong)?;
    let mut planned = Planned {
        values: Occurrences::default(),
        places: Zeroizing::new(Vec::with_capacity(if kind == Kind::Range {
            size
        } else {
            0
        })),
        grams: (kind == Kind::Text)
            .then(|| TextSpec::new(TextSpec::DEFAULT_LETTERS, &pipeline).map(GramOccurrences::new))
            .transpose()
            .map_err(wrong)?,
    };
    let context = registered.context.as_ref();
    let looked = sampled::each_value(&held, &attribute, context, &opener, size, |value| {
        planned.add(kind, &pipeline, value)
    })?;
    let mut lines = Lines::default();
    said_of_sample(&mut lines, &looked, &planned.values);
    let sample = Sample {
        counts: &planned.values.counts(),
        rows: (looked.rows as f64 * (1.0 - looked.nulls)).round() as u64,
        boolean: is_boolean,
    };
    let equality = leakage::equality(sample, WARN_PERCENT);
    lines
        .add(
            "distinct values",
            None,
            Some(equality.distinct as f64),
            "in the sample",
        )
        .add(
            "distinct values",
            None,
            Some(equality.estimated_distinct.round()),
            "in the table, estimated",
        );
    for (nth, share) in equality.largest.iter().enumerate() {
        let note = format!(
            "of the rows have the value that is number {} in frequency",
            nth + 1
        );
        lines.add("largest share", None, Some(*share), note);
    }
    match kind {
        Kind::Equality => said_of_lengths(&mut lines, &equality),
        Kind::Range => {
            let spec = match base_type {
                pg_sys::INT2OID | pg_sys::INT4OID => RangeSpec::for_int4(),
                _ => RangeSpec::for_class(class),
            };
            for level in leakage::range(spec, &planned.places) {
                let note = format!(
                    "of the rows lie in the fullest interval of 2^{} values; {} intervals have rows",
                    level.shift, level.intervals
                );
                lines.add(
                    "fullest interval",
                    Some(level.shift.into()),
                    Some(level.largest),
                    note,
                );
            }
        }
        Kind::Text => {
            if let Some(grams) = &planned.grams {
                let told = grams.told();
                lines
                    .add(
                        "distinct n-grams",
                        None,
                        Some(told.grams as f64),
                        "in the sample",
                    )
                    .add(
                        "n-grams of a value",
                        None,
                        Some(told.per_value),
                        "on average, which tells how long it is",
                    );
                for (nth, share) in told.largest.iter().enumerate() {
                    let note = format!(
                        "of the rows have the n-gram that is number {} in frequency",
                        nth + 1
                    );
                    lines.add("commonest n-gram", None, Some(*share), note);
                }
            }
        }
    }
    let note = format!("{}: {}", equality.verdict.name(), equality.verdict);
    lines.add("verdict", None, None, note);
    Ok(return_set(call, lines.0))
}

/// What is kept of values: how often each occurs, and where they lie in their order.
struct Planned {
    values: Occurrences,
    places: Zeroizing<Vec<u64>>,
    grams: Option<GramOccurrences>,
}

impl Planned {
    fn add(&mut self, kind: Kind, pipeline: &Pipeline, value: Value<'_>) -> Result<()> {
        let no_number = |_| Error::PlaintextInvalid {
            type_name: "numeric".into(),
        };
        self.values.add(pipeline, value).map_err(no_number)?;
        if kind == Kind::Range {
            self.places.push(value.order().map_err(no_number)?);
        }
        if let Some(grams) = &mut self.grams {
            grams.add(value.letters().unwrap_or_default());
        }
        Ok(())
    }
}

fn said_of_sample(lines: &mut Lines, looked: &Sampled, values: &Occurrences) {
    lines
        .add(
            "rows",
            None,
            Some(looked.rows as f64),
            "of the table, by the blocks that were read",
        )
        .add(
            "sampled",
            None,
            Some(looked.opened as f64),
            "values were opened, and none is kept",
        )
        .add(
            "share of NULL",
            None,
            Some(looked.nulls),
            "of the rows have no value, and no term: that is seen",
        );
    if looked.closed > 0 {
        let why = looked.why.clone().unwrap_or_default();
        lines.add("not opened", None, Some(looked.closed as f64), why);
    }
    if values.without_form > 0 {
        let note = "values have no normal form, and are found by themselves only";
        lines.add(
            "without a normal form",
            None,
            Some(values.without_form as f64),
            note,
        );
    }
}

fn said_of_lengths(lines: &mut Lines, told: &leakage::Equality) {
    let between = |bits: TermBits| {
        let within =
            |it: leakage::Truncation| it.least.get() == bits.get() || it.most.get() == bits.get();
        SHOWN.contains(&bits.get()) || bits.is_full() || told.truncation.is_some_and(within)
    };
    for length in told.lengths.iter().filter(|length| between(length.bits)) {
        let bits = Some(length.bits.get());
        lines
            .add(
                "rows rechecked",
                bits,
                Some(length.rechecked),
                "are decrypted by a look-up, on average",
            )
            .add(
                "distinct terms",
                bits,
                Some(length.terms),
                "are seen in the table",
            );
    }
    match (told.verdict, told.truncation) {
        (Verdict::Refuse(_), _) => {}
        (_, Some(truncation)) => {
            let note = format!(
                "bits => {} mixes other values into each term, and {} mixes in most; 256 for unique, joins and foreign keys",
                truncation.most.get(),
                truncation.least.get()
            );
            lines.add("recommended", Some(truncation.most.get()), None, note);
        }
        (_, None) => {
            let note = "there are too few rows for a shorter term to hide anything";
            lines.add("recommended", Some(TermBits::FULL.get()), None, note);
        }
    }
}

/// What is counted of an index's terms.
#[derive(Default)]
struct Measured {
    rows: i64,
    nulls: i64,
    distinct_terms: i64,
    /// Rows that have the commonest term.
    largest_group: i64,
}

impl Measured {
    /// Of the rows that have terms.
    fn largest_share(&self) -> Option<f64> {
        let with_terms = self.rows - self.nulls;
        (with_terms > 0).then(|| self.largest_group as f64 / with_terms as f64)
    }
}

/// Counts an index's terms, without a key. None where none of its companions is ready.
fn measured(index: &SearchIndex) -> Result<Option<Measured>> {
    let Some(companion) = index.usable() else {
        return Ok(None);
    };
    let mut found = Measured::default();
    let mut terms = Sorted::begin();
    for leaf in reach::all_leaves(&[index.relation], Elsewhere::Left)? {
        let table = Held::take(leaf, Lock::Read)?;
        let attribute =
            companion_in(&table, index.kind, &companion.attribute).ok_or_else(|| {
                Error::ColumnChanged {
                    column: format!(
                        "{}.{}",
                        table.shown(),
                        quote_identifier(&companion.attribute)
                    ),
                }
            })?;
        let number = attribute.number;
        scan::each_row(&table, |row| {
            found.rows += 1;
            let Some(term) = row.value(number) else {
                found.nulls += 1;
                return Ok(());
            };
            match index.kind {
                Kind::Equality => {
                    // SAFETY: the companion of an equality index is a bytea.
                    let term = unsafe { Varlena::from_datum(term) };
                    terms.put(first_eight(term.bytes()));
                }
                Kind::Range | Kind::Text => {
                    for term in elements(term, pg_sys::INT8OID).into_iter().flatten() {
                        terms.put(term.value() as i64);
                    }
                }
            }
            Ok(())
        })?;
    }
    terms.each_count(|count| {
        found.distinct_terms += 1;
        found.largest_group = found.largest_group.max(count as i64);
    });
    Ok(Some(found))
}

/// Terms are as good as random: no two share these.
fn first_eight(term: &[u8]) -> i64 {
    let mut first = [0; 8];
    for (to, from) in first.iter_mut().zip(term) {
        *to = *from;
    }
    i64::from_be_bytes(first)
}

/// search_leakage(relation): of all tables where that is null, as far as the caller may manage their keys.
///
/// # Errors
/// For a table whose columns the caller may not manage; when rows are out of reach.
pub fn search_leakage(call: Call) -> Result<pg_sys::Datum> {
    // SAFETY: declared as regclass.
    let asked = unsafe { call.get::<pg_sys::Oid>(0) };
    let tables = match asked {
        Some(table) => vec![table],
        None => spi::look(
            "SELECT DISTINCT i.relation::oid FROM colcrypt.search_index i JOIN pg_class c ON c.oid = i.relation ORDER BY 1",
            &[],
            |row| spi::at::<pg_sys::Oid>(row, 1),
        )?,
    };
    let mut records = Vec::new();
    for table in tables {
        for index in search::indexes_of(table)?.iter() {
            let under = match registration::managed(table, &index.attribute) {
                Err(error) if asked.is_none() && error.is_denial() => continue,
                under => under?,
            };
            let found = measured(index)?;
            if let Some(found) = &found {
                keep(index, found)?;
                let detail = format!(
                    "{} index of {}: {} rows, {} of them NULL, {} terms, the commonest in {} rows",
                    index.kind,
                    index.attribute,
                    found.rows,
                    found.nulls,
                    found.distinct_terms,
                    found.largest_group
                );
                under
                    .act("search_leakage")
                    .relation(table)
                    .detail(detail)
                    .record()?;
            }
            for line in told(index.kind, index.is_unique, is_truncated(index.bits.into())) {
                let mut record = Record::default();
                record
                    .push(table)
                    .push(index.attribute.clone())
                    .push(index.kind.to_string())
                    .push(line.to.name())
                    .push(line.what)
                    .push(found.as_ref().map(|found| found.rows))
                    .push(found.as_ref().map(|found| found.nulls))
                    .push(found.as_ref().map(|found| found.distinct_terms))
                    .push(found.as_ref().map(|found| found.largest_group))
                    .push(found.as_ref().and_then(Measured::largest_share));
                records.push(record);
            }
        }
    }
    if let (Some(table), true) = (asked, records.is_empty()) {
        report::notice(format!(
            "no column of table {} has a search index",
            relation::shown(table)?
        ));
    }
    Ok(return_set(call, records))
}

fn is_truncated(bits: i32) -> bool {
    bits < i32::from(TermBits::FULL.get())
}

fn keep(index: &SearchIndex, found: &Measured) -> Result<()> {
    spi::execute(
        "INSERT INTO colcrypt.search_measure (search_index_id, rows, nulls, distinct_terms, largest_group) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (search_index_id) DO UPDATE SET rows = EXCLUDED.rows, nulls = EXCLUDED.nulls, \
             distinct_terms = EXCLUDED.distinct_terms, largest_group = EXCLUDED.largest_group, \
             measured_at = EXCLUDED.measured_at, measured_by = EXCLUDED.measured_by",
        &[
            pgrx::Uuid::from_bytes(index.id).into(),
            found.rows.into(),
            found.nulls.into(),
            found.distinct_terms.into(),
            found.largest_group.into(),
        ],
    )?;
    Ok(())
}

/// search_told(kind, is_unique, bits): who learns what from such an index.
///
/// # Errors
/// For no kind.
pub fn search_told(call: Call) -> Result<pg_sys::Datum> {
    let kind: Kind = call.text(0, "kind")?.parse().map_err(wrong)?;
    // SAFETY: declared as boolean and int, and strict.
    let (is_unique, bits) = unsafe {
        (
            call.get::<bool>(1).unwrap_or_default(),
            call.get::<i32>(2).unwrap_or_default(),
        )
    };
    let lines = told(kind, is_unique, is_truncated(bits));
    let records = lines.iter().map(|line| {
        let mut record = Record::default();
        record.push(line.to.name()).push(line.what);
        record
    });
    Ok(return_set(call, records.collect()))
}
