//! A hot standby has a broker, an agent and a slab of its own, and needs no primary to decrypt.

use std::time::Duration;

use colcrypt_tests::bed::{
    MOMENT, QUICK, VaultBed, decrypt, encrypt, keep_on, ready_keys, wait_until_failed,
    wait_until_ok,
};
use colcrypt_tests::db::Sql;
use colcrypt_tests::problem::failed;
use colcrypt_tests::{Cluster, process, wait_for};

fn agent(cluster: &Cluster) -> i32 {
    let mut found = None;
    wait_for("the standby's agent", MOMENT, || {
        found = cluster.agent_pid();
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn a_standby_stands_on_its_own() {
    let mut conf = QUICK.to_vec();
    conf.extend(["colcrypt.soft_ttl = '10min'", "colcrypt.hard_ttl = '1h'"]);
    let bed = VaultBed::new(&conf);
    let mut primary = bed.cluster.client();
    let value = encrypt(&mut primary, "k").unwrap();
    let standby = bed.cluster.standby();
    bed.create_key("later", "ring");
    let later = encrypt(&mut primary, "later").unwrap();
    bed.cluster.wait_for_replay(&standby);
    drop(primary);
    bed.cluster.stop_immediately();

    let unwraps = bed.unwraps();
    let mut client = standby.client();
    decrypt(&mut client, &value).unwrap();
    decrypt(&mut client, &later).unwrap();
    assert_eq!(bed.unwraps() - unwraps, 1, "cold, by its own agent");
    // Encrypting writes nothing; making a key does.
    encrypt(&mut client, "k").unwrap();
    let problem = failed(client.execute("SELECT colcrypt.create_key('x', 'ring')", &[]));
    assert_eq!(problem.code, "25006", "{problem:?}");
    client
        .execute("SELECT colcrypt.check_provider('bao', 'app')", &[])
        .unwrap();

    // A reload reaches the agent: refreshes begin, and with them the kill switch.
    let unwraps = bed.unwraps();
    standby.append_conf("colcrypt.soft_ttl = '200ms'");
    standby.reload();
    wait_for("refreshes", MOMENT, || bed.unwraps() >= unwraps + 3);
    bed.bao.revoke(&bed.token_file);
    let (problem, _) =
        wait_until_failed("the kill switch", MOMENT, || decrypt(&mut client, &value));
    problem.is("KC015");
    bed.is_clean(&problem);
    assert_eq!(ready_keys(&mut client), 0);
    bed.renew_token();
    wait_until_ok("the new token", MOMENT, || decrypt(&mut client, &value));

    // An outage with another hard TTL, given by a reload, too. Half of it must pass.
    standby.append_conf("colcrypt.hard_ttl = '3s'");
    standby.reload();
    keep_on(Duration::from_millis(500), || {
        decrypt(&mut client, &value).unwrap()
    });
    bed.bao.pause();
    keep_on(Duration::from_millis(1500), || {
        decrypt(&mut client, &value).unwrap()
    });
    let (problem, _) = wait_until_failed("the hard TTL to end", MOMENT, || {
        decrypt(&mut client, &value)
    });
    problem.is("KC012");
    bed.bao.resume();
    wait_until_ok("recovery", MOMENT, || decrypt(&mut client, &value));

    let former = agent(&standby);
    process::kill9(former);
    client
        .execute("SELECT colcrypt.check_provider('bao', 'app')", &[])
        .unwrap();
    assert_ne!(agent(&standby), former);

    standby.promote();
    let mut client = standby.client();
    client
        .execute("SELECT colcrypt.create_key('promoted', 'ring')", &[])
        .unwrap();
    let promoted = encrypt(&mut client, "promoted").unwrap();
    decrypt(&mut client, &promoted).unwrap();
    assert_eq!(client.number("SELECT colcrypt.rotate_key('k')::bigint"), 2);
    decrypt(&mut client, &value).unwrap();
    for secret in [
        colcrypt_tests::bed::PLAINTEXT,
        std::fs::read_to_string(&bed.token_file).unwrap().trim(),
    ] {
        assert!(
            !standby.log().contains(secret),
            "the standby's log holds a secret"
        );
    }
    bed.cluster.start();
}
