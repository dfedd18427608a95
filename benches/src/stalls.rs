//! When the machine itself stood still. A virtual machine's processors are taken away for milliseconds at a time, up to
//! some per cent of the time: at the 99th percentile nothing else would be seen. A watcher bound to each processor, at
//! real-time priority, notes when it woke late, and transactions of these moments are left out, with a job and without
//! alike.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

/// After a stall, what has queued up is worked off: that takes as long again where half of the time is used, and here
/// is given twice that.
const AFTERMATH: u64 = 2;

/// Begin and end, in microseconds since 1970.
type Span = (u64, u64);

/// Watches until it is dropped.
pub struct Stalls {
    watchers: Vec<Child>,
    seen: Arc<Mutex<Vec<Span>>>,
}

impl Stalls {
    /// Says so, and sees nothing, where processes may not run at real-time priority.
    pub fn watch() -> Self {
        let program = std::env::current_exe()
            .expect("this program")
            .with_file_name("stalls");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let count = std::thread::available_parallelism().map_or(1, Into::into);
        let mut watchers: Vec<Child> = (0..count)
            .map(|processor| {
                Command::new("taskset")
                    .args(["-c", &processor.to_string(), "chrt", "-f", "50"])
                    .arg(&program)
                    .stdout(Stdio::piped())
                    .stderr(Stdio::null())
                    .spawn()
                    .expect("taskset, of util-linux")
            })
            .collect();
        for watcher in &mut watchers {
            let lines = BufReader::new(watcher.stdout.take().expect("a pipe")).lines();
            let seen = seen.clone();
            std::thread::spawn(move || {
                for span in lines.map_while(Result::ok).filter_map(|line| parse(&line)) {
                    seen.lock().expect("not poisoned").push(span);
                }
            });
        }
        // One that may not run has said so by now.
        sleep(Duration::from_millis(200));
        if watchers
            .iter_mut()
            .any(|watcher| !matches!(watcher.try_wait(), Ok(None)))
        {
            eprintln!(
                "no real-time priority (chrt -f): moments when the machine stands still are not left out"
            );
        }
        Self { watchers, seen }
    }

    /// Moments when a processor stood still or had to catch up, apart and in order, and forgets them.
    pub fn take(&self) -> Vec<Span> {
        // The watchers' last words.
        sleep(Duration::from_millis(20));
        let mut spans = std::mem::take(&mut *self.seen.lock().expect("not poisoned"));
        spans.sort_unstable();
        let mut apart: Vec<Span> = Vec::new();
        for (begin, end) in spans {
            let end = end + AFTERMATH * (end - begin);
            match apart.last_mut() {
                Some(last) if begin <= last.1 => last.1 = last.1.max(end),
                _ => apart.push((begin, end)),
            }
        }
        apart
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        for watcher in &mut self.watchers {
            let _ = watcher.kill();
            let _ = watcher.wait();
        }
    }
}

fn parse(line: &str) -> Option<Span> {
    let (begin, end) = line.split_once(' ')?;
    Some((begin.parse().ok()?, end.parse().ok()?))
}

/// Whether any of these spans, apart and in order, has a moment in common with this one.
pub fn meets(spans: &[Span], (begin, end): Span) -> bool {
    let next = spans.partition_point(|span| span.1 < begin);
    spans.get(next).is_some_and(|span| span.0 <= end)
}

#[cfg(test)]
mod tests {
    use super::meets;

    #[test]
    fn a_span_meets_what_it_touches() {
        let spans = [(10, 20), (30, 40)];
        for (span, met) in [
            ((1, 9), false),
            ((1, 10), true),
            ((12, 13), true),
            ((20, 25), true),
            ((21, 29), false),
            ((5, 50), true),
            ((41, 50), false),
        ] {
            assert_eq!(meets(&spans, span), met, "{span:?}");
        }
        assert!(!meets(&[], (1, 2)));
    }
}
