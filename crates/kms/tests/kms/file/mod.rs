//! Provider `file`: key files, and what an agent makes of them.

mod keys;

use colcrypt_kms::file::keygen;
use colcrypt_tests::file_bed::FileBed;

use crate::conformance::run;

/// With keys made here: the program `colcrypt` need not be installed.
fn bed() -> FileBed {
    FileBed::with(|path| {
        keygen(path).unwrap();
    })
}

conforms! { run, |()| bed() }
