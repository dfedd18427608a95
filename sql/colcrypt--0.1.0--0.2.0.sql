-- From release 0.1.0 (sql/releases/colcrypt--0.1.0.sql, frozen) to 0.2.0. A test compares what this makes with a fresh
-- installation. What is dropped here keeps its symbol in src/legacy.rs: the server wants it while 0.1.0 is restored.

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

-- Kind 4: ways round four eyes.
COMMENT ON FUNCTION colcrypt.alter_provider(text, jsonb) IS
    'gives a provider other settings, such as the new place of the same root key; refused unless every key encryption key there opens to the same check value, and on a four-eyes keyring';

-- Kind 7: the place is bound by default, values move to it, and what is bound to no place is not taken along unasked.
ALTER TABLE colcrypt.protected_column ADD COLUMN label text COLLATE "C" UNIQUE, ADD COLUMN becomes text;
ALTER TABLE colcrypt.job ADD COLUMN rebinds boolean NOT NULL DEFAULT false, ADD COLUMN strays bigint NOT NULL DEFAULT 0,
    ADD COLUMN label text, ADD COLUMN accept_unplaced boolean NOT NULL DEFAULT false;
ALTER TABLE colcrypt.migration ADD COLUMN label text, ADD COLUMN accept_unplaced boolean NOT NULL DEFAULT false;
-- What was ordered before goes on as it was ordered.
UPDATE colcrypt.job SET accept_unplaced = true;
UPDATE colcrypt.migration SET accept_unplaced = true;
DROP FUNCTION colcrypt.register_column(regclass, name, text, text, text[], regtype);
CREATE FUNCTION colcrypt.register_column(
        relation regclass, attribute name, key text, context text DEFAULT NULL,
        readers text[] DEFAULT NULL, plaintext_type regtype DEFAULT 'text', label text DEFAULT NULL) RETURNS void
    AS 'MODULE_PATHNAME', 'colcrypt_register_column' LANGUAGE c VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.register_column(regclass, name, text, text, text[], regtype, text) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.register_column(regclass, name, text, text, text[], regtype, text) IS
    'puts a ciphertext column under the care of rotation; context is the expression its values are bound to, by default place_context of the label and the primary key, and ''none'' for nothing; readers and plaintext_type are for create_access_view';
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
        OUT job bigint, OUT object text, OUT becomes text) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'colcrypt_encrypt_column' LANGUAGE c VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.encrypt_column(regclass, name, text, text, text[], boolean, name, boolean, boolean, text) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.encrypt_column(regclass, name, text, text, text[], boolean, name, boolean, boolean, text) IS
    'queues a job that encrypts a column in place while the application runs, and drops the plaintext; values are bound to their place, or to another context, or with ''none'' to nothing; says what becomes of everything that hangs on the column; dry_run only says it';
DROP FUNCTION colcrypt.decrypt_column(regclass, name, boolean, boolean);
CREATE FUNCTION colcrypt.decrypt_column(
        relation regclass, attribute name, accept_losses boolean DEFAULT false, dry_run boolean DEFAULT false,
        accept_unplaced boolean DEFAULT false,
        OUT job bigint, OUT object text, OUT becomes text) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'colcrypt_decrypt_column' LANGUAGE c VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.decrypt_column(regclass, name, boolean, boolean, boolean) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.decrypt_column(regclass, name, boolean, boolean, boolean) IS
    'queues a job that turns a registered column into plaintext in place, while the application runs; needs the right to decrypt, and accept_unplaced for values that are not bound to their place; dry_run only says what becomes of everything that hangs on the column';
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
