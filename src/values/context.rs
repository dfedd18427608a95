//! row_context and place_context: SQL values as the bytes that a value is bound to.

use std::borrow::Cow;
use std::cell::RefCell;

use colcrypt_core::context::{self, ContextBuilder, ContextWriter, pair};
use colcrypt_core::place::MAX_LABEL;
use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::server::call::Call;
use crate::server::call_site::{kept, site};
use crate::server::encoding::with_utf8;
use crate::server::varlena::{self, Varlena};
use crate::values::codec::Codec;

pub fn row_context(call: Call) -> Result<pg_sys::Datum> {
    // SAFETY: this call site only ever uses ContextSite.
    let site = unsafe { site(call, || ContextSite::new(call, 0))? };
    context_of(site, &[], call, 0)
}

/// The same with a label before, the name of the place.
pub fn place_context(call: Call) -> Result<pg_sys::Datum> {
    // SAFETY: this call site only ever uses ContextSite.
    let site = unsafe { site(call, || ContextSite::new(call, 1))? };
    place_context_of(site, call, 0)
}

/// The context of a place, of a call's arguments from the label on.
///
/// # Errors
/// Of a label that is none, and of a value that has no bytes.
#[inline(always)]
pub fn place_context_of(site: &ContextSite, call: Call, label_at: usize) -> Result<pg_sys::Datum> {
    let Some(label) = call.datum(label_at) else {
        return Err(Error::NullArgument("label"));
    };
    // SAFETY: declared as text.
    let label = unsafe { Varlena::from_datum(label) };
    if !(1..=MAX_LABEL).contains(&label.bytes().len()) {
        return Err(label_length(label.bytes().len()));
    }
    with_utf8(label.bytes(), |label| {
        context_of(site, label, call, label_at as i32 + 1)
    })
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

fn label_length(bytes: usize) -> Error {
    Error::InvalidParameter {
        message: format!("a label of {bytes} bytes"),
        hint: "A label has 1 to 255 bytes, such as 'customer.iban'.".into(),
    }
}

/// A value that a call site's contexts hold: how it becomes bytes, and what stands before them.
#[derive(Clone, Copy)]
struct Part {
    codec: Codec,
    head: &'static [u8],
}

thread_local! {
    /// What stands before values of the types that are looked up nowhere, once it was made.
    static HEADS: RefCell<Vec<(pg_sys::Oid, &'static [u8])>> = const { RefCell::new(Vec::new()) };
}

impl Part {
    fn new(call: Call, declared: pg_sys::Oid) -> Result<Self> {
        // SAFETY: the call site's own memory context, where the codec is kept.
        let codec = Codec::for_type(declared, unsafe { (*call.flinfo()).fn_mcxt })?;
        let made = HEADS.with_borrow(|heads| {
            let found = heads.iter().find(|(of, _)| *of == codec.base_type);
            found.map(|&(_, head)| head)
        });
        let head = match made {
            Some(head) => head,
            None => Self::head(call, &codec)?,
        };
        Ok(Self { codec, head })
    }

    #[cold]
    fn head(call: Call, codec: &Codec) -> Result<&'static [u8]> {
        let name = codec.context_name()?;
        let head = context::head(&name)?;
        if let (Cow::Borrowed(_), true) = (&name, codec.is_built_in()) {
            let head: &'static [u8] = head.leak();
            HEADS.with_borrow_mut(|heads| heads.push((codec.base_type, head)));
            return Ok(head);
        }
        kept(call, head.len(), |at| Ok(head[at]))
    }
}

/// What a call site remembers; nothing where its arguments are elements of an array, or literals without a type.
#[derive(Clone, Copy)]
pub struct ContextSite(Option<&'static [Part]>);

impl ContextSite {
    /// Of the arguments from the given one on.
    ///
    /// # Errors
    /// For a type whose values have no bytes.
    pub fn new(call: Call, from: i32) -> Result<Self> {
        if call.is_variadic() {
            return Ok(Self(None));
        }
        let untyped = |index| {
            matches!(
                call.argument_type(index),
                pg_sys::Oid::INVALID | pg_sys::UNKNOWNOID
            )
        };
        let from = from as usize;
        if (from..call.len()).any(untyped) {
            return Ok(Self(None));
        }
        let parts = kept(call, call.len().saturating_sub(from), |at| {
            Part::new(call, call.argument_type(from + at))
        })?;
        Ok(Self(Some(parts)))
    }
}

/// Most contexts fit: the room is cleared for each, so it is no larger.
const OF_MOST: usize = 128;
/// Contexts of more bytes are made in memory that is asked for.
const ON_STACK: usize = 512;

/// A context of the arguments from the given one on, with a label or an empty one.
#[inline(always)]
fn context_of(site: &ContextSite, label: &[u8], call: Call, from: i32) -> Result<pg_sys::Datum> {
    if let ContextSite(Some(parts)) = site {
        if let Some(context) = written::<OF_MOST>(label, call, from, parts)? {
            return Ok(context);
        }
        if let Some(context) = written_longer(label, call, from, parts)? {
            return Ok(context);
        }
    }
    context_of_any(label, call, from)
}

/// The context, if it fits into so many bytes.
#[inline(always)]
fn written<const ROOM: usize>(
    label: &[u8],
    call: Call,
    from: i32,
    parts: &[Part],
) -> Result<Option<pg_sys::Datum>> {
    let mut room = [0; ROOM];
    let mut writer = ContextWriter::new(&mut room, label);
    for (index, part) in (from as usize..).zip(parts) {
        match call.datum(index) {
            None => writer.push(part.head, None),
            Some(value) => part.codec.with_bytes(value, |bytes| {
                writer.push(part.head, Some(bytes));
                Ok(())
            })?,
        }
    }
    writer.finish().map(varlena::varlena_from).transpose()
}

#[inline(never)]
fn written_longer(
    label: &[u8],
    call: Call,
    from: i32,
    parts: &[Part],
) -> Result<Option<pg_sys::Datum>> {
    written::<ON_STACK>(label, call, from, parts)
}

/// The same for any number of values of any length.
#[cold]
fn context_of_any(label: &[u8], call: Call, from: i32) -> Result<pg_sys::Datum> {
    let mut builder = if label.is_empty() {
        ContextBuilder::default()
    } else {
        ContextBuilder::labelled(label)?
    };
    refuse_untyped_nulls(call, from)?;
    let arguments = Arguments::of(call, from)?;
    for (value, declared) in arguments.iter() {
        // SAFETY: reads a static: the memory of this call.
        let (codec, name) = named_codec(declared, unsafe { pg_sys::CurrentMemoryContext })?;
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

/// Refuses NULL as one writes it for a key that is not known yet. The server would take it for text, so not even the
/// column's own expression over a NULL opened the value. A NULL of a type, as a part of a key may be, is a value like
/// any.
fn refuse_untyped_nulls(call: Call, from: i32) -> Result<()> {
    let is_array = call.is_variadic();
    let is_untyped_null =
        |at| call.datum(at).is_none() && call.argument_type(at) == pg_sys::UNKNOWNOID;
    match !is_array && (from as usize..call.len()).any(is_untyped_null) {
        true => Err(Error::UntypedNull),
        false => Ok(()),
    }
}

/// The codec of a declared type, good as long as `memory` is, and the type's name in contexts.
fn named_codec(
    declared: pg_sys::Oid,
    memory: pg_sys::MemoryContext,
) -> Result<(Codec, Cow<'static, str>)> {
    let codec = Codec::for_type(declared, memory)?;
    Ok((codec, codec.context_name()?))
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
