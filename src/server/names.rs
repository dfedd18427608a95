//! Names as the server's catalogs have them.

use std::ffi::CStr;

use pgrx::pg_sys;

/// A name of the server's catalogs. In a database of another encoding one may be no UTF-8: then it is told apart from
/// others, and is the name of nothing that we have.
pub fn name_of(name: &pg_sys::NameData) -> String {
    // SAFETY: the server's names end with NUL.
    text_of(unsafe { CStr::from_ptr(name.data.as_ptr()) })
}

/// As [`name_of`], of a text of the server's.
pub fn text_of(text: &CStr) -> String {
    match text.to_str() {
        Ok(text) => text.to_owned(),
        Err(_) => text.to_bytes().escape_ascii().to_string(),
    }
}
