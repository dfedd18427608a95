//! New values of a batch's old ones, made with leave that is asked for once.

use colcrypt_core::format::RenewedHeader;
use colcrypt_core::{KeyId, Value, VersionId};
use pgrx::pg_sys;

use crate::error::Result;
use crate::server::varlena::Varlena;
use crate::session::{self, Permit};
use crate::worker::job::statement::column::MovedColumn;

/// Makes new values of old ones, with leave that lasts as long as nothing changes.
#[derive(Default)]
pub struct Resealing {
    permits: Option<(VersionId, KeyId, Permit, Permit)>,
    header: RenewedHeader,
}

impl Resealing {
    /// The value under the key that it is to have and that key's current version, in `memory`; none when it is not the
    /// job's.
    ///
    /// # Safety
    /// `value` is a ciphertext.
    pub unsafe fn value(
        &mut self,
        column: &MovedColumn,
        value: pg_sys::Datum,
        context: &[u8],
        memory: pg_sys::MemoryContext,
    ) -> Result<Option<pg_sys::Datum>> {
        // SAFETY: the caller vouches for a varlena.
        let stored = unsafe { Varlena::from_datum(value) };
        let value = Value::parse(stored.bytes())?;
        let id = VersionId {
            key: value.header.key,
            version: value.header.version,
        };
        let Some(target) = column.target_of(id)? else {
            return Ok(None);
        };
        let (from, to) = match &self.permits {
            Some((known, key, from, to))
                if *known == id && *key == target && from.is_good() && to.is_good() =>
            {
                (*from, *to)
            }
            _ => {
                let (from, to) = session::ordered::permit_move(id, target)?;
                self.permits = Some((id, target, from, to));
                (from, to)
            }
        };
        // SAFETY: a live memory context; the former one is put back on both ways, and by an ERROR's handler.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(memory);
            let sealed = column.sealed(&from, &to, &mut self.header, &value, context);
            pg_sys::MemoryContextSwitchTo(before);
            sealed
        }
    }
}
