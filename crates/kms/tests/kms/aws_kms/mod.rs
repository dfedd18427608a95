//! Provider `aws-kms` against a server that checks signatures and policies as AWS does, and against broken ones.

mod broken;
mod keys;
