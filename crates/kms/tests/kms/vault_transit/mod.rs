//! Provider `vault-transit` against OpenBao, and against servers that answer nonsense.

mod broken;
mod keys;
mod logins;
mod tokens;

use colcrypt_tests::openbao_bed::OpenBaoBed;

use crate::conformance::run;

conforms! { run, |()| OpenBaoBed::start() }
conforms_over_network! { run, |()| OpenBaoBed::start() }
