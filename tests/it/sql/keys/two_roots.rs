//! Two root keys on one keyring, as SQL shows them: who may add and drop one, what is refused, what the
//! views say, what the record keeps, and that a dump takes both along.

use colcrypt_tests::of_approval::{request_number, two_managers};
use colcrypt_tests::{Cluster, wait_for};
use postgres::Client;

use crate::common::{self, ACTS, LONG, Sql, cluster, db, role, unique};

/// A provider `name` on a root key file of its own.
fn add_file(client: &mut Client, name: &str) -> std::path::PathBuf {
    let file = cluster().root_key(&format!("{}.key", unique(name)));
    client.run(&format!(
        "SELECT colcrypt.add_provider('{name}', 'file', jsonb_build_object('path', '{}'))",
        file.display()
    ));
    file
}

#[test]
fn the_views_say_how_each_root_key_stands() {
    let mut db = db();
    let file = add_file(&mut db.client, "spare");
    let value = db.client.one("SELECT encrypt_col('v', 'k')");
    assert_eq!(db.client.one("SELECT add_root('ring', 'spare')"), "added");
    let states = "SELECT string_agg(provider || ' ' || preference || ' ' || state, ', ' ORDER BY preference) FROM root_status";
    wait_for("what the first answered", LONG, || {
        db.client.one(states) == "local 1 ok, spare 2 not asked"
    });
    db.client
        .run(&format!("SELECT decrypt_col('{value}'::ciphertext)"));
    let status = "SELECT provider || ', ' || served_by || ', ' || coalesce(root_problem, 'no problem') FROM key_status WHERE key = 'k'";
    wait_for("the status", LONG, || {
        db.client.one(status) == "local, local, no problem"
    });
    assert_eq!(
        db.client
            .one("SELECT provider || ' ' || roots FROM keyring_status"),
        "local 2"
    );

    std::fs::remove_file(&file).unwrap();
    assert_eq!(
        db.client.one("SELECT string_agg(provider || ' ' || opens, ', ' ORDER BY preference) FROM check_roots('ring')"),
        "local true, spare false"
    );
    wait_for("the status of the second", LONG, || {
        db.client.yes("SELECT coalesce(root_problem LIKE '%provider \"spare\"%(since %)', false) FROM keyring_status")
    });
    assert!(db.client.yes(
        "SELECT state = 'refused, being confirmed' AND failing_since <= asked_at AND served_at IS NULL
                AND problem LIKE 'refused _ of 3 times since %spare%'
         FROM root_status WHERE provider = 'spare'"
    ));
    assert_eq!(
        db.client.one("SELECT drop_root('ring', 'spare')"),
        "left: provider \"local\""
    );
    assert_eq!(db.client.one("SELECT count(*) FROM root_status"), "1");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut db = db();
    add_file(&mut db.client, "spare");
    db.client.run(
        "SELECT add_provider('alias', kind, config) FROM colcrypt.provider WHERE name = 'local'",
    );
    for provider in ["local", "alias"] {
        db.client
            .fails("42710", &format!("SELECT add_root('ring', '{provider}')"))
            .says("has this root key already: provider");
    }
    db.client
        .fails("KC010", "SELECT add_root('ring', 'spare', 'a name')");
    db.client
        .fails("42704", "SELECT add_root('no ring', 'spare')");
    db.client
        .fails("42704", "SELECT add_root('ring', 'nobody')");
    let only = db
        .client
        .fails("KC049", "SELECT drop_root('ring', 'local')");
    assert_eq!(only.detail, "It has no other.");
    db.client
        .fails("42704", "SELECT drop_root('ring', 'spare')")
        .says("no such root key: provider");
    db.client.run("SELECT add_root('ring', 'spare')");
    db.client.fails("42710", "SELECT add_root('ring', 'spare')");
    db.client
        .fails("42710", "SELECT move_keyring('ring', 'spare')");
    assert_eq!(db.client.one("SELECT count(*) FROM root_status"), "2");
}

#[test]
fn only_who_may_manage_the_keyring_adds_and_drops() {
    let mut db = db();
    add_file(&mut db.client, "spare");
    let name = role(&mut db.client);
    let mut user = db.connect_as(&name);
    let calls = ["add_root('ring', 'spare')", "drop_root('ring', 'local')"];
    for call in calls.iter().chain(&["check_roots('ring')"]) {
        user.fails("42501", &format!("SELECT {call}"))
            .says("permission denied for function");
    }
    db.client.run(&format!(
        "GRANT EXECUTE ON FUNCTION add_root(text, text, text), drop_root(text, text, text), check_roots(text) TO {name};
         SELECT grant_key('k', '{name}', '{{manage}}'), grant_keyring('ring', '{name}', '{{create}}')"
    ));
    for call in calls {
        user.fails("42501", &format!("SELECT {call}"))
            .says("permission denied to manage keyring");
    }
    assert!(user.yes("SELECT opens FROM check_roots('ring')"));
    db.client.run(&format!(
        "SELECT grant_keyring('ring', '{name}', '{{manage}}')"
    ));
    assert_eq!(user.one("SELECT add_root('ring', 'spare')"), "added");
    assert_eq!(
        user.one("SELECT drop_root('ring', 'local')"),
        "left: provider \"spare\""
    );
    assert_eq!(
        db.client.one(&format!(
            "SELECT string_agg(event || ': ' || detail, '; ' ORDER BY place, nr) FROM {ACTS}
             WHERE event LIKE '%root' AND current_role_name = '{name}'"
        )),
        "add_root: keyring ring: provider \"spare\"; drop_root: keyring ring: provider \"local\""
    );
    wait_for("the refusals on record", LONG, || {
        db.client.yes(
            "SELECT count(*) = 2 FROM audit_log WHERE event LIKE '%root' AND outcome = 'denied' AND sqlstate = '42501'",
        )
    });

    for view in ["root_status", "kek_status", "key_status", "keyring_status"] {
        user.fails("42501", &format!("SELECT * FROM {view}"));
    }
    db.client.run(&format!("GRANT pg_monitor TO {name}"));
    for view in ["root_status", "kek_status", "key_status", "keyring_status"] {
        user.run(&format!("SELECT * FROM {view}"));
    }
    user.fails("42501", "SELECT * FROM colcrypt.kek_copy");
}

/// A root key more is a way in more: two persons open it. One may close it.
#[test]
fn four_eyes_add_a_root_key_and_two_drop_it() {
    let it = two_managers();
    let mut admin = it.db.connect();
    admin.run("GRANT EXECUTE ON FUNCTION add_root(text, text, text), drop_root(text, text, text) TO PUBLIC");
    add_file(&mut admin, "spare");
    let roots = "SELECT string_agg(provider, ', ' ORDER BY preference) FROM root_status";
    it.alice()
        .fails("42710", "SELECT add_root('ring', 'local')");
    let request = request_number(&it.alice().one("SELECT add_root('ring', 'spare')"));
    assert_eq!(admin.one(roots), "local");
    it.alice()
        .fails("KC045", &format!("SELECT approve_request({request})"));
    assert_eq!(
        it.bob().one(&format!("SELECT approve_request({request})")),
        "added"
    );
    assert_eq!(admin.one(roots), "local, spare");
    // Asked for twice, done once.
    it.alice()
        .fails("42710", "SELECT add_root('ring', 'spare')");
    assert_eq!(
        it.alice().one("SELECT drop_root('ring', 'local')"),
        "left: provider \"spare\""
    );
    assert_eq!(admin.one(roots), "spare");
}

#[test]
fn a_dump_takes_both_along_and_either_opens_it() {
    let mut source = db();
    add_file(&mut source.client, "spare");
    source.client.run("SELECT add_root('ring', 'spare')");
    let value = source.client.one("SELECT encrypt_col('v', 'k')");
    let dump = cluster().dump(&source.name);
    let to = common::settings(Cluster::builder()).start();
    let mut copy = to.create_database("copy");
    to.restore(&dump, "copy");
    // The first root key is nowhere here.
    copy.run("UPDATE colcrypt.provider SET config = '{\"path\": \"/nowhere/root.key\"}' WHERE name = 'local'");
    assert_eq!(
        copy.one(&format!(
            "SELECT colcrypt.decrypt_col('{value}'::colcrypt.ciphertext)"
        )),
        "v"
    );
    wait_for("the status", LONG, || {
        copy.yes("SELECT coalesce(served_by = 'spare' AND root_problem LIKE '%local%', false) FROM colcrypt.key_status WHERE key = 'k'")
    });
    assert_eq!(
        copy.one("SELECT colcrypt.drop_root('ring', 'local')"),
        "left: provider \"spare\""
    );
    copy.run(&format!(
        "SELECT colcrypt.decrypt_col('{value}'::colcrypt.ciphertext)"
    ));
}
