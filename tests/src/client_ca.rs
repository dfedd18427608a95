//! A certification authority for clients, and the certificates it gives out.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};

/// The authority.
pub struct ClientCa {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Default for ClientCa {
    fn default() -> Self {
        Self::new()
    }
}

impl ClientCa {
    /// # Panics
    /// Without random bytes.
    #[must_use]
    pub fn new() -> Self {
        let mut parameters = CertificateParams::new(vec![]).expect("parameters");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("key");
        let pem = parameters.self_signed(&key).expect("CA").pem();
        Self {
            issuer: Issuer::new(parameters, key),
            pem,
        }
    }

    /// Its own certificate.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for a client of this name, and its private key.
    ///
    /// # Panics
    /// Without random bytes.
    #[must_use]
    pub fn issue(&self, name: &str) -> (String, String) {
        let mut parameters = CertificateParams::new(vec![]).expect("parameters");
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("key");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("signed");
        (certificate.pem(), key.serialize_pem())
    }
}
