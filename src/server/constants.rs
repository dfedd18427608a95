//! Constants of expressions, as the planner has them.

use std::ffi::c_int;

use pgrx::pg_sys;

/// A constant table, by its OID.
pub fn table(oid: pg_sys::Oid) -> *mut pg_sys::Node {
    constant(pg_sys::REGCLASSOID, 4, pg_sys::Datum::from(oid), true)
}

/// A constant name. One that is too long is cut, as the server cuts it.
pub fn name(text: &str) -> *mut pg_sys::Node {
    let room = pg_sys::NAMEDATALEN as usize;
    // SAFETY: palloc0 gives as many zero bytes, of which at least the last stays one.
    let name = unsafe {
        let name = pg_sys::palloc0(room).cast::<u8>();
        name.copy_from_nonoverlapping(text.as_ptr(), text.len().min(room - 1));
        name
    };
    constant(
        pg_sys::NAMEOID,
        room as c_int,
        pg_sys::Datum::from(name),
        false,
    )
}

/// A constant int.
pub fn integer(number: i32) -> *mut pg_sys::Node {
    constant(pg_sys::INT4OID, 4, pg_sys::Datum::from(number), true)
}

/// Where no constant of a statement is: the parser says -1, or a place in the text, and what is stored is read back
/// with -1.
const MARK: i32 = -2_021;

/// A constant number that a rewrite of ours made, and nobody else.
pub fn marked_integer(number: i32) -> *mut pg_sys::Node {
    let made = integer(number);
    // SAFETY: a Const, just made.
    unsafe { (*made.cast::<pg_sys::Const>()).location = MARK };
    made
}

/// Whether a node is such a number.
///
/// # Safety
/// A node of an expression.
pub unsafe fn is_marked(node: *mut pg_sys::Node) -> bool {
    // SAFETY: a node is what its tag says.
    unsafe {
        crate::server::tree::is(node, pg_sys::NodeTag::T_Const)
            && (*node.cast::<pg_sys::Const>()).location == MARK
    }
}

/// A constant text.
pub fn text(text: &str) -> *mut pg_sys::Node {
    let datum = pgrx::IntoDatum::into_datum(text).expect("a text has a datum");
    constant(pg_sys::TEXTOID, -1, datum, false)
}

/// A null of a type.
pub fn null(type_oid: pg_sys::Oid) -> *mut pg_sys::Node {
    // SAFETY: a type of the catalog's.
    unsafe { pg_sys::makeNullConst(type_oid, -1, pg_sys::Oid::INVALID).cast() }
}

fn constant(
    type_oid: pg_sys::Oid,
    length: c_int,
    value: pg_sys::Datum,
    by_value: bool,
) -> *mut pg_sys::Node {
    let collation = match type_oid {
        pg_sys::NAMEOID => pg_sys::C_COLLATION_OID,
        pg_sys::TEXTOID => pg_sys::DEFAULT_COLLATION_OID,
        _ => pg_sys::Oid::INVALID,
    };
    // SAFETY: a datum of the type that is named, of which length and passing are as they are said.
    unsafe { pg_sys::makeConst(type_oid, -1, collation, length, value, false, by_value).cast() }
}

/// The constant true.
pub fn truth() -> *mut pg_sys::Node {
    constant(pg_sys::BOOLOID, 1, pg_sys::Datum::from(true), true)
}
