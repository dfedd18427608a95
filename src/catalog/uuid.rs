//! A keyring's identity as SQL's uuid, and back.

use colcrypt_core::KeyringId;
use pgrx::Uuid;

/// As SQL has it.
pub fn uuid(id: KeyringId) -> Uuid {
    Uuid::from_bytes(id.0)
}

/// From what SQL has.
pub fn keyring_id(uuid: Uuid) -> KeyringId {
    KeyringId(*uuid.as_bytes())
}
