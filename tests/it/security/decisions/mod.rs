//! Kind 1: decisions are taken by people: an administrative function is refused where somebody else's code may have
//! called it.

use postgres::Client;

use crate::common::{Db, Sql, db, role};

mod approvals;
mod identity;
mod processes;

/// A database where a role owns a schema and a function that decides in the name of whoever runs into it.
fn trap() -> (Db, Client, String) {
    let mut db = db();
    let mallory = role(&mut db.client);
    db.client.run(&format!(
        "CREATE SCHEMA s AUTHORIZATION {mallory};
         GRANT EXECUTE ON FUNCTION grant_key(text, text, text[]) TO {mallory}"
    ));
    let mut theirs = db.connect_as(&mallory);
    theirs.run(&format!(
        "CREATE FUNCTION s.evil(v int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$ BEGIN
             PERFORM s.decide(); RETURN true; END $$;
         CREATE FUNCTION s.decide() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
             PERFORM colcrypt.grant_key('k', '{mallory}', '{{decrypt}}'); END $$;
         CREATE FUNCTION s.fires() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             PERFORM s.decide(); RETURN NEW; END $$;
         CREATE TABLE s.plain (id int);
         INSERT INTO s.plain VALUES (1)"
    ));
    (db, theirs, mallory)
}

/// What is done in the administrator's session fails, and nothing was granted.
fn is_refused(db: &mut Db, sql: &str) {
    db.client.fails("KC044", sql);
    assert_eq!(
        db.client.one(
            "SELECT count(*) FROM key_grant WHERE can_decrypt AND grantee <> 'postgres'::regrole"
        ),
        "0",
        "{sql}"
    );
}

#[test]
fn code_of_a_tables_owner_takes_no_decision() {
    let (mut db, mut theirs, _) = trap();
    theirs.run(
        "CREATE TABLE s.checked (id int);
         ALTER TABLE s.checked ADD CHECK (s.evil(id));
         CREATE TABLE s.indexed (id int); CREATE INDEX ON s.indexed ((s.evil(id)));
         CREATE TABLE s.made (id int, g boolean GENERATED ALWAYS AS (s.evil(id)) STORED);
         CREATE DOMAIN s.dom AS int CHECK (s.evil(VALUE));
         CREATE TABLE s.domained (id s.dom);
         CREATE TABLE s.defaulted (id int, d boolean DEFAULT s.evil(1));
         CREATE TABLE s.triggered (id int);
         CREATE TRIGGER t BEFORE INSERT ON s.triggered FOR EACH ROW EXECUTE FUNCTION s.fires();
         CREATE TABLE s.deferred (id int);
         CREATE CONSTRAINT TRIGGER t AFTER INSERT ON s.deferred DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION s.fires();
         CREATE TABLE s.ruled (id int);
         CREATE RULE r AS ON INSERT TO s.ruled DO INSTEAD SELECT s.decide();
         CREATE VIEW s.viewed AS SELECT id, s.evil(id) FROM s.plain;
         CREATE VIEW s.bare AS SELECT s.evil(1) AS v",
    );
    for table in [
        "checked",
        "indexed",
        "made",
        "domained",
        "defaulted",
        "triggered",
        "deferred",
        "ruled",
    ] {
        is_refused(&mut db, &format!("INSERT INTO s.{table} (id) VALUES (1)"));
        is_refused(
            &mut db,
            &format!("DO 'BEGIN INSERT INTO s.{table} (id) VALUES (1); COMMIT; END'"),
        );
    }
    is_refused(&mut db, "SELECT * FROM s.viewed");
    is_refused(&mut db, "SELECT * FROM s.bare");
    is_refused(&mut db, "CREATE TABLE c AS SELECT s.evil(1) AS v");
    theirs.run("CREATE TABLE s.late (id int); INSERT INTO s.late VALUES (1)");
    is_refused(&mut db, "ALTER TABLE s.late ADD CHECK (s.evil(id))");
    is_refused(&mut db, "CREATE INDEX ON s.late ((s.evil(id)))");
}

#[test]
fn people_decide_as_they_are_used_to() {
    let (mut db, _, mallory) = trap();
    let grant = format!("colcrypt.grant_key('k', '{mallory}')");
    db.client.run(&format!("SELECT {grant}"));
    db.client.run(&format!(
        "DO 'BEGIN PERFORM {}; END'",
        grant.replace('\'', "''")
    ));
    db.client.run(&format!(
        "CREATE TABLE mine AS SELECT 1 AS id; SELECT {grant} FROM mine; SELECT {grant} FROM key_status LIMIT 1;
         PREPARE p AS SELECT {grant}; EXECUTE p;
         BEGIN; DECLARE c CURSOR FOR SELECT {grant}; FETCH c; COMMIT;
         CREATE PROCEDURE admin() LANGUAGE plpgsql AS $$ BEGIN PERFORM {grant}; COMMIT; PERFORM {grant}; END $$"
    ));
    db.client.run("CALL admin()");
    db.client
        .query(&format!("SELECT {grant}"), &[])
        .expect("extended protocol");
    // A failure that was caught leaves nothing behind.
    db.client.run(&format!(
        "DO $$ BEGIN
             BEGIN EXECUTE 'INSERT INTO mine SELECT 1/0'; EXCEPTION WHEN division_by_zero THEN NULL; END;
             PERFORM {grant}; END $$"
    ));
    db.client.fails("22012", "INSERT INTO mine SELECT 1/0");
    db.client.run(&format!("SELECT {grant}"));
}

/// A function that decides is known by its C symbol: none goes by another.
#[test]
fn every_function_that_decides_is_asked_who_calls() {
    use colcrypt_core::verbs::{VERBS, is_verb};
    let mut db = db();
    let names: Vec<_> = VERBS
        .iter()
        .map(|verb| format!("'{}'", verb.name))
        .collect();
    for row in db.client.rows(&format!(
        "SELECT p.oid::regprocedure, prosrc, lanname FROM pg_proc p JOIN pg_language l ON l.oid = prolang
         WHERE pronamespace = 'colcrypt'::regnamespace AND proname IN ({})",
        names.join(", ")
    )) {
        let (function, symbol) = (row[0].as_deref().unwrap(), row[1].as_deref().unwrap());
        assert_eq!(row[2].as_deref(), Some("c"), "{function}");
        let name = symbol.strip_prefix("colcrypt_");
        assert!(name.is_some_and(is_verb), "{function}: {symbol}");
    }
}
