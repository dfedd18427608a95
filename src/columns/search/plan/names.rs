//! The functions and operators that conditions are recognized by and made of, as the catalog has them. Kept until the
//! epoch ends, as that is when the extension may have been dropped and made again.

use std::cell::RefCell;
use std::ffi::CStr;
use std::rc::Rc;

use pgrx::pg_sys;

use crate::catalog::epoch;
use crate::server::{ours, tree, types};

pub struct Names {
    /// decrypt_col and try_decrypt_col.
    decrypting: Vec<pg_sys::Oid>,
    pub recheck: pg_sys::Oid,
    pub on_terms: pg_sys::Oid,
    pub search_term: pg_sys::Oid,
    pub search_terms: pg_sys::Oid,
    pub range_terms: pg_sys::Oid,
    pub pattern_terms: pg_sys::Oid,
    pub overlap: pg_sys::Oid,
    pub contain: pg_sys::Oid,
    pub ciphertext: pg_sys::Oid,
}

impl Names {
    pub fn is_decrypting(&self, function: pg_sys::Oid) -> bool {
        self.decrypting.contains(&function)
    }

    /// Whether a function is one of those that conditions on terms are made of.
    pub fn is_of_terms(&self, function: pg_sys::Oid) -> bool {
        [
            self.recheck,
            self.on_terms,
            self.search_term,
            self.search_terms,
            self.range_terms,
            self.pattern_terms,
        ]
        .contains(&function)
    }
}

type Kept = Option<Rc<Names>>;

thread_local! {
    static KNOWN: RefCell<Option<(u64, Kept)>> = const { RefCell::new(None) };
}

/// As they are in this epoch; none where the extension is not installed, or is of a release without search.
pub fn known(epoch: u64) -> Option<Rc<Names>> {
    let known = KNOWN.with_borrow(Clone::clone);
    if let Some((of, names)) = known
        && of == epoch
    {
        return names;
    }
    let names = look().map(Rc::new);
    // What was looked up may have ended an epoch.
    KNOWN.set(Some((epoch::current(), names.clone())));
    names
}

fn look() -> Option<Names> {
    use pg_sys::{
        ANYARRAYOID, ANYELEMENTOID, BOOLOID, BYTEAOID, INT4OID, INT8ARRAYOID, NAMEOID, REGCLASSOID,
        TEXTOID,
    };
    let ciphertext = types::ciphertext_oid()?;
    let context = context_type()?;
    let mut decrypting = Vec::new();
    for name in [c"decrypt_col", c"try_decrypt_col"] {
        let overloads: [&[pg_sys::Oid]; 4] = [
            &[ciphertext],
            &[ciphertext, context],
            &[ciphertext, ANYELEMENTOID],
            &[ciphertext, ANYELEMENTOID, BYTEAOID],
        ];
        decrypting.extend(
            overloads
                .iter()
                .filter_map(|arguments| function(name, arguments)),
        );
    }
    let of_column = [REGCLASSOID, NAMEOID];
    let with = |more: &[pg_sys::Oid]| [of_column.as_slice(), more].concat();
    Some(Names {
        decrypting,
        recheck: function(c"recheck", &[BOOLOID])?,
        on_terms: function(c"on_terms", &[BOOLOID])?,
        search_term: function(c"search_term", &with(&[ANYELEMENTOID, INT4OID]))?,
        search_terms: function(c"search_terms", &with(&[ANYARRAYOID, INT4OID]))?,
        range_terms: function(
            c"range_terms",
            &with(&[ANYELEMENTOID, ANYELEMENTOID, INT4OID]),
        )?,
        pattern_terms: function(c"pattern_terms", &with(&[TEXTOID, TEXTOID, INT4OID]))?,
        overlap: operator(c"&&", INT8ARRAYOID)?,
        contain: operator(c"@>", INT8ARRAYOID)?,
        ciphertext,
    })
}

/// A name in our schema, as the parser has one.
fn qualified(name: &CStr) -> *mut pg_sys::List {
    // SAFETY: C strings, which are copied.
    unsafe {
        tree::list(
            [c"colcrypt", name].map(|part| pg_sys::makeString(pg_sys::pstrdup(part.as_ptr()))),
        )
    }
}

fn function(name: &CStr, arguments: &[pg_sys::Oid]) -> Option<pg_sys::Oid> {
    // SAFETY: look-ups in catalogs, missing_ok.
    unsafe {
        let found = pg_sys::LookupFuncName(
            qualified(name),
            arguments.len() as i32,
            arguments.as_ptr(),
            true,
        );
        (found != pg_sys::Oid::INVALID && ours::is_member(pg_sys::ProcedureRelationId, found))
            .then_some(found)
    }
}

fn operator(name: &CStr, of: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: as above.
    unsafe {
        let found = pg_sys::OpernameGetOprid(qualified(name), of, of);
        (found != pg_sys::Oid::INVALID && ours::is_member(pg_sys::OperatorRelationId, found))
            .then_some(found)
    }
}

fn context_type() -> Option<pg_sys::Oid> {
    // SAFETY: look-ups in catalogs by name, missing_ok.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"colcrypt".as_ptr(), true);
        let found = pg_sys::GetSysCacheOid(
            pg_sys::SysCacheIdentifier::TYPENAMENSP as i32,
            pg_sys::Anum_pg_type_oid as i16,
            pg_sys::Datum::from(c"context".as_ptr()),
            pg_sys::Datum::from(schema),
            pg_sys::Datum::from(0),
            pg_sys::Datum::from(0),
        );
        (found != pg_sys::Oid::INVALID).then_some(found)
    }
}
