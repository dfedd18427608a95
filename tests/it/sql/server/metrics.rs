//! What a monitoring system is told: by the view, by the program, and by Prometheus itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use colcrypt_tests::Cluster;
use colcrypt_tests::of_audit;
use colcrypt_tests::of_metrics::{Served, ask, names_in, page, promtool, repository, tool};
use colcrypt_tests::port::Port;
use colcrypt_tests::process::{run, signal};
use colcrypt_tests::wait_for;
use postgres::Client;

use crate::common::{self, LONG, Sql, cluster, db, role, set_up, settings, unique};

/// One sample: the value where labels contain these.
fn value(client: &mut Client, name: &str, labels: &str) -> Option<f64> {
    let rows = client.rows(&format!(
        "SELECT value FROM colcrypt.metrics WHERE name = '{name}' AND labels @> '{labels}'"
    ));
    assert!(rows.len() <= 1, "{name} {labels}: {rows:?}");
    let text = rows.into_iter().next()?.into_iter().next()??;
    Some(text.parse().expect("a number"))
}

fn names(client: &mut Client, sql: &str) -> BTreeSet<String> {
    client
        .rows(sql)
        .into_iter()
        .map(|row| row.into_iter().next().flatten().expect("a name"))
        .collect()
}

/// Something of everything that is told: an escrow, a census, a failed job and one that is under way.
fn furnish(client: &mut Client) {
    client.run(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext); SELECT register_column('t', 'v', 'k', 'none');
         INSERT INTO t SELECT g, encrypt_col('v', 'k') FROM generate_series(1, 10) g;
         INSERT INTO provider (name, kind, config) VALUES ('escrow', 'escrow', '{}');
         INSERT INTO escrow (provider_id, record, registered_at)
             SELECT provider_id, 'a record', now() - interval '100 days' FROM provider WHERE name = 'escrow';
         SELECT take_census('t', 'v');
         INSERT INTO job (relation, attribute, key_id, target_version, paused, blocks_total, blocks_done, passes, rows_done)
             SELECT 't'::regclass, 'v', key_id, 1, true, 10, 4, 1, 7 FROM key WHERE name = 'k'",
    );
}

#[test]
fn names_are_openmetrics_and_each_sample_has_one() {
    let mut db = db();
    furnish(&mut db.client);
    let known = names(&mut db.client, "SELECT name FROM metric_names()");
    let told = names(&mut db.client, "SELECT name FROM metrics");
    let program = [
        "colcrypt_audit_chain_whole",
        "colcrypt_audit_chain_verified_timestamp_seconds",
    ]
    .map(str::to_owned);
    // A root key that fails, and one that was asked: another test's.
    let sometimes = [
        "colcrypt_root_failing_since_timestamp_seconds",
        "colcrypt_key_rotation_due_timestamp_seconds",
    ];
    let missing: Vec<&String> = known
        .difference(&told)
        .filter(|name| !program.contains(name) && !sometimes.contains(&&name[..]))
        .collect();
    assert!(missing.is_empty(), "never told: {missing:?}");
    assert!(told.is_subset(&known), "{:?}", told.difference(&known));
    for (wrong, what) in [
        ("help IS NULL OR help = '' OR help LIKE '%.'", "a help"),
        ("name !~ '^colcrypt_[a-z_]+$'", "a name"),
        (
            "(type = 'counter') <> (name LIKE '%\\_total')",
            "an end that says that it counts",
        ),
        ("type NOT IN ('gauge', 'counter')", "a type"),
        (
            "name ~ 'timestamp|_ttl' AND name NOT LIKE '%\\_seconds'",
            "its unit",
        ),
    ] {
        let found = names(
            &mut db.client,
            &format!("SELECT name FROM metric_names() WHERE {wrong}"),
        );
        assert!(found.is_empty(), "without {what}: {found:?}");
    }
    assert_eq!(
        db.client.one(
            "SELECT count(*) FROM (SELECT FROM metrics GROUP BY name, labels HAVING count(*) > 1) d"
        ),
        "0"
    );
    // As those who made the format judge it, escaped labels and all.
    db.client.run("ALTER TABLE t RENAME TO \"a \\\"\"b\n\"");
    let text = |format: &str| {
        let output = run(cluster()
            .command("colcrypt")
            .args(["metrics", format, "--verify-audit"])
            .env("PGDATABASE", &db.name));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let older = text("--format=prometheus");
    let judged = promtool(&["check", "metrics"], &older);
    assert!(
        judged.status.success() && judged.stderr.is_empty(),
        "{judged:?}\n{older}"
    );
    let newer = text("--format=openmetrics");
    assert!(newer.ends_with("# EOF\n"), "{newer}");
    assert!(
        newer.contains("column=\"public.\\\"a \\\\\\\"\\\"b\\n\\\".v\""),
        "{newer}"
    );
    assert!(
        newer.contains(
            "# TYPE colcrypt_key_encryptions counter\ncolcrypt_key_encryptions_total{database="
        ),
        "{newer}"
    );
    assert!(
        newer
            .contains("# UNIT colcrypt_hard_ttl_seconds seconds\ncolcrypt_hard_ttl_seconds 3600.0"),
        "{newer}"
    );
    assert!(
        newer.contains(&format!(
            "colcrypt_audit_chain_whole{{database=\"{}\"}} 1.0",
            db.name
        )),
        "{newer}"
    );
}

#[test]
fn values_are_what_the_views_say() {
    let mut db = db();
    furnish(&mut db.client);
    let client = &mut db.client;
    let mut told = |name: &str, labels: &str| {
        value(client, name, labels).unwrap_or_else(|| panic!("no {name}"))
    };
    assert_eq!(told("colcrypt_agent_up", "{}"), 1.0);
    assert_eq!(told("colcrypt_launcher_up", "{}"), 1.0);
    assert_eq!(told("colcrypt_in_recovery", "{}"), 0.0);
    assert_eq!(
        told(
            "colcrypt_key_encryptions_total",
            r#"{"key": "k", "version": "1"}"#
        ),
        10.0
    );
    assert_eq!(told("colcrypt_keyring_keys", r#"{"keyring": "ring"}"#), 1.0);
    assert_eq!(told("colcrypt_registered_columns", "{}"), 1.0);
    assert_eq!(
        told(
            "colcrypt_column_rows",
            r#"{"column": "public.t.v", "current": "true"}"#
        ),
        10.0
    );
    assert_eq!(
        told(
            "colcrypt_column_rows",
            r#"{"column": "public.t.v", "current": "false"}"#
        ),
        0.0
    );
    assert_eq!(
        told("colcrypt_open_jobs", r#"{"kind": "reencrypt_column"}"#),
        1.0
    );
    assert_eq!(told("colcrypt_job_progress_ratio", "{}"), 0.4);
    assert_eq!(told("colcrypt_job_rows", "{}"), 7.0);
    assert_eq!(told("colcrypt_job_held", "{}"), 1.0);
    assert_eq!(told("colcrypt_jobs_failed", "{}"), 0.0);
    assert_eq!(
        told("colcrypt_escrow_drill_overdue", r#"{"escrow": "escrow"}"#),
        1.0
    );
    assert_eq!(
        told("colcrypt_rotations_overdue", r#"{"what": "key"}"#),
        0.0
    );
    assert_eq!(
        told("colcrypt_usage_refuse_ratio", "{}"),
        client
            .one("SHOW colcrypt.usage_refuse")
            .parse::<f64>()
            .unwrap()
            / 100.0
    );

    client.run("UPDATE job SET passes = 2, blocks_done = 0");
    assert_eq!(
        value(client, "colcrypt_job_progress_ratio", "{}"),
        Some(1.0)
    );
    client.run("UPDATE job SET phase = 'failed', finished_at = now()");
    assert_eq!(value(client, "colcrypt_jobs_failed", "{}"), Some(1.0));
    assert_eq!(value(client, "colcrypt_job_rows", "{}"), None);

    // A bound that is near, and a rotation that is due, of a key that nothing encrypts with.
    client.run(
        "SELECT create_key('near', 'ring'); SELECT set_usage_bound('near', 100);
         SELECT count(encrypt_col('v', 'near')::bytea) FROM generate_series(1, 30)",
    );
    assert_eq!(
        value(client, "colcrypt_key_usage_ratio", r#"{"key": "near"}"#),
        Some(0.3)
    );
    assert_eq!(
        value(client, "colcrypt_key_usage_highest_ratio", "{}"),
        Some(0.3)
    );
    client.run(
        "SELECT create_key('due', 'ring'); SELECT set_rotation_interval('due', '1 hour');
         INSERT INTO rotation_try SELECT key_id, 1, 'the reason', 'infinity' FROM key WHERE name = 'due';
         UPDATE key_version SET activated_at = now() - interval '1 day' WHERE key_id = (SELECT key_id FROM key WHERE name = 'due')",
    );
    assert_eq!(
        value(client, "colcrypt_rotations_overdue", r#"{"what": "key"}"#),
        Some(1.0)
    );
    assert_eq!(
        value(client, "colcrypt_rotations_failing", r#"{"what": "key"}"#),
        Some(1.0)
    );
}

#[test]
fn alarms_and_a_record_that_was_changed_are_told() {
    let mut db = db();
    let client = &mut db.client;
    client.run(
        "CREATE TABLE t AS SELECT encrypt_col('bait', 'k') AS v; SELECT mark_honeytoken(v) FROM t",
    );
    of_audit::event(client, "event = 'mark_honeytoken'");
    assert_eq!(
        value(client, "colcrypt_honeytoken_alarms_total", "{}"),
        Some(0.0)
    );
    assert_eq!(value(client, "colcrypt_audit_head_linked", "{}"), Some(1.0));
    client.run("SELECT decrypt_col(v) FROM t");
    of_audit::event(client, "outcome = 'alarm'");
    let alarms = of_audit::count(client, "outcome = 'alarm'") as f64;
    assert_eq!(
        value(client, "colcrypt_honeytoken_alarms_total", "{}"),
        Some(alarms)
    );
    of_audit::settle(client);
    let records = client.number("SELECT count(*) FROM audit_log") as f64;
    assert_eq!(
        value(client, "colcrypt_audit_records_total", "{}"),
        Some(records)
    );

    // Its owner takes a record out of the middle, and then cuts the log at its end.
    client.run("ALTER TABLE audit_log DISABLE TRIGGER append_only; CREATE TABLE kept AS SELECT * FROM audit_log");
    client.run("DELETE FROM audit_log WHERE seq = 2");
    assert_eq!(value(client, "colcrypt_audit_head_linked", "{}"), Some(0.0));
    client.run("INSERT INTO audit_log SELECT * FROM kept WHERE seq = 2");
    assert_eq!(value(client, "colcrypt_audit_head_linked", "{}"), Some(1.0));
    client.run("DELETE FROM audit_log WHERE seq = (SELECT max(seq) FROM audit_log)");
    assert_eq!(value(client, "colcrypt_audit_head_linked", "{}"), Some(0.0));
}

#[test]
fn names_of_keys_are_for_those_who_may_see_them() {
    let mut db = db();
    let (monitor, counter, stranger) = (
        role(&mut db.client),
        role(&mut db.client),
        role(&mut db.client),
    );
    db.client.run(&format!(
        "GRANT pg_monitor TO {monitor}; GRANT SELECT ON metrics TO {counter};
         GRANT EXECUTE ON FUNCTION metric_names(), broker_status(), cache_slots(), root_state(uuid, int, int), unflushed_versions(),
             suite_bound(text), clock_ahead(), rotation_windows(timestamptz), rotation_time_from(timestamptz),
             rotation_time_until(timestamptz), audit_status() TO {counter}"
    ));
    let id = db
        .client
        .one("SELECT lpad(to_hex(key_id), 16, '0') FROM key");
    let all = |role: &str| {
        db.connect_as(role)
            .one("SELECT string_agg(labels::text, ' ') FROM colcrypt.metrics")
    };
    let seen = all(&monitor);
    assert!(
        seen.contains("\"key\": \"k\"")
            && seen.contains("\"keyring\": \"ring\"")
            && !seen.contains(&id),
        "{seen}"
    );
    assert!(seen.contains("\"provider\": \"local\""), "{seen}");
    let seen = all(&counter);
    assert!(seen.contains(&format!("\"key\": \"{id}\"")), "{seen}");
    for name in ["\"k\"", "\"ring\"", "local"] {
        assert!(!seen.contains(name), "{name} in {seen}");
    }
    db.connect_as(&stranger)
        .fails("42501", "SELECT * FROM colcrypt.metrics");
    db.connect_as(&stranger)
        .fails("42501", "SELECT * FROM colcrypt.metric_names()");
}

#[test]
fn of_many_keys_only_those_that_need_attention_are_told() {
    let mut db = db();
    let client = &mut db.client;
    client.run(
        "SELECT create_keys(ARRAY(SELECT 't' || g FROM generate_series(1, 1000) g), 'ring'); SELECT set_usage_bound('t7', 100)",
    );
    client.run("SELECT count(encrypt_col('v', 't7')::bytea) FROM generate_series(1, 60)");
    assert_eq!(
        names(
            client,
            "SELECT labels->>'key' FROM metrics WHERE name = 'colcrypt_key_usage_ratio'"
        ),
        BTreeSet::from(["t7".to_owned()])
    );
    assert_eq!(value(client, "colcrypt_keyring_keys", "{}"), Some(1001.0));
    assert_eq!(
        value(client, "colcrypt_key_usage_highest_ratio", "{}"),
        Some(0.6)
    );
}

/// Values by name and labels, as a page has them; of exporters without labels of their own.
fn samples(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter(|line| line.starts_with("colcrypt_"))
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// No key is asked for: everything is told while the root key is away, on a standby, too.
#[test]
fn prometheus_scrapes_a_server_whose_root_key_is_away_and_its_standby() {
    let primary = settings(Cluster::builder()).start();
    set_up(&primary);
    let mut client = primary.client_db("tpl");
    client.run("SET search_path = public, colcrypt");
    furnish(&mut client);
    client.run("CREATE ROLE monitor LOGIN IN ROLE pg_monitor");
    let standby = primary.standby();
    primary.wait_for_replay(&standby);
    fs::rename(common::root_key(&primary), primary.dir().join("away")).expect("the root key");
    assert!(!client.yes("SELECT bool_or(opens) FROM check_roots('ring')"));
    let loads = "SELECT loads + loads_failed FROM colcrypt.broker_status()";
    let before = client.number(loads);

    let serve = |cluster: &Cluster| {
        Served::metrics(
            cluster
                .command("colcrypt")
                .env("PGDATABASE", "tpl")
                .env("PGUSER", "monitor"),
        )
    };
    let (served, of_standby) = (serve(&primary), serve(&standby));
    let port = Port::hold();
    let place = format!("127.0.0.1:{}", port.number());
    let folder = std::env::temp_dir().join(unique(&format!(
        "colcrypt-prometheus-{}-",
        std::process::id()
    )));
    fs::create_dir(&folder).expect("a folder");
    let rules = repository("monitoring/colcrypt.rules.yml");
    fs::write(
        folder.join("prometheus.yml"),
        format!(
            "global: {{scrape_interval: 20s, scrape_timeout: 20s, evaluation_interval: 1s}}\nrule_files: ['{}']\nscrape_configs:\n\
             - {{job_name: colcrypt, static_configs: [{{targets: ['{}', '{}']}}]}}\n",
            rules.canonicalize().expect("the rules").display(),
            served.1,
            of_standby.1
        ),
    )
    .expect("a file");
    let log = fs::File::create(folder.join("log")).expect("a file");
    let _prometheus = Served::start(
        tool("prometheus")
            .arg(format!(
                "--config.file={}",
                folder.join("prometheus.yml").display()
            ))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg(format!("--web.listen-address={place}"))
            .stderr(log),
    );
    let query = |expression: &str| {
        let output = promtool(
            &["query", "instant", &format!("http://{place}"), expression],
            "",
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    wait_for("Prometheus to have scraped both", LONG, || {
        query("sum(up{job=\"colcrypt\"})").contains("=> 2 ")
    });
    let told = names(&mut client, "SELECT name FROM metrics");
    wait_for("every metric", LONG, || {
        let seen = names_in(&query("{__name__=~\"colcrypt_.+\"}"));
        told.is_subset(&seen) && seen.contains("colcrypt_audit_chain_whole")
    });
    assert!(
        query("sum(colcrypt_in_recovery)").contains("=> 1 "),
        "{}",
        query("colcrypt_in_recovery")
    );
    wait_for("the alert of the root key", LONG, || {
        query("ALERTS{alertname=\"ColcryptRootFailing\"}").contains("provider=\"local\"")
    });
    assert_eq!(client.number(loads), before, "a key was asked for");

    exported(&primary, &served, &folder);
    drop(fs::remove_dir_all(&folder));
}

/// The examples for exporters that others wrote tell the same.
fn exported(
    primary: &Cluster,
    (_, address): &(Served, std::net::SocketAddr),
    folder: &std::path::Path,
) {
    let (_, body) = page(*address, "/metrics").expect("a page");
    let ours: BTreeSet<String> = samples(&body)
        .into_keys()
        .map(|sample| names_in(&sample).into_iter().next().expect("a name"))
        .collect();

    let wait_for_page = |port: &Port, is_complete: &dyn Fn(&str) -> bool| {
        let at = ([127, 0, 0, 1], port.number()).into();
        let mut body = String::new();
        wait_for("an exporter's page", LONG, || {
            body = page(at, "/metrics").unwrap_or_default().1;
            is_complete(&body)
        });
        body
    };
    let port = Port::hold();
    let as_monitor = |command: &mut Command| {
        command
            .env("PGHOST", primary.dir())
            .stderr(std::process::Stdio::null());
    };
    let source = format!(
        "postgres:///tpl?host={}&user=monitor",
        primary.dir().display()
    );
    let mut exporter = tool("prometheus-postgres-exporter");
    as_monitor(&mut exporter);
    let _exporter = Served::start(
        exporter
            .env("DATA_SOURCE_NAME", &source)
            .arg(format!("--web.listen-address=127.0.0.1:{}", port.number()))
            .arg(format!(
                "--extend.query-path={}",
                repository("monitoring/postgres_exporter.yml").display()
            ))
            .args([
                "--disable-default-metrics",
                "--disable-settings-metrics",
                "--log.level=error",
            ]),
    );
    let body = wait_for_page(&port, &|body| {
        body.contains("colcrypt_escrow_drill_overdue{")
    });
    let seen: BTreeSet<String> = samples(&body)
        .into_keys()
        .map(|sample| sample.split('{').next().unwrap_or_default().to_owned())
        .collect();
    let missing: Vec<_> = ours.difference(&seen).collect();
    assert!(
        missing.is_empty(),
        "postgres_exporter lacks {missing:?}: {body}"
    );
    assert!(
        body.contains("colcrypt_key_encryptions_total{database=\"tpl\",key=\"k\""),
        "{body}"
    );

    let port = Port::hold();
    let example =
        fs::read_to_string(repository("monitoring/sql_exporter.yml")).expect("the example");
    let file = folder.join("sql_exporter.yml");
    let connection = "postgres://monitor@/app?host=/run/postgresql";
    assert_eq!(example.matches(connection).count(), 2);
    let here = format!("postgres://monitor@/tpl?host={}", primary.dir().display());
    fs::write(&file, example.replace(connection, &here)).expect("a file");
    let mut exporter = tool("prometheus-sql-exporter");
    as_monitor(&mut exporter);
    let _exporter = Served::start(
        exporter
            .arg(format!("-config.file={}", file.display()))
            .arg(format!("-web.listen-address=127.0.0.1:{}", port.number()))
            .stdout(std::process::Stdio::null()),
    );
    wait_for_page(&port, &|body| {
        ours.iter()
            .all(|name| body.contains(&format!("metric=\"{name}\"")))
            && body.contains("key=\"k\"")
    });
}

#[test]
fn the_page_is_served_on_the_loopback_while_the_server_comes_and_goes() {
    let primary = settings(Cluster::builder()).start();
    set_up(&primary);
    let (mut served, address) =
        Served::metrics(primary.command("colcrypt").env("PGDATABASE", "tpl"));
    assert!(address.ip().is_loopback(), "{address}");
    let get = |path: &str| page(address, path).expect("an answer");
    let (head, body) = get("/metrics");
    assert!(
        head.starts_with("HTTP/1.1 200 ") && head.contains("text/plain; version=0.0.4"),
        "{head}"
    );
    assert!(body.contains("\ncolcrypt_agent_up "), "{body}");
    let (head, body) = ask(
        address,
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: application/openmetrics-text;version=1.0.0\r\nConnection: close\r\n\r\n",
    )
    .expect("an answer");
    assert!(
        head.contains("application/openmetrics-text") && body.ends_with("# EOF\n"),
        "{head}"
    );
    assert!(get("/").1.contains("/metrics"));
    assert!(get("/elsewhere").0.starts_with("HTTP/1.1 404 "));
    let (head, _) = ask(
        address,
        "POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    )
    .expect("an answer");
    assert!(head.starts_with("HTTP/1.1 405 "), "{head}");
    // A page whose name was made to mean this machine has a browser ask by that name.
    let (head, body) = ask(
        address,
        "GET /metrics HTTP/1.1\r\nHost: metrics.example:9750\r\nConnection: close\r\n\r\n",
    )
    .expect("an answer");
    assert!(head.starts_with("HTTP/1.1 421 "), "{head}");
    assert!(!body.contains("colcrypt_agent_up"), "{body}");

    primary.stop();
    let (head, body) = get("/metrics");
    assert!(
        head.starts_with("HTTP/1.1 503 ") && !body.contains("colcrypt_agent_up"),
        "{head} {body}"
    );
    primary.start();
    assert!(get("/metrics").0.starts_with("HTTP/1.1 200 "));

    // One who says nothing keeps nobody from the page.
    let idle = |count: u8| -> Vec<_> {
        (0..count)
            .map(|_| std::net::TcpStream::connect(address).expect("a connection"))
            .collect()
    };
    let _idle = idle(7);
    assert!(get("/metrics").0.starts_with("HTTP/1.1 200 "));
    // Nor from ending it, where all places are taken.
    let _more = idle(8);
    signal(served.pid(), "TERM");
    assert_eq!(served.wait(), Some(0));

    let refused = |arguments: &[&str]| {
        let output = primary
            .command("colcrypt")
            .arg("metrics")
            .args(arguments)
            .output()
            .expect("a run");
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    assert!(refused(&["--listen=somewhere"]).contains("neither a port"));
    assert!(refused(&["password=hunter2"]).contains("PGPASSWORD"));
    let mut stranger = primary.client();
    stranger.run("CREATE ROLE stranger LOGIN");
    assert!(refused(&["dbname=tpl user=stranger"]).contains("members of pg_monitor may look"));
}
