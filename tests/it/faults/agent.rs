//! The agent is killed, halted, missing, or another program: the broker and the cluster stay, whoever
//! waits gets a key or a clean error, and all is well again as soon as there is an agent.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use colcrypt_tests::bed::{
    Bed, MOMENT, QUICK, VaultBed, decrypt, encrypt, wait_until_failed, wait_until_ok,
};
use colcrypt_tests::db::Sql;
use colcrypt_tests::{process, wait_for};

/// Something that needs the agent, whatever is cached.
fn ask(bed: &Bed, provider: &str) -> Result<u64, postgres::Error> {
    let mut client = bed.cluster.client();
    client.execute("SELECT colcrypt.check_provider($1)", &[&provider])
}

fn agent(bed: &Bed) -> i32 {
    let mut found = None;
    wait_for("an agent", MOMENT, || {
        found = bed.cluster.agent_pid();
        found.is_some()
    });
    found.unwrap()
}

fn starts(bed: &Bed) -> i64 {
    bed.cluster
        .client()
        .number("SELECT agent_starts FROM colcrypt.broker_status()")
}

/// Processor time of a process, in hundredths of a second.
fn cpu(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, tail) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = tail.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn an_agent_killed_while_idle_is_replaced() {
    let bed = Bed::on_file(&QUICK);
    let pids = bed.pids();
    let mut warm = bed.cluster.client();
    let value = encrypt(&mut warm, "k").unwrap();
    for round in 0..4 {
        let former = agent(&bed);
        process::kill9(former);
        decrypt(&mut warm, &value).unwrap();
        ask(&bed, "ring").unwrap();
        let name = format!("made after kill {round}");
        bed.create_key(&name, "ring");
        encrypt(&mut warm, &name).unwrap();
        assert_ne!(agent(&bed), former);
    }
    assert_eq!(starts(&bed), 5);
    assert_eq!(bed.pids(), pids, "broker and cluster stayed");
    assert!(bed.cluster.log().contains("the KMS agent ended: signal: 9"));
}

#[test]
fn an_agent_killed_in_mid_request_costs_nothing_once_and_an_error_twice() {
    let bed = VaultBed::new(&["colcrypt.kms_timeout = '20s'"]);
    let value = encrypt(&mut bed.cluster.client(), "k").unwrap();
    bed.cluster.restart();
    let pids = bed.pids();
    let wait_for_all = |kills: usize| -> Vec<_> {
        bed.bao.pause();
        thread::scope(|scope| {
            let sessions: Vec<_> = (0..20)
                .map(|_| scope.spawn(|| decrypt(&mut bed.cluster.client(), &value)))
                .collect();
            bed.wait_for_waiting(20);
            for _ in 0..kills {
                let former = agent(&bed);
                process::kill9(former);
                wait_for("the next agent", MOMENT, || {
                    bed.cluster.agent_pid().is_some_and(|pid| pid != former)
                });
            }
            if kills < 2 {
                bed.bao.resume();
            }
            sessions
                .into_iter()
                .map(|session| session.join().unwrap())
                .collect()
        })
    };
    // Asked again of the next agent.
    for result in wait_for_all(1) {
        result.unwrap();
    }
    assert_eq!(bed.pids(), pids, "broker and cluster stayed");
    // Not a third time: the request may be what kills it.
    bed.cluster.restart();
    let pids = bed.pids();
    for result in wait_for_all(2) {
        let problem = colcrypt_tests::problem::failed(result);
        problem.is("KC023").in_detail("signal: 9");
        bed.is_clean(&problem);
    }
    bed.bao.resume();
    decrypt(&mut bed.cluster.client(), &value).unwrap();
    assert_eq!(bed.pids(), pids, "broker and cluster stayed");
}

/// Makes the broker start another program, and back again.
fn with_another_program(program: &str, said: &str) {
    let bed = Bed::on_file(&["colcrypt.kms_timeout = '100ms'", "colcrypt.kms_retries = 0"]);
    let program = match program {
        "not executable" => bed.cluster.write_file("agent", b"#!/bin/sh\n", 0o644),
        "deaf" => bed
            .cluster
            .write_file("agent", b"#!/bin/sh\nexec cat\n", 0o755),
        "babbling" => bed
            .cluster
            .write_file("agent", b"#!/bin/sh\nexec yes garbage >&0\n", 0o755),
        "directory" => bed.cluster.dir().to_owned(),
        other => PathBuf::from(other),
    };
    let pids = bed.pids();
    let mut warm = bed.cluster.client();
    let value = encrypt(&mut warm, "k").unwrap();
    let former = agent(&bed);
    let (starts_before, broker) = (starts(&bed), pids.1);
    let (cpu_before, began) = (cpu(broker), Instant::now());

    bed.set(&format!("colcrypt.agent_path = '{}'", program.display()));
    let sql = "SELECT current_setting('colcrypt.agent_path')";
    wait_for("the setting", MOMENT, || {
        let now: String = warm.query_one(sql, &[]).unwrap().get(0);
        now == program.to_str().unwrap()
    });
    process::kill9(former);
    let (problem, took) = wait_until_failed("the missing agent to be noticed", MOMENT * 2, || {
        ask(&bed, "ring")
    });
    problem.is("KC023").in_detail(said);
    assert!(took < Duration::from_secs(15), "{took:?}");
    decrypt(&mut warm, &value).unwrap();
    // Long enough for the pause between starts to outgrow the time an answer may take.
    let observed = Duration::from_secs(11);
    wait_for("some time to pass", observed * 2, || {
        decrypt(&mut warm, &value).unwrap();
        began.elapsed() > observed
    });
    assert_eq!(
        colcrypt_tests::problem::failed(ask(&bed, "ring")).code,
        "KC023"
    );
    let spent = cpu(broker) - cpu_before;
    assert!(
        spent < 100,
        "the broker spent {spent} hundredths of a second in {:?}",
        began.elapsed()
    );
    let started = starts(&bed) - starts_before;
    assert!(started <= 10, "{started} starts");

    bed.set("colcrypt.agent_path = ''");
    wait_until_ok("an agent again", MOMENT, || ask(&bed, "ring"));
    bed.create_key("afterwards", "ring");
    encrypt(&mut warm, "afterwards").unwrap();
    assert_eq!(bed.pids(), pids, "broker and cluster stayed");
}

/// All at once, since each takes its time and none of them work.
#[test]
fn another_program_in_the_agents_place_is_an_error_and_no_busy_loop() {
    thread::scope(|scope| {
        for (program, said) in [
            (
                "/nonexistent/colcrypt",
                "cannot start /nonexistent/colcrypt: No such file",
            ),
            ("not executable", "Permission denied"),
            ("directory", "Permission denied"),
            ("/bin/true", "the KMS agent ended: exit status: 0"),
            // `cat agent` finds no such file.
            ("/bin/cat", "the KMS agent ended: exit status: 1"),
            ("/bin/yes", "the KMS agent hangs and was killed"),
            ("deaf", "the KMS agent hangs and was killed"),
            ("babbling", "the KMS agent sent garbage"),
        ] {
            thread::Builder::new()
                .name(format!("agent {program}"))
                .spawn_scoped(scope, || with_another_program(program, said))
                .unwrap();
        }
    });
}

#[test]
fn a_halted_agent_is_replaced() {
    let bed = Bed::on_file(&QUICK);
    let pids = bed.pids();
    let mut warm = bed.cluster.client();
    let value = encrypt(&mut warm, "k").unwrap();
    let former = agent(&bed);
    process::signal(former, "STOP");
    decrypt(&mut warm, &value).unwrap();
    let began = Instant::now();
    ask(&bed, "ring").unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
    assert!(!process::is_alive(former));
    assert!(
        bed.cluster
            .log()
            .contains("the KMS agent hangs and was killed")
    );
    assert_eq!(bed.pids(), pids, "broker and cluster stayed");
}

/// More than a pipe holds by so much that looks in between, once a second, would take longer than is waited for.
#[test]
fn an_agent_that_says_much_is_heard_as_it_speaks() {
    let bed = Bed::on_file(&QUICK);
    let real = bed.cluster.installation().bindir().join("colcrypt");
    let over = bed.cluster.dir().join("over");
    let script = format!(
        "#!/bin/sh\n(yes $(head -c 8000 /dev/zero | tr '\\0' x) | head -n 4000 >&2; touch {}) &\nexec {} \"$@\"\n",
        over.display(),
        real.display()
    );
    let program = bed
        .cluster
        .write_file("talkative", script.as_bytes(), 0o755);
    let former = agent(&bed);
    bed.set(&format!("colcrypt.agent_path = '{}'", program.display()));
    process::kill9(former);
    wait_for("all of it", Duration::from_secs(300), || over.exists());
    ask(&bed, "ring").unwrap();
    assert_eq!(
        starts(&bed),
        2,
        "it is the same agent, and had nothing to wait for"
    );
}

#[test]
fn the_agent_ends_with_the_cluster_and_shares_nothing_with_it() {
    let bed = Bed::on_file(&QUICK);
    let former = agent(&bed);
    let status = std::fs::read_to_string(format!("/proc/{former}/status")).unwrap();
    let maps = std::fs::read_to_string(format!("/proc/{former}/maps")).unwrap();
    assert!(
        !maps.contains("/dev/zero") && !maps.contains("PostgreSQL"),
        "no shared memory of the server"
    );
    assert!(status.contains("CoreDumping:\t0"));
    let command = std::fs::read(format!("/proc/{former}/cmdline")).unwrap();
    assert_eq!(
        command
            .split(|b| *b == 0)
            .filter(|part| !part.is_empty())
            .count(),
        2,
        "no arguments but 'agent'"
    );
    bed.cluster.stop_immediately();
    wait_for("the agent to end", MOMENT, || !process::is_alive(former));
    bed.cluster.start();
    encrypt(&mut bed.cluster.client(), "k").unwrap();
}
