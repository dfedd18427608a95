//! The kill switch: a refusal by the key server wipes cached keys within about a soft TTL, in sessions
//! that had them warm too; granting again is enough to go on.

use std::time::Duration;

use colcrypt_tests::bed::{
    MOMENT, VaultBed, decrypt, encrypt, keep_on, ready_keys, wait_until_failed, wait_until_ok,
};
use colcrypt_tests::problem::Problem;
use colcrypt_tests::{process, wait_for};
use postgres::{Client, Error, Statement};

/// A soft TTL, a round trip to the key server, and leisure.
const SOON: Duration = Duration::from_millis(2500);

fn bed() -> VaultBed {
    VaultBed::new(&["colcrypt.soft_ttl = '300ms'", "colcrypt.hard_ttl = '1h'"])
}

/// A session with everything warm: a cipher, and a prepared statement that used it.
struct Warm {
    client: Client,
    statement: Statement,
    value: String,
}

impl Warm {
    fn new(bed: &VaultBed) -> Self {
        let mut client = bed.cluster.client();
        let value = encrypt(&mut client, "k").unwrap();
        let sql = "SELECT colcrypt.decrypt_col($1::text::colcrypt.ciphertext)";
        let statement = client.prepare(sql).unwrap();
        let mut warm = Self {
            client,
            statement,
            value,
        };
        warm.decrypt().unwrap();
        warm
    }

    fn decrypt(&mut self) -> Result<(), Error> {
        self.client
            .query_one(&self.statement, &[&self.value])
            .map(|_| ())
    }
}

/// Refuses, watches every session fail with the code, allows again, watches them go on.
fn switch(bed: &VaultBed, code: &str, refuse: impl FnOnce(), allow: impl FnOnce()) {
    let pids = bed.pids();
    let mut sessions: Vec<Warm> = (0..3).map(|_| Warm::new(bed)).collect();
    refuse();
    // Nobody touches the key: it is wiped all the same.
    let mut watcher = bed.cluster.client();
    wait_for("the slab to be wiped", SOON, || {
        ready_keys(&mut watcher) == 0
    });
    for warm in &mut sessions {
        let problem = Problem::of(&warm.decrypt().unwrap_err());
        problem.is(code).in_detail("provider \"bao\"");
        assert!(
            problem.message.contains("(keyring \"ring\")"),
            "{problem:?}"
        );
        bed.is_clean(&problem);
        bed.is_clean(&colcrypt_tests::problem::failed(encrypt(
            &mut warm.client,
            "k",
        )));
    }
    bed.refused(&mut bed.cluster.client(), &sessions[0].value)
        .is(code);
    let sql = "SELECT last_error FROM colcrypt.cache_status WHERE key = 'k' AND state = 'failed'";
    let told: String = watcher.query_one(sql, &[]).unwrap().get(0);
    assert!(told.contains("provider \"bao\""), "{told}");
    assert!(bed.cluster.log().contains("the provider refuses version 1"));
    // It stays refused, and stays wiped.
    keep_on(Duration::from_millis(600), || {
        sessions[0].decrypt().unwrap_err();
        assert_eq!(ready_keys(&mut watcher), 0);
    });

    allow();
    for warm in &mut sessions {
        wait_until_ok("the key after it was allowed again", MOMENT, || {
            warm.decrypt()
        });
    }
    decrypt(&mut bed.cluster.client(), &sessions[0].value).unwrap();
    assert_eq!(bed.pids(), pids, "nothing was restarted");
}

#[test]
fn a_revoked_token() {
    let bed = bed();
    switch(
        &bed,
        "KC015",
        || bed.bao.revoke(&bed.token_file),
        || bed.renew_token(),
    );
}

#[test]
fn a_policy_taken_away() {
    let bed = bed();
    switch(&bed, "KC015", || forbid(&bed), || allow(&bed));
}

/// Takes the right to use the root key away.
fn forbid(bed: &VaultBed) {
    let nothing = "path \"transit/keys/app\" { capabilities = [\"read\"] }";
    bed.bao.write_policy("use-app", nothing);
}

fn allow(bed: &VaultBed) {
    bed.bao.allow_key("app");
}

#[test]
fn a_deleted_root_key() {
    let bed = bed();
    let config = "transit/keys/app/config";
    bed.bao.bao(&[
        "write",
        config,
        "exportable=true",
        "allow_plaintext_backup=true",
    ]);
    let backup = bed
        .bao
        .bao(&["read", "-field=backup", "transit/backup/app"]);
    let file = bed.bao.private_file("backup", &backup);
    let restore = format!("backup=@{}", file.display());
    switch(
        &bed,
        "KC016",
        || bed.bao.delete_key("app"),
        || {
            bed.bao.bao(&["write", "transit/restore/app", &restore]);
        },
    );
}

#[test]
fn a_root_key_version_disabled() {
    let bed = bed();
    let config = "transit/keys/app/config";
    switch(
        &bed,
        "KC017",
        || {
            bed.bao.bao(&["write", "-f", "transit/keys/app/rotate"]);
            bed.bao.bao(&["write", config, "min_decryption_version=2"]);
        },
        || {
            bed.bao.bao(&["write", config, "min_decryption_version=1"]);
        },
    );
}

#[test]
fn a_refusal_reaches_keys_that_outlived_their_agent() {
    let bed = bed();
    let mut warm = Warm::new(&bed);
    for _ in 0..2 {
        let former = bed.cluster.agent_pid().unwrap();
        process::kill9(former);
        wait_for("another agent", MOMENT, || {
            warm.decrypt().unwrap();
            bed.cluster.agent_pid().is_some_and(|pid| pid != former)
        });
    }
    forbid(&bed);
    let (problem, took) = wait_until_failed("the kill switch", MOMENT, || warm.decrypt());
    problem.is("KC015");
    assert!(took < SOON, "{took:?}");
    assert_eq!(ready_keys(&mut bed.cluster.client()), 0);
    allow(&bed);
    wait_until_ok("the key after it was allowed again", MOMENT, || {
        warm.decrypt()
    });
}

#[test]
fn a_refusal_while_the_agent_is_down_is_learnt_by_the_next_one() {
    let bed = bed();
    let mut warm = Warm::new(&bed);
    bed.set("colcrypt.agent_path = '/nonexistent'");
    let sql = "SELECT current_setting('colcrypt.agent_path') = '/nonexistent'";
    wait_for("the setting", MOMENT, || {
        warm.client.query_one(sql, &[]).unwrap().get(0)
    });
    process::kill9(bed.cluster.agent_pid().unwrap());
    forbid(&bed);
    keep_on(Duration::from_secs(1), || warm.decrypt().unwrap());
    bed.set("colcrypt.agent_path = ''");
    let mut watcher = bed.cluster.client();
    wait_for("the slab to be wiped", MOMENT, || {
        ready_keys(&mut watcher) == 0
    });
    Problem::of(&warm.decrypt().unwrap_err()).is("KC015");
    allow(&bed);
    wait_until_ok("the key after it was allowed again", MOMENT, || {
        warm.decrypt()
    });
}

/// Rights and new credentials take their time to reach every server of a service. Whoever has the key goes on, and is
/// told of it; who does not is refused at once.
#[test]
fn a_refusal_is_confirmed_before_it_wipes() {
    let bed = VaultBed::new(&[
        "colcrypt.soft_ttl = '300ms'",
        "colcrypt.hard_ttl = '1h'",
        "colcrypt.refusal_confirmations = 3",
        // Not to be confirmed while this test looks at it.
        "colcrypt.refusal_interval = '1h'",
    ]);
    let mut warm = Warm::new(&bed);
    let mut watcher = bed.cluster.client();
    bed.create_key("cold", "ring");
    // Not to be confirmed while this test looks at it.
    bed.set("colcrypt.refusal_interval = '1h'");
    forbid(&bed);
    let mut told = (String::new(), String::new(), String::new());
    wait_for("root_status to say so", MOMENT, || {
        let sql = "SELECT r.state, coalesce(r.problem, ''), coalesce(k.root_problem, '') \
                   FROM colcrypt.root_status r JOIN colcrypt.key_status k USING (keyring) WHERE k.key = 'k'";
        let row = watcher.query_one(sql, &[]).unwrap();
        told = (row.get(0), row.get(1), row.get(2));
        told.0 == "refused, being confirmed"
    });
    assert!(
        told.1.starts_with("refused 1 of 3 times since "),
        "{told:?}"
    );
    assert!(told.2.contains(&told.1), "{told:?}");
    warm.decrypt().unwrap();
    assert_eq!(ready_keys(&mut watcher), 1);
    assert!(bed.cluster.log().contains("this is being confirmed"));

    // A success clears it.
    allow(&bed);
    wait_for("root_status to be well again", MOMENT, || {
        bed.set("colcrypt.refusal_interval = '200ms'");
        let sql = "SELECT state FROM colcrypt.root_status";
        watcher.query_one(sql, &[]).unwrap().get::<_, String>(0) == "ok"
    });
    warm.decrypt().unwrap();

    // What is repeated is a decision.
    forbid(&bed);
    wait_for("the slab to be wiped", MOMENT, || {
        ready_keys(&mut watcher) == 0
    });
    Problem::of(&warm.decrypt().unwrap_err()).is("KC015");
    let sql = "SELECT state FROM colcrypt.root_status";
    let state: String = watcher.query_one(sql, &[]).unwrap().get(0);
    assert_eq!(state, "failed");
    allow(&bed);
    wait_until_ok("the key after it was allowed again", MOMENT, || {
        warm.decrypt()
    });
}

/// A root key's own state is somebody's decision: nothing is to be confirmed.
#[test]
fn a_disabled_root_key_wipes_at_once() {
    let bed = VaultBed::new(&[
        "colcrypt.soft_ttl = '300ms'",
        "colcrypt.hard_ttl = '1h'",
        "colcrypt.refusal_confirmations = 100",
        "colcrypt.refusal_interval = '1h'",
    ]);
    let mut warm = Warm::new(&bed);
    let config = "transit/keys/app/config";
    bed.bao.bao(&["write", "-f", "transit/keys/app/rotate"]);
    bed.bao.bao(&["write", config, "min_decryption_version=2"]);
    let mut watcher = bed.cluster.client();
    wait_for("the slab to be wiped", MOMENT, || {
        ready_keys(&mut watcher) == 0
    });
    Problem::of(&warm.decrypt().unwrap_err()).is("KC017");
}

/// The slab outlives the agent, whose successor meets a refusal first: that is confirmed as well.
#[test]
fn a_refusal_that_a_new_agent_meets_is_confirmed_before_it_wipes() {
    let bed = VaultBed::new(&[
        "colcrypt.soft_ttl = '1h'",
        "colcrypt.hard_ttl = '2h'",
        "colcrypt.refusal_confirmations = 3",
        "colcrypt.refusal_interval = '1h'",
    ]);
    let mut warm = Warm::new(&bed);
    let former = bed.cluster.agent_pid().unwrap();
    forbid(&bed);
    process::kill9(former);
    wait_for("the refusal", MOMENT, || {
        warm.decrypt().unwrap();
        bed.cluster.log().contains("this is being confirmed")
    });
    let mut watcher = bed.cluster.client();
    assert_eq!(ready_keys(&mut watcher), 1);
    bed.set("colcrypt.refusal_interval = '100ms'");
    wait_for("the slab to be wiped", MOMENT, || {
        ready_keys(&mut watcher) == 0
    });
    Problem::of(&warm.decrypt().unwrap_err()).is("KC015");
}
