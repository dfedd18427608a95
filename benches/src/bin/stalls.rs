//! Says when the processor it is bound to stood still, one line each: begin and end in microseconds since 1970. To be
//! run under `taskset` and `chrt`, so that nothing in this machine can be what kept it: what is left is the host.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often it looks. A longer sleep sees less, a shorter one is felt by what is measured.
const NAP: Duration = Duration::from_micros(500);
/// Late by more than this is a stall: a timer's own lateness is some 50 µs.
const LATE: Duration = Duration::from_micros(250);

fn main() {
    let mut out = std::io::stdout();
    loop {
        let began = SystemTime::now();
        std::thread::sleep(NAP);
        let ended = SystemTime::now();
        let took = ended.duration_since(began).unwrap_or_default();
        if took > NAP + LATE
            && writeln!(out, "{} {}", micros(began), micros(ended))
                .and_then(|()| out.flush())
                .is_err()
        {
            return;
        }
    }
}

fn micros(at: SystemTime) -> u128 {
    at.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_micros()
}
