//! Columns that are found by keyed terms.

mod bed;
mod differential;
mod plans;
