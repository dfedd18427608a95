//! What every provider survives: each fault met by keys that are loaded and by keys that are in use.

use std::any::Any;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use colcrypt_tests::bed::{MOMENT, decrypt, ready_keys, wait_until_ok};
use colcrypt_tests::db::Sql;
use colcrypt_tests::problem::Problem;
use colcrypt_tests::provider_bed::ProviderBed;
use colcrypt_tests::proxy::Proxy;
use colcrypt_tests::softhsm_bed::SoftHsmBed;
use colcrypt_tests::wait_for;
use postgres::Client;

use crate::case::{self, CRASHES_ONCE, Case, KEY_DELETED, THROTTLED, TOKEN_EXPIRED};
use crate::table::{self, NOTHING};
use crate::world::World;

on_every_bed!(crate::faults::survives);

/// One more try than retries.
const TRIES: usize = 2;
const CONF: [&str; 3] = [
    "colcrypt.kms_timeout = '800ms'",
    "colcrypt.kms_retries = 1",
    "colcrypt.kms_backoff = '20ms'",
];
/// All tries of a call at their longest, and leisure.
const LONGEST: Duration = Duration::from_secs(6);

fn survives<B: ProviderBed + 'static>(bed: B) {
    let tokens = (&bed as &dyn Any)
        .downcast_ref::<SoftHsmBed>()
        .map(SoftHsmBed::tokens);
    let world = World::new(&bed, &[]);
    let cases = case::all(&world, tokens);
    let mut found = Found::default();

    // A keyring for each case, all cold after the restart; made before calls are cut short.
    let value = |name: &str| world.add_keyring(name, &bed.root_key());
    let values: Vec<String> = cases.iter().map(|case| value(case.name)).collect();
    let usual = value("usual");
    let once = value(CRASHES_ONCE);
    let early = value(TOKEN_EXPIRED);
    let in_use = value("in use");
    for line in CONF {
        world.cluster.append_conf(line);
    }
    world.cluster.restart();
    let pids = world.pids();
    let bounds = Bounds::of(&world, &usual);
    for (case, value) in cases.iter().zip(&values) {
        if case.name != KEY_DELETED {
            meets_cold(&world, case, value, &bounds, &mut found);
        }
    }
    if let Some(tokens) = tokens {
        tokens.fault("once C_Decrypt crash");
        let starts = agent_starts(&world);
        world.reads(&once);
        assert_eq!(agent_starts(&world), starts + 1, "one agent");
        found.cell(CRASHES_ONCE, "one agent".to_owned());
    }
    if bed.expire_token() {
        world.reads(&early);
        found.cell(TOKEN_EXPIRED, "new login".to_owned());
    }
    assert_eq!(world.pids(), pids, "nothing was restarted");

    // From here on keys in use are refreshed all the time, and there is one keyring of them.
    world.cluster.append_conf("colcrypt.soft_ttl = '150ms'");
    world.cluster.restart();
    let pids = world.pids();
    let mut warm = world.warm(&in_use);
    let (last, others): (Vec<&Case>, Vec<&Case>) =
        cases.iter().partition(|case| case.name == KEY_DELETED);
    for case in others.into_iter().chain(last) {
        meets_warm(&world, case, &in_use, &mut warm, &mut found);
    }
    assert_eq!(world.pids(), pids, "nothing was restarted");
    world.hide_secrets();
    found.check(bed.kind());
}

/// What one try takes at most, as counted at the proxy.
struct Bounds {
    requests: usize,
    connections: usize,
}

impl Bounds {
    fn of(world: &World, usual: &str) -> Self {
        let before = counts(world);
        world.reads(usual);
        let after = counts(world);
        // A refused login or a lost connection is tried anew once.
        Self {
            requests: after.0 - before.0 + 1,
            connections: after.1 - before.1 + 1,
        }
    }

    /// What may pass by itself is tried again, as often as the setting says; nothing else is.
    fn check(&self, case: &Case, requests: usize, connections: usize) {
        let transient = ["KC011", "KC012", "KC013", "KC014"].contains(&case.code);
        let tries = if transient { TRIES } else { 1 };
        let counted = format!(
            "{}: {requests} requests over {connections} connections",
            case.name
        );
        assert!(!case.counted || connections >= tries, "{counted}");
        assert!(requests <= tries * self.requests, "{counted}");
        assert!(connections <= tries * self.connections, "{counted}");
    }
}

fn counts(world: &World) -> (usize, usize) {
    let counts = |proxy: &Proxy| (proxy.requests(), proxy.connections());
    world.proxy.as_ref().map(counts).unwrap_or_default()
}

fn agent_starts(world: &World) -> i64 {
    world
        .cluster
        .client()
        .number("SELECT agent_starts FROM colcrypt.broker_status()")
}

/// A key that is loaded meets the fault: an error within bounds, and the key once the fault is mended.
fn meets_cold(world: &World, case: &Case, value: &str, bounds: &Bounds, found: &mut Found) {
    if !(case.strike)() {
        return;
    }
    let name = case.name;
    let before = counts(world);
    let began = Instant::now();
    let problem = world.refused(&mut world.cluster.client(), value);
    let (took, after) = (began.elapsed(), counts(world));
    assert_eq!(problem.code, case.code, "{name}: {problem:?}");
    problem.is(case.code);
    assert!(
        problem.message.ends_with(&format!("(keyring \"{name}\")")),
        "{name}: {problem:?}"
    );
    assert!(took < LONGEST, "{name}: {took:?}");
    bounds.check(case, after.0 - before.0, after.1 - before.1);
    if name == THROTTLED {
        assert!(
            took >= Duration::from_secs(1),
            "asked again after {took:?}, too soon"
        );
    }
    found.problem(name, &problem);
    assert!((case.mend)(), "{name} can be mended");
    wait_until_ok(name, MOMENT, || world.try_reading(value));
}

/// The keys in use meet the fault at their refresh: an outage leaves them, a refusal wipes them.
fn meets_warm(world: &World, case: &Case, value: &str, warm: &mut Client, found: &mut Found) {
    let name = case.name;
    decrypt(warm, value).unwrap_or_else(|error| panic!("before {name}: {error:?}"));
    let log = world.cluster.log().len();
    if !(case.strike)() {
        return;
    }
    let mut watcher = world.cluster.client();
    let mut wiped = false;
    if let Some(sign) = case.sign {
        // The first one may be of a call that began before.
        wait_for(name, MOMENT, || {
            wiped = ready_keys(&mut watcher) == 0;
            wiped || world.cluster.log()[log..].matches(sign).count() >= 2
        });
    }
    if wiped {
        let problem = world.refused(warm, value);
        assert_eq!(problem.code, case.code, "{name}: {problem:?}");
        world.refused(&mut world.cluster.client(), value);
        found.problem(name, &problem);
    } else {
        decrypt(warm, value).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        world.reads(value);
    }
    found.keys(name, wiped);
    if (case.mend)() {
        wait_until_ok(name, MOMENT, || decrypt(warm, value));
    } else {
        assert_eq!(name, KEY_DELETED, "can be mended");
    }
}

/// What the tables are made of.
#[derive(Default)]
struct Found {
    cells: BTreeMap<&'static str, String>,
    codes: BTreeMap<String, Problem>,
}

impl Found {
    fn cell(&mut self, name: &'static str, cell: String) {
        self.cells.insert(name, cell);
    }

    fn problem(&mut self, name: &'static str, problem: &Problem) {
        self.cell(name, format!("`{}`", problem.code));
        self.codes.insert(problem.code.clone(), problem.clone());
    }

    fn keys(&mut self, name: &'static str, wiped: bool) {
        let cell = self.cells.get_mut(name).expect("met by a cold key before");
        let refusal = ["`KC015`", "`KC016`", "`KC017`"].contains(&cell.as_str());
        assert_eq!(wiped, refusal, "{name}: {cell}");
        *cell += if wiped { " ●" } else { " ○" };
    }

    fn check(&self, kind: &str) {
        let column = format!("`{kind}`");
        let rows = case::rows();
        let faults = rows.iter().map(|row| {
            let cell = self.cells.get(row).map_or(NOTHING, String::as_str);
            ((*row).to_owned(), column.clone(), cell.to_owned())
        });
        table::check("faults", &rows, &faults.collect::<Vec<_>>());
        let mut errors = Vec::new();
        for (code, problem) in &self.codes {
            let (message, _) = problem.message.split_once(" (keyring").expect("a keyring");
            for (column, text) in [("error", message), ("hint", &problem.hint)] {
                errors.push((format!("`{code}`"), column.to_owned(), text.to_owned()));
            }
        }
        table::check("errors", &CODES, &errors);
    }
}

const CODES: [&str; 12] = [
    "`KC010`", "`KC011`", "`KC012`", "`KC013`", "`KC014`", "`KC015`", "`KC016`", "`KC017`",
    "`KC018`", "`KC019`", "`KC023`", "`XX001`",
];
