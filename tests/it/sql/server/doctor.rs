//! `doctor`: nothing on a server that is well, and each fault by its name when it is planted.

use std::collections::BTreeSet;
use std::fs;
use std::process::Output;

use colcrypt_tests::Cluster;
use colcrypt_tests::left_out::left_out;
use colcrypt_tests::of_memory::{Limit, may_not_lock, start};
use colcrypt_tests::process::{kill9, run};
use colcrypt_tests::wait_for;
use postgres::Client;
use serde_json::Value;

use super::doctor_faults::{ESCROW, FAULTS, TABLE};
use crate::common::{self, LONG, Sql, db, set_up, unique};

/// What a server says of itself that is as the guide makes it.
const OF_EVERY_SERVER: &[&str] = &[
    "key_on_same_disk",
    "literals_shown",
    "no_recovery",
    "one_person",
    "provider_note",
];

/// What hangs on the machine that this runs on.
const OF_THE_MACHINE: &[&str] = &["core_files", "swap_in_use"];

/// Those of a server, which tests of their own plant.
const OF_SERVERS: &[&str] = &[
    "agent_down",
    "agent_of_other_version",
    "clock_set",
    "events_in_server_log",
    "events_only_counted",
    "fsync_off",
    "full_page_writes_off",
    "memory_not_locked",
    "no_anchor",
    "no_launcher",
    "not_checked",
    "not_preloaded",
    "root_failing",
    "rust_backtrace",
    "server_out_of_support",
];

/// Severity, finding and object.
type Found = BTreeSet<(String, String, String)>;

fn found(client: &mut Client) -> Found {
    let rows = client.rows("SELECT severity, finding, coalesce(object, '') FROM colcrypt.doctor()");
    let text = |cell: Option<String>| cell.unwrap();
    rows.into_iter()
        .map(|row| {
            let [severity, finding, object] = row.try_into().expect("three columns");
            (text(severity), text(finding), text(object))
        })
        .collect()
}

/// Their names, in order.
fn names(found: &Found) -> BTreeSet<&str> {
    found.iter().map(|(_, finding, _)| &finding[..]).collect()
}

#[track_caller]
fn is_there(client: &mut Client, severity: &str, finding: &str) {
    let found = found(client);
    assert!(
        found.iter().any(|it| it.0 == severity && it.1 == finding),
        "{severity} {finding} in {found:#?}"
    );
}

fn wait_until_found(client: &mut Client, finding: &str) {
    wait_for(finding, LONG, || names(&found(client)).contains(finding));
}

/// A server as the guide and operations.md have it: nothing is lost in a crash, memory may be locked.
fn well() -> Cluster {
    let cluster = common::settings(Cluster::builder())
        .durable()
        .env("RUST_BACKTRACE", "0")
        .conf("session_preload_libraries = ''")
        .create();
    start(&cluster, Limit::Without).expect("a start");
    // No schedule is to mend what is planted.
    let mut client = cluster.client();
    let later = client.one(
        "SELECT to_char(now() AT TIME ZONE current_setting('log_timezone') + interval '12 hours', 'HH24:MI')",
    );
    client.run(&format!(
        "ALTER SYSTEM SET colcrypt.rotation_time = '{later}'"
    ));
    cluster.reload();
    set_up(&cluster);
    let mut client = cluster.client_db("tpl");
    wait_for("the agent", LONG, || {
        client.yes("SELECT agent_pid IS NOT NULL FROM colcrypt.broker_status()")
    });
    drop(client);
    cluster
}

/// Nothing but what every server has.
#[track_caller]
fn is_well(cluster: &Cluster, found: &Found) {
    for (severity, finding, object) in found {
        let is_known = OF_EVERY_SERVER
            .iter()
            .chain(OF_THE_MACHINE)
            .any(|known| known == finding);
        let may_be = may_not_lock(cluster) && finding == "memory_not_locked";
        assert!(
            is_known && severity == "notice" || may_be,
            "{severity} {finding}: {object}"
        );
    }
    for known in OF_EVERY_SERVER {
        assert!(names(found).contains(known), "{known} in {found:?}");
    }
}

fn open(cluster: &Cluster, database: &str) -> Client {
    let mut client = cluster.client_db(database);
    client.run("SET search_path = public, colcrypt");
    client
}

#[test]
fn each_fault_of_a_database_is_found_and_nothing_else() {
    let cluster = well();
    let data = cluster.data();
    run(cluster
        .server_user()
        .command("cp")
        .arg(common::root_key(&cluster))
        .arg(data.join("inside.key")));
    let mut failed = Vec::new();
    for it in FAULTS {
        let name = unique("fault");
        cluster
            .client()
            .run(&format!("CREATE DATABASE {name} TEMPLATE tpl"));
        let mut client = open(&cluster, &name);
        let before = found(&mut client);
        is_well(&cluster, &before);
        for statement in it.plant {
            let statement = match statement.split_once(' ') {
                Some(("ESCROW", days)) => ESCROW.replace("DAYS", days),
                Some(("SET", setting)) => format!("ALTER DATABASE {name} SET {setting}"),
                _ => statement.replace("DATA", &data.display().to_string()),
            };
            client.run(&statement);
        }
        let mut new = Found::new();
        let is_it = |row: &(String, String, String)| {
            row.0 == it.severity && row.1 == it.findings[0] && row.2.contains(it.object)
        };
        // Jobs and the audit log take their time.
        let began = std::time::Instant::now();
        while !new.iter().any(is_it) && began.elapsed() < colcrypt_tests::bed::MOMENT {
            new = found(&mut client).difference(&before).cloned().collect();
        }
        let expected: BTreeSet<&str> = it.findings.iter().copied().collect();
        if !new.iter().any(is_it) || names(&new) != expected {
            failed.push(format!("{} {:?}: {new:#?}", it.severity, it.findings));
        }
        if client
            .yes("SELECT count(*) > 0 FROM pg_prepared_xacts WHERE database = current_database()")
        {
            client.run("ROLLBACK PREPARED 'open'");
        }
        drop(client);
        cluster
            .client()
            .run(&format!("DROP DATABASE {name} WITH (FORCE)"));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn each_finding_is_planted_by_a_test() {
    let mut db = db();
    let known: BTreeSet<String> = db
        .client
        .rows("SELECT finding FROM doctor_checks()")
        .into_iter()
        .map(|row| row[0].clone().unwrap())
        .collect();
    let planted: BTreeSet<String> = FAULTS
        .iter()
        .flat_map(|fault| fault.findings)
        .chain(OF_EVERY_SERVER)
        .chain(OF_THE_MACHINE)
        .chain(OF_SERVERS)
        .map(|finding| (*finding).to_owned())
        .collect();
    assert_eq!(known, planted);
}

/// Who may ask sees what he may see, and is told what could not be looked at. A standby is asked like any server.
#[test]
fn whoever_may_ask_is_told_what_was_not_checked_on_a_standby_too() {
    let cluster = well();
    let mut client = open(&cluster, "tpl");
    client.run(
        "CREATE ROLE watcher LOGIN IN ROLE pg_monitor; CREATE ROLE stranger LOGIN;
         CREATE ROLE keeper LOGIN IN ROLE pg_monitor;
         GRANT EXECUTE ON FUNCTION colcrypt.verify_keys(boolean), colcrypt.check_provider(text, text), colcrypt.sample_columns(int) TO keeper",
    );
    let standby = cluster.base_backup(&["-R"]);
    start(&standby, Limit::Without).expect("a start");
    cluster.wait_for_replay(&standby);
    wait_for("the standby's agent", LONG, || {
        standby.agent_pid().is_some()
    });
    for cluster in [&cluster, &standby] {
        let connect = |role: &str| {
            let mut config = cluster.config();
            config.dbname("tpl").user(role);
            config.connect(postgres::NoTls).unwrap()
        };
        is_well(cluster, &found(&mut open(cluster, "tpl")));
        is_well(cluster, &found(&mut connect("keeper")));
        let mut watcher = connect("watcher");
        let seen = found(&mut watcher);
        let not_checked: Vec<&str> = seen
            .iter()
            .filter(|(severity, finding, _)| severity == "notice" && finding == "not_checked")
            .map(|(.., object)| &object[..])
            .collect();
        assert_eq!(
            not_checked,
            ["provider_problem", "root_closed", "rows_not_opening"]
        );
        assert!(
            seen.iter().all(|(severity, ..)| severity == "notice"),
            "{seen:?}"
        );
        watcher.run("BEGIN READ ONLY; SELECT colcrypt.doctor(); COMMIT");
        connect("stranger").fails("42501", "SELECT * FROM colcrypt.doctor()");
    }
    // Values are tried on a standby, and by who may write nothing.
    client.run(TABLE);
    client.run("SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id)')");
    cluster.wait_for_replay(&standby);
    is_there(&mut open(&standby, "tpl"), "warning", "rows_not_opening");
    let mut keeper = cluster.config();
    keeper.dbname("tpl").user("keeper");
    let mut keeper = keeper.connect(postgres::NoTls).unwrap();
    keeper.run("SET default_transaction_read_only = on");
    is_there(&mut keeper, "warning", "rows_not_opening");
    client.run("DROP TABLE t CASCADE");

    // Who is shown no more than functions of his own is told so of every view.
    client.run("GRANT EXECUTE ON FUNCTION colcrypt.doctor(), colcrypt.doctor_checks() TO stranger");
    let mut stranger = cluster.config();
    stranger.dbname("tpl").user("stranger");
    let seen = found(&mut stranger.connect(postgres::NoTls).unwrap());
    assert!(
        seen.contains(&(
            "notice".into(),
            "not_checked".into(),
            "key_without_period".into()
        )),
        "{seen:?}"
    );

    // Of a root key that fails, he sees what was heard last.
    fs::rename(common::root_key(&cluster), cluster.dir().join("away")).unwrap();
    let refused = "SELECT bool_or(opens) FROM colcrypt.check_roots('ring')";
    assert!(!client.yes(refused));
    let mut config = cluster.config();
    config.dbname("tpl").user("watcher");
    let mut watcher = config.connect(postgres::NoTls).unwrap();
    is_there(&mut watcher, "critical", "root_failing");
    assert!(!names(&found(&mut watcher)).contains("root_closed"));
}

/// Nobody's operators, functions or casts are called, and no object of a name like the catalog's is looked at.
#[test]
fn nobody_elses_code_runs() {
    let mut db = db();
    let role = common::role(&mut db.client);
    db.client.run(&format!(
        "GRANT ALL ON SCHEMA public TO {role}; CREATE TABLE seen (who text); GRANT INSERT ON seen TO {role}"
    ));
    let mut attacker = db.connect_as(&role);
    attacker.run(
        "CREATE FUNCTION public.format(text) RETURNS text LANGUAGE sql AS
             $$ INSERT INTO public.seen VALUES (current_user); SELECT 'x' $$;
         CREATE FUNCTION public.spy(ciphertext) RETURNS text IMMUTABLE LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.seen VALUES (current_user); RETURN colcrypt.decrypt_col($1); END $$;
         CREATE VIEW public.pg_settings AS SELECT public.format('x') AS name;
         CREATE TABLE public.bait (v ciphertext);
         CREATE INDEX bait_spy ON public.bait (public.spy(v));
         CREATE MATERIALIZED VIEW public.copied AS SELECT public.spy(v) FROM public.bait",
    );
    db.client
        .run("TRUNCATE seen; SET search_path = public, pg_catalog, colcrypt");
    let found = found(&mut db.client);
    assert_eq!(db.client.one("SELECT count(*) FROM public.seen"), "0");
    for finding in ["plaintext_index", "plaintext_copy", "column_not_registered"] {
        assert!(names(&found).contains(finding), "{finding} in {found:?}");
    }
}

#[test]
fn faults_of_a_server_are_found() {
    // What the suite's own cluster is started with: no fsync, and backtraces.
    let mut db = db();
    for (severity, finding) in [
        ("critical", "fsync_off"),
        ("warning", "full_page_writes_off"),
        ("notice", "rust_backtrace"),
    ] {
        is_there(&mut db.client, severity, finding);
    }

    let cluster = well();
    cluster.stop();
    start(&cluster, Limit::Some).expect("a start");
    let mut client = open(&cluster, "tpl");
    wait_until_found(&mut client, "memory_not_locked");

    cluster.append_conf("colcrypt.audit_anchor_interval = 0");
    cluster.reload();
    wait_until_found(&mut client, "no_anchor");

    cluster.append_conf("colcrypt.agent_path = '/nowhere/colcrypt'");
    cluster.reload();
    kill9(cluster.agent_pid().expect("an agent"));
    wait_until_found(&mut client, "agent_down");
    let has_contrib = client.has_contrib();
    drop(client);

    // No place for the launcher, and pg_stat_statements as it comes.
    cluster.stop();
    cluster.append_conf("max_worker_processes = 1");
    if has_contrib {
        cluster.append_conf("shared_preload_libraries = 'colcrypt, pg_stat_statements'");
    }
    cluster.append_conf("colcrypt.agent_path = ''");
    cluster.start();
    let mut client = open(&cluster, "tpl");
    wait_until_found(&mut client, "no_launcher");
    if has_contrib {
        is_there(&mut client, "notice", "statements_kept");
    }
    drop(client);

    cluster.stop();
    cluster.append_conf("shared_preload_libraries = ''");
    cluster.start();
    let mut client = open(&cluster, "tpl");
    let found = found(&mut client);
    assert!(names(&found).contains("not_preloaded"), "{found:?}");
    assert!(names(&found).contains("not_checked"), "{found:?}");
}

#[test]
fn a_clock_that_was_set_is_found() {
    let clock = colcrypt_tests::clock::Clock::new();
    let cluster = clock.of(Cluster::builder()).start();
    set_up(&cluster);
    let mut client = open(&cluster, "tpl");
    assert!(!names(&found(&mut client)).contains("clock_set"));
    clock.set(3600);
    wait_until_found(&mut client, "clock_set");
    // Of the youngest release that there is, too.
    assert!(!names(&found(&mut client)).contains("server_out_of_support"));
    clock.set(2000 * 86_400);
    wait_until_found(&mut client, "server_out_of_support");
}

/// The agent's own words pass through, but for the release that it says it is of.
const OF_ANOTHER_RELEASE: &str = r#"#!/usr/bin/env python3
import os, re, socket, subprocess, sys, threading
broker = socket.socket(fileno=0)
ours, theirs = socket.socketpair()
agent = subprocess.Popen(["AGENT", *sys.argv[1:]], stdin=theirs)
theirs.close()
def pass_on(source, target, change):
    while data := source.recv(65536):
        target.sendall(change(data))
    os._exit(0)
def other(data):
    return re.sub(rb'"version":"\d+(\.\d+\.\d+")', rb'"version":"9\1', data)
threading.Thread(target=pass_on, args=(broker, ours, bytes)).start()
pass_on(ours, broker, other)
"#;

#[test]
fn an_agent_of_another_release_is_found() {
    let cluster = well();
    let mut client = open(&cluster, "tpl");
    assert!(!names(&found(&mut client)).contains("agent_of_other_version"));
    let real = cluster.installation().bindir().join("colcrypt");
    let script = OF_ANOTHER_RELEASE.replace("AGENT", real.to_str().expect("UTF-8"));
    let program = cluster.write_file("of-another-release", script.as_bytes(), 0o755);
    cluster.append_conf(&format!("colcrypt.agent_path = '{}'", program.display()));
    cluster.reload();
    kill9(cluster.agent_pid().expect("an agent"));
    wait_until_found(&mut client, "agent_of_other_version");
    // It serves all the same.
    client.run(TABLE);
}

#[test]
fn events_that_have_no_record_are_found() {
    let cluster = common::settings(Cluster::builder())
        .conf("colcrypt.audit_ring_events = 4")
        .start();
    set_up(&cluster);
    let mut client = open(&cluster, "tpl");
    client.run("CREATE ROLE loud LOGIN");
    // Nothing gets into the log, so the ring is full, and then it does.
    let mut holder = open(&cluster, "tpl");
    holder.run("BEGIN; LOCK TABLE colcrypt.audit_log IN EXCLUSIVE MODE");
    for _ in 0..7 {
        let mut config = cluster.config();
        config.dbname("tpl").user("loud");
        config
            .connect(postgres::NoTls)
            .unwrap()
            .fails("42501", "SELECT colcrypt.encrypt_col('x', 'k')");
    }
    wait_until_found(&mut client, "events_in_server_log");
    holder.run("COMMIT");
    wait_until_found(&mut client, "events_only_counted");
}

fn doctor(cluster: &Cluster, database: &str, arguments: &[&str]) -> Output {
    cluster
        .command("colcrypt")
        .arg("doctor")
        .args(arguments)
        .env("PGDATABASE", database)
        .output()
        .unwrap()
}

#[test]
fn the_shell_has_its_findings_and_an_exit_status() {
    let cluster = well();
    if may_not_lock(&cluster) {
        left_out("no server here may lock its memory: run this as root");
        return;
    }
    let told = |output: &Output| String::from_utf8(output.stdout.clone()).unwrap();
    let json = |arguments: &[&str]| {
        let output = doctor(&cluster, "tpl", arguments);
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (output.status.code().unwrap(), report)
    };
    let output = doctor(&cluster, "tpl", &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = told(&output);
    assert!(
        text.contains("notice    one_person  keyring ring\n"),
        "{text}"
    );
    assert!(text.contains("\n0 critical, 0 warnings, "), "{text}");
    assert!(!text.contains('\u{1b}'), "colours in a pipe: {text}");
    let (code, report) = json(&["--json"]);
    assert_eq!((code, &report["status"]), (0, &Value::from("notice")));

    let mut client = open(&cluster, "tpl");
    client.run("CREATE TABLE loose (v ciphertext)");
    let (code, report) = json(&["--json", "dbname=tpl"]);
    assert_eq!((code, &report["status"]), (1, &Value::from("warning")));
    let first = &report["findings"][0];
    assert_eq!(first["finding"], "column_not_registered");
    assert_eq!(first["severity"], "warning");
    assert_eq!(first["object"], "public.loose.v");
    assert!(first["detail"].is_null());
    assert!(first["meaning"].is_string() && first["remedy"].is_string());

    client.run("GRANT SELECT ON colcrypt.key_version TO PUBLIC");
    let output = doctor(&cluster, "tpl", &[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        told(&output).starts_with("critical  public_on_catalog  relation colcrypt.key_version\n"),
        "{}",
        told(&output)
    );

    // No answer is none of these.
    for arguments in [
        ["user=nobody_known"],
        ["password=hunter2"],
        ["dbname=template1"],
    ] {
        let output = doctor(&cluster, "tpl", &arguments);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert!(output.stdout.is_empty());
    }
    let elsewhere = doctor(&cluster, "template1", &[]);
    let told = String::from_utf8(elsewhere.stderr).unwrap();
    assert!(told.contains("no extension colcrypt"), "{told}");
}
