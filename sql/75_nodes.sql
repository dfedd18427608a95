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
                       NULL::boolean AS can_create, g.can_manage
                FROM colcrypt.key_grant g LEFT JOIN pg_roles r ON r.oid = g.grantee WHERE g.grantee::oid = 0 OR r.oid IS NOT NULL
                UNION ALL
                SELECT coalesce(r.rolname, 'PUBLIC'), NULL, NULL, NULL, g.keyring_id, g.can_create, g.can_manage
                FROM colcrypt.keyring_grant g LEFT JOIN pg_roles r ON r.oid = g.grantee WHERE g.grantee::oid = 0 OR r.oid IS NOT NULL
                UNION ALL
                SELECT w.grantee, w.key_id, w.can_encrypt, w.can_decrypt, w.keyring_id, w.can_create, w.can_manage FROM colcrypt.restored_grant w) g),
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
