//! row_context and place_context: SQL values as the bytes that a value is bound to.

use colcrypt_core::context::{ContextBuilder, pair};
use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::{self, Call, Varlena};
use crate::plaintext::Codec;

fn row_context(call: Call) -> Result<pg_sys::Datum> {
    context_of(ContextBuilder::default(), call, 0)
}

/// The same with a label before, the name of the place.
fn place_context(call: Call) -> Result<pg_sys::Datum> {
    let label = call.text(0, "label")?;
    let builder = ContextBuilder::labelled(label.as_bytes()).map_err(|_| label_length(&label))?;
    context_of(builder, call, 1)
}

/// A context and the one that it takes the place of.
fn either_context(call: Call) -> Result<pg_sys::Datum> {
    let bytes = |index, name| {
        let datum = call.datum(index).ok_or(Error::NullArgument(name))?;
        // SAFETY: declared as bytea.
        Ok(unsafe { Varlena::from_datum(datum) })
    };
    let (first, former): (Result<Varlena>, Result<Varlena>) =
        (bytes(0, "context"), bytes(1, "former"));
    pg::varlena_from(&pair(first?.bytes(), former?.bytes())?)
}

fn label_length(label: &str) -> Error {
    Error::InvalidParameter {
        message: format!("a label of {} bytes", label.len()),
        hint: "A label has 1 to 255 bytes, such as 'customer.iban'.".into(),
    }
}

fn context_of(mut builder: ContextBuilder, call: Call, from: i32) -> Result<pg_sys::Datum> {
    for (value, declared) in variadic_arguments(call, from)? {
        // SAFETY: a look-up in the type catalog.
        let base = unsafe { pg_sys::getBaseType(declared) };
        // SAFETY: reads a static: the memory of this call.
        let codec = Codec::for_type(base, unsafe { pg_sys::CurrentMemoryContext })?;
        let name = if base == pg_sys::BPCHAROID {
            // A name of its own: its trailing blanks count in values of the first encoding only.
            "bpchar".into()
        } else if codec.is_text() {
            "text".into()
        } else {
            pg::canonical_type_name(base)?
        };
        match value {
            None => builder.push(&name, None)?,
            Some(value) => {
                codec.with_bytes(value, |bytes| Ok(builder.push(&name, Some(bytes))?))?;
            }
        }
    }
    pg::varlena_from(&builder.finish())
}

/// The arguments of a VARIADIC "any" function, also when called with VARIADIC array.
fn variadic_arguments(call: Call, from: i32) -> Result<Vec<(Option<pg_sys::Datum>, pg_sys::Oid)>> {
    let mut values = std::ptr::null_mut();
    let mut types = std::ptr::null_mut();
    let mut nulls = std::ptr::null_mut();
    // SAFETY: the server allocates three arrays of `count` elements.
    unsafe {
        let count = pg_sys::extract_variadic_args(
            call.fcinfo(),
            from,
            true,
            &mut values,
            &mut types,
            &mut nulls,
        );
        if count < 0 {
            return Err(Error::NullArgument("the array"));
        }
        Ok((0..count as usize)
            .map(|at| {
                let value = (!*nulls.add(at)).then(|| *values.add(at));
                (value, *types.add(at))
            })
            .collect())
    }
}

crate::sql_functions! {
    colcrypt_either_context / pg_finfo_colcrypt_either_context => either_context;
    colcrypt_place_context / pg_finfo_colcrypt_place_context => place_context;
    colcrypt_row_context / pg_finfo_colcrypt_row_context => row_context;
}
