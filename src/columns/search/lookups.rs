//! The terms that a query looks rows up by: search_term and its relatives. Each asks for the right to search and counts
//! the look-up.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::rc::Rc;

use colcrypt_core::VersionId;
use colcrypt_search::{Kind, SearchKey};
use pgrx::{PgList, pg_sys};

use crate::catalog::search::{self, CompanionState};
use crate::catalog::{epoch, read};
use crate::columns::search::marked::{self, Mark};
use crate::columns::search::term::Maker;
use crate::error::{Error, Result};
use crate::server::call::Call;
use crate::server::encoding::with_utf8;
use crate::server::varlena::Varlena;
use crate::server::{constants, enclosure, relation, tree};
use crate::session::{self, Permit};

/// What a look-up names, and the type of what it looks for.
#[derive(Clone, Copy)]
struct Asked<'a> {
    relation: pg_sys::Oid,
    attribute: &'a CStr,
    kind: Kind,
    type_oid: pg_sys::Oid,
    /// None for the one that look-ups use.
    version: Option<i32>,
}

/// The same, to be kept.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Kept {
    relation: u32,
    attribute: CString,
    kind: Kind,
    type_oid: u32,
    version: Option<i32>,
}

impl Asked<'_> {
    fn is(&self, kept: &Kept) -> bool {
        self.relation.to_u32() == kept.relation
            && self.kind == kept.kind
            && self.type_oid.to_u32() == kept.type_oid
            && self.version == kept.version
            && self.attribute == kept.attribute.as_c_str()
    }

    fn kept(&self) -> Kept {
        Kept {
            relation: self.relation.to_u32(),
            attribute: self.attribute.to_owned(),
            kind: self.kind,
            type_oid: self.type_oid.to_u32(),
            version: self.version,
        }
    }
}

/// What it comes to.
struct Found {
    maker: Maker,
    id: VersionId,
    bits: u16,
    /// Where it is, for the record.
    shown: String,
    /// Terms of honeytokens.
    marked: HashMap<Vec<u8>, Mark>,
}

/// A call that may make terms.
struct LookUp {
    found: Rc<Found>,
    permit: Permit,
    /// The planner asks, and nobody is shown what it finds.
    is_estimate: bool,
}

impl LookUp {
    /// Counts what is looked up: who does it, and how often.
    fn count(&self, look_ups: u32) -> Result<()> {
        if self.is_estimate {
            return Ok(());
        }
        self.permit.counter.look_ups(look_ups)
    }

    /// Raises the alarm where the term is that of a honeytoken. Changes nothing that the caller could see.
    ///
    /// # Safety
    /// The term is a bytea.
    unsafe fn watch(&self, function: &str, term: pg_sys::Datum) {
        let found = &self.found;
        if found.marked.is_empty() || self.is_estimate {
            return;
        }
        // SAFETY: the caller's promise.
        let term = unsafe { Varlena::from_datum(term) };
        if let Some(&mark) = found.marked.get(term.bytes()) {
            marked::alarm(function, mark, &found.shown, found.bits);
        }
    }
}

/// So many values are made terms of before a cancel is looked for.
const BETWEEN_INTERRUPTS: usize = 1024;

/// More of them than a query has conditions.
const KEPT: usize = 1024;

thread_local! {
    /// Good in this epoch.
    static FOUND: RefCell<(u64, HashMap<Kept, Rc<Found>>)> = RefCell::default();
    /// The one that was asked for last, in its epoch: mostly the next one, too.
    static LAST: RefCell<Option<(u64, Kept, Rc<Found>)>> = const { RefCell::new(None) };
}

/// What was asked for last, if it was the same.
fn last(now: u64, asked: Asked<'_>) -> Option<Rc<Found>> {
    LAST.with_borrow(|last| {
        let (epoch, kept, found) = last.as_ref()?;
        (*epoch == now && asked.is(kept)).then(|| found.clone())
    })
}

/// The index that a call names with its first two arguments, and leave to look up by it. None where the planner asks
/// for an estimate and the key is not at hand: that waits for nobody.
fn found(
    call: Call,
    kind: Kind,
    type_oid: pg_sys::Oid,
    version: Option<usize>,
) -> Result<Option<LookUp>> {
    // SAFETY: declared as regclass.
    let relation = unsafe { call.get::<pg_sys::Oid>(0) }.ok_or(Error::NullArgument("relation"))?;
    let attribute = call.datum(1).ok_or(Error::NullArgument("attribute"))?;
    // SAFETY: declared as name, which ends with NUL.
    let attribute = unsafe { CStr::from_ptr(attribute.cast_mut_ptr()) };
    let version = match version {
        Some(at) if at < call.len() => {
            // SAFETY: declared as int.
            let version =
                unsafe { call.get::<i32>(at) }.ok_or(Error::NullArgument("key_version"))?;
            if version < 1 {
                return Err(Error::InvalidParameter {
                    message: format!("{version} is no version of a key"),
                    hint:
                        "Versions are counted from 1; leave it out for the one that look-ups use."
                            .into(),
                });
            }
            Some(version)
        }
        _ => None,
    };
    let now = epoch::refresh(false);
    let asked = Asked {
        relation,
        attribute,
        kind,
        type_oid,
        version,
    };
    let found = match last(now, asked) {
        Some(found) => found,
        None => known(now, asked)?,
    };
    // What a person wrote is shown to him, or to whom his code gives it, whoever calls it.
    let is_estimate = enclosure::is_planning() && is_rewriters(call);
    if is_estimate && !session::search::is_at_hand(found.id) {
        return Ok(None);
    }
    let permit = match session::search::permit_search(found.id) {
        // Only the look-up itself says why it cannot be.
        Err(_) if is_estimate => return Ok(None),
        other => other?,
    };
    // An estimate is no look-up, but the rows that it expects tell whether the value is a common one: where look-ups
    // are limited there is none.
    if is_estimate && permit.counter.has_limit() {
        return Ok(None);
    }
    Ok(Some(LookUp {
        found,
        permit,
        is_estimate,
    }))
}

/// The same as the epoch has it, or as the catalog does.
fn known(now: u64, asked: Asked<'_>) -> Result<Rc<Found>> {
    let kept = asked.kept();
    let known = FOUND.with_borrow_mut(|(epoch, found)| {
        if *epoch != now {
            *epoch = now;
            found.clear();
        }
        found.get(&kept).cloned()
    });
    let found = match known {
        Some(found) => found,
        None => {
            let made = Rc::new(look(asked)?);
            FOUND.with_borrow_mut(|(_, found)| {
                if found.len() >= KEPT {
                    found.clear();
                }
                found.insert(kept.clone(), made.clone());
            });
            made
        }
    };
    LAST.set(Some((now, kept, found.clone())));
    Ok(found)
}

/// Whether the planner's rewrite made the call: the version in it says so, as no statement and no stored expression
/// can.
fn is_rewriters(call: Call) -> bool {
    // SAFETY: the expression of the call, as the server has it: null, or a node that its tag tells.
    unsafe {
        let expression = (*call.flinfo()).fn_expr;
        if !tree::is(expression, pg_sys::NodeTag::T_FuncExpr) {
            return false;
        }
        let arguments = (*expression.cast::<pg_sys::FuncExpr>()).args;
        let arguments = PgList::<pg_sys::Node>::from_pg(arguments);
        let last = arguments.get_ptr(arguments.len().wrapping_sub(1));
        last.is_some_and(|last| constants::is_marked(last))
    }
}

fn look(asked: Asked<'_>) -> Result<Found> {
    let Asked {
        relation,
        kind,
        type_oid,
        version,
        ..
    } = asked;
    let attribute = &*asked.attribute.to_string_lossy();
    let shown = relation::shown(relation)?;
    let refused = |what: &str| {
        Error::Column {
        message: format!(
            "column {} of table {shown} has no search index of kind {kind}{what}",
            pgrx::spi::quote_identifier(attribute),
        ),
        hint: "Make one with colcrypt.create_search_index, and name the table that the column is registered of.".into(),
    }
    };
    let index = search::index_of(relation, attribute, kind)?.ok_or_else(|| refused(""))?;
    let companion = match version.map(read::version).transpose()? {
        // Of one that nobody has looked up by yet it is not known which terms are a honeytoken's.
        Some(version) => index.under(version).filter(|companion| {
            companion.has_been_ready || companion.state != CompanionState::Building
        }),
        None => index.usable(),
    };
    let Some(companion) = companion else {
        return Err(refused(match version {
            Some(_) => " that is ready under that version of its key",
            None => " that is ready",
        }));
    };
    let id = index.version_of(companion);
    let marked = match kind {
        Kind::Equality => marked::terms_in(&index, companion.version)?,
        Kind::Range | Kind::Text => HashMap::new(),
    };
    Ok(Found {
        maker: Maker::new(&index, type_oid)?,
        id,
        bits: index.bits,
        shown: format!(
            "the {kind} index of {shown}.{}",
            pgrx::spi::quote_identifier(attribute)
        ),
        marked,
    })
}

/// search_term(relation, attribute, value [, key_version]).
pub fn search_term(call: Call) -> Result<pg_sys::Datum> {
    let Some(look_up) = found(call, Kind::Equality, call.argument_type(2), Some(3))? else {
        return Ok(call.null());
    };
    let value = call.datum(2).ok_or(Error::NullArgument("value"))?;
    look_up.count(1)?;
    let found = &look_up.found;
    // SAFETY: the type that the parser resolved, which the maker was made for.
    let made = |key: &SearchKey| unsafe { found.maker.term_of(key, value) };
    let term = look_up.permit.with_terms(made)??;
    // SAFETY: a term of an equality index, just made.
    unsafe { look_up.watch("search_term", term) };
    Ok(term)
}

/// search_terms(relation, attribute, values [, key_version]).
pub fn search_terms(call: Call) -> Result<pg_sys::Datum> {
    // SAFETY: a look-up in the type catalog.
    let element = unsafe { pg_sys::get_base_element_type(call.argument_type(2)) };
    let Some(look_up) = found(call, Kind::Equality, element, Some(3))? else {
        return Ok(call.null());
    };
    let values = call.datum(2).ok_or(Error::NullArgument("values"))?;
    let values: Vec<pg_sys::Datum> = elements(values, element).into_iter().flatten().collect();
    let count = u32::try_from(values.len()).unwrap_or(u32::MAX);
    look_up.count(count)?;
    let found = &look_up.found;
    let mut terms = look_up
        .permit
        .with_terms(|key| -> Result<Vec<pg_sys::Datum>> {
            let prepared = found.maker.prepare(key);
            let mut terms = Vec::with_capacity(values.len());
            for (at, &value) in values.iter().enumerate() {
                if at % BETWEEN_INTERRUPTS == 0 {
                    pgrx::check_for_interrupts!();
                }
                // SAFETY: an element of the array, whose type the maker was made for.
                terms.push(unsafe { found.maker.equality(&prepared, value)? });
            }
            Ok(terms)
        })??;
    for &term in &terms {
        // SAFETY: as in search_term.
        unsafe { look_up.watch("search_terms", term) };
    }
    // SAFETY: an array of bytea, a varlena of int alignment, of as many elements.
    let array = unsafe {
        pg_sys::construct_array(
            terms.as_mut_ptr(),
            terms.len() as i32,
            pg_sys::BYTEAOID,
            -1,
            false,
            pg_sys::TYPALIGN_INT as std::ffi::c_char,
        )
    };
    Ok(pg_sys::Datum::from(array))
}

/// The elements of an array of this type; none for a null.
pub fn elements(array: pg_sys::Datum, element: pg_sys::Oid) -> Vec<Option<pg_sys::Datum>> {
    let (mut length, mut by_value, mut align) = (0, false, 0);
    let (mut values, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
    // SAFETY: the array is one of this element type, by the call's declaration; what is made of it is the server's
    // memory, which lives as long as the call's.
    unsafe {
        pg_sys::get_typlenbyvalalign(element, &raw mut length, &raw mut by_value, &raw mut align);
        let array = pg_sys::pg_detoast_datum(array.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        pg_sys::deconstruct_array(
            array,
            element,
            i32::from(length),
            by_value,
            align,
            &raw mut values,
            &raw mut nulls,
            &raw mut count,
        );
        (0..count as usize)
            .map(|at| (!*nulls.add(at)).then(|| *values.add(at)))
            .collect()
    }
}

/// range_terms(relation, attribute, low, high [, key_version]).
pub fn range_terms(call: Call) -> Result<pg_sys::Datum> {
    if call.len() > 4 && call.datum(4).is_none() {
        return Err(Error::NullArgument("key_version"));
    }
    let Some(look_up) = found(call, Kind::Range, call.argument_type(2), Some(4))? else {
        return Ok(call.null());
    };
    look_up.count(1)?;
    let found = &look_up.found;
    look_up.permit.with_terms(|key| {
        let prepared = found.maker.prepare(key);
        // SAFETY: both are of the type that the parser resolved, which the maker was made for.
        unsafe { found.maker.between(&prepared, call.datum(2), call.datum(3)) }
    })?
}

/// pattern_terms(relation, attribute, pattern, escape [, key_version]).
pub fn pattern_terms(call: Call) -> Result<pg_sys::Datum> {
    let Some(look_up) = found(call, Kind::Text, pg_sys::TEXTOID, Some(4))? else {
        return Ok(call.null());
    };
    let pattern = call.datum(2).ok_or(Error::NullArgument("pattern"))?;
    let escape = call.text(3, "escape")?;
    let mut letters = escape.chars();
    let escape = letters.next();
    if letters.next().is_some() {
        return Err(Error::InvalidParameter {
            message: "the escape is one letter, or none".into(),
            hint: "As in LIKE … ESCAPE: an empty text is no escape.".into(),
        });
    }
    // SAFETY: declared as text.
    let pattern = unsafe { Varlena::from_datum(pattern) };
    with_utf8(pattern.bytes(), |bytes| {
        let pattern = std::str::from_utf8(bytes).map_err(|_| Error::PlaintextInvalid {
            type_name: "text".into(),
        })?;
        look_up.count(1)?;
        let found = &look_up.found;
        look_up.permit.with_terms(|key| {
            let prepared = found.maker.prepare(key);
            found.maker.pattern(&prepared, pattern, escape)
        })?
    })
}

/// recheck(condition): the condition itself.
pub fn recheck(call: Call) -> Result<pg_sys::Datum> {
    Ok(match call.datum(0) {
        Some(condition) => condition,
        None => call.null(),
    })
}

/// recheck's support function: the condition on terms beside it says how many rows there are, so it lets all of them
/// pass.
pub fn recheck_support(call: Call) -> Result<pg_sys::Datum> {
    let nothing = pg_sys::Datum::from(std::ptr::null_mut::<c_void>());
    let Some(request) = call.datum(0) else {
        return Ok(nothing);
    };
    let node = request.cast_mut_ptr::<pg_sys::Node>();
    // SAFETY: the planner passes a node of one of its requests, whose tag says which.
    unsafe {
        if (*node).type_ != pg_sys::NodeTag::T_SupportRequestSelectivity {
            return Ok(nothing);
        }
        (*node.cast::<pg_sys::SupportRequestSelectivity>()).selectivity = 1.0;
    }
    Ok(request)
}
