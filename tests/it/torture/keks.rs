//! Key encryption keys are rotated, and processes killed in the midst of it. The keyring has three root keys: a file, a
//! server's and an escrow. After each kill every value opens, each version is under each of its root keys, the keys
//! under former versions go on to the newest by themselves, and what was promised is there.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use colcrypt_tests::db::Sql;
use colcrypt_tests::of_escrow::{Ceremony, done, escrow, shown};
use colcrypt_tests::openbao::OpenBao;
use colcrypt_tests::{Cluster, wait_for};
use postgres::{Client, Error, NoTls};

use crate::plan::{Plan, Random, Strike, Victim, fresh_seed};
use crate::world::{After, after};
use crate::{KILLS, PATIENCE, kill, number};

/// Key versions that are wrapped anew each time, some batches of them.
const KEYS: usize = 900;
const ROOTS: i64 = 3;

struct World {
    cluster: Cluster,
    _bao: OpenBao,
    ceremony: Ceremony,
    /// Keys whose making was confirmed while it went on.
    made: Mutex<Vec<String>>,
    is_over: AtomicBool,
}

impl World {
    fn new() -> Self {
        let cluster = Cluster::builder()
            .conf("colcrypt.naptime = '1s'")
            // Most values have to be opened by way of the agent.
            .conf("colcrypt.slab_keys = 64")
            // Former versions are destroyed while it runs.
            .conf("colcrypt.destruction_window_floor = 0")
            .conf("colcrypt.destruction_window = '1s'")
            .start();
        let key = cluster.root_key("root.key");
        let bao = OpenBao::start();
        bao.create_key("app");
        let config = bao.config(&bao.root_token_file());
        let ceremony = Ceremony::new("ring");
        let mut client = cluster.client();
        client.run("CREATE EXTENSION colcrypt");
        client.run("SET search_path = public, colcrypt");
        ceremony.provider(&mut client);
        client.run(&format!(
            "SELECT add_provider('local', 'file', jsonb_build_object('path', '{}'));
             SELECT add_provider('bao', 'vault-transit', '{config}');
             SELECT create_keyring('ring', 'local');
             SELECT add_root('ring', 'bao', 'app'), add_root('ring', 'escrow');
             SELECT create_keys(array_agg('key-' || g), 'ring') FROM generate_series(1, {KEYS}) g;
             CREATE TABLE v (key text PRIMARY KEY, v ciphertext);
             INSERT INTO v SELECT 'key-' || g, encrypt_col('of key-' || g, 'key-' || g) FROM generate_series(1, {KEYS}) g",
            key.display()
        ));
        Self {
            cluster,
            _bao: bao,
            ceremony,
            made: Mutex::default(),
            is_over: AtomicBool::new(false),
        }
    }

    /// A connection as soon as there is one.
    fn connect(&self) -> Client {
        let mut client = None;
        wait_for("a connection", PATIENCE, || {
            client = self.cluster.config().connect(NoTls).ok();
            client.is_some()
        });
        let mut client = client.expect("waited for");
        // The server may go down again while it recovers.
        let _ = client.batch_execute("SET search_path = public, colcrypt");
        client
    }

    /// Makes keys, each with a value, all the time: some come under a version that is no longer current a moment later.
    fn make_keys(&self) {
        for nth in 0.. {
            let mut client = self.connect();
            while !self.is_over.load(Relaxed) {
                let name = format!("made-{nth}-{}", self.made.lock().expect("a list").len());
                match make_key(&mut client, &name) {
                    Ok(()) => self.made.lock().expect("a list").push(name),
                    Err(error) if after(&error) == After::Gone => break,
                    Err(_) => {}
                }
                std::thread::sleep(Duration::from_millis(150));
            }
            if self.is_over.load(Relaxed) {
                return;
            }
        }
    }

    /// What must be true after each kill.
    fn judge(&self) {
        let mut client = self.connect();
        wait_for("keys to be under the newest version", PATIENCE, || {
            client.number(
                "SELECT coalesce(sum(keys) FILTER (WHERE state <> 'active'), 0) FROM kek_status",
            ) == 0
        });
        let wrong = "SELECT count(*) FROM v WHERE decrypt_col(v) IS DISTINCT FROM 'of ' || key";
        assert_eq!(client.number(wrong), 0, "values that do not open");
        for name in self.made.lock().expect("a list").iter() {
            let there = format!("SELECT count(*) FROM v WHERE key = '{name}'");
            assert_eq!(client.number(&there), 1, "key {name}, which was confirmed");
        }
        let problems = client.query("SELECT * FROM verify_keys(true) WHERE NOT ok", &[]);
        assert!(problems.as_ref().is_ok_and(Vec::is_empty), "{problems:?}");
        let copies = "SELECT count(*) FROM (SELECT e.version FROM kek_version e LEFT JOIN kek_copy c USING (keyring_id, version) \
             GROUP BY e.keyring_id, e.version, e.destroyed_at HAVING count(c) <> CASE WHEN e.destroyed_at IS NULL THEN 3 ELSE 0 END) s";
        assert_eq!(
            client.number(copies),
            0,
            "versions that lack a copy, or that were destroyed and have some"
        );
        self.escrow_opens(&mut client);
    }

    /// The sealed copy of every version that there is opens, by three shares.
    fn escrow_opens(&self, client: &mut Client) {
        let living = "SELECT count(*) FROM kek_version WHERE destroyed_at IS NULL";
        wait_for("former versions to be destroyed", PATIENCE, || {
            client.number(living) == 1
        });
        let connection = format!(
            "host={} dbname=postgres user=postgres",
            self.cluster.dir().display()
        );
        let arguments = [
            "drill",
            "--record",
            shown(&self.ceremony.record),
            "--connect",
            &connection,
        ];
        let shares = [0, 2, 3].map(|at| self.ceremony.share(at));
        let report = done(&escrow(&arguments, &shares));
        assert!(report.contains(r#"\"problems\":[]"#), "{report}");
    }
}

fn make_key(client: &mut Client, name: &str) -> Result<(), Error> {
    let mut transaction = client.transaction()?;
    transaction.execute("SELECT create_key($1, 'ring')", &[&name])?;
    transaction.execute(
        "INSERT INTO v VALUES ($1, encrypt_col('of ' || $1, $1))",
        &[&name],
    )?;
    transaction.commit()
}

/// Where a rotation was when it was struck, as is found afterwards.
#[derive(Clone, Copy)]
enum Struck {
    /// It is not there: taken back.
    RolledBack,
    /// It is there, and keys were under the former version still.
    Rewrapping,
    Done,
}

impl Struck {
    fn name(self) -> &'static str {
        match self {
            Self::RolledBack => "taken back",
            Self::Rewrapping => "went on",
            Self::Done => "done already",
        }
    }
}

/// Rotates, kills, and looks. Where the rotation was, and the victim's number.
fn rotate_and_kill(world: &World, strike: &Strike, random: &mut Random) -> (Struck, i32) {
    let mut client = world.connect();
    let before = client.number("SELECT max(version) FROM kek_version");
    let crashes = world.cluster.crashes();
    let (pid, answer) = std::thread::scope(|scope| {
        let rotation = scope.spawn(move || client.query_one("SELECT rotate_kek('ring')", &[]));
        // The call itself takes some 40 ms, wrapping the keys anew some times that.
        let pause = match random.below(2) {
            0 => random.below(60),
            _ => random.below(300),
        };
        std::thread::sleep(Duration::from_millis(pause));
        let pid = kill(&world.cluster, strike.victim, random);
        (pid, rotation.join().expect("the rotation's thread"))
    });
    if !matches!(strike.victim, Victim::Agent | Victim::Postmaster) {
        // The postmaster hears of it a moment later. A process that ended by itself just then was no loss.
        let began = Instant::now();
        while world.cluster.crashes() == crashes && began.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let mut client = world.connect();
    let now = client.number("SELECT max(version) FROM kek_version");
    let left = client.number(
        "SELECT count(*) FROM key_version v JOIN keyring r ON r.name = 'ring' WHERE v.kek_version < r.current_version",
    );
    match answer {
        Ok(row) => assert_eq!(
            now,
            i64::from(row.get::<_, i32>(0)),
            "a version that was confirmed"
        ),
        // Refuses what no kill explains.
        Err(error) => drop(after(&error)),
    }
    let struck = match now - before {
        0 => Struck::RolledBack,
        1 if left > 0 => Struck::Rewrapping,
        1 => Struck::Done,
        more => panic!("{more} versions of one rotation"),
    };
    (struck, pid)
}

#[test]
fn no_key_is_lost_whenever_the_rotation_of_a_kek_is_killed() {
    let plan = Plan::new(
        number("SEED").unwrap_or_else(fresh_seed),
        number("KILLS").map_or(KILLS, |kills| kills as usize),
    );
    eprintln!(
        "torture of rotate_kek: SEED={} KILLS={}",
        plan.seed,
        plan.strikes.len()
    );
    let world = World::new();
    let began = Instant::now();
    let mut struck = BTreeMap::new();
    std::thread::scope(|scope| {
        let maker = scope.spawn(|| world.make_keys());
        let _over = Over(&world.is_over);
        let mut random = Random::of(plan.seed, 4);
        for (at, strike) in plan.strikes.iter().enumerate() {
            assert!(!maker.is_finished(), "whoever makes keys gave up");
            let (how, pid) = rotate_and_kill(&world, strike, &mut random);
            *struck.entry(how.name()).or_insert(0) += 1;
            eprintln!(
                "torture of rotate_kek: {:6.1} s  kill {} of {}: {} {pid}: {}",
                began.elapsed().as_secs_f64(),
                at + 1,
                plan.strikes.len(),
                strike.victim.name(),
                how.name(),
            );
            world.judge();
        }
    });
    let mut client = world.connect();
    wait_for("the audit log", PATIENCE, || {
        client.number("SELECT count(*) FROM audit_outbox") == 0
    });
    assert_eq!(client.one("SELECT ok FROM verify_audit_log()"), "t");
    let versions = client.number("SELECT max(version) FROM kek_version");
    let recorded = "SELECT count(*) FROM audit_log WHERE event = 'rotate_kek' AND outcome = 'done'";
    assert_eq!(client.number(recorded), versions - 1, "rotations on record");
    let log = world.cluster.log();
    for word in ["panicked", "PANIC:"] {
        assert!(!log.contains(word), "the server log holds {word:?}");
    }
    eprintln!(
        "torture of rotate_kek: {:.0} s, kills: {}; rotations: {struck:?}; {} keys, {} of them made meanwhile, each opened \
         after each kill; {} versions, each under {ROOTS} root keys until it was destroyed",
        began.elapsed().as_secs_f64(),
        plan.summary(),
        client.number("SELECT count(*) FROM v"),
        world.made.lock().expect("a list").len(),
        versions,
    );
}

/// Says so when it goes, by a panic as well: others wait for that.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
