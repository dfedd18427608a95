//! Errors out of a write through an access view: as the server and the table's own code raised them.

use postgres::error::DbError;

use crate::common::{Db, Sql, db};

/// Tables `team` and `member` with every kind of constraint and a trigger of the user's, and the view of `member`.
fn members() -> Db {
    let mut db = db();
    db.client.run(
        "CREATE TABLE team (id int PRIMARY KEY); INSERT INTO team VALUES (1);
         CREATE TABLE member (id int PRIMARY KEY, mail text CONSTRAINT one_mail UNIQUE, age int CONSTRAINT grown CHECK (age > 17),
             team int CONSTRAINT of_team REFERENCES team, name text NOT NULL, v ciphertext);
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE EXCEPTION 'not him' USING ERRCODE = 'P0042', DETAIL = 'a detail', HINT = 'a hint', CONSTRAINT = 'house', COLUMN = 'name';
         END $$;
         CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON member FOR EACH ROW WHEN (NEW.name = 'Eve') EXECUTE FUNCTION refuse();
         SELECT register_column('member', 'v', 'k', 'colcrypt.row_context(id)'); SELECT create_access_view('member');
         INSERT INTO member_access VALUES (1, 'a@x', 20, 1, 'Ann', 'secret'), (2, 'b@x', 20, 1, 'Bob', 'secret')",
    );
    db
}

fn failure(db: &mut Db, sql: &str) -> DbError {
    let error = db.client.simple_query(sql).expect_err(sql);
    error.as_db_error().expect("a server error").clone()
}

/// What an application maps an error by.
fn fields(error: &DbError) -> [Option<String>; 4] {
    [
        error.schema(),
        error.table(),
        error.column(),
        error.constraint(),
    ]
    .map(|it| it.map(str::to_owned))
}

/// Both ways of writing through a view.
const WAYS: [&str; 2] = ["on", "off"];

#[test]
fn constraints_keep_their_names_table_and_column() {
    let mut db = members();
    for way in WAYS {
        db.client.run(&format!("SET colcrypt.view_rewrite = {way}"));
        for (code, through_view, constraint, column) in [
            (
                "23505",
                "INSERT INTO $ VALUES (3, 'a@x', 20, 1, 'Cid', NULL)",
                Some("one_mail"),
                None,
            ),
            (
                "23505",
                "UPDATE $ SET mail = 'a@x' WHERE id = 2",
                Some("one_mail"),
                None,
            ),
            (
                "23514",
                "UPDATE $ SET age = 3 WHERE id = 2",
                Some("grown"),
                None,
            ),
            (
                "23503",
                "UPDATE $ SET team = 9 WHERE id = 2",
                Some("of_team"),
                None,
            ),
            (
                "23502",
                "UPDATE $ SET name = NULL WHERE id = 2",
                None,
                Some("name"),
            ),
            (
                "P0042",
                "UPDATE $ SET name = 'Eve' WHERE id = 2",
                Some("house"),
                Some("name"),
            ),
        ] {
            let error = failure(&mut db, &through_view.replace('$', "member_access"));
            let of_table = failure(&mut db, &through_view.replace('$', "member"));
            assert_eq!(error.code().code(), code, "{error:?}");
            assert_eq!(fields(&error), fields(&of_table), "{way}: {through_view}");
            assert_eq!(error.constraint(), constraint);
            assert_eq!(error.column(), column);
            assert_eq!(
                (error.message(), error.hint()),
                (of_table.message(), of_table.hint())
            );
            // The ciphertext in a DETAIL is another one at each try.
            assert_eq!(error.detail().is_some(), of_table.detail().is_some());
        }
    }
}

#[test]
fn errors_of_keys_keep_their_code_and_the_servers_context() {
    let mut db = members();
    db.client.run("SELECT suspend_key('k', reason => 'a test')");
    for way in WAYS {
        db.client.run(&format!("SET colcrypt.view_rewrite = {way}"));
        for sql in [
            "INSERT INTO member_access VALUES (3, 'c@x', 20, 1, 'Cid', 'v')",
            "UPDATE member_access SET v = 'new' WHERE id = 1",
            "DO $$ BEGIN UPDATE member_access SET v = 'new' WHERE id = 1; END $$",
        ] {
            let error = failure(&mut db, sql);
            assert_eq!(error.code().code(), "KC001", "{way}: {error:?}");
            assert!(error.hint().is_some(), "{error:?}");
        }
        // What a function of the caller's adds is there once.
        let error = failure(
            &mut db,
            "DO $$ BEGIN UPDATE member_access SET v = 'new' WHERE id = 1; END $$",
        );
        let context = error.where_().unwrap_or_default();
        assert_eq!(
            context
                .matches("PL/pgSQL function inline_code_block")
                .count(),
            1,
            "{context}"
        );
    }
}

#[test]
fn no_error_carries_a_backtrace_of_ours() {
    // The clusters of this suite have RUST_BACKTRACE set.
    let environment = std::fs::read(format!(
        "/proc/{}/environ",
        crate::common::cluster().postmaster_pid()
    ))
    .unwrap();
    assert!(String::from_utf8_lossy(&environment).contains("RUST_BACKTRACE=1"));
    let mut db = members();
    for sql in [
        "INSERT INTO member_access VALUES (1, 'c@x', 20, 1, 'Cid', 'v')",
        "SELECT create_key('k', 'ring')",
        "BEGIN READ ONLY; SELECT create_key('other', 'ring')",
        "SELECT decrypt_col('\\x00')",
        "SELECT register_column('member', 'v', 'k', 'no_such_function(id)')",
        "SELECT row_context(1) FROM pg_sleep(0), xmlparse(document '<')",
    ] {
        let error = format!("{:?}", failure(&mut db, sql));
        db.client.run("ROLLBACK");
        for word in ["rustc", "pgrx", "colcrypt::", "0: "] {
            assert!(!error.contains(word), "{word} in {error}");
        }
    }
}
