//! Kind 2: a relation is held by OID under a lock before anything is believed of it.

use std::sync::mpsc;
use std::time::Duration;

use colcrypt_tests::wait_for;
use postgres::Client;

use crate::common::{Db, LONG, Sql, db, role, unique};

/// Schema `s` is mallory's, table `s.t` the superuser's, with a ciphertext column under key `ka`. `evil2` notes who
/// runs it.
pub struct Scene {
    pub db: Db,
    pub mallory: String,
    pub schema: String,
}

/// These look into the catalogs alone.
const WAITS_FOR_NO_TABLE: [&str; 3] = [
    "SELECT * FROM decrypt_column('SCHEMA.t', 'c', dry_run => true)",
    "SELECT reencrypt_column('SCHEMA.t', 'c')",
    "SELECT unregister_column('SCHEMA.t', 'c')",
];

pub fn scene() -> Scene {
    let mut db = db();
    let mallory = role(&mut db.client);
    let schema = unique("s");
    db.client.run(&format!(
        "SELECT create_key('ka', 'ring');
         CREATE SCHEMA {schema} AUTHORIZATION {mallory};
         CREATE TABLE public.who (name text); GRANT ALL ON public.who TO PUBLIC;
         GRANT CREATE ON DATABASE {database} TO {mallory};
         CREATE TABLE {schema}.t (id bigint, c ciphertext, p text);
         INSERT INTO {schema}.t SELECT g, encrypt_col('x', 'ka') FROM generate_series(1, 5) g;
         SELECT register_column('{schema}.t', 'c', 'ka');
         SELECT rotate_key('ka'); ",
        database = db.name
    ));
    wait_for("the job", LONG, || {
        db.client
            .yes("SELECT bool_and(finished_at IS NOT NULL) FROM colcrypt.job_progress")
    });
    db.connect_as(&mallory).run(&format!(
        "CREATE FUNCTION {schema}.evil2() RETURNS colcrypt.ciphertext LANGUAGE plpgsql VOLATILE AS
             $$ BEGIN INSERT INTO public.who VALUES (current_user); RETURN NULL; END $$"
    ));
    Scene {
        db,
        mallory,
        schema,
    }
}

impl Scene {
    /// Runs `call` so that it waits for the table, which is swapped for a view of mallory's meanwhile.
    fn swapped_under(&mut self, call: &str) {
        let Self {
            db,
            mallory,
            schema,
        } = self;
        let mut swapper = db.connect();
        swapper.run(&format!("BEGIN; LOCK TABLE {schema}.t"));
        let (done, is_done) = mpsc::channel();
        std::thread::scope(|scope| {
            let mut caller = db.connect();
            let sql = call.replace("SCHEMA", schema);
            scope.spawn(move || {
                // It may well be refused: what counts is whose code ran.
                let _ = caller.simple_query(&sql);
                done.send(()).unwrap();
            });
            let mut waits = false;
            wait_for("the caller to wait, or be done", LONG, || {
                waits = swapper.yes(&format!(
                    "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = '{schema}.t'::regclass AND NOT granted)"
                ));
                waits || is_done.recv_timeout(Duration::from_millis(50)).is_ok()
            });
            // Otherwise nothing is shown: the swap must come while the call waits.
            assert!(
                waits || WAITS_FOR_NO_TABLE.contains(&call),
                "{call} did not wait"
            );
            swapper.run(&format!(
                "DROP TABLE {schema}.t; SET SESSION AUTHORIZATION {mallory};
                 CREATE VIEW {schema}.t AS SELECT 1::bigint AS id, {schema}.evil2() AS c; COMMIT"
            ));
        });
        self.nobody_ran_it(call);
    }

    pub fn nobody_ran_it(&mut self, call: &str) {
        let strangers = format!(
            "SELECT count(*) FROM public.who WHERE name <> '{}'",
            self.mallory
        );
        assert_eq!(self.db.client.one(&strangers), "0", "{call}");
    }
}

#[test]
fn a_table_that_is_swapped_for_a_view_runs_no_code_of_its_maker() {
    for call in [
        "SELECT * FROM rows_needing_key('ka', 1)",
        "SELECT * FROM rows_needing_key('ka', 2)",
        "SELECT schedule_key_destruction('ka', 1, interval '1 hour', 'test')",
        "SELECT mark_compromised('ka', 1, 'test')",
        "SELECT * FROM take_census('SCHEMA.t', 'c')",
        "SELECT register_column('SCHEMA.t', 'c', 'ka', 'colcrypt.row_context(id)')",
        "SELECT create_access_view('SCHEMA.t')",
        "SELECT * FROM decrypt_column('SCHEMA.t', 'c', dry_run => true)",
        "SELECT reencrypt_column('SCHEMA.t', 'c')",
        "SELECT unregister_column('SCHEMA.t', 'c')",
        "SELECT * FROM encrypt_column('SCHEMA.t', 'p', 'ka', 'colcrypt.row_context(id)', access_view => false, dry_run => true)",
    ] {
        scene().swapped_under(call);
    }
}

/// The worker, with its statements that say the table's name: the schema is renamed and another takes its name.
#[test]
fn a_schema_that_is_renamed_puts_no_other_relation_in_the_name() {
    let mut scene = scene();
    let schema = scene.schema.clone();
    let mut holder = scene.db.connect();
    holder.run(&format!(
        "BEGIN; LOCK TABLE {schema}.t IN ACCESS EXCLUSIVE MODE"
    ));
    scene.db.client.run("SELECT rotate_key('ka')");
    wait_for("the worker to wait", LONG, || {
        holder.yes(&format!(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = '{schema}.t'::regclass AND NOT granted)"
        ))
    });
    let mut mallory = scene.db.connect_as(&scene.mallory);
    mallory.run(&format!(
        "BEGIN; ALTER SCHEMA {schema} RENAME TO {schema}_old; CREATE SCHEMA {schema};
         CREATE VIEW {schema}.t AS SELECT 1::bigint AS id, {schema}_old.evil2() AS c; COMMIT"
    ));
    holder.run("COMMIT");
    wait_for("the job", LONG, || {
        scene
            .db
            .client
            .yes("SELECT bool_and(finished_at IS NOT NULL) FROM colcrypt.job_progress")
    });
    scene.nobody_ran_it("the worker");
    assert_eq!(
        scene.db.client.one(&format!(
            "SELECT string_agg(DISTINCT (ciphertext_info(c)).version::text, ',') FROM {schema}_old.t"
        )),
        "3"
    );
}

/// Bob's session has written through the view before; the view is where nobody but the superuser makes anything.
fn writer(scene: &mut Scene) -> Client {
    let (schema, mallory) = (&scene.schema, &scene.mallory);
    let bob = role(&mut scene.db.client);
    scene.db.client.run(&format!(
        "ALTER TABLE {schema}.t ADD PRIMARY KEY (id);
         SELECT create_access_view('{schema}.t'); ALTER VIEW {schema}.t_access SET SCHEMA public;
         GRANT ALL ON {schema}.t, public.t_access TO {bob}; GRANT USAGE ON SCHEMA {schema} TO {bob};
         SELECT grant_key('ka', '{bob}', '{{encrypt,decrypt}}');
         GRANT {mallory} TO CURRENT_USER"
    ));
    let mut bob = scene.db.connect_as(&bob);
    bob.run("INSERT INTO public.t_access VALUES (10, 'x'); UPDATE public.t_access SET c = 'y' WHERE id = 10");
    bob
}

/// Another table of the same shape takes the name of the schema and the table; its trigger notes who runs it.
const TAKE_THE_NAME: &str = "ALTER SCHEMA SCHEMA RENAME TO SCHEMA_old; CREATE SCHEMA SCHEMA; GRANT USAGE ON SCHEMA SCHEMA TO PUBLIC;
     CREATE TABLE SCHEMA.t (id bigint PRIMARY KEY, c colcrypt.ciphertext); GRANT ALL ON SCHEMA.t TO PUBLIC;
     CREATE FUNCTION SCHEMA.note() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN INSERT INTO public.who VALUES (current_user); RETURN NEW; END $$;
     CREATE TRIGGER note BEFORE INSERT OR UPDATE OR DELETE ON SCHEMA.t FOR EACH ROW EXECUTE FUNCTION SCHEMA.note()";

#[test]
fn a_view_writes_to_the_table_it_shows_whatever_has_its_name() {
    for waits in [false, true] {
        let mut scene = scene();
        let mut bob = writer(&mut scene);
        let schema = scene.schema.clone();
        let take_the_name = TAKE_THE_NAME
            .replace("SCHEMA SCHEMA", "§ @")
            .replace("SCHEMA", &schema)
            .replace("§ @", &format!("SCHEMA {schema}"));
        let mut mallory = scene.db.connect_as(&scene.mallory);
        let write = "INSERT INTO public.t_access VALUES (11, 'z'); UPDATE public.t_access SET c = 'w' WHERE id = 10";
        if waits {
            let mut holder = scene.db.connect();
            holder.run(&format!("BEGIN; LOCK TABLE {schema}.t"));
            std::thread::scope(|scope| {
                let writing = scope.spawn(|| bob.run(write));
                wait_for("bob to wait", LONG, || {
                    holder.yes(&format!(
                        "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = '{schema}.t'::regclass AND NOT granted)"
                    ))
                });
                mallory.run(&take_the_name);
                holder.run("COMMIT");
                writing.join().unwrap();
            });
        } else {
            mallory.run(&take_the_name);
            bob.run(write);
        }
        scene.nobody_ran_it("a write through the view");
        assert_eq!(
            bob.one("SELECT string_agg(c, ',' ORDER BY id) FROM public.t_access WHERE id > 9"),
            "w,z"
        );
        assert_eq!(bob.one(&format!("SELECT count(*) FROM {schema}.t")), "0");
    }
}

/// Whoever owns the table may have no right to read it, or not to enter its schema.
#[test]
fn no_right_of_the_owners_stands_in_the_way_of_counting_and_listing() {
    let mut scene = scene();
    let (schema, mallory) = (scene.schema.clone(), scene.mallory.clone());
    scene.db.client.run(&format!(
        "CREATE TABLE {schema}.own (id text, at timestamptz, c ciphertext, PRIMARY KEY (id, at));
         INSERT INTO {schema}.own SELECT 'it''s ' || g, '2026-01-02 03:04:05+00', encrypt_col('x', 'ka') FROM generate_series(1, 5000) g;
         INSERT INTO {schema}.own VALUES ('none', now(), NULL);
         ALTER TABLE {schema}.own OWNER TO {mallory};
         CREATE POLICY nobody ON {schema}.own USING (false);
         ALTER TABLE {schema}.own ENABLE ROW LEVEL SECURITY; ALTER TABLE {schema}.own FORCE ROW LEVEL SECURITY;
         REVOKE ALL ON {schema}.own FROM {mallory}; REVOKE ALL ON SCHEMA {schema} FROM {mallory}"
    ));
    assert_eq!(
        scene.db.client.one(&format!(
            "SELECT rows FROM rows_needing_key('ka', 2) WHERE relation = '{schema}.own'::regclass"
        )),
        "5000"
    );
    scene
        .db
        .client
        .run("SELECT mark_compromised('ka', 2, 'test')");
    assert_eq!(
        scene.db.client.one(
            "SELECT concat_ws(' ', count(*), count(DISTINCT row_address), min(primary_key::text)) FROM exposed_rows
             WHERE primary_key IS NOT NULL"
        ),
        r#"5000 5000 {"at": "2026-01-02T03:04:05+00:00", "id": "it's 1"}"#
    );
}

/// Planning alone runs functions that an owner's index is made of.
#[test]
fn registering_a_column_runs_the_owners_code_as_the_owner() {
    let mut scene = scene();
    let (schema, mallory) = (scene.schema.clone(), scene.mallory.clone());
    let own = |client: &mut Client| {
        client.run(&format!(
            "SET search_path = {schema}, colcrypt;
             CREATE FUNCTION sly(bigint) RETURNS bytea LANGUAGE plpgsql IMMUTABLE AS
                 $$ BEGIN PERFORM {schema}.evil2(); RETURN ''; END $$;
             CREATE TABLE mine (id bigint, c ciphertext, p text); INSERT INTO mine VALUES (1, NULL, 'x');
             CREATE INDEX ON mine (sly(id)); ANALYZE mine"
        ));
    };
    own(&mut scene.db.connect_as(&mallory));
    for call in [
        format!("SELECT register_column('{schema}.mine', 'c', 'ka', '{schema}.sly(1)')"),
        format!("SELECT create_access_view('{schema}.mine')"),
        format!(
            "SELECT * FROM encrypt_column('{schema}.mine', 'p', 'ka', '{schema}.sly(2)', access_view => false, dry_run => true)"
        ),
        format!("SELECT * FROM take_census('{schema}.mine', 'c')"),
        "SELECT * FROM rows_needing_key('ka', 1)".into(),
    ] {
        scene.db.client.run(&call);
        scene.nobody_ran_it(&call);
    }
}

/// An owner without rights on his own table, or whose schema is closed to him, keeps no key from its end.
#[test]
fn an_owners_rights_stand_in_no_counts_way() {
    let mut scene = scene();
    let (schema, mallory) = (scene.schema.clone(), scene.mallory.clone());
    scene.db.client.run(&format!(
        "CREATE SCHEMA closed; CREATE TABLE closed.t AS SELECT * FROM {schema}.t;
         ALTER TABLE closed.t ENABLE ROW LEVEL SECURITY; ALTER TABLE closed.t FORCE ROW LEVEL SECURITY;
         ALTER TABLE closed.t OWNER TO {mallory}; REVOKE ALL ON closed.t FROM {mallory}"
    ));
    assert_eq!(
        scene
            .db
            .client
            .one("SELECT sum(rows) FROM rows_needing_key('ka', 2)"),
        "10"
    );
    scene
        .db
        .client
        .run("SELECT count(*) FROM rows_needing_key('ka', 1)");
}
