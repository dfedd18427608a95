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
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE colcrypt.keyring IS 'keyrings: each has one key encryption key (KEK), versioned';

CREATE TABLE colcrypt.kek_version (
    keyring_id uuid NOT NULL,
    version int NOT NULL CHECK (version > 0),
    provider_id uuid NOT NULL,
    root_key text NOT NULL,
    root_key_version text NOT NULL,
    wrapped bytea NOT NULL,
    kcv text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (keyring_id, version)
);
COMMENT ON TABLE colcrypt.kek_version IS 'versions of key encryption keys, wrapped by a root key';

CREATE TABLE colcrypt.key (
    key_id bigint PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE CHECK (octet_length(name) BETWEEN 1 AND 200),
    keyring_id uuid NOT NULL,
    suite text NOT NULL,
    current_version int NOT NULL CHECK (current_version > 0),
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
    deactivated_at timestamptz,
    PRIMARY KEY (key_id, version)
);
COMMENT ON TABLE colcrypt.key_version IS 'versions of data encryption keys (DEKs), wrapped by a key encryption key';

CREATE TABLE colcrypt.key_grant (
    key_id bigint NOT NULL,
    grantee regrole NOT NULL,
    can_encrypt boolean NOT NULL,
    can_decrypt boolean NOT NULL,
    PRIMARY KEY (key_id, grantee)
);
COMMENT ON TABLE colcrypt.key_grant IS 'which roles may encrypt or decrypt with a key; role 0 is PUBLIC';

CREATE TABLE colcrypt.protected_column (
    relation regclass NOT NULL,
    attribute name NOT NULL,
    key_id bigint NOT NULL,
    context text,
    registered_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (relation, attribute)
);
COMMENT ON TABLE colcrypt.protected_column IS 'encrypted columns that rotation keeps on the newest key version';

CREATE TABLE colcrypt.job (
    job_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation regclass NOT NULL,
    attribute name NOT NULL,
    key_id bigint NOT NULL,
    target_version int NOT NULL,
    phase text NOT NULL DEFAULT 'queued',
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
    last_error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    finished_at timestamptz,
    -- Failed tries in a row, and when the next one is due.
    tries int NOT NULL DEFAULT 0,
    retry_at timestamptz
);
CREATE UNIQUE INDEX job_open ON colcrypt.job (relation, attribute) WHERE finished_at IS NULL;
COMMENT ON TABLE colcrypt.job IS 're-encryption jobs; not dumped, since a restored database starts anew';

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
    FOREACH t IN ARRAY ARRAY['provider', 'keyring', 'kek_version', 'key', 'key_version', 'key_grant'] LOOP
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
