//! A parameter without a type as an argument of a context. Contexts are made of values of any type, so nothing tells
//! the server which one is meant; its own message names neither the function nor the way out.

use std::ffi::{CStr, c_void};

use pgrx::{PgList, pg_guard, pg_sys};

use crate::error::Error;
use crate::server::{report, types};

/// The functions that make contexts.
const CONTEXTS: [&CStr; 2] = [c"row_context", c"place_context"];

/// Refuses a context of a parameter without a type.
///
/// # Safety
/// As [`analyzed::Look`](crate::server::analyzed::Look).
pub unsafe fn look(state: *mut pg_sys::ParseState, query: *mut pg_sys::Query) {
    // SAFETY: the caller's promise. Nothing here wants dropping when raise goes.
    unsafe {
        // Set only where the client leaves the parameters' types to the server.
        if (*state).p_coerce_param_hook.is_none() {
            return;
        }
        let number = untyped(query);
        if number > 0 {
            report::raise_native(Error::UntypedParameter { number });
        }
    }
}

/// The number of a parameter without a type that a context is to be made of; 0 for none.
///
/// # Safety
/// A query.
unsafe fn untyped(query: *mut pg_sys::Query) -> i32 {
    let mut number = 0;
    // SAFETY: the caller's promise.
    unsafe { walk(query.cast(), (&raw mut number).cast()) };
    number
}

/// The server's walkers, without pgrx's guards: with one at each level of an expression a statement would ask for
/// several times the stack that the server takes for it, and fail.
mod server {
    use std::ffi::{c_int, c_void};

    use pgrx::pg_sys::Node;

    type Walker = unsafe extern "C-unwind" fn(*mut Node, *mut c_void) -> bool;

    unsafe extern "C-unwind" {
        #[cfg_attr(feature = "pg15", link_name = "expression_tree_walker")]
        #[cfg_attr(not(feature = "pg15"), link_name = "expression_tree_walker_impl")]
        pub fn expression_tree(node: *mut Node, walker: Option<Walker>, found: *mut c_void)
        -> bool;
        #[cfg_attr(feature = "pg15", link_name = "query_tree_walker")]
        #[cfg_attr(not(feature = "pg15"), link_name = "query_tree_walker_impl")]
        pub fn query_tree(
            node: *mut Node,
            walker: Option<Walker>,
            found: *mut c_void,
            flags: c_int,
        ) -> bool;
    }
}

/// An ERROR passes it by longjmp: nothing here wants dropping.
unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, found: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: a node of the tree, of the type that it says it has; `found` is the number of `untyped`.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_Query => server::query_tree(node, Some(walk), found, 0),
            pg_sys::NodeTag::T_FuncExpr => {
                let call = node.cast::<pg_sys::FuncExpr>();
                let number = untyped_argument((*call).args);
                if number > 0 && is_context((*call).funcid) {
                    *found.cast::<i32>() = number;
                    return true;
                }
                server::expression_tree(node, Some(walk), found)
            }
            _ => server::expression_tree(node, Some(walk), found),
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn is_context(function: pg_sys::Oid) -> bool {
    // SAFETY: a statement is analyzed in a transaction.
    unsafe { types::is_function(function, &CONTEXTS) }
}

/// # Safety
/// A list of expressions.
unsafe fn untyped_argument(arguments: *mut pg_sys::List) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        PgList::<pg_sys::Node>::from_pg(arguments)
            .iter_ptr()
            .filter(|node| (**node).type_ == pg_sys::NodeTag::T_Param)
            .map(|node| &*node.cast::<pg_sys::Param>())
            .find(|parameter| {
                parameter.paramkind == pg_sys::ParamKind::PARAM_EXTERN
                    && parameter.paramtype == pg_sys::UNKNOWNOID
            })
            .map_or(0, |parameter| parameter.paramid)
    }
}
