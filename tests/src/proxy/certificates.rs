//! The proxy's certificates: a good one, and one for each way in which a certificate is not accepted.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;

use super::Fault;

pub struct Certificates {
    /// As PEM.
    pub ca: String,
    good: Arc<ServerConfig>,
    expired: Arc<ServerConfig>,
    wrong_name: Arc<ServerConfig>,
    unknown_ca: Arc<ServerConfig>,
}

impl Certificates {
    pub fn new() -> Self {
        let (ca, issuer) = authority("a CA");
        let (_, nobody) = authority("another CA");
        let usual = || CertificateParams::new(["localhost".into(), "127.0.0.1".into()]);
        let mut expired = usual().expect("parameters");
        expired.not_before = date_time_ymd(2020, 1, 1);
        expired.not_after = date_time_ymd(2021, 1, 1);
        let elsewhere = CertificateParams::new(["kms.example.org".to_owned()]);
        Self {
            ca,
            good: server(&usual().expect("parameters"), &issuer),
            expired: server(&expired, &issuer),
            wrong_name: server(&elsewhere.expect("parameters"), &issuer),
            unknown_ca: server(&usual().expect("parameters"), &nobody),
        }
    }

    /// Each fault has a configuration of its own, so that no session of another one is resumed.
    pub fn of(&self, fault: Option<&Fault>) -> Arc<ServerConfig> {
        Arc::clone(match fault {
            Some(Fault::ExpiredCertificate) => &self.expired,
            Some(Fault::WrongName) => &self.wrong_name,
            Some(Fault::UnknownCa) => &self.unknown_ca,
            _ => &self.good,
        })
    }
}

fn authority(name: &str) -> (String, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().expect("key");
    let mut ca = CertificateParams::new([]).expect("parameters");
    ca.distinguished_name.push(DnType::CommonName, name);
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = ca.self_signed(&key).expect("CA").pem();
    (pem, Issuer::new(ca, key))
}

fn server(parameters: &CertificateParams, issuer: &Issuer<'_, KeyPair>) -> Arc<ServerConfig> {
    let key = KeyPair::generate().expect("key");
    let certificate = parameters.signed_by(&key, issuer).expect("certificate");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(vec![certificate.der().clone()], key)
        });
    Arc::new(config.expect("TLS"))
}
