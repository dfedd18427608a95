//! Room made of former row versions, page by page, as PostgreSQL does when it reads a page that is full of them: no
//! index is told, and nobody waits. What is freed is written into the free space map, so that rows to come go there.

use std::ops::Range;

use pgrx::pg_sys;

use crate::server::relation::Held;

/// Whether no transaction is under way any more that sees what one before this saw. The one that asks counts, too: it
/// should have no snapshot.
pub fn is_seen_by_none_before(held: &Held, transaction: u32) -> bool {
    // SAFETY: the relation is locked until the transaction ends; it is closed again. What looking it up in the catalog
    // left, of which nothing is read any more, counts as a snapshot.
    unsafe {
        let relation = pg_sys::relation_open(held.oid, pg_sys::NoLock as pg_sys::LOCKMODE);
        pg_sys::InvalidateCatalogSnapshot();
        let oldest = pg_sys::GetOldestNonRemovableTransactionId(relation);
        pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        pg_sys::TransactionIdFollowsOrEquals(oldest, pg_sys::TransactionId::from(transaction))
    }
}

/// Makes room in some blocks. Where another kind of storage keeps the rows, it does so itself.
pub fn prune(held: &Held, blocks: Range<u32>) {
    // SAFETY: the relation is locked until the transaction ends, and closed here; buffers are released, by the
    // transaction's abort after an ERROR. The page is read under its lock.
    unsafe {
        let relation = pg_sys::relation_open(held.oid, pg_sys::NoLock as pg_sys::LOCKMODE);
        if (*relation).rd_tableam == pg_sys::GetHeapamTableAmRoutine() {
            let main = pg_sys::ForkNumber::MAIN_FORKNUM;
            let end = pg_sys::RelationGetNumberOfBlocksInFork(relation, main).min(blocks.end);
            for block in blocks.start..end {
                pgrx::check_for_interrupts!();
                let buffer = pg_sys::ReadBuffer(relation, block);
                pg_sys::heap_page_prune_opt(relation, buffer);
                pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as i32);
                let free = pg_sys::PageGetHeapFreeSpace(pg_sys::BufferGetPage(buffer));
                pg_sys::UnlockReleaseBuffer(buffer);
                pg_sys::RecordPageWithFreeSpace(relation, block, free);
            }
            if blocks.start < end {
                pg_sys::FreeSpaceMapVacuumRange(relation, blocks.start, end);
            }
        }
        pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
    }
}
