-- From release 0.1.0 (sql/releases/colcrypt--0.1.0.sql, frozen) to 0.2.0. A test compares what this makes with a fresh
-- installation. What is dropped here keeps its symbol in src/sql/legacy.rs: the server wants it while 0.1.0 is restored.

-- Whoever owns the schema may give it another name, and put one of his own in its place, which superuser's code of ours
-- would believe.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid = n.nspowner
               WHERE n.nspname = 'colcrypt' AND NOT r.rolsuper) THEN
        RAISE EXCEPTION 'the schema "colcrypt" is there already, and belongs to a role that is no superuser'
            USING ERRCODE = 'insufficient_privilege', HINT = 'Look at what is in it and drop it, or give it to a superuser.';
    END IF;
END
$$;

-- Power is not lent: a job re-encrypts between its statements.
DROP FUNCTION colcrypt.reencrypt_col_to(colcrypt.ciphertext, bigint);
DROP FUNCTION colcrypt.reencrypt_col_to(colcrypt.ciphertext, bigint, bytea);
CREATE FUNCTION colcrypt.is_in_batch(row_address tid, column_number smallint, value colcrypt.ciphertext) RETURNS boolean
    AS 'MODULE_PATHNAME', 'colcrypt_is_in_batch' LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 5;
COMMENT ON FUNCTION colcrypt.is_in_batch(tid, smallint, colcrypt.ciphertext) IS
    'for the maintenance worker: whether the batch at hand has a new value in place of this one';
CREATE FUNCTION colcrypt.batch_value(row_address tid, column_number smallint, value colcrypt.ciphertext) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_batch_value' LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 5;
COMMENT ON FUNCTION colcrypt.batch_value(tid, smallint, colcrypt.ciphertext) IS
    'for the maintenance worker: what the batch at hand puts in place of this value, or the value itself';


ALTER TABLE colcrypt.migration ADD COLUMN origins text[];
-- Kind 7: a place is part of what is bound.
CREATE FUNCTION colcrypt.place_context(label text) RETURNS colcrypt.context
    AS 'MODULE_PATHNAME', 'colcrypt_place_context' LANGUAGE c STABLE PARALLEL SAFE COST 10;
COMMENT ON FUNCTION colcrypt.place_context(text) IS
    'a context of a place alone: the label of a column, such as ''customer.iban''';
CREATE FUNCTION colcrypt.place_context(label text, VARIADIC "any") RETURNS colcrypt.context
    AS 'MODULE_PATHNAME', 'colcrypt_place_context' LANGUAGE c STABLE PARALLEL SAFE COST 10;
COMMENT ON FUNCTION colcrypt.place_context(text, "any") IS
    'a context of a place: the label of a column and the row''s primary key, such as place_context(''customer.iban'', id)';

-- Prepared transactions are remembered by their ids, not by the clock. What waits in this moment looks anew for who was prepared.
ALTER TABLE colcrypt.job ADD COLUMN settle_prepared text[];
ALTER TABLE colcrypt.destruction ADD COLUMN settle_prepared text[];
UPDATE colcrypt.destruction SET settle_transactions = '{}' WHERE settle_before IS NOT NULL AND settle_transactions IS NULL;

-- Kind 4: keyrings have grants of their own, and what loosens a rule can wait.
CREATE TABLE colcrypt.keyring_grant (
    keyring_id uuid NOT NULL,
    grantee regrole NOT NULL,
    can_create boolean NOT NULL,
    can_manage boolean NOT NULL,
    PRIMARY KEY (keyring_id, grantee)
);
COMMENT ON TABLE colcrypt.keyring_grant IS 'which roles may make keys in a keyring or manage it; role 0 is PUBLIC';
REVOKE ALL ON colcrypt.keyring_grant FROM PUBLIC;
CREATE TRIGGER catalog_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON colcrypt.keyring_grant
    FOR EACH STATEMENT EXECUTE FUNCTION colcrypt.catalog_changed();
ALTER TABLE colcrypt.keyring_grant ENABLE ALWAYS TRIGGER catalog_changed;
SELECT pg_catalog.pg_extension_config_dump('colcrypt.keyring_grant',
    'WHERE grantee::oid = 0 OR EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = grantee)');
-- 0.1.0 let manage a keyring who may manage each of its keys: those keep it, and nobody gets more than he had. A keyring without
-- a key, or whose keys have no manager in common, is for superusers until they grant it.
INSERT INTO colcrypt.keyring_grant (keyring_id, grantee, can_create, can_manage)
    SELECT k.keyring_id, g.grantee, true, true
    FROM colcrypt.key k JOIN colcrypt.key_grant g USING (key_id)
    WHERE g.can_manage AND g.grantee::oid <> 0 AND EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = g.grantee)
    GROUP BY k.keyring_id, g.grantee
    HAVING count(*) = (SELECT count(*) FROM colcrypt.key o WHERE o.keyring_id = k.keyring_id);
CREATE FUNCTION colcrypt.grant_keyring(
        keyring text, role text, privileges text[] DEFAULT '{create}') RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_grant_keyring' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.grant_keyring(text, text, text[]) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.grant_keyring(text, text, text[]) IS
    'lets a role make keys in a keyring (create), or change its root keys, its rules and these grants (manage); PUBLIC may be given the first; says granted';

CREATE OR REPLACE FUNCTION colcrypt.revoke_key(
        key text, role text, privileges text[] DEFAULT '{encrypt,decrypt,search}') RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_revoke_key' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.revoke_key(text, text, text[]) IS
    'takes privileges on a key away, by default all but manage; every session sees it at its next statement; says revoked';
CREATE FUNCTION colcrypt.revoke_keyring(
        keyring text, role text, privileges text[] DEFAULT '{create}') RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_revoke_keyring' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.revoke_keyring(text, text, text[]) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.revoke_keyring(text, text, text[]) IS
    'takes privileges on a keyring away; says revoked';
CREATE VIEW colcrypt.keyring_privileges AS
    SELECT k.name AS keyring,
           CASE WHEN g.grantee::oid = 0 THEN 'PUBLIC' ELSE r.rolname END AS grantee,
           g.can_create AS "create",
           g.can_manage AS manage
    FROM colcrypt.keyring_grant g
    JOIN colcrypt.keyring k USING (keyring_id)
    LEFT JOIN pg_catalog.pg_roles r ON r.oid = g.grantee
    WHERE g.grantee::oid = 0 OR r.oid IS NOT NULL;
COMMENT ON VIEW colcrypt.keyring_privileges IS
    'who was granted what on which keyring; superusers need no grant, and members of a role inherit its grants';
GRANT SELECT ON colcrypt.keyring_privileges TO pg_monitor;

-- These say now what became of the call. Who may call them may call them still.
DO $$
DECLARE
    kept jsonb;
    one jsonb;
BEGIN
    SELECT coalesce(jsonb_agg(jsonb_build_object('call', p.oid::regprocedure::text, 'role', CASE WHEN a.grantee <> 0 THEN quote_ident(r.rolname) ELSE 'PUBLIC' END,
                                                 'option', CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)), '[]')
    INTO kept
    FROM pg_proc p, aclexplode(p.proacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
    WHERE p.pronamespace = 'colcrypt'::regnamespace AND a.grantee <> p.proowner AND (a.grantee = 0 OR r.oid IS NOT NULL)
      AND p.proname IN ('alter_provider', 'set_cryptoperiods', 'set_usage_bound', 'set_compression');
    DROP FUNCTION colcrypt.alter_provider(text, jsonb);
    DROP FUNCTION colcrypt.set_cryptoperiods(text, interval, interval);
    DROP FUNCTION colcrypt.set_usage_bound(text, bigint);
    DROP FUNCTION colcrypt.set_compression(text, text);
    CREATE FUNCTION colcrypt.alter_provider(name text, config jsonb) RETURNS text
        AS 'MODULE_PATHNAME', 'colcrypt_alter_provider' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
    REVOKE ALL ON FUNCTION colcrypt.alter_provider(text, jsonb) FROM PUBLIC;
    COMMENT ON FUNCTION colcrypt.alter_provider(text, jsonb) IS
        'gives a provider other settings, such as the new place of the same root key; refused unless every key encryption key there opens to the same check value; needs the right to manage each keyring there, and waits where one asks for four eyes; says altered';
    CREATE FUNCTION colcrypt.set_cryptoperiods(key text, originator interval, recipient interval) RETURNS text
        AS 'MODULE_PATHNAME', 'colcrypt_set_cryptoperiods' LANGUAGE c VOLATILE PARALLEL UNSAFE;
    REVOKE ALL ON FUNCTION colcrypt.set_cryptoperiods(text, interval, interval) FROM PUBLIC;
    COMMENT ON FUNCTION colcrypt.set_cryptoperiods(text, interval, interval) IS
        'how long a version of the key may encrypt after its activation, and how long after that it may decrypt; null is without end; on a four-eyes keyring a longer one waits; says set';
    CREATE FUNCTION colcrypt.set_usage_bound(key text, bound bigint) RETURNS text
        AS 'MODULE_PATHNAME', 'colcrypt_set_usage_bound' LANGUAGE c VOLATILE PARALLEL UNSAFE;
    REVOKE ALL ON FUNCTION colcrypt.set_usage_bound(text, bigint) FROM PUBLIC;
    COMMENT ON FUNCTION colcrypt.set_usage_bound(text, bigint) IS
        'how many values a version of the key may encrypt, of which colcrypt.usage_refuse percent are allowed; null is the suite''s bound, which is the highest; on a four-eyes keyring a higher one waits; says set';
    CREATE FUNCTION colcrypt.set_compression(key text, method text) RETURNS text
        AS 'MODULE_PATHNAME', 'colcrypt_set_compression' LANGUAGE c VOLATILE PARALLEL UNSAFE;
    REVOKE ALL ON FUNCTION colcrypt.set_compression(text, text) FROM PUBLIC;
    COMMENT ON FUNCTION colcrypt.set_compression(text, text) IS
        'whether values written from now on are compressed before encryption, by lz4, or not, null; their length then tells something of their content, see docs/security.md, so on a four-eyes keyring it waits; says set';
    FOR one IN SELECT * FROM jsonb_array_elements(kept) LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s%s', one->>'call', one->>'role', one->>'option');
    END LOOP;
END
$$;

-- Kind 5: the record says what it lacks.
DROP FUNCTION colcrypt.verify_audit_log(bigint, text);
DROP FUNCTION colcrypt.audit_status();
CREATE FUNCTION colcrypt.verify_audit_log(
        anchor_seq bigint DEFAULT NULL, anchor_hash text DEFAULT NULL,
        OUT ok boolean, OUT events bigint, OUT head_seq bigint, OUT head_hash text,
        OUT first_bad bigint, OUT problem text, OUT not_recorded bigint)
    AS 'MODULE_PATHNAME', 'colcrypt_verify_audit_log' LANGUAGE c VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.verify_audit_log(bigint, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION colcrypt.verify_audit_log(bigint, text) TO pg_monitor;
COMMENT ON FUNCTION colcrypt.verify_audit_log(bigint, text) IS
    'recomputes the audit log''s hash chain and finds the first edit, gap, insertion or reordering; a seq and hash written down elsewhere show a cut tail and a log that was written again from its beginning; not_recorded is how many events have no record of their own';

CREATE FUNCTION colcrypt.audit_status(
        OUT ring_events int, OUT waiting int, OUT posted bigint, OUT to_server_log bigint, OUT not_recorded bigint)
    AS 'MODULE_PATHNAME', 'colcrypt_audit_status' LANGUAGE c VOLATILE PARALLEL RESTRICTED;
REVOKE ALL ON FUNCTION colcrypt.audit_status() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION colcrypt.audit_status() TO pg_monitor;
COMMENT ON FUNCTION colcrypt.audit_status() IS
    'events on their way into the audit log through shared memory, how many went to the server log instead, and how many were only counted';
-- What somebody changes by hand, past the functions.
CREATE FUNCTION colcrypt.changed_by_hand() RETURNS trigger
    AS 'MODULE_PATHNAME', 'colcrypt_changed_by_hand' LANGUAGE c;
COMMENT ON FUNCTION colcrypt.changed_by_hand() IS
    'trigger: records in the audit log what somebody changed in the key catalog past the functions';
REVOKE ALL ON FUNCTION colcrypt.changed_by_hand() FROM PUBLIC;
DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['provider', 'keyring', 'keyring_grant', 'kek_version', 'kek_copy', 'key', 'key_version', 'key_grant',
                             'protected_column', 'honeytoken', 'approval_request'] LOOP
        EXECUTE format('CREATE TRIGGER by_hand_row AFTER INSERT OR UPDATE OR DELETE ON colcrypt.%I '
                       'FOR EACH ROW EXECUTE FUNCTION colcrypt.changed_by_hand()', t);
        EXECUTE format('ALTER TABLE colcrypt.%I ENABLE ALWAYS TRIGGER by_hand_row', t);
    END LOOP;
    FOREACH t IN ARRAY ARRAY['provider', 'keyring', 'keyring_grant', 'kek_version', 'kek_copy', 'key', 'key_version', 'key_grant',
                             'protected_column', 'honeytoken', 'approval_request', 'audit_outbox', 'audit_state'] LOOP
        EXECUTE format('CREATE TRIGGER by_hand AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON colcrypt.%I '
                       'FOR EACH STATEMENT EXECUTE FUNCTION colcrypt.changed_by_hand()', t);
        EXECUTE format('ALTER TABLE colcrypt.%I ENABLE ALWAYS TRIGGER by_hand', t);
    END LOOP;
END
$$;
ALTER TABLE colcrypt.honeytoken ADD COLUMN derived int;
CREATE INDEX honeytoken_origin ON colcrypt.honeytoken (key_id, origin);

-- Kind 7: the place is bound by default, values move to it, and what is bound to no place is not taken along unasked.
ALTER TABLE colcrypt.protected_column ADD COLUMN label text COLLATE "C" UNIQUE, ADD COLUMN becomes text,
    ADD COLUMN enforce boolean NOT NULL DEFAULT false,
    ADD COLUMN rotation text NOT NULL DEFAULT 'reencrypt' CHECK (rotation IN ('reencrypt', 'expire', 'keep'));
ALTER TABLE colcrypt.job ADD COLUMN rebinds boolean NOT NULL DEFAULT false, ADD COLUMN strays bigint NOT NULL DEFAULT 0,
    ADD COLUMN label text, ADD COLUMN accept_unplaced boolean NOT NULL DEFAULT false;
ALTER TABLE colcrypt.migration ADD COLUMN label text, ADD COLUMN accept_unplaced boolean NOT NULL DEFAULT false;
-- What was ordered before goes on as it was ordered.
UPDATE colcrypt.job SET accept_unplaced = true;
UPDATE colcrypt.migration SET accept_unplaced = true;
DO $$
BEGIN
    -- Who may call them may call them still.
    PERFORM set_config('colcrypt_update.kept', (
        SELECT coalesce(jsonb_agg(jsonb_build_object(
            'name', p.proname, 'role', CASE WHEN a.grantee <> 0 THEN quote_ident(r.rolname) ELSE 'PUBLIC' END,
            'option', CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)), '[]')
        FROM pg_proc p, aclexplode(p.proacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
        WHERE p.pronamespace = 'colcrypt'::regnamespace AND a.grantee <> p.proowner AND (a.grantee = 0 OR r.oid IS NOT NULL)
          AND p.proname IN ('register_column', 'move_column', 'encrypt_column', 'decrypt_column'))::text, true);
END
$$;
DROP FUNCTION colcrypt.register_column(regclass, name, text, text, text[], regtype);
CREATE FUNCTION colcrypt.register_column(
        relation regclass, attribute name, key text DEFAULT NULL, context text DEFAULT NULL,
        readers text[] DEFAULT NULL, plaintext_type text DEFAULT 'text', label text DEFAULT NULL, enforce boolean DEFAULT NULL,
        rotation text DEFAULT NULL, key_expression text DEFAULT NULL, keyring text DEFAULT NULL) RETURNS void
    AS 'MODULE_PATHNAME', 'colcrypt_register_column' LANGUAGE c VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.register_column(regclass, name, text, text, text[], text, text, boolean, text, text, text) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.register_column(regclass, name, text, text, text[], text, text, boolean, text, text, text) IS
    'puts a ciphertext column under the care of rotation; context is the expression its values are bound to, by default place_context of the label and the primary key, and ''none'' for nothing; readers and plaintext_type are for create_access_view, which keeps a length or precision (varchar(20), numeric(10,2)); enforce has a trigger refuse values of another key or type than the column''s, or without a context; rotation is reencrypt (values move to each new key version), expire or keep (they stay); with key_expression instead of key each row''s values are under a key of its own, which the expression names from the row''s other columns: one of keyring, which may be left out where there is one only';
CREATE FUNCTION colcrypt.check_encrypted_columns() RETURNS trigger
    AS 'MODULE_PATHNAME', 'colcrypt_check_encrypted_columns' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.check_encrypted_columns() IS
    'trigger: refuses what is no value of an enforced column, and binds values that follow to what they are bound to then';
DROP FUNCTION colcrypt.move_column(regclass, name, text, boolean);
CREATE FUNCTION colcrypt.move_column(
        relation regclass, attribute name, key text, fire_triggers boolean DEFAULT false,
        accept_unplaced boolean DEFAULT false) RETURNS bigint
    AS 'MODULE_PATHNAME', 'colcrypt_move_column' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.move_column(regclass, name, text, boolean, boolean) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.move_column(regclass, name, text, boolean, boolean) IS
    'registers the column for another key, of whatever suite, and queues a job that moves the values of its former key there; needs the right to manage both, and accept_unplaced for values that are not bound to their place; returns the job';
CREATE FUNCTION colcrypt.rebind_column(
        relation regclass, attribute name, context text DEFAULT NULL, label text DEFAULT NULL,
        fire_triggers boolean DEFAULT false, accept_unplaced boolean DEFAULT false) RETURNS bigint
    AS 'MODULE_PATHNAME', 'colcrypt_rebind_column' LANGUAGE c VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.rebind_column(regclass, name, text, text, boolean, boolean) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.rebind_column(regclass, name, text, text, boolean, boolean) IS
    'queues a job that binds the column''s values to another context, by default to their place: place_context of the label and the primary key; until it is done, what is registered opens both kinds; returns the job';
DROP FUNCTION colcrypt.encrypt_column(regclass, name, text, text, text[], boolean, name, boolean, boolean);
CREATE FUNCTION colcrypt.encrypt_column(
        relation regclass, attribute name, key text, context text DEFAULT NULL, readers text[] DEFAULT NULL,
        access_view boolean DEFAULT true, table_name name DEFAULT NULL,
        accept_losses boolean DEFAULT false, dry_run boolean DEFAULT false, label text DEFAULT NULL,
        search_key text DEFAULT NULL,
        OUT job bigint, OUT object text, OUT becomes text) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'colcrypt_encrypt_column' LANGUAGE c VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.encrypt_column(regclass, name, text, text, text[], boolean, name, boolean, boolean, text, text) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.encrypt_column(regclass, name, text, text, text[], boolean, name, boolean, boolean, text, text) IS
    'queues a job that encrypts a column in place while the application runs, and drops the plaintext; values are bound to their place, or to another context, or with ''none'' to nothing; with search_key a search index of equality, unique where the values are, is made first and takes the place of the column''s own; says what becomes of everything that hangs on the column; dry_run only says it';
DROP FUNCTION colcrypt.decrypt_column(regclass, name, boolean, boolean);
CREATE FUNCTION colcrypt.decrypt_column(
        relation regclass, attribute name, accept_losses boolean DEFAULT false, dry_run boolean DEFAULT false,
        accept_unplaced boolean DEFAULT false,
        OUT job bigint, OUT object text, OUT becomes text) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'colcrypt_decrypt_column' LANGUAGE c VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.decrypt_column(regclass, name, boolean, boolean, boolean) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.decrypt_column(regclass, name, boolean, boolean, boolean) IS
    'queues a job that turns a registered column into plaintext in place, while the application runs; needs the right to decrypt, and accept_unplaced for values that are not bound to their place; dry_run only says what becomes of everything that hangs on the column';
DO $$
DECLARE
    one jsonb;
    f regprocedure;
BEGIN
    FOR one IN SELECT * FROM jsonb_array_elements(current_setting('colcrypt_update.kept')::jsonb) LOOP
        FOR f IN SELECT oid FROM pg_proc WHERE pronamespace = 'colcrypt'::regnamespace AND proname = one->>'name' LOOP
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s%s', f, one->>'role', one->>'option');
        END LOOP;
    END LOOP;
END
$$;
CREATE FUNCTION colcrypt.either_context(context bytea, former bytea) RETURNS colcrypt.context
    AS 'MODULE_PATHNAME', 'colcrypt_either_context' LANGUAGE c IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION colcrypt.either_context(bytea, bytea) IS
    'a context to write values with the first and read them with either, while rebind_column is under way: either_context(place_context(''customer.iban'', id), row_context(id)); an empty one is none';
CREATE OR REPLACE VIEW colcrypt.job_progress AS
    SELECT j.job_id,
           j.relation,
           coalesce(m.attribute, j.attribute) AS attribute,
           coalesce(k.name, '(dropped)') AS key,
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
           CASE WHEN j.phase = 'moving' AND j.passes = 1 AND j.blocks_done > 0
                THEN j.worked * ((j.blocks_total - j.blocks_done)::float8 / j.blocks_done) END AS time_left,
           j.last_error,
           j.created_at,
           j.started_at,
           j.finished_at,
           coalesce(m.kind || '_column', CASE WHEN j.rebinds THEN 'rebind_column' WHEN j.from_keys <> '{}' THEN 'move_column' ELSE 'reencrypt_column' END) AS kind
    FROM colcrypt.job j LEFT JOIN colcrypt.key k USING (key_id) LEFT JOIN colcrypt.migration m USING (job_id);

-- Kind 5: a job over which worker after worker dies is given up.
ALTER TABLE colcrypt.job ADD COLUMN taken boolean NOT NULL DEFAULT false, ADD COLUMN deaths int NOT NULL DEFAULT 0;

-- A refusal is confirmed before it wipes.
COMMENT ON VIEW colcrypt.root_status IS
    'every root key of every keyring, in the order in which they are asked (lowest preference first): state is ok, failed, not asked (since the server started or the key was wrapped), refused, being confirmed (cached keys serve on), or escrow, which is never asked and counts as none of them; served_at when the key encryption key in use last came from it';
CREATE OR REPLACE VIEW colcrypt.kek_status AS
    SELECT s.keyring,
           s.kek_version,
           (array_agg(s.provider ORDER BY s.preference))[1] AS provider,
           (array_agg(s.root_key ORDER BY s.preference))[1] AS root_key,
           (array_agg(s.root_key_version ORDER BY s.preference))[1] AS root_key_version,
           count(*)::int AS roots,
           (array_agg(CASE s.root_key WHEN '' THEN s.provider ELSE s.provider || ', ' || s.root_key END
                      ORDER BY s.served_at DESC) FILTER (WHERE s.served_at IS NOT NULL))[1] AS served_by,
           string_agg(format('%s (since %s)', s.problem, s.failing_since::timestamptz(0)), '; ' ORDER BY s.preference)
               FILTER (WHERE s.problem IS NOT NULL) AS root_problem
    FROM colcrypt.root_status s
    GROUP BY s.keyring, s.kek_version;

-- Rows are tried again because somebody asked for it, whatever the clock says. What a retry has left to do is done.
ALTER TABLE colcrypt.job_error ADD COLUMN again boolean NOT NULL DEFAULT false;
UPDATE colcrypt.job_error e SET again = true FROM colcrypt.job j WHERE j.job_id = e.job_id AND j.phase = 'retrying' AND e.at < j.retried_at;

-- The count before a destruction is looked over once more, and its window passes by the server's own running time, too.
ALTER TABLE colcrypt.destruction ADD COLUMN settle_lsn pg_lsn;
UPDATE colcrypt.destruction SET settle_before = NULL;
CREATE TABLE colcrypt.destruction_wait (
    key_id bigint NOT NULL,
    version int NOT NULL,
    ran_us bigint NOT NULL,
    run text NOT NULL,
    at_us bigint NOT NULL,
    destroy_at timestamptz,
    PRIMARY KEY (key_id, version)
);
REVOKE ALL ON colcrypt.destruction_wait FROM PUBLIC;
COMMENT ON TABLE colcrypt.destruction_wait IS
    'how long the server has run since a destruction was ordered: the window has to pass by this time, too; not dumped, since a restored database counts from its own start';

-- A clock that is set moves no schedule.
CREATE FUNCTION colcrypt.clock_ahead() RETURNS interval
    AS 'MODULE_PATHNAME', 'colcrypt_clock_ahead' LANGUAGE c VOLATILE PARALLEL SAFE;
REVOKE ALL ON FUNCTION colcrypt.clock_ahead() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION colcrypt.clock_ahead() TO pg_monitor;
COMMENT ON FUNCTION colcrypt.clock_ahead() IS
    'how far the server''s clock was set ahead of the time by which keys'' periods and schedules go on, behind below zero; 0 unless it was set';

-- A subscriber makes no key version by itself; times of day are computed once.
-- The days around a moment on which the window for rotations opens and closes. Without settings of its own, it becomes part
-- of the query that asks; its body was bound to the server's functions when it was made.
CREATE OR REPLACE FUNCTION colcrypt.rotation_windows(around timestamptz, OUT opens timestamptz, OUT closes timestamptz)
    RETURNS SETOF record
    LANGUAGE sql STABLE PARALLEL SAFE
    BEGIN ATOMIC
        SELECT w.opens, w.opens + CASE WHEN t.until > t.at THEN t.until - t.at ELSE t.until - t.at + interval '24 hours' END
        FROM (SELECT split_part(s, '-', 1)::time AS at,
                     coalesce(nullif(split_part(s, '-', 2), '')::time, split_part(s, '-', 1)::time + interval '1 hour') AS until
              FROM trim(current_setting('colcrypt.rotation_time')) s WHERE s <> '') t,
             generate_series(-1, 1) d,
             LATERAL (SELECT ((around AT TIME ZONE current_setting('log_timezone'))::date + d + t.at)
                             AT TIME ZONE current_setting('log_timezone') AS opens) w;
    END;
CREATE FUNCTION colcrypt.follows() RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT CASE WHEN current_setting('colcrypt.node', true) = 'follower'
                    THEN 'colcrypt.node is follower' || coalesce(', and the primary is ' || nullif(current_setting('colcrypt.primary', true), ''), '')
                    -- In whatever state the subscription is.
                    ELSE (SELECT 'the key catalog is subscribed to by ' || quote_ident(s.subname)
                          FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = r.srsubid
                          WHERE r.srrelid IN ('colcrypt.provider'::regclass, 'colcrypt.keyring'::regclass, 'colcrypt.kek_version'::regclass,
                                              'colcrypt.kek_copy'::regclass, 'colcrypt.key'::regclass, 'colcrypt.key_version'::regclass)
                          ORDER BY s.subname LIMIT 1) END
    $$;
COMMENT ON FUNCTION colcrypt.follows() IS
    'why this server changes no key and rotates none by itself: it follows another that does (colcrypt.node, or a subscription to the key catalog); null where it is its own';
GRANT EXECUTE ON FUNCTION colcrypt.follows() TO PUBLIC;

CREATE OR REPLACE VIEW colcrypt.rotation_schedule AS
    -- Once, not once a key.
    WITH unflushed AS MATERIALIZED (SELECT * FROM colcrypt.unflushed_versions()),
    once AS MATERIALIZED (
        SELECT colcrypt.rotation_time_from(now()) AS opens, colcrypt.clock_ahead() AS ahead,
               least(current_setting('colcrypt.usage_rotate')::int, current_setting('colcrypt.usage_refuse')::int) AS percent,
               -- Where keys come from another server, that one makes their versions: two would make two of one number.
               colcrypt.follows() AS follows)
    SELECT n.key, n.version, n.activated_at,
           -- By the server's clock as it is set. Whatever is asked, never more often than once a second.
           CASE WHEN least(n.by_interval, n.by_period, n.by_use) IS NOT NULL AND n.follows IS NULL
                THEN greatest(least(n.by_interval, n.by_period, n.by_use), n.began + interval '1 second') END AS next_rotation_at,
           coalesce(n.follows || ': the primary rotates',
                CASE least(n.by_interval, n.by_period, n.by_use)
                     WHEN n.by_use THEN 'usage limit' WHEN n.by_interval THEN 'rotation interval'
                     WHEN n.by_period THEN 'originator-usage period' END) AS why,
           least(n.interval_ends, n.latest, n.by_use) <= now() AS overdue,
           t.last_error, t.tries, t.retry_at
    FROM (
        SELECT k.key_id, k.name AS key, k.current_version AS version, coalesce(v.activated_at, v.created_at) AS activated_at,
               s.follows, a.began, l.interval_ends, l.latest,
               r.at AS by_interval,
               -- The last time of day before that, unless it is over or was none; the period outranks the time of day.
               CASE WHEN l.latest IS NULL THEN NULL
                    WHEN b.best > greatest(a.began, now()) THEN b.best
                    ELSE least(CASE WHEN b.best > a.began THEN s.opens END, greatest(l.latest, now())) END AS by_period,
               CASE WHEN coalesce(u.encryptions, 0) + coalesce(f.encryptions, 0) + coalesce(f.reserved, 0)
                         >= floor(least(colcrypt.suite_bound(k.suite), k.usage_bound)::numeric * s.percent / 100)
                    THEN now() END AS by_use
        FROM once s CROSS JOIN colcrypt.key k
        JOIN colcrypt.key_version v ON v.key_id = k.key_id AND v.version = k.current_version AND v.state = 'active'
        LEFT JOIN colcrypt.version_usage u ON u.key_id = k.key_id AND u.version = k.current_version
        LEFT JOIN unflushed f ON f.key_id = k.key_id AND f.version = k.current_version
        CROSS JOIN LATERAL (SELECT coalesce(v.activated_at, v.created_at) + s.ahead AS began) a
        -- An interval that is over waits for the next time of day. A version must be relieved before its period ends: a
        -- tenth of it before, at most a day.
        CROSS JOIN LATERAL (SELECT a.began + k.rotation_interval AS interval_ends,
                                   a.began + k.originator_usage_period
                                       - least(k.originator_usage_period / 10, interval '1 day') AS latest) l
        CROSS JOIN LATERAL (SELECT CASE WHEN l.interval_ends IS NOT NULL THEN greatest(l.interval_ends, now()) END AS from_then) g
        -- As rotation_time_from and rotation_time_until say, which cost more.
        CROSS JOIN LATERAL (SELECT coalesce(min(greatest(w.opens, g.from_then)), g.from_then) AS at
                            FROM colcrypt.rotation_windows(g.from_then) w WHERE w.closes > g.from_then) r
        CROSS JOIN LATERAL (SELECT coalesce(max(CASE WHEN w.closes > l.latest THEN l.latest ELSE w.opens END), l.latest) AS best
                            FROM colcrypt.rotation_windows(l.latest) w WHERE w.opens <= l.latest) b
        OFFSET 0
    ) n
    LEFT JOIN colcrypt.rotation_try t USING (key_id);

-- Key encryption keys are rotated.
ALTER TABLE colcrypt.keyring ADD COLUMN kek_cryptoperiod interval DEFAULT '90 days' CHECK (kek_cryptoperiod >= '1 hour');
ALTER TABLE colcrypt.kek_version ADD COLUMN deactivated_at timestamptz, ADD COLUMN compromised_at timestamptz,
    ADD COLUMN emptied_at timestamptz, ADD COLUMN destroy_at timestamptz, ADD COLUMN destroyed_at timestamptz,
    ADD COLUMN changed_by text NOT NULL DEFAULT session_user, ADD COLUMN reason text;
ALTER TABLE colcrypt.kek_copy SET (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
ALTER TABLE colcrypt.key_version ADD COLUMN first_kek_version int NOT NULL DEFAULT 1;
CREATE FUNCTION colcrypt.rotate_kek(keyring text, reason text DEFAULT NULL) RETURNS int
    AS 'MODULE_PATHNAME', 'colcrypt_rotate_kek' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.rotate_kek(text, text) IS
    'makes a new version of the keyring''s key encryption key under each of its root keys; keys made from commit on are under it, and the worker wraps the others under it, which touches no data; returns the version';

CREATE FUNCTION colcrypt.mark_kek_compromised(keyring text, version int DEFAULT NULL, reason text DEFAULT NULL) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_mark_kek_compromised' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.mark_kek_compromised(text, int, text) IS
    'marks a version of the key encryption key, or the current one, as compromised: another takes its place, every key version that was ever under it is marked as compromised too, rotated and its rows listed and moved first; needs the right to manage each of those keys; a reason is needed; returns the new state';

CREATE FUNCTION colcrypt.set_kek_cryptoperiod(keyring text, period interval) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_set_kek_cryptoperiod' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.set_kek_cryptoperiod(text, interval) IS
    'how long a version of the keyring''s key encryption key wraps keys until the worker makes another, an hour at least; null is without end; on a four-eyes keyring a longer one waits; says set';
REVOKE ALL ON FUNCTION colcrypt.rotate_kek(text, text), colcrypt.mark_kek_compromised(text, int, text),
    colcrypt.set_kek_cryptoperiod(text, interval) FROM PUBLIC;
CREATE OR REPLACE VIEW colcrypt.kek_status AS
    SELECT r.name AS keyring,
           e.version AS kek_version,
           s.provider,
           s.root_key,
           s.root_key_version,
           coalesce(s.roots, 0) AS roots,
           s.served_by,
           s.root_problem,
           CASE WHEN e.destroyed_at IS NOT NULL THEN 'destroyed' WHEN e.compromised_at IS NOT NULL THEN 'compromised'
                WHEN e.version = r.current_version THEN 'active' ELSE 'deactivated' END AS state,
           e.kcv AS kek_check_value,
           coalesce(n.keys, 0)::int AS keys,
           e.created_at,
           e.deactivated_at,
           e.compromised_at,
           e.destroy_at,
           e.destroyed_at,
           e.changed_by,
           e.reason
    FROM colcrypt.kek_version e
    JOIN colcrypt.keyring r USING (keyring_id)
    LEFT JOIN (
        SELECT s.keyring,
               s.kek_version,
               (array_agg(s.provider ORDER BY s.preference))[1] AS provider,
               (array_agg(s.root_key ORDER BY s.preference))[1] AS root_key,
               (array_agg(s.root_key_version ORDER BY s.preference))[1] AS root_key_version,
               count(*)::int AS roots,
               (array_agg(CASE s.root_key WHEN '' THEN s.provider ELSE s.provider || ', ' || s.root_key END
                          ORDER BY s.served_at DESC) FILTER (WHERE s.served_at IS NOT NULL))[1] AS served_by,
               string_agg(format('%s (since %s)', s.problem, s.failing_since::timestamptz(0)), '; ' ORDER BY s.preference)
                   FILTER (WHERE s.problem IS NOT NULL) AS root_problem
        FROM colcrypt.root_status s
        WHERE s.state <> 'escrow'
        GROUP BY s.keyring, s.kek_version) s ON s.keyring = r.name AND s.kek_version = e.version
    LEFT JOIN (
        SELECT k.keyring_id, v.kek_version, count(*) AS keys
        FROM colcrypt.key_version v JOIN colcrypt.key k USING (key_id)
        WHERE v.destroyed_at IS NULL
        GROUP BY 1, 2) n ON n.keyring_id = e.keyring_id AND n.kek_version = e.version;
COMMENT ON VIEW colcrypt.kek_status IS
    'every version of every key encryption key: its first root key, how many it has, which one it last came from on this server, which of them fail, why and since when; its state (active, deactivated, compromised, destroyed), and how many key versions are under it, which is how often it has wrapped';
GRANT SELECT ON colcrypt.kek_status TO pg_monitor;
-- Not dumped: tries belong to this database.
CREATE TABLE colcrypt.kek_try (
    keyring_id uuid PRIMARY KEY,
    tries int NOT NULL,
    last_error text NOT NULL,
    retry_at timestamptz NOT NULL
);
REVOKE ALL ON colcrypt.kek_try FROM PUBLIC;
COMMENT ON TABLE colcrypt.kek_try IS
    'work on key encryption keys that failed, until it succeeds: rotations, and keys that are to be wrapped under another version; see the view kek_schedule';

CREATE VIEW colcrypt.kek_schedule AS
    SELECT n.keyring, n.kek_version, n.created_at,
           CASE WHEN n.at IS NOT NULL AND s.follows IS NULL THEN greatest(n.at, n.began + interval '1 second') END AS next_rotation_at,
           coalesce(s.follows || ': the primary rotates', CASE WHEN n.at IS NOT NULL THEN n.why END) AS why,
           n.due <= now() AS overdue,
           -- Key versions that wait to be wrapped by this version.
           (SELECT count(*)::int FROM colcrypt.key k JOIN colcrypt.key_version v USING (key_id)
            WHERE k.keyring_id = n.keyring_id AND v.kek_version < n.kek_version AND v.destroyed_at IS NULL) AS keys_left,
           t.last_error, t.tries, t.retry_at
    FROM (
        SELECT r.keyring_id, r.name AS keyring, e.version AS kek_version, e.created_at, a.began,
               CASE WHEN e.compromised_at IS NOT NULL THEN now()
                    WHEN l.latest IS NULL THEN NULL
                    -- As for keys: the last time of day before that, unless it is over or was none.
                    WHEN b.best > greatest(a.began, now()) THEN b.best
                    ELSE least(CASE WHEN b.best > a.began THEN colcrypt.rotation_time_from(now()) END,
                               greatest(l.latest, now())) END AS at,
               CASE WHEN e.compromised_at IS NOT NULL THEN e.compromised_at ELSE l.latest END AS due,
               CASE WHEN e.compromised_at IS NOT NULL THEN 'compromised' ELSE 'cryptoperiod' END AS why
        FROM colcrypt.keyring r
        JOIN colcrypt.kek_version e ON e.keyring_id = r.keyring_id AND e.version = r.current_version,
        LATERAL (SELECT e.created_at + colcrypt.clock_ahead() AS began OFFSET 0) a,
        LATERAL (SELECT a.began + r.kek_cryptoperiod - least(r.kek_cryptoperiod / 10, interval '1 day') AS latest) l,
        LATERAL (SELECT colcrypt.rotation_time_until(l.latest) AS best) b
    ) n
    LEFT JOIN colcrypt.kek_try t USING (keyring_id),
    (SELECT colcrypt.follows() AS follows) s;
COMMENT ON VIEW colcrypt.kek_schedule IS
    'when and why the worker will rotate each keyring''s key encryption key, how many key versions wait to be wrapped by the one there is, and what went wrong when it tried';
GRANT SELECT ON colcrypt.kek_schedule TO pg_monitor;

-- What nothing needs is dropped.
CREATE FUNCTION colcrypt.drop_key(name text) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_drop_key' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.drop_key(text) IS
    'takes a key out of the catalog whose every version is destroyed and for which no column is registered; says dropped';

CREATE FUNCTION colcrypt.drop_keyring(name text) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_drop_keyring' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.drop_keyring(text) IS
    'takes a keyring without keys out of the catalog, and its key encryption keys with it; says dropped';

CREATE FUNCTION colcrypt.drop_provider(name text) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_drop_provider' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.drop_provider(text) IS
    'takes a provider out of the catalog on which no keyring stands; says dropped';
REVOKE ALL ON FUNCTION colcrypt.drop_key(text), colcrypt.drop_keyring(text), colcrypt.drop_provider(text) FROM PUBLIC;

-- Values name their types, which are renamed.
CREATE TABLE colcrypt.former_type_name (
    name text COLLATE "C" NOT NULL,
    type regtype NOT NULL,
    PRIMARY KEY (name, type)
);
COMMENT ON TABLE colcrypt.former_type_name IS 'what types were called before they were renamed or moved, since values name their types';
REVOKE ALL ON colcrypt.former_type_name FROM PUBLIC;
DO $$
BEGIN
    PERFORM pg_catalog.pg_extension_config_dump('colcrypt.former_type_name',
        'WHERE EXISTS (SELECT FROM pg_catalog.pg_type t WHERE t.oid = type)');
END
$$;
CREATE FUNCTION colcrypt.encrypt_col(value "char", key text) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_encrypt' LANGUAGE c VOLATILE PARALLEL SAFE COST 50;
CREATE FUNCTION colcrypt.encrypt_col(value "char", key text, context bytea) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_encrypt' LANGUAGE c VOLATILE PARALLEL SAFE COST 50;
COMMENT ON FUNCTION colcrypt.encrypt_col("char", text) IS
    'encrypts a "char" under the current version of the named key; NULL stays NULL';
COMMENT ON FUNCTION colcrypt.encrypt_col("char", text, bytea) IS
    'encrypts a "char" under the named key, bound to a context that decrypt_col will need again';
GRANT EXECUTE ON FUNCTION colcrypt.encrypt_col("char", text), colcrypt.encrypt_col("char", text, bytea) TO PUBLIC;

-- A right to search, of search keys.
ALTER TABLE colcrypt.key_grant ADD COLUMN can_search boolean NOT NULL DEFAULT false;
-- Grants are dumped by name.
CREATE TABLE colcrypt.restored_grant (
    grantee text COLLATE "C" NOT NULL,
    key_id bigint,
    can_encrypt boolean,
    can_decrypt boolean,
    keyring_id uuid,
    can_create boolean,
    can_manage boolean NOT NULL,
    can_search boolean
);
COMMENT ON TABLE colcrypt.restored_grant IS
    'grants of a restored dump to roles that there are none of; colcrypt.restore_grants() tries them again';

CREATE FUNCTION colcrypt.restore_grant() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    role oid := CASE NEW.grantee WHEN 'PUBLIC' THEN 0 ELSE (SELECT r.oid FROM pg_roles r WHERE r.rolname = NEW.grantee) END;
BEGIN
    IF role IS NULL THEN
        RAISE WARNING 'no role "%" is there to have its grant on a key or keyring', NEW.grantee
            USING HINT = 'Create it and call colcrypt.restore_grants().';
        RETURN NEW;
    END IF;
    IF NEW.key_id IS NOT NULL THEN
        INSERT INTO colcrypt.key_grant (key_id, grantee, can_encrypt, can_decrypt, can_manage, can_search)
        VALUES (NEW.key_id, role::regrole, NEW.can_encrypt, NEW.can_decrypt, NEW.can_manage, coalesce(NEW.can_search, false)) ON CONFLICT DO NOTHING;
    ELSE
        INSERT INTO colcrypt.keyring_grant (keyring_id, grantee, can_create, can_manage)
        VALUES (NEW.keyring_id, role::regrole, NEW.can_create, NEW.can_manage) ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION colcrypt.restore_grant() IS 'trigger: makes what a dump has of a grant a grant again, if its role is there';
CREATE TRIGGER restore_grant BEFORE INSERT ON colcrypt.restored_grant
    FOR EACH ROW EXECUTE FUNCTION colcrypt.restore_grant();
ALTER TABLE colcrypt.restored_grant ENABLE ALWAYS TRIGGER restore_grant;

CREATE FUNCTION colcrypt.restore_grants() RETURNS bigint
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
        WITH gone AS (DELETE FROM colcrypt.restored_grant g
                      WHERE EXISTS (SELECT FROM pg_roles r WHERE r.rolname = g.grantee) RETURNING *),
             again AS (INSERT INTO colcrypt.restored_grant SELECT * FROM gone)
        SELECT count(*) FROM gone
    $$;
COMMENT ON FUNCTION colcrypt.restore_grants() IS
    'gives roles that were missing when a dump was restored, and are there now, their grants on keys and keyrings; returns how many';
REVOKE ALL ON colcrypt.restored_grant FROM PUBLIC;
REVOKE ALL ON FUNCTION colcrypt.restore_grant(), colcrypt.restore_grants() FROM PUBLIC;
DO $$
BEGIN
    -- Of the two tables of grants nothing but what they say by name.
    PERFORM pg_catalog.pg_extension_config_dump('colcrypt.key_grant', 'WHERE false');
    PERFORM pg_catalog.pg_extension_config_dump('colcrypt.keyring_grant', 'WHERE false');
    PERFORM pg_catalog.pg_extension_config_dump('colcrypt.restored_grant', $filter$WHERE true
        UNION ALL SELECT coalesce(r.rolname, 'PUBLIC'), g.key_id, g.can_encrypt, g.can_decrypt, NULL, NULL, g.can_manage, g.can_search
        FROM colcrypt.key_grant g LEFT JOIN pg_catalog.pg_roles r ON r.oid = g.grantee WHERE g.grantee::oid = 0 OR r.oid IS NOT NULL
        UNION ALL SELECT coalesce(r.rolname, 'PUBLIC'), NULL, NULL, NULL, g.keyring_id, g.can_create, g.can_manage, NULL
        FROM colcrypt.keyring_grant g LEFT JOIN pg_catalog.pg_roles r ON r.oid = g.grantee WHERE g.grantee::oid = 0 OR r.oid IS NOT NULL$filter$);
END
$$;
GRANT SELECT ON colcrypt.protected_column, colcrypt.provider TO pg_monitor;

-- Who decides sees what there is to decide.
COMMENT ON VIEW colcrypt.approval_requests IS
    'acts on four-eyes keyrings: outcome is pending, approved, rejected, withdrawn or expired; a role that manages such a keyring or a key of it may read it';
DO $$
DECLARE
    r text;
BEGIN
    FOR r IN SELECT quote_ident(o.rolname) FROM pg_catalog.pg_roles o
             WHERE o.oid IN (SELECT g.grantee FROM colcrypt.key_grant g JOIN colcrypt.key k USING (key_id)
                             JOIN colcrypt.keyring y USING (keyring_id) WHERE g.can_manage AND y.four_eyes
                             UNION SELECT g.grantee FROM colcrypt.keyring_grant g
                             JOIN colcrypt.keyring y USING (keyring_id) WHERE g.can_manage AND y.four_eyes) AND NOT o.rolsuper LOOP
        EXECUTE format('GRANT SELECT ON colcrypt.approval_requests TO %s', r);
    END LOOP;
END
$$;

ALTER FUNCTION colcrypt.may_read_column(regclass, name) COST 2;
COMMENT ON FUNCTION colcrypt.may_read_column(regclass, name) IS
    'whether the current role is among the readers that a column was registered with; access views ask it of each row, and it is answered once a statement';
COMMENT ON FUNCTION colcrypt.create_access_view(regclass, name) IS
    'makes, or replaces, a view in the table''s schema that shows its registered columns decrypted and can be written through; by default the one that the table has, or named like the table with _access behind; given an access view, that one';

CREATE FUNCTION colcrypt.try_decrypt_col(value colcrypt.ciphertext) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_try_decrypt_text' LANGUAGE c STABLE PARALLEL SAFE COST 50;
CREATE FUNCTION colcrypt.try_decrypt_col(value colcrypt.ciphertext, context colcrypt.context) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_try_decrypt_text' LANGUAGE c STABLE PARALLEL SAFE COST 50;
CREATE FUNCTION colcrypt.try_decrypt_col(value colcrypt.ciphertext, type anyelement) RETURNS anyelement
    AS 'MODULE_PATHNAME', 'colcrypt_try_decrypt_typed' LANGUAGE c STABLE PARALLEL SAFE COST 50;
CREATE FUNCTION colcrypt.try_decrypt_col(value colcrypt.ciphertext, type anyelement, context bytea) RETURNS anyelement
    AS 'MODULE_PATHNAME', 'colcrypt_try_decrypt_typed' LANGUAGE c STABLE PARALLEL SAFE COST 50;
COMMENT ON FUNCTION colcrypt.try_decrypt_col(colcrypt.ciphertext) IS
    'as decrypt_col, but NULL for a value that does not open: altered, bound to another context, or under a key version that is destroyed or not in the catalog; a refusal or an outage stays an error';
COMMENT ON FUNCTION colcrypt.try_decrypt_col(colcrypt.ciphertext, colcrypt.context) IS
    'as decrypt_col with a context, but NULL for a value that does not open';
COMMENT ON FUNCTION colcrypt.try_decrypt_col(colcrypt.ciphertext, anyelement) IS
    'as decrypt_col with a type, but NULL for a value that does not open; another type than the value''s stays an error';
COMMENT ON FUNCTION colcrypt.try_decrypt_col(colcrypt.ciphertext, anyelement, bytea) IS
    'as decrypt_col with a type and a context, but NULL for a value that does not open';
GRANT EXECUTE ON FUNCTION
    colcrypt.try_decrypt_col(colcrypt.ciphertext),
    colcrypt.try_decrypt_col(colcrypt.ciphertext, colcrypt.context),
    colcrypt.try_decrypt_col(colcrypt.ciphertext, anyelement),
    colcrypt.try_decrypt_col(colcrypt.ciphertext, anyelement, bytea)
TO PUBLIC;

CREATE FUNCTION colcrypt.verify_keys(
        deep boolean DEFAULT false,
        OUT keyring text, OUT key text, OUT version int, OUT checked text, OUT root text,
        OUT ok boolean, OUT problem text)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'colcrypt_verify_keys' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.verify_keys(boolean) IS
    'whether the key catalog is whole, whatever is cached, on a standby too: every root key is asked for every key encryption key, every key version is unwrapped, and rows as last counted have their versions; deep reads the headers of all tables instead of believing the count';
REVOKE ALL ON FUNCTION colcrypt.verify_keys(boolean) FROM PUBLIC;

-- Keys are destroyed on purpose. Who may call what gets other parameters may call it still.
ALTER TABLE colcrypt.key_version ADD COLUMN shreds boolean NOT NULL DEFAULT false;
DO $$
DECLARE
    kept jsonb;
    one jsonb;
BEGIN
    SELECT coalesce(jsonb_agg(jsonb_build_object('name', p.proname, 'role', CASE WHEN a.grantee <> 0 THEN quote_ident(r.rolname) ELSE 'PUBLIC' END,
                                                 'option', CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)), '[]')
    INTO kept
    FROM pg_proc p, aclexplode(p.proacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
    WHERE p.pronamespace = 'colcrypt'::regnamespace AND a.grantee <> p.proowner AND (a.grantee = 0 OR r.oid IS NOT NULL)
      AND p.proname IN ('schedule_key_destruction', 'rows_needing_key');
    DROP FUNCTION colcrypt.schedule_key_destruction(text, int, interval, text);
    DROP FUNCTION colcrypt.rows_needing_key(text, int);
    CREATE FUNCTION colcrypt.schedule_key_destruction(
            key text, version int DEFAULT NULL, destroy_after interval DEFAULT NULL, reason text DEFAULT NULL,
            rows text DEFAULT 'keep') RETURNS text
        AS 'MODULE_PATHNAME', 'colcrypt_schedule_key_destruction' LANGUAGE c VOLATILE PARALLEL UNSAFE;
    CREATE FUNCTION colcrypt.rows_needing_key(
            key text, version int,
            OUT relation regclass, OUT attribute text, OUT "rows" bigint, OUT registered boolean, OUT shredded boolean)
        RETURNS SETOF record
        AS 'MODULE_PATHNAME', 'colcrypt_rows_needing_key' LANGUAGE c STABLE PARALLEL UNSAFE;
    REVOKE ALL ON FUNCTION colcrypt.schedule_key_destruction(text, int, interval, text, text), colcrypt.rows_needing_key(text, int) FROM PUBLIC;
    FOR one IN SELECT * FROM jsonb_array_elements(kept) LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION colcrypt.%I TO %s%s', one->>'name', one->>'role', one->>'option');
    END LOOP;
END
$$;
COMMENT ON FUNCTION colcrypt.schedule_key_destruction(text, int, interval, text, text) IS
    'has a version, or every version of a key, destroyed after a time (colcrypt.destruction_window), usable for nothing until then; refused while any row needs it, unless rows is ''shred'': then their values are lost with it, after colcrypt.destruction_window_floor where nothing else is said; a reason is needed; returns the new state';
COMMENT ON FUNCTION colcrypt.rows_needing_key(text, int) IS
    'the columns, registered or not, whose rows can be read only with this version, and how many rows: counted now; shredded where the version is destroyed, or will be, although they need it';
CREATE OR REPLACE FUNCTION colcrypt.cancel_key_destruction(key text, version int DEFAULT NULL, reason text DEFAULT NULL) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_cancel_key_destruction' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.cancel_key_destruction(text, int, text) IS
    'brings a version whose destruction is scheduled, or every such version of a key, back to what it was, or to decrypt where it was in use; returns the new state';
CREATE OR REPLACE VIEW colcrypt.key_status AS
    SELECT k.name AS key,
           lpad(to_hex(k.key_id), 16, '0') AS key_id,
           v.version,
           v.version = k.current_version AS is_current,
           v.state,
           k.suite,
           r.name AS keyring,
           v.kek_version,
           e.provider,
           e.root_key,
           e.root_key_version,
           e.served_by,
           e.root_problem,
           v.kcv AS key_check_value,
           v.created_at,
           v.activated_at,
           v.deactivated_at,
           v.compromised_at,
           v.destroy_at,
           v.destroyed_at,
           v.state_changed_at,
           v.state_changed_by,
           v.state_reason,
           d.last_error AS destruction_problem,
           k.compression,
           v.shreds
    FROM colcrypt.key k
    JOIN colcrypt.key_version v ON v.key_id = k.key_id
    -- Outer joins are no fewer rows to the planner, which so reads a page of keys by their index.
    LEFT JOIN colcrypt.keyring r USING (keyring_id)
    LEFT JOIN colcrypt.kek_status e ON e.keyring = r.name AND e.kek_version = v.kek_version
    LEFT JOIN colcrypt.destruction d ON d.key_id = v.key_id AND d.version = v.version;
COMMENT ON VIEW colcrypt.key_status IS
    'every key version, its state, who moved it there and why, and what protects it: the keyring''s first root key, which root key served last, and which of them fail; shreds where it is destroyed, or will be, although rows need it';
CREATE OR REPLACE VIEW colcrypt.key_version_census AS
    SELECT p.relation, p.attribute, coalesce(k.name, CASE WHEN r.key_id IS NOT NULL THEN '(dropped)' END) AS key, r.version,
           r.version = k.current_version AS is_current, r.rows, c.counted_at, c.counted_by, p.rotation,
           coalesce(v.shreds, false) AS shredded
    FROM colcrypt.protected_column p
    LEFT JOIN colcrypt.census c USING (relation, attribute)
    LEFT JOIN LATERAL jsonb_to_recordset(c.counts) AS r(key_id bigint, version int, rows bigint) ON true
    LEFT JOIN colcrypt.key k ON k.key_id = r.key_id
    LEFT JOIN colcrypt.key_version v ON v.key_id = r.key_id AND v.version = r.version;
COMMENT ON VIEW colcrypt.key_version_census IS
    'rows of each registered column by key version, exact as of counted_at: when the last job on it verified its work, or take_census counted; all null is never counted, or no rows; rotation is what becomes of rows under older versions; shredded where the version is destroyed, or will be, although they need it';
ALTER TABLE colcrypt.job ADD COLUMN verifies boolean NOT NULL DEFAULT false;
DROP INDEX colcrypt.job_open;
CREATE UNIQUE INDEX job_open ON colcrypt.job (relation, attribute) WHERE finished_at IS NULL AND NOT verifies;
CREATE UNIQUE INDEX job_verifying ON colcrypt.job (relation, attribute) WHERE finished_at IS NULL AND verifies;
COMMENT ON TABLE colcrypt.job IS 'jobs that re-encrypt or verify columns; not dumped, since a restored database starts without any';
COMMENT ON TABLE colcrypt.job_error IS
    'rows that a job could not move, or whose value does not open: where each was then, the key and version it is under, and why; retry_job takes these again';
CREATE FUNCTION colcrypt.verify_column(relation regclass, attribute name) RETURNS bigint
    AS 'MODULE_PATHNAME', 'colcrypt_verify_column' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.verify_column(regclass, name) IS
    'queues a job that opens every value of a registered column, in batches with rests, and writes nothing; rows whose value does not open, or is under another key than the column''s, are listed in job_error with place, key, version and reason; returns the job';
REVOKE ALL ON FUNCTION colcrypt.verify_column(regclass, name) FROM PUBLIC;
CREATE OR REPLACE VIEW colcrypt.job_progress AS
    SELECT j.job_id,
           j.relation,
           coalesce(m.attribute, j.attribute) AS attribute,
           coalesce(k.name, '(dropped)') AS key,
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
           CASE WHEN j.phase = 'moving' AND j.passes = 1 AND j.blocks_done > 0
                THEN j.worked * ((j.blocks_total - j.blocks_done)::float8 / j.blocks_done) END AS time_left,
           j.last_error,
           j.created_at,
           j.started_at,
           j.finished_at,
           coalesce(m.kind || '_column', CASE WHEN j.verifies THEN 'verify_column' WHEN j.rebinds THEN 'rebind_column' WHEN j.from_keys <> '{}' THEN 'move_column' ELSE 'reencrypt_column' END) AS kind
    FROM colcrypt.job j LEFT JOIN colcrypt.key k USING (key_id) LEFT JOIN colcrypt.migration m USING (job_id);
COMMENT ON VIEW colcrypt.job_progress IS
    'jobs: kind is the function that orders such a job; phase is queued, moving, retrying, waiting for old transactions, verifying, done, failed or cancelled, and of migrations also swapping, scrubbing, vacuuming and cancelling; held_by is what keeps an open one from moving rows now; rows_estimate is all rows of the table, as last analyzed; time_left is for the first pass';

-- Escrows: who holds their shares, when each was last shown to be whole, and the drills. No secret is here: a share's commitment,
-- and what its holder signed with it.

CREATE TABLE colcrypt.escrow (
    provider_id uuid PRIMARY KEY,
    -- The public record, as colcrypt escrow create wrote it.
    record text NOT NULL,
    check_interval interval NOT NULL DEFAULT '90 days' CHECK (check_interval > '0'),
    drill_interval interval NOT NULL DEFAULT '90 days' CHECK (drill_interval > '0'),
    registered_at timestamptz NOT NULL DEFAULT now(),
    registered_by text NOT NULL DEFAULT session_user
);
COMMENT ON TABLE colcrypt.escrow IS 'escrows whose record is here, and how often shares are to be checked and recovery rehearsed';

CREATE TABLE colcrypt.custodian (
    provider_id uuid NOT NULL,
    holder text COLLATE "C" NOT NULL,
    circle text NOT NULL,
    location text,
    since timestamptz NOT NULL DEFAULT now(),
    -- When the share was last shown to be whole, as its holder's receipt says.
    checked_at timestamptz,
    PRIMARY KEY (provider_id, holder)
);
COMMENT ON TABLE colcrypt.custodian IS 'who holds a share of an escrow, where and since when';

CREATE TABLE colcrypt.escrow_drill (
    provider_id uuid NOT NULL,
    drilled_at timestamptz NOT NULL,
    succeeded boolean NOT NULL,
    -- As colcrypt escrow drill printed it, with the signatures.
    report text NOT NULL,
    recorded_by text NOT NULL DEFAULT session_user,
    PRIMARY KEY (provider_id, drilled_at)
);
COMMENT ON TABLE colcrypt.escrow_drill IS 'rehearsals of recovery, as those who took part have signed them';

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['escrow', 'custodian', 'escrow_drill'] LOOP
        EXECUTE format('REVOKE ALL ON colcrypt.%I FROM PUBLIC', t);
        PERFORM pg_catalog.pg_extension_config_dump(format('colcrypt.%I', t)::regclass, '');
    END LOOP;
END
$$;

CREATE FUNCTION colcrypt.register_escrow(
        escrow text, record text, check_interval interval DEFAULT '90 days', drill_interval interval DEFAULT '90 days') RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_register_escrow' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.register_escrow(text, text, interval, interval) IS
    'keeps the public record of an escrow (a provider of that kind) and its holders, in the place of a former one after a resharing; says registered';

CREATE FUNCTION colcrypt.set_custodian(escrow text, holder text, location text) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_set_custodian' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.set_custodian(text, text, text) IS 'says where a holder keeps a share of an escrow; says set';

CREATE FUNCTION colcrypt.record_escrow_check(escrow text, holder text, receipt text) RETURNS timestamptz
    AS 'MODULE_PATHNAME', 'colcrypt_record_escrow_check' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.record_escrow_check(text, text, text) IS
    'records that a holder''s share is whole, as the receipt of colcrypt escrow check shows, which only that share can sign; returns when it was checked';

CREATE FUNCTION colcrypt.record_drill(escrow text, report text) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_record_drill' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.record_drill(text, text) IS
    'records a rehearsal of recovery, as colcrypt escrow drill printed it and enough shares signed it; says succeeded or failed';

CREATE VIEW colcrypt.custodian_status AS
    SELECT p.name AS escrow, c.circle, c.holder, c.location, c.since, c.checked_at,
           coalesce(c.checked_at, c.since) + e.check_interval AS check_due,
           coalesce(c.checked_at, c.since) + e.check_interval < now() AS is_overdue
    FROM colcrypt.custodian c JOIN colcrypt.escrow e USING (provider_id) JOIN colcrypt.provider p USING (provider_id);
COMMENT ON VIEW colcrypt.custodian_status IS
    'who holds a share of an escrow, when it was last shown to be whole, and when that is due again';

CREATE VIEW colcrypt.escrow_status AS
    SELECT p.name AS escrow,
           (SELECT count(DISTINCT k.keyring_id)::int FROM colcrypt.kek_copy k WHERE k.provider_id = p.provider_id) AS keyrings,
           (SELECT count(*)::int FROM colcrypt.keyring r WHERE NOT EXISTS (
               SELECT FROM colcrypt.kek_copy k WHERE k.keyring_id = r.keyring_id AND k.provider_id = p.provider_id)) AS keyrings_without,
           h.holders,
           h.checks_overdue,
           d.drilled_at,
           coalesce(d.drilled_at, e.registered_at) + e.drill_interval AS drill_due,
           coalesce(d.drilled_at, e.registered_at) + e.drill_interval < now() AS drill_overdue
    FROM colcrypt.escrow e
    JOIN colcrypt.provider p USING (provider_id)
    CROSS JOIN LATERAL (SELECT max(d.drilled_at) AS drilled_at FROM colcrypt.escrow_drill d
                        WHERE d.provider_id = p.provider_id AND d.succeeded) d
    CROSS JOIN LATERAL (SELECT count(*)::int AS holders, (count(*) FILTER (WHERE s.is_overdue))::int AS checks_overdue
                        FROM colcrypt.custodian_status s WHERE s.escrow = p.name) h;
COMMENT ON VIEW colcrypt.escrow_status IS
    'escrows: keyrings sealed to each and those that are not, holders whose check is overdue, the last drill that succeeded and when the next is due';
GRANT SELECT ON colcrypt.custodian_status, colcrypt.escrow_status TO pg_monitor;

REVOKE ALL ON FUNCTION colcrypt.register_escrow(text, text, interval, interval), colcrypt.set_custodian(text, text, text),
    colcrypt.record_escrow_check(text, text, text), colcrypt.record_drill(text, text) FROM PUBLIC;
DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['escrow', 'custodian', 'escrow_drill'] LOOP
        EXECUTE format('CREATE TRIGGER by_hand_row AFTER INSERT OR UPDATE OR DELETE ON colcrypt.%I '
                       'FOR EACH ROW EXECUTE FUNCTION colcrypt.changed_by_hand()', t);
        EXECUTE format('ALTER TABLE colcrypt.%I ENABLE ALWAYS TRIGGER by_hand_row', t);
        EXECUTE format('CREATE TRIGGER by_hand AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON colcrypt.%I '
                       'FOR EACH STATEMENT EXECUTE FUNCTION colcrypt.changed_by_hand()', t);
        EXECUTE format('ALTER TABLE colcrypt.%I ENABLE ALWAYS TRIGGER by_hand', t);
    END LOOP;
END
$$;
CREATE FUNCTION colcrypt.create_keys(names text[], keyring text, suite text DEFAULT 'aes-256-gcm') RETURNS int
    AS 'MODULE_PATHNAME', 'colcrypt_create_keys' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.create_keys(text[], text, text) IS
    'makes many keys, each as create_key makes one, or none of them; returns how many';
REVOKE ALL ON FUNCTION colcrypt.create_keys(text[], text, text) FROM PUBLIC;

-- Root keys by schedule.
ALTER TABLE colcrypt.keyring ADD COLUMN root_interval interval CHECK (root_interval >= '1 hour');
ALTER TABLE colcrypt.kek_copy ADD COLUMN wrapped_at timestamptz NOT NULL DEFAULT now();
CREATE FUNCTION colcrypt.set_root_interval(keyring text, "interval" interval) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_set_root_interval' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.set_root_interval(text, interval) IS
    'how often the worker does rotate_root for the keyring, an hour at least; null, as at first, is never: its provider makes new versions on a calendar of its own; says set';
REVOKE ALL ON FUNCTION colcrypt.set_root_interval(text, interval) FROM PUBLIC;
CREATE VIEW colcrypt.root_schedule AS
    SELECT r.name AS keyring, r.root_interval, c.wrapped_at,
           CASE WHEN s.follows IS NULL THEN greatest(c.began + r.root_interval, c.began + interval '1 second') END AS next_rotation_at,
           c.began + r.root_interval <= now() AS overdue,
           t.last_error, t.tries, t.retry_at
    FROM colcrypt.keyring r
    CROSS JOIN LATERAL (
        SELECT min(c.wrapped_at) AS wrapped_at, min(c.wrapped_at) + colcrypt.clock_ahead() AS began
        FROM colcrypt.kek_copy c
        JOIN colcrypt.kek_version e USING (keyring_id, version)
        JOIN colcrypt.provider p USING (provider_id)
        -- What an escrow holds is sealed once.
        WHERE c.keyring_id = r.keyring_id AND e.destroyed_at IS NULL AND p.kind <> 'escrow'
        OFFSET 0) c
    LEFT JOIN colcrypt.kek_try t USING (keyring_id),
    (SELECT colcrypt.follows() AS follows) s
    WHERE r.root_interval IS NOT NULL;
COMMENT ON VIEW colcrypt.root_schedule IS
    'when the worker will wrap each keyring''s key encryption keys under the newest versions of its root keys, for keyrings with an interval (set_root_interval), and what went wrong when it tried';
GRANT SELECT ON colcrypt.root_schedule TO pg_monitor;

-- What a statement has done so far is nobody's knowledge. Logical replication writes past triggers of statements: those of rows tell sessions.
DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['provider', 'keyring', 'kek_version', 'kek_copy', 'key', 'key_version', 'key_grant', 'keyring_grant', 'protected_column',
                             'migration', 'honeytoken'] LOOP
        EXECUTE format('CREATE TRIGGER catalog_changes BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON colcrypt.%I '
                       'FOR EACH STATEMENT EXECUTE FUNCTION colcrypt.catalog_changed()', t);
        EXECUTE format('ALTER TABLE colcrypt.%I ENABLE ALWAYS TRIGGER catalog_changes', t);
        EXECUTE format('CREATE TRIGGER catalog_changed_row AFTER INSERT OR UPDATE OR DELETE ON colcrypt.%I '
                       'FOR EACH ROW EXECUTE FUNCTION colcrypt.catalog_changed()', t);
        EXECUTE format('ALTER TABLE colcrypt.%I ENABLE REPLICA TRIGGER catalog_changed_row', t);
    END LOOP;
END
$$;

-- Values that follow what they are bound to.
ALTER TABLE colcrypt.protected_column ADD COLUMN follows boolean NOT NULL DEFAULT false;
CREATE FUNCTION colcrypt.follow_context(relation regclass, attribute name, follows boolean DEFAULT true) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_follow_context' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.follow_context(regclass, name, boolean) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.follow_context(regclass, name, boolean) IS
    'has a registered column''s values follow when a role changes a column that they are bound to, by hand or by a foreign key, where that role may decrypt and encrypt, and the change refused where it may not; says follow, or stay where that is taken back';

-- A key per row.
ALTER TABLE colcrypt.protected_column ALTER COLUMN key_id DROP NOT NULL, ADD COLUMN key_expression text, ADD COLUMN keyring_id uuid,
    ADD CONSTRAINT protected_column_key CHECK (num_nonnulls(key_id, key_expression) = 1 AND num_nonnulls(key_expression, keyring_id) <> 1);
ALTER TABLE colcrypt.job ADD COLUMN by_row boolean NOT NULL DEFAULT false;
DROP INDEX colcrypt.job_open;
CREATE UNIQUE INDEX job_open ON colcrypt.job (relation, attribute) WHERE finished_at IS NULL AND NOT verifies AND NOT by_row;
CREATE UNIQUE INDEX job_open_by_row ON colcrypt.job (relation, attribute, key_id) WHERE finished_at IS NULL AND by_row;
CREATE FUNCTION colcrypt.encrypt_for_row(value anyelement, key text, keyring text) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_encrypt_for_row' LANGUAGE c VOLATILE PARALLEL SAFE COST 50;
CREATE FUNCTION colcrypt.encrypt_for_row(value anyelement, key text, keyring text, context bytea) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_encrypt_for_row' LANGUAGE c VOLATILE PARALLEL SAFE COST 50;
COMMENT ON FUNCTION colcrypt.encrypt_for_row(anyelement, text, text) IS
    'for access views of columns whose rows have keys of their own: encrypts as encrypt_col does, under a key of this keyring; NULL stays NULL, whatever the key';
COMMENT ON FUNCTION colcrypt.encrypt_for_row(anyelement, text, text, bytea) IS
    'for access views of columns whose rows have keys of their own: the same, bound to a context';

-- Escrows that are used no more.
ALTER TABLE colcrypt.escrow ADD COLUMN retired_at timestamptz, ADD COLUMN retired_by text;
CREATE FUNCTION colcrypt.retire_escrow(escrow text, reason text DEFAULT NULL) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_retire_escrow' LANGUAGE c VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.retire_escrow(text, text) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.retire_escrow(text, text) IS
    'takes an escrow away from every keyring that is sealed to it, as drop_root does, and ends its checks and drills; says retired, or the number of the request where one of the keyrings asks for four eyes';
CREATE OR REPLACE VIEW colcrypt.custodian_status AS
    SELECT p.name AS escrow, c.circle, c.holder, c.location, c.since, c.checked_at,
           CASE WHEN e.retired_at IS NULL THEN coalesce(c.checked_at, c.since) + e.check_interval END AS check_due,
           e.retired_at IS NULL AND coalesce(c.checked_at, c.since) + e.check_interval < now() AS is_overdue
    FROM colcrypt.custodian c JOIN colcrypt.escrow e USING (provider_id) JOIN colcrypt.provider p USING (provider_id);
COMMENT ON VIEW colcrypt.custodian_status IS
    'who holds a share of an escrow, when it was last shown to be whole, and when that is due again; nothing is due of a retired one';

CREATE OR REPLACE VIEW colcrypt.escrow_status AS
    SELECT p.name AS escrow,
           (SELECT count(DISTINCT k.keyring_id)::int FROM colcrypt.kek_copy k WHERE k.provider_id = p.provider_id) AS keyrings,
           (SELECT count(*)::int FROM colcrypt.keyring r WHERE e.retired_at IS NULL AND NOT EXISTS (
               SELECT FROM colcrypt.kek_copy k WHERE k.keyring_id = r.keyring_id AND k.provider_id = p.provider_id)) AS keyrings_without,
           h.holders,
           h.checks_overdue,
           d.drilled_at,
           CASE WHEN e.retired_at IS NULL THEN coalesce(d.drilled_at, e.registered_at) + e.drill_interval END AS drill_due,
           e.retired_at IS NULL AND coalesce(d.drilled_at, e.registered_at) + e.drill_interval < now() AS drill_overdue,
           e.retired_at,
           e.retired_by
    FROM colcrypt.escrow e
    JOIN colcrypt.provider p USING (provider_id)
    CROSS JOIN LATERAL (SELECT max(d.drilled_at) AS drilled_at FROM colcrypt.escrow_drill d
                        WHERE d.provider_id = p.provider_id AND d.succeeded) d
    CROSS JOIN LATERAL (SELECT count(*)::int AS holders, (count(*) FILTER (WHERE s.is_overdue))::int AS checks_overdue
                        FROM colcrypt.custodian_status s WHERE s.escrow = p.name) h;
COMMENT ON VIEW colcrypt.escrow_status IS
    'escrows: keyrings sealed to each and those that are not, holders whose check is overdue, the last drill that succeeded and when the next is due; or since when it is retired, and by whom';

-- Jobs on all keys of a column whose rows have keys of their own.
ALTER TABLE colcrypt.job ALTER COLUMN key_id DROP NOT NULL, ADD COLUMN keyring_id uuid,
    ADD CONSTRAINT job_key CHECK (num_nonnulls(key_id, keyring_id) = 1);
CREATE UNIQUE INDEX job_rebinding ON colcrypt.job (relation, attribute) WHERE finished_at IS NULL AND rebinds;
CREATE OR REPLACE VIEW colcrypt.job_progress AS
    SELECT j.job_id,
           j.relation,
           coalesce(m.attribute, j.attribute) AS attribute,
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
           CASE WHEN j.phase = 'moving' AND j.passes = 1 AND j.blocks_done > 0
                THEN j.worked * ((j.blocks_total - j.blocks_done)::float8 / j.blocks_done) END AS time_left,
           j.last_error,
           j.created_at,
           j.started_at,
           j.finished_at,
           coalesce(m.kind || '_column', CASE WHEN j.verifies THEN 'verify_column' WHEN j.rebinds THEN 'rebind_column' WHEN j.from_keys <> '{}' THEN 'move_column' ELSE 'reencrypt_column' END) AS kind
    FROM colcrypt.job j LEFT JOIN colcrypt.key k USING (key_id) LEFT JOIN colcrypt.migration m USING (job_id);
COMMENT ON VIEW colcrypt.job_progress IS
    'jobs: kind is the function that orders such a job; phase is queued, moving, retrying, waiting for old transactions, verifying, done, failed or cancelled, and of migrations also swapping, scrubbing, vacuuming and cancelling; held_by is what keeps an open one from moving rows now; rows_estimate is all rows of the table, as last analyzed; time_left is for the first pass; key is null where all keys by row are concerned';
COMMENT ON FUNCTION colcrypt.verify_column(regclass, name) IS
    'queues a job that opens every value of a registered column, in batches with rests, and writes nothing; rows whose value does not open, or is under another key than the column''s or its row''s own, are listed in job_error with place, key, version and reason; returns the job';

-- Is it well? One table of checks, and a function that makes them. A new check is an entry of that table, and touches nothing else
-- but the test that plants its fault. What a check reads exists already: it asks views and catalogs with the caller's rights, and writes nothing.

CREATE FUNCTION colcrypt.server_facts(OUT fact text, OUT object text, OUT value text) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'colcrypt_server_facts' LANGUAGE c VOLATILE PARALLEL RESTRICTED;
GRANT EXECUTE ON FUNCTION colcrypt.server_facts() TO pg_monitor;
COMMENT ON FUNCTION colcrypt.server_facts() IS
    'what doctor needs of the server and the machine that no view shows: versions, limits, swap, where key files lie';

CREATE FUNCTION colcrypt.ask_provider(provider text, root_key text, OUT warnings text[], OUT problem text)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    SELECT c.warnings INTO warnings FROM colcrypt.check_provider(provider, root_key) c;
EXCEPTION
    WHEN insufficient_privilege THEN RAISE;
    WHEN OTHERS THEN problem := SQLERRM;
END
$$;
GRANT EXECUTE ON FUNCTION colcrypt.ask_provider(text, text) TO pg_monitor;
COMMENT ON FUNCTION colcrypt.ask_provider(text, text) IS
    'for doctor: check_provider, where a failure is an answer; the caller needs the right to call that';

CREATE FUNCTION colcrypt.sample_columns(
        most int, OUT relation text, OUT attribute text, OUT tried int, OUT closed int, OUT reason text) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'colcrypt_sample_columns' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.sample_columns(int) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.sample_columns(int) IS
    'for doctor: opens a few values of each registered column, shows none, and says how many were tried and how many do not open as the column is registered; of columns with keys by row, with a context that may run code of others, of tables with expressions in an index or locked just now, and once a key cannot be had, none are tried: verify_column opens all';

CREATE VIEW colcrypt.setting_places AS
    SELECT s.name, lower(s.reset_val) AS value, s.name || ' = ' || s.reset_val AS place FROM pg_catalog.pg_settings s
    UNION ALL
    SELECT split_part(c, '=', 1), lower(substr(c, strpos(c, '=') + 1)),
           concat_ws(' ', c, 'of role ' || quote_ident(r.rolname), 'in database ' || quote_ident(d.datname))
    FROM pg_catalog.pg_db_role_setting s
    LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
    LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
    CROSS JOIN LATERAL unnest(s.setconfig) c;
GRANT SELECT ON colcrypt.setting_places TO pg_monitor;
COMMENT ON VIEW colcrypt.setting_places IS
    'settings of the server, and of roles and databases, as doctor reads them: an administrator may loosen one for a single role';

-- What calls a decrypting function, as far as the server knows or the source of a function shows it.
CREATE VIEW colcrypt.shows_plaintext AS
    WITH RECURSIVE ours AS (
        SELECT p.oid FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'colcrypt'::regnamespace AND p.proname IN ('decrypt_col', 'try_decrypt_col', 'decrypts_to', 'decrypts_to_in_place')
    ), calls(class, oid) AS (
        SELECT 'pg_catalog.pg_proc'::regclass::oid, oid FROM ours
        UNION
        SELECT 'pg_catalog.pg_proc'::regclass::oid, p.oid FROM pg_catalog.pg_proc p
        WHERE p.prosrc ~ '\m(decrypt_col|try_decrypt_col|decrypts_to|decrypts_to_in_place)\M' AND p.pronamespace <> 'colcrypt'::regnamespace
        UNION
        -- A rule is its view's, an expression of a default its table's.
        SELECT CASE WHEN r.oid IS NULL THEN d.classid ELSE 'pg_catalog.pg_class'::regclass END, coalesce(r.ev_class, d.objid)
        FROM calls s
        JOIN pg_catalog.pg_depend d ON d.refclassid = s.class AND d.refobjid = s.oid AND d.deptype = 'n'
        LEFT JOIN pg_catalog.pg_rewrite r ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND r.oid = d.objid
        WHERE s.class = 'pg_catalog.pg_proc'::regclass
           OR EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = s.oid AND c.relkind IN ('v', 'm'))
    )
    SELECT class, oid FROM calls WHERE oid NOT IN (SELECT oid FROM ours);
GRANT SELECT ON colcrypt.shows_plaintext TO pg_monitor;
COMMENT ON VIEW colcrypt.shows_plaintext IS
    'for doctor: functions, views, indexes, statistics and generated columns that are made of decrypted values, by catalog and OID';

-- In each entry: the finding's name, its severity, what it means, what to do, and the query that finds it. That gives a row for each
-- object, and may give a detail, another severity or another finding; one without a query is found by that of another.
CREATE FUNCTION colcrypt.doctor_checks() RETURNS TABLE (finding text, severity text, meaning text, remedy text, query text)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $checks$
VALUES
-- The server and its agent.
('not_preloaded', 'critical',
 'The library is not loaded at server start. No key can be used, and what lies in shared memory cannot be looked at.',
 'Add colcrypt to shared_preload_libraries and restart the server.',
 $q$ SELECT 'shared_preload_libraries' AS object WHERE current_setting('colcrypt.slab_keys', true) IS NULL $q$),
('agent_down', 'critical',
 'The process that fetches keys is not running. Keys that are cached serve on until colcrypt.hard_ttl; no other can be had.',
 'Read the server log; look at colcrypt.agent_path and at who may execute that file.',
 $q$ SELECT CASE WHEN b.broker_pid IS NULL THEN 'key broker' ELSE 'KMS agent' END AS object, b.last_error AS detail
     FROM colcrypt.broker_status() b WHERE b.broker_pid IS NULL OR b.agent_pid IS NULL $q$),
('no_launcher', 'critical',
 'The launcher is not running. No job moves, no rotation comes when it is due, and nothing is written into the audit log.',
 'Raise max_worker_processes and restart the server; its log says why else the launcher may not run.',
 $q$ SELECT 'colcrypt launcher' AS object FROM colcrypt.server_facts() f WHERE f.fact = 'launcher' AND f.value = 'missing' $q$),
('agent_of_other_version', 'warning',
 'Library and agent are of different releases. They may not understand each other, and a fault that was mended in one is still in the other.',
 'Install both of one release, and restart the server.',
 $q$ SELECT 'KMS agent ' || a.value AS object, 'the library is ' || l.value AS detail
     FROM colcrypt.server_facts() a, colcrypt.server_facts() l
     WHERE a.fact = 'agent version' AND l.fact = 'library version' AND a.value <> l.value $q$),
('catalog_of_other_version', 'warning',
 'The extension in this database is of another release than the library that is loaded.',
 'Restart the server if its files are newer, then ALTER EXTENSION colcrypt UPDATE.',
 $q$ SELECT 'extension ' || e.extversion AS object, 'the library is ' || l.value AS detail
     FROM pg_extension e, colcrypt.server_facts() l
     WHERE e.extname = 'colcrypt' AND l.fact = 'library version' AND l.value <> e.extversion $q$),
('server_out_of_support', 'warning',
 'This release of PostgreSQL gets no more security fixes from its makers.',
 'Go to a newer one with pg_upgrade; see docs/operations.md.',
 $q$ SELECT 'PostgreSQL ' || current_setting('server_version') AS object, 'its last fixes came in ' || to_char(e.ends, 'FMMonth YYYY') AS detail
     FROM (VALUES (15, date '2027-11-11'), (16, date '2028-11-09'), (17, date '2029-11-08'), (18, date '2030-11-14')) e(major, ends)
     WHERE e.major = current_setting('server_version_num')::int / 10000 AND now() > e.ends $q$),
('clock_set', 'warning',
 'The server''s clock was set while it ran. Cryptoperiods and schedules go on by the former time for now.',
 'Set a wrong clock right. See colcrypt.clock_patience for when the new time is believed.',
 $q$ SELECT 'clock' AS object, 'ahead by ' || a.ahead AS detail FROM colcrypt.clock_ahead() AS a(ahead)
     WHERE a.ahead NOT BETWEEN '-5 seconds' AND '5 seconds' $q$),
('memory_not_locked', 'warning',
 'Memory with keys is not locked. The system may write data encryption keys, key encryption keys and credentials to swap.',
 'Set LimitMEMLOCK=infinity in the server''s systemd unit and restart; colcrypt.require_mlock = on then insists on it.',
 $q$ SELECT 'key slab and KMS agent' AS object FROM colcrypt.broker_status() b WHERE NOT b.memory_locked AND b.agent_pid IS NOT NULL $q$),
('core_files', 'notice',
 'The server may leave core files. Keys are left out of them; plaintext that a session had at work is not.',
 'Set LimitCORE=0 in the server''s unit, or keep core files where only administrators of the data may read.',
 $q$ SELECT 'core file size' AS object, 'limit ' || f.value AS detail FROM colcrypt.server_facts() f WHERE f.fact = 'core limit' AND f.value <> '0' $q$),
('swap_in_use', 'notice',
 'The machine has swap. Locked memory keeps keys from it, but not plaintext that sessions have at work.',
 'Encrypt swap with a key that is drawn at each start, or turn it off.',
 $q$ SELECT f.value AS object FROM colcrypt.server_facts() f WHERE f.fact = 'swap' $q$),
('rust_backtrace', 'notice',
 'Backtraces are asked for in the server''s environment. No client is shown one, but errors cost more than they need.',
 'Take the variable out of the server''s environment, and restart the server.',
 $q$ SELECT f.object, f.object || '=' || f.value AS detail FROM colcrypt.server_facts() f WHERE f.fact = 'backtrace' $q$),
('fsync_off', 'critical',
 'A crash of the machine can leave a damaged database. The wrapped keys are in it: damaged, they open nothing.',
 'Set fsync = on.',
 $q$ SELECT 'fsync' AS object WHERE current_setting('fsync') = 'off' $q$),
('full_page_writes_off', 'warning',
 'A crash of the machine in the middle of a write can damage pages, those with wrapped keys among them.',
 'Set full_page_writes = on.',
 $q$ SELECT 'full_page_writes' AS object WHERE current_setting('full_page_writes') = 'off' $q$),
-- Root keys and keys.
('root_failing', 'warning',
 'When it was last asked, a root key did not give its key encryption key. If it is the last, keys end at colcrypt.hard_ttl.',
 'Mend what the detail says. colcrypt.check_roots(keyring) asks anew.',
 $q$ SELECT format('%s of keyring %s, version %s', concat_ws(', ', r.provider, nullif(r.root_key, '')), r.keyring, r.kek_version) AS object,
            format('%s since %s: %s', r.state, r.failing_since::timestamptz(0), r.problem) AS detail,
            CASE WHEN bool_or(r.state = 'ok') OVER (PARTITION BY r.keyring, r.kek_version) THEN 'warning' ELSE 'critical' END AS severity
     FROM colcrypt.root_status r WHERE r.problem IS NOT NULL
       AND NOT has_function_privilege('colcrypt.verify_keys(boolean)', 'EXECUTE') $q$),
('root_closed', 'warning',
 'Asked just now, a root key does not give its key encryption key. Where no other root key does, nothing under it can be read.',
 'Mend what the detail says; until then another root key of the keyring has to serve.',
 -- Without an agent each would wait for one; agent_down says so.
 $q$ WITH v AS MATERIALIZED (
         SELECT v.* FROM (SELECT b.agent_pid FROM colcrypt.broker_status() b WHERE b.agent_pid IS NOT NULL) b
         CROSS JOIN LATERAL colcrypt.verify_keys(b.agent_pid IS NULL) v)
     SELECT CASE WHEN v.checked = 'root key' THEN 'root_closed' WHEN v.checked = 'key version' THEN 'key_closed'
                 WHEN v.checked = 'rows' THEN 'rows_without_key' ELSE 'role_missing' END AS finding,
            CASE WHEN v.checked = 'root key' THEN CASE WHEN EXISTS (
                     SELECT FROM v o WHERE o.ok AND o.checked = 'root key' AND (o.keyring, o.version) = (v.keyring, v.version))
                     THEN 'warning' ELSE 'critical' END END AS severity,
            CASE WHEN v.checked = 'root key' THEN format('%s of keyring %s, version %s', coalesce(v.root, 'root keys'), v.keyring, v.version)
                 WHEN v.key IS NULL THEN coalesce('keyring ' || v.keyring, v.checked)
                 ELSE concat_ws(', ', 'key ' || v.key, 'version ' || v.version) END AS object,
            v.problem AS detail
     FROM v WHERE NOT v.ok $q$),
('key_closed', 'critical',
 'A key version does not open, or the catalog lacks it. Values under it cannot be read.',
 'Mend its root key first. If the row is damaged, take it from a dump of schema colcrypt, or ask the escrow.', NULL),
('rows_without_key', 'critical',
 'Rows are under a key version that nobody can use any more. Their values are lost unless the version comes back.',
 'Take the version''s row from a dump of schema colcrypt of the server that wrote the rows.', NULL),
('role_missing', 'warning',
 'A grant or a column''s list of readers names a role that there is none of. Who was meant has no access.',
 'Create the role and call colcrypt.restore_grants(), or register the column with other readers.', NULL),
('provider_problem', 'warning',
 'Its provider was asked to wrap and unwrap under the root key, and could not, or has rights or a calendar that will do harm.',
 'Do what the detail says at the provider.',
 $q$ SELECT concat_ws(', ', r.provider, nullif(r.root_key, '')) AS object, w.detail,
            CASE WHEN p.kind = 'file' AND a.problem IS NULL THEN 'provider_note' END AS finding,
            CASE WHEN p.kind = 'file' AND a.problem IS NULL THEN 'notice' END AS severity
     FROM (SELECT DISTINCT r.provider, r.root_key FROM colcrypt.root_status r
           WHERE r.state <> 'escrow' AND EXISTS (SELECT FROM colcrypt.broker_status() b WHERE b.agent_pid IS NOT NULL)) r
     JOIN colcrypt.provider p ON p.name = r.provider
     CROSS JOIN LATERAL colcrypt.ask_provider(r.provider, r.root_key) a
     CROSS JOIN LATERAL unnest(array_append(a.warnings, a.problem)) AS w(detail) WHERE w.detail IS NOT NULL $q$),
('provider_note', 'notice',
 'What a kind of provider always has to say of itself.',
 'A key management system or an HSM keeps root keys off this machine.', NULL),
('key_beside_data', 'critical',
 'A root key file lies in the data directory. Each base backup has the key beside what it protects: to who holds it nothing is encrypted.',
 'Move the file elsewhere, say so with colcrypt.alter_provider, and rotate the root key: old backups have this one.',
 $q$ SELECT f.object FROM colcrypt.server_facts() f WHERE f.fact = 'key file' AND f.value = 'in the data directory' $q$),
('key_on_same_disk', 'notice',
 'A root key file lies on the file system of the data directory. Whoever takes the disk, or an image of it, has both.',
 'Keep the root key on another medium, or at a key management system.',
 $q$ SELECT f.object FROM colcrypt.server_facts() f WHERE f.fact = 'key file' AND f.value = 'on the same file system' $q$),
('key_without_period', 'warning',
 'Nothing ever rotates the key by itself: it has neither a cryptoperiod nor a rotation interval.',
 'Call colcrypt.set_cryptoperiods or colcrypt.set_rotation_interval.',
 $q$ SELECT 'key ' || s.key AS object FROM colcrypt.rotation_schedule s WHERE s.next_rotation_at IS NULL AND s.why IS NULL $q$),
('kek_without_period', 'warning',
 'Nothing ever rotates the keyring''s key encryption key by itself.',
 'Call colcrypt.set_kek_cryptoperiod.',
 $q$ SELECT 'keyring ' || s.keyring AS object FROM colcrypt.kek_schedule s WHERE s.next_rotation_at IS NULL AND s.why IS NULL $q$),
('rotation_failing', 'warning',
 'A rotation is due and failed. At the end of its period a key encrypts no more.',
 'Mend what the detail says; the worker tries again by itself.',
 $q$ SELECT 'key ' || s.key AS object, s.last_error AS detail FROM colcrypt.rotation_schedule s WHERE s.overdue AND s.last_error IS NOT NULL
     UNION ALL
     SELECT 'key encryption key of keyring ' || s.keyring, s.last_error FROM colcrypt.kek_schedule s WHERE s.last_error IS NOT NULL
     UNION ALL
     SELECT 'root keys of keyring ' || s.keyring, s.last_error FROM colcrypt.root_schedule s WHERE s.overdue AND s.last_error IS NOT NULL $q$),
('rotation_due', 'notice',
 'A rotation is due and was not made yet. The worker makes it in colcrypt.rotation_time; on a standby, the primary does.',
 'None, unless it stays so: then call colcrypt.rotate_key, rotate_kek or rotate_root.',
 $q$ SELECT 'key ' || s.key AS object, concat_ws(', next at ', s.why, s.next_rotation_at::timestamptz(0)) AS detail
     FROM colcrypt.rotation_schedule s WHERE s.overdue AND s.last_error IS NULL
     UNION ALL
     SELECT 'key encryption key of keyring ' || s.keyring, s.why FROM colcrypt.kek_schedule s WHERE s.overdue AND s.last_error IS NULL
     UNION ALL
     SELECT 'root keys of keyring ' || s.keyring, NULL FROM colcrypt.root_schedule s WHERE s.overdue AND s.last_error IS NULL $q$),
('usage_near_bound', 'warning',
 'A key version has encrypted a large part of the values that it may. At colcrypt.usage_refuse percent it encrypts no more.',
 'Rotate the key, or see why the worker does not; colcrypt.usage says who uses it so much.',
 $q$ SELECT format('key %s, version %s', u.key, u.version) AS object, format('%s %% of %s', u.percent, u.bound) AS detail,
            CASE u.state WHEN 'refuse' THEN 'critical' END AS severity
     FROM colcrypt.key_usage u WHERE u.is_current AND u.state <> 'ok' $q$),
('destruction_waits', 'warning',
 'A key version that is to be destroyed was not, since something stood in the way.',
 'Do what the detail says. It is tried again within the hour.',
 $q$ SELECT format('key %s, version %s', s.key, s.version) AS object, s.destruction_problem AS detail
     FROM colcrypt.key_status s WHERE s.destruction_problem IS NOT NULL AND s.destroyed_at IS NULL $q$),
-- Recovery, and who may do what.
('no_recovery', 'notice',
 'The keyring has one root key and no escrow. If that root key is lost, every value under the keyring is lost.',
 'Add a second root key (colcrypt.add_root), or an escrow in shares with people; see docs/escrow.md.',
 $q$ SELECT 'keyring ' || r.keyring AS object FROM colcrypt.root_status r JOIN colcrypt.keyring_status k ON k.keyring = r.keyring AND k.kek_version = r.kek_version
     GROUP BY r.keyring HAVING count(*) = 1 $q$),
('keyring_without_escrow', 'warning',
 'There is an escrow, and keyrings that are not sealed to it: a recovery would not bring those back.',
 'Call colcrypt.add_root(keyring, escrow) for each of them.',
 $q$ SELECT 'escrow ' || e.escrow AS object, e.keyrings_without || ' keyrings' AS detail FROM colcrypt.escrow_status e WHERE e.keyrings_without > 0 $q$),
('never_drilled', 'notice',
 'Recovery from the escrow was never rehearsed. Nobody knows whether it works.',
 'Hold a drill (colcrypt escrow drill) and record it with colcrypt.record_drill.',
 $q$ SELECT 'escrow ' || e.escrow AS object, 'due at ' || e.drill_due::timestamptz(0) AS detail
     FROM colcrypt.escrow_status e WHERE e.drilled_at IS NULL AND NOT e.drill_overdue AND e.retired_at IS NULL $q$),
('drill_overdue', 'warning',
 'The rehearsal of recovery from the escrow is overdue.',
 'Hold a drill (colcrypt escrow drill) and record it with colcrypt.record_drill.',
 $q$ SELECT 'escrow ' || e.escrow AS object, 'due at ' || e.drill_due::timestamptz(0) AS detail FROM colcrypt.escrow_status e WHERE e.drill_overdue $q$),
('share_check_overdue', 'warning',
 'A share of the escrow was not shown to be whole for longer than it may be.',
 'Ask its holder for a receipt (colcrypt escrow check) and record it with colcrypt.record_escrow_check.',
 $q$ SELECT format('share of %s, escrow %s', c.holder, c.escrow) AS object, 'due at ' || c.check_due::timestamptz(0) AS detail
     FROM colcrypt.custodian_status c WHERE c.is_overdue $q$),
('one_person', 'notice',
 'One person can do everything with the keyring''s keys: give rights away, move values out, destroy.',
 'Call colcrypt.require_four_eyes for the keyring: such acts then wait for a second role.',
 $q$ SELECT 'keyring ' || k.keyring AS object FROM colcrypt.keyring_status k WHERE NOT k.four_eyes $q$),
('superuser_granted', 'notice',
 'A person''s role that is superuser was granted keys. It needs no grant, and with one the audit log has no superuser_override of what it does.',
 'Grant the keys to a role without that power for the daily work, and colcrypt.revoke_key them from the superuser.',
 -- The server''s first role, which all maintenance is done with, makes keys, and has a grant on each that it made.
 $q$ SELECT 'role ' || quote_ident(r.rolname) AS object, format('%s keys, %s among them', count(*), min(p.key)) AS detail
     FROM colcrypt.key_privileges p JOIN pg_roles r ON r.rolname = p.grantee
     WHERE r.rolsuper AND r.rolcanlogin AND r.oid <> 10 GROUP BY r.rolname $q$),
('superuser_works', 'warning',
 'A superuser used a key on several days of the last week: daily work is done by a role that no grant and no policy holds back.',
 'Have the application connect as a role of its own, with colcrypt.grant_key for what it needs, and keep superusers for maintenance.',
 $q$ SELECT 'role ' || quote_ident(u.role) AS object, format('%s days, keys: %s', count(DISTINCT u.day), string_agg(DISTINCT u.key, ', ')) AS detail
     FROM colcrypt.usage u JOIN pg_roles r ON r.rolname = u.role
     WHERE r.rolsuper AND r.rolcanlogin AND u.day > (now() AT TIME ZONE 'UTC')::date - 7
     GROUP BY u.role HAVING count(DISTINCT u.day) >= 3 $q$),
('one_role_decides', 'notice',
 'One role made every decision about keys in the last 90 days: keys, grants, columns and destruction. Nobody looks at what it does.',
 'Give keys, grants and destruction to different roles (docs/access.md), and ask for four eyes: colcrypt.require_four_eyes.',
 $q$ SELECT 'role ' || quote_ident(min(a.session_role)) AS object, format('%s acts of %s kinds', count(*), count(DISTINCT a.event)) AS detail
     FROM colcrypt.audit_log a
     WHERE a.at > now() - interval '90 days' AND a.outcome = 'done' AND a.event = ANY (ARRAY['create_key', 'create_keys', 'activate_key',
           'deactivate_key', 'suspend_key', 'resume_key', 'mark_compromised', 'schedule_key_destruction', 'drop_key', 'grant_key', 'revoke_key',
           'grant_keyring', 'revoke_keyring', 'register_column', 'encrypt_column', 'decrypt_column', 'move_column', 'rebind_column',
           'add_provider', 'alter_provider', 'add_root', 'drop_root', 'set_cryptoperiods', 'set_usage_bound', 'approve_request'])
     HAVING count(DISTINCT a.session_role) = 1 AND count(*) >= 20 AND count(DISTINCT a.event) >= 3 $q$),
('public_may_decrypt', 'warning',
 'Every role of the server may decrypt with the key. It protects from none of them.',
 'Grant the key to the roles that need it, then colcrypt.revoke_key(key, ''PUBLIC'').',
 $q$ SELECT 'key ' || p.key AS object FROM colcrypt.key_privileges p WHERE p.grantee = 'PUBLIC' AND p.decrypt $q$),
('public_may_encrypt', 'notice',
 'Every role may encrypt with the key, or make keys in the keyring.',
 'Grant that to the roles that need it, and revoke it from PUBLIC.',
 $q$ SELECT 'key ' || p.key AS object FROM colcrypt.key_privileges p WHERE p.grantee = 'PUBLIC' AND p.encrypt AND NOT p.decrypt
     UNION ALL
     SELECT 'keyring ' || p.keyring FROM colcrypt.keyring_privileges p WHERE p.grantee = 'PUBLIC' $q$),
('public_on_catalog', 'critical',
 'Every role was given a privilege on a function or table of the extension that the extension does not give.',
 'REVOKE it FROM PUBLIC, and grant it to the roles that need it.',
 $q$ SELECT o.what AS object, string_agg(a.privilege_type, ', ') AS detail
     FROM (SELECT 'pg_proc'::regclass AS class, p.oid, coalesce(p.proacl, acldefault('f', p.proowner)) AS acl, 'function ' || p.oid::regprocedure AS what
           FROM pg_proc p WHERE p.pronamespace = 'colcrypt'::regnamespace
           UNION ALL
           SELECT 'pg_class'::regclass, c.oid, c.relacl, 'relation ' || c.oid::regclass
           FROM pg_class c WHERE c.relnamespace = 'colcrypt'::regnamespace) o
     CROSS JOIN LATERAL aclexplode(o.acl) a
     WHERE a.grantee = 0 AND NOT EXISTS (
         SELECT FROM pg_init_privs i CROSS JOIN LATERAL aclexplode(i.initprivs) b
         WHERE i.classoid = o.class AND i.objoid = o.oid AND i.objsubid = 0 AND b.grantee = 0 AND b.privilege_type = a.privilege_type)
     GROUP BY o.what $q$),
-- Servers that follow this one, by what each reported last.
('node_primary', 'critical',
 'A server that is registered as a follower of this one makes keys itself, or has another primary''s catalog: two that rotate the same key make two versions of one number.',
 'Set colcrypt.node = follower there and reload, or here, where the other is the primary by now; then bring it the catalog (docs/cluster.md).',
 $q$ SELECT 'node ' || n.name AS object,
            CASE WHEN n.is_of_another THEN 'its catalog is of another primary' ELSE 'colcrypt.node is ' || n.role || ' there' END AS detail
     FROM colcrypt.node_status n
     WHERE n.is_of_another OR n.role <> 'follower' AND n.report->>'follows' IS NULL $q$),
('node_root', 'critical',
 'A root key does not give a server that follows this one its key encryption key. Keys that it has cached serve on for colcrypt.hard_ttl at most.',
 'Mend what the detail says there: the key file, the way to the provider, or its settings on that server (alter_provider).',
 $q$ SELECT 'node ' || n.name AS object, n.root_problem AS detail FROM colcrypt.node_status n WHERE n.root_problem IS NOT NULL $q$),
('node_drift', 'warning',
 'The key catalog of a server that follows this one is not what it imported: somebody changed it by hand, or it has a key encryption key of its own.',
 'See there what was changed, and import the catalog again: import_catalog(…, adopt => true) where nothing else is new.',
 $q$ SELECT 'node ' || n.name AS object, 'changed there: ' || array_to_string(n.drift, ', ') AS detail, NULL AS severity
     FROM colcrypt.node_status n WHERE n.drift <> '{}'
     UNION ALL
     SELECT 'node ' || n.name, format('version %s of the key encryption key of keyring %s has another check value there', r.version, r.keyring), 'critical'
     FROM colcrypt.node_status n, jsonb_to_recordset(n.report->'keks') AS r(keyring text, version int, kcv text), colcrypt.kek_status e
     WHERE e.keyring = r.keyring AND e.kek_version = r.version AND e.kek_check_value <> r.kcv $q$),
('node_silent', 'warning',
 'Nothing was heard of a server that follows this one for a day or more. What was revoked since may not be so there, and no version that it may need is destroyed.',
 'Bring it the catalog and its report here (colcrypt nodes sync), or colcrypt.drop_node if it is gone.',
 $q$ SELECT 'node ' || n.name AS object, coalesce('last report at ' || n.acknowledged_at::timestamptz(0), 'it has never reported') AS detail
     FROM colcrypt.node_status n WHERE coalesce(n.acknowledged_at < now() - interval '1 day', true) $q$),
('node_behind', 'warning',
 'A server that follows this one has an older key catalog than was exported: what was revoked, suspended or rotated since is not so there.',
 'Bring it the catalog (colcrypt nodes sync, or import_catalog).',
 $q$ SELECT 'node ' || n.name AS object, format('%s epochs behind', n.behind) AS detail
     FROM colcrypt.node_status n WHERE n.behind > 0 AND n.report IS NOT NULL AND NOT n.is_of_another IS TRUE $q$),
('node_usage', 'warning',
 'A server that follows this one has encrypted a large part of the values that it may with a key version (its part of the bound: colcrypt.usage_nodes).',
 'Rotate the key here, and bring the catalog there.',
 $q$ SELECT format('node %s, key %s, version %s', u.node, k.name, u.version) AS object,
            format('%s of %s', u.encryptions, p.part) AS detail
     FROM colcrypt.node_usage u JOIN colcrypt.key k ON k.key_id = u.key_id AND k.current_version = u.version
     CROSS JOIN LATERAL (SELECT greatest(least(colcrypt.suite_bound(k.suite), k.usage_bound) / current_setting('colcrypt.usage_nodes')::int, 1) AS part) p
     WHERE u.encryptions >= floor(p.part::numeric * current_setting('colcrypt.usage_warn')::int / 100) $q$),
('node_not_prepared', 'notice',
 'A key version is prepared here, and a server that follows this one does not have it yet: a rotation by schedule waits for it.',
 'Bring it the catalog and its report here (colcrypt nodes sync).',
 $q$ SELECT 'node ' || n.name AS object, array_to_string(n.not_prepared, ', ') AS detail FROM colcrypt.node_status n WHERE n.not_prepared <> '{}' $q$),
-- Jobs.
('job_failed', 'warning',
 'The last job of its kind on the column failed. Rows are left as they were: under an older key version, in plaintext, or bound to another context.',
 'Mend what the detail and table job_error say, then colcrypt.retry_job(job).',
 $q$ SELECT format('job %s on %s.%I', j.job_id, j."table", j.attribute) AS object,
            concat_ws(', ', j.kind, nullif(j.rows_failed, 0) || ' rows failed', j.last_error) AS detail
     FROM (SELECT DISTINCT ON (j.relation, j.attribute, j.key, j.kind) j.* FROM colcrypt.job_progress j
           ORDER BY j.relation, j.attribute, j.key, j.kind, j.job_id DESC) j
     WHERE j.phase = 'failed' AND EXISTS (SELECT FROM pg_class c WHERE c.oid = j.relation) $q$),
('job_stuck', 'warning',
 'A job has been open for over an hour without moving rows: nobody takes it, or it waits for transactions that do not end.',
 'End old transactions, prepared ones and unused replication slots; see the server log for workers that do not start.',
 $q$ SELECT format('job %s on %s.%I', j.job_id, j."table", j.attribute) AS object,
            concat_ws(', ', j.phase || ' since ' || j.created_at::timestamptz(0), j.last_error) AS detail
     FROM colcrypt.job_progress j
     WHERE j.finished_at IS NULL AND j.held_by IS NULL AND j.created_at < now() - interval '1 hour'
       AND j.phase IN ('queued', 'waiting for old transactions', 'vacuuming') $q$),
('job_held', 'notice',
 'A job does not move rows now: it is paused, a brake holds it, or a key cannot be had.',
 'colcrypt.resume_job where it is paused; else see the setting or the key that the detail names.',
 $q$ SELECT format('job %s on %s.%I', j.job_id, j."table", j.attribute) AS object, j.held_by AS detail,
            CASE WHEN j.held_by LIKE 'key:%' THEN 'warning' END AS severity
     FROM colcrypt.job_progress j WHERE j.held_by IS NOT NULL $q$),
-- Columns.
('rows_not_opening', 'warning',
 'Values of a column that were tried do not all open as it is registered: they are damaged, or bound to something else than the registration says.',
 'colcrypt.verify_column lists all that do not open. Where none do, register the column with the context that they were encrypted with.',
 -- Without an agent it would wait for keys; agent_down says so.
 $q$ SELECT format('%s.%I', c.relation, c.attribute) AS object,
            format('%s of %s values that were tried: %s', c.closed, c.tried, c.reason) AS detail
     FROM (SELECT b.agent_pid FROM colcrypt.broker_status() b WHERE b.agent_pid IS NOT NULL) b
     CROSS JOIN LATERAL colcrypt.sample_columns(CASE WHEN b.agent_pid > 0 THEN 20 END) c WHERE c.closed > 0 $q$),
('column_not_registered', 'warning',
 'A column holds encrypted values and is not registered. No rotation moves them: they stay under their key version, compromised or not.',
 'Call colcrypt.register_column for it.',
 $q$ SELECT format('%s.%I', c.oid::regclass, a.attname) AS object
     FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
     WHERE a.atttypid = 'colcrypt.ciphertext'::regtype AND a.attnum > 0 AND NOT a.attisdropped
       AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
       -- Of a tree its root is told, and what holds there holds below.
       AND NOT EXISTS (SELECT FROM pg_inherits i JOIN pg_attribute b ON b.attrelid = i.inhparent AND b.attname = a.attname
                       WHERE i.inhrelid = c.oid AND b.atttypid = a.atttypid AND NOT b.attisdropped)
       AND NOT EXISTS (SELECT FROM colcrypt.protected_column p WHERE p.relation = c.oid AND p.attribute = a.attname)
       AND NOT EXISTS (SELECT FROM colcrypt.migration m JOIN colcrypt.job_progress j USING (job_id)
                       WHERE m.relation = c.oid AND j.finished_at IS NULL AND a.attname IN (m.twin, m.attribute)) $q$),
('registration_wrong', 'warning',
 'A registered column is not there any more, or is no ciphertext. Rotations do nothing for it, and its jobs fail.',
 'Register what took its place, and colcrypt.unregister_column the other.',
 $q$ SELECT format('%s.%I', CASE WHEN c.oid IS NULL THEN '(dropped)' ELSE c.oid::regclass::text END, p.attribute) AS object,
            CASE WHEN c.oid IS NULL THEN format('the table was dropped: colcrypt.unregister_column(%s, %L)', p.relation::oid, p.attribute) WHEN a.attnum IS NULL THEN 'the table has no such column'
                 ELSE 'the column is of type ' || format_type(a.atttypid, a.atttypmod) END AS detail,
            CASE WHEN c.oid IS NULL THEN 'notice' END AS severity
     FROM colcrypt.protected_column p
     LEFT JOIN pg_class c ON c.oid = p.relation
     LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = p.attribute AND NOT a.attisdropped
     WHERE a.atttypid IS DISTINCT FROM 'colcrypt.ciphertext'::regtype
       AND NOT EXISTS (SELECT FROM colcrypt.migration m JOIN colcrypt.job_progress j USING (job_id)
                       WHERE m.relation = p.relation AND j.finished_at IS NULL AND p.attribute IN (m.twin, m.attribute)) $q$),
('view_stale', 'warning',
 'An access view was made before the column was registered: it shows the ciphertext, and takes what is written there as one.',
 'Call colcrypt.create_access_view for the view.',
 $q$ SELECT format('%s.%I', v.oid::regclass, s.attname) AS object, format('%s.%I is registered', p.relation, p.attribute) AS detail
     FROM pg_trigger t
     JOIN pg_class v ON v.oid = t.tgrelid AND v.relkind = 'v'
     JOIN pg_rewrite r ON r.ev_class = v.oid
     JOIN pg_attribute s ON s.attrelid = v.oid AND s.atttypid = 'colcrypt.ciphertext'::regtype AND s.attnum > 0
     JOIN colcrypt.protected_column p ON p.attribute = s.attname
     WHERE t.tgfoid = 'colcrypt.write_access_view()'::regprocedure
       AND EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                                             AND d.refclassid = 'pg_class'::regclass AND d.refobjid = p.relation) $q$),
('search_index_unused', 'warning',
 'No query looks rows up by a search index, and no job is about to make its terms: look-ups read and decrypt the whole table.',
 'Call colcrypt.retry_job for its last job, colcrypt.create_search_index again in a restored database and where rows have come past the trigger, or colcrypt.drop_search_index where nobody needs it.',
 $q$ SELECT format('%s.%I (%s)', o."table", o."column", o.kind) AS object, 'terms by version of the search key: ' || o.versions AS detail
     FROM colcrypt.search_overview o
     WHERE o.versions LIKE '%building%' AND o.versions NOT LIKE '%ready%'
       AND NOT EXISTS (SELECT FROM colcrypt.job_progress j WHERE j.relation = o."table" AND j.attribute = o."column"
                                                             AND j.kind = 'create_search_index' AND j.finished_at IS NULL) $q$),
('plaintext_copy', 'warning',
 'A materialized view reads decrypted values: its rows, and each backup of them, may hold the plaintext.',
 'Make it a plain view, or leave the decrypted columns out; then rewrite or drop what holds the copy.',
 $q$ SELECT format('materialized view %s', c.oid::regclass) AS object
     FROM colcrypt.shows_plaintext s JOIN pg_class c ON s.class = 'pg_class'::regclass AND c.oid = s.oid WHERE c.relkind = 'm' $q$),
('plaintext_index', 'warning',
 'An index, extended statistics or a generated column is made of decrypted values: the plaintext is stored, in pg_statistic, too.',
 'Drop it, and expire the backups that hold it.',
 $q$ SELECT pg_describe_object(s.class, s.oid, 0) AS object
     FROM colcrypt.shows_plaintext s LEFT JOIN pg_class c ON s.class = 'pg_class'::regclass AND c.oid = s.oid
     WHERE c.relkind IN ('i', 'I') OR s.class = 'pg_statistic_ext'::regclass
        OR s.class = 'pg_attrdef'::regclass AND EXISTS (
            SELECT FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
            WHERE d.oid = s.oid AND a.attgenerated = 's') $q$),
-- The record.
('audit_broken', 'critical',
 'The audit log''s chain of hashes does not hold: a record was edited, removed or put in.',
 'Keep the database as it is, compare with anchors in the server log and with backups, and find out who could write there.',
 $q$ WITH v AS MATERIALIZED (SELECT * FROM colcrypt.verify_audit_log())
     SELECT 'audit_broken' AS finding, NULL AS severity, 'record ' || v.first_bad AS object, v.problem AS detail FROM v WHERE NOT v.ok
     UNION ALL
     SELECT 'events_only_counted', 'notice', 'audit log', v.not_recorded || ' events' FROM v WHERE v.not_recorded > 0 $q$),
('events_only_counted', 'notice',
 'More refusals and failures came than the log takes in a time. They were counted, and have no record of their own.',
 'See who was refused so often. A larger colcrypt.audit_ring_events helps where all of them are wanted.', NULL),
('events_in_server_log', 'notice',
 'There was no room for events on their way into the audit log since the server started: they are in the server log instead.',
 'Raise colcrypt.audit_ring_events, and see whether the launcher and its keeper run.',
 $q$ SELECT 'audit ring' AS object, s.to_server_log || ' events' AS detail FROM colcrypt.audit_status() s WHERE s.to_server_log > 0 $q$),
('no_anchor', 'notice',
 'The head of the audit log is never written anywhere else: nobody could tell that the log was cut or made anew.',
 'Set colcrypt.audit_anchor_interval, and ship the server log to another machine.',
 $q$ SELECT 'colcrypt.audit_anchor_interval' AS object WHERE current_setting('colcrypt.audit_anchor_interval', true) = '0' $q$),
('honeytoken', 'critical',
 'A value was decrypted in the last seven days that nobody has a reason to decrypt.',
 'Find out who it was and by what way. Suspend the key if need be (colcrypt.suspend_key).',
 $q$ SELECT coalesce('key ' || a.key, 'a key') AS object, format('%s times, last at %s by %s', sum(a.repeats), max(a.at)::timestamptz(0),
                                              (array_agg(a.session_role ORDER BY a.at DESC))[1]) AS detail
     FROM colcrypt.audit_log a WHERE a.outcome = 'alarm' AND a.at > now() - interval '7 days' GROUP BY a.key $q$),
-- Settings in which plaintext leaks: values that stand in the text of a statement, and those that come as parameters.
('statements_logged', 'warning',
 'The server log gets statements as they are sent: each value that stands in the text, and each parameter, in plaintext.',
 'Send values as parameters, set log_parameter_max_length = 0, and expire the logs that there are.',
 $q$ SELECT s.place AS object, CASE WHEN p.value = '0' THEN 'parameters are left out, values in the text are not' END AS detail,
            CASE WHEN p.value = '0' THEN 'notice' END AS severity
     FROM colcrypt.setting_places s, (SELECT current_setting('log_parameter_max_length') AS value) p
     WHERE s.name = 'log_statement' AND s.value IN ('mod', 'all')
        OR s.name IN ('log_min_duration_statement', 'log_min_duration_sample') AND s.value <> '-1'
        OR s.name = 'log_transaction_sample_rate' AND s.value <> '0' $q$),
('parameters_logged', 'warning',
 'A statement that fails is written to the server log with its parameters, in plaintext.',
 'Set log_parameter_max_length_on_error = 0, and expire the logs that there are.',
 $q$ SELECT s.place AS object FROM colcrypt.setting_places s WHERE s.name = 'log_parameter_max_length_on_error' AND s.value <> '0' $q$),
('literals_shown', 'notice',
 'Values that stand in the text of a statement are seen by others: in the server log where it fails, and in pg_stat_activity while it runs and after.',
 'Send values as parameters: these two do not show them.',
 $q$ SELECT s.place AS object FROM colcrypt.setting_places s
     WHERE s.name = 'log_min_error_statement' AND s.value NOT IN ('fatal', 'panic')
        OR s.name = 'track_activities' AND s.value IN ('on', 'true', 'yes', '1') $q$),
('plans_logged', 'warning',
 'auto_explain writes statements and plans to the server log, with the values in them.',
 'Set auto_explain.log_min_duration = -1 on servers with encrypted columns, or auto_explain.log_parameter_max_length = 0 and no values in the text.',
 $q$ SELECT s.place AS object FROM colcrypt.setting_places s WHERE s.name = 'auto_explain.log_min_duration' AND s.value <> '-1' $q$),
('trees_logged', 'warning',
 'Each statement is written to the server log as parsed or planned, or its text is, with the values in it.',
 'Turn it off, and expire the logs that there are.',
 $q$ SELECT s.place AS object FROM colcrypt.setting_places s
     WHERE s.name IN ('debug_print_parse', 'debug_print_rewritten', 'debug_print_plan') AND s.value IN ('on', 'true', 'yes', '1')
        OR s.name = 'log_min_messages' AND s.value IN ('debug', 'debug2', 'debug3', 'debug4', 'debug5') $q$),
('statements_kept', 'notice',
 'pg_stat_statements keeps texts on disk. In queries it puts $1 for values; in commands such as CREATE TABLE AS, COPY or DO it does not.',
 'Set pg_stat_statements.track_utility = off, and call pg_stat_statements_reset().',
 $q$ SELECT s.place AS object FROM colcrypt.setting_places s
     WHERE s.name = 'pg_stat_statements.track_utility' AND s.value IN ('on', 'true', 'yes', '1') $q$),
('not_checked', 'notice',
 'The check of this name could not be made, so it says nothing: the caller may not ask, or what was asked failed.',
 'Call doctor as a member of pg_monitor that may execute verify_keys, check_provider and sample_columns, or mend what the detail says.', NULL)
    $checks$;
GRANT EXECUTE ON FUNCTION colcrypt.doctor_checks() TO pg_monitor;
COMMENT ON FUNCTION colcrypt.doctor_checks() IS
    'what doctor looks for: each finding''s name, severity, meaning and remedy, and the query that finds it';

CREATE FUNCTION colcrypt.doctor(
        OUT severity text, OUT finding text, OUT object text, OUT detail text, OUT meaning text, OUT remedy text)
    RETURNS SETOF record
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET jit = off
    AS $$
DECLARE
    checked record;
    hit jsonb;
    hits jsonb[] := '{}';
BEGIN
    FOR checked IN SELECT c.finding, c.query FROM colcrypt.doctor_checks() c WHERE c.query IS NOT NULL LOOP
        BEGIN
            FOR hit IN EXECUTE format('SELECT to_jsonb(f) FROM (%s) f', checked.query) LOOP
                hits := array_append(hits, jsonb_build_object('finding', checked.finding) || jsonb_strip_nulls(hit));
            END LOOP;
        EXCEPTION WHEN OTHERS THEN
            hits := array_append(hits, jsonb_build_object(
                'finding', 'not_checked', 'object', checked.finding, 'detail', SQLERRM,
                'severity', CASE SQLSTATE WHEN '42501' THEN 'notice' ELSE 'warning' END));
        END;
    END LOOP;
    RETURN QUERY
        SELECT coalesce(h.hit->>'severity', c.severity), c.finding, h.hit->>'object', h.hit->>'detail', c.meaning, c.remedy
        FROM unnest(hits) WITH ORDINALITY AS h(hit, nr) JOIN colcrypt.doctor_checks() c ON c.finding = h.hit->>'finding'
        ORDER BY array_position('{critical,warning,notice}'::text[], coalesce(h.hit->>'severity', c.severity)), h.nr;
END
$$;
GRANT EXECUTE ON FUNCTION colcrypt.doctor() TO pg_monitor;
COMMENT ON FUNCTION colcrypt.doctor() IS
    'whether all is well: a row a finding, the worst first, with what it means and what to do; severity is critical, warning or notice; asks root keys anew where the caller may, writes nothing, and works on a standby, too';
REVOKE ALL ON FUNCTION colcrypt.server_facts(), colcrypt.ask_provider(text, text), colcrypt.doctor_checks(), colcrypt.doctor() FROM PUBLIC;

COMMENT ON TYPE colcrypt.context IS
    'additional data that a value is bound to, made by place_context or row_context; the same context is needed to decrypt';
COMMENT ON TABLE colcrypt.destruction IS
    'how far the destruction of a version that is due has come, and why it was postponed; not dumped, since a restored database looks again';
COMMENT ON FUNCTION colcrypt.mark_honeytoken(colcrypt.ciphertext, text) IS
    'raises an alarm in the audit log whenever this value is decrypted, which the role that does so cannot tell';

ALTER TABLE colcrypt.key_version ADD COLUMN canary bytea;

-- Not dumped: a copy of a database is another server than the one it was made of.
CREATE TABLE colcrypt.node_state (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    -- The primary that the key catalog is of, the number of its last change that was exported or imported, and the digest of that.
    origin uuid NOT NULL,
    epoch bigint NOT NULL CHECK (epoch > 0),
    digest text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
REVOKE ALL ON colcrypt.node_state FROM PUBLIC;
GRANT SELECT ON colcrypt.node_state TO pg_monitor;
COMMENT ON TABLE colcrypt.node_state IS
    'how far the key catalog of this server has come: a primary counts the changes that it exported, a follower has the number of what it imported';

-- The same bytes for the same keys, whatever a session's settings are.
CREATE FUNCTION colcrypt.catalog_content() RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    SET bytea_output = hex SET intervalstyle = iso_8601 SET timezone = 'UTC' SET extra_float_digits = 1 SET jit = off
    AS $$
        SELECT jsonb_build_object(
            'providers', (SELECT coalesce(jsonb_agg(to_jsonb(p) ORDER BY p.name), '[]') FROM colcrypt.provider p),
            'keyrings', (SELECT coalesce(jsonb_agg(to_jsonb(r) ORDER BY r.name), '[]') FROM colcrypt.keyring r),
            'kek_versions', (SELECT coalesce(jsonb_agg(to_jsonb(e) ORDER BY e.keyring_id, e.version), '[]') FROM colcrypt.kek_version e),
            'kek_copies', (SELECT coalesce(jsonb_agg(to_jsonb(c) ORDER BY c.keyring_id, c.version, c.preference), '[]') FROM colcrypt.kek_copy c),
            'keys', (SELECT coalesce(jsonb_agg(to_jsonb(k) ORDER BY k.name), '[]') FROM colcrypt.key k),
            'key_versions', (SELECT coalesce(jsonb_agg(to_jsonb(v) ORDER BY v.key_id, v.version), '[]') FROM colcrypt.key_version v),
            -- Roles by name: by number they are others on another server.
            'grants', (SELECT coalesce(jsonb_agg(to_jsonb(g) ORDER BY g.grantee, g.key_id, g.keyring_id), '[]') FROM (
                SELECT coalesce(r.rolname, 'PUBLIC') AS grantee, g.key_id, g.can_encrypt, g.can_decrypt, NULL::uuid AS keyring_id,
                       NULL::boolean AS can_create, g.can_manage, g.can_search
                FROM colcrypt.key_grant g LEFT JOIN pg_roles r ON r.oid = g.grantee WHERE g.grantee::oid = 0 OR r.oid IS NOT NULL
                UNION ALL
                SELECT coalesce(r.rolname, 'PUBLIC'), NULL, NULL, NULL, g.keyring_id, g.can_create, g.can_manage, NULL
                FROM colcrypt.keyring_grant g LEFT JOIN pg_roles r ON r.oid = g.grantee WHERE g.grantee::oid = 0 OR r.oid IS NOT NULL
                UNION ALL
                SELECT w.grantee, w.key_id, w.can_encrypt, w.can_decrypt, w.keyring_id, w.can_create, w.can_manage, w.can_search FROM colcrypt.restored_grant w) g),
            'honeytokens', (SELECT coalesce(jsonb_agg(to_jsonb(h) ORDER BY h.key_id, h.tag), '[]') FROM colcrypt.honeytoken h),
            'columns', (SELECT coalesce(jsonb_agg(to_jsonb(o) ORDER BY o.schema, o.relation, o.attribute), '[]') FROM (
                SELECT n.nspname AS schema, c.relname AS relation, p.attribute, k.name AS key, p.context, p.readers,
                       format_type(p.plaintext_type, NULL) AS plaintext_type, p.label, p.enforce, p.rotation, p.key_expression, r.name AS keyring
                FROM colcrypt.protected_column p JOIN pg_class c ON c.oid = p.relation JOIN pg_namespace n ON n.oid = c.relnamespace
                LEFT JOIN colcrypt.key k USING (key_id) LEFT JOIN colcrypt.keyring r ON r.keyring_id = p.keyring_id) o))
    $$;
COMMENT ON FUNCTION colcrypt.catalog_content() IS
    'the key catalog as it goes from a primary to its followers: every key in it is wrapped; see export_catalog';

CREATE FUNCTION colcrypt.export_catalog() RETURNS jsonb
    AS 'MODULE_PATHNAME', 'colcrypt_export_catalog' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.export_catalog() IS
    'the key catalog for followers, with the number of its last change: keys as they are wrapped, states, grants by role, registrations by table, honeytokens; it holds no secret, and whoever may import it decides about keys there';

CREATE FUNCTION colcrypt.import_catalog(catalog jsonb, providers jsonb DEFAULT '{}', adopt boolean DEFAULT false) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_import_catalog' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.import_catalog(jsonb, jsonb, boolean) IS
    'takes a primary''s key catalog into this follower, whole or not at all; providers gives settings that are this server''s own, by provider; adopt takes another primary''s, or an older one of a primary that was restored; says imported, or unchanged';
REVOKE ALL ON FUNCTION colcrypt.catalog_content(), colcrypt.export_catalog(), colcrypt.import_catalog(jsonb, jsonb, boolean) FROM PUBLIC;

-- What a report to an auditor is made of besides.
GRANT SELECT ON colcrypt.key, colcrypt.keyring, colcrypt.escrow_drill TO pg_monitor;
GRANT SELECT (anchored_seq, anchored_at) ON colcrypt.audit_state TO pg_monitor;

CREATE TABLE colcrypt.former_enum_label (
    former text COLLATE "C" NOT NULL,
    type regtype NOT NULL,
    label text COLLATE "C" NOT NULL,
    PRIMARY KEY (former, type, label)
);
COMMENT ON TABLE colcrypt.former_enum_label IS 'what labels of enums were called before they were renamed, since values are written as labels';
REVOKE ALL ON colcrypt.former_enum_label FROM PUBLIC;
DO $$
BEGIN
    PERFORM pg_catalog.pg_extension_config_dump('colcrypt.former_enum_label',
        'WHERE EXISTS (SELECT FROM pg_catalog.pg_type t WHERE t.oid = type)');
END
$$;

ALTER TABLE colcrypt.kek_version ADD COLUMN wrappings_of_dropped bigint NOT NULL DEFAULT 0;
CREATE OR REPLACE VIEW colcrypt.kek_status AS
    SELECT r.name AS keyring,
           e.version AS kek_version,
           s.provider,
           s.root_key,
           s.root_key_version,
           coalesce(s.roots, 0) AS roots,
           s.served_by,
           s.root_problem,
           CASE WHEN e.destroyed_at IS NOT NULL THEN 'destroyed' WHEN e.compromised_at IS NOT NULL THEN 'compromised'
                WHEN e.version = r.current_version THEN 'active' ELSE 'deactivated' END AS state,
           e.kcv AS kek_check_value,
           coalesce(n.keys, 0)::int AS keys,
           e.created_at,
           e.deactivated_at,
           e.compromised_at,
           e.destroy_at,
           e.destroyed_at,
           e.changed_by,
           e.reason,
           -- From the first that wrapped it to the one that it is under, each did.
           e.wrappings_of_dropped + (SELECT count(*) FROM colcrypt.key_version v JOIN colcrypt.key k USING (key_id)
               WHERE k.keyring_id = e.keyring_id AND e.version BETWEEN v.first_kek_version AND v.kek_version) AS wrappings
    FROM colcrypt.kek_version e
    JOIN colcrypt.keyring r USING (keyring_id)
    LEFT JOIN (
        SELECT s.keyring,
               s.kek_version,
               (array_agg(s.provider ORDER BY s.preference))[1] AS provider,
               (array_agg(s.root_key ORDER BY s.preference))[1] AS root_key,
               (array_agg(s.root_key_version ORDER BY s.preference))[1] AS root_key_version,
               count(*)::int AS roots,
               (array_agg(CASE s.root_key WHEN '' THEN s.provider ELSE s.provider || ', ' || s.root_key END
                          ORDER BY s.served_at DESC) FILTER (WHERE s.served_at IS NOT NULL))[1] AS served_by,
               string_agg(format('%s (since %s)', s.problem, s.failing_since::timestamptz(0)), '; ' ORDER BY s.preference)
                   FILTER (WHERE s.problem IS NOT NULL) AS root_problem
        FROM colcrypt.root_status s
        WHERE s.state <> 'escrow'
        GROUP BY s.keyring, s.kek_version) s ON s.keyring = r.name AND s.kek_version = e.version
    LEFT JOIN (
        SELECT k.keyring_id, v.kek_version, count(*) AS keys
        FROM colcrypt.key_version v JOIN colcrypt.key k USING (key_id)
        WHERE v.destroyed_at IS NULL
        GROUP BY 1, 2) n ON n.keyring_id = e.keyring_id AND n.kek_version = e.version;
COMMENT ON VIEW colcrypt.kek_status IS
    'every version of every key encryption key: its first root key, how many it has, which one it last came from on this server, which of them fail, why and since when; its state (active, deactivated, compromised, destroyed), how many key versions are under it now, and how many it has wrapped since it was made, those that were moved on, destroyed or dropped among them (wrappings; one that was passed over when two were made in a row counts too)';
COMMENT ON VIEW colcrypt.rotation_schedule IS
    'which active key the worker will rotate when and why, and what went wrong when it tried; a retry waits for retry_at; of key encryption keys and root keys see kek_schedule and root_schedule';

-- For who watches.
CREATE OR REPLACE VIEW colcrypt.job_progress AS
    SELECT j.job_id,
           CASE WHEN c.oid IS NOT NULL THEN j.relation END AS relation,
           coalesce(m.attribute, j.attribute) AS attribute,
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
           CASE WHEN j.phase = 'moving' AND j.passes = 1 AND j.blocks_done > 0
                THEN j.worked * ((j.blocks_total - j.blocks_done)::float8 / j.blocks_done) END AS time_left,
           j.last_error,
           j.created_at,
           j.started_at,
           j.finished_at,
           coalesce(m.kind || '_column', CASE WHEN j.verifies THEN 'verify_column' WHEN j.rebinds THEN 'rebind_column' WHEN j.from_keys <> '{}' THEN 'move_column' ELSE 'reencrypt_column' END) AS kind,
           j.passes AS pass,
           CASE WHEN c.oid IS NULL THEN '(dropped)' ELSE format('%I.%I', n.nspname, c.relname) END AS "table"
    FROM colcrypt.job j LEFT JOIN colcrypt.key k USING (key_id) LEFT JOIN colcrypt.migration m USING (job_id)
    LEFT JOIN pg_catalog.pg_class c ON c.oid = j.relation
    LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace;
COMMENT ON VIEW colcrypt.job_progress IS
    'jobs: kind is the function that orders such a job; phase is queued, moving, retrying, waiting for old transactions, verifying, done, failed or cancelled, and of migrations also swapping, scrubbing, vacuuming and cancelling; held_by is what keeps an open one from moving rows now; rows_estimate is all rows of the table, as last analyzed; pass is how many times the table was gone through, with the time at hand, and blocks_done is of this pass; time_left is for the first; key is null where all keys by row are concerned; of a table that was dropped, relation is null and table (dropped)';
CREATE OR REPLACE VIEW colcrypt.key_version_census AS
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


-- Versions that decrypt before they encrypt.
ALTER TABLE colcrypt.key_version ADD COLUMN prepared_at timestamptz;
CREATE OR REPLACE VIEW colcrypt.key_status AS
    SELECT k.name AS key,
           lpad(to_hex(k.key_id), 16, '0') AS key_id,
           v.version,
           v.version = k.current_version AS is_current,
           v.state,
           k.suite,
           r.name AS keyring,
           v.kek_version,
           e.provider,
           e.root_key,
           e.root_key_version,
           e.served_by,
           e.root_problem,
           v.kcv AS key_check_value,
           v.created_at,
           v.activated_at,
           v.deactivated_at,
           v.compromised_at,
           v.destroy_at,
           v.destroyed_at,
           v.state_changed_at,
           v.state_changed_by,
           v.state_reason,
           d.last_error AS destruction_problem,
           k.compression,
           v.shreds,
           v.prepared_at
    FROM colcrypt.key k
    JOIN colcrypt.key_version v ON v.key_id = k.key_id
    -- Outer joins are no fewer rows to the planner, which so reads a page of keys by their index.
    LEFT JOIN colcrypt.keyring r USING (keyring_id)
    LEFT JOIN colcrypt.kek_status e ON e.keyring = r.name AND e.kek_version = v.kek_version
    LEFT JOIN colcrypt.destruction d ON d.key_id = v.key_id AND d.version = v.version;
COMMENT ON VIEW colcrypt.key_status IS
    'every key version, its state, who moved it there and why, and what protects it: the keyring''s first root key, which root key served last, and which of them fail; shreds where it is destroyed, or will be, although rows need it; prepared_at where it was made to decrypt before it encrypts';

CREATE FUNCTION colcrypt.prepare_key_version(key text, reason text DEFAULT NULL) RETURNS int
    AS 'MODULE_PATHNAME', 'colcrypt_prepare_key_version' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.prepare_key_version(text, text) IS
    'makes the next version, which decrypts from commit on and encrypts nothing until rotate_key or activate_key switches to it, so that other servers have it before any row is under it; where one is prepared already, that one; returns the version';
REVOKE ALL ON FUNCTION colcrypt.prepare_key_version(text, text) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.rotate_key(text) IS
    'makes a new version, or takes the one that was prepared, for all writes from commit on, and queues a re-encryption job for each registered column; returns the version';

-- Servers that follow a primary, as it knows them.
ALTER TABLE colcrypt.node_state ADD COLUMN parts jsonb;
-- The servers that follow this one, as an operator registers them, and what each reported last. Dumped: a primary that was restored asks the same
-- servers before it destroys what they need.
CREATE TABLE colcrypt.node (
    name text COLLATE "C" PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 200),
    -- How the program reaches it, without a password; null where that is kept elsewhere.
    connection text,
    registered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    registered_by text NOT NULL DEFAULT session_user,
    -- When its last report was taken down here, and that report.
    acknowledged_at timestamptz,
    report jsonb
);
REVOKE ALL ON colcrypt.node FROM PUBLIC;
GRANT SELECT ON colcrypt.node TO pg_monitor;
COMMENT ON TABLE colcrypt.node IS
    'servers that follow this one, with the last report of each; see the view node_status';

CREATE TABLE colcrypt.node_usage (
    key_id bigint NOT NULL,
    version int NOT NULL,
    node text COLLATE "C" NOT NULL,
    encryptions bigint NOT NULL,
    PRIMARY KEY (key_id, version, node)
);
REVOKE ALL ON colcrypt.node_usage FROM PUBLIC;
GRANT SELECT ON colcrypt.node_usage TO pg_monitor;
COMMENT ON TABLE colcrypt.node_usage IS
    'how many values other servers have encrypted with each key version, as each reported last: they count against the version''s bound here';
SELECT pg_catalog.pg_extension_config_dump('colcrypt.node', '');
SELECT pg_catalog.pg_extension_config_dump('colcrypt.node_usage', '');

CREATE FUNCTION colcrypt.catalog_digests() RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET jit = off
    AS $$
        WITH c AS MATERIALIZED (SELECT colcrypt.catalog_content() AS content)
        SELECT jsonb_object_agg(p.part, encode(sha256(convert_to(p.content::text, 'UTF8')), 'hex'))
        FROM (SELECT e.key AS part, e.value AS content FROM c, jsonb_each(c.content) e
              WHERE e.key IN ('keyrings', 'kek_versions', 'kek_copies', 'keys', 'grants', 'honeytokens')
              UNION ALL
              -- A follower goes its own way with what is to be destroyed: its rows decide when.
              SELECT 'key_versions', (SELECT coalesce(jsonb_agg(v.value ORDER BY v.nr), '[]')
                                      FROM jsonb_array_elements(c.content->'key_versions') WITH ORDINALITY v(value, nr)
                                      WHERE v.value->>'state' NOT IN ('destruction scheduled', 'destroyed'))
              FROM c) p
    $$;
COMMENT ON FUNCTION colcrypt.catalog_digests() IS
    'digests of those parts of the key catalog that are the same on a primary and its followers; what is each server''s own is in none of them';

CREATE FUNCTION colcrypt.register_node(name text, connection text DEFAULT NULL) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_register_node' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.register_node(text, text) IS
    'registers a server that follows this one, or how it is reached; without a password: its key versions are destroyed here only once it has reported that no row there needs them, and its uses count; says registered, or changed';

CREATE FUNCTION colcrypt.drop_node(name text) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_drop_node' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.drop_node(text) IS
    'forgets a server that follows this one no more, with what it reported: no destruction waits for it; says dropped';

CREATE FUNCTION colcrypt.node_report(deep boolean DEFAULT false) RETURNS jsonb
    AS 'MODULE_PATHNAME', 'colcrypt_node_report' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.node_report(boolean) IS
    'what this server''s primary wants to know of it: its part, epoch and release, what differs from the catalog that was imported, root keys, uses, which versions are prepared and which its rows need; deep asks each root key anew; for acknowledge_node on the primary';

CREATE FUNCTION colcrypt.acknowledge_node(name text, report jsonb) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_acknowledge_node' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.acknowledge_node(text, jsonb) IS
    'takes down what node_report() says on a registered server; says acknowledged';

CREATE VIEW colcrypt.node_status AS
    SELECT n.name, n.connection, n.acknowledged_at, n.report->>'role' AS role,
           (n.report->>'epoch')::bigint AS epoch,
           -- Of one that subscribes to the keys nobody counts epochs.
           s.epoch - CASE WHEN (n.report->>'origin')::uuid = s.origin THEN (n.report->>'epoch')::bigint
                          WHEN n.report->>'role' = 'follower' THEN 0 END AS behind,
           (n.report->>'origin')::uuid <> s.origin AS is_of_another,
           ARRAY(SELECT jsonb_array_elements_text(CASE jsonb_typeof(n.report->'drift') WHEN 'array' THEN n.report->'drift' END)) AS drift,
           (SELECT string_agg(format('%s of keyring %s: %s', concat_ws(', ', r->>'provider', nullif(r->>'root_key', '')), r->>'keyring',
                                     coalesce(r->>'problem', 'not opened')), '; ')
            FROM jsonb_array_elements(n.report->'roots') r WHERE r->>'problem' IS NOT NULL OR r->>'opens' = 'false') AS root_problem,
           -- Versions that wait for it: prepared here, and not there.
           ARRAY(SELECT format('%s version %s', k.name, v.version) FROM colcrypt.key_version v JOIN colcrypt.key k USING (key_id)
                 WHERE v.state = 'pre-active' AND v.prepared_at IS NOT NULL AND v.version > k.current_version
                   AND NOT coalesce(n.report->'prepared' @> jsonb_build_array(jsonb_build_object('key_id', v.key_id, 'version', v.version)), false)
                 ORDER BY 1) AS not_prepared,
           n.report->>'release' AS release, n.report->>'server_version' AS server_version, n.registered_at, n.registered_by, n.report
    FROM colcrypt.node n LEFT JOIN colcrypt.node_state s ON true;
COMMENT ON VIEW colcrypt.node_status IS
    'servers that follow this one, as each reported last: its part, how many epochs it is behind, what was changed there by hand (drift), root keys that do not open there, and versions that are prepared here and not there';
GRANT SELECT ON colcrypt.node_status TO pg_monitor;
REVOKE ALL ON FUNCTION colcrypt.catalog_digests(), colcrypt.register_node(text, text), colcrypt.drop_node(text),
    colcrypt.node_report(boolean), colcrypt.acknowledge_node(text, jsonb) FROM PUBLIC;
CREATE OR REPLACE VIEW colcrypt.key_usage AS
    -- Once, not once a key: it goes through all of them in shared memory.
    WITH unflushed AS MATERIALIZED (SELECT * FROM colcrypt.unflushed_versions()),
    others AS MATERIALIZED (SELECT o.key_id, o.version, sum(o.encryptions)::bigint AS encryptions FROM colcrypt.node_usage o GROUP BY 1, 2)
    SELECT n.key, n.version, n.is_current, n.encryptions, n.reserved, n.bound,
           round(100 * p.part, 2) AS percent,
           CASE WHEN n.encryptions + n.reserved >= floor(n.bound::numeric * s.refuse / 100)
                  OR p.total >= floor(n.whole::numeric * s.refuse / 100) THEN 'refuse'
                WHEN n.encryptions + n.reserved >= floor(n.bound::numeric * s.rotate / 100) OR p.total >= floor(n.whole::numeric * s.rotate / 100) THEN 'rotate'
                WHEN n.encryptions + n.reserved >= floor(n.bound::numeric * s.warn / 100) OR p.total >= floor(n.whole::numeric * s.warn / 100) THEN 'warn'
                ELSE 'ok' END AS state,
           n.elsewhere
    FROM (SELECT current_setting('colcrypt.usage_refuse')::int AS refuse, current_setting('colcrypt.usage_rotate')::int AS rotate,
                 current_setting('colcrypt.usage_warn')::int AS warn, current_setting('colcrypt.usage_nodes')::int AS nodes OFFSET 0) s
    CROSS JOIN LATERAL (
          SELECT k.name AS key, v.version, v.version = k.current_version AS is_current,
                 coalesce(u.encryptions, 0) + coalesce(f.encryptions, 0) AS encryptions,
                 coalesce(f.reserved, 0) AS reserved,
                 -- This server's part of the bound, and the whole.
                 greatest(least(colcrypt.suite_bound(k.suite), k.usage_bound) / s.nodes, 1) AS bound,
                 least(colcrypt.suite_bound(k.suite), k.usage_bound) AS whole,
                 coalesce(o.encryptions, 0) AS elsewhere
          FROM colcrypt.key k
          JOIN colcrypt.key_version v USING (key_id)
          LEFT JOIN colcrypt.version_usage u USING (key_id, version)
          LEFT JOIN unflushed f USING (key_id, version)
          LEFT JOIN others o USING (key_id, version)) n
    CROSS JOIN LATERAL (SELECT n.encryptions + n.reserved + n.elsewhere AS total,
                               greatest((n.encryptions + n.reserved)::numeric / n.bound,
                                        (n.encryptions + n.reserved + n.elsewhere)::numeric / n.whole) AS part) p;
COMMENT ON VIEW colcrypt.key_usage IS
    'how many values each key version has encrypted here of how many it may here (bound, a part of the whole where colcrypt.usage_nodes is more than 1), and how many other servers reported (elsewhere), which count against the whole; state is ok, warn, rotate (the worker does) or refuse';
CREATE OR REPLACE VIEW colcrypt.rotation_schedule AS
    -- Once, not once a key.
    WITH unflushed AS MATERIALIZED (SELECT * FROM colcrypt.unflushed_versions()),
    once AS MATERIALIZED (
        SELECT colcrypt.rotation_time_from(now()) AS opens, colcrypt.clock_ahead() AS ahead,
               least(current_setting('colcrypt.usage_rotate')::int, current_setting('colcrypt.usage_refuse')::int) AS percent,
               -- Where keys come from another server, that one makes their versions: two would make two of one number.
               colcrypt.follows() AS follows, current_setting('colcrypt.usage_nodes')::int AS nodes),
    -- What other servers reported: they do not rotate by themselves.
    others AS MATERIALIZED (
        SELECT o.key_id, o.version, sum(o.encryptions)::bigint AS encryptions, max(o.encryptions) AS most FROM colcrypt.node_usage o GROUP BY 1, 2)
    SELECT n.key, n.version, n.activated_at,
           -- By the server's clock as it is set. Whatever is asked, never more often than once a second.
           CASE WHEN least(n.by_interval, n.by_period, n.by_use) IS NOT NULL AND n.follows IS NULL
                THEN greatest(least(n.by_interval, n.by_period, n.by_use), n.began + interval '1 second') END AS next_rotation_at,
           coalesce(n.follows || ': the primary rotates',
                CASE least(n.by_interval, n.by_period, n.by_use)
                     WHEN n.by_use THEN 'usage limit' WHEN n.by_interval THEN 'rotation interval'
                     WHEN n.by_period THEN 'originator-usage period' END) AS why,
           least(n.interval_ends, n.latest, n.by_use) <= now() AS overdue,
           t.last_error, t.tries, t.retry_at
    FROM (
        SELECT k.key_id, k.name AS key, k.current_version AS version, coalesce(v.activated_at, v.created_at) AS activated_at,
               s.follows, a.began, l.interval_ends, l.latest,
               r.at AS by_interval,
               -- The last time of day before that, unless it is over or was none; the period outranks the time of day.
               CASE WHEN l.latest IS NULL THEN NULL
                    WHEN b.best > greatest(a.began, now()) THEN b.best
                    ELSE least(CASE WHEN b.best > a.began THEN s.opens END, greatest(l.latest, now())) END AS by_period,
               CASE WHEN greatest(c.here, coalesce(o.most, 0)) >= floor(greatest(c.bound / s.nodes, 1)::numeric * s.percent / 100)
                      OR c.here + coalesce(o.encryptions, 0) >= floor(c.bound::numeric * s.percent / 100)
                    THEN now() END AS by_use
        FROM once s CROSS JOIN colcrypt.key k
        JOIN colcrypt.key_version v ON v.key_id = k.key_id AND v.version = k.current_version AND v.state = 'active'
        LEFT JOIN colcrypt.version_usage u ON u.key_id = k.key_id AND u.version = k.current_version
        LEFT JOIN unflushed f ON f.key_id = k.key_id AND f.version = k.current_version
        LEFT JOIN others o ON o.key_id = k.key_id AND o.version = k.current_version
        CROSS JOIN LATERAL (SELECT coalesce(u.encryptions, 0) + coalesce(f.encryptions, 0) + coalesce(f.reserved, 0) AS here,
                                   least(colcrypt.suite_bound(k.suite), k.usage_bound) AS bound) c
        CROSS JOIN LATERAL (SELECT coalesce(v.activated_at, v.created_at) + s.ahead AS began) a
        -- An interval that is over waits for the next time of day. A version must be relieved before its period ends: a
        -- tenth of it before, at most a day.
        CROSS JOIN LATERAL (SELECT a.began + k.rotation_interval AS interval_ends,
                                   a.began + k.originator_usage_period
                                       - least(k.originator_usage_period / 10, interval '1 day') AS latest) l
        CROSS JOIN LATERAL (SELECT CASE WHEN l.interval_ends IS NOT NULL THEN greatest(l.interval_ends, now()) END AS from_then) g
        -- As rotation_time_from and rotation_time_until say, which cost more.
        CROSS JOIN LATERAL (SELECT coalesce(min(greatest(w.opens, g.from_then)), g.from_then) AS at
                            FROM colcrypt.rotation_windows(g.from_then) w WHERE w.closes > g.from_then) r
        CROSS JOIN LATERAL (SELECT coalesce(max(CASE WHEN w.closes > l.latest THEN l.latest ELSE w.opens END), l.latest) AS best
                            FROM colcrypt.rotation_windows(l.latest) w WHERE w.opens <= l.latest) b
        OFFSET 0
    ) n
    LEFT JOIN colcrypt.rotation_try t USING (key_id);
COMMENT ON VIEW colcrypt.rotation_schedule IS
    'which active key the worker will rotate when and why, and what went wrong when it tried; a retry waits for retry_at; of key encryption keys and root keys see kek_schedule and root_schedule';

-- Search keys: a suite, a right, and what is made of them.
ALTER TABLE colcrypt.key DROP CONSTRAINT key_check,
    ADD CONSTRAINT key_check CHECK (usage_bound >= 100 AND usage_bound <= CASE suite WHEN 'aes-256-gcm' THEN 1::bigint << 32 WHEN 'xaes-256-gcm' THEN 1::bigint << 56 ELSE 1::bigint << 62 END),
    ADD COLUMN search_limit int CHECK (search_limit > 0),
    ADD COLUMN search_limit_per interval,
    ADD CONSTRAINT key_search_limit CHECK (num_nulls(search_limit, search_limit_per) IN (0, 2));
COMMENT ON TABLE colcrypt.key_grant IS 'which roles may encrypt with, decrypt with, search by or manage a key; role 0 is PUBLIC';
CREATE OR REPLACE VIEW colcrypt.key_privileges AS
    SELECT k.name AS key,
           CASE WHEN g.grantee::oid = 0 THEN 'PUBLIC' ELSE r.rolname END AS grantee,
           g.can_encrypt AS encrypt,
           g.can_decrypt AS decrypt,
           g.can_manage AS manage,
           g.can_search AS search
    FROM colcrypt.key_grant g
    JOIN colcrypt.key k USING (key_id)
    LEFT JOIN pg_catalog.pg_roles r ON r.oid = g.grantee
    WHERE g.grantee::oid = 0 OR r.oid IS NOT NULL;
COMMENT ON FUNCTION colcrypt.has_key_privilege(text, text, text) IS
    'whether a role (or PUBLIC) may encrypt, decrypt, search or manage; of a list with commas, any';
COMMENT ON FUNCTION colcrypt.has_key_privilege(text, text) IS
    'whether the current role may encrypt, decrypt, search or manage; of a list with commas, any';
COMMENT ON FUNCTION colcrypt.create_key(text, text, text) IS
    'makes a key with its first version; suite is aes-256-gcm or xaes-256-gcm, and hmac-sha-256 for a search key; returns the key id';
COMMENT ON FUNCTION colcrypt.grant_key(text, text, text[]) IS
    'lets a role encrypt with, decrypt with or manage a key, or search by a search key; PUBLIC may be given all but manage; says granted';

-- What search indexes are made of, as sql/57_search.sql and those after it have it.
-- Beside a job, whose attribute is the companion's, what it has to do with a search index.
CREATE TABLE colcrypt.search_job (
    job_id bigint PRIMARY KEY,
    search_index_id uuid NOT NULL,
    -- The column that is searched, and the version of the search key whose companion is made.
    attribute name NOT NULL,
    key_version int,
    -- Whether companions that are retired go.
    drops boolean NOT NULL DEFAULT false,
    -- Whether terms that are there are made anew, since they may be another table's; and the rows of a pass that had others.
    remakes boolean NOT NULL DEFAULT false,
    strays bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE colcrypt.search_job IS
    'what the jobs on search indexes have to do; not dumped, as jobs are not';
GRANT SELECT ON colcrypt.search_job TO pg_monitor;
REVOKE ALL ON colcrypt.search_job FROM PUBLIC;
CREATE OR REPLACE VIEW colcrypt.job_progress AS
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
-- Search: columns that are found by keyed terms. A search index keeps its terms in a companion column of the user's table, with an
-- index of the server's own kinds on it; a trigger of ours writes them.

-- Columns that are meant to be compared share a key, a normaliser and what their values are.
CREATE TABLE colcrypt.search_domain (
    domain_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text COLLATE "C" NOT NULL UNIQUE CHECK (octet_length(name) BETWEEN 1 AND 200),
    key_id bigint NOT NULL,
    -- What equality means for the values: see crates/search.
    class text NOT NULL,
    normalise text[] NOT NULL DEFAULT '{}',
    -- Of our rules, and of the Unicode data that they go by.
    normaliser_version int NOT NULL,
    unicode_version text NOT NULL,
    bits int NOT NULL CHECK (bits BETWEEN 8 AND 256),
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE colcrypt.search_domain IS 'what columns share, on purpose, that can be joined by their terms';

CREATE TABLE colcrypt.search_index (
    search_index_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    relation regclass NOT NULL,
    attribute name NOT NULL,
    kind text NOT NULL CHECK (kind IN ('equality', 'range', 'text')),
    class text NOT NULL,
    normalise text[] NOT NULL DEFAULT '{}',
    normaliser_version int NOT NULL,
    unicode_version text NOT NULL,
    key_id bigint NOT NULL,
    domain_id uuid,
    -- Equality: how long terms are, and whether two rows may have the same.
    bits int NOT NULL DEFAULT 256 CHECK (bits BETWEEN 8 AND 256),
    is_unique boolean NOT NULL DEFAULT false,
    -- Range: low bits of a value's place in the order that are dropped, bits a level, levels.
    granularity int,
    sparsity int,
    levels int,
    -- Text: letters of an n-gram.
    gram int,
    -- Rows have come for which nobody answers who may read them: terms are made once somebody who manages the keys orders it.
    awaits_order boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT search_index_column UNIQUE (relation, attribute, kind),
    CONSTRAINT search_index_kind CHECK (CASE kind WHEN 'range' THEN num_nulls(granularity, sparsity, levels) = 0 WHEN 'text' THEN gram IS NOT NULL ELSE true END)
);
COMMENT ON TABLE colcrypt.search_index IS 'encrypted columns that are found by keyed terms';

-- One for each version of the search key that terms are made with: two while the key is rotated.
CREATE TABLE colcrypt.search_companion (
    search_index_id uuid NOT NULL,
    key_version int NOT NULL CHECK (key_version > 0),
    -- The column of the table that holds the terms, and the index on it.
    attribute name NOT NULL,
    index_name name,
    -- Until then a column of this name is somebody's own.
    is_made boolean NOT NULL DEFAULT false,
    state text NOT NULL DEFAULT 'building' CHECK (state IN ('building', 'ready', 'retired')),
    -- A snapshot that sees this transaction sees all terms. One of the future is of the server that this was restored from.
    ready_xid xid8,
    ready_at timestamptz,
    PRIMARY KEY (search_index_id, key_version)
);
COMMENT ON TABLE colcrypt.search_companion IS 'the columns of users'' tables that hold terms, one for each version of the search key that is in use';

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['search_domain', 'search_index', 'search_companion'] LOOP
        EXECUTE format('CREATE TRIGGER catalog_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON colcrypt.%I '
                       'FOR EACH STATEMENT EXECUTE FUNCTION colcrypt.catalog_changed()', t);
        EXECUTE format('ALTER TABLE colcrypt.%I ENABLE ALWAYS TRIGGER catalog_changed', t);
        EXECUTE format('CREATE TRIGGER catalog_changes BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON colcrypt.%I '
                       'FOR EACH STATEMENT EXECUTE FUNCTION colcrypt.catalog_changed()', t);
        EXECUTE format('ALTER TABLE colcrypt.%I ENABLE ALWAYS TRIGGER catalog_changes', t);
        EXECUTE format('CREATE TRIGGER catalog_changed_row AFTER INSERT OR UPDATE OR DELETE ON colcrypt.%I '
                       'FOR EACH ROW EXECUTE FUNCTION colcrypt.catalog_changed()', t);
        EXECUTE format('ALTER TABLE colcrypt.%I ENABLE REPLICA TRIGGER catalog_changed_row', t);
    END LOOP;
    PERFORM pg_catalog.pg_extension_config_dump('colcrypt.search_domain', '');
    PERFORM pg_catalog.pg_extension_config_dump('colcrypt.search_index',
        'WHERE EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = relation)');
    PERFORM pg_catalog.pg_extension_config_dump('colcrypt.search_companion',
        'WHERE EXISTS (SELECT FROM colcrypt.search_index i JOIN pg_catalog.pg_class c ON c.oid = i.relation WHERE i.search_index_id = search_companion.search_index_id)');
END
$$;
REVOKE ALL ON colcrypt.search_domain, colcrypt.search_index, colcrypt.search_companion FROM PUBLIC;
GRANT SELECT ON colcrypt.search_domain, colcrypt.search_index, colcrypt.search_companion TO pg_monitor;

-- Terms of ranges and of texts are arrays, under a GIN index. The operators are the server's own functions; declared by us they may be said not to leak,
-- which an index needs under a row policy: what they compare are terms.
CREATE FUNCTION colcrypt.terms_overlap(bigint[], bigint[]) RETURNS boolean
    AS 'arrayoverlap' LANGUAGE internal IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION colcrypt.terms_overlap(bigint[], bigint[]) IS 'whether two arrays of terms have one in common';
CREATE FUNCTION colcrypt.terms_contain(bigint[], bigint[]) RETURNS boolean
    AS 'arraycontains' LANGUAGE internal IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION colcrypt.terms_contain(bigint[], bigint[]) IS 'whether the first array of terms has all of the second';
CREATE OPERATOR colcrypt.&& (
    LEFTARG = bigint[], RIGHTARG = bigint[], FUNCTION = colcrypt.terms_overlap, COMMUTATOR = OPERATOR(colcrypt.&&),
    RESTRICT = arraycontsel, JOIN = arraycontjoinsel);
CREATE OPERATOR colcrypt.@> (
    LEFTARG = bigint[], RIGHTARG = bigint[], FUNCTION = colcrypt.terms_contain, RESTRICT = arraycontsel, JOIN = arraycontjoinsel);
CREATE OPERATOR FAMILY colcrypt.term_ops USING gin;
CREATE OPERATOR CLASS colcrypt.term_ops FOR TYPE bigint[] USING gin FAMILY colcrypt.term_ops AS
    OPERATOR 1 colcrypt.&& (bigint[], bigint[]),
    OPERATOR 2 colcrypt.@> (bigint[], bigint[]),
    FUNCTION 1 pg_catalog.btint8cmp(bigint, bigint),
    FUNCTION 2 pg_catalog.ginarrayextract(anyarray, internal, internal),
    FUNCTION 3 pg_catalog.ginqueryarrayextract(anyarray, internal, smallint, internal, internal, internal, internal),
    FUNCTION 4 pg_catalog.ginarrayconsistent(internal, smallint, anyarray, integer, internal, internal, internal, internal),
    FUNCTION 6 pg_catalog.ginarraytriconsistent(internal, smallint, anyarray, integer, internal, internal, internal),
    STORAGE bigint;

-- What a query looks rows up by. Each asks the right to search.
CREATE FUNCTION colcrypt.search_term(relation regclass, attribute name, value anyelement) RETURNS bytea
    AS 'MODULE_PATHNAME', 'colcrypt_search_term' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 100;
-- A literal without a type is a text.
CREATE FUNCTION colcrypt.search_term(relation regclass, attribute name, value text) RETURNS bytea
    AS 'MODULE_PATHNAME', 'colcrypt_search_term' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 100;
CREATE FUNCTION colcrypt.search_term(relation regclass, attribute name, value anyelement, key_version int) RETURNS bytea
    AS 'MODULE_PATHNAME', 'colcrypt_search_term' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 100;
COMMENT ON FUNCTION colcrypt.search_term(regclass, name, anyelement) IS
    'the term by which rows are found whose encrypted column equals the value, as the companion of its equality index holds it; needs the right to search';
COMMENT ON FUNCTION colcrypt.search_term(regclass, name, text) IS
    'the same of a text';
COMMENT ON FUNCTION colcrypt.search_term(regclass, name, anyelement, int) IS
    'the same under a version of the search key, while two are in use';
CREATE FUNCTION colcrypt.search_terms(relation regclass, attribute name, "values" anyarray) RETURNS bytea[]
    AS 'MODULE_PATHNAME', 'colcrypt_search_terms' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 200;
CREATE FUNCTION colcrypt.search_terms(relation regclass, attribute name, "values" anyarray, key_version int) RETURNS bytea[]
    AS 'MODULE_PATHNAME', 'colcrypt_search_terms' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 200;
COMMENT ON FUNCTION colcrypt.search_terms(regclass, name, anyarray) IS
    'the terms of several values, for = ANY; one that is null has none; needs the right to search';
COMMENT ON FUNCTION colcrypt.search_terms(regclass, name, anyarray, int) IS
    'the same under a version of the search key, while two are in use';
CREATE FUNCTION colcrypt.range_terms(relation regclass, attribute name, low anyelement, high anyelement) RETURNS bigint[]
    AS 'MODULE_PATHNAME', 'colcrypt_range_terms' LANGUAGE c STABLE PARALLEL SAFE COST 400;
CREATE FUNCTION colcrypt.range_terms(relation regclass, attribute name, low anyelement, high anyelement, key_version int) RETURNS bigint[]
    AS 'MODULE_PATHNAME', 'colcrypt_range_terms' LANGUAGE c STABLE PARALLEL SAFE COST 400;
COMMENT ON FUNCTION colcrypt.range_terms(regclass, name, anyelement, anyelement) IS
    'terms of which each row has one whose encrypted column is in the range, both ends with it, null for an open one; others may have one, too: compare the decrypted values; needs the right to search';
COMMENT ON FUNCTION colcrypt.range_terms(regclass, name, anyelement, anyelement, int) IS
    'the same under a version of the search key, while two are in use';
CREATE FUNCTION colcrypt.pattern_terms(relation regclass, attribute name, pattern text, "escape" text DEFAULT '\') RETURNS bigint[]
    AS 'MODULE_PATHNAME', 'colcrypt_pattern_terms' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 400;
CREATE FUNCTION colcrypt.pattern_terms(relation regclass, attribute name, pattern text, "escape" text, key_version int) RETURNS bigint[]
    AS 'MODULE_PATHNAME', 'colcrypt_pattern_terms' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 400;
COMMENT ON FUNCTION colcrypt.pattern_terms(regclass, name, text, text) IS
    'terms that each row has whose encrypted column is LIKE the pattern, or ILIKE it; others may have them, too; none for a pattern without a piece that is long enough; needs the right to search';
COMMENT ON FUNCTION colcrypt.pattern_terms(regclass, name, text, text, int) IS
    'the same under a version of the search key, while two are in use';

CREATE FUNCTION colcrypt.recheck_support(internal) RETURNS internal
    AS 'MODULE_PATHNAME', 'colcrypt_recheck_support' LANGUAGE c IMMUTABLE STRICT;
COMMENT ON FUNCTION colcrypt.recheck_support(internal) IS 'planner support of recheck';
CREATE FUNCTION colcrypt.recheck(condition boolean) RETURNS boolean
    AS 'MODULE_PATHNAME', 'colcrypt_recheck' LANGUAGE c IMMUTABLE PARALLEL SAFE COST 1 SUPPORT colcrypt.recheck_support;
COMMENT ON FUNCTION colcrypt.recheck(boolean) IS
    'the condition itself, for plans: beside a condition on terms, which says how many rows there are, it is a filter that lets all of them pass';
CREATE FUNCTION colcrypt.decrypts_to(value colcrypt.ciphertext, plaintext anyelement) RETURNS boolean
    AS 'MODULE_PATHNAME', 'colcrypt_decrypts_to' LANGUAGE c STABLE PARALLEL SAFE COST 50 SUPPORT colcrypt.recheck_support;
CREATE FUNCTION colcrypt.decrypts_to(value colcrypt.ciphertext, plaintext anyelement, context bytea) RETURNS boolean
    AS 'MODULE_PATHNAME', 'colcrypt_decrypts_to' LANGUAGE c STABLE PARALLEL SAFE COST 50 SUPPORT colcrypt.recheck_support;
CREATE FUNCTION colcrypt.decrypts_to_in_place(value colcrypt.ciphertext, plaintext anyelement, label text, VARIADIC "any") RETURNS boolean
    AS 'MODULE_PATHNAME', 'colcrypt_decrypts_to_in_place' LANGUAGE c STABLE PARALLEL SAFE COST 60 SUPPORT colcrypt.recheck_support;
COMMENT ON FUNCTION colcrypt.decrypts_to(colcrypt.ciphertext, anyelement) IS
    'whether decrypt_col gives that value, of a type whose values are equal where they are the same bytes; for plans, as recheck: it needs the right to decrypt';
COMMENT ON FUNCTION colcrypt.decrypts_to(colcrypt.ciphertext, anyelement, bytea) IS
    'the same of a value that is bound to a context';
COMMENT ON FUNCTION colcrypt.decrypts_to_in_place(colcrypt.ciphertext, anyelement, text, "any") IS
    'the same of a value that is bound to place_context of the label and the key';
-- Search indexes made, kept and dropped. What look-ups are made of is in 57_search.sql.

CREATE FUNCTION colcrypt.create_search_index(
        relation regclass, attribute name, kind text DEFAULT 'equality', key text DEFAULT NULL, normalise text[] DEFAULT '{}',
        is_unique boolean DEFAULT false, bits int DEFAULT NULL, domain text DEFAULT NULL,
        granularity int DEFAULT NULL, sparsity int DEFAULT NULL, gram int DEFAULT NULL) RETURNS bigint
    AS 'MODULE_PATHNAME', 'colcrypt_create_search_index' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.create_search_index(regclass, name, text, text, text[], boolean, int, text, int, int, int) IS
    'queues a job that makes a registered column searchable, by equality, range or text (LIKE), while the application runs: keyed terms in a companion column, which a trigger keeps, and an index on it; key is a search key, by default the only one of the column''s keyring; a search domain lets columns be joined; needs the right to manage the column''s key and the search key; returns the job';

CREATE FUNCTION colcrypt.drop_search_index(relation regclass, attribute name, kind text DEFAULT 'equality') RETURNS bigint
    AS 'MODULE_PATHNAME', 'colcrypt_drop_search_index' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.drop_search_index(regclass, name, text) IS
    'has no query look up by a search index any more, and queues a job that drops its terms and its index; returns the job';

CREATE FUNCTION colcrypt.create_search_domain(
        name text, key text, normalise text[] DEFAULT '{}', plaintext_type text DEFAULT 'text', bits int DEFAULT 256) RETURNS uuid
    AS 'MODULE_PATHNAME', 'colcrypt_create_search_domain' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.create_search_domain(text, text, text[], text, int) IS
    'makes a search domain: columns whose equality indexes are in it share a search key and a normaliser, so that they can be joined, and whoever sees their terms sees which values are the same';

CREATE FUNCTION colcrypt.drop_search_domain(name text) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_drop_search_domain' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.drop_search_domain(text) IS
    'drops a search domain that no search index is in; says dropped';

-- Fired with the rights of whoever writes the table: it looks up by itself what is searched.
CREATE FUNCTION colcrypt.keep_terms() RETURNS trigger
    AS 'MODULE_PATHNAME', 'colcrypt_keep_terms' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.keep_terms() IS
    'trigger: keeps the terms of searched columns in step with their values';
-- Search indexes in plans.

CREATE FUNCTION colcrypt.on_terms_support(internal) RETURNS internal
    AS 'MODULE_PATHNAME', 'colcrypt_on_terms_support' LANGUAGE c IMMUTABLE STRICT;
COMMENT ON FUNCTION colcrypt.on_terms_support(internal) IS 'planner support of on_terms';
CREATE FUNCTION colcrypt.on_terms(condition boolean) RETURNS boolean
    AS 'MODULE_PATHNAME', 'colcrypt_on_terms' LANGUAGE c IMMUTABLE PARALLEL SAFE COST 1 SUPPORT colcrypt.on_terms_support;
COMMENT ON FUNCTION colcrypt.on_terms(boolean) IS
    'for plans: what stands beside a condition on all members of a UNION ALL until it becomes the condition on terms of each';

CREATE FUNCTION colcrypt.explain_search(
        query text,
        OUT condition text, OUT relation regclass, OUT attribute name, OUT kind text, OUT served boolean, OUT why text)
    RETURNS SETOF record AS 'MODULE_PATHNAME', 'colcrypt_explain_search' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.explain_search(text) IS
    'plans one statement for the current role, without running it, and says of each condition on an encrypted column whether a search index serves it, and why not';

CREATE FUNCTION colcrypt.unserved_searches(
        OUT relation regclass, OUT attribute name, OUT kind text, OUT lack text, OUT statements bigint, OUT latest timestamptz)
    RETURNS SETOF record AS 'MODULE_PATHNAME', 'colcrypt_unserved_searches' LANGUAGE c VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION colcrypt.unserved_searches() IS 'for the view unserved_search';
CREATE VIEW colcrypt.unserved_search AS
    SELECT relation, attribute, kind, lack, statements, latest FROM colcrypt.unserved_searches();
COMMENT ON VIEW colcrypt.unserved_search IS
    'encrypted columns that statements compared and no search index served, how many were planned since the server started, the kind of index that would have, and what it lacks: what such a statement meets it decrypts row by row';
GRANT EXECUTE ON FUNCTION colcrypt.unserved_searches() TO pg_monitor;
GRANT SELECT ON colcrypt.unserved_search TO pg_monitor;
-- What search indexes tell: planned, measured, and of marked values; who looks up how often, and how often he may.

CREATE FUNCTION colcrypt.plan_search_index(
        relation regclass, attribute name, kind text DEFAULT 'equality', normalise text[] DEFAULT '{}', sample int DEFAULT 10000,
        OUT item text, OUT bits int, OUT value double precision, OUT note text)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'colcrypt_plan_search_index' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.plan_search_index(regclass, name, text, text[], int) IS
    'what a search index of a registered column would tell whoever has the disk, and what look-ups would cost, by a sample that is opened with the caller''s own right to decrypt: shares, never a value; bits is a length of terms, or of intervals';

CREATE FUNCTION colcrypt.search_told(kind text, is_unique boolean, bits int, OUT viewer text, OUT learns text)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'colcrypt_search_told' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
GRANT EXECUTE ON FUNCTION colcrypt.search_told(text, boolean, int) TO pg_monitor;
COMMENT ON FUNCTION colcrypt.search_told(text, boolean, int) IS 'what a search index of this kind tells, and whom';

-- As last counted. Not dumped: a restored table has rows of its own.
CREATE TABLE colcrypt.search_measure (
    search_index_id uuid PRIMARY KEY,
    rows bigint NOT NULL,
    nulls bigint NOT NULL,
    distinct_terms bigint NOT NULL,
    -- Rows that have the commonest term.
    largest_group bigint NOT NULL,
    measured_at timestamptz NOT NULL DEFAULT now(),
    measured_by text NOT NULL DEFAULT session_user
);
REVOKE ALL ON colcrypt.search_measure FROM PUBLIC;
COMMENT ON TABLE colcrypt.search_measure IS 'what was counted of search indexes'' terms; see the view search_overview';

CREATE FUNCTION colcrypt.search_leakage(
        relation regclass DEFAULT NULL,
        OUT "table" regclass, OUT "column" text, OUT kind text, OUT viewer text, OUT learns text,
        OUT rows bigint, OUT nulls bigint, OUT distinct_terms bigint, OUT largest_group bigint, OUT largest_share double precision)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'colcrypt_search_leakage' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.search_leakage(regclass) IS
    'counts the terms of a table''s search indexes now, of all tables where none is named, as whoever has the disk could, and says who learns what from each index';

CREATE VIEW colcrypt.search_overview AS
    SELECT i.relation::regclass AS "table", i.attribute::text AS "column", i.kind, i.is_unique, i.bits, i.normalise, k.name AS key, d.name AS domain,
           (SELECT string_agg(format('%s %s', c.key_version, c.state), ', ' ORDER BY c.key_version)
            FROM colcrypt.search_companion c WHERE c.search_index_id = i.search_index_id) AS versions,
           t.learns AS thief_learns,
           m.rows, m.nulls, m.distinct_terms, m.largest_group,
           m.largest_group / nullif(m.rows - m.nulls, 0)::float8 AS largest_share,
           m.measured_at
    FROM colcrypt.search_index i
    JOIN pg_catalog.pg_class r ON r.oid = i.relation
    LEFT JOIN colcrypt.key k ON k.key_id = i.key_id
    LEFT JOIN colcrypt.search_domain d ON d.domain_id = i.domain_id
    LEFT JOIN colcrypt.search_measure m ON m.search_index_id = i.search_index_id
    LEFT JOIN LATERAL colcrypt.search_told(i.kind, i.is_unique, i.bits) t ON t.viewer = 'thief of the disk';
COMMENT ON VIEW colcrypt.search_overview IS
    'search indexes, what each tells a thief of the disk, and what search_leakage last counted of its terms; versions are those of the search key whose terms there are';
GRANT SELECT ON colcrypt.search_overview TO pg_monitor;

CREATE VIEW colcrypt.search_usage AS
    SELECT u.key, u.role, u.day, sum(u.decryptions)::bigint AS look_ups
    FROM colcrypt.usage u JOIN colcrypt.key k ON k.name = u.key
    WHERE k.suite = 'hmac-sha-256' AND u.decryptions > 0
    GROUP BY u.key, u.role, u.day;
COMMENT ON VIEW colcrypt.search_usage IS
    'how often each role looked up by each search key on which day (of UTC), finished transactions only: each term of equality, each range and each pattern is one; a join that makes terms for rows counts each';
GRANT SELECT ON colcrypt.search_usage TO pg_monitor;

CREATE FUNCTION colcrypt.set_search_limit(key text, look_ups int, per interval) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_set_search_limit' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.set_search_limit(text, int, interval) IS
    'how often each role may look up by a search key in any stretch of so much time, superusers too, counted in memory by each server; null and null is no limit; on a four-eyes keyring more look-ups wait; says set';

-- The terms of marked values, by which a look-up raises the alarm.
CREATE TABLE colcrypt.search_honeytoken (
    search_index_id uuid NOT NULL,
    key_version int NOT NULL,
    term bytea NOT NULL,
    -- The tag by which the value was marked, and its key.
    origin bytea NOT NULL,
    key_id bigint NOT NULL,
    PRIMARY KEY (search_index_id, key_version, term, origin)
);
REVOKE ALL ON colcrypt.search_honeytoken FROM PUBLIC;
COMMENT ON TABLE colcrypt.search_honeytoken IS 'terms of equality indexes whose look-up raises an alarm, since they are those of honeytokens';
SELECT pg_catalog.pg_extension_config_dump('colcrypt.search_honeytoken', '');
CREATE TRIGGER catalog_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON colcrypt.search_honeytoken
    FOR EACH STATEMENT EXECUTE FUNCTION colcrypt.catalog_changed();
ALTER TABLE colcrypt.search_honeytoken ENABLE ALWAYS TRIGGER catalog_changed;
CREATE TRIGGER catalog_changes BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON colcrypt.search_honeytoken
    FOR EACH STATEMENT EXECUTE FUNCTION colcrypt.catalog_changed();
ALTER TABLE colcrypt.search_honeytoken ENABLE ALWAYS TRIGGER catalog_changes;
CREATE TRIGGER catalog_changed_row AFTER INSERT OR UPDATE OR DELETE ON colcrypt.search_honeytoken
    FOR EACH ROW EXECUTE FUNCTION colcrypt.catalog_changed();
ALTER TABLE colcrypt.search_honeytoken ENABLE REPLICA TRIGGER catalog_changed_row;
CREATE TRIGGER by_hand_row AFTER INSERT OR UPDATE OR DELETE ON colcrypt.search_honeytoken
    FOR EACH ROW EXECUTE FUNCTION colcrypt.changed_by_hand();
ALTER TABLE colcrypt.search_honeytoken ENABLE ALWAYS TRIGGER by_hand_row;
CREATE TRIGGER by_hand AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON colcrypt.search_honeytoken
    FOR EACH STATEMENT EXECUTE FUNCTION colcrypt.changed_by_hand();
ALTER TABLE colcrypt.search_honeytoken ENABLE ALWAYS TRIGGER by_hand;
-- As 90_rights.sql says.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA colcrypt FROM PUBLIC;

GRANT EXECUTE ON FUNCTION
    colcrypt.batch_value(row_address tid, column_number smallint, value colcrypt.ciphertext),
    colcrypt.check_encrypted_columns(),
    colcrypt.ciphertext(bytea),
    colcrypt.ciphertext_in(cstring),
    colcrypt.ciphertext_info(value colcrypt.ciphertext, OUT key text, OUT version int, OUT suite text, OUT type text, OUT bytes int, OUT has_context boolean, OUT key_id text, OUT compressed boolean),
    colcrypt.ciphertext_is_stale(value colcrypt.ciphertext, key_id bigint, current_version int),
    colcrypt.ciphertext_key(value colcrypt.ciphertext),
    colcrypt.ciphertext_out(colcrypt.ciphertext),
    colcrypt.ciphertext_recv(internal),
    colcrypt.ciphertext_send(colcrypt.ciphertext),
    colcrypt.ciphertext_version(value colcrypt.ciphertext, key_id bigint),
    colcrypt.context_in(cstring),
    colcrypt.context_out(colcrypt.context),
    colcrypt.context_recv(internal),
    colcrypt.context_send(colcrypt.context),
    colcrypt.decrypt_col(value colcrypt.ciphertext),
    colcrypt.decrypt_col(value colcrypt.ciphertext, context colcrypt.context),
    colcrypt.decrypt_col(value colcrypt.ciphertext, type anyelement),
    colcrypt.decrypt_col(value colcrypt.ciphertext, type anyelement, context bytea),
    colcrypt.decrypts_to(value colcrypt.ciphertext, plaintext anyelement),
    colcrypt.decrypts_to(value colcrypt.ciphertext, plaintext anyelement, context bytea),
    colcrypt.decrypts_to_in_place(value colcrypt.ciphertext, plaintext anyelement, label text, VARIADIC "any"),
    colcrypt.either_context(context bytea, former bytea),
    colcrypt.encrypt_col(value "char", key text),
    colcrypt.encrypt_col(value "char", key text, context bytea),
    colcrypt.encrypt_col(value anyelement, key text),
    colcrypt.encrypt_col(value anyelement, key text, context bytea),
    colcrypt.encrypt_col(value text, key text),
    colcrypt.encrypt_col(value text, key text, context bytea),
    colcrypt.encrypt_for_row(value anyelement, key text, keyring text),
    colcrypt.encrypt_for_row(value anyelement, key text, keyring text, context bytea),
    colcrypt.explain_search(query text, OUT condition text, OUT relation regclass, OUT attribute name, OUT kind text, OUT served boolean, OUT why text),
    colcrypt.follows(),
    colcrypt.has_key_privilege(key text, privilege text),
    colcrypt.has_key_privilege(role text, key text, privilege text),
    colcrypt.is_in_batch(row_address tid, column_number smallint, value colcrypt.ciphertext),
    colcrypt.is_settled(transaction xid),
    colcrypt.keep_in_step(),
    colcrypt.keep_terms(),
    colcrypt.may_read_column(relation regclass, attribute name),
    colcrypt.on_terms(condition boolean),
    colcrypt.pattern_terms(relation regclass, attribute name, pattern text, "escape" text),
    colcrypt.pattern_terms(relation regclass, attribute name, pattern text, "escape" text, key_version int),
    colcrypt.place_context(label text),
    colcrypt.place_context(label text, VARIADIC "any"),
    colcrypt.range_terms(relation regclass, attribute name, low anyelement, high anyelement),
    colcrypt.range_terms(relation regclass, attribute name, low anyelement, high anyelement, key_version int),
    colcrypt.recheck(condition boolean),
    colcrypt.reencrypt_col(value colcrypt.ciphertext),
    colcrypt.reencrypt_col(value colcrypt.ciphertext, context bytea),
    colcrypt.row_context(VARIADIC "any"),
    colcrypt.search_term(relation regclass, attribute name, value anyelement),
    colcrypt.search_term(relation regclass, attribute name, value anyelement, key_version int),
    colcrypt.search_term(relation regclass, attribute name, value text),
    colcrypt.search_terms(relation regclass, attribute name, "values" anyarray),
    colcrypt.search_terms(relation regclass, attribute name, "values" anyarray, key_version int),
    colcrypt.terms_contain(bigint[], bigint[]),
    colcrypt.terms_overlap(bigint[], bigint[]),
    colcrypt.try_decrypt_col(value colcrypt.ciphertext),
    colcrypt.try_decrypt_col(value colcrypt.ciphertext, context colcrypt.context),
    colcrypt.try_decrypt_col(value colcrypt.ciphertext, type anyelement),
    colcrypt.try_decrypt_col(value colcrypt.ciphertext, type anyelement, context bytea),
    colcrypt.write_access_view()
TO PUBLIC;

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
REVOKE ALL ON FUNCTION colcrypt.metric_names() FROM PUBLIC;
