//! Kind 2, the workers: a table is swapped while a job or a destruction waits for it, in each phase that goes to the
//! table. Nobody's code runs with others' rights, the server does not crash, and the work comes to an end or says why
//! it does not.

use colcrypt_tests::wait_for;
use postgres::Client;

use crate::common::{LONG, Sql, cluster, wait_for_jobs};
use crate::held::{Scene, scene};
use crate::swapped::{BECOMES_A_VIEW, TABLE, VIEW, about, can_become_a_view};

/// Orders, and whether they migrate a column in place.
const REENCRYPT: &str = "SELECT reencrypt_column('SCHEMA.t', 'c')";
const MOVE: &str = "SELECT move_column('SCHEMA.t', 'c', 'k', accept_unplaced => true)";
const REBIND: &str = "SELECT rebind_column('SCHEMA.t', 'c', accept_unplaced => true)";
const ENCRYPT: &str =
    "SELECT * FROM encrypt_column('SCHEMA.t', 'p', 'ka', 'public.slow(id)', access_view => false)";
const DECRYPT: &str = "SELECT * FROM decrypt_column('SCHEMA.t', 'c', accept_unplaced => true)";

/// The schema is renamed, and a view of mallory's has the table's name; the table is there, and the work is done on it.
const RENAME: &str = "SET SESSION AUTHORIZATION MALLORY;
     ALTER schema SCHEMA RENAME TO SCHEMA_old; CREATE schema SCHEMA;
     CREATE VIEW SCHEMA.t AS SELECT 1::bigint AS id, SCHEMA_old.evil2() AS c, 'x'::text AS p, SCHEMA_old.evil2() AS p_encrypted";

fn swaps() -> Vec<&'static str> {
    let mut swaps = vec![VIEW, TABLE];
    if can_become_a_view() {
        swaps.push(BECOMES_A_VIEW);
    }
    swaps
}

/// A table of twenty rows, and a context that takes its time.
fn big_scene() -> Scene {
    let mut scene = scene();
    let sql = about(
        &scene,
        "CREATE FUNCTION public.slow(id bigint) RETURNS bytea LANGUAGE plpgsql STABLE AS
             $$ BEGIN PERFORM pg_sleep(0.05); RETURN colcrypt.row_context(id); END $$;
         INSERT INTO SCHEMA.t SELECT g, encrypt_col('x', 'ka', row_context(g)) FROM generate_series(6::bigint, 20) g;
         UPDATE SCHEMA.t SET p = 'x', c = encrypt_col('x', 'ka', row_context(id));
         SELECT register_column('SCHEMA.t', 'c', 'ka', 'public.slow(id)')",
    );
    scene.db.client.run(&sql);
    scene
}

/// A transaction that began before what comes, without a lock.
fn bystander(scene: &Scene) -> Client {
    let mut client = scene.db.connect();
    client.run("BEGIN; SELECT 1");
    client
}

fn wait_for_phase(scene: &mut Scene, phase: &str) {
    wait_for(phase, LONG, || {
        scene.db.client.yes(&format!(
            "SELECT phase = '{phase}' FROM job_progress ORDER BY job_id DESC LIMIT 1"
        ))
    });
}

impl Scene {
    /// Swaps the table once a worker waits for it; the holder has locked it.
    fn swap_when_wanted(&mut self, mut holder: Client, what: &str, swap: &str) {
        let crashes = cluster().crashes();
        let schema = self.schema.clone();
        wait_for(&format!("a worker to wait: {what}"), LONG, || {
            // Not in the holder's transaction, which would see the same processes all the time.
            self.db.client.yes(&format!(
                "SELECT EXISTS (SELECT FROM pg_locks JOIN pg_stat_activity USING (pid)
                     WHERE relation = '{schema}.t'::regclass AND NOT granted AND backend_type LIKE 'colcrypt%')"
            ))
        });
        holder.run(&about(self, swap));
        holder.run("COMMIT");
        wait_for("an end, or a reason", LONG, || {
            self.db.client.yes(
                "SELECT NOT EXISTS (SELECT FROM job_progress WHERE finished_at IS NULL AND last_error IS NULL)
                    AND NOT EXISTS (SELECT FROM colcrypt.key_version v LEFT JOIN colcrypt.destruction USING (key_id, version)
                                    WHERE state = 'destruction-scheduled' AND last_error IS NULL)",
            )
        });
        assert_eq!(cluster().crashes(), crashes, "{what}: the server crashed");
        self.nobody_ran_it(what);
        if swap == RENAME {
            wait_for_jobs(&mut self.db.client);
            self.nobody_ran_it(what);
            assert_eq!(
                self.db.client.one("SELECT string_agg(DISTINCT concat_ws(' ', phase, last_error), '; ') FROM job_progress"),
                "done",
                "{what}"
            );
        }
    }

    fn locked(&self, mode: &str) -> Client {
        let mut holder = self.db.connect();
        holder.run(&about(
            self,
            &format!("BEGIN; LOCK TABLE SCHEMA.t IN {mode} MODE"),
        ));
        holder
    }
}

#[test]
fn while_the_destroyer_looks_for_rows() {
    for swap in swaps() {
        let mut scene = scene();
        let mut bystander = bystander(&scene);
        scene
            .db
            .client
            .run("SELECT schedule_key_destruction('ka', 1, interval '1 second', 'test')");
        // Who begins after that is not waited for.
        wait_for("it to be due", LONG, || {
            scene.db.client.yes(
                "SELECT count(*) = 1 FROM colcrypt.destruction WHERE settle_transactions IS NOT NULL",
            )
        });
        let holder = scene.locked("ACCESS EXCLUSIVE");
        bystander.run("COMMIT");
        scene.swap_when_wanted(holder, "the destroyer", swap);
    }
}

#[test]
fn while_a_job_begins() {
    for (order, swaps) in [
        (REENCRYPT, [VIEW].as_slice()),
        (MOVE, &[TABLE]),
        (REBIND, &[TABLE]),
        (DECRYPT, &[VIEW]),
        (ENCRYPT, &[TABLE]),
    ] {
        for swap in swaps {
            let mut scene = big_scene();
            let order_paused =
                format!("BEGIN; {order}; SELECT pause_job(max(job_id)) FROM job_progress; COMMIT");
            let order_paused = about(&scene, &order_paused);
            scene.db.client.run(&order_paused);
            let holder = scene.locked("ACCESS EXCLUSIVE");
            scene
                .db
                .client
                .run("SELECT resume_job(max(job_id)) FROM job_progress");
            scene.swap_when_wanted(holder, order, swap);
        }
    }
}

/// The lock lets whoever looks how large the table is pass, and nobody who writes.
#[test]
fn while_a_job_moves() {
    let mut cases = vec![
        (REENCRYPT, VIEW),
        (MOVE, RENAME),
        (MOVE, TABLE),
        (REBIND, RENAME),
    ];
    if can_become_a_view() {
        cases.push((REENCRYPT, BECOMES_A_VIEW));
    }
    for (order, swap) in cases {
        let mut scene = big_scene();
        let holder = scene.locked("SHARE");
        let sql = about(&scene, order);
        scene.db.client.run(&sql);
        wait_for_phase(&mut scene, "moving");
        scene.swap_when_wanted(holder, order, swap);
    }
}

#[test]
fn while_a_job_verifies() {
    for (order, swaps) in [
        (REENCRYPT, swaps()),
        (MOVE, vec![TABLE]),
        (REBIND, vec![VIEW]),
    ] {
        for swap in swaps {
            let mut scene = scene();
            let mut bystander = bystander(&scene);
            let order = about(&scene, order);
            scene.db.client.run(&order);
            wait_for_phase(&mut scene, "waiting for old transactions");
            let holder = scene.locked("ACCESS EXCLUSIVE");
            bystander.run("COMMIT");
            scene.swap_when_wanted(holder, &order, swap);
        }
    }
}

/// Row 20 is held, so the passes do not end; whoever holds it locks the table.
#[test]
fn while_a_migration_verifies() {
    for (order, swap, mode) in [
        (DECRYPT, TABLE, "ACCESS EXCLUSIVE"),
        (ENCRYPT, VIEW, "SHARE"),
        (DECRYPT, RENAME, "SHARE"),
        (ENCRYPT, RENAME, "SHARE"),
    ] {
        let mut scene = under_way(order);
        let mut holder = scene.db.connect();
        holder.run(&about(
            &scene,
            "BEGIN; SELECT FROM SCHEMA.t WHERE id = 20 FOR UPDATE",
        ));
        wait_for_phase(&mut scene, "verifying");
        holder.run(&about(
            &scene,
            &format!("LOCK TABLE SCHEMA.t IN {mode} MODE"),
        ));
        scene.swap_when_wanted(holder, order, swap);
    }
}

/// A reader keeps the swap from its lock, and takes the whole table then.
#[test]
fn while_a_migration_swaps() {
    for (order, swap) in [(DECRYPT, VIEW), (ENCRYPT, TABLE), (ENCRYPT, RENAME)] {
        let mut scene = under_way(order);
        let mut holder = scene.db.connect();
        holder.run(&about(&scene, "BEGIN; SELECT FROM SCHEMA.t LIMIT 1"));
        wait_for_phase(&mut scene, "swapping");
        holder.run(&about(&scene, "LOCK TABLE SCHEMA.t"));
        scene.swap_when_wanted(holder, order, swap);
    }
}

#[test]
fn while_a_migrated_table_is_vacuumed() {
    for swap in [VIEW, TABLE] {
        let mut scene = under_way(ENCRYPT);
        let mut bystander = bystander(&scene);
        wait_for_phase(&mut scene, "waiting for old transactions");
        let holder = scene.locked("ACCESS EXCLUSIVE");
        bystander.run("COMMIT");
        // Of what was swapped in, column p is a ciphertext by now.
        let swap = swap.replace("'x'::text AS p", "NULL::colcrypt.ciphertext AS p");
        let swap = swap.replace("p text", "p colcrypt.ciphertext");
        let swap = swap.replace(", ALTER p SET DEFAULT SCHEMA.sly(2)::text", "");
        scene.swap_when_wanted(holder, "vacuum", &swap);
    }
}

/// A migration whose twin is there, and is being filled for a second.
fn under_way(order: &str) -> Scene {
    let mut scene = big_scene();
    let sql = about(&scene, order);
    scene.db.client.run(&sql);
    let twin = about(
        &scene,
        "SELECT count(*) = 1 FROM pg_attribute WHERE attrelid = 'SCHEMA.t'::regclass AND attname ~ '_(en|de)crypted$'",
    );
    wait_for("the twin", LONG, || scene.db.client.yes(&twin));
    scene
}
