//! An outage is not a refusal: cached keys serve on until the hard TTL. And while there is none, a key
//! in use never runs out.

use std::time::{Duration, Instant};

use colcrypt_tests::bed::{
    Bed, MOMENT, QUICK, VaultBed, decrypt, encrypt, keep_on, ready_keys, wait_until_failed,
    wait_until_ok,
};
use colcrypt_tests::db::Sql;
use colcrypt_tests::openbao::OpenBao;
use postgres::Client;

#[test]
fn cached_keys_serve_on_while_the_key_server_is_stopped() {
    const HARD: Duration = Duration::from_secs(4);
    let mut conf = QUICK.to_vec();
    conf.extend(["colcrypt.soft_ttl = '300ms'", "colcrypt.hard_ttl = '4s'"]);
    let mut bed = VaultBed::with(OpenBao::start_durable(), &conf);
    let pids = bed.pids();
    let mut warm = bed.cluster.client();
    let value = encrypt(&mut warm, "k").unwrap();
    // Well past several soft TTLs, so that what follows stands on refreshed leases.
    keep_on(Duration::from_secs(1), || {
        decrypt(&mut warm, &value).unwrap()
    });

    bed.bao.stop();
    let stopped = Instant::now();
    let times = keep_on(HARD - Duration::from_millis(900), || {
        decrypt(&mut warm, &value).unwrap();
        encrypt(&mut warm, "k").unwrap();
        decrypt(&mut bed.cluster.client(), &value).unwrap();
    });
    assert!(times > 10, "only {times} times");
    assert!(
        bed.cluster.log().contains("could not be refreshed"),
        "the log tells of the outage"
    );

    let (problem, _) =
        wait_until_failed("the hard TTL to end", MOMENT, || decrypt(&mut warm, &value));
    let lasted = stopped.elapsed();
    problem.is("KC011").in_detail("provider \"bao\"");
    assert!(
        problem.message.ends_with("(keyring \"ring\")"),
        "{problem:?}"
    );
    bed.is_clean(&problem);
    assert!(
        lasted < HARD + Duration::from_millis(1500),
        "the key served for {lasted:?}"
    );
    bed.refused(&mut bed.cluster.client(), &value).is("KC011");
    let problem = colcrypt_tests::problem::failed(encrypt(&mut warm, "k"));
    problem.is("KC011");
    assert_eq!(ready_keys(&mut warm), 0, "the slab was wiped");
    // Nothing is known of the value: that is no NULL.
    let tried = warm.query(
        "SELECT colcrypt.try_decrypt_col($1::text::colcrypt.ciphertext)",
        &[&value],
    );
    colcrypt_tests::problem::failed(tried).is("KC011");

    bed.bao.restart();
    wait_until_ok("recovery by itself", MOMENT, || decrypt(&mut warm, &value));
    decrypt(&mut bed.cluster.client(), &value).unwrap();
    encrypt(&mut warm, "k").unwrap();
    assert_eq!(bed.pids(), pids, "nothing was restarted");
}

#[test]
fn a_key_in_use_outlives_every_ttl() {
    let bed = VaultBed::new(&[
        "colcrypt.soft_ttl = '200ms'",
        "colcrypt.hard_ttl = '1s'",
        "colcrypt.kms_timeout = '1s'",
    ]);
    bed.create_key("rare", "ring");
    let mut busy = bed.cluster.client();
    let often = encrypt(&mut busy, "k").unwrap();
    let mut seldom_used = bed.cluster.client();
    let rare = encrypt(&mut seldom_used, "rare").unwrap();
    let loads = busy.number("SELECT loads FROM colcrypt.broker_status()");
    let unwraps = bed.unwraps();

    let mut next = Instant::now();
    keep_on(Duration::from_secs(5), || {
        decrypt(&mut busy, &often).unwrap();
        if Instant::now() >= next {
            next += Duration::from_millis(800);
            decrypt(&mut seldom_used, &rare).unwrap();
            decrypt(&mut bed.cluster.client(), &rare).unwrap();
        }
    });
    let refreshed = bed.unwraps() - unwraps;
    assert!(
        (10..=60).contains(&refreshed),
        "{refreshed} refreshes in 25 soft TTLs"
    );
    let now = busy.number("SELECT loads FROM colcrypt.broker_status()");
    assert_eq!(now, loads, "no key was ever loaded again");
}

#[test]
fn occasional_use_alone_keeps_a_key() {
    let bed = VaultBed::new(&[
        "colcrypt.soft_ttl = '200ms'",
        "colcrypt.hard_ttl = '1s'",
        "colcrypt.kms_timeout = '1s'",
    ]);
    let mut client = bed.cluster.client();
    let value = encrypt(&mut client, "k").unwrap();
    let loads = client.number("SELECT loads FROM colcrypt.broker_status()");
    for _ in 0..6 {
        client.batch_execute("SELECT pg_sleep(0.8)").unwrap();
        decrypt(&mut client, &value).unwrap();
    }
    let now = client.number("SELECT loads FROM colcrypt.broker_status()");
    assert_eq!(now, loads, "no key was ever loaded again");

    // One statement longer than the hard TTL.
    let sql = "SELECT count(colcrypt.decrypt_col($1::text::colcrypt.ciphertext || '')) FROM generate_series(1, 30), \
               LATERAL (SELECT pg_sleep(0.1)) AS nap";
    let sql = sql.replace(" || ''", "");
    let n: i64 = client.query_one(&sql, &[&value]).unwrap().get(0);
    assert_eq!(n, 30);
}

#[test]
fn an_unused_key_leaves_the_slab() {
    let bed = Bed::on_file(&["colcrypt.soft_ttl = '200ms'", "colcrypt.hard_ttl = '600ms'"]);
    let mut client = bed.cluster.client();
    let value = encrypt(&mut client, "k").unwrap();
    assert_eq!(ready_keys(&mut client), 1);
    colcrypt_tests::wait_for("an unused key to be wiped", MOMENT, || {
        ready_keys(&mut client) == 0
    });
    decrypt(&mut client, &value).unwrap();
}

/// What a job is asked to do with column `v` of table `t`, whose 2,000 rows are 'v1' and so on.
struct Order {
    name: &'static str,
    /// Whether the column holds ciphertexts before.
    is_encrypted: bool,
    call: &'static str,
    /// Whether a row is as it should be when the job is done.
    right: &'static str,
}

const REENCRYPT: Order = Order {
    name: "rotate_key",
    is_encrypted: true,
    call: "colcrypt.rotate_key('k')",
    right: "colcrypt.decrypt_col(v) = 'v' || id AND (colcrypt.ciphertext_info(v)).version = 2",
};

const VERIFY: Order = Order {
    name: "verify_column",
    is_encrypted: true,
    call: "colcrypt.verify_column('t', 'v')",
    right: "colcrypt.decrypt_col(v) = 'v' || id",
};

const REBIND: Order = Order {
    name: "rebind_column",
    is_encrypted: true,
    call: "colcrypt.rebind_column('t', 'v', 'colcrypt.row_context(id)', accept_unplaced => true)",
    right: "colcrypt.decrypt_col(v, NULL::text, colcrypt.row_context(id)) = 'v' || id",
};

const MOVE: Order = Order {
    name: "move_column",
    is_encrypted: true,
    call: "colcrypt.move_column('t', 'v', 'other', accept_unplaced => true)",
    right: "colcrypt.decrypt_col(v) = 'v' || id AND (colcrypt.ciphertext_info(v)).key = 'other'",
};

const ENCRYPT: Order = Order {
    name: "encrypt_column",
    is_encrypted: false,
    call: "colcrypt.encrypt_column('t', 'v', 'k', 'colcrypt.row_context(id)')",
    right: "v = 'v' || id",
};

const DECRYPT: Order = Order {
    name: "decrypt_column",
    is_encrypted: true,
    call: "colcrypt.decrypt_column('t', 'v', accept_unplaced => true)",
    right: "v = 'v' || id",
};

/// A job that loses its key server in the middle.
fn job_without_a_key_server(order: &Order, more: &[&'static str]) -> (VaultBed, Client) {
    let mut conf = vec![
        "colcrypt.soft_ttl = '300ms'",
        "colcrypt.hard_ttl = '1s'",
        "colcrypt.batch_blocks = 1",
        // Slow enough to be under way when the keys are gone.
        "colcrypt.job_rows_per_second = 50",
    ];
    conf.extend(more);
    let bed = VaultBed::new(&conf);
    bed.create_key("other", "ring");
    let mut client = bed.cluster.client();
    let (value, register) = if order.is_encrypted {
        (
            "colcrypt.encrypt_col('v' || g, 'k')",
            "SELECT colcrypt.register_column('t', 'v', 'k');",
        )
    } else {
        ("'v' || g", "")
    };
    client
        .batch_execute(&format!(
            "CREATE TABLE t AS SELECT g AS id, {value} AS v FROM generate_series(1, 2000) g;
             ALTER TABLE t ADD PRIMARY KEY (id);
             {register} SELECT {}",
            order.call
        ))
        .unwrap();
    colcrypt_tests::wait_for("the job to be under way", MOMENT, || {
        client.number("SELECT rows_done FROM colcrypt.job_progress") > 0
    });
    // Not before: a busy machine may take longer to make the keys.
    for line in QUICK {
        bed.set(line);
    }
    bed.bao.pause();
    (bed, client)
}

/// Lets the job go as fast as it can, to its end.
fn to_its_end(bed: &VaultBed, client: &mut Client) {
    bed.set("colcrypt.job_rows_per_second = 0");
    colcrypt_tests::wait_for("the job to end", 2 * MOMENT, || {
        let open = "SELECT count(*) FROM colcrypt.job WHERE finished_at IS NULL";
        client.number(open) == 0
    });
}

fn right(client: &mut Client, order: &Order) -> i64 {
    client.number(&format!("SELECT count(*) FROM t WHERE {}", order.right))
}

/// A job that loses its keys in the middle waits for the key server, condemns no row, and goes on.
#[test]
fn a_job_sits_out_an_outage() {
    let (bed, mut client) = job_without_a_key_server(&REENCRYPT, &[]);
    let held = "SELECT count(*) FROM colcrypt.job WHERE last_error IS NOT NULL AND finished_at IS NULL AND tries > 0";
    colcrypt_tests::wait_for("the job to miss its key", MOMENT, || {
        client.number(held) == 1
    });
    let done = "SELECT rows_done FROM colcrypt.job_progress";
    assert!(client.number(done) < 2000, "over too soon");
    bed.bao.resume();
    to_its_end(&bed, &mut client);
    let done = "SELECT count(*) FROM colcrypt.job WHERE phase = 'done' AND rows_failed = 0 AND rows_done = 2000";
    assert_eq!(client.number(done), 1);
    assert_eq!(right(&mut client, &REENCRYPT), 2000);
}

/// However long the outage: what a key's absence says of a row is nothing.
#[test]
fn a_long_outage_makes_no_row_bad() {
    sits_out_a_long_outage(&REENCRYPT);
}

// The same for every other job that opens or makes values.

#[test]
fn a_long_outage_ends_no_verification() {
    sits_out_a_long_outage(&VERIFY);
}

#[test]
fn a_long_outage_ends_no_rebinding() {
    sits_out_a_long_outage(&REBIND);
}

#[test]
fn a_long_outage_ends_no_move_to_another_key() {
    sits_out_a_long_outage(&MOVE);
}

#[test]
fn a_long_outage_ends_no_encryption_in_place() {
    sits_out_a_long_outage(&ENCRYPT);
}

#[test]
fn a_long_outage_ends_no_decryption_in_place() {
    sits_out_a_long_outage(&DECRYPT);
}

fn sits_out_a_long_outage(order: &Order) {
    let name = order.name;
    let (bed, mut client) = job_without_a_key_server(order, &["colcrypt.key_wait_timeout = '2s'"]);
    // More tries than a failure without a reason is given.
    let tried = "SELECT count(*) FROM colcrypt.job WHERE tries >= 5 OR finished_at IS NOT NULL";
    colcrypt_tests::wait_for("some tries without a key", 4 * MOMENT, || {
        client.number(tried) == 1
    });
    let bad = "SELECT (SELECT count(*) FROM colcrypt.job_error) \
                    + (SELECT count(*) FROM colcrypt.job WHERE rows_failed > 0 OR finished_at IS NOT NULL)";
    assert_eq!(
        client.number(bad),
        0,
        "{name}: healthy rows were condemned, or it was over too soon"
    );
    let held: Option<String> = client
        .query_one("SELECT held_by FROM colcrypt.job_progress", &[])
        .unwrap()
        .get(0);
    let held = held.expect("what holds the job");
    assert!(held.starts_with("key: "), "{name}: {held}");
    bed.holds_no_secret("held_by", &held);

    bed.bao.resume();
    client
        .batch_execute("UPDATE colcrypt.job SET retry_at = NULL")
        .unwrap();
    to_its_end(&bed, &mut client);
    let done = "SELECT count(*) FROM colcrypt.job_progress \
                WHERE phase = 'done' AND rows_failed = 0 AND last_error IS NULL AND held_by IS NULL";
    assert_eq!(client.number(done), 1, "{name}");
    assert_eq!(right(&mut client, order), 2000, "{name}");
}
