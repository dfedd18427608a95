-- Four eyes: requests of one role that wait for another one's approval.

-- Not dumped: who may not approve is told by OIDs, which in another cluster are other roles. What was
-- decided is in the audit log; what waits is asked for again.
CREATE TABLE colcrypt.approval_request (
    request_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    keyring_id uuid NOT NULL,
    key_id bigint,
    function text NOT NULL,
    arguments jsonb NOT NULL,
    -- Who asked: names for people to read, OIDs for the rule that nobody approves their own.
    requested_by text NOT NULL,
    requested_as text NOT NULL,
    login_role oid NOT NULL,
    session_role oid NOT NULL,
    acting_role oid NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    outcome text CHECK (outcome IN ('approved', 'rejected', 'withdrawn', 'expired')),
    decided_by text,
    decided_as text,
    decided_at timestamptz,
    reason text,
    CHECK ((outcome IS NULL) = (decided_at IS NULL))
);
CREATE INDEX approval_request_open ON colcrypt.approval_request (expires_at) WHERE outcome IS NULL;
COMMENT ON TABLE colcrypt.approval_request IS
    'acts on four-eyes keyrings: what was asked for, by whom, and how it was decided; not dumped';
REVOKE ALL ON colcrypt.approval_request FROM PUBLIC;

CREATE FUNCTION colcrypt.require_four_eyes(
        keyring text, enabled boolean DEFAULT true, approval_window interval DEFAULT NULL) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_require_four_eyes' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.require_four_eyes(text, boolean, interval) IS
    'makes activation, destruction, moves and grants on a keyring''s keys wait for a second role''s approval; switching it off, or another window, waits for one itself';

CREATE FUNCTION colcrypt.approve_request(request bigint, reason text DEFAULT NULL) RETURNS text
    AS 'MODULE_PATHNAME', 'colcrypt_approve_request' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.approve_request(bigint, text) IS
    'does what another role asked for, if it can still be done; returns what the function asked for would have';

CREATE FUNCTION colcrypt.reject_request(request bigint, reason text) RETURNS void
    AS 'MODULE_PATHNAME', 'colcrypt_reject_request' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.reject_request(bigint, text) IS
    'refuses for good what another role asked for, and says why';

CREATE FUNCTION colcrypt.withdraw_request(request bigint) RETURNS void
    AS 'MODULE_PATHNAME', 'colcrypt_withdraw_request' LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION colcrypt.withdraw_request(bigint) IS 'takes one''s own request back';

CREATE VIEW colcrypt.approval_requests AS
    SELECT a.request_id,
           r.name AS keyring,
           k.name AS key,
           a.function,
           a.arguments,
           a.requested_by,
           a.requested_as,
           a.requested_at,
           a.expires_at,
           coalesce(a.outcome, CASE WHEN a.expires_at > clock_timestamp() THEN 'pending' ELSE 'expired' END) AS outcome,
           a.decided_by,
           a.decided_as,
           a.decided_at,
           a.reason
    FROM colcrypt.approval_request a
    LEFT JOIN colcrypt.keyring r USING (keyring_id)
    LEFT JOIN colcrypt.key k USING (key_id);
COMMENT ON VIEW colcrypt.approval_requests IS
    'acts on four-eyes keyrings: outcome is pending, approved, rejected, withdrawn or expired; a role that manages such a keyring or a key of it may read it';
GRANT SELECT ON colcrypt.approval_requests TO pg_monitor;
