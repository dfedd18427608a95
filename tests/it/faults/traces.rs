//! What a busy day leaves behind on disk: no key and no plaintext, in the server's log at its most talkative, in WAL
//! that is written in full, in a dump, or in any other file of the data directory.

use std::time::Duration;

use base64ct::{Base64, Encoding};
use colcrypt_core::Suite;
use colcrypt_tests::bed::{PLAINTEXT, VaultBed};
use colcrypt_tests::cluster::Cluster;
use colcrypt_tests::db::Sql;
use colcrypt_tests::openbao::OpenBao;
use colcrypt_tests::problem::failed;
use colcrypt_tests::process::run;
use colcrypt_tests::search::{each_file, occurrences};
use colcrypt_tests::wait_for;

use crate::vault::{data_key, keys_of};

/// Every form in which bytes could be written down.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let hex = hex::encode(secret);
    vec![
        secret.to_vec(),
        hex.to_uppercase().into_bytes(),
        hex.into_bytes(),
        Base64::encode_string(secret).into_bytes(),
        format!("{secret:?}").into_bytes(),
    ]
}

#[test]
fn no_key_and_no_plaintext_is_written_anywhere() {
    let mut builder = Cluster::builder().durable();
    for line in [
        "log_min_messages = debug5",
        "log_error_verbosity = verbose",
        "log_statement = none",
        "wal_level = logical",
        "wal_compression = off",
        "wal_keep_size = '256MB'",
        "colcrypt.soft_ttl = '300ms'",
    ] {
        builder = builder.conf(line);
    }
    let bed = VaultBed::on(OpenBao::start(), builder);
    let mut client = bed.cluster.client();
    client
        .batch_execute(
            "SELECT colcrypt.create_key('x', 'ring', 'xaes-256-gcm');
             CREATE TABLE t (id int PRIMARY KEY, v colcrypt.ciphertext, w colcrypt.ciphertext);
             SELECT colcrypt.register_column('t', 'v', 'k', 'colcrypt.row_context(id)'), colcrypt.register_column('t', 'w', 'x')",
        )
        .unwrap();
    // Parameters, as drivers send them: what the server itself logs of statements is its own doing.
    let long = PLAINTEXT.repeat(1000);
    for id in 0..40 {
        let text = if id % 10 == 0 { &long } else { PLAINTEXT };
        let insert = "INSERT INTO t VALUES ($1, colcrypt.encrypt_col($2::text, 'k', colcrypt.row_context($1::int)), colcrypt.encrypt_col($2::text, 'x'))";
        client.execute(insert, &[&id, &text]).unwrap();
    }
    // Errors that have the plaintext at hand.
    let unknown = "SELECT colcrypt.encrypt_col($1::text, 'nobody')";
    for (code, outcome) in [
        ("42704", client.query(unknown, &[&PLAINTEXT])),
        (
            "KC003",
            client.query("SELECT colcrypt.decrypt_col(v) FROM t", &[]),
        ),
        (
            "42804",
            client.query("SELECT colcrypt.decrypt_col(w, NULL::int) FROM t", &[]),
        ),
    ] {
        assert_eq!(failed(outcome).code, code);
    }
    client
        .batch_execute("SELECT colcrypt.rotate_key('k'), colcrypt.rotate_key('x'); SELECT colcrypt.mark_honeytoken(w) FROM t WHERE id = 7")
        .unwrap();
    wait_for("the jobs", Duration::from_secs(60), || {
        client.number("SELECT count(*) FROM colcrypt.job WHERE finished_at IS NULL") == 0
    });
    let read = "SELECT count(*) FROM t WHERE colcrypt.decrypt_col(v, NULL::text, colcrypt.row_context(id)) = colcrypt.decrypt_col(w)";
    assert_eq!(client.number(read), 40);
    client.batch_execute("ANALYZE t; CHECKPOINT").unwrap();

    let (kek, first) = keys_of(&bed, &mut client);
    let mut needles: Vec<Vec<u8>> = [
        kek.expose(),
        first.expose(),
        data_key(&mut client, &kek, ("k", Suite::Aes256Gcm), 2).expose(),
        data_key(&mut client, &kek, ("x", Suite::Xaes256Gcm), 1).expose(),
        data_key(&mut client, &kek, ("x", Suite::Xaes256Gcm), 2).expose(),
        PLAINTEXT.as_bytes(),
    ]
    .into_iter()
    .flat_map(forms)
    .collect();
    let token = std::fs::read_to_string(&bed.token_file).unwrap();
    needles.push(token.trim().into());

    let dump = bed.cluster.dir().join("all.sql");
    run(bed
        .cluster
        .command("pg_dump")
        .args(["-d", "postgres", "-f"])
        .arg(&dump));
    drop(client);
    bed.cluster.stop();
    let (mut wal, mut others) = (0, 0);
    let mut search = |path: &std::path::Path, bytes: &[u8]| {
        if path == bed.token_file {
            return;
        }
        let found = occurrences(bytes, &needles);
        assert!(
            found.iter().all(|count| *count == 0),
            "{}: {found:?}",
            path.display()
        );
        if path.components().any(|part| part.as_os_str() == "pg_wal") {
            wal += bytes.len();
        } else {
            others += bytes.len();
        }
    };
    each_file(bed.cluster.dir(), &mut search);
    // Ciphertext and log are there, so the search saw them.
    assert!(wal > 1 << 20 && others > 1 << 20, "{wal} bytes of WAL");
    assert!(bed.cluster.log().contains("DEBUG:"));
    let dump = std::fs::read_to_string(dump).unwrap();
    assert!(dump.contains("COPY colcrypt.key_version") && dump.contains("COPY public.t"));
}
