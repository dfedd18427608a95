//! Columns encrypted and decrypted in place: nothing is lost, nobody is held up, and the plaintext goes.

use colcrypt_tests::of_columns::{columns, migrate, people, state};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use colcrypt_tests::wait_for;
use postgres::Client;

use crate::common::{ACTS, LONG, Sql, cluster, role, wait_for_jobs};

#[test]
fn a_column_is_encrypted_while_clients_write_to_it() {
    let mut db = people(6000);
    let before = columns(&mut db.client, "people");
    let stop = AtomicBool::new(false);
    let writes = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (stop, writes, connect) = (&stop, &writes, &db);
        let writers: Vec<_> = (0..3)
            .map(|owner| {
                let mut client = connect.connect();
                scope.spawn(move || write_until(&mut client, owner, stop, writes))
            })
            .collect();
        wait_for("the writers", LONG, || writes.load(Ordering::Relaxed) > 30);
        let mut client = connect.connect();
        migrate(
            &mut client,
            "encrypt_column('people', 'ssn', 'k', 'colcrypt.row_context(id)')",
        );
        writes.store(0, Ordering::Relaxed);
        wait_for("the writers", LONG, || writes.load(Ordering::Relaxed) > 30);
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().unwrap();
        }
    });
    assert_eq!(
        columns(&mut db.client, "people"),
        before,
        "clients see what they saw"
    );
    assert_eq!(
        columns(&mut db.client, "people_encrypted"),
        "id integer, owner integer, name text, ssn ciphertext"
    );
    let different = "SELECT count(*) FROM people p FULL JOIN shadow s USING (id) WHERE p.ssn IS DISTINCT FROM s.ssn";
    assert_eq!(db.client.one(different), "0");
    assert!(db.client.yes(
        "SELECT bool_and(decrypt_col(e.ssn, NULL::varchar, row_context(id)) IS NOT DISTINCT FROM s.ssn) AND count(*) > 5000
         FROM people_encrypted e JOIN shadow s USING (id)"
    ));
    assert!(db.client.yes(
        "SELECT rows_failed = 0 AND rows_done > 0 AND kind = 'encrypt_column' AND attribute = 'ssn' FROM job_progress"
    ));
    let acts = db.client.one(&format!(
        "SELECT string_agg(detail, ', ' ORDER BY place, nr) FROM {ACTS} WHERE event = 'encrypt_column'"
    ));
    assert!(acts.contains("job 1: ssn, job 1: ssn, swapped"), "{acts}");
}

/// Inserts, updates and deletes rows of one owner, each change in the shadow table too.
fn write_until(client: &mut Client, owner: i32, stop: &AtomicBool, counter: &AtomicUsize) {
    let pick = format!("SELECT id FROM people WHERE owner = {owner} ORDER BY random() LIMIT 1");
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let text = format!("written by {owner} in {round}");
        client.run(&match round % 3 {
            0 => format!(
                "WITH new AS (INSERT INTO people (owner, ssn) VALUES ({owner}, '{text}') RETURNING id)
                 INSERT INTO shadow SELECT id, '{text}' FROM new"
            ),
            1 => format!(
                "WITH changed AS (UPDATE people SET ssn = '{text}' WHERE id = ({pick}) RETURNING id)
                 UPDATE shadow s SET ssn = '{text}' FROM changed c WHERE s.id = c.id"
            ),
            _ => format!(
                "WITH gone AS (DELETE FROM people WHERE id = ({pick}) RETURNING id)
                 DELETE FROM shadow s USING gone g WHERE s.id = g.id"
            ),
        });
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether a text is in the files of a table, once they are on disk.
fn is_on_disk(client: &mut Client, table: &str, text: &str) -> bool {
    client.run("CHECKPOINT");
    let path = client.one(&format!("SELECT pg_relation_filepath('{table}')"));
    let bytes = std::fs::read(cluster().data().join(path)).expect("the table's file");
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

/// DROP COLUMN leaves values in the rows, VACUUM leaves them in no row.
#[test]
fn no_live_row_and_no_sample_holds_the_plaintext_afterwards() {
    let mut db = people(3000);
    db.client.run("ANALYZE people");
    assert!(is_on_disk(&mut db.client, "people", "plain 22"));
    migrate(
        &mut db.client,
        "encrypt_column('people', 'ssn', 'k', access_view => false)",
    );
    assert_eq!(
        db.client.one(
            "SELECT count(*) FROM pg_stats WHERE tablename = 'people' AND attname <> ALL ('{id,owner,name,ssn}')"
        ),
        "0"
    );
    // What VACUUM freed may lie there still; a copy of what is live does not hold it.
    db.client.run("VACUUM FULL people");
    assert!(!is_on_disk(&mut db.client, "people", "plain 22"));
    assert!(db.client.yes(
        "SELECT bool_and(decrypt_col(p.ssn, NULL::varchar, place_context('public.people.ssn', id)) IS NOT DISTINCT FROM s.ssn) FROM people p JOIN shadow s USING (id)"
    ));
}

#[test]
fn a_dry_run_lists_everything_and_changes_nothing() {
    let mut db = people(100);
    db.client.run(
        "CREATE INDEX by_ssn ON people (ssn);
         ALTER TABLE people ADD CONSTRAINT is_short CHECK (length(ssn) < 30), ALTER ssn SET DEFAULT 'none';
         CREATE STATISTICS two ON ssn, name FROM people",
    );
    let before = columns(&mut db.client, "people");
    let plan = db.client.rows(
        "SELECT job, object, becomes FROM encrypt_column('people', 'ssn', 'k', dry_run => true)",
    );
    let plan: Vec<String> = plan
        .into_iter()
        .map(|row| {
            assert_eq!(row[0], None);
            format!("{}: {}", row[1].clone().unwrap(), row[2].clone().unwrap())
        })
        .collect();
    for line in [
        "column ssn: ciphertext under key 'k'",
        "table people: is called people_encrypted from the beginning on",
        "index public.by_ssn: is dropped (accept_losses)",
        "constraint is_short on table public.people: is dropped (accept_losses)",
        "statistics object public.two: is dropped (accept_losses)",
        "default value for column ssn of table public.people: moves to the access view's column",
    ] {
        assert!(
            plan.iter().any(|text| text.contains(line)),
            "no {line:?} in {plan:#?}"
        );
    }
    assert_eq!(columns(&mut db.client, "people"), before);
    assert_eq!(db.client.one("SELECT count(*) FROM job_progress"), "0");
    let failure = db
        .client
        .fails("KC061", "SELECT encrypt_column('people', 'ssn', 'k')");
    assert!(
        failure.detail.contains("index public.by_ssn is dropped"),
        "{}",
        failure.detail
    );
    assert_eq!(db.client.one("SELECT count(*) FROM job_progress"), "0");

    migrate(
        &mut db.client,
        "encrypt_column('people', 'ssn', 'k', accept_losses => true)",
    );
    db.client.run("INSERT INTO people (name) VALUES ('new')");
    assert_eq!(
        db.client.one("SELECT ssn FROM people WHERE name = 'new'"),
        "none",
        "the default is the view's"
    );
    // A longer value than the column took is refused still.
    db.client
        .fails("22001", "INSERT INTO people (ssn) VALUES (repeat('x', 41))");
}

#[test]
fn what_comes_to_hang_on_the_column_meanwhile_is_not_lost_unsaid() {
    let mut db = people(50);
    let mut holder = db.connect();
    holder.run("BEGIN; SELECT 1 FROM people LIMIT 1");
    // The twin cannot come while somebody reads in a transaction; nobody else is held up by that.
    db.client
        .run("SELECT encrypt_column('people', 'ssn', 'k', access_view => false)");
    wait_for("a try", LONG, || {
        db.client
            .yes("SELECT last_error IS NOT NULL AND phase = 'queued' FROM job_progress")
    });
    db.client.run("CREATE INDEX late ON people (ssn)");
    holder.run("COMMIT");
    wait_for("the reason", LONG, || {
        state(&mut db.client).contains("index public.late is dropped")
    });
    assert!(columns(&mut db.client, "people").contains("ssn character varying(40)"));
    db.client.run("DROP INDEX late");
    wait_for_jobs(&mut db.client);
    assert_eq!(state(&mut db.client), "done");
}

#[test]
fn cancelling_before_the_first_step_leaves_nothing() {
    let mut db = people(30);
    let mut holder = db.connect();
    holder.run("BEGIN; SELECT count(*) FROM people");
    db.client.run("SELECT encrypt_column('people', 'ssn', 'k')");
    db.client
        .fails("55000", "SELECT encrypt_column('people', 'name', 'k')")
        .says("One column after the other");
    db.client.run("SELECT cancel_job(1)");
    holder.run("COMMIT");
    wait_for_jobs(&mut db.client);
    assert!(state(&mut db.client).starts_with("cancelled"));
    assert!(
        columns(&mut db.client, "people")
            .starts_with("id integer, ssn character varying(40), owner")
    );
    migrate(&mut db.client, "encrypt_column('people', 'ssn', 'k')");
}

#[test]
fn grants_comments_and_not_null_come_along() {
    let mut db = people(20);
    let (reader, clerk) = (role(&mut db.client), role(&mut db.client));
    db.client.run(&format!(
        "UPDATE people SET ssn = 'x' WHERE ssn IS NULL;
         ALTER TABLE people ALTER ssn SET NOT NULL;
         COMMENT ON COLUMN people.ssn IS 'secret';
         GRANT SELECT (id, ssn) ON people TO {reader};
         GRANT SELECT, UPDATE ON people TO {clerk} WITH GRANT OPTION;
         SELECT grant_key('k', '{reader}')"
    ));
    assert_eq!(
        db.client.one(&format!(
            "SELECT string_agg(becomes, ',') FROM encrypt_column('people', 'ssn', 'k', dry_run => true) WHERE object = 'role {clerk}'"
        ))
        .matches("from the swap on the column is closed to it")
        .count(),
        2,
        "to read and to write"
    );
    // A view that runs with the caller's rights asks for all the columns that it shows.
    db.client
        .fails("KC061", "SELECT encrypt_column('people', 'ssn', 'k')")
        .says("privileges on single columns");
    migrate(
        &mut db.client,
        "encrypt_column('people', 'ssn', 'k', accept_losses => true)",
    );
    for relation in ["people", "people_encrypted"] {
        assert!(db.client.yes(&format!(
            "SELECT has_column_privilege('{reader}', '{relation}', 'ssn', 'SELECT')
                AND NOT has_column_privilege('{reader}', '{relation}', 'name', 'SELECT')
                AND has_table_privilege('{clerk}', '{relation}', 'UPDATE WITH GRANT OPTION')
                AND NOT has_table_privilege('{clerk}', '{relation}', 'DELETE')
                AND (SELECT col_description(attrelid, attnum) = 'secret' FROM pg_attribute
                     WHERE attrelid = '{relation}'::regclass AND attname = 'ssn')"
        )));
    }
    let mut client = db.connect_as(&reader);
    let by_hand = "SELECT colcrypt.decrypt_col(ssn, NULL::varchar, colcrypt.place_context('public.people.ssn', id)) FROM people_encrypted WHERE id = 2";
    assert_eq!(client.one(by_hand), "plain 2");
    client.fails("42501", "SELECT ssn FROM people");
    db.connect_as(&clerk)
        .fails("42501", "SELECT ssn FROM people")
        .says("decrypt");
    db.client
        .fails("23502", "UPDATE people SET ssn = NULL WHERE id = 2");
    assert_eq!(
        db.client
            .one("SELECT count(*) FROM pg_constraint WHERE conname LIKE 'colcrypt%'"),
        "0"
    );
}

#[test]
fn there_and_back_again() {
    let mut db = people(500);
    let before = columns(&mut db.client, "people");
    db.client.run("ALTER TABLE people ALTER name SET NOT NULL");
    migrate(
        &mut db.client,
        "encrypt_column('people', 'ssn', 'k', 'colcrypt.row_context(id)')",
    );
    // One after the other, by the name that the clients use.
    migrate(&mut db.client, "encrypt_column('people', 'name', 'k')");
    assert_eq!(columns(&mut db.client, "people"), before);
    assert_eq!(
        columns(&mut db.client, "people_encrypted"),
        "id integer, owner integer, ssn ciphertext, name ciphertext"
    );
    assert!(db.client.yes(
        "SELECT attnotnull FROM pg_attribute WHERE attrelid = 'people_encrypted'::regclass AND attname = 'name'"
    ));
    db.client.run("UPDATE people SET ssn = 'new', name = 'renamed' WHERE id = 7; INSERT INTO people (ssn, name) VALUES ('last', 'row')");
    db.client
        .fails("23502", "INSERT INTO people (ssn) VALUES ('nameless')");
    db.client.run("UPDATE shadow SET ssn = 'new' WHERE id = 7");

    db.client
        .fails("42809", "SELECT decrypt_column('people', 'owner')");
    migrate(
        &mut db.client,
        "decrypt_column('people', 'ssn', accept_unplaced => true)",
    );
    assert_eq!(columns(&mut db.client, "people"), before);
    assert_eq!(
        columns(&mut db.client, "people_encrypted"),
        "id integer, owner integer, name ciphertext, ssn character varying(40)"
    );
    migrate(&mut db.client, "decrypt_column('people_encrypted', 'name')");
    assert_eq!(
        columns(&mut db.client, "people_encrypted"),
        "id integer, owner integer, ssn character varying(40), name text"
    );
    for relation in ["people", "people_encrypted"] {
        assert!(db.client.yes(&format!(
            "SELECT count(*) = 501 AND bool_and(CASE WHEN id <= 500 THEN p.ssn IS NOT DISTINCT FROM s.ssn ELSE p.ssn = 'last' END)
                 AND bool_and(name = CASE id WHEN 7 THEN 'renamed' WHEN 501 THEN 'row' ELSE 'name ' || id END)
             FROM {relation} p LEFT JOIN shadow s USING (id)"
        )));
    }
    assert_eq!(db.client.one("SELECT count(*) FROM protected_column"), "0");
    // The view shows plain columns now, and is written through.
    db.client
        .run("UPDATE people SET ssn = 'again' WHERE id = 7; DELETE FROM people WHERE id = 8");
    assert_eq!(
        db.client
            .one("SELECT ssn FROM people_encrypted WHERE id = 7"),
        "again"
    );
}
