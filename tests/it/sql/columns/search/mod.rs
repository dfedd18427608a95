//! Search indexes: built, written through, guarded, rotated and copied, and used in plans.

mod bed;
mod build;
mod differential;
mod plans;
mod writes;
