//! docs/escrow.md, followed word by word on an empty cluster, from the ceremony to an escrow that is retired; and the
//! record of a drill in it, which is what such a drill leaves. `UPDATE_DOCS=1` writes that anew.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use colcrypt_tests::Cluster;
use colcrypt_tests::db::Sql;
use colcrypt_tests::of_audit::settle;
use colcrypt_tests::process::run;
use serde_json::{Value, json};

struct Newcomer {
    cluster: Cluster,
    directory: PathBuf,
}

impl Newcomer {
    /// What a command prints, with these lines typed into it.
    fn types(&self, script: &str, lines: &[&str]) -> String {
        let psql = self.cluster.command("psql");
        let programs = Path::new(psql.get_program()).parent().unwrap();
        let mut command = self.cluster.server_user().command("bash");
        command
            .args(["-euc", script])
            .envs(
                psql.get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .env("PATH", format!("{}:/usr/bin:/bin", programs.display()))
            .current_dir(&self.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(lines.join("\n").as_bytes()).unwrap();
        drop(input);
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}\n{told}");
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn the_escrow_page_works_as_written() {
    let page = super::repository("docs/escrow.md");
    let text = std::fs::read_to_string(&page).expect("escrow.md");
    let (commands, statements) = (super::blocks(&text, "sh"), super::blocks(&text, "sql"));
    let command = |word: &str| commands.iter().find(|block| block.contains(word)).unwrap();
    let statement = |word: &str| {
        statements
            .iter()
            .find(|block| block.contains(word))
            .unwrap()
    };

    let cluster = Cluster::builder().start();
    let mut client = cluster.create_database("app");
    let root_key = cluster.root_key("root.key");
    let directory = cluster.dir().join("ceremony");
    run(cluster.server_user().command("mkdir").arg(&directory));
    let it = Newcomer { cluster, directory };
    let here = it.directory.display();
    client.run(&format!(
        "CREATE EXTENSION colcrypt;
         SELECT colcrypt.add_provider('lost-provider', 'file', jsonb_build_object('path', '{}'));
         SELECT colcrypt.create_keyring('finance', 'lost-provider'), colcrypt.create_key('payments', 'finance');
         CREATE TABLE payment AS SELECT colcrypt.encrypt_col('what matters', 'payments') AS iban",
        root_key.display()
    ));

    // There is no terminal here.
    let made = it.types(&format!("{} --print", command("escrow create").trim()), &[]);
    let line = |begins: &str| {
        let mut lines = made.lines();
        lines
            .find_map(|line| line.strip_prefix(begins))
            .unwrap()
            .trim()
    };
    let shares = ["Ada: ", "Ben: ", "Cleo: ", "Dan: ", "Eve: "].map(line);
    let receipt = it.types(command("escrow check"), &[shares[0]]);
    client.run(&statement("add_root").replace("colcrypt-escrow-1:…", line("public key:")));
    client.run("SELECT * FROM colcrypt.check_provider('escrow', '')");

    it.types("pg_dump -Fc app > app.dump", &[]);
    let drill = it.types(command("escrow drill"), &[shares[0], shares[1], shares[4]]);
    client.run(
        &statement("record_drill")
            .replace("/tmp/payments.json", &format!("{here}/payments.json"))
            .replace("colcrypt-escrow-receipt-1:…", receipt.trim())
            .replace("'{\"drill\": …}'", &format!("$d${}$d$", drill.trim())),
    );
    shows_the_record(&page, &text, &drill, &mut client);

    std::fs::remove_file(&root_key).unwrap();
    let own = |block: &str| {
        block
            .replace("chown postgres /etc/colcrypt/recovered.key", ":")
            .replace("/etc/colcrypt/", &format!("{here}/"))
    };
    it.types(
        &own(command("escrow recover")),
        &[shares[3], shares[2], shares[0]],
    );
    it.types(&own(command("recover.sql app")), &[]);
    client.run(&statement("drop_root").replace(", 'name')", ")"));
    assert_eq!(
        client.one("SELECT colcrypt.decrypt_col(iban) FROM payment"),
        "what matters"
    );
    client.run(statement("retire_escrow"));
    assert_eq!(
        client.one(
            "SELECT keyrings || ' ' || (retired_at IS NOT NULL)::text FROM colcrypt.escrow_status"
        ),
        "0 true"
    );
}

/// Compares what the page shows of a drill with this one, but for what is another each time.
fn shows_the_record(page: &Path, text: &str, drill: &str, client: &mut postgres::Client) {
    let mut report: Value = serde_json::from_str(drill).unwrap();
    let mut said: Value = serde_json::from_str(report["drill"].as_str().unwrap()).unwrap();
    for (name, value) in [
        ("fingerprint", json!("05e15718f554")),
        ("at", json!(1_796_000_000)),
        ("seconds_for_shares", json!(340)),
        ("milliseconds_to_open", json!(4)),
    ] {
        assert!(!said[name].is_null(), "{name}");
        said[name] = value;
    }
    report["drill"] = json!(said.to_string());
    for signature in report["signatures"].as_array_mut().unwrap() {
        signature["signature"] = json!("…");
    }
    settle(client);
    let kept = client.one(
        "SELECT concat_ws(E'\\n', 'escrow_drill  ' || concat_ws(', ', CASE WHEN succeeded THEN 'succeeded' ELSE 'failed' END, 'recorded by ' || recorded_by), \
             (SELECT 'audit_log     ' || concat_ws(', ', event, outcome, 'by ' || session_role) || E'\\n              ' || rtrim(detail, '; ') FROM colcrypt.audit_log WHERE event = 'record_drill')) \
         FROM colcrypt.escrow_drill",
    );
    assert!(client.yes("SELECT ok FROM colcrypt.verify_audit_log()"));
    let (before, rest) = text.split_once("```json\n").expect("the report");
    let (_, rest) = rest.split_once("```\n").expect("its end");
    let (between, rest) = rest.split_once("```\n").expect("what is kept");
    let (_, after) = rest.split_once("```\n").expect("its end");
    let wanted = format!("{before}```json\n{report}\n```\n{between}```\n{kept}\n```\n{after}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(page, wanted).expect("escrow.md");
    } else {
        assert!(
            text == wanted,
            "the record of a drill in docs/escrow.md is out of date: UPDATE_DOCS=1 cargo test -p colcrypt-tests --test docs"
        );
    }
}
