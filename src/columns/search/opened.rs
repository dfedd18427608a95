//! Values of a searched column, opened so that terms can be made of them. What is opened is seen by the makers of terms
//! alone, and wiped.

use std::cell::Cell;

use colcrypt_core::{KeyId, KeyringId, Value, VersionId};
use pgrx::pg_sys;
use zeroize::Zeroize;

use crate::audit::honeytoken;
use crate::catalog::read;
use crate::error::{Error, Result};
use crate::server::types;
use crate::session::{self, Permit};
use crate::values::codec::Codec;
use crate::values::seal;

/// Whose right a value is opened with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// That of whoever ordered the index, or had the value encrypted just now: no role is asked. Only while nobody
    /// else's code runs.
    Order,
    /// That of the current role, who is shown what the values have in common and none of them.
    Sample,
    /// That of the current role, who brings the value. A honeytoken raises its alarm.
    Writer,
}

/// The keys that the column's values are under.
#[derive(Clone, Copy)]
pub enum Keys {
    One(KeyId),
    /// Those of a keyring, each row's own.
    Of(KeyringId),
}

/// A plaintext, as a value of the column's type; wiped when it is dropped.
pub struct Plain {
    pub datum: pg_sys::Datum,
    length: i16,
    by_value: bool,
}

impl Drop for Plain {
    fn drop(&mut self) {
        if self.by_value {
            return;
        }
        let start = self.datum.cast_mut_ptr::<u8>();
        // SAFETY: a value that was made here, of this length, or a varlena; nobody else has it.
        unsafe {
            let length = match usize::try_from(self.length) {
                Ok(length) => length,
                Err(_) => pgrx::varlena::varsize_any(start.cast()),
            };
            let header = if self.length == -1 { 4.min(length) } else { 0 };
            std::slice::from_raw_parts_mut(start.add(header), length - header).zeroize();
            pg_sys::pfree(start.cast());
        }
    }
}

/// How values of one column are opened.
pub struct Opener {
    /// The column's name, for messages.
    pub shown: String,
    keys: Keys,
    codec: Codec,
    type_name: String,
    length: i16,
    by_value: bool,
    /// The key that was found to be one of the keyring's last.
    known: Cell<Option<KeyId>>,
    permit: Cell<Option<(VersionId, Permit)>>,
}

impl Opener {
    /// For values that were registered with a type, good as long as `memory` is.
    ///
    /// # Errors
    /// For a type that cannot be encrypted.
    pub fn new(
        shown: String,
        keys: Keys,
        plaintext_type: pg_sys::Oid,
        memory: pg_sys::MemoryContext,
    ) -> Result<Self> {
        let codec = Codec::for_type(plaintext_type, memory)?;
        let type_name = if codec.is_built_in() {
            String::new()
        } else {
            types::canonical_type_name(codec.base_type)?
        };
        let (mut length, mut by_value) = (0, false);
        // SAFETY: a look-up in the type catalog.
        unsafe { pg_sys::get_typlenbyval(codec.base_type, &mut length, &mut by_value) };
        Ok(Self {
            shown,
            keys,
            codec,
            type_name,
            length,
            by_value,
            known: Cell::new(None),
            permit: Cell::new(None),
        })
    }

    /// The type that plaintexts come out in.
    pub fn type_oid(&self) -> pg_sys::Oid {
        self.codec.base_type
    }

    /// Opens a value with the context that it is bound to.
    ///
    /// # Errors
    /// Of a value of another key or type; of the key, of the right, and of a value that does not open.
    pub fn open(&self, value: &Value<'_>, context: &[u8], right: Right) -> Result<Plain> {
        self.refuse_other_key(value.header.key)?;
        let written = value.header.plaintext_type;
        if !self.codec.reads(written, self.type_name.as_bytes()) && !self.codec.had_name(written)? {
            return Err(seal::wrong_type(written, self.codec.base_type));
        }
        let id = VersionId {
            key: value.header.key,
            version: value.header.version,
        };
        let permit = match right {
            Right::Sample | Right::Writer => session::permit_decrypt(id)?,
            Right::Order => self.ordered(id)?,
        };
        // What is bound to nothing opens with nothing.
        let context = if value.header.has_context {
            context
        } else {
            &[]
        };
        let plaintext = seal::plaintext_of(&permit, value, context)?;
        if right != Right::Order {
            permit.counter.decryption();
        }
        if right == Right::Writer
            && permit.guarded
            && session::is_honeytoken(value.header.key, value.tag)
        {
            honeytoken::alarm("create_search_index", value);
        }
        let datum = self.codec.value_of(written, plaintext.len(), |out| {
            out.copy_from_slice(&plaintext);
            Ok(())
        })?;
        Ok(Plain {
            datum,
            length: self.length,
            by_value: self.by_value,
        })
    }

    fn ordered(&self, id: VersionId) -> Result<Permit> {
        if let Some((known, permit)) = self.permit.get()
            && known == id
            && permit.is_good()
        {
            return Ok(permit);
        }
        let permit = session::ordered::permit_decrypt(id)?;
        self.permit.set(Some((id, permit)));
        Ok(permit)
    }

    /// The right to open a value is for the column's own: one of another key may be anybody's.
    fn refuse_other_key(&self, key: KeyId) -> Result<()> {
        let is_its = match &self.keys {
            Keys::One(own) => key == *own,
            Keys::Of(_) if self.known.get() == Some(key) => true,
            Keys::Of(keyring) => {
                let found = read::key_by_id(key)?;
                found.keyring == *keyring
            }
        };
        if is_its {
            self.known.set(Some(key));
            return Ok(());
        }
        Err(Error::OtherKey {
            key: match &self.keys {
                Keys::One(own) => read::key_name(*own).unwrap_or_else(|| own.to_string()),
                Keys::Of(_) => "of its row".into(),
            },
        })
    }
}
