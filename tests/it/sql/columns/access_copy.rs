//! COPY into an access view: by the thousand.

use std::io::Write;

use postgres::Client;

use crate::common::{Sql, db, rewrites_views};

fn copy(client: &mut Client, sql: &str, rows: &str) -> Result<u64, postgres::Error> {
    let mut copy = client.copy_in(sql)?;
    copy.write_all(rows.as_bytes()).expect("write");
    copy.finish()
}

fn rows_are_collected_and_inserted_complete() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text DEFAULT 'none', v ciphertext, size int GENERATED ALWAYS AS (length(note)) STORED);
         SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id, note)'); SELECT create_access_view('t');
         CREATE TABLE said (what text);
         CREATE FUNCTION say() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO said SELECT TG_LEVEL; RETURN NEW; END $$;
         CREATE TRIGGER a AFTER INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION say()",
    );
    let rows: String = (1..=2500).map(|n| format!("value {n}\n")).collect();
    assert_eq!(
        copy(&mut db.client, "COPY t_access (v) FROM STDIN", &rows).unwrap(),
        2500
    );
    let statements = if rewrites_views() { "3" } else { "2500" };
    assert_eq!(db.client.one("SELECT count(*) FROM said"), statements);
    // In the order in which they came, each under its own identity.
    assert_eq!(
        db.client.one(
            "SELECT count(*) FROM t_access WHERE v = 'value ' || id AND note = 'none' AND size = 4"
        ),
        "2500"
    );
    assert_eq!(
        db.client
            .one("SELECT decrypt_col(v, row_context(id, note)) FROM t WHERE id = 7"),
        "value 7"
    );
    // NULLs, and a few rows; then what fails takes all of it back.
    assert_eq!(
        copy(
            &mut db.client,
            "COPY t_access (note, v) FROM STDIN",
            "\\N\tx\nwide\t\\N\n"
        )
        .unwrap(),
        2
    );
    db.client.run("ALTER TABLE t ADD CHECK (note <> 'bad')");
    let last = "SELECT concat_ws(' ', count(*), max(id)) FROM t";
    let before = db.client.one(last);
    let error = copy(
        &mut db.client,
        "COPY t_access (note, v) FROM STDIN",
        "good\tx\nbad\ty\n",
    )
    .unwrap_err();
    let error = error.as_db_error().expect("a server error");
    assert_eq!(
        (error.code().code(), error.constraint()),
        ("23514", Some("t_note_check"))
    );
    for refused in [
        "COPY t_access (id, v) FROM STDIN",
        "COPY t_access (size, v) FROM STDIN",
    ] {
        let error = copy(&mut db.client, refused, "1\tx\n").unwrap_err();
        assert_eq!(error.code().expect("a server error").code(), "428C9");
    }
    assert_eq!(db.client.one(last), before);
    // What failed left nothing behind.
    assert_eq!(
        copy(&mut db.client, "COPY t_access (v) FROM STDIN", "after\n").unwrap(),
        1
    );
    assert_eq!(
        db.client
            .one("SELECT count(*) FROM t_access WHERE v = 'after'"),
        "1"
    );
}

fn a_copy_within_a_copy_is_its_own() {
    let mut db = db();
    let file = crate::common::cluster().write_file("within.txt", b"10\tten\n11\televen\n", 0o644);
    db.client.run(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext); SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id)'); SELECT create_access_view('t');
         CREATE TABLE u (id int PRIMARY KEY, v ciphertext); SELECT register_column('u', 'v', 'k', 'colcrypt.row_context(id)'); SELECT create_access_view('u');
         CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.id < 3 THEN
                 BEGIN
                     COPY u_access FROM '{0}';
                     IF NEW.id = 1 THEN RAISE EXCEPTION 'taken back'; END IF;
                 EXCEPTION WHEN raise_exception THEN NULL; END;
             END IF;
             INSERT INTO u_access VALUES (NEW.id, 'single');
             RETURN NEW; END $$;
         CREATE TRIGGER a BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION more()",
        file.display()
    ));
    assert_eq!(
        copy(
            &mut db.client,
            "COPY t_access FROM STDIN",
            "1\tone\n2\ttwo\n3\tthree\n"
        )
        .unwrap(),
        3
    );
    assert_eq!(
        db.client
            .one("SELECT string_agg(id || v, ' ' ORDER BY id) FROM t_access"),
        "1one 2two 3three"
    );
    assert_eq!(
        db.client
            .one("SELECT string_agg(id || v, ' ' ORDER BY id) FROM u_access"),
        "1single 2single 3single 10ten 11eleven"
    );
}

/// What is said of an error or a warning tells where it was, to the client and to the log, and quotes no row.
fn no_message_quotes_a_row() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext);
         SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(id)'); SELECT create_access_view('t');
         CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.id % 1000 = 5 THEN RAISE WARNING 'row five came'; END IF;
             IF NEW.id % 1000 = 7 THEN RAISE EXCEPTION 'row seven came'; END IF;
             RETURN NEW; END $$;
         CREATE TRIGGER warn BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION warn()",
    );
    let secret = |n: usize| format!("unsaid-{n}-unsaid");
    let rows = |count: usize, last: &str| -> String {
        let rows = (1..=count).map(|n| format!("{}\t{}\n", secret(n), 10 * n));
        rows.chain([format!("{last}\n")]).collect()
    };
    let many = 2500;
    let cases = [
        // The server cannot read the first row, or a later one; the row violates something when it is inserted.
        (rows(0, &secret(1)), "missing data for column"),
        (
            rows(0, &format!("{}\tx", secret(1))),
            "invalid input syntax for type integer",
        ),
        (
            rows(0, &format!("{}\t1\t", secret(1))),
            "extra data after last expected column",
        ),
        (rows(3, &secret(4)), "missing data for column"),
        (rows(1, &format!("{}\t10", secret(2))), "duplicate key"),
        (rows(1, &format!("{}\t7", secret(2))), "row seven came"),
        (
            rows(many, &format!("{}\t5\n{}\t7", secret(2), secret(3))),
            "row seven came",
        ),
        (
            rows(many, &format!("{}\t3007", secret(2))),
            "row seven came",
        ),
    ];
    for (rows, expected) in cases {
        let error = copy(&mut db.client, "COPY t_access (v, id) FROM STDIN", &rows).unwrap_err();
        let error = error.as_db_error().expect("a server error");
        assert!(error.message().contains(expected), "{expected}: {error:?}");
        assert!(
            !format!("{error:?}").contains("unsaid"),
            "{expected}: {error:?}"
        );
    }
    assert_eq!(
        copy(
            &mut db.client,
            "COPY t_access (v, id) FROM STDIN",
            &format!("{}\t5\n", secret(5))
        )
        .unwrap(),
        1
    );
    // It says where: by the thousand, or after each row.
    let error = copy(
        &mut db.client,
        "COPY t_access (v, id) FROM STDIN",
        &rows(many, "broken"),
    )
    .unwrap_err();
    let place = error
        .as_db_error()
        .and_then(postgres::error::DbError::where_);
    assert_eq!(place, Some("COPY into an access view, after 2500 rows"));
    let log = crate::common::cluster().log();
    assert!(log.contains("row five came") && log.contains("missing data for column"));
    assert!(!log.contains("unsaid-"), "a row's text is in the log");
}

colcrypt_tests::on_both_ways!(
    no_message_quotes_a_row,
    rows_are_collected_and_inserted_complete,
    a_copy_within_a_copy_is_its_own,
);
