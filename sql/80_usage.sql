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

CREATE FUNCTION colcrypt.set_cryptoperiods(key text, originator interval, recipient interval) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_set_cryptoperiods' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.set_cryptoperiods(text, interval, interval) IS
    'how long a version of the key may encrypt after its activation, and how long after that it may decrypt; null is without end; on a four-eyes keyring a longer one waits; says set';

CREATE FUNCTION colcrypt.set_rotation_interval(key text, every interval) RETURNS void
    AS 'MODULE_PATHNAME', 'colcrypt_set_rotation_interval' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.set_rotation_interval(text, interval) IS
    'how often the worker rotates the key, at colcrypt.rotation_time; null is only when its cryptoperiod or a usage limit asks for it';

CREATE FUNCTION colcrypt.set_usage_bound(key text, bound bigint) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_set_usage_bound' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.set_usage_bound(text, bigint) IS
    'how many values a version of the key may encrypt, of which colcrypt.usage_refuse percent are allowed; null is the suite''s bound, which is the highest; on a four-eyes keyring a higher one waits; says set';

CREATE FUNCTION colcrypt.set_compression(key text, method text) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_set_compression' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.set_compression(text, text) IS
    'whether values written from now on are compressed before encryption, by lz4, or not, null; their length then tells something of their content, see docs/security.md, so on a four-eyes keyring it waits; says set';

CREATE FUNCTION colcrypt.unflushed_uses(
        OUT key_id bigint, OUT version int, OUT role oid, OUT encryptions bigint, OUT decryptions bigint, OUT since timestamptz)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'colcrypt_unflushed_uses' LANGUAGE c VOLATILE PARALLEL RESTRICTED;
GRANT EXECUTE ON FUNCTION colcrypt.unflushed_uses() TO pg_monitor;
COMMENT ON FUNCTION colcrypt.unflushed_uses() IS
    'uses of keys by finished transactions that shared memory holds until the next flush; those that had no place of their own have key 0 and no role';

CREATE FUNCTION colcrypt.unflushed_versions(
        OUT key_id bigint, OUT version int, OUT encryptions bigint, OUT reserved bigint)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'colcrypt_unflushed_versions' LANGUAGE c VOLATILE PARALLEL RESTRICTED;
GRANT EXECUTE ON FUNCTION colcrypt.unflushed_versions() TO pg_monitor;
COMMENT ON FUNCTION colcrypt.unflushed_versions() IS
    'encryptions that shared memory holds until the next flush, and those that transactions under way have reserved';

CREATE FUNCTION colcrypt.suite_bound(suite text) RETURNS bigint
    AS 'MODULE_PATHNAME', 'colcrypt_suite_bound' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
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
    WITH unflushed AS MATERIALIZED (SELECT * FROM colcrypt.unflushed_versions()),
    others AS MATERIALIZED (SELECT o.key_id, o.version, sum(o.encryptions)::bigint AS encryptions FROM colcrypt.node_usage o GROUP BY 1, 2)
    SELECT n.key, n.version, n.is_current, n.encryptions, n.reserved, n.bound,
           round(100 * p.part, 2) AS percent,
           CASE WHEN n.encryptions + n.reserved >= floor(n.bound::numeric * s.refuse / 100)
                  OR p.total >= floor(n.whole::numeric * s.refuse / 100) THEN 'refuse'
                WHEN n.encryptions + n.reserved >= floor(n.bound::numeric * s.rotate / 100) OR p.total >= floor(n.whole::numeric * s.rotate / 100) THEN 'rotate'
                WHEN n.encryptions + n.reserved >= floor(n.bound::numeric * s.warn / 100) OR p.total >= floor(n.whole::numeric * s.warn / 100) THEN 'warn'
                ELSE 'ok' END AS state,
           n.elsewhere
    FROM (SELECT current_setting('colcrypt.usage_refuse')::int AS refuse, current_setting('colcrypt.usage_rotate')::int AS rotate,
                 current_setting('colcrypt.usage_warn')::int AS warn, current_setting('colcrypt.usage_nodes')::int AS nodes OFFSET 0) s
    CROSS JOIN LATERAL (
          SELECT k.name AS key, v.version, v.version = k.current_version AS is_current,
                 coalesce(u.encryptions, 0) + coalesce(f.encryptions, 0) AS encryptions,
                 coalesce(f.reserved, 0) AS reserved,
                 -- This server's part of the bound, and the whole.
                 greatest(least(colcrypt.suite_bound(k.suite), k.usage_bound) / s.nodes, 1) AS bound,
                 least(colcrypt.suite_bound(k.suite), k.usage_bound) AS whole,
                 coalesce(o.encryptions, 0) AS elsewhere
          FROM colcrypt.key k
          JOIN colcrypt.key_version v USING (key_id)
          LEFT JOIN colcrypt.version_usage u USING (key_id, version)
          LEFT JOIN unflushed f USING (key_id, version)
          LEFT JOIN others o USING (key_id, version)) n
    CROSS JOIN LATERAL (SELECT n.encryptions + n.reserved + n.elsewhere AS total,
                               greatest((n.encryptions + n.reserved)::numeric / n.bound,
                                        (n.encryptions + n.reserved + n.elsewhere)::numeric / n.whole) AS part) p;
COMMENT ON VIEW colcrypt.key_usage IS
    'how many values each key version has encrypted here of how many it may here (bound, a part of the whole where colcrypt.usage_nodes is more than 1), and how many other servers reported (elsewhere), which count against the whole; state is ok, warn, rotate (the worker does) or refuse';
GRANT SELECT ON colcrypt.key_usage TO pg_monitor;

CREATE FUNCTION colcrypt.clock_ahead() RETURNS interval
    AS 'MODULE_PATHNAME', 'colcrypt_clock_ahead' LANGUAGE c VOLATILE PARALLEL SAFE;
GRANT EXECUTE ON FUNCTION colcrypt.clock_ahead() TO pg_monitor;
COMMENT ON FUNCTION colcrypt.clock_ahead() IS
    'how far the server''s clock was set ahead of the time by which keys'' periods and schedules go on, behind below zero; 0 unless it was set';

-- The days around a moment on which the window for rotations opens and closes. Without settings of its own, it becomes part
-- of the query that asks; its body was bound to the server's functions when it was made.
CREATE FUNCTION colcrypt.rotation_windows(around timestamptz, OUT opens timestamptz, OUT closes timestamptz)
    RETURNS SETOF record
    LANGUAGE sql STABLE PARALLEL SAFE
    BEGIN ATOMIC
        SELECT w.opens, w.opens + CASE WHEN t.until > t.at THEN t.until - t.at ELSE t.until - t.at + interval '24 hours' END
        FROM (SELECT split_part(s, '-', 1)::time AS at,
                     coalesce(nullif(split_part(s, '-', 2), '')::time, split_part(s, '-', 1)::time + interval '1 hour') AS until
              FROM trim(current_setting('colcrypt.rotation_time')) s WHERE s <> '') t,
             generate_series(-1, 1) d,
             LATERAL (SELECT ((around AT TIME ZONE current_setting('log_timezone'))::date + d + t.at)
                             AT TIME ZONE current_setting('log_timezone') AS opens) w;
    END;
GRANT EXECUTE ON FUNCTION colcrypt.rotation_windows(timestamptz) TO pg_monitor;
COMMENT ON FUNCTION colcrypt.rotation_windows(timestamptz) IS
    'when colcrypt.rotation_time is, on the days around a moment; no row when it is any time';

CREATE FUNCTION colcrypt.rotation_time_from(moment timestamptz) RETURNS timestamptz
    LANGUAGE sql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT coalesce((SELECT greatest(w.opens, moment) FROM colcrypt.rotation_windows(moment) w
                         WHERE w.closes > moment ORDER BY w.opens LIMIT 1), moment)
    $$;
GRANT EXECUTE ON FUNCTION colcrypt.rotation_time_from(timestamptz) TO pg_monitor;
COMMENT ON FUNCTION colcrypt.rotation_time_from(timestamptz) IS 'the first moment from this one on at which scheduled rotations run';

CREATE FUNCTION colcrypt.rotation_time_until(moment timestamptz) RETURNS timestamptz
    LANGUAGE sql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT coalesce((SELECT CASE WHEN w.closes > moment THEN moment ELSE w.opens END
                         FROM colcrypt.rotation_windows(moment) w
                         WHERE w.opens <= moment ORDER BY w.opens DESC LIMIT 1), moment)
    $$;
GRANT EXECUTE ON FUNCTION colcrypt.rotation_time_until(timestamptz) TO pg_monitor;
COMMENT ON FUNCTION colcrypt.rotation_time_until(timestamptz) IS
    'this moment if scheduled rotations run then, or else when they last began to';

CREATE VIEW colcrypt.rotation_schedule AS
    -- Once, not once a key.
    WITH unflushed AS MATERIALIZED (SELECT * FROM colcrypt.unflushed_versions()),
    once AS MATERIALIZED (
        SELECT colcrypt.rotation_time_from(now()) AS opens, colcrypt.clock_ahead() AS ahead,
               least(current_setting('colcrypt.usage_rotate')::int, current_setting('colcrypt.usage_refuse')::int) AS percent,
               -- Where keys come from another server, that one makes their versions: two would make two of one number.
               colcrypt.follows() AS follows, current_setting('colcrypt.usage_nodes')::int AS nodes),
    -- What other servers reported: they do not rotate by themselves.
    others AS MATERIALIZED (
        SELECT o.key_id, o.version, sum(o.encryptions)::bigint AS encryptions, max(o.encryptions) AS most FROM colcrypt.node_usage o GROUP BY 1, 2)
    SELECT n.key, n.version, n.activated_at,
           -- By the server's clock as it is set. Whatever is asked, never more often than once a second.
           CASE WHEN least(n.by_interval, n.by_period, n.by_use) IS NOT NULL AND n.follows IS NULL
                THEN greatest(least(n.by_interval, n.by_period, n.by_use), n.began + interval '1 second') END AS next_rotation_at,
           coalesce(n.follows || ': the primary rotates',
                CASE least(n.by_interval, n.by_period, n.by_use)
                     WHEN n.by_use THEN 'usage limit' WHEN n.by_interval THEN 'rotation interval'
                     WHEN n.by_period THEN 'originator-usage period' END) AS why,
           least(n.interval_ends, n.latest, n.by_use) <= now() AS overdue,
           t.last_error, t.tries, t.retry_at
    FROM (
        SELECT k.key_id, k.name AS key, k.current_version AS version, coalesce(v.activated_at, v.created_at) AS activated_at,
               s.follows, a.began, l.interval_ends, l.latest,
               r.at AS by_interval,
               -- The last time of day before that, unless it is over or was none; the period outranks the time of day.
               CASE WHEN l.latest IS NULL THEN NULL
                    WHEN b.best > greatest(a.began, now()) THEN b.best
                    ELSE least(CASE WHEN b.best > a.began THEN s.opens END, greatest(l.latest, now())) END AS by_period,
               CASE WHEN greatest(c.here, coalesce(o.most, 0)) >= floor(greatest(c.bound / s.nodes, 1)::numeric * s.percent / 100)
                      OR c.here + coalesce(o.encryptions, 0) >= floor(c.bound::numeric * s.percent / 100)
                    THEN now() END AS by_use
        FROM once s CROSS JOIN colcrypt.key k
        JOIN colcrypt.key_version v ON v.key_id = k.key_id AND v.version = k.current_version AND v.state = 'active'
        LEFT JOIN colcrypt.version_usage u ON u.key_id = k.key_id AND u.version = k.current_version
        LEFT JOIN unflushed f ON f.key_id = k.key_id AND f.version = k.current_version
        LEFT JOIN others o ON o.key_id = k.key_id AND o.version = k.current_version
        CROSS JOIN LATERAL (SELECT coalesce(u.encryptions, 0) + coalesce(f.encryptions, 0) + coalesce(f.reserved, 0) AS here,
                                   least(colcrypt.suite_bound(k.suite), k.usage_bound) AS bound) c
        CROSS JOIN LATERAL (SELECT coalesce(v.activated_at, v.created_at) + s.ahead AS began) a
        -- An interval that is over waits for the next time of day. A version must be relieved before its period ends: a
        -- tenth of it before, at most a day.
        CROSS JOIN LATERAL (SELECT a.began + k.rotation_interval AS interval_ends,
                                   a.began + k.originator_usage_period
                                       - least(k.originator_usage_period / 10, interval '1 day') AS latest) l
        CROSS JOIN LATERAL (SELECT CASE WHEN l.interval_ends IS NOT NULL THEN greatest(l.interval_ends, now()) END AS from_then) g
        -- As rotation_time_from and rotation_time_until say, which cost more.
        CROSS JOIN LATERAL (SELECT coalesce(min(greatest(w.opens, g.from_then)), g.from_then) AS at
                            FROM colcrypt.rotation_windows(g.from_then) w WHERE w.closes > g.from_then) r
        CROSS JOIN LATERAL (SELECT coalesce(max(CASE WHEN w.closes > l.latest THEN l.latest ELSE w.opens END), l.latest) AS best
                            FROM colcrypt.rotation_windows(l.latest) w WHERE w.opens <= l.latest) b
        OFFSET 0
    ) n
    LEFT JOIN colcrypt.rotation_try t USING (key_id);
COMMENT ON VIEW colcrypt.rotation_schedule IS
    'which active key the worker will rotate when and why, and what went wrong when it tried; a retry waits for retry_at; of key encryption keys and root keys see kek_schedule and root_schedule';
GRANT SELECT ON colcrypt.rotation_schedule TO pg_monitor;

-- Not dumped: tries belong to this database.
CREATE TABLE colcrypt.kek_try (
    keyring_id uuid PRIMARY KEY,
    tries int NOT NULL,
    last_error text NOT NULL,
    retry_at timestamptz NOT NULL
);
REVOKE ALL ON colcrypt.kek_try FROM PUBLIC;
COMMENT ON TABLE colcrypt.kek_try IS
    'work on key encryption keys that failed, until it succeeds: rotations, and keys that are to be wrapped under another version; see the view kek_schedule';

CREATE VIEW colcrypt.kek_schedule AS
    SELECT n.keyring, n.kek_version, n.created_at,
           CASE WHEN n.at IS NOT NULL AND s.follows IS NULL THEN greatest(n.at, n.began + interval '1 second') END AS next_rotation_at,
           coalesce(s.follows || ': the primary rotates', CASE WHEN n.at IS NOT NULL THEN n.why END) AS why,
           n.due <= now() AS overdue,
           -- Key versions that wait to be wrapped by this version.
           (SELECT count(*)::int FROM colcrypt.key k JOIN colcrypt.key_version v USING (key_id)
            WHERE k.keyring_id = n.keyring_id AND v.kek_version < n.kek_version AND v.destroyed_at IS NULL) AS keys_left,
           t.last_error, t.tries, t.retry_at
    FROM (
        SELECT r.keyring_id, r.name AS keyring, e.version AS kek_version, e.created_at, a.began,
               CASE WHEN e.compromised_at IS NOT NULL THEN now()
                    WHEN l.latest IS NULL THEN NULL
                    -- As for keys: the last time of day before that, unless it is over or was none.
                    WHEN b.best > greatest(a.began, now()) THEN b.best
                    ELSE least(CASE WHEN b.best > a.began THEN colcrypt.rotation_time_from(now()) END,
                               greatest(l.latest, now())) END AS at,
               CASE WHEN e.compromised_at IS NOT NULL THEN e.compromised_at ELSE l.latest END AS due,
               CASE WHEN e.compromised_at IS NOT NULL THEN 'compromised' ELSE 'cryptoperiod' END AS why
        FROM colcrypt.keyring r
        JOIN colcrypt.kek_version e ON e.keyring_id = r.keyring_id AND e.version = r.current_version,
        LATERAL (SELECT e.created_at + colcrypt.clock_ahead() AS began OFFSET 0) a,
        LATERAL (SELECT a.began + r.kek_cryptoperiod - least(r.kek_cryptoperiod / 10, interval '1 day') AS latest) l,
        LATERAL (SELECT colcrypt.rotation_time_until(l.latest) AS best) b
    ) n
    LEFT JOIN colcrypt.kek_try t USING (keyring_id),
    (SELECT colcrypt.follows() AS follows) s;
COMMENT ON VIEW colcrypt.kek_schedule IS
    'when and why the worker will rotate each keyring''s key encryption key, how many key versions wait to be wrapped by the one there is, and what went wrong when it tried';
GRANT SELECT ON colcrypt.kek_schedule TO pg_monitor;

CREATE VIEW colcrypt.root_schedule AS
    SELECT r.name AS keyring, r.root_interval, c.wrapped_at,
           CASE WHEN s.follows IS NULL THEN greatest(c.began + r.root_interval, c.began + interval '1 second') END AS next_rotation_at,
           c.began + r.root_interval <= now() AS overdue,
           t.last_error, t.tries, t.retry_at
    FROM colcrypt.keyring r
    CROSS JOIN LATERAL (
        SELECT min(c.wrapped_at) AS wrapped_at, min(c.wrapped_at) + colcrypt.clock_ahead() AS began
        FROM colcrypt.kek_copy c
        JOIN colcrypt.kek_version e USING (keyring_id, version)
        JOIN colcrypt.provider p USING (provider_id)
        -- What an escrow holds is sealed once.
        WHERE c.keyring_id = r.keyring_id AND e.destroyed_at IS NULL AND p.kind <> 'escrow'
        OFFSET 0) c
    LEFT JOIN colcrypt.kek_try t USING (keyring_id),
    (SELECT colcrypt.follows() AS follows) s
    WHERE r.root_interval IS NOT NULL;
COMMENT ON VIEW colcrypt.root_schedule IS
    'when the worker will wrap each keyring''s key encryption keys under the newest versions of its root keys, for keyrings with an interval (set_root_interval), and what went wrong when it tried';
GRANT SELECT ON colcrypt.root_schedule TO pg_monitor;
