//! Columns and their values: shown through views, of every type, shape and encoding.

mod access_attacked;
mod access_copy;
mod access_errors;
mod access_random;
mod access_rewrite;
mod access_same;
mod access_view;
mod access_write;
mod bad_input;
mod bound_anew;
mod census;
mod compression;
mod drivers;
mod enforced;
mod jsonb;
mod orm;
mod own_words;
mod registering;
mod renamed;
mod row_of_error;
mod shapes;
mod tenants;
mod tenants_jobs;
mod try_decrypt;
mod types;
mod values;
