//! Search: encrypted columns that plain SQL finds, joins and keeps unique.

mod along;
mod attacks;
mod bed;
mod build;
mod copies;
mod differential;
mod guards;
mod keys;
mod leakage;
mod orm;
mod plans;
mod statements;
mod statements_more;
mod thief;
mod writes;
