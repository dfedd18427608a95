//! Rotations by themselves: the view rotation_schedule says which key, when and why; what is due is done here, each key
//! in a transaction of its own. One that fails is tried again later, a little later each time, and holds up no other.
//!
//! What is due is told by one pass over the keys, and not by the view, which computes times of day for each of them.
//! The keys of a pass are rotated one after the other; a key whose rows are still those that were read is due still.

use std::cell::RefCell;
use std::collections::VecDeque;

use colcrypt_core::KeyId;
use colcrypt_domain::verdict::Verdict;

use crate::error::Result;
use crate::keys::tries::{self, Tried};
use crate::keys::{nodes, rotation, version};
use crate::server::txn::{Next, attempt, transaction};
use crate::server::{clock, report, spi};
use crate::worker::pause::Pause;

/// Longest time in rotations before the keeper's other duties have a turn.
const STEP_MS: i64 = 250;
/// How many due keys one look reads, and how long they are believed.
const MOST: i64 = 1_000;
const GOOD_MS: i64 = 10_000;

thread_local! {
    static PAUSE: Pause = const { Pause::new() };
    /// The keys that were due when it was looked, and when that was.
    static LIST: RefCell<(VecDeque<Due>, i64)> = const { RefCell::new((VecDeque::new(), 0)) };
}

/// Begins the pause after a look that began then.
fn pause_after(began: i64) {
    PAUSE.with(|pause| pause.begin_after(began));
}

struct Due {
    key: KeyId,
    name: String,
    why: String,
    /// Which row versions of the key and its current version were read.
    rows: String,
}

/// Rotates keys that are due, the most urgent first, for a short time.
pub fn step() -> Next {
    let began = clock::boottime_ms();
    let mut rotated = false;
    while clock::boottime_ms() - began < STEP_MS {
        let Some(due) = next_due() else { break };
        rotated = true;
        if !rotate_or_postpone(&due) {
            break;
        }
    }
    if rotated { Next::Again } else { Next::Nothing }
}

/// The key that comes next; none when none is due, or it is too soon to look.
fn next_due() -> Option<Due> {
    let now = clock::boottime_ms();
    let listed = LIST.with_borrow_mut(|(list, read_at)| {
        if now - *read_at > GOOD_MS {
            list.clear();
        }
        list.pop_front()
    });
    if listed.is_some() || PAUSE.with(Pause::is_on) {
        return listed;
    }
    match attempt(|| due(None)) {
        Ok(list) if list.is_empty() => pause_after(now),
        Ok(list) => LIST.set((list.into(), now)),
        Err(failed) => {
            pgrx::log!(
                "colcrypt: the schedule of rotations cannot be read: {}",
                failed.message
            );
            pause_after(now);
        }
    }
    LIST.with_borrow_mut(|(list, _)| list.pop_front())
}

/// Tells whether to go on with the next.
fn rotate_or_postpone(due: &Due) -> bool {
    let began = clock::boottime_ms();
    let Err(failed) = transaction(|| rotate(due)) else {
        return true;
    };
    pgrx::log!(
        "colcrypt: scheduled rotation of key \"{}\" failed: {failed}",
        due.name
    );
    // Not recorded, it would be tried again at once. In an outage the others would fail, too, each after its time.
    let recorded = attempt(|| Tried::Rotation(due.key).postpone(&failed.message)).is_ok();
    if !recorded || failed.verdict == Verdict::Outage {
        LIST.take();
        pause_after(began);
        return false;
    }
    true
}

/// What is due now, or of one key whether it is: exactly what the view rotation_schedule says is.
fn due(key: Option<KeyId>) -> Result<Vec<Due>> {
    let only = if key.is_some() {
        "k.key_id = $1"
    } else {
        "$1::bigint IS NULL"
    };
    spi::query(
        &format!(
            "WITH unflushed AS MATERIALIZED (SELECT * FROM colcrypt.unflushed_versions()), \
             others AS MATERIALIZED (SELECT o.key_id, o.version, sum(o.encryptions) AS encryptions, max(o.encryptions) AS most \
                                     FROM colcrypt.node_usage o GROUP BY 1, 2), \
             windows AS MATERIALIZED (SELECT * FROM colcrypt.rotation_windows(now())), \
             moment AS MATERIALIZED ( \
                 SELECT NOT EXISTS (SELECT FROM windows) OR w.opens IS NOT NULL AS is_time, w.opens, w.closes, \
                        (SELECT min(n.opens) FROM windows n WHERE n.opens > now()) AS next_opens, colcrypt.clock_ahead() AS ahead \
                 FROM (SELECT) one LEFT JOIN LATERAL ( \
                     SELECT * FROM windows WHERE opens <= now() AND closes > now() ORDER BY opens DESC LIMIT 1) w ON true \
                 WHERE colcrypt.follows() IS NULL) \
             SELECT key_id, name, CASE WHEN by_use THEN 'usage limit' WHEN by_interval THEN 'rotation interval' \
                                       ELSE 'originator-usage period' END, rows \
             FROM (SELECT k.key_id, k.name, k.xmin::text || ' ' || v.xmin::text AS rows, t.latest, t.activated_at, \
                          t.activated_at + k.rotation_interval AS interval_ends, \
                          m.is_time AND t.activated_at + k.rotation_interval <= now() AS by_interval, \
                          t.latest <= now() OR (m.closes <= t.latest AND m.opens > t.activated_at \
                                                AND t.latest < m.next_opens) AS by_period, \
                          greatest(c.here, coalesce(o.most, 0)) >= floor(greatest(c.bound / s.nodes, 1)::numeric * s.percent / 100) \
                              OR c.here + coalesce(o.encryptions, 0) >= floor(c.bound::numeric * s.percent / 100) AS by_use \
                   FROM moment m \
                   CROSS JOIN (SELECT least(current_setting('colcrypt.usage_rotate')::int, \
                                            current_setting('colcrypt.usage_refuse')::int) AS percent, \
                                      current_setting('colcrypt.usage_nodes')::int AS nodes) s \
                   CROSS JOIN colcrypt.key k \
                   JOIN colcrypt.key_version v ON v.key_id = k.key_id AND v.version = k.current_version AND v.state = 'active' \
                   CROSS JOIN LATERAL (SELECT a.at AS activated_at, \
                                              a.at + k.originator_usage_period \
                                                  - least(k.originator_usage_period / 10, interval '1 day') AS latest \
                                       FROM (SELECT coalesce(v.activated_at, v.created_at) + m.ahead AS at) a) t \
                   LEFT JOIN colcrypt.version_usage u ON u.key_id = k.key_id AND u.version = k.current_version \
                   LEFT JOIN unflushed f ON f.key_id = k.key_id AND f.version = k.current_version \
                   LEFT JOIN others o ON o.key_id = k.key_id AND o.version = k.current_version \
                   CROSS JOIN LATERAL (SELECT coalesce(u.encryptions, 0) + coalesce(f.encryptions, 0) + coalesce(f.reserved, 0) AS here, \
                                              least(colcrypt.suite_bound(k.suite), k.usage_bound) AS bound) c \
                   WHERE {only}) d \
             LEFT JOIN colcrypt.rotation_try r USING (key_id) \
             WHERE (by_use OR by_interval OR by_period) AND d.activated_at + interval '1 second' <= now() AND {} \
             AND NOT EXISTS (SELECT FROM colcrypt.approval_request a WHERE a.key_id = d.key_id AND a.function = 'activate_key' \
                             AND a.outcome IS NULL AND a.expires_at > clock_timestamp()) \
             ORDER BY by_use DESC, least(d.interval_ends, d.latest), d.name LIMIT $2",
            tries::may_be_tried("r")
        ),
        &[key.map(KeyId::bigint).into(), MOST.into()],
        |row| {
            Ok(Due {
                key: KeyId::of_bigint(row.get(1)?.unwrap_or_default()),
                name: row.get(2)?.unwrap_or_default(),
                why: row.get(3)?.unwrap_or_default(),
                rows: row.get(4)?.unwrap_or_default(),
            })
        },
    )
}

/// Whether the key's rows are those that were read, locked by now. The clock has only gone on since.
fn is_as_read(wanted: &Due) -> Result<bool> {
    let rows = spi::query(
        "SELECT k.xmin::text || ' ' || v.xmin::text FROM colcrypt.key k \
         JOIN colcrypt.key_version v ON v.key_id = k.key_id AND v.version = k.current_version WHERE k.key_id = $1",
        &[wanted.key.bigint().into()],
        |row| row.get::<String>(1),
    )?;
    Ok(rows.into_iter().flatten().next().as_ref() == Some(&wanted.rows))
}

/// Any error aborts the transaction: no half of a rotation is committed.
fn rotate(wanted: &Due) {
    let rotated = (|| -> Result<()> {
        spi::execute(
            "SELECT FROM colcrypt.key WHERE key_id = $1 FOR NO KEY UPDATE",
            &[wanted.key.bigint().into()],
        )?;
        if is_as_read(wanted)? {
            by_schedule(wanted)?;
        } else if let Some(due) = due(Some(wanted.key))?.first() {
            // Somebody changed it meanwhile, but did not rotate it.
            by_schedule(due)?;
        } else {
            Tried::Rotation(wanted.key).forget()?;
        }
        Ok(())
    })();
    if let Err(error) = rotated {
        report::raise(&error);
    }
}

/// Where other servers follow this one, each has the version before any row is under it.
fn by_schedule(due: &Due) -> Result<()> {
    let reason = format!("by schedule: {}", due.why);
    if nodes::are_there()? {
        let version = version::prepare(&due.name, &reason)?;
        let missing = nodes::without(version)?;
        if !missing.is_empty() {
            // No error, which would undo the preparation.
            let waits = format!(
                "version {} is prepared, and not known to be on every server: {}",
                version.version,
                missing.join(", ")
            );
            return Tried::Rotation(due.key).postpone(&waits);
        }
    }
    rotation::rotate(&due.name, &reason)?;
    Tried::Rotation(due.key).forget()
}
