//! The SQL blocks of access.md, audit.md, tenants.md, cluster.md and others, after what the guide sets up first.

use colcrypt_tests::Cluster;
use colcrypt_tests::db::{LONG, wait_for_jobs};
use colcrypt_tests::process::wait_for;
use postgres::{Client, SimpleQueryMessage};

pub(crate) fn prepared() -> (Cluster, Client) {
    let cluster = Cluster::builder().start();
    let root_key = cluster.root_key("root.key");
    let mut client = cluster.client();
    client
        .batch_execute(&format!(
            "CREATE EXTENSION colcrypt; SET search_path = public, colcrypt;
             SELECT add_provider('local', 'file', jsonb_build_object('path', '{}'));
             SELECT create_keyring('app', 'local')",
            root_key.display()
        ))
        .expect("a keyring");
    (cluster, client)
}

fn run(client: &mut Client, page: &str) {
    run_with(client, page, |_| ());
}

/// The same, with something done after each block.
fn run_with(client: &mut Client, page: &str, mut after: impl FnMut(&mut Client)) {
    let text = std::fs::read_to_string(super::repository(page)).expect(page);
    let blocks = super::blocks(&text, "sql");
    assert!(blocks.len() >= 2, "{page} has lost its SQL");
    for block in blocks {
        if let Err(error) = client.batch_execute(&block) {
            panic!("{error:?}\nin the block of {page}:\n{block}");
        }
        after(client);
    }
}

#[test]
fn tenants_have_keys_as_written() {
    let (_cluster, mut client) = prepared();
    // Nobody orders the next before he has read what came of the last: a key that is to be destroyed opens nothing.
    run_with(&mut client, "docs/tenants.md", wait_for_jobs);
    wait_for("the rotation", LONG, || {
        client
            .query_one(
                "SELECT bool_and(phase = 'done') AND count(*) = 3 FROM job_progress",
                &[],
            )
            .expect("the job")
            .get(0)
    });
    let said: String = client
        .query_one(
            "SELECT string_agg(format('%s %s', (ciphertext_info(email)).key, (ciphertext_info(email)).version), ', ' ORDER BY id) FROM profile",
            &[],
        )
        .expect("the values")
        .get(0);
    assert!(said.starts_with("tenant-5 1, tenant-77 "), "{said}");
}

#[test]
fn access_views_work_as_written() {
    let (_cluster, mut client) = prepared();
    run(&mut client, "docs/access.md");
    let mut row = |role: &str| {
        client
            .batch_execute(&format!("SET ROLE {role}"))
            .expect(role);
        let row = client
            .query_one("SELECT name, born::text, ward FROM patient_access", &[])
            .expect("the patient");
        client.batch_execute("RESET ROLE").expect("reset");
        (
            row.get::<_, String>(0),
            row.get::<_, Option<String>>(1),
            row.get::<_, String>(2),
        )
    };
    let ada = |born: Option<&str>| ("Ada Lovelace".into(), born.map(String::from), "A".into());
    assert_eq!(row("doctor"), ada(Some("1815-12-10")));
    assert_eq!(row("reception"), ada(None));
}

#[test]
fn the_audit_page_works_as_written() {
    let (_cluster, mut client) = prepared();
    client
        .batch_execute("SELECT create_key('k', 'app'), rotate_key('k')")
        .expect("something to record");
    wait_for("the records", LONG, || {
        client
            .query_one("SELECT count(*) >= 4 FROM audit_log", &[])
            .expect("the log")
            .get(0)
    });
    run(&mut client, "docs/audit.md");
    let text = std::fs::read_to_string(super::repository("docs/audit.md")).expect("the page");
    let recompute = super::blocks(&text, "sql").pop().expect("the last block");
    let query = &recompute[recompute.find("SELECT seq").expect("the query")..];
    let rows = client.query(query, &[]).expect("recomputed");
    assert!(rows.len() >= 4);
    assert!(rows.iter().all(|row| row.get::<_, bool>(1)));
}

/// The programs that the suite `sql` runs have what the page shows, line by line.
#[test]
fn the_orm_page_shows_programs_that_run() {
    let text = std::fs::read_to_string(super::repository("docs/orm.md")).expect("the page");
    let programs: Vec<String> = [
        "orm_sequelize.js",
        "orm_sqlalchemy.py",
        "orm_django.py",
        "shop/models.py",
        "shop/migrations/0002_encrypt_iban.py",
        "shop/migrations/0003_note_and_invoice.py",
    ]
    .iter()
    .map(|name| {
        let path = super::repository("tests/drivers").join(name);
        std::fs::read_to_string(path).expect("a program")
    })
    .collect();
    let mut shown = super::blocks(&text, "python");
    shown.extend(super::blocks(&text, "js"));
    assert!(shown.len() >= 8, "the page has lost its programs");
    for block in shown {
        assert!(
            programs.iter().any(|program| program.contains(&block)),
            "no program has this block of docs/orm.md:\n{block}"
        );
    }
}

#[test]
fn a_migration_works_as_written() {
    let (_cluster, mut client) = prepared();
    let text = std::fs::read_to_string(super::repository("docs/migration.md")).expect("the page");
    let blocks = super::blocks(&text, "sql");
    assert!(blocks.len() >= 6, "the page has lost its SQL");
    let ended = |client: &mut Client| {
        wait_for("the migration", LONG, || {
            client
                .query_one(
                    "SELECT bool_and(phase = 'done') FROM job_progress HAVING count(*) > 0",
                    &[],
                )
                .is_ok_and(|row| row.get(0))
        });
    };
    for block in blocks {
        if block.contains("plaintext_left") {
            ended(&mut client);
            client
                .batch_execute("SET ROLE app")
                .expect("the page's role");
            client
                .batch_execute("INSERT INTO person (name, ssn) VALUES ('new', '078-05-1120')")
                .expect("through the view");
            let row = client
                .query_one("SELECT * FROM person WHERE name = 'person 7'", &[])
                .expect("the person");
            assert_eq!(row.get::<_, &str>(2), "078-05-1007");
            client.batch_execute("RESET ROLE").expect("reset");
            let encrypted = client
                .query_one(
                    "SELECT count(*) FROM person_encrypted WHERE (ciphertext_info(ssn)).key = 'people'",
                    &[],
                )
                .expect("the table");
            assert_eq!(encrypted.get::<_, i64>(0), 1001);
        }
        if let Err(error) = client.batch_execute(&block) {
            panic!("{error:?}\nin the block of docs/migration.md:\n{block}");
        }
    }
    ended(&mut client);
    let row = client
        .query_one(
            "SELECT count(*) FROM person_encrypted WHERE ssn LIKE '078-05-%'",
            &[],
        )
        .expect("the plain table");
    assert_eq!(row.get::<_, i64>(0), 1001);
}

/// Its queries say something of a job that is done, and of a table that has none.
#[test]
fn the_capacity_page_works_as_written() {
    let (_cluster, mut client) = prepared();
    client
        .batch_execute(
            "SELECT create_key('k', 'app');
             CREATE TABLE moved AS SELECT n, encrypt_col('v' || n, 'k') AS v FROM generate_series(1, 1000) n;
             CREATE TABLE waiting AS TABLE moved;
             SELECT register_column('moved', 'v', 'k', 'none');
             SELECT rotate_key('k');
             ANALYZE moved, waiting",
        )
        .expect("a rotation");
    wait_for("the job", LONG, || {
        client
            .query_one("SELECT bool_and(phase = 'done') FROM job_progress", &[])
            .expect("the job")
            .get(0)
    });
    client
        .batch_execute("SELECT register_column('waiting', 'v', 'k', 'none')")
        .expect("another column");
    let text = std::fs::read_to_string(super::repository("docs/capacity.md")).expect("the page");
    let blocks = super::blocks(&text, "sql");
    assert_eq!(blocks.len(), 2, "the page has lost its SQL");
    let mut rows = |sql: &str| -> Vec<Vec<Option<String>>> {
        let answers = client.simple_query(sql).expect(sql);
        let rows = answers.into_iter().filter_map(|answer| match answer {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        rows.map(|row| {
            (0..row.len())
                .map(|at| row.get(at).map(str::to_owned))
                .collect()
        })
        .collect()
    };
    let number = |text: &Option<String>| -> f64 {
        text.as_ref().expect("a figure").parse().expect("a number")
    };
    // relation, attribute, rows_done, rows_estimate, r, w, time_left
    let measured = rows(&blocks[0]);
    assert_eq!(measured.len(), 1);
    assert!(number(&measured[0][4]) > 0.0 && number(&measured[0][5]) > 40.0);
    // relation, attribute, rows, size, time, wal
    let estimates = rows(&blocks[1]);
    assert_eq!(estimates.len(), 2);
    for estimate in estimates {
        assert_eq!(estimate[2].as_deref(), Some("1000"));
        assert!(
            estimate[4]
                .as_deref()
                .is_some_and(|time| time != "00:00:00")
        );
        assert!(
            estimate[5]
                .as_deref()
                .is_some_and(|wal| wal.ends_with("kB"))
        );
    }
}

#[test]
fn updates_of_shards_work_as_written() {
    let (_cluster, mut client) = prepared();
    run(&mut client, "docs/cluster.md");
    let mut one = |sql: &str| -> String { client.query_one(sql, &[]).expect(sql).get(0) };
    let read = "SELECT string_agg(id || ' ' || decrypt_col(iban, NULL::text, row_context(id)), ', ' ORDER BY id) FROM account";
    assert_eq!(
        one(read),
        "1 GB33BUKB20201555555555, 2 NL02ABNA0123456789, 3 FR7630006000011234567890189"
    );
    // No two rows have the same value, nor a nonce.
    assert_eq!(
        one("SELECT count(DISTINCT iban::text)::text FROM account"),
        "3"
    );
}
