-- Providers, keyrings, keys and grants. For administrators: no PUBLIC rights.

CREATE FUNCTION colcrypt.add_provider(name text, kind text, config jsonb DEFAULT '{}') RETURNS void
    AS 'MODULE_PATHNAME', 'colcrypt_add_provider' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.add_provider(text, text, jsonb) IS
    'names a place where root keys live; config says where credentials are found and never holds one';

CREATE FUNCTION colcrypt.alter_provider(name text, config jsonb) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_alter_provider' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.alter_provider(text, jsonb) IS
    'gives a provider other settings, such as the new place of the same root key; refused unless every key encryption key there opens to the same check value; needs the right to manage each keyring there, and waits where one asks for four eyes; says altered';

CREATE FUNCTION colcrypt.check_provider(
        name text, root_key text DEFAULT NULL,
        OUT server text, OUT root_key_version text, OUT latency interval, OUT warnings text[])
    AS 'MODULE_PATHNAME', 'colcrypt_check_provider' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.check_provider(text, text) IS
    'asks the provider for a round trip; with a root key, also wraps and unwraps random bytes under it';

CREATE FUNCTION colcrypt.create_keyring(
        name text, provider text, root_key text DEFAULT '', dek_wrap text DEFAULT 'aes-256-gcm',
        key_source text DEFAULT 'system') RETURNS uuid
    AS 'MODULE_PATHNAME', 'colcrypt_create_keyring' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.create_keyring(text, text, text, text, text) IS
    'makes a keyring: a new key encryption key, wrapped by a root key that must exist; dek_wrap is aes-256-gcm or aes-kwp; key_source says whose generator makes the keyring''s keys: system or provider';

CREATE FUNCTION colcrypt.move_keyring(keyring text, provider text, root_key text DEFAULT '') RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_move_keyring' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.move_keyring(text, text, text) IS
    'wraps the keyring''s key encryption key under another root key, at any provider, in the place of its first; no data is touched, and the old root key is needed no more';

CREATE FUNCTION colcrypt.add_root(keyring text, provider text, root_key text DEFAULT '') RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_add_root' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.add_root(text, text, text) IS
    'wraps the keyring''s key encryption key under one more root key, at any provider, which opens the keyring when those before it do not; says added';

CREATE FUNCTION colcrypt.drop_root(keyring text, provider text, root_key text DEFAULT '') RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_drop_root' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.drop_root(text, text, text) IS
    'takes a root key away from a keyring, if one that stays opens it at this moment; says which stay';

CREATE FUNCTION colcrypt.check_roots(
        keyring text,
        OUT kek_version int, OUT preference int, OUT provider text, OUT root_key text,
        OUT opens boolean, OUT problem text)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'colcrypt_check_roots' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.check_roots(text) IS
    'asks every root key of the keyring for its key encryption key, whatever is cached, and says which of them give it';

CREATE FUNCTION colcrypt.verify_keys(
        deep boolean DEFAULT false,
        OUT keyring text, OUT key text, OUT version int, OUT checked text, OUT root text,
        OUT ok boolean, OUT problem text)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'colcrypt_verify_keys' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.verify_keys(boolean) IS
    'whether the key catalog is whole, whatever is cached, on a standby too: every root key is asked for every key encryption key, every key version is unwrapped, and rows as last counted have their versions; deep reads the headers of all tables instead of believing the count';

CREATE FUNCTION colcrypt.rotate_root(keyring text) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_rotate_root' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.rotate_root(text) IS
    'wraps the keyring''s key encryption key under the newest version of its root key, or of each of them; returns the versions; changes nothing unless all can be done';

CREATE FUNCTION colcrypt.set_root_interval(keyring text, "interval" interval) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_set_root_interval' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.set_root_interval(text, interval) IS
    'how often the worker does rotate_root for the keyring, an hour at least; null, as at first, is never: its provider makes new versions on a calendar of its own; says set';

CREATE FUNCTION colcrypt.rotate_kek(keyring text, reason text DEFAULT NULL) RETURNS int
    AS 'MODULE_PATHNAME', 'colcrypt_rotate_kek' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.rotate_kek(text, text) IS
    'makes a new version of the keyring''s key encryption key under each of its root keys; keys made from commit on are under it, and the worker wraps the others under it, which touches no data; returns the version';

CREATE FUNCTION colcrypt.mark_kek_compromised(keyring text, version int DEFAULT NULL, reason text DEFAULT NULL) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_mark_kek_compromised' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.mark_kek_compromised(text, int, text) IS
    'marks a version of the key encryption key, or the current one, as compromised: another takes its place, every key version that was ever under it is marked as compromised too, rotated and its rows listed and moved first; needs the right to manage each of those keys; a reason is needed; returns the new state';

CREATE FUNCTION colcrypt.set_kek_cryptoperiod(keyring text, period interval) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_set_kek_cryptoperiod' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.set_kek_cryptoperiod(text, interval) IS
    'how long a version of the keyring''s key encryption key wraps keys until the worker makes another, an hour at least; null is without end; on a four-eyes keyring a longer one waits; says set';

CREATE FUNCTION colcrypt.create_key(name text, keyring text, suite text DEFAULT 'aes-256-gcm') RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_create_key' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.create_key(text, text, text) IS
    'makes a key with its first version; suite is aes-256-gcm or xaes-256-gcm, and hmac-sha-256 for a search key; returns the key id';

CREATE FUNCTION colcrypt.create_keys(names text[], keyring text, suite text DEFAULT 'aes-256-gcm') RETURNS int
    AS 'MODULE_PATHNAME', 'colcrypt_create_keys' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.create_keys(text[], text, text) IS
    'makes many keys, each as create_key makes one, or none of them; returns how many';

CREATE FUNCTION colcrypt.rotate_key(key text) RETURNS int
    AS 'MODULE_PATHNAME', 'colcrypt_rotate_key' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.rotate_key(text) IS
    'makes a new version, or takes the one that was prepared, for all writes from commit on, and queues a re-encryption job for each registered column; returns the version';

CREATE FUNCTION colcrypt.grant_key(
        key text, role text, privileges text[] DEFAULT '{encrypt,decrypt}') RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_grant_key' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.grant_key(text, text, text[]) IS
    'lets a role encrypt with, decrypt with or manage a key, or search by a search key; PUBLIC may be given all but manage; says granted';

CREATE FUNCTION colcrypt.revoke_key(
        key text, role text, privileges text[] DEFAULT '{encrypt,decrypt,search}') RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_revoke_key' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.revoke_key(text, text, text[]) IS
    'takes privileges on a key away, by default all but manage; every session sees it at its next statement; says revoked';

CREATE FUNCTION colcrypt.grant_keyring(
        keyring text, role text, privileges text[] DEFAULT '{create}') RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_grant_keyring' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.grant_keyring(text, text, text[]) IS
    'lets a role make keys in a keyring (create), or change its root keys, its rules and these grants (manage); PUBLIC may be given the first; says granted';

CREATE FUNCTION colcrypt.revoke_keyring(
        keyring text, role text, privileges text[] DEFAULT '{create}') RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_revoke_keyring' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.revoke_keyring(text, text, text[]) IS
    'takes privileges on a keyring away; says revoked';

CREATE FUNCTION colcrypt.drop_key(name text) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_drop_key' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.drop_key(text) IS
    'takes a key out of the catalog whose every version is destroyed and for which no column is registered; says dropped';

CREATE FUNCTION colcrypt.drop_keyring(name text) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_drop_keyring' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.drop_keyring(text) IS
    'takes a keyring without keys out of the catalog, and its key encryption keys with it; says dropped';

CREATE FUNCTION colcrypt.drop_provider(name text) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_drop_provider' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.drop_provider(text) IS
    'takes a provider out of the catalog on which no keyring stands; says dropped';
