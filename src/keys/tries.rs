//! What the worker does by itself and failed is tried again later, a little later each time: rotations of keys, and
//! work on key encryption keys.

use colcrypt_core::{KeyId, KeyringId};
use colcrypt_domain::backoff;
use pgrx::datum::DatumWithOid;

use crate::catalog::uuid::uuid;
use crate::error::Result;
use crate::server::{clock, spi};

/// What is tried. Each kind has a table, by its identity.
#[derive(Clone, Copy)]
pub enum Tried {
    Rotation(KeyId),
    /// All that is done for a keyring's key encryption keys.
    Keks(KeyringId),
}

impl Tried {
    /// The table and its key.
    const fn table(self) -> (&'static str, &'static str) {
        match self {
            Self::Rotation(_) => ("colcrypt.rotation_try", "key_id"),
            Self::Keks(_) => ("colcrypt.kek_try", "keyring_id"),
        }
    }

    fn id(self) -> DatumWithOid<'static> {
        match self {
            Self::Rotation(key) => key.bigint().into(),
            Self::Keks(keyring) => uuid(keyring).into(),
        }
    }

    /// Notes that it failed once more, and when it is tried again.
    ///
    /// # Errors
    /// Of SPI.
    pub fn postpone(self, message: &str) -> Result<()> {
        let (table, key) = self.table();
        let found = spi::query(
            &format!("SELECT tries FROM {table} WHERE {key} = $1 FOR UPDATE"),
            &[self.id()],
            |row| row.get::<i32>(1),
        )?;
        let tries = found.into_iter().flatten().next().unwrap_or(0);
        spi::execute(
            &format!(
                "INSERT INTO {table} AS t ({key}, tries, last_error, retry_at) \
                 VALUES ($1, 1, $2, clock_timestamp() + $3 * interval '1 second') \
                 ON CONFLICT ({key}) DO UPDATE SET tries = t.tries + 1, last_error = excluded.last_error, \
                     retry_at = excluded.retry_at"
            ),
            &[
                self.id(),
                message.into(),
                backoff::ROTATION.seconds_after(tries).into(),
            ],
        )?;
        Ok(())
    }

    /// It is tried at once.
    ///
    /// # Errors
    /// Of SPI.
    pub fn forget(self) -> Result<()> {
        let (table, key) = self.table();
        spi::execute(
            &format!("DELETE FROM {table} WHERE {key} = $1"),
            &[self.id()],
        )?;
        Ok(())
    }
}

/// Whether it may be tried by now, as SQL on a row of either table; the row may be missing.
pub fn may_be_tried(row: &str) -> String {
    clock::is_over(&format!("{row}.retry_at"), backoff::OF_KEYS)
}
