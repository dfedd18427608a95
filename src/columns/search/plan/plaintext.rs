//! The decrypted value of a column in an expression: `decrypt_col` in any form, as access views show it, and what the
//! planner makes of either.

use std::ffi::{CStr, c_int};

use pgrx::pg_sys::{self, NodeTag};

use crate::columns::search::plan::names::Names;
use crate::server::planned::{self, Nulling};
use crate::server::tree;

/// Functions that make a value as long, or as precise, as a type says. The second argument is the type's modifier.
const LENGTHS: [u32; 8] = [
    pg_sys::F_VARCHAR_VARCHAR_INT4_BOOL,
    pg_sys::F_BPCHAR_BPCHAR_INT4_BOOL,
    pg_sys::F_NUMERIC_NUMERIC_INT4,
    pg_sys::F_TIMESTAMP_TIMESTAMP_INT4,
    pg_sys::F_TIMESTAMPTZ_TIMESTAMPTZ_INT4,
    pg_sys::F_TIME_TIME_INT4,
    pg_sys::F_INTERVAL_INTERVAL_INT4,
    pg_sys::F_TIMETZ_TIMETZ_INT4,
];

/// A decrypted column.
pub struct Plaintext {
    /// The index of its relation in the query, and the ciphertext's number in that.
    pub relation: c_int,
    pub number: i16,
    pub nulling: Nulling,
    /// The type that it is decrypted to.
    pub type_oid: pg_sys::Oid,
    /// What has to hold for the value to be shown; no variable is in it.
    pub guards: Vec<*mut pg_sys::Node>,
    /// Whether one of the guards is about a row.
    pub is_guarded_by_row: bool,
    /// The types with a length that the value is made to fit, by their names.
    pub lengths: Vec<String>,
}

/// The decrypted column that an expression is, if it is one.
///
/// # Safety
/// An expression of a query that is being planned.
pub unsafe fn plaintext(names: &Names, expression: *mut pg_sys::Node) -> Option<Plaintext> {
    let (mut guards, mut lengths, mut is_guarded_by_row) = (Vec::new(), Vec::new(), false);
    let mut nulling = Nulling::NONE;
    let mut at = expression;
    // SAFETY: the caller's promise; a node is what its tag says.
    unsafe {
        while !at.is_null() {
            match (*at).type_ {
                NodeTag::T_RelabelType => at = (*at.cast::<pg_sys::RelabelType>()).arg.cast(),
                NodeTag::T_CollateExpr => at = (*at.cast::<pg_sys::CollateExpr>()).arg.cast(),
                NodeTag::T_CoerceToDomain => at = (*at.cast::<pg_sys::CoerceToDomain>()).arg.cast(),
                NodeTag::T_PlaceHolderVar => {
                    let placeholder = at.cast::<pg_sys::PlaceHolderVar>();
                    if (*placeholder).phlevelsup != 0 {
                        return None;
                    }
                    nulling = nulling.with(placeholder);
                    at = (*placeholder).phexpr.cast();
                }
                NodeTag::T_CaseExpr => {
                    let (guard, shown) = planned::guarded(at.cast())?;
                    is_guarded_by_row |=
                        planned::has_variables(guard) || planned::is_costly_or_volatile(guard);
                    guards.push(guard);
                    at = shown;
                }
                NodeTag::T_FuncExpr => {
                    let call = at.cast::<pg_sys::FuncExpr>();
                    let arguments = tree::items::<pg_sys::Node>((*call).args);
                    if names.is_decrypting((*call).funcid) {
                        let (relation, number, own) = column(names, *arguments.first()?)?;
                        return Some(Plaintext {
                            relation,
                            number,
                            nulling: nulling.and(own),
                            type_oid: (*call).funcresulttype,
                            guards,
                            is_guarded_by_row,
                            lengths,
                        });
                    }
                    if !LENGTHS.contains(&(*call).funcid.to_u32()) {
                        return None;
                    }
                    lengths.push(with_length((*call).funcresulttype, *arguments.get(1)?)?);
                    at = *arguments.first()?;
                }
                _ => return None,
            }
        }
    }
    None
}

/// The ciphertext that is decrypted: its relation, number, and where it is missing.
///
/// # Safety
/// An expression.
unsafe fn column(names: &Names, expression: *mut pg_sys::Node) -> Option<(c_int, i16, Nulling)> {
    // SAFETY: the caller's promise; a node is what its tag says.
    unsafe {
        if !tree::is(expression, NodeTag::T_Var) {
            return None;
        }
        let variable = expression.cast::<pg_sys::Var>();
        let it = &*variable;
        let is_column = it.varlevelsup == 0 && it.varattno > 0 && it.vartype == names.ciphertext;
        is_column.then(|| (it.varno as c_int, it.varattno, Nulling::of(variable)))
    }
}

/// The name of a type with the length that a function is called with.
///
/// # Safety
/// An expression.
unsafe fn with_length(type_oid: pg_sys::Oid, modifier: *mut pg_sys::Node) -> Option<String> {
    // SAFETY: the caller's promise; a node is what its tag says, and the name a C string.
    unsafe {
        if !tree::is(modifier, NodeTag::T_Const) {
            return None;
        }
        let modifier = &*modifier.cast::<pg_sys::Const>();
        if modifier.constisnull || modifier.consttype != pg_sys::INT4OID {
            return None;
        }
        let name = pg_sys::format_type_with_typemod(type_oid, modifier.constvalue.value() as i32);
        Some(CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}
