//! The faults: what breaks, how it is brought about and mended, and by which code it is known.

use std::sync::Arc;

use colcrypt_tests::provider_bed::Trouble;
use colcrypt_tests::proxy::Fault;
use colcrypt_tests::softhsm::SoftHsm;
use colcrypt_tests::softhsm_bed::TOKEN;
use serde_json::Value;

use crate::world::{PROVIDER, World};

/// What the server log says of a refresh that failed.
const REFRESH_FAILED: &str = "could not be refreshed";

/// One fault of one provider.
pub struct Case<'a> {
    /// As the table calls it.
    pub name: &'static str,
    /// The SQLSTATE.
    pub code: &'static str,
    /// Whether each try reaches the proxy, so that tries can be counted.
    pub counted: bool,
    /// What the server log says when the keys in use have met it; none where they do not.
    pub sign: Option<&'static str>,
    /// False where this kind of provider knows no such fault.
    pub strike: Box<dyn Fn() -> bool + 'a>,
    /// False where it is for good.
    pub mend: Box<dyn Fn() -> bool + 'a>,
}

pub const THROTTLED: &str = "429, `Retry-After: 1`";
const TOKEN_REMOVED: &str = "PKCS#11: token removed";
const DNS: &str = "DNS failure";
/// For good at some providers, so the last one to try.
pub const KEY_DELETED: &str = "key deleted";
/// Not faults to whoever asks, so tried apart.
pub const TOKEN_EXPIRED: &str = "token expired early";
pub const CRASHES_ONCE: &str = "PKCS#11: module crashes once";

const HTML: &str = "content-type: text/html\r\n";
const PAGE: &str = "<html>Welcome to the hotel</html>";
const JSON: &str = "content-type: application/json\r\n";
const RETRY: &str = "content-type: application/json\r\nretry-after: 1\r\n";

fn answer(status: &'static str, headers: &'static str, body: &'static str) -> Fault {
    Fault::Answer {
        status,
        headers,
        body,
    }
}

/// The faults of the network, and of whatever stands in it.
fn of_network(http: bool) -> Vec<(&'static str, &'static str, Fault)> {
    let mut all = vec![
        ("connection refused", "KC011", Fault::Refuse),
        (
            "TLS: certificate expired",
            "KC011",
            Fault::ExpiredCertificate,
        ),
        ("TLS: wrong name", "KC011", Fault::WrongName),
        ("TLS: unknown CA", "KC011", Fault::UnknownCa),
        ("connect hangs", "KC012", Fault::ConnectHang),
        ("answer hangs", "KC012", Fault::Hang),
        ("answer trickles", "KC012", Fault::Trickle),
        ("connection closed before the answer", "KC011", Fault::Close),
        ("truncated body", "KC011", Fault::Truncate),
        ("huge body", "KC018", Fault::Huge),
        ("another protocol", "KC018", Fault::Garbage),
    ];
    if http {
        all.extend([
            ("wrong content type", "KC018", answer("200 OK", HTML, PAGE)),
            (
                "a proxy's 403",
                "KC018",
                answer("403 Forbidden", HTML, PAGE),
            ),
            (
                THROTTLED,
                "KC014",
                answer("429 Too Many Requests", RETRY, "{}"),
            ),
            (
                "500",
                "KC013",
                answer("500 Internal Server Error", JSON, "{}"),
            ),
            (
                "503",
                "KC013",
                answer("503 Service Unavailable", JSON, "{}"),
            ),
        ]);
    }
    all
}

/// The faults that the server itself knows.
const OF_SERVER: [(&str, &str, Trouble); 8] = [
    ("login may not use the key", "KC015", Trouble::Denied),
    ("login revoked", "KC015", Trouble::LoginRevoked),
    ("key disabled", "KC017", Trouble::KeyDisabled),
    ("key pending deletion", "KC017", Trouble::KeyPendingDeletion),
    (KEY_DELETED, "KC016", Trouble::KeyDeleted),
    ("wrong plaintext", "KC019", Trouble::WrongPlaintext),
    ("wrong checksum", "KC018", Trouble::WrongChecksum),
    ("clock skew", "KC010", Trouble::ClockSkew),
];

/// Where a kind's server tells something else than the others'.
fn exception(kind: &str, trouble: Trouble) -> Option<&'static str> {
    match (kind, trouble) {
        // The clocks of Azure's services, not ours: an outage.
        ("azure-keyvault", Trouble::ClockSkew) => Some("KC013"),
        // What is soft-deleted is not found there.
        ("azure-keyvault", Trouble::KeyPendingDeletion) => Some("KC016"),
        // The digest that is wrapped along with the KEK finds it out before the check value does.
        ("azure-keyvault", Trouble::WrongPlaintext) => Some("XX001"),
        _ => None,
    }
}

/// The faults of a library in the agent: what its module does, and by what it is known.
const OF_LIBRARY: [(&str, &str, &str, &str); 3] = [
    (
        "PKCS#11: device error",
        "KC013",
        REFRESH_FAILED,
        "C_Decrypt 0x30",
    ),
    (
        "PKCS#11: module hangs",
        "KC012",
        REFRESH_FAILED,
        "C_Decrypt hang",
    ),
    (
        "PKCS#11: module crashes each time",
        "KC023",
        "the KMS agent ended",
        "C_Decrypt crash",
    ),
];

/// The table's rows.
pub fn rows() -> Vec<&'static str> {
    let network = of_network(true).into_iter().map(|(name, ..)| name);
    let server = OF_SERVER.into_iter().map(|(name, ..)| name);
    let library = OF_LIBRARY.into_iter().map(|(name, ..)| name);
    [DNS]
        .into_iter()
        .chain(network)
        .chain(server)
        .chain([TOKEN_EXPIRED, TOKEN_REMOVED])
        .chain(library)
        .chain([CRASHES_ONCE])
        .collect()
}

/// All there are for the provider; the tokens are PKCS#11's.
pub fn all<'a>(world: &'a World, tokens: Option<&'a SoftHsm>) -> Vec<Case<'a>> {
    let mut cases = Vec::new();
    if let Some(proxy) = &world.proxy {
        for (name, code, fault) in of_network(is_http(world)) {
            cases.push(Case {
                name,
                code,
                counted: !matches!(fault, Fault::Refuse | Fault::ConnectHang),
                sign: Some(REFRESH_FAILED),
                strike: Box::new(move || {
                    proxy.strike(fault.clone());
                    true
                }),
                mend: Box::new(|| {
                    proxy.mend();
                    true
                }),
            });
        }
        cases.push(Case {
            name: DNS,
            code: "KC011",
            counted: false,
            // Keys in use were loaded by the former address, and are refreshed there.
            sign: None,
            strike: Box::new(|| {
                let config = world.config().to_string();
                alter(
                    world,
                    &config.replace("localhost", "no-such-host.colcrypt.invalid"),
                )
            }),
            mend: Box::new(|| alter(world, &world.config().to_string())),
        });
    }
    for (name, code, trouble) in OF_SERVER {
        cases.push(Case {
            name,
            code: exception(world.provider.kind(), trouble).unwrap_or(code),
            counted: false,
            sign: Some(REFRESH_FAILED),
            strike: Box::new(move || {
                world.provider.make(trouble)
                    || (trouble == Trouble::WrongPlaintext && rewrite_plaintext(world))
            }),
            mend: Box::new(move || {
                if let Some(proxy) = &world.proxy {
                    proxy.mend();
                }
                world.provider.mend(trouble) || trouble == Trouble::WrongPlaintext
            }),
        });
    }
    if let Some(tokens) = tokens {
        cases.extend(of_tokens(tokens));
    }
    cases
}

fn of_tokens(tokens: &SoftHsm) -> Vec<Case<'_>> {
    let mut cases = vec![Case {
        name: TOKEN_REMOVED,
        code: "KC011",
        counted: false,
        sign: Some(REFRESH_FAILED),
        strike: Box::new(|| {
            tokens.remove_token(TOKEN);
            true
        }),
        mend: Box::new(|| {
            tokens.put_back_token(TOKEN);
            true
        }),
    }];
    for (name, code, sign, fault) in OF_LIBRARY {
        cases.push(Case {
            name,
            code,
            counted: false,
            sign: Some(sign),
            strike: Box::new(|| {
                tokens.fault(fault);
                true
            }),
            mend: Box::new(|| {
                tokens.mend();
                true
            }),
        });
    }
    cases
}

/// KMIP's messages are not HTTP's.
fn is_http(world: &World) -> bool {
    world.provider.kind() != "kmip"
}

fn alter(world: &World, config: &str) -> bool {
    // alter_provider takes no settings that do not open the keyrings there, so a superuser writes these.
    let sql =
        "UPDATE colcrypt.provider SET config = $2::text::jsonb WHERE name = $1 RETURNING 'done'";
    world.run(sql, &[PROVIDER, config]);
    true
}

/// On the way, where the server itself cannot be brought to give another key than the one that was wrapped.
fn rewrite_plaintext(world: &World) -> bool {
    let Some(proxy) = &world.proxy else {
        return false;
    };
    proxy.strike(Fault::Rewrite(Arc::new(|_, reply| {
        let body = reply.body_mut();
        match serde_json::from_slice::<Value>(body) {
            Ok(mut object) => {
                other_text(&mut object);
                *body = object.to_string().into();
            }
            Err(_) => other_data(body),
        }
    })));
    true
}

/// Another plaintext in JSON, of the same length.
fn other_text(value: &mut Value) {
    let Some(object) = value.as_object_mut() else {
        return;
    };
    for (name, value) in object {
        match value {
            Value::String(text) if name.eq_ignore_ascii_case("plaintext") => {
                let first = if text.starts_with('A') { "B" } else { "A" };
                text.replace_range(..1, first);
            }
            _ => other_text(value),
        }
    }
}

/// Another plaintext in TTLV: the bytes after tag, type and length of the item "Data".
fn other_data(body: &mut [u8]) {
    const DATA: [u8; 4] = [0x42, 0x00, 0xc2, 0x08];
    let item = body.windows(DATA.len()).position(|window| window == DATA);
    if let Some(byte) = item.and_then(|at| body.get_mut(at + 8)) {
        *byte ^= 1;
    }
}
