//! A table whose partitions lie on another server that has the same keys: each server looks after its own rows.

use colcrypt_tests::of_jobs::{phases, versions};
use colcrypt_tests::{Cluster, wait_for};
use postgres::Client;

use crate::common::{self, LONG, Sql, wait_for_jobs};

const REACH: &str = "KC036";
const OPENS: &str = "SELECT count(*) FROM p WHERE decrypt_col(v) = 'secret ' || id";

fn setting(server: &Cluster, client: &mut Client, name: &str, value: &str) {
    server.append_conf(&format!("colcrypt.{name} = '{value}'"));
    server.reload();
    wait_for("the setting", LONG, || {
        client.one(&format!("SHOW colcrypt.{name}")) == value
    });
}

/// The primary with its partitioned table, and the follower that has a partition's rows.
struct Shards {
    hub: Client,
    shard: Client,
    own: String,
    servers: [Cluster; 2],
}

impl Shards {
    fn new() -> Option<Self> {
        let servers = [(); 2].map(|()| common::settings(Cluster::builder()).start());
        let [one, two] = &servers;
        let mut hub = one.create_database("work");
        if !hub.has_contrib() {
            return None;
        }
        common::make_key(one, &mut hub);
        setting(one, &mut hub, "node", "primary");
        let mut shard = two.create_database("work");
        shard.run("CREATE EXTENSION colcrypt");
        setting(two, &mut shard, "node", "follower");
        for client in [&mut hub, &mut shard] {
            client.run("SET search_path = public, colcrypt");
        }
        let key = std::fs::read(common::root_key(one)).unwrap();
        let copy = two.write_file("copied.key", &key, 0o600);
        let own = format!("{{\"local\": {{\"path\": \"{}\"}}}}", copy.display());
        hub.run(&format!(
            "CREATE EXTENSION postgres_fdw;
             CREATE SERVER shard2 FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{}', port '5432', dbname 'work');
             CREATE USER MAPPING FOR postgres SERVER shard2 OPTIONS (user 'postgres');
             CREATE TABLE p (id int, v ciphertext) PARTITION BY RANGE (id);
             CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (1) TO (101);
             SELECT register_column('p', 'v', 'k', 'none');
             CREATE FOREIGN TABLE p2 PARTITION OF p FOR VALUES FROM (101) TO (201) SERVER shard2",
            two.dir().display()
        ));
        let mut shards = Self {
            hub,
            shard,
            own,
            servers,
        };
        shards.sync();
        shards.shard.run(
            "CREATE TABLE p2 (id int, v ciphertext); SELECT register_column('p2', 'v', 'k', 'none')",
        );
        shards.hub.run(
            "INSERT INTO p SELECT g, encrypt_col('secret ' || g, 'k') FROM generate_series(1, 200) g",
        );
        Some(shards)
    }

    fn sync(&mut self) {
        let catalog = self.hub.one("SELECT export_catalog()").replace('\'', "''");
        let own = &self.own;
        self.shard
            .run(&format!("SELECT import_catalog('{catalog}', '{own}')"));
    }
}

#[test]
fn each_server_moves_and_counts_its_own_partitions() {
    let Some(mut all) = Shards::new() else { return };
    // Nobody has said who looks after them.
    all.hub.run("SELECT rotate_key('k')");
    wait_for_jobs(&mut all.hub);
    assert_eq!(phases(&mut all.hub), ["failed"]);
    all.hub
        .fails(REACH, "SELECT * FROM take_census('p', 'v')")
        .says("public.p2");
    setting(&all.servers[0], &mut all.hub, "rows_elsewhere", "shard2");
    all.hub.run("SELECT reencrypt_column('p', 'v')");
    wait_for_jobs(&mut all.hub);
    assert_eq!(phases(&mut all.hub), ["failed", "done"]);
    assert_eq!(versions(&mut all.hub, "p1", "v"), "2:100");
    // The other has not heard of the rotation, and its rows are as they were, for all who read them.
    assert_eq!(versions(&mut all.hub, "p", "v"), "1:100 2:100");
    assert_eq!(all.hub.one(OPENS), "200");

    all.sync();
    all.shard.run("SELECT reencrypt_column('p2', 'v')");
    wait_for_jobs(&mut all.shard);
    assert_eq!(versions(&mut all.shard, "p2", "v"), "2:100");
    assert_eq!(versions(&mut all.hub, "p", "v"), "2:200");
    assert_eq!(all.hub.one(OPENS), "200");
    // What each counts is its own, and together it is the table.
    let counted = "SELECT sum(c.rows) FROM take_census('TABLE', 'v') c WHERE c.version = 2";
    assert_eq!(all.hub.one(&counted.replace("TABLE", "p")), "100");
    assert_eq!(all.shard.one(&counted.replace("TABLE", "p2")), "100");
    all.hub.run("SELECT register_column('p', 'v', 'k', 'none')");
    all.hub.run("SELECT verify_column('p', 'v')");
    wait_for_jobs(&mut all.hub);
    assert_eq!(phases(&mut all.hub), ["failed", "done", "done"]);

    // An order about all rows is none for a part of them.
    all.hub.run("SELECT create_key('other', 'ring')");
    for order in [
        "move_column('p', 'v', 'other', accept_unplaced => true)",
        "rebind_column('p', 'v', 'colcrypt.row_context(id)', accept_unplaced => true)",
        "decrypt_column('p', 'v', accept_unplaced => true)",
    ] {
        all.hub
            .fails(REACH, &format!("SELECT {order}"))
            .says("public.p2");
    }

    // A destruction does not look there: it says so, and the other keeps what its rows need.
    assert_eq!(
        all.hub.one("SELECT count(*) FROM rows_needing_key('k', 1)"),
        "0"
    );
    all.hub
        .run("SELECT schedule_key_destruction('k', 1, '1 second', 'test')");
    let told = "SELECT count(*) > 0 FROM (SELECT detail FROM audit_outbox UNION ALL SELECT detail FROM audit_log) a \
                WHERE a.detail LIKE '%foreign table public.p2%'";
    wait_for("the record", LONG, || all.hub.yes(told));
    wait_for("the destruction", LONG, || {
        all.hub
            .yes("SELECT state = 'destroyed' FROM key_version WHERE version = 1")
    });
    assert_eq!(all.hub.one(OPENS), "200");

    // A server that nobody named is another matter.
    setting(
        &all.servers[0],
        &mut all.hub,
        "rows_elsewhere",
        "shard3, citus",
    );
    all.hub.fails(REACH, "SELECT * FROM take_census('p', 'v')");
}
