//! Kind 1: the right to read a value, or to decide, is never lent to code that a table's owner wrote.

use colcrypt_tests::of_columns::being_decrypted;
use colcrypt_tests::wait_for;
use postgres::Client;

use crate::common::{Db, LONG, Sql, db, role, unique, wait_for_jobs};

/// Mallory reads table `payment`, but has no right on its key `ka`; with `kb` she may do everything but manage it. Her
/// function `evil` tries whatever re-encrypts, and keeps what it gets in `loot` and what it was told in `told`.
struct Scene {
    db: Db,
    mallory: String,
    /// Her schema.
    home: String,
}

fn scene() -> Scene {
    let mut db = db();
    let mallory = role(&mut db.client);
    let home = unique("home");
    db.client.run(&format!(
        "SELECT create_key('ka', 'ring'), create_key('kb', 'ring');
         CREATE TABLE payment (id bigint PRIMARY KEY, iban ciphertext);
         INSERT INTO payment SELECT g, encrypt_col('iban ' || g, 'ka', row_context(g)) FROM generate_series(1::bigint, 3) g;
         SELECT register_column('payment', 'iban', 'ka', 'colcrypt.row_context(id)');
         GRANT SELECT ON payment TO {mallory};
         SELECT grant_key('kb', '{mallory}', '{{encrypt,decrypt}}');
         CREATE SCHEMA {home} AUTHORIZATION {mallory}"
    ));
    let mut owner = db.connect_as(&mallory);
    owner.run(&format!(
        "SET search_path = {home}, colcrypt;
         CREATE TABLE loot (iban ciphertext);
         CREATE TABLE told (how text);
         CREATE TABLE mine (id bigint, c ciphertext);
         INSERT INTO mine SELECT g, encrypt_col('mine ' || g, 'kb') FROM generate_series(1, 3) g;
         CREATE FUNCTION evil(bigint) RETURNS boolean LANGUAGE plpgsql SET search_path = {home}, colcrypt AS $$
         DECLARE
             attempt text;
             kb text := (SELECT ciphertext_key(c)::text FROM mine LIMIT 1);
         BEGIN
             FOREACH attempt IN ARRAY ARRAY[
                 'colcrypt.reencrypt_col_to(iban, ' || kb || ', colcrypt.row_context(id))',
                 'colcrypt.reencrypt_col(iban, colcrypt.row_context(id))',
                 'colcrypt.batch_value(ctid, 1::int2, iban)',
                 'colcrypt.encrypt_col(colcrypt.decrypt_col(iban, colcrypt.row_context(id)), ''kb'')'] LOOP
                 BEGIN
                     EXECUTE 'INSERT INTO loot SELECT ' || attempt || ' FROM public.payment';
                     INSERT INTO told VALUES ('done');
                 EXCEPTION WHEN OTHERS THEN INSERT INTO told VALUES (SQLSTATE || ' ' || SQLERRM);
                 END;
             END LOOP;
             RETURN true;
         END $$;
         CREATE FUNCTION sly(bigint) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN {home}.evil($1); END $$"
    ));
    Scene { db, mallory, home }
}

impl Scene {
    fn owner(&self) -> Client {
        let mut client = self.db.connect_as(&self.mallory);
        client.run(&format!("SET search_path = {}, colcrypt", self.home));
        client
    }

    fn admin(&mut self) -> &mut Client {
        &mut self.db.client
    }

    /// Has the worker move the rows of `mine`, in which the owner's code takes part.
    fn rotate(&mut self, context: Option<&str>, fire_triggers: bool) {
        let home = self.home.clone();
        let context = context.map_or("NULL".into(), |text| format!("'{text}'"));
        let register =
            format!("SELECT colcrypt.register_column('{home}.mine', 'c', 'kb', {context})");
        self.owner().run("DELETE FROM told; DELETE FROM loot");
        if fire_triggers {
            // Registered after the new version, which would otherwise have a job of its own that fires none.
            self.admin().run(
                "SELECT colcrypt.create_key_version('kb'); SELECT colcrypt.activate_key('kb', 2)",
            );
            self.admin().run(&register);
            self.admin().run(&format!(
                "SELECT colcrypt.reencrypt_column('{home}.mine', 'c', true)"
            ));
        } else {
            self.admin().run(&register);
            self.admin().run("SELECT colcrypt.rotate_key('kb')");
        }
        wait_for_jobs(self.admin());
    }

    /// Nothing that she got can be read with what she may.
    fn got_nothing(&mut self, way: &str, ran: bool) {
        let mut owner = self.owner();
        let told = owner.rows("SELECT DISTINCT how FROM told ORDER BY 1");
        if ran {
            assert!(!told.is_empty(), "{way}: her code never ran");
        }
        let ka = owner.one(
            "SELECT count(*) FROM loot WHERE ciphertext_key(iban) IS DISTINCT FROM (SELECT ciphertext_key(c) FROM mine LIMIT 1)",
        );
        let all = owner.one("SELECT count(*) FROM loot");
        assert_eq!(ka, all, "{way}: {told:?}");
        // What batch_value gives of other values is those values.
        assert_eq!(
            owner.one("SELECT count(*) FROM loot l WHERE NOT EXISTS (SELECT FROM public.payment p WHERE p.iban::bytea = l.iban::bytea)"),
            "0",
            "{way}: {told:?}"
        );
        owner.fails(
            "42501",
            "SELECT decrypt_col(iban, row_context(id)) FROM public.payment",
        );
    }
}

#[test]
fn a_jobs_statement_lends_nothing_to_the_code_of_a_tables_owner() {
    type Way<'a> = (&'a str, &'a str, Option<&'a str>, bool);
    let ways: [Way; 8] = [
        ("check", "ALTER TABLE mine ADD CHECK (evil(id))", None, false),
        (
            "expression index",
            "CREATE INDEX ON mine ((sly(length(c::bytea))))",
            None,
            false,
        ),
        (
            "partial index",
            "CREATE INDEX ON mine (id) WHERE sly(id)",
            None,
            false,
        ),
        (
            "generated column",
            "ALTER TABLE mine ADD g boolean GENERATED ALWAYS AS (sly(length(c::bytea))) STORED",
            None,
            false,
        ),
        (
            "domain",
            "CREATE DOMAIN watched AS ciphertext CHECK (evil(length(VALUE::bytea)));
             ALTER TABLE mine ALTER c TYPE watched",
            None,
            false,
        ),
        (
            "always trigger",
            "CREATE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM evil(1); RETURN NEW; END $$;
             ALTER FUNCTION fires() SET search_path = HOME, colcrypt;
             CREATE TRIGGER fires BEFORE UPDATE ON mine FOR EACH ROW EXECUTE FUNCTION fires();
             ALTER TABLE mine ENABLE ALWAYS TRIGGER fires",
            None,
            false,
        ),
        (
            "context",
            "CREATE FUNCTION bound(bigint) RETURNS bytea LANGUAGE plpgsql VOLATILE SET search_path = HOME, colcrypt
                 AS $$ BEGIN PERFORM evil($1); RETURN ''; END $$",
            Some("HOME.bound(id)"),
            false,
        ),
        (
            "policy",
            "ALTER TABLE mine ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON mine USING (evil(id))",
            None,
            false,
        ),
    ];
    for (way, sql, context, fires) in ways {
        let mut scene = scene();
        let home = scene.home.clone();
        scene.owner().run(&sql.replace("HOME", &home));
        let context = context.map(|text| text.replace("HOME", &home));
        scene.rotate(context.as_deref(), fires);
        scene.got_nothing(
            way,
            way != "policy" && way != "partial index" && way != "expression index",
        );
        assert_eq!(
            scene.owner().one(
                "SELECT string_agg(DISTINCT (ciphertext_info(c)).version::text, ',') FROM mine"
            ),
            "2",
            "{way}"
        );
    }
}

#[test]
fn a_job_that_fires_triggers_lends_them_nothing() {
    let mut scene = scene();
    let home = scene.home.clone();
    scene.owner().run(&format!(
        "CREATE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql SET search_path = {home}, colcrypt
             AS $$ BEGIN PERFORM evil(1); RETURN NEW; END $$;
         CREATE TRIGGER fires AFTER UPDATE ON mine FOR EACH ROW EXECUTE FUNCTION fires()"
    ));
    scene.rotate(None, true);
    scene.got_nothing("fired trigger", true);
}

/// A partition that belongs to somebody else does not run the context of the whole's owner with his rights.
#[test]
fn a_context_runs_with_no_others_rights_in_a_partition_of_theirs() {
    let mut scene = scene();
    let home = scene.home.clone();
    scene.owner().run(&format!(
        "CREATE TABLE who (name text); GRANT ALL ON who TO PUBLIC; GRANT USAGE ON SCHEMA {home} TO PUBLIC;
         CREATE TABLE parts (id bigint, c ciphertext) PARTITION BY RANGE (id);
         CREATE TABLE part PARTITION OF parts DEFAULT;
         CREATE FUNCTION bound(bigint) RETURNS bytea LANGUAGE plpgsql VOLATILE
             AS $$ BEGIN INSERT INTO {home}.who VALUES (current_user); RETURN ''; END $$;
         INSERT INTO parts SELECT id, c FROM mine"
    ));
    scene.admin().run(&format!(
        "SELECT colcrypt.register_column('{home}.parts', 'c', 'kb', '{home}.bound(id)');
         ALTER TABLE {home}.part OWNER TO postgres;
         SELECT colcrypt.rotate_key('kb')"
    ));
    wait_for("the job to say why it waits", LONG, || {
        scene.admin().yes(
            "SELECT coalesce(bool_or(last_error LIKE '%different owners%'), false) FROM colcrypt.job_progress",
        )
    });
    let strangers = format!(
        "SELECT count(*) FROM {home}.who WHERE name <> '{}'",
        scene.mallory
    );
    assert_eq!(scene.admin().one(&strangers), "0");
}

#[test]
fn a_value_that_is_brought_needs_its_bringers_own_right() {
    let (mut db, mut bob, mut holder) = being_decrypted();
    bob.run("SET search_path = public, colcrypt");
    bob.fails(
        "42501",
        "INSERT INTO notes (id, v) SELECT id, v FROM payment WHERE id = 107",
    );
    bob.fails(
        "42501",
        "UPDATE notes SET id = 108, v = (SELECT v FROM payment WHERE id = 108) WHERE id = 3",
    );
    // What he does not bring he may leave as it is, and the twin is not his to write.
    bob.run("UPDATE notes SET w = 0 WHERE id = 4");
    bob.run("UPDATE notes SET v_decrypted = 'forged' WHERE id = 5");
    assert_eq!(
        bob.one("SELECT v_decrypted FROM notes WHERE id = 5"),
        "note 5"
    );
    bob.run("UPDATE notes SET v = NULL WHERE id = 6");
    assert_eq!(bob.opt("SELECT v_decrypted FROM notes WHERE id = 6"), None);
    assert_eq!(
        bob.one("SELECT count(*) FROM notes WHERE v_decrypted LIKE 'iban%'"),
        "0"
    );
    // Who may decrypt brings what he likes, and is seen.
    db.client
        .run("INSERT INTO notes (id, v) SELECT id, v FROM payment WHERE id = 107");
    wait_for("the alarm", LONG, || {
        db.client
            .yes("SELECT count(*) > 0 FROM audit_log WHERE outcome = 'alarm'")
    });
    holder.run("COMMIT");
    wait_for_jobs(&mut db.client);
    assert_eq!(
        db.client
            .one("SELECT string_agg(phase, ',') FROM colcrypt.job_progress"),
        "done"
    );
    assert_eq!(
        db.client.one("SELECT v FROM notes WHERE id = 20"),
        "note 20"
    );
}

/// The owner of a table brings values past the trigger: none of them is decrypted with the order's right.
#[test]
fn nothing_that_came_past_the_trigger_is_decrypted() {
    let ways = [
        "ALTER TABLE notes DISABLE TRIGGER ALL;
         INSERT INTO notes (id, v) SELECT id, v FROM payment WHERE id = 110;
         ALTER TABLE notes ENABLE TRIGGER ALL; DO $$ DECLARE t text; BEGIN
             SELECT tgname INTO t FROM pg_trigger WHERE tgrelid = 'notes'::regclass AND tgname LIKE '~%';
             EXECUTE format('ALTER TABLE notes ENABLE ALWAYS TRIGGER %I', t); END $$",
        "CREATE TABLE child (LIKE notes); INSERT INTO child SELECT id, v FROM payment WHERE id = 110;
         ALTER TABLE child INHERIT notes",
        "DELETE FROM notes WHERE id = 7; CREATE TABLE p AS SELECT v FROM payment WHERE id = 110;
         ALTER TABLE notes ALTER v TYPE ciphertext USING colcrypt.ciphertext(v::bytea)",
    ];
    for way in ways {
        let (mut db, _, mut holder) = being_decrypted();
        holder.run("COMMIT");
        let mut owner = db.connect();
        // In one transaction: the job sees it done or not at all, and has a row to come back to.
        owner.run(&format!(
            "BEGIN; UPDATE notes SET w = w WHERE id = 20; {way}; COMMIT"
        ));
        wait_for("the job to end or say why it does not", LONG, || {
            owner.yes("SELECT bool_or(phase = 'done' OR last_error IS NOT NULL) FROM colcrypt.job_progress")
        });
        let reads = "SELECT count(*) FROM notes t WHERE to_jsonb(t)::text LIKE '%iban%'";
        assert_eq!(db.client.one(reads), "0", "{way}");
    }
}
