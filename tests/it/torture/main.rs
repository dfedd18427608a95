//! The crash harness: clients write, keys rotate, and processes are killed at moments that a seed decides. Then every
//! row must decrypt to what a shadow table, written in the same transaction, says in plaintext.
//!
//! `SEED` replays a schedule, `KILLS` says how many there are: `make torture` for 200. The schedule is exact (who is
//! killed after which pause, what each client does next, when keys rotate); how the processes interleave is the
//! operating system's to decide, so a replay strikes in the same order and about the same moments.

mod clients;
mod keks;
mod plan;
mod reshare;
mod verdict;
mod world;

use std::time::{Duration, Instant};

use colcrypt_tests::{Cluster, process, wait_for};

use clients::Writer;
use plan::{Plan, Random, Victim};
use world::{World, children};

/// Kills where nobody asks for another number: what a run of all tests has time for.
const KILLS: usize = 12;
/// Longest wait for a victim: the server recovers, a rotation makes work, a worker takes it up.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn no_row_and_no_key_version_is_lost() {
    let plan = Plan::new(
        number("SEED").unwrap_or_else(plan::fresh_seed),
        number("KILLS").map_or(KILLS, |kills| kills as usize),
    );
    eprintln!("torture: SEED={} KILLS={}", plan.seed, plan.strikes.len());
    let world = World::new();
    let began = Instant::now();
    std::thread::scope(|scope| {
        let world = &world;
        for owner in 0..world::OWNERS {
            let writer = Writer::new(owner, Random::of(plan.seed, 10 + owner as u64));
            scope.spawn(move || world.guarded(|| writer.run(world)));
        }
        let rotations = Random::of(plan.seed, 2);
        scope.spawn(move || world.guarded(|| clients::rotate(world, rotations)));
        scope.spawn(move || world.guarded(|| clients::compare(world)));

        world.guarded(|| {
            let mut aim = Random::of(plan.seed, 1);
            for (at, strike) in plan.strikes.iter().enumerate() {
                if world.is_over() {
                    break;
                }
                std::thread::sleep(strike.pause);
                let pid = kill(&world.cluster, strike.victim, &mut aim);
                eprintln!(
                    "torture: {:6.1} s  kill {} of {}: {} {pid}",
                    began.elapsed().as_secs_f64(),
                    at + 1,
                    plan.strikes.len(),
                    strike.victim.name(),
                );
            }
            clients::all_are_back(world);
        });
        world.end();
    });
    assert!(!world.is_broken(), "a client found what must not be");
    let findings = verdict::check(&world);
    eprintln!(
        "torture: {:.0} s, kills: {}; {findings}",
        began.elapsed().as_secs_f64(),
        plan.summary(),
    );
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} must be a number, not {text}")))
}

/// Kills one process of the kind; the server is up or on its way up afterwards.
fn kill(cluster: &Cluster, victim: Victim, aim: &mut Random) -> i32 {
    let later = Duration::from_millis(aim.below(150));
    let which = aim.next();
    let mut killed = None;
    wait_for(victim.name(), PATIENCE, || {
        if children(cluster, victim).is_empty() {
            return false;
        }
        // Not always at the first moment of its life.
        std::thread::sleep(later);
        let pids = children(cluster, victim);
        if !pids.is_empty() {
            let pid = pids[which as usize % pids.len()];
            // One that ended between the look and the kill is no victim.
            killed = process::kill9_if_there(pid).then_some(pid);
        }
        killed.is_some()
    });
    if victim == Victim::Postmaster {
        // Its children notice and end; until then their shared memory is in the way.
        wait_for("the server to start again", PATIENCE, || {
            cluster.try_start().is_ok()
        });
    }
    killed.expect("waited for")
}
