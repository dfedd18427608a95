-- The two types: an encrypted value, and the context it is bound to.

CREATE TYPE colcrypt.ciphertext;

CREATE FUNCTION colcrypt.ciphertext_in(cstring) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_ciphertext_in' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION colcrypt.ciphertext_out(colcrypt.ciphertext) RETURNS cstring
    AS 'MODULE_PATHNAME', 'colcrypt_ciphertext_out' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION colcrypt.ciphertext_recv(internal) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_ciphertext_recv' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION colcrypt.ciphertext_send(colcrypt.ciphertext) RETURNS bytea
    AS 'MODULE_PATHNAME', 'colcrypt_ciphertext_send' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;

-- STORAGE external: ciphertext does not compress, so TOAST must not spend time on trying.
CREATE TYPE colcrypt.ciphertext (
    INPUT = colcrypt.ciphertext_in,
    OUTPUT = colcrypt.ciphertext_out,
    RECEIVE = colcrypt.ciphertext_recv,
    SEND = colcrypt.ciphertext_send,
    INTERNALLENGTH = VARIABLE,
    STORAGE = external
);

COMMENT ON TYPE colcrypt.ciphertext IS
    'an encrypted value that names its key, key version, suite and plaintext type; has no equality, so comparing it with a plaintext is an error';
COMMENT ON FUNCTION colcrypt.ciphertext_in(cstring) IS 'I/O';
COMMENT ON FUNCTION colcrypt.ciphertext_out(colcrypt.ciphertext) IS 'I/O';
COMMENT ON FUNCTION colcrypt.ciphertext_recv(internal) IS 'I/O';
COMMENT ON FUNCTION colcrypt.ciphertext_send(colcrypt.ciphertext) IS 'I/O';

-- Out is free, since nobody shall be locked in; in is checked.
CREATE FUNCTION colcrypt.ciphertext(bytea) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_ciphertext_from_bytea' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION colcrypt.ciphertext(bytea) IS
    'the bytes of an encrypted value as a ciphertext; refuses anything that is not one';
CREATE CAST (colcrypt.ciphertext AS bytea) WITHOUT FUNCTION;
CREATE CAST (bytea AS colcrypt.ciphertext) WITH FUNCTION colcrypt.ciphertext(bytea);

-- A context is bytes, but a type of its own: decrypt_col(c, NULL::bytea) asks for a bytea value,
-- decrypt_col(c, row_context(id)) brings a context, and the parser can tell them apart.
CREATE TYPE colcrypt.context;
CREATE FUNCTION colcrypt.context_in(cstring) RETURNS colcrypt.context
    AS 'byteain' LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION colcrypt.context_out(colcrypt.context) RETURNS cstring
    AS 'byteaout' LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION colcrypt.context_recv(internal) RETURNS colcrypt.context
    AS 'bytearecv' LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION colcrypt.context_send(colcrypt.context) RETURNS bytea
    AS 'byteasend' LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE;
CREATE TYPE colcrypt.context (
    INPUT = colcrypt.context_in,
    OUTPUT = colcrypt.context_out,
    RECEIVE = colcrypt.context_recv,
    SEND = colcrypt.context_send,
    INTERNALLENGTH = VARIABLE,
    STORAGE = extended
);
COMMENT ON TYPE colcrypt.context IS
    'additional data that a value is bound to, made by row_context; the same context is needed to decrypt';
COMMENT ON FUNCTION colcrypt.context_in(cstring) IS 'I/O';
COMMENT ON FUNCTION colcrypt.context_out(colcrypt.context) IS 'I/O';
COMMENT ON FUNCTION colcrypt.context_recv(internal) IS 'I/O';
COMMENT ON FUNCTION colcrypt.context_send(colcrypt.context) IS 'I/O';
CREATE CAST (colcrypt.context AS bytea) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (bytea AS colcrypt.context) WITHOUT FUNCTION;

-- The key catalog. Every key in it is wrapped; no credential is in it. Only the extension's functions
-- write here, and pg_dump takes the contents along, so that a restored database decrypts.
-- No foreign keys: pg_restore -j loads an extension's tables in any order, and would fail on them.

CREATE TABLE colcrypt.provider (
    provider_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text COLLATE "C" NOT NULL UNIQUE CHECK (octet_length(name) BETWEEN 1 AND 200),
    kind text NOT NULL,
    config jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE colcrypt.provider IS 'where root keys live: a KMS, an HSM or a key file, and where to find its credentials';

CREATE TABLE colcrypt.keyring (
    keyring_id uuid PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE CHECK (octet_length(name) BETWEEN 1 AND 200),
    current_version int NOT NULL CHECK (current_version > 0),
    dek_wrap text NOT NULL,
    -- Where new key material comes from: the system's generator, or the provider's.
    key_source text NOT NULL DEFAULT 'system' CHECK (key_source IN ('system', 'provider')),
    -- Whether activation, destruction and grants wait for a second role, and how long they may wait.
    four_eyes boolean NOT NULL DEFAULT false,
    approval_window interval NOT NULL DEFAULT '24 hours' CHECK (approval_window > '0'),
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE colcrypt.keyring IS 'keyrings: each has one key encryption key (KEK), versioned';

CREATE TABLE colcrypt.kek_version (
    keyring_id uuid NOT NULL,
    version int NOT NULL CHECK (version > 0),
    kcv text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (keyring_id, version)
);
COMMENT ON TABLE colcrypt.kek_version IS 'versions of key encryption keys';

CREATE TABLE colcrypt.kek_copy (
    keyring_id uuid NOT NULL,
    version int NOT NULL CHECK (version > 0),
    -- Whose root key is asked first: the lowest number's.
    preference int NOT NULL CHECK (preference > 0),
    provider_id uuid NOT NULL,
    root_key text NOT NULL,
    root_key_version text NOT NULL,
    wrapped bytea NOT NULL,
    PRIMARY KEY (keyring_id, version, preference),
    UNIQUE (keyring_id, version, provider_id, root_key)
);
COMMENT ON TABLE colcrypt.kek_copy IS 'key encryption keys, wrapped by each of their keyring''s root keys';

CREATE TABLE colcrypt.key (
    key_id bigint PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE CHECK (octet_length(name) BETWEEN 1 AND 200),
    keyring_id uuid NOT NULL,
    suite text NOT NULL,
    current_version int NOT NULL CHECK (current_version > 0),
    -- Cryptoperiods (SP 800-57 part 1, 5.3.4), counted from a version's activation: how long it may
    -- encrypt, and how long after that it may decrypt; null is without end.
    originator_usage_period interval DEFAULT '1 year' CHECK (originator_usage_period > '0'),
    recipient_usage_period interval CHECK (recipient_usage_period >= '0'),
    -- How often the worker rotates by itself; null is only when the cryptoperiod or a limit asks for it.
    rotation_interval interval CHECK (rotation_interval > '0'),
    -- How many values a version may encrypt, where an administrator wants fewer than the suite allows.
    usage_bound bigint CHECK (usage_bound >= 100 AND usage_bound <= CASE suite WHEN 'aes-256-gcm' THEN 1::bigint << 32 ELSE 1::bigint << 56 END),
    -- What is done to plaintexts before encryption; null is nothing.
    compression text CHECK (compression IN ('lz4')),
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE colcrypt.key IS 'keys that values are encrypted with, by name';

CREATE TABLE colcrypt.key_version (
    key_id bigint NOT NULL,
    version int NOT NULL CHECK (version > 0),
    state text NOT NULL,
    kek_version int NOT NULL,
    wrapped bytea NOT NULL,
    kcv text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    activated_at timestamptz,
    deactivated_at timestamptz,
    destroy_at timestamptz,
    destroyed_at timestamptz,
    -- Who moved it to its state, when and why. Roles by name: the record outlives them.
    state_changed_at timestamptz NOT NULL DEFAULT now(),
    state_changed_by text NOT NULL DEFAULT session_user,
    state_reason text,
    -- What a suspended version comes back to, and one whose destruction is cancelled.
    former_state text,
    -- When it was first marked as compromised; never taken back.
    compromised_at timestamptz,
    PRIMARY KEY (key_id, version)
)
-- A destroyed version leaves a dead row with its wrapped key behind: autovacuum is not to wait for more.
WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
-- The worker asks at every step which destruction is due.
CREATE INDEX key_version_destroy_at ON colcrypt.key_version (destroy_at) WHERE destroy_at IS NOT NULL;
COMMENT ON TABLE colcrypt.key_version IS 'versions of data encryption keys (DEKs), wrapped by a key encryption key';

CREATE TABLE colcrypt.key_grant (
    key_id bigint NOT NULL,
    grantee regrole NOT NULL,
    can_encrypt boolean NOT NULL,
    can_decrypt boolean NOT NULL,
    can_manage boolean NOT NULL DEFAULT false,
    PRIMARY KEY (key_id, grantee)
);
COMMENT ON TABLE colcrypt.key_grant IS 'which roles may encrypt with, decrypt with or manage a key; role 0 is PUBLIC';

CREATE TABLE colcrypt.protected_column (
    relation regclass NOT NULL,
    attribute name NOT NULL,
    key_id bigint NOT NULL,
    context text,
    -- Which roles an access view shows the plaintext to, by name; null is whoever may decrypt with the key.
    readers text[],
    plaintext_type regtype NOT NULL DEFAULT 'text',
    -- That type with its length, precision and collation, as SQL, where an access view has to show it so.
    declared text,
    registered_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (relation, attribute)
);
COMMENT ON TABLE colcrypt.protected_column IS 'encrypted columns that rotation keeps on the newest key version';

-- Sessions read it, as they do the tables above; but a change of it concerns none of them.
CREATE TABLE colcrypt.version_usage (
    key_id bigint NOT NULL,
    version int NOT NULL,
    encryptions bigint NOT NULL,
    PRIMARY KEY (key_id, version)
);
COMMENT ON TABLE colcrypt.version_usage IS 'how many values each key version has encrypted, as of the last flush';

CREATE TABLE colcrypt.job (
    job_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation regclass NOT NULL,
    attribute name NOT NULL,
    key_id bigint NOT NULL,
    target_version int NOT NULL,
    -- Other keys whose values are moved to this one, whatever their version: see move_column.
    from_keys bigint[] NOT NULL DEFAULT '{}',
    -- Rows under a compromised version go first.
    priority int NOT NULL DEFAULT 0,
    phase text NOT NULL DEFAULT 'queued',
    paused boolean NOT NULL DEFAULT false,
    fire_triggers boolean NOT NULL DEFAULT false,
    -- The brake that holds it, in words.
    held_by text,
    -- Where to go on after a stop: the leaf relation being moved and its next block.
    current_relation oid,
    next_block bigint NOT NULL DEFAULT 0,
    -- Transactions that were under way when the job began may still write under an older version:
    -- these virtual transactions, and what was prepared before.
    settle_before timestamptz,
    settle_transactions text[],
    rows_done bigint NOT NULL DEFAULT 0,
    rows_failed bigint NOT NULL DEFAULT 0,
    blocks_done bigint NOT NULL DEFAULT 0,
    blocks_total bigint,
    rows_estimate bigint,
    passes int NOT NULL DEFAULT 0,
    wal_bytes bigint NOT NULL DEFAULT 0,
    -- Time in batches of this run and the rests between them.
    worked interval NOT NULL DEFAULT '0',
    last_error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    retried_at timestamptz,
    finished_at timestamptz,
    -- Failed tries in a row, and when the next one is due.
    tries int NOT NULL DEFAULT 0,
    retry_at timestamptz
);
CREATE UNIQUE INDEX job_open ON colcrypt.job (relation, attribute) WHERE finished_at IS NULL;
COMMENT ON TABLE colcrypt.job IS 're-encryption jobs; not dumped, since a restored database starts anew';

-- Not dumped: a count is of this database.
CREATE TABLE colcrypt.census (
    relation regclass NOT NULL,
    attribute name NOT NULL,
    -- Of key id, version and rows.
    counts jsonb NOT NULL,
    counted_at timestamptz NOT NULL DEFAULT now(),
    counted_by text NOT NULL,
    PRIMARY KEY (relation, attribute)
);
COMMENT ON TABLE colcrypt.census IS 'rows of registered columns by key version, as last counted; see the view key_version_census';

CREATE TABLE colcrypt.job_error (
    job_id bigint NOT NULL,
    -- The partition or child that holds the row.
    relation regclass NOT NULL,
    row_ctid tid NOT NULL,
    -- None where the value's header cannot be read.
    key text,
    version int,
    reason text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (job_id, relation, row_ctid)
);
COMMENT ON TABLE colcrypt.job_error IS
    'rows that a job could not move: where each was then, the key and version it is under, and why; retry_job takes these again';
GRANT SELECT ON colcrypt.job_error TO pg_monitor;

CREATE TABLE colcrypt.migration (
    job_id bigint PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('encrypt', 'decrypt')),
    relation regclass NOT NULL,
    attribute name NOT NULL,
    -- The new column, which takes the other's name at the swap.
    twin name NOT NULL,
    key_id bigint NOT NULL,
    context text,
    readers text[],
    plaintext_type regtype NOT NULL,
    -- The plaintext's type with its length, precision and collation, as SQL.
    declared text NOT NULL,
    -- The name that an access view takes over from the table, and the table's new one; null is for no such view.
    view_name name,
    table_name name,
    -- What may be lost, as class/oid.
    accepted text[] NOT NULL,
    ordered_by text NOT NULL DEFAULT session_user,
    -- What the verification relies on, and how many rows of its pass were out of step.
    fence text,
    strays bigint NOT NULL DEFAULT 0,
    -- The tables with rows when the job began, and at the swap: what is detached later was part of it all the same.
    began_with regclass[],
    swapped_with regclass[],
    -- The transaction that dropped the old column: older row versions still hold it.
    swapped_in xid8,
    swapped_at timestamptz,
    swapped_lsn pg_lsn
);
COMMENT ON TABLE colcrypt.migration IS
    'what the jobs of encrypt_column and decrypt_column have to do; not dumped, as jobs are not';
CREATE TABLE colcrypt.audit_outbox (
    event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    event text NOT NULL,
    session_role text NOT NULL DEFAULT session_user,
    current_role_name text NOT NULL,
    client_addr inet DEFAULT inet_client_addr(),
    pid int NOT NULL DEFAULT pg_backend_pid(),
    key_id bigint,
    key_name text,
    version int,
    relation text,
    detail text
);
COMMENT ON TABLE colcrypt.audit_outbox IS
    'administrative acts, recorded by the transaction that did them, on their way into the audit log';

-- Sessions cache what they read here. Any change, by whatever way, tells them all at commit, and
-- sessions on standbys when replay gets there.
CREATE FUNCTION colcrypt.catalog_changed() RETURNS trigger
    AS 'MODULE_PATHNAME', 'colcrypt_catalog_changed' LANGUAGE c;
COMMENT ON FUNCTION colcrypt.catalog_changed() IS 'trigger: makes every session look at the key catalog again';
REVOKE ALL ON FUNCTION colcrypt.catalog_changed() FROM PUBLIC;

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['provider', 'keyring', 'kek_version', 'kek_copy', 'key', 'key_version', 'key_grant', 'protected_column'] LOOP
        EXECUTE format('CREATE TRIGGER catalog_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON colcrypt.%I '
                       'FOR EACH STATEMENT EXECUTE FUNCTION colcrypt.catalog_changed()', t);
        EXECUTE format('ALTER TABLE colcrypt.%I ENABLE ALWAYS TRIGGER catalog_changed', t);
        PERFORM pg_catalog.pg_extension_config_dump(format('colcrypt.%I', t)::regclass, '');
    END LOOP;
    -- What was dropped leaves a bare number behind, which elsewhere may be another role's or table's.
    PERFORM pg_catalog.pg_extension_config_dump('colcrypt.key_grant',
        'WHERE grantee::oid = 0 OR EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = grantee)');
    PERFORM pg_catalog.pg_extension_config_dump('colcrypt.protected_column',
        'WHERE EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = relation)');
END
$$;

-- Better now than at the first use.
DO $$
BEGIN
    IF NOT 'colcrypt' = ANY (regexp_split_to_array(current_setting('shared_preload_libraries'), '[\s",]+')) THEN
        RAISE WARNING 'colcrypt is not loaded at server start'
            USING HINT = 'Add colcrypt to shared_preload_libraries in postgresql.conf and restart the server; until then no key can be used.';
    END IF;
END
$$;

REVOKE ALL ON ALL TABLES IN SCHEMA colcrypt FROM PUBLIC;
GRANT USAGE ON SCHEMA colcrypt TO PUBLIC;

-- Functions on data. Everybody may call them; what they do is decided by the grants on the key.
-- None is STRICT: a NULL key or context must be an error, not a value silently turned into NULL.

CREATE FUNCTION colcrypt.encrypt_col(value text, key text) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_encrypt' LANGUAGE c VOLATILE PARALLEL SAFE COST 50;
CREATE FUNCTION colcrypt.encrypt_col(value text, key text, context bytea) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_encrypt' LANGUAGE c VOLATILE PARALLEL SAFE COST 50;
CREATE FUNCTION colcrypt.encrypt_col(value anyelement, key text) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_encrypt' LANGUAGE c VOLATILE PARALLEL SAFE COST 50;
CREATE FUNCTION colcrypt.encrypt_col(value anyelement, key text, context bytea) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_encrypt' LANGUAGE c VOLATILE PARALLEL SAFE COST 50;
COMMENT ON FUNCTION colcrypt.encrypt_col(text, text) IS
    'encrypts a text under the current version of the named key; NULL stays NULL';
COMMENT ON FUNCTION colcrypt.encrypt_col(text, text, bytea) IS
    'encrypts a text under the named key, bound to a context that decrypt_col will need again';
COMMENT ON FUNCTION colcrypt.encrypt_col(anyelement, text) IS
    'encrypts a value of any type with binary I/O under the current version of the named key; NULL stays NULL';
COMMENT ON FUNCTION colcrypt.encrypt_col(anyelement, text, bytea) IS
    'encrypts a value of any type under the named key, bound to a context that decrypt_col will need again';

CREATE FUNCTION colcrypt.decrypt_col(value colcrypt.ciphertext) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_decrypt_text' LANGUAGE c STABLE PARALLEL SAFE COST 50;
CREATE FUNCTION colcrypt.decrypt_col(value colcrypt.ciphertext, context colcrypt.context) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_decrypt_text' LANGUAGE c STABLE PARALLEL SAFE COST 50;
CREATE FUNCTION colcrypt.decrypt_col(value colcrypt.ciphertext, type anyelement) RETURNS anyelement
    AS 'MODULE_PATHNAME', 'colcrypt_decrypt_typed' LANGUAGE c STABLE PARALLEL SAFE COST 50;
CREATE FUNCTION colcrypt.decrypt_col(value colcrypt.ciphertext, type anyelement, context bytea) RETURNS anyelement
    AS 'MODULE_PATHNAME', 'colcrypt_decrypt_typed' LANGUAGE c STABLE PARALLEL SAFE COST 50;
COMMENT ON FUNCTION colcrypt.decrypt_col(colcrypt.ciphertext) IS
    'decrypts a text value; NULL stays NULL';
COMMENT ON FUNCTION colcrypt.decrypt_col(colcrypt.ciphertext, colcrypt.context) IS
    'decrypts a text value that is bound to a context made by row_context';
COMMENT ON FUNCTION colcrypt.decrypt_col(colcrypt.ciphertext, anyelement) IS
    'decrypts a value of the type named by the second argument: decrypt_col(c, NULL::date)';
COMMENT ON FUNCTION colcrypt.decrypt_col(colcrypt.ciphertext, anyelement, bytea) IS
    'decrypts a value of the named type that is bound to a context: decrypt_col(c, NULL::date, row_context(id))';

CREATE FUNCTION colcrypt.reencrypt_col(value colcrypt.ciphertext) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_reencrypt' LANGUAGE c VOLATILE PARALLEL SAFE COST 100;
CREATE FUNCTION colcrypt.reencrypt_col(value colcrypt.ciphertext, context bytea) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_reencrypt' LANGUAGE c VOLATILE PARALLEL SAFE COST 100;
COMMENT ON FUNCTION colcrypt.reencrypt_col(colcrypt.ciphertext) IS
    'the same value under its key''s current version; the plaintext never leaves the server; needs the right to encrypt';
COMMENT ON FUNCTION colcrypt.reencrypt_col(colcrypt.ciphertext, bytea) IS
    'the same value under its key''s current version, checked against and bound again to its context';

CREATE FUNCTION colcrypt.row_context(VARIADIC "any") RETURNS colcrypt.context
    AS 'MODULE_PATHNAME', 'colcrypt_row_context' LANGUAGE c STABLE PARALLEL SAFE COST 10;
COMMENT ON FUNCTION colcrypt.row_context("any") IS
    'the canonical form of any values, typed and length-prefixed, to bind an encrypted value to its row or column';

CREATE FUNCTION colcrypt.ciphertext_info(
        value colcrypt.ciphertext,
        OUT key text, OUT version int, OUT suite text, OUT type text, OUT bytes int,
        OUT has_context boolean, OUT key_id text, OUT compressed boolean)
    AS 'MODULE_PATHNAME', 'colcrypt_ciphertext_info' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION colcrypt.ciphertext_info(colcrypt.ciphertext) IS
    'what a value says about itself without any key: key, version, suite, plaintext type, length in bytes, whether it is compressed';

-- For the worker's statements, which run as a table's owner; nobody else may.
CREATE FUNCTION colcrypt.reencrypt_col_to(value colcrypt.ciphertext, key_id bigint) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_reencrypt_to' LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 20;
CREATE FUNCTION colcrypt.reencrypt_col_to(value colcrypt.ciphertext, key_id bigint, context bytea) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_reencrypt_to' LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 20;
COMMENT ON FUNCTION colcrypt.reencrypt_col_to(colcrypt.ciphertext, bigint) IS
    'for the maintenance worker: the value under another key''s current version';
COMMENT ON FUNCTION colcrypt.reencrypt_col_to(colcrypt.ciphertext, bigint, bytea) IS
    'for the maintenance worker: the same for a value bound to a context';

-- For the worker's statements, which run as a table's owner: whether the transaction that a row's xmax names is over.
CREATE FUNCTION colcrypt.is_settled(transaction xid) RETURNS boolean
    AS 'MODULE_PATHNAME', 'colcrypt_is_settled' LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED COST 5;
COMMENT ON FUNCTION colcrypt.is_settled(xid) IS 'whether a transaction is not under way any more';

-- For scans that look for work: reads a header, needs no key.
CREATE FUNCTION colcrypt.ciphertext_is_stale(value colcrypt.ciphertext, key_id bigint, current_version int) RETURNS boolean
    AS 'MODULE_PATHNAME', 'colcrypt_is_stale' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 5;
COMMENT ON FUNCTION colcrypt.ciphertext_is_stale(colcrypt.ciphertext, bigint, int) IS
    'whether the value is under an older version of this key than the given one';

-- Providers, keyrings, keys and grants. For administrators: no PUBLIC rights.

CREATE FUNCTION colcrypt.add_provider(name text, kind text, config jsonb DEFAULT '{}') RETURNS void
    AS 'MODULE_PATHNAME', 'colcrypt_add_provider' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.add_provider(text, text, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.add_provider(text, text, jsonb) IS
    'names a place where root keys live; config says where credentials are found and never holds one';

CREATE FUNCTION colcrypt.alter_provider(name text, config jsonb) RETURNS void
    AS 'MODULE_PATHNAME', 'colcrypt_alter_provider' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.alter_provider(text, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.alter_provider(text, jsonb) IS
    'gives a provider other settings, such as the new place of the same root key; a wrong root key is found out at the next use';

CREATE FUNCTION colcrypt.check_provider(
        name text, root_key text DEFAULT NULL,
        OUT server text, OUT root_key_version text, OUT latency interval, OUT warnings text[])
    AS 'MODULE_PATHNAME', 'colcrypt_check_provider' LANGUAGE c VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.check_provider(text, text) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.check_provider(text, text) IS
    'asks the provider for a round trip; with a root key, also wraps and unwraps random bytes under it';

CREATE FUNCTION colcrypt.create_keyring(
        name text, provider text, root_key text DEFAULT '', dek_wrap text DEFAULT 'aes-256-gcm',
        key_source text DEFAULT 'system') RETURNS uuid
    AS 'MODULE_PATHNAME', 'colcrypt_create_keyring' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.create_keyring(text, text, text, text, text) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.create_keyring(text, text, text, text, text) IS
    'makes a keyring: a new key encryption key, wrapped by a root key that must exist; dek_wrap is aes-256-gcm or aes-kwp; key_source says whose generator makes the keyring''s keys: system or provider';

CREATE FUNCTION colcrypt.move_keyring(keyring text, provider text, root_key text DEFAULT '') RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_move_keyring' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.move_keyring(text, text, text) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.move_keyring(text, text, text) IS
    'wraps the keyring''s key encryption key under another root key, at any provider, in the place of its first; no data is touched, and the old root key is needed no more';

CREATE FUNCTION colcrypt.add_root(keyring text, provider text, root_key text DEFAULT '') RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_add_root' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.add_root(text, text, text) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.add_root(text, text, text) IS
    'wraps the keyring''s key encryption key under one more root key, at any provider, which opens the keyring when those before it do not; says added';

CREATE FUNCTION colcrypt.drop_root(keyring text, provider text, root_key text DEFAULT '') RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_drop_root' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.drop_root(text, text, text) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.drop_root(text, text, text) IS
    'takes a root key away from a keyring, if one that stays opens it at this moment; says which stay';

CREATE FUNCTION colcrypt.check_roots(
        keyring text,
        OUT kek_version int, OUT preference int, OUT provider text, OUT root_key text,
        OUT opens boolean, OUT problem text)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'colcrypt_check_roots' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.check_roots(text) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.check_roots(text) IS
    'asks every root key of the keyring for its key encryption key, whatever is cached, and says which of them give it';

CREATE FUNCTION colcrypt.rotate_root(keyring text) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_rotate_root' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.rotate_root(text) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.rotate_root(text) IS
    'wraps the keyring''s key encryption key under the newest version of its root key, or of each of them; returns the versions; changes nothing unless all can be done';

CREATE FUNCTION colcrypt.create_key(name text, keyring text, suite text DEFAULT 'aes-256-gcm') RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_create_key' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.create_key(text, text, text) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.create_key(text, text, text) IS
    'makes a key with its first version; suite is aes-256-gcm or xaes-256-gcm; returns the key id';

CREATE FUNCTION colcrypt.rotate_key(key text) RETURNS int
    AS 'MODULE_PATHNAME', 'colcrypt_rotate_key' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.rotate_key(text) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.rotate_key(text) IS
    'makes a new version for all writes from commit on, and queues a re-encryption job for each registered column; returns the version';

CREATE FUNCTION colcrypt.grant_key(
        key text, role text, privileges text[] DEFAULT '{encrypt,decrypt}') RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_grant_key' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.grant_key(text, text, text[]) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.grant_key(text, text, text[]) IS
    'lets a role encrypt with, decrypt with or manage a key; PUBLIC may be given the first two; says granted';

CREATE FUNCTION colcrypt.revoke_key(
        key text, role text, privileges text[] DEFAULT '{encrypt,decrypt}') RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_revoke_key' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.revoke_key(text, text, text[]) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.revoke_key(text, text, text[]) IS
    'takes privileges on a key away; every session sees it at its next statement; says revoked';

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
        key text, version int, destroy_after interval DEFAULT NULL, reason text DEFAULT NULL) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_schedule_key_destruction' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.schedule_key_destruction(text, int, interval, text) IS
    'has a version destroyed after a time (colcrypt.destruction_window), usable for nothing until then; refused while any row needs it; a reason is needed; returns the new state';

CREATE FUNCTION colcrypt.cancel_key_destruction(key text, version int, reason text DEFAULT NULL) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_cancel_key_destruction' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.cancel_key_destruction(text, int, text) IS
    'brings a version whose destruction is scheduled back to what it was; returns the new state';

CREATE FUNCTION colcrypt.rows_needing_key(
        key text, version int,
        OUT relation regclass, OUT attribute text, OUT "rows" bigint, OUT registered boolean)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'colcrypt_rows_needing_key' LANGUAGE c STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.rows_needing_key(text, int) IS
    'the columns, registered or not, whose rows can be read only with this version, and how many rows: counted now';

DO $$
DECLARE
    f regprocedure;
BEGIN
    FOREACH f IN ARRAY ARRAY[
        'colcrypt.create_key_version(text)', 'colcrypt.activate_key(text, int, text)',
        'colcrypt.suspend_key(text, int, text)', 'colcrypt.resume_key(text, int, text)',
        'colcrypt.deactivate_key(text, int, text)', 'colcrypt.mark_compromised(text, int, text)',
        'colcrypt.archive_key(text, int, text)', 'colcrypt.recover_key(text, int, text)',
        'colcrypt.schedule_key_destruction(text, int, interval, text)',
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
    PRIMARY KEY (key_id, version)
);
REVOKE ALL ON colcrypt.destruction FROM PUBLIC;
COMMENT ON TABLE colcrypt.destruction IS
    'how far the destruction of a version that is due has come, and why it was postponed; not dumped, since a restored database starts anew';

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

-- Four eyes: requests of one role that wait for another one's approval.

-- Not dumped: who may not approve is told by OIDs, which in another cluster are other roles. What was
-- decided is in the audit log; what waits is asked for again.
CREATE TABLE colcrypt.approval_request (
    request_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    keyring_id uuid NOT NULL,
    key_id bigint,
    function text NOT NULL,
    arguments jsonb NOT NULL,
    -- Who asked: names for people to read, OIDs for the rule that nobody approves their own.
    requested_by text NOT NULL,
    requested_as text NOT NULL,
    login_role oid NOT NULL,
    session_role oid NOT NULL,
    acting_role oid NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    outcome text CHECK (outcome IN ('approved', 'rejected', 'withdrawn', 'expired')),
    decided_by text,
    decided_as text,
    decided_at timestamptz,
    reason text,
    CHECK ((outcome IS NULL) = (decided_at IS NULL))
);
CREATE INDEX approval_request_open ON colcrypt.approval_request (expires_at) WHERE outcome IS NULL;
COMMENT ON TABLE colcrypt.approval_request IS
    'acts on four-eyes keyrings: what was asked for, by whom, and how it was decided; not dumped';
REVOKE ALL ON colcrypt.approval_request FROM PUBLIC;

CREATE FUNCTION colcrypt.require_four_eyes(
        keyring text, enabled boolean DEFAULT true, approval_window interval DEFAULT NULL) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_require_four_eyes' LANGUAGE c VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.require_four_eyes(text, boolean, interval) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.require_four_eyes(text, boolean, interval) IS
    'makes activation, destruction, moves and grants on a keyring''s keys wait for a second role''s approval; switching it off, or another window, waits for one itself';

CREATE FUNCTION colcrypt.approve_request(request bigint, reason text DEFAULT NULL) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_approve_request' LANGUAGE c VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.approve_request(bigint, text) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.approve_request(bigint, text) IS
    'does what another role asked for, if it can still be done; returns what the function asked for would have';

CREATE FUNCTION colcrypt.reject_request(request bigint, reason text) RETURNS void
    AS 'MODULE_PATHNAME', 'colcrypt_reject_request' LANGUAGE c VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.reject_request(bigint, text) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.reject_request(bigint, text) IS
    'refuses for good what another role asked for, and says why';

CREATE FUNCTION colcrypt.withdraw_request(request bigint) RETURNS void
    AS 'MODULE_PATHNAME', 'colcrypt_withdraw_request' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.withdraw_request(bigint) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.withdraw_request(bigint) IS 'takes one''s own request back';

CREATE VIEW colcrypt.approval_requests AS
    SELECT a.request_id,
           r.name AS keyring,
           k.name AS key,
           a.function,
           a.arguments,
           a.requested_by,
           a.requested_as,
           a.requested_at,
           a.expires_at,
           coalesce(a.outcome, CASE WHEN a.expires_at > clock_timestamp() THEN 'pending' ELSE 'expired' END) AS outcome,
           a.decided_by,
           a.decided_as,
           a.decided_at,
           a.reason
    FROM colcrypt.approval_request a
    LEFT JOIN colcrypt.keyring r USING (keyring_id)
    LEFT JOIN colcrypt.key k USING (key_id);
COMMENT ON VIEW colcrypt.approval_requests IS
    'acts on four-eyes keyrings: outcome is pending, approved, rejected, withdrawn or expired';
GRANT SELECT ON colcrypt.approval_requests TO pg_monitor;

-- Registered columns and the jobs that re-encrypt them.

CREATE FUNCTION colcrypt.register_column(
        relation regclass, attribute name, key text, context text DEFAULT NULL,
        readers text[] DEFAULT NULL, plaintext_type regtype DEFAULT 'text') RETURNS void
    AS 'MODULE_PATHNAME', 'colcrypt_register_column' LANGUAGE c VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.register_column(regclass, name, text, text, text[], regtype) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.register_column(regclass, name, text, text, text[], regtype) IS
    'puts a ciphertext column under the care of rotation; context is the expression its values were bound to, such as colcrypt.row_context(id); readers and plaintext_type are for create_access_view';

CREATE FUNCTION colcrypt.unregister_column(relation regclass, attribute name) RETURNS void
    AS 'MODULE_PATHNAME', 'colcrypt_unregister_column' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.unregister_column(regclass, name) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.unregister_column(regclass, name) IS
    'takes a column out of the care of rotation; its values stay as they are';

CREATE FUNCTION colcrypt.reencrypt_column(
        relation regclass, attribute name, fire_triggers boolean DEFAULT false) RETURNS bigint
    AS 'MODULE_PATHNAME', 'colcrypt_reencrypt_column' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.reencrypt_column(regclass, name, boolean) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.reencrypt_column(regclass, name, boolean) IS
    'queues a job that moves the column''s values to the current version of its key, with or without the table''s triggers; returns the job';

CREATE FUNCTION colcrypt.move_column(
        relation regclass, attribute name, key text, fire_triggers boolean DEFAULT false) RETURNS bigint
    AS 'MODULE_PATHNAME', 'colcrypt_move_column' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.move_column(regclass, name, text, boolean) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.move_column(regclass, name, text, boolean) IS
    'registers the column for another key, of whatever suite, and queues a job that moves the values of its former key there; needs the right to manage both; returns the job';

CREATE FUNCTION colcrypt.pause_job(job bigint) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_pause_job' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.pause_job(bigint) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.pause_job(bigint) IS
    'stops a job after the batch at hand until resume_job; says paused';

CREATE FUNCTION colcrypt.resume_job(job bigint) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_resume_job' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.resume_job(bigint) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.resume_job(bigint) IS
    'lets a paused job go on where it was; says resumed';

CREATE FUNCTION colcrypt.cancel_job(job bigint) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_cancel_job' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.cancel_job(bigint) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.cancel_job(bigint) IS
    'ends a job after the batch at hand; rows that it moved stay moved; says cancelled';

CREATE FUNCTION colcrypt.retry_job(job bigint) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_retry_job' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.retry_job(bigint) FROM PUBLIC;
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
REVOKE ALL ON FUNCTION colcrypt.is_in_window(text, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.is_in_window(text, timestamptz) IS
    'whether a moment is in a daily window such as 22:00-04:00, in log_timezone';

CREATE VIEW colcrypt.job_progress AS
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
           coalesce(m.kind || '_column', CASE WHEN j.from_keys <> '{}' THEN 'move_column' ELSE 'reencrypt_column' END) AS kind
    FROM colcrypt.job j LEFT JOIN colcrypt.key k USING (key_id) LEFT JOIN colcrypt.migration m USING (job_id);
COMMENT ON VIEW colcrypt.job_progress IS
    'jobs: kind is the function that orders such a job; phase is queued, moving, retrying, waiting for old transactions, verifying, done, failed or cancelled, and of migrations also swapping, scrubbing, vacuuming and cancelling; held_by is what keeps an open one from moving rows now; rows_estimate is all rows of the table, as last analyzed; time_left is for the first pass';
GRANT SELECT ON colcrypt.job_progress TO pg_monitor;

CREATE VIEW colcrypt.key_version_census AS
    SELECT p.relation, p.attribute, coalesce(k.name, CASE WHEN r.key_id IS NOT NULL THEN '(dropped)' END) AS key, r.version,
           r.version = k.current_version AS is_current, r.rows, c.counted_at, c.counted_by
    FROM colcrypt.protected_column p
    LEFT JOIN colcrypt.census c USING (relation, attribute)
    LEFT JOIN LATERAL jsonb_to_recordset(c.counts) AS r(key_id bigint, version int, rows bigint) ON true
    LEFT JOIN colcrypt.key k ON k.key_id = r.key_id;
COMMENT ON VIEW colcrypt.key_version_census IS
    'rows of each registered column by key version, exact as of counted_at: when the last job on it verified its work, or take_census counted; all null is never counted, or no rows';
GRANT SELECT ON colcrypt.key_version_census TO pg_monitor;

CREATE FUNCTION colcrypt.take_census(
        relation regclass, attribute name, OUT key text, OUT version int, OUT "rows" bigint, OUT kept bigint) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'colcrypt_take_census' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.take_census(regclass, name) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.take_census(regclass, name) IS
    'counts a registered column''s rows by key version now, in one snapshot, for key_version_census; kept is what that said before';

-- Columns encrypted or decrypted in place, while the application runs.

CREATE TRIGGER catalog_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON colcrypt.migration
    FOR EACH STATEMENT EXECUTE FUNCTION colcrypt.catalog_changed();
ALTER TABLE colcrypt.migration ENABLE ALWAYS TRIGGER catalog_changed;
REVOKE ALL ON colcrypt.migration FROM PUBLIC;
GRANT SELECT ON colcrypt.migration TO pg_monitor;

CREATE FUNCTION colcrypt.encrypt_column(
        relation regclass, attribute name, key text, context text DEFAULT NULL, readers text[] DEFAULT NULL,
        access_view boolean DEFAULT true, table_name name DEFAULT NULL,
        accept_losses boolean DEFAULT false, dry_run boolean DEFAULT false,
        OUT job bigint, OUT object text, OUT becomes text) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'colcrypt_encrypt_column' LANGUAGE c VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.encrypt_column(regclass, name, text, text, text[], boolean, name, boolean, boolean) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.encrypt_column(regclass, name, text, text, text[], boolean, name, boolean, boolean) IS
    'queues a job that encrypts a column in place while the application runs, and drops the plaintext; says what becomes of everything that hangs on the column; dry_run only says it';

CREATE FUNCTION colcrypt.decrypt_column(
        relation regclass, attribute name, accept_losses boolean DEFAULT false, dry_run boolean DEFAULT false,
        OUT job bigint, OUT object text, OUT becomes text) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'colcrypt_decrypt_column' LANGUAGE c VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.decrypt_column(regclass, name, boolean, boolean) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.decrypt_column(regclass, name, boolean, boolean) IS
    'queues a job that turns a registered column into plaintext in place, while the application runs; needs the right to decrypt; dry_run only says what becomes of everything that hangs on the column';

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
REVOKE ALL ON FUNCTION colcrypt.plaintext_left(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION colcrypt.plaintext_left(bigint) TO pg_monitor;
COMMENT ON FUNCTION colcrypt.plaintext_left(bigint) IS
    'where plaintext of a column that a job encrypted in place may still lie, and what to do about each place';

-- Who may do what, to look at and to ask; and views that show encrypted columns as plaintext.

CREATE VIEW colcrypt.key_privileges AS
    SELECT k.name AS key,
           CASE WHEN g.grantee::oid = 0 THEN 'PUBLIC' ELSE r.rolname END AS grantee,
           g.can_encrypt AS encrypt,
           g.can_decrypt AS decrypt,
           g.can_manage AS manage
    FROM colcrypt.key_grant g
    JOIN colcrypt.key k USING (key_id)
    LEFT JOIN pg_catalog.pg_roles r ON r.oid = g.grantee
    WHERE g.grantee::oid = 0 OR r.oid IS NOT NULL;
COMMENT ON VIEW colcrypt.key_privileges IS
    'who was granted what on which key; superusers need no grant, and members of a role inherit its grants';
GRANT SELECT ON colcrypt.key_privileges TO pg_monitor;

CREATE FUNCTION colcrypt.has_key_privilege(role text, key text, privilege text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'colcrypt_has_key_privilege' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION colcrypt.has_key_privilege(text, text, text) IS
    'whether a role (or PUBLIC) may encrypt, decrypt or manage; of a list with commas, any';
CREATE FUNCTION colcrypt.has_key_privilege(key text, privilege text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'colcrypt_has_key_privilege' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION colcrypt.has_key_privilege(text, text) IS
    'whether the current role may encrypt, decrypt or manage; of a list with commas, any';

CREATE FUNCTION colcrypt.may_read_column(relation regclass, attribute name) RETURNS boolean
    AS 'MODULE_PATHNAME', 'colcrypt_may_read_column' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 100;
COMMENT ON FUNCTION colcrypt.may_read_column(regclass, name) IS
    'whether the current role is among the readers that a column was registered with; access views ask it once a statement';

CREATE FUNCTION colcrypt.write_access_view() RETURNS trigger
    AS 'MODULE_PATHNAME', 'colcrypt_write_access_view' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.write_access_view() IS
    'trigger: writes through an access view to its table, with the rights of who writes';

CREATE FUNCTION colcrypt.create_access_view(relation regclass, view_name name DEFAULT NULL) RETURNS regclass
    AS 'MODULE_PATHNAME', 'colcrypt_create_access_view' LANGUAGE c VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.create_access_view(regclass, name) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.create_access_view(regclass, name) IS
    'makes, or makes anew, a view in the table''s schema that shows its registered columns decrypted and can be written through; by default named like the table with _access behind';

-- What a DBA looks at.

CREATE FUNCTION colcrypt.root_state(
        keyring_id uuid, version int, preference int,
        OUT state text, OUT asked_at timestamptz, OUT failing_since timestamptz, OUT problem text,
        OUT served_at timestamptz)
    AS 'MODULE_PATHNAME', 'colcrypt_root_state' LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED;
REVOKE ALL ON FUNCTION colcrypt.root_state(uuid, int, int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION colcrypt.root_state(uuid, int, int) TO pg_monitor;
COMMENT ON FUNCTION colcrypt.root_state(uuid, int, int) IS
    'what this server''s agent last heard from one of a keyring''s root keys; see the view root_status';

CREATE VIEW colcrypt.root_status AS
    SELECT r.name AS keyring,
           c.version AS kek_version,
           c.preference,
           p.name AS provider,
           c.root_key,
           c.root_key_version,
           s.state,
           s.asked_at,
           s.failing_since,
           s.problem,
           s.served_at
    FROM colcrypt.kek_copy c
    JOIN colcrypt.keyring r USING (keyring_id)
    JOIN colcrypt.provider p USING (provider_id)
    CROSS JOIN LATERAL colcrypt.root_state(c.keyring_id, c.version, c.preference) s;
COMMENT ON VIEW colcrypt.root_status IS
    'every root key of every keyring, in the order in which they are asked (lowest preference first): state is ok, failed or not asked (since the server started or the key was wrapped), served_at when the key encryption key in use last came from it';
GRANT SELECT ON colcrypt.root_status TO pg_monitor;

CREATE VIEW colcrypt.kek_status AS
    SELECT s.keyring,
           s.kek_version,
           (array_agg(s.provider ORDER BY s.preference))[1] AS provider,
           (array_agg(s.root_key ORDER BY s.preference))[1] AS root_key,
           (array_agg(s.root_key_version ORDER BY s.preference))[1] AS root_key_version,
           count(*)::int AS roots,
           (array_agg(CASE s.root_key WHEN '' THEN s.provider ELSE s.provider || ', ' || s.root_key END
                      ORDER BY s.served_at DESC) FILTER (WHERE s.served_at IS NOT NULL))[1] AS served_by,
           string_agg(format('%s (since %s)', s.problem, s.failing_since::timestamptz(0)), '; ' ORDER BY s.preference)
               FILTER (WHERE s.state = 'failed') AS root_problem
    FROM colcrypt.root_status s
    GROUP BY s.keyring, s.kek_version;
COMMENT ON VIEW colcrypt.kek_status IS
    'every key encryption key: its first root key, how many it has, which one it last came from on this server, and which of them fail, why and since when';
GRANT SELECT ON colcrypt.kek_status TO pg_monitor;

CREATE VIEW colcrypt.key_status AS
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
           k.compression
    FROM colcrypt.key k
    JOIN colcrypt.key_version v ON v.key_id = k.key_id
    JOIN colcrypt.keyring r USING (keyring_id)
    JOIN colcrypt.kek_status e ON e.keyring = r.name AND e.kek_version = v.kek_version
    LEFT JOIN colcrypt.destruction d ON d.key_id = v.key_id AND d.version = v.version;
COMMENT ON VIEW colcrypt.key_status IS 'every key version, its state, who moved it there and why, and what protects it: the keyring''s first root key, which root key served last, and which of them fail';
GRANT SELECT ON colcrypt.key_status TO pg_monitor;

CREATE FUNCTION colcrypt.cache_slots(
        OUT key_id bigint, OUT version int, OUT state text, OUT hits bigint, OUT misses bigint,
        OUT loaded_at timestamptz, OUT expires_at timestamptz, OUT last_error text)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'colcrypt_cache_slots' LANGUAGE c VOLATILE PARALLEL RESTRICTED;
REVOKE ALL ON FUNCTION colcrypt.cache_slots() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION colcrypt.cache_slots() TO pg_monitor;
COMMENT ON FUNCTION colcrypt.cache_slots() IS
    'this database''s part of the key slab, and the loads that failed last; see the view cache_status';

CREATE VIEW colcrypt.cache_status AS
    SELECT coalesce(k.name, '(dropped)') AS key, c.version, c.state, c.hits, c.misses,
           c.loaded_at, c.expires_at, c.last_error
    FROM colcrypt.cache_slots() c LEFT JOIN colcrypt.key k USING (key_id);
COMMENT ON VIEW colcrypt.cache_status IS
    'cached keys: state is ready, loading or failed; hits and misses count look-ups by sessions, not values';
GRANT SELECT ON colcrypt.cache_status TO pg_monitor;

CREATE FUNCTION colcrypt.broker_status(
        OUT broker_pid int, OUT agent_pid int, OUT agent_starts bigint, OUT slots int, OUT slots_used int,
        OUT evictions bigint, OUT loads bigint, OUT loads_failed bigint, OUT loads_in_flight int,
        OUT memory_locked boolean, OUT last_error text)
    AS 'MODULE_PATHNAME', 'colcrypt_broker_status' LANGUAGE c VOLATILE PARALLEL RESTRICTED;
REVOKE ALL ON FUNCTION colcrypt.broker_status() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION colcrypt.broker_status() TO pg_monitor;
COMMENT ON FUNCTION colcrypt.broker_status() IS
    'the key broker, its agent and the key slab as a whole';

CREATE VIEW colcrypt.keyring_status AS
    SELECT r.name AS keyring,
           r.current_version AS kek_version,
           e.provider,
           e.root_key,
           e.root_key_version,
           e.roots,
           e.served_by,
           e.root_problem,
           v.kcv AS kek_check_value,
           r.dek_wrap,
           r.key_source,
           r.four_eyes,
           r.approval_window,
           r.created_at
    FROM colcrypt.keyring r
    JOIN colcrypt.kek_version v ON v.keyring_id = r.keyring_id AND v.version = r.current_version
    JOIN colcrypt.kek_status e ON e.keyring = r.name AND e.kek_version = r.current_version;
COMMENT ON VIEW colcrypt.keyring_status IS
    'every keyring: its current key encryption key, what protects it (the first root key, how many there are, which served last, which fail), where its keys are generated, and whether it asks for four eyes';
GRANT SELECT ON colcrypt.keyring_status TO pg_monitor;

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
REVOKE ALL ON FUNCTION colcrypt.audit_append_only() FROM PUBLIC;

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
    PRIMARY KEY (key_id, tag)
);
COMMENT ON TABLE colcrypt.honeytoken IS 'values whose decryption raises an alarm';
CREATE TRIGGER catalog_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON colcrypt.honeytoken
    FOR EACH STATEMENT EXECUTE FUNCTION colcrypt.catalog_changed();
ALTER TABLE colcrypt.honeytoken ENABLE ALWAYS TRIGGER catalog_changed;

REVOKE ALL ON colcrypt.audit_log, colcrypt.audit_state, colcrypt.honeytoken FROM PUBLIC;
GRANT SELECT ON colcrypt.audit_log TO pg_monitor;
SELECT pg_catalog.pg_extension_config_dump('colcrypt.audit_log', '');
SELECT pg_catalog.pg_extension_config_dump('colcrypt.honeytoken', '');

CREATE FUNCTION colcrypt.verify_audit_log(
        anchor_seq bigint DEFAULT NULL, anchor_hash text DEFAULT NULL,
        OUT ok boolean, OUT events bigint, OUT head_seq bigint, OUT head_hash text,
        OUT first_bad bigint, OUT problem text)
    AS 'MODULE_PATHNAME', 'colcrypt_verify_audit_log' LANGUAGE c VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.verify_audit_log(bigint, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION colcrypt.verify_audit_log(bigint, text) TO pg_monitor;
COMMENT ON FUNCTION colcrypt.verify_audit_log(bigint, text) IS
    'recomputes the audit log''s hash chain and finds the first edit, gap, insertion or reordering; a seq and hash written down elsewhere show a cut tail and a log made anew';

CREATE FUNCTION colcrypt.audit_status(
        OUT ring_events int, OUT waiting int, OUT posted bigint, OUT to_server_log bigint)
    AS 'MODULE_PATHNAME', 'colcrypt_audit_status' LANGUAGE c VOLATILE PARALLEL RESTRICTED;
REVOKE ALL ON FUNCTION colcrypt.audit_status() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION colcrypt.audit_status() TO pg_monitor;
COMMENT ON FUNCTION colcrypt.audit_status() IS
    'events on their way into the audit log through shared memory, and how many went to the server log instead';

CREATE FUNCTION colcrypt.mark_honeytoken(value colcrypt.ciphertext, note text DEFAULT NULL) RETURNS void
    AS 'MODULE_PATHNAME', 'colcrypt_mark_honeytoken' LANGUAGE c VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.mark_honeytoken(colcrypt.ciphertext, text) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.mark_honeytoken(colcrypt.ciphertext, text) IS
    'raises an alarm in the audit log whenever this value is decrypted, which whoever does so cannot tell';

CREATE FUNCTION colcrypt.unmark_honeytoken(value colcrypt.ciphertext) RETURNS void
    AS 'MODULE_PATHNAME', 'colcrypt_unmark_honeytoken' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.unmark_honeytoken(colcrypt.ciphertext) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.unmark_honeytoken(colcrypt.ciphertext) IS
    'takes the mark off a value, whatever it was re-encrypted from or to';

-- How often keys are used, by whom; cryptoperiods, limits, and the schedule of rotations.
-- Counting changes no key: its tables have no trigger that makes sessions look at the catalog again.

CREATE TABLE colcrypt.usage_count (
    minute timestamptz NOT NULL,
    key_id bigint NOT NULL,
    version int NOT NULL,
    -- By name: the record outlives the role.
    role text NOT NULL,
    encryptions bigint NOT NULL,
    decryptions bigint NOT NULL,
    -- Older than colcrypt.usage_days: the whole day (of UTC) that begins with this minute.
    whole_day boolean NOT NULL DEFAULT false,
    PRIMARY KEY (minute, key_id, version, role)
);
CREATE INDEX usage_count_minutes ON colcrypt.usage_count (minute) WHERE NOT whole_day;
COMMENT ON TABLE colcrypt.usage_count IS 'who used which key version how often, by minute, later by day; see the view usage';

-- Not dumped: tries belong to this database.
CREATE TABLE colcrypt.rotation_try (
    key_id bigint PRIMARY KEY,
    tries int NOT NULL,
    last_error text NOT NULL,
    retry_at timestamptz NOT NULL
);
COMMENT ON TABLE colcrypt.rotation_try IS 'scheduled rotations that failed, until they succeed; see the view rotation_schedule';

SELECT pg_catalog.pg_extension_config_dump('colcrypt.version_usage', '');
SELECT pg_catalog.pg_extension_config_dump('colcrypt.usage_count', '');

CREATE FUNCTION colcrypt.set_cryptoperiods(key text, originator interval, recipient interval) RETURNS void
    AS 'MODULE_PATHNAME', 'colcrypt_set_cryptoperiods' LANGUAGE c VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.set_cryptoperiods(text, interval, interval) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.set_cryptoperiods(text, interval, interval) IS
    'how long a version of the key may encrypt after its activation, and how long after that it may decrypt; null is without end';

CREATE FUNCTION colcrypt.set_rotation_interval(key text, every interval) RETURNS void
    AS 'MODULE_PATHNAME', 'colcrypt_set_rotation_interval' LANGUAGE c VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.set_rotation_interval(text, interval) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.set_rotation_interval(text, interval) IS
    'how often the worker rotates the key, at colcrypt.rotation_time; null is only when its cryptoperiod or a usage limit asks for it';

CREATE FUNCTION colcrypt.set_usage_bound(key text, bound bigint) RETURNS void
    AS 'MODULE_PATHNAME', 'colcrypt_set_usage_bound' LANGUAGE c VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.set_usage_bound(text, bigint) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.set_usage_bound(text, bigint) IS
    'how many values a version of the key may encrypt, of which colcrypt.usage_refuse percent are allowed; null is the suite''s bound, which is the highest';

CREATE FUNCTION colcrypt.set_compression(key text, method text) RETURNS void
    AS 'MODULE_PATHNAME', 'colcrypt_set_compression' LANGUAGE c VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION colcrypt.set_compression(text, text) FROM PUBLIC;
COMMENT ON FUNCTION colcrypt.set_compression(text, text) IS
    'whether values written from now on are compressed before encryption, by lz4, or not, null; their length then tells something of their content, see docs/security.md';

CREATE FUNCTION colcrypt.unflushed_uses(
        OUT key_id bigint, OUT version int, OUT role oid, OUT encryptions bigint, OUT decryptions bigint, OUT since timestamptz)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'colcrypt_unflushed_uses' LANGUAGE c VOLATILE PARALLEL RESTRICTED;
REVOKE ALL ON FUNCTION colcrypt.unflushed_uses() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION colcrypt.unflushed_uses() TO pg_monitor;
COMMENT ON FUNCTION colcrypt.unflushed_uses() IS
    'uses of keys by finished transactions that shared memory holds until the next flush; those that had no place of their own have key 0 and no role';

CREATE FUNCTION colcrypt.unflushed_versions(
        OUT key_id bigint, OUT version int, OUT encryptions bigint, OUT reserved bigint)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'colcrypt_unflushed_versions' LANGUAGE c VOLATILE PARALLEL RESTRICTED;
REVOKE ALL ON FUNCTION colcrypt.unflushed_versions() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION colcrypt.unflushed_versions() TO pg_monitor;
COMMENT ON FUNCTION colcrypt.unflushed_versions() IS
    'encryptions that shared memory holds until the next flush, and those that transactions under way have reserved';

CREATE FUNCTION colcrypt.suite_bound(suite text) RETURNS bigint
    AS 'MODULE_PATHNAME', 'colcrypt_suite_bound' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
REVOKE ALL ON FUNCTION colcrypt.suite_bound(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION colcrypt.suite_bound(text) TO pg_monitor;
COMMENT ON FUNCTION colcrypt.suite_bound(text) IS
    'how many values one version of a key of this suite may encrypt';

CREATE VIEW colcrypt.usage AS
    SELECT coalesce(k.name, CASE u.key_id WHEN 0 THEN '(other)' ELSE '(dropped)' END) AS key,
           u.version, u.role, u.day,
           sum(u.encryptions)::bigint AS encryptions, sum(u.decryptions)::bigint AS decryptions
    FROM (SELECT c.key_id, c.version, c.role, (c.minute AT TIME ZONE 'UTC')::date AS day, c.encryptions, c.decryptions
          FROM colcrypt.usage_count c
          UNION ALL
          SELECT f.key_id, f.version,
                 CASE WHEN f.role IS NULL THEN '(other)' ELSE coalesce(r.rolname, format('(dropped role %s)', f.role)) END,
                 (f.since AT TIME ZONE 'UTC')::date, f.encryptions, f.decryptions
          FROM colcrypt.unflushed_uses() f LEFT JOIN pg_catalog.pg_roles r ON r.oid = f.role) u
    LEFT JOIN colcrypt.key k USING (key_id)
    GROUP BY 1, 2, 3, 4;
COMMENT ON VIEW colcrypt.usage IS
    'who used which key version how often on which day (of UTC), finished transactions only; a value re-encrypted counts as encrypted, one whose plaintext was given out as decrypted';
GRANT SELECT ON colcrypt.usage TO pg_monitor;

CREATE VIEW colcrypt.key_usage AS
    -- Once, not once a key: it goes through all of them in shared memory.
    WITH unflushed AS MATERIALIZED (SELECT * FROM colcrypt.unflushed_versions())
    SELECT n.key, n.version, n.is_current, n.encryptions, n.reserved, n.bound,
           round(100 * (n.encryptions + n.reserved)::numeric / n.bound, 2) AS percent,
           CASE WHEN n.encryptions + n.reserved >= floor(n.bound::numeric * current_setting('colcrypt.usage_refuse')::int / 100) THEN 'refuse'
                WHEN n.encryptions + n.reserved >= floor(n.bound::numeric * current_setting('colcrypt.usage_rotate')::int / 100) THEN 'rotate'
                WHEN n.encryptions + n.reserved >= floor(n.bound::numeric * current_setting('colcrypt.usage_warn')::int / 100) THEN 'warn'
                ELSE 'ok' END AS state
    FROM (SELECT k.name AS key, v.version, v.version = k.current_version AS is_current,
                 coalesce(u.encryptions, 0) + coalesce(f.encryptions, 0) AS encryptions,
                 coalesce(f.reserved, 0) AS reserved,
                 least(colcrypt.suite_bound(k.suite), k.usage_bound) AS bound
          FROM colcrypt.key k
          JOIN colcrypt.key_version v USING (key_id)
          LEFT JOIN colcrypt.version_usage u USING (key_id, version)
          LEFT JOIN unflushed f USING (key_id, version)) n;
COMMENT ON VIEW colcrypt.key_usage IS
    'how many values each key version has encrypted of how many it may; state is ok, warn, rotate (the worker does) or refuse';
GRANT SELECT ON colcrypt.key_usage TO pg_monitor;

-- The days around a moment on which the window for rotations opens and closes.
CREATE FUNCTION colcrypt.rotation_windows(around timestamptz, OUT opens timestamptz, OUT closes timestamptz)
    RETURNS SETOF record
    LANGUAGE sql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT w.opens, w.opens + CASE WHEN t.until > t.at THEN t.until - t.at ELSE t.until - t.at + '24 hours' END
        FROM (SELECT split_part(s, '-', 1)::time AS at,
                     coalesce(nullif(split_part(s, '-', 2), '')::time, split_part(s, '-', 1)::time + '1 hour') AS until
              FROM trim(current_setting('colcrypt.rotation_time')) s WHERE s <> '') t,
             generate_series(-1, 1) d,
             LATERAL (SELECT ((around AT TIME ZONE current_setting('log_timezone'))::date + d + t.at)
                             AT TIME ZONE current_setting('log_timezone') AS opens) w
        ORDER BY 1
    $$;
REVOKE ALL ON FUNCTION colcrypt.rotation_windows(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION colcrypt.rotation_windows(timestamptz) TO pg_monitor;
COMMENT ON FUNCTION colcrypt.rotation_windows(timestamptz) IS
    'when colcrypt.rotation_time is, on the days around a moment; no row when it is any time';

CREATE FUNCTION colcrypt.rotation_time_from(moment timestamptz) RETURNS timestamptz
    LANGUAGE sql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT coalesce((SELECT greatest(w.opens, moment) FROM colcrypt.rotation_windows(moment) w
                         WHERE w.closes > moment ORDER BY w.opens LIMIT 1), moment)
    $$;
REVOKE ALL ON FUNCTION colcrypt.rotation_time_from(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION colcrypt.rotation_time_from(timestamptz) TO pg_monitor;
COMMENT ON FUNCTION colcrypt.rotation_time_from(timestamptz) IS 'the first moment from this one on at which scheduled rotations run';

CREATE FUNCTION colcrypt.rotation_time_until(moment timestamptz) RETURNS timestamptz
    LANGUAGE sql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT coalesce((SELECT CASE WHEN w.closes > moment THEN moment ELSE w.opens END
                         FROM colcrypt.rotation_windows(moment) w
                         WHERE w.opens <= moment ORDER BY w.opens DESC LIMIT 1), moment)
    $$;
REVOKE ALL ON FUNCTION colcrypt.rotation_time_until(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION colcrypt.rotation_time_until(timestamptz) TO pg_monitor;
COMMENT ON FUNCTION colcrypt.rotation_time_until(timestamptz) IS
    'this moment if scheduled rotations run then, or else when they last began to';

CREATE VIEW colcrypt.rotation_schedule AS
    SELECT n.key, n.version, n.activated_at, n.next_rotation_at, n.why,
           n.due_at <= now() AS overdue,
           t.last_error, t.tries, t.retry_at
    FROM (
        SELECT k.key_id, k.name AS key, k.current_version AS version, a.activated_at,
               -- Whatever is asked, never more often than once a second.
               CASE WHEN least(r.at, p.at, u.at) IS NOT NULL
                    THEN greatest(least(r.at, p.at, u.at), a.activated_at + interval '1 second') END AS next_rotation_at,
               least(r.due, p.due, u.at) AS due_at,
               CASE least(r.at, p.at, u.at) WHEN u.at THEN 'usage limit' WHEN r.at THEN 'rotation interval'
                    WHEN p.at THEN 'originator-usage period' END AS why
        FROM colcrypt.key k
        JOIN colcrypt.key_version v ON v.key_id = k.key_id AND v.version = k.current_version AND v.state = 'active'
        JOIN colcrypt.key_usage c ON c.key = k.name AND c.version = k.current_version,
        LATERAL (SELECT coalesce(v.activated_at, v.created_at) AS activated_at) a,
        -- An interval that is over waits for the next time of day.
        LATERAL (SELECT colcrypt.rotation_time_from(greatest(a.activated_at + k.rotation_interval, now())) AS at,
                        a.activated_at + k.rotation_interval AS due
                 WHERE k.rotation_interval IS NOT NULL
                 UNION ALL SELECT NULL, NULL WHERE k.rotation_interval IS NULL) r,
        -- A version must be relieved before its period ends: a tenth of it before, at most a day.
        LATERAL (SELECT a.activated_at + k.originator_usage_period
                        - least(k.originator_usage_period / 10, interval '1 day') AS latest) l,
        LATERAL (SELECT colcrypt.rotation_time_until(l.latest) AS best) b,
        LATERAL (SELECT l.latest AS due,
                        -- The last time of day before that, unless it is over or was none; the period
                        -- outranks the time of day.
                        CASE WHEN l.latest IS NULL THEN NULL
                             WHEN b.best > greatest(a.activated_at, now()) THEN b.best
                             ELSE least(CASE WHEN b.best > a.activated_at THEN colcrypt.rotation_time_from(now()) END,
                                        greatest(l.latest, now())) END AS at) p,
        LATERAL (SELECT CASE WHEN c.state IN ('rotate', 'refuse') THEN now() END AS at) u
    ) n
    LEFT JOIN colcrypt.rotation_try t USING (key_id);
COMMENT ON VIEW colcrypt.rotation_schedule IS
    'which active key the worker will rotate when and why, and what went wrong when it tried; a retry waits for retry_at';
GRANT SELECT ON colcrypt.rotation_schedule TO pg_monitor;

