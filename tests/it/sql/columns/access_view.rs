//! Access views: encrypted columns read and written as plaintext, by whoever may.

use std::process::Command;

use colcrypt_tests::of_jobs::{rotate, versions};
use colcrypt_tests::of_views::{ALL, fill, people, stored, user_with};
use colcrypt_tests::process;

use crate::common::{Sql, cluster, role, unique};

fn the_view_has_the_tables_columns_in_plaintext() {
    let mut db = people();
    fill(&mut db.client);
    assert_eq!(
        db.client.one(ALL),
        "1 Ann IBAN1 2000-01-02 3, 2 Bob IBAN2 - 3"
    );
    let columns = |relation: &str| {
        format!(
            "SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute WHERE attrelid = '{relation}'::regclass AND attnum > 0"
        )
    };
    let names = db.client.one(&columns("person_access"));
    assert_eq!(names, db.client.one(&columns("person")));
    assert_eq!(
        db.client.one("SELECT string_agg(format_type(atttypid, atttypmod), ',' ORDER BY attnum) FROM pg_attribute
             WHERE attrelid = 'person_access'::regclass"),
        "integer,text,text,date,integer"
    );
    assert_eq!(
        db.client
            .one("SELECT col_description('person_access'::regclass, 3)"),
        "where the money goes"
    );
    assert_eq!(
        db.client.one(
            "SELECT array_to_string(reloptions, ',') FROM pg_class WHERE relname = 'person_access'"
        ),
        "security_invoker=true"
    );
    // What lies in the table is bound to its row, and to nothing else.
    assert_eq!(
        db.client.one(
            "SELECT decrypt_col(born, NULL::date, row_context(id, name)) FROM person WHERE id = 1"
        ),
        "2000-01-02"
    );
}

fn readers_see_plaintext_and_others_see_null() {
    let mut db = people();
    let officers = role(&mut db.client);
    db.client.run(&format!(
        "SELECT register_column('person', 'iban', 'k', 'colcrypt.row_context(id)', ARRAY['{officers}'])"
    ));
    let (member, mut reader) = user_with(&mut db, "{encrypt,decrypt}");
    db.client.run(&format!("GRANT {officers} TO {member}"));
    let (_, mut other) = user_with(&mut db, "{encrypt,decrypt}");
    db.client.run("INSERT INTO person_access (name, iban, born) VALUES ('Ann', 'IBAN1', '2000-01-02'), ('Bob', 'IBAN2', NULL)");
    let seen = "SELECT concat_ws(' ', iban, born) FROM person_access WHERE id = 1";
    assert_eq!(reader.one(seen), "IBAN1 2000-01-02");
    assert_eq!(other.one(seen), "2000-01-02", "one column is masked");
    assert!(other.yes("SELECT bool_and(iban IS NULL) FROM person_access"));
    assert_eq!(
        other.one("SELECT count(*) FROM person_access WHERE iban = 'IBAN1'"),
        "0"
    );
    // What it does not see stays as it is, also when its row moves to another context; it may write a new value.
    let before = stored(&mut db.client, 1);
    other.run("UPDATE person_access SET name = 'Anna', iban = iban WHERE id = 1");
    assert_eq!(stored(&mut db.client, 1)[0], before[0]);
    assert_eq!(reader.one(seen), "IBAN1 2000-01-02");
    other.run("UPDATE person_access SET iban = 'IBAN3' WHERE id = 2");
    assert_eq!(
        reader.one("SELECT iban FROM person_access WHERE id = 2"),
        "IBAN3"
    );
    // Membership and the list count from the next statement on.
    db.client.run(&format!("REVOKE {officers} FROM {member}"));
    assert_eq!(reader.one(seen), "2000-01-02");
    db.client.run(&format!(
        "SELECT register_column('person', 'iban', 'k', 'colcrypt.row_context(id)', ARRAY['{member}'])"
    ));
    assert_eq!(reader.one(seen), "IBAN1 2000-01-02");
    // To be a reader is not a grant: the key decides.
    db.client.run(&format!(
        "SELECT revoke_key('k', '{member}', '{{decrypt}}')"
    ));
    reader
        .fails("42501", seen)
        .says("permission denied to decrypt with key")
        .hides("IBAN1");
    // Readers exist, and are not everybody.
    for (code, readers) in [
        ("42704", "{no such role}"),
        ("22023", "{public}"),
        ("22004", "{NULL}"),
    ] {
        db.client.fails(
            code,
            &format!("SELECT register_column('person', 'iban', 'k', NULL, '{readers}')"),
        );
    }
    db.client.run("SELECT unregister_column('person', 'iban')");
    other.fails("42809", seen).says("is not registered");
}

fn row_security_and_grants_are_the_callers() {
    let mut db = people();
    let (name, mut user) = user_with(&mut db, "{encrypt,decrypt}");
    fill(&mut db.client);
    db.client.run(&format!(
        "ALTER TABLE person ENABLE ROW LEVEL SECURITY;
         CREATE POLICY mine ON person TO {name} USING (name = 'Bob' OR name = '{name}') WITH CHECK (true);
         GRANT CREATE ON SCHEMA public TO {name}"
    ));
    // A cheap function in the WHERE clause comes after the policy.
    user.run(
        "CREATE FUNCTION leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
             $$ BEGIN RAISE WARNING 'leaked %', $1; IF $1 = 'IBAN1' THEN RAISE EXCEPTION 'leaked'; END IF; RETURN true; END $$",
    );
    assert_eq!(
        user.one("SELECT string_agg(iban, ',') FROM person_access WHERE leak(iban) AND leak(name)"),
        "IBAN2"
    );
    assert_eq!(
        user.execute(
            "UPDATE person_access SET iban = 'mine' WHERE leak(iban)",
            &[]
        )
        .unwrap(),
        1
    );
    assert_eq!(
        user.execute("DELETE FROM person_access WHERE id = 1", &[])
            .unwrap(),
        0
    );
    // A row that the writer cannot see goes in, as it does in the table.
    user.run("INSERT INTO person_access (name, iban) VALUES ('unseen', 'u')");
    assert_eq!(
        db.client.one(ALL),
        "1 Ann IBAN1 2000-01-02 3, 2 Bob mine - 3, 3 unseen u - 6"
    );
    // The table's grants hold behind the view's.
    db.client.run(&format!("REVOKE ALL ON person FROM {name}"));
    user.fails("42501", "SELECT iban FROM person_access")
        .says("permission denied for table person");
    // Without the key there is no plaintext, and what needs none works.
    let (blind, mut without) = user_with(&mut db, "{encrypt}");
    db.client.run(&format!("ALTER ROLE {blind} BYPASSRLS"));
    without
        .fails("42501", "SELECT * FROM person_access")
        .says("to decrypt");
    assert_eq!(without.one("SELECT count(name) FROM person_access"), "3");
}

fn a_dump_restores_without_encrypting_twice() {
    let mut db = people();
    let reader = role(&mut db.client);
    fill(&mut db.client);
    db.client.run(&format!(
        "SELECT register_column('person', 'iban', 'k', 'colcrypt.row_context(id)', ARRAY['{reader}', current_user])"
    ));
    let before = db.client.rows("SELECT * FROM person ORDER BY id");
    let all = db.client.one(ALL);
    let custom = cluster().dump(&db.name);
    let plain = cluster().dir().join(format!("{}.sql", db.name));
    process::run(
        cluster()
            .command("pg_dump")
            .args(["-d", &db.name, "-f"])
            .arg(&plain),
    );
    // A reader that does not exist where the dump goes to.
    db.client.run(&format!("DROP ROLE {reader}"));
    for way in ["custom", "plain"] {
        let name = unique("restored");
        let mut copy = cluster().create_database(&name);
        let mut command: Command = if way == "custom" {
            let mut command = cluster().command("pg_restore");
            command
                .args(["--exit-on-error", "-j2", "-d", &name])
                .arg(&custom);
            command
        } else {
            let mut command = cluster().command("psql");
            command
                .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &name, "-f"])
                .arg(&plain);
            command
        };
        process::run(&mut command);
        copy.run("SET search_path = public, colcrypt");
        assert_eq!(
            copy.rows("SELECT * FROM person ORDER BY id"),
            before,
            "{way}"
        );
        assert_eq!(copy.one(ALL), all, "{way}");
        // It writes as before, defaults included.
        assert_eq!(
            copy.one(
                "INSERT INTO person_access (iban) VALUES ('after') RETURNING id || name || iban"
            ),
            "3nobodyafter"
        );
        copy.run("UPDATE person_access SET iban = 'again' WHERE id = 1; DELETE FROM person_access WHERE id = 2");
        copy.run("SELECT create_access_view('person')");
    }
}

fn changes_of_the_table_and_the_view_made_anew() {
    let mut db = people();
    fill(&mut db.client);
    let all = "SELECT string_agg(iban, ',' ORDER BY id) FROM person_access";
    // A column that comes later gets its default until the view is made anew, which keeps the grants.
    db.client.run(
        "GRANT SELECT ON person_access TO PUBLIC; ALTER TABLE person ADD note text DEFAULT 'new';
         INSERT INTO person_access (iban) VALUES ('IBAN3')",
    );
    db.client.fails("42703", "SELECT note FROM person_access");
    db.client.run("SELECT create_access_view('person')");
    assert_eq!(
        db.client
            .one("INSERT INTO person_access (iban) VALUES ('IBAN4') RETURNING note"),
        "new"
    );
    assert!(
        db.client
            .yes("SELECT has_table_privilege('public', 'person_access', 'select')")
    );
    // A renamed table is found; a renamed column is not registered under its new name.
    db.client.run("ALTER TABLE person RENAME TO folk");
    assert_eq!(db.client.one(all), "IBAN1,IBAN2,IBAN3,IBAN4");
    db.client
        .run("UPDATE person_access SET iban = 'renamed' WHERE id = 1");
    assert_eq!(db.client.one(all), "renamed,IBAN2,IBAN3,IBAN4");
    db.client.run(
        "ALTER TABLE folk RENAME note TO remark; UPDATE person_access SET note = 'x' WHERE id = 1",
    );
    assert_eq!(db.client.one("SELECT remark FROM folk WHERE id = 1"), "x");
    // A column of the view cannot go while the view is there.
    db.client
        .fails("2BP01", "ALTER TABLE folk DROP COLUMN iban");
    // Plain statements take the view away, and nothing is left behind.
    db.client
        .run("DROP VIEW person_access; SELECT create_access_view('folk'); DROP TABLE folk CASCADE");
    assert_eq!(db.client.one("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('v', 'S')"), "0");
    assert_eq!(
        db.client
            .one("SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace"),
        "0"
    );
}

/// Without a name what is there is made anew, whatever it is called and wherever it is: a second view would leave the
/// first, which clients use, as it was.
fn the_view_that_is_there_is_made_anew() {
    let mut db = people();
    fill(&mut db.client);
    let views = "SELECT string_agg(attrelid::regclass::text, ' ' ORDER BY attrelid::regclass::text) FROM pg_attribute
                 WHERE attname = 'remark' AND attrelid <> 'person'::regclass";
    db.client.run(
        "ALTER VIEW person_access RENAME TO folk; GRANT SELECT ON folk TO PUBLIC; ALTER TABLE person ADD remark text",
    );
    let made = |client: &mut postgres::Client, of: &str| {
        client.one(&format!("SELECT create_access_view('{of}')"))
    };
    assert_eq!(made(&mut db.client, "person"), "folk");
    assert_eq!(db.client.one(views), "folk");
    assert!(
        db.client
            .yes("SELECT has_table_privilege('public', 'folk', 'select')")
    );
    // The view says as well which table is meant, and in another schema it stays there.
    db.client
        .run("CREATE SCHEMA app; ALTER VIEW folk SET SCHEMA app; ALTER TABLE person ADD more text");
    assert_eq!(made(&mut db.client, "app.folk"), "app.folk");
    assert_eq!(made(&mut db.client, "person"), "app.folk");
    assert_eq!(db.client.one(views), "app.folk");
    db.client
        .run("UPDATE app.folk SET iban = 'NEW', more = 'm' WHERE id = 1");
    // A view of somebody else's over the table is none of the table's.
    let other = role(&mut db.client);
    db.client.run(&format!(
        "CREATE VIEW his AS SELECT id FROM person; ALTER VIEW his OWNER TO {other};
         CREATE TRIGGER t INSTEAD OF INSERT ON his FOR EACH ROW EXECUTE FUNCTION write_access_view()"
    ));
    assert_eq!(made(&mut db.client, "person"), "app.folk");
    db.client
        .fails("42809", "SELECT create_access_view('his')")
        .says("public.his exists and is not an access view of this table");
    // Of several one has to say which, unless one has the name that is given by default.
    db.client
        .run("SELECT create_access_view('person', 'third')");
    db.client
        .fails("42809", "SELECT create_access_view('person')")
        .says("table public.person has several access views: app.folk, public.third")
        .says("create_access_view('app.folk')");
    assert_eq!(made(&mut db.client, "third"), "third");
    db.client
        .run("SELECT create_access_view('person', 'person_access')");
    assert_eq!(made(&mut db.client, "person"), "person_access");
}

fn rotation_and_the_view_get_along() {
    let mut db = people();
    fill(&mut db.client);
    let all = db.client.one(ALL);
    rotate(&mut db.client);
    assert_eq!(versions(&mut db.client, "person", "iban"), "2:2");
    assert_eq!(db.client.one(ALL), all);
    db.client
        .run("UPDATE person_access SET born = '1970-01-01' WHERE id = 2");
    assert_eq!(versions(&mut db.client, "person", "born"), "2:2");
}

fn who_may_make_a_view_of_what() {
    let mut db = people();
    let name = role(&mut db.client);
    db.client.run(&format!(
        "GRANT ALL ON person TO {name}; GRANT CREATE ON SCHEMA public TO {name};
         GRANT EXECUTE ON FUNCTION create_access_view(regclass, name), register_column(regclass, name, text, text, text[], text, text, boolean, text, text, text) TO {name};
         SELECT grant_key('k', '{name}', '{{manage}}')"
    ));
    let mut user = db.connect_as(&name);
    user.fails("42501", "SELECT create_access_view('person')")
        .says("must be owner of table public.person");
    user.run(
        "CREATE TABLE mine (id int PRIMARY KEY, v ciphertext, w ciphertext);
         SELECT register_column('mine', 'v', 'k'); SELECT create_access_view('mine', 'mine view')",
    );
    assert_eq!(
        user.one("SELECT viewowner FROM pg_views WHERE viewname = 'mine view'"),
        name
    );
    // Made by a superuser it is the table owner's all the same.
    db.client.run("SELECT create_access_view('mine', 'other')");
    assert_eq!(
        user.one("SELECT viewowner FROM pg_views WHERE viewname = 'other'"),
        name
    );
    user.run("CREATE VIEW taken AS SELECT 1 AS one; CREATE TABLE plain (id int)");
    user.fails("42809", "SELECT create_access_view('mine', 'taken')")
        .says("is not an access view of this table");
    user.fails("42809", "SELECT create_access_view('plain')")
        .says("has no registered column");
    user.fails("42809", "SELECT create_access_view('taken')")
        .says("is not a table");
    // A context over what is computed later cannot be made when a row is written.
    db.client
        .run("SELECT register_column('person', 'iban', 'k', 'colcrypt.row_context(size)')");
    db.client
        .fails("42703", "SELECT create_access_view('person')");
    db.client
        .run("SELECT register_column('person', 'iban', 'k', '(SELECT colcrypt.row_context(id) FROM public.mine LIMIT 1)')");
    db.client
        .fails("42809", "SELECT create_access_view('person')")
        .says("reads another table");
}

colcrypt_tests::on_both_ways!(
    the_view_has_the_tables_columns_in_plaintext,
    readers_see_plaintext_and_others_see_null,
    row_security_and_grants_are_the_callers,
    a_dump_restores_without_encrypting_twice,
    changes_of_the_table_and_the_view_made_anew,
    the_view_that_is_there_is_made_anew,
    rotation_and_the_view_get_along,
    who_may_make_a_view_of_what,
);
