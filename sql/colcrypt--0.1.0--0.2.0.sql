-- From release 0.1.0 (sql/releases/colcrypt--0.1.0.sql, frozen) to 0.2.0. A test compares what this makes with a fresh
-- installation. What is dropped here keeps its symbol in src/legacy.rs: the server wants it while 0.1.0 is restored.

-- Kind 7: a place is part of what is bound.
CREATE FUNCTION colcrypt.place_context(label text) RETURNS colcrypt.context
    AS 'MODULE_PATHNAME', 'colcrypt_place_context' LANGUAGE c STABLE PARALLEL SAFE COST 10;
COMMENT ON FUNCTION colcrypt.place_context(text) IS
    'a context of a place alone: the label of a column, such as ''customer.iban''';
CREATE FUNCTION colcrypt.place_context(label text, VARIADIC "any") RETURNS colcrypt.context
    AS 'MODULE_PATHNAME', 'colcrypt_place_context' LANGUAGE c STABLE PARALLEL SAFE COST 10;
COMMENT ON FUNCTION colcrypt.place_context(text, "any") IS
    'a context of a place: the label of a column and the row''s primary key, such as place_context(''customer.iban'', id)';
