//! Search on encrypted columns, as far as no server is needed for it.
//!
//! An index holds *terms* ([`term`]): HMACs of values under a search key, told apart by a [`Label`]. What a value is
//! entered as depends on the index's [`Kind`]:
//!
//! | kind | from a value | from a query |
//! | --- | --- | --- |
//! | equality | [`Prepared::equality_of`]: [`normalise`], then [`canonical`] bytes | the same |
//! | range | [`Value::order`], then [`RangeSpec::terms`] | [`RangeSpec::cover_terms`]: one of them |
//! | text | [`TextSpec::terms`] | [`TextSpec::like_terms`], [`TextSpec::equal_terms`]: all of them |
//!
//! Everywhere the terms find all rows that SQL would, and maybe more: answers are rechecked by decrypting. [`leakage`]
//! measures what an index would tell, [`told`](told()) says it in words.
#![forbid(unsafe_code)]

pub mod canonical;
mod decimal;
pub mod kind;
pub mod leakage;
pub mod normalise;
pub mod range;
pub mod term;
pub mod text;
mod told;

pub use canonical::{Canonical, Class, Value};
pub use decimal::NotNumeric;
pub use kind::{Kind, UnknownKind};
pub use normalise::{NormaliseError, Normalised, Pipeline, Step, Unnormalisable, unicode_version};
pub use range::{Node, RangeError, RangeSpec};
pub use term::{BadTermBits, Label, LabelError, Prepared, SearchKey, Term, TermBits};
pub use text::{Gram, Grams, NoRoom, TextError, TextSpec};
pub use told::{Told, Viewer, told};
