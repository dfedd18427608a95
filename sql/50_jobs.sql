-- Registered columns and the jobs that re-encrypt them.

CREATE FUNCTION colcrypt.register_column(
        relation regclass, attribute name, key text DEFAULT NULL, context text DEFAULT NULL,
        readers text[] DEFAULT NULL, plaintext_type text DEFAULT 'text', label text DEFAULT NULL, enforce boolean DEFAULT NULL,
        rotation text DEFAULT NULL, key_expression text DEFAULT NULL, keyring text DEFAULT NULL) RETURNS void
    AS 'MODULE_PATHNAME', 'colcrypt_register_column' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.register_column(regclass, name, text, text, text[], text, text, boolean, text, text, text) IS
    'puts a ciphertext column under the care of rotation; context is the expression its values are bound to, by default place_context of the label and the primary key, and ''none'' for nothing; readers and plaintext_type are for create_access_view, which keeps a length or precision (varchar(20), numeric(10,2)); enforce has a trigger refuse values of another key or type than the column''s, or without a context; rotation is reencrypt (values move to each new key version), expire or keep (they stay); with key_expression instead of key each row''s values are under a key of its own, which the expression names from the row''s other columns: one of keyring, which may be left out where there is one only';

-- Fired with the rights of whoever writes the table: it looks up by itself what the columns take.
CREATE FUNCTION colcrypt.check_encrypted_columns() RETURNS trigger
    AS 'MODULE_PATHNAME', 'colcrypt_check_encrypted_columns' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.check_encrypted_columns() IS
    'trigger: refuses what is no value of an enforced column, and binds values that follow to what they are bound to then';

CREATE FUNCTION colcrypt.follow_context(relation regclass, attribute name, follows boolean DEFAULT true) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_follow_context' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.follow_context(regclass, name, boolean) IS
    'has a registered column''s values follow when a role changes a column that they are bound to, by hand or by a foreign key, where that role may decrypt and encrypt, and the change refused where it may not; says follow, or stay where that is taken back';

CREATE FUNCTION colcrypt.unregister_column(relation regclass, attribute name) RETURNS void
    AS 'MODULE_PATHNAME', 'colcrypt_unregister_column' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.unregister_column(regclass, name) IS
    'takes a column out of the care of rotation; its values stay as they are';

CREATE FUNCTION colcrypt.reencrypt_column(
        relation regclass, attribute name, fire_triggers boolean DEFAULT false) RETURNS bigint
    AS 'MODULE_PATHNAME', 'colcrypt_reencrypt_column' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.reencrypt_column(regclass, name, boolean) IS
    'queues a job that moves the column''s values to the current version of its key, with or without the table''s triggers; returns the job';

CREATE FUNCTION colcrypt.move_column(
        relation regclass, attribute name, key text, fire_triggers boolean DEFAULT false,
        accept_unplaced boolean DEFAULT false) RETURNS bigint
    AS 'MODULE_PATHNAME', 'colcrypt_move_column' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.move_column(regclass, name, text, boolean, boolean) IS
    'registers the column for another key, of whatever suite, and queues a job that moves the values of its former key there; needs the right to manage both, and accept_unplaced for values that are not bound to their place; returns the job';

CREATE FUNCTION colcrypt.rebind_column(
        relation regclass, attribute name, context text DEFAULT NULL, label text DEFAULT NULL,
        fire_triggers boolean DEFAULT false, accept_unplaced boolean DEFAULT false) RETURNS bigint
    AS 'MODULE_PATHNAME', 'colcrypt_rebind_column' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.rebind_column(regclass, name, text, text, boolean, boolean) IS
    'queues a job that binds the column''s values to another context, by default to their place: place_context of the label and the primary key; until it is done, what is registered opens both kinds; returns the job';

CREATE FUNCTION colcrypt.verify_column(relation regclass, attribute name) RETURNS bigint
    AS 'MODULE_PATHNAME', 'colcrypt_verify_column' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.verify_column(regclass, name) IS
    'queues a job that opens every value of a registered column, in batches with rests, and writes nothing; rows whose value does not open, or is under another key than the column''s or its row''s own, are listed in job_error with place, key, version and reason; returns the job';

CREATE FUNCTION colcrypt.pause_job(job bigint) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_pause_job' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.pause_job(bigint) IS
    'stops a job after the batch at hand until resume_job; says paused';

CREATE FUNCTION colcrypt.resume_job(job bigint) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_resume_job' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.resume_job(bigint) IS
    'lets a paused job go on where it was; says resumed';

CREATE FUNCTION colcrypt.cancel_job(job bigint) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_cancel_job' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.cancel_job(bigint) IS
    'ends a job after the batch at hand; rows that it moved stay moved; says cancelled';

CREATE FUNCTION colcrypt.retry_job(job bigint) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_retry_job' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.retry_job(bigint) IS
    'tries again the rows of a failed job that are listed in job_error; says queued';

-- For the worker: whether a time is in a window as colcrypt.rotation_time and colcrypt.job_window have them.
CREATE FUNCTION colcrypt.is_in_window(time_window text, moment timestamptz) RETURNS boolean
    LANGUAGE sql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT CASE WHEN opens < closes THEN t >= opens AND t < closes ELSE t >= opens OR t < closes END
        FROM (SELECT (moment AT TIME ZONE current_setting('log_timezone'))::time AS t,
                     split_part(s, '-', 1)::time AS opens,
                     coalesce(nullif(split_part(s, '-', 2), '')::time, split_part(s, '-', 1)::time + '1 hour') AS closes
              FROM trim(time_window) s) w
    $$;
COMMENT ON FUNCTION colcrypt.is_in_window(text, timestamptz) IS
    'whether a moment is in a daily window such as 22:00-04:00, in log_timezone';

CREATE VIEW colcrypt.job_progress AS
    SELECT j.job_id,
           CASE WHEN c.oid IS NOT NULL THEN j.relation END AS relation,
           coalesce(m.attribute, s.attribute, j.attribute) AS attribute,
           CASE WHEN j.key_id IS NOT NULL THEN coalesce(k.name, '(dropped)') END AS key,
           j.target_version,
           j.phase,
           CASE WHEN j.finished_at IS NULL THEN CASE WHEN j.paused THEN 'paused' ELSE j.held_by END END AS held_by,
           j.rows_done,
           j.rows_failed,
           j.rows_estimate,
           j.blocks_done,
           j.blocks_total,
           j.rows_done / nullif(extract(epoch FROM j.worked)::float8, 0) AS rows_per_second,
           j.wal_bytes,
           CASE WHEN j.phase IN ('moving', 'filling') AND j.passes = 1 AND j.blocks_done > 0
                THEN j.worked * ((j.blocks_total - j.blocks_done)::float8 / j.blocks_done) END AS time_left,
           j.last_error,
           j.created_at,
           j.started_at,
           j.finished_at,
           coalesce(m.kind || '_column', CASE WHEN s.drops THEN 'drop_search_index' WHEN s.job_id IS NOT NULL THEN 'create_search_index' WHEN j.verifies THEN 'verify_column' WHEN j.rebinds THEN 'rebind_column' WHEN j.from_keys <> '{}' THEN 'move_column' ELSE 'reencrypt_column' END) AS kind,
           j.passes AS pass,
           CASE WHEN c.oid IS NULL THEN '(dropped)' ELSE format('%I.%I', n.nspname, c.relname) END AS "table"
    FROM colcrypt.job j LEFT JOIN colcrypt.key k USING (key_id) LEFT JOIN colcrypt.migration m USING (job_id)
    LEFT JOIN colcrypt.search_job s USING (job_id)
    LEFT JOIN pg_catalog.pg_class c ON c.oid = j.relation
    LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace;
COMMENT ON VIEW colcrypt.job_progress IS
    'jobs: kind is the function that orders such a job; phase is queued, moving, retrying, waiting for old transactions, verifying, done, failed or cancelled, of migrations also swapping, scrubbing, vacuuming and cancelling, of search indexes filling, indexing, checking and cancelling; held_by is what keeps an open one from moving rows now; rows_estimate is all rows of the table, as last analyzed; pass is how many times the table was gone through, with the time at hand, and blocks_done is of this pass; time_left is for the first; key is null where all keys by row are concerned; of a table that was dropped, relation is null and table (dropped)';
GRANT SELECT ON colcrypt.job_progress TO pg_monitor;

-- In the manner of the server's own views of progress, for what reads those.
CREATE VIEW colcrypt.stat_progress AS
    SELECT CASE WHEN j.phase <> 'queued' AND w.workers = 1 THEN w.pid END AS pid,
           d.oid AS datid,
           d.datname,
           j.relation::oid AS relid,
           j.job_id,
           j.kind AS command,
           coalesce('held: ' || j.held_by, j.phase) AS phase,
           j.pass,
           j.blocks_total,
           j.blocks_done,
           j.rows_estimate AS tuples_total,
           j.rows_done AS tuples_done,
           j.rows_failed AS tuples_failed
    FROM colcrypt.job_progress j
    CROSS JOIN (SELECT count(*) AS workers, min(a.pid) AS pid FROM pg_catalog.pg_stat_activity a
                WHERE a.datname = current_database() AND a.backend_type = 'colcrypt maintenance worker') w
    JOIN pg_catalog.pg_database d ON d.datname = current_database()
    WHERE j.finished_at IS NULL;
COMMENT ON VIEW colcrypt.stat_progress IS
    'jobs that are queued or under way, as pg_stat_progress_vacuum shows vacuums: pid is the worker that has them in turn, null where two are at work; phase says what holds a job, or what is done; tuples_total is an estimate of all rows of the table, and tuples_done counts those of later passes once more';
GRANT SELECT ON colcrypt.stat_progress TO pg_monitor;

-- Names for people, where protected_column has numbers.
CREATE VIEW colcrypt.registered_columns AS
    SELECT n.nspname AS schema,
           coalesce(c.relname, '(dropped)') AS "table",
           p.attribute AS "column",
           CASE WHEN p.key_id IS NOT NULL THEN coalesce(k.name, '(dropped)') END AS key,
           p.key_expression,
           r.name AS keyring,
           coalesce(p.declared, CASE WHEN t.oid IS NULL THEN '(dropped)' ELSE format_type(t.oid, NULL) END) AS plaintext_type,
           p.label,
           p.context,
           p.becomes AS context_after_rebinding,
           p.enforce,
           p.follows,
           p.rotation,
           p.readers,
           p.registered_at
    FROM colcrypt.protected_column p
    LEFT JOIN pg_catalog.pg_class c ON c.oid = p.relation
    LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_catalog.pg_type t ON t.oid = p.plaintext_type
    LEFT JOIN colcrypt.key k ON k.key_id = p.key_id
    LEFT JOIN colcrypt.keyring r ON r.keyring_id = coalesce(p.keyring_id, k.keyring_id);
COMMENT ON VIEW colcrypt.registered_columns IS
    'columns under the care of rotation, with names: of a table, key or type that was dropped, (dropped); key is null where each row has a key of its own, which key_expression names';
GRANT SELECT ON colcrypt.registered_columns TO pg_monitor;

CREATE VIEW colcrypt.key_version_census AS
    SELECT CASE WHEN t.oid IS NOT NULL THEN p.relation END AS relation, p.attribute, coalesce(k.name, CASE WHEN r.key_id IS NOT NULL THEN '(dropped)' END) AS key, r.version,
           r.version = k.current_version AS is_current, r.rows, c.counted_at, c.counted_by, p.rotation,
           coalesce(v.shreds, false) AS shredded,
           CASE WHEN t.oid IS NULL THEN '(dropped)' ELSE format('%I.%I', n.nspname, t.relname) END AS "table"
    FROM colcrypt.protected_column p
    LEFT JOIN colcrypt.census c USING (relation, attribute)
    LEFT JOIN LATERAL jsonb_to_recordset(c.counts) AS r(key_id bigint, version int, rows bigint) ON true
    LEFT JOIN colcrypt.key k ON k.key_id = r.key_id
    LEFT JOIN colcrypt.key_version v ON v.key_id = r.key_id AND v.version = r.version
    LEFT JOIN pg_catalog.pg_class t ON t.oid = p.relation
    LEFT JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace;
COMMENT ON VIEW colcrypt.key_version_census IS
    'rows of each registered column by key version, exact as of counted_at: when the last job on it verified its work, or take_census counted; all null is never counted, or no rows; rotation is what becomes of rows under older versions; shredded where the version is destroyed, or will be, although they need it; of a table that was dropped, relation is null and table (dropped)';
GRANT SELECT ON colcrypt.key_version_census TO pg_monitor;

CREATE FUNCTION colcrypt.take_census(
        relation regclass, attribute name, OUT key text, OUT version int, OUT "rows" bigint, OUT kept bigint) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'colcrypt_take_census' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.take_census(regclass, name) IS
    'counts a registered column''s rows by key version now, in one snapshot, for key_version_census; kept is what that said before';
