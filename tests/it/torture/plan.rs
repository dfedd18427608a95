//! What a seed decides: who is killed when, and every choice of every client.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Victim {
    Worker,
    Agent,
    Backend,
    Broker,
    Postmaster,
}

impl Victim {
    pub fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Agent => "agent",
            Self::Backend => "backend",
            Self::Broker => "broker",
            Self::Postmaster => "postmaster",
        }
    }

    fn choose(random: &mut Random) -> Self {
        match random.below(100) {
            0..35 => Self::Worker,
            35..55 => Self::Agent,
            55..75 => Self::Backend,
            75..80 => Self::Broker,
            _ => Self::Postmaster,
        }
    }
}

pub struct Strike {
    pub pause: Duration,
    pub victim: Victim,
}

pub struct Plan {
    pub seed: u64,
    pub strikes: Vec<Strike>,
}

impl Plan {
    pub fn new(seed: u64, kills: usize) -> Self {
        let mut random = Random::of(seed, 0);
        let strikes = (0..kills)
            .map(|_| Strike {
                // Some strike a server that has not recovered from the one before.
                pause: Duration::from_millis(match random.below(4) {
                    0 => random.below(200),
                    _ => 200 + random.below(2000),
                }),
                victim: Victim::choose(&mut random),
            })
            .collect();
        Self { seed, strikes }
    }

    /// How many of which kind.
    pub fn summary(&self) -> String {
        let mut counts = BTreeMap::new();
        for strike in &self.strikes {
            *counts.entry(strike.victim).or_insert(0) += 1;
        }
        let words: Vec<String> = counts
            .iter()
            .map(|(victim, count)| format!("{count} {}", victim.name()))
            .collect();
        format!("{} ({})", self.strikes.len(), words.join(", "))
    }
}

pub fn fresh_seed() -> u64 {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("a clock");
    // Short enough to be typed.
    Random(now.as_nanos() as u64).next() % 1_000_000
}

/// SplitMix64: the same everywhere and for ever, so that a seed keeps its meaning.
pub struct Random(u64);

impl Random {
    /// One of the independent sequences of a seed.
    pub fn of(seed: u64, sequence: u64) -> Self {
        let mut random = Self(seed);
        let base = random.next();
        let mut random = Self(base ^ sequence.wrapping_mul(0xd6e8_feb8_6659_fd93));
        random.next();
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}
