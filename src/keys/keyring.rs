//! A keyring, held against other changes of its key encryption keys and root keys. Whoever makes a key in it may do so
//! meanwhile (`version`); whoever destroys a version of its key encryption key, or drops it, asks for more (`keks`,
//! `dropping`).

use colcrypt_core::KeyringId;

use crate::catalog::read::{self, Keyring};
use crate::catalog::uuid::uuid;
use crate::error::Result;
use crate::server::spi;

/// Locks it, and reads it as it is then.
///
/// # Errors
/// A keyring that is gone.
pub fn lock(id: KeyringId) -> Result<Keyring> {
    spi::query(
        "SELECT 1 FROM colcrypt.keyring WHERE keyring_id = $1 FOR NO KEY UPDATE",
        &[uuid(id).into()],
        |row| row.get::<i32>(1),
    )?;
    read::keyring_by_id(id)
}
