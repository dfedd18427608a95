-- What a DBA looks at.

CREATE VIEW colcrypt.key_status AS
    SELECT k.name AS key,
           lpad(to_hex(k.key_id), 16, '0') AS key_id,
           v.version,
           v.version = k.current_version AS is_current,
           v.state,
           k.suite,
           r.name AS keyring,
           v.kek_version,
           p.name AS provider,
           e.root_key,
           e.root_key_version,
           v.kcv AS key_check_value,
           v.created_at,
           v.deactivated_at
    FROM colcrypt.key k
    JOIN colcrypt.key_version v USING (key_id)
    JOIN colcrypt.keyring r USING (keyring_id)
    JOIN colcrypt.kek_version e ON e.keyring_id = r.keyring_id AND e.version = v.kek_version
    JOIN colcrypt.provider p USING (provider_id);
COMMENT ON VIEW colcrypt.key_status IS 'every key version, its state, and what protects it';
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
