//! Provider `aws-kms` against a server that checks signatures and policies as AWS does, and against broken ones.

mod broken;
mod keys;
mod scripted;

use colcrypt_tests::fake_aws_bed::FakeAwsBed;

use crate::conformance::run;

conforms! { run, |()| FakeAwsBed::start() }
conforms_over_network! { run, |()| FakeAwsBed::start() }
