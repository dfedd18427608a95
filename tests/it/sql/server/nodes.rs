//! Servers that share keys: what a follower refuses, and what it leaves to its primary.

use colcrypt_core::verbs::{Place, VERBS};
use colcrypt_tests::problem::failed;
use colcrypt_tests::{Cluster, wait_for};
use postgres::Client;

use crate::common::{self, LONG, Sql, wait_for_jobs};

/// A call of each function that decides, with arguments of the right types that mean nothing.
const CALLS: &str = "
    SELECT p.proname, format('SELECT colcrypt.%I(%s)', p.proname, (
        SELECT string_agg(CASE WHEN t.type = 'regclass'::regtype THEN quote_literal('t')
                               WHEN t.type = 'jsonb'::regtype THEN quote_literal('{}')
                               WHEN t.type = 'interval'::regtype THEN quote_literal('1 day')
                               WHEN t.type = 'boolean'::regtype THEN quote_literal('true')
                               WHEN t.type = 'colcrypt.ciphertext'::regtype THEN (SELECT quote_literal(v) FROM t)
                               WHEN y.typcategory = 'A' THEN quote_literal('{}')
                               WHEN y.typcategory = 'N' THEN quote_literal('1')
                               ELSE quote_literal('k') END || '::' || t.type::text, ', ' ORDER BY t.nr)
        FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY AS a(type_oid, nr), LATERAL (SELECT a.type_oid::regtype AS type, a.nr) AS t
        JOIN pg_type y ON y.oid = t.type))
    FROM pg_proc p WHERE p.pronamespace = 'colcrypt'::regnamespace AND p.prokind = 'f' ORDER BY 1";

fn follower() -> (Cluster, Client) {
    let server = common::settings(Cluster::builder()).start();
    let mut client = server.create_database("work");
    common::make_key(&server, &mut client);
    client.run(
        "SET search_path = public, colcrypt;
         CREATE TABLE t AS SELECT encrypt_col('v', 'k') AS v; SELECT register_column('t', 'v', 'k', 'none')",
    );
    (server, client)
}

fn becomes(server: &Cluster, client: &mut Client, role: &str) {
    server.append_conf(&format!("colcrypt.node = {role}"));
    server.append_conf("colcrypt.primary = 'db1.example.com'");
    server.reload();
    wait_for("the part of the server", LONG, || {
        client.one("SHOW colcrypt.node") == role
    });
}

#[test]
fn a_follower_refuses_whatever_changes_keys_and_nothing_else() {
    let (server, mut client) = follower();
    let calls: Vec<(String, String)> = client
        .rows(CALLS)
        .into_iter()
        .filter_map(|row| Some((row[0].clone()?, row[1].clone()?)))
        .collect();
    let refused = |client: &mut Client, call: &str| match client.batch_execute(call) {
        Ok(()) => false,
        Err(error) => error.code().is_some_and(|code| code.code() == "KC050"),
    };
    becomes(&server, &mut client, "follower");
    for verb in VERBS {
        let mut overloads = calls
            .iter()
            .filter(|(name, _)| name == verb.name)
            .peekable();
        assert!(
            overloads.peek().is_some(),
            "{} takes no argument",
            verb.name
        );
        for (_, call) in overloads {
            client.run("BEGIN");
            assert_eq!(
                refused(&mut client, call),
                verb.place != Place::Anywhere,
                "{call}"
            );
            client.run("ROLLBACK");
        }
    }
    let problem = client.fails("KC050", "SELECT create_key('other', 'ring')");
    assert!(problem.detail.contains("db1.example.com"), "{problem:?}");
    assert!(problem.hint.contains("primary"), "{problem:?}");
    // Values are used as ever, and jobs go on.
    assert_eq!(client.one("SELECT decrypt_col(v) FROM t"), "v");
    client.run("INSERT INTO t SELECT encrypt_col('w', 'k'); SELECT take_census('t', 'v')");
    becomes(&server, &mut client, "single");
    client.run("SELECT create_key('other', 'ring')");
}

/// Neither when a rotation is due nor at a bound; what was asked for before is not approved.
#[test]
fn a_follower_rotates_nothing_by_itself() {
    let (server, mut client) = follower();
    client.run("SELECT create_key('bound', 'ring'); SELECT set_usage_bound('bound', 100)");
    becomes(&server, &mut client, "follower");
    // The keeper has heard of it, too.
    server.restart();
    let mut client = server.client_db("work");
    client.run("SET search_path = public, colcrypt");
    client.run(
        "UPDATE key SET rotation_interval = '1 day' WHERE name = 'k';
         UPDATE keyring SET kek_cryptoperiod = '1 hour', root_interval = '1 hour';
         UPDATE key_version SET activated_at = now() - interval '2 days';
         UPDATE kek_version SET created_at = now() - interval '2 days';
         UPDATE kek_copy SET wrapped_at = now() - interval '2 days';
         SELECT count(encrypt_col('x', 'bound')::bytea) FROM generate_series(1, 80)",
    );
    let all = "SELECT count(*) = 2 AND bool_and(overdue AND next_rotation_at IS NULL AND why LIKE '%db1.example.com%') FROM rotation_schedule";
    wait_for("both keys to be overdue", LONG, || client.yes(all));
    let kek = "SELECT overdue AND next_rotation_at IS NULL AND why LIKE '%the primary rotates' FROM kek_schedule";
    assert!(client.yes(kek));
    assert!(client.yes("SELECT overdue AND next_rotation_at IS NULL FROM root_schedule"));
    // The keeper has been there twice since.
    for _ in 0..2 {
        client.run("SELECT take_census('t', 'v')");
        wait_for("the keeper", LONG, || {
            client.yes("SELECT NOT EXISTS (SELECT FROM audit_outbox)")
        });
    }
    let versions =
        "SELECT max(v.version) || ' ' || max(e.version) FROM key_version v, kek_version e";
    assert_eq!(client.one(versions), "1 1");
    // As soon as it is its own again, it does what is due.
    becomes(&server, &mut client, "primary");
    client.run("SELECT create_key('wakes', 'ring')");
    wait_for("what is due", LONG, || client.one(versions) == "2 2");
}

/// A primary and a follower that has its root key in another place and no key yet.
struct Pair {
    primary: Client,
    follower: Client,
    own: String,
    _servers: [Cluster; 2],
}

impl Pair {
    fn new() -> Self {
        let (one, mut primary) = follower();
        becomes(&one, &mut primary, "primary");
        primary.run("CREATE ROLE app LOGIN; CREATE ROLE only_here; SELECT grant_key('k', 'app', '{encrypt,decrypt}'), grant_key('k', 'only_here')");
        let two = common::settings(Cluster::builder()).start();
        let mut other = two.create_database("work");
        other.run(
            "CREATE EXTENSION colcrypt; SET search_path = public, colcrypt; CREATE ROLE app LOGIN",
        );
        becomes(&two, &mut other, "follower");
        let key = std::fs::read(common::root_key(&one)).unwrap();
        let copy = two.write_file("copied.key", &key, 0o600);
        let own = format!("{{\"local\": {{\"path\": \"{}\"}}}}", copy.display());
        Self {
            primary,
            follower: other,
            own,
            _servers: [one, two],
        }
    }

    fn export(&mut self) -> String {
        self.primary
            .one("SELECT export_catalog()")
            .replace('\'', "''")
    }

    fn import(&mut self, catalog: &str) -> String {
        let own = self.own.clone();
        self.follower
            .one(&format!("SELECT import_catalog('{catalog}', '{own}')"))
    }

    fn sync(&mut self) -> String {
        let catalog = self.export();
        self.import(&catalog)
    }
}

#[test]
fn keys_states_and_rights_come_from_the_primary() {
    let mut pair = Pair::new();
    let value = pair.primary.one("SELECT v FROM t");
    let read = format!("SELECT decrypt_col('{value}'::ciphertext)");
    pair.follower.fails("42704", &read);
    assert_eq!(pair.sync(), "imported");
    assert_eq!(pair.follower.one(&read), "v");
    // A value of the follower's is read on the primary.
    let written = pair.follower.one("SELECT encrypt_col('w', 'k')");
    assert_eq!(
        pair.primary
            .one(&format!("SELECT decrypt_col('{written}'::ciphertext)")),
        "w"
    );
    // Rights by name; those of a role that is not here wait for it.
    let rights = "SELECT string_agg(r || has_key_privilege(r, 'k', 'decrypt'), ' ') FROM unnest('{app}'::text[]) r";
    assert_eq!(pair.follower.one(rights), "apptrue");
    assert_eq!(
        pair.follower.one(
            "SELECT string_agg(grantee, ' ') FROM restored_grant WHERE grantee <> current_user"
        ),
        "only_here"
    );
    // Nothing changed: nothing is written, and the epoch stays.
    let epoch = "SELECT epoch FROM node_state";
    let before = pair.follower.one(epoch);
    pair.own = "{}".into();
    assert_eq!(pair.sync(), "unchanged");
    assert_eq!(pair.follower.one(epoch), before);

    // What is rotated, revoked, suspended or marked there is so here, in sessions that have used the key as well.
    pair.primary.run(&format!(
        "SELECT rotate_key('k'), revoke_key('k', 'app', '{{decrypt}}'), mark_honeytoken('{value}'::ciphertext, 'bait')"
    ));
    assert_eq!(pair.sync(), "imported");
    assert_eq!(
        pair.follower
            .one("SELECT version FROM ciphertext_info(encrypt_col('x', 'k'))"),
        "2"
    );
    assert_eq!(pair.follower.one(rights), "appfalse");
    assert_eq!(pair.follower.one("SELECT count(*) FROM honeytoken"), "1");
    pair.primary
        .run("SELECT suspend_key('k', reason => 'a test')");
    pair.sync();
    pair.follower.fails("KC001", &read);
    pair.primary
        .run("SELECT resume_key('k'), rotate_kek('ring')");
    wait_for("keys under the new key encryption key", LONG, || {
        pair.primary
            .yes("SELECT bool_and(kek_version = 2) FROM key_version")
    });
    pair.sync();
    assert_eq!(pair.follower.one(&read), "v");
    assert!(
        pair.follower
            .yes("SELECT bool_and(ok) FROM verify_keys() WHERE checked <> 'grant'")
    );
    wait_for("the record", LONG, || {
        pair.follower
            .yes("SELECT count(*) > 3 FROM audit_log WHERE event = 'import_catalog'")
    });
}

/// An older catalog would bring back a right that was revoked; another primary's, keys of another branch.
#[test]
fn an_older_catalog_and_another_branch_are_refused() {
    let mut pair = Pair::new();
    let old = pair.export();
    pair.primary
        .run("SELECT revoke_key('k', 'app', '{decrypt}')");
    pair.sync();
    let import =
        |catalog: &str, adopt: bool| format!("SELECT import_catalog('{catalog}', '{{}}', {adopt})");
    pair.follower
        .fails("22023", &import(&old, false))
        .says("epoch 1");
    assert!(
        pair.follower
            .yes("SELECT NOT has_key_privilege('app', 'k', 'decrypt')")
    );
    let altered = old.replace("\"can_decrypt\": true", "\"can_decrypt\": false");
    assert_ne!(altered, old);
    pair.follower
        .fails("22023", &import(&altered, true))
        .says("not whole");
    pair.follower.fails("22023", &import("{}", true));
    // Settings of its own are looked at as those of any provider.
    for own in [
        "{\"local\": {\"path\": \"/k\", \"password\": \"hunter2\"}}",
        "{\"nowhere\": {}}",
        "[]",
    ] {
        let problem = failed(
            pair.follower
                .simple_query(&format!("SELECT import_catalog('{old}', '{own}', true)")),
        );
        assert!(!format!("{problem:?}").contains("hunter2"), "{problem:?}");
    }
    // A key of its own under the primary's name or number.
    pair.follower
        .run("UPDATE key_version SET kcv = '0000000000'");
    let newer = {
        pair.primary.run("SELECT create_key('more', 'ring')");
        pair.export()
    };
    pair.follower
        .fails("22023", &import(&newer, false))
        .says("version 1 of key k");
    assert_eq!(
        pair.follower
            .one("SELECT count(*) FROM key WHERE name = 'more'"),
        "0",
        "nothing of it was taken"
    );
    // Who is no follower takes none, and who is one gives none.
    pair.primary.fails("22023", &import(&newer, false));
    pair.follower.fails("KC050", "SELECT export_catalog()");
}

/// What the primary has destroyed is kept here as long as a row of this server's needs it.
#[test]
fn a_follower_destroys_no_key_that_its_rows_need() {
    let mut pair = Pair::new();
    pair.sync();
    pair.follower.run(
        "CREATE TABLE t AS SELECT encrypt_col('mine', 'k') AS v; SELECT register_column('t', 'v', 'k', 'none')",
    );
    pair.primary
        .run("SELECT rotate_key('k'); SELECT reencrypt_column('t', 'v')");
    wait_for_jobs(&mut pair.primary);
    pair.primary
        .run("SELECT schedule_key_destruction('k', 1, '7 days', 'old')");
    pair.sync();
    let state = "SELECT state || (destroy_at IS NULL) || (length(wrapped) > 0) FROM key_version WHERE version = 1";
    assert_eq!(pair.follower.one(state), "destruction scheduledtruetrue");
    pair.primary.run(
        "UPDATE key_version SET state = 'destroyed', wrapped = '', canary = NULL, destroyed_at = now() WHERE version = 1",
    );
    pair.sync();
    assert_eq!(pair.follower.one(state), "destruction scheduledfalsetrue");
    wait_for("the look at the rows", LONG, || {
        pair.follower
            .yes("SELECT EXISTS (SELECT FROM destruction WHERE version = 1 AND last_error LIKE 'rows still need%')")
    });
    assert_eq!(pair.follower.one(state), "destruction scheduledfalsetrue");
    // Looked at again in an hour; here at once.
    pair.follower
        .run("DELETE FROM t; UPDATE destruction SET retry_at = now()");
    pair.sync();
    wait_for("the destruction", LONG, || {
        pair.follower
            .yes("SELECT state = 'destroyed' AND wrapped = '' FROM key_version WHERE version = 1")
    });
}
