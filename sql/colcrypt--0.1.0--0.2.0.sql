-- From release 0.1.0 (sql/releases/colcrypt--0.1.0.sql, frozen) to 0.2.0. A test compares what this makes with a fresh
-- installation. What is dropped here keeps its symbol in src/legacy.rs: the server wants it while 0.1.0 is restored.

-- Kind 4: ways round four eyes.
COMMENT ON FUNCTION colcrypt.alter_provider(text, jsonb) IS
    'gives a provider other settings, such as the new place of the same root key; refused unless every key encryption key there opens to the same check value, and on a four-eyes keyring';
