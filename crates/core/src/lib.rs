//! colcrypt's pure core: everything that can be said about keys and values without a server.
//!
//! The value format ([`format`]), the suites that seal and open it ([`cipher`]), key wrapping ([`wrap`]), key check
//! values ([`kcv`]) and canary values ([`Canary`]), the canonical row context ([`context`]), the key life cycle
//! ([`state`]), the index of the key slab ([`slab_index`]), the life of its keys ([`slab_life`]) and the hash chain of
//! the audit log ([`audit`]). No I/O beyond the operating system's random generator, no pgrx, no unsafe code.
#![forbid(unsafe_code)]

mod atomic;
pub mod audit;
mod canary;
pub mod cipher;
pub mod compression;
pub mod context;
pub mod error;
pub mod escrow;
mod fingerprint;
pub mod format;
pub mod hpke;
pub mod ids;
pub mod jsonb;
pub mod kcv;
pub mod memory;
pub mod nonce;
pub mod numeric;
pub mod period;
pub mod place;
pub mod rate;
pub mod record;
pub mod rolling;
pub mod secret;
pub mod slab_index;
pub mod slab_life;
pub mod source;
pub mod state;
pub mod suite;
pub mod usage;
pub mod verbs;
pub mod window;
pub mod wrap;
mod xaes;

pub use canary::{CANARY_TEXT, Canary};
pub use cipher::DataCipher;
pub use error::{CryptoError, FormatError};
pub use format::{Header, PlaintextType, Value};
pub use ids::{KekId, KeyId, KeyVersion, KeyringId, VersionId};
pub use kcv::KeyCheckValue;
pub use secret::{DataKey, EscrowKey, KeyEncryptionKey, Secret, wipe_dead_stack};
pub use source::KeySource;
pub use state::KeyState;
pub use suite::Suite;
pub use wrap::WrapMethod;
