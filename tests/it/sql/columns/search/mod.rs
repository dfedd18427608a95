//! Search indexes: built, written through, guarded, rotated and copied, and used in plans.

mod bed;
mod build;
mod differential;
mod leakage;
mod plans;
mod writes;
