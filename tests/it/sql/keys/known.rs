//! What sessions tell one another of keys in shared memory: it spares a new session the look at the tables, and is
//! never older than they are.

use std::sync::atomic::{AtomicBool, Ordering};

use colcrypt_tests::Cluster;
use colcrypt_tests::wait_for;
use postgres::{Client, NoTls};

use crate::common::{self, LONG, Sql};

const LOOKS: &str = "SELECT coalesce(sum(seq_scan + idx_scan), 0) FROM pg_stat_xact_all_tables \
    WHERE schemaname = 'colcrypt' AND relname IN ('key', 'key_version', 'key_grant', 'honeytoken')";

/// A cluster of its own, since any change of any key catalog has everybody look at his own; a role that may use `k`, a
/// value of it.
struct Server(Cluster);

impl Server {
    fn new() -> (Self, Client, String) {
        let server = Self(common::settings(Cluster::builder()).start());
        let mut client = server.0.create_database("work");
        common::make_key(&server.0, &mut client);
        client.run(
            "CREATE ROLE app LOGIN; GRANT USAGE ON SCHEMA colcrypt TO app;
             SELECT colcrypt.grant_key('k', 'app', '{encrypt,decrypt}')",
        );
        let value = client.one("SELECT colcrypt.encrypt_col('secret', 'k')");
        (server, client, value)
    }

    fn app(&self) -> Client {
        let mut config = self.0.config();
        config.dbname("work").user("app");
        config.connect(NoTls).expect("connect")
    }

    /// How often a new session looks at the tables for `query`, its first.
    fn looks(&self, query: &str) -> u64 {
        let mut app = self.app();
        app.run("BEGIN");
        app.one(query);
        app.one(LOOKS).parse().unwrap()
    }

    /// Until new sessions need no look.
    fn is_shared(&self, query: &str) {
        wait_for("what one session read is told to the next", LONG, || {
            self.looks(query) == 0
        });
    }
}

fn decrypts(value: &str) -> String {
    format!("SELECT colcrypt.decrypt_col('{value}'::colcrypt.ciphertext)")
}

#[test]
fn a_new_session_opens_no_table_for_what_others_know() {
    let (server, mut client, value) = Server::new();
    let (read, write) = (decrypts(&value), "SELECT colcrypt.encrypt_col('x', 'k')");
    server.is_shared(&read);
    server.is_shared(write);
    // A change has it read again, once.
    client.run("SELECT colcrypt.create_key('other', 'ring')");
    assert_ne!(server.looks(&read), 0);
    server.is_shared(&read);
    // A key with more grants than there is room for works as ever.
    client.run(
        "DO $$ BEGIN FOR n IN 1 .. 200 LOOP EXECUTE format('CREATE ROLE many_%s', n);
             PERFORM colcrypt.grant_key('k', format('many_%s', n), '{decrypt}'); END LOOP; END $$",
    );
    assert_eq!(server.app().one(&read), "secret");
    assert_ne!(server.looks(&read), 0);
    // Another role asks for itself.
    client.run("CREATE ROLE nobody_else LOGIN; GRANT USAGE ON SCHEMA colcrypt TO nobody_else");
    let mut other = server.0.config();
    let mut other = other
        .dbname("work")
        .user("nobody_else")
        .connect(NoTls)
        .unwrap();
    other.fails("42501", &read);
}

/// What is committed holds for the next new session, while others look all the time.
#[test]
fn no_session_believes_what_was() {
    let (server, mut client, value) = Server::new();
    let read = decrypts(&value);
    let write = "SELECT colcrypt.encrypt_col('x', 'k')";
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for query in [read.as_str(), write] {
            let (server, is_over) = (&server, &is_over);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    // Refused at times.
                    let _ = server.app().simple_query(query);
                }
            });
        }
        // Whatever becomes of this, they end.
        let _over = Over(&is_over);
        for round in 0..40 {
            client.run("SELECT colcrypt.revoke_key('k', 'app', '{decrypt}')");
            server.app().fails("42501", &read);
            client.run("SELECT colcrypt.grant_key('k', 'app', '{decrypt}')");
            assert_eq!(server.app().one(&read), "secret", "round {round}");
            client.run("SELECT colcrypt.suspend_key('k', 1, 'a test')");
            server.app().fails("KC001", &read);
            client.run("SELECT colcrypt.resume_key('k', 1, 'a test')");
            assert_eq!(server.app().one(&read), "secret", "round {round}");
        }
        client.run("SELECT colcrypt.rotate_key('k')");
        let new = server.app().one(write);
        let version =
            format!("SELECT version FROM colcrypt.ciphertext_info('{new}'::colcrypt.ciphertext)");
        assert_eq!(client.one(&version), "2");
    });
}

/// Sets it when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn an_uncommitted_change_is_nobodys_and_a_prepared_one_counts_when_it_commits() {
    let (server, mut client, value) = Server::new();
    let read = decrypts(&value);
    server.is_shared(&read);
    let revoke = "SELECT colcrypt.revoke_key('k', 'app', '{decrypt}')";
    for end in ["ROLLBACK", "COMMIT"] {
        client.run(&format!("BEGIN; {revoke}"));
        assert_eq!(server.app().one(&read), "secret");
        client.run(end);
        if end == "ROLLBACK" {
            assert_eq!(server.app().one(&read), "secret");
            server.is_shared(&read);
        } else {
            server.app().fails("42501", &read);
        }
    }
    client.run("SELECT colcrypt.grant_key('k', 'app', '{decrypt}')");
    server.is_shared(&read);
    // By hand: a function of ours refuses to be prepared, or not; the table cannot.
    let by_hand =
        "UPDATE colcrypt.key_grant SET can_decrypt = false WHERE grantee = 'app'::regrole";
    client.run(&format!("BEGIN; {by_hand}; PREPARE TRANSACTION 'revokes'"));
    for _ in 0..5 {
        assert_eq!(server.app().one(&read), "secret");
    }
    client.run("COMMIT PREPARED 'revokes'");
    server.app().fails("42501", &read);
    client.run("SELECT colcrypt.grant_key('k', 'app', '{decrypt}')");
    server.is_shared(&read);
    // The server forgets who prepared what.
    client.run(&format!("BEGIN; {by_hand}; PREPARE TRANSACTION 'revokes'"));
    drop(client);
    server.0.restart();
    for _ in 0..5 {
        assert_eq!(server.app().one(&read), "secret");
    }
    let mut client = server.0.client_db("work");
    client.run("COMMIT PREPARED 'revokes'");
    server.app().fails("42501", &read);
    client.run("SELECT colcrypt.grant_key('k', 'app', '{decrypt}')");
    server.is_shared(&read);
}

/// A key of that name, of another extension, and of another database that was given the same number.
#[test]
fn a_key_of_the_same_name_is_another_one() {
    let (server, mut client, value) = Server::new();
    server.is_shared(&decrypts(&value));
    server.is_shared("SELECT colcrypt.encrypt_col('x', 'k')");
    client.run("SET colcrypt.allow_drop = on; DROP EXTENSION colcrypt CASCADE");
    common::make_key(&server.0, &mut client);
    client.run("GRANT USAGE ON SCHEMA colcrypt TO app");
    server
        .app()
        .fails("42501", "SELECT colcrypt.encrypt_col('x', 'k')");
    client.run("SELECT colcrypt.grant_key('k', 'app', '{encrypt,decrypt}')");
    let value = server.app().one("SELECT colcrypt.encrypt_col('x', 'k')");
    let read = decrypts(&value);
    server.is_shared(&read);
    // The same catalog, but for the grant.
    let mut admin = server.0.client();
    let number = client.one("SELECT oid FROM pg_database WHERE datname = 'work'");
    drop(client);
    admin.run("CREATE DATABASE twin TEMPLATE work");
    server
        .0
        .client_db("twin")
        .run("SELECT colcrypt.revoke_key('k', 'app', '{decrypt}')");
    server.is_shared(&read);
    admin.run("DROP DATABASE work");
    admin.run(&format!("CREATE DATABASE work TEMPLATE twin OID {number}"));
    server.app().fails("42501", &read);
}

/// Months and days of a cryptoperiod are as long in every session, whatever time zone anybody sets.
#[test]
fn a_cryptoperiod_ends_when_it_ends_in_every_time_zone() {
    let (server, mut client, value) = Server::new();
    let read = decrypts(&value);
    client.run(
        "SELECT colcrypt.rotate_key('k'); SELECT colcrypt.set_cryptoperiods('k', NULL, '1 month')",
    );
    // A month back and a month on is another day at the end of some months: the day is looked for.
    for (end, works) in [
        (
            "min(d) FILTER (WHERE d + interval '1 month' > now() + interval '1 hour')",
            true,
        ),
        (
            "max(d) FILTER (WHERE d + interval '1 month' < now() - interval '1 hour')",
            false,
        ),
    ] {
        client.run(&format!(
            "SET TimeZone = 'UTC'; UPDATE colcrypt.key_version SET deactivated_at =
                 (SELECT {end} FROM generate_series(now() - interval '33 days', now(), interval '1 hour') d)
             WHERE version = 1"
        ));
        for zone in [
            "UTC",
            "A-167B167,J40,J300",
            "A167B-167,J40,J300",
            "A-167B167,J300,J40",
            "A167",
        ] {
            // Each begins a generation, so that each reads the tables and tells.
            client.run("UPDATE colcrypt.key SET name = name WHERE false");
            for _ in 0..2 {
                let mut app = server.app();
                app.run(&format!("SET TimeZone = '{zone}'"));
                match works {
                    true => assert_eq!(app.one(&read), "secret", "{zone}"),
                    false => drop(app.fails("KC040", &read)),
                }
            }
        }
    }
}

/// What a statement changed before it failed was nobody's knowledge.
#[test]
fn what_a_statement_takes_back_is_told_to_nobody() {
    let (server, mut client, value) = Server::new();
    let read = decrypts(&value);
    client.run("SELECT colcrypt.revoke_key('k', 'app', '{decrypt}')");
    server.app().fails("42501", &read);
    // A superuser's own doing: his function looks at what he has changed, and fails.
    client.run(&format!(
        "CREATE FUNCTION public.looks(n int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
             IF n > 1 THEN
                 SET LOCAL ROLE app; PERFORM 1; PERFORM colcrypt.decrypt_col('{value}'::colcrypt.ciphertext);
                 RAISE 'never mind';
             END IF; RETURN true; END $$;
         CREATE ROLE other; INSERT INTO colcrypt.key_grant (key_id, grantee, can_encrypt, can_decrypt, can_manage)
             SELECT key_id, 'other'::regrole, false, false, false FROM colcrypt.key WHERE name = 'k';
         CREATE SEQUENCE public.rows; GRANT USAGE ON SEQUENCE public.rows TO app"
    ));
    client.fails(
        "P0001",
        "UPDATE colcrypt.key_grant SET can_decrypt = public.looks(nextval('public.rows')::int) WHERE grantee IN ('app'::regrole, 'other'::regrole)",
    );
    for _ in 0..3 {
        server.app().fails("42501", &read);
    }
}
