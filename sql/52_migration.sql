-- Columns encrypted or decrypted in place, while the application runs.

CREATE TRIGGER catalog_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON colcrypt.migration
    FOR EACH STATEMENT EXECUTE FUNCTION colcrypt.catalog_changed();
ALTER TABLE colcrypt.migration ENABLE ALWAYS TRIGGER catalog_changed;
CREATE TRIGGER catalog_changes BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON colcrypt.migration
    FOR EACH STATEMENT EXECUTE FUNCTION colcrypt.catalog_changed();
ALTER TABLE colcrypt.migration ENABLE ALWAYS TRIGGER catalog_changes;
CREATE TRIGGER catalog_changed_row AFTER INSERT OR UPDATE OR DELETE ON colcrypt.migration
    FOR EACH ROW EXECUTE FUNCTION colcrypt.catalog_changed();
ALTER TABLE colcrypt.migration ENABLE REPLICA TRIGGER catalog_changed_row;
REVOKE ALL ON colcrypt.migration FROM PUBLIC;
GRANT SELECT ON colcrypt.migration TO pg_monitor;

CREATE FUNCTION colcrypt.encrypt_column(
        relation regclass, attribute name, key text, context text DEFAULT NULL, readers text[] DEFAULT NULL,
        access_view boolean DEFAULT true, table_name name DEFAULT NULL,
        accept_losses boolean DEFAULT false, dry_run boolean DEFAULT false, label text DEFAULT NULL,
        search_key text DEFAULT NULL,
        OUT job bigint, OUT object text, OUT becomes text) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'colcrypt_encrypt_column' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.encrypt_column(regclass, name, text, text, text[], boolean, name, boolean, boolean, text, text) IS
    'queues a job that encrypts a column in place while the application runs, and drops the plaintext; values are bound to their place, or to another context, or with ''none'' to nothing; with search_key a search index of equality, unique where the values are, is made first and takes the place of the column''s own; says what becomes of everything that hangs on the column; dry_run only says it';

CREATE FUNCTION colcrypt.decrypt_column(
        relation regclass, attribute name, accept_losses boolean DEFAULT false, dry_run boolean DEFAULT false,
        accept_unplaced boolean DEFAULT false,
        OUT job bigint, OUT object text, OUT becomes text) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'colcrypt_decrypt_column' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.decrypt_column(regclass, name, boolean, boolean, boolean) IS
    'queues a job that turns a registered column into plaintext in place, while the application runs; needs the right to decrypt, and accept_unplaced for values that are not bound to their place; dry_run only says what becomes of everything that hangs on the column';

-- Fired with the rights of whoever writes the table: it looks up by itself whether there is a migration.
CREATE FUNCTION colcrypt.keep_in_step() RETURNS trigger
    AS 'MODULE_PATHNAME', 'colcrypt_keep_in_step' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.keep_in_step() IS
    'trigger: keeps a column that is being migrated and its successor in step';

CREATE FUNCTION colcrypt.plaintext_left(job bigint) RETURNS TABLE (place text, state text, remedy text)
    LANGUAGE sql STABLE STRICT PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp
    AS $$
        WITH RECURSIVE migration AS (
            SELECT m.*, j.phase, j.finished_at, j.phase = 'done' AS done
            FROM colcrypt.migration m JOIN colcrypt.job_progress j USING (job_id)
            WHERE m.job_id = plaintext_left.job AND m.kind = 'encrypt'
        ), tree(relid) AS (
            (SELECT relation::oid FROM migration UNION SELECT unnest(swapped_with)::oid FROM migration)
            UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree t ON i.inhparent = t.relid
        )
        SELECT l.place, l.state, l.remedy FROM migration m CROSS JOIN LATERAL (VALUES
            (1, 'the column',
             CASE WHEN m.swapped_at IS NULL THEN format('still there: the job is %s', m.phase)
                  ELSE format('dropped at %s', m.swapped_at) END,
             CASE WHEN m.swapped_at IS NULL THEN 'wait for the swap' ELSE 'none needed' END),
            (2, 'rows and dead row versions',
             CASE WHEN m.done THEN format('every row was written anew and the table vacuumed by %s', m.finished_at)
                  ELSE format('may hold it: the job is %s', m.phase) END,
             CASE WHEN m.done THEN 'none needed' ELSE 'end old transactions, drop unused replication slots, wait for the job' END),
            (3, 'free space in the table''s files',
             format('%s dead row versions now; what was freed is overwritten only when the space is used again',
                    (SELECT coalesce(sum(s.n_dead_tup), 0) FROM tree t JOIN pg_stat_all_tables s USING (relid))),
             (SELECT string_agg(format('VACUUM FULL %s', t.relid::regclass), '; ') FROM tree t JOIN pg_class c ON c.oid = t.relid
              WHERE c.relkind = 'r') || ' (locks the table), then let the file system discard the old files'),
            (4, 'WAL',
             format('up to the end of the job; the swap was at %s, the last checkpoint at %s', m.swapped_lsn,
                    (SELECT redo_lsn FROM pg_control_checkpoint())),
             'CHECKPOINT and switch segments; expire archived WAL from before'),
            (5, 'replication slots',
             coalesce((SELECT string_agg(format('%s keeps WAL from %s', s.slot_name, s.restart_lsn), ', ')
                       FROM pg_replication_slots s WHERE s.restart_lsn < m.swapped_lsn), 'none keeps WAL from before the swap'),
             'drop those that nobody reads'),
            (6, 'backups and dumps',
             format('all that were made before %s', coalesce(m.finished_at::text, 'the end of the job')),
             'make a new one, expire the old'),
            (7, 'statistics (pg_statistic)',
             CASE WHEN m.done THEN 'dropped with the column, and vacuumed' ELSE format('may hold samples: the job is %s', m.phase) END,
             CASE WHEN m.done THEN 'none needed' ELSE 'wait for the job' END),
            (8, 'the server log',
             format('statements are logged with log_statement = %s, log_min_duration_statement = %s, log_parameter_max_length = %s',
                    current_setting('log_statement'), current_setting('log_min_duration_statement'), current_setting('log_parameter_max_length')),
             'expire old logs; for the time to come see log_parameter_max_length'),
            (9, 'pg_stat_statements',
             CASE WHEN EXISTS (SELECT FROM pg_extension e WHERE e.extname = 'pg_stat_statements')
                  THEN 'installed: texts of utility statements hold their literals' ELSE 'not installed here' END,
             CASE WHEN EXISTS (SELECT FROM pg_extension e WHERE e.extname = 'pg_stat_statements')
                  THEN 'SELECT pg_stat_statements_reset()' ELSE 'none needed' END),
            (10, 'tables detached before the swap',
             coalesce((SELECT string_agg(format('%s keeps column %I as it was', a.attrelid::regclass, m.attribute), ', ')
                       FROM pg_attribute a WHERE a.attrelid = ANY (m.began_with) AND a.attrelid <> ALL (coalesce(m.swapped_with, '{}'))
                         AND a.attname = m.attribute AND a.atttypid = m.plaintext_type AND NOT a.attisdropped
                         AND m.swapped_in IS NOT NULL), 'none'),
             'encrypt_column for each, or drop what nobody needs'),
            (11, 'copies elsewhere', 'not looked for: other tables, materialized views, subscribers, exports, caches', 'yours to know')
        ) AS l(nr, place, state, remedy) ORDER BY l.nr
    $$;
GRANT EXECUTE ON FUNCTION colcrypt.plaintext_left(bigint) TO pg_monitor;
COMMENT ON FUNCTION colcrypt.plaintext_left(bigint) IS
    'where plaintext of a column that a job encrypted in place may still lie, and what to do about each place';
