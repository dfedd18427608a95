//! What values are bound to does not change in silence: by whatever statement, on whatever table.

use postgres::Client;

use crate::common::{Sql, db, wait_for_jobs};

/// A table whose values are bound to two columns, one of which refers to another table.
const HOUSES: &str = "CREATE TABLE house (nr int PRIMARY KEY);
    INSERT INTO house SELECT g FROM generate_series(1, 20) g;
    CREATE TABLE flat (id int PRIMARY KEY, house int DEFAULT 20, note text, v ciphertext, w ciphertext);
    SELECT register_column('flat', 'v', 'k', 'colcrypt.row_context(id, house)'), register_column('flat', 'w', 'k', 'none');
    INSERT INTO flat SELECT g, g, 'n' || g, encrypt_col('v' || g, 'k', row_context(g, g)), encrypt_col('w' || g, 'k') FROM generate_series(1, 12) g";

fn reads(client: &mut Client) -> bool {
    client.yes("SELECT bool_and(decrypt_col(v, row_context(id, house)) LIKE 'v%' AND decrypt_col(w) LIKE 'w%') FROM flat")
}

#[test]
fn what_values_are_bound_to_does_not_change_in_silence() {
    let mut db = db();
    let client = &mut db.client;
    client.run(HOUSES);
    client.run("CREATE FUNCTION renumber() RETURNS void LANGUAGE plpgsql AS 'BEGIN UPDATE flat SET id = id + 200 WHERE id = 1; END'");
    client.run("SELECT register_column('flat', 'w', 'k', 'none')");
    for statement in [
        "UPDATE flat SET id = id + 100",
        "UPDATE flat SET house = NULL WHERE id = 3",
        "UPDATE flat SET (note, house) = (SELECT 'x', 7) WHERE id = 4",
        "WITH moved AS (UPDATE flat SET id = 99 WHERE id = 5 RETURNING 1) SELECT * FROM moved",
        "WITH moved AS (UPDATE flat SET id = 99 WHERE id = 5 RETURNING 1) INSERT INTO house SELECT 900 FROM moved",
        "WITH moved AS (UPDATE flat SET id = 99 WHERE id = 5) DELETE FROM flat WHERE id = 12",
        "INSERT INTO flat (id, house) VALUES (6, 6) ON CONFLICT (id) DO UPDATE SET house = 19",
        "MERGE INTO flat USING (VALUES (7)) AS n (id) ON flat.id = n.id WHEN MATCHED THEN UPDATE SET house = 18",
        "UPDATE flat SET v = v, house = 1 WHERE id = 8",
        "SELECT renumber()",
        "PREPARE p AS UPDATE flat SET house = $1 WHERE id = 9; EXECUTE p (1)",
        "EXPLAIN (ANALYZE) UPDATE flat SET house = 1 WHERE id = 9",
    ] {
        client.run("BEGIN");
        let problem = client.fails("KC065", statement);
        assert!(problem.message.contains("public.flat.v"), "{problem:?}");
        client.run("ROLLBACK");
    }
    assert!(reads(client));
    // What changes nothing of it, or brings a value that fits, is nobody's business.
    for statement in [
        "UPDATE flat SET id = id, house = house",
        "UPDATE flat SET note = 'y', w = encrypt_col('w', 'k')",
        "UPDATE flat SET house = 9, v = encrypt_col('v', 'k', row_context(id, 9)) WHERE id = 2",
        "UPDATE flat SET v = NULL, house = 1 WHERE id = 10; DELETE FROM flat WHERE id = 10",
        "EXPLAIN UPDATE flat SET house = 1",
        "INSERT INTO flat (id, house) VALUES (11, 1) ON CONFLICT (id) DO UPDATE SET note = 'again'",
        "BEGIN; UPDATE flat SET v = NULL; UPDATE flat SET house = 3; ROLLBACK",
    ] {
        client.run(statement);
    }
    assert!(reads(client));
    // The type of a column that values are bound to is nobody's business either.
    client.run("ALTER TABLE flat ALTER id TYPE bigint");
    client.fails("KC065", "UPDATE flat SET id = 77 WHERE id = 1");
    // Where rows are applied as they are elsewhere, they are.
    client.run("SET session_replication_role = replica; UPDATE flat SET house = 5 WHERE id = 12; RESET session_replication_role");
}

/// By a foreign key, in whatever way it changes the referring row, and in a session that did so before.
#[test]
fn a_foreign_key_does_not_change_it_in_silence() {
    for action in ["CASCADE", "SET NULL", "SET DEFAULT"] {
        let mut db = db();
        let client = &mut db.client;
        client.run(HOUSES);
        client.run(&format!(
            "ALTER TABLE flat ADD FOREIGN KEY (house) REFERENCES house ON UPDATE {action} ON DELETE {}",
            if action == "CASCADE" { "SET NULL" } else { action }
        ));
        // A plan of the server's own for it, from before.
        client.run("SELECT unregister_column('flat', 'v'); BEGIN; UPDATE house SET nr = 50 WHERE nr = 1; ROLLBACK");
        client.run("SELECT register_column('flat', 'v', 'k', 'colcrypt.row_context(id, house)')");
        client.fails("KC065", "UPDATE house SET nr = nr + 100 WHERE nr < 20");
        client.fails("KC065", "DELETE FROM house WHERE nr = 2");
        assert!(reads(client));
        client.run("UPDATE house SET nr = 21 WHERE nr = 20; DELETE FROM house WHERE nr = 21");
    }
}

/// Partitions and children, whichever of them is named, rows that move among them, and triggers that are there.
#[test]
fn partitions_children_and_triggers() {
    let mut db = db();
    let client = &mut db.client;
    client.run(
        "CREATE TABLE p (id int, region text, v ciphertext) PARTITION BY LIST (region);
         CREATE TABLE p_eu (extra int, v ciphertext, region text, id int); ALTER TABLE p_eu DROP COLUMN extra;
         ALTER TABLE p ATTACH PARTITION p_eu FOR VALUES IN ('eu'); CREATE TABLE p_us PARTITION OF p FOR VALUES IN ('us');
         SELECT register_column('p', 'v', 'k', 'colcrypt.row_context(id, region)');
         INSERT INTO p SELECT g, 'eu', encrypt_col('v' || g, 'k', row_context(g, 'eu'::text)) FROM generate_series(1, 10) g",
    );
    for statement in [
        "UPDATE p SET region = 'us' WHERE id = 1",
        "UPDATE p_eu SET id = 50 WHERE id = 1",
        "UPDATE p SET id = id + 1 WHERE region = 'eu'",
    ] {
        client.fails("KC065", statement);
    }
    // A partition that rows are led to is opened too late to look at them.
    client.run("CREATE UNIQUE INDEX ON p (id, region)");
    client.fails("KC065", "INSERT INTO p (id, region) VALUES (3, 'eu') ON CONFLICT (id, region) DO UPDATE SET id = 33");
    client.run("INSERT INTO p (id, region) VALUES (3, 'eu') ON CONFLICT (id, region) DO UPDATE SET v = EXCLUDED.v");
    client.run("UPDATE p SET v = encrypt_col('v3', 'k', row_context(3, 'eu'::text)) WHERE id = 3");
    client.run(
        "UPDATE p SET region = 'us', v = encrypt_col('v1', 'k', row_context(id, 'us'::text)) WHERE id = 1;
         CREATE TABLE up (id int, v ciphertext, note text); SELECT register_column('up', 'v', 'k', 'colcrypt.row_context(id)');
         CREATE TABLE down () INHERITS (up);
         INSERT INTO down SELECT g, encrypt_col('d' || g, 'k', row_context(g)), 'n' FROM generate_series(1, 5) g;
         CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.note := upper(NEW.note); RETURN NEW; END';
         CREATE TRIGGER a BEFORE UPDATE ON down FOR EACH ROW EXECUTE FUNCTION shout();
         CREATE TRIGGER z BEFORE UPDATE ON down FOR EACH ROW WHEN (NEW.id > 0) EXECUTE FUNCTION shout();
         UPDATE up SET note = 'loud' WHERE id = 1",
    );
    client.fails("KC065", "UPDATE up SET id = 9 WHERE id = 1");
    client.fails("KC065", "UPDATE down SET id = 9 WHERE id = 1");
    client.run("ALTER TABLE down NO INHERIT up; UPDATE down SET id = 9 WHERE id = 2");
    assert_eq!(
        client.one("SELECT note || decrypt_col(v, row_context(id)) FROM down WHERE id = 1"),
        "LOUDd1"
    );
    assert!(
        client.yes("SELECT bool_and(decrypt_col(v, row_context(id, region)) = 'v' || id) FROM p")
    );
    // Jobs are not held up by it.
    client.run("SELECT rotate_key('k')");
    wait_for_jobs(client);
    assert!(client.yes("SELECT bool_and((ciphertext_info(v)).version = 2) FROM p"));
}
