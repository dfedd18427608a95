//! Columns whose values follow what they are bound to (`follow_context`): a change of it on the table itself, by hand
//! or by a foreign key, binds them anew with the right of who made it, or is refused.

use colcrypt_tests::of_columns::said;
use postgres::Client;

use crate::common::{ACTS, Db, Sql, cluster, db, role};

/// Houses and their flats, whose owner has no right on the key; values are bound to house and flat.
struct Street {
    db: Db,
    owner: String,
    /// May encrypt and decrypt.
    alice: Client,
    /// May encrypt.
    bob: Client,
    names: [String; 2],
}

const READ: &str = "SELECT string_agg(id || ':' || coalesce(house::text, '-') || ':' || decrypt_col(v, NULL::text, row_context(house, id)), ' ' ORDER BY id) FROM flat";

fn street(context: &str) -> Street {
    let mut db = db();
    let [owner, alice, bob] = [0; 3].map(|_| role(&mut db.client));
    db.client.run(&format!(
        "CREATE TABLE house (id int PRIMARY KEY, street text);
         CREATE TABLE flat (id int PRIMARY KEY, house int REFERENCES house ON UPDATE CASCADE ON DELETE SET NULL, note text, v ciphertext);
         ALTER TABLE flat OWNER TO {owner};
         GRANT ALL ON SCHEMA public TO PUBLIC; GRANT ALL ON house, flat TO PUBLIC;
         SELECT grant_key('k', '{alice}', '{{encrypt,decrypt}}'), grant_key('k', '{bob}', '{{encrypt}}');
         INSERT INTO house VALUES (1), (2), (3);
         SELECT register_column('flat', 'v', 'k', '{context}'), follow_context('flat', 'v');
         INSERT INTO flat SELECT g, g % 2 + 1, 'note', encrypt_col('of ' || g, 'k', row_context(g % 2 + 1, g)) FROM generate_series(1, 3) g"
    ));
    let (alice_at, bob_at) = (db.connect_as(&alice), db.connect_as(&bob));
    Street {
        db,
        owner,
        alice: alice_at,
        bob: bob_at,
        names: [alice, bob],
    }
}

const CONTEXT: &str = "colcrypt.row_context(house, id)";

#[test]
fn a_value_follows_by_who_may_read_it_and_by_nobody_else() {
    let mut it = street(CONTEXT);
    let changes = [
        "UPDATE flat SET id = id + 10",
        "UPDATE flat SET house = 3 WHERE id = 12",
        "UPDATE flat SET house = NULL, note = 'x' WHERE id = 11",
        "INSERT INTO flat VALUES (13, 1) ON CONFLICT (id) DO UPDATE SET id = 23",
        "DO $$ BEGIN UPDATE flat SET house = 1 WHERE id = 11; END $$",
    ];
    for change in changes {
        let refused = it.bob.fails("KC065", change);
        assert!(
            refused.detail.contains(&format!(
                "role \"{}\" may not decrypt with key \"k\"",
                it.names[1]
            )),
            "{refused:?}"
        );
        it.alice.run(change);
    }
    assert_eq!(it.alice.one(READ), "11:1:of 1 12:3:of 2 23:2:of 3");
    let merge = "MERGE INTO flat f USING (VALUES (12, 2)) AS s(id, house) ON f.id = s.id WHEN MATCHED THEN UPDATE SET house = s.house";
    it.bob.fails("KC065", merge);
    it.alice.run(merge);
    assert_eq!(it.alice.one(READ), "11:1:of 1 12:2:of 2 23:2:of 3");
    // What nothing is bound to changes as ever, and a value that comes with its row is taken as it comes.
    it.bob.run("UPDATE flat SET note = 'y'");
    it.bob.run(
        "UPDATE flat SET id = 24, v = encrypt_col('new', 'k', row_context(house, 24)) WHERE id = 23",
    );
    it.bob.run(
        "CREATE TEMP TABLE c AS SELECT 31 AS id, 3 AS house, NULL::text AS note, encrypt_col('copied', 'k', row_context(3, 31)) AS v",
    );
    let text = it.bob.one("SELECT v::text FROM c");
    let mut copy = it.bob.copy_in("COPY flat FROM STDIN").expect("COPY");
    std::io::Write::write_all(
        &mut copy,
        format!("31\t3\t\\N\t{}\n", text.replace('\\', "\\\\")).as_bytes(),
    )
    .expect("a row");
    assert_eq!(copy.finish().expect("COPY"), 1);
    assert_eq!(
        it.alice.one(READ),
        "11:1:of 1 12:2:of 2 24:2:new 31:3:copied"
    );
    // A superuser, and back: then nobody changes it and leaves the value.
    it.db.client.run("UPDATE flat SET house = 3 WHERE id = 11");
    it.db
        .client
        .run("SELECT follow_context('flat', 'v', false)");
    for who in [&mut it.bob, &mut it.alice, &mut it.db.client] {
        who.fails("KC065", "UPDATE flat SET house = 2 WHERE id = 11")
            .says("come loose");
    }
    it.alice.one(READ);
}

#[test]
fn a_cascade_takes_the_right_of_who_changed_the_row_referred_to() {
    let mut it = street(CONTEXT);
    for change in [
        "UPDATE house SET id = 7 WHERE id = 1",
        "DELETE FROM house WHERE id = 2",
    ] {
        let refused = it.bob.fails("KC065", change);
        assert!(refused.detail.contains("may not decrypt"), "{refused:?}");
        let mut owner = it.db.connect_as(&it.owner);
        owner.fails("KC065", change);
        it.alice.run(change);
    }
    assert_eq!(it.alice.one(READ), "1:-:of 1 2:7:of 2 3:-:of 3");
    // On record as hers, though the rows were changed as their owner.
    let recorded = format!(
        "SELECT count(*) FROM {ACTS} WHERE event = 'follow_context' AND current_role_name = '{0}' AND session_role = '{0}' \
         AND key_name = 'k' AND detail = 'a value of public.flat.v is bound anew, since house changed'",
        it.names[0]
    );
    assert_eq!(it.db.client.number(&recorded), 3);
}

#[test]
fn a_cascade_through_partitions_goes_the_same_way() {
    let mut it = street(CONTEXT);
    it.db.client.run(&format!(
        "CREATE TABLE room (id int, house int REFERENCES house ON UPDATE CASCADE, v ciphertext) PARTITION BY RANGE (id);
         CREATE TABLE room_1 PARTITION OF room FOR VALUES FROM (0) TO (10);
         ALTER TABLE room OWNER TO {0}; ALTER TABLE room_1 OWNER TO {0};
         GRANT ALL ON room, room_1 TO PUBLIC;
         SELECT register_column('room', 'v', 'k', 'colcrypt.row_context(house)'), follow_context('room', 'v');
         INSERT INTO house VALUES (9);
         INSERT INTO room VALUES (1, 9, encrypt_col('in a part', 'k', row_context(9)))",
        it.owner
    ));
    it.bob
        .fails("KC065", "UPDATE house SET id = 8 WHERE id = 9");
    it.alice.run("UPDATE house SET id = 8 WHERE id = 9");
    assert_eq!(
        it.alice
            .one("SELECT decrypt_col(v, NULL::text, row_context(house)) FROM room"),
        "in a part"
    );
}

#[test]
fn a_cascade_of_a_cascade_and_a_function_of_whoever_may_go_the_same_way() {
    let mut it = street(CONTEXT);
    it.db.client.run(&format!(
        "CREATE TABLE wing (house int PRIMARY KEY REFERENCES house ON UPDATE CASCADE);
         CREATE TABLE door (house int REFERENCES wing ON UPDATE CASCADE, v ciphertext);
         ALTER TABLE door OWNER TO {}; ALTER TABLE wing OWNER TO {0}; GRANT ALL ON wing, door TO PUBLIC;
         SELECT register_column('door', 'v', 'k', 'colcrypt.row_context(house)'), follow_context('door', 'v');
         INSERT INTO house VALUES (8); INSERT INTO wing VALUES (8);
         INSERT INTO door VALUES (8, encrypt_col('a door', 'k', row_context(8)))",
        it.owner
    ));
    let read = "SELECT house || decrypt_col(v, NULL::text, row_context(house)) FROM door";
    it.bob
        .fails("KC065", "UPDATE house SET id = 9 WHERE id = 8");
    it.alice.run("UPDATE house SET id = 9 WHERE id = 8");
    assert_eq!(it.alice.one(read), "9a door");
    // What she lets others do in her name.
    it.alice.run(
        "CREATE FUNCTION public.renumber(a int, b int) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
             AS 'BEGIN UPDATE public.house SET id = b WHERE id = a; END'",
    );
    it.bob.run("SELECT public.renumber(9, 10)");
    assert_eq!(it.alice.one(read), "10a door");
    // Not so the other way round: it is his statement then, whoever calls it.
    it.bob.run(
        "CREATE FUNCTION public.his(a int, b int) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
             AS 'BEGIN UPDATE public.house SET id = b WHERE id = a; END'",
    );
    it.alice.fails("KC065", "SELECT public.his(10, 11)");
    // A role that is taken on is the one that counts.
    let names = it.names.clone();
    it.db.client.fails(
        "KC065",
        &format!(
            "SET ROLE {}; UPDATE house SET id = 11 WHERE id = 10",
            names[1]
        ),
    );
    it.db.client.run(&format!(
        "SET ROLE {}; UPDATE house SET id = 11 WHERE id = 10; RESET ROLE",
        names[0]
    ));
    assert_eq!(it.alice.one(read), "11a door");
}

/// A value that opens for nobody does not keep its row from changing; one that is damaged is told.
#[test]
fn what_is_lost_stays_lost() {
    let mut it = street(CONTEXT);
    it.db.client.run(
        "SELECT create_key('gone', 'ring'); CREATE TABLE old (id int PRIMARY KEY, v ciphertext);
         SELECT register_column('old', 'v', 'gone', 'colcrypt.row_context(id)'), follow_context('old', 'v');
         INSERT INTO old VALUES (1, encrypt_col('gone', 'gone', row_context(1))), (2, encrypt_col('elsewhere', 'gone', row_context(3)))",
    );
    it.db
        .client
        .fails("KC003", "UPDATE old SET id = 12 WHERE id = 2");
    it.db.client.run("UPDATE old SET id = 3 WHERE id = 2");
    assert_eq!(
        it.db
            .client
            .one("SELECT decrypt_col(v, NULL::text, row_context(3)) FROM old WHERE id = 3"),
        "elsewhere"
    );
    it.db
        .client
        .run("SELECT deactivate_key('gone', 1, 'test'), schedule_key_destruction('gone', 1, '1 second', 'test', rows => 'shred')");
    colcrypt_tests::wait_for(
        "the key to be destroyed",
        std::time::Duration::from_secs(60),
        || {
            it.db
                .client
                .one("SELECT state FROM key_status WHERE key = 'gone'")
                == "destroyed"
        },
    );
    it.db.client.run("UPDATE old SET id = 11 WHERE id = 1");
}

/// Where the owner's code could say where a value goes, only what the owner may do himself is done.
#[test]
fn nobody_elses_code_has_the_power_of_who_changes_the_row_referred_to() {
    let mut it = street(CONTEXT);
    let change = "UPDATE house SET id = 7 WHERE id = 1";
    let mut owner = it.db.connect_as(&it.owner);

    // A trigger of the owner's that sends it elsewhere.
    owner.run(
        "CREATE FUNCTION public.elsewhere() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.house := 3; RETURN NEW; END';
         CREATE TRIGGER elsewhere BEFORE UPDATE ON flat FOR EACH ROW EXECUTE FUNCTION public.elsewhere()",
    );
    let refused = it.alice.fails("KC065", change);
    assert!(
        refused
            .detail
            .contains("trigger elsewhere of the table may change it further"),
        "{refused:?}"
    );
    owner.run("DROP TRIGGER elsewhere ON flat");

    // One that moves another value in the midst of it, and a rule that makes another statement of the cascade.
    owner.run(
        "CREATE TABLE other (id int PRIMARY KEY, house int, v ciphertext); GRANT ALL ON other TO PUBLIC",
    );
    it.db.client.run(
        "SELECT register_column('other', 'v', 'k', 'colcrypt.row_context(house)'), follow_context('other', 'v');
         INSERT INTO other VALUES (1, 1, encrypt_col('of another', 'k', row_context(1)))",
    );
    let stays = |it: &mut Street| {
        let refused = it.alice.fails("KC065", change);
        assert!(
            refused
                .detail
                .contains(&format!("role \"{}\" may not decrypt", it.owner)),
            "{refused:?}"
        );
    };
    owner.run(
        "CREATE FUNCTION public.besides() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN UPDATE public.other SET house = 3; RETURN NEW; END';
         CREATE TRIGGER besides BEFORE UPDATE ON flat FOR EACH STATEMENT EXECUTE FUNCTION public.besides()",
    );
    stays(&mut it);
    owner.run(
        "DROP TRIGGER besides ON flat;
         CREATE RULE instead AS ON UPDATE TO flat DO INSTEAD UPDATE other SET house = 3",
    );
    stays(&mut it);
    owner.run("DROP RULE instead ON flat");

    // A function that runs as its owner is the owner's statement, whoever calls it.
    it.db
        .client
        .run(&format!("GRANT ALL ON house TO {}", it.owner));
    owner.run(&format!(
        "CREATE FUNCTION public.change() RETURNS void LANGUAGE sql SECURITY DEFINER AS '{change}'; GRANT ALL ON FUNCTION public.change() TO PUBLIC"
    ));
    let refused = it.alice.fails("KC065", "SELECT public.change()");
    assert!(
        refused
            .detail
            .contains(&format!("role \"{}\" may not decrypt", it.owner)),
        "{refused:?}"
    );
    it.alice.run(change);
    assert_eq!(it.alice.one(READ), "1:2:of 1 2:7:of 2 3:2:of 3");
}

#[test]
fn a_context_of_the_owners_is_computed_without_any_right() {
    let mut it = street(CONTEXT);
    let mut owner = it.db.connect_as(&it.owner);
    owner.run(
        "CREATE FUNCTION public.place(house int, id int) RETURNS bytea IMMUTABLE LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM colcrypt.decrypt_col(v, NULL::text, colcrypt.row_context(1, 2)) FROM public.flat WHERE flat.id = 2;
                RETURN colcrypt.row_context(house, id);
            END $$",
    );
    it.db.client.run(
        "UPDATE colcrypt.protected_column SET context = 'public.place(house, id)' WHERE relation = 'flat'::regclass",
    );
    // The function is called as the owner, who may not, whoever writes.
    it.alice
        .fails("42501", "UPDATE flat SET house = 3 WHERE id = 2");
    it.db.client.run(
        "CREATE OR REPLACE FUNCTION public.place(house int, id int) RETURNS bytea IMMUTABLE LANGUAGE sql AS 'SELECT colcrypt.row_context(house, id)'",
    );
    it.alice.run("UPDATE flat SET house = 3 WHERE id = 2");
    assert_eq!(it.alice.one(READ), "1:2:of 1 2:3:of 2 3:2:of 3");
    // In a cascade it would say where a value goes with a right of another's.
    let refused = it
        .alice
        .fails("KC065", "UPDATE house SET id = 7 WHERE id = 3");
    assert!(
        refused
            .detail
            .contains("an expression of the table's owner"),
        "{refused:?}"
    );
}

#[test]
fn registration_and_plan_name_the_foreign_keys() {
    let mut it = street(CONTEXT);
    let register =
        "SELECT colcrypt.register_column('flat', 'v', 'k', 'colcrypt.row_context(house, id)')";
    assert_eq!(said(cluster(), &it.db.name, register), "");
    it.db
        .client
        .run("SELECT follow_context('flat', 'v', false)");
    let warned = said(cluster(), &it.db.name, register);
    assert!(
        warned.contains("foreign key flat_house_fkey changes house by itself"),
        "{warned}"
    );
    it.db.client.run("SELECT unregister_column('flat', 'v')");
    let plan = it.db.client.rows(
        "SELECT object || ' ' || becomes FROM encrypt_column('flat', 'note', 'k', 'colcrypt.row_context(house, id)', dry_run => true)",
    );
    assert!(
        plan.iter()
            .flatten()
            .flatten()
            .any(|line| line.starts_with("foreign key flat_house_fkey changes house by itself")),
        "{plan:?}"
    );
    it.db.client.fails(
        "42809",
        "SELECT register_column('flat', 'v', 'k', 'none'), follow_context('flat', 'v')",
    );
    it.db.client.run(
        "ALTER TABLE flat ADD twice int GENERATED ALWAYS AS (house * 2) STORED;
         SELECT register_column('flat', 'v', 'k', 'colcrypt.row_context(twice)')",
    );
    let refused = it
        .db
        .client
        .fails("42809", "SELECT follow_context('flat', 'v')");
    assert!(
        refused.message.contains("a generated column"),
        "{refused:?}"
    );
}

/// As where the column is registered, so where a foreign key comes later: by whatever statement, and for a partition of
/// the table that is registered.
#[test]
fn foreign_keys_that_come_later_are_told() {
    let mut db = db();
    db.client.run(
        "CREATE TABLE house (id int PRIMARY KEY, street text UNIQUE);
         CREATE TABLE flat (id int, house int, part int, v ciphertext, free int) PARTITION BY LIST (part);
         CREATE TABLE flat_1 PARTITION OF flat FOR VALUES IN (1);
         CREATE TABLE plain (id int, house int, v ciphertext, w ciphertext);
         SELECT register_column('flat', 'v', 'k', 'colcrypt.row_context(house, id)'),
             register_column('plain', 'v', 'k', 'colcrypt.row_context(house)'), register_column('plain', 'w', 'k', 'colcrypt.row_context(id)')",
    );
    let says = |sql: &str| said(cluster(), &db.name, sql);
    for (statement, named) in [
        (
            "ALTER TABLE plain ADD FOREIGN KEY (house) REFERENCES house ON UPDATE CASCADE",
            Some(
                "foreign key plain_house_fkey changes house by itself, which values of column v are bound to",
            ),
        ),
        (
            "ALTER TABLE plain ADD CONSTRAINT late FOREIGN KEY (house) REFERENCES house ON UPDATE SET DEFAULT NOT VALID",
            Some("foreign key late changes house by itself, which values of column v are bound to"),
        ),
        (
            "ALTER TABLE plain ADD CONSTRAINT nulls FOREIGN KEY (id) REFERENCES house ON UPDATE SET NULL",
            Some("foreign key nulls changes id by itself, which values of column w are bound to"),
        ),
        (
            "ALTER TABLE plain ADD CONSTRAINT gone FOREIGN KEY (id) REFERENCES house ON DELETE SET NULL",
            Some("foreign key gone changes id by itself, which values of column w are bound to"),
        ),
        (
            "ALTER TABLE flat ADD CONSTRAINT rooted FOREIGN KEY (house) REFERENCES house ON UPDATE CASCADE",
            Some(
                "foreign key rooted changes house by itself, which values of column v are bound to",
            ),
        ),
        (
            "CREATE TABLE flat_2 PARTITION OF flat (CONSTRAINT of_part FOREIGN KEY (id) REFERENCES house ON UPDATE CASCADE) FOR VALUES IN (2)",
            Some("foreign key of_part changes id by itself, which values of column v are bound to"),
        ),
        (
            "DO $$ BEGIN EXECUTE 'ALTER TABLE flat_1 ADD CONSTRAINT nested FOREIGN KEY (id) REFERENCES house ON UPDATE CASCADE'; END $$",
            Some("foreign key nested changes id by itself, which values of column v are bound to"),
        ),
        // What changes nothing by itself, or nothing that a value is bound to.
        (
            "ALTER TABLE plain ADD FOREIGN KEY (id) REFERENCES house ON DELETE CASCADE",
            None,
        ),
        (
            "ALTER TABLE flat ADD FOREIGN KEY (free) REFERENCES house ON UPDATE CASCADE",
            None,
        ),
        (
            "ALTER TABLE plain ADD CHECK (house > 0), ADD UNIQUE (id)",
            None,
        ),
        (
            "CREATE TABLE other (house int REFERENCES house ON UPDATE CASCADE)",
            None,
        ),
    ] {
        let said = says(statement);
        match named {
            Some(named) => {
                assert!(said.contains(named), "{statement}: {said}");
                assert_eq!(said.matches("by itself").count(), 1, "{statement}: {said}");
            }
            None => assert!(!said.contains("by itself"), "{statement}: {said}"),
        }
    }
    // Where a change is followed or refused, there is nothing to say.
    db.client.run(
        "ALTER TABLE plain DROP CONSTRAINT plain_house_fkey, DROP CONSTRAINT nulls;
         SELECT follow_context('plain', 'v'), register_column('plain', 'w', 'k', 'colcrypt.row_context(id)', enforce => true)",
    );
    let said = said(
        cluster(),
        &db.name,
        "ALTER TABLE plain ADD FOREIGN KEY (house) REFERENCES house ON UPDATE CASCADE, ADD FOREIGN KEY (id) REFERENCES house ON UPDATE CASCADE",
    );
    assert!(!said.contains("by itself"), "{said}");
}
