//! Search indexes: built, written through, guarded, rotated and copied.

mod build;
mod copies;
mod guards;
mod keys;
mod writes;
