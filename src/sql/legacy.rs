//! Functions of earlier releases that are no more. Their symbols stay, since the server wants them when a database of
//! an earlier release is restored or upgraded with this library.

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::server::call::Call;
use crate::sql::entry::sql_functions;

fn is_gone(_: Call) -> Result<pg_sys::Datum> {
    Err(Error::InvalidParameter {
        message: "this function is of an earlier release of colcrypt, and no more".into(),
        hint: "Run ALTER EXTENSION colcrypt UPDATE.".into(),
    })
}

sql_functions! {
    Asks {
        reencrypt_to => is_gone;
    }
}
