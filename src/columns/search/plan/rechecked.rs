//! What decides in the end: the condition itself, as a filter behind the one on terms, which says how many rows there
//! are. An equality of a value that is bound to nothing, or to its place, is one call of one function.

use pgrx::pg_sys::{self, NodeTag};

use crate::columns::search::plan::names::Names;
use crate::server::{planned, tree};
use crate::values::same::Same;

/// A condition that says of itself that it is passed by all rows that the one on terms lets pass.
///
/// # Safety
/// A boolean of the query that is being planned; an equality of texts by a deterministic collation.
pub unsafe fn rechecked(names: &Names, condition: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: the caller's promise; the function as it is declared.
    unsafe {
        match decrypts_to(names, condition) {
            Some(made) => made,
            None => planned::call(names.recheck, pg_sys::BOOLOID, [condition]),
        }
    }
}

/// `decrypt_col(c, …) = value` as one call, where the values are equal that are the same bytes.
///
/// # Safety
/// As [`rechecked`].
unsafe fn decrypts_to(names: &Names, condition: *mut pg_sys::Node) -> Option<*mut pg_sys::Node> {
    // SAFETY: the caller's promise; a node is what its tag says.
    unsafe {
        if !tree::is(condition, NodeTag::T_OpExpr) {
            return None;
        }
        let operator = &*condition.cast::<pg_sys::OpExpr>();
        let of = Same::type_compared_by(pg_sys::get_opcode(operator.opno))?;
        let [left, right] = tree::items::<pg_sys::Node>(operator.args)[..] else {
            return None;
        };
        let (opened, value) = match (opened(names, left), opened(names, right)) {
            (Some(opened), _) => (opened, right),
            (None, Some(opened)) => (opened, left),
            (None, None) => return None,
        };
        if [opened.type_oid, pg_sys::exprType(value)] != [of, of] {
            return None;
        }
        let call = |function, more: Vec<*mut pg_sys::Node>| {
            let arguments = [vec![opened.ciphertext, value], more].concat();
            planned::call(function, pg_sys::BOOLOID, arguments)
        };
        let [bare, bound] = names.decrypts_to;
        Some(match opened.context {
            None => call(bare, Vec::new()),
            Some(context) => match place(names, context) {
                Some(place) => call(names.decrypts_to_in_place, place),
                None => call(bound, vec![context]),
            },
        })
    }
}

/// Arguments of decrypts_to_in_place before those of place_context.
const BEFORE_PLACE: usize = 2;

/// A call of decrypt_col.
struct Opened {
    ciphertext: *mut pg_sys::Node,
    context: Option<*mut pg_sys::Node>,
    type_oid: pg_sys::Oid,
}

/// # Safety
/// An expression.
unsafe fn opened(names: &Names, expression: *mut pg_sys::Node) -> Option<Opened> {
    // SAFETY: the caller's promise; a node is what its tag says, and a call has the arguments that are declared.
    unsafe {
        if !tree::is(expression, NodeTag::T_FuncExpr) {
            return None;
        }
        let call = &*expression.cast::<pg_sys::FuncExpr>();
        let form = names.form_of(call.funcid)?;
        let arguments = tree::items::<pg_sys::Node>(call.args);
        // One that is not NULL is an error, which somebody is to get.
        if let Some(at) = form.witness
            && !is_null(*arguments.get(at)?)
        {
            return None;
        }
        Some(Opened {
            ciphertext: *arguments.first()?,
            context: match form.context {
                Some(at) => Some(*arguments.get(at)?),
                None => None,
            },
            type_oid: call.funcresulttype,
        })
    }
}

/// What place_context is called with, if a context is a call of it. The label is a text that is there, so that nothing
/// is said of a context where the value is NULL.
///
/// # Safety
/// An expression.
unsafe fn place(names: &Names, context: *mut pg_sys::Node) -> Option<Vec<*mut pg_sys::Node>> {
    // SAFETY: the caller's promise; a node is what its tag says.
    unsafe {
        let mut at = context;
        while tree::is(at, NodeTag::T_RelabelType) {
            at = (*at.cast::<pg_sys::RelabelType>()).arg.cast();
        }
        if !tree::is(at, NodeTag::T_FuncExpr) {
            return None;
        }
        let call = &*at.cast::<pg_sys::FuncExpr>();
        if !names.is_place_context(call.funcid) || call.funcvariadic {
            return None;
        }
        let arguments = tree::items::<pg_sys::Node>(call.args);
        // Without a key there is no such overload.
        let [label, _key, ..] = arguments[..] else {
            return None;
        };
        let has_label = tree::is(label, NodeTag::T_Const) && !is_null(label);
        let fits = arguments.len() + BEFORE_PLACE <= pg_sys::FUNC_MAX_ARGS as usize;
        (has_label && fits).then_some(arguments)
    }
}

/// Whether an expression is a NULL as it stands.
///
/// # Safety
/// An expression.
unsafe fn is_null(expression: *mut pg_sys::Node) -> bool {
    // SAFETY: the caller's promise; a node is what its tag says.
    unsafe {
        tree::is(expression, NodeTag::T_Const) && (*expression.cast::<pg_sys::Const>()).constisnull
    }
}
