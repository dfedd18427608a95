//! A requester whose own code runs in an approver's session, or in a process of the server's, gets nothing approved by
//! it.

use colcrypt_tests::of_traps::trap;
use postgres::types::{IsNull, ToSql, Type, private::BytesMut, to_sql_checked};

use crate::common::{Sql, has_xml, role};

#[test]
fn nobody_gets_his_request_approved_by_running_into_an_approver() {
    let mut trap = trap();
    trap.own(
        "CREATE TABLE checked (id int CHECK (s.tell(id)));
         CREATE TABLE indexed (id int); CREATE INDEX ON indexed ((s.tell(id)));
         CREATE TABLE part_indexed (id int); CREATE INDEX ON part_indexed (id) WHERE s.tell(id);
         CREATE TABLE made (id int, g boolean GENERATED ALWAYS AS (s.tell(id)) STORED);
         CREATE TABLE defaulted (id int, d boolean DEFAULT s.tell(1));
         CREATE TABLE fires (id int);
         CREATE TRIGGER t AFTER INSERT OR UPDATE OR DELETE ON fires FOR EACH ROW EXECUTE FUNCTION s.fires();
         CREATE TRIGGER s BEFORE TRUNCATE ON fires EXECUTE FUNCTION s.fires();
         CREATE TABLE deferred (id int);
         CREATE CONSTRAINT TRIGGER t AFTER INSERT ON deferred DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION s.fires();
         CREATE TABLE ruled (id int); CREATE RULE r AS ON INSERT TO ruled DO ALSO SELECT s.tell(1);
         CREATE RULE d AS ON DELETE TO ruled DO INSTEAD SELECT s.tell(1);
         CREATE TABLE bare (id int); INSERT INTO bare VALUES (1);
         CREATE VIEW viewed AS SELECT id, s.tell(id) FROM bare;
         CREATE VIEW nested AS SELECT * FROM viewed;
         CREATE VIEW constant AS SELECT s.tell(1);
         CREATE VIEW barrier WITH (security_barrier) AS SELECT id FROM bare WHERE s.tell(id);
         CREATE VIEW from_it AS SELECT * FROM s.tell(1);
         CREATE VIEW written AS SELECT id FROM bare;
         CREATE TRIGGER t INSTEAD OF UPDATE ON written FOR EACH ROW EXECUTE FUNCTION s.fires();
         CREATE MATERIALIZED VIEW stored AS SELECT id, s.tell(id) FROM bare WITH NO DATA;
         CREATE FUNCTION op(int, int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN s.tell($1); END';
         CREATE OPERATOR s.=== (FUNCTION = s.op, LEFTARG = int, RIGHTARG = int);
         CREATE VIEW operated AS SELECT id FROM bare WHERE id OPERATOR(s.===) 1;
         CREATE TYPE other AS (x int);
         CREATE FUNCTION conv(other) RETURNS int LANGUAGE plpgsql AS 'BEGIN PERFORM s.tell(1); RETURN 1; END';
         CREATE CAST (other AS int) WITH FUNCTION conv(other) AS ASSIGNMENT;
         CREATE TABLE converted (id int, o other); INSERT INTO converted VALUES (1, ROW(1));
         CREATE AGGREGATE s.agg(int) (SFUNC = int4pl, STYPE = int, FINALFUNC = s.tell);
         CREATE VIEW aggregated AS SELECT s.agg(id) FROM bare;
         CREATE TABLE top (id int PRIMARY KEY); INSERT INTO top VALUES (1);
         CREATE TABLE below (id int REFERENCES top ON DELETE CASCADE); INSERT INTO below VALUES (1);
         CREATE TRIGGER t AFTER DELETE ON below FOR EACH ROW EXECUTE FUNCTION s.fires();
         CREATE TABLE part (id int CHECK (s.tell(id)))",
    );
    let mut admin = trap.db.connect();
    // Attempts while all this was made are no matter.
    admin.run(
        "DELETE FROM told; CREATE TABLE public.own (id int) PARTITION BY LIST (id);
         ALTER TABLE own ATTACH PARTITION s.part FOR VALUES IN (1);
         CREATE TABLE public.mine AS SELECT 1 AS id",
    );
    admin.run("DELETE FROM told");
    for sql in [
        "INSERT INTO s.checked VALUES (1)",
        "UPDATE s.checked SET id = 2",
        "INSERT INTO s.indexed VALUES (1)",
        "INSERT INTO s.part_indexed VALUES (1)",
        "INSERT INTO s.made VALUES (1)",
        "INSERT INTO s.defaulted VALUES (1)",
        "INSERT INTO s.fires VALUES (1)",
        "UPDATE s.fires SET id = 1",
        "DELETE FROM s.fires",
        "TRUNCATE s.fires",
        "INSERT INTO s.deferred VALUES (1)",
        "BEGIN; INSERT INTO s.deferred VALUES (1); COMMIT",
        "BEGIN; INSERT INTO s.deferred VALUES (1); SET CONSTRAINTS ALL IMMEDIATE; COMMIT",
        "DO 'BEGIN INSERT INTO s.deferred VALUES (1); COMMIT; END'",
        "INSERT INTO s.ruled VALUES (1)",
        "DELETE FROM s.ruled",
        "SELECT * FROM s.viewed",
        "SELECT * FROM s.nested",
        "SELECT * FROM s.constant",
        "SELECT * FROM s.barrier",
        "SELECT * FROM s.from_it",
        "SELECT * FROM s.operated",
        "SELECT * FROM s.aggregated",
        "SELECT EXISTS (SELECT FROM s.barrier)",
        "SELECT (SELECT max(id) FROM s.barrier) FROM mine",
        "UPDATE s.written SET id = 2",
        "TABLE s.viewed",
        "INSERT INTO mine SELECT id FROM s.barrier",
        "INSERT INTO mine SELECT o FROM s.converted",
        "DELETE FROM s.top",
        "INSERT INTO own VALUES (1)",
        "INSERT INTO s.checked SELECT id FROM mine",
        "WITH w AS (INSERT INTO s.checked VALUES (1) RETURNING id) SELECT * FROM w",
        "REFRESH MATERIALIZED VIEW s.stored",
        "COPY s.checked FROM PROGRAM 'echo 1'",
        "COPY s.plain FROM PROGRAM 'echo 1' WHERE s.tell(id)",
        "COPY (SELECT * FROM s.viewed) TO PROGRAM 'cat >/dev/null'",
        "COPY (SELECT s.tell(1)) TO PROGRAM 'cat >/dev/null'",
        "EXPLAIN ANALYZE SELECT * FROM s.viewed",
        "EXPLAIN ANALYZE SELECT s.tell(id) FROM mine",
        "CREATE TABLE made1 AS SELECT * FROM s.viewed",
        "CREATE TABLE made2 AS SELECT s.tell(1)",
        "SELECT s.tell(1) AS t INTO made3",
        "CREATE MATERIALIZED VIEW made4 AS SELECT s.tell(1)",
        "PREPARE i AS INSERT INTO s.checked VALUES (1); EXECUTE i",
        "PREPARE v AS SELECT * FROM s.viewed; EXECUTE v",
        "BEGIN; DECLARE c CURSOR FOR SELECT * FROM s.viewed; FETCH c; COMMIT",
        "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT * FROM s.viewed; COMMIT; CLOSE c",
        "DO 'DECLARE r record; BEGIN FOR r IN SELECT * FROM s.viewed LOOP NULL; END LOOP; END'",
        "DO 'DECLARE c CURSOR FOR SELECT * FROM s.viewed; r record; BEGIN OPEN c; FETCH c INTO r; END'",
        "ALTER TABLE s.checked ADD COLUMN d boolean DEFAULT s.tell(1)",
        "ALTER TABLE s.bare ADD CONSTRAINT c CHECK (s.tell(id))",
        "CREATE INDEX ON s.bare ((s.tell(id)))",
        "REINDEX TABLE s.indexed",
        "ANALYZE s.indexed",
        "VACUUM FULL s.indexed",
        "CLUSTER s.indexed USING indexed_tell_idx",
    ] {
        trap.runs(sql, &mut admin, sql);
    }
    if has_xml(&mut admin) {
        for sql in [
            "SELECT query_to_xml('SELECT * FROM s.viewed', true, true, '')",
            "SELECT table_to_xml('s.viewed', true, true, '')",
        ] {
            trap.runs(sql, &mut admin, sql);
        }
    }
    // Row security is no superuser's affair: somebody who may decide and is none.
    let carol = role(&mut admin);
    admin.run(&format!(
        "SELECT require_four_eyes('ring', false);
         GRANT EXECUTE ON FUNCTION approve_request(bigint, text) TO {carol}"
    ));
    trap.own(
        "CREATE TABLE filtered (id int); INSERT INTO filtered VALUES (1);
         ALTER TABLE filtered ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON filtered USING (s.tell(id))",
    );
    let mut carol = trap.db.connect_as(&carol);
    trap.runs("policy", &mut carol, "SELECT * FROM s.filtered");
    trap.runs("policy", &mut carol, "INSERT INTO s.filtered VALUES (1)");
}

#[test]
fn code_that_runs_beside_the_statements_takes_no_decision() {
    let mut trap = trap();
    trap.own(
        "CREATE FUNCTION hold(v int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
             EXECUTE 'DECLARE held CURSOR WITH HOLD FOR SELECT s.tell(1)'; RETURN true; END $$;
         CREATE TABLE kept (id int CHECK (s.hold(id)));
         CREATE DOMAIN dom AS int CHECK (s.tell(VALUE));
         CREATE TYPE comp AS (d s.dom);
         CREATE TABLE typed (d s.dom, c s.comp, a s.dom[])",
    );
    let mut admin = trap.db.connect();
    admin.run("DELETE FROM told");
    for sql in [
        // A cursor that is kept runs when the transaction ends.
        "INSERT INTO s.kept VALUES (1); CLOSE held",
        "DO 'BEGIN INSERT INTO s.kept VALUES (1); COMMIT; END'",
        "CLOSE held; INSERT INTO s.kept VALUES (1); CLOSE held",
        // A literal is made a value when the statement is read.
        "INSERT INTO s.typed (d) VALUES (1)",
        "INSERT INTO s.typed (c) VALUES ('(1)')",
        "INSERT INTO s.typed (a) VALUES ('{1}')",
        "DO $$ BEGIN INSERT INTO s.typed (c) VALUES ('(1)'); END $$",
        "DO $$ BEGIN PERFORM FROM s.typed WHERE a = '{2}'; END $$",
        "SELECT * FROM s.typed WHERE a = '{1}'",
    ] {
        trap.runs(sql, &mut admin, sql);
    }
    // So is a parameter, before its statement runs.
    admin
        .query("SELECT FROM s.typed WHERE d = $1::s.dom", &[&Four])
        .expect("a parameter");
    trap.nothing_was_decided("a parameter");
    // A function that is called by itself, as drivers did of old, is in no statement at all.
    trap.db.client.run(
        "CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM s.tell(1); END';
         CREATE EVENT TRIGGER watch ON ddl_command_start EXECUTE FUNCTION watch()",
    );
    admin.run("DELETE FROM told");
    trap.runs("event trigger", &mut admin, "CREATE TABLE watched (id int)");
}

/// The number 4 of whatever type over integer.
#[derive(Debug)]
struct Four;

impl ToSql for Four {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&[0, 0, 0, 4]);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// The call itself, where it stands beside what is another's.
#[test]
fn a_decision_stands_beside_nothing_of_anothers() {
    let mut trap = trap();
    let (mallory, request) = (trap.mallory.clone(), trap.request);
    trap.own("CREATE VIEW v AS SELECT 1 AS id; CREATE TABLE part (id int)");
    trap.db.connect_as(&mallory).run(
        "CREATE FUNCTION s.temp() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS
             'BEGIN CREATE TEMP TABLE theirs AS SELECT 1 AS id; GRANT ALL ON theirs TO PUBLIC; END'",
    );
    let admin = &mut trap.db.client;
    admin.run(
        "CREATE TABLE own (id int) PARTITION BY LIST (id); ALTER TABLE own ATTACH PARTITION s.part FOR VALUES IN (1);
         INSERT INTO own VALUES (1); CREATE VIEW over AS SELECT id FROM s.plain; CREATE TABLE mine AS SELECT 1 AS id;
         SELECT s.temp()",
    );
    let call = format!("approve_request({request})");
    for sql in [
        format!("SELECT {call} FROM s.plain"),
        format!("SELECT {call} FROM s.v"),
        format!("SELECT {call} FROM theirs"),
        format!("SELECT {call} FROM own"),
        format!("SELECT {call} FROM over"),
        format!("SELECT {call} WHERE EXISTS (SELECT FROM s.plain)"),
        format!("INSERT INTO mine SELECT 2 WHERE {call} IS NOT NULL"),
        format!("CREATE TABLE x AS SELECT {call}"),
        format!("EXPLAIN ANALYZE SELECT {call}"),
        format!("COPY (SELECT {call}) TO PROGRAM 'cat >/dev/null'"),
        format!("WITH w AS (DELETE FROM mine RETURNING id) SELECT {call}"),
        format!("UPDATE mine SET id = 2 WHERE {call} = 'granted'"),
    ] {
        admin.fails("KC044", &sql);
    }
    // In a view of the bootstrap superuser's, and over the server's catalogs, it is allowed: once.
    assert_eq!(
        admin.one(&format!(
            "SELECT {call} FROM pg_class c JOIN mine m ON c.oid = 'mine'::regclass"
        )),
        "granted"
    );
}
