-- Is it well? One table of checks, and a function that makes them. A new check is an entry of that table, and touches nothing else
-- but the test that plants its fault. What a check reads exists already: it asks views and catalogs with the caller's rights, and writes nothing.

CREATE FUNCTION colcrypt.server_facts(OUT fact text, OUT object text, OUT value text) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'colcrypt_server_facts' LANGUAGE c VOLATILE PARALLEL RESTRICTED;
GRANT EXECUTE ON FUNCTION colcrypt.server_facts() TO pg_monitor;
COMMENT ON FUNCTION colcrypt.server_facts() IS
    'what doctor needs of the server and the machine that no view shows: versions, limits, swap, where key files lie';

CREATE FUNCTION colcrypt.ask_provider(provider text, root_key text, OUT warnings text[], OUT problem text)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    SELECT c.warnings INTO warnings FROM colcrypt.check_provider(provider, root_key) c;
EXCEPTION
    WHEN insufficient_privilege THEN RAISE;
    WHEN OTHERS THEN problem := SQLERRM;
END
$$;
GRANT EXECUTE ON FUNCTION colcrypt.ask_provider(text, text) TO pg_monitor;
COMMENT ON FUNCTION colcrypt.ask_provider(text, text) IS
    'for doctor: check_provider, where a failure is an answer; the caller needs the right to call that';

CREATE FUNCTION colcrypt.sample_columns(
        most int, OUT relation text, OUT attribute text, OUT tried int, OUT closed int, OUT reason text) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'colcrypt_sample_columns' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.sample_columns(int) IS
    'for doctor: opens a few values of each registered column, shows none, and says how many were tried and how many do not open as the column is registered; of columns with keys by row, with a context that may run code of others, of tables with expressions in an index or locked just now, and once a key cannot be had, none are tried: verify_column opens all';

CREATE VIEW colcrypt.setting_places AS
    SELECT s.name, lower(s.reset_val) AS value, s.name || ' = ' || s.reset_val AS place FROM pg_catalog.pg_settings s
    UNION ALL
    SELECT split_part(c, '=', 1), lower(substr(c, strpos(c, '=') + 1)),
           concat_ws(' ', c, 'of role ' || quote_ident(r.rolname), 'in database ' || quote_ident(d.datname))
    FROM pg_catalog.pg_db_role_setting s
    LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
    LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
    CROSS JOIN LATERAL unnest(s.setconfig) c;
GRANT SELECT ON colcrypt.setting_places TO pg_monitor;
COMMENT ON VIEW colcrypt.setting_places IS
    'settings of the server, and of roles and databases, as doctor reads them: an administrator may loosen one for a single role';

-- What calls a decrypting function, as far as the server knows or the source of a function shows it.
CREATE VIEW colcrypt.shows_plaintext AS
    WITH RECURSIVE ours AS (
        SELECT p.oid FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'colcrypt'::regnamespace AND p.proname IN ('decrypt_col', 'try_decrypt_col', 'decrypts_to', 'decrypts_to_in_place')
    ), calls(class, oid) AS (
        SELECT 'pg_catalog.pg_proc'::regclass::oid, oid FROM ours
        UNION
        SELECT 'pg_catalog.pg_proc'::regclass::oid, p.oid FROM pg_catalog.pg_proc p
        WHERE p.prosrc ~ '\m(decrypt_col|try_decrypt_col|decrypts_to|decrypts_to_in_place)\M' AND p.pronamespace <> 'colcrypt'::regnamespace
        UNION
        -- A rule is its view's, an expression of a default its table's.
        SELECT CASE WHEN r.oid IS NULL THEN d.classid ELSE 'pg_catalog.pg_class'::regclass END, coalesce(r.ev_class, d.objid)
        FROM calls s
        JOIN pg_catalog.pg_depend d ON d.refclassid = s.class AND d.refobjid = s.oid AND d.deptype = 'n'
        LEFT JOIN pg_catalog.pg_rewrite r ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND r.oid = d.objid
        WHERE s.class = 'pg_catalog.pg_proc'::regclass
           OR EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = s.oid AND c.relkind IN ('v', 'm'))
    )
    SELECT class, oid FROM calls WHERE oid NOT IN (SELECT oid FROM ours);
GRANT SELECT ON colcrypt.shows_plaintext TO pg_monitor;
COMMENT ON VIEW colcrypt.shows_plaintext IS
    'for doctor: functions, views, indexes, statistics and generated columns that are made of decrypted values, by catalog and OID';

-- In each entry: the finding's name, its severity, what it means, what to do, and the query that finds it. That gives a row for each
-- object, and may give a detail, another severity or another finding; one without a query is found by that of another.
CREATE FUNCTION colcrypt.doctor_checks() RETURNS TABLE (finding text, severity text, meaning text, remedy text, query text)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $checks$
VALUES
-- The server and its agent.
('not_preloaded', 'critical',
 'The library is not loaded at server start. No key can be used, and what lies in shared memory cannot be looked at.',
 'Add colcrypt to shared_preload_libraries and restart the server.',
 $q$ SELECT 'shared_preload_libraries' AS object WHERE current_setting('colcrypt.slab_keys', true) IS NULL $q$),
('agent_down', 'critical',
 'The process that fetches keys is not running. Keys that are cached serve on until colcrypt.hard_ttl; no other can be had.',
 'Read the server log; look at colcrypt.agent_path and at who may execute that file.',
 $q$ SELECT CASE WHEN b.broker_pid IS NULL THEN 'key broker' ELSE 'KMS agent' END AS object, b.last_error AS detail
     FROM colcrypt.broker_status() b WHERE b.broker_pid IS NULL OR b.agent_pid IS NULL $q$),
('no_launcher', 'critical',
 'The launcher is not running. No job moves, no rotation comes when it is due, and nothing is written into the audit log.',
 'Raise max_worker_processes and restart the server; its log says why else the launcher may not run.',
 $q$ SELECT 'colcrypt launcher' AS object FROM colcrypt.server_facts() f WHERE f.fact = 'launcher' AND f.value = 'missing' $q$),
('agent_of_other_version', 'warning',
 'Library and agent are of different releases. They may not understand each other, and a fault that was mended in one is still in the other.',
 'Install both of one release, and restart the server.',
 $q$ SELECT 'KMS agent ' || a.value AS object, 'the library is ' || l.value AS detail
     FROM colcrypt.server_facts() a, colcrypt.server_facts() l
     WHERE a.fact = 'agent version' AND l.fact = 'library version' AND a.value <> l.value $q$),
('catalog_of_other_version', 'warning',
 'The extension in this database is of another release than the library that is loaded.',
 'Restart the server if its files are newer, then ALTER EXTENSION colcrypt UPDATE.',
 $q$ SELECT 'extension ' || e.extversion AS object, 'the library is ' || l.value AS detail
     FROM pg_extension e, colcrypt.server_facts() l
     WHERE e.extname = 'colcrypt' AND l.fact = 'library version' AND l.value <> e.extversion $q$),
('server_out_of_support', 'warning',
 'This release of PostgreSQL gets no more security fixes from its makers.',
 'Go to a newer one with pg_upgrade; see docs/operations.md.',
 $q$ SELECT 'PostgreSQL ' || current_setting('server_version') AS object, 'its last fixes came in ' || to_char(e.ends, 'FMMonth YYYY') AS detail
     FROM (VALUES (15, date '2027-11-11'), (16, date '2028-11-09'), (17, date '2029-11-08'), (18, date '2030-11-14')) e(major, ends)
     WHERE e.major = current_setting('server_version_num')::int / 10000 AND now() > e.ends $q$),
('clock_set', 'warning',
 'The server''s clock was set while it ran. Cryptoperiods and schedules go on by the former time for now.',
 'Set a wrong clock right. See colcrypt.clock_patience for when the new time is believed.',
 $q$ SELECT 'clock' AS object, 'ahead by ' || a.ahead AS detail FROM colcrypt.clock_ahead() AS a(ahead)
     WHERE a.ahead NOT BETWEEN '-5 seconds' AND '5 seconds' $q$),
('memory_not_locked', 'warning',
 'Memory with keys is not locked. The system may write data encryption keys, key encryption keys and credentials to swap.',
 'Set LimitMEMLOCK=infinity in the server''s systemd unit and restart; colcrypt.require_mlock = on then insists on it.',
 $q$ SELECT 'key slab and KMS agent' AS object FROM colcrypt.broker_status() b WHERE NOT b.memory_locked AND b.agent_pid IS NOT NULL $q$),
('core_files', 'notice',
 'The server may leave core files. Keys are left out of them; plaintext that a session had at work is not.',
 'Set LimitCORE=0 in the server''s unit, or keep core files where only administrators of the data may read.',
 $q$ SELECT 'core file size' AS object, 'limit ' || f.value AS detail FROM colcrypt.server_facts() f WHERE f.fact = 'core limit' AND f.value <> '0' $q$),
('swap_in_use', 'notice',
 'The machine has swap. Locked memory keeps keys from it, but not plaintext that sessions have at work.',
 'Encrypt swap with a key that is drawn at each start, or turn it off.',
 $q$ SELECT f.value AS object FROM colcrypt.server_facts() f WHERE f.fact = 'swap' $q$),
('rust_backtrace', 'notice',
 'Backtraces are asked for in the server''s environment. No client is shown one, but errors cost more than they need.',
 'Take the variable out of the server''s environment, and restart the server.',
 $q$ SELECT f.object, f.object || '=' || f.value AS detail FROM colcrypt.server_facts() f WHERE f.fact = 'backtrace' $q$),
('fsync_off', 'critical',
 'A crash of the machine can leave a damaged database. The wrapped keys are in it: damaged, they open nothing.',
 'Set fsync = on.',
 $q$ SELECT 'fsync' AS object WHERE current_setting('fsync') = 'off' $q$),
('full_page_writes_off', 'warning',
 'A crash of the machine in the middle of a write can damage pages, those with wrapped keys among them.',
 'Set full_page_writes = on.',
 $q$ SELECT 'full_page_writes' AS object WHERE current_setting('full_page_writes') = 'off' $q$),
-- Root keys and keys.
('root_failing', 'warning',
 'When it was last asked, a root key did not give its key encryption key. If it is the last, keys end at colcrypt.hard_ttl.',
 'Mend what the detail says. colcrypt.check_roots(keyring) asks anew.',
 $q$ SELECT format('%s of keyring %s, version %s', concat_ws(', ', r.provider, nullif(r.root_key, '')), r.keyring, r.kek_version) AS object,
            format('%s since %s: %s', r.state, r.failing_since::timestamptz(0), r.problem) AS detail,
            CASE WHEN bool_or(r.state = 'ok') OVER (PARTITION BY r.keyring, r.kek_version) THEN 'warning' ELSE 'critical' END AS severity
     FROM colcrypt.root_status r WHERE r.problem IS NOT NULL
       AND NOT has_function_privilege('colcrypt.verify_keys(boolean)', 'EXECUTE') $q$),
('root_closed', 'warning',
 'Asked just now, a root key does not give its key encryption key. Where no other root key does, nothing under it can be read.',
 'Mend what the detail says; until then another root key of the keyring has to serve.',
 -- Without an agent each would wait for one; agent_down says so.
 $q$ WITH v AS MATERIALIZED (
         SELECT v.* FROM (SELECT b.agent_pid FROM colcrypt.broker_status() b WHERE b.agent_pid IS NOT NULL) b
         CROSS JOIN LATERAL colcrypt.verify_keys(b.agent_pid IS NULL) v)
     SELECT CASE WHEN v.checked = 'root key' THEN 'root_closed' WHEN v.checked = 'key version' THEN 'key_closed'
                 WHEN v.checked = 'rows' THEN 'rows_without_key' ELSE 'role_missing' END AS finding,
            CASE WHEN v.checked = 'root key' THEN CASE WHEN EXISTS (
                     SELECT FROM v o WHERE o.ok AND o.checked = 'root key' AND (o.keyring, o.version) = (v.keyring, v.version))
                     THEN 'warning' ELSE 'critical' END END AS severity,
            CASE WHEN v.checked = 'root key' THEN format('%s of keyring %s, version %s', coalesce(v.root, 'root keys'), v.keyring, v.version)
                 WHEN v.key IS NULL THEN coalesce('keyring ' || v.keyring, v.checked)
                 ELSE concat_ws(', ', 'key ' || v.key, 'version ' || v.version) END AS object,
            v.problem AS detail
     FROM v WHERE NOT v.ok $q$),
('key_closed', 'critical',
 'A key version does not open, or the catalog lacks it. Values under it cannot be read.',
 'Mend its root key first. If the row is damaged, take it from a dump of schema colcrypt, or ask the escrow.', NULL),
('rows_without_key', 'critical',
 'Rows are under a key version that nobody can use any more. Their values are lost unless the version comes back.',
 'Take the version''s row from a dump of schema colcrypt of the server that wrote the rows.', NULL),
('role_missing', 'warning',
 'A grant or a column''s list of readers names a role that there is none of. Who was meant has no access.',
 'Create the role and call colcrypt.restore_grants(), or register the column with other readers.', NULL),
('provider_problem', 'warning',
 'Its provider was asked to wrap and unwrap under the root key, and could not, or has rights or a calendar that will do harm.',
 'Do what the detail says at the provider.',
 $q$ SELECT concat_ws(', ', r.provider, nullif(r.root_key, '')) AS object, w.detail,
            CASE WHEN p.kind = 'file' AND a.problem IS NULL THEN 'provider_note' END AS finding,
            CASE WHEN p.kind = 'file' AND a.problem IS NULL THEN 'notice' END AS severity
     FROM (SELECT DISTINCT r.provider, r.root_key FROM colcrypt.root_status r
           WHERE r.state <> 'escrow' AND EXISTS (SELECT FROM colcrypt.broker_status() b WHERE b.agent_pid IS NOT NULL)) r
     JOIN colcrypt.provider p ON p.name = r.provider
     CROSS JOIN LATERAL colcrypt.ask_provider(r.provider, r.root_key) a
     CROSS JOIN LATERAL unnest(array_append(a.warnings, a.problem)) AS w(detail) WHERE w.detail IS NOT NULL $q$),
('provider_note', 'notice',
 'What a kind of provider always has to say of itself.',
 'A key management system or an HSM keeps root keys off this machine.', NULL),
('key_beside_data', 'critical',
 'A root key file lies in the data directory. Each base backup has the key beside what it protects: to who holds it nothing is encrypted.',
 'Move the file elsewhere, say so with colcrypt.alter_provider, and rotate the root key: old backups have this one.',
 $q$ SELECT f.object FROM colcrypt.server_facts() f WHERE f.fact = 'key file' AND f.value = 'in the data directory' $q$),
('key_on_same_disk', 'notice',
 'A root key file lies on the file system of the data directory. Whoever takes the disk, or an image of it, has both.',
 'Keep the root key on another medium, or at a key management system.',
 $q$ SELECT f.object FROM colcrypt.server_facts() f WHERE f.fact = 'key file' AND f.value = 'on the same file system' $q$),
('key_without_period', 'warning',
 'Nothing ever rotates the key by itself: it has neither a cryptoperiod nor a rotation interval.',
 'Call colcrypt.set_cryptoperiods or colcrypt.set_rotation_interval.',
 $q$ SELECT 'key ' || s.key AS object FROM colcrypt.rotation_schedule s WHERE s.next_rotation_at IS NULL AND s.why IS NULL $q$),
('kek_without_period', 'warning',
 'Nothing ever rotates the keyring''s key encryption key by itself.',
 'Call colcrypt.set_kek_cryptoperiod.',
 $q$ SELECT 'keyring ' || s.keyring AS object FROM colcrypt.kek_schedule s WHERE s.next_rotation_at IS NULL AND s.why IS NULL $q$),
('rotation_failing', 'warning',
 'A rotation is due and failed. At the end of its period a key encrypts no more.',
 'Mend what the detail says; the worker tries again by itself.',
 $q$ SELECT 'key ' || s.key AS object, s.last_error AS detail FROM colcrypt.rotation_schedule s WHERE s.overdue AND s.last_error IS NOT NULL
     UNION ALL
     SELECT 'key encryption key of keyring ' || s.keyring, s.last_error FROM colcrypt.kek_schedule s WHERE s.last_error IS NOT NULL
     UNION ALL
     SELECT 'root keys of keyring ' || s.keyring, s.last_error FROM colcrypt.root_schedule s WHERE s.overdue AND s.last_error IS NOT NULL $q$),
('rotation_due', 'notice',
 'A rotation is due and was not made yet. The worker makes it in colcrypt.rotation_time; on a standby, the primary does.',
 'None, unless it stays so: then call colcrypt.rotate_key, rotate_kek or rotate_root.',
 $q$ SELECT 'key ' || s.key AS object, concat_ws(', next at ', s.why, s.next_rotation_at::timestamptz(0)) AS detail
     FROM colcrypt.rotation_schedule s WHERE s.overdue AND s.last_error IS NULL
     UNION ALL
     SELECT 'key encryption key of keyring ' || s.keyring, s.why FROM colcrypt.kek_schedule s WHERE s.overdue AND s.last_error IS NULL
     UNION ALL
     SELECT 'root keys of keyring ' || s.keyring, NULL FROM colcrypt.root_schedule s WHERE s.overdue AND s.last_error IS NULL $q$),
('usage_near_bound', 'warning',
 'A key version has encrypted a large part of the values that it may. At colcrypt.usage_refuse percent it encrypts no more.',
 'Rotate the key, or see why the worker does not; colcrypt.usage says who uses it so much.',
 $q$ SELECT format('key %s, version %s', u.key, u.version) AS object, format('%s %% of %s', u.percent, u.bound) AS detail,
            CASE u.state WHEN 'refuse' THEN 'critical' END AS severity
     FROM colcrypt.key_usage u WHERE u.is_current AND u.state <> 'ok' $q$),
('destruction_waits', 'warning',
 'A key version that is to be destroyed was not, since something stood in the way.',
 'Do what the detail says. It is tried again within the hour.',
 $q$ SELECT format('key %s, version %s', s.key, s.version) AS object, s.destruction_problem AS detail
     FROM colcrypt.key_status s WHERE s.destruction_problem IS NOT NULL AND s.destroyed_at IS NULL $q$),
-- Recovery, and who may do what.
('no_recovery', 'notice',
 'The keyring has one root key and no escrow. If that root key is lost, every value under the keyring is lost.',
 'Add a second root key (colcrypt.add_root), or an escrow in shares with people; see docs/escrow.md.',
 $q$ SELECT 'keyring ' || r.keyring AS object FROM colcrypt.root_status r JOIN colcrypt.keyring_status k ON k.keyring = r.keyring AND k.kek_version = r.kek_version
     GROUP BY r.keyring HAVING count(*) = 1 $q$),
('keyring_without_escrow', 'warning',
 'There is an escrow, and keyrings that are not sealed to it: a recovery would not bring those back.',
 'Call colcrypt.add_root(keyring, escrow) for each of them.',
 $q$ SELECT 'escrow ' || e.escrow AS object, e.keyrings_without || ' keyrings' AS detail FROM colcrypt.escrow_status e WHERE e.keyrings_without > 0 $q$),
('never_drilled', 'notice',
 'Recovery from the escrow was never rehearsed. Nobody knows whether it works.',
 'Hold a drill (colcrypt escrow drill) and record it with colcrypt.record_drill.',
 $q$ SELECT 'escrow ' || e.escrow AS object, 'due at ' || e.drill_due::timestamptz(0) AS detail
     FROM colcrypt.escrow_status e WHERE e.drilled_at IS NULL AND NOT e.drill_overdue AND e.retired_at IS NULL $q$),
('drill_overdue', 'warning',
 'The rehearsal of recovery from the escrow is overdue.',
 'Hold a drill (colcrypt escrow drill) and record it with colcrypt.record_drill.',
 $q$ SELECT 'escrow ' || e.escrow AS object, 'due at ' || e.drill_due::timestamptz(0) AS detail FROM colcrypt.escrow_status e WHERE e.drill_overdue $q$),
('share_check_overdue', 'warning',
 'A share of the escrow was not shown to be whole for longer than it may be.',
 'Ask its holder for a receipt (colcrypt escrow check) and record it with colcrypt.record_escrow_check.',
 $q$ SELECT format('share of %s, escrow %s', c.holder, c.escrow) AS object, 'due at ' || c.check_due::timestamptz(0) AS detail
     FROM colcrypt.custodian_status c WHERE c.is_overdue $q$),
('one_person', 'notice',
 'One person can do everything with the keyring''s keys: give rights away, move values out, destroy.',
 'Call colcrypt.require_four_eyes for the keyring: such acts then wait for a second role.',
 $q$ SELECT 'keyring ' || k.keyring AS object FROM colcrypt.keyring_status k WHERE NOT k.four_eyes $q$),
('superuser_granted', 'notice',
 'A person''s role that is superuser was granted keys. It needs no grant, and with one the audit log has no superuser_override of what it does.',
 'Grant the keys to a role without that power for the daily work, and colcrypt.revoke_key them from the superuser.',
 -- The server''s first role, which all maintenance is done with, makes keys, and has a grant on each that it made.
 $q$ SELECT 'role ' || quote_ident(r.rolname) AS object, format('%s keys, %s among them', count(*), min(p.key)) AS detail
     FROM colcrypt.key_privileges p JOIN pg_roles r ON r.rolname = p.grantee
     WHERE r.rolsuper AND r.rolcanlogin AND r.oid <> 10 GROUP BY r.rolname $q$),
('superuser_works', 'warning',
 'A superuser used a key on several days of the last week: daily work is done by a role that no grant and no policy holds back.',
 'Have the application connect as a role of its own, with colcrypt.grant_key for what it needs, and keep superusers for maintenance.',
 $q$ SELECT 'role ' || quote_ident(u.role) AS object, format('%s days, keys: %s', count(DISTINCT u.day), string_agg(DISTINCT u.key, ', ')) AS detail
     FROM colcrypt.usage u JOIN pg_roles r ON r.rolname = u.role
     WHERE r.rolsuper AND r.rolcanlogin AND u.day > (now() AT TIME ZONE 'UTC')::date - 7
     GROUP BY u.role HAVING count(DISTINCT u.day) >= 3 $q$),
('one_role_decides', 'notice',
 'One role made every decision about keys in the last 90 days: keys, grants, columns and destruction. Nobody looks at what it does.',
 'Give keys, grants and destruction to different roles (docs/access.md), and ask for four eyes: colcrypt.require_four_eyes.',
 $q$ SELECT 'role ' || quote_ident(min(a.session_role)) AS object, format('%s acts of %s kinds', count(*), count(DISTINCT a.event)) AS detail
     FROM colcrypt.audit_log a
     WHERE a.at > now() - interval '90 days' AND a.outcome = 'done' AND a.event = ANY (ARRAY['create_key', 'create_keys', 'activate_key',
           'deactivate_key', 'suspend_key', 'resume_key', 'mark_compromised', 'schedule_key_destruction', 'drop_key', 'grant_key', 'revoke_key',
           'grant_keyring', 'revoke_keyring', 'register_column', 'encrypt_column', 'decrypt_column', 'move_column', 'rebind_column',
           'add_provider', 'alter_provider', 'add_root', 'drop_root', 'set_cryptoperiods', 'set_usage_bound', 'approve_request'])
     HAVING count(DISTINCT a.session_role) = 1 AND count(*) >= 20 AND count(DISTINCT a.event) >= 3 $q$),
('public_may_decrypt', 'warning',
 'Every role of the server may decrypt with the key. It protects from none of them.',
 'Grant the key to the roles that need it, then colcrypt.revoke_key(key, ''PUBLIC'').',
 $q$ SELECT 'key ' || p.key AS object FROM colcrypt.key_privileges p WHERE p.grantee = 'PUBLIC' AND p.decrypt $q$),
('public_may_encrypt', 'notice',
 'Every role may encrypt with the key, or make keys in the keyring.',
 'Grant that to the roles that need it, and revoke it from PUBLIC.',
 $q$ SELECT 'key ' || p.key AS object FROM colcrypt.key_privileges p WHERE p.grantee = 'PUBLIC' AND p.encrypt AND NOT p.decrypt
     UNION ALL
     SELECT 'keyring ' || p.keyring FROM colcrypt.keyring_privileges p WHERE p.grantee = 'PUBLIC' $q$),
('public_on_catalog', 'critical',
 'Every role was given a privilege on a function or table of the extension that the extension does not give.',
 'REVOKE it FROM PUBLIC, and grant it to the roles that need it.',
 $q$ SELECT o.what AS object, string_agg(a.privilege_type, ', ') AS detail
     FROM (SELECT 'pg_proc'::regclass AS class, p.oid, coalesce(p.proacl, acldefault('f', p.proowner)) AS acl, 'function ' || p.oid::regprocedure AS what
           FROM pg_proc p WHERE p.pronamespace = 'colcrypt'::regnamespace
           UNION ALL
           SELECT 'pg_class'::regclass, c.oid, c.relacl, 'relation ' || c.oid::regclass
           FROM pg_class c WHERE c.relnamespace = 'colcrypt'::regnamespace) o
     CROSS JOIN LATERAL aclexplode(o.acl) a
     WHERE a.grantee = 0 AND NOT EXISTS (
         SELECT FROM pg_init_privs i CROSS JOIN LATERAL aclexplode(i.initprivs) b
         WHERE i.classoid = o.class AND i.objoid = o.oid AND i.objsubid = 0 AND b.grantee = 0 AND b.privilege_type = a.privilege_type)
     GROUP BY o.what $q$),
-- Servers that follow this one, by what each reported last.
('node_primary', 'critical',
 'A server that is registered as a follower of this one makes keys itself, or has another primary''s catalog: two that rotate the same key make two versions of one number.',
 'Set colcrypt.node = follower there and reload, or here, where the other is the primary by now; then bring it the catalog (docs/cluster.md).',
 $q$ SELECT 'node ' || n.name AS object,
            CASE WHEN n.is_of_another THEN 'its catalog is of another primary' ELSE 'colcrypt.node is ' || n.role || ' there' END AS detail
     FROM colcrypt.node_status n
     WHERE n.is_of_another OR n.role <> 'follower' AND n.report->>'follows' IS NULL $q$),
('node_root', 'critical',
 'A root key does not give a server that follows this one its key encryption key. Keys that it has cached serve on for colcrypt.hard_ttl at most.',
 'Mend what the detail says there: the key file, the way to the provider, or its settings on that server (alter_provider).',
 $q$ SELECT 'node ' || n.name AS object, n.root_problem AS detail FROM colcrypt.node_status n WHERE n.root_problem IS NOT NULL $q$),
('node_drift', 'warning',
 'The key catalog of a server that follows this one is not what it imported: somebody changed it by hand, or it has a key encryption key of its own.',
 'See there what was changed, and import the catalog again: import_catalog(…, adopt => true) where nothing else is new.',
 $q$ SELECT 'node ' || n.name AS object, 'changed there: ' || array_to_string(n.drift, ', ') AS detail, NULL AS severity
     FROM colcrypt.node_status n WHERE n.drift <> '{}'
     UNION ALL
     SELECT 'node ' || n.name, format('version %s of the key encryption key of keyring %s has another check value there', r.version, r.keyring), 'critical'
     FROM colcrypt.node_status n, jsonb_to_recordset(n.report->'keks') AS r(keyring text, version int, kcv text), colcrypt.kek_status e
     WHERE e.keyring = r.keyring AND e.kek_version = r.version AND e.kek_check_value <> r.kcv $q$),
('node_silent', 'warning',
 'Nothing was heard of a server that follows this one for a day or more. What was revoked since may not be so there, and no version that it may need is destroyed.',
 'Bring it the catalog and its report here (colcrypt nodes sync), or colcrypt.drop_node if it is gone.',
 $q$ SELECT 'node ' || n.name AS object, coalesce('last report at ' || n.acknowledged_at::timestamptz(0), 'it has never reported') AS detail
     FROM colcrypt.node_status n WHERE coalesce(n.acknowledged_at < now() - interval '1 day', true) $q$),
('node_behind', 'warning',
 'A server that follows this one has an older key catalog than was exported: what was revoked, suspended or rotated since is not so there.',
 'Bring it the catalog (colcrypt nodes sync, or import_catalog).',
 $q$ SELECT 'node ' || n.name AS object, format('%s epochs behind', n.behind) AS detail
     FROM colcrypt.node_status n WHERE n.behind > 0 AND n.report IS NOT NULL AND NOT n.is_of_another IS TRUE $q$),
('node_usage', 'warning',
 'A server that follows this one has encrypted a large part of the values that it may with a key version (its part of the bound: colcrypt.usage_nodes).',
 'Rotate the key here, and bring the catalog there.',
 $q$ SELECT format('node %s, key %s, version %s', u.node, k.name, u.version) AS object,
            format('%s of %s', u.encryptions, p.part) AS detail
     FROM colcrypt.node_usage u JOIN colcrypt.key k ON k.key_id = u.key_id AND k.current_version = u.version
     CROSS JOIN LATERAL (SELECT greatest(least(colcrypt.suite_bound(k.suite), k.usage_bound) / current_setting('colcrypt.usage_nodes')::int, 1) AS part) p
     WHERE u.encryptions >= floor(p.part::numeric * current_setting('colcrypt.usage_warn')::int / 100) $q$),
('node_not_prepared', 'notice',
 'A key version is prepared here, and a server that follows this one does not have it yet: a rotation by schedule waits for it.',
 'Bring it the catalog and its report here (colcrypt nodes sync).',
 $q$ SELECT 'node ' || n.name AS object, array_to_string(n.not_prepared, ', ') AS detail FROM colcrypt.node_status n WHERE n.not_prepared <> '{}' $q$),
-- Jobs.
('job_failed', 'warning',
 'The last job of its kind on the column failed. Rows are left as they were: under an older key version, in plaintext, or bound to another context.',
 'Mend what the detail and table job_error say, then colcrypt.retry_job(job).',
 $q$ SELECT format('job %s on %s.%I', j.job_id, j."table", j.attribute) AS object,
            concat_ws(', ', j.kind, nullif(j.rows_failed, 0) || ' rows failed', j.last_error) AS detail
     FROM (SELECT DISTINCT ON (j.relation, j.attribute, j.key, j.kind) j.* FROM colcrypt.job_progress j
           ORDER BY j.relation, j.attribute, j.key, j.kind, j.job_id DESC) j
     WHERE j.phase = 'failed' AND EXISTS (SELECT FROM pg_class c WHERE c.oid = j.relation) $q$),
('job_stuck', 'warning',
 'A job has been open for over an hour without moving rows: nobody takes it, or it waits for transactions that do not end.',
 'End old transactions, prepared ones and unused replication slots; see the server log for workers that do not start.',
 $q$ SELECT format('job %s on %s.%I', j.job_id, j."table", j.attribute) AS object,
            concat_ws(', ', j.phase || ' since ' || j.created_at::timestamptz(0), j.last_error) AS detail
     FROM colcrypt.job_progress j
     WHERE j.finished_at IS NULL AND j.held_by IS NULL AND j.created_at < now() - interval '1 hour'
       AND j.phase IN ('queued', 'waiting for old transactions', 'vacuuming') $q$),
('job_held', 'notice',
 'A job does not move rows now: it is paused, a brake holds it, or a key cannot be had.',
 'colcrypt.resume_job where it is paused; else see the setting or the key that the detail names.',
 $q$ SELECT format('job %s on %s.%I', j.job_id, j."table", j.attribute) AS object, j.held_by AS detail,
            CASE WHEN j.held_by LIKE 'key:%' THEN 'warning' END AS severity
     FROM colcrypt.job_progress j WHERE j.held_by IS NOT NULL $q$),
-- Columns.
('rows_not_opening', 'warning',
 'Values of a column that were tried do not all open as it is registered: they are damaged, or bound to something else than the registration says.',
 'colcrypt.verify_column lists all that do not open. Where none do, register the column with the context that they were encrypted with.',
 -- Without an agent it would wait for keys; agent_down says so.
 $q$ SELECT format('%s.%I', c.relation, c.attribute) AS object,
            format('%s of %s values that were tried: %s', c.closed, c.tried, c.reason) AS detail
     FROM (SELECT b.agent_pid FROM colcrypt.broker_status() b WHERE b.agent_pid IS NOT NULL) b
     CROSS JOIN LATERAL colcrypt.sample_columns(CASE WHEN b.agent_pid > 0 THEN 20 END) c WHERE c.closed > 0 $q$),
('column_not_registered', 'warning',
 'A column holds encrypted values and is not registered. No rotation moves them: they stay under their key version, compromised or not.',
 'Call colcrypt.register_column for it.',
 $q$ SELECT format('%s.%I', c.oid::regclass, a.attname) AS object
     FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
     WHERE a.atttypid = 'colcrypt.ciphertext'::regtype AND a.attnum > 0 AND NOT a.attisdropped
       AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
       -- Of a tree its root is told, and what holds there holds below.
       AND NOT EXISTS (SELECT FROM pg_inherits i JOIN pg_attribute b ON b.attrelid = i.inhparent AND b.attname = a.attname
                       WHERE i.inhrelid = c.oid AND b.atttypid = a.atttypid AND NOT b.attisdropped)
       AND NOT EXISTS (SELECT FROM colcrypt.protected_column p WHERE p.relation = c.oid AND p.attribute = a.attname)
       AND NOT EXISTS (SELECT FROM colcrypt.migration m JOIN colcrypt.job_progress j USING (job_id)
                       WHERE m.relation = c.oid AND j.finished_at IS NULL AND a.attname IN (m.twin, m.attribute)) $q$),
('registration_wrong', 'warning',
 'A registered column is not there any more, or is no ciphertext. Rotations do nothing for it, and its jobs fail.',
 'Register what took its place, and colcrypt.unregister_column the other.',
 $q$ SELECT format('%s.%I', CASE WHEN c.oid IS NULL THEN '(dropped)' ELSE c.oid::regclass::text END, p.attribute) AS object,
            CASE WHEN c.oid IS NULL THEN format('the table was dropped: colcrypt.unregister_column(%s, %L)', p.relation::oid, p.attribute) WHEN a.attnum IS NULL THEN 'the table has no such column'
                 ELSE 'the column is of type ' || format_type(a.atttypid, a.atttypmod) END AS detail,
            CASE WHEN c.oid IS NULL THEN 'notice' END AS severity
     FROM colcrypt.protected_column p
     LEFT JOIN pg_class c ON c.oid = p.relation
     LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = p.attribute AND NOT a.attisdropped
     WHERE a.atttypid IS DISTINCT FROM 'colcrypt.ciphertext'::regtype
       AND NOT EXISTS (SELECT FROM colcrypt.migration m JOIN colcrypt.job_progress j USING (job_id)
                       WHERE m.relation = p.relation AND j.finished_at IS NULL AND p.attribute IN (m.twin, m.attribute)) $q$),
('view_stale', 'warning',
 'An access view was made before the column was registered: it shows the ciphertext, and takes what is written there as one.',
 'Call colcrypt.create_access_view for the view.',
 $q$ SELECT format('%s.%I', v.oid::regclass, s.attname) AS object, format('%s.%I is registered', p.relation, p.attribute) AS detail
     FROM pg_trigger t
     JOIN pg_class v ON v.oid = t.tgrelid AND v.relkind = 'v'
     JOIN pg_rewrite r ON r.ev_class = v.oid
     JOIN pg_attribute s ON s.attrelid = v.oid AND s.atttypid = 'colcrypt.ciphertext'::regtype AND s.attnum > 0
     JOIN colcrypt.protected_column p ON p.attribute = s.attname
     WHERE t.tgfoid = 'colcrypt.write_access_view()'::regprocedure
       AND EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                                             AND d.refclassid = 'pg_class'::regclass AND d.refobjid = p.relation) $q$),
('search_index_unused', 'warning',
 'No query looks rows up by a search index, and no job is about to make its terms: look-ups read and decrypt the whole table.',
 'Call colcrypt.retry_job for its last job, colcrypt.create_search_index again in a restored database and where rows have come past the trigger, or colcrypt.drop_search_index where nobody needs it.',
 $q$ SELECT format('%s.%I (%s)', o."table", o."column", o.kind) AS object, 'terms by version of the search key: ' || o.versions AS detail
     FROM colcrypt.search_overview o
     WHERE o.versions LIKE '%building%' AND o.versions NOT LIKE '%ready%'
       AND NOT EXISTS (SELECT FROM colcrypt.job_progress j WHERE j.relation = o."table" AND j.attribute = o."column"
                                                             AND j.kind = 'create_search_index' AND j.finished_at IS NULL) $q$),
('plaintext_copy', 'warning',
 'A materialized view reads decrypted values: its rows, and each backup of them, may hold the plaintext.',
 'Make it a plain view, or leave the decrypted columns out; then rewrite or drop what holds the copy.',
 $q$ SELECT format('materialized view %s', c.oid::regclass) AS object
     FROM colcrypt.shows_plaintext s JOIN pg_class c ON s.class = 'pg_class'::regclass AND c.oid = s.oid WHERE c.relkind = 'm' $q$),
('plaintext_index', 'warning',
 'An index, extended statistics or a generated column is made of decrypted values: the plaintext is stored, in pg_statistic, too.',
 'Drop it, and expire the backups that hold it.',
 $q$ SELECT pg_describe_object(s.class, s.oid, 0) AS object
     FROM colcrypt.shows_plaintext s LEFT JOIN pg_class c ON s.class = 'pg_class'::regclass AND c.oid = s.oid
     WHERE c.relkind IN ('i', 'I') OR s.class = 'pg_statistic_ext'::regclass
        OR s.class = 'pg_attrdef'::regclass AND EXISTS (
            SELECT FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
            WHERE d.oid = s.oid AND a.attgenerated = 's') $q$),
-- The record.
('audit_broken', 'critical',
 'The audit log''s chain of hashes does not hold: a record was edited, removed or put in.',
 'Keep the database as it is, compare with anchors in the server log and with backups, and find out who could write there.',
 $q$ WITH v AS MATERIALIZED (SELECT * FROM colcrypt.verify_audit_log())
     SELECT 'audit_broken' AS finding, NULL AS severity, 'record ' || v.first_bad AS object, v.problem AS detail FROM v WHERE NOT v.ok
     UNION ALL
     SELECT 'events_only_counted', 'notice', 'audit log', v.not_recorded || ' events' FROM v WHERE v.not_recorded > 0 $q$),
('events_only_counted', 'notice',
 'More refusals and failures came than the log takes in a time. They were counted, and have no record of their own.',
 'See who was refused so often. A larger colcrypt.audit_ring_events helps where all of them are wanted.', NULL),
('events_in_server_log', 'notice',
 'There was no room for events on their way into the audit log since the server started: they are in the server log instead.',
 'Raise colcrypt.audit_ring_events, and see whether the launcher and its keeper run.',
 $q$ SELECT 'audit ring' AS object, s.to_server_log || ' events' AS detail FROM colcrypt.audit_status() s WHERE s.to_server_log > 0 $q$),
('no_anchor', 'notice',
 'The head of the audit log is never written anywhere else: nobody could tell that the log was cut or made anew.',
 'Set colcrypt.audit_anchor_interval, and ship the server log to another machine.',
 $q$ SELECT 'colcrypt.audit_anchor_interval' AS object WHERE current_setting('colcrypt.audit_anchor_interval', true) = '0' $q$),
('honeytoken', 'critical',
 'A value was decrypted in the last seven days that nobody has a reason to decrypt.',
 'Find out who it was and by what way. Suspend the key if need be (colcrypt.suspend_key).',
 $q$ SELECT coalesce('key ' || a.key, 'a key') AS object, format('%s times, last at %s by %s', sum(a.repeats), max(a.at)::timestamptz(0),
                                              (array_agg(a.session_role ORDER BY a.at DESC))[1]) AS detail
     FROM colcrypt.audit_log a WHERE a.outcome = 'alarm' AND a.at > now() - interval '7 days' GROUP BY a.key $q$),
-- Settings in which plaintext leaks: values that stand in the text of a statement, and those that come as parameters.
('statements_logged', 'warning',
 'The server log gets statements as they are sent: each value that stands in the text, and each parameter, in plaintext.',
 'Send values as parameters, set log_parameter_max_length = 0, and expire the logs that there are.',
 $q$ SELECT s.place AS object, CASE WHEN p.value = '0' THEN 'parameters are left out, values in the text are not' END AS detail,
            CASE WHEN p.value = '0' THEN 'notice' END AS severity
     FROM colcrypt.setting_places s, (SELECT current_setting('log_parameter_max_length') AS value) p
     WHERE s.name = 'log_statement' AND s.value IN ('mod', 'all')
        OR s.name IN ('log_min_duration_statement', 'log_min_duration_sample') AND s.value <> '-1'
        OR s.name = 'log_transaction_sample_rate' AND s.value <> '0' $q$),
('parameters_logged', 'warning',
 'A statement that fails is written to the server log with its parameters, in plaintext.',
 'Set log_parameter_max_length_on_error = 0, and expire the logs that there are.',
 $q$ SELECT s.place AS object FROM colcrypt.setting_places s WHERE s.name = 'log_parameter_max_length_on_error' AND s.value <> '0' $q$),
('literals_shown', 'notice',
 'Values that stand in the text of a statement are seen by others: in the server log where it fails, and in pg_stat_activity while it runs and after.',
 'Send values as parameters: these two do not show them.',
 $q$ SELECT s.place AS object FROM colcrypt.setting_places s
     WHERE s.name = 'log_min_error_statement' AND s.value NOT IN ('fatal', 'panic')
        OR s.name = 'track_activities' AND s.value IN ('on', 'true', 'yes', '1') $q$),
('plans_logged', 'warning',
 'auto_explain writes statements and plans to the server log, with the values in them.',
 'Set auto_explain.log_min_duration = -1 on servers with encrypted columns, or auto_explain.log_parameter_max_length = 0 and no values in the text.',
 $q$ SELECT s.place AS object FROM colcrypt.setting_places s WHERE s.name = 'auto_explain.log_min_duration' AND s.value <> '-1' $q$),
('trees_logged', 'warning',
 'Each statement is written to the server log as parsed or planned, or its text is, with the values in it.',
 'Turn it off, and expire the logs that there are.',
 $q$ SELECT s.place AS object FROM colcrypt.setting_places s
     WHERE s.name IN ('debug_print_parse', 'debug_print_rewritten', 'debug_print_plan') AND s.value IN ('on', 'true', 'yes', '1')
        OR s.name = 'log_min_messages' AND s.value IN ('debug', 'debug2', 'debug3', 'debug4', 'debug5') $q$),
('statements_kept', 'notice',
 'pg_stat_statements keeps texts on disk. In queries it puts $1 for values; in commands such as CREATE TABLE AS, COPY or DO it does not.',
 'Set pg_stat_statements.track_utility = off, and call pg_stat_statements_reset().',
 $q$ SELECT s.place AS object FROM colcrypt.setting_places s
     WHERE s.name = 'pg_stat_statements.track_utility' AND s.value IN ('on', 'true', 'yes', '1') $q$),
('not_checked', 'notice',
 'The check of this name could not be made, so it says nothing: the caller may not ask, or what was asked failed.',
 'Call doctor as a member of pg_monitor that may execute verify_keys, check_provider and sample_columns, or mend what the detail says.', NULL)
    $checks$;
GRANT EXECUTE ON FUNCTION colcrypt.doctor_checks() TO pg_monitor;
COMMENT ON FUNCTION colcrypt.doctor_checks() IS
    'what doctor looks for: each finding''s name, severity, meaning and remedy, and the query that finds it';

CREATE FUNCTION colcrypt.doctor(
        OUT severity text, OUT finding text, OUT object text, OUT detail text, OUT meaning text, OUT remedy text)
    RETURNS SETOF record
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET jit = off
    AS $$
DECLARE
    checked record;
    hit jsonb;
    hits jsonb[] := '{}';
BEGIN
    FOR checked IN SELECT c.finding, c.query FROM colcrypt.doctor_checks() c WHERE c.query IS NOT NULL LOOP
        BEGIN
            FOR hit IN EXECUTE format('SELECT to_jsonb(f) FROM (%s) f', checked.query) LOOP
                hits := array_append(hits, jsonb_build_object('finding', checked.finding) || jsonb_strip_nulls(hit));
            END LOOP;
        EXCEPTION WHEN OTHERS THEN
            hits := array_append(hits, jsonb_build_object(
                'finding', 'not_checked', 'object', checked.finding, 'detail', SQLERRM,
                'severity', CASE SQLSTATE WHEN '42501' THEN 'notice' ELSE 'warning' END));
        END;
    END LOOP;
    RETURN QUERY
        SELECT coalesce(h.hit->>'severity', c.severity), c.finding, h.hit->>'object', h.hit->>'detail', c.meaning, c.remedy
        FROM unnest(hits) WITH ORDINALITY AS h(hit, nr) JOIN colcrypt.doctor_checks() c ON c.finding = h.hit->>'finding'
        ORDER BY array_position('{critical,warning,notice}'::text[], coalesce(h.hit->>'severity', c.severity)), h.nr;
END
$$;
GRANT EXECUTE ON FUNCTION colcrypt.doctor() TO pg_monitor;
COMMENT ON FUNCTION colcrypt.doctor() IS
    'whether all is well: a row a finding, the worst first, with what it means and what to do; severity is critical, warning or notice; asks root keys anew where the caller may, writes nothing, and works on a standby, too';
