//! What must be true when the killing is over.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use colcrypt_tests::db::Sql;
use colcrypt_tests::wait_for;
use postgres::Client;

use crate::world::{DIFFERENT, MARK, NOT_FOUND, OTHER_TERMS, World};

/// How long the jobs that are left may stand still, and take in all.
const AT_REST: Duration = Duration::from_secs(60);
const AT_WORK: Duration = Duration::from_secs(600);

/// Figures of a run that passed.
pub struct Findings {
    committed: u64,
    unknown: u64,
    compared: u64,
    rows: i64,
    rotations: i64,
    jobs: i64,
    given_up: i64,
    moved: i64,
    events: i64,
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} transactions ({} in doubt when a connection broke), {} comparisons of all rows; {} rotations, {} jobs, \
             {} of them given up and tried again, {} rows moved; at the end {} rows, all as their shadows say and under the newest versions, and {} events \
             in an audit log that verifies",
            self.committed,
            self.unknown,
            self.compared,
            self.rotations,
            self.jobs,
            self.given_up,
            self.moved,
            self.rows,
            self.events
        )
    }
}

/// Waits until all jobs have ended, as long as one of them gets on: how many there are depends on how many workers were
/// killed.
fn wait_for_the_jobs(client: &mut Client) {
    let began = Instant::now();
    let (mut left, mut since) = (None, began);
    loop {
        let now = client.opt(
            "SELECT string_agg(concat_ws(' ', job_id, attribute, phase, passes, rows_done, next_block, held_by, last_error), '; ' ORDER BY job_id) \
             FROM colcrypt.job WHERE finished_at IS NULL",
        );
        if now.is_none() {
            return;
        }
        if now != left {
            (left, since) = (now, Instant::now());
        }
        assert!(
            since.elapsed() < AT_REST && began.elapsed() < AT_WORK,
            "jobs that do not end: {left:?}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

pub fn check(world: &World) -> Findings {
    let mut client = world.cluster.client();
    let client = &mut client;
    wait_for_the_jobs(client);
    // Three workers in a row that are killed over one job look as if it were the job's doing: it is given up, and its
    // error says how it goes on.
    let given_up = client.number(
        "SELECT count(colcrypt.retry_job(job_id)) FROM colcrypt.job WHERE phase = 'failed' AND last_error LIKE '3 workers in a row died%'",
    );
    wait_for_the_jobs(client);
    // A search key that is rotated again overtakes the job that makes its former version's terms.
    let bad = "SELECT string_agg(concat_ws(' ', attribute, phase, last_error), '; ') FROM colcrypt.job j \
               WHERE (phase <> 'done' OR rows_failed > 0) \
                 AND NOT (phase = 'cancelled' AND EXISTS (SELECT FROM colcrypt.search_job s WHERE s.job_id = j.job_id))";
    assert_eq!(client.opt(bad), None, "jobs that did not end well");

    assert_eq!(
        client.number(DIFFERENT),
        0,
        "rows that are not as their shadows say"
    );
    assert_eq!(
        client.number(OTHER_TERMS),
        0,
        "rows whose terms are not those of their values"
    );
    assert_eq!(client.number(NOT_FOUND), 0, "rows that are not found");
    let companions = "SELECT count(*) FROM colcrypt.search_index i JOIN colcrypt.key k USING (key_id) \
                          LEFT JOIN colcrypt.search_companion c USING (search_index_id) \
                      WHERE c.state IS DISTINCT FROM 'ready' OR c.key_version <> k.current_version";
    assert_eq!(
        client.number(companions),
        0,
        "companions that are left, or are not of the newest version"
    );
    for (column, key) in [("v", "k"), ("w", "x"), ("u", "k")] {
        let old = format!(
            "SELECT count(*) FROM t WHERE (colcrypt.ciphertext_info({column})).version \
                 <> (SELECT current_version FROM colcrypt.key WHERE name = '{key}')"
        );
        assert_eq!(
            client.number(&old),
            0,
            "values of {column} under an old version"
        );
    }

    let gaps = "SELECT count(*) FROM (SELECT k.current_version, count(*) AS versions, max(v.version) AS newest, \
                       min(octet_length(v.wrapped)) AS wrapped \
                FROM colcrypt.key k JOIN colcrypt.key_version v USING (key_id) GROUP BY k.key_id) s \
                WHERE versions <> current_version OR newest <> current_version OR wrapped = 0";
    assert_eq!(client.number(gaps), 0, "keys that lack a version");
    let rotations = client.number("SELECT count(*) FROM witness");
    let expected = "SELECT sum(current_version - 1)::bigint FROM colcrypt.key";
    assert_eq!(
        rotations,
        client.number(expected),
        "a witness of each version"
    );
    let unread = "SELECT count(*) FROM witness WHERE colcrypt.decrypt_col(v) IS DISTINCT FROM 'witness of ' || key || version \
                      OR key <> 's' AND (colcrypt.ciphertext_info(v)).version <> version";
    assert_eq!(client.number(unread), 0, "witnesses that cannot be read");
    for (key, version) in world.rotated.lock().expect("a list").iter() {
        let there =
            format!("SELECT count(*) FROM witness WHERE key = '{key}' AND version = {version}");
        assert_eq!(
            client.number(&there),
            1,
            "version {version} of {key}, which was confirmed"
        );
    }

    wait_for(
        "all keys to be under the current key encryption key",
        Duration::from_secs(60),
        || {
            let former = "SELECT count(*) FROM colcrypt.kek_status WHERE state <> 'active' AND (keys > 0 OR state <> 'destroyed')";
            client.number(former) == 0
        },
    );
    let keks = client.number("SELECT max(kek_version)::bigint - 1 FROM colcrypt.kek_status");
    assert!(
        keks >= world.keks.load(Relaxed) as i64,
        "key encryption keys that were confirmed and are not there"
    );

    wait_for("the audit log", Duration::from_secs(60), || {
        client.number("SELECT count(*) FROM colcrypt.audit_outbox") == 0
    });
    let row = client
        .query_one("SELECT ok, problem FROM colcrypt.verify_audit_log()", &[])
        .expect("the audit log");
    let problem: Option<String> = row.get(1);
    assert!(row.get::<_, bool>(0), "the audit log: {problem:?}");
    let recorded =
        "SELECT count(*) FROM colcrypt.audit_log WHERE event = 'rotate_key' AND outcome = 'done'";
    assert_eq!(client.number(recorded), rotations, "rotations on record");

    let log = world.cluster.log();
    for word in ["panicked", "PANIC:", MARK] {
        assert!(!log.contains(word), "the server log holds {word:?}");
    }
    Findings {
        committed: world.committed.load(Relaxed),
        unknown: world.unknown.load(Relaxed),
        compared: world.compared.load(Relaxed),
        rows: client.number("SELECT count(*) FROM t"),
        rotations,
        jobs: client.number("SELECT count(*) FROM colcrypt.job"),
        given_up,
        moved: client.number("SELECT sum(rows_done)::bigint FROM colcrypt.job"),
        events: client.number("SELECT count(*) FROM colcrypt.audit_log"),
    }
}
