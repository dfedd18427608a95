//! Search: encrypted columns that plain SQL finds, joins and keeps unique.

mod orm;
mod thief;
