//! A parameter without a type as an argument of a context. Contexts are made of values of any type, so nothing tells the
//! server which one is meant; its own message names neither the function nor the way out.

use std::ffi::{CStr, c_void};

use pgrx::{PgList, pg_guard, pg_sys};

use crate::error::Error;
use crate::server::report;

static mut PREVIOUS: pg_sys::post_parse_analyze_hook_type = None;

/// Puts the hook in place, behind those there are.
pub fn register() {
    // SAFETY: in the postmaster, in _PG_init.
    unsafe {
        PREVIOUS = pg_sys::post_parse_analyze_hook;
        pg_sys::post_parse_analyze_hook = Some(on_analyzed);
    }
}

/// Without pgrx's guard: most statements have nothing that could raise.
unsafe extern "C-unwind" fn on_analyzed(
    state: *mut pg_sys::ParseState,
    query: *mut pg_sys::Query,
    jumble: *mut pg_sys::JumbleState,
) {
    // SAFETY: the server's call; a query that it has just analyzed. Nothing here wants dropping when raise goes.
    unsafe {
        if let Some(previous) = PREVIOUS {
            previous(state, query, jumble);
        }
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
#[pg_guard]
unsafe extern "C-unwind" fn untyped(query: *mut pg_sys::Query) -> i32 {
    let mut number = 0;
    // SAFETY: as given to the hook.
    unsafe { walk(query.cast(), (&raw mut number).cast()) };
    number
}

#[pg_guard]
unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, found: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: a node of the tree, of the type that it says it has; `found` is the number of `untyped`.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_Query => {
                pg_sys::query_tree_walker(node.cast(), Some(walk), found, 0)
            }
            pg_sys::NodeTag::T_FuncExpr => {
                let call = node.cast::<pg_sys::FuncExpr>();
                let number = untyped_argument((*call).args);
                if number > 0 && is_of_contexts((*call).funcid) {
                    *found.cast::<i32>() = number;
                    return true;
                }
                pg_sys::expression_tree_walker(node, Some(walk), found)
            }
            _ => pg_sys::expression_tree_walker(node, Some(walk), found),
        }
    }
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

/// Whether it is row_context or place_context.
///
/// # Safety
/// In a transaction.
unsafe fn is_of_contexts(function: pg_sys::Oid) -> bool {
    // SAFETY: look-ups in the catalogs; names are C strings or null.
    unsafe {
        let is = |name: *mut std::ffi::c_char, wanted: &[&CStr]| {
            !name.is_null() && wanted.contains(&CStr::from_ptr(name))
        };
        is(
            pg_sys::get_func_name(function),
            &[c"row_context", c"place_context"],
        ) && is(
            pg_sys::get_namespace_name(pg_sys::get_func_namespace(function)),
            &[c"colcrypt"],
        )
    }
}
