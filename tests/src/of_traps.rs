//! What somebody sets up for an approver to run into.

use postgres::Client;

use crate::db::{Db, Sql, db, role, unique};

/// The key's ring asks for four eyes, and mallory has asked for the right to decrypt. What she and a role that nobody
/// logs in as own tries to approve that, in every way a function can call another, and notes what it was told.
pub struct Trap {
    pub db: Db,
    pub mallory: String,
    /// She is a member, and it may manage the key.
    pub group: String,
    pub request: i64,
}

pub fn trap() -> Trap {
    trap_in(db())
}

pub fn trap_in(mut db: Db) -> Trap {
    let mallory = role(&mut db.client);
    let group = unique("g");
    db.client.run(&format!(
        "CREATE ROLE {group} NOLOGIN; GRANT {group} TO {mallory};
         SELECT grant_key('k', '{mallory}', '{{manage}}'), grant_key('k', '{group}', '{{manage}}');
         SELECT require_four_eyes('ring');
         GRANT EXECUTE ON FUNCTION grant_key(text, text, text[]), approve_request(bigint, text) TO {mallory}, {group};
         CREATE TABLE told (code text, message text);
         CREATE FUNCTION note(text, text) RETURNS void LANGUAGE sql SECURITY DEFINER AS
             'INSERT INTO public.told VALUES ($1, $2)';
         CREATE SCHEMA s AUTHORIZATION {mallory}"
    ));
    let mut theirs = db.connect_as(&mallory);
    let request = theirs
        .one(&format!(
            "SELECT grant_key('k', '{mallory}', '{{decrypt}}')"
        ))
        .trim_start_matches("waiting for approval ")
        .parse()
        .unwrap();
    theirs.run(&format!(
        "ALTER DEFAULT PRIVILEGES FOR ROLE {group}, {mallory} IN SCHEMA s GRANT ALL ON TABLES TO PUBLIC;
         GRANT ALL ON SCHEMA s TO {group}; GRANT USAGE ON SCHEMA s TO PUBLIC;
         CREATE PROCEDURE s.approve() LANGUAGE plpgsql AS $$ BEGIN PERFORM colcrypt.approve_request({request}); END $$;
         CREATE FUNCTION s.try(how text) RETURNS void LANGUAGE plpgsql AS $$
         DECLARE r record; t text; c refcursor; BEGIN
             BEGIN
                 CASE how
                 WHEN 'perform' THEN PERFORM colcrypt.approve_request({request});
                 WHEN 'assign' THEN t := colcrypt.approve_request({request});
                 WHEN 'loop' THEN FOR r IN SELECT colcrypt.approve_request({request}) LOOP NULL; END LOOP;
                 WHEN 'cursor' THEN OPEN c FOR SELECT colcrypt.approve_request({request}); FETCH c INTO t; CLOSE c;
                 WHEN 'do' THEN EXECUTE 'DO ''BEGIN CALL s.approve(); END''';
                 WHEN 'sql cursor' THEN
                     EXECUTE 'DECLARE mine CURSOR FOR SELECT colcrypt.approve_request({request})'; EXECUTE 'FETCH mine'; EXECUTE 'CLOSE mine';
                 WHEN 'prepared' THEN
                     EXECUTE 'PREPARE mine AS SELECT colcrypt.approve_request({request})'; EXECUTE 'EXECUTE mine';
                 END CASE;
                 PERFORM public.note('00000', how);
             EXCEPTION WHEN OTHERS THEN
                 IF SQLSTATE NOT IN ('42704', '42501') THEN PERFORM public.note(SQLSTATE, how || ': ' || SQLERRM); END IF;
             END;
             IF how = 'prepared' THEN
                 BEGIN EXECUTE 'DEALLOCATE mine'; EXCEPTION WHEN OTHERS THEN NULL; END;
             END IF;
         END $$;
         CREATE FUNCTION s.tell(v int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$ BEGIN
             PERFORM s.try(how) FROM unnest('{{perform,assign,loop,cursor,do,sql cursor,prepared}}'::text[]) how; RETURN true; END $$;
         CREATE FUNCTION s.fires() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             PERFORM s.tell(pg_backend_pid()); RETURN coalesce(NEW, OLD); END $$;
         CREATE TABLE s.plain (id int); INSERT INTO s.plain VALUES (1)"
    ));
    Trap {
        db,
        mallory,
        group,
        request,
    }
}

impl Trap {
    /// The owner's definitions; what they make belongs to the role that nobody logs in as, and others may use it.
    pub fn own(&mut self, sql: &str) {
        let group = &self.group;
        self.db.connect_as(&self.mallory).run(&format!(
            "SET ROLE {group}; SET search_path = s, colcrypt; {sql}"
        ));
    }

    /// Nothing was decided, each attempt was refused for that reason, and attempts there were.
    pub fn nothing_was_decided(&mut self, way: &str) {
        let admin = &mut self.db.client;
        let told = admin.rows("SELECT DISTINCT code, message FROM told");
        assert!(!told.is_empty(), "{way}: the code never ran");
        let all_refused = told.iter().all(|row| row[0].as_deref() == Some("KC044"));
        assert!(all_refused, "{way}: {told:?}");
        let request = self.request;
        assert_eq!(
            admin.opt(&format!(
                "SELECT outcome FROM approval_request WHERE request_id = {request}"
            )),
            None,
            "{way}"
        );
        admin.run("DELETE FROM told");
    }

    /// Somebody who might decide runs into it.
    pub fn runs(&mut self, way: &str, client: &mut Client, sql: &str) {
        // It may well fail, as long as what is told stays.
        if let Err(error) = client.simple_query(sql) {
            panic!("{way}: {sql}\n{error:?}");
        }
        self.nothing_was_decided(way);
    }
}
