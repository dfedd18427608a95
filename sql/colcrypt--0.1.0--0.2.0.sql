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
    'recomputes the audit log''s hash chain and finds the first edit, gap, insertion or reordering; a seq and hash written down elsewhere show a cut tail and a log made anew; not_recorded is how many events have no record of their own';

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
    FOREACH t IN ARRAY ARRAY['provider', 'keyring', 'kek_version', 'kek_copy', 'key', 'key_version', 'key_grant',
                             'protected_column', 'honeytoken', 'approval_request'] LOOP
        EXECUTE format('CREATE TRIGGER by_hand_row AFTER INSERT OR UPDATE OR DELETE ON colcrypt.%I '
                       'FOR EACH ROW EXECUTE FUNCTION colcrypt.changed_by_hand()', t);
        EXECUTE format('ALTER TABLE colcrypt.%I ENABLE ALWAYS TRIGGER by_hand_row', t);
    END LOOP;
    FOREACH t IN ARRAY ARRAY['provider', 'keyring', 'kek_version', 'kek_copy', 'key', 'key_version', 'key_grant',
                             'protected_column', 'honeytoken', 'approval_request', 'audit_outbox', 'audit_state'] LOOP
        EXECUTE format('CREATE TRIGGER by_hand AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON colcrypt.%I '
                       'FOR EACH STATEMENT EXECUTE FUNCTION colcrypt.changed_by_hand()', t);
        EXECUTE format('ALTER TABLE colcrypt.%I ENABLE ALWAYS TRIGGER by_hand', t);
    END LOOP;
END
$$;
ALTER TABLE colcrypt.honeytoken ADD COLUMN derived int;
CREATE INDEX honeytoken_origin ON colcrypt.honeytoken (key_id, origin);
