//! `report` as a reader has it, in a browser and on paper.

use std::path::Path;

use colcrypt_tests::browser::{Picture, look};
use colcrypt_tests::of_reports::{history, report};
use serde_json::Value;

use crate::common::cluster;

/// Nothing is wider than the paper, no letter too small, no bar outside its chart, nothing loaded and nothing run.
/// `UPDATE_DOCS=1` takes the pictures of docs/report.md.
#[test]
fn it_can_be_read_on_paper_and_on_a_screen() {
    let it = history();
    let connection = format!("dbname={} user={}", it.db.name, it.auditor);
    let told = report(cluster(), &connection, &[]);
    assert_eq!(told.code(), 0, "{}", told.says());
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let names = [
        "report-front.png",
        "report-periods.png",
        "report-census.png",
    ]
    .map(|name| docs.join(name));
    let mut pictures = Vec::new();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        for (path, (from, to)) in names.iter().zip([
            ("top", "left-out"),
            ("periods", "rotations"),
            ("census", "access"),
        ]) {
            pictures.push(Picture { path, from, to });
        }
    }
    let seen = look(&told.path, &pictures);
    let empty = Value::Array(Vec::new());
    for medium in ["paper", "screen"] {
        let seen = &seen[medium];
        assert!(
            seen["needs"].as_i64() <= seen["width"].as_i64(),
            "{medium}: {seen}"
        );
        for fault in ["outside", "cut", "dead"] {
            assert_eq!(seen[fault], empty, "{medium}: {fault}");
        }
        // Eight points.
        assert!(
            seen["letters"].as_f64() >= Some(10.6),
            "{medium}: {}",
            seen["letters"]
        );
        assert_eq!(
            (&seen["scripts"], &seen["handlers"]),
            (&0.into(), &0.into())
        );
        let charts = seen["charts"].as_array().unwrap();
        let ids: Vec<&str> = charts
            .iter()
            .map(|chart| chart["id"].as_str().unwrap())
            .collect();
        assert_eq!(
            ids,
            ["chart-events", "chart-periods", "chart-census"],
            "{medium}"
        );
        for chart in charts {
            assert!(chart["bars"].as_i64() >= Some(1), "{medium}: {chart}");
            assert!(
                chart["width"].as_f64() > Some(500.0) && chart["height"].as_f64() > Some(30.0),
                "{medium}: {chart}"
            );
            assert_eq!(
                (&chart["outside"], &chart["touching"]),
                (&empty, &empty),
                "{medium}: {chart}"
            );
            let black = Value::from("rgb(0, 0, 0)");
            assert!(
                !chart["colours"].as_array().unwrap().contains(&black),
                "a bar without its colour: {chart}"
            );
        }
    }
    assert_eq!(seen["asked"], empty, "something was loaded");
    assert!(seen["pages"].as_i64() >= Some(4), "{}", seen["pages"]);
}
