//! What the services answer and what that means: the lines of `crates/kms/facts`, one fact a line with its source.
//! The stand-ins answer from them, the tests of the mappings ask from them, and docs/providers/README.md lists them, so
//! that a belief about a service is in one place.

use serde_json::{Value, json};

const FILES: [(&str, &str); 6] = [
    (
        "aws-kms",
        include_str!("../../crates/kms/facts/aws-kms.txt"),
    ),
    (
        "azure-keyvault",
        include_str!("../../crates/kms/facts/azure-keyvault.txt"),
    ),
    (
        "gcp-kms",
        include_str!("../../crates/kms/facts/gcp-kms.txt"),
    ),
    ("kmip", include_str!("../../crates/kms/facts/kmip.txt")),
    ("pkcs11", include_str!("../../crates/kms/facts/pkcs11.txt")),
    (
        "vault-transit",
        include_str!("../../crates/kms/facts/vault-transit.txt"),
    ),
];

/// One answer of one service.
#[derive(Clone, Debug)]
pub struct Fact {
    pub provider: &'static str,
    /// Which part of it says so: `kms`, `sts`, `vault`, `entra`, …
    pub service: &'static str,
    /// Status of HTTP first, where it is HTTP.
    pub code: &'static str,
    pub message: String,
    /// As the protocol names kinds of failure: `key_disabled`.
    pub kind: &'static str,
    /// Where the service says so.
    pub source: &'static str,
}

/// All facts, in the order of the page.
#[must_use]
pub fn all() -> Vec<Fact> {
    FILES
        .iter()
        .flat_map(|(provider, text)| {
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            lines.map(move |line| Fact::parse(provider, line))
        })
        .collect()
}

/// Those of one service.
#[must_use]
pub fn of(provider: &str, service: &str) -> Vec<Fact> {
    let mut facts = all();
    facts.retain(|fact| fact.provider == provider && fact.service == service);
    assert!(!facts.is_empty(), "{provider} {service}");
    facts
}

/// The first of a service whose code or message contains this.
#[must_use]
pub fn the(provider: &str, service: &str, part: &str) -> Fact {
    let mut facts = of(provider, service).into_iter();
    facts
        .find(|fact| fact.code.contains(part) || fact.message.contains(part))
        .unwrap_or_else(|| panic!("no fact of {provider} {service} says {part}"))
}

impl Fact {
    fn parse(provider: &'static str, line: &'static str) -> Self {
        let parts: Vec<&str> = line.split('|').map(str::trim).collect();
        let [service, code, message, kind, source] = parts[..] else {
            panic!("{provider}: {line}");
        };
        Self {
            provider,
            service,
            code,
            message: message.replace("\\n", "\n").replace("\\t", "\t"),
            kind,
            source,
        }
    }

    /// The status of HTTP.
    #[must_use]
    pub fn status(&self) -> u16 {
        let status = self.code.split(' ').next().unwrap_or_default();
        status.parse().expect("a status of HTTP")
    }

    /// The words of the code after the status.
    fn words(&self) -> Vec<&'static str> {
        self.code.split(' ').skip(1).collect()
    }

    /// The body of the answer, in the service's own form.
    #[must_use]
    pub fn body(&self) -> Value {
        let (words, message) = (self.words(), &self.message);
        match (self.provider, self.service) {
            ("aws-kms", _) => json!({"__type": words[0], "message": message}),
            ("azure-keyvault", "entra") => {
                let number: u64 = words[1].parse().expect("a number of Entra's");
                json!({
                    "error": words[0],
                    "error_description": format!("AADSTS{number}: {message} Trace ID: 0 Correlation ID: 0"),
                    "error_codes": [number],
                    "timestamp": "2026-01-01 00:00:00Z",
                    "trace_id": "0",
                })
            }
            ("azure-keyvault", _) => {
                let mut error = json!({"code": words[0], "message": message});
                if let Some(inner) = words.get(1) {
                    error["innererror"] = json!({"code": inner});
                }
                json!({"error": error})
            }
            ("gcp-kms", "token") => {
                let mut body = json!({"error": words[0], "error_description": message});
                if let [_, "subtype", subtype] = words[..] {
                    body["error_subtype"] = json!(subtype);
                }
                body
            }
            ("gcp-kms", _) => {
                let detail = match words[..] {
                    [_, "reason", reason] => json!([{
                        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                        "reason": reason, "domain": "googleapis.com",
                    }]),
                    // The first is about the state of the key, the second about what was met on the way to it.
                    [_, "type", kind] if self.service == "ekm" => json!([{
                        "@type": "type.googleapis.com/google.rpc.PreconditionFailure",
                        "violations": [{"type": "KEY_ENABLED"}, {"type": kind}],
                    }]),
                    [_, "type", kind] => json!([{
                        "@type": "type.googleapis.com/google.rpc.PreconditionFailure",
                        "violations": [{"type": kind}],
                    }]),
                    _ => json!([]),
                };
                json!({"error": {
                    "code": self.status(), "status": words[0], "message": message, "details": detail,
                }})
            }
            ("vault-transit", _) if message.is_empty() => json!({"errors": []}),
            ("vault-transit", _) => json!({"errors": [message]}),
            (provider, service) => panic!("{provider} {service} has no bodies of JSON"),
        }
    }
}
