//! Expressions over a row in which nothing runs but the server's own code, and which name the same for the same row
//! always: whoever wrote them, anybody may have them computed.

use std::ffi::{CStr, c_char};

use pgrx::pg_sys::{self, NodeTag};

use crate::server::tree;

/// Functions that are not immutable only because they write values of any type as text.
const WRITE_TEXT: [u32; 5] = [
    pg_sys::F_TEXTANYCAT,
    pg_sys::F_ANYTEXTCAT,
    pg_sys::F_CONCAT,
    pg_sys::F_CONCAT_WS,
    pg_sys::F_FORMAT_TEXT_ANY,
];

/// Whether an object was there when the server was made: nobody alters it.
const fn is_builtin(oid: pg_sys::Oid) -> bool {
    oid.to_u32() < pg_sys::FirstUnpinnedObjectId
}

/// What in an expression over the relation of index 1 is not the server's own, or may be another for the same row: in
/// words that go after "it". None where all is well.
///
/// # Safety
/// An analyzed expression, in a transaction.
pub unsafe fn objection(node: *mut pg_sys::Node) -> Option<String> {
    // SAFETY: the caller's promise: a node is what its tag says, and its parts are nodes or lists of them.
    unsafe {
        if node.is_null() {
            return None;
        }
        if tree::is(node, NodeTag::T_List) {
            let members = tree::items::<pg_sys::Node>(node.cast());
            return members.into_iter().find_map(|member| objection(member));
        }
        // This one has a type only as part of a CASE.
        if !tree::is(node, NodeTag::T_CaseWhen)
            && let Some(why) = of_type(pg_sys::exprType(node))
        {
            return Some(why);
        }
        macro_rules! part {
            ($of:ident: $($field:ident),+) => {{
                let it = &*node.cast::<pg_sys::$of>();
                [$(it.$field.cast::<pg_sys::Node>()),+].into_iter().find_map(|part| objection(part))
            }};
        }
        match (*node).type_ {
            NodeTag::T_Var => of_column(&*node.cast::<pg_sys::Var>()),
            NodeTag::T_Const | NodeTag::T_CaseTestExpr => None,
            NodeTag::T_FuncExpr => {
                let call = &*node.cast::<pg_sys::FuncExpr>();
                of_function(call.funcid).or_else(|| part!(FuncExpr: args))
            }
            NodeTag::T_OpExpr | NodeTag::T_DistinctExpr | NodeTag::T_NullIfExpr => {
                let operator = &*node.cast::<pg_sys::OpExpr>();
                of_operator(operator.opno).or_else(|| part!(OpExpr: args))
            }
            NodeTag::T_ScalarArrayOpExpr => {
                let operator = &*node.cast::<pg_sys::ScalarArrayOpExpr>();
                of_operator(operator.opno).or_else(|| part!(ScalarArrayOpExpr: args))
            }
            NodeTag::T_CoerceViaIO => part!(CoerceViaIO: arg),
            NodeTag::T_RelabelType => part!(RelabelType: arg),
            NodeTag::T_CollateExpr => part!(CollateExpr: arg),
            NodeTag::T_BoolExpr => part!(BoolExpr: args),
            NodeTag::T_BooleanTest => part!(BooleanTest: arg),
            NodeTag::T_NullTest => part!(NullTest: arg),
            NodeTag::T_CoalesceExpr => part!(CoalesceExpr: args),
            NodeTag::T_CaseExpr => part!(CaseExpr: arg, args, defresult),
            NodeTag::T_CaseWhen => part!(CaseWhen: expr, result),
            NodeTag::T_ArrayExpr => part!(ArrayExpr: elements),
            _ => Some("is more than functions, operators, casts and CASE over columns".into()),
        }
    }
}

fn of_column(column: &pg_sys::Var) -> Option<String> {
    if column.varno != 1 || column.varlevelsup > 0 || column.varattno <= 0 {
        return Some("reads more than columns of its own row".into());
    }
    None
}

/// Whatever is computed may be made text, or from text.
unsafe fn of_type(declared: pg_sys::Oid) -> Option<String> {
    let (mut output, mut input) = (pg_sys::Oid::INVALID, pg_sys::Oid::INVALID);
    let (mut is_varlena, mut parameter) = (false, pg_sys::Oid::INVALID);
    // SAFETY: look-ups in the catalogs of a type that is there.
    unsafe {
        let element = pg_sys::get_element_type(declared);
        let of = match element {
            pg_sys::Oid::INVALID => declared,
            element => element,
        };
        if !is_builtin(of) || !is_builtin(declared) {
            let name = CStr::from_ptr(pg_sys::format_type_be(declared));
            return Some(format!(
                "has a value of type {}, which is not one of the server's own",
                name.to_string_lossy()
            ));
        }
        pg_sys::getTypeOutputInfo(of, &mut output, &mut is_varlena);
        pg_sys::getTypeInputInfo(of, &mut input, &mut parameter);
        let is_stable = [output, input].into_iter().any(|function| {
            pg_sys::func_volatile(function) != pg_sys::PROVOLATILE_IMMUTABLE as c_char
        });
        is_stable.then(|| {
            let name = CStr::from_ptr(pg_sys::format_type_be(of));
            format!(
                "has a value of type {}, whose text depends on the session's settings",
                name.to_string_lossy()
            )
        })
    }
}

unsafe fn of_operator(operator: pg_sys::Oid) -> Option<String> {
    // SAFETY: look-ups in the catalogs of an operator that is there.
    unsafe {
        // Another one may take its name later.
        if !is_builtin(operator) {
            let name = CStr::from_ptr(pg_sys::get_opname(operator)).to_string_lossy();
            return Some(format!(
                "uses operator {name}, which is not one of the server's own"
            ));
        }
        of_function(pg_sys::get_opcode(operator))
    }
}

unsafe fn of_function(function: pg_sys::Oid) -> Option<String> {
    // SAFETY: look-ups in the catalogs of a function that is there.
    unsafe {
        let is_ours = is_builtin(function);
        let is_immutable = WRITE_TEXT.contains(&function.to_u32())
            || (is_ours
                && pg_sys::func_volatile(function) == pg_sys::PROVOLATILE_IMMUTABLE as c_char);
        if is_ours && is_immutable {
            return None;
        }
        let name = CStr::from_ptr(pg_sys::format_procedure(function)).to_string_lossy();
        Some(match is_ours {
            false => format!("calls {name}, which is not one of the server's own functions"),
            true => format!("calls {name}, which may say another thing each time"),
        })
    }
}
