//! Erasure on request: a version, or a whole key, is destroyed although rows need it, and what is left of them is in
//! nobody's way.

use colcrypt_tests::of_approval::{request_number, two_managers};
use colcrypt_tests::of_jobs::versions;
use colcrypt_tests::of_keys::states;
use colcrypt_tests::wait_for;
use postgres::Client;

use crate::common::{ACTS, Db, LONG, Sql, db, wait_for_jobs};

/// Table `t` whose values 1 to 3 are under version 1 of `k`, bound to nothing, and 4 under version 2, as no job knows.
fn two_generations() -> Db {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext); CREATE TABLE elsewhere (v ciphertext[]);
         INSERT INTO t SELECT n, encrypt_col('v' || n, 'k') FROM generate_series(1, 3) n;
         INSERT INTO elsewhere SELECT ARRAY[v] FROM t WHERE id = 1; SELECT rotate_key('k');
         INSERT INTO t VALUES (4, encrypt_col('v4', 'k'))",
    );
    db
}

fn register(db: &mut Db) {
    db.client
        .run("SELECT register_column('t', 'v', 'k', context => 'none')");
}

fn wait_until_all_are_destroyed(client: &mut Client) {
    wait_for("the destruction", LONG, || {
        client
            .yes("SELECT bool_and(state = 'destroyed') FROM key_status WHERE key = 'k' AND shreds")
    });
}

fn acts(client: &mut Client, event: &str) -> String {
    client.one(&format!(
        "SELECT string_agg(detail, ' | ' ORDER BY nr) FROM {ACTS} WHERE event = '{event}'"
    ))
}

/// The last job on `t.v`: how it ended, and what it could not move.
fn last_job(client: &mut Client) -> String {
    wait_for_jobs(client);
    client.one(
        "SELECT phase || ' ' || rows_failed || ' ' || (SELECT count(*) FROM job_error) FROM job_progress ORDER BY job_id DESC LIMIT 1",
    )
}

#[test]
fn rows_that_need_it_are_lost_on_purpose_and_counted() {
    let mut db = two_generations();
    register(&mut db);
    db.client.fails(
        "KC031",
        "SELECT schedule_key_destruction('k', 1, '1 second', 'art. 17', rows => 'keep')",
    );
    db.client.fails(
        "22023",
        "SELECT schedule_key_destruction('k', 1, '1 second', 'art. 17', rows => 'burn')",
    );
    db.client.fails(
        "KC032",
        "SELECT schedule_key_destruction('k', 1, '1 second', rows => 'shred')",
    );
    db.client
        .run("SELECT schedule_key_destruction('k', 1, '1 second', 'art. 17', rows => 'shred')");
    let lost = acts(&mut db.client, "shred_rows");
    assert!(
        lost.starts_with("4 values of 2 columns: ")
            && lost.contains("public.t.v: 3 rows")
            && lost.contains("public.elsewhere.v: 1 row"),
        "{lost}"
    );
    wait_until_all_are_destroyed(&mut db.client);
    assert!(
        acts(&mut db.client, "destroy_key").contains("; lost: 4 values of 2 columns: "),
        "the count on the day"
    );
    db.client
        .fails("KC030", "SELECT decrypt_col(v) FROM t WHERE id = 1")
        .says("as ordered by postgres");
    assert_eq!(
        db.client.one("SELECT decrypt_col(v) FROM t WHERE id = 4"),
        "v4"
    );
    assert_eq!(
        db.client.one(
            "SELECT string_agg(\"rows\" || ' ' || shredded, ', ' ORDER BY relation::text) FROM rows_needing_key('k', 1)"
        ),
        "1 true, 3 true"
    );
    assert_eq!(
        db.client
            .one("SELECT string_agg(DISTINCT shredded::text, ', ') FROM rows_needing_key('k', 2)"),
        "false"
    );
    db.client.run("SELECT take_census('t', 'v')");
    assert_eq!(
        db.client.one(
            "SELECT string_agg(version || ' ' || rows || ' ' || shredded, ', ' ORDER BY version) FROM key_version_census"
        ),
        "1 3 true, 2 1 false"
    );
}

/// Whether values are bound or not, the same row also moved for another column, or the column moved to another key.
#[test]
fn jobs_pass_by_what_is_lost() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext); CREATE TABLE bound (id int PRIMARY KEY, v ciphertext, w ciphertext);
         SELECT create_key('other', 'ring')",
    );
    let fill = |from: u32, to: u32| {
        format!(
            "INSERT INTO t SELECT n, encrypt_col('v' || n, 'k') FROM generate_series({from}, {to}) n;
             INSERT INTO bound SELECT n, encrypt_col('v' || n, 'k', row_context(n)), encrypt_col('w' || n, 'other', row_context(n))
             FROM generate_series({from}, {to}) n"
        )
    };
    db.client.run(&fill(1, 3));
    db.client.run("SELECT rotate_key('k')");
    db.client.run(&fill(4, 4));
    db.client
        .run("SELECT schedule_key_destruction('k', 1, '1 second', 'art. 17', rows => 'shred')");
    wait_until_all_are_destroyed(&mut db.client);
    register(&mut db);
    db.client.run(
        "SELECT register_column('bound', 'v', 'k', context => 'colcrypt.row_context(id)'),
                register_column('bound', 'w', 'other', context => 'colcrypt.row_context(id)')",
    );
    assert_eq!(
        last_job_after(
            &mut db.client,
            "SELECT rotate_key('other'), rotate_key('k')"
        ),
        "done 0 0"
    );
    assert_eq!(versions(&mut db.client, "t", "v"), "1:3 3:1");
    assert_eq!(versions(&mut db.client, "bound", "v"), "1:3 3:1");
    assert_eq!(versions(&mut db.client, "bound", "w"), "2:4");
    for order in [
        "reencrypt_column('t', 'v')",
        "reencrypt_column('bound', 'v', true)",
        "rebind_column('bound', 'v', context => 'colcrypt.row_context(id, 1)', accept_unplaced => true)",
        "move_column('t', 'v', 'other', accept_unplaced => true)",
    ] {
        assert_eq!(
            last_job_after(&mut db.client, &format!("SELECT {order}")),
            "done 0 0",
            "{order}"
        );
    }
    assert_eq!(
        db.client.one("SELECT string_agg(ciphertext_key(v)::text || '/' || (ciphertext_info(v)).version, ',') FROM t WHERE id = 4"),
        db.client.one("SELECT key_id || '/2' FROM colcrypt.key WHERE name = 'other'"),
    );
    // Another version of the key goes its way as ever.
    db.client
        .run("SELECT schedule_key_destruction('k', 2, '1 second', 'unused')");
    wait_for("the other destruction", LONG, || {
        states(&mut db.client).starts_with("1 destroyed, 2 destroyed")
    });
}

fn last_job_after(client: &mut Client, order: &str) -> String {
    client.run(order);
    last_job(client)
}

#[test]
fn the_window_is_the_floor_and_it_can_be_called_off() {
    let mut db = two_generations();
    register(&mut db);
    db.client
        .run("SELECT schedule_key_destruction('k', 1, NULL, 'art. 17', rows => 'shred')");
    let is_floor = "SELECT destroy_at - state_changed_at <= current_setting('colcrypt.destruction_window_floor')::interval + interval '10 seconds'
        AND shreds FROM key_status WHERE version = 1";
    assert!(db.client.yes(is_floor));
    // A minute is longer than any test's floor, and shorter than the window.
    db.client.run(
        "SELECT cancel_key_destruction('k', 1);
         SELECT schedule_key_destruction('k', 1, '1 hour', 'art. 17', rows => 'shred')",
    );
    db.client
        .fails("KC001", "SELECT decrypt_col(v) FROM t WHERE id = 1");
    db.client.run("SELECT cancel_key_destruction('k', 1)");
    assert!(
        db.client
            .yes("SELECT NOT bool_or(shreds) FROM key_status WHERE key = 'k'")
    );
    // What had been passed by is moved now.
    assert_eq!(last_job(&mut db.client), "done 0 0");
    assert_eq!(versions(&mut db.client, "t", "v"), "2:4");
    assert_eq!(
        db.client.one("SELECT decrypt_col(v) FROM t WHERE id = 1"),
        "v1"
    );
}

/// A row turned up that holds the destruction up; now it is to be lost with it.
#[test]
fn one_that_waits_for_its_rows_is_ordered_anew() {
    let mut db = two_generations();
    db.client.run(
        "CREATE TEMP TABLE aside AS SELECT * FROM t; TRUNCATE t, elsewhere;
         SELECT schedule_key_destruction('k', 1, '1 hour', 'unused');
         INSERT INTO t SELECT * FROM aside",
    );
    db.client.fails(
        "KC033",
        "SELECT schedule_key_destruction('k', 1, '1 second', 'art. 17')",
    );
    db.client
        .run("SELECT schedule_key_destruction('k', 1, '1 second', 'art. 17', rows => 'shred')");
    wait_until_all_are_destroyed(&mut db.client);
    assert_eq!(states(&mut db.client), "1 destroyed, 2 active");
}

#[test]
fn a_whole_key_goes_in_one_call() {
    let mut db = two_generations();
    register(&mut db);
    db.client.run("SELECT create_key_version('k')");
    db.client.fails(
        "KC031",
        "SELECT schedule_key_destruction('k', reason => 'x')",
    );
    assert_eq!(
        states(&mut db.client),
        "1 deactivated, 2 active, 3 pre-active"
    );
    let order =
        "SELECT schedule_key_destruction('k', NULL, '1 hour', 'the tenant left', rows => 'shred')";
    assert_eq!(db.client.one(order), "destruction scheduled");
    assert_eq!(
        states(&mut db.client),
        "1 destruction scheduled, 2 destruction scheduled, 3 destruction scheduled"
    );
    let failure = db.client.fails("KC001", "SELECT encrypt_col('x', 'k')");
    assert!(
        failure.hint.contains("cancel_key_destruction") && failure.hint.contains("rotate_key"),
        "{}",
        failure.hint
    );
    db.client.fails("KC033", order);
    // Called off, all at once; what was in use decrypts.
    db.client
        .run("SELECT cancel_key_destruction('k', reason => 'he came back')");
    assert_eq!(
        states(&mut db.client),
        "1 deactivated, 2 deactivated, 3 pre-active"
    );
    assert_eq!(
        db.client
            .one("SELECT string_agg(decrypt_col(v), ',' ORDER BY id) FROM t"),
        "v1,v2,v3,v4"
    );
    db.client.run("SELECT activate_key('k', 3)");
    assert_eq!(last_job(&mut db.client), "done 0 0");
    db.client.run(
        "SELECT schedule_key_destruction('k', destroy_after => '1 second', reason => 'the tenant left', rows => 'shred')",
    );
    wait_until_all_are_destroyed(&mut db.client);
    assert_eq!(
        states(&mut db.client),
        "1 destroyed, 2 destroyed, 3 destroyed"
    );
    db.client.fails("KC030", "SELECT encrypt_col('x', 'k')");
    // The worker does not begin it again by itself.
    db.client
        .run("SELECT set_rotation_interval('k', '1 day'); UPDATE colcrypt.key_version SET activated_at = now() - interval '9 years'");
    assert_eq!(
        db.client
            .one("SELECT count(*) FROM rotation_schedule WHERE next_rotation_at IS NOT NULL AND key = 'k'"),
        "0"
    );
}

/// Its name and what became of it are in the record alone then.
#[test]
fn a_lost_value_of_a_dropped_key_says_where_to_look() {
    let mut db = two_generations();
    db.client
        .run("SELECT schedule_key_destruction('k', NULL, '1 second', 'art. 17', rows => 'shred')");
    wait_until_all_are_destroyed(&mut db.client);
    let read = "SELECT decrypt_col(v) FROM t WHERE id = 1";
    db.client.fails("KC030", read);
    db.client.run("SELECT drop_key('k')");
    let failure = db.client.fails("42704", read);
    assert!(failure.hint.contains("drop_key"), "{failure:?}");
    // By the number that it tells.
    let id = failure.message.split("key id ").nth(1).unwrap();
    let id = id.split(',').next().unwrap();
    let kept = format!(
        "SELECT count(*) > 0 FROM audit_log WHERE key_id = '{id}' AND key = 'k' AND event = 'drop_key'"
    );
    wait_for("the record", LONG, || db.client.yes(&kept));
}

/// What is lost cannot be put in the column's place: the rows are listed, and nothing else is done before they are
/// gone.
#[test]
fn a_column_is_not_decrypted_before_what_is_lost_is_gone() {
    let mut db = db();
    let insert = |from: u32, to: u32| {
        format!(
            "INSERT INTO t SELECT n, encrypt_col('v' || n, 'k', place_context('public.t.v', n)) FROM generate_series({from}, {to}) n"
        )
    };
    db.client.run(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, v ciphertext); {}; SELECT rotate_key('k'); {};
         SELECT schedule_key_destruction('k', 1, '1 second', 'art. 17', rows => 'shred')",
        insert(1, 3),
        insert(4, 5)
    ));
    wait_until_all_are_destroyed(&mut db.client);
    db.client.run(
        "SELECT register_column('t', 'v', 'k', context => 'colcrypt.place_context(''public.t.v'', id)')",
    );
    db.client.run("SELECT decrypt_column('t', 'v')");
    assert_eq!(last_job(&mut db.client), "failed 3 3");
    assert_eq!(
        db.client.one(
            "SELECT string_agg(t.id::text, ' ' ORDER BY t.id) FROM job_error e JOIN t ON t.ctid = e.row_ctid
             WHERE reason LIKE 'version 1 of key \"k\" was destroyed on % as ordered by postgres'"
        ),
        "1 2 3"
    );
    // The others read as before.
    let read = "SELECT string_agg(decrypt_col(v, place_context('public.t.v', id)), ' ' ORDER BY id) FROM t WHERE id > 3";
    assert_eq!(db.client.one(read), "v4 v5");
    db.client
        .run("UPDATE t SET v = NULL WHERE id < 4; SELECT retry_job(max(job_id)) FROM job");
    wait_for_jobs(&mut db.client);
    assert_eq!(
        db.client.one(
            "SELECT string_agg(id || coalesce(v, ''), ' ' ORDER BY id) || ' ' || pg_typeof(min(v)) FROM t"
        ),
        "1 2 3 4v4 5v5 text"
    );
}

#[test]
fn it_waits_for_a_second_role_where_that_is_asked() {
    let mut it = two_managers();
    it.db.client.run(&format!(
        "CREATE TABLE t AS SELECT 1 AS id, encrypt_col('x', 'k') AS v;
         GRANT EXECUTE ON FUNCTION schedule_key_destruction(text, int, interval, text, text) TO {}",
        it.alice
    ));
    let answer = it.alice().one(
        "SELECT colcrypt.schedule_key_destruction('k', NULL, '1 second', 'art. 17', rows => 'shred')",
    );
    assert_eq!(states(&mut it.db.client), "1 active");
    let request = request_number(&answer);
    it.bob().one(&format!("SELECT approve_request({request})"));
    wait_until_all_are_destroyed(&mut it.db.client);
    assert_eq!(states(&mut it.db.client), "1 destroyed");
}
