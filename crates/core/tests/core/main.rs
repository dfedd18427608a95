//! The core through its public API, in one binary (linking is what costs). Vectors of the bare
//! AEADs are unit tests, beside the code they test.

mod audit;
mod context;
mod cross_check;
mod document;
mod format;
mod golden;
mod ids;
mod nonce;
mod reader;
mod secrets;
mod states;
mod support;
mod tampering;
mod wrapping;
