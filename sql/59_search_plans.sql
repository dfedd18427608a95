-- Search indexes in plans.

CREATE FUNCTION colcrypt.on_terms_support(internal) RETURNS internal
    AS 'MODULE_PATHNAME', 'colcrypt_on_terms_support' LANGUAGE c IMMUTABLE STRICT;
COMMENT ON FUNCTION colcrypt.on_terms_support(internal) IS 'planner support of on_terms';
CREATE FUNCTION colcrypt.on_terms(condition boolean) RETURNS boolean
    AS 'MODULE_PATHNAME', 'colcrypt_on_terms' LANGUAGE c IMMUTABLE PARALLEL SAFE COST 1 SUPPORT colcrypt.on_terms_support;
COMMENT ON FUNCTION colcrypt.on_terms(boolean) IS
    'for plans: what stands beside a condition on all members of a UNION ALL until it becomes the condition on terms of each';

CREATE FUNCTION colcrypt.explain_search(
        query text,
        OUT condition text, OUT relation regclass, OUT attribute name, OUT kind text, OUT served boolean, OUT why text)
    RETURNS SETOF record AS 'MODULE_PATHNAME', 'colcrypt_explain_search' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.explain_search(text) IS
    'plans one statement for the current role, without running it, and says of each condition on an encrypted column whether a search index serves it, and why not';

CREATE FUNCTION colcrypt.unserved_searches(
        OUT relation regclass, OUT attribute name, OUT kind text, OUT lack text, OUT statements bigint, OUT latest timestamptz)
    RETURNS SETOF record AS 'MODULE_PATHNAME', 'colcrypt_unserved_searches' LANGUAGE c VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION colcrypt.unserved_searches() IS 'for the view unserved_search';
CREATE VIEW colcrypt.unserved_search AS
    SELECT relation, attribute, kind, lack, statements, latest FROM colcrypt.unserved_searches();
COMMENT ON VIEW colcrypt.unserved_search IS
    'encrypted columns that statements compared and no search index served, how many were planned since the server started, the kind of index that would have, and what it lacks: what such a statement meets it decrypts row by row';
GRANT EXECUTE ON FUNCTION colcrypt.unserved_searches() TO pg_monitor;
GRANT SELECT ON colcrypt.unserved_search TO pg_monitor;
