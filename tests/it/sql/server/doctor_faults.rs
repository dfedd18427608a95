//! Faults of a database that `doctor` finds, and how each is planted.

/// A table with a column that is registered, and a function that gives its plaintext away.
pub const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v ciphertext);
    SELECT register_column('t', 'v', 'k', 'none');
    INSERT INTO t VALUES (1, encrypt_col('secret', 'k'));
    CREATE FUNCTION plain(c ciphertext) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT colcrypt.decrypt_col(c)'";

/// An escrow that was registered so many days ago.
pub const ESCROW: &str = "INSERT INTO provider (name, kind, config) VALUES ('escrow', 'escrow', '{}');
    INSERT INTO escrow (provider_id, record, registered_at)
        SELECT provider_id, 'a record', now() - interval 'DAYS days' FROM provider WHERE name = 'escrow'";

/// A follower of which all is well.
const NODE: &str = "SELECT export_catalog(); SELECT register_node('db2', 'host=db2');
    SELECT acknowledge_node('db2', node_report() || '{\"role\": \"follower\"}')";

/// A finding with a part of its object, and the statements that plant its fault. Where another finding comes with it,
/// that one is named behind it.
pub struct Fault {
    pub severity: &'static str,
    pub findings: &'static [&'static str],
    pub object: &'static str,
    pub plant: &'static [&'static str],
}

const fn fault(
    severity: &'static str,
    findings: &'static [&'static str],
    object: &'static str,
    plant: &'static [&'static str],
) -> Fault {
    Fault {
        severity,
        findings,
        object,
        plant,
    }
}

/// Faults of one database.
#[rustfmt::skip]
pub const FAULTS: &[Fault] = &[
    fault("warning", &["catalog_of_other_version"], "extension 0.1.9", &["UPDATE pg_extension SET extversion = '0.1.9' WHERE extname = 'colcrypt'"]),
    fault("critical", &["root_closed", "key_closed"], "provider \"local\" of keyring ring, version 1",
        &["UPDATE kek_copy SET wrapped = set_byte(wrapped, 20, get_byte(wrapped, 20) # 1)"]),
    fault("critical", &["key_closed"], "key k, version 1", &["UPDATE key_version SET wrapped = set_byte(wrapped, 20, get_byte(wrapped, 20) # 1)"]),
    fault("critical", &["rows_without_key"], "rows",
        &["CREATE TABLE t (v int); INSERT INTO census (relation, attribute, counts, counted_by) VALUES ('t', 'v', '[{\"key_id\": 42, \"version\": 1, \"rows\": 3}]', 'me')"]),
    fault("warning", &["role_missing"], "key k",
        &["INSERT INTO restored_grant (grantee, key_id, can_encrypt, can_decrypt, can_manage) SELECT 'nobody_known', key_id, true, true, false FROM key"]),
    fault("warning", &["provider_problem", "key_closed", "root_closed"], "local", &["UPDATE provider SET config = '{\"path\": \"/nowhere/root.key\"}'"]),
    fault("critical", &["key_beside_data"], "inside.key of provider local", &["SELECT alter_provider('local', '{\"path\": \"DATA/inside.key\"}')"]),
    fault("warning", &["key_without_period"], "key k", &["SELECT set_cryptoperiods('k', NULL, NULL)"]),
    fault("warning", &["kek_without_period"], "keyring ring", &["SELECT set_kek_cryptoperiod('ring', NULL)"]),
    fault("warning", &["rotation_failing"], "key k",
        &["SELECT set_rotation_interval('k', '1 hour'); INSERT INTO rotation_try SELECT key_id, 1, 'the reason', 'infinity' FROM key",
          "UPDATE key_version SET activated_at = now() - interval '1 day'"]),
    fault("notice", &["rotation_due"], "key k", &["SELECT set_rotation_interval('k', '1 hour'); UPDATE key_version SET activated_at = now() - interval '1 day'"]),
    fault("warning", &["usage_near_bound"], "key k, version 1", &["SELECT set_usage_bound('k', 100)", "SELECT count(encrypt_col('v' || g, 'k')::bytea) FROM generate_series(1, 60) g"]),
    fault("critical", &["usage_near_bound", "rotation_failing"], "key k, version 1",
        &["SELECT set_usage_bound('k', 100); INSERT INTO rotation_try SELECT key_id, 1, 'the reason', 'infinity' FROM key",
          "SELECT count(encrypt_col('v' || g, 'k')::bytea) FROM generate_series(1, 85) g"]),
    fault("warning", &["destruction_waits"], "key k, version 1",
        &["INSERT INTO destruction (key_id, version, last_error, retry_at) SELECT key_id, 1, 'the reason', 'infinity' FROM key"]),
    fault("warning", &["keyring_without_escrow", "never_drilled"], "escrow escrow", &["ESCROW 1"]),
    fault("warning", &["drill_overdue", "keyring_without_escrow"], "escrow escrow", &["ESCROW 100"]),
    fault("notice", &["never_drilled", "keyring_without_escrow"], "escrow escrow", &["ESCROW 1"]),
    fault("warning", &["share_check_overdue", "keyring_without_escrow", "never_drilled"], "share of Ada, escrow escrow",
        &["ESCROW 1", "INSERT INTO custodian (provider_id, holder, circle, since) SELECT provider_id, 'Ada', 'all', now() - interval '100 days' FROM escrow"]),
    fault("notice", &["superuser_granted"], "role chief", &["CREATE ROLE chief LOGIN SUPERUSER", "SELECT grant_key('k', 'chief')"]),
    fault("warning", &["superuser_works"], "role ",
        &["INSERT INTO usage_count SELECT date_trunc('minute', now() - g * interval '1 day'), key_id, 1, session_user, 0, 1 FROM key, generate_series(0, 2) g"]),
    fault("notice", &["one_role_decides"], "role ",
        &["DO $$ BEGIN FOR i IN 1..12 LOOP PERFORM suspend_key('k', reason => 'a look'); PERFORM resume_key('k', reason => 'seen'); END LOOP; END $$"]),
    fault("warning", &["public_may_decrypt"], "key k", &["SELECT grant_key('k', 'PUBLIC')"]),
    fault("notice", &["public_may_encrypt"], "key k", &["SELECT grant_key('k', 'PUBLIC', '{encrypt}')"]),
    fault("notice", &["public_may_encrypt"], "keyring ring", &["SELECT grant_keyring('ring', 'PUBLIC', '{create}')"]),
    fault("critical", &["public_on_catalog"], "relation colcrypt.key_version", &["GRANT SELECT ON colcrypt.key_version TO PUBLIC"]),
    fault("critical", &["public_on_catalog"], "function colcrypt.rotate_key(text)", &["GRANT EXECUTE ON FUNCTION colcrypt.rotate_key(text) TO PUBLIC"]),
    // The same value is met by the sample.
    fault("warning", &["job_failed", "rows_not_opening"], "on public.t.v",
        &[TABLE, "UPDATE t SET v = set_byte(v::bytea, length(v::bytea) - 1, get_byte(v::bytea, length(v::bytea) - 1) # 1)::ciphertext", "SELECT verify_column('t', 'v')"]),
    fault("warning", &["job_stuck"], "on public.t.v",
        &[TABLE, "BEGIN; INSERT INTO t VALUES (2, encrypt_col('v', 'k')); PREPARE TRANSACTION 'open'", "SELECT rotate_key('k')",
          "UPDATE job SET created_at = now() - interval '2 hours'"]),
    fault("notice", &["job_held"], "on public.t.v", &[TABLE, "INSERT INTO job (relation, attribute, key_id, target_version, paused) SELECT 't'::regclass, 'v', key_id, 1, true FROM key"]),
    // A key that may not be used keeps nobody from the next column.
    fault("warning", &["rows_not_opening"], "public.t.v",
        &["SELECT create_key('held', 'ring')",
          "CREATE TABLE held (v ciphertext); SELECT register_column('held', 'v', 'held', 'none'); INSERT INTO held VALUES (encrypt_col('v', 'held'))",
          "SELECT suspend_key('held', reason => 'a look')", TABLE, "SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id)')"]),
    fault("warning", &["rows_not_opening"], "public.t.v", &[TABLE, "SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id)')"]),
    fault("warning", &["column_not_registered"], "public.\"a table\".v", &["CREATE TABLE \"a table\" (v ciphertext)"]),
    fault("warning", &["column_not_registered"], "public.p.v",
        &["CREATE TABLE p (id int, v ciphertext) PARTITION BY LIST (id)", "CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1)"]),
    fault("warning", &["registration_wrong"], "public.t.v", &[TABLE, "ALTER TABLE t DROP COLUMN v"]),
    fault("notice", &["registration_wrong"], ".v", &["CREATE TABLE t (v ciphertext); SELECT register_column('t', 'v', 'k')", "DROP TABLE t"]),
    fault("warning", &["view_stale"], "public.t_access.w",
        &[TABLE, "ALTER TABLE t ADD COLUMN w ciphertext; SELECT create_access_view('t')", "SELECT register_column('t', 'w', 'k', 'none')"]),
    fault("warning", &["search_index_unused"], "public.t.v (equality)",
        &[TABLE, "SELECT create_key('s', 'ring', 'hmac-sha-256')",
          "BEGIN; SELECT create_search_index('t', 'v', key => 's'); UPDATE job SET phase = 'cancelled', finished_at = now(); COMMIT"]),
    fault("warning", &["plaintext_copy"], "materialized view public.m", &[TABLE, "CREATE MATERIALIZED VIEW m AS SELECT id, decrypt_col(v) FROM t"]),
    fault("warning", &["plaintext_copy"], "materialized view public.m",
        &[TABLE, "SELECT create_access_view('t')", "CREATE VIEW between AS SELECT * FROM t_access", "CREATE MATERIALIZED VIEW m AS SELECT * FROM between"]),
    fault("warning", &["plaintext_index"], "index public.i", &[TABLE, "CREATE INDEX i ON t (plain(v))"]),
    fault("warning", &["plaintext_index"], "index public.i",
        &[TABLE, "CREATE FUNCTION guessed(c ciphertext) RETURNS boolean IMMUTABLE LANGUAGE sql AS $$SELECT colcrypt.decrypts_to(c, 'secret'::text)$$;
                  CREATE INDEX i ON t (guessed(v))"]),
    fault("warning", &["plaintext_index"], "statistics object public.s", &[TABLE, "CREATE STATISTICS s ON (plain(v)) FROM t"]),
    fault("warning", &["plaintext_index"], "column g of table public.t", &[TABLE, "ALTER TABLE t ADD COLUMN g text GENERATED ALWAYS AS (plain(v)) STORED"]),
    fault("critical", &["audit_broken"], "record 1000000",
        &["INSERT INTO audit_log (seq, at, event, outcome, session_role, current_role_name, database, pid, repeats, previous_hash, hash)
               VALUES (1000000, now(), 'rotate_key', 'done', 'me', 'me', 'db', 1, 1, '', '')"]),
    fault("critical", &["honeytoken"], "key k", &[TABLE, "SELECT mark_honeytoken(v) FROM t", "SELECT decrypt_col(v) FROM t"]),
    fault("critical", &["node_primary"], "node db2", &[NODE, "SELECT acknowledge_node('db2', node_report())"]),
    fault("critical", &["node_primary"], "node db2", &[NODE, "SELECT acknowledge_node('db2', node_report() || '{\"role\": \"follower\", \"origin\": \"5c0b0c0e-0000-4000-8000-000000000001\"}')"]),
    fault("critical", &["node_root"], "node db2",
        &[NODE, "SELECT acknowledge_node('db2', node_report() || '{\"role\": \"follower\", \"roots\": [{\"keyring\": \"ring\", \"provider\": \"local\", \"opens\": false, \"problem\": \"no such file\"}]}')"]),
    fault("warning", &["node_drift"], "node db2", &[NODE, "SELECT acknowledge_node('db2', node_report() || '{\"role\": \"follower\", \"drift\": [\"grants\"]}')"]),
    fault("critical", &["node_drift"], "node db2",
        &[NODE, "SELECT acknowledge_node('db2', node_report() || '{\"role\": \"follower\", \"keks\": [{\"keyring\": \"ring\", \"version\": 1, \"kcv\": \"0000000000\"}]}')"]),
    fault("warning", &["node_silent"], "node db2", &["SELECT register_node('db2')"]),
    fault("warning", &["node_silent"], "node db2", &[NODE, "UPDATE node SET acknowledged_at = now() - interval '2 days'"]),
    fault("warning", &["node_behind"], "node db2", &[NODE, "SELECT create_key('more', 'ring')", "SELECT export_catalog()"]),
    fault("warning", &["node_usage", "usage_near_bound"], "node db2, key k, version 1",
        &[NODE, "SELECT set_usage_bound('k', 100); SELECT acknowledge_node('db2', node_report() || jsonb_build_object('role', 'follower', 'usage', (
              SELECT jsonb_agg(jsonb_build_object('key_id', key_id, 'version', 1, 'encryptions', 60)) FROM key)))"]),
    fault("notice", &["node_not_prepared"], "node db2", &[NODE, "SELECT prepare_key_version('k')"]),
    fault("warning", &["statements_logged"], "log_statement=all in database", &["SET log_statement = 'all'"]),
    fault("warning", &["statements_logged"], "log_min_duration_statement=100 in database", &["SET log_min_duration_statement = 100"]),
    fault("warning", &["parameters_logged"], "log_parameter_max_length_on_error=-1 in database", &["SET log_parameter_max_length_on_error = -1"]),
    fault("warning", &["plans_logged"], "auto_explain.log_min_duration=0 in database", &["SET auto_explain.log_min_duration = 0"]),
    fault("warning", &["trees_logged"], "debug_print_plan=on in database", &["SET debug_print_plan = on"]),
    fault("warning", &["trees_logged"], "log_min_messages=debug2 in database", &["SET log_min_messages = debug2"]),
    fault("notice", &["statements_kept"], "pg_stat_statements.track_utility=on in database", &["SET pg_stat_statements.track_utility = on"]),
];
