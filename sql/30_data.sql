-- Functions on data. Everybody may call them; what they do is decided by the grants on the key.
-- None is STRICT: a NULL key or context must be an error, not a value silently turned into NULL.

CREATE FUNCTION colcrypt.encrypt_col(value text, key text) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_encrypt' LANGUAGE c VOLATILE PARALLEL SAFE COST 50;
CREATE FUNCTION colcrypt.encrypt_col(value text, key text, context bytea) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_encrypt' LANGUAGE c VOLATILE PARALLEL SAFE COST 50;
CREATE FUNCTION colcrypt.encrypt_col(value anyelement, key text) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_encrypt' LANGUAGE c VOLATILE PARALLEL SAFE COST 50;
CREATE FUNCTION colcrypt.encrypt_col(value anyelement, key text, context bytea) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_encrypt' LANGUAGE c VOLATILE PARALLEL SAFE COST 50;
-- Text and anyelement are equally far from it.
CREATE FUNCTION colcrypt.encrypt_col(value "char", key text) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_encrypt' LANGUAGE c VOLATILE PARALLEL SAFE COST 50;
CREATE FUNCTION colcrypt.encrypt_col(value "char", key text, context bytea) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_encrypt' LANGUAGE c VOLATILE PARALLEL SAFE COST 50;
COMMENT ON FUNCTION colcrypt.encrypt_col(text, text) IS
    'encrypts a text under the current version of the named key; NULL stays NULL';
COMMENT ON FUNCTION colcrypt.encrypt_col(text, text, bytea) IS
    'encrypts a text under the named key, bound to a context that decrypt_col will need again';
COMMENT ON FUNCTION colcrypt.encrypt_col(anyelement, text) IS
    'encrypts a value of any type with binary I/O under the current version of the named key; NULL stays NULL';
COMMENT ON FUNCTION colcrypt.encrypt_col(anyelement, text, bytea) IS
    'encrypts a value of any type under the named key, bound to a context that decrypt_col will need again';
COMMENT ON FUNCTION colcrypt.encrypt_col("char", text) IS
    'encrypts a "char" under the current version of the named key; NULL stays NULL';
COMMENT ON FUNCTION colcrypt.encrypt_col("char", text, bytea) IS
    'encrypts a "char" under the named key, bound to a context that decrypt_col will need again';

CREATE FUNCTION colcrypt.encrypt_for_row(value anyelement, key text, keyring text) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_encrypt_for_row' LANGUAGE c VOLATILE PARALLEL SAFE COST 50;
CREATE FUNCTION colcrypt.encrypt_for_row(value anyelement, key text, keyring text, context bytea) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_encrypt_for_row' LANGUAGE c VOLATILE PARALLEL SAFE COST 50;
COMMENT ON FUNCTION colcrypt.encrypt_for_row(anyelement, text, text) IS
    'for access views of columns whose rows have keys of their own: encrypts as encrypt_col does, under a key of this keyring; NULL stays NULL, whatever the key';
COMMENT ON FUNCTION colcrypt.encrypt_for_row(anyelement, text, text, bytea) IS
    'for access views of columns whose rows have keys of their own: the same, bound to a context';

CREATE FUNCTION colcrypt.decrypt_col(value colcrypt.ciphertext) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_decrypt_text' LANGUAGE c STABLE PARALLEL SAFE COST 50;
CREATE FUNCTION colcrypt.decrypt_col(value colcrypt.ciphertext, context colcrypt.context) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_decrypt_text' LANGUAGE c STABLE PARALLEL SAFE COST 50;
CREATE FUNCTION colcrypt.decrypt_col(value colcrypt.ciphertext, type anyelement) RETURNS anyelement
    AS 'MODULE_PATHNAME', 'colcrypt_decrypt_typed' LANGUAGE c STABLE PARALLEL SAFE COST 50;
CREATE FUNCTION colcrypt.decrypt_col(value colcrypt.ciphertext, type anyelement, context bytea) RETURNS anyelement
    AS 'MODULE_PATHNAME', 'colcrypt_decrypt_typed' LANGUAGE c STABLE PARALLEL SAFE COST 50;
COMMENT ON FUNCTION colcrypt.decrypt_col(colcrypt.ciphertext) IS
    'decrypts a text value; NULL stays NULL';
COMMENT ON FUNCTION colcrypt.decrypt_col(colcrypt.ciphertext, colcrypt.context) IS
    'decrypts a text value that is bound to a context made by row_context';
COMMENT ON FUNCTION colcrypt.decrypt_col(colcrypt.ciphertext, anyelement) IS
    'decrypts a value of the type named by the second argument: decrypt_col(c, NULL::date)';
COMMENT ON FUNCTION colcrypt.decrypt_col(colcrypt.ciphertext, anyelement, bytea) IS
    'decrypts a value of the named type that is bound to a context: decrypt_col(c, NULL::date, row_context(id))';

CREATE FUNCTION colcrypt.try_decrypt_col(value colcrypt.ciphertext) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_try_decrypt_text' LANGUAGE c STABLE PARALLEL SAFE COST 50;
CREATE FUNCTION colcrypt.try_decrypt_col(value colcrypt.ciphertext, context colcrypt.context) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_try_decrypt_text' LANGUAGE c STABLE PARALLEL SAFE COST 50;
CREATE FUNCTION colcrypt.try_decrypt_col(value colcrypt.ciphertext, type anyelement) RETURNS anyelement
    AS 'MODULE_PATHNAME', 'colcrypt_try_decrypt_typed' LANGUAGE c STABLE PARALLEL SAFE COST 50;
CREATE FUNCTION colcrypt.try_decrypt_col(value colcrypt.ciphertext, type anyelement, context bytea) RETURNS anyelement
    AS 'MODULE_PATHNAME', 'colcrypt_try_decrypt_typed' LANGUAGE c STABLE PARALLEL SAFE COST 50;
COMMENT ON FUNCTION colcrypt.try_decrypt_col(colcrypt.ciphertext) IS
    'as decrypt_col, but NULL for a value that does not open: altered, bound to another context, or under a key version that is destroyed or not in the catalog; a refusal or an outage stays an error';
COMMENT ON FUNCTION colcrypt.try_decrypt_col(colcrypt.ciphertext, colcrypt.context) IS
    'as decrypt_col with a context, but NULL for a value that does not open';
COMMENT ON FUNCTION colcrypt.try_decrypt_col(colcrypt.ciphertext, anyelement) IS
    'as decrypt_col with a type, but NULL for a value that does not open; another type than the value''s stays an error';
COMMENT ON FUNCTION colcrypt.try_decrypt_col(colcrypt.ciphertext, anyelement, bytea) IS
    'as decrypt_col with a type and a context, but NULL for a value that does not open';

CREATE FUNCTION colcrypt.reencrypt_col(value colcrypt.ciphertext) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_reencrypt' LANGUAGE c VOLATILE PARALLEL SAFE COST 100;
CREATE FUNCTION colcrypt.reencrypt_col(value colcrypt.ciphertext, context bytea) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_reencrypt' LANGUAGE c VOLATILE PARALLEL SAFE COST 100;
COMMENT ON FUNCTION colcrypt.reencrypt_col(colcrypt.ciphertext) IS
    'the same value under its key''s current version; the plaintext never leaves the server; needs the right to encrypt';
COMMENT ON FUNCTION colcrypt.reencrypt_col(colcrypt.ciphertext, bytea) IS
    'the same value under its key''s current version, checked against and bound again to its context';

CREATE FUNCTION colcrypt.row_context(VARIADIC "any") RETURNS colcrypt.context
    AS 'MODULE_PATHNAME', 'colcrypt_row_context' LANGUAGE c STABLE PARALLEL SAFE COST 10;
COMMENT ON FUNCTION colcrypt.row_context("any") IS
    'the canonical form of any values, typed and length-prefixed, to bind an encrypted value to its row or column';

CREATE FUNCTION colcrypt.place_context(label text) RETURNS colcrypt.context
    AS 'MODULE_PATHNAME', 'colcrypt_place_context' LANGUAGE c STABLE PARALLEL SAFE COST 10;
COMMENT ON FUNCTION colcrypt.place_context(text) IS
    'a context of a place alone: the label of a column, such as ''customer.iban''';
CREATE FUNCTION colcrypt.place_context(label text, VARIADIC "any") RETURNS colcrypt.context
    AS 'MODULE_PATHNAME', 'colcrypt_place_context' LANGUAGE c STABLE PARALLEL SAFE COST 10;
COMMENT ON FUNCTION colcrypt.place_context(text, "any") IS
    'a context of a place: the label of a column and the row''s primary key, such as place_context(''customer.iban'', id)';

CREATE FUNCTION colcrypt.either_context(context bytea, former bytea) RETURNS colcrypt.context
    AS 'MODULE_PATHNAME', 'colcrypt_either_context' LANGUAGE c IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION colcrypt.either_context(bytea, bytea) IS
    'a context to write values with the first and read them with either, while rebind_column is under way: either_context(place_context(''customer.iban'', id), row_context(id)); an empty one is none';

CREATE FUNCTION colcrypt.ciphertext_info(
        value colcrypt.ciphertext,
        OUT key text, OUT version int, OUT suite text, OUT type text, OUT bytes int,
        OUT has_context boolean, OUT key_id text, OUT compressed boolean)
    AS 'MODULE_PATHNAME', 'colcrypt_ciphertext_info' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION colcrypt.ciphertext_info(colcrypt.ciphertext) IS
    'what a value says about itself without any key: key, version, suite, plaintext type, length in bytes, whether it is compressed';

-- For the worker's statements, which run as a table's owner: they know the values of the batch at hand and nothing else, and
-- in any other process none.
CREATE FUNCTION colcrypt.is_in_batch(row_address tid, column_number smallint, value colcrypt.ciphertext) RETURNS boolean
    AS 'MODULE_PATHNAME', 'colcrypt_is_in_batch' LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 5;
COMMENT ON FUNCTION colcrypt.is_in_batch(tid, smallint, colcrypt.ciphertext) IS
    'for the maintenance worker: whether the batch at hand has a new value in place of this one';
CREATE FUNCTION colcrypt.batch_value(row_address tid, column_number smallint, value colcrypt.ciphertext) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_batch_value' LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 5;
COMMENT ON FUNCTION colcrypt.batch_value(tid, smallint, colcrypt.ciphertext) IS
    'for the maintenance worker: what the batch at hand puts in place of this value, or the value itself';

-- For the worker's statements, which run as a table's owner: whether the transaction that a row's xmax names is over.
CREATE FUNCTION colcrypt.is_settled(transaction xid) RETURNS boolean
    AS 'MODULE_PATHNAME', 'colcrypt_is_settled' LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED COST 5;
COMMENT ON FUNCTION colcrypt.is_settled(xid) IS 'whether a transaction is not under way any more';

-- For scans that look for work: reads a header, needs no key.
CREATE FUNCTION colcrypt.ciphertext_is_stale(value colcrypt.ciphertext, key_id bigint, current_version int) RETURNS boolean
    AS 'MODULE_PATHNAME', 'colcrypt_is_stale' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 5;
COMMENT ON FUNCTION colcrypt.ciphertext_is_stale(colcrypt.ciphertext, bigint, int) IS
    'whether the value is under an older version of this key than the given one';
