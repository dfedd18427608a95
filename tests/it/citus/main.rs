//! Distributed tables on three nodes of Citus, each with colcrypt and the same keys. Run by `make test-citus`, on a
//! PostgreSQL to which somebody gave Citus, and by nothing else.

use colcrypt_tests::db::{self, LONG, Sql, wait_for_jobs};
use colcrypt_tests::of_jobs::{phases, versions};
use colcrypt_tests::{Cluster, process, wait_for};
use postgres::Client;

const REACH: &str = "KC036";
const ROWS: u32 = 3000;
const OPENS: &str =
    "SELECT count(*) FROM t WHERE decrypt_col(v, NULL::text, row_context(id)) = 'secret ' || id";
const ENDED: &str = "SELECT count(*) = 0 FROM colcrypt.job_progress WHERE finished_at IS NULL";

/// A coordinator, which is the primary, and two workers, which follow it.
struct Nodes {
    clients: [Client; 3],
    own: String,
    servers: [Cluster; 3],
}

impl Nodes {
    /// With a distributed table `t` whose values are bound to their rows' numbers, not registered yet.
    fn new() -> Self {
        let servers = [(); 3].map(|()| {
            let server = db::settings(Cluster::builder())
                .conf("shared_preload_libraries = 'citus,colcrypt'")
                .conf("wal_level = logical")
                .conf("max_prepared_transactions = 50")
                .conf("citus.enable_statistics_collection = off")
                .create();
            // By which a node reaches itself.
            server.append_conf(&format!(
                "citus.local_hostname = '{}'",
                server.dir().display()
            ));
            server.start();
            server
        });
        let mut clients = servers
            .each_ref()
            .map(|server| server.create_database("work"));
        clients[0].run("SET client_min_messages = error");
        for client in &mut clients {
            client.run("CREATE EXTENSION citus");
        }
        db::make_key(&servers[0], &mut clients[0]);
        let key = std::fs::read(db::root_key(&servers[0])).unwrap();
        for (server, client) in servers.iter().zip(&mut clients).skip(1) {
            client.run("CREATE EXTENSION colcrypt");
            let made = server.write_file("root.key", &key, 0o600);
            assert_eq!(made, db::root_key(server));
        }
        for client in &mut clients {
            client.run("SET search_path = public, colcrypt");
        }
        let mut nodes = Self {
            clients,
            own: String::new(),
            servers,
        };
        for at in 0..3 {
            let role = if at == 0 { "primary" } else { "follower" };
            nodes.set(at, "node", role);
        }
        let place = |at: usize| nodes.servers[at].dir().display().to_string();
        let join = format!(
            "SELECT citus_set_coordinator_host('{}', 5432), citus_add_node('{}', 5432), citus_add_node('{}', 5432)",
            place(0),
            place(1),
            place(2)
        );
        nodes.clients[0].run(&join);
        nodes.sync();
        nodes.clients[0].run(&format!(
            "CREATE TABLE t (id int PRIMARY KEY, v ciphertext);
             SELECT create_distributed_table('t', 'id', shard_count => 8);
             INSERT INTO t SELECT g, encrypt_col('secret ' || g, 'k', row_context(g)) FROM generate_series(1, {ROWS}) g"
        ));
        nodes
    }

    fn set(&mut self, at: usize, name: &str, value: &str) {
        let (server, client) = (&self.servers[at], &mut self.clients[at]);
        server.append_conf(&format!("colcrypt.{name} = '{value}'"));
        server.reload();
        wait_for("the setting", LONG, || {
            client.one(&format!("SHOW colcrypt.{name}")) == value
        });
    }

    /// The catalog of the primary to its followers, each with its own root key file.
    fn sync(&mut self) {
        let [hub, workers @ ..] = &mut self.clients;
        let catalog = hub.one("SELECT export_catalog()").replace('\'', "''");
        for (server, worker) in self.servers.iter().skip(1).zip(workers) {
            let key = db::root_key(server).display().to_string();
            self.own = format!("{{\"local\": {{\"path\": \"{key}\"}}}}");
            worker.run(&format!(
                "SELECT import_catalog('{catalog}', '{}')",
                self.own
            ));
        }
    }

    fn on_each(&mut self, sql: &str) -> Vec<i64> {
        self.clients
            .each_mut()
            .map(|client| client.number(sql))
            .to_vec()
    }

    /// Has every node move what is under older versions, and waits.
    fn move_all(&mut self, table: &str) {
        for client in &mut self.clients {
            client.run(&format!("SELECT reencrypt_column('{table}', 'v')"));
        }
        for client in &mut self.clients {
            wait_for_jobs(client);
            let ends = phases(client);
            assert!(ends.iter().all(|end| end == "done"), "{ends:?}");
        }
    }

    /// Nodes that look after their own shards, and a table that is registered on each.
    fn registered() -> Self {
        let mut nodes = Self::new();
        for at in 0..3 {
            nodes.clients[at].fails(
                REACH,
                "SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id)')",
            );
            nodes.set(at, "rows_elsewhere", "citus");
            nodes.clients[at]
                .run("SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id)')");
        }
        nodes
    }
}

/// Rows of the table under the version by which every node counts its own.
fn counted(version: i32) -> String {
    format!(
        "SELECT coalesce(sum(c.rows), 0) FROM take_census('t', 'v') c WHERE c.version = {version}"
    )
}

#[test]
fn each_node_moves_and_counts_its_own_shards() {
    let mut nodes = Nodes::registered();
    let rows = i64::from(ROWS);
    let before = nodes.on_each(&counted(1));
    assert_eq!(before[0], 0, "the coordinator has no shard");
    assert!(before[1] > 0 && before[2] > 0, "{before:?}");
    assert_eq!(before.iter().sum::<i64>(), rows);

    // A rotation, and the death of a worker's server in the middle of it.
    nodes.set(1, "job_rows_per_second", "200");
    nodes.clients[0].run("SELECT rotate_key('k')");
    nodes.sync();
    for client in &mut nodes.clients {
        client.run("SELECT reencrypt_column('t', 'v')");
    }
    wait_for("the job to be under way", LONG, || {
        nodes.clients[1].yes("SELECT rows_done > 0 AND finished_at IS NULL FROM job_progress")
    });
    process::kill9(nodes.servers[1].postmaster_pid());
    nodes.servers[1].append_conf("colcrypt.job_rows_per_second = 0");
    wait_for("the former server to be gone", LONG, || {
        nodes.servers[1].try_start().is_ok()
    });
    nodes.clients[1] = nodes.servers[1].client_db("work");
    nodes.clients[1].run("SET search_path = public, colcrypt");
    for client in &mut nodes.clients {
        wait_for("the jobs to end", LONG, || client.yes(ENDED));
        let ends = phases(client);
        assert!(ends.iter().all(|end| end == "done"), "{ends:?}");
    }
    let hub = &mut nodes.clients[0];
    wait_for("the coordinator to reach the worker", LONG, || {
        hub.simple_query("SELECT count(v) FROM t").is_ok()
    });
    assert_eq!(versions(hub, "t", "v"), format!("2:{ROWS}"));
    assert_eq!(hub.one(OPENS), ROWS.to_string());
    assert_eq!(nodes.on_each(&counted(2)).iter().sum::<i64>(), rows);
    assert_eq!(nodes.on_each(&counted(1)), [0, 0, 0]);
    assert_eq!(
        nodes.on_each("SELECT count(*) FROM rows_needing_key('k', 1)"),
        [0, 0, 0]
    );
    for client in &mut nodes.clients {
        client.run("SELECT verify_column('t', 'v')");
        wait_for_jobs(client);
        let ends = phases(client);
        assert!(ends.iter().all(|end| end == "done"), "{ends:?}");
    }
}

#[test]
fn moved_and_split_shards_need_no_registration() {
    let mut nodes = Nodes::registered();
    let place = |at: usize| nodes.servers[at].dir().display().to_string();
    let (from, to) = (place(1), place(2));
    // All shards of the first worker but one go to the other, before either has heard of the rotation.
    let moved = format!(
        "SELECT citus_move_shard_placement(s.shardid, '{from}', 5432, '{to}', 5432, 'block_writes')
         FROM (SELECT s.shardid FROM pg_dist_shard s JOIN pg_dist_placement p USING (shardid) JOIN pg_dist_node n USING (groupid)
               WHERE n.nodename = '{from}' AND s.logicalrelid = 't'::regclass ORDER BY 1 LIMIT 3) s"
    );
    let split = format!(
        "SELECT citus_split_shard_by_split_points(s.shardid, ARRAY[((s.shardminvalue::bigint + s.shardmaxvalue::bigint) / 2)::text],
                ARRAY[n.nodeid, n.nodeid]::int[], 'block_writes')
         FROM pg_dist_shard s JOIN pg_dist_placement p USING (shardid) JOIN pg_dist_node n USING (groupid)
         WHERE n.nodename = '{to}' AND s.logicalrelid = 't'::regclass ORDER BY s.shardid LIMIT 1"
    );
    nodes.clients[0].run(&moved);
    nodes.clients[0].run(&split);
    let all = nodes.on_each(&counted(1));
    assert_eq!(all.iter().sum::<i64>(), i64::from(ROWS), "{all:?}");
    nodes.clients[0].run("SELECT rotate_key('k')");
    nodes.sync();
    // One node has moved its rows when another gives it a shard that it has not come to.
    nodes.clients[2].run("SELECT reencrypt_column('t', 'v')");
    wait_for_jobs(&mut nodes.clients[2]);
    let late = moved.replace("LIMIT 3", "LIMIT 1");
    nodes.clients[0].run(&late);
    nodes.move_all("t");
    assert_eq!(
        versions(&mut nodes.clients[0], "t", "v"),
        format!("2:{ROWS}")
    );
    assert_eq!(nodes.clients[0].one(OPENS), ROWS.to_string());
    // What a move left behind is there until it is cleaned up.
    wait_for("no row to need the former version", LONG, || {
        nodes.clients[0].run("CALL citus_cleanup_orphaned_resources()");
        nodes.on_each("SELECT count(*) FROM rows_needing_key('k', 1)") == [0, 0, 0]
    });
}

#[test]
fn a_destruction_looks_into_the_nodes_shards() {
    let mut nodes = Nodes::registered();
    // What the import has the workers do takes longer than the test.
    for worker in [1, 2] {
        nodes.set(worker, "job_rows_per_second", "1");
    }
    nodes.clients[0].run("SELECT rotate_key('k')");
    nodes.sync();
    let problem = nodes.clients[1].fails(
        "KC050",
        "SELECT schedule_key_destruction('k', 1, '1 second', 'test')",
    );
    assert!(problem.hint.contains("primary"), "{problem:?}");
    let named = "SELECT count(*) FROM rows_needing_key('k', 1) WHERE relation::text LIKE '%t\\_1%'";
    assert!(nodes.on_each(named)[1] > 0);
    // Ordered on the primary, it waits on each worker for its own rows.
    nodes.clients[0].run("SELECT schedule_key_destruction('k', 1, '1 second', 'test')");
    let hub = &mut nodes.clients[0];
    wait_for("the destruction", LONG, || {
        hub.yes("SELECT state = 'destroyed' FROM key_version WHERE version = 1")
    });
    let told = "SELECT EXISTS (SELECT FROM audit_log WHERE event = 'destroy_key' AND detail LIKE '%shards on other nodes of table public.t%')";
    wait_for("the record", LONG, || hub.yes(told));
    nodes.sync();
    wait_for("the look at the shards", LONG, || {
        nodes.clients[1].yes("SELECT EXISTS (SELECT FROM destruction WHERE version = 1 AND last_error LIKE 'rows still need%')")
    });
    nodes.clients[0].run("DELETE FROM t");
    for client in &mut nodes.clients {
        client.run("UPDATE destruction SET retry_at = now()");
    }
    nodes.sync();
    for client in &mut nodes.clients {
        wait_for("the destruction", LONG, || {
            client.yes("SELECT state = 'destroyed' FROM key_version WHERE version = 1")
        });
    }
}

#[test]
fn tables_of_other_kinds_and_orders_about_all_rows() {
    let mut nodes = Nodes::registered();
    nodes.clients[0].run(
        "SELECT create_key('other', 'ring');
         CREATE TABLE reference (id int PRIMARY KEY, v ciphertext); SELECT create_reference_table('reference');
         CREATE TABLE parts (id int, v ciphertext) PARTITION BY RANGE (id);
         CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
         CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (100) TO (200);
         SELECT create_distributed_table('parts', 'id', shard_count => 4);
         INSERT INTO reference SELECT g, encrypt_col('x', 'k') FROM generate_series(1, 10) g;
         INSERT INTO parts SELECT g, encrypt_col('x', 'k') FROM generate_series(0, 199) g",
    );
    for client in &mut nodes.clients {
        client.run("SELECT register_column('reference', 'v', 'k', 'none'), register_column('parts', 'v', 'k', 'none')");
    }
    nodes.clients[0].run("SELECT rotate_key('k')");
    nodes.sync();
    for table in ["reference", "parts", "t"] {
        nodes.move_all(table);
    }
    let hub = &mut nodes.clients[0];
    assert_eq!(versions(hub, "reference", "v"), "2:10");
    assert_eq!(versions(hub, "parts", "v"), "2:200");
    assert_eq!(
        nodes.on_each("SELECT count(*) FROM rows_needing_key('k', 1)"),
        [0, 0, 0]
    );
    for order in [
        "move_column('t', 'v', 'other', accept_unplaced => true)",
        "rebind_column('t', 'v', 'colcrypt.row_context(id, 1)', accept_unplaced => true)",
        "decrypt_column('t', 'v', accept_unplaced => true)",
    ] {
        nodes.clients[0].fails(REACH, &format!("SELECT {order}"));
    }
}
