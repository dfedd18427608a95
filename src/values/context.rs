//! row_context and place_context: SQL values as the bytes that a value is bound to.

use colcrypt_core::context::{ContextBuilder, pair};
use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::server::call::Call;
use crate::server::types;
use crate::server::varlena::{self, Varlena};
use crate::values::codec::Codec;

pub fn row_context(call: Call) -> Result<pg_sys::Datum> {
    context_of(ContextBuilder::default(), call, 0)
}

/// The same with a label before, the name of the place.
pub fn place_context(call: Call) -> Result<pg_sys::Datum> {
    let label = call.text(0, "label")?;
    let builder = ContextBuilder::labelled(label.as_bytes()).map_err(|_| label_length(&label))?;
    context_of(builder, call, 1)
}

/// A context and the one that it takes the place of.
pub fn either_context(call: Call) -> Result<pg_sys::Datum> {
    let bytes = |index, name| {
        let datum = call.datum(index).ok_or(Error::NullArgument(name))?;
        // SAFETY: declared as bytea.
        Ok(unsafe { Varlena::from_datum(datum) })
    };
    let (first, former): (Result<Varlena>, Result<Varlena>) =
        (bytes(0, "context"), bytes(1, "former"));
    varlena::varlena_from(&pair(first?.bytes(), former?.bytes())?)
}

fn label_length(label: &str) -> Error {
    Error::InvalidParameter {
        message: format!("a label of {} bytes", label.len()),
        hint: "A label has 1 to 255 bytes, such as 'customer.iban'.".into(),
    }
}

fn context_of(mut builder: ContextBuilder, call: Call, from: i32) -> Result<pg_sys::Datum> {
    let arguments = Arguments::of(call, from)?;
    for (value, declared) in arguments.iter() {
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
            types::canonical_type_name(base)?
        };
        match value {
            None => builder.push(&name, None)?,
            Some(value) => codec.with_bytes(value, |bytes| {
                let length = builder.len() + bytes.len();
                if length > varlena::MAX_VARLENA {
                    return Err(Error::ValueTooLarge { bytes: length });
                }
                Ok(builder.push(&name, Some(bytes))?)
            })?,
        }
    }
    varlena::varlena_from(&builder.finish())
}

/// The arguments of a VARIADIC "any" function, also when called with VARIADIC array: in the server's memory, since an
/// array may have many.
struct Arguments {
    values: *mut pg_sys::Datum,
    types: *mut pg_sys::Oid,
    nulls: *mut bool,
    count: usize,
}

impl Arguments {
    fn of(call: Call, from: i32) -> Result<Self> {
        let mut values = std::ptr::null_mut();
        let mut types = std::ptr::null_mut();
        let mut nulls = std::ptr::null_mut();
        // SAFETY: the server allocates three arrays of as many elements as it says.
        let count = unsafe {
            pg_sys::extract_variadic_args(
                call.fcinfo(),
                from,
                true,
                &mut values,
                &mut types,
                &mut nulls,
            )
        };
        Ok(Self {
            values,
            types,
            nulls,
            count: usize::try_from(count).map_err(|_| Error::NullArgument("the array"))?,
        })
    }

    fn iter(&self) -> impl Iterator<Item = (Option<pg_sys::Datum>, pg_sys::Oid)> {
        (0..self.count).map(|at| {
            // SAFETY: arrays of `count` elements, which live as long as the call.
            unsafe {
                let value = (!*self.nulls.add(at)).then(|| *self.values.add(at));
                (value, *self.types.add(at))
            }
        })
    }
}
