//! Provider `gcp-kms` against a server that checks tokens and permissions as Google Cloud does, and against broken ones.

mod broken;
mod keys;
mod login;
