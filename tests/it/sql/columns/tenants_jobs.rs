//! Jobs on a column whose rows have keys of their own, and all of these: values opened, and bound to another context.

use colcrypt_tests::of_jobs::phases;
use colcrypt_tests::wait_for;
use postgres::Client;

use crate::columns::tenants::{emails, keys, tenants};
use crate::common::{LONG, Sql, role, wait_for_jobs};

/// "id: key version, reason" of each row that is listed.
fn listed(client: &mut Client) -> Vec<String> {
    client
        .rows(
            "SELECT format('%s: %s %s, %s', p.id, e.key, e.version, e.reason)
             FROM job_error e JOIN profile p ON p.ctid = e.row_ctid AND p.tableoid = e.relation ORDER BY p.id",
        )
        .into_iter()
        .map(|row| row[0].clone().unwrap())
        .collect()
}

fn fill(client: &mut Client, tenants: u32, rows: u32) {
    client.run(&format!(
        "INSERT INTO profile_access SELECT n, n % {tenants} + 1, 'mail ' || n FROM generate_series(1, {rows}) n"
    ));
}

fn last(client: &mut Client) -> Option<String> {
    client.opt("SELECT last_error FROM job_progress ORDER BY job_id DESC LIMIT 1")
}

#[test]
fn values_that_do_not_open_or_are_under_another_key_than_their_rows_are_listed() {
    let mut db = tenants(4);
    let client = &mut db.client;
    fill(client, 3, 300);
    client.run("SELECT verify_column('profile', 'email'), verify_column('profile', 'email')");
    wait_for_jobs(client);
    assert_eq!(phases(client), ["done"]);
    assert!(client.yes(
        "SELECT kind = 'verify_column' AND key IS NULL AND rows_done = 300 AND rows_failed = 0 AND last_error IS NULL FROM job_progress"
    ));
    client.run(
        "UPDATE profile SET email = encrypt_col('x', 'tenant-1', place_context('public.profile.email', 0)) WHERE id = 3;
         UPDATE profile SET tenant_id = 3 WHERE id = 4;
         UPDATE profile SET email = encrypt_col('x', 'k', place_context('public.profile.email', id)) WHERE id = 5;
         UPDATE profile SET tenant_id = NULL WHERE id = 6;
         UPDATE profile SET tenant_id = 99 WHERE id = 7;
         UPDATE profile SET email = encrypt_col('x', 'tenant-4', place_context('public.profile.email', 0)) WHERE id = 8;
         UPDATE profile SET email = encrypt_col('x', 'k', place_context('public.profile.email', 0)) WHERE id = 9;
         SELECT rotate_key('tenant-2');",
    );
    wait_for_jobs(client);
    client.run("SELECT verify_column('profile', 'email')");
    wait_for_jobs(client);
    assert!(client.yes(
        "SELECT phase = 'failed' AND rows_done = 293 AND rows_failed = 7 FROM job_progress WHERE kind = 'verify_column' ORDER BY job_id DESC LIMIT 1"
    ));
    assert_eq!(
        last(client).unwrap(),
        "7 rows do not open, or are not under their row's key: colcrypt.job_error lists them"
    );
    let found = listed(client);
    let expected = [
        "3: tenant-1 1, ",
        "4: tenant-2 2, it is under another key than its row's, \"tenant-3\"",
        "5: k 1, it is under a key that is none of the keyring's: it was not opened",
        "6: tenant-1 1, its row has no key",
        "7: tenant-2 2, it is under another key than its row's, which is none of the keyring's",
        "8: tenant-4 1, it is under another key than its row's, \"tenant-3\", and does not open: ",
        // Whether it would open is told of no key that nobody was asked for.
        "9: k 1, it is under a key that is none of the keyring's: it was not opened",
    ];
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found} {expected}");
    }
    assert!(!found[0].contains("another key"), "{}", found[0]);
    // Mended, it is looked at from the start.
    client.run(
        "DELETE FROM profile WHERE id IN (3, 5, 8, 9); UPDATE profile SET tenant_id = id % 3 + 1 WHERE id IN (4, 6, 7);
         SELECT retry_job(job_id) FROM job_progress WHERE phase = 'failed'",
    );
    wait_for_jobs(client);
    assert_eq!(phases(client), ["done", "done", "done"]);
    assert!(listed(client).is_empty());
}

/// One tenant's key that is not to be had is that tenant's affair.
#[test]
fn keys_that_are_suspended_or_destroyed_hold_up_no_others() {
    let mut db = tenants(3);
    let client = &mut db.client;
    fill(client, 3, 30);
    client.run(
        "SELECT suspend_key('tenant-2', 1, 'test');
         SELECT schedule_key_destruction('tenant-3', destroy_after => '1 second', reason => 'asked for', rows => 'shred')",
    );
    wait_for("the destruction", LONG, || {
        client.yes("SELECT state = 'destroyed' FROM key_status WHERE key = 'tenant-3'")
    });
    client.run("SELECT verify_column('profile', 'email')");
    wait_for_jobs(client);
    let found = listed(client);
    assert_eq!(found.len(), 10, "{found:?}");
    assert!(
        found
            .iter()
            .all(|row| row.contains(": tenant-2 1, ") && row.contains("suspended")),
        "{found:?}"
    );
    assert!(client.yes("SELECT rows_done = 20 AND rows_failed = 10 FROM job_progress"));
}

#[test]
fn partitions_are_verified_and_names_are_looked_up_in_the_table() {
    let mut db = tenants(2);
    let client = &mut db.client;
    client.run(
        "CREATE TABLE p (id int PRIMARY KEY, tenant_id int, v ciphertext) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF p FOR VALUES FROM (0) TO (10); CREATE TABLE high PARTITION OF p FOR VALUES FROM (10) TO (100);
         SELECT register_column('p', 'v', key_expression => $$'tenant-' || p.tenant_id$$, keyring => 'tenants', context => 'colcrypt.row_context(p.id)');
         SELECT create_access_view('p'); INSERT INTO p_access SELECT n, n % 2 + 1, 'v' || n FROM generate_series(1, 20) n;
         SELECT verify_column('p', 'v')",
    );
    wait_for_jobs(client);
    assert_eq!(phases(client), ["done"]);
    client.run(
        "SELECT rebind_column('p', 'v', accept_unplaced => true); SELECT rotate_key('tenant-1')",
    );
    wait_for_jobs(client);
    assert_eq!(last(client), None);
    client.run("SELECT verify_column('p', 'v')");
    wait_for_jobs(client);
    assert!(client.yes("SELECT bool_and(phase = 'done') FROM job_progress"));
    assert!(client.yes("SELECT bool_and(v = 'v' || id) FROM p_access"));
}

/// It is ordered, and steered, by who owns the table and manages the keyring; no right on a key stands for that.
#[test]
fn who_owns_the_table_and_manages_the_keyring_has_values_verified() {
    let mut db = tenants(2);
    let [owner, manager, other] = [0; 3].map(|_| role(&mut db.client));
    db.client.run(&format!(
        "SELECT create_keyring('others', 'local'); SELECT create_key('other', 'others');
         INSERT INTO profile_access VALUES (1, 1, 'a'); DROP VIEW profile_access; ALTER TABLE profile OWNER TO {owner};
         GRANT CREATE, USAGE ON SCHEMA public TO PUBLIC;
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA colcrypt TO {owner}, {manager}, {other};
         SELECT grant_key(k, r, '{{manage}}') FROM unnest('{{tenant-1,tenant-2}}'::text[]) k, unnest('{{{owner},{other}}}'::text[]) r;
         GRANT SELECT ON job_progress TO {owner}, {manager};
         SELECT grant_keyring('tenants', '{manager}', '{{manage}}')"
    ));
    let order = "SELECT verify_column('profile', 'email')";
    let mut owner_at = db.connect_as(&owner);
    let mut manager_at = db.connect_as(&manager);
    for at in [&mut owner_at, &mut manager_at, &mut db.connect_as(&other)] {
        for sql in [
            order,
            "SELECT rebind_column('profile', 'email', label => 'l')",
        ] {
            at.fails("42501", sql);
        }
    }
    db.client.run(&format!(
        "SELECT grant_keyring('tenants', '{owner}', '{{manage}}'), grant_keyring('others', '{owner}', '{{manage}}')"
    ));
    owner_at.run(&format!(
        "BEGIN; {order}; SELECT pause_job(max(job_id)) FROM job_progress; COMMIT"
    ));
    for verb in ["resume_job", "cancel_job", "retry_job"] {
        let sql = format!("SELECT {verb}(max(job_id)) FROM job_progress");
        manager_at.fails("42501", &sql);
    }
    // Registered for keys of another keyring since, the order opens nothing: of that one nobody was asked.
    owner_at.run(
        "SELECT register_column('profile', 'email', key_expression => $$'other' || left(tenant_id::text, 0)$$, keyring => 'others');
         SELECT resume_job(max(job_id)) FROM job_progress",
    );
    wait_for_jobs(&mut db.client);
    let phase = phases(&mut db.client);
    assert_eq!(phase, ["failed"]);
    assert!(
        last(&mut db.client)
            .unwrap()
            .contains("the column is not registered")
    );
    assert!(db.client.yes("SELECT count(*) = 0 FROM job_error"));
}

#[test]
fn values_are_bound_anew_each_under_its_own_key() {
    let mut db = tenants(3);
    let client = &mut db.client;
    fill(client, 3, 300);
    client.run(
        "UPDATE profile SET email = encrypt_col('elsewhere', 'k', place_context('public.profile.email', id)) WHERE id = 300",
    );
    client.run("BEGIN; SELECT rebind_column('profile', 'email', label => 'mail')");
    client
        .fails(
            "55000",
            "SELECT rebind_column('profile', 'email', label => 'again')",
        )
        .says("phase");
    client.run(
        "ROLLBACK; BEGIN; SELECT rebind_column('profile', 'email', label => 'mail'); SELECT rotate_key('tenant-2'); COMMIT",
    );
    // Views write and read meanwhile.
    client.run(
        "INSERT INTO profile_access VALUES (301, 1, 'mail 301'); UPDATE profile_access SET tenant_id = 3 WHERE id = 1;
         UPDATE profile_access SET id = 302, email = 'mail 302' WHERE id = 2",
    );
    wait_for_jobs(client);
    assert_eq!(phases(client), ["done", "done"], "{:?}", last(client));
    assert_eq!(
        client.one("SELECT label || ' ' || context FROM protected_column"),
        "mail colcrypt.place_context('mail', id)"
    );
    assert!(client.yes(
        "SELECT bool_and((ciphertext_info(email)).key = 'tenant-' || tenant_id) AND bool_and(decrypt_col(email, NULL::text, place_context('mail', id)) = 'mail ' || id)
         FROM profile WHERE id <> 300"
    ));
    assert!(client.yes(
        "SELECT bool_and((ciphertext_info(email)).version = CASE tenant_id WHEN 2 THEN 2 ELSE 1 END) FROM profile WHERE id <> 300"
    ));
    // What is under a key of another keyring is nobody's order.
    assert_eq!(
        client.one("SELECT decrypt_col(email, NULL::text, place_context('public.profile.email', id)) FROM profile WHERE id = 300"),
        "elsewhere"
    );
    client.run("DELETE FROM profile WHERE id > 5; SELECT verify_column('profile', 'email')");
    wait_for_jobs(client);
    assert_eq!(last(client), None);
    assert_eq!(emails(client), "1 mail 1, 3 mail 3, 4 mail 4, 5 mail 5");
    assert_eq!(
        keys(client),
        "1 3: tenant-3, 3 1: tenant-1, 4 2: tenant-2, 5 3: tenant-3"
    );
}

#[test]
fn a_rebinding_lists_what_it_cannot_bind_and_passes_by_what_is_lost() {
    let mut db = tenants(3);
    let client = &mut db.client;
    fill(client, 3, 30);
    client.run(
        "SELECT suspend_key('tenant-2', 1, 'test');
         SELECT schedule_key_destruction('tenant-3', destroy_after => '1 second', reason => 'asked for', rows => 'shred')",
    );
    wait_for("the destruction", LONG, || {
        client.yes("SELECT state = 'destroyed' FROM key_status WHERE key = 'tenant-3'")
    });
    client.run("SELECT rebind_column('profile', 'email', label => 'mail')");
    wait_for_jobs(client);
    assert_eq!(phases(client), ["failed"]);
    let found = listed(client);
    assert_eq!(found.len(), 10, "{found:?}");
    assert!(
        found.iter().all(|row| row.contains(": tenant-2 1, ")),
        "{found:?}"
    );
    // Both contexts open until all are bound.
    client.run("SELECT resume_key('tenant-2', 1)");
    assert!(client.yes(
        "SELECT bool_and(email = 'mail ' || id) AND count(*) = 20 FROM profile_access WHERE tenant_id < 3"
    ));
    client.run("SELECT retry_job(job_id) FROM job_progress WHERE phase = 'failed'");
    wait_for_jobs(client);
    assert!(
        client.yes("SELECT bool_and(phase = 'done') FROM job_progress"),
        "{:?}",
        last(client)
    );
    assert!(client.yes(
        "SELECT bool_and(decrypt_col(email, NULL::text, place_context('mail', id)) = 'mail ' || id) FROM profile WHERE tenant_id < 3"
    ));
}

/// Where the keyring asks for four eyes, nobody binds its values elsewhere alone.
#[test]
fn a_rebinding_is_a_way_out() {
    let mut db = tenants(2);
    let [one, two] = [0; 2].map(|_| role(&mut db.client));
    db.client.run(&format!(
        "SELECT grant_keyring('tenants', r, '{{manage}}') FROM unnest('{{{one},{two}}}'::text[]) r; SELECT require_four_eyes('tenants')"
    ));
    db.client
        .fails(
            "22023",
            "SELECT rebind_column('profile', 'email', label => 'l')",
        )
        .says("asks for four eyes");
    db.client.run("SELECT verify_column('profile', 'email')");
    wait_for_jobs(&mut db.client);
    assert_eq!(phases(&mut db.client), ["done"]);
}
