//! What search needs that no server is needed for.
#![forbid(unsafe_code)]
