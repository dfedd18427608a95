//! Keys in memory: those of the slab and the expanded ones of sessions are in pages that core files leave out.

use std::fs;
use std::path::Path;
use std::process::Command;

use colcrypt_core::{KeyEncryptionKey, Suite};
use colcrypt_tests::bed::{Bed, VaultBed, decrypt, encrypt};
use colcrypt_tests::db::Sql;
use colcrypt_tests::left_out::left_out;
use colcrypt_tests::memory::{derived_key, in_memory, round_keys};
use colcrypt_tests::of_memory::{Limit, kilobytes, may_not_lock, start};
use colcrypt_tests::process::run;
use colcrypt_tests::search::occurrences;
use postgres::Client;

use crate::vault::{data_key, keys_of};

/// Sizes in kB and flags of all shared mappings that are marked as not to be dumped.
fn hidden_mappings(pid: i32) -> Vec<(u64, String)> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let (mut found, mut shared, mut size) = (Vec::new(), false, 0);
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [range, modes, ..] if range.contains('-') && modes.len() == 4 => {
                shared = modes.ends_with('s')
            }
            ["Size:", kb, "kB"] => size = kb.parse().unwrap(),
            ["VmFlags:", flags @ ..] if shared && flags.contains(&"dd") => {
                found.push((size, flags.join(" ")))
            }
            _ => {}
        }
    }
    found
}

#[test]
fn the_slab_is_locked_and_left_out_of_core_files() {
    let bed = VaultBed::new(&["colcrypt.slab_keys = 1024"]);
    let mut client = bed.cluster.client();
    encrypt(&mut client, "k").unwrap();
    let backend: i32 = client
        .query_one("SELECT pg_backend_pid()", &[])
        .unwrap()
        .get(0);
    let (postmaster, broker) = bed.pids();

    // 1024 keys of 32 bytes: eight pages and no more.
    let in_postmaster = hidden_mappings(postmaster);
    assert_eq!(in_postmaster.len(), 1, "{in_postmaster:?}");
    let (size, flags) = &in_postmaster[0];
    assert_eq!(*size, 32);
    assert!(flags.split(' ').any(|flag| flag == "lo"), "flags: {flags}");
    for child in [broker, backend] {
        let mappings = hidden_mappings(child);
        assert_eq!(mappings.len(), 1, "{mappings:?}");
        assert_eq!(mappings[0].0, 32);
    }
    let agent = bed.cluster.agent_pid().unwrap();
    let limits = fs::read_to_string(format!("/proc/{agent}/limits")).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert!(core.split_whitespace().nth(4) == Some("0"), "{core}");
}

/// What is locked is the slab and the agent, all of it or, where a limit is in the way, nothing.
#[test]
fn memory_counts_as_locked_if_all_keys_are_in_locked_memory() {
    let bed = Bed::on_file(&[]);
    let cluster = &bed.cluster;
    for (limit, slab, agents) in [
        (Limit::Some, true, false),
        (Limit::None, false, false),
        (Limit::Without, true, true),
    ] {
        if agents && may_not_lock(cluster) {
            left_out("no server here may lock its memory: run this as root");
            continue;
        }
        cluster.stop();
        start(cluster, limit).unwrap_or_else(|error| panic!("{limit:?}: {error}"));
        let mut client = cluster.client();
        encrypt(&mut client, "k").unwrap();
        let status = "SELECT memory_locked FROM colcrypt.broker_status()";
        assert_eq!(client.yes(status), slab && agents, "{limit:?}");
        let flags = &hidden_mappings(cluster.postmaster_pid())[0].1;
        assert_eq!(
            flags.split(' ').any(|flag| flag == "lo"),
            slab,
            "{limit:?}: {flags}"
        );
        // From outside: the KEKs are in what it has in memory.
        let agent = cluster.agent_pid().expect("an agent");
        let (locked, there) = (kilobytes(agent, "VmLck"), kilobytes(agent, "VmRSS"));
        if agents {
            assert!(locked >= there, "{locked} kB locked of {there}");
        } else {
            assert_eq!(locked, 0, "{limit:?}");
        }
    }
}

/// Whoever insists on it gets a server that has it, or none.
#[test]
fn a_server_that_requires_locked_memory_has_it_or_does_not_start() {
    let bed = Bed::on_file(&["colcrypt.require_mlock = off"]);
    let cluster = &bed.cluster;
    cluster.append_conf("colcrypt.require_mlock = on");
    for (limit, why) in [
        (Limit::Some, "the KMS agent's memory cannot be locked"),
        (Limit::None, "the key slab cannot be locked into memory"),
    ] {
        cluster.stop();
        let before = cluster.log().len();
        assert!(start(cluster, limit).is_err(), "{limit:?}");
        let log = cluster.log().split_off(before);
        assert!(log.contains(why), "{limit:?}: {log}");
        // A server to stop next time.
        cluster.append_conf("colcrypt.require_mlock = off");
        start(cluster, limit).expect("a start without");
        cluster.append_conf("colcrypt.require_mlock = on");
    }
    if may_not_lock(cluster) {
        left_out("no server here may lock its memory: run this as root");
        return;
    }
    cluster.stop();
    start(cluster, Limit::Without).expect("a start with all memory locked");
    let mut client = cluster.client();
    encrypt(&mut client, "k").unwrap();
    assert!(client.yes("SELECT memory_locked FROM colcrypt.broker_status()"));
    let agent = cluster.agent_pid().expect("an agent");
    assert!(kilobytes(agent, "VmLck") >= kilobytes(agent, "VmRSS"));
}

#[test]
fn round_keys_are_those_of_the_standard() {
    let key: [u8; 32] =
        hex::decode("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
            .unwrap()
            .try_into()
            .unwrap();
    let last = hex::encode(round_keys(&key)[14]);
    assert_eq!(last, "fe4890d1e6188d0b046df344706c631e");
}

fn pid_of(client: &mut Client) -> i32 {
    client
        .query_one("SELECT pg_backend_pid()", &[])
        .unwrap()
        .get(0)
}

/// Keys of both suites, whole, and every round key of each.
fn keys_and_schedules(user: &mut Client, kek: &KeyEncryptionKey) -> Vec<Vec<u8>> {
    let gcm = data_key(user, kek, ("k", Suite::Aes256Gcm), 1);
    let xaes = data_key(user, kek, ("x", Suite::Xaes256Gcm), 1);
    let value: Vec<u8> = user
        .query_one("SELECT v::bytea FROM x", &[])
        .unwrap()
        .get(0);
    let header = value.len() - 24 - colcrypt_tests::bed::PLAINTEXT.len() - 16;
    let derived = derived_key(xaes.expose(), &value[header..]);
    [gcm.expose(), xaes.expose(), &derived]
        .into_iter()
        .flat_map(|key| {
            let schedule = round_keys(key).into_iter().map(|block| block.to_vec());
            std::iter::once(key.to_vec()).chain(schedule)
        })
        .collect()
}

#[test]
fn no_core_file_holds_a_key() {
    let bed = VaultBed::new(&["shared_buffers = '8MB'"]);
    let mut user = bed.cluster.client();
    user.batch_execute("SELECT colcrypt.create_key('x', 'ring', 'xaes-256-gcm')")
        .unwrap();
    let value = encrypt(&mut user, "k").unwrap();
    decrypt(&mut user, &value).unwrap();
    let sql = format!(
        "CREATE TABLE x AS SELECT colcrypt.encrypt_col('{}', 'x') AS v; SELECT colcrypt.decrypt_col(v) FROM x",
        colcrypt_tests::bed::PLAINTEXT
    );
    user.batch_execute(&sql).unwrap();
    let mut other = bed.cluster.client();
    let (kek, _) = keys_of(&bed, &mut other);
    let keys = keys_and_schedules(&mut other, &kek);
    let token = fs::read_to_string(&bed.token_file).unwrap();
    let secrets = [kek.expose().to_vec(), token.trim().as_bytes().to_vec()];
    let (user, other) = (pid_of(&mut user), pid_of(&mut other));
    let (postmaster, broker) = bed.pids();
    for (who, pid) in [
        ("the session that used it", user),
        ("another session", other),
        ("the broker", broker),
        ("the postmaster", postmaster),
    ] {
        for (at, (dumped, hidden)) in in_memory(pid, &keys).into_iter().enumerate() {
            assert_eq!(dumped, 0, "piece {at} of a key in the memory of {who}");
            // That it is found where it must be proves that the search works: the keys themselves in the slab, and
            // all that they expand to in the session.
            let in_slab = at == 0 || at == 16;
            let expected = if pid == user { 1 } else { usize::from(in_slab) };
            assert!(hidden >= expected, "piece {at} is not even hidden in {who}");
        }
        assert_eq!(
            in_memory(pid, &secrets),
            [(0, 0); 2],
            "the agent's secrets in the memory of {who}"
        );
    }
    // The same in a core file as a debugger writes it.
    for pid in [user, other, broker] {
        let core = core(pid, bed.cluster.dir());
        let marker = b"colcrypt key broker".to_vec();
        assert!(
            occurrences(&core, &[marker])[0] > 0,
            "the core holds shared memory"
        );
        let found = occurrences(&core, &keys);
        assert!(found.iter().all(|count| *count == 0), "{pid}: {found:?}");
    }
}

/// A core file of a running process.
fn core(pid: i32, dir: &Path) -> Vec<u8> {
    run(Command::new("gcore")
        .arg("-o")
        .arg(dir.join("core"))
        .arg(pid.to_string()));
    let file = dir.join(format!("core.{pid}"));
    let bytes = fs::read(&file).expect("a core file");
    fs::remove_file(file).unwrap();
    bytes
}
