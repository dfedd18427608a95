-- Search: columns that are found by keyed terms. A search index keeps its terms in a companion column of the user's table, with an
-- index of the server's own kinds on it; a trigger of ours writes them.

-- Columns that are meant to be compared share a key, a normaliser and what their values are.
CREATE TABLE colcrypt.search_domain (
    domain_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text COLLATE "C" NOT NULL UNIQUE CHECK (octet_length(name) BETWEEN 1 AND 200),
    key_id bigint NOT NULL,
    -- What equality means for the values: see crates/search.
    class text NOT NULL,
    normalise text[] NOT NULL DEFAULT '{}',
    -- Of our rules, and of the Unicode data that they go by.
    normaliser_version int NOT NULL,
    unicode_version text NOT NULL,
    bits int NOT NULL CHECK (bits BETWEEN 8 AND 256),
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE colcrypt.search_domain IS 'what columns share, on purpose, that can be joined by their terms';

CREATE TABLE colcrypt.search_index (
    search_index_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    relation regclass NOT NULL,
    attribute name NOT NULL,
    kind text NOT NULL CHECK (kind IN ('equality', 'range', 'text')),
    class text NOT NULL,
    normalise text[] NOT NULL DEFAULT '{}',
    normaliser_version int NOT NULL,
    unicode_version text NOT NULL,
    key_id bigint NOT NULL,
    domain_id uuid,
    -- Equality: how long terms are, and whether two rows may have the same.
    bits int NOT NULL DEFAULT 256 CHECK (bits BETWEEN 8 AND 256),
    is_unique boolean NOT NULL DEFAULT false,
    -- Range: low bits of a value's place in the order that are dropped, bits a level, levels.
    granularity int,
    sparsity int,
    levels int,
    -- Text: letters of an n-gram.
    gram int,
    -- Rows have come for which nobody answers who may read them: terms are made once somebody who manages the keys orders it.
    awaits_order boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT search_index_column UNIQUE (relation, attribute, kind),
    CONSTRAINT search_index_kind CHECK (CASE kind WHEN 'range' THEN num_nulls(granularity, sparsity, levels) = 0 WHEN 'text' THEN gram IS NOT NULL ELSE true END)
);
COMMENT ON TABLE colcrypt.search_index IS 'encrypted columns that are found by keyed terms';

-- One for each version of the search key that terms are made with: two while the key is rotated.
CREATE TABLE colcrypt.search_companion (
    search_index_id uuid NOT NULL,
    key_version int NOT NULL CHECK (key_version > 0),
    -- The column of the table that holds the terms, and the index on it.
    attribute name NOT NULL,
    index_name name,
    -- Until then a column of this name is somebody's own.
    is_made boolean NOT NULL DEFAULT false,
    state text NOT NULL DEFAULT 'building' CHECK (state IN ('building', 'ready', 'retired')),
    -- A snapshot that sees this transaction sees all terms. One of the future is of the server that this was restored from.
    ready_xid xid8,
    ready_at timestamptz,
    PRIMARY KEY (search_index_id, key_version)
);
COMMENT ON TABLE colcrypt.search_companion IS 'the columns of users'' tables that hold terms, one for each version of the search key that is in use';

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['search_domain', 'search_index', 'search_companion'] LOOP
        EXECUTE format('CREATE TRIGGER catalog_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON colcrypt.%I '
                       'FOR EACH STATEMENT EXECUTE FUNCTION colcrypt.catalog_changed()', t);
        EXECUTE format('ALTER TABLE colcrypt.%I ENABLE ALWAYS TRIGGER catalog_changed', t);
        EXECUTE format('CREATE TRIGGER catalog_changes BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON colcrypt.%I '
                       'FOR EACH STATEMENT EXECUTE FUNCTION colcrypt.catalog_changed()', t);
        EXECUTE format('ALTER TABLE colcrypt.%I ENABLE ALWAYS TRIGGER catalog_changes', t);
        EXECUTE format('CREATE TRIGGER catalog_changed_row AFTER INSERT OR UPDATE OR DELETE ON colcrypt.%I '
                       'FOR EACH ROW EXECUTE FUNCTION colcrypt.catalog_changed()', t);
        EXECUTE format('ALTER TABLE colcrypt.%I ENABLE REPLICA TRIGGER catalog_changed_row', t);
    END LOOP;
    PERFORM pg_catalog.pg_extension_config_dump('colcrypt.search_domain', '');
    PERFORM pg_catalog.pg_extension_config_dump('colcrypt.search_index',
        'WHERE EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = relation)');
    PERFORM pg_catalog.pg_extension_config_dump('colcrypt.search_companion',
        'WHERE EXISTS (SELECT FROM colcrypt.search_index i JOIN pg_catalog.pg_class c ON c.oid = i.relation WHERE i.search_index_id = search_companion.search_index_id)');
END
$$;
REVOKE ALL ON colcrypt.search_domain, colcrypt.search_index, colcrypt.search_companion FROM PUBLIC;
GRANT SELECT ON colcrypt.search_domain, colcrypt.search_index, colcrypt.search_companion TO pg_monitor;

-- Terms of ranges and of texts are arrays, under a GIN index. The operators are the server's own functions; declared by us they may be said not to leak,
-- which an index needs under a row policy: what they compare are terms. How many rows they find is told from the column's statistics by trying
-- them on values there; the server's own estimate for arrays knows its own operators alone.
CREATE FUNCTION colcrypt.terms_overlap(bigint[], bigint[]) RETURNS boolean
    AS 'arrayoverlap' LANGUAGE internal IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION colcrypt.terms_overlap(bigint[], bigint[]) IS 'whether two arrays of terms have one in common';
CREATE FUNCTION colcrypt.terms_contain(bigint[], bigint[]) RETURNS boolean
    AS 'arraycontains' LANGUAGE internal IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION colcrypt.terms_contain(bigint[], bigint[]) IS 'whether the first array of terms has all of the second';
CREATE OPERATOR colcrypt.&& (
    LEFTARG = bigint[], RIGHTARG = bigint[], FUNCTION = colcrypt.terms_overlap, COMMUTATOR = OPERATOR(colcrypt.&&),
    RESTRICT = matchingsel, JOIN = matchingjoinsel);
CREATE OPERATOR colcrypt.@> (
    LEFTARG = bigint[], RIGHTARG = bigint[], FUNCTION = colcrypt.terms_contain, RESTRICT = matchingsel, JOIN = matchingjoinsel);
CREATE OPERATOR FAMILY colcrypt.term_ops USING gin;
CREATE OPERATOR CLASS colcrypt.term_ops FOR TYPE bigint[] USING gin FAMILY colcrypt.term_ops AS
    OPERATOR 1 colcrypt.&& (bigint[], bigint[]),
    OPERATOR 2 colcrypt.@> (bigint[], bigint[]),
    FUNCTION 1 pg_catalog.btint8cmp(bigint, bigint),
    FUNCTION 2 pg_catalog.ginarrayextract(anyarray, internal, internal),
    FUNCTION 3 pg_catalog.ginqueryarrayextract(anyarray, internal, smallint, internal, internal, internal, internal),
    FUNCTION 4 pg_catalog.ginarrayconsistent(internal, smallint, anyarray, integer, internal, internal, internal, internal),
    FUNCTION 6 pg_catalog.ginarraytriconsistent(internal, smallint, anyarray, integer, internal, internal, internal),
    STORAGE bigint;

-- What a query looks rows up by. Each asks the right to search.
CREATE FUNCTION colcrypt.search_term(relation regclass, attribute name, value anyelement) RETURNS bytea
    AS 'MODULE_PATHNAME', 'colcrypt_search_term' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 100;
-- A literal without a type is a text.
CREATE FUNCTION colcrypt.search_term(relation regclass, attribute name, value text) RETURNS bytea
    AS 'MODULE_PATHNAME', 'colcrypt_search_term' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 100;
CREATE FUNCTION colcrypt.search_term(relation regclass, attribute name, value anyelement, key_version int) RETURNS bytea
    AS 'MODULE_PATHNAME', 'colcrypt_search_term' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 100;
COMMENT ON FUNCTION colcrypt.search_term(regclass, name, anyelement) IS
    'the term by which rows are found whose encrypted column equals the value, as the companion of its equality index holds it; needs the right to search';
COMMENT ON FUNCTION colcrypt.search_term(regclass, name, text) IS
    'the same of a text';
COMMENT ON FUNCTION colcrypt.search_term(regclass, name, anyelement, int) IS
    'the same under a version of the search key, while two are in use';
CREATE FUNCTION colcrypt.search_terms(relation regclass, attribute name, "values" anyarray) RETURNS bytea[]
    AS 'MODULE_PATHNAME', 'colcrypt_search_terms' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 200;
CREATE FUNCTION colcrypt.search_terms(relation regclass, attribute name, "values" anyarray, key_version int) RETURNS bytea[]
    AS 'MODULE_PATHNAME', 'colcrypt_search_terms' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 200;
COMMENT ON FUNCTION colcrypt.search_terms(regclass, name, anyarray) IS
    'the terms of several values, for = ANY; one that is null has none; needs the right to search';
COMMENT ON FUNCTION colcrypt.search_terms(regclass, name, anyarray, int) IS
    'the same under a version of the search key, while two are in use';
CREATE FUNCTION colcrypt.range_terms(relation regclass, attribute name, low anyelement, high anyelement) RETURNS bigint[]
    AS 'MODULE_PATHNAME', 'colcrypt_range_terms' LANGUAGE c STABLE PARALLEL SAFE COST 400;
CREATE FUNCTION colcrypt.range_terms(relation regclass, attribute name, low anyelement, high anyelement, key_version int) RETURNS bigint[]
    AS 'MODULE_PATHNAME', 'colcrypt_range_terms' LANGUAGE c STABLE PARALLEL SAFE COST 400;
COMMENT ON FUNCTION colcrypt.range_terms(regclass, name, anyelement, anyelement) IS
    'terms of which each row has one whose encrypted column is in the range, both ends with it, null for an open one; others may have one, too: compare the decrypted values; needs the right to search';
COMMENT ON FUNCTION colcrypt.range_terms(regclass, name, anyelement, anyelement, int) IS
    'the same under a version of the search key, while two are in use';
CREATE FUNCTION colcrypt.pattern_terms(relation regclass, attribute name, pattern text, "escape" text DEFAULT '\') RETURNS bigint[]
    AS 'MODULE_PATHNAME', 'colcrypt_pattern_terms' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 400;
CREATE FUNCTION colcrypt.pattern_terms(relation regclass, attribute name, pattern text, "escape" text, key_version int) RETURNS bigint[]
    AS 'MODULE_PATHNAME', 'colcrypt_pattern_terms' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 400;
COMMENT ON FUNCTION colcrypt.pattern_terms(regclass, name, text, text) IS
    'terms that each row has whose encrypted column is LIKE the pattern, or ILIKE it; others may have them, too; none for a pattern without a piece that is long enough; needs the right to search';
COMMENT ON FUNCTION colcrypt.pattern_terms(regclass, name, text, text, int) IS
    'the same under a version of the search key, while two are in use';

CREATE FUNCTION colcrypt.recheck_support(internal) RETURNS internal
    AS 'MODULE_PATHNAME', 'colcrypt_recheck_support' LANGUAGE c IMMUTABLE STRICT;
COMMENT ON FUNCTION colcrypt.recheck_support(internal) IS 'planner support of recheck';
CREATE FUNCTION colcrypt.recheck(condition boolean) RETURNS boolean
    AS 'MODULE_PATHNAME', 'colcrypt_recheck' LANGUAGE c IMMUTABLE PARALLEL SAFE COST 1 SUPPORT colcrypt.recheck_support;
COMMENT ON FUNCTION colcrypt.recheck(boolean) IS
    'the condition itself, for plans: beside a condition on terms, which says how many rows there are, it is a filter that lets all of them pass';
CREATE FUNCTION colcrypt.decrypts_to(value colcrypt.ciphertext, plaintext anyelement) RETURNS boolean
    AS 'MODULE_PATHNAME', 'colcrypt_decrypts_to' LANGUAGE c STABLE PARALLEL SAFE COST 50 SUPPORT colcrypt.recheck_support;
CREATE FUNCTION colcrypt.decrypts_to(value colcrypt.ciphertext, plaintext anyelement, context bytea) RETURNS boolean
    AS 'MODULE_PATHNAME', 'colcrypt_decrypts_to' LANGUAGE c STABLE PARALLEL SAFE COST 50 SUPPORT colcrypt.recheck_support;
CREATE FUNCTION colcrypt.decrypts_to_in_place(value colcrypt.ciphertext, plaintext anyelement, label text, VARIADIC "any") RETURNS boolean
    AS 'MODULE_PATHNAME', 'colcrypt_decrypts_to_in_place' LANGUAGE c STABLE PARALLEL SAFE COST 60 SUPPORT colcrypt.recheck_support;
COMMENT ON FUNCTION colcrypt.decrypts_to(colcrypt.ciphertext, anyelement) IS
    'whether decrypt_col gives that value, of a type whose values are equal where they are the same bytes; for plans, as recheck: it needs the right to decrypt';
COMMENT ON FUNCTION colcrypt.decrypts_to(colcrypt.ciphertext, anyelement, bytea) IS
    'the same of a value that is bound to a context';
COMMENT ON FUNCTION colcrypt.decrypts_to_in_place(colcrypt.ciphertext, anyelement, text, "any") IS
    'the same of a value that is bound to place_context of the label and the key';
