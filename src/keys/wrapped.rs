//! Keys as the catalog has them, wrapped, on their way to the agent.

use colcrypt_core::{Canary, KeyId, VersionId};
use colcrypt_protocol::WrappedDek;
use pgrx::spi::SpiHeapTupleData;

use crate::broker::shared::PAYLOAD;
use crate::catalog::read;
use crate::error::{Error, Result};
use crate::server::spi;

/// What [`Stored::read`] reads, of `colcrypt.key k JOIN colcrypt.key_version v`: the first columns of a query.
pub const COLUMNS: &str = "v.key_id, v.version, k.suite, v.wrapped, v.kcv, v.canary";

/// How many these are.
pub const COUNT: usize = 6;

/// A version of a key as its row has it.
pub struct Stored {
    id: i64,
    pub version: i32,
    suite: String,
    wrapped: Vec<u8>,
    kcv: String,
    canary: Option<Vec<u8>>,
}

impl Stored {
    /// # Errors
    /// Of SPI; NULL where the catalog has none.
    pub fn read(row: &SpiHeapTupleData) -> std::result::Result<Self, pgrx::spi::Error> {
        Ok(Self {
            id: spi::at(row, 1)?,
            version: spi::at(row, 2)?,
            suite: spi::at(row, 3)?,
            wrapped: spi::at(row, 4)?,
            kcv: spi::at(row, 5)?,
            canary: row.get(COUNT)?,
        })
    }

    /// As the agent takes it.
    ///
    /// # Errors
    /// [`Error::CatalogCorrupt`] for what no release has written.
    pub fn dek(&self) -> Result<WrappedDek> {
        let is_no =
            |what: &str, text: &str| Error::CatalogCorrupt(format!("{text:?} is no {what}"));
        Ok(WrappedDek {
            id: VersionId {
                key: KeyId::of_bigint(self.id),
                version: read::version(self.version)?,
            },
            suite: self
                .suite
                .parse()
                .map_err(|_| is_no("suite", &self.suite))?,
            wrapped: self.wrapped.clone(),
            kcv: self
                .kcv
                .parse()
                .map_err(|_| is_no("key check value", &self.kcv))?,
            canary: self.canary.clone().map(Canary::stored),
        })
    }
}

/// Bytes that it takes in a request. What cannot be written down fills the room.
pub fn json_size(value: &impl serde::Serialize) -> usize {
    serde_json::to_vec(value).map_or(PAYLOAD, |json| json.len())
}
