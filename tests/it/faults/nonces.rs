//! No nonce twice under one key: not in sessions that all come from one postmaster with the library
//! loaded, and not in parallel workers.

use std::collections::HashSet;
use std::sync::Barrier;
use std::thread;

use colcrypt_tests::bed::Bed;
use colcrypt_tests::db::Sql;

/// Built-in type, version below 128: format 1, type 2, key id 8, version 1.
const HEADER: usize = 12;
const NONCE: usize = 12;
/// The part of every stored value that is its nonce.
const NONCE_OF: &str = "substring(c::bytea from 13 for 12)";

#[test]
fn sixty_four_backends_and_parallel_workers_never_draw_the_same() {
    const BACKENDS: usize = 64;
    const EACH: i32 = 3000;
    let bed = Bed::on_file(&[
        "max_parallel_workers = 16",
        "max_parallel_workers_per_gather = 8",
    ]);
    let mut client = bed.cluster.client();
    client
        .batch_execute(
            "CREATE TABLE plain AS SELECT n FROM generate_series(1, 100000) AS n; ANALYZE plain",
        )
        .unwrap();

    let start = Barrier::new(BACKENDS);
    let sql = "SELECT string_agg(substring(colcrypt.encrypt_col(n, 'k')::bytea from 1 for 24), '') \
               FROM generate_series(1, $1) AS n";
    let blobs: Vec<Vec<u8>> = thread::scope(|scope| {
        let sessions: Vec<_> = (0..BACKENDS)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    bed.cluster
                        .client()
                        .query_one(sql, &[&EACH])
                        .unwrap()
                        .get(0)
                })
            })
            .collect();
        sessions
            .into_iter()
            .map(|session| session.join().unwrap())
            .collect()
    });
    let mut headers = HashSet::new();
    let mut nonces = HashSet::new();
    for blob in &blobs {
        assert_eq!(blob.len(), EACH as usize * (HEADER + NONCE));
        for value in blob.chunks(HEADER + NONCE) {
            headers.insert(value[..HEADER].to_vec());
            nonces.insert(value[HEADER..].to_vec());
        }
    }
    assert_eq!(
        headers.len(),
        1,
        "all under one version of one key, so the nonce is where it is looked for"
    );
    assert_eq!(nonces.len(), BACKENDS * EACH as usize, "a nonce came twice");

    // Parallel workers, in several sessions at once, into tables, so that nothing is folded away.
    client
        .batch_execute(
            "ALTER DATABASE postgres SET parallel_setup_cost = 0; \
             ALTER DATABASE postgres SET parallel_tuple_cost = 0; \
             ALTER DATABASE postgres SET min_parallel_table_scan_size = 0",
        )
        .unwrap();
    let plan: Vec<String> = bed
        .cluster
        .client()
        .query(
            "EXPLAIN (ANALYZE, VERBOSE, COSTS off) SELECT colcrypt.encrypt_col(n, 'k') FROM plain",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    let plan = plan.join("\n");
    let (above, below) = plan.split_once("Gather").expect("a parallel plan");
    let _ = above;
    assert!(
        below.contains("Parallel Seq Scan") && below.contains("encrypt_col"),
        "{plan}"
    );
    assert!(!plan.contains("Workers Launched: 0"), "{plan}");
    thread::scope(|scope| {
        for at in 0..4 {
            let bed = &bed;
            scope.spawn(move || {
                let sql = format!(
                    "CREATE TABLE copy{at} AS SELECT colcrypt.encrypt_col(n, 'k') AS c FROM plain"
                );
                bed.cluster.client().batch_execute(&sql).unwrap();
            });
        }
    });
    let all = "(SELECT c FROM copy0 UNION ALL SELECT c FROM copy1 UNION ALL SELECT c FROM copy2 \
               UNION ALL SELECT c FROM copy3) AS t";
    let distinct = client.number(&format!("SELECT count(DISTINCT {NONCE_OF}) FROM {all}"));
    assert_eq!(distinct, 400_000, "a nonce came twice");
    let rows = client
        .query(&format!("SELECT {NONCE_OF} FROM {all}"), &[])
        .unwrap();
    for row in rows {
        assert!(
            nonces.insert(row.get(0)),
            "a parallel worker drew a session's nonce"
        );
    }
}
