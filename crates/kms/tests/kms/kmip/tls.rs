//! Who may speak to whom: certificates of both sides, the files they lie in, and the connections made with them.

use std::{fs, os::unix::fs::PermissionsExt, sync::Arc};

use colcrypt_protocol::{Event, FailureKind, ProviderConfig};
use colcrypt_tests::{
    authority::Authority,
    provider_bed::{ProviderBed, Route},
    proxy::Upstream,
    pykmip::{CLIENT, Options, PyKmip},
};
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsConnector;

use super::{KEY, kmip, stand_in::acceptor, with_key};
use crate::{
    common::{self, SETTINGS, agent, fails, ok},
    conformance::{LIVELY, well_again},
};

async fn refused(root: &ProviderConfig, kind: FailureKind, parts: &[&str]) {
    fails(
        agent(SETTINGS).await.create_kek(root, KEY).await,
        kind,
        parts,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_the_server_does_not_know_is_not_let_in() {
    // In TLS 1.2 the server says so before it has proved who it is, so that is no refusal.
    for (tls, kind, part) in [
        (
            "1.3",
            FailureKind::Config,
            "does not accept the client certificate",
        ),
        ("1.2", FailureKind::Unreachable, "refuses the TLS handshake"),
    ] {
        let server = PyKmip::start_with(Options {
            tls,
            ..Options::default()
        });
        let good = with_key(&server);
        ok(agent(SETTINGS).await.create_kek(&good, KEY).await);
        // Of another authority, as while a server's is replaced, of one that goes by the right one's name, and one that
        // ran out.
        for identity in [
            Authority::new().client(CLIENT),
            Authority::named(server.authority().name()).client(CLIENT),
            server.authority().expired_client(CLIENT),
        ] {
            server.write_identity("stranger", &identity);
            refused(&kmip(server.config("stranger")), kind, &[part]).await;
        }

        // Of the right authority, and nobody all the same.
        server.write_identity("nobody", &server.authority().client("nobody"));
        let nobody = kmip(server.config("nobody"));
        refused(
            &nobody,
            FailureKind::Denied,
            &["does not accept the client certificate"],
        )
        .await;
        // A server's certificate is not a client's.
        server.write_identity("other", &server.authority().server(&["localhost"]));
        refused(
            &kmip(server.config("other")),
            FailureKind::Denied,
            &["client certificate"],
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_checked_and_read_anew() {
    let server = PyKmip::start();
    let root = with_key(&server);
    let agent = agent(SETTINGS).await;
    let kek = ok(agent.create_kek(&root, KEY).await);
    let key_file = server.dir().join(format!("{CLIENT}.key"));
    let key = fs::read_to_string(&key_file).unwrap();
    let refused = async |part: &str| {
        let failure = fails(
            common::agent(SETTINGS).await.create_dek(&kek).await,
            FailureKind::Config,
            &[part, "private_key_file"],
        );
        let secret = key.lines().nth(1).unwrap();
        assert!(!failure.message.contains(secret), "{failure}");
    };
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o640)).unwrap();
    refused("mode 0640").await;
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&key_file, key.replace("PRIVATE KEY", "NOTHING")).unwrap();
    refused("holds no PEM private key").await;
    fs::remove_file(&key_file).unwrap();
    refused("cannot be read").await;
    // Renewed: another key with its certificate.
    server.write_identity(CLIENT, &server.authority().client(CLIENT));
    ok(common::agent(SETTINGS).await.create_dek(&kek).await);
    server.write(&format!("{CLIENT}.key"), &key);
    refused("do not go together").await;

    for setting in ["ca_file", "certificate_file"] {
        let mut config = root.config.clone();
        config[setting] = json!(server.write("not-a-certificate", "hello"));
        fails(
            agent.create_kek(&kmip(config.clone()), KEY).await,
            FailureKind::Config,
            &[setting, "no PEM"],
        );
        config[setting] = json!("/nowhere/at/all");
        fails(
            agent.create_kek(&kmip(config), KEY).await,
            FailureKind::Config,
            &[setting, "/nowhere"],
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_and_a_lost_one_is_made_again() {
    let mut server = PyKmip::start();
    let root = with_key(&server);
    let agent = agent(SETTINGS).await;
    for _ in 0..5 {
        ok(agent.create_kek(&root, KEY).await);
    }
    let connected = |server: &PyKmip| server.requests("DISCOVER_VERSIONS", CLIENT);
    assert_eq!(connected(&server), 1);
    // No retries are allowed: the one connection is replaced without one.
    assert_eq!(SETTINGS.kms_retries, 0);
    server.stop();
    server.restart();
    ok(agent.create_kek(&root, KEY).await);
    assert_eq!(connected(&server), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_lead_nowhere_are_named() {
    let server = PyKmip::start();
    for (address, why) in [
        ("localhost:1", "cannot connect to localhost:1"),
        ("no-such-host.invalid", "cannot be resolved"),
    ] {
        let mut config = server.config(CLIENT);
        config["address"] = json!(address);
        refused(&kmip(config), FailureKind::Unreachable, &[why]).await;
    }
}

/// Takes connections as another server and passes on what comes in them, as a client that the server knows.
async fn proxy(server: &PyKmip, authority: &Authority) -> u16 {
    let Some(Upstream::Tls {
        address,
        name,
        config,
    }) = server.upstream()
    else {
        panic!("KMIP is TLS");
    };
    let acceptor = acceptor(&authority.server(&["localhost"]));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(mut client) = acceptor.accept(socket).await else {
                continue;
            };
            let socket = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from(name.clone()).unwrap();
            let connector = TlsConnector::from(Arc::clone(&config));
            let mut server = connector.connect(name, socket).await.unwrap();
            tokio::spawn(async move {
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_in_between_serves() {
    let server = PyKmip::start();
    with_key(&server);
    let authority = Authority::new();
    let ca_file = server.write("proxy.pem", &authority.pem());
    let route = Route::Proxy {
        port: proxy(&server, &authority).await,
        ca_file: &ca_file,
    };
    let root = kmip(ProviderBed::config(&server, &route));
    let agent = agent(SETTINGS).await;
    let before = server.unwraps().unwrap();
    let kek = ok(agent.create_kek(&root, &server.root_key()).await);
    ok(agent.create_dek(&kek).await);
    assert!(server.unwraps().unwrap() > before);
}

/// A certificate that ran out is nobody's decision: what is cached serves on.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_that_ran_out_leaves_keys_in_use() {
    let mut server = PyKmip::start();
    let root = with_key(&server);
    let warm = agent(LIVELY).await;
    let kek = ok(warm.create_kek(&root, KEY).await);
    let dek = ok(warm.create_dek(&kek).await);
    server.write_identity(CLIENT, &server.authority().expired_client(CLIENT));
    // Connections are kept: the next one shows the certificate.
    server.stop();
    server.restart();
    warm.event(|event| {
        assert!(!matches!(event, Event::KekRevoked { .. }), "{event:?}");
        matches!(event, Event::RefreshFailed { failure, .. } if failure.kind == FailureKind::Config)
    })
    .await;
    ok(warm.load(&dek).await);
    server.write_identity(CLIENT, &server.authority().client(CLIENT));
    let cold = common::agent(SETTINGS).await;
    well_again(&cold, &dek).await;
}
