//! A certification authority for one test: certificates for servers, and for clients that show one.

use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, date_time_ymd,
};

/// The authority and its own certificate.
pub struct Authority {
    name: String,
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its private key, in PEM.
pub struct Identity {
    pub certificate: String,
    pub private_key: String,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// With a name that no other has.
    #[must_use]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self::named(&format!(
            "Authority {number} of test {}",
            std::process::id()
        ))
    }

    #[must_use]
    pub fn named(name: &str) -> Self {
        let mut parameters = CertificateParams::new(vec![]).expect("parameters");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("key");
        let certificate = parameters.self_signed(&key).expect("CA");
        Self {
            name: name.to_owned(),
            certificate,
            issuer: Issuer::new(parameters, key),
        }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its certificate in PEM: what a `ca_file` holds.
    #[must_use]
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// For a server at these names and addresses.
    #[must_use]
    pub fn server(&self, names: &[&str]) -> Identity {
        self.sign(server_parameters(names))
    }

    /// The same, past its last day.
    #[must_use]
    pub fn expired_server(&self, names: &[&str]) -> Identity {
        let mut parameters = server_parameters(names);
        parameters.not_before = date_time_ymd(2001, 1, 1);
        parameters.not_after = date_time_ymd(2002, 1, 1);
        self.sign(parameters)
    }

    /// For a client of this name.
    #[must_use]
    pub fn client(&self, name: &str) -> Identity {
        self.sign(client_parameters(name))
    }

    /// The same, past its last day.
    #[must_use]
    pub fn expired_client(&self, name: &str) -> Identity {
        let mut parameters = client_parameters(name);
        parameters.not_before = date_time_ymd(2001, 1, 1);
        parameters.not_after = date_time_ymd(2002, 1, 1);
        self.sign(parameters)
    }

    fn sign(&self, parameters: CertificateParams) -> Identity {
        let key = KeyPair::generate().expect("key");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("signed");
        Identity {
            certificate: certificate.pem(),
            private_key: key.serialize_pem(),
        }
    }
}

fn client_parameters(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::new(vec![]).expect("parameters");
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    parameters
}

fn server_parameters(names: &[&str]) -> CertificateParams {
    CertificateParams::new(
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>(),
    )
    .expect("names")
}
