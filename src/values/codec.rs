//! Values as bytes and back: what is encrypted is the type's binary send form, with text in UTF-8, so
//! that no setting of a session or a database changes it. jsonb alone is written as it is stored, where every server
//! that does the same can take it as it is: its send form is its text, which costs several encryptions to make.
//!
//! Text-like values and fixed-width numbers are written directly, the same bytes their send functions
//! would give; every other type goes through its own functions.

use std::borrow::Cow;
use std::ffi::c_int;
use std::panic::AssertUnwindSafe;

use colcrypt_core::jsonb::{self, JsonbError};
use colcrypt_core::record::{self, Shape};
use colcrypt_core::{PlaintextType, memory, numeric};
use pgrx::{PgTryBuilder, pg_sys};
use zeroize::{Zeroize, Zeroizing};

use crate::catalog::type_names;
use crate::error::{Error, Result};
use crate::server::encoding::{
    database_encoding, database_has_no_encoding, database_is_utf8, in_utf8, with_converted,
    with_utf8,
};
use crate::server::report::{may_be_shown, of_size};
use crate::server::types;
use crate::server::varlena::{self, Varlena};
use crate::values::shape::{self, shape_of};

/// How values of the types that most columns have become bytes, and the type's name: nothing of it is ever otherwise,
/// so nothing is looked up.
fn plain(base_type: pg_sys::Oid) -> Option<(Form, &'static str)> {
    Some(match base_type {
        pg_sys::TEXTOID => (Form::Text, "text"),
        pg_sys::VARCHAROID => (Form::Text, "varchar"),
        pg_sys::BPCHAROID => (Form::Text, "bpchar"),
        pg_sys::BYTEAOID => (Form::Bytea, "bytea"),
        pg_sys::BOOLOID => (Form::Fixed(1), "bool"),
        pg_sys::INT2OID => (Form::Fixed(2), "int2"),
        pg_sys::INT4OID => (Form::Fixed(4), "int4"),
        pg_sys::FLOAT4OID => (Form::Fixed(4), "float4"),
        pg_sys::DATEOID => (Form::Fixed(4), "date"),
        pg_sys::OIDOID => (Form::Fixed(4), "oid"),
        pg_sys::INT8OID => (Form::Fixed(8), "int8"),
        pg_sys::FLOAT8OID => (Form::Fixed(8), "float8"),
        pg_sys::TIMESTAMPOID => (Form::Fixed(8), "timestamp"),
        pg_sys::TIMESTAMPTZOID => (Form::Fixed(8), "timestamptz"),
        pg_sys::TIMEOID => (Form::Fixed(8), "time"),
        pg_sys::UUIDOID => (Form::Uuid, "uuid"),
        _ => return None,
    })
}

/// How values of one type become bytes and back. Plain data: lives in the function's own memory.
#[derive(Clone, Copy)]
pub struct Codec {
    /// The base type: a domain's values are stored as what is under it.
    pub base_type: pg_sys::Oid,
    form: Form,
}

#[derive(Clone, Copy)]
enum Form {
    /// text, varchar, char: the characters.
    Text,
    /// bytea: the bytes.
    Bytea,
    /// A by-value type of this many bytes: big-endian.
    Fixed(usize),
    Uuid,
    /// numeric: as its functions would, which are asked for unusual numbers.
    Numeric(Functions),
    /// jsonb: its functions are for the send form.
    Jsonb(Functions),
    /// A composite type or an enum, or an array of one.
    Composite(Functions),
    Functions(Functions),
}

/// A type's send and receive functions, looked up once: they live as long as the codec.
#[derive(Clone, Copy)]
struct Functions {
    send: *mut pg_sys::FmgrInfo,
    receive: *mut pg_sys::FmgrInfo,
    io_parameter: pg_sys::Oid,
}

impl Codec {
    /// What a value's header says about the type when it is in its send form: all text-like types are text.
    fn sent_type<'a>(&self, name: &'a str) -> Result<PlaintextType<'a>> {
        Ok(match self.form {
            Form::Text => PlaintextType::built_in(pg_sys::TEXTOID.to_u32())?,
            _ if self.is_built_in() => PlaintextType::built_in(self.base_type.to_u32())?,
            _ => PlaintextType::Named(name),
        })
    }

    /// The type, and the form, that a value is encrypted in: see [`with_written`](Self::with_written).
    pub fn written_type<'a>(&self, name: &'a str) -> Result<PlaintextType<'a>> {
        if matches!(self.form, Form::Jsonb(_)) && stores_jsonb_as_others() {
            return Ok(PlaintextType::StoredJsonb);
        }
        self.sent_type(name)
    }

    /// Whether it makes values of what is written so; `name` is that of the type. One that is not built in may have had
    /// other names: see [`had_name`](Self::had_name).
    #[inline(always)]
    pub fn reads(&self, written: PlaintextType<'_>, name: &[u8]) -> bool {
        match written {
            PlaintextType::StoredJsonb => matches!(self.form, Form::Jsonb(_)),
            PlaintextType::BuiltIn(code) if self.is_text() => is_text_or_name(code),
            PlaintextType::BuiltIn(code) if self.base_type == pg_sys::NAMEOID => {
                is_text_or_name(code)
            }
            PlaintextType::BuiltIn(code) => {
                u32::from(code) == self.base_type.to_u32() || self.reads_as_integer(code)
            }
            PlaintextType::Named(written) => {
                !self.is_text() && !self.is_built_in() && written.as_bytes() == name
            }
        }
    }

    /// Whether the type was called so when a value was written: types are renamed, and moved to other schemas.
    ///
    /// # Errors
    /// Of the catalog scan.
    #[cold]
    pub fn had_name(&self, written: PlaintextType<'_>) -> Result<bool> {
        match written {
            PlaintextType::Named(former) if !self.is_text() && !self.is_built_in() => {
                type_names::is_former(former, self.base_type)
            }
            _ => Ok(false),
        }
    }

    /// Whether a value of another integer type is read by its number: drivers choose a parameter's width by its value.
    fn reads_as_integer(&self, written: u16) -> bool {
        let other = pg_sys::Oid::from(u32::from(written));
        is_integer(other)
            && other != self.base_type
            && (is_integer(self.base_type) || matches!(self.form, Form::Numeric(_)))
    }

    /// An integer that was written in another width, as a value of this type.
    #[cold]
    fn integer_of(
        &self,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<pg_sys::Datum> {
        let invalid = || Error::PlaintextInvalid {
            type_name: types::type_name(self.base_type),
        };
        let mut bytes = Zeroizing::new([0; 8]);
        if !matches!(length, 2 | 4 | 8) {
            return Err(invalid());
        }
        fill(&mut bytes[8 - length..])?;
        let shift = 64 - 8 * length as u32;
        let number = (u64::from_be_bytes(*bytes) << shift).cast_signed() >> shift;
        let fits = match self.base_type {
            pg_sys::INT2OID => i16::try_from(number).is_ok(),
            pg_sys::INT4OID => i32::try_from(number).is_ok(),
            _ => true,
        };
        if !fits {
            return Err(Error::IntegerOutOfRange {
                type_name: types::type_name(self.base_type),
            });
        }
        let datum = pg_sys::Datum::from(number);
        if !matches!(self.form, Form::Numeric(_)) {
            return Ok(datum);
        }
        // SAFETY: the server's function for exactly this type.
        unsafe { pgrx::direct_function_call_as_datum(pg_sys::int8_numeric, &[Some(datum)]) }
            .ok_or_else(invalid)
    }

    /// Whether values are characters, which go by the name of text.
    pub fn is_text(&self) -> bool {
        matches!(self.form, Form::Text)
    }

    /// The type's name in contexts.
    ///
    /// # Errors
    /// Of a type that is not there.
    pub fn context_name(&self) -> Result<Cow<'static, str>> {
        Ok(match plain(self.base_type) {
            // A name of its own: its trailing blanks count in values of the first encoding only.
            Some((Form::Text, name)) if self.base_type == pg_sys::BPCHAROID => name.into(),
            _ if self.is_text() => "text".into(),
            Some((_, name)) => name.into(),
            None => types::canonical_type_name(self.base_type)?.into(),
        })
    }

    /// Whether the type's OID is the same in every PostgreSQL.
    pub fn is_built_in(&self) -> bool {
        self.base_type.to_u32() < PlaintextType::FIRST_UNSTABLE_OID
    }

    /// The codec of a type, good as long as `memory` is.
    ///
    /// # Errors
    /// [`Error::AlreadyEncrypted`] for ciphertext, [`Error::NoBinaryIo`] for a type without binary
    /// functions (pseudo-types among them).
    pub fn for_type(declared: pg_sys::Oid, memory: pg_sys::MemoryContext) -> Result<Self> {
        if let Some((form, _)) = plain(declared) {
            let base_type = declared;
            return Ok(Self { base_type, form });
        }
        // SAFETY: look-ups in the type catalog.
        let base_type = unsafe { pg_sys::getBaseType(declared) };
        refuse_ciphertext(base_type)?;
        let form = match base_type {
            _ if plain(base_type).is_some() => return Self::for_type(base_type, memory),
            pg_sys::NUMERICOID => Form::Numeric(Self::functions(base_type, memory)?),
            pg_sys::JSONBOID => Form::Jsonb(Self::functions(base_type, memory)?),
            // SAFETY: look-ups in the type catalog.
            other if unsafe { is_text_by_another_name(other) } => Form::Text,
            other if !matches!(shape_of(other.to_u32()), Shape::Other) => {
                Form::Composite(Self::functions(base_type, memory)?)
            }
            _ => Form::Functions(Self::functions(base_type, memory)?),
        };
        Ok(Self { base_type, form })
    }

    fn functions(base_type: pg_sys::Oid, memory: pg_sys::MemoryContext) -> Result<Functions> {
        // SAFETY: reads the type's row; the row is released before returning.
        unsafe {
            let tuple = pg_sys::SearchSysCache1(
                pg_sys::SysCacheIdentifier::TYPEOID as i32,
                pg_sys::Datum::from(base_type),
            );
            if tuple.is_null() {
                return Err(Error::NoBinaryIo(base_type.to_u32().to_string()));
            }
            let row = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_type>();
            let (send, receive, pseudo) = (row.typsend, row.typreceive, row.typtype as u8 == b'p');
            let io_parameter = pg_sys::getTypeIOParam(tuple);
            pg_sys::ReleaseSysCache(tuple);
            if pseudo || send == pg_sys::Oid::INVALID || receive == pg_sys::Oid::INVALID {
                return Err(Error::NoBinaryIo(types::type_name(base_type)));
            }
            let look_up = |function| {
                let info = pg_sys::MemoryContextAlloc(memory, size_of::<pg_sys::FmgrInfo>())
                    .cast::<pg_sys::FmgrInfo>();
                pg_sys::fmgr_info_cxt(function, info, memory);
                info
            };
            Ok(Functions {
                send: look_up(send),
                receive: look_up(receive),
                io_parameter,
            })
        }
    }

    /// Gives `body` the bytes to encrypt, in the form of [`written_type`](Self::written_type).
    #[inline(always)]
    pub fn with_written<R>(
        &self,
        value: pg_sys::Datum,
        body: impl FnOnce(&[u8]) -> Result<R>,
    ) -> Result<R> {
        match self.form {
            Form::Jsonb(_) if stores_jsonb_as_others() => {
                // SAFETY: the codec was made for the value's type, which is a varlena.
                body(unsafe { Varlena::from_datum(value) }.bytes())
            }
            _ => self.with_bytes(value, body),
        }
    }

    /// Gives `body` the value's send form. A temporary copy, if one was needed, is wiped.
    #[inline(always)]
    pub fn with_bytes<R>(
        &self,
        value: pg_sys::Datum,
        body: impl FnOnce(&[u8]) -> Result<R>,
    ) -> Result<R> {
        match self.form {
            // SAFETY: the codec was made for the value's type, which is a varlena.
            Form::Bytea => body(unsafe { Varlena::from_datum(value) }.bytes()),
            Form::Text => {
                // SAFETY: as above.
                with_utf8(unsafe { Varlena::from_datum(value) }.bytes(), body)
            }
            Form::Fixed(length) => {
                let bytes = (value.value() as u64).to_be_bytes();
                body(&bytes[8 - length..])
            }
            Form::Uuid => {
                // SAFETY: a uuid datum points to 16 bytes.
                body(unsafe { std::slice::from_raw_parts(value.cast_mut_ptr::<u8>(), 16) })
            }
            Form::Numeric(functions) => {
                // SAFETY: the codec was made for the value's type, which is a varlena.
                let stored = unsafe { Varlena::from_datum(value) };
                let mut buffer = [0; numeric::BUFFER_LEN];
                match numeric::send(stored.bytes(), &mut buffer) {
                    Some(length) => {
                        let outcome = body(&buffer[..length]);
                        buffer.zeroize();
                        outcome
                    }
                    None => functions.send(value, body),
                }
            }
            Form::Jsonb(functions) | Form::Composite(functions) | Form::Functions(functions) => {
                functions.send(value, body)
            }
        }
    }

    /// Makes a value of `length` decrypted bytes that `fill` writes, in a form that it [`reads`](Self::reads).
    #[inline(always)]
    pub fn value_of(
        &self,
        written: PlaintextType<'_>,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<pg_sys::Datum> {
        if let PlaintextType::BuiltIn(code) = written
            && self.reads_as_integer(code)
        {
            return self.integer_of(length, fill);
        }
        let invalid = || Error::PlaintextInvalid {
            type_name: types::type_name(self.base_type),
        };
        match self.form {
            Form::Bytea => varlena::new_varlena(length, fill),
            Form::Text => {
                let datum = varlena::new_varlena(length, fill)?;
                // SAFETY: just made; a text in the server's memory.
                let text = unsafe { Varlena::from_datum(datum) };
                if database_is_utf8() {
                    return match std::str::from_utf8(text.bytes()) {
                        Ok(_) => Ok(datum),
                        Err(_) => Err(invalid()),
                    };
                }
                with_converted(
                    text.bytes(),
                    pg_sys::pg_enc::PG_UTF8 as c_int,
                    database_encoding(),
                    varlena::varlena_from,
                )
                .map_err(|error| match error {
                    Error::PlaintextInvalid { .. } => invalid(),
                    of_size => of_size,
                })
            }
            Form::Fixed(expected) => {
                if length != expected {
                    return Err(invalid());
                }
                let mut bytes = [0; 8];
                fill(&mut bytes[8 - length..])?;
                let unsigned = u64::from_be_bytes(bytes);
                // A Datum carries by-value integers sign-extended, as Int32GetDatum does.
                let datum = match (length, self.base_type) {
                    (2, _) => unsigned as u16 as i16 as i64 as u64,
                    (4, pg_sys::OIDOID) => unsigned,
                    (4, _) => unsigned as u32 as i32 as i64 as u64,
                    (1, _) if unsigned > 1 => return Err(invalid()),
                    _ => unsigned,
                };
                Ok(pg_sys::Datum::from(datum))
            }
            Form::Uuid => {
                if length != 16 {
                    return Err(invalid());
                }
                // SAFETY: 16 fresh bytes.
                unsafe {
                    let pointer = pg_sys::palloc0(16).cast::<u8>();
                    fill(std::slice::from_raw_parts_mut(pointer, 16))?;
                    Ok(pg_sys::Datum::from(pointer))
                }
            }
            Form::Numeric(functions) if length <= numeric::BUFFER_LEN => {
                let mut sent = [0; numeric::BUFFER_LEN];
                let sent = &mut sent[..length];
                fill(sent)?;
                let mut stored = [0; numeric::BUFFER_LEN];
                let made = match numeric::receive(sent, &mut stored) {
                    Some(length) => varlena::varlena_from(&stored[..length]).map(Some),
                    None => functions.receive(length, |out| {
                        out.copy_from_slice(sent);
                        Ok(())
                    }),
                };
                sent.zeroize();
                stored.zeroize();
                made?.ok_or_else(invalid)
            }
            Form::Jsonb(functions) if written == PlaintextType::StoredJsonb => {
                let refused = |error| match error {
                    JsonbError::OutOfMemory(gone) => Error::from(gone),
                    JsonbError::NotJsonb => invalid(),
                };
                if stores_jsonb_as_others() {
                    // Whoever knows the key may have written anything, and the server follows what is stored blindly.
                    return varlena::new_varlena(length, |out| {
                        fill(out)?;
                        jsonb::check(out, database_has_no_encoding(), breathe).map_err(|error| {
                            out.zeroize();
                            refused(error)
                        })
                    });
                }
                let mut stored = Zeroizing::new(memory::zeroed(length)?);
                fill(&mut stored)?;
                let json = jsonb::to_json(&stored, breathe).map_err(refused)?;
                let sent = functions.receive(1 + json.len(), |out| {
                    out[0] = JSONB_SEND_VERSION;
                    out[1..].copy_from_slice(json.as_bytes());
                    Ok(())
                })?;
                sent.ok_or_else(invalid)
            }
            Form::Composite(functions) => {
                let mut sent = Zeroizing::new(memory::zeroed(length)?);
                fill(&mut sent)?;
                let sent =
                    record::widened(&sent, self.base_type.to_u32(), &shape_of)?.unwrap_or(sent);
                // Before: a composite's receive function that fails leaves what it holds to a subtransaction's end.
                let sent = shape::with_labels_of_now(&sent, self.base_type)?.unwrap_or(sent);
                let received = functions.receive(sent.len(), |out| {
                    out.copy_from_slice(&sent);
                    Ok(())
                })?;
                received.ok_or_else(invalid)
            }
            Form::Numeric(functions) | Form::Jsonb(functions) | Form::Functions(functions) => {
                functions.receive(length, fill)?.ok_or_else(invalid)
            }
        }
    }
}

fn is_integer(type_oid: pg_sys::Oid) -> bool {
    matches!(
        type_oid,
        pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID
    )
}

/// `name` is sent as the same characters.
fn is_text_or_name(code: u16) -> bool {
    let written = pg_sys::Oid::from(u32::from(code));
    written == pg_sys::TEXTOID || written == pg_sys::NAMEOID
}

/// A chance to be cancelled.
fn breathe() {
    pgrx::check_for_interrupts!();
}

/// First byte of jsonb's send form (jsonb_send).
const JSONB_SEND_VERSION: u8 = 1;

/// Whether this server stores a jsonb as colcrypt_core::jsonb has it.
#[inline(always)]
fn stores_jsonb_as_others() -> bool {
    cfg!(target_endian = "little") && database_is_utf8()
}

impl Functions {
    /// Gives `body` what the send function makes of the value, and wipes it.
    fn send<R>(self, value: pg_sys::Datum, body: impl FnOnce(&[u8]) -> Result<R>) -> Result<R> {
        let sent = in_utf8(|| {
            // SAFETY: the send function of the value's own type.
            unsafe { pg_sys::SendFunctionCall(self.send, value) }
        });
        // SAFETY: a send function gives a fresh bytea, ours to wipe and free.
        unsafe {
            let bytes = std::slice::from_raw_parts_mut(
                pgrx::varlena::vardata_any(sent).cast_mut().cast::<u8>(),
                pgrx::varlena::varsize_any_exhdr(sent),
            );
            let outcome = body(bytes);
            bytes.zeroize();
            pg_sys::pfree(sent.cast());
            outcome
        }
    }

    /// What the receive function makes of `length` bytes that `fill` writes; none when it refuses them.
    fn receive(
        self,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<Option<pg_sys::Datum>> {
        if length > varlena::MAX_VARLENA {
            return Err(Error::ValueTooLarge { bytes: length });
        }
        // SAFETY: a buffer of length + 1 bytes, NUL-terminated as StringInfo promises, wiped and
        // freed below.
        let (buffer, bytes) = unsafe {
            let buffer = pg_sys::palloc(length + 1).cast::<u8>();
            *buffer.add(length) = 0;
            (buffer, std::slice::from_raw_parts_mut(buffer, length))
        };
        fill(bytes)?;
        let mut info = pg_sys::StringInfoData {
            data: buffer.cast(),
            len: length as c_int,
            maxlen: length as c_int + 1,
            cursor: 0,
        };
        let info_pointer = &raw mut info;
        // A receive function's complaint may quote the plaintext: it must not reach the log.
        let received = PgTryBuilder::new(AssertUnwindSafe(|| {
            Ok(Some(in_utf8(|| {
                // SAFETY: the receive function of the wanted type and a valid StringInfo.
                unsafe {
                    pg_sys::ReceiveFunctionCall(self.receive, info_pointer, self.io_parameter, -1)
                }
            })))
        }))
        .catch_others(|error| {
            if may_be_shown(&error) {
                error.rethrow()
            } else {
                of_size(&error, length).map_or(Ok(None), Err)
            }
        })
        .execute();
        let whole = info.cursor as usize == length;
        bytes.zeroize();
        // SAFETY: allocated above; received values are copies.
        unsafe { pg_sys::pfree(buffer.cast()) };
        Ok(received?.filter(|_| whole))
    }
}

/// Whether a type is text to the parser, which calls encrypt_col(text, …) for it, such as citext.
///
/// # Safety
/// In a transaction.
unsafe fn is_text_by_another_name(base_type: pg_sys::Oid) -> bool {
    // SAFETY: the caller's promise.
    base_type.to_u32() >= PlaintextType::FIRST_UNSTABLE_OID
        && unsafe { pg_sys::IsBinaryCoercible(base_type, pg_sys::TEXTOID) }
}

/// Encrypting a ciphertext, or an array of them, is a mistake, never a wish.
fn refuse_ciphertext(base_type: pg_sys::Oid) -> Result<()> {
    if base_type.to_u32() < PlaintextType::FIRST_UNSTABLE_OID {
        return Ok(());
    }
    // SAFETY: look-ups in the type catalog.
    let element = unsafe {
        match pg_sys::get_base_element_type(base_type) {
            pg_sys::Oid::INVALID => base_type,
            element => pg_sys::getBaseType(element),
        }
    };
    if crate::server::types::ciphertext_oid() == Some(element) {
        return Err(Error::AlreadyEncrypted);
    }
    Ok(())
}
