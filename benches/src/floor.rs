//! The cipher alone, in this process: what no way of calling it from SQL could undercut.

use std::time::Instant;

use colcrypt_bench::{Path, SIZES};
use colcrypt_core::Suite;

use crate::median;

const SAMPLES: usize = 9;
const BYTES: usize = 8 << 20;

/// Nanoseconds to seal and to open a value of each size.
pub fn measure() -> Vec<(f64, f64)> {
    SIZES
        .iter()
        .map(|&size| {
            let mut path = Path::new(Suite::Aes256Gcm, size);
            (time(size, || path.seal()), time(size, || path.open()))
        })
        .collect()
}

fn time(size: usize, mut step: impl FnMut()) -> f64 {
    let times = u32::try_from((BYTES / size).min(20_000)).expect("a small number");
    let samples = (0..=SAMPLES).map(|_| {
        let began = Instant::now();
        for _ in 0..times {
            step();
        }
        began.elapsed().as_secs_f64() * 1e9 / f64::from(times)
    });
    median(samples.skip(1).collect())
}
