//! How cost grows with keys and versions: a key's first use in a session, many keys in one query, more keys than the
//! slab has places for, a catalog full of versions.

use colcrypt_tests::Cluster;
use postgres::Client;

use crate::cases::execute;
use crate::crowds::with_keys;
use crate::{count, median, net_ns};

/// Keys of one query.
const KEYS: i64 = 1000;
/// Values under each.
const VALUES: i64 = 200;
/// Keys whose first use is timed.
const FIRST: i64 = 300;
/// Versions that fill the catalog.
const VERSIONS: i64 = 100_000;
/// Keys beside a slab of a tenth of the places.
const MANY: i64 = 10_000;

/// Results by name: ratios, and microseconds (`…_us`).
pub fn results(client: &mut Client, cluster: &Cluster, rounds: usize) -> Vec<(String, f64)> {
    eprintln!("keys and versions…");
    execute(
        client,
        &format!(
            "SELECT count(colcrypt.create_key('key ' || n, 'bench')) FROM generate_series(1, {KEYS}) n;
             CREATE TABLE many (n int, v text, c colcrypt.ciphertext);
             INSERT INTO many SELECT n, left(md5(i::text), 16), colcrypt.encrypt_col(left(md5(i::text), 16), 'key ' || n)
             FROM generate_series(1, {VALUES}) i, generate_series(1, {KEYS}) n;
             CREATE TABLE single AS
             SELECT 1 AS n, v, colcrypt.encrypt_col(v, 'key 1') AS c FROM many"
        ),
    );
    execute(client, "VACUUM (FREEZE, ANALYZE) many, single");
    let ratio = |client: &mut Client, call: &str| {
        let bare = "SELECT count('key ' || n) FROM";
        let of = |client: &mut Client, table: &str| {
            let full = format!("SELECT count({call}) FROM {table}");
            net_ns(client, &full, &format!("{bare} {table}"), KEYS * VALUES)
        };
        let samples = (0..=rounds).map(|_| of(client, "many") / of(client, "single"));
        median(samples.skip(1).collect())
    };
    let mut results = vec![
        (
            "enc_1000_keys_vs_1".to_owned(),
            ratio(client, "colcrypt.encrypt_col(v, 'key ' || n)"),
        ),
        (
            "dec_1000_keys_vs_1".to_owned(),
            ratio(client, "colcrypt.decrypt_col(c)"),
        ),
    ];
    results.extend(first_use(cluster, ""));

    let before = [hot(client, rounds, ENCRYPT), hot(client, rounds, DECRYPT)];
    execute(
        client,
        &format!(
            "SET session_replication_role = replica;
             INSERT INTO colcrypt.key_version (key_id, version, state, kek_version, wrapped, kcv)
             SELECT k.key_id, 1 + n, 'deactivated', v.kek_version, v.wrapped, v.kcv
             FROM (SELECT key_id FROM colcrypt.key WHERE name LIKE 'key %' LIMIT 100) k
             JOIN colcrypt.key_version v USING (key_id), generate_series(1, {VERSIONS} / 100) n;
             RESET session_replication_role"
        ),
    );
    execute(client, "VACUUM (FREEZE, ANALYZE) colcrypt.key_version");
    let after = [hot(client, rounds, ENCRYPT), hot(client, rounds, DECRYPT)];
    results.push(("enc_100k_versions_vs_few".to_owned(), after[0] / before[0]));
    results.push(("dec_100k_versions_vs_few".to_owned(), after[1] / before[1]));
    results.extend(first_use(cluster, "_100k_versions"));
    results
}

const ENCRYPT: &str =
    "colcrypt.encrypt_col(v, 'gcm', colcrypt.place_context('public.bench.v', id))";
const DECRYPT: &str = "colcrypt.decrypt_col(c, colcrypt.place_context('public.bench.v', id))";

fn hot(client: &mut Client, rounds: usize, call: &str) -> f64 {
    let rows = count(client, "SELECT count(*) FROM text_16b");
    let full = format!("SELECT count({call}) FROM text_16b");
    let bare = "SELECT count(v) FROM text_16b";
    let samples = (0..=rounds).map(|_| net_ns(client, &full, bare, rows));
    median(samples.skip(1).collect())
}

/// Microseconds that a key's first use costs a session over its second one, with the slab warm: the session's first key
/// of all, which also fills PostgreSQL's own caches of our catalog, and any other. Timed in the server, by one block.
fn first_use(cluster: &Cluster, suffix: &str) -> [(String, f64); 2] {
    let time = format!(
        "DO $$
        DECLARE before timestamptz; first timestamptz; again timestamptz; key text; value colcrypt.ciphertext;
        BEGIN
            CREATE TEMP TABLE used (nr int GENERATED ALWAYS AS IDENTITY, us float8);
            FOR n IN 1..{FIRST} LOOP
                key := 'key ' || n;
                before := clock_timestamp();
                value := colcrypt.encrypt_col('value'::text, key);
                first := clock_timestamp();
                value := colcrypt.encrypt_col('value'::text, key);
                again := clock_timestamp();
                INSERT INTO used (us) VALUES (extract(epoch FROM first - before - (again - first)) * 1e6);
            END LOOP;
        END $$"
    );
    let mut of_all = Vec::new();
    let mut others = Vec::new();
    for _ in 0..9 {
        let mut client = cluster.client_db("bench");
        execute(&mut client, &time);
        let rows = client
            .query("SELECT us FROM used ORDER BY nr", &[])
            .expect("the times");
        let mut times: Vec<f64> = rows.iter().map(|row| row.get(0)).collect();
        of_all.push(times.remove(0));
        others.push(median(times));
    }
    [
        (format!("first_key_of_a_session{suffix}_us"), median(of_all)),
        (format!("first_use_of_a_key{suffix}_us"), median(others)),
    ]
}

/// Microseconds a value costs when ten thousand keys take turns: with a place for each in the slab, with places for a
/// tenth, and there with values of one key together.
pub fn crowded(rounds: usize) -> Vec<(String, f64)> {
    [("roomy", MANY + 100), ("crowded", MANY / 10)]
        .into_iter()
        .flat_map(|(name, places)| {
            eprintln!("{MANY} keys in a slab of {places}…");
            let builder = Cluster::builder()
                .conf(format!("colcrypt.slab_keys = {places}"))
                .conf("colcrypt.usage_entries = 20000")
                .conf("autovacuum = off");
            let (_cluster, mut client) = with_keys(builder, MANY);
            execute(
                &mut client,
                &format!(
                    "CREATE TABLE t AS SELECT n, colcrypt.encrypt_col('value ' || n, 'key ' || n) AS c
                     FROM generate_series(1, {MANY}) n;
                     INSERT INTO t SELECT n, colcrypt.encrypt_col('value ' || n, 'key ' || n)
                     FROM generate_series(1, {MANY}) n"
                ),
            );
            let mut time = |order: &str| {
                let full = format!(
                    "SELECT count(colcrypt.decrypt_col(c)) FROM (SELECT c FROM t ORDER BY {order}) s"
                );
                let bare = format!("SELECT count(c) FROM (SELECT c FROM t ORDER BY {order}) s");
                let samples = (0..=rounds.min(3))
                    .map(|_| net_ns(&mut client, &full, &bare, 2 * MANY) / 1000.0);
                median(samples.skip(1).collect())
            };
            [
                (format!("turns_of_10000_keys_{name}_us"), time("ctid")),
                (format!("runs_of_10000_keys_{name}_us"), time("n")),
            ]
        })
        .collect()
}
