//! A condition in words, for who asks what became of it: as far as it is a comparison, with what stands for values that
//! the planner has no text for left out.

use std::ffi::CStr;

use pgrx::pg_sys::{self, NodeTag};

use crate::columns::search::plan::names::Names;
use crate::columns::search::plan::plaintext::plaintext;
use crate::server::tree;

const LEFT_OUT: &str = "…";

/// # Safety
/// A condition of a query that is being planned, on a column of this name.
pub unsafe fn condition(
    root: *mut pg_sys::PlannerInfo,
    names: &Names,
    condition: *mut pg_sys::Node,
    column: &str,
) -> String {
    // SAFETY: the caller's promise; a node is what its tag says, and a name a C string or null.
    unsafe {
        let side = |expression| operand(root, names, expression);
        let (arguments, name, array) = match (*condition).type_ {
            NodeTag::T_OpExpr => {
                let it = &*condition.cast::<pg_sys::OpExpr>();
                (it.args, pg_sys::get_opname(it.opno), false)
            }
            NodeTag::T_ScalarArrayOpExpr => {
                let it = &*condition.cast::<pg_sys::ScalarArrayOpExpr>();
                (it.args, pg_sys::get_opname(it.opno), true)
            }
            NodeTag::T_FuncExpr => {
                let it = &*condition.cast::<pg_sys::FuncExpr>();
                let arguments = tree::items::<pg_sys::Node>(it.args).into_iter().map(side);
                let arguments: Vec<String> = arguments.collect();
                let name = text(pg_sys::get_func_name(it.funcid));
                return format!("{name}({})", arguments.join(", "));
            }
            _ => return format!("{LEFT_OUT} {column} {LEFT_OUT}"),
        };
        match tree::items::<pg_sys::Node>(arguments)[..] {
            [left, right] if array => {
                format!("{} {} ANY ({})", side(left), text(name), side(right))
            }
            [left, right] => format!("{} {} {}", side(left), text(name), side(right)),
            _ => format!("{LEFT_OUT} {column} {LEFT_OUT}"),
        }
    }
}

/// # Safety
/// An expression of the query.
unsafe fn operand(
    root: *mut pg_sys::PlannerInfo,
    names: &Names,
    expression: *mut pg_sys::Node,
) -> String {
    // SAFETY: the caller's promise; a node is what its tag says.
    unsafe {
        if let Some(of) = plaintext(names, expression) {
            return column(root, of.relation, of.number);
        }
        match (*expression).type_ {
            NodeTag::T_RelabelType => {
                let inner = (*expression.cast::<pg_sys::RelabelType>()).arg;
                operand(root, names, inner.cast())
            }
            NodeTag::T_Const => constant(&*expression.cast()),
            NodeTag::T_Param => {
                let it = &*expression.cast::<pg_sys::Param>();
                match it.paramkind {
                    pg_sys::ParamKind::PARAM_EXTERN => format!("${}", it.paramid),
                    _ => LEFT_OUT.into(),
                }
            }
            NodeTag::T_Var => {
                let it = &*expression.cast::<pg_sys::Var>();
                match it.varlevelsup {
                    0 => column(root, it.varno, it.varattno),
                    _ => LEFT_OUT.into(),
                }
            }
            _ => LEFT_OUT.into(),
        }
    }
}

/// # Safety
/// A column of a relation of the query.
unsafe fn column(root: *mut pg_sys::PlannerInfo, relation: i32, number: i16) -> String {
    // SAFETY: the caller's promise; the planner has an entry for each relation, and names are C strings.
    unsafe {
        let entry = *(*root).simple_rte_array.add(relation as usize);
        if entry.is_null() || number <= 0 {
            return LEFT_OUT.into();
        }
        text(pg_sys::get_rte_attribute_name(entry, number))
    }
}

/// # Safety
/// A constant.
unsafe fn constant(it: &pg_sys::Const) -> String {
    if it.constisnull {
        return "NULL".into();
    }
    let (mut output, mut is_varlena) = (pg_sys::Oid::INVALID, false);
    // SAFETY: the caller's promise; the type's own function writes its value.
    unsafe {
        pg_sys::getTypeOutputInfo(it.consttype, &raw mut output, &raw mut is_varlena);
        let written = pg_sys::OidOutputFunctionCall(output, it.constvalue);
        colcrypt_domain::quote::quote_literal(text(written))
    }
}

/// # Safety
/// A C string, or null.
unsafe fn text(string: *const std::ffi::c_char) -> String {
    if string.is_null() {
        return LEFT_OUT.into();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(string) }
        .to_string_lossy()
        .into_owned()
}
