//! Runs one step of the hot path a number of times and does nothing else: for callgrind, which counts instructions.
//!
//! `instructions STEP TIMES`; without arguments it lists the steps. scripts/bench-instructions.sh subtracts two runs of
//! different lengths, so that what is left belongs to the step.

use std::hint::black_box;
use std::process::ExitCode;

use colcrypt_bench::{Path, Place};
use colcrypt_core::Suite;

/// The name, the suite, the value's length, and whether it is bound to a place.
const STEPS: [(&str, Suite, usize, bool); 5] = [
    ("gcm-16", Suite::Aes256Gcm, 16, false),
    ("gcm-16-place", Suite::Aes256Gcm, 16, true),
    ("gcm-1024", Suite::Aes256Gcm, 1024, false),
    ("xaes-16", Suite::Xaes256Gcm, 16, false),
    ("xaes-1024", Suite::Xaes256Gcm, 1024, false),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [step, times] = &arguments[..] else {
        for (name, ..) in STEPS {
            println!("seal-{name}\nopen-{name}");
        }
        println!("parse\nplace");
        return ExitCode::SUCCESS;
    };
    let Ok(times) = times.parse::<u32>() else {
        eprintln!("not a number: {times}");
        return ExitCode::FAILURE;
    };
    if step == "parse" {
        let path = Path::new(Suite::Aes256Gcm, 16);
        for _ in 0..times {
            black_box(path.parse());
        }
        return ExitCode::SUCCESS;
    }
    let place = Place::new();
    if step == "place" {
        for id in 0..times {
            place.with(id.cast_signed(), |context| {
                black_box(context);
            });
        }
        return ExitCode::SUCCESS;
    }
    let known = step.split_once('-').and_then(|(verb, name)| {
        let found = STEPS.iter().find(|known| known.0 == name)?;
        Some((verb, found.1, found.2, found.3))
    });
    let Some((verb @ ("seal" | "open"), suite, size, is_bound)) = known else {
        eprintln!("no such step: {step}");
        return ExitCode::FAILURE;
    };
    let context = if is_bound {
        place.with(42, <[u8]>::to_vec)
    } else {
        Vec::new()
    };
    let mut path = Path::bound(suite, size, context);
    for _ in 0..times {
        if verb == "seal" {
            path.seal();
        } else {
            path.open();
        }
    }
    ExitCode::SUCCESS
}
