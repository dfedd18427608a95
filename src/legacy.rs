//! Functions of earlier releases that are no more. Their symbols stay, since the server wants them when a database of an
//! earlier release is restored or upgraded with this library.

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::Call;

fn is_gone(_: Call) -> Result<pg_sys::Datum> {
    Err(Error::InvalidParameter {
        message: "this function is of an earlier release of colcrypt, and no more".into(),
        hint: "Run ALTER EXTENSION colcrypt UPDATE.".into(),
    })
}

crate::sql_functions! {
    colcrypt_reencrypt_to / pg_finfo_colcrypt_reencrypt_to => is_gone;
}
