//! Kind 1: what a table's owner puts behind a migration's back is neither decrypted for him nor compared with what he
//! guesses.

use colcrypt_tests::of_columns::{being_decrypted, decrypt_order};
use colcrypt_tests::wait_for;
use postgres::Client;

use crate::common::{Db, LONG, Sql, db, role, wait_for_jobs};

/// Ways to have the trigger not look, each in one transaction, after which all looks as before. PLANT puts another's
/// ciphertext into column COL of a row of `notes` (INTO of another table).
const WAYS: [(&str, &str); 5] = [
    (
        "a trigger that fires after",
        "CREATE FUNCTION sneak() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             NEW.COL := (SELECT v FROM payment WHERE id = 107); RETURN NEW; END $$;
         CREATE TRIGGER \"~~~\" BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION sneak();
         INSERT INTO notes (id, OTHER) VALUES (107, GUESS);
         DROP TRIGGER \"~~~\" ON notes",
    ),
    (
        "the twin renamed",
        "ALTER TABLE notes RENAME TWIN TO elsewhere;
         INSERT INTO notes (id, RCOL, ROTHER) SELECT id, v, GUESS FROM payment WHERE id = 107;
         ALTER TABLE notes RENAME elsewhere TO TWIN",
    ),
    (
        "the column renamed",
        "ALTER TABLE notes RENAME v TO elsewhere; ALTER TABLE notes RENAME spare TO v;
         INSERT INTO notes (id, SCOL, SOTHER) SELECT id, v, GUESS FROM payment WHERE id = 107;
         ALTER TABLE notes RENAME v TO spare; ALTER TABLE notes RENAME elsewhere TO v",
    ),
    (
        "a child that is none for a moment",
        "ALTER TABLE child NO INHERIT notes;
         INSERT INTO child (id, COL, OTHER) SELECT id, v, GUESS FROM payment WHERE id = 107;
         ALTER TABLE child INHERIT notes",
    ),
    (
        "a grandchild that is none for a moment",
        "ALTER TABLE child NO INHERIT notes;
         INSERT INTO grandchild (id, COL, OTHER) SELECT id, v, GUESS FROM payment WHERE id = 107;
         ALTER TABLE child INHERIT notes",
    ),
];

fn plant(client: &mut Client, sql: &str, (column, other, guess, twin): (&str, &str, &str, &str)) {
    let renamed = |name: &str, from: &str| if name == from { "elsewhere" } else { "" }.to_owned();
    let or = |new: String, name: &str| if new.is_empty() { name.to_owned() } else { new };
    let sql = sql
        .replace("RCOL", &or(renamed(column, twin), column))
        .replace("ROTHER", &or(renamed(other, twin), other))
        .replace("SCOL", &or(renamed(column, "v"), column))
        .replace("SOTHER", &or(renamed(other, "v"), other))
        .replace("COL", column)
        .replace("OTHER", other)
        .replace("GUESS", guess)
        .replace("TWIN", twin);
    // It may be refused then and there.
    if let Err(error) = client.simple_query(&format!("{sql}; COMMIT")) {
        assert_eq!(
            error.code().map(|code| code.code()),
            Some("KC062"),
            "{error:?}"
        );
        client.run("ROLLBACK");
    }
}

/// A table of an owner who has no right on the key, and another's payments under the same.
fn tables(column_type: &str, value: &str) -> (Db, Client) {
    let mut db = db();
    let owner = role(&mut db.client);
    db.client.run(&format!(
        "CREATE TABLE notes (id int, v {column_type}, w int, spare {column_type});
         CREATE TABLE child () INHERITS (notes); CREATE TABLE grandchild () INHERITS (child);
         INSERT INTO notes SELECT g, {value}, g FROM generate_series(1, 20) g;
         CREATE FUNCTION slow(id int) RETURNS bytea LANGUAGE plpgsql STABLE AS
             $$ BEGIN PERFORM pg_sleep(0.05); RETURN colcrypt.row_context(id); END $$;
         CREATE TABLE payment (id int PRIMARY KEY, v ciphertext);
         INSERT INTO payment SELECT g, encrypt_col('iban ' || g, 'k', row_context(g)) FROM generate_series(1, 200) g;
         GRANT CREATE, USAGE ON SCHEMA public TO {owner}; GRANT SELECT ON payment TO {owner};
         ALTER TABLE notes OWNER TO {owner}; ALTER TABLE child OWNER TO {owner}; ALTER TABLE grandchild OWNER TO {owner}"
    ));
    let owner = db.connect_as(&owner);
    (db, owner)
}

/// Begins a transaction in which the owner holds a row of a job under way, and waits until the others are done.
fn hold_a_row(db: &mut Db, owner: &mut Client, twin: &str) {
    wait_for("the twin", LONG, || {
        db.client.yes(&format!(
            "SELECT count(*) = 1 FROM pg_attribute WHERE attrelid = 'notes'::regclass AND attname = '{twin}'"
        ))
    });
    // The context takes its time: the last row is held before the job gets there.
    owner.run("BEGIN; SELECT FROM notes WHERE id = 20 FOR UPDATE");
    wait_for("the other rows", LONG, || {
        db.client.yes(&format!(
            "SELECT count(*) >= 19 FROM notes WHERE {twin} IS NOT NULL"
        ))
    });
}

/// Until the job is done, or says what keeps it from that.
fn wait_for_an_answer(db: &mut Db) {
    wait_for("the job to end or say why it does not", LONG, || {
        db.client.yes(
            "SELECT bool_or(finished_at IS NOT NULL OR last_error IS NOT NULL) FROM colcrypt.job_progress",
        )
    });
}

#[test]
fn what_is_put_behind_the_triggers_back_is_not_decrypted() {
    for (way, sql) in WAYS {
        let (mut db, mut owner) = tables(
            "ciphertext",
            "encrypt_col('note ' || g, 'k', row_context(g))",
        );
        db.client
            .run("SELECT register_column('notes', 'v', 'k', 'public.slow(id)')");
        db.client.run(&decrypt_order("notes", "v"));
        hold_a_row(&mut db, &mut owner, "v_decrypted");
        plant(&mut owner, sql, ("v", "w", "7", "v_decrypted"));
        wait_for_an_answer(&mut db);
        assert_eq!(
            db.client
                .one("SELECT count(*) FROM notes t WHERE to_jsonb(t)::text LIKE '%iban%'"),
            "0",
            "{way}"
        );
    }
}

#[test]
fn whether_a_guess_is_right_is_not_told() {
    for (way, sql) in WAYS {
        let (mut db, mut owner) = tables("text", "'pin ' || g");
        let victims = "SELECT encode(sha256(v::bytea), 'hex') FROM payment WHERE id = 107";
        let victims = db.client.one(victims);
        db.client.run(
            "SELECT * FROM encrypt_column('notes', 'v', 'k', context => 'public.slow(id)', access_view => false)",
        );
        hold_a_row(&mut db, &mut owner, "v_encrypted");
        plant(
            &mut owner,
            sql,
            ("v_encrypted", "v", "'iban 107'", "v_encrypted"),
        );
        wait_for_an_answer(&mut db);
        wait_for_jobs(&mut db.client);
        let now = "SELECT coalesce(string_agg(encode(sha256(v::bytea), 'hex'), ','), '') FROM notes WHERE id = 107";
        let seen = db.client.rows("SELECT concat_ws(' ', j.phase, j.passes, j.last_error, m.strays, m.origins::text) FROM colcrypt.job j JOIN colcrypt.migration m USING (job_id)");
        let rows = db
            .client
            .rows("SELECT concat_ws(' ', tableoid::regclass, ctid, xmin, xmax, id) FROM notes");
        assert_ne!(db.client.one(now), victims, "{way} {seen:?} {rows:?}");
    }
}

/// The batch of a decrypt_column holds plaintexts; nobody but its trigger gets them, and nobody as what they are not.
#[test]
fn a_batch_of_plaintexts_gives_nothing_to_batch_value() {
    for (value, as_type) in [
        ("4702111234474983745::bigint", "bigint"),
        ("repeat('plain', g)", "text"),
    ] {
        let mut db = db();
        let owner = role(&mut db.client);
        db.client.run(&format!(
            "CREATE TABLE loot (v bytea); GRANT ALL ON loot TO PUBLIC;
             CREATE TABLE t AS SELECT g AS id, encrypt_col({value}, 'k') AS v FROM generate_series(1, 20) g;
             CREATE FUNCTION evil() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
                 INSERT INTO public.loot SELECT colcrypt.batch_value(ctid, 0::int2, v)::bytea FROM public.t; RETURN true; END $$;
             ALTER TABLE t ADD CHECK (id > 0 AND evil()); DELETE FROM loot;
             SELECT register_column('t', 'v', 'k', plaintext_type => '{as_type}'); ALTER TABLE t OWNER TO {owner};
             GRANT CREATE, USAGE ON SCHEMA public TO {owner}; GRANT SELECT ON t TO {owner}"
        ));
        db.client.run(&decrypt_order("t", "v"));
        wait_for_jobs(&mut db.client);
        assert_eq!(
            db.client
                .one("SELECT concat(phase, last_error) FROM job_progress"),
            "done"
        );
        assert_ne!(db.client.one("SELECT count(*) FROM loot"), "0");
        assert_eq!(
            db.client
                .one("SELECT count(*) FROM loot WHERE encode(v, 'escape') LIKE '%plain%' OR length(v) < 20"),
            "0"
        );
    }
}

/// The context of a migration is code of the table's owner: it does not run with the rights of a partition's.
#[test]
fn a_migrations_context_runs_with_no_others_rights_in_a_partition_of_theirs() {
    let mut db = db();
    let owner = role(&mut db.client);
    db.client.run(&format!(
        "CREATE TABLE who (name text); GRANT ALL ON who TO PUBLIC;
         CREATE TABLE parts (id int, v text) PARTITION BY RANGE (id); CREATE TABLE part PARTITION OF parts DEFAULT;
         INSERT INTO parts SELECT g, 'x' FROM generate_series(1, 5) g;
         GRANT CREATE, USAGE ON SCHEMA public TO {owner}; ALTER TABLE parts OWNER TO {owner}"
    ));
    db.connect_as(&owner).run(
        "CREATE FUNCTION public.bound(int) RETURNS bytea LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.who VALUES (current_user); RETURN ''; END $$",
    );
    // The order may be refused, or the job say why it waits: nobody else ran it.
    let order = "SELECT * FROM encrypt_column('parts', 'v', 'k', context => 'public.bound(id)', access_view => false)";
    if db.client.simple_query(order).is_ok() {
        wait_for_an_answer(&mut db);
    }
    assert_eq!(
        db.client
            .one(&format!("SELECT count(*) FROM who WHERE name <> '{owner}'")),
        "0"
    );
}

/// Nobody who writes it himself goes unasked, as before.
#[test]
fn a_later_trigger_stops_writers_while_a_column_is_decrypted() {
    let (mut db, _, mut holder) = being_decrypted();
    db.client.run(
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    );
    let mut holder_too = db.connect();
    holder.run("COMMIT");
    holder_too.run(
        "CREATE TRIGGER \"~~~\" BEFORE UPDATE ON notes FOR EACH ROW EXECUTE FUNCTION nothing()",
    );
    let failed = holder_too.simple_query("UPDATE notes SET w = 1 WHERE id = 3");
    // Unless the job was done before.
    if let Err(error) = failed {
        assert_eq!(error.code().map(|code| code.code()), Some("KC062"));
    }
}

/// An order to move a column whose values are bound to their place takes nothing along that is put there meanwhile.
#[test]
fn what_is_put_into_a_column_while_it_moves_stays_under_its_key() {
    let mut db = db();
    let mallory = role(&mut db.client);
    db.client.run(&format!(
        "SELECT create_key('other', 'ring');
         CREATE TABLE notes (id int PRIMARY KEY, v ciphertext);
         INSERT INTO notes SELECT g, encrypt_col('note ' || g, 'k', place_context('notes.v', g)) FROM generate_series(1, 20) g;
         SELECT register_column('notes', 'v', 'k', label => 'notes.v');
         CREATE TABLE payment (id int PRIMARY KEY, v ciphertext);
         INSERT INTO payment SELECT g, encrypt_col('iban ' || g, 'k', row_context(g)) FROM generate_series(107, 108) g;
         GRANT INSERT, SELECT ON notes TO {mallory}; GRANT SELECT ON payment TO {mallory};
         SELECT grant_key('other', '{mallory}', '{{decrypt}}')"
    ));
    let mut holder = db.connect();
    holder.run("BEGIN; SELECT FROM notes WHERE id = 20 FOR UPDATE");
    db.client.run("SELECT move_column('notes', 'v', 'other')");
    wait_for("the other rows", LONG, || {
        db.client
            .yes("SELECT count(*) = 19 FROM notes WHERE (ciphertext_info(v)).key = 'other'")
    });
    let mut mallory = db.connect_as(&mallory);
    mallory.run("INSERT INTO notes SELECT id, v FROM payment");
    holder.run("COMMIT");
    wait_for_jobs(&mut db.client);
    assert_eq!(
        db.client
            .one("SELECT concat_ws(' ', phase, rows_failed) FROM job_progress"),
        "failed 2"
    );
    assert_eq!(
        db.client
            .one("SELECT string_agg(id::text, ' ' ORDER BY id) FROM notes WHERE (ciphertext_info(v)).key = 'k'"),
        "107 108"
    );
    mallory.fails(
        "42501",
        "SELECT decrypt_col(v, NULL::text, row_context(id)) FROM notes WHERE id = 107",
    );
}
