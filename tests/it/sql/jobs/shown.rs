//! `colcrypt watch` and `colcrypt status` on a terminal of 80 columns.

use std::io::Write;
use std::process::Command;

use colcrypt_tests::of_jobs::{slow_table, wait_until_under_way};

use crate::common::{Db, Sql, cluster, db, role, wait_for_jobs};

/// A subcommand in a pseudo-terminal of 80 columns and 24 lines: what it sent there.
fn on_a_terminal(db: &Db, subcommand: &str, code: i32) -> String {
    let program = cluster().installation().bindir().join("colcrypt");
    let output = Command::new("script")
        .args([
            "-qec",
            &format!(
                "stty cols 80 rows 24; exec {} {subcommand}",
                program.display()
            ),
            "/dev/null",
        ])
        .env("PGHOST", cluster().dir())
        .env("PGUSER", "postgres")
        .env("PGDATABASE", &db.name)
        .env("TERM", "xterm")
        .env("NO_COLOR", "1")
        .stdin(std::process::Stdio::null())
        .output()
        .expect("script, of util-linux");
    let sent = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(output.status.code(), Some(code), "{sent}");
    sent
}

/// Cuts what was sent into the terminal's rows, since indicatif fills a row with spaces and leaves it to the terminal
/// to begin the next one, and says how many columns of each row have text.
const ROWS: &str = "
import re, sys, unicodedata
def columns(c): return 0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in 'WF' else 1
def show(row): row.strip() and print(sum(map(columns, row.rstrip())), row.rstrip(), sep='\\t')
for line in re.split('\\x1b\\\\[[0-9;?]*[a-zA-Z]|[\\r\\n]+', sys.stdin.buffer.read().decode()):
    row, at = '', 0
    for c in line:
        if at + columns(c) > 80:
            show(row)
            row, at = '', 0
        row, at = row + c, at + columns(c)
    show(row)
";

/// The rows of a terminal that had text, and how many columns of it.
fn rows(sent: &str) -> Vec<(usize, String)> {
    let mut python = Command::new("python3")
        .args(["-c", ROWS])
        .env("PYTHONIOENCODING", "utf-8")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("python3");
    let mut stdin = python.stdin.take().expect("a pipe");
    let sent = sent.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(sent.as_bytes()));
    let output = python.wait_with_output().expect("its rows");
    writer.join().expect("a thread").expect("what was sent");
    assert!(output.status.success());
    let rows = String::from_utf8(output.stdout).expect("UTF-8");
    rows.lines()
        .filter_map(|row| row.split_once('\t'))
        .map(|(columns, row)| (columns.parse().expect("a number"), row.to_owned()))
        .collect()
}

#[test]
fn bars_fit_eighty_columns_and_never_go_back() {
    let mut db = db();
    // A migration goes through its table more than once, and writes each row twice.
    let name = "顧客の口座番号とその他の個人情報を長い名前で".to_owned() + "_with_a_tail";
    db.client.run(&format!(
        "CREATE TABLE \"{name}\" (id int PRIMARY KEY, \"iban\u{1b}[2J\" text NOT NULL);
         INSERT INTO \"{name}\" SELECT g, 'plain ' || g FROM generate_series(1, 2500) g; ANALYZE \"{name}\";
         CREATE FUNCTION slow(id int) RETURNS context STABLE LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_catalog.pg_sleep(0.001); RETURN colcrypt.row_context(id); END $$;
         SELECT encrypt_column('\"{name}\"', ('iban' || chr(27) || '[2J')::name, 'k', 'public.slow(id)')"
    ));
    let sent = on_a_terminal(&db, "watch", 0);
    wait_for_jobs(&mut db.client);
    assert!(
        !sent.contains("\u{1b}[2J"),
        "the screen was cleared by a name"
    );
    let mut seen = Vec::new();
    for (columns, row) in rows(&sent) {
        assert!(columns < 80, "{row}");
        seen.push(row);
    }
    let percents: Vec<u32> = seen
        .iter()
        .filter_map(|line| {
            let (before, _) = line.split_once("% ")?;
            before.rsplit(' ').next()?.parse().ok()
        })
        .collect();
    assert!(
        percents.is_sorted() && percents.last() == Some(&100),
        "{percents:?}"
    );
    assert!(
        seen.iter().any(|line| line.contains("[2J: moving")),
        "{seen:?}"
    );
    assert!(
        seen.iter().any(|line| line.contains(" of 2,500 rows, ")
            && line.contains("/s, ")
            && line.ends_with(" left")),
        "{seen:?}"
    );
    // Nobody has done more rows than there are.
    for line in &seen {
        if let Some((done, rest)) = line.split_once(" of ") {
            let number = |text: Option<&str>| text?.replace(',', "").parse::<u32>().ok();
            let done = number(done.rsplit(' ').next());
            // A job that waits says what for, in words.
            let (Some(done), Some(all)) = (done, number(rest.split(' ').next())) else {
                continue;
            };
            assert!(done <= all, "{line}");
        }
    }
}

#[test]
fn the_state_of_a_database_is_one_screen() {
    let mut db = db();
    db.client
        .run("SELECT create_key('key_' || g, 'ring') FROM generate_series(1, 3) g");
    slow_table(&mut db.client, 2000);
    db.client.run(
        "INSERT INTO provider (name, kind, config) VALUES ('escrow', 'escrow', '{}');
         INSERT INTO escrow (provider_id, record, registered_at)
             SELECT provider_id, 'a record', now() - interval '100 days' FROM provider WHERE name = 'escrow';
         SELECT set_cryptoperiods('key_1', NULL, NULL);
         UPDATE keyring SET name = 'ring ' || chr(27) || '[31m' || repeat('口座', 20) WHERE name = 'ring'",
    );
    db.client.run("SELECT rotate_key('k')");
    wait_until_under_way(&mut db.client);
    db.client
        .run("SELECT pause_job(job_id) FROM job_progress WHERE finished_at IS NULL");
    // The suite's server has no fsync, which is critical.
    let sent = on_a_terminal(&db, "status", 2);
    assert!(!sent.contains("\u{1b}[31m"), "{sent}");
    let seen = rows(&sent);
    assert!(seen.len() <= 24, "{seen:?}");
    // A line that is too long goes on in another row, and is not what is looked for below.
    let text = seen
        .iter()
        .map(|(_, row)| row.as_str())
        .collect::<Vec<_>>()
        .join("\n");
    for wanted in [
        &format!("colcrypt  {}, release ", db.name)[..],
        ", primary\n",
        "\nagent     up, memory ",
        "\nkeys      4 in 1 keyring, next rotation 20",
        "\ncolumns   1 registered",
        "\nroots     1 root key, 0 failing\n          ring \u{fffd}[31m口",
        "  local  ok\n",
        "\njobs      1 open, 0 failed\n          public.t.v ",
        "%  moving",
        "\nfindings  ",
        " critical, ",
        "; see colcrypt doctor\n",
        "  critical  fsync_off               fsync\n",
    ] {
        assert!(text.contains(wanted), "{wanted:?} in\n{text}");
    }
    let stranger = role(&mut db.client);
    let refused = cluster()
        .command("colcrypt")
        .args(["status", &format!("dbname={} user={stranger}", db.name)])
        .output()
        .expect("a run");
    assert_eq!(refused.status.code(), Some(3));
    let told = String::from_utf8(refused.stderr).expect("UTF-8");
    assert!(told.contains("members of pg_monitor may look"), "{told}");
}

#[test]
fn whoever_reads_no_further_has_seen_what_he_wanted() {
    let mut db = db();
    slow_table(&mut db.client, 2000);
    db.client.run("SELECT rotate_key('k')");
    wait_until_under_way(&mut db.client);
    let mut watch = cluster()
        .command("colcrypt")
        .args(["watch", "--follow", &format!("dbname={}", db.name)])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("a run");
    // Closed before the first line, or after some: each line that comes then is one too many.
    drop(watch.stdout.take());
    let ended = watch.wait_with_output().expect("its end");
    let told = String::from_utf8(ended.stderr).expect("UTF-8");
    assert_eq!((ended.status.code(), &told[..]), (Some(0), ""));
    db.client.run("SELECT cancel_job(job_id) FROM job_progress");
    wait_for_jobs(&mut db.client);
}
