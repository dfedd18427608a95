//! Keyrings with two root keys, at two real servers or at a server and in a file: the loss of one is
//! survived, cold and warm, and told of; the loss of both is an error that names both.

use std::ops::Deref;
use std::time::Duration;

use colcrypt_tests::bed::{
    MOMENT, QUICK, VaultBed, decrypt, encrypt, keep_on, ready_keys, wait_until_failed,
    wait_until_ok,
};
use colcrypt_tests::db::Sql;
use colcrypt_tests::openbao::OpenBao;
use colcrypt_tests::problem::failed;
use colcrypt_tests::{Cluster, process, wait_for};
use postgres::{Client, Error};

const DECRYPT: &str = "transit/decrypt/app";

/// Quick to fail, quick to refresh, and patient with outages.
fn lively() -> Vec<&'static str> {
    let mut conf = QUICK.to_vec();
    conf.extend(["colcrypt.soft_ttl = '300ms'", "colcrypt.hard_ttl = '1h'"]);
    conf
}

/// The keyring `ring` under Transit key `app` of `bao`, then of `spare`; a value under its key `k`.
struct Two {
    bed: VaultBed,
    spare: OpenBao,
    value: String,
}

impl Deref for Two {
    type Target = VaultBed;
    fn deref(&self) -> &VaultBed {
        &self.bed
    }
}

impl Two {
    fn new(conf: &[&str]) -> Self {
        let bed = VaultBed::new(conf);
        let spare = add_server(&bed, "spare");
        assert_eq!(add_root(&bed.cluster, "spare", "app").unwrap(), "added");
        let value = encrypt(&mut bed.cluster.client(), "k").unwrap();
        Self { bed, spare, value }
    }

    fn decrypts(&self) -> Result<(), Error> {
        decrypt(&mut self.cluster.client(), &self.value)
    }

    /// Waits until key_status says that this root served last, and that what fails is this.
    fn wait_for_status(&self, served_by: &str, failing: &[&str]) {
        wait_for("key_status to say so", MOMENT, || {
            let (served, problem) = status(&mut self.cluster.client());
            let problem = problem.unwrap_or_default();
            let failing_now = problem.matches("(since ").count();
            served.as_deref() == Some(served_by)
                && failing_now == failing.len()
                && failing.iter().all(|name| problem.contains(name))
        });
    }
}

/// Another server with a key `app`, as a provider of this name.
fn add_server(bed: &VaultBed, name: &str) -> OpenBao {
    let bao = OpenBao::start();
    bao.create_key("app");
    let policy = bao.allow_key("app");
    let token_file = bao.token_file(&policy);
    bed.hide(&std::fs::read_to_string(&token_file).unwrap());
    let config = bao.config(&token_file).to_string();
    bed.cluster
        .client()
        .execute(
            "SELECT colcrypt.add_provider($1, 'vault-transit', $2::text::jsonb)",
            &[&name, &config],
        )
        .unwrap();
    bao
}

fn add_file(bed: &VaultBed, name: &str) {
    let file = bed.cluster.root_key(&format!("{name}.key"));
    bed.cluster
        .client()
        .execute(
            "SELECT colcrypt.add_provider($1, 'file', jsonb_build_object('path', $2::text))",
            &[&name, &file.to_str().unwrap()],
        )
        .unwrap();
}

fn act(cluster: &Cluster, function: &str, provider: &str, root: &str) -> Result<String, Error> {
    let sql = format!("SELECT colcrypt.{function}('ring', $1, $2)");
    Ok(cluster
        .client()
        .query_one(&sql, &[&provider, &root])?
        .get(0))
}

fn add_root(cluster: &Cluster, provider: &str, root: &str) -> Result<String, Error> {
    act(cluster, "add_root", provider, root)
}

fn drop_root(cluster: &Cluster, provider: &str, root: &str) -> Result<String, Error> {
    act(cluster, "drop_root", provider, root)
}

/// What key_status says of the root keys behind `k`: which served last, and what fails.
fn status(client: &mut Client) -> (Option<String>, Option<String>) {
    let row = client
        .query_one(
            "SELECT served_by, root_problem FROM colcrypt.key_status WHERE key = 'k'",
            &[],
        )
        .unwrap();
    (row.get(0), row.get(1))
}

/// Provider, whether it opens the keyring, and why not, of each root key as it is asked now.
fn check(client: &mut Client) -> Vec<(String, bool, Option<String>)> {
    let sql =
        "SELECT provider, opens, problem FROM colcrypt.check_roots('ring') ORDER BY preference";
    let rows = client.query(sql, &[]).unwrap();
    rows.iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect()
}

fn copies(client: &mut Client) -> String {
    let sql = "SELECT string_agg(c::text, '' ORDER BY c::text) FROM colcrypt.kek_copy c";
    client.query_one(sql, &[]).unwrap().get(0)
}

#[test]
fn while_all_is_well_the_first_is_asked_once_for_all_keys() {
    let it = Two::new(&QUICK);
    it.create_key("other", "ring");
    let (first, second) = (it.unwraps(), it.spare.requests(DECRYPT));
    it.cluster.restart();
    it.decrypts().unwrap();
    encrypt(&mut it.cluster.client(), "other").unwrap();
    assert_eq!(it.unwraps(), first + 1);
    assert_eq!(it.spare.requests(DECRYPT), second);
    it.wait_for_status("bao, app", &[]);
    let sql = "SELECT string_agg(provider || ' ' || state, ', ' ORDER BY preference) FROM colcrypt.root_status";
    let states: String = it.cluster.client().query_one(sql, &[]).unwrap().get(0);
    assert_eq!(states, "bao ok, spare not asked");
}

#[test]
fn the_loss_of_the_first_is_survived_cold_and_its_return_noticed() {
    let it = Two::new(&lively());
    it.bao.pause();
    it.cluster.restart();
    let pids = it.pids();
    it.decrypts().unwrap();
    encrypt(&mut it.cluster.client(), "k").unwrap();
    it.wait_for_status("spare, app", &["provider \"bao\""]);
    let since = "SELECT failing_since FROM colcrypt.root_status WHERE provider = 'bao'";
    let first: std::time::SystemTime = it.cluster.client().query_one(since, &[]).unwrap().get(0);
    keep_on(Duration::from_secs(1), || it.decrypts().unwrap());
    let still: std::time::SystemTime = it.cluster.client().query_one(since, &[]).unwrap().get(0);
    assert_eq!(first, still, "since it failed first");
    let told = "WARNING:  colcrypt: one of the root keys of keyring";
    assert_eq!(it.cluster.log().matches(told).count(), 1, "told of, once");

    it.bao.resume();
    it.wait_for_status("bao, app", &[]);
    it.decrypts().unwrap();
    assert_eq!(it.pids(), pids, "nothing was restarted");
    assert!(
        it.cluster
            .log()
            .contains("gives version 1 of its key encryption key again")
    );
}

#[test]
fn the_loss_of_a_spare_is_told_of_before_it_is_needed() {
    let it = Two::new(&lively());
    it.decrypts().unwrap();
    it.wait_for_status("bao, app", &[]);
    it.spare.pause();
    it.wait_for_status("bao, app", &["provider \"spare\""]);
    it.decrypts().unwrap();
    it.spare.resume();
    it.wait_for_status("bao, app", &[]);

    // Asked for, also when no key is in use.
    let it = Two::new(&QUICK);
    it.spare.delete_key("app");
    let found = check(&mut it.cluster.client());
    assert_eq!((found[0].0.as_str(), found[0].1), ("bao", true));
    assert_eq!((found[1].0.as_str(), found[1].1), ("spare", false));
    let problem = found[1].2.as_deref().unwrap();
    assert!(problem.contains("provider \"spare\""), "{problem}");
    wait_for("the status", MOMENT, || {
        let (_, problem) = status(&mut it.cluster.client());
        problem.is_some_and(|problem| problem.contains("spare"))
    });
}

#[test]
fn the_loss_of_both_is_an_error_that_names_both_and_ends_with_either() {
    let it = Two::new(&lively());
    it.bao.pause();
    it.spare.pause();
    it.cluster.restart();
    let problem = it.refused(&mut it.cluster.client(), &it.value);
    problem
        .is("KC012")
        .in_detail("provider \"bao\"")
        .in_detail("provider \"spare\"");
    assert!(
        problem.message.ends_with("(keyring \"ring\")"),
        "{problem:?}"
    );
    it.spare.resume();
    wait_until_ok("one of them", MOMENT, || it.decrypts());
    it.wait_for_status("spare, app", &["provider \"bao\""]);
    it.bao.resume();
    it.wait_for_status("bao, app", &[]);
}

/// Refused by one is the loss of one. Refused by both is the kill switch.
#[test]
fn one_refusal_is_survived_and_two_close_the_keyring() {
    let it = Two::new(&lively());
    let mut warm = it.cluster.client();
    decrypt(&mut warm, &it.value).unwrap();
    let nothing = "path \"x\" { capabilities = [\"read\"] }";
    it.bao.write_policy("use-app", nothing);
    it.wait_for_status("spare, app", &["provider \"bao\""]);
    decrypt(&mut warm, &it.value).unwrap();
    it.cluster.restart();
    let mut warm = it.cluster.client();
    decrypt(&mut warm, &it.value).unwrap();
    it.spare.write_policy("use-app", nothing);
    let (problem, took) =
        wait_until_failed("the kill switch", MOMENT, || decrypt(&mut warm, &it.value));
    problem
        .is("KC015")
        .in_detail("provider \"bao\"")
        .in_detail("provider \"spare\"");
    assert!(took < Duration::from_millis(2_500), "{took:?}");
    assert_eq!(ready_keys(&mut warm), 0);
    it.refused(&mut it.cluster.client(), &it.value).is("KC015");
    it.bao.allow_key("app");
    wait_until_ok("the first, allowed again", MOMENT, || it.decrypts());
}

/// A copy of another keyring's KEK in the place of the first: passed over, and told of loudly.
#[test]
fn a_wrong_copy_in_the_catalog_is_passed_over() {
    let it = Two::new(&QUICK);
    let mut client = it.cluster.client();
    client
        .batch_execute(
            "SELECT colcrypt.create_keyring('elsewhere', 'bao', 'app');
             UPDATE colcrypt.kek_copy c SET wrapped = o.wrapped FROM colcrypt.kek_copy o
             WHERE c.preference = 1
               AND c.keyring_id = (SELECT keyring_id FROM colcrypt.keyring WHERE name = 'ring')
               AND o.keyring_id = (SELECT keyring_id FROM colcrypt.keyring WHERE name = 'elsewhere')",
        )
        .unwrap();
    it.cluster.restart();
    it.decrypts().unwrap();
    it.wait_for_status("spare, app", &["provider \"bao\""]);
    assert!(it.cluster.log().contains("does not give version 1"));
    // The other is a help only as long as it is there.
    it.spare.pause();
    it.cluster.restart();
    it.refused(&mut it.cluster.client(), &it.value);
    it.spare.resume();
}

#[test]
fn an_addition_that_does_not_commit_changes_nothing() {
    let bed = VaultBed::new(&QUICK);
    let value = encrypt(&mut bed.cluster.client(), "k").unwrap();
    add_file(&bed, "disk");
    let before = copies(&mut bed.cluster.client());
    let added = "BEGIN; SELECT colcrypt.add_root('ring', 'disk')";
    let mut client = bed.cluster.client();
    client.batch_execute(&format!("{added}; ROLLBACK")).unwrap();

    // The agent, then the session itself, then the server, each before the commit.
    client.batch_execute(added).unwrap();
    process::kill9(bed.cluster.agent_pid().unwrap());
    client.batch_execute("ROLLBACK").unwrap();
    wait_until_ok("another agent", MOMENT, || client.batch_execute(added));
    let pid: i32 = client
        .query_one("SELECT pg_backend_pid()", &[])
        .unwrap()
        .get(0);
    process::kill9(pid);
    bed.cluster.wait_for_recovery(0);
    let mut client = bed.cluster.client();
    client.batch_execute(added).unwrap();
    bed.cluster.stop_immediately();
    bed.cluster.start();
    wait_until_ok("the one root", MOMENT, || {
        decrypt(&mut bed.cluster.client(), &value)
    });
    assert_eq!(copies(&mut bed.cluster.client()), before);

    // A root that is no other, and one that does not answer.
    let mut client = bed.cluster.client();
    client
        .batch_execute(
            "SELECT colcrypt.add_provider('gone', 'file', '{\"path\": \"/nowhere/root.key\"}');
             SELECT colcrypt.add_provider('twin', kind, config) FROM colcrypt.provider WHERE name = 'bao'",
        )
        .unwrap();
    for (provider, root, code) in [
        ("bao", "app", "42710"),
        ("twin", "app", "42710"),
        ("bao", "no-such-key", "KC015"),
        ("gone", "", "KC013"),
        ("nobody", "", "42704"),
    ] {
        assert_eq!(failed(add_root(&bed.cluster, provider, root)).code, code);
    }
    assert_eq!(copies(&mut client), before);
}

#[test]
fn a_root_that_was_dropped_is_needed_no_more() {
    let it = Two::new(&lively());
    it.decrypts().unwrap();
    assert_eq!(
        drop_root(&it.cluster, "bao", "app").unwrap(),
        "left: provider \"spare\", root key \"app\""
    );
    it.decrypts().unwrap();
    // The agent's refreshes under the former root keys end.
    let mut asked = 0;
    wait_for("the dropped root to be left alone", MOMENT, || {
        keep_on(Duration::from_secs(1), || it.decrypts().unwrap());
        std::mem::replace(&mut asked, it.unwraps()) == it.unwraps()
    });
    it.bao.delete_key("app");
    it.wait_for_status("spare, app", &[]);
    it.cluster.restart();
    it.decrypts().unwrap();
    let problem = failed(drop_root(&it.cluster, "bao", "app"));
    assert_eq!(problem.code, "42704", "{problem:?}");
    let problem = failed(drop_root(&it.cluster, "spare", "app"));
    assert_eq!(problem.code, "KC049", "{problem:?}");
    assert_eq!(problem.detail, "It has no other.");

    // One that would be left must open the keyring now.
    add_file(&it, "disk");
    assert_eq!(add_root(&it.cluster, "disk", "").unwrap(), "added");
    it.spare.pause();
    let problem = failed(drop_root(&it.cluster, "disk", ""));
    assert_eq!(problem.code, "KC049", "{problem:?}");
    assert!(problem.detail.contains("provider \"spare\""), "{problem:?}");
    // The one that is away may go.
    assert_eq!(
        drop_root(&it.cluster, "spare", "app").unwrap(),
        "left: provider \"disk\""
    );
    it.decrypts().unwrap();
    it.spare.resume();
}

#[test]
fn rotate_root_takes_every_roots_newest_version_or_none() {
    let it = Two::new(&QUICK);
    for bao in [&it.bao, &it.spare] {
        bao.bao(&["write", "-f", "transit/keys/app/rotate"]);
    }
    it.spare.bao(&["write", "-f", "transit/keys/app/rotate"]);
    let before = copies(&mut it.cluster.client());
    let rotate = || -> Result<String, Error> {
        let sql = "SELECT colcrypt.rotate_root('ring')";
        Ok(it.cluster.client().query_one(sql, &[])?.get(0))
    };
    it.spare.pause();
    let problem = failed(rotate());
    problem.is("KC012").in_detail("provider \"spare\"");
    assert_eq!(copies(&mut it.cluster.client()), before);
    it.spare.resume();
    assert_eq!(rotate().unwrap(), "v2, v3");
    it.bao.bao(&[
        "write",
        "transit/keys/app/config",
        "min_decryption_version=2",
    ]);
    it.spare.bao(&[
        "write",
        "transit/keys/app/config",
        "min_decryption_version=3",
    ]);
    assert!(check(&mut it.cluster.client()).iter().all(|found| found.1));
    it.bao.pause();
    it.cluster.restart();
    it.decrypts().unwrap();
    it.bao.resume();
}

#[test]
fn a_move_takes_the_place_of_the_first_and_leaves_the_second() {
    let it = Two::new(&QUICK);
    add_file(&it, "disk");
    let moved = |provider, root| act(&it.cluster, "move_keyring", provider, root);
    assert_eq!(failed(moved("spare", "app")).code, "42710");
    assert_eq!(moved("disk", "").unwrap(), "moved");
    it.bao.delete_key("app");
    let found = check(&mut it.cluster.client());
    let names: Vec<&str> = found.iter().map(|root| root.0.as_str()).collect();
    assert_eq!(names, ["disk", "spare"]);
    assert!(found.iter().all(|root| root.1), "{found:?}");
    it.spare.delete_key("app");
    it.cluster.restart();
    it.decrypts().unwrap();
}

/// A standby has an agent and a status of its own.
#[test]
fn a_standby_falls_through_by_itself() {
    let it = Two::new(&QUICK);
    let standby = it.cluster.standby();
    it.cluster.wait_for_replay(&standby);
    it.bao.pause();
    let mut client = standby.client();
    decrypt(&mut client, &it.value).unwrap();
    wait_for("the standby's status", MOMENT, || {
        let (served, problem) = status(&mut client);
        served.as_deref() == Some("spare, app")
            && problem.is_some_and(|problem| problem.contains("provider \"bao\""))
    });
    assert_eq!(
        status(&mut it.cluster.client()).1,
        None,
        "here it was not asked since"
    );
    let found = check(&mut client);
    assert_eq!((found[0].1, found[1].1), (false, true));
    assert_eq!(failed(add_root(&standby, "bao", "other")).code, "25006");
    it.bao.resume();
    assert_eq!(
        client.number("SELECT count(*) FROM colcrypt.root_status"),
        2
    );
}
