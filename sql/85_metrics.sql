-- What a monitoring system is told: each metric's name, type and help in one function, and their values in one view. Nothing here
-- decrypts, calls a key management system or goes through a table that grows with the data.

CREATE FUNCTION colcrypt.metric_names() RETURNS TABLE (name text, type text, help text)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
VALUES
('colcrypt_build_info', 'gauge', 'Release of the extension in this database; always 1'),
('colcrypt_in_recovery', 'gauge', 'Whether the server is a standby'),
('colcrypt_broker_up', 'gauge', 'Whether the process that hands out keys runs'),
('colcrypt_agent_up', 'gauge', 'Whether the process that asks key management systems runs'),
('colcrypt_launcher_up', 'gauge', 'Whether the process that starts workers runs; not told on a standby, which has none'),
('colcrypt_agent_starts_total', 'counter', 'Times that the agent was started since the server was'),
('colcrypt_memory_locked', 'gauge', 'Whether memory with keys is locked, so that it is never written to swap'),
('colcrypt_cache_slots', 'gauge', 'Places for key versions in shared memory'),
('colcrypt_cache_slots_used', 'gauge', 'Places for key versions that are taken'),
('colcrypt_cache_evictions_total', 'counter', 'Key versions that had to make room for others'),
('colcrypt_key_loads_total', 'counter', 'Key versions that were asked for and came'),
('colcrypt_key_loads_failed_total', 'counter', 'Key versions that were asked for and could not be had'),
('colcrypt_key_loads_in_flight', 'gauge', 'Key versions that are being asked for now'),
('colcrypt_hard_ttl_seconds', 'gauge', 'How long cached keys serve on when no root key answers (colcrypt.hard_ttl)'),
('colcrypt_root_failing', 'gauge', 'Whether a root key gave no key encryption key when it was last asked'),
('colcrypt_root_failing_since_timestamp_seconds', 'gauge', 'Since when a root key fails'),
('colcrypt_root_served_timestamp_seconds', 'gauge', 'When the key encryption key in use last came from a root key'),
('colcrypt_keyring_cached_until_timestamp_seconds', 'gauge', 'When the first cached key of a keyring is given up unless a root key answers before'),
('colcrypt_keyring_keys', 'gauge', 'Keys of a keyring'),
('colcrypt_key_usage_ratio', 'gauge', 'Values that a key''s current version has encrypted, of those that it may; of more than 1000 keys, only those that need attention'),
('colcrypt_key_usage_highest_ratio', 'gauge', 'The highest of these shares, of all keys'),
('colcrypt_key_encryptions_total', 'counter', 'Values that a key''s current version has encrypted; of more than 1000 keys, only those that need attention'),
('colcrypt_usage_warn_ratio', 'gauge', 'The share from which on the server warns (colcrypt.usage_warn)'),
('colcrypt_usage_refuse_ratio', 'gauge', 'The share from which on nothing more is encrypted (colcrypt.usage_refuse)'),
('colcrypt_key_rotation_due_timestamp_seconds', 'gauge', 'When a key is rotated by itself; of more than 1000 keys, only those that need attention'),
('colcrypt_rotations_overdue', 'gauge', 'Rotations that are due and were not made, of keys, key encryption keys and root keys'),
('colcrypt_rotations_failing', 'gauge', 'Rotations that are due, were tried and failed'),
('colcrypt_kek_keys_left', 'gauge', 'Key versions that wait to be wrapped by a keyring''s current key encryption key'),
('colcrypt_destructions_waiting', 'gauge', 'Key versions whose destruction something stands in the way of'),
('colcrypt_approval_requests_open', 'gauge', 'Acts that wait for a second role'),
('colcrypt_registered_columns', 'gauge', 'Columns under the care of rotation'),
('colcrypt_column_rows', 'gauge', 'Rows of a column by whether they are under the current version of their key, as last counted; of at most 500 columns'),
('colcrypt_column_counted_timestamp_seconds', 'gauge', 'When the rows of a column were last counted'),
('colcrypt_open_jobs', 'gauge', 'Jobs that are queued or under way, by kind and phase'),
('colcrypt_jobs_failed', 'gauge', 'Columns whose last job of a kind failed'),
('colcrypt_job_rows', 'gauge', 'Rows that an open job has done; of at most 1000 jobs'),
('colcrypt_job_rows_failed', 'gauge', 'Rows that an open job could not do'),
('colcrypt_job_progress_ratio', 'gauge', 'How far an open job has come in its first pass over the table; 1 in later ones'),
('colcrypt_job_held', 'gauge', 'Whether something keeps an open job from moving rows now'),
('colcrypt_search_indexes', 'gauge', 'Search indexes'),
('colcrypt_search_indexes_unused', 'gauge', 'Search indexes that no query looks rows up by, since their terms are not whole'),
('colcrypt_audit_records_total', 'counter', 'Records of the audit log'),
('colcrypt_audit_head_linked', 'gauge', 'Whether the last 1000 records of the audit log hold each other''s hashes, and the last is the one that was written last'),
('colcrypt_audit_chain_whole', 'gauge', 'Whether verify_audit_log found the whole chain to hold; told by colcrypt metrics, which asks once an hour'),
('colcrypt_audit_chain_verified_timestamp_seconds', 'gauge', 'When verify_audit_log was asked; told by colcrypt metrics'),
('colcrypt_audit_waiting', 'gauge', 'Events in shared memory that are on their way into the audit log'),
('colcrypt_audit_posted_total', 'counter', 'Refusals, failures and alarms that were put into shared memory since the server started'),
('colcrypt_audit_server_log_total', 'counter', 'Events that went to the server log instead, since there was no room'),
('colcrypt_audit_only_counted_total', 'counter', 'Events that were counted and have no record of their own'),
('colcrypt_honeytoken_alarms_total', 'counter', 'Decryptions of values that nobody has a reason to decrypt'),
('colcrypt_escrow_drill_due_timestamp_seconds', 'gauge', 'When the next rehearsal of recovery from an escrow is due'),
('colcrypt_escrow_drill_overdue', 'gauge', 'Whether that time is over'),
('colcrypt_escrow_checks_overdue', 'gauge', 'Shares of an escrow that were not shown to be whole for longer than they may be')
    $$;
GRANT EXECUTE ON FUNCTION colcrypt.metric_names() TO pg_monitor;
COMMENT ON FUNCTION colcrypt.metric_names() IS
    'each metric that the view metrics or colcrypt metrics tells, by its name in OpenMetrics, with type and help';

-- Only what raises an alarm, so that it is counted without a look at the rest.
CREATE INDEX audit_log_alarm ON colcrypt.audit_log (seq) INCLUDE (repeats) WHERE outcome = 'alarm';

CREATE VIEW colcrypt.metrics AS
    WITH
    -- A reader without a right on the view of keys is told their numbers, as ciphertexts show them to everybody.
    reader AS MATERIALIZED (
        SELECT has_table_privilege('colcrypt.key_status', 'SELECT') AS sees_names, current_database() AS database),
    server AS MATERIALIZED (SELECT * FROM colcrypt.broker_status()),
    used AS MATERIALIZED (SELECT u.key, u.version, u.encryptions, u.reserved, u.bound, u.state FROM colcrypt.key_usage u WHERE u.is_current),
    planned AS MATERIALIZED (SELECT * FROM colcrypt.rotation_schedule),
    named AS MATERIALIZED (
        SELECT k.key_id, k.keyring_id, k.name AS key,
               jsonb_build_object('database', r.database, 'key',
                                  CASE WHEN r.sees_names THEN k.name ELSE lpad(to_hex(k.key_id), 16, '0') END) AS labels
        FROM colcrypt.key k, reader r),
    few AS MATERIALIZED (SELECT count(*) <= 1000 AS all_keys FROM colcrypt.key),
    rings AS MATERIALIZED (
        SELECT g.keyring_id, g.name AS keyring,
               jsonb_build_object('database', r.database, 'keyring',
                                  CASE WHEN r.sees_names THEN g.name ELSE g.keyring_id::text END) AS labels
        FROM colcrypt.keyring g, reader r),
    jobs AS MATERIALIZED (
        SELECT j.*, jsonb_build_object('database', r.database, 'job_id', j.job_id::text, 'kind', j.kind, 'column',
                   format('%s.%I', j."table", j.attribute)) AS labels
        FROM reader r CROSS JOIN colcrypt.job_progress j
        WHERE j.finished_at IS NULL),
    told(name, labels, value) AS (
        SELECT 'colcrypt_build_info', jsonb_build_object('database', r.database, 'version', e.extversion), 1::float8
        FROM pg_catalog.pg_extension e, reader r WHERE e.extname = 'colcrypt'
        UNION ALL
        SELECT v.name, '{}', v.value
        FROM server s, LATERAL (VALUES
            ('colcrypt_in_recovery', pg_is_in_recovery()::int::float8),
            ('colcrypt_broker_up', (s.broker_pid IS NOT NULL)::int),
            ('colcrypt_agent_up', (s.agent_pid IS NOT NULL)::int),
            ('colcrypt_launcher_up', CASE WHEN NOT pg_is_in_recovery() THEN
                (EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.backend_type = 'colcrypt launcher'))::int END),
            ('colcrypt_agent_starts_total', s.agent_starts),
            ('colcrypt_memory_locked', s.memory_locked::int),
            ('colcrypt_cache_slots', s.slots),
            ('colcrypt_cache_slots_used', s.slots_used),
            ('colcrypt_cache_evictions_total', s.evictions),
            ('colcrypt_key_loads_total', s.loads),
            ('colcrypt_key_loads_failed_total', s.loads_failed),
            ('colcrypt_key_loads_in_flight', s.loads_in_flight),
            ('colcrypt_hard_ttl_seconds', extract(epoch FROM current_setting('colcrypt.hard_ttl')::interval)),
            ('colcrypt_usage_warn_ratio', current_setting('colcrypt.usage_warn')::float8 / 100),
            ('colcrypt_usage_refuse_ratio', current_setting('colcrypt.usage_refuse')::float8 / 100)) AS v(name, value)
        UNION ALL
        SELECT v.name, g.labels || jsonb_strip_nulls(jsonb_build_object(
                   'kek_version', c.kek_version::text, 'preference', c.preference::text,
                   'provider', CASE WHEN r.sees_names THEN c.provider END, 'root_key', CASE WHEN r.sees_names THEN nullif(c.root_key, '') END)),
               v.value
        FROM reader r CROSS JOIN colcrypt.root_status c JOIN rings g USING (keyring), LATERAL (VALUES
            ('colcrypt_root_failing', (c.problem IS NOT NULL)::int::float8),
            ('colcrypt_root_failing_since_timestamp_seconds', extract(epoch FROM c.failing_since)),
            ('colcrypt_root_served_timestamp_seconds', extract(epoch FROM c.served_at))) AS v(name, value)
        WHERE c.state <> 'escrow'
        UNION ALL
        SELECT 'colcrypt_keyring_cached_until_timestamp_seconds', g.labels, extract(epoch FROM min(c.expires_at))
        FROM colcrypt.cache_slots() c JOIN named k USING (key_id) JOIN rings g USING (keyring_id)
        GROUP BY g.labels
        UNION ALL
        SELECT 'colcrypt_keyring_keys', g.labels, count(k.key_id)
        FROM rings g LEFT JOIN colcrypt.key k USING (keyring_id) GROUP BY g.labels
        UNION ALL
        SELECT v.name, n.labels || jsonb_build_object('version', u.version::text), v.value
        FROM few f CROSS JOIN used u JOIN named n USING (key) LEFT JOIN planned p USING (key), LATERAL (VALUES
            ('colcrypt_key_usage_ratio', (u.encryptions + u.reserved)::float8 / u.bound),
            ('colcrypt_key_encryptions_total', u.encryptions),
            ('colcrypt_key_rotation_due_timestamp_seconds', extract(epoch FROM p.next_rotation_at))) AS v(name, value)
        WHERE f.all_keys OR u.state <> 'ok' OR p.overdue
        UNION ALL
        SELECT v.name, jsonb_build_object('database', r.database), v.value
        FROM reader r, LATERAL (VALUES
            ('colcrypt_key_usage_highest_ratio', (SELECT max((u.encryptions + u.reserved)::float8 / u.bound) FROM used u)),
            ('colcrypt_destructions_waiting', (SELECT count(*) FROM colcrypt.destruction d WHERE d.last_error IS NOT NULL)),
            ('colcrypt_approval_requests_open',
             (SELECT count(*) FROM colcrypt.approval_request a WHERE a.outcome IS NULL AND a.expires_at > now())),
            ('colcrypt_registered_columns',
             (SELECT count(*) FROM colcrypt.protected_column p JOIN pg_catalog.pg_class t ON t.oid = p.relation)),
            ('colcrypt_jobs_failed', (
                SELECT count(*) FROM (SELECT DISTINCT ON (j.relation, j.attribute, j.key, j.kind) j.relation, j.phase FROM colcrypt.job_progress j
                                      ORDER BY j.relation, j.attribute, j.key, j.kind, j.job_id DESC) j
                JOIN pg_catalog.pg_class c ON c.oid = j.relation WHERE j.phase = 'failed')),
            ('colcrypt_search_indexes', (SELECT count(*) FROM colcrypt.search_index i JOIN pg_catalog.pg_class t ON t.oid = i.relation)),
            ('colcrypt_search_indexes_unused', (
                SELECT count(*) FROM colcrypt.search_index i JOIN pg_catalog.pg_class t ON t.oid = i.relation
                WHERE NOT EXISTS (SELECT FROM colcrypt.search_companion c WHERE c.search_index_id = i.search_index_id AND c.state = 'ready'))),
            ('colcrypt_audit_records_total', (SELECT s.seq FROM colcrypt.audit_state s)),
            ('colcrypt_audit_head_linked', (
                SELECT (bool_and(l.previous_hash = l.hash_before OR l.hash_before IS NULL)
                        AND max(l.seq) = max(s.seq) AND (array_agg(l.hash ORDER BY l.seq DESC))[1] = (array_agg(s.hash))[1])::int
                FROM colcrypt.audit_state s, (
                    SELECT h.*, lag(h.hash) OVER (ORDER BY h.seq) AS hash_before
                    FROM (SELECT a.seq, a.hash, a.previous_hash FROM colcrypt.audit_log a ORDER BY a.seq DESC LIMIT 1000) h) l)),
            ('colcrypt_honeytoken_alarms_total', (SELECT coalesce(sum(a.repeats), 0) FROM colcrypt.audit_log a WHERE a.outcome = 'alarm'))
            ) AS v(name, value)
        UNION ALL
        SELECT v.name, jsonb_build_object('database', r.database, 'what', v.what), v.value
        FROM reader r, LATERAL (
            SELECT n.name, o.what, CASE n.name WHEN 'colcrypt_rotations_overdue' THEN o.overdue ELSE o.failing END
            FROM (SELECT 'key', count(*) FILTER (WHERE p.overdue), count(*) FILTER (WHERE p.overdue AND p.last_error IS NOT NULL) FROM planned p
                  UNION ALL
                  SELECT 'kek', count(*) FILTER (WHERE p.overdue), count(*) FILTER (WHERE p.last_error IS NOT NULL) FROM colcrypt.kek_schedule p
                  UNION ALL
                  SELECT 'root key', count(*) FILTER (WHERE p.overdue), count(*) FILTER (WHERE p.overdue AND p.last_error IS NOT NULL)
                  FROM colcrypt.root_schedule p) o(what, overdue, failing),
                 (VALUES ('colcrypt_rotations_overdue'), ('colcrypt_rotations_failing')) n(name)) AS v(name, what, value)
        UNION ALL
        SELECT 'colcrypt_kek_keys_left', g.labels, p.keys_left FROM colcrypt.kek_schedule p JOIN rings g USING (keyring)
        UNION ALL
        SELECT v.name, c.labels || v.labels, v.value
        FROM (SELECT jsonb_build_object('database', r.database, 'column', format('%I.%I.%I', n.nspname, t.relname, q.attribute)) AS labels,
                     sum(q.rows) FILTER (WHERE q.is_current) AS current, sum(q.rows) FILTER (WHERE q.is_current IS NOT TRUE) AS older,
                     max(q.counted_at) AS counted_at
              FROM reader r CROSS JOIN (SELECT s.relation, s.attribute FROM colcrypt.census s ORDER BY s.relation, s.attribute LIMIT 500) s
              JOIN colcrypt.key_version_census q USING (relation, attribute)
              JOIN pg_catalog.pg_class t ON t.oid = q.relation
              JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
              WHERE q.counted_at IS NOT NULL
              GROUP BY 1) c,
             LATERAL (VALUES
                ('colcrypt_column_rows', '{"current": "true"}'::jsonb, coalesce(c.current, 0)::float8),
                ('colcrypt_column_rows', '{"current": "false"}', coalesce(c.older, 0)),
                ('colcrypt_column_counted_timestamp_seconds', '{}', extract(epoch FROM c.counted_at))) AS v(name, labels, value)
        UNION ALL
        SELECT 'colcrypt_open_jobs', jsonb_build_object('database', r.database, 'kind', j.kind, 'phase', j.phase), count(*)
        FROM jobs j, reader r GROUP BY r.database, j.kind, j.phase
        UNION ALL
        SELECT v.name, j.labels, v.value
        FROM (SELECT * FROM jobs ORDER BY job_id LIMIT 1000) j, LATERAL (VALUES
            ('colcrypt_job_rows', j.rows_done::float8),
            ('colcrypt_job_rows_failed', j.rows_failed),
            ('colcrypt_job_progress_ratio', CASE WHEN j.pass > 1 OR j.phase NOT IN ('queued', 'moving') AND j.kind <> 'verify_column' THEN 1 WHEN j.blocks_total > 0 THEN least(j.blocks_done::float8 / j.blocks_total, 1) END),
            ('colcrypt_job_held', (j.held_by IS NOT NULL)::int)) AS v(name, value)
        UNION ALL
        SELECT v.name, '{}', v.value
        FROM colcrypt.audit_status() s, LATERAL (VALUES
            ('colcrypt_audit_waiting', s.waiting::float8),
            ('colcrypt_audit_posted_total', s.posted),
            ('colcrypt_audit_server_log_total', s.to_server_log),
            ('colcrypt_audit_only_counted_total', s.not_recorded)) AS v(name, value)
        UNION ALL
        SELECT v.name, jsonb_build_object('database', r.database, 'escrow', e.escrow), v.value
        FROM reader r CROSS JOIN colcrypt.escrow_status e, LATERAL (VALUES
            ('colcrypt_escrow_drill_due_timestamp_seconds', extract(epoch FROM e.drill_due)::float8),
            ('colcrypt_escrow_drill_overdue', e.drill_overdue::int),
            ('colcrypt_escrow_checks_overdue', e.checks_overdue)) AS v(name, value)
        WHERE e.retired_at IS NULL
    )
    SELECT t.name, m.type, t.labels, t.value, m.help
    FROM told t LEFT JOIN colcrypt.metric_names() m USING (name)
    WHERE t.value IS NOT NULL;
GRANT SELECT ON colcrypt.metrics TO pg_monitor;
COMMENT ON VIEW colcrypt.metrics IS
    'what a monitoring system is told, a row a sample, by names and labels of OpenMetrics; no key is asked for and nothing decrypted; names of keys only for a reader who may select from key_status, others see the key''s number';
