//! Columns whose rows have keys of their own: one for each tenant.

use std::io::Write;

use colcrypt_tests::db::{both_ways, cluster, rewrites_views, unique};
use colcrypt_tests::of_columns::said;
use colcrypt_tests::wait_for;
use postgres::Client;

use crate::common::{Db, LONG, Sql, db, role, wait_for_jobs};

/// Table `profile`, whose values are under `tenant-1` and so on, of keyring `tenants`, and its view.
pub fn tenants(count: u32) -> Db {
    let mut db = db();
    db.client.run(&format!(
        "SELECT create_keyring('tenants', 'local');
         SELECT create_keys(ARRAY(SELECT 'tenant-' || n FROM generate_series(1, {count}) n), 'tenants');
         CREATE TABLE profile (id int PRIMARY KEY, tenant_id int, email ciphertext);
         SELECT register_column('profile', 'email', key_expression => $$'tenant-' || tenant_id$$, keyring => 'tenants');
         SELECT create_access_view('profile')"
    ));
    db
}

/// "id tenant: key" of each row.
pub fn keys(client: &mut Client) -> String {
    client.one(
        "SELECT string_agg(format('%s %s: %s', id, tenant_id, (ciphertext_info(email)).key), ', ' ORDER BY id) FROM profile",
    )
}

pub fn emails(client: &mut Client) -> String {
    client.one("SELECT string_agg(concat_ws(' ', id, email), ', ' ORDER BY id) FROM profile_access")
}

#[test]
fn each_row_is_under_its_own_key() {
    both_ways(|| {
        let mut db = tenants(3);
        let client = &mut db.client;
        client.run(
            "INSERT INTO profile_access VALUES (1, 1, 'a'), (2, 2, 'b'); INSERT INTO profile_access (id, tenant_id) VALUES (3, 99)",
        );
        let mut copy = client.copy_in("COPY profile_access FROM STDIN").unwrap();
        copy.write_all(b"4\t3\td\n5\t1\te\n").unwrap();
        copy.finish().unwrap();
        assert_eq!(
            keys(client),
            "1 1: tenant-1, 2 2: tenant-2, 3 99: , 4 3: tenant-3, 5 1: tenant-1"
        );
        assert_eq!(emails(client), "1 a, 2 b, 3, 4 d, 5 e");

        // Changed, moved, and both; a row without a value goes anywhere.
        client.run(
            "UPDATE profile_access SET email = 'A' WHERE id = 1; UPDATE profile_access SET tenant_id = 3 WHERE id = 2;
             UPDATE profile_access SET tenant_id = 2, email = 'E' WHERE id = 5; UPDATE profile_access SET tenant_id = NULL WHERE id = 3",
        );
        assert_eq!(
            keys(client),
            "1 1: tenant-1, 2 3: tenant-3, 3 : , 4 3: tenant-3, 5 2: tenant-2"
        );
        assert_eq!(emails(client), "1 A, 2 b, 3, 4 d, 5 E");
        if rewrites_views() {
            client.run(
                "INSERT INTO profile_access VALUES (1, 2, 'x') ON CONFLICT (id) DO UPDATE SET email = excluded.email;
                 INSERT INTO profile_access VALUES (1, 2, 'A') ON CONFLICT (id) DO UPDATE SET email = excluded.email, tenant_id = 1",
            );
            assert!(keys(client).starts_with("1 1: tenant-1"));
        }

        for (tenant, says, hint) in [
            ("NULL", "gives NULL", "coalesce"),
            ("99", "does not exist", "create_key"),
        ] {
            for sql in [
                format!("INSERT INTO profile_access VALUES (7, {tenant}, 'x')"),
                format!("UPDATE profile_access SET tenant_id = {tenant} WHERE id = 1"),
            ] {
                let problem = client.fails("KC043", &sql).says(says);
                assert!(problem.hint.contains(hint), "{}", problem.hint);
            }
        }
        client.run("SELECT create_key('tenant-77', 'ring')");
        client
            .fails("KC043", "INSERT INTO profile_access VALUES (7, 77, 'x')")
            .says("is not one of keyring");
        assert_eq!(emails(client), "1 A, 2 b, 3, 4 d, 5 E");
    });
}

#[test]
fn odd_names_of_keys_are_only_names() {
    both_ways(|| {
        let mut db = db();
        let client = &mut db.client;
        client.run(
            "SELECT create_keys(ARRAY['it''s; DROP TABLE t', 'ünï \"x\"', '  '], 'ring');
             CREATE TABLE t (id int PRIMARY KEY, \"Te nant\" text, v ciphertext);
             SELECT register_column('t', 'v', key_expression => '\"Te nant\"'); SELECT create_access_view('t');
             INSERT INTO t_access VALUES (1, 'it''s; DROP TABLE t', 'a'), (2, 'ünï \"x\"', 'b'), (3, '  ', 'c')",
        );
        assert_eq!(
            client.one("SELECT bool_and((ciphertext_info(v)).key = \"Te nant\") FROM t"),
            "t"
        );
        client
            .fails("KC043", "INSERT INTO t_access VALUES (4, '', 'd')")
            .says("does not exist");
    });
}

#[test]
fn what_a_writer_may_do_is_his_grants_say() {
    both_ways(|| {
        let mut db = tenants(3);
        let name = role(&mut db.client);
        db.client.run(&format!(
            "INSERT INTO profile_access VALUES (1, 1, 'a'), (5, 3, 'c');
             GRANT ALL ON profile, profile_access TO {name};
             SELECT grant_key('tenant-1', '{name}', '{{encrypt,decrypt}}'), grant_key('tenant-2', '{name}', '{{decrypt}}')"
        ));
        let mut client = db.connect_as(&name);
        client.run("INSERT INTO profile_access VALUES (2, 1, 'b')");
        for sql in [
            "INSERT INTO profile_access VALUES (3, 2, 'x')",
            "INSERT INTO profile_access VALUES (3, 3, 'x')",
            "UPDATE profile_access SET tenant_id = 2 WHERE id = 1",
            "UPDATE profile_access SET tenant_id = 3 WHERE id = 1",
            "UPDATE profile_access SET tenant_id = 1 WHERE id = 5",
        ] {
            client.fails("42501", sql);
        }
        let mut copy = client.copy_in("COPY profile_access FROM STDIN").unwrap();
        copy.write_all(b"7\t3\tx\n").unwrap();
        assert!(copy.finish().is_err(), "a copy asks the same");
        assert_eq!(
            keys(&mut db.client),
            "1 1: tenant-1, 2 1: tenant-1, 5 3: tenant-3"
        );
    });
}

/// An expression of keys has nobody's code in it, whatever its author owns.
#[test]
fn an_expression_is_the_servers_own_code_over_the_row() {
    let mut db = tenants(2);
    let owner = role(&mut db.client);
    db.client.run(&format!(
        "GRANT USAGE, CREATE ON SCHEMA public TO {owner};
         SELECT grant_keyring('tenants', '{owner}', '{{manage}}');
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA colcrypt TO {owner};
         INSERT INTO profile_access VALUES (1, 1, 'secret of tenant 1')"
    ));
    let mut client = db.connect_as(&owner);
    client.run(
        "CREATE TYPE mood AS ENUM ('good');
         CREATE TABLE heard (what text);
         CREATE FUNCTION listen(int) RETURNS text IMMUTABLE LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO heard SELECT v FROM profile_access; RETURN 'tenant-2'; END $$;
         CREATE FUNCTION spoken(mood) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN 'tenant-2'; END $$;
         CREATE CAST (mood AS text) WITH FUNCTION spoken(mood);
         CREATE OPERATOR @@@ (LEFTARG = int, RIGHTARG = int, FUNCTION = int4pl);
         CREATE VIEW trap AS SELECT listen(1) AS l;
         CREATE TABLE his (id int PRIMARY KEY, tenant_id int, m mood, at date, v ciphertext, w ciphertext,
             twice int GENERATED ALWAYS AS (tenant_id * 2) STORED)",
    );
    for (expression, says) in [
        ("public.listen(tenant_id)", "calls"),
        ("public.listen(tenant_id)::text || ''", "calls"),
        (
            "(tenant_id OPERATOR(public.@@@) 1)::text",
            "uses operator @@@",
        ),
        ("m", "calls"),
        ("m::text", "calls"),
        ("'x' || at", "settings"),
        (
            "'tenant-' || random() || tenant_id",
            "another thing each time",
        ),
        (
            "current_setting('a.b') || tenant_id",
            "another thing each time",
        ),
        ("current_user || tenant_id", "is more than"),
        ("(SELECT l FROM public.trap) || tenant_id", "is more than"),
        (
            "query_to_xml('SELECT * FROM public.trap', true, true, '')::text || tenant_id",
            "type xml",
        ),
        (
            "table_to_xml('public.trap', true, true, '')::text || tenant_id",
            "type xml",
        ),
        ("'tenant-2'", "names no column"),
        ("'tenant-' || twice", "generated"),
        ("his::text", "type public.his"),
        ("w::text", "type"),
        ("ctid::text", ""),
        ("tenant_id::text, 'b'", ""),
        ("tenant_id)::text FROM public.his --", ""),
        ("tenant_id)) || ((public.listen(1)", ""),
        ("nothing_such", ""),
    ] {
        let sql = format!(
            "SELECT register_column('his', 'v', key_expression => $e${expression}$e$, keyring => 'tenants', context => 'none')"
        );
        match client.simple_query(&sql) {
            Ok(_) => panic!("{expression} is taken"),
            Err(error) => {
                let said = error.as_db_error().unwrap().message().to_owned();
                assert!(said.contains(says), "{expression}: {said}");
            }
        }
    }
    assert_eq!(client.one("SELECT count(*) FROM heard"), "0");
    // Nor is it the owner's say who may use which key, or whose keyring it is.
    client.run(
        "SELECT register_column('his', 'v', key_expression => $$'tenant-' || tenant_id$$, keyring => 'tenants'); SELECT create_access_view('his')",
    );
    client.fails(
        "42501",
        "INSERT INTO his_access (id, tenant_id, v) VALUES (1, 1, 'x')",
    );
    let other = role(&mut db.client);
    db.client.run(&format!(
        "GRANT USAGE, CREATE ON SCHEMA public TO {other}; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA colcrypt TO {other}"
    ));
    let mut client = db.connect_as(&other);
    client.run("CREATE TABLE mine (tenant_id int, v ciphertext)");
    client.fails(
        "42501",
        "SELECT register_column('mine', 'v', key_expression => 'tenant_id::text', keyring => 'tenants', context => 'none')",
    );
}

#[test]
fn a_registration_says_which_keys_it_means() {
    let mut db = tenants(2);
    let client = &mut db.client;
    client.run("CREATE TABLE t (id int PRIMARY KEY, tenant_id int, v ciphertext)");
    let register =
        |more: &str| format!("SELECT register_column('t', 'v'{more}, context => 'none')");
    let by_row = ", key_expression => $$'tenant-' || tenant_id$$";
    client
        .fails("22023", &register(by_row))
        .says("which keyring");
    client.fails("22023", &register(&format!(", key => 'k'{by_row}")));
    client.fails("22023", &register(", key => 'k', keyring => 'ring'"));
    client.fails(
        "42704",
        &register(&format!("{by_row}, keyring => 'none such'")),
    );
    client.fails("22004", &register(""));
    // A view's statement would have its rest in the comment.
    let commented =
        ", key_expression => $$'tenant-' || tenant_id -- his own$$, keyring => 'tenants'";
    client.fails("42601", &register(commented));

    // Values of other keys than their rows' stay where they are, and it is said.
    client.run(
        "INSERT INTO t SELECT n, n % 2 + 1, encrypt_col('v' || n, 'k') FROM generate_series(1, 10) n;
         INSERT INTO t VALUES (11, 1, encrypt_col('own', 'tenant-1'))",
    );
    let said = said(
        cluster(),
        &db.name,
        &format!(
            "SET search_path = public, colcrypt; {}",
            register(&format!("{by_row}, keyring => 'tenants'"))
        ),
    );
    assert!(
        said.contains(
            "10 of 11 values of column v that were looked at are under other keys than their rows'"
        ),
        "{said}"
    );
    let client = &mut db.client;
    client.run("SELECT create_access_view('t'); UPDATE t_access SET v = v");
    assert_eq!(
        client.one("SELECT bool_and((ciphertext_info(v)).key = 'tenant-' || tenant_id) FROM t"),
        "t"
    );
    for sql in [
        "SELECT move_column('t', 'v', 'k')",
        "SELECT reencrypt_column('t', 'v')",
        "SELECT * FROM decrypt_column('t', 'v')",
    ] {
        let problem = client.fails("42809", sql).says("has a key of its own");
        assert!(!problem.hint.is_empty(), "{sql}");
    }
}

/// Blocks of the table that were read since.
fn blocks_read(client: &mut Client) -> i64 {
    client.number(
        "SELECT heap_blks_read + heap_blks_hit FROM pg_statio_user_tables WHERE relname = 'profile'",
    )
}

#[test]
fn the_rotation_of_one_key_reads_its_rows_alone() {
    let mut db = tenants(1000);
    // Which index that takes is told with the registration, until there is one.
    let name = db.name.clone();
    let told = |db: &str| {
        said(
            cluster(),
            db,
            "SELECT colcrypt.register_column('profile', 'email', key_expression => $$'tenant-' || tenant_id$$, keyring => 'tenants')",
        )
    };
    let notice = told(&name);
    assert!(
        notice.contains("CREATE INDEX ON public.profile (colcrypt.ciphertext_key(email))"),
        "{notice}"
    );
    let client = &mut db.client;
    client.run(
        "INSERT INTO profile_access SELECT n, (n - 1) / 100 + 1, 'mail ' || n FROM generate_series(1, 100000) n;
         CREATE INDEX profile_key ON profile (ciphertext_key(email)); ANALYZE profile",
    );
    let blocks = client.number("SELECT relpages FROM pg_class WHERE relname = 'profile'");
    assert!(blocks > 1000, "{blocks}");
    assert!(!told(&name).contains("CREATE INDEX"));
    // A process hands in its counts when it ends at the latest.
    let settled = |client: &mut Client| {
        wait_for("the worker to end", LONG, || {
            client.yes("SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
        });
        client.run("SELECT pg_stat_force_next_flush()");
        blocks_read(client)
    };
    let before = settled(client);
    let scans = "SELECT coalesce(seq_scan, 0) FROM pg_stat_user_tables WHERE relname = 'profile'";
    let scans_before = client.number(scans);
    client.run("SELECT rotate_key('tenant-7')");
    wait_for_jobs(client);
    assert_eq!(
        client.one(
            "SELECT string_agg(DISTINCT phase || coalesce(last_error, ''), ' ') FROM job_progress"
        ),
        "done"
    );
    let after = settled(client);
    assert_eq!(client.number(scans), scans_before, "no scan of the table");
    // A hundred rows, listed, read, written and counted.
    assert!(after - before < blocks, "{} of {blocks}", after - before);
    assert_eq!(
        client.one(
            "SELECT string_agg(DISTINCT (ciphertext_info(email)).version::text || ((ciphertext_info(email)).key = 'tenant-7'), ' ') FROM profile"
        ),
        "1false 2true"
    );
    assert!(client.yes("SELECT bool_and(email = 'mail ' || id) FROM profile_access"));

    // Without the index the table is read, and what is done is the same.
    client.run("DROP INDEX profile_key; SELECT rotate_key('tenant-8')");
    wait_for_jobs(client);
    settled(client);
    assert!(client.number(scans) > scans_before, "a scan of the table");
    assert_eq!(
        client.one("SELECT count(*) FROM profile WHERE ciphertext_version(email, ciphertext_key(email)) = 2"),
        "200"
    );
    // An index that tells another thing is not believed.
    client.run(
        "CREATE INDEX partial ON profile (ciphertext_key(email)) WHERE id < 100; CREATE INDEX other ON profile ((ciphertext_key(email) + 1));
         SELECT rotate_key('tenant-9')",
    );
    wait_for_jobs(client);
    assert_eq!(
        client.one("SELECT count(*) FROM profile WHERE ciphertext_version(email, ciphertext_key(email)) = 2"),
        "300"
    );
}

#[test]
fn five_thousand_tenants_and_the_erasure_of_one_while_others_work() {
    let mut db = tenants(5000);
    let client = &mut db.client;
    client.run(
        "CREATE INDEX ON profile (ciphertext_key(email));
         INSERT INTO profile_access SELECT n, (n - 1) % 5000 + 1, 'mail ' || n FROM generate_series(1, 10000) n;
         SELECT rotate_key('tenant-5')",
    );
    wait_for_jobs(client);
    assert_eq!(
        client.one(
            "SELECT string_agg(DISTINCT format('%s %s', tenant_id = 5, (ciphertext_info(email)).version), ', ') FROM profile"
        ),
        "f 1, t 2"
    );
    // Two keys rotate side by side: a job each.
    client.run("SELECT rotate_key('tenant-6'), rotate_key('tenant-7')");
    wait_for_jobs(client);
    assert_eq!(
        client.one("SELECT string_agg(key || ' ' || phase, ', ' ORDER BY key) FROM job_progress"),
        "tenant-5 done, tenant-6 done, tenant-7 done"
    );
    client.run(
        "SELECT schedule_key_destruction('tenant-77', destroy_after => '1 second', reason => 'asked for', rows => 'shred')",
    );
    let mut other = db.connect();
    let mut n = 20_000;
    wait_for("the destruction", LONG, || {
        n += 1;
        other.run(&format!(
            "INSERT INTO profile_access VALUES ({n}, 78, 'more'); UPDATE profile_access SET email = 'again' WHERE id = 78"
        ));
        db.client
            .yes("SELECT state = 'destroyed' FROM key_status WHERE key = 'tenant-77'")
    });
    let client = &mut db.client;
    client.fails(
        "KC030",
        "SELECT email FROM profile_access WHERE tenant_id = 77",
    );
    client.fails(
        "KC030",
        "INSERT INTO profile_access VALUES (1000001, 77, 'x')",
    );
    let context = client.one("SELECT context FROM protected_column");
    assert!(client.yes(&format!(
        "SELECT bool_and(try_decrypt_col(email, NULL::text, {context}) IS NULL) FROM profile WHERE tenant_id = 77"
    )));
    assert!(client.yes(
        "SELECT count(email) = 9998 FROM profile_access WHERE tenant_id <> 77 AND id <= 10000"
    ));
    // Later rotations pass by what is lost; the rows go when they go, and then the key.
    client.run("DELETE FROM profile_access WHERE tenant_id = 77; SELECT drop_key('tenant-77')");
    client
        .fails(
            "KC043",
            "INSERT INTO profile_access VALUES (1000001, 77, 'x')",
        )
        .says("does not exist");
}

#[test]
fn an_enforced_column_takes_values_of_the_rows_key_alone() {
    let mut db = tenants(3);
    let client = &mut db.client;
    client.run(
        "SELECT register_column('profile', 'email', key_expression => $$'tenant-' || tenant_id$$, keyring => 'tenants',
             context => 'none', enforce => true);
         SELECT create_access_view('profile');
         INSERT INTO profile_access VALUES (1, 1, 'a'); INSERT INTO profile VALUES (2, 2, encrypt_col('b', 'tenant-2')), (3, NULL, NULL)",
    );
    client
        .fails(
            "KC065",
            "INSERT INTO profile VALUES (4, 2, encrypt_col('b', 'tenant-1'))",
        )
        .says("email");
    client.fails(
        "KC065",
        "INSERT INTO profile VALUES (4, 2, encrypt_col('b', 'k'))",
    );
    client.fails(
        "KC043",
        "INSERT INTO profile VALUES (4, NULL, encrypt_col('b', 'tenant-1'))",
    );
    // What names the key changes, and the value stays: it would be another tenant's.
    client.fails("KC065", "UPDATE profile SET tenant_id = 3 WHERE id = 1");
    client.run("UPDATE profile_access SET tenant_id = 3 WHERE id = 1; UPDATE profile SET id = 9 WHERE id = 2");
    assert_eq!(keys(client), "1 3: tenant-3, 3 : , 9 2: tenant-2");
}

/// What names the rows' keys goes no sooner than what they are bound to.
#[test]
fn a_column_that_an_expression_reads_is_not_dropped() {
    let mut db = tenants(2);
    let client = &mut db.client;
    client.run(
        "CREATE TYPE mood AS ENUM ('good');
         ALTER TABLE profile ADD note text, ADD m mood; INSERT INTO profile_access VALUES (1, 1, 'a'); DROP VIEW profile_access",
    );
    let refused = client.fails("42809", "ALTER TABLE profile DROP tenant_id");
    assert_eq!(
        refused.message,
        "column tenant_id cannot be dropped: it names the keys of rows in column public.profile.email"
    );
    assert!(refused.hint.contains("register_column"), "{}", refused.hint);
    client
        .fails("42809", "ALTER TABLE profile DROP id CASCADE")
        .says("column id cannot be dropped: values of column public.profile.email are bound to it");
    client.run("ALTER TABLE profile DROP note; DROP TYPE mood CASCADE");
    // An expression that does without it, and none at all.
    client.run(
        "ALTER TABLE profile ADD tenant text;
         SELECT register_column('profile', 'email', key_expression => 'tenant', keyring => 'tenants');
         ALTER TABLE profile DROP tenant_id",
    );
    client.fails("42809", "ALTER TABLE profile DROP tenant");
    client.fails("42809", "BEGIN; ALTER TABLE profile DROP tenant; COMMIT");
    client.run("ROLLBACK; ALTER TABLE profile DROP tenant, DROP email");
    client.run("CREATE TABLE s (id int PRIMARY KEY, \"T\" text, v ciphertext); SELECT register_column('s', 'v', key_expression => '\"T\"', keyring => 'tenants')");
    client.fails("42809", "ALTER TABLE s DROP \"T\"");
    client.run("SELECT unregister_column('s', 'v'); ALTER TABLE s DROP \"T\"; DROP TABLE s");
}

#[test]
fn another_type_of_what_names_the_keys_is_told() {
    let mut db = tenants(2);
    db.client.run(
        "INSERT INTO profile_access VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 2, 'c'); DROP VIEW profile_access",
    );
    let told = |alter: &str| said(cluster(), &db.name, &format!("ALTER TABLE profile {alter}"));
    assert_eq!(told("ALTER tenant_id TYPE bigint"), "");
    for (alter, count) in [
        ("ALTER tenant_id TYPE numeric(5, 1)", 3),
        ("ALTER tenant_id TYPE int USING tenant_id", 0),
        ("ALTER tenant_id TYPE int USING 2", 1),
    ] {
        let said = told(alter);
        let expected = format!(
            "{count} of 3 values of column email that were looked at are under other keys than their rows'"
        );
        assert_eq!(said.contains(&expected), count > 0, "{alter}: {said}");
    }
}

#[test]
fn an_expression_follows_names_and_a_dump() {
    let mut db = tenants(2);
    let client = &mut db.client;
    client.run(
        "INSERT INTO profile_access VALUES (1, 1, 'a'); ALTER TABLE profile RENAME COLUMN tenant_id TO client;
         INSERT INTO profile_access VALUES (2, 2, 'b')",
    );
    assert_eq!(
        client.one("SELECT key_expression FROM protected_column"),
        "'tenant-' || client"
    );
    assert_eq!(emails(client), "1 a, 2 b");
    client.run("DROP VIEW profile_access; ALTER TABLE profile ALTER COLUMN client TYPE bigint");
    let problem = client.fails(
        "42809",
        "ALTER TABLE profile ALTER COLUMN client TYPE date USING now()::date",
    );
    assert!(problem.message.contains("settings"), "{}", problem.message);
    client
        .run("SELECT create_access_view('profile'); INSERT INTO profile_access VALUES (3, 2, 'c')");
    assert_eq!(emails(client), "1 a, 2 b, 3 c");
    let copy = unique("copy");
    let dump = cluster().dump(&db.name);
    cluster().client().run(&format!("CREATE DATABASE {copy}"));
    cluster().restore(&dump, &copy);
    let mut client = cluster().client_db(&copy);
    client.run(
        "SET search_path = public, colcrypt; INSERT INTO profile_access VALUES (4, 1, 'd'); SELECT rotate_key('tenant-1')",
    );
    wait_for_jobs(&mut client);
    assert_eq!(emails(&mut client), "1 a, 2 b, 3 c, 4 d");
    assert_eq!(
        client.one("SELECT string_agg(DISTINCT format('%s %s', client, (ciphertext_info(email)).version), ', ') FROM profile"),
        "1 2, 2 1"
    );
}
