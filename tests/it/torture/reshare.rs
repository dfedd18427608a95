//! `colcrypt escrow reshare` is killed at each thing that it writes (some of them in a short run), and then at moments
//! that a seed decides. The old shares open the escrow always; where the new record is, the new ones do, too; and it
//! can be done again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use colcrypt_tests::db::{Sql, cluster, db};
use colcrypt_tests::of_escrow::{Ceremony, directory, done, escrow, shown, started, stderr};
use colcrypt_tests::process::run;

use crate::plan::{Random, fresh_seed};
use crate::{KILLS, number};

/// The holders of the new shares.
const NAMES: [&str; 5] = ["Fay", "Gus", "Hal", "Ida", "Jon"];

/// From so many kills on it is killed at every write, of which there are some fifty.
const FULL: usize = 100;

/// When it ends.
enum End {
    /// At the so-manieth thing that it writes.
    Write(usize),
    /// After a while.
    After(Duration),
}

struct World {
    ceremony: Ceremony,
    /// A backup whose keyrings are sealed to the escrow.
    dump: PathBuf,
    shim: PathBuf,
    /// Of the new holders, all of whom have the same one.
    identity: PathBuf,
    recipient: String,
}

/// A place for one sharing.
struct Place {
    record: PathBuf,
    shares: PathBuf,
}

impl Place {
    fn new() -> Self {
        let directory = directory();
        Self {
            record: directory.join("new.json"),
            shares: directory.join("shares"),
        }
    }

    fn files(&self) -> usize {
        fs::read_dir(&self.shares).map_or(0, Iterator::count)
    }
}

impl World {
    fn new() -> Self {
        let mut db = db();
        let ceremony = Ceremony::new("tortured");
        ceremony.provider(&mut db.client);
        db.client.run("SELECT add_root('ring', 'escrow')");
        let dump = cluster().dump(&db.client.one("SELECT current_database()"));
        let shim = ceremony.directory.join("kill.so");
        run(Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(&shim)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("it/torture/kill_shim.c")));
        let identity = age::x25519::Identity::generate();
        let secret = identity.to_string();
        Self {
            identity: cluster().write_file(
                "torture.age",
                age::secrecy::ExposeSecret::expose_secret(&secret).as_bytes(),
                0o600,
            ),
            recipient: identity.to_public().to_string(),
            ceremony,
            dump,
            shim,
        }
    }

    /// What it printed and how it ended.
    fn reshare(&self, place: &Place, end: Option<&End>) -> Output {
        let holders = NAMES.map(|name| format!("{name}={}", self.recipient));
        let mut arguments = vec![
            "reshare",
            "--old-record",
            shown(&self.ceremony.record),
            "--record",
            shown(&place.record),
            "--encrypted",
            shown(&place.shares),
        ];
        arguments.extend(holders.iter().flat_map(|holder| ["--holder", holder]));
        let mut environment = Vec::new();
        if let Some(End::Write(nth)) = end {
            environment.push(("LD_PRELOAD", shown(&self.shim).to_owned()));
            environment.push(("KILL_AT", nth.to_string()));
        }
        let lines = [4, 0, 2].map(|at| self.ceremony.share(at));
        let mut child = started(&arguments, &lines, &environment);
        if let Some(End::After(while_)) = end {
            std::thread::sleep(*while_);
            // One that has ended is not there to be killed.
            let _ = child.kill();
        }
        child.wait_with_output().unwrap()
    }

    /// Has the escrow opened by some shares, and a backup with it.
    fn opens(&self, record: &Path, shares: &[&str]) {
        let arguments = [
            "drill",
            "--record",
            shown(record),
            "--backup",
            shown(&self.dump),
            "--identity",
            shown(&self.identity),
        ];
        let report = done(&escrow(&arguments, shares));
        assert!(report.contains(r#"\"problems\":[]"#), "{report}");
    }

    fn new_shares_open(&self, place: &Place) {
        let files = [3, 0, 4].map(|at: usize| {
            let name = format!("share-{:02}-{}.age", at + 1, NAMES[at]);
            format!("@{}", shown(&place.shares.join(name)))
        });
        self.opens(&place.record, &files.each_ref().map(String::as_str));
    }

    fn old_shares_open(&self) {
        let shares = [1, 3, 4].map(|at| self.ceremony.share(at));
        self.opens(&self.ceremony.record, &shares);
    }

    /// What must be true of a sharing that ended anywhere. Whether it was done.
    fn judge(&self, place: &Place) -> bool {
        self.old_shares_open();
        let is_done = place.record.exists();
        if !is_done {
            if place.files() > 0 {
                let again = self.reshare(place, None);
                let told = stderr(&again);
                assert!(told.contains("ended before it was done"), "{told}");
                fs::remove_dir_all(&place.shares).unwrap();
            }
            done(&self.reshare(place, None));
        }
        self.new_shares_open(place);
        is_done
    }
}

#[test]
fn old_shares_or_new_ones_open_whenever_a_resharing_is_killed() {
    let (seed, kills) = (
        number("SEED").unwrap_or_else(fresh_seed),
        number("KILLS").map_or(KILLS, |kills| kills as usize),
    );
    let world = World::new();
    let began = Instant::now();
    let place = Place::new();
    done(&world.reshare(&place, None));
    let length = began.elapsed();
    assert!(world.judge(&place));

    let mut ends = BTreeMap::new();
    let mut one = |end: End, what: &str| {
        let place = Place::new();
        let output = world.reshare(&place, Some(&end));
        let is_killed = !output.status.success();
        if is_killed {
            assert_eq!(output.status.code(), None, "{}", stderr(&output));
        }
        let (files, is_done) = (place.files(), world.judge(&place));
        assert!(is_done || is_killed, "it ended well and left no record");
        let how = match (is_killed, is_done, files) {
            (false, ..) => "not in time",
            (_, true, _) => "after the record",
            (_, _, 0) => "before the first share",
            _ => "among the shares",
        };
        *ends.entry(format!("{what}, {how}")).or_insert(0) += 1;
        is_killed
    };
    let mut random = Random::of(seed, 3);
    // The first that is not reached lets it end: so many there are. A short run leaves most of them out.
    let stride = if kills < FULL { 5 } else { 1 };
    let first = 1 + random.below(stride) as usize;
    let mut writes = 0;
    while one(End::Write(first + writes * stride as usize), "at a write") {
        writes += 1;
    }
    assert!(
        writes * stride as usize > 3 * NAMES.len(),
        "{writes} writes"
    );
    for _ in writes..kills {
        let after = length.mul_f64(1.1 * random.below(1000) as f64 / 1000.0);
        one(End::After(after), "at a moment");
    }
    eprintln!(
        "torture of resharing: SEED={seed}, {writes} kills at a write, {} at a moment; {ends:?}; old shares opened the \
         escrow each time, and new ones wherever there was a record",
        kills.saturating_sub(writes),
    );
}
