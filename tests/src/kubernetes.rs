//! As much of a Kubernetes API server as key servers ask for: service accounts' tokens, the TokenReview that tells
//! whether one is good, and the keys that verify them. It judges tokens by whether it gave them out and when they
//! expire, and wants a token of whoever asks for a review, as the real one does.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::jwt::Issuer;

const AUDIENCE: &str = "https://kubernetes.default.svc";
const REVIEWS: &str = "POST /apis/authentication.k8s.io/v1/tokenreviews HTTP/1.1\r\n";
const KEYS: &str = "/openid/v1/jwks";

/// A running server; it stops answering with the value.
pub struct Kubernetes {
    port: u16,
    shared: Arc<Shared>,
    reviewer: String,
}

#[derive(Default)]
struct Shared {
    issuer: Issuer,
    given_out: Mutex<HashMap<String, Account>>,
    away: AtomicBool,
}

#[derive(Clone)]
struct Account {
    namespace: String,
    name: String,
    expires: Instant,
}

impl Kubernetes {
    /// # Panics
    /// Without a free port.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let shared = Arc::new(Shared::default());
        let mut server = Self {
            port: listener.local_addr().expect("address").port(),
            shared: Arc::clone(&shared),
            reviewer: String::new(),
        };
        server.reviewer = server.token("kube-system", "reviewer", Duration::from_secs(3600));
        let reviewer = format!("Bearer {}", server.reviewer);
        thread::spawn(move || {
            for connection in listener.incoming() {
                let Ok(connection) = connection else { return };
                if Arc::strong_count(&shared) == 1 {
                    return;
                }
                let _ = answer(connection, &shared, &reviewer);
            }
        });
        server
    }

    /// `http://…`
    #[must_use]
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where the keys are that verify its tokens.
    #[must_use]
    pub fn keys_address(&self) -> String {
        self.address() + KEYS
    }

    /// A token that may ask for reviews.
    #[must_use]
    pub fn reviewer(&self) -> &str {
        &self.reviewer
    }

    /// A token of a service account, as its pod finds it in a file.
    #[must_use]
    pub fn token(&self, namespace: &str, name: &str, life: Duration) -> String {
        let claims = json!({
            "iss": AUDIENCE,
            "aud": [AUDIENCE],
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
            // Tokens of one second would be alike.
            "jti": format!("{:?}", Instant::now()),
            "kubernetes.io": {
                "namespace": namespace,
                "serviceaccount": {"name": name, "uid": uid(namespace, name)},
            },
        });
        let token = self.shared.issuer.sign(&claims, Some(life));
        let account = Account {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            expires: Instant::now() + life,
        };
        let mut given_out = self.shared.given_out.lock().expect("not poisoned");
        given_out.insert(token.clone(), account);
        token
    }

    /// Ends a token before its time, as deleting its pod does.
    pub fn revoke(&self, token: &str) {
        let mut given_out = self.shared.given_out.lock().expect("not poisoned");
        given_out.remove(token);
    }

    /// Lets it fail every request, or ends that.
    pub fn set_away(&self, away: bool) {
        self.shared.away.store(away, Ordering::Relaxed);
    }
}

fn uid(namespace: &str, name: &str) -> String {
    format!("uid-of-{namespace}-{name}")
}

fn answer(mut connection: TcpStream, shared: &Shared, reviewer: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(connection.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let (mut length, mut bearer) = (0, String::new());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap_or_default(),
            "authorization" => value.clone_into(&mut bearer),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (status, body) = if shared.away.load(Ordering::Relaxed) {
        (
            "503 Service Unavailable",
            failure(503, "ServiceUnavailable"),
        )
    } else if first.starts_with(&format!("GET {KEYS} ")) {
        ("200 OK", shared.issuer.key_set())
    } else if first != REVIEWS {
        ("404 Not Found", failure(404, "NotFound"))
    } else if bearer != reviewer {
        ("401 Unauthorized", failure(401, "Unauthorized"))
    } else {
        let review: Value = serde_json::from_slice(&body).unwrap_or_default();
        ("201 Created", reviewed(&review, shared))
    };
    let body = body.to_string();
    write!(
        connection,
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn reviewed(review: &Value, shared: &Shared) -> Value {
    let given_out = shared.given_out.lock().expect("not poisoned");
    let account = review["spec"]["token"]
        .as_str()
        .and_then(|token| given_out.get(token))
        .filter(|account| account.expires > Instant::now());
    let status = match account {
        Some(Account {
            namespace, name, ..
        }) => json!({
            "authenticated": true,
            "audiences": [AUDIENCE],
            "user": {
                "username": format!("system:serviceaccount:{namespace}:{name}"),
                "uid": uid(namespace, name),
                "groups": [
                    "system:serviceaccounts",
                    format!("system:serviceaccounts:{namespace}"),
                    "system:authenticated",
                ],
            },
        }),
        None => json!({"user": {}, "error": "[invalid bearer token, token lookup failed]"}),
    };
    json!({
        "kind": "TokenReview",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"creationTimestamp": null},
        "spec": review["spec"],
        "status": status,
    })
}

fn failure(code: u16, reason: &str) -> Value {
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": reason,
        "reason": reason,
        "code": code,
    })
}
