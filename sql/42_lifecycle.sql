-- The life of a key's versions. For administrators: no PUBLIC rights but on the function that reads a header.

CREATE FUNCTION colcrypt.ciphertext_key(value colcrypt.ciphertext) RETURNS bigint
    AS 'MODULE_PATHNAME', 'colcrypt_key_of' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 5;
COMMENT ON FUNCTION colcrypt.ciphertext_key(colcrypt.ciphertext) IS
    'the id of a value''s key, as in table key; no key is needed';

CREATE FUNCTION colcrypt.ciphertext_version(value colcrypt.ciphertext, key_id bigint) RETURNS int
    AS 'MODULE_PATHNAME', 'colcrypt_version_of' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 5;
COMMENT ON FUNCTION colcrypt.ciphertext_version(colcrypt.ciphertext, bigint) IS
    'the version of this key that the value is under, NULL when it is under another key';

CREATE FUNCTION colcrypt.create_key_version(key text) RETURNS int
    AS 'MODULE_PATHNAME', 'colcrypt_create_key_version' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.create_key_version(text) IS
    'makes a pre-active version, which does nothing until activate_key; returns the version';

CREATE FUNCTION colcrypt.prepare_key_version(key text, reason text DEFAULT NULL) RETURNS int
    AS 'MODULE_PATHNAME', 'colcrypt_prepare_key_version' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.prepare_key_version(text, text) IS
    'makes the next version, which decrypts from commit on and encrypts nothing until rotate_key or activate_key switches to it, so that other servers have it before any row is under it; where one is prepared already, that one; returns the version';

CREATE FUNCTION colcrypt.activate_key(key text, version int DEFAULT NULL, reason text DEFAULT NULL) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_activate_key' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.activate_key(text, int, text) IS
    'makes a pre-active version the one for all writes from commit on, and queues re-encryption jobs; without a version, the only one there is; returns the new state';

CREATE FUNCTION colcrypt.suspend_key(key text, version int DEFAULT NULL, reason text DEFAULT NULL) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_suspend_key' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.suspend_key(text, int, text) IS
    'stops encrypting and decrypting with a version, or with the whole key, in every session at commit; a reason is needed; returns the new state';

CREATE FUNCTION colcrypt.resume_key(key text, version int DEFAULT NULL, reason text DEFAULT NULL) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_resume_key' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.resume_key(text, int, text) IS
    'brings a suspended version back to what it was, or every one of the key; one whose place another took comes back to decrypt only; returns the new state';

CREATE FUNCTION colcrypt.deactivate_key(key text, version int DEFAULT NULL, reason text DEFAULT NULL) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_deactivate_key' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.deactivate_key(text, int, text) IS
    'has a version only decrypt from commit on, for good; without a version the current one, so that nothing is encrypted until the next rotation; returns the new state';

CREATE FUNCTION colcrypt.mark_compromised(key text, version int DEFAULT NULL, reason text DEFAULT NULL) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_mark_compromised' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.mark_compromised(text, int, text) IS
    'never encrypts with a version again, or with any so far, rotates if it was the current one, lists its rows in exposed_rows and moves them before any other; a reason is needed; returns the new state';

CREATE FUNCTION colcrypt.archive_key(key text, version int, reason text DEFAULT NULL) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_archive_key' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.archive_key(text, int, text) IS
    'puts a version away that is deactivated or compromised: it decrypts only after recover_key; returns the new state';

CREATE FUNCTION colcrypt.recover_key(key text, version int, reason text DEFAULT NULL) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_recover_key' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.recover_key(text, int, text) IS
    'brings an archived version back to decrypt; a reason is needed; returns the new state';

CREATE FUNCTION colcrypt.schedule_key_destruction(
        key text, version int DEFAULT NULL, destroy_after interval DEFAULT NULL, reason text DEFAULT NULL,
        rows text DEFAULT 'keep') RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_schedule_key_destruction' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.schedule_key_destruction(text, int, interval, text, text) IS
    'has a version, or every version of a key, destroyed after a time (colcrypt.destruction_window), usable for nothing until then; refused while any row needs it, unless rows is ''shred'': then their values are lost with it, after colcrypt.destruction_window_floor where nothing else is said; a reason is needed; returns the new state';

CREATE FUNCTION colcrypt.cancel_key_destruction(key text, version int DEFAULT NULL, reason text DEFAULT NULL) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_cancel_key_destruction' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.cancel_key_destruction(text, int, text) IS
    'brings a version whose destruction is scheduled, or every such version of a key, back to what it was, or to decrypt where it was in use; returns the new state';

CREATE FUNCTION colcrypt.rows_needing_key(
        key text, version int,
        OUT relation regclass, OUT attribute text, OUT "rows" bigint, OUT registered boolean, OUT shredded boolean)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'colcrypt_rows_needing_key' LANGUAGE c STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.rows_needing_key(text, int) IS
    'the columns, registered or not, whose rows can be read only with this version, and how many rows: counted now; shredded where the version is destroyed, or will be, although they need it';

DO $$
DECLARE
    f regprocedure;
BEGIN
    FOREACH f IN ARRAY ARRAY[
        'colcrypt.create_key_version(text)', 'colcrypt.prepare_key_version(text, text)', 'colcrypt.activate_key(text, int, text)',
        'colcrypt.suspend_key(text, int, text)', 'colcrypt.resume_key(text, int, text)',
        'colcrypt.deactivate_key(text, int, text)', 'colcrypt.mark_compromised(text, int, text)',
        'colcrypt.archive_key(text, int, text)', 'colcrypt.recover_key(text, int, text)',
        'colcrypt.schedule_key_destruction(text, int, interval, text, text)',
        'colcrypt.cancel_key_destruction(text, int, text)', 'colcrypt.rows_needing_key(text, int)']::regprocedure[]
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    END LOOP;
END
$$;

CREATE TABLE colcrypt.destruction (
    key_id bigint NOT NULL,
    version int NOT NULL,
    -- Transactions that were under way when it fell due may still write under the version.
    settle_before timestamptz,
    settle_transactions text[],
    retry_at timestamptz,
    last_error text,
    -- Transactions that had been prepared by the time those were over, by their ids.
    settle_prepared text[],
    -- A place in the log: no transaction that wrote before it is under way once those are over.
    settle_lsn pg_lsn,
    PRIMARY KEY (key_id, version)
);
REVOKE ALL ON colcrypt.destruction FROM PUBLIC;
COMMENT ON TABLE colcrypt.destruction IS
    'how far the destruction of a version that is due has come, and why it was postponed; not dumped, since a restored database looks again';

CREATE TABLE colcrypt.destruction_wait (
    key_id bigint NOT NULL,
    version int NOT NULL,
    -- How long the server ran since the order, in microseconds, as of at_us in the clock of that run, which is never set.
    ran_us bigint NOT NULL,
    run text NOT NULL,
    at_us bigint NOT NULL,
    -- Of the order that this is about: the same version may be ordered again.
    destroy_at timestamptz,
    PRIMARY KEY (key_id, version)
);
REVOKE ALL ON colcrypt.destruction_wait FROM PUBLIC;
COMMENT ON TABLE colcrypt.destruction_wait IS
    'how long the server has run since a destruction was ordered: the window has to pass by this time, too; not dumped, since a restored database counts from its own start';

CREATE TABLE colcrypt.exposed_row (
    key_id bigint NOT NULL,
    version int NOT NULL,
    marked_at timestamptz NOT NULL DEFAULT now(),
    -- By name: the record outlives the table.
    relation text NOT NULL,
    attribute text NOT NULL,
    row_address tid NOT NULL,
    primary_key jsonb
);
CREATE INDEX exposed_row_version ON colcrypt.exposed_row (key_id, version);
REVOKE ALL ON colcrypt.exposed_row FROM PUBLIC;
COMMENT ON TABLE colcrypt.exposed_row IS
    'rows that were under a key version when it was marked as compromised: evidence, which dumps take along';
DO $$
BEGIN
    PERFORM pg_catalog.pg_extension_config_dump('colcrypt.exposed_row', '');
END
$$;

CREATE VIEW colcrypt.exposed_rows AS
    SELECT coalesce(k.name, '(dropped)') AS key, e.version, e.marked_at, e.relation, e.attribute,
           e.row_address, e.primary_key
    FROM colcrypt.exposed_row e LEFT JOIN colcrypt.key k USING (key_id);
REVOKE ALL ON colcrypt.exposed_rows FROM PUBLIC;
COMMENT ON VIEW colcrypt.exposed_rows IS
    'rows that were under a key version at the moment when it was marked as compromised; row_address is their place then, primary_key tells them still';
