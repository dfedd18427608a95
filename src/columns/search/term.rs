//! Terms of SQL values: from a datum of a known type to what a companion holds.

use std::ffi::CStr;

use colcrypt_search::{
    Class, Kind, Label, NoRoom, Pipeline, Prepared, RangeSpec, SearchKey, TermBits, TextSpec, Value,
};
use pgrx::{IntoDatum, pg_sys};
use zeroize::Zeroize;

use crate::catalog::search::SearchIndex;
use crate::error::{Error, Result};
use crate::server::encoding::with_utf8;
use crate::server::types;
use crate::server::varlena::{MAX_VARLENA, Varlena, varlena_from};

/// What equality and order mean for the values of a type; none for a type that is not searched by terms. Of a domain,
/// those of the type under it.
pub fn class_of(type_oid: pg_sys::Oid) -> Option<Class> {
    // What a call says nothing of: an array of anything, or one that no expression made.
    if type_oid == pg_sys::Oid::INVALID {
        return None;
    }
    // SAFETY: a look-up in the type catalog.
    let base = unsafe { pg_sys::getBaseType(type_oid) };
    Some(match base {
        pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID => Class::Int,
        pg_sys::FLOAT4OID | pg_sys::FLOAT8OID => Class::Float,
        pg_sys::NUMERICOID => Class::Numeric,
        pg_sys::TEXTOID | pg_sys::VARCHAROID => Class::Text,
        pg_sys::BPCHAROID => Class::Bpchar,
        pg_sys::BYTEAOID => Class::Bytea,
        pg_sys::UUIDOID => Class::Uuid,
        pg_sys::DATEOID => Class::Date,
        pg_sys::TIMESTAMPOID => Class::Timestamp,
        pg_sys::TIMESTAMPTZOID => Class::Timestamptz,
        pg_sys::TIMEOID => Class::Time,
        pg_sys::INTERVALOID => Class::Interval,
        _ => return None,
    })
}

/// Makes the terms of an index of values of one type. It holds no key: who has one lends it for as long as the making
/// takes.
pub struct Maker {
    base_type: pg_sys::Oid,
    label: Label,
    bits: TermBits,
    range: Option<RangeSpec>,
    grams: Option<TextSpec>,
}

/// What a value is to an index.
fn corrupt(what: impl ToString) -> Error {
    Error::CatalogCorrupt(format!("a search index: {}", what.to_string()))
}

impl Maker {
    /// # Errors
    /// For a type whose values are not of the index's class, and an index that this release does not know how to make.
    pub fn new(index: &SearchIndex, type_oid: pg_sys::Oid) -> Result<Self> {
        if class_of(type_oid) != Some(index.class) {
            return Err(Error::InvalidParameter {
                message: format!(
                    "values of type {} are not compared with those of column {}, which are of class {}",
                    types::type_name(type_oid),
                    index.attribute,
                    index.class
                ),
                hint: "Cast the value to the type that the column was registered with.".into(),
            });
        }
        let pipeline = Pipeline::parse(&index.normalise).map_err(corrupt)?;
        let label = Label::new(
            index.terms_of(),
            index.kind,
            index.class,
            pipeline.clone(),
            index.normaliser_version,
        )
        .map_err(corrupt)?;
        let grams = index
            .gram
            .map(|length| TextSpec::new(length, &pipeline))
            .transpose()
            .map_err(corrupt)?;
        Ok(Self {
            // SAFETY: a look-up in the type catalog.
            base_type: unsafe { pg_sys::getBaseType(type_oid) },
            label,
            bits: TermBits::new(index.bits).map_err(corrupt)?,
            range: index.range,
            grams,
        })
    }

    /// The key with what this index's terms have in common taken in: for many values in a row.
    pub fn prepare(&self, key: &SearchKey) -> Prepared {
        key.prepare(&self.label)
    }

    /// What the companion holds of a value: a bytea, or an array of numbers.
    ///
    /// # Errors
    /// Of the value's conversion to UTF-8, and of memory.
    ///
    /// # Safety
    /// `value` is a datum of the type that this was made for.
    pub unsafe fn term_of(&self, key: &SearchKey, value: pg_sys::Datum) -> Result<pg_sys::Datum> {
        // SAFETY: the caller's promise.
        unsafe {
            match self.label.kind() {
                Kind::Equality => with_value(self.base_type, value, |value| {
                    // One term is made of the key itself: to take the label in before would cost another context.
                    let term = key.equality_of(&self.label, value, self.bits);
                    varlena_from(term.map_err(corrupt)?.as_bytes())
                }),
                Kind::Range => {
                    let place = place_of(self.base_type, value)?;
                    array(self.range()?.terms(&self.prepare(key), place))
                }
                Kind::Text => {
                    let grams = self.grams()?;
                    with_value(self.base_type, value, |value| {
                        let letters = value.letters().unwrap_or_default();
                        let terms = grams.terms(&self.prepare(key), letters, &mut interrupts);
                        array(terms.map_err(|NoRoom { bytes }| Error::OutOfMemory { bytes })?)
                    })
                }
            }
        }
    }

    fn range(&self) -> Result<RangeSpec> {
        self.range.ok_or_else(|| corrupt("no intervals"))
    }

    fn grams(&self) -> Result<TextSpec> {
        self.grams.ok_or_else(|| corrupt("no n-grams"))
    }

    /// The equality term of one of many values.
    ///
    /// # Errors
    /// As [`term_of`](Self::term_of).
    ///
    /// # Safety
    /// As [`term_of`](Self::term_of).
    pub unsafe fn equality(
        &self,
        prepared: &Prepared,
        value: pg_sys::Datum,
    ) -> Result<pg_sys::Datum> {
        // SAFETY: the caller's promise.
        unsafe {
            with_value(self.base_type, value, |value| {
                let term = prepared.equality_of(value, self.bits).map_err(corrupt)?;
                varlena_from(term.as_bytes())
            })
        }
    }

    /// The intervals that hold all values from `low` to `high`; none is an open end. A range of everything, or one that
    /// would take too many, is covered by the largest.
    ///
    /// # Errors
    /// As [`term_of`](Self::term_of).
    ///
    /// # Safety
    /// As [`term_of`](Self::term_of), of both.
    pub unsafe fn between(
        &self,
        prepared: &Prepared,
        low: Option<pg_sys::Datum>,
        high: Option<pg_sys::Datum>,
    ) -> Result<pg_sys::Datum> {
        let spec = self.range()?;
        // SAFETY: the caller's promise.
        let place = |end: pg_sys::Datum| unsafe { place_of(self.base_type, end) };
        let (low, high) = (low.map(place).transpose()?, high.map(place).transpose()?);
        let terms = spec
            .cover_terms(prepared, low, high, RangeSpec::MAX_COVER)
            .or_else(|| spec.cover_terms(prepared, Some(u64::MIN), None, usize::MAX));
        array(terms.unwrap_or_default())
    }

    /// The n-grams that every text has which is LIKE the pattern, or ILIKE it; none where no piece of it is long
    /// enough.
    ///
    /// # Errors
    /// Of memory.
    pub fn pattern(
        &self,
        prepared: &Prepared,
        pattern: &str,
        escape: Option<char>,
    ) -> Result<pg_sys::Datum> {
        let terms = self.grams()?.like_terms(prepared, pattern, escape);
        array(terms.unwrap_or_default())
    }
}

/// Lets a cancel through.
fn interrupts() {
    pgrx::check_for_interrupts!();
}

/// An int8[].
fn array(terms: Vec<i64>) -> Result<pg_sys::Datum> {
    let bytes = terms.len().saturating_mul(8);
    if bytes > MAX_VARLENA {
        return Err(Error::ValueTooLarge { bytes });
    }
    Ok(terms.into_datum().expect("an array has a datum"))
}

/// A value's place in its type's order.
///
/// # Safety
/// `datum` is of the base type.
pub unsafe fn place_of(base_type: pg_sys::Oid, datum: pg_sys::Datum) -> Result<u64> {
    // SAFETY: the caller's promise.
    unsafe { with_value(base_type, datum, |value| value.order().map_err(corrupt)) }
}

/// Gives `body` a value as the library has it, in UTF-8.
///
/// # Safety
/// `datum` is of the base type.
pub unsafe fn with_value<R>(
    base_type: pg_sys::Oid,
    datum: pg_sys::Datum,
    body: impl FnOnce(Value<'_>) -> Result<R>,
) -> Result<R> {
    let word = datum.value();
    // SAFETY: the caller vouches for the type.
    unsafe {
        match base_type {
            pg_sys::INT2OID => body(Value::Int(i64::from(word as i16))),
            pg_sys::INT4OID => body(Value::Int(i64::from(word as i32))),
            pg_sys::INT8OID => body(Value::Int(word as i64)),
            pg_sys::FLOAT4OID => body(Value::Float(f64::from(f32::from_bits(word as u32)))),
            pg_sys::FLOAT8OID => body(Value::Float(f64::from_bits(word as u64))),
            pg_sys::DATEOID => body(Value::Date(word as i32)),
            pg_sys::TIMESTAMPOID => body(Value::Timestamp(word as i64)),
            pg_sys::TIMESTAMPTZOID => body(Value::Timestamptz(word as i64)),
            pg_sys::TIMEOID => body(Value::Time(word as i64)),
            pg_sys::TEXTOID | pg_sys::VARCHAROID => {
                with_text(datum, |text| body(Value::Text(text)))
            }
            pg_sys::BPCHAROID => with_text(datum, |text| body(Value::Bpchar(text))),
            pg_sys::BYTEAOID => body(Value::Bytea(Varlena::from_datum(datum).bytes())),
            pg_sys::UUIDOID => body(Value::Uuid(*datum.cast_mut_ptr::<[u8; 16]>())),
            pg_sys::INTERVALOID => {
                let interval = *datum.cast_mut_ptr::<pg_sys::Interval>();
                body(Value::Interval {
                    months: interval.month,
                    days: interval.day,
                    micros: interval.time,
                })
            }
            pg_sys::NUMERICOID => {
                let written = pg_sys::OidOutputFunctionCall(pg_sys::F_NUMERIC_OUT.into(), datum);
                let outcome = match CStr::from_ptr(written).to_str() {
                    Ok(text) => body(Value::Numeric(text)),
                    Err(_) => Err(corrupt("a number")),
                };
                std::slice::from_raw_parts_mut(
                    written.cast::<u8>(),
                    CStr::from_ptr(written).count_bytes(),
                )
                .zeroize();
                pg_sys::pfree(written.cast());
                outcome
            }
            other => Err(Error::NoBinaryIo(format!(
                "by which values of type {} are searched",
                types::type_name(other)
            ))),
        }
    }
}

/// # Safety
/// `datum` is text-like.
unsafe fn with_text<R>(datum: pg_sys::Datum, body: impl FnOnce(&str) -> Result<R>) -> Result<R> {
    // SAFETY: the caller's promise.
    let text = unsafe { Varlena::from_datum(datum) };
    with_utf8(text.bytes(), |bytes| match std::str::from_utf8(bytes) {
        Ok(text) => body(text),
        Err(_) => Err(Error::PlaintextInvalid {
            type_name: "text".into(),
        }),
    })
}
