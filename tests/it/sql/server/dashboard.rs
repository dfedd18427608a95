//! The dashboard for Grafana on a server at work, with what a real Prometheus has of it: each panel shows something.
//! The picture of it in the docs is taken here, with `UPDATE_DOCS=1`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use colcrypt_tests::Cluster;
use colcrypt_tests::browser::{Picture, look};
use colcrypt_tests::of_jobs::{slow_table, wait_until_under_way};
use colcrypt_tests::of_metrics::{Served, repository, tool};
use colcrypt_tests::port::Port;
use colcrypt_tests::wait_for;

use crate::common::{LONG, Sql, set_up, settings, unique};

/// How far back the panels look.
const SECONDS: &str = "90";

/// How many series each panel has; the page with all of them is written.
fn draw(prometheus: &str, page: &Path) -> BTreeMap<String, usize> {
    let modules = repository("target/tools/drivers/node_modules");
    assert!(
        modules.join("echarts").exists(),
        "run scripts/install-drivers.sh"
    );
    let output = Command::new("node")
        .env("NODE_PATH", modules)
        .arg(repository("tests/src/dashboard.js"))
        .arg(repository("monitoring/grafana.json"))
        .args([prometheus, SECONDS])
        .arg(page)
        .output()
        .expect("node");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn empty(panels: &BTreeMap<String, usize>) -> Vec<&str> {
    panels
        .iter()
        .filter(|&(_, &series)| series == 0)
        .map(|(title, _)| title.as_str())
        .collect()
}

#[test]
fn each_panel_shows_a_server_at_work() {
    let server = settings(Cluster::builder())
        .conf("colcrypt.batch_blocks = 1")
        .conf("colcrypt.usage_flush_interval = '1s'")
        .start();
    set_up(&server);
    let mut client = server.client_db("tpl");
    client.run("SET search_path = public, colcrypt");
    client.run(
        "CREATE ROLE monitor LOGIN IN ROLE pg_monitor;
         SELECT create_key(name, 'ring') FROM unnest(ARRAY['customer.iban', 'patient.diagnosis', 'card.number']) name;
         SELECT set_rotation_interval('customer.iban', '30 days'), set_rotation_interval('patient.diagnosis', '9 days');
         SELECT set_usage_bound('card.number', 2000), set_usage_bound('patient.diagnosis', 5000);
         INSERT INTO provider (name, kind, config) VALUES ('escrow', 'escrow', '{}');
         INSERT INTO escrow (provider_id, record, registered_at)
             SELECT provider_id, 'a record', now() - interval '50 days' FROM provider WHERE name = 'escrow'",
    );
    // Moved in some minutes.
    slow_table(&mut client, 100_000);
    client.run("SELECT take_census('t', 'v'); SELECT check_roots('ring')");
    let (_served, address) = Served::metrics(
        server
            .command("colcrypt")
            .env("PGDATABASE", "tpl")
            .env("PGUSER", "monitor"),
    );
    let folder = std::env::temp_dir().join(unique(&format!(
        "colcrypt-dashboard-{}-",
        std::process::id()
    )));
    fs::create_dir(&folder).expect("a folder");
    fs::write(
        folder.join("prometheus.yml"),
        format!(
            "global: {{scrape_interval: 2s, scrape_timeout: 2s}}\n\
             scrape_configs:\n- {{job_name: colcrypt, static_configs: [{{targets: ['{address}'], labels: {{instance: db1}}}}]}}\n"
        ),
    )
    .expect("a file");
    let port = Port::hold();
    let place = format!("127.0.0.1:{}", port.number());
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
            .stderr(fs::File::create(folder.join("log")).expect("a file")),
    );
    // An application, and a rotation beside it.
    client.run("SELECT rotate_key('k')");
    wait_until_under_way(&mut client);
    let page: PathBuf = folder.join("dashboard.html");
    let prometheus = format!("http://{place}");
    let takes_picture = std::env::var_os("UPDATE_DOCS").is_some();
    let began = std::time::Instant::now();
    let mut lacks = String::new();
    wait_for("each panel", LONG, || {
        client.run(
            "SELECT encrypt_col('v', key) FROM unnest(ARRAY['customer.iban', 'patient.diagnosis', 'card.number']) key, generate_series(1, 2)",
        );
        // A picture shows some time.
        let is_long = !takes_picture || began.elapsed().as_secs() > 60;
        let panels = draw(&prometheus, &page);
        let lacking = format!("{:?}", empty(&panels));
        if lacking != lacks {
            eprintln!("panels without data: {lacking}");
            lacks = lacking;
        }
        is_long && empty(&panels).is_empty()
    });
    let path = repository("docs/dashboard.png");
    let picture = Picture {
        path: &path,
        from: "dashboard",
        to: "end",
    };
    let measured = look(
        &page,
        if takes_picture {
            std::slice::from_ref(&picture)
        } else {
            &[]
        },
    );
    assert_eq!(
        measured["asked"].as_array().map(Vec::len),
        Some(0),
        "{}",
        measured["asked"]
    );
    drop(fs::remove_dir_all(&folder));
}
