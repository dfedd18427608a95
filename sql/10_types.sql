-- The two types: an encrypted value, and the context it is bound to.

-- Whoever owns the schema may give it another name, and put one of his own in its place, which superuser's code of ours
-- would believe.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid = n.nspowner
               WHERE n.nspname = 'colcrypt' AND NOT r.rolsuper) THEN
        RAISE EXCEPTION 'the schema "colcrypt" is there already, and belongs to a role that is no superuser'
            USING ERRCODE = 'insufficient_privilege', HINT = 'Look at what is in it and drop it, or give it to a superuser.';
    END IF;
END
$$;

CREATE TYPE colcrypt.ciphertext;

CREATE FUNCTION colcrypt.ciphertext_in(cstring) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_ciphertext_in' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION colcrypt.ciphertext_out(colcrypt.ciphertext) RETURNS cstring
    AS 'MODULE_PATHNAME', 'colcrypt_ciphertext_out' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION colcrypt.ciphertext_recv(internal) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_ciphertext_recv' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION colcrypt.ciphertext_send(colcrypt.ciphertext) RETURNS bytea
    AS 'MODULE_PATHNAME', 'colcrypt_ciphertext_send' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;

-- STORAGE external: ciphertext does not compress, so TOAST must not spend time on trying.
CREATE TYPE colcrypt.ciphertext (
    INPUT = colcrypt.ciphertext_in,
    OUTPUT = colcrypt.ciphertext_out,
    RECEIVE = colcrypt.ciphertext_recv,
    SEND = colcrypt.ciphertext_send,
    INTERNALLENGTH = VARIABLE,
    STORAGE = external
);

COMMENT ON TYPE colcrypt.ciphertext IS
    'an encrypted value that names its key, key version, suite and plaintext type; has no equality, so comparing it with a plaintext is an error';
COMMENT ON FUNCTION colcrypt.ciphertext_in(cstring) IS 'I/O';
COMMENT ON FUNCTION colcrypt.ciphertext_out(colcrypt.ciphertext) IS 'I/O';
COMMENT ON FUNCTION colcrypt.ciphertext_recv(internal) IS 'I/O';
COMMENT ON FUNCTION colcrypt.ciphertext_send(colcrypt.ciphertext) IS 'I/O';

-- Out is free, since nobody shall be locked in; in is checked.
CREATE FUNCTION colcrypt.ciphertext(bytea) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_ciphertext_from_bytea' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION colcrypt.ciphertext(bytea) IS
    'the bytes of an encrypted value as a ciphertext; refuses anything that is not one';
CREATE CAST (colcrypt.ciphertext AS bytea) WITHOUT FUNCTION;
CREATE CAST (bytea AS colcrypt.ciphertext) WITH FUNCTION colcrypt.ciphertext(bytea);

-- A context is bytes, but a type of its own: decrypt_col(c, NULL::bytea) asks for a bytea value,
-- decrypt_col(c, row_context(id)) brings a context, and the parser can tell them apart.
CREATE TYPE colcrypt.context;
CREATE FUNCTION colcrypt.context_in(cstring) RETURNS colcrypt.context
    AS 'byteain' LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION colcrypt.context_out(colcrypt.context) RETURNS cstring
    AS 'byteaout' LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION colcrypt.context_recv(internal) RETURNS colcrypt.context
    AS 'bytearecv' LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION colcrypt.context_send(colcrypt.context) RETURNS bytea
    AS 'byteasend' LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE;
CREATE TYPE colcrypt.context (
    INPUT = colcrypt.context_in,
    OUTPUT = colcrypt.context_out,
    RECEIVE = colcrypt.context_recv,
    SEND = colcrypt.context_send,
    INTERNALLENGTH = VARIABLE,
    STORAGE = extended
);
COMMENT ON TYPE colcrypt.context IS
    'additional data that a value is bound to, made by place_context or row_context; the same context is needed to decrypt';
COMMENT ON FUNCTION colcrypt.context_in(cstring) IS 'I/O';
COMMENT ON FUNCTION colcrypt.context_out(colcrypt.context) IS 'I/O';
COMMENT ON FUNCTION colcrypt.context_recv(internal) IS 'I/O';
COMMENT ON FUNCTION colcrypt.context_send(colcrypt.context) IS 'I/O';
CREATE CAST (colcrypt.context AS bytea) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (bytea AS colcrypt.context) WITHOUT FUNCTION;
