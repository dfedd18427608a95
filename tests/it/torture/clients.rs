//! Those who use the database while its processes are killed: writers, a rotator, and one who compares all the time.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use colcrypt_tests::wait_for;
use postgres::error::SqlState;
use postgres::{Client, Error, Transaction};

use crate::plan::Random;
use crate::world::{After, DIFFERENT, MARK, World, after};

/// Writes rows of one owner, each change in the shadow table, too, and a number in the ledger, all in one
/// transaction. When a connection breaks in mid-commit, the ledger tells what became of it.
pub struct Writer {
    owner: i32,
    random: Random,
    /// Transactions that the server confirmed, or that were found in the ledger.
    confirmed: i64,
    /// Whether one was sent whose answer never came.
    in_doubt: bool,
}

const INSERT: &str = "INSERT INTO t (id, owner, v, w, u) VALUES \
    ($1, $2, colcrypt.encrypt_col($3::text, 'k', colcrypt.row_context($1::bigint)), colcrypt.encrypt_col($4::text, 'x'), colcrypt.encrypt_col($5::text, 'k'))";
const UPDATE_V: &str =
    "UPDATE t SET v = colcrypt.encrypt_col($2::text, 'k', colcrypt.row_context(id)) WHERE id = $1";
const UPDATE_U: &str = "UPDATE t SET u = colcrypt.encrypt_col($2::text, 'k') WHERE id = $1";
const UPDATE_W: &str = "UPDATE t SET w = colcrypt.encrypt_col($2::text, 'x') WHERE id = $1";

impl Writer {
    pub fn new(owner: i32, random: Random) -> Self {
        Self {
            owner,
            random,
            confirmed: 0,
            in_doubt: false,
        }
    }

    pub fn run(mut self, world: &World) {
        while let Some(mut client) = world.connect() {
            while !world.is_over() {
                match self.session(&mut client, world) {
                    Ok(()) => {}
                    Err(error) => match after(&error) {
                        After::RolledBack => self.in_doubt = false,
                        After::Gone => break,
                    },
                }
            }
        }
        // What a client was told is committed must be there, and nothing that was never sent.
        let mut client = world.cluster.client();
        self.settle(&mut client, world).expect("the ledger");
    }

    /// Clears a doubt that the connection before left, then one transaction.
    fn session(&mut self, client: &mut Client, world: &World) -> Result<(), Error> {
        self.settle(client, world)?;
        let mut transaction = client.transaction()?;
        for _ in 0..=self.random.below(3) {
            self.change(&mut transaction)?;
        }
        if self.random.percent(10) {
            // Open while keys rotate: the job has to wait for it.
            std::thread::sleep(Duration::from_millis(self.random.below(300)));
        }
        if self.random.percent(5) {
            return transaction.rollback();
        }
        transaction.execute(
            "UPDATE ledger SET n = n + 1 WHERE owner = $1",
            &[&self.owner],
        )?;
        self.in_doubt = true;
        transaction.commit()?;
        self.in_doubt = false;
        self.confirmed += 1;
        world.committed.fetch_add(1, Relaxed);
        Ok(())
    }

    fn settle(&mut self, client: &mut Client, world: &World) -> Result<(), Error> {
        let row = client.query_one("SELECT n FROM ledger WHERE owner = $1", &[&self.owner])?;
        let found: i64 = row.get(0);
        let possible = self.confirmed..=self.confirmed + i64::from(self.in_doubt);
        assert!(
            possible.contains(&found),
            "writer {}: {found} transactions are there, {possible:?} were confirmed",
            self.owner
        );
        if std::mem::take(&mut self.in_doubt) {
            world.unknown.fetch_add(1, Relaxed);
        }
        self.confirmed = found;
        Ok(())
    }

    fn change(&mut self, transaction: &mut Transaction<'_>) -> Result<(), Error> {
        let choice = self.random.below(100);
        if choice < 30 {
            return self.insert(transaction);
        }
        let from = self.random.below(1 << 20) as i64;
        // A row somewhere, of those that no other writer touches.
        let row = transaction.query_opt(
            "SELECT id FROM t WHERE owner = $1 \
             ORDER BY (id * 7919 + $2) % 1009, id LIMIT 1",
            &[&self.owner, &from],
        )?;
        let Some(id) = row.map(|row| row.get::<_, i64>(0)) else {
            return self.insert(transaction);
        };
        match choice {
            30..50 => {
                let text = self.text();
                transaction.execute(UPDATE_V, &[&id, &text])?;
                transaction.execute("UPDATE shadow SET v = $2 WHERE id = $1", &[&id, &text])?;
            }
            50..65 => {
                let text = self.text();
                transaction.execute(UPDATE_W, &[&id, &text])?;
                transaction.execute("UPDATE shadow SET w = $2 WHERE id = $1", &[&id, &text])?;
            }
            65..72 => {
                let text = format!("{MARK}one-{}", self.random.next());
                transaction.execute(UPDATE_U, &[&id, &text])?;
                transaction.execute("UPDATE shadow SET u = $2 WHERE id = $1", &[&id, &text])?;
            }
            72..76 => self.be_refused_a_twin(transaction, id)?,
            76..82 => {
                transaction.execute("UPDATE t SET note = note + 1 WHERE id = $1", &[&id])?;
            }
            _ => {
                transaction.execute("DELETE FROM t WHERE id = $1", &[&id])?;
                transaction.execute("DELETE FROM shadow WHERE id = $1", &[&id])?;
            }
        }
        Ok(())
    }

    fn insert(&mut self, transaction: &mut Transaction<'_>) -> Result<(), Error> {
        let row = transaction.query_one("SELECT nextval('ids')", &[])?;
        let id: i64 = row.get(0);
        let (v, w) = (self.text(), self.text());
        let u = format!("{MARK}one-{}", self.random.next());
        transaction.execute(INSERT, &[&id, &self.owner, &v, &w, &u])?;
        transaction.execute(
            "INSERT INTO shadow VALUES ($1, $2, $3, $4)",
            &[&id, &v, &w, &u],
        )?;
        Ok(())
    }

    /// No second row may have a value of the column that is unique, whatever becomes of its search index meanwhile.
    fn be_refused_a_twin(&self, transaction: &mut Transaction<'_>, id: i64) -> Result<(), Error> {
        let mut attempt = transaction.transaction()?;
        let twin = "INSERT INTO t (id, owner, u) SELECT nextval('ids'), owner, colcrypt.encrypt_col(colcrypt.decrypt_col(u), 'k') FROM t WHERE id = $1";
        match attempt.execute(twin, &[&id]) {
            Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => attempt.rollback(),
            Err(error) => Err(error),
            Ok(_) => panic!("there are two rows of one value"),
        }
    }

    /// Nothing, an empty text, a short one or one that is kept out of line.
    fn text(&mut self) -> Option<String> {
        let short = format!("{MARK}{}-{}", self.owner, self.random.next());
        match self.random.below(20) {
            0 => None,
            1 => Some(String::new()),
            2 => Some(short.repeat(100 + self.random.below(300) as usize)),
            _ => Some(short),
        }
    }
}

/// Rotates one of the keys every second or three, and leaves a witness of each version.
pub fn rotate(world: &World, mut random: Random) {
    while let Some(mut client) = world.connect() {
        while !world.is_over() {
            if random.percent(30) {
                // The keys under it are wrapped anew while all goes on; the former one is destroyed a moment later.
                match client.query_one("SELECT colcrypt.rotate_kek('ring')", &[]) {
                    Ok(_) => drop(world.keks.fetch_add(1, Relaxed)),
                    Err(error) if after(&error) == After::Gone => break,
                    Err(_) => {}
                }
            }
            let key = ["k", "x", "s"][random.below(3) as usize];
            match rotate_once(&mut client, key) {
                Ok(version) => {
                    let mut rotated = world.rotated.lock().expect("a list");
                    rotated.push((key.to_owned(), version));
                }
                Err(error) => {
                    if after(&error) == After::Gone {
                        break;
                    }
                }
            }
            let pause = Duration::from_millis(800 + random.below(2200));
            std::thread::sleep(pause);
        }
    }
}

fn rotate_once(client: &mut Client, key: &str) -> Result<i32, Error> {
    let mut transaction = client.transaction()?;
    let row = transaction.query_one("SELECT colcrypt.rotate_key($1)", &[&key])?;
    let version: i32 = row.get(0);
    transaction.execute(
        // A search key encrypts nothing.
        "INSERT INTO witness SELECT $1::text, $2::int, colcrypt.encrypt_col('witness of ' || $1::text || $2::int, CASE $1::text WHEN 's' THEN 'k' ELSE $1::text END)",
        &[&key, &version],
    )?;
    transaction.commit()?;
    Ok(version)
}

/// Compares all rows with their shadows, as of one snapshot, again and again.
pub fn compare(world: &World) {
    while let Some(mut client) = world.connect() {
        while !world.is_over() {
            match client.query_one(DIFFERENT, &[]) {
                Ok(row) => {
                    let different: i64 = row.get(0);
                    assert_eq!(different, 0, "rows that differ from their shadows");
                    world.compared.fetch_add(1, Relaxed);
                }
                Err(error) => {
                    if after(&error) == After::Gone {
                        break;
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}

/// After the last kill: everything goes on.
pub fn all_are_back(world: &World) {
    let (committed, compared) = (world.committed.load(Relaxed), world.compared.load(Relaxed));
    wait_for("clients to go on", Duration::from_secs(60), || {
        world.is_over()
            || (world.committed.load(Relaxed) > committed + 20
                && world.compared.load(Relaxed) > compared + 1)
    });
}
