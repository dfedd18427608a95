-- Servers that share keys: one makes and changes them, the others follow.

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

-- Not dumped: a copy of a database is another server than the one it was made of.
CREATE TABLE colcrypt.node_state (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    -- The primary that the key catalog is of, the number of its last change that was exported or imported, and the digest of that.
    origin uuid NOT NULL,
    epoch bigint NOT NULL CHECK (epoch > 0),
    digest text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Digests of its parts as an import left them; see catalog_digests.
    parts jsonb
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
