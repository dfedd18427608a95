//! The harness tried on plain PostgreSQL, so that a failing suite is never the harness's fault.

use std::time::Duration;

use crate::{Cluster, process, wait_for};

fn plain() -> Cluster {
    Cluster::builder().without_preload().start()
}

#[test]
fn starts_answers_restarts_and_is_gone() {
    let cluster = Cluster::builder()
        .without_preload()
        .conf("work_mem = '7MB'")
        .start();
    let dir = cluster.dir().to_owned();
    let row = cluster.client().query_one("SHOW work_mem", &[]).unwrap();
    assert_eq!(row.get::<_, String>(0), "7MB");

    cluster
        .client()
        .batch_execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)")
        .unwrap();
    cluster.append_conf("work_mem = '8MB'");
    cluster.restart();
    let row = cluster
        .client()
        .query_one("SELECT current_setting('work_mem'), n FROM kept", &[])
        .unwrap();
    assert_eq!(
        (row.get::<_, String>(0).as_str(), row.get::<_, i32>(1)),
        ("8MB", 1)
    );
    assert!(cluster.log().contains("database system is ready"));

    let postmaster = cluster.postmaster_pid();
    drop(cluster);
    assert!(!dir.exists() && !process::is_alive(postmaster));
}

#[test]
fn recovers_from_an_immediate_stop_and_a_killed_backend() {
    let cluster = plain();
    cluster
        .client()
        .batch_execute("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
        .unwrap();
    cluster.stop_immediately();
    assert!(!cluster.is_running());
    cluster.start();

    let backend: i32 = cluster
        .client()
        .query_one("SELECT pg_backend_pid()", &[])
        .unwrap()
        .get(0);
    wait_for("the backend to end", Duration::from_secs(5), || {
        !process::is_alive(backend)
    });
    let writer = cluster.pids_of("background writer")[0];
    assert!(process::children(cluster.postmaster_pid()).contains(&writer));
    process::kill9(writer);
    wait_for("a new background writer", Duration::from_secs(20), || {
        cluster
            .config()
            .connect(postgres::NoTls)
            .is_ok_and(|mut client| {
                let sql =
                    "SELECT pid FROM pg_stat_activity WHERE backend_type = 'background writer'";
                client
                    .query(sql, &[])
                    .is_ok_and(|rows| rows.iter().any(|row| row.get::<_, i32>(0) != writer))
            })
    });
    let n: i64 = cluster
        .client()
        .query_one("SELECT count(*) FROM kept", &[])
        .unwrap()
        .get(0);
    assert_eq!(n, 1000);
}

#[test]
fn a_standby_streams_and_is_promoted() {
    let primary = plain();
    let standby = primary.standby();
    primary
        .client()
        .batch_execute("CREATE TABLE t AS SELECT 42 AS n")
        .unwrap();
    primary.wait_for_replay(&standby);
    let n: i32 = standby
        .client()
        .query_one("SELECT n FROM t", &[])
        .unwrap()
        .get(0);
    assert_eq!(n, 42);
    primary.stop_immediately();
    standby.promote();
    standby
        .client()
        .batch_execute("INSERT INTO t VALUES (43)")
        .unwrap();
}

#[test]
fn dumps_into_another_cluster() {
    let from = plain();
    from.create_database("shop")
        .batch_execute("CREATE TABLE t AS SELECT 'ä' AS v")
        .unwrap();
    let dump = from.dump("shop");
    let to = plain();
    let mut copy = to.create_database("copy");
    to.restore(&dump, "copy");
    let v: String = copy.query_one("SELECT v FROM t", &[]).unwrap().get(0);
    assert_eq!(v, "ä");
    copy.batch_execute("CREATE ROLE reader LOGIN").unwrap();
    assert!(to.client_as("reader").query_one("SELECT 1", &[]).is_ok());
}

#[test]
fn a_server_that_refuses_to_start_says_why() {
    let cluster = Cluster::builder()
        .without_preload()
        .conf("shared_preload_libraries = 'no_such_library'")
        .create();
    assert!(cluster.try_start().is_err());
    assert!(cluster.log().contains("no_such_library"));
}
