//! Provider `vault-transit` against OpenBao, and against servers that answer nonsense.

mod broken;
mod keys;
mod logins;
mod tokens;
