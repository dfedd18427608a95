//! How the program reaches a server over TLS, and whom it takes for it: `sslmode` and `sslrootcert` as libpq has them.

use std::process::Output;

use colcrypt_tests::Cluster;
use colcrypt_tests::authority::Authority;
use colcrypt_tests::left_out::left_out;
use colcrypt_tests::port::Port;

use crate::common::{self, Sql, db};

struct Served {
    server: Cluster,
    port: Port,
    authority: String,
    stranger: String,
}

impl Served {
    fn new() -> Self {
        let port = Port::hold();
        let authority = Authority::new();
        let identity = authority.server(&["localhost"]);
        let server = common::settings(Cluster::builder())
            .conf("listen_addresses = '127.0.0.1'")
            .conf(format!("port = {}", port.number()))
            .create();
        let write = |name, text: &str| {
            server
                .write_file(name, text.as_bytes(), 0o600)
                .display()
                .to_string()
        };
        let certificate = write("server.crt", &identity.certificate);
        let key = write("server.key", &identity.private_key);
        let authority = write("root.crt", &authority.pem());
        let stranger = write("stranger.crt", &Authority::new().pem());
        for line in [
            "ssl = on".to_owned(),
            format!("ssl_cert_file = '{certificate}'"),
            format!("ssl_key_file = '{key}'"),
        ] {
            server.append_conf(&line);
        }
        write(
            "data/pg_hba.conf",
            "local all all trust\nhostssl all all all scram-sha-256\nhostnossl all plain all trust\n",
        );
        server.start();
        Self {
            server,
            port,
            authority,
            stranger,
        }
    }

    fn doctor(&self, words: &str, env: &[(&str, &str)]) -> Output {
        let connection = format!("port={} dbname=work {words}", self.port.number());
        self.server
            .command("colcrypt")
            .args(["doctor", "--json", &connection])
            .envs(env.iter().copied())
            .output()
            .unwrap()
    }
}

#[test]
fn a_server_is_reached_over_tls_and_taken_for_what_it_is() {
    if db().client.one("SHOW ssl_library").is_empty() {
        left_out("the server has no TLS");
        return;
    }
    let served = Served::new();
    let mut config = postgres::Config::new();
    config
        .host_path(served.server.dir())
        .port(served.port.number())
        .user("postgres");
    let connect = |database: &str| {
        config
            .clone()
            .dbname(database)
            .connect(postgres::NoTls)
            .unwrap()
    };
    connect("postgres").run("CREATE DATABASE work");
    connect("work").run(
        "CREATE EXTENSION colcrypt;
         CREATE ROLE dba LOGIN SUPERUSER PASSWORD 'a:password'; CREATE ROLE plain LOGIN SUPERUSER",
    );
    let pass = |mode| {
        let text = format!(
            "localhost:*:*:other:wrong\n*:{}:work:dba:a\\:password\n",
            served.port.number()
        );
        let path = served.server.write_file("pass", text.as_bytes(), mode);
        path.display().to_string()
    };
    let file = pass(0o600);
    let env = [("PGPASSFILE", &file[..])];
    let ok = |words: &str, env: &[(&str, &str)]| {
        let output = served.doctor(words, env);
        assert!(
            output.status.code().is_some_and(|code| code < 3),
            "{words}: {output:?}"
        );
    };
    let refused = |words: &str, env: &[(&str, &str)], why: &str| {
        let output = served.doctor(words, env);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{words}: {told}");
        assert!(
            told.contains(why) && !told.contains("a:password"),
            "{words}: {told}"
        );
    };
    let (authority, stranger) = (&served.authority, &served.stranger);
    let full = format!("host=localhost user=dba sslmode=verify-full sslrootcert={authority}");
    ok(&full, &env);
    // The channel is bound to the certificate.
    ok(&format!("{full} channel_binding=require"), &env);
    ok(
        "host=localhost user=dba",
        &[
            env[0],
            ("PGSSLMODE", "verify-full"),
            ("PGSSLROOTCERT", authority),
        ],
    );
    // Another authority, and another name.
    for mode in ["verify-full", "verify-ca", "require"] {
        refused(
            &format!("host=localhost user=dba sslmode={mode} sslrootcert={stranger}"),
            &env,
            "UnknownIssuer",
        );
    }
    refused(
        &format!("host=127.0.0.1 user=dba sslmode=verify-full sslrootcert={authority}"),
        &env,
        "not valid for name",
    );
    ok(
        &format!("host=127.0.0.1 user=dba sslmode=verify-ca sslrootcert={authority}"),
        &env,
    );
    // Who names no authority and does not insist on one has TLS all the same.
    ok("host=localhost user=dba", &env);
    ok("host=localhost user=dba sslmode=require", &env);
    refused(
        "host=localhost user=dba sslmode=disable",
        &env,
        "no encryption",
    );
    refused(
        "host=localhost user=dba sslmode=verify-full",
        &env,
        "sslrootcert",
    );
    refused(
        "host=localhost user=dba sslrootcert=system sslmode=require",
        &env,
        "too weak",
    );
    refused(
        "host=localhost user=dba sslrootcert=system",
        &env,
        "UnknownIssuer",
    );
    refused("host=localhost user=dba sslmode=sometimes", &env, "sslmode");
    // A password that others may read is none.
    let open = pass(0o644);
    refused(
        "host=localhost user=dba",
        &[("PGPASSFILE", &open)],
        "password",
    );
    // A server that stops speaking TLS is not spoken to by who insists on it.
    served.server.append_conf("ssl = off");
    served.server.restart();
    ok("host=localhost user=plain sslmode=prefer", &env);
    refused("host=localhost user=plain sslmode=require", &env, "TLS");
}
