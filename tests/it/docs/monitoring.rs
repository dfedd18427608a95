//! The examples in monitoring/, judged by Prometheus' own tools and by what the extension tells, and the tables that
//! docs/monitoring.md makes of them.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;

use colcrypt_tests::Cluster;
use colcrypt_tests::of_metrics::{names_in, promtool, repository, tool};
use serde_json::Value;

/// What the extension tells: name, type and help.
fn told() -> Vec<(String, String, String)> {
    let cluster = Cluster::builder().start();
    let mut client = cluster.client();
    client
        .batch_execute("CREATE EXTENSION colcrypt")
        .expect("the extension");
    client
        .query(
            "SELECT name, type, help FROM colcrypt.metric_names() ORDER BY name",
            &[],
        )
        .expect("the metrics")
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect()
}

fn example(name: &str) -> String {
    fs::read_to_string(repository("monitoring").join(name)).expect(name)
}

/// Every expression of the dashboard, with what Grafana puts in for its own variables.
fn expressions(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().expect("panels");
    panels
        .iter()
        .filter(|panel| panel["type"] != "row")
        .flat_map(|panel| {
            panel["targets"]
                .as_array()
                .unwrap_or_else(|| panic!("no targets: {panel}"))
        })
        .map(|target| {
            target["expr"]
                .as_str()
                .expect("an expression")
                .replace("$__rate_interval", "5m")
        })
        .collect()
}

/// The alerts: name, how long, severity and description. The file is YAML of one form.
fn alerts(rules: &str) -> Vec<[String; 4]> {
    rules
        .split("- alert: ")
        .skip(1)
        .map(|rule| {
            let field = |key: &str| {
                let from = rule
                    .split_once(key)
                    .map(|(_, rest)| rest.lines().next().unwrap_or_default());
                from.unwrap_or_default()
                    .trim()
                    .trim_end_matches('}')
                    .trim_matches('"')
                    .to_owned()
            };
            let name = rule.lines().next().unwrap_or_default().to_owned();
            [
                name,
                field("for: "),
                field("severity: "),
                field("description: "),
            ]
        })
        .collect()
}

#[test]
fn alert_rules_parse_fire_for_their_faults_and_name_what_is_told() {
    for arguments in [
        ["check", "rules", "colcrypt.rules.yml"],
        ["test", "rules", "colcrypt.rules.test.yml"],
    ] {
        let output = tool("promtool")
            .args(arguments)
            .current_dir(repository("monitoring"))
            .output()
            .expect("promtool");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
    let (rules, tests) = (
        example("colcrypt.rules.yml"),
        example("colcrypt.rules.test.yml"),
    );
    for [name, ..] in alerts(&rules) {
        let fires = format!("alertname: {name}\n");
        assert!(tests.contains(&fires), "no test has {name} fire");
    }
    // A configuration that names them is taken as a whole.
    let output = tool("promtool")
        .args(["check", "config", "prometheus.yml"])
        .current_dir(repository("monitoring"))
        .output()
        .expect("promtool");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn every_example_names_metrics_that_are_told() {
    let told: BTreeSet<String> = told().into_iter().map(|(name, ..)| name).collect();
    let dashboard: Value = serde_json::from_str(&example("grafana.json")).expect("JSON");
    let expressions = expressions(&dashboard);
    assert!(expressions.len() > 25, "{expressions:?}");

    // Prometheus' own parser, which takes expressions in rules.
    let mut rules = String::from("groups:\n- name: dashboard\n  rules:\n");
    for (number, expression) in expressions.iter().enumerate() {
        let quoted = serde_json::to_string(expression).expect("JSON");
        writeln!(rules, "  - {{record: panel_{number}, expr: {quoted}}}").expect("a string");
    }
    let file = std::env::temp_dir().join(format!("colcrypt-dashboard-{}.yml", std::process::id()));
    fs::write(&file, rules).expect("a file");
    let judged = promtool(&["check", "rules", &file.display().to_string()], "");
    fs::remove_file(&file).expect("the file");
    assert!(judged.status.success(), "{judged:?}");

    let variables = dashboard["templating"].to_string();
    let shown = names_in(&expressions.join("\n"));
    let unknown = |names: &BTreeSet<String>| names.difference(&told).cloned().collect::<Vec<_>>();
    assert!(unknown(&shown).is_empty(), "{:?}", unknown(&shown));
    assert!(unknown(&names_in(&variables)).is_empty(), "{variables}");
    let alerted: BTreeSet<String> = names_in(&example("colcrypt.rules.yml"));
    assert!(unknown(&alerted).is_empty(), "{:?}", unknown(&alerted));
    // Places in the grid are each panel's own.
    let mut taken = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        let number = |key: &str| panel["gridPos"][key].as_u64().expect("a number");
        for x in number("x")..number("x") + number("w") {
            for y in number("y")..number("y") + number("h") {
                assert!(
                    x < 24 && taken.insert((x, y)),
                    "{} is on another panel",
                    panel["title"]
                );
            }
        }
    }
}

#[test]
fn the_page_lists_what_is_told_and_what_alarms() {
    let mut metrics = String::from("| metric | type | help |\n| --- | --- | --- |\n");
    for (name, kind, help) in told() {
        writeln!(metrics, "| `{name}` | {kind} | {help} |").expect("a string");
    }
    let mut table =
        String::from("| alert | after | severity | what it says |\n| --- | --- | --- | --- |\n");
    for [name, after, severity, description] in alerts(&example("colcrypt.rules.yml")) {
        assert!(!severity.is_empty() && !description.is_empty(), "{name}");
        let after = if after.is_empty() {
            "at once".into()
        } else {
            after
        };
        let description = description
            .replace("{{ $value | humanizeDuration }}", "…")
            .replace("{{ ", "")
            .replace(" }}", "");
        let description = description.replace("$labels.", "");
        writeln!(table, "| `{name}` | {after} | {severity} | {description} |").expect("a string");
    }
    let path = super::repository("docs/monitoring.md");
    let mut page = fs::read_to_string(&path).expect("the page");
    for (begin, made) in [
        ("<!-- metrics -->\n", metrics),
        ("<!-- alerts -->\n", table),
    ] {
        let (before, rest) = page.split_once(begin).expect("the table's place");
        let (kept, after) = rest.split_once("<!-- end -->").expect("the table's end");
        assert!(
            kept == made || std::env::var_os("UPDATE_DOCS").is_some(),
            "a table in docs/monitoring.md is out of date: UPDATE_DOCS=1 scripts/test.sh integration --test docs"
        );
        page = format!("{before}{begin}{made}<!-- end -->{after}");
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, page).expect("the page");
    }
}
