-- Escrows: who holds their shares, when each was last shown to be whole, and the drills. No secret is here: a share's commitment,
-- and what its holder signed with it.

CREATE TABLE colcrypt.escrow (
    provider_id uuid PRIMARY KEY,
    -- The public record, as colcrypt escrow create wrote it.
    record text NOT NULL,
    check_interval interval NOT NULL DEFAULT '90 days' CHECK (check_interval > '0'),
    drill_interval interval NOT NULL DEFAULT '90 days' CHECK (drill_interval > '0'),
    registered_at timestamptz NOT NULL DEFAULT now(),
    registered_by text NOT NULL DEFAULT session_user,
    -- Since when it is used no more: then nothing is due.
    retired_at timestamptz,
    retired_by text
);
COMMENT ON TABLE colcrypt.escrow IS 'escrows whose record is here, and how often shares are to be checked and recovery rehearsed';

CREATE TABLE colcrypt.custodian (
    provider_id uuid NOT NULL,
    holder text COLLATE "C" NOT NULL,
    circle text NOT NULL,
    location text,
    since timestamptz NOT NULL DEFAULT now(),
    -- When the share was last shown to be whole, as its holder's receipt says.
    checked_at timestamptz,
    PRIMARY KEY (provider_id, holder)
);
COMMENT ON TABLE colcrypt.custodian IS 'who holds a share of an escrow, where and since when';

CREATE TABLE colcrypt.escrow_drill (
    provider_id uuid NOT NULL,
    drilled_at timestamptz NOT NULL,
    succeeded boolean NOT NULL,
    -- As colcrypt escrow drill printed it, with the signatures.
    report text NOT NULL,
    recorded_by text NOT NULL DEFAULT session_user,
    PRIMARY KEY (provider_id, drilled_at)
);
COMMENT ON TABLE colcrypt.escrow_drill IS 'rehearsals of recovery, as those who took part have signed them';

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['escrow', 'custodian', 'escrow_drill'] LOOP
        EXECUTE format('REVOKE ALL ON colcrypt.%I FROM PUBLIC', t);
        PERFORM pg_catalog.pg_extension_config_dump(format('colcrypt.%I', t)::regclass, '');
    END LOOP;
END
$$;

CREATE FUNCTION colcrypt.register_escrow(
        escrow text, record text, check_interval interval DEFAULT '90 days', drill_interval interval DEFAULT '90 days') RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_register_escrow' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.register_escrow(text, text, interval, interval) IS
    'keeps the public record of an escrow (a provider of that kind) and its holders, in the place of a former one after a resharing; says registered';

CREATE FUNCTION colcrypt.set_custodian(escrow text, holder text, location text) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_set_custodian' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.set_custodian(text, text, text) IS 'says where a holder keeps a share of an escrow; says set';

CREATE FUNCTION colcrypt.record_escrow_check(escrow text, holder text, receipt text) RETURNS timestamptz
    AS 'MODULE_PATHNAME', 'colcrypt_record_escrow_check' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.record_escrow_check(text, text, text) IS
    'records that a holder''s share is whole, as the receipt of colcrypt escrow check shows, which only that share can sign; returns when it was checked';

CREATE FUNCTION colcrypt.record_drill(escrow text, report text) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_record_drill' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.record_drill(text, text) IS
    'records a rehearsal of recovery, as colcrypt escrow drill printed it and enough shares signed it; says succeeded or failed';

CREATE FUNCTION colcrypt.retire_escrow(escrow text, reason text DEFAULT NULL) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_retire_escrow' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.retire_escrow(text, text) IS
    'takes an escrow away from every keyring that is sealed to it, as drop_root does, and ends its checks and drills; says retired, or the number of the request where one of the keyrings asks for four eyes';

CREATE VIEW colcrypt.custodian_status AS
    SELECT p.name AS escrow, c.circle, c.holder, c.location, c.since, c.checked_at,
           CASE WHEN e.retired_at IS NULL THEN coalesce(c.checked_at, c.since) + e.check_interval END AS check_due,
           e.retired_at IS NULL AND coalesce(c.checked_at, c.since) + e.check_interval < now() AS is_overdue
    FROM colcrypt.custodian c JOIN colcrypt.escrow e USING (provider_id) JOIN colcrypt.provider p USING (provider_id);
COMMENT ON VIEW colcrypt.custodian_status IS
    'who holds a share of an escrow, when it was last shown to be whole, and when that is due again; nothing is due of a retired one';

CREATE VIEW colcrypt.escrow_status AS
    SELECT p.name AS escrow,
           (SELECT count(DISTINCT k.keyring_id)::int FROM colcrypt.kek_copy k WHERE k.provider_id = p.provider_id) AS keyrings,
           (SELECT count(*)::int FROM colcrypt.keyring r WHERE e.retired_at IS NULL AND NOT EXISTS (
               SELECT FROM colcrypt.kek_copy k WHERE k.keyring_id = r.keyring_id AND k.provider_id = p.provider_id)) AS keyrings_without,
           h.holders,
           h.checks_overdue,
           d.drilled_at,
           CASE WHEN e.retired_at IS NULL THEN coalesce(d.drilled_at, e.registered_at) + e.drill_interval END AS drill_due,
           e.retired_at IS NULL AND coalesce(d.drilled_at, e.registered_at) + e.drill_interval < now() AS drill_overdue,
           e.retired_at,
           e.retired_by
    FROM colcrypt.escrow e
    JOIN colcrypt.provider p USING (provider_id)
    CROSS JOIN LATERAL (SELECT max(d.drilled_at) AS drilled_at FROM colcrypt.escrow_drill d
                        WHERE d.provider_id = p.provider_id AND d.succeeded) d
    CROSS JOIN LATERAL (SELECT count(*)::int AS holders, (count(*) FILTER (WHERE s.is_overdue))::int AS checks_overdue
                        FROM colcrypt.custodian_status s WHERE s.escrow = p.name) h;
COMMENT ON VIEW colcrypt.escrow_status IS
    'escrows: keyrings sealed to each and those that are not, holders whose check is overdue, the last drill that succeeded and when the next is due; or since when it is retired, and by whom';
GRANT SELECT ON colcrypt.custodian_status, colcrypt.escrow_status, colcrypt.escrow_drill TO pg_monitor;
