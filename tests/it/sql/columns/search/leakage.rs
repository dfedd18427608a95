//! What search indexes tell is planned and measured; look-ups are counted and limited; honeytokens are heard of.

use colcrypt_tests::of_audit::{count, event, settle};
use colcrypt_tests::of_search::{
    OPENED, index, people, sealed, wait_for_good_jobs, with_search_key,
};
use colcrypt_tests::{Cluster, wait_for};
use postgres::Client;

use super::bed::wait_until_seen;
use crate::common::{self, Db, LONG, Sql, role};

/// A table with 4,000 cities, of which Rome is every fourth, and 1 in 8 is NULL; values are bound to their rows.
fn cities() -> Db {
    let mut db = with_search_key();
    db.client.run(
        "CREATE TABLE place (id int PRIMARY KEY, city ciphertext, size ciphertext, is_port ciphertext, doc ciphertext);
         SELECT register_column('place', 'city', 'k', label => 'place.city'), register_column('place', 'size', 'k', label => 'place.size', plaintext_type => 'int4'),
                register_column('place', 'is_port', 'k', label => 'place.is_port', plaintext_type => 'bool'),
                register_column('place', 'doc', 'k', label => 'place.doc', plaintext_type => 'jsonb');
         INSERT INTO place
         SELECT g, CASE WHEN g % 8 > 0 THEN encrypt_col(CASE WHEN g % 4 = 1 THEN 'Rome' ELSE 'City ' || g % 1000 END, 'k', place_context('place.city', g)) END,
                encrypt_col(g % 1024, 'k', place_context('place.size', g)), encrypt_col(g % 2 = 0, 'k', place_context('place.is_port', g)),
                encrypt_col('{}'::jsonb, 'k', place_context('place.doc', g))
         FROM generate_series(1, 4000) g",
    );
    db
}

/// What the plan says of an item, of this many bits where it has any.
fn planned(client: &mut Client, arguments: &str, item: &str, bits: Option<i32>) -> f64 {
    let bits = bits.map_or("bits IS NULL".into(), |bits| format!("bits = {bits}"));
    client
        .one(&format!(
            "SELECT value FROM plan_search_index({arguments}) WHERE item = '{item}' AND {bits} LIMIT 1"
        ))
        .parse()
        .unwrap()
}

fn verdict(client: &mut Client, arguments: &str) -> String {
    client.one(&format!(
        "SELECT note FROM plan_search_index({arguments}) WHERE item = 'verdict'"
    ))
}

#[test]
fn a_plan_says_shares_and_costs_and_a_verdict() {
    let mut db = cities();
    let c = &mut db.client;
    let all = "'place', 'city', sample => 100000";
    assert_eq!(planned(c, all, "rows", None), 4000.0);
    assert_eq!(planned(c, all, "sampled", None), 3500.0);
    assert_eq!(planned(c, all, "share of NULL", None), 0.125);
    // Rome is every fourth of 4000, so 1000 of 3500 with a value.
    let share = planned(c, all, "largest share", None);
    assert!((share - 1000.0 / 3500.0).abs() < 1e-9, "{share}");
    assert_eq!(
        verdict(c, all),
        "warn: one value is in 28.6 per cent of the rows, more than 5.0: who knows that it is the commonest knows these rows"
    );
    // A look-up of Rome finds 1000 rows; shorter terms find others, too, and tell fewer apart.
    let full = planned(c, all, "rows rechecked", Some(256));
    let eight = planned(c, all, "rows rechecked", Some(8));
    assert!(full > 280.0 && eight > full + 10.0, "{full} {eight}");
    let distinct = planned(c, all, "distinct values", None);
    assert_eq!(planned(c, all, "distinct terms", Some(256)), distinct);
    assert!(planned(c, all, "distinct terms", Some(8)) <= 256.0);
    assert_eq!(
        c.one("SELECT bits FROM plan_search_index('place', 'city', sample => 100000) WHERE item = 'recommended'"),
        "10"
    );
    // A sample is spread over the table.
    let some = "'place', 'city', sample => 400";
    assert!(planned(c, some, "sampled", None) <= 400.0);
    let share = planned(c, some, "largest share", None);
    assert!((0.2..0.4).contains(&share), "{share}");
    // Values that a normaliser makes the same are the same.
    let one_letter = "'place', 'city', normalise => '{alnum,digits}'";
    c.fails("22023", &format!("SELECT plan_search_index({one_letter})"));
    let digits = "'place', 'city', normalise => '{digits}', sample => 100000";
    assert_eq!(planned(c, digits, "without a normal form", None), 1000.0);
}

#[test]
fn other_kinds_and_types_are_judged() {
    let mut db = cities();
    let c = &mut db.client;
    assert_eq!(
        verdict(c, "'place', 'is_port'"),
        "refuse: a boolean has two values: how often each term occurs tells which is which"
    );
    // Sizes are 0 to 1023, evenly: intervals of 2^4 have a 64th of the rows, those of 2^12 all.
    let size = "'place', 'size', 'range', sample => 100000";
    let narrow = planned(c, size, "fullest interval", Some(4));
    assert!((narrow - 1.0 / 64.0).abs() < 1e-3, "{narrow}");
    assert_eq!(planned(c, size, "fullest interval", Some(12)), 1.0);
    assert!(verdict(c, size).starts_with("good"));
    // Nearly all that is no Rome begins with "City ".
    let text = "'place', 'city', 'text', sample => 100000";
    let share = planned(c, text, "commonest n-gram", None);
    assert!((share - 2500.0 / 3500.0).abs() < 1e-9, "{share}");
    for (arguments, why) in [
        ("'place', 'doc'", "values of type jsonb"),
        ("'place', 'size', 'text'", ""),
        ("'place', 'city', 'hash'", ""),
        ("'place', 'size', normalise => '{trim}'", ""),
        ("'place', 'city', sample => 0", "a sample has 1 to"),
    ] {
        let said = c.fails("22023", &format!("SELECT plan_search_index({arguments})"));
        assert!(format!("{said:?}").contains(why), "{arguments}: {said:?}");
    }
    // No value is ever said.
    let said = c.one(&format!(
        "SELECT string_agg(p::text, ' ') FROM (SELECT * FROM plan_search_index({text}) UNION ALL SELECT * FROM plan_search_index('place', 'city')) p"
    ));
    assert!(!said.contains("Rome") && !said.contains("City"), "{said}");
}

#[test]
fn a_plan_takes_the_callers_own_right() {
    let mut db = cities();
    let name = role(&mut db.client);
    let ask = "SELECT count(*) > 0 FROM plan_search_index('place', 'city')";
    let mut user = db.connect_as(&name);
    user.fails("42501", ask);
    db.client.run(&format!(
        "GRANT EXECUTE ON FUNCTION plan_search_index TO {name}"
    ));
    user.fails("42501", ask);
    db.client.run(&format!(
        "GRANT ALL ON SCHEMA public TO {name}; ALTER TABLE place OWNER TO {name}; SELECT grant_key('k', '{name}', '{{manage}}')"
    ));
    let said = user.fails("42501", ask);
    assert!(format!("{said:?}").contains("decrypt"), "{said:?}");
    db.client
        .run(&format!("SELECT grant_key('k', '{name}', '{{decrypt}}')"));
    assert!(user.yes(ask));
    // It is his own use of the key.
    wait_for("the count", LONG, || {
        db.client.yes(&format!(
            "SELECT coalesce(sum(decryptions), 0) >= 3500 FROM colcrypt.usage WHERE role = '{name}'"
        ))
    });
}

/// The context is the table owner's code, and has nobody's right on a key while it runs.
#[test]
fn the_context_runs_as_the_tables_owner() {
    let mut db = with_search_key();
    let owner = role(&mut db.client);
    db.client.run(&format!(
        "CREATE TABLE seen (who text); GRANT ALL ON seen TO PUBLIC; GRANT ALL ON SCHEMA public TO PUBLIC;
         CREATE FUNCTION peek(int) RETURNS bytea LANGUAGE plpgsql IMMUTABLE AS $f$
         BEGIN RAISE NOTICE 'run by %', current_user; RETURN int4send($1); END $f$;
         CREATE TABLE t (id int, v ciphertext); INSERT INTO t SELECT g, encrypt_col('v' || g, 'k', int4send(g)) FROM generate_series(1, 20) g;
         ALTER TABLE t OWNER TO {owner};
         SELECT register_column('t', 'v', 'k', 'public.peek(id)')"
    ));
    let mut noticed = db.connect();
    noticed.run("CREATE TEMP TABLE said AS SELECT * FROM colcrypt.plan_search_index('t', 'v')");
    assert_eq!(
        noticed.one("SELECT value FROM said WHERE item = 'sampled'"),
        "20"
    );
}

#[test]
fn what_is_told_is_counted_of_the_terms() {
    let mut db = with_search_key();
    let c = &mut db.client;
    people(c, 100);
    c.run(&format!(
        "UPDATE t SET email = {} WHERE id < 21 AND id % 10 > 0",
        sealed("'same@example.org'", "id")
    ));
    index(c, "");
    wait_until_seen(c);
    index(c, ", 'text'");
    wait_until_seen(c);
    let numbers = "SELECT DISTINCT concat_ws(' ', rows, nulls, distinct_terms, largest_group, largest_share) FROM search_leakage('t') WHERE kind = 'equality'";
    assert_eq!(c.one(numbers), "100 10 73 18 0.2");
    assert_eq!(
        c.one("SELECT string_agg(viewer, ', ') FROM search_leakage('t') WHERE kind = 'text' AND learns <> '' AND largest_group = 90"),
        "thief of the disk, replica, role without rights, role with encrypt only, role with search only",
        "all have an n-gram of @example.org"
    );
    assert!(c.yes("SELECT learns LIKE 'which rows have equal values%' FROM search_leakage() WHERE kind = 'equality' AND viewer = 'thief of the disk'"));
    // As whoever has the table could count them.
    assert_eq!(
        c.one(
            "SELECT concat_ws(' ', count(DISTINCT email_term), count(*) - count(email_term)) FROM t"
        ),
        "73 10"
    );
    // The overview has what was counted last.
    assert_eq!(
        c.one("SELECT string_agg(format('%s.%s %s %s %s %s', \"table\", \"column\", kind, bits, key, versions), ', ' ORDER BY kind) FROM search_overview"),
        "t.email equality 256 s 1 ready, t.email text 256 s 1 ready"
    );
    assert!(c.yes("SELECT bool_and(measured_at IS NOT NULL AND rows = 100 AND thief_learns <> '') FROM search_overview"));
    event(
        c,
        "event = 'search_leakage' AND key = 'k' AND detail LIKE 'equality index of email: 100 rows, 10 of them NULL, 73 terms%'",
    );
    c.run("SELECT drop_search_index('t', 'email'), drop_search_index('t', 'email', 'text')");
    wait_for_good_jobs(c);
    assert_eq!(c.number("SELECT count(*) FROM colcrypt.search_measure"), 0);
    assert_eq!(c.number("SELECT count(*) FROM search_leakage('t')"), 0);
}

#[test]
fn it_is_measured_by_who_may_manage_the_column() {
    let mut db = with_search_key();
    people(&mut db.client, 10);
    index(&mut db.client, ", is_unique => true");
    wait_until_seen(&mut db.client);
    let name = role(&mut db.client);
    db.client.run(&format!(
        "GRANT EXECUTE ON FUNCTION search_leakage TO {name}; GRANT pg_monitor TO {name}"
    ));
    let mut user = db.connect_as(&name);
    user.fails("42501", "SELECT * FROM search_leakage('t')");
    assert_eq!(
        user.number("SELECT count(*) FROM search_leakage()"),
        0,
        "others' are left out"
    );
    assert_eq!(
        user.one("SELECT concat_ws(' ', rows, thief_learns) FROM search_overview"),
        "that all values differ, and which are NULL; no value, no order"
    );
    db.client.run(&format!(
        "ALTER TABLE t OWNER TO {name}; SELECT grant_key('k', '{name}', '{{manage}}')"
    ));
    assert_eq!(
        user.one("SELECT DISTINCT concat_ws(' ', rows, distinct_terms, largest_group) FROM search_leakage()"),
        "10 9 1"
    );
}

#[test]
fn look_ups_are_counted_by_role() {
    let mut db = with_search_key();
    people(&mut db.client, 20);
    index(&mut db.client, "");
    wait_until_seen(&mut db.client);
    let name = role(&mut db.client);
    db.client.run(&format!(
        "GRANT ALL ON SCHEMA public TO PUBLIC; SELECT grant_key('s', '{name}', '{{search}}')"
    ));
    let mut user = db.connect_as(&name);
    user.run("SELECT search_term('t', 'email', 'a'::text), search_terms('t', 'email', '{a,b,NULL,c}'::text[])");
    user.run("BEGIN; SELECT search_term('t', 'email', 'd'::text); ROLLBACK");
    assert_eq!(
        db.client.one(&format!(
            "SELECT concat_ws(' ', key, look_ups, day = (now() AT TIME ZONE 'UTC')::date) FROM search_usage WHERE role = '{name}'"
        )),
        "s 5 t"
    );
}

#[test]
fn a_limit_holds_for_all_sessions_of_a_role_and_for_superusers() {
    let mut db = with_search_key();
    people(&mut db.client, 20);
    index(&mut db.client, "");
    wait_until_seen(&mut db.client);
    let (one, other) = (role(&mut db.client), role(&mut db.client));
    db.client.run(&format!(
        "GRANT ALL ON SCHEMA public TO PUBLIC; SELECT grant_key('s', r, '{{search}}') FROM unnest('{{{one},{other}}}'::text[]) r"
    ));
    for bad in [
        "0, '1 hour'",
        "10, '0'",
        "10, '32 days'",
        "10, NULL",
        "NULL, '1 hour'",
        "-1, '1 hour'",
    ] {
        db.client
            .fails("22023", &format!("SELECT set_search_limit('s', {bad})"));
    }
    db.client
        .fails("22023", "SELECT set_search_limit('k', 10, '1 hour')");
    assert_eq!(
        db.client.one("SELECT set_search_limit('s', 10, '1 hour')"),
        "set"
    );
    let ask = "SELECT search_term('t', 'email', 'a'::text)";
    let (mut first, mut second) = (db.connect_as(&one), db.connect_as(&one));
    for _ in 0..3 {
        first.run(ask);
        second.run(ask);
    }
    // Rolled back or not.
    first.run(&format!("BEGIN; {ask}; ROLLBACK"));
    // More at once than are left are none.
    second.fails(
        "KC052",
        "SELECT search_terms('t', 'email', '{a,b,c,d}'::text[])",
    );
    second.run("SELECT search_terms('t', 'email', '{a,b,c}'::text[])");
    let said = second.fails("KC052", ask);
    assert!(
        format!("{said:?}").contains("10 values by it in 01:00:00"),
        "{said:?}"
    );
    first.fails("KC052", ask);
    // A new session has no new start, and other roles have their own.
    db.connect_as(&one).fails("KC052", ask);
    db.connect_as(&other).run(ask);
    event(
        &mut db.client,
        &format!(
            "event = 'search_term' AND outcome = 'denied' AND sqlstate = 'KC052' AND session_role = '{one}' AND key = 's'"
        ),
    );
    // A planned look-up is one, and so is a superuser's.
    let planned = format!("SELECT count(*) FROM t WHERE {OPENED} = 'p1@example.org'");
    for _ in 0..10 {
        db.client.run(ask);
    }
    db.client.fails("KC052", ask);
    db.client.fails("KC052", &planned);
    db.client.run("SET colcrypt.search_rewrite = off");
    assert_eq!(db.client.number(&planned), 1, "a scan is no look-up");
    db.client.run("RESET colcrypt.search_rewrite");
    // Writing is none either.
    db.client.run(&format!(
        "INSERT INTO t VALUES (100, {})",
        sealed("'new@example.org'", "100")
    ));
    // What was done counts under another limit, too; without one, nothing does.
    db.client.run("SELECT set_search_limit('s', 12, '2 hours')");
    first.run(ask);
    first.run(ask);
    first.fails("KC052", ask);
    db.client.run("SELECT set_search_limit('s', NULL, NULL)");
    first.run("SELECT search_term('t', 'email', 'p' || g) FROM generate_series(1, 50) g");
    event(
        &mut db.client,
        "event = 'set_search_limit' AND key = 's' AND detail = '12 look-ups of a role in 02:00:00'",
    );
}

/// Where there is no place to count one more role in, he is told so, and not that he has looked up too often.
#[test]
fn a_role_that_has_no_place_to_be_counted_in_is_told() {
    let cluster = common::settings(Cluster::builder())
        .conf("colcrypt.usage_entries = 16")
        .start();
    let mut client = cluster.create_database("work");
    common::make_key(&cluster, &mut client);
    client
        .run("SET search_path = public, colcrypt; SELECT create_key('s', 'ring', 'hmac-sha-256')");
    people(&mut client, 5);
    index(&mut client, "");
    client.run(
        "SELECT set_search_limit('s', 1000, '1 day'); CREATE ROLE staff; GRANT USAGE ON SCHEMA colcrypt TO staff;
         SELECT grant_key('s', 'staff', '{search}')",
    );
    let refused = (0..500).find_map(|nr| {
        client.run(&format!("CREATE ROLE r{nr} IN ROLE staff; SET ROLE r{nr}"));
        let outcome = client.query(
            "SELECT colcrypt.search_term('public.t', 'email', 'x'::text)",
            &[],
        );
        client.run("RESET ROLE");
        outcome.err()
    });
    let said = refused.expect("places come to an end");
    let said = said.as_db_error().expect("an error of the server's");
    assert_eq!(said.code().code(), "KC041");
    assert!(
        said.hint()
            .is_some_and(|hint| hint.contains("colcrypt.usage_entries"))
    );
    // Without a limit nothing needs a place.
    client.run("SELECT set_search_limit('s', NULL, NULL); CREATE ROLE one_more IN ROLE staff; SET ROLE one_more;
         SELECT colcrypt.search_term('public.t', 'email', 'x'::text)");
}

/// A trap in `t`, and a role that may search and read.
fn trapped(more: &str) -> (Db, String) {
    let mut db = with_search_key();
    people(&mut db.client, 20);
    index(&mut db.client, more);
    wait_until_seen(&mut db.client);
    let name = role(&mut db.client);
    db.client.run(&format!(
        "GRANT ALL ON SCHEMA public TO PUBLIC; GRANT ALL ON t TO PUBLIC; SELECT grant_key('s', '{name}', '{{search}}'), grant_key('k', '{name}', '{{encrypt,decrypt}}');
         SELECT mark_honeytoken(email, 'bait') FROM t WHERE id = 7"
    ));
    (db, name)
}

fn alarms(db: &mut Db, role: &str) -> i64 {
    settle(&mut db.client);
    count(
        &mut db.client,
        &format!("outcome = 'alarm' AND session_role = '{role}'"),
    )
}

#[test]
fn a_look_up_of_a_honeytoken_raises_the_alarm() {
    let (mut db, name) = trapped("");
    let mut user = db.connect_as(&name);
    user.run("SELECT search_term('t', 'email', 'p6@example.org'::text)");
    assert_eq!(alarms(&mut db, &name), 0);
    user.run("SELECT search_term('t', 'email', 'p7@example.org'::text)");
    event(
        &mut db.client,
        &format!(
            "outcome = 'alarm' AND event = 'search_term' AND session_role = '{name}' AND key = 'k' AND detail LIKE 'honeytoken %: bait, looked up by its term in the equality index of %t.email'"
        ),
    );
    assert_eq!(alarms(&mut db, &name), 1);
    user.run("SELECT search_terms('t', 'email', '{p6@example.org,p7@example.org}'::text[])");
    assert_eq!(alarms(&mut db, &name), 2);
    // A condition that the planner serves: whoever finds the row opens it as well.
    let before = count(
        &mut db.client,
        "outcome = 'alarm' AND event = 'search_term'",
    );
    assert_eq!(
        user.number(&format!(
            "SELECT count(*) FROM t WHERE {OPENED} = 'p7@example.org'"
        )),
        1
    );
    settle(&mut db.client);
    assert_eq!(
        count(
            &mut db.client,
            "outcome = 'alarm' AND event = 'search_term'"
        ),
        before + 1
    );
    // Planning alone is none.
    user.run(&format!(
        "EXPLAIN SELECT count(*) FROM t WHERE {OPENED} = 'p7@example.org'"
    ));
    settle(&mut db.client);
    assert_eq!(
        count(
            &mut db.client,
            "outcome = 'alarm' AND event = 'search_term'"
        ),
        before + 1
    );
    // It is about the value: whoever asks for it where it is no more is heard as well.
    db.client.run("DELETE FROM t WHERE id = 7");
    let before = alarms(&mut db, &name);
    user.run("SELECT search_term('t', 'email', 'p7@example.org'::text)");
    assert_eq!(alarms(&mut db, &name), before + 1);
}

#[test]
fn honeytokens_are_known_wherever_their_terms_come_from() {
    let (mut db, name) = trapped("");
    let ask = "SELECT search_term('t', 'email', 'p7@example.org'::text)";
    let mut user = db.connect_as(&name);
    // Its key and the search key are rotated, and the value is another ciphertext.
    db.client.run("SELECT rotate_key('k')");
    wait_for_good_jobs(&mut db.client);
    user.run(ask);
    assert_eq!(alarms(&mut db, &name), 1);
    db.client.run("SELECT rotate_key('s')");
    wait_for_good_jobs(&mut db.client);
    wait_for("the second companion", LONG, || {
        db.client
            .yes("SELECT max(key_version) = 2 FROM colcrypt.search_companion WHERE state = 'ready'")
    });
    user.run(ask);
    assert_eq!(alarms(&mut db, &name), 2);
    // An index that is made later.
    db.client.run("SELECT drop_search_index('t', 'email')");
    wait_for_good_jobs(&mut db.client);
    assert_eq!(
        db.client
            .number("SELECT count(*) FROM colcrypt.search_honeytoken"),
        0
    );
    index(&mut db.client, ", bits => 32");
    wait_until_seen(&mut db.client);
    user.run(ask);
    event(
        &mut db.client,
        "outcome = 'alarm' AND detail LIKE '%, or of another value with the same 32 bits'",
    );
    assert_eq!(alarms(&mut db, &name), 3);
    // One that is marked before it is stored.
    db.client.run(&format!(
        "CREATE TEMP TABLE trap AS SELECT {} AS v; SELECT mark_honeytoken(v) FROM trap; INSERT INTO t SELECT 50, v FROM trap",
        sealed("'trap@example.org'", "50")
    ));
    user.run("SELECT search_term('t', 'email', 'trap@example.org'::text)");
    assert_eq!(alarms(&mut db, &name), 4);
    // A mark that is taken away.
    db.client
        .run("SELECT unmark_honeytoken(email) FROM t WHERE id IN (7, 50)");
    assert_eq!(
        db.client
            .number("SELECT count(*) FROM colcrypt.search_honeytoken"),
        0
    );
    user.run(ask);
    assert_eq!(alarms(&mut db, &name), 4);
}
