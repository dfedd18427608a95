-- What a DBA looks at.

CREATE FUNCTION colcrypt.root_state(
        keyring_id uuid, version int, preference int,
        OUT state text, OUT asked_at timestamptz, OUT failing_since timestamptz, OUT problem text,
        OUT served_at timestamptz)
    AS 'MODULE_PATHNAME', 'colcrypt_root_state' LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED;
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
    'every root key of every keyring, in the order in which they are asked (lowest preference first): state is ok, failed, not asked (since the server started or the key was wrapped), refused, being confirmed (cached keys serve on), or escrow, which is never asked and counts as none of them; served_at when the key encryption key in use last came from it';
GRANT SELECT ON colcrypt.root_status TO pg_monitor;

CREATE VIEW colcrypt.kek_status AS
    SELECT r.name AS keyring,
           e.version AS kek_version,
           s.provider,
           s.root_key,
           s.root_key_version,
           coalesce(s.roots, 0) AS roots,
           s.served_by,
           s.root_problem,
           CASE WHEN e.destroyed_at IS NOT NULL THEN 'destroyed' WHEN e.compromised_at IS NOT NULL THEN 'compromised'
                WHEN e.version = r.current_version THEN 'active' ELSE 'deactivated' END AS state,
           e.kcv AS kek_check_value,
           coalesce(n.keys, 0)::int AS keys,
           e.created_at,
           e.deactivated_at,
           e.compromised_at,
           e.destroy_at,
           e.destroyed_at,
           e.changed_by,
           e.reason,
           -- From the first that wrapped it to the one that it is under, each did.
           e.wrappings_of_dropped + (SELECT count(*) FROM colcrypt.key_version v JOIN colcrypt.key k USING (key_id)
               WHERE k.keyring_id = e.keyring_id AND e.version BETWEEN v.first_kek_version AND v.kek_version) AS wrappings
    FROM colcrypt.kek_version e
    JOIN colcrypt.keyring r USING (keyring_id)
    LEFT JOIN (
        SELECT s.keyring,
               s.kek_version,
               (array_agg(s.provider ORDER BY s.preference))[1] AS provider,
               (array_agg(s.root_key ORDER BY s.preference))[1] AS root_key,
               (array_agg(s.root_key_version ORDER BY s.preference))[1] AS root_key_version,
               count(*)::int AS roots,
               (array_agg(CASE s.root_key WHEN '' THEN s.provider ELSE s.provider || ', ' || s.root_key END
                          ORDER BY s.served_at DESC) FILTER (WHERE s.served_at IS NOT NULL))[1] AS served_by,
               string_agg(format('%s (since %s)', s.problem, s.failing_since::timestamptz(0)), '; ' ORDER BY s.preference)
                   FILTER (WHERE s.problem IS NOT NULL) AS root_problem
        FROM colcrypt.root_status s
        WHERE s.state <> 'escrow'
        GROUP BY s.keyring, s.kek_version) s ON s.keyring = r.name AND s.kek_version = e.version
    LEFT JOIN (
        SELECT k.keyring_id, v.kek_version, count(*) AS keys
        FROM colcrypt.key_version v JOIN colcrypt.key k USING (key_id)
        WHERE v.destroyed_at IS NULL
        GROUP BY 1, 2) n ON n.keyring_id = e.keyring_id AND n.kek_version = e.version;
COMMENT ON VIEW colcrypt.kek_status IS
    'every version of every key encryption key: its first root key, how many it has, which one it last came from on this server, which of them fail, why and since when; its state (active, deactivated, compromised, destroyed), how many key versions are under it now, and how many it has wrapped since it was made, those that were moved on, destroyed or dropped among them (wrappings; one that was passed over when two were made in a row counts too)';
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
           k.compression,
           v.shreds,
           v.prepared_at
    FROM colcrypt.key k
    JOIN colcrypt.key_version v ON v.key_id = k.key_id
    -- Outer joins are no fewer rows to the planner, which so reads a page of keys by their index.
    LEFT JOIN colcrypt.keyring r USING (keyring_id)
    LEFT JOIN colcrypt.kek_status e ON e.keyring = r.name AND e.kek_version = v.kek_version
    LEFT JOIN colcrypt.destruction d ON d.key_id = v.key_id AND d.version = v.version;
COMMENT ON VIEW colcrypt.key_status IS
    'every key version, its state, who moved it there and why, and what protects it: the keyring''s first root key, which root key served last, and which of them fail; shreds where it is destroyed, or will be, although rows need it; prepared_at where it was made to decrypt before it encrypts';
GRANT SELECT ON colcrypt.key_status TO pg_monitor;

CREATE FUNCTION colcrypt.cache_slots(
        OUT key_id bigint, OUT version int, OUT state text, OUT hits bigint, OUT misses bigint,
        OUT loaded_at timestamptz, OUT expires_at timestamptz, OUT last_error text)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'colcrypt_cache_slots' LANGUAGE c VOLATILE PARALLEL RESTRICTED;
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
