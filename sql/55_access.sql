-- Who may do what, to look at and to ask; and views that show encrypted columns as plaintext.

CREATE VIEW colcrypt.key_privileges AS
    SELECT k.name AS key,
           CASE WHEN g.grantee::oid = 0 THEN 'PUBLIC' ELSE r.rolname END AS grantee,
           g.can_encrypt AS encrypt,
           g.can_decrypt AS decrypt,
           g.can_manage AS manage,
           g.can_search AS search
    FROM colcrypt.key_grant g
    JOIN colcrypt.key k USING (key_id)
    LEFT JOIN pg_catalog.pg_roles r ON r.oid = g.grantee
    WHERE g.grantee::oid = 0 OR r.oid IS NOT NULL;
COMMENT ON VIEW colcrypt.key_privileges IS
    'who was granted what on which key; superusers need no grant, and members of a role inherit its grants';
GRANT SELECT ON colcrypt.key_privileges TO pg_monitor;

CREATE VIEW colcrypt.keyring_privileges AS
    SELECT k.name AS keyring,
           CASE WHEN g.grantee::oid = 0 THEN 'PUBLIC' ELSE r.rolname END AS grantee,
           g.can_create AS "create",
           g.can_manage AS manage
    FROM colcrypt.keyring_grant g
    JOIN colcrypt.keyring k USING (keyring_id)
    LEFT JOIN pg_catalog.pg_roles r ON r.oid = g.grantee
    WHERE g.grantee::oid = 0 OR r.oid IS NOT NULL;
COMMENT ON VIEW colcrypt.keyring_privileges IS
    'who was granted what on which keyring; superusers need no grant, and members of a role inherit its grants';
GRANT SELECT ON colcrypt.keyring_privileges TO pg_monitor;

CREATE FUNCTION colcrypt.has_key_privilege(role text, key text, privilege text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'colcrypt_has_key_privilege' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION colcrypt.has_key_privilege(text, text, text) IS
    'whether a role (or PUBLIC) may encrypt, decrypt, search or manage; of a list with commas, any';
CREATE FUNCTION colcrypt.has_key_privilege(key text, privilege text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'colcrypt_has_key_privilege' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION colcrypt.has_key_privilege(text, text) IS
    'whether the current role may encrypt, decrypt, search or manage; of a list with commas, any';

CREATE FUNCTION colcrypt.may_read_column(relation regclass, attribute name) RETURNS boolean
    AS 'MODULE_PATHNAME', 'colcrypt_may_read_column' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 2;
COMMENT ON FUNCTION colcrypt.may_read_column(regclass, name) IS
    'whether the current role is among the readers that a column was registered with; access views ask it of each row, and it is answered once a statement';

CREATE FUNCTION colcrypt.write_access_view() RETURNS trigger
    AS 'MODULE_PATHNAME', 'colcrypt_write_access_view' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.write_access_view() IS
    'trigger: writes through an access view to its table, with the rights of who writes';

CREATE FUNCTION colcrypt.create_access_view(relation regclass, view_name name DEFAULT NULL) RETURNS regclass
    AS 'MODULE_PATHNAME', 'colcrypt_create_access_view' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.create_access_view(regclass, name) IS
    'makes, or replaces, a view in the table''s schema that shows its registered columns decrypted and can be written through; by default the one that the table has, or named like the table with _access behind; given an access view, that one';
