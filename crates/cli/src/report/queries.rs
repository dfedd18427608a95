//! What is asked of the database. Each query's columns are the fields of a type in `facts`; `period` is there for all
//! of them. No column with a wrapped key, a setting of a provider or a value is read.

pub const EXTENSION: &str = "SELECT 1 FROM pg_extension WHERE extname = 'colcrypt'";

pub const ABOUT: &str = "
    SELECT current_database() AS database, session_user AS role, pg_is_in_recovery() AS is_standby, now() AS read_at,
           current_setting('server_version') AS server, e.extversion AS extension, current_setting('cluster_name') AS cluster
    FROM pg_extension e WHERE e.extname = 'colcrypt'";

/// Of the one moment of the others' snapshot, as all that is written into the log there.
pub const CHAIN: &str = "
    SELECT v.ok, v.events, v.head_seq, v.head_hash, v.first_bad, v.problem, v.not_recorded
    FROM colcrypt.verify_audit_log() v";

/// A record, by its number.
pub const ENTRY: &str = "
    SELECT a.seq, a.at, a.event, a.session_role AS role, encode(a.previous_hash, 'hex') AS previous_hash,
           encode(a.hash, 'hex') AS hash
    FROM colcrypt.audit_log a WHERE a.seq = $1";

pub const CHAIN_OF_PERIOD: &str = "
    SELECT n.records, to_jsonb(f) AS first, to_jsonb(l) AS last
    FROM (SELECT count(*) AS records, min(a.seq) AS first, max(a.seq) AS last
          FROM colcrypt.audit_log a, period p WHERE a.at >= p.since AND a.at < p.until) n
    LEFT JOIN LATERAL (
        SELECT a.seq, a.at, a.event, a.session_role AS role, encode(a.previous_hash, 'hex') AS previous_hash,
               encode(a.hash, 'hex') AS hash
        FROM colcrypt.audit_log a WHERE a.seq = n.first) f ON true
    LEFT JOIN LATERAL (
        SELECT a.seq, a.at, a.event, a.session_role AS role, encode(a.previous_hash, 'hex') AS previous_hash,
               encode(a.hash, 'hex') AS hash
        FROM colcrypt.audit_log a WHERE a.seq = n.last) l ON true";

/// Also where nothing was written into the log yet.
pub const ANCHORED: &str = "
    SELECT coalesce(s.anchored_seq, 0) AS seq, nullif(s.anchored_at, '-infinity') AS at, encode(a.hash, 'hex') AS hash,
           current_setting('colcrypt.audit_anchor_interval', true) AS every
    FROM (VALUES (1)) AS always(one) LEFT JOIN colcrypt.audit_state s ON true
    LEFT JOIN colcrypt.audit_log a ON a.seq = s.anchored_seq";

/// With the unit in the place of UNIT.
pub const BUCKETS: &str = "
    SELECT to_char(g.start, 'YYYY-MM-DD') AS start, coalesce(n.done, 0) AS done, coalesce(n.refused, 0) AS refused,
           coalesce(n.alarms, 0) AS alarms
    FROM period p
    CROSS JOIN LATERAL generate_series(
        date_trunc('UNIT', greatest(p.since, p.until - interval '65 years') AT TIME ZONE 'UTC'),
        (p.until AT TIME ZONE 'UTC') - interval '1 microsecond', interval '1 UNIT') AS g(start)
    LEFT JOIN (
        SELECT date_trunc('UNIT', a.at AT TIME ZONE 'UTC') AS start,
               (sum(a.repeats) FILTER (WHERE a.outcome IN ('done', 'prepared')))::bigint AS done,
               (sum(a.repeats) FILTER (WHERE a.outcome IN ('denied', 'failed', 'rolled back')))::bigint AS refused,
               (sum(a.repeats) FILTER (WHERE a.outcome = 'alarm'))::bigint AS alarms
        FROM colcrypt.audit_log a, period p WHERE a.at >= p.since AND a.at < p.until
        GROUP BY 1) n ON n.start = g.start";

pub const EVENT_KINDS: &str = "
    SELECT a.event, a.outcome, count(*) AS records, sum(a.repeats)::bigint AS happened,
           count(DISTINCT a.session_role) AS roles, min(a.at) AS first_at, max(a.at) AS last_at
    FROM colcrypt.audit_log a, period p WHERE a.at >= p.since AND a.at < p.until
    GROUP BY a.event, a.outcome";

pub const KEYRINGS: &str = "
    SELECT s.keyring, s.kek_version AS version, coalesce(e.keys, 0) AS keys, s.provider, p.kind AS provider_kind,
           nullif(s.root_key, '') AS root_key, s.roots, coalesce(x.escrows, 0) AS escrows, left(s.root_problem, 500) AS root_problem,
           s.dek_wrap AS wrapping, s.key_source, s.four_eyes, s.approval_window, e.created_at AS kek_created_at,
           r.kek_cryptoperiod, k.next_rotation_at, coalesce(k.overdue, false) AS overdue
    FROM colcrypt.keyring_status s
    JOIN colcrypt.kek_status e ON e.keyring = s.keyring AND e.kek_version = s.kek_version
    JOIN colcrypt.keyring r ON r.name = s.keyring
    LEFT JOIN colcrypt.provider p ON p.name = s.provider
    LEFT JOIN colcrypt.kek_schedule k ON k.keyring = s.keyring
    LEFT JOIN (SELECT r.keyring, r.kek_version, count(*) AS escrows FROM colcrypt.root_status r WHERE r.state = 'escrow'
               GROUP BY r.keyring, r.kek_version) x ON x.keyring = s.keyring AND x.kek_version = s.kek_version";

pub const KEYRING_VERSIONS: &str = "
    SELECT e.keyring, e.kek_version AS version, e.state, e.created_at, e.deactivated_at, e.compromised_at, e.destroyed_at,
           e.changed_by, left(e.reason, 500) AS reason
    FROM colcrypt.kek_status e, period p
    WHERE e.created_at >= p.since AND e.created_at < p.until OR e.deactivated_at >= p.since AND e.deactivated_at < p.until
       OR e.compromised_at >= p.since AND e.compromised_at < p.until OR e.destroyed_at >= p.since AND e.destroyed_at < p.until";

pub const KEY_TOTALS: &str = "
    SELECT s.suite, s.state, count(*) AS versions, count(*) FILTER (WHERE s.is_current) AS current
    FROM colcrypt.key_status s GROUP BY s.suite, s.state";

pub const KEYS: &str = "
    SELECT s.key, s.key_id, s.suite, s.keyring, s.version, n.versions, s.state, k.created_at, s.activated_at,
           r.next_rotation_at, r.why, coalesce(r.overdue, false) AS overdue, left(r.last_error, 500) AS problem,
           u.percent AS used_percent, coalesce(c.columns, '{}') AS columns, coalesce(c.columns_total, 0) AS columns_total
    FROM colcrypt.key_status s
    JOIN colcrypt.key k ON k.name = s.key
    JOIN (SELECT s.key, count(*) AS versions FROM colcrypt.key_status s GROUP BY s.key) n ON n.key = s.key
    LEFT JOIN colcrypt.rotation_schedule r ON r.key = s.key
    LEFT JOIN colcrypt.key_usage u ON u.key = s.key AND u.is_current
    LEFT JOIN (
        SELECT w.key, (array_agg(w.place ORDER BY w.place))[1:4] AS columns, count(*) AS columns_total
        FROM (SELECT c.key, format('%s.%I', c.\"table\", c.attribute) AS place
              FROM colcrypt.key_version_census c WHERE c.key IS NOT NULL
              UNION
              SELECT p.key, CASE WHEN p.schema IS NULL THEN format('(dropped).%I', p.\"column\") ELSE format('%I.%I.%I', p.schema, p.\"table\", p.\"column\") END
              FROM colcrypt.registered_columns p WHERE p.key IS NOT NULL) w
        GROUP BY w.key) c ON c.key = s.key
    WHERE s.is_current";

/// With the events' names in $3.
pub const ACTS: &str = "
    SELECT a.seq, a.at, a.event, a.outcome, a.session_role AS role, a.current_role_name AS acting_as, a.key, a.version,
           a.relation, a.repeats, left(a.detail, 500) AS detail
    FROM colcrypt.audit_log a, period p
    WHERE a.at >= p.since AND a.at < p.until AND a.event = ANY ($3)
      AND a.outcome IN ('done', 'prepared', 'rolled back', 'alarm')";

pub const ALARMS: &str = "
    SELECT a.seq, a.at, a.event, a.outcome, a.session_role AS role, a.current_role_name AS acting_as, a.key, a.version,
           a.relation, a.repeats, left(a.detail, 500) AS detail
    FROM colcrypt.audit_log a, period p
    WHERE a.at >= p.since AND a.at < p.until AND (a.event = ANY ($3) OR a.outcome = 'alarm')";

/// Versions that new values were encrypted with at some time of the period: until they were relieved, or till its end.
const IN_USE: &str = "
    SELECT s.key, s.version, s.state, s.activated_at, k.originator_usage_period AS period, k.recipient_usage_period AS recipient_period,
           s.activated_at + k.originator_usage_period AS ends_at,
           least(s.deactivated_at, s.compromised_at, s.destroyed_at) AS used_until,
           extract(epoch FROM least(s.deactivated_at, s.compromised_at, s.destroyed_at, p.until, now()) - s.activated_at)::float8
               AS used_seconds,
           extract(epoch FROM (s.activated_at + k.originator_usage_period) - s.activated_at)::float8 AS period_seconds,
           -- Who relieves a version at the end of its period needs a moment for that.
           coalesce(least(s.deactivated_at, s.compromised_at, s.destroyed_at, p.until, now())
                        > s.activated_at + k.originator_usage_period + interval '1 minute', false) AS overrun,
           s.is_current
    FROM colcrypt.key_status s JOIN colcrypt.key k ON k.name = s.key, period p
    WHERE s.activated_at < p.until AND coalesce(least(s.deactivated_at, s.compromised_at, s.destroyed_at), 'infinity') >= p.since";

pub fn periods() -> String {
    format!(
        "SELECT u.key, u.version, u.state, u.activated_at, u.period, u.ends_at, u.used_until, u.used_seconds, u.period_seconds,
                u.recipient_period, u.overrun
         FROM ({IN_USE}) u"
    )
}

pub fn period_totals() -> String {
    format!(
        "SELECT count(*) AS versions, count(*) FILTER (WHERE NOT u.overrun AND u.period IS NOT NULL) AS kept,
                count(*) FILTER (WHERE u.overrun) AS overrun, count(*) FILTER (WHERE u.period IS NULL) AS without_end,
                count(DISTINCT u.key) FILTER (WHERE u.recipient_period IS NULL) AS decrypt_without_end
         FROM ({IN_USE}) u"
    )
}

pub const JOBS: &str = "
    SELECT j.job_id AS job, j.kind, format('%s.%I', j.\"table\", j.attribute) AS \"column\", j.key, j.target_version,
           j.phase, j.rows_done, j.rows_failed, j.created_at, j.finished_at, left(j.last_error, 500) AS problem
    FROM colcrypt.job_progress j, period p
    WHERE j.created_at < p.until AND coalesce(j.finished_at, 'infinity') >= p.since";

/// Of tables that are there.
const ROWS: &str = "
    SELECT format('%s.%I', c.\"table\", c.attribute) AS \"column\", c.rotation, c.key, c.version,
           coalesce(c.is_current, false) AS is_current, s.state, c.rows, c.counted_at, c.shredded
    FROM colcrypt.key_version_census c LEFT JOIN colcrypt.key_status s ON s.key = c.key AND s.version = c.version
    WHERE c.relation IS NOT NULL";

pub fn census() -> String {
    format!("SELECT r.* FROM ({ROWS}) r WHERE r.key IS NOT NULL AND r.rows > 0")
}

pub fn census_totals() -> String {
    format!(
        "SELECT count(DISTINCT r.\"column\") AS columns,
                count(DISTINCT r.\"column\") FILTER (WHERE r.counted_at IS NULL) AS never_counted,
                coalesce(sum(r.rows), 0)::bigint AS rows,
                coalesce(sum(r.rows) FILTER (WHERE r.is_current), 0)::bigint AS rows_current,
                coalesce(sum(r.rows) FILTER (WHERE NOT r.is_current AND NOT r.shredded), 0)::bigint AS rows_older,
                coalesce(sum(r.rows) FILTER (WHERE r.state = 'compromised'), 0)::bigint AS rows_compromised,
                coalesce(sum(r.rows) FILTER (WHERE r.shredded), 0)::bigint AS rows_shredded,
                min(r.counted_at) AS oldest_count
         FROM ({ROWS}) r"
    )
}

pub const SEARCHED: &str = "
    SELECT format('%s.%I', s.\"table\", s.\"column\") AS \"column\", s.kind, s.is_unique, s.bits, s.key, s.domain, s.versions,
           s.thief_learns, s.rows, s.nulls, s.distinct_terms, s.largest_group, s.largest_share, s.measured_at
    FROM colcrypt.search_overview s";

/// Use is counted by whole days of UTC in the end: those that the period touches.
const USED: &str = "
    FROM colcrypt.usage u, period p
    WHERE p.since < p.until AND u.day >= (p.since AT TIME ZONE 'UTC')::date
      AND u.day <= (p.until AT TIME ZONE 'UTC' - interval '1 microsecond')::date";

pub fn usage() -> String {
    format!(
        "SELECT u.role, sum(u.encryptions)::bigint AS encryptions, sum(u.decryptions)::bigint AS decryptions,
                count(DISTINCT u.key) AS keys, min(u.day) AS first_day, max(u.day) AS last_day {USED} GROUP BY u.role"
    )
}

pub fn usage_by_key() -> String {
    format!(
        "SELECT u.role, u.key, sum(u.encryptions)::bigint AS encryptions, sum(u.decryptions)::bigint AS decryptions
         {USED} GROUP BY u.role, u.key"
    )
}

pub fn look_ups() -> String {
    format!(
        "SELECT u.role, u.key, sum(u.decryptions)::bigint AS look_ups, k.search_limit AS limit, k.search_limit_per AS limit_per,
                min(u.day) AS first_day, max(u.day) AS last_day
         FROM (SELECT u.* {USED}) u JOIN colcrypt.key k ON k.name = u.key
         WHERE k.suite = 'hmac-sha-256' AND u.decryptions > 0
         GROUP BY u.role, u.key, k.search_limit, k.search_limit_per"
    )
}

pub const GRANTS: &str = "
    SELECT g.grantee, count(*) AS keys, count(*) FILTER (WHERE g.encrypt) AS encrypt, count(*) FILTER (WHERE g.decrypt) AS decrypt,
           count(*) FILTER (WHERE g.manage) AS manage
    FROM colcrypt.key_privileges g GROUP BY g.grantee";

pub const REFUSALS: &str = "
    SELECT a.outcome, a.event, a.session_role AS role, a.key, a.sqlstate, left(max(a.detail), 300) AS detail,
           sum(a.repeats)::bigint AS attempts, min(a.at) AS first_at, max(a.at) AS last_at,
           left(string_agg(DISTINCT host(a.client_addr), ', '), 100) AS addresses
    FROM colcrypt.audit_log a, period p
    WHERE a.at >= p.since AND a.at < p.until AND a.outcome IN ('denied', 'failed', 'alarm')
    GROUP BY a.outcome, a.event, a.session_role, a.key, a.sqlstate";

pub const APPROVALS: &str = "
    SELECT a.request_id AS request, a.function, a.keyring, a.key, a.requested_by, a.requested_at, a.outcome, a.decided_by,
           a.decided_at, left(a.reason, 500) AS reason
    FROM colcrypt.approval_requests a, period p
    WHERE a.requested_at >= p.since AND a.requested_at < p.until OR a.decided_at >= p.since AND a.decided_at < p.until
       OR a.outcome = 'pending' AND a.requested_at < p.until";

pub const DESTRUCTIONS: &str = "
    SELECT s.key, s.version, s.state, s.destroy_at, s.destroyed_at, s.state_changed_by AS by, left(s.state_reason, 500) AS reason,
           s.shreds, left(s.destruction_problem, 500) AS problem
    FROM colcrypt.key_status s, period p
    WHERE s.destroyed_at >= p.since AND s.destroyed_at < p.until OR s.destroy_at IS NOT NULL AND s.destroyed_at IS NULL";

pub const ESCROWS: &str = "
    SELECT e.escrow, e.keyrings, e.keyrings_without, e.holders, e.checks_overdue, e.drilled_at, e.drill_due, e.drill_overdue,
           e.retired_at, e.retired_by
    FROM colcrypt.escrow_status e";

/// Not where shares lie: a report is passed around.
pub const CUSTODIANS: &str = "
    SELECT c.escrow, c.circle, c.holder, c.since, c.checked_at, c.check_due, c.is_overdue FROM colcrypt.custodian_status c";

pub const DRILLS: &str = "
    SELECT p.name AS escrow, d.drilled_at, d.succeeded, d.recorded_by, d.report
    FROM colcrypt.escrow_drill d JOIN colcrypt.provider p USING (provider_id), period t
    WHERE d.drilled_at >= t.since AND d.drilled_at < t.until";

pub const FINDINGS: &str = "
    SELECT d.severity, d.finding, left(d.object, 500) AS object, left(d.detail, 1000) AS detail, d.meaning, d.remedy
    FROM colcrypt.doctor() d";

/// Events of the audit log by what they are about. A test looks that each administrative function is in one of them.
pub const MOVES: &[&str] = &[
    "activate_key",
    "archive_key",
    "create_key",
    "create_key_version",
    "create_keyring",
    "create_keys",
    "deactivate_key",
    "mark_compromised",
    "mark_kek_compromised",
    "prepare_key_version",
    "recover_key",
    "resume_key",
    "suspend_key",
];
pub const ROTATIONS: &[&str] = &[
    "cancel_job",
    "decrypt_column",
    "encrypt_column",
    "import_catalog",
    "move_column",
    "move_keyring",
    "pause_job",
    "rebind_column",
    "reencrypt_column",
    "resume_job",
    "retry_job",
    "rewrap_keys",
    "rotate_kek",
    "rotate_key",
    "rotate_root",
    "search_leakage",
    "set_compression",
    "set_cryptoperiods",
    "set_kek_cryptoperiod",
    "set_root_interval",
    "set_rotation_interval",
    "set_search_limit",
    "set_usage_bound",
    "take_census",
    "verify_column",
];
pub const DESTROYED: &[&str] = &[
    "cancel_key_destruction",
    "destroy_kek",
    "destroy_key",
    "drop_key",
    "drop_keyring",
    "drop_provider",
    "postpone_key_destruction",
    "schedule_key_destruction",
    "shred_rows",
];
pub const ACCESS: &[&str] = &[
    "acknowledge_node",
    "add_provider",
    "add_root",
    "alter_provider",
    "approve_request",
    "create_access_view",
    "create_search_domain",
    "create_search_index",
    "drop_node",
    "drop_root",
    "drop_search_domain",
    "drop_search_index",
    "follow_context",
    "grant_key",
    "grant_keyring",
    "mark_honeytoken",
    "register_column",
    "register_node",
    "reject_request",
    "require_four_eyes",
    "revoke_key",
    "revoke_keyring",
    "unmark_honeytoken",
    "unregister_column",
    "withdraw_request",
];
pub const RECOVERY: &[&str] = &[
    "record_drill",
    "record_escrow_check",
    "register_escrow",
    "retire_escrow",
    "set_custodian",
];
/// What no function of ours did by itself.
pub const UNUSUAL: &[&str] = &["changed_by_hand", "clock_set", "not_recorded"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_administrative_function_is_in_one_list() {
        let lists = [MOVES, ROTATIONS, DESTROYED, ACCESS, RECOVERY, UNUSUAL].concat();
        for verb in colcrypt_core::verbs::VERBS {
            let found = lists.iter().filter(|name| **name == verb.name).count();
            assert_eq!(found, 1, "{}", verb.name);
        }
    }

    #[test]
    fn no_query_reads_what_holds_a_key_or_a_setting() {
        let source = include_str!("queries.rs");
        let (queries, _) = source.split_once("mod tests").unwrap();
        for name in [
            "wrapped\"",
            ".wrapped",
            "key_version v",
            "kek_copy",
            ".config",
            "arguments",
            "location",
        ] {
            assert!(!queries.contains(name), "{name}");
        }
    }
}
