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
    created_at timestamptz NOT NULL DEFAULT now(),
    -- How long a version of the key encryption key wraps keys until the worker makes another; null is without end.
    kek_cryptoperiod interval DEFAULT '90 days' CHECK (kek_cryptoperiod >= '1 hour'),
    -- How often the worker takes the root keys' newest versions; null is never by itself.
    root_interval interval CHECK (root_interval >= '1 hour')
);
COMMENT ON TABLE colcrypt.keyring IS 'keyrings: each has one key encryption key (KEK), versioned';

CREATE TABLE colcrypt.kek_version (
    keyring_id uuid NOT NULL,
    version int NOT NULL CHECK (version > 0),
    kcv text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- When another took its place; when it was marked as compromised, which is never taken back.
    deactivated_at timestamptz,
    compromised_at timestamptz,
    -- When the last key was wrapped anew that was under it; when it is to be destroyed for that; when it was.
    emptied_at timestamptz,
    destroy_at timestamptz,
    destroyed_at timestamptz,
    -- Who made it, or marked it, and why. Roles by name: the record outlives them.
    changed_by text NOT NULL DEFAULT session_user,
    reason text,
    -- Key versions that it wrapped and that are no longer in the catalog. All others are counted there: a counter of each
    -- wrapping would have those who make keys wait for each other.
    wrappings_of_dropped bigint NOT NULL DEFAULT 0,
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
    wrapped_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (keyring_id, version, preference),
    UNIQUE (keyring_id, version, provider_id, root_key)
)
-- A destroyed version leaves dead rows with wrapped keys behind: autovacuum is not to wait for more.
WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
COMMENT ON TABLE colcrypt.kek_copy IS 'key encryption keys, wrapped by each of their keyring''s root keys';

CREATE TABLE colcrypt.key (
    key_id bigint PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE CHECK (octet_length(name) BETWEEN 1 AND 200),
    keyring_id uuid NOT NULL,
    suite text NOT NULL,
    current_version int NOT NULL CHECK (current_version > 0),
    -- Cryptoperiods (SP 800-57 part 1 revision 5, 5.3.5), counted from a version's activation: how long it may
    -- encrypt, and how long after that it may decrypt; null is without end.
    originator_usage_period interval DEFAULT '1 year' CHECK (originator_usage_period > '0'),
    recipient_usage_period interval CHECK (recipient_usage_period >= '0'),
    -- How often the worker rotates by itself; null is only when the cryptoperiod or a limit asks for it.
    rotation_interval interval CHECK (rotation_interval > '0'),
    -- How many values a version may encrypt, where an administrator wants fewer than the suite allows.
    usage_bound bigint CHECK (usage_bound >= 100 AND usage_bound <= CASE suite WHEN 'aes-256-gcm' THEN 1::bigint << 32 WHEN 'xaes-256-gcm' THEN 1::bigint << 56 ELSE 1::bigint << 62 END),
    -- What is done to plaintexts before encryption; null is nothing.
    compression text CHECK (compression IN ('lz4')),
    created_at timestamptz NOT NULL DEFAULT now(),
    -- Of a search key: so many look-ups of one role in so much time; null is no limit.
    search_limit int CHECK (search_limit > 0),
    search_limit_per interval,
    CONSTRAINT key_search_limit CHECK (num_nulls(search_limit, search_limit_per) IN (0, 2))
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
    -- The version of the key encryption key that wrapped it first: from there to kek_version it was under each.
    first_kek_version int NOT NULL DEFAULT 1,
    -- Whether it is destroyed, or will be, although rows need it: their values are lost on purpose.
    shreds boolean NOT NULL DEFAULT false,
    -- A value of known text under this version, which checks and drills decrypt. Null in versions of a release that made none.
    canary bytea,
    -- When it was prepared: from then on it decrypts, while it is pre-active, too. What another server writes under it is read here.
    prepared_at timestamptz,
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
    -- Of search keys: to make the terms by which values are found.
    can_search boolean NOT NULL DEFAULT false,
    PRIMARY KEY (key_id, grantee)
);
COMMENT ON TABLE colcrypt.key_grant IS 'which roles may encrypt with, decrypt with, search by or manage a key; role 0 is PUBLIC';

CREATE TABLE colcrypt.keyring_grant (
    keyring_id uuid NOT NULL,
    grantee regrole NOT NULL,
    can_create boolean NOT NULL,
    can_manage boolean NOT NULL,
    PRIMARY KEY (keyring_id, grantee)
);
COMMENT ON TABLE colcrypt.keyring_grant IS 'which roles may make keys in a keyring or manage it; role 0 is PUBLIC';

-- Not by number: in another cluster that is another role, and a role that is missing there would stop the whole restore. What a dump
-- takes along of key_grant and keyring_grant are rows of this table, by the roles' names; here they become grants again, one by one, and
-- those of roles that there are none of wait.
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

CREATE TABLE colcrypt.protected_column (
    relation regclass NOT NULL,
    attribute name NOT NULL,
    -- Null where each row has a key of its own.
    key_id bigint,
    context text,
    -- Which roles an access view shows the plaintext to, by name; null is whoever may decrypt with the key.
    readers text[],
    plaintext_type regtype NOT NULL DEFAULT 'text',
    -- That type with its length, precision and collation, as SQL, where an access view has to show it so.
    declared text,
    registered_at timestamptz NOT NULL DEFAULT now(),
    -- The label in the context, where that is a call of place_context: no two columns have the same.
    label text COLLATE "C" UNIQUE,
    -- While values are rebound, the context that they get; until the end of that the other opens both kinds.
    becomes text,
    -- Whether a trigger on the table refuses what is no value of the column's.
    enforce boolean NOT NULL DEFAULT false,
    -- Whether a rotation moves the values that are there.
    rotation text NOT NULL DEFAULT 'reencrypt' CHECK (rotation IN ('reencrypt', 'expire', 'keep')),
    -- Whether that trigger of the table's binds a value anew when a column changes which it is bound to.
    follows boolean NOT NULL DEFAULT false,
    -- The name of a row's key, of its other columns, and the keyring whose keys these are.
    key_expression text,
    keyring_id uuid,
    PRIMARY KEY (relation, attribute),
    CONSTRAINT protected_column_key CHECK (num_nonnulls(key_id, key_expression) = 1 AND num_nonnulls(key_expression, keyring_id) <> 1)
);
COMMENT ON TABLE colcrypt.protected_column IS 'encrypted columns that rotation keeps on the newest key version';

-- A value names its type, and types are renamed and moved to other schemas: what each was called before. Written by the server's hook
-- wherever a type or a schema is altered.
CREATE TABLE colcrypt.former_type_name (
    name text COLLATE "C" NOT NULL,
    type regtype NOT NULL,
    PRIMARY KEY (name, type)
);
COMMENT ON TABLE colcrypt.former_type_name IS 'what types were called before they were renamed or moved, since values name their types';

-- A value of an enum is its label, and labels are renamed: what each is called now. Written where an enum is altered.
CREATE TABLE colcrypt.former_enum_label (
    former text COLLATE "C" NOT NULL,
    type regtype NOT NULL,
    label text COLLATE "C" NOT NULL,
    PRIMARY KEY (former, type, label)
);
COMMENT ON TABLE colcrypt.former_enum_label IS 'what labels of enums were called before they were renamed, since values are written as labels';

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
    key_id bigint,
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
    -- these virtual transactions, and of those that were prepared by the time these were over (settle_prepared).
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
    retry_at timestamptz,
    -- Transaction ids, as text; null until it is known which they are.
    settle_prepared text[],
    -- Whether values are bound to another context: see rebind_column. What a verification found that are not.
    rebinds boolean NOT NULL DEFAULT false,
    strays bigint NOT NULL DEFAULT 0,
    -- The label that values are bound to when they go to another key or context, and whether others go too.
    label text,
    accept_unplaced boolean NOT NULL DEFAULT false,
    -- Whether a worker is at it that has recorded nothing yet, and how many such workers in a row died.
    taken boolean NOT NULL DEFAULT false,
    deaths int NOT NULL DEFAULT 0,
    -- Whether values are only opened: see verify_column.
    verifies boolean NOT NULL DEFAULT false,
    -- Whether it is about a column whose rows have keys of their own: about one key, and then there may be one job for
    -- each, or about all of this keyring.
    by_row boolean NOT NULL DEFAULT false,
    keyring_id uuid,
    CONSTRAINT job_key CHECK (num_nonnulls(key_id, keyring_id) = 1)
);
CREATE UNIQUE INDEX job_open ON colcrypt.job (relation, attribute) WHERE finished_at IS NULL AND NOT verifies AND NOT by_row;
CREATE UNIQUE INDEX job_open_by_row ON colcrypt.job (relation, attribute, key_id) WHERE finished_at IS NULL AND by_row;
CREATE UNIQUE INDEX job_verifying ON colcrypt.job (relation, attribute) WHERE finished_at IS NULL AND verifies;
CREATE UNIQUE INDEX job_rebinding ON colcrypt.job (relation, attribute) WHERE finished_at IS NULL AND rebinds;
COMMENT ON TABLE colcrypt.job IS 'jobs that re-encrypt or verify columns; not dumped, since a restored database starts without any';

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
    -- Whether retry_job asked for it, and it was not tried since.
    again boolean NOT NULL DEFAULT false,
    PRIMARY KEY (job_id, relation, row_ctid)
);
COMMENT ON TABLE colcrypt.job_error IS
    'rows that a job could not move, or whose value does not open: where each was then, the key and version it is under, and why; retry_job takes these again';
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
    -- What makes sure that no value got into those tables since but by the trigger.
    origins text[],
    -- The transaction that dropped the old column: older row versions still hold it.
    swapped_in xid8,
    swapped_at timestamptz,
    swapped_lsn pg_lsn,
    -- As of a job.
    label text,
    accept_unplaced boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE colcrypt.migration IS
    'what the jobs of encrypt_column and decrypt_column have to do; not dumped, as jobs are not';

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
-- sessions on standbys when replay gets there. Logical replication writes past triggers of statements, but for TRUNCATE: where
-- it does, those of rows tell.
CREATE FUNCTION colcrypt.catalog_changed() RETURNS trigger
    AS 'MODULE_PATHNAME', 'colcrypt_catalog_changed' LANGUAGE c;
COMMENT ON FUNCTION colcrypt.catalog_changed() IS 'trigger: makes every session look at the key catalog again';

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['provider', 'keyring', 'kek_version', 'kek_copy', 'key', 'key_version', 'key_grant', 'keyring_grant', 'protected_column'] LOOP
        EXECUTE format('CREATE TRIGGER catalog_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON colcrypt.%I '
                       'FOR EACH STATEMENT EXECUTE FUNCTION colcrypt.catalog_changed()', t);
        EXECUTE format('ALTER TABLE colcrypt.%I ENABLE ALWAYS TRIGGER catalog_changed', t);
        -- Before, too: what the statement has done so far, and may take back, is nobody's knowledge.
        EXECUTE format('CREATE TRIGGER catalog_changes BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON colcrypt.%I '
                       'FOR EACH STATEMENT EXECUTE FUNCTION colcrypt.catalog_changed()', t);
        EXECUTE format('ALTER TABLE colcrypt.%I ENABLE ALWAYS TRIGGER catalog_changes', t);
        EXECUTE format('CREATE TRIGGER catalog_changed_row AFTER INSERT OR UPDATE OR DELETE ON colcrypt.%I '
                       'FOR EACH ROW EXECUTE FUNCTION colcrypt.catalog_changed()', t);
        EXECUTE format('ALTER TABLE colcrypt.%I ENABLE REPLICA TRIGGER catalog_changed_row', t);
        PERFORM pg_catalog.pg_extension_config_dump(format('colcrypt.%I', t)::regclass, '');
    END LOOP;
    -- Of the two tables of grants nothing but what they say by name.
    PERFORM pg_catalog.pg_extension_config_dump('colcrypt.key_grant', 'WHERE false');
    PERFORM pg_catalog.pg_extension_config_dump('colcrypt.keyring_grant', 'WHERE false');
    PERFORM pg_catalog.pg_extension_config_dump('colcrypt.restored_grant', $filter$WHERE true
        UNION ALL SELECT coalesce(r.rolname, 'PUBLIC'), g.key_id, g.can_encrypt, g.can_decrypt, NULL, NULL, g.can_manage, g.can_search
        FROM colcrypt.key_grant g LEFT JOIN pg_catalog.pg_roles r ON r.oid = g.grantee WHERE g.grantee::oid = 0 OR r.oid IS NOT NULL
        UNION ALL SELECT coalesce(r.rolname, 'PUBLIC'), NULL, NULL, NULL, g.keyring_id, g.can_create, g.can_manage, NULL
        FROM colcrypt.keyring_grant g LEFT JOIN pg_catalog.pg_roles r ON r.oid = g.grantee WHERE g.grantee::oid = 0 OR r.oid IS NOT NULL$filter$);
    -- What was dropped leaves a bare number behind, which elsewhere may be another table's.
    PERFORM pg_catalog.pg_extension_config_dump('colcrypt.former_type_name',
        'WHERE EXISTS (SELECT FROM pg_catalog.pg_type t WHERE t.oid = type)');
    PERFORM pg_catalog.pg_extension_config_dump('colcrypt.former_enum_label',
        'WHERE EXISTS (SELECT FROM pg_catalog.pg_type t WHERE t.oid = type)');
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
-- Monitoring sees which columns are encrypted and where keys come from: no secret is in a provider's settings.
GRANT SELECT ON colcrypt.protected_column, colcrypt.provider TO pg_monitor;
-- Names, periods and rules; the keys themselves are in other tables.
GRANT SELECT ON colcrypt.key, colcrypt.keyring TO pg_monitor;
