//! What a vacuum has to leave: dead rows that a transaction, a replication slot or a standby may see still.

use pgrx::pg_sys;

use crate::error::Result;
use crate::server::spi;

/// A transaction before which all that died may be vacuumed away, or who holds that up.
pub enum Horizon {
    Passed,
    HeldBack(String),
}

/// Whether a vacuum of tables and catalogs of this database takes all rows that died before transaction `next`.
///
/// PostgreSQL's own answer, which counts prepared transactions, replication slots and the standbys that send feedback.
/// The snapshot of this transaction counts, too: it reaches back to the oldest transaction of any database, as every
/// new one does. So once it is passed, it stays so but for a standby that comes back.
///
/// # Errors
/// The server's.
pub fn look(next: u32) -> Result<Horizon> {
    // SAFETY: in a transaction that has a snapshot; a catalog, of which a vacuum leaves as much as of a table or more,
    // for the slots of logical decoding.
    let passed = unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let catalog = pg_sys::table_open(pg_sys::StatisticRelationId, lock);
        let horizon = pg_sys::GetOldestNonRemovableTransactionId(catalog);
        pg_sys::table_close(catalog, lock);
        !pg_sys::TransactionIdPrecedes(horizon, pg_sys::TransactionId::from(next))
    };
    if passed {
        return Ok(Horizon::Passed);
    }
    // SAFETY: what was read of others' states earlier in this transaction is read anew.
    unsafe { pg_sys::pgstat_clear_snapshot() };
    Ok(Horizon::HeldBack(who(next)?))
}

/// Whoever reaches back furthest.
fn who(next: u32) -> Result<String> {
    let found = spi::look(
        "SELECT h.who FROM ( \
             SELECT greatest(age(a.backend_xmin), age(a.backend_xid)), \
                    CASE a.backend_type WHEN 'walsender' THEN format('the standby %s, which has hot_standby_feedback,', a.application_name) \
                         ELSE format('the transaction of the %s %s in database %s', a.backend_type, a.pid, a.datname) END \
             FROM pg_stat_activity a WHERE a.pid <> pg_backend_pid() \
             UNION ALL SELECT age(p.transaction), format('the prepared transaction %s of database %s', p.gid, p.database) FROM pg_prepared_xacts p \
             UNION ALL SELECT greatest(age(s.xmin), age(s.catalog_xmin)), format('the replication slot %s', s.slot_name) FROM pg_replication_slots s \
         ) h (age, who) WHERE h.age > age($1::text::xid) ORDER BY h.age DESC LIMIT 1",
        &[next.to_string().into()],
        |row| row.get::<String>(1),
    )?;
    let who = found.into_iter().flatten().next();
    // Who held it a moment ago may be gone.
    let who = who.unwrap_or_else(|| "a transaction that has just ended".to_string());
    Ok(format!("vacuum: {who} may see the old rows still"))
}
