//! The list of providers.

/// One test per provider, which hands its bed to a function.
macro_rules! on_every_bed {
    ($check:path) => {
        on_every_bed! { $check;
            aws_kms: fake_aws_bed::FakeAwsBed::start,
            azure_keyvault: fake_azure_bed::FakeAzureBed::start,
            file: file_bed::FileBed::start,
            gcp_kms: fake_gcp_bed::FakeGcpBed::start,
            kmip: pykmip::PyKmip::bed,
            pkcs11: softhsm_bed::SoftHsmBed::start,
            vault_transit: openbao_bed::OpenBaoBed::start,
        }
    };
    ($check:path; $($name:ident: $module:ident::$bed:ident::$start:ident,)*) => {
        $(
            #[test]
            fn $name() {
                $check(colcrypt_tests::$module::$bed::$start());
            }
        )*
    };
}
