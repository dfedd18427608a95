//! The cipher alone, in this process: what no way of calling it from SQL could undercut.

use std::time::Instant;

use colcrypt_bench::{Path, SIZES};
use colcrypt_core::Suite;

use crate::median;

const BYTES: usize = 8 << 20;

/// Measured in turns with the rest, since a machine is not as fast at one time as at another.
pub struct Floor(Vec<Size>);

struct Size {
    bytes: usize,
    path: Path,
    seal: Vec<f64>,
    open: Vec<f64>,
}

impl Floor {
    pub fn new() -> Self {
        let sizes = SIZES.iter().map(|&bytes| Size {
            bytes,
            path: Path::new(Suite::Aes256Gcm, bytes),
            seal: Vec::new(),
            open: Vec::new(),
        });
        Self(sizes.collect())
    }

    /// One turn.
    pub fn turn(&mut self) {
        for size in &mut self.0 {
            let (path, bytes) = (&mut size.path, size.bytes);
            size.seal.push(time(bytes, || path.seal()));
            size.open.push(time(bytes, || path.open()));
        }
    }

    /// Nanoseconds to seal and to open a value of each size; the first turn does not count.
    pub fn costs(self) -> Vec<(f64, f64)> {
        let cost = |samples: Vec<f64>| median(samples.into_iter().skip(1).collect());
        let sizes = self.0.into_iter();
        sizes
            .map(|size| (cost(size.seal), cost(size.open)))
            .collect()
    }
}

fn time(size: usize, mut step: impl FnMut()) -> f64 {
    let times = u32::try_from((BYTES / size).min(20_000)).expect("a small number");
    let began = Instant::now();
    for _ in 0..times {
        step();
    }
    began.elapsed().as_secs_f64() * 1e9 / f64::from(times)
}
