-- Search indexes made, kept and dropped. What look-ups are made of is in 57_search.sql.

CREATE FUNCTION colcrypt.create_search_index(
        relation regclass, attribute name, kind text DEFAULT 'equality', key text DEFAULT NULL, normalise text[] DEFAULT '{}',
        is_unique boolean DEFAULT false, bits int DEFAULT NULL, domain text DEFAULT NULL,
        granularity int DEFAULT NULL, sparsity int DEFAULT NULL, gram int DEFAULT NULL) RETURNS bigint
    AS 'MODULE_PATHNAME', 'colcrypt_create_search_index' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.create_search_index(regclass, name, text, text, text[], boolean, int, text, int, int, int) IS
    'queues a job that makes a registered column searchable, by equality, range or text (LIKE), while the application runs: keyed terms in a companion column, which a trigger keeps, and an index on it; key is a search key, by default the only one of the column''s keyring; a search domain lets columns be joined; needs the right to manage the column''s key and the search key; returns the job';

CREATE FUNCTION colcrypt.drop_search_index(relation regclass, attribute name, kind text DEFAULT 'equality') RETURNS bigint
    AS 'MODULE_PATHNAME', 'colcrypt_drop_search_index' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.drop_search_index(regclass, name, text) IS
    'has no query look up by a search index any more, and queues a job that drops its terms and its index; returns the job';

CREATE FUNCTION colcrypt.create_search_domain(
        name text, key text, normalise text[] DEFAULT '{}', plaintext_type text DEFAULT 'text', bits int DEFAULT 256) RETURNS uuid
    AS 'MODULE_PATHNAME', 'colcrypt_create_search_domain' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.create_search_domain(text, text, text[], text, int) IS
    'makes a search domain: columns whose equality indexes are in it share a search key and a normaliser, so that they can be joined, and whoever sees their terms sees which values are the same';

CREATE FUNCTION colcrypt.drop_search_domain(name text) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_drop_search_domain' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.drop_search_domain(text) IS
    'drops a search domain that no search index is in; says dropped';

-- Fired with the rights of whoever writes the table: it looks up by itself what is searched.
CREATE FUNCTION colcrypt.keep_terms() RETURNS trigger
    AS 'MODULE_PATHNAME', 'colcrypt_keep_terms' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.keep_terms() IS
    'trigger: keeps the terms of searched columns in step with their values';
