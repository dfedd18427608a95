//! Provider `gcp-kms` against a server that checks tokens and permissions as Google Cloud does, and against broken
//! ones.

mod broken;
mod keys;
mod login;

use colcrypt_tests::fake_gcp_bed::FakeGcpBed;

use crate::conformance::run;

conforms! { run, |()| FakeGcpBed::start() }
conforms_over_network! { run, |()| FakeGcpBed::start() }
