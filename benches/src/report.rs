//! The numbers as a table and as JSON.

use std::path::Path;

use crate::{Costs, cases};

/// Ratios, by the name they have in the JSON. Below 1 is cheaper than what it is compared with.
pub fn results(costs: &Costs, parallel_speedup: f64) -> Vec<(String, f64)> {
    let both = |name: &str| costs[&format!("enc_{name}")] + costs[&format!("dec_{name}")];
    let mut results = Vec::new();
    for case in ["enc_16b", "dec_16b", "enc_16k", "dec_16k"] {
        results.push((
            format!("{case}_vs_pgcrypto"),
            costs[case] / costs[&format!("{case}_pgcrypto")],
        ));
    }
    results.push(("xaes_vs_gcm_16b".to_owned(), both("16b_xaes") / both("16b")));
    for name in cases::types() {
        results.push((format!("{name}_vs_text"), both(name) / both("text")));
    }
    results.push(("parallel_speedup_2".to_owned(), parallel_speedup));
    results
}

pub fn print(costs: &Costs, results: &[(String, f64)]) {
    println!("\nns per value, net of the scan");
    println!(
        "{:<14} {:>10} {:>10} {:>8}   {:>10} {:>10} {:>8}",
        "", "encrypt", "pgcrypto", "ratio", "decrypt", "pgcrypto", "ratio"
    );
    for (label, size) in [("bytea 16 B", "16b"), ("bytea 16 kB", "16k")] {
        let cost = |name: &str| costs[name];
        let (enc, enc_other) = (
            cost(&format!("enc_{size}")),
            cost(&format!("enc_{size}_pgcrypto")),
        );
        let (dec, dec_other) = (
            cost(&format!("dec_{size}")),
            cost(&format!("dec_{size}_pgcrypto")),
        );
        println!(
            "{label:<14} {enc:>10.0} {enc_other:>10.0} {:>8.2}   {dec:>10.0} {dec_other:>10.0} {:>8.2}",
            enc / enc_other,
            dec / dec_other
        );
    }
    for name in ["16b_xaes", "text"].into_iter().chain(cases::types()) {
        let (enc, dec) = (costs[&format!("enc_{name}")], costs[&format!("dec_{name}")]);
        println!("{name:<14} {enc:>10.0} {:>10} {:>8}   {dec:>10.0}", "", "");
    }
    println!();
    for (name, value) in results {
        println!("{name:<22} {value:>8.3}");
    }
}

pub fn write(path: &Path, costs: &Costs, results: &[(String, f64)]) {
    let rounded = |value: f64| (value * 10_000.0).round() / 10_000.0;
    let mut object = serde_json::Map::new();
    for (name, value) in results {
        object.insert(name.clone(), rounded(*value).into());
    }
    for (name, value) in costs {
        object.insert(format!("{name}_ns"), rounded(*value).into());
    }
    let mut text = serde_json::to_string_pretty(&object).expect("JSON");
    text.push('\n');
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
