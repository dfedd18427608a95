//! What the counts know a version by.

use colcrypt_core::{KeyId, VersionId};

use crate::server::process;

/// A version of a key in a database.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct VersionKey {
    pub(super) key: u64,
    pub(super) database: u32,
    pub(super) version: u32,
}

impl VersionKey {
    /// A version of this process's database.
    pub fn here(id: VersionId) -> Self {
        Self {
            key: id.key.0,
            database: process::my_database().to_u32(),
            version: id.version.number(),
        }
    }

    pub fn key(&self) -> i64 {
        KeyId(self.key).bigint()
    }

    pub fn version(&self) -> i32 {
        self.version as i32
    }
}
