-- The audit log, its verification, and honeytokens.

CREATE TABLE colcrypt.audit_log (
    seq bigint PRIMARY KEY,
    at timestamptz NOT NULL,
    event text NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('done', 'prepared', 'rolled back', 'denied', 'failed', 'alarm')),
    session_role text NOT NULL,
    -- Not "current_role": unquoted, that is a key word for the reader's own role.
    current_role_name text NOT NULL,
    client_addr inet,
    database text NOT NULL,
    pid int NOT NULL,
    key_id text,
    key text,
    version int,
    relation text,
    -- How many of the same kind this record stands for.
    repeats int NOT NULL,
    detail text,
    sqlstate text,
    previous_hash bytea NOT NULL,
    hash bytea NOT NULL
);
CREATE INDEX audit_log_at ON colcrypt.audit_log (at);
COMMENT ON TABLE colcrypt.audit_log IS
    'who did what to which key, and who was refused; each record holds the hash of the one before it';

-- Where the writer stands. Not dumped: a restored log goes on from its last record.
CREATE TABLE colcrypt.audit_state (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    seq bigint NOT NULL,
    hash bytea NOT NULL,
    anchored_seq bigint NOT NULL DEFAULT 0,
    anchored_at timestamptz NOT NULL DEFAULT '-infinity',
    -- The events from shared memory that the last batch held, should a crash leave them there.
    ring bigint,
    tickets bigint[]
);
COMMENT ON TABLE colcrypt.audit_state IS 'the last record of the audit log, and the last that was anchored';

CREATE FUNCTION colcrypt.audit_append_only() RETURNS trigger
    AS 'MODULE_PATHNAME', 'colcrypt_audit_append_only' LANGUAGE c;
COMMENT ON FUNCTION colcrypt.audit_append_only() IS 'trigger: refuses to change the audit log';

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON colcrypt.audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION colcrypt.audit_append_only();
ALTER TABLE colcrypt.audit_log ENABLE ALWAYS TRIGGER append_only;

CREATE TABLE colcrypt.honeytoken (
    key_id bigint NOT NULL,
    -- The value's authentication tag, and that of the value it was made from by re-encryption.
    tag bytea NOT NULL,
    origin bytea NOT NULL,
    note text,
    marked_at timestamptz NOT NULL DEFAULT now(),
    marked_by text NOT NULL DEFAULT session_user,
    -- The how manieth a session made of one by re-encryption, of which not all are kept; null is for others.
    derived int,
    PRIMARY KEY (key_id, tag)
);
CREATE INDEX honeytoken_origin ON colcrypt.honeytoken (key_id, origin);
COMMENT ON TABLE colcrypt.honeytoken IS 'values whose decryption raises an alarm';
CREATE TRIGGER catalog_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON colcrypt.honeytoken
    FOR EACH STATEMENT EXECUTE FUNCTION colcrypt.catalog_changed();
ALTER TABLE colcrypt.honeytoken ENABLE ALWAYS TRIGGER catalog_changed;
CREATE TRIGGER catalog_changes BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON colcrypt.honeytoken
    FOR EACH STATEMENT EXECUTE FUNCTION colcrypt.catalog_changed();
ALTER TABLE colcrypt.honeytoken ENABLE ALWAYS TRIGGER catalog_changes;
CREATE TRIGGER catalog_changed_row AFTER INSERT OR UPDATE OR DELETE ON colcrypt.honeytoken
    FOR EACH ROW EXECUTE FUNCTION colcrypt.catalog_changed();
ALTER TABLE colcrypt.honeytoken ENABLE REPLICA TRIGGER catalog_changed_row;

REVOKE ALL ON colcrypt.audit_log, colcrypt.audit_state, colcrypt.honeytoken FROM PUBLIC;
GRANT SELECT ON colcrypt.audit_log TO pg_monitor;
GRANT SELECT (anchored_seq, anchored_at) ON colcrypt.audit_state TO pg_monitor;
SELECT pg_catalog.pg_extension_config_dump('colcrypt.audit_log', '');
SELECT pg_catalog.pg_extension_config_dump('colcrypt.honeytoken', '');

CREATE FUNCTION colcrypt.verify_audit_log(
        anchor_seq bigint DEFAULT NULL, anchor_hash text DEFAULT NULL,
        OUT ok boolean, OUT events bigint, OUT head_seq bigint, OUT head_hash text,
        OUT first_bad bigint, OUT problem text, OUT not_recorded bigint)
    AS 'MODULE_PATHNAME', 'colcrypt_verify_audit_log' LANGUAGE c VOLATILE PARALLEL UNSAFE;
GRANT EXECUTE ON FUNCTION colcrypt.verify_audit_log(bigint, text) TO pg_monitor;
COMMENT ON FUNCTION colcrypt.verify_audit_log(bigint, text) IS
    'recomputes the audit log''s hash chain and finds the first edit, gap, insertion or reordering; a seq and hash written down elsewhere show a cut tail and a log that was written again from its beginning; not_recorded is how many events have no record of their own';

CREATE FUNCTION colcrypt.audit_status(
        OUT ring_events int, OUT waiting int, OUT posted bigint, OUT to_server_log bigint, OUT not_recorded bigint)
    AS 'MODULE_PATHNAME', 'colcrypt_audit_status' LANGUAGE c VOLATILE PARALLEL RESTRICTED;
GRANT EXECUTE ON FUNCTION colcrypt.audit_status() TO pg_monitor;
COMMENT ON FUNCTION colcrypt.audit_status() IS
    'events on their way into the audit log through shared memory, how many went to the server log instead, and how many were only counted';

CREATE FUNCTION colcrypt.mark_honeytoken(value colcrypt.ciphertext, note text DEFAULT NULL) RETURNS void
    AS 'MODULE_PATHNAME', 'colcrypt_mark_honeytoken' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.mark_honeytoken(colcrypt.ciphertext, text) IS
    'raises an alarm in the audit log whenever this value is decrypted, which the role that does so cannot tell';

CREATE FUNCTION colcrypt.unmark_honeytoken(value colcrypt.ciphertext) RETURNS void
    AS 'MODULE_PATHNAME', 'colcrypt_unmark_honeytoken' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.unmark_honeytoken(colcrypt.ciphertext) IS
    'takes the mark off a value, whatever it was re-encrypted from or to';

-- What somebody changes by hand, past the functions.
CREATE FUNCTION colcrypt.changed_by_hand() RETURNS trigger
    AS 'MODULE_PATHNAME', 'colcrypt_changed_by_hand' LANGUAGE c;
COMMENT ON FUNCTION colcrypt.changed_by_hand() IS
    'trigger: records in the audit log what somebody changed in the key catalog past the functions';
DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['provider', 'keyring', 'keyring_grant', 'kek_version', 'kek_copy', 'key', 'key_version', 'key_grant',
                             'protected_column', 'honeytoken', 'approval_request', 'escrow', 'custodian', 'escrow_drill'] LOOP
        EXECUTE format('CREATE TRIGGER by_hand_row AFTER INSERT OR UPDATE OR DELETE ON colcrypt.%I '
                       'FOR EACH ROW EXECUTE FUNCTION colcrypt.changed_by_hand()', t);
        EXECUTE format('ALTER TABLE colcrypt.%I ENABLE ALWAYS TRIGGER by_hand_row', t);
    END LOOP;
    FOREACH t IN ARRAY ARRAY['provider', 'keyring', 'keyring_grant', 'kek_version', 'kek_copy', 'key', 'key_version', 'key_grant',
                             'protected_column', 'honeytoken', 'approval_request', 'escrow', 'custodian', 'escrow_drill', 'audit_outbox', 'audit_state'] LOOP
        EXECUTE format('CREATE TRIGGER by_hand AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON colcrypt.%I '
                       'FOR EACH STATEMENT EXECUTE FUNCTION colcrypt.changed_by_hand()', t);
        EXECUTE format('ALTER TABLE colcrypt.%I ENABLE ALWAYS TRIGGER by_hand', t);
    END LOOP;
END
$$;
