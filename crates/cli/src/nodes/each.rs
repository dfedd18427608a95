//! The same on several servers, some at a time: one that is slow or away holds up none of the others.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    sync::{Mutex, OnceLock},
    thread,
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::nodes::list::Node;

const AT_A_TIME: usize = 16;

/// A bar among those that are shown; nothing is drawn where the output is no terminal.
pub fn bar(length: u64, template: &str) -> ProgressBar {
    let bar = bars().add(ProgressBar::new(length));
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// A line above the bars.
pub fn say(line: &str) {
    bars().suspend(|| println!("{line}"));
}

fn bars() -> &'static MultiProgress {
    static BARS: OnceLock<MultiProgress> = OnceLock::new();
    BARS.get_or_init(MultiProgress::new)
}

/// What an act comes to on each server, in their order. Each is told as it is done, by a line of what `told` says, if
/// it says something; a terminal has a bar as well.
pub fn on_each<T: Send>(
    nodes: &[Node],
    act: impl Fn(&Node) -> T + Sync,
    told: impl Fn(&Node, &T) -> Option<String> + Sync,
) -> Vec<T> {
    let bar = bar(
        nodes.len() as u64,
        "{bar:20} {pos} of {len} servers, {elapsed}",
    );
    bar.tick();
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, T)>> = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..nodes.len().min(AT_A_TIME) {
            scope.spawn(|| {
                while let Some((at, node)) = taken(nodes, &next) {
                    let result = act(node);
                    if let Some(line) = told(node, &result) {
                        say(&line);
                    }
                    bar.inc(1);
                    if let Ok(mut done) = done.lock() {
                        done.push((at, result));
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

fn taken<'a>(nodes: &'a [Node], next: &AtomicUsize) -> Option<(usize, &'a Node)> {
    let at = next.fetch_add(1, Ordering::Relaxed);
    nodes.get(at).map(|node| (at, node))
}
