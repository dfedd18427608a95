//! The functions and operators that conditions are recognized by and made of, as the catalog has them. Kept until the
//! epoch ends, as that is when the extension may have been dropped and made again.

use std::cell::RefCell;
use std::ffi::CStr;
use std::rc::Rc;

use pgrx::pg_sys;

use crate::catalog::epoch;
use crate::server::{ours, tree, types};

/// Where a decryption has its arguments.
#[derive(Clone, Copy)]
pub struct Form {
    /// What stands for the type, and has no value.
    pub witness: Option<usize>,
    pub context: Option<usize>,
}

pub struct Names {
    /// decrypt_col and try_decrypt_col.
    decrypting: Vec<pg_sys::Oid>,
    /// decrypt_col alone, in its forms.
    decrypt_col: Vec<(pg_sys::Oid, Form)>,
    /// place_context, with a key and without.
    place_context: [pg_sys::Oid; 2],
    pub recheck: pg_sys::Oid,
    /// Without a context, and with one.
    pub decrypts_to: [pg_sys::Oid; 2],
    pub decrypts_to_in_place: pg_sys::Oid,
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

    /// The form of a decryption that raises an error for what does not open; none of another function.
    pub fn form_of(&self, function: pg_sys::Oid) -> Option<Form> {
        let found = self.decrypt_col.iter().find(|(of, _)| *of == function);
        found.map(|(_, form)| *form)
    }

    pub fn is_place_context(&self, function: pg_sys::Oid) -> bool {
        self.place_context.contains(&function)
    }

    /// Whether a function is one of those that conditions on terms are made of.
    pub fn is_of_terms(&self, function: pg_sys::Oid) -> bool {
        [
            self.recheck,
            self.decrypts_to[0],
            self.decrypts_to[1],
            self.decrypts_to_in_place,
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
        ANYARRAYOID, ANYELEMENTOID, ANYOID, BOOLOID, BYTEAOID, INT4OID, INT8ARRAYOID, NAMEOID,
        REGCLASSOID, TEXTOID,
    };
    let ciphertext = types::ciphertext_oid()?;
    let context = context_type()?;
    let form = |witness, context| Form { witness, context };
    let overloads: [(&[pg_sys::Oid], _); 4] = [
        (&[ciphertext], form(None, None)),
        (&[ciphertext, context], form(None, Some(1))),
        (&[ciphertext, ANYELEMENTOID], form(Some(1), None)),
        (
            &[ciphertext, ANYELEMENTOID, BYTEAOID],
            form(Some(1), Some(2)),
        ),
    ];
    let all_of = |name| {
        let found = |(arguments, form)| Some((function(name, arguments)?, form));
        overloads.into_iter().filter_map(found).collect::<Vec<_>>()
    };
    let decrypt_col = all_of(c"decrypt_col");
    let try_decrypt_col = all_of(c"try_decrypt_col");
    let decrypting = decrypt_col.iter().chain(&try_decrypt_col);
    let compared = [ciphertext, ANYELEMENTOID];
    let of_column = [REGCLASSOID, NAMEOID];
    let with = |more: &[pg_sys::Oid]| [of_column.as_slice(), more].concat();
    Some(Names {
        decrypting: decrypting.map(|(function, _)| *function).collect(),
        decrypt_col,
        place_context: [
            function(c"place_context", &[TEXTOID])?,
            function(c"place_context", &[TEXTOID, ANYOID])?,
        ],
        decrypts_to: [
            function(c"decrypts_to", &compared)?,
            function(c"decrypts_to", &[compared.as_slice(), &[BYTEAOID]].concat())?,
        ],
        decrypts_to_in_place: function(
            c"decrypts_to_in_place",
            &[compared.as_slice(), &[TEXTOID, ANYOID]].concat(),
        )?,
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
