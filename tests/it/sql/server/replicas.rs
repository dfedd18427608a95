//! Dumps restored elsewhere, and a streaming standby before and after its promotion.

use colcrypt_tests::of_jobs::{phases, rotate, versions};
use std::path::{Path, PathBuf};

use colcrypt_tests::process::run;
use colcrypt_tests::{Cluster, wait_for};
use postgres::Client;

use crate::common::{self, LONG, Sql, cluster, db, role, wait_for_jobs};

/// Everything that the source held, in one digest.
const DIGEST: &str =
    "SELECT md5(string_agg(id || colcrypt.decrypt_col(v, NULL::text, colcrypt.row_context(id))
    || colcrypt.decrypt_col(w, NULL::numeric), ',' ORDER BY id)) FROM t";

/// The ciphertexts as bytes: a restore changes none.
const BYTES: &str = "SELECT md5(string_agg(v::bytea || w::bytea, '' ORDER BY id)) FROM t";

#[test]
fn dumps_of_every_format_restore_into_a_new_cluster() {
    let mut source = db();
    let reader = role(&mut source.client);
    let gone = role(&mut source.client);
    source.client.run(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext, w ciphertext);
         INSERT INTO t SELECT g, encrypt_col(repeat('value ', g % 9 * 500) || g, 'k', row_context(g)), encrypt_col(g / 3.0, 'k')
             FROM generate_series(1, 300) g;
         CREATE TABLE dropped (v ciphertext);
         SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id)'), register_column('dropped', 'v', 'k');
         SELECT grant_key('k', '{reader}', '{{decrypt}}'), grant_key('k', '{gone}'), grant_key('k', 'public', '{{encrypt}}');
         GRANT SELECT ON t TO {reader};
         DROP ROLE {gone};
         DROP TABLE dropped;
         SELECT rotate_key('k')"
    ));
    wait_for_jobs(&mut source.client);
    assert_eq!(versions(&mut source.client, "t", "w"), "1:300");
    let digest = source.client.one(DIGEST);
    let bytes = source.client.one(BYTES);

    let to = common::settings(Cluster::builder()).start();
    let key = std::fs::read(common::root_key(cluster())).unwrap();
    let key = to.write_file("copied.key", &key, 0o600);
    to.client().run(&format!("CREATE ROLE {reader} LOGIN"));
    for format in ["plain", "custom", "directory"] {
        let mut copy = to.create_database(&format!("from_{format}"));
        restore(&source.name, &to, format);
        // The key file has another place here.
        copy.run(&format!(
            "SELECT colcrypt.alter_provider(name, jsonb_build_object('path', '{}')) FROM colcrypt.provider",
            key.display()
        ));
        assert_eq!(copy.one(DIGEST), digest, "{format}");
        assert_eq!(copy.one(BYTES), bytes, "{format}: encrypted twice");
        assert_eq!(copy.one("SELECT count(*) FROM colcrypt.job"), "0");
        check_rights(&to, format, &mut copy, &reader);
        // It lives on there: the registration came along too.
        assert_eq!(
            copy.rows("SELECT relation, attribute, context FROM colcrypt.protected_column"),
            [["t", "v", "colcrypt.row_context(id)"].map(|text| Some(text.to_owned()))]
        );
        rotate(&mut copy);
        assert_eq!(versions(&mut copy, "t", "v"), "3:300");
        assert_eq!(copy.one(DIGEST), digest);
    }
}

fn restore(database: &str, to: &Cluster, format: &str) {
    let file: PathBuf = cluster().dir().join(format!("{database}.{format}"));
    let target = format!("from_{format}");
    let mut dump = cluster().command("pg_dump");
    dump.args(["-d", database, "-F", format, "-f"]).arg(&file);
    if format == "directory" {
        dump.args(["-j", "2"]);
    }
    run(&mut dump);
    let restore = |arguments: &[&str], file: &Path| {
        run(to
            .command("pg_restore")
            .args(["--exit-on-error", "-d", &target])
            .args(arguments)
            .arg(file));
    };
    match format {
        "plain" => {
            run(to
                .command("psql")
                .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &target, "-f"])
                .arg(&file));
        }
        "custom" => restore(&[], &file),
        _ => restore(&["-j", "2"], &file),
    }
}

fn check_rights(to: &Cluster, format: &str, copy: &mut Client, reader: &str) {
    let mut user = to
        .config()
        .dbname(&format!("from_{format}"))
        .user(reader)
        .connect(postgres::NoTls)
        .unwrap();
    user.run("SELECT colcrypt.decrypt_col(w, NULL::numeric) FROM t");
    user.run("SELECT colcrypt.encrypt_col('x', 'k')");
    copy.run("SELECT colcrypt.revoke_key('k', 'public')");
    user.fails("42501", "SELECT colcrypt.encrypt_col('x', 'k')");
    // Nobody inherits the rights of a role that was dropped before the dump.
    assert_eq!(
        copy.one("SELECT string_agg(grantee::text, ' ' ORDER BY grantee::text COLLATE \"C\") FROM colcrypt.key_grant"),
        format!("postgres {reader}")
    );
    user.fails("42501", "SELECT * FROM colcrypt.key_version");
    user.fails("42501", "SELECT colcrypt.rotate_key('k')");
}

#[test]
fn a_restore_without_the_root_key_loses_nothing() {
    let mut source = db();
    source
        .client
        .run("CREATE TABLE t AS SELECT encrypt_col('hush', 'k') AS v");
    let dump = cluster().dump(&source.name);
    let to = common::settings(Cluster::builder()).start();
    let other = to.root_key("other.key");
    let mut copy = to.create_database("copy");
    to.restore(&dump, "copy");
    copy.fails(
        "KC019",
        &format!(
            "SELECT colcrypt.alter_provider(name, jsonb_build_object('path', '{}')) FROM colcrypt.provider",
            other.display()
        ),
    );
    copy.run(&format!(
        "UPDATE colcrypt.provider SET config = jsonb_build_object('path', '{}')",
        other.display()
    ));
    copy.fails("KC019", "SELECT colcrypt.decrypt_col(v) FROM t")
        .says("nothing was changed");
    let key = std::fs::read(common::root_key(cluster())).unwrap();
    let key = to.write_file("right.key", &key, 0o600);
    copy.run(&format!(
        "SELECT colcrypt.alter_provider(name, jsonb_build_object('path', '{}')) FROM colcrypt.provider",
        key.display()
    ));
    assert_eq!(copy.one("SELECT colcrypt.decrypt_col(v) FROM t"), "hush");
}

#[test]
fn a_standby_reads_obeys_and_takes_over() {
    let primary = common::settings(Cluster::builder()).start();
    let mut client = primary.create_database("work");
    common::make_key(&primary, &mut client);
    client.run(
        "CREATE ROLE reader LOGIN;
         CREATE TABLE t (id int, v colcrypt.ciphertext);
         INSERT INTO t SELECT g, colcrypt.encrypt_col('v' || g, 'k') FROM generate_series(1, 200) g;
         GRANT SELECT ON t TO reader;
         SELECT colcrypt.grant_key('k', 'reader'), colcrypt.register_column('t', 'v', 'k')",
    );
    let standby = primary.standby();
    primary.wait_for_replay(&standby);

    let all = "SELECT count(*) FROM t WHERE colcrypt.decrypt_col(v) = 'v' || id";
    let own = "SELECT colcrypt.decrypt_col(colcrypt.encrypt_col('here', 'k'))";
    let mut admin = standby.client_db("work");
    assert_eq!(admin.one(all), "200", "cold");
    assert_eq!(admin.one(all), "200", "warm");
    assert_eq!(admin.one(own), "here");
    assert_eq!(
        admin.one("SELECT string_agg(checked || ' ' || ok, ', ') FROM colcrypt.verify_keys(true)"),
        "root key true, key version true"
    );
    admin.fails("25006", "SELECT colcrypt.rotate_key('k')");
    assert_eq!(standby.launcher_pid(), None);

    let mut reader = standby
        .config()
        .dbname("work")
        .user("reader")
        .connect(postgres::NoTls)
        .unwrap();
    assert_eq!(reader.one(all), "200");
    client.run("SELECT colcrypt.revoke_key('k', 'reader', '{decrypt}')");
    primary.wait_for_replay(&standby);
    reader.fails("42501", all);
    assert_eq!(
        reader.one("SELECT length(colcrypt.encrypt_col('x', 'k')::bytea)"),
        "41"
    );
    client.run("SELECT colcrypt.grant_key('k', 'reader')");
    primary.wait_for_replay(&standby);
    assert_eq!(reader.one(all), "200");

    client.run("SELECT colcrypt.rotate_key('k')");
    primary.wait_for_replay(&standby);
    let version = "SELECT (colcrypt.ciphertext_info(colcrypt.encrypt_col('x', 'k'))).version";
    assert_eq!(reader.one(version), "2");
    wait_for_jobs(&mut client);
    primary.wait_for_replay(&standby);
    assert_eq!(versions(&mut admin, "t", "v"), "2:200");
    assert_eq!(admin.one(all), "200");

    drop(client);
    primary.stop_immediately();
    standby.promote();
    assert_eq!(
        reader.one(all),
        "200",
        "a session lives through the promotion"
    );
    admin.run("INSERT INTO t VALUES (201, colcrypt.encrypt_col('v201', 'k')); SELECT colcrypt.rotate_key('k')");
    wait_for("the launcher", LONG, || standby.launcher_pid().is_some());
    wait_for_jobs(&mut admin);
    assert_eq!(phases(&mut admin), ["done", "done"]);
    assert_eq!(versions(&mut admin, "t", "v"), "3:201");
    assert_eq!(reader.one(all), "201");
}
