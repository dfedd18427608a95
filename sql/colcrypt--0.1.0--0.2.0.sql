-- From release 0.1.0 (sql/releases/colcrypt--0.1.0.sql, frozen) to 0.2.0. A test compares what this makes with a fresh
-- installation. What is dropped here keeps its symbol in src/legacy.rs: the server wants it while 0.1.0 is restored.

-- Power is not lent: a job re-encrypts between its statements.
DROP FUNCTION colcrypt.reencrypt_col_to(colcrypt.ciphertext, bigint);
DROP FUNCTION colcrypt.reencrypt_col_to(colcrypt.ciphertext, bigint, bytea);
CREATE FUNCTION colcrypt.is_in_batch(row_address tid, column_number smallint, value colcrypt.ciphertext) RETURNS boolean
    AS 'MODULE_PATHNAME', 'colcrypt_is_in_batch' LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 5;
COMMENT ON FUNCTION colcrypt.is_in_batch(tid, smallint, colcrypt.ciphertext) IS
    'for the maintenance worker: whether the batch at hand has a new value in place of this one';
CREATE FUNCTION colcrypt.batch_value(row_address tid, column_number smallint, value colcrypt.ciphertext) RETURNS colcrypt.ciphertext
    AS 'MODULE_PATHNAME', 'colcrypt_batch_value' LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 5;
COMMENT ON FUNCTION colcrypt.batch_value(tid, smallint, colcrypt.ciphertext) IS
    'for the maintenance worker: what the batch at hand puts in place of this value, or the value itself';


ALTER TABLE colcrypt.migration ADD COLUMN origins text[];
-- Kind 7: a place is part of what is bound.
CREATE FUNCTION colcrypt.place_context(label text) RETURNS colcrypt.context
    AS 'MODULE_PATHNAME', 'colcrypt_place_context' LANGUAGE c STABLE PARALLEL SAFE COST 10;
COMMENT ON FUNCTION colcrypt.place_context(text) IS
    'a context of a place alone: the label of a column, such as ''customer.iban''';
CREATE FUNCTION colcrypt.place_context(label text, VARIADIC "any") RETURNS colcrypt.context
    AS 'MODULE_PATHNAME', 'colcrypt_place_context' LANGUAGE c STABLE PARALLEL SAFE COST 10;
COMMENT ON FUNCTION colcrypt.place_context(text, "any") IS
    'a context of a place: the label of a column and the row''s primary key, such as place_context(''customer.iban'', id)';

-- Kind 4: ways round four eyes.
COMMENT ON FUNCTION colcrypt.alter_provider(text, jsonb) IS
    'gives a provider other settings, such as the new place of the same root key; refused unless every key encryption key there opens to the same check value, and on a four-eyes keyring';

-- Prepared transactions are remembered by their ids, not by the clock. What waits in this moment looks anew for who was prepared.
ALTER TABLE colcrypt.job ADD COLUMN settle_prepared text[];
ALTER TABLE colcrypt.destruction ADD COLUMN settle_prepared text[];
UPDATE colcrypt.destruction SET settle_transactions = '{}' WHERE settle_before IS NOT NULL AND settle_transactions IS NULL;

-- Kind 5: a job over which worker after worker dies is given up.
ALTER TABLE colcrypt.job ADD COLUMN taken boolean NOT NULL DEFAULT false, ADD COLUMN deaths int NOT NULL DEFAULT 0;
