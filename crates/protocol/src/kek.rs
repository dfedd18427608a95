//! A KEK on its way to the agent: wrapped by one root key, or by several, any of which gives it.

use aws_lc_rs::digest;
use colcrypt_core::{KekId, KeyCheckValue, WrapMethod};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::hex_bytes;
use crate::provider::ProviderConfig;

/// Everything needed to unwrap one KEK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KekRef {
    pub id: KekId,
    /// The keyring's name, for messages.
    pub keyring: String,
    /// The copy whose root key is asked first.
    pub preferred: KekCopy,
    /// The others, in the order in which their root keys are asked should that one fail.
    pub others: Vec<KekCopy>,
    pub kcv: KeyCheckValue,
    /// How this KEK wraps its DEKs.
    pub dek_wrap: WrapMethod,
}

impl KekRef {
    /// Every copy, in the order in which the root keys are asked.
    pub fn copies(&self) -> impl Iterator<Item = &KekCopy> {
        std::iter::once(&self.preferred).chain(&self.others)
    }
}

/// A KEK as one root key wrapped it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KekCopy {
    pub provider: ProviderConfig,
    /// The provider's name for the root key: a Transit key name, an ARN, a file path.
    pub root_key: String,
    /// The root key's version that wrapped it, as [`Reply::KekCreated`](crate::Reply::KekCreated) said it.
    pub root_key_version: String,
    /// The KEK as the provider wrapped it.
    #[serde(with = "hex_bytes")]
    pub wrapped: Vec<u8>,
}

impl KekCopy {
    /// What tells this copy from every other. Under other settings of its provider it is another:
    /// databases copied from one another share what is wrapped, but not necessarily the rest.
    pub fn id(&self) -> CopyId {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in [
            self.provider.kind.as_bytes(),
            self.provider.config.to_string().as_bytes(),
            self.root_key.as_bytes(),
            self.root_key_version.as_bytes(),
            &self.wrapped,
        ] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut id = [0; 32];
        id.copy_from_slice(context.finish().as_ref());
        CopyId(id)
    }
}

/// A digest of a [`KekCopy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CopyId(pub [u8; 32]);

/// What a root key that was asked for a KEK answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootAnswer {
    pub copy: CopyId,
    pub result: Result<(), Failure>,
    /// Whether the KEK in use is the one it gave.
    pub serves: bool,
    /// How far its refusal is confirmed; none if it is, or if it did not refuse.
    pub confirming: Option<Confirming>,
}

/// A refusal that has to be repeated before it wipes cached keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirming {
    /// Refusals that count, so far.
    pub refusals: u32,
    /// How many confirm it.
    pub needed: u32,
    /// The age of the first.
    pub since_ms: u64,
}
