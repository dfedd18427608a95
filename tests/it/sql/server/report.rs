//! `report`: what happened in a period is in it, by the rights of who asks, and nothing secret is.

use std::fs;

use colcrypt_tests::Cluster;
use colcrypt_tests::of_audit::event;
use colcrypt_tests::of_reports::{History, MARKUP, Report, auditor, history, report};

use crate::common::{self, Sql, cluster, db, role, set_up};

#[test]
fn what_happened_in_a_period_is_in_it_and_nothing_secret() {
    let mut it = history();
    let connection = format!("dbname={} user={}", it.db.name, it.auditor);
    let told = report(cluster(), &connection, &[]);
    assert_eq!(told.code(), 0, "{}", told.says());
    let facts = &told.facts;
    assert_eq!(facts["format"], "colcrypt-report-1");
    assert_eq!(facts["about"]["role"], it.auditor);
    assert_eq!(facts["since"], "2020-01-01T00:00:00Z");

    // The record, with its ends and its head.
    let chain = &facts["chain"]["facts"];
    assert_eq!(chain["ok"], true);
    let head = it
        .db
        .client
        .one("SELECT encode(hash, 'hex') FROM audit_log WHERE seq = 1");
    assert_eq!(facts["chain_of_period"]["facts"]["first"]["hash"], head);
    assert!(facts["chain_of_period"]["facts"]["last"]["seq"].as_i64() > Some(10));
    assert!(told.page.contains(&head) && told.page.contains(chain["head_hash"].as_str().unwrap()));

    // Keys, where they are used, who moved them, and how long they were used.
    let payments = told.with("keys", "key", "payments")[0];
    assert_eq!(payments["columns"][0], "public.customer.iban");
    assert_eq!(
        (&payments["version"], &payments["state"]),
        (&2.into(), &"active".into())
    );
    let moved = told.with("moves", "event", "suspend_key")[0];
    assert_eq!(
        (&moved["role"], &moved["detail"]),
        (&"postgres".into(), &"lost laptop".into())
    );
    let ancient = told.with("periods", "key", "ancient");
    assert!(
        ancient.iter().any(|row| row["overrun"] == true),
        "{ancient:?}"
    );
    assert!(
        told.with("periods", "key", "payments")
            .iter()
            .all(|row| row["overrun"] == false)
    );
    assert!(!told.with("rotations", "event", "rotate_key").is_empty());
    let census = told.with("census", "column", "public.customer.iban");
    assert_eq!(
        (&census[0]["rows"], &census[0]["version"]),
        (&40.into(), &2.into())
    );

    // People: who used what, who was refused, who asked whom.
    let used: i64 = told
        .rows("usage")
        .iter()
        .filter_map(|row| row["decryptions"].as_i64())
        .sum();
    assert!(used >= 7, "{used}");
    let refused = told.with("refusals", "role", &it.denied);
    assert_eq!(
        (&refused[0]["attempts"], &refused[0]["outcome"]),
        (&3.into(), &"denied".into())
    );
    assert_eq!(refused[0]["key"], "payments");
    let approval = &told.rows("approvals")[0];
    assert_eq!(
        (&approval["requested_by"], &approval["decided_by"]),
        (&it.alice.clone().into(), &it.bob.clone().into())
    );
    assert_eq!(approval["outcome"], "approved");

    // The end of a key on purpose, and the way back.
    let destroyed = told.with("destructions", "key", "persons")[0];
    assert_eq!(
        (&destroyed["state"], &destroyed["shreds"]),
        (&"destroyed".into(), &true.into())
    );
    assert!(
        destroyed["reason"].as_str().unwrap().contains("art. 17"),
        "{destroyed}"
    );
    let drill = &told.rows("drills")[0];
    assert_eq!(drill["holders"], serde_json::json!(["Ada", "Ben", "Cleo"]));
    assert_eq!(
        told.with("custodians", "holder", "Ben")[0]["is_overdue"],
        false
    );
    assert!(!told.with("unusual", "event", "changed_by_hand").is_empty());
    assert!(facts["findings"]["facts"]["list"]["total"].as_i64() > Some(0));
    let exceptions = told.exceptions().join("\n");
    for part in [
        "longer than its period",
        "refused",
        "by hand",
        "no second person",
        "doctor finds",
    ] {
        assert!(exceptions.contains(part), "{part} in {exceptions}");
    }

    nothing_secret(&mut it, &told);
}

/// No key, no wrapped one, no value and nothing of a share, in either form; and names are text.
fn nothing_secret(it: &mut History, told: &Report) {
    let json = told.facts.to_string();
    let secrets = it.db.client.rows(
        "SELECT unnest(ARRAY[encode(wrapped, 'hex'), translate(encode(wrapped, 'base64'), E'\\n', '')])
         FROM (SELECT wrapped FROM key_version UNION ALL SELECT wrapped FROM kek_copy) w WHERE length(wrapped) > 8",
    );
    assert!(secrets.len() > 10);
    let secrets = secrets.into_iter().map(|row| row[0].clone().unwrap());
    for secret in secrets.chain(["DE89 3704".into(), "Mustermann".into()]) {
        let part = &secret[..secret.len().min(24)];
        assert!(!told.page.contains(part) && !json.contains(part), "{part}");
    }
    assert!(told.rows("keys").iter().any(|row| row["key"] == MARKUP));
    assert!(
        !told.page.contains("<script")
            && !told.page.contains("<img")
            && !told.page.contains(&it.denied)
    );
    assert!(
        told.page.contains("document.title"),
        "the name is there, as text"
    );
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&told.path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_list_is_cut_and_an_empty_period_is_empty() {
    let it = history();
    let connection = format!("dbname={} user={}", it.db.name, it.auditor);
    let told = report(cluster(), &connection, &["--rows", "1"]);
    assert_eq!(told.code(), 0, "{}", told.says());
    assert_eq!(told.facts["keys"]["facts"]["total"], 5);
    assert_eq!(told.rows("keys").len(), 1);
    assert!(told.page.contains("The first 1 of 5."));

    let told = report(cluster(), &connection, &["--to", "2020-01-01T00:00:00Z"]);
    assert_eq!(told.code(), 0, "{}", told.says());
    for list in [
        "event_kinds",
        "moves",
        "refusals",
        "usage",
        "approvals",
        "drills",
        "periods",
    ] {
        assert_eq!(told.facts[list]["facts"]["total"], 0, "{list}");
    }
    assert!(
        told.page.contains("The period is empty")
            && told.page.contains("Nothing happened in the period.")
    );
    // What there is at the moment is in it all the same.
    assert_eq!(told.facts["keys"]["facts"]["total"], 5);
}

#[test]
fn an_altered_record_breaks_it_and_is_named() {
    let it = history();
    let connection = format!("dbname={} user={}", it.db.name, it.auditor);
    let mut client = it.db.connect();
    let [seq, hash] = &client
        .rows("SELECT seq, encode(hash, 'hex') FROM audit_log WHERE event = 'suspend_key'")[0][..]
    else {
        panic!("two columns")
    };
    let (seq, hash) = (seq.clone().unwrap(), hash.clone().unwrap());
    let anchor = format!("{seq}:{hash}");
    let told = report(cluster(), &connection, &["--anchor", &anchor]);
    assert_eq!(told.code(), 0, "{}", told.says());
    assert!(told.page.contains("the log has the same"));

    // Another head than the one that was written down.
    let other = format!("{seq}:{}", "ab".repeat(32));
    let gone = format!("1000000:{hash}");
    for (anchor, says) in [
        (&other, "the log has "),
        (&gone, "the log has no such record"),
    ] {
        let told = report(cluster(), &connection, &["--anchor", anchor]);
        assert_eq!(told.code(), 4, "{}", told.says());
        assert!(told.page.contains(says) && told.page.contains("The record does not hold."));
    }

    client.run(&format!(
        "ALTER TABLE audit_log DISABLE TRIGGER append_only; UPDATE audit_log SET session_role = 'nobody' WHERE seq = {seq};
         ALTER TABLE audit_log ENABLE ALWAYS TRIGGER append_only"
    ));
    let told = report(cluster(), &connection, &[]);
    assert_eq!(told.code(), 4, "{}", told.says());
    assert!(told.says().contains("does not hold"), "{}", told.says());
    let chain = &told.facts["chain"]["facts"];
    assert_eq!(
        (&chain["ok"], &chain["first_bad"].to_string()),
        (&false.into(), &seq)
    );
    assert_eq!(chain["bad"]["event"], "suspend_key");
    assert!(
        told.exceptions()[0].contains(&format!("breaks at record {seq}")),
        "{:?}",
        told.exceptions()
    );
    assert!(
        told.page.contains("The record does not hold.") && told.page.contains("where it breaks")
    );
}

/// What may not be read is not "none"; a role that may read nothing is told so of everything.
#[test]
fn what_the_role_may_not_read_is_said_to_be_left_out() {
    let mut db = db();
    let stranger = role(&mut db.client);
    let told = report(
        cluster(),
        &format!("dbname={} user={stranger}", db.name),
        &[],
    );
    assert_eq!(told.code(), 1, "{}", told.says());
    for list in [
        "chain",
        "keys",
        "refusals",
        "findings",
        "usage",
        "periods",
        "escrows",
        "approvals",
    ] {
        let reason = told.facts[list]["left_out"].as_str().expect(list);
        assert!(reason.contains("permission denied"), "{list}: {reason}");
    }
    for none in [
        "No attempt was refused",
        "There is no key",
        "Nothing was found",
    ] {
        assert!(!told.page.contains(none), "{none}");
    }
    assert!(
        told.page
            .contains("Whether the record is whole was not checked.")
    );

    // One right after the other is enough for what it is for.
    db.client
        .run(&format!("GRANT SELECT ON audit_log TO {stranger}"));
    let told = report(
        cluster(),
        &format!("dbname={} user={stranger}", db.name),
        &[],
    );
    assert_eq!(told.code(), 1);
    assert!(
        told.facts["refusals"]["facts"].is_object() && told.facts["keys"]["left_out"].is_string()
    );
    assert!(
        told.says().contains("left out keys: permission denied"),
        "{}",
        told.says()
    );
}

#[test]
fn a_period_is_read_strictly_and_no_report_is_none_of_the_others() {
    let db = db();
    let run = |connection: &str, arguments: &[&str]| {
        let output = cluster()
            .command("colcrypt")
            .args(["report", connection])
            .args(arguments)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let here = format!("dbname={}", db.name);
    for from in [
        "yesterday",
        "2026-11-31",
        "01/11/2026",
        "2026-11-01T10:00:00",
    ] {
        let (code, says) = run(&here, &["--from", from, "--json", "-"]);
        assert_eq!(code, Some(2), "{from}");
        assert!(says.contains("neither a date like 2026-11-01"), "{says}");
    }
    let (code, says) = run(
        &here,
        &[
            "--from",
            "2026-11-02",
            "--to",
            "2026-11-01T00:00:00Z",
            "--json",
            "-",
        ],
    );
    assert_eq!(code, Some(3));
    assert!(says.contains("--from is after the end"), "{says}");
    // Where it is to be written to, nothing is; there is no extension; there is no such role.
    for (connection, out, part) in [
        (&here[..], "/nowhere/report.html", "/nowhere/report.html"),
        (
            "dbname=template1",
            "/nowhere/report.html",
            "no extension colcrypt",
        ),
        (
            "dbname=tpl user=nobody_known",
            "/nowhere/report.html",
            "nobody_known",
        ),
        (
            "dbname=tpl password=hunter2",
            "/nowhere/report.html",
            "PGPASSWORD",
        ),
    ] {
        let (code, says) = run(connection, &["--from", "2026-11-01", "-o", out]);
        assert_eq!(code, Some(3), "{says}");
        assert!(says.contains(part) && !says.contains("hunter2"), "{says}");
    }
}

#[test]
fn a_standby_is_asked_like_any_server() {
    let primary = common::settings(Cluster::builder()).start();
    set_up(&primary);
    let mut client = primary.client_db("tpl");
    let auditor = auditor(&mut client);
    client.run("SELECT colcrypt.create_key('second', 'ring')");
    event(&mut client, "l.event = 'create_key' AND l.key = 'second'");
    let standby = primary.base_backup(&["-R"]);
    standby.start();
    primary.wait_for_replay(&standby);
    let connection = format!("dbname=tpl user={auditor}");
    let told = report(&standby, &connection, &[]);
    assert_eq!(told.code(), 0, "{}", told.says());
    assert_eq!(told.facts["about"]["is_standby"], true);
    assert_eq!(told.facts["keys"]["facts"]["total"], 2);
    assert_eq!(told.facts["chain"]["facts"]["ok"], true);
    assert!(!told.with("moves", "key", "second").is_empty());
    assert!(told.page.contains("a standby"));
}
