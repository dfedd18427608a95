//! Where plaintext and ciphertext of a migrated column meet: values are encrypted, decrypted and compared here, in
//! this process, and never by SQL in which other people's code runs along. Whose right it is done with is said at each
//! call: the order's, for values that were there when it was carried out, or that of the role that brings one.

use colcrypt_core::context::{self, Typed};
use colcrypt_core::{Header, PlaintextType, Value, VersionId};
use pgrx::pg_sys;

use crate::audit::honeytoken;
use crate::catalog::read::Key;
use crate::columns::migration::{Kind, Migration};
use crate::error::{Error, Result};
use crate::server::types;
use crate::server::varlena::Varlena;
use crate::session;
use crate::values::codec::Codec;
use crate::values::{reseal, seal};

/// Whose right to decrypt is used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// The order's: whoever gave it was asked for his rights then. Only for what was there, and while nobody else's
    /// code runs.
    Order,
    /// That of the current role, who brings the value. A honeytoken raises its alarm.
    Writer,
}

/// How values of one column become ciphertexts of one key and back.
pub struct Values {
    key: Key,
    codec: Codec,
    declared: pg_sys::Oid,
    type_name: String,
    accepts_unplaced: bool,
    opens_loose: bool,
    /// The label that values are bound to.
    label: Option<String>,
}

impl Values {
    /// For a column of the given type, good as long as `memory` is.
    ///
    /// # Errors
    /// When the key is gone or the type cannot be encrypted.
    pub fn new(
        migration: &Migration,
        plaintext_type: pg_sys::Oid,
        memory: pg_sys::MemoryContext,
    ) -> Result<Self> {
        let codec = Codec::for_type(plaintext_type, memory)?;
        let type_name = if codec.is_built_in() {
            String::new()
        } else {
            types::canonical_type_name(codec.base_type)?
        };
        Ok(Self {
            key: migration.key()?,
            codec,
            declared: plaintext_type,
            type_name,
            accepts_unplaced: migration.kind == Kind::Encrypt || migration.accepts_unplaced,
            opens_loose: migration.kind == Kind::Decrypt && migration.accepts_unplaced,
            label: migration.label.clone(),
        })
    }

    /// A plaintext as a ciphertext of the key's current version.
    pub fn seal(&self, plaintext: pg_sys::Datum, context: &[u8]) -> Result<pg_sys::Datum> {
        let context = context::written(context);
        let permit = session::ordered::permit_encrypt(self.key.id)?;
        let header = Header {
            suite: permit.suite,
            key: permit.key,
            version: permit.version,
            plaintext_type: self.codec.written_type(&self.type_name)?,
            has_context: !context.is_empty(),
            canonical_context: Typed::parse(context).is_some(),
            compressed: false,
        }
        .encode()?;
        self.codec.with_written(plaintext, |bytes| {
            seal::seal(&permit, &header, context, bytes)
        })
    }

    /// Gives the decrypted bytes to `body`, with the form they are in.
    fn open<R>(
        &self,
        ciphertext: pg_sys::Datum,
        context: &[u8],
        right: Right,
        body: impl FnOnce(PlaintextType<'_>, &[u8]) -> Result<R>,
    ) -> Result<R> {
        // SAFETY: the caller saw that the column is of type ciphertext, or a domain over it.
        let stored = unsafe { Varlena::from_datum(ciphertext) };
        let value = Value::parse(stored.bytes())?;
        if value.header.key != self.key.id {
            // What may be decrypted was decided for one key.
            return Err(Error::OtherKey {
                key: self.key.name.clone(),
            });
        }
        // What is bound to nothing opens with nothing.
        let is_loose = self.opens_loose && !value.header.has_context;
        let context = if is_loose { &[] } else { context };
        let stored_type = value.header.plaintext_type;
        if !self.codec.reads(stored_type, self.type_name.as_bytes())
            && !self.codec.had_name(stored_type)?
        {
            return Err(seal::wrong_type(stored_type, self.declared));
        }
        let version = VersionId {
            key: value.header.key,
            version: value.header.version,
        };
        let permit = match right {
            Right::Order => session::ordered::permit_decrypt(version)?,
            Right::Writer => session::permit_decrypt(version)?,
        };
        let plaintext = seal::plaintext_of(&permit, &value, context)?;
        permit.counter.decryption();
        if right == Right::Writer
            && permit.guarded
            && session::is_honeytoken(value.header.key, value.tag)
        {
            honeytoken::alarm("decrypt_column", &value);
        }
        body(stored_type, &plaintext)
    }

    /// Refuses a value that is not bound to its place, where the order does not cover such: it may have been put there
    /// before.
    fn refuse_unplaced(&self, ciphertext: pg_sys::Datum, context: &[u8]) -> Result<()> {
        if self.accepts_unplaced {
            return Ok(());
        }
        // SAFETY: as in `open`.
        let stored = unsafe { Varlena::from_datum(ciphertext) };
        let value = Value::parse(stored.bytes())?;
        if reseal::is_placed(&value, context, self.label.as_deref()) {
            Ok(())
        } else {
            Err(Error::ValueUnplaced)
        }
    }

    /// A ciphertext as a value of the plaintext column.
    ///
    /// # Errors
    /// Of the value, of its key, or by whose right it would be.
    pub fn unseal(
        &self,
        ciphertext: pg_sys::Datum,
        context: &[u8],
        right: Right,
    ) -> Result<pg_sys::Datum> {
        if right == Right::Order {
            self.refuse_unplaced(ciphertext, context)?;
        }
        let value = self.open(ciphertext, context, right, |written, bytes| {
            self.value_of(written, bytes)
        })?;
        if self.declared != self.codec.base_type {
            seal::check_domain(value, self.declared)?;
        }
        Ok(value)
    }

    fn value_of(&self, written: PlaintextType<'_>, bytes: &[u8]) -> Result<pg_sys::Datum> {
        self.codec.value_of(written, bytes.len(), |out| {
            out.copy_from_slice(bytes);
            Ok(())
        })
    }

    /// Whether a ciphertext decrypts to the plaintext, byte by byte; what cannot be decrypted does not.
    ///
    /// # Errors
    /// When the key cannot be had, which says nothing of the value.
    pub fn agree(
        &self,
        plaintext: pg_sys::Datum,
        ciphertext: pg_sys::Datum,
        context: &[u8],
    ) -> Result<bool> {
        let compared = self.open(ciphertext, context, Right::Order, |written, opened| {
            if written == self.codec.written_type(&self.type_name)? {
                return self
                    .codec
                    .with_written(plaintext, |expected| Ok(opened == expected));
            }
            // Written by a server that writes the type in another form.
            let value = self.value_of(written, opened)?;
            self.codec.with_bytes(value, |opened| {
                self.codec
                    .with_bytes(plaintext, |expected| Ok(opened == expected))
            })
        });
        match compared {
            Err(
                Error::Malformed(_)
                | Error::Authentication { .. }
                | Error::WrongType { .. }
                | Error::PlaintextInvalid { .. }
                | Error::OtherKey { .. },
            ) => Ok(false),
            other => other,
        }
    }
}
