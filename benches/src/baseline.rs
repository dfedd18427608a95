//! A change for the worse: today's ratios against those that are stored, never a time against a time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How much worse a ratio may be before it counts: runs on shared machines differ by a tenth.
const TOLERANCE: f64 = 1.25;

/// Of these a larger one is better; of all others a smaller one is.
fn is_better_large(name: &str) -> bool {
    [
        "parallel_speedup_2",
        "parallel_speedup_2_bare_scan",
        "pgbench_select_vs_plain",
        "pgbench_mixed_vs_plain",
        "reencrypt_vs_update",
        "search_build_eq_vs_reencrypt",
        "search_build_range_vs_reencrypt",
        "search_build_text_vs_reencrypt",
        "rotations_due_vs_by_hand",
    ]
    .contains(&name)
}

/// Times stand for nothing on another machine, and what others do to pgbench is not ours: a thread of the bench's own,
/// and PostgreSQL's functions.
fn is_ratio(name: &str) -> bool {
    let others = [
        "pgbench_p99_beside_spinner",
        "pgbench_p99_left_out",
        "pgbench_select_function_vs_plain",
        "select_function_vs_plain",
        "select_function_vs_plain_by_clock",
        "mixed_function_vs_plain",
        "copy_idle_trigger_vs_plain",
    ];
    let is_time = ["_ms", "_us", "_ns", "_per_second", "_processor"]
        .iter()
        .any(|unit| name.ends_with(unit));
    !is_time && !others.contains(&name)
}

/// What is promised whatever the machine, far below what any of these processors does.
const AT_LEAST: [(&str, f64); 4] = [
    ("rotations_due_per_second", 100.0),
    ("search_build_eq_vs_reencrypt", 0.5),
    ("search_build_range_vs_reencrypt", 0.5),
    ("search_build_text_vs_reencrypt", 0.5),
];
/// The same where less is better: what search may cost beside the server's own indexes.
const AT_MOST: [(&str, f64); 4] = [
    ("search_eq_vs_btree", 1.2),
    ("search_insert_vs_unique", 1.5),
    ("search_like_vs_trgm", 3.0),
    ("search_range_vs_btree", 2.0),
];

/// Where the ratios are stored for processors of this kind: AES-GCM is several times as fast with AVX-512, and what it
/// is compared with is not.
pub fn path(repository: &Path) -> PathBuf {
    let arch = std::env::consts::ARCH;
    let kind = if has_wide_aes() { "-avx512" } else { "" };
    repository.join(format!("benches/baseline/{arch}{kind}.json"))
}

#[cfg(target_arch = "x86_64")]
fn has_wide_aes() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("vaes")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_wide_aes() -> bool {
    false
}

/// What is worse than stored, or than promised, in words; none where all is well.
///
/// # Panics
/// When the file cannot be read.
pub fn worse(path: &Path, results: &[(String, f64)]) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| {
        panic!(
            "{}: {error}; --save-baseline makes one for this kind of processor",
            path.display()
        )
    });
    let stored: BTreeMap<String, f64> = serde_json::from_str(&text).expect("an object of numbers");
    let today: BTreeMap<&str, f64> = results
        .iter()
        .map(|(name, value)| (name.as_str(), *value))
        .collect();
    let below = AT_LEAST.iter().filter_map(|(name, least)| {
        let now = today.get(name)?;
        (now < least).then(|| format!("{name} is {now:.3} and has to be {least} at least"))
    });
    let above = AT_MOST.iter().filter_map(|(name, most)| {
        let now = today.get(name)?;
        (now > most).then(|| format!("{name} is {now:.3} and may be {most} at most"))
    });
    stored
        .iter()
        .filter_map(|(name, &before)| {
            let Some(&now) = today.get(name.as_str()) else {
                return Some(format!("{name} is not measured any more"));
            };
            let factor = if is_better_large(name) {
                before / now
            } else {
                now / before
            };
            (factor > TOLERANCE).then(|| format!("{name} was {before:.3} and is {now:.3}"))
        })
        .chain(below)
        .chain(above)
        .collect()
}

/// Stores today's ratios.
///
/// # Panics
/// When the file cannot be written.
pub fn save(path: &Path, results: &[(String, f64)]) {
    let ratios: BTreeMap<&str, f64> = results
        .iter()
        .filter(|(name, _)| is_ratio(name))
        .map(|(name, value)| (name.as_str(), (value * 1000.0).round() / 1000.0))
        .collect();
    let text = serde_json::to_string_pretty(&ratios).expect("JSON") + "\n";
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_that_got_worse_is_named_whichever_way_is_worse() {
        let path = std::env::temp_dir().join(format!("colcrypt-baseline-{}", std::process::id()));
        let results = |enc: f64, speedup: f64| {
            vec![
                ("enc_16b_vs_pgcrypto".to_owned(), enc),
                ("parallel_speedup_2".to_owned(), speedup),
                ("first_use_of_a_key_us".to_owned(), 10.0),
                ("pgbench_p99_beside_spinner".to_owned(), 1.0 / enc),
            ]
        };
        save(&path, &results(0.2, 1.9));
        assert!(worse(&path, &results(0.22, 1.8)).is_empty());
        assert!(
            worse(&path, &results(0.1, 3.0)).is_empty(),
            "better is no change for the worse"
        );
        assert_eq!(
            worse(&path, &results(0.3, 1.9)),
            ["enc_16b_vs_pgcrypto was 0.200 and is 0.300"]
        );
        assert_eq!(
            worse(&path, &results(0.2, 1.2)),
            ["parallel_speedup_2 was 1.900 and is 1.200"]
        );
        assert_eq!(
            worse(&path, &results(0.2, 1.9)[..1]),
            ["parallel_speedup_2 is not measured any more"]
        );
        // A rate is stored for no machine, and bounded on every one.
        let with_rate = |rate: f64| {
            let mut results = results(0.2, 1.9);
            results.push(("rotations_due_per_second".to_owned(), rate));
            results
        };
        save(&path, &with_rate(1_220.0));
        assert!(worse(&path, &with_rate(100.0)).is_empty());
        assert_eq!(
            worse(&path, &with_rate(90.0)),
            ["rotations_due_per_second is 90.000 and has to be 100 at least"]
        );
        std::fs::remove_file(path).unwrap();
    }
}
