//! What only newer servers have, and what it means for encrypted columns. An older server says that it has it not, and
//! each test here sees that, so that nothing is left out in silence.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use colcrypt_tests::of_columns::migrate;
use colcrypt_tests::of_jobs::rotate;
use colcrypt_tests::of_views::{fill, people, stored, user_with};
use colcrypt_tests::process::{self, run};
use colcrypt_tests::{Cluster, wait_for};

use crate::common::{self, Sql, db};

colcrypt_tests::on_both_ways!(
    a_statement_returns_the_row_as_it_was_and_as_it_is,
    columns_that_are_computed_when_they_are_read,
    a_merge_returns_what_it_did,
);

/// PostgreSQL 18: OLD and NEW.
fn a_statement_returns_the_row_as_it_was_and_as_it_is() {
    let mut db = people();
    fill(&mut db.client);
    let update = "UPDATE person_access SET iban = 'NEW' WHERE id = 1
        RETURNING concat_ws(' ', old.iban, new.iban, old.born, new.born, old.size, iban)";
    if db.client.server() < 18 {
        db.client.fails("42P01", update).says("FROM-clause entry");
        return;
    }
    assert_eq!(
        db.client.one(update),
        "IBAN1 NEW 2000-01-02 2000-01-02 3 NEW"
    );
    let before = stored(&mut db.client, 1);
    // What a value is bound to changes: it is bound anew, and each is opened with its own context.
    let moved = "UPDATE person_access SET name = 'Anna' WHERE id = 1
        RETURNING WITH (OLD AS o, NEW AS n) concat_ws(' ', o.name, n.name, o.born, n.born, o.size, n.size)";
    assert_eq!(db.client.one(moved), "Ann Anna 2000-01-02 2000-01-02 3 4");
    assert_ne!(stored(&mut db.client, 1)[1], before[1]);
    let whole = "UPDATE person_access SET iban = 'B2' WHERE id = 2 RETURNING old, new";
    assert_eq!(
        db.client.rows(whole)[0],
        [
            Some("(2,Bob,IBAN2,,3)".to_owned()),
            Some("(2,Bob,B2,,3)".to_owned())
        ]
    );
    let insert = "INSERT INTO person_access (name, iban) VALUES ('Cid', 'C')
        RETURNING concat_ws(' ', coalesce(old.iban, '-'), old IS NULL, new.name, new.iban, new.size)";
    assert_eq!(db.client.one(insert), "- t Cid C 3");
    let delete = "DELETE FROM person_access WHERE id = 2
        RETURNING concat_ws(' ', old.iban, coalesce(new.iban, '-'), new IS NULL)";
    assert_eq!(db.client.one(delete), "B2 - t");
    if common::rewrites_views() {
        let upsert = "INSERT INTO person_access (id, iban) OVERRIDING SYSTEM VALUE VALUES (1, 'UP'), (8, 'eight')
            ON CONFLICT (id) DO UPDATE SET iban = excluded.iban RETURNING coalesce(old.iban, '-') || ' ' || new.iban";
        let rows = db.client.rows(upsert);
        let said: Vec<_> = rows.iter().map(|row| row[0].as_deref().unwrap()).collect();
        assert_eq!(said, ["NEW UP", "- eight"]);
    }
    // The former value is as secret as the one that is there.
    let (_, mut writer) = user_with(&mut db, "{encrypt}");
    for what in ["old.iban", "new.iban", "old", "iban"] {
        let sql = format!("UPDATE person_access SET iban = 'X' WHERE id = 1 RETURNING {what}");
        writer.fails("42501", &sql);
    }
    let (_, mut reader) = user_with(&mut db, "{decrypt}");
    assert_eq!(
        reader.one("DELETE FROM person_access WHERE id = 1 RETURNING old.name"),
        "Anna"
    );
}

/// PostgreSQL 18: generated columns that no row holds.
fn columns_that_are_computed_when_they_are_read() {
    let mut db = db();
    let make = "CREATE TABLE t (id int PRIMARY KEY, name text, secret ciphertext,
        loud text GENERATED ALWAYS AS (upper(name)) VIRTUAL, size int GENERATED ALWAYS AS (length(name)) STORED)";
    if db.client.server() < 18 {
        db.client.fails("42601", make);
        return;
    }
    db.client.run(&format!(
        "{make}; SELECT register_column('t', 'secret', 'k'), create_access_view('t')"
    ));
    let insert = "INSERT INTO t_access (id, name, secret) VALUES (1, 'ann', 's1'), (2, 'bob', 's2') RETURNING concat_ws(' ', loud, size)";
    assert_eq!(db.client.one(insert), "BOB 3");
    for sql in [
        "INSERT INTO t_access (id, loud) VALUES (3, 'X')",
        "UPDATE t_access SET loud = 'X'",
    ] {
        db.client.fails("428C9", sql);
    }
    let update = "UPDATE t_access SET name = 'anna', secret = secret || '!' WHERE loud = 'ANN' RETURNING concat_ws(' ', loud, size, secret)";
    assert_eq!(db.client.one(update), "ANNA 4 s1!");
    let mut copy = db
        .client
        .copy_in("COPY t_access (id, name, secret) FROM STDIN")
        .unwrap();
    std::io::Write::write_all(&mut copy, b"3\tcid\ts3\n").unwrap();
    copy.finish().unwrap();
    let all =
        "SELECT string_agg(concat_ws(' ', id, loud, size, secret), ', ' ORDER BY id) FROM t_access";
    assert_eq!(db.client.one(all), "1 ANNA 4 s1!, 2 BOB 3 s2, 3 CID 3 s3");
    // Jobs rewrite the rows, and migrate a column beside such a one.
    rotate(&mut db.client);
    assert_eq!(
        db.client
            .one("SELECT string_agg(DISTINCT (ciphertext_info(secret)).version::text, ',') FROM t"),
        "2"
    );
    assert_eq!(db.client.one(all), "1 ANNA 4 s1!, 2 BOB 3 s2, 3 CID 3 s3");
    db.client.run(
        "CREATE TABLE plain (id int PRIMARY KEY, ssn text NOT NULL, twice int GENERATED ALWAYS AS (id * 2));
         INSERT INTO plain SELECT g, 'plain ' || g FROM generate_series(1, 300) g",
    );
    migrate(&mut db.client, "encrypt_column('plain', 'ssn', 'k')");
    db.client
        .run("INSERT INTO plain VALUES (301, 'plain 301'); UPDATE plain SET id = 302 WHERE id = 301 AND twice = 602");
    let right =
        "SELECT count(*) = 301 AND bool_and(twice = id * 2 AND ssn LIKE 'plain %') FROM plain";
    assert!(db.client.yes(right));
    migrate(&mut db.client, "decrypt_column('plain', 'ssn')");
    assert!(db.client.yes(right));
    // One that is computed from the column itself would show its plaintext to everybody, or nothing at all.
    db.client.run(
        "CREATE TABLE made (id int PRIMARY KEY, v text, l text GENERATED ALWAYS AS (upper(v)))",
    );
    db.client
        .fails("KC060", "SELECT encrypt_column('made', 'v', 'k')");
}

/// PostgreSQL 17: MERGE into views that have triggers, and its RETURNING.
fn a_merge_returns_what_it_did() {
    let mut db = people();
    fill(&mut db.client);
    let merge = "MERGE INTO person_access p USING (VALUES (1, 'M1'), (7, 'M7')) AS s(id, iban) ON p.id = s.id
        WHEN MATCHED THEN UPDATE SET iban = s.iban WHEN NOT MATCHED THEN INSERT (name, iban) VALUES ('new', s.iban)
        RETURNING merge_action() || ' ' || p.id || ' ' || p.iban";
    if db.client.server() < 17 {
        db.client.fails("42601", merge);
        return;
    }
    let rows = db.client.rows(merge);
    let mut said: Vec<_> = rows.iter().map(|row| row[0].as_deref().unwrap()).collect();
    said.sort_unstable();
    assert_eq!(said, ["INSERT 3 M7", "UPDATE 1 M1"]);
    assert_eq!(
        db.client
            .one("SELECT string_agg(iban, ' ' ORDER BY id) FROM person_access"),
        "M1 IBAN2 M7"
    );
    // Into the table itself, with values that the statement encrypts.
    let table = "MERGE INTO person p USING (VALUES (2, 'T2')) AS s(id, iban) ON p.id = s.id
        WHEN MATCHED THEN UPDATE SET iban = encrypt_col(s.iban, 'k', row_context(p.id))
        WHEN NOT MATCHED BY SOURCE AND p.id = 3 THEN DELETE
        RETURNING merge_action() || ' ' || decrypt_col(p.iban, row_context(p.id))";
    let rows = db.client.rows(table);
    let mut said: Vec<_> = rows.iter().map(|row| row[0].as_deref().unwrap()).collect();
    said.sort_unstable();
    assert_eq!(said, ["DELETE M7", "UPDATE T2"]);
}

/// Where the installed extension's files are.
fn installed(cluster: &Cluster, what: &str) -> PathBuf {
    let pg_config = cluster.installation().bindir().join("pg_config");
    let said = run(Command::new(pg_config).arg(what)).stdout;
    PathBuf::from(String::from_utf8_lossy(&said).trim())
}

fn copy_into(directory: &Path, files: impl IntoIterator<Item = PathBuf>) {
    fs::create_dir_all(directory).unwrap();
    for file in files {
        fs::copy(&file, directory.join(file.file_name().unwrap())).unwrap();
    }
}

/// As an image volume brings it: the library in a directory of its own, the agent in the one for programs beside that,
/// and from PostgreSQL 18 on the SQL, too.
#[test]
fn an_extension_may_lie_in_a_directory_of_its_own() {
    let cluster = Cluster::builder().create();
    let place = cluster.dir().join("image");
    let library = installed(&cluster, "--pkglibdir").join("colcrypt.so");
    let program = cluster.installation().bindir().join("colcrypt");
    copy_into(&place.join("lib"), [library]);
    copy_into(&place.join("bin"), [program]);
    let sql = installed(&cluster, "--sharedir").join("extension");
    let sql = fs::read_dir(sql).unwrap().map(|file| file.unwrap().path());
    let ours = sql.filter(|file| {
        let name = file.file_name().unwrap().to_string_lossy();
        name.starts_with("colcrypt")
    });
    copy_into(&place.join("share/extension"), ours);
    cluster.append_conf(&format!(
        "dynamic_library_path = '{}:$libdir'",
        place.join("lib").display()
    ));
    cluster.start();
    if cluster.client().server() >= 18 {
        // Nothing of ours is found anywhere else.
        cluster.append_conf(&format!(
            "extension_control_path = '{}'",
            place.join("share").display()
        ));
        cluster.restart();
        let location = "SELECT setting FROM pg_settings WHERE name = 'extension_control_path'";
        assert!(cluster.client().one(location).ends_with("image/share"));
    }
    let mut client = cluster.create_database("work");
    common::make_key(&cluster, &mut client);
    assert_eq!(
        client.one("SELECT colcrypt.decrypt_col(colcrypt.encrypt_col('value', 'k'))"),
        "value"
    );
    let agent = cluster.agent_pid().expect("an agent");
    let started = process::command_line(agent);
    let own = place.join("bin/colcrypt");
    assert!(started.starts_with(own.to_str().unwrap()), "{started}");
    // Without it, the server's own serves.
    fs::remove_file(own).unwrap();
    process::kill9(agent);
    let servers = cluster.installation().bindir().join("colcrypt");
    wait_for("the server's own agent", Duration::from_secs(60), || {
        cluster
            .agent_pid()
            .is_some_and(|pid| process::command_line(pid).starts_with(servers.to_str().unwrap()))
    });
}
