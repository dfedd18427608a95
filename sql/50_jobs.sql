-- Registered columns and the jobs that re-encrypt them.

CREATE FUNCTION colcrypt.register_column(
        relation regclass, attribute name, key text, context text DEFAULT NULL) RETURNS void
    AS 'MODULE_PATHNAME', 'colcrypt_register_column' LANGUAGE c VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.register_column(regclass, name, text, text) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.register_column(regclass, name, text, text) IS
    'puts a ciphertext column under the care of rotation; context is the expression its values were bound to, such as colcrypt.row_context(id)';

CREATE FUNCTION colcrypt.unregister_column(relation regclass, attribute name) RETURNS void
    AS 'MODULE_PATHNAME', 'colcrypt_unregister_column' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.unregister_column(regclass, name) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.unregister_column(regclass, name) IS
    'takes a column out of the care of rotation; its values stay as they are';

CREATE FUNCTION colcrypt.reencrypt_column(relation regclass, attribute name) RETURNS bigint
    AS 'MODULE_PATHNAME', 'colcrypt_reencrypt_column' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.reencrypt_column(regclass, name) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.reencrypt_column(regclass, name) IS
    'queues a job that moves the column''s values to the current version of its key; returns the job';

CREATE VIEW colcrypt.job_progress AS
    SELECT j.job_id,
           j.relation,
           j.attribute,
           coalesce(k.name, '(dropped)') AS key,
           j.target_version,
           j.phase,
           j.rows_done,
           j.rows_failed,
           j.blocks_done,
           j.blocks_total,
           j.rows_done / nullif(extract(epoch FROM coalesce(j.finished_at, clock_timestamp()) - j.started_at)::float8, 0)
               AS rows_per_second,
           j.last_error,
           j.created_at,
           j.started_at,
           j.finished_at
    FROM colcrypt.job j LEFT JOIN colcrypt.key k USING (key_id);
COMMENT ON VIEW colcrypt.job_progress IS
    're-encryption jobs: phase is queued, moving, waiting for old transactions, verifying, done or failed';
GRANT SELECT ON colcrypt.job_progress TO pg_monitor;
