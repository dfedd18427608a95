//! Texts between the database's encoding and UTF-8, whose bytes are what is encrypted.

use std::ffi::c_int;
use std::panic::AssertUnwindSafe;

use pgrx::{PgTryBuilder, pg_sys};
use zeroize::Zeroize;

use crate::error::{Error, Result};
use crate::server::report::{may_be_shown, of_size};

unsafe extern "C-unwind" {
    #[link_name = "GetDatabaseEncoding"]
    fn unguarded_database_encoding() -> c_int;
    #[link_name = "pg_get_client_encoding"]
    fn unguarded_client_encoding() -> c_int;
}

#[inline(always)]
pub fn database_encoding() -> c_int {
    // SAFETY: reads a static and cannot raise; unguarded because it is asked per value.
    unsafe { unguarded_database_encoding() }
}

#[inline(always)]
fn client_encoding() -> c_int {
    // SAFETY: as above.
    unsafe { unguarded_client_encoding() }
}

/// SQL_ASCII means "whatever the client sent": nothing can be converted, so it counts as UTF-8 here
/// and is verified when read.
#[inline(always)]
pub fn database_is_utf8() -> bool {
    let encoding = database_encoding();
    encoding == pg_sys::pg_enc::PG_UTF8 as c_int
        || encoding == pg_sys::pg_enc::PG_SQL_ASCII as c_int
}

/// Whether its texts may be any bytes.
#[inline(always)]
pub fn database_has_no_encoding() -> bool {
    database_encoding() == pg_sys::pg_enc::PG_SQL_ASCII as c_int
}

/// Gives `body` a text of the database in UTF-8.
///
/// # Errors
/// Of the conversion, where one is needed.
#[inline(always)]
pub fn with_utf8<R>(bytes: &[u8], body: impl FnOnce(&[u8]) -> Result<R>) -> Result<R> {
    if database_is_utf8() {
        body(bytes)
    } else {
        let to = pg_sys::pg_enc::PG_UTF8 as c_int;
        with_converted(bytes, database_encoding(), to, body)
    }
}

/// Gives `body` the text in another encoding, and wipes that; a character that the target lacks is an error without the
/// text in it.
pub fn with_converted<R>(
    bytes: &[u8],
    from: c_int,
    to: c_int,
    body: impl FnOnce(&[u8]) -> Result<R>,
) -> Result<R> {
    let input = bytes.as_ptr().cast_mut();
    let output = PgTryBuilder::new(AssertUnwindSafe(|| {
        // SAFETY: converts `bytes` into fresh memory, or gives back the same pointer when nothing had to be done.
        Ok(unsafe { pg_sys::pg_do_encoding_conversion(input, bytes.len() as c_int, from, to) })
    }))
    .catch_others(|error| {
        if may_be_shown(&error) {
            error.rethrow()
        }
        Err(
            of_size(&error, bytes.len()).unwrap_or_else(|| Error::PlaintextInvalid {
                type_name: "text".into(),
            }),
        )
    })
    .execute()?;
    if output == input {
        return body(bytes);
    }
    // SAFETY: fresh memory, NUL-terminated, ours to wipe and free.
    unsafe {
        let converted = std::slice::from_raw_parts_mut(output, libc::strlen(output.cast()));
        let outcome = body(converted);
        converted.zeroize();
        pg_sys::pfree(output.cast());
        outcome
    }
}

/// Runs send or receive functions with UTF-8 as the client encoding, which is what they convert to
/// and from, and puts the session's own back.
pub fn in_utf8<R>(body: impl FnOnce() -> R) -> R {
    struct Restore(Option<c_int>);
    impl Drop for Restore {
        fn drop(&mut self) {
            if let Some(encoding) = self.0 {
                // SAFETY: an encoding that was in force a moment ago is prepared.
                unsafe { pg_sys::SetClientEncoding(encoding) };
            }
        }
    }
    let utf8 = pg_sys::pg_enc::PG_UTF8 as c_int;
    let before = client_encoding();
    let restore = if before == utf8 || database_encoding() == pg_sys::pg_enc::PG_SQL_ASCII as c_int
    {
        Restore(None)
    } else {
        // SAFETY: sets the conversion in force; UTF-8 is either the database's own encoding or
        // prepared here.
        unsafe {
            pg_sys::PrepareClientEncoding(utf8);
            pg_sys::SetClientEncoding(utf8);
        }
        Restore(Some(before))
    };
    let result = body();
    drop(restore);
    result
}
