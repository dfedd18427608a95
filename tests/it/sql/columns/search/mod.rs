//! Search: encrypted columns that plain SQL finds, joins and keeps unique.

mod along;
mod attacks;
mod bed;
mod build;
mod copies;
mod differential;
mod guards;
mod guesses;
mod keyless;
mod keys;
mod leakage;
mod orm;
mod plans;
mod rechecks;
mod rests;
mod statements;
mod statements_more;
mod thief;
mod writes;
