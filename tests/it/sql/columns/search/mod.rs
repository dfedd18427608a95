//! Search indexes: built, written through, guarded, rotated and copied.

mod build;
mod guards;
mod keys;
mod writes;
