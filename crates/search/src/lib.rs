//! What search needs that no server is needed for.
#![forbid(unsafe_code)]

pub mod canonical;
mod decimal;
pub mod kind;
pub mod leakage;
pub mod normalise;
pub mod range;
pub mod term;
pub mod text;
pub mod told;

pub use canonical::{Canonical, Class, Value};
pub use decimal::NotNumeric;
pub use kind::{Kind, UnknownKind};
pub use normalise::{NormaliseError, Normalised, Pipeline, Step, Unnormalisable, unicode_version};
pub use range::{Node, RangeError, RangeSpec};
pub use term::{BadTermBits, Label, LabelError, Prepared, SearchKey, Term, TermBits};
pub use text::{Gram, Grams, TextError, TextSpec};
pub use told::{Told, Viewer, told};
