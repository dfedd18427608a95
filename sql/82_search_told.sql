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
