//! Columns under a key: registered, bound to a place, shown through views, and encrypted or decrypted in place.

mod bound_anew;
pub mod cascades;
mod change;
pub mod enforced;
mod follow;
pub mod labels;
pub mod loose;
pub mod migration;
pub mod moved;
mod own_words;
pub mod place;
pub mod rebind;
pub mod registered;
pub mod registration;
pub mod renamed;
mod row_context;
pub mod row_key;
pub mod sample;
pub mod search;
pub mod view;
