//! The numbers as a table and as JSON.

use std::path::Path;

use crate::cases::{self, SIZES};
use crate::{Costs, Measured};

/// Ratios of costs, by the name they have in the JSON. Below 1 is cheaper than what it is compared with.
pub fn ratios(costs: &Costs) -> Vec<(String, f64)> {
    let both = |name: &str| costs[&format!("enc_{name}")] + costs[&format!("dec_{name}")];
    let mut ratios = Vec::new();
    for (label, _, _) in SIZES {
        for verb in ["enc", "dec"] {
            let case = format!("{verb}_{label}");
            ratios.push((
                format!("{case}_vs_pgcrypto"),
                costs[&case] / costs[&format!("{case}_pgcrypto")],
            ));
        }
    }
    ratios.push(("xaes_vs_gcm_16b".to_owned(), both("16b_xaes") / both("16b")));
    for name in cases::types() {
        ratios.push((format!("{name}_vs_text"), both(name) / both("text")));
    }
    ratios
}

pub fn print(measured: &Measured) {
    let costs = &measured.costs;
    println!("\nns per value, net of the scan");
    println!(
        "{:<12} {:>10} {:>10} {:>7} {:>10}   {:>10} {:>10} {:>7} {:>10}",
        "bytes", "encrypt", "pgcrypto", "ratio", "xaes", "decrypt", "pgcrypto", "ratio", "xaes"
    );
    for (label, bytes, _) in SIZES {
        print!("{bytes:<12}");
        for verb in ["enc", "dec"] {
            let cost = |suffix: &str| costs[&format!("{verb}_{label}{suffix}")];
            let (ours, theirs) = (cost(""), cost("_pgcrypto"));
            print!(
                " {ours:>10.0} {theirs:>10.0} {:>7.2} {:>10.0}  ",
                ours / theirs,
                cost("_xaes")
            );
        }
        println!();
    }
    println!();
    for name in ["text"].into_iter().chain(cases::types()) {
        let (enc, dec) = (costs[&format!("enc_{name}")], costs[&format!("dec_{name}")]);
        println!("{name:<12} {enc:>10.0} {dec:>43.0}");
    }
    println!();
    for (name, value) in &measured.results {
        println!("{name:<34} {value:>9.3}");
    }
}

pub fn write(path: &Path, measured: &Measured) {
    let rounded = |value: f64| (value * 10_000.0).round() / 10_000.0;
    let mut object = serde_json::Map::new();
    for (name, value) in &measured.results {
        object.insert(name.clone(), rounded(*value).into());
    }
    for (name, value) in &measured.costs {
        object.insert(format!("{name}_ns"), rounded(*value).into());
    }
    for ((label, _, _), (seal, open)) in SIZES.iter().zip(&measured.floor) {
        object.insert(format!("cipher_seal_{label}_ns"), rounded(*seal).into());
        object.insert(format!("cipher_open_{label}_ns"), rounded(*open).into());
    }
    let mut text = serde_json::to_string_pretty(&object).expect("JSON");
    text.push('\n');
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
