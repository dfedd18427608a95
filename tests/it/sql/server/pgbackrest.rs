//! A server that pgBackRest copied in the middle of a rotation, and brought back in another place.

use std::fs;

use colcrypt_tests::left_out::left_out;
use colcrypt_tests::of_jobs::{phases, slow_table, versions, wait_until_under_way};
use colcrypt_tests::process::run;
use colcrypt_tests::{Cluster, patroni, wait_for};

use crate::common::{self, LONG, Sql, wait_for_jobs};

const ROWS: u32 = 2000;
const RIGHT: &str = "SELECT count(*) FROM t WHERE colcrypt.decrypt_col(v, NULL::text, int4send(id)) = 'secret ' || id";
const MIXED: &str = "SELECT count(DISTINCT (colcrypt.ciphertext_info(v)).version) = 2 FROM t";
const NODE: &str = "SELECT origin || ' ' || epoch FROM colcrypt.node_state";
/// The first server major that Debian's pgBackRest does not know.
const TOO_NEW: i64 = 16;

#[test]
fn pgbackrest_restores_elsewhere_what_it_took_during_a_rotation() {
    let original = common::settings(Cluster::builder().durable()).create();
    let program = patroni::copied_to(&original).join("bin/pgbackrest");
    let folder = original.dir().display();
    let config = format!(
        "[global]\nrepo1-path={folder}/repo\nrepo1-retention-full=1\nlog-level-file=off\nlog-level-console=warn\n\
         lock-path={folder}/lock\nspool-path={folder}/spool\nstart-fast=y\n\
         [main]\npg1-path={}\npg1-socket-path={folder}\npg1-port=5432\npg1-user=postgres\n",
        original.data().display()
    );
    let config = original.write_file("pgbackrest.conf", config.as_bytes(), 0o600);
    let pgbackrest = |arguments: &[&str]| {
        let mut command = original.server_user().command(&program);
        command.arg(format!("--config={}", config.display()));
        run(command.arg("--stanza=main").args(arguments));
    };
    for line in [
        "archive_mode = on",
        "colcrypt.batch_blocks = 1",
        "colcrypt.node = primary",
    ] {
        original.append_conf(line);
    }
    original.start();
    let mut client = original.create_database("work");
    if client.server() >= TOO_NEW {
        left_out("Debian's pgBackRest does not know this server");
        return;
    }
    pgbackrest(&["stanza-create"]);
    original.append_conf(&format!(
        "archive_command = '{} --config={} --stanza=main archive-push %p'",
        program.display(),
        config.display()
    ));
    original.reload();
    common::make_key(&original, &mut client);
    slow_table(&mut client, ROWS);
    client.run("SELECT colcrypt.export_catalog()");
    let node = client.one(NODE);
    client.run("SELECT colcrypt.rotate_key('k')");
    wait_until_under_way(&mut client);
    client.run("SELECT colcrypt.pause_job(job_id) FROM colcrypt.job_progress");
    pgbackrest(&["backup", "--type=full"]);
    drop(client);
    original.stop();
    // Where it is restored, the root key is in another place; where it was, it is no more.
    let copy = Cluster::builder().create();
    let key = fs::read(common::root_key(&original)).unwrap();
    fs::remove_file(common::root_key(&original)).unwrap();
    let key = copy.write_file("brought.key", &key, 0o600);

    let data = copy.data();
    run(copy
        .server_user()
        .command("find")
        .arg(&data)
        .args(["-mindepth", "1", "-delete"]));
    let place = format!("--pg1-path={}", data.display());
    pgbackrest(&[
        &place,
        "--type=immediate",
        "--target-action=promote",
        "restore",
    ]);
    copy.append_conf(&format!(
        "unix_socket_directories = '{}'",
        copy.dir().display()
    ));
    copy.append_conf("archive_mode = off");
    copy.start();
    let mut restored = copy.client_db("work");
    wait_for("the end of recovery", LONG, || {
        !restored.yes("SELECT pg_is_in_recovery()")
    });
    restored.fails(
        "KC016",
        "SELECT colcrypt.decrypt_col(v, NULL::text, int4send(id)) FROM t",
    );
    restored.run(&format!(
        "SELECT colcrypt.alter_provider('local', '{{\"path\": \"{}\"}}')",
        key.display()
    ));
    // It is the primary as of the backup: what it exports now is another change of the same keys.
    assert_eq!(restored.one(NODE), node);
    assert!(restored.yes(MIXED), "not in the middle of the rotation");
    assert_eq!(restored.one(RIGHT), ROWS.to_string());
    restored.run("SELECT colcrypt.resume_job(job_id) FROM colcrypt.job_progress");
    wait_for_jobs(&mut restored);
    assert_eq!(phases(&mut restored), ["done"]);
    assert_eq!(versions(&mut restored, "t", "v"), format!("2:{ROWS}"));
    assert_eq!(restored.one(RIGHT), ROWS.to_string());
    assert!(restored.yes("SELECT ok FROM colcrypt.verify_audit_log()"));
    restored.run("SELECT colcrypt.export_catalog()");
    let (origin, epoch) = node.split_once(' ').unwrap();
    let next = epoch.parse::<u32>().unwrap() + 1;
    assert_eq!(restored.one(NODE), format!("{origin} {next}"));
}
