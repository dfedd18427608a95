//! decrypts_to and decrypts_to_in_place: whether a ciphertext is of a value. A plan that looks a row up by its term
//! calls one of them, where decrypt_col, the context and the operator would be three functions to begin and to call.

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::server::call::Call;
use crate::server::call_site::site;
use crate::server::types;
use crate::server::varlena::Varlena;
use crate::sql::data::{self, DecryptSite};
use crate::sql::entry::sql_functions;
use crate::values::context::{ContextSite, place_context_of};
use crate::values::same::Same;

/// The argument that the ciphertext is compared with, and what follows it: the context, or a place's label and key.
const VALUE: usize = 1;
const CONTEXT: usize = 2;

/// What a call site remembers.
#[derive(Clone, Copy)]
struct Compared {
    same: Same,
    decrypted: DecryptSite,
}

impl Compared {
    fn new(call: Call) -> Result<Self> {
        let type_oid = call.argument_type(VALUE);
        let Some(same) = Same::of(type_oid) else {
            return Err(Error::InvalidParameter {
                message: format!(
                    "values of type {} may be equal without being the same bytes",
                    types::type_name(type_oid)
                ),
                hint: "Compare what decrypt_col gives.".into(),
            });
        };
        Ok(Self {
            same,
            decrypted: DecryptSite::new(call, type_oid)?,
        })
    }

    /// Whether the call's ciphertext is of its value, neither of which is NULL.
    #[inline(always)]
    fn is(
        &mut self,
        call: Call,
        (stored, value): (pg_sys::Datum, pg_sys::Datum),
        context: &[u8],
    ) -> Result<pg_sys::Datum> {
        // SAFETY: declared as ciphertext; what it decrypts to is of the type that the parser resolved for the value.
        let is = unsafe {
            let opened = self.decrypted.open(call, stored, context, "decrypts_to")?;
            self.same.are(opened, value)
        };
        Ok(pg_sys::Datum::from(is))
    }
}

/// The ciphertext and the value; none where one of them is NULL.
#[inline(always)]
fn both(call: Call) -> Option<(pg_sys::Datum, pg_sys::Datum)> {
    call.datum(0).zip(call.datum(VALUE))
}

/// decrypts_to(value, plaintext [, context]).
fn decrypts_to(call: Call) -> Result<pg_sys::Datum> {
    // SAFETY: this call site only ever uses Compared.
    let site = unsafe { site(call, || Compared::new(call))? };
    let context = data::context(call, CONTEXT)?;
    match both(call) {
        Some(both) => site.is(call, both, data::bytes_of(&context)),
        None => Ok(call.null()),
    }
}

/// decrypts_to_in_place(value, plaintext, label, VARIADIC key): with the context that place_context makes of the last.
fn decrypts_to_in_place(call: Call) -> Result<pg_sys::Datum> {
    // SAFETY: this call site only ever uses this pair.
    let (compared, place) = unsafe {
        site(call, || {
            let place = ContextSite::new(call, CONTEXT as i32 + 1)?;
            Ok((Compared::new(call)?, place))
        })?
    };
    let Some(both) = both(call) else {
        return Ok(call.null());
    };
    let context = place_context_of(place, call, CONTEXT)?;
    // SAFETY: a bytea that was just made.
    let context = unsafe { Varlena::from_datum(context) };
    compared.is(call, both, context.bytes())
}

sql_functions! {
    UsesKeys {
        decrypts_to => decrypts_to;
        decrypts_to_in_place => decrypts_to_in_place;
    }
}
