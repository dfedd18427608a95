//! Types that were changed since values were written: renamed, moved to another schema, given another attribute; and
//! types that the parser takes for text.

use colcrypt_tests::of_columns;

use crate::common::{Sql, cluster, db};

/// Enums, arrays of them and composites by whatever name they had, and have again in a restored database.
#[test]
fn a_renamed_type_is_the_same_type() {
    let mut db = db();
    let client = &mut db.client;
    client.run(
        "CREATE SCHEMA shop; CREATE SCHEMA other;
         CREATE TYPE shop.mood AS ENUM ('sad', 'glad');
         CREATE TYPE shop.pair AS (a text, m shop.mood);
         CREATE TABLE public.v AS SELECT encrypt_col('glad'::shop.mood, 'k') AS one,
             encrypt_col('{sad,glad}'::shop.mood[], 'k') AS list, encrypt_col(('x', 'sad')::shop.pair, 'k') AS pair",
    );
    let read = |mood: &str, pair: &str| {
        format!(
            "SELECT colcrypt.decrypt_col(one, NULL::{mood})::text || colcrypt.decrypt_col(list, NULL::{mood}[])::text
                 || colcrypt.decrypt_col(pair, NULL::{pair})::text FROM public.v"
        )
    };
    let all = "glad{sad,glad}(x,sad)";
    for (change, mood, pair) in [
        (
            "ALTER TYPE shop.mood RENAME TO feeling",
            "shop.feeling",
            "shop.pair",
        ),
        (
            "ALTER TYPE shop.feeling SET SCHEMA other",
            "other.feeling",
            "shop.pair",
        ),
        (
            "ALTER SCHEMA shop RENAME TO \"The Shop\"",
            "other.feeling",
            "\"The Shop\".pair",
        ),
        (
            "ALTER SCHEMA other RENAME TO shop",
            "shop.feeling",
            "\"The Shop\".pair",
        ),
        (
            "ALTER TYPE shop.feeling RENAME TO mood",
            "shop.mood",
            "\"The Shop\".pair",
        ),
        (
            "ALTER TYPE shop.mood RENAME TO feeling",
            "shop.feeling",
            "\"The Shop\".pair",
        ),
    ] {
        client.run(change);
        assert_eq!(client.one(&read(mood, pair)), all, "{change}");
    }
    // A change that is taken back leaves nothing; another type of the old name is another type.
    client.run("BEGIN; ALTER TYPE shop.feeling RENAME TO gone; ROLLBACK");
    let known = "SELECT count(*) FROM colcrypt.former_type_name WHERE name LIKE '%.feeling'";
    assert_eq!(
        client.one(known),
        "2",
        "its name in the schema that was renamed, and where it was moved from"
    );
    client.run("CREATE TYPE shop.mood AS ENUM ('new')");
    let failure = client.fails(
        "42804",
        "SELECT decrypt_col(one, NULL::\"The Shop\".pair) FROM public.v",
    );
    assert!(failure.hint.contains("NULL::shop.mood"), "{}", failure.hint);
    client.run("DROP TYPE shop.mood");
    let failure = client.fails(
        "42804",
        "SELECT decrypt_col(one, NULL::\"The Shop\".pair) FROM public.v",
    );
    assert!(
        failure.message.contains("holds shop.feeling"),
        "{}",
        failure.message
    );
    assert!(
        failure.hint.contains("NULL::shop.feeling"),
        "{}",
        failure.hint
    );

    let restored = format!("{}_restored", db.name);
    cluster()
        .client()
        .run(&format!("CREATE DATABASE {restored}"));
    cluster().restore(&cluster().dump(&db.name), &restored);
    let mut client = cluster().client_db(&restored);
    assert_eq!(client.one(&read("shop.feeling", "\"The Shop\".pair")), all);
}

/// A table's rows are of a type that goes by the table's name; an extension takes its types along.
#[test]
fn a_type_that_moves_with_something_else_is_the_same_type() {
    let mut db = db();
    db.client.run(
        "CREATE SCHEMA elsewhere;
         CREATE TABLE record_line (a int, b text);
         CREATE TABLE v AS SELECT encrypt_col('(1,x)'::record_line, 'k') AS line;
         ALTER TABLE record_line RENAME TO item; ALTER TABLE item SET SCHEMA elsewhere",
    );
    let read = "SELECT decrypt_col(line, NULL::elsewhere.item)::text FROM v";
    assert_eq!(db.client.one(read), "(1,x)");
    if !db.client.has_contrib() {
        return;
    }
    db.client.run(
        "CREATE EXTENSION hstore; CREATE TABLE h AS SELECT encrypt_col('a=>1'::hstore, 'k') AS v;
         ALTER EXTENSION hstore SET SCHEMA elsewhere",
    );
    let read = "SELECT decrypt_col(v, NULL::elsewhere.hstore)::text FROM h";
    assert_eq!(db.client.one(read), "\"a\"=>\"1\"");
}

/// A context names the types of its values, too: what was bound to a row before a type was renamed is bound to that
/// row, and a rotation binds it to the row as it is called then.
#[test]
fn a_context_of_a_renamed_type_is_the_same_context() {
    let mut db = db();
    db.client.run(
        "CREATE SCHEMA shop; CREATE TYPE shop.region AS ENUM ('north', 'south'); CREATE TYPE shop.code AS (a int, b shop.region);
         CREATE TABLE t (r shop.region, c shop.code, id int, v ciphertext, w ciphertext);
         INSERT INTO t SELECT r, row(id, r)::shop.code, id, encrypt_col('secret', 'k', row_context(r, id)),
             encrypt_col('label', 'k', place_context('t.w', r, row(id, r)::shop.code))
         FROM (VALUES ('north'::shop.region, 1), ('south', 2)) n (r, id);
         SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(r, id)');
         SELECT register_column('t', 'w', 'k', 'colcrypt.place_context(''t.w'', r, c)')",
    );
    let read = "SELECT string_agg(decrypt_col(v, row_context(r, id)) || decrypt_col(w, place_context('t.w', r, c)), ',') FROM t";
    let wrong = "SELECT decrypt_col(v, row_context(r, 3 - id)) FROM t";
    for (change, version) in [
        ("ALTER TYPE shop.region RENAME TO area", "2"),
        ("ALTER TYPE shop.area SET SCHEMA public", "3"),
        ("ALTER TYPE shop.code RENAME TO \"The Code\"", "4"),
    ] {
        db.client.run(change);
        assert_eq!(db.client.one(read), "secretlabel,secretlabel", "{change}");
        db.client.fails("KC003", wrong);
        db.client.run("SELECT rotate_key('k')");
        crate::common::wait_for_jobs(&mut db.client);
        assert_eq!(
            db.client
                .one("SELECT string_agg(DISTINCT (ciphertext_info(v)).version || ' ' || (ciphertext_info(w)).version, ',') FROM t"),
            format!("{version} {version}"),
        );
        assert_eq!(db.client.one(read), "secretlabel,secretlabel", "{change}");
    }
    // By now under the names that there are.
    db.client.run("DELETE FROM colcrypt.former_type_name");
    assert_eq!(db.client.one(read), "secretlabel,secretlabel");
    // `name` and "char" are types of their own in a context as well.
    let own = "SELECT decrypt_col(encrypt_col('x', 'k', row_context('n'::name, 'c'::\"char\")), row_context('n'::name, 'c'::\"char\"))";
    assert_eq!(db.client.one(own), "x");
}

/// The migration's own reader goes by the same names.
#[test]
fn a_column_of_a_renamed_type_is_decrypted_in_place() {
    let mut db = db();
    db.client.run(
        "CREATE TYPE mood AS ENUM ('sad', 'glad');
         CREATE TABLE t (id int PRIMARY KEY, m mood); INSERT INTO t VALUES (1, 'glad');
         SELECT encrypt_column('t', 'm', 'k', accept_losses => true)",
    );
    crate::common::wait_for_jobs(&mut db.client);
    db.client.run(
        "ALTER TYPE mood RENAME TO feeling; INSERT INTO t VALUES (2, 'sad');
         SELECT decrypt_column('t_encrypted', 'm', accept_losses => true)",
    );
    crate::common::wait_for_jobs(&mut db.client);
    assert_eq!(
        db.client
            .one("SELECT string_agg(m::text, ',' ORDER BY id) FROM t"),
        "glad,sad"
    );
    assert_eq!(
        db.client.one("SELECT pg_typeof(m) FROM t LIMIT 1"),
        "feeling"
    );
}

/// What nobody has written down cannot be told, but there is a way.
#[test]
fn a_type_renamed_before_anybody_looked_is_told_to_us() {
    let mut db = db();
    db.client.run(
        "CREATE TYPE mood AS ENUM ('glad'); CREATE TABLE v AS SELECT encrypt_col('glad'::mood, 'k') AS v;
         ALTER TYPE mood RENAME TO feeling; DELETE FROM colcrypt.former_type_name",
    );
    let read = "SELECT decrypt_col(v, NULL::feeling) FROM v";
    let failure = db.client.fails("42804", read);
    assert!(
        failure.message.contains("public.mood"),
        "{}",
        failure.message
    );
    assert!(
        failure.hint.contains("colcrypt.former_type_name"),
        "{}",
        failure.hint
    );
    db.client
        .run("INSERT INTO colcrypt.former_type_name VALUES ('public.mood', 'feeling')");
    assert_eq!(db.client.one(read), "glad");
}

#[test]
fn a_composite_with_another_attribute_reads_what_was_written_before() {
    let mut db = db();
    db.client.run(
        "CREATE TYPE pair AS (a text, b int); CREATE TYPE outer_pair AS (p pair, list pair[], c text);
         CREATE DOMAIN paired AS pair;
         CREATE TABLE v AS SELECT encrypt_col(('x', 1)::pair, 'k') AS one,
             encrypt_col(ARRAY[('y', 2)::pair, NULL, (NULL, NULL)::pair], 'k') AS list,
             encrypt_col((('x', 1), ARRAY[('z', 3)::pair], 'c')::outer_pair, 'k') AS nested,
             encrypt_col(('d', 4)::paired, 'k') AS domain",
    );
    let read = "SELECT decrypt_col(one, NULL::pair)::text || decrypt_col(list, NULL::pair[])::text
                    || decrypt_col(nested, NULL::outer_pair)::text || decrypt_col(domain, NULL::paired)::text FROM v";
    let plain =
        |one: &str, list: &str, nested: &str, domain: &str| format!("{one}{list}{nested}{domain}");
    assert_eq!(
        db.client.one(read),
        plain(
            "(x,1)",
            "{\"(y,2)\",NULL,\"(,)\"}",
            "(\"(x,1)\",\"{\"\"(z,3)\"\"}\",c)",
            "(d,4)"
        )
    );
    db.client
        .run("ALTER TYPE pair ADD ATTRIBUTE at timestamptz, ADD ATTRIBUTE e text");
    let widened = plain(
        "(x,1,,)",
        "{\"(y,2,,)\",NULL,\"(,,,)\"}",
        "(\"(x,1,,)\",\"{\"\"(z,3,,)\"\"}\",c)",
        "(d,4,,)",
    );
    assert_eq!(db.client.one(read), widened);
    // Which one a value had that is not there any more, nobody can tell.
    db.client
        .run("ALTER TYPE pair DROP ATTRIBUTE at, DROP ATTRIBUTE e, DROP ATTRIBUTE b");
    db.client
        .fails("22P03", "SELECT decrypt_col(one, NULL::pair) FROM v");
}

/// `name` is text to the parser, and `"char"` was not to be told from other types.
#[test]
fn name_and_char_are_types_like_others() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE v AS SELECT encrypt_col('Zoë'::name, 'k', row_context(1)) AS n,
             encrypt_col('c'::\"char\", 'k') AS c, encrypt_col('d'::\"char\", 'k', row_context(1)) AS d",
    );
    assert_eq!(
        db.client.one(
            "SELECT decrypt_col(n, NULL::name, row_context(1)) || decrypt_col(c, NULL::\"char\")::text
                 || decrypt_col(d, NULL::\"char\", row_context(1))::text FROM v"
        ),
        "Zoëcd"
    );
    assert!(db.client.yes(
        "SELECT pg_typeof(decrypt_col(n, NULL::name, row_context(1))) = 'name'::regtype FROM v"
    ));
    // A column of the type, encrypted in place: written as what it is, and by clients as text. Either is read as
    // either.
    db.client.run(
        "CREATE TABLE t (id int PRIMARY KEY, n name, c \"char\"); INSERT INTO t VALUES (1, 'one', 'x');
         SELECT encrypt_column('t', 'n', 'k', accept_losses => true)",
    );
    crate::common::wait_for_jobs(&mut db.client);
    db.client
        .run("SELECT encrypt_column('t_encrypted', 'c', 'k', accept_losses => true)");
    crate::common::wait_for_jobs(&mut db.client);
    db.client.run("INSERT INTO t VALUES (2, 'two', 'y')");
    assert_eq!(
        db.client
            .one("SELECT string_agg(n || c::text, ',' ORDER BY id) FROM t"),
        "onex,twoy"
    );
    // A text that is too long for a name is none, and is not cut short.
    db.client
        .run("CREATE TABLE l AS SELECT encrypt_col(repeat('x', 64), 'k') AS v");
    db.client
        .fails("22P03", "SELECT decrypt_col(v, NULL::name) FROM l");
}

/// A value is written as a label: it reads as what the label is called now, by itself, in arrays, domains and
/// composites, and in what another value is bound to; in a restored database, too.
#[test]
fn a_renamed_label_is_the_same_label() {
    let mut db = db();
    db.client.run(
        "CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE DOMAIN felt AS mood; CREATE TYPE pair AS (a text, m felt, l mood[]);
         CREATE TABLE t (id int PRIMARY KEY, m mood, v ciphertext);
         SELECT register_column('t', 'v', 'k', 'colcrypt.row_context(m, id)');
         INSERT INTO t SELECT id, m, encrypt_col('secret', 'k', row_context(m, id)) FROM (VALUES (1, 'sad'::mood), (2, 'glad')) n (id, m);
         CREATE TABLE v AS SELECT encrypt_col('sad'::mood, 'k') AS one, encrypt_col('{sad,glad,sad,NULL}'::mood[], 'k') AS list,
             encrypt_col('sad'::felt, 'k') AS domain, encrypt_col(('sad', 'sad', '{glad,sad}')::pair, 'k') AS pair,
             encrypt_col('bound', 'k', row_context('{sad,glad}'::mood[], ('x', 'sad', '{sad}')::pair)) AS bound",
    );
    let values =
        "SELECT decrypt_col(one, NULL::mood)::text || decrypt_col(list, NULL::mood[])::text
        || decrypt_col(domain, NULL::felt)::text || decrypt_col(pair, NULL::pair)::text FROM v";
    let bound = "SELECT string_agg(decrypt_col(v, row_context(m, id)), ',') FROM t";
    let said = |sad: &str, glad: &str| {
        format!("{sad}{{{sad},{glad},{sad},NULL}}{sad}(sad,{sad},\"{{{glad},{sad}}}\")")
    };
    let reads = |client: &mut postgres::Client, sad: &str, glad: &str| {
        assert_eq!(client.one(values), said(sad, glad));
        assert_eq!(client.one(bound), "secret,secret");
        let list = format!(
            "SELECT decrypt_col(bound, row_context('{{{sad},{glad}}}'::mood[], ('x', '{sad}', '{{{sad}}}')::pair)) FROM v"
        );
        assert_eq!(client.one(&list), "bound");
    };
    reads(&mut db.client, "sad", "glad");
    for (change, sad, glad) in [
        ("RENAME VALUE 'sad' TO 'blue'", "blue", "glad"),
        (
            "RENAME VALUE 'blue' TO 'melancholic'",
            "melancholic",
            "glad",
        ),
        ("RENAME VALUE 'glad' TO 'OK'", "melancholic", "OK"),
        ("RENAME VALUE 'OK' TO 'glad'", "melancholic", "glad"),
        ("RENAME VALUE 'melancholic' TO 'sad'", "sad", "glad"),
        ("RENAME VALUE 'sad' TO 'blue'", "blue", "glad"),
        ("ADD VALUE 'new' BEFORE 'blue'", "blue", "glad"),
    ] {
        db.client.run(&format!("ALTER TYPE mood {change}"));
        reads(&mut db.client, sad, glad);
        db.client.fails(
            "KC003",
            "SELECT decrypt_col(v, row_context(m, 3 - id)) FROM t",
        );
    }
    // The type by another name, too: in a context both were called otherwise.
    db.client.run("ALTER TYPE mood RENAME TO feeling");
    assert_eq!(db.client.one(bound), "secret,secret");
    db.client.run("ALTER TYPE feeling RENAME TO mood");
    // Both at once, and what is taken back is not remembered.
    let known = "SELECT string_agg(concat_ws('>', former, label), ' ' ORDER BY former) FROM colcrypt.former_enum_label";
    assert_eq!(db.client.one(known), "OK>glad melancholic>blue sad>blue");
    db.client.run(
        "BEGIN; ALTER TYPE mood RENAME VALUE 'blue' TO 'gone'; SAVEPOINT s; ALTER TYPE mood RENAME VALUE 'glad' TO 'away'",
    );
    reads(&mut db.client, "gone", "away");
    db.client.run("ROLLBACK TO s");
    reads(&mut db.client, "gone", "glad");
    db.client.run("ROLLBACK");
    reads(&mut db.client, "blue", "glad");
    assert_eq!(db.client.one(known), "OK>glad melancholic>blue sad>blue");

    let restored = format!("{}_restored", db.name);
    cluster()
        .client()
        .run(&format!("CREATE DATABASE {restored}"));
    cluster().restore(&cluster().dump(&db.name), &restored);
    let mut client = cluster().client_db(&restored);
    client.run("SET search_path = public, colcrypt");
    // A context of an array or a composite has the numbers of its types in it, which are others here.
    assert_eq!(client.one(values), said("blue", "glad"));
    assert_eq!(client.one(bound), "secret,secret");

    // A re-encryption writes and binds what is there now.
    db.client.run("SELECT rotate_key('k')");
    crate::common::wait_for_jobs(&mut db.client);
    db.client.run("DELETE FROM colcrypt.former_enum_label");
    assert_eq!(db.client.one(bound), "secret,secret");
}

/// A label that values of another one were written with would make those read as what they are not.
#[test]
fn a_label_that_another_had_is_not_taken_in_silence() {
    let mut db = db();
    db.client.run(
        "CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE DOMAIN felt AS mood; CREATE TYPE pair AS (a int, m felt[]);
         ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'",
    );
    let ambiguous = "label 'sad' of type mood is what 'blue' was called before";
    let said = of_columns::said(
        cluster(),
        &db.name,
        "ALTER TYPE mood RENAME VALUE 'glad' TO 'sad'",
    );
    assert!(said.contains(ambiguous), "{said}");
    db.client
        .run("ALTER TYPE mood RENAME VALUE 'sad' TO 'glad'; CREATE TABLE t (v ciphertext)");
    let said = of_columns::said(cluster(), &db.name, "ALTER TYPE mood ADD VALUE 'sad'");
    assert!(said.contains(ambiguous), "{said}");
    db.client.run(
        "ALTER TYPE mood RENAME VALUE 'sad' TO 'other';
         SELECT register_column('t', 'v', 'k', context => 'none', plaintext_type => 'pair')",
    );
    for change in ["RENAME VALUE 'glad' TO 'sad'", "ADD VALUE 'sad'"] {
        let failure = db
            .client
            .fails("42809", &format!("ALTER TYPE mood {change}"));
        assert!(
            failure.hint.contains("column public.t.v"),
            "{}",
            failure.hint
        );
    }
    // Its own former label it may have again.
    db.client
        .run("ALTER TYPE mood RENAME VALUE 'blue' TO 'azure'");
}

/// The type of a table's rows gets an attribute where the table gets a column.
#[test]
fn a_row_of_a_table_that_got_a_column_is_read() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE item (a int, gone text, b text); ALTER TABLE item DROP COLUMN gone;
         CREATE TABLE v AS SELECT encrypt_col((1, 'x')::item, 'k') AS one, encrypt_col(ARRAY[(2, 'y')::item], 'k') AS list;
         ALTER TABLE item ADD COLUMN c date, ADD COLUMN d int DEFAULT 7",
    );
    let read =
        "SELECT decrypt_col(one, NULL::item)::text || decrypt_col(list, NULL::item[])::text FROM v";
    assert_eq!(db.client.one(read), "(1,x,,){\"(2,y,,)\"}");
    db.client
        .run("ALTER TABLE item DROP COLUMN c, DROP COLUMN d");
    assert_eq!(db.client.one(read), "(1,x){\"(2,y)\"}");
}
