//! Search: encrypted columns that plain SQL finds, joins and keeps unique.

mod bed;
mod differential;
mod orm;
mod plans;
mod thief;
