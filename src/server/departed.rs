//! Whether this transaction has taken a row to another partition: an UPDATE that does leaves the row behind deleted,
//! with a mark that it has gone there, before it puts the new one in.

use pgrx::pg_sys;

/// Where a row is, or was.
#[derive(Clone, Copy)]
pub struct Place {
    table: pg_sys::Oid,
    address: pg_sys::ItemPointerData,
}

impl Place {
    /// # Safety
    /// A row of this table, with its address.
    pub unsafe fn of(table: pg_sys::Oid, row: pg_sys::HeapTuple) -> Self {
        // SAFETY: the caller's promise.
        let address = unsafe { (*row).t_self };
        Self { table, address }
    }

    /// Whether the row has gone to another partition, by this transaction, and not by a part of it that was rolled
    /// back. Of a table that is no heap nothing is known: no.
    pub fn has_departed(self) -> bool {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        // SAFETY: a table that was written to in this transaction, opened and closed here; what is fetched of it stays
        // pinned until it was looked at, and nobody writes to what this transaction has deleted.
        unsafe {
            let relation = pg_sys::try_relation_open(self.table, lock);
            if relation.is_null() {
                return false;
            }
            let mut departed = false;
            let main = pg_sys::ForkNumber::MAIN_FORKNUM;
            // A TRUNCATE since may have left it none.
            if (*(*relation).rd_rel).relam == pg_sys::HEAP_TABLE_AM_OID
                && block_of(&self.address) < pg_sys::RelationGetNumberOfBlocksInFork(relation, main)
            {
                let mut row = pg_sys::HeapTupleData {
                    t_self: self.address,
                    ..Default::default()
                };
                let mut buffer = 0;
                let any = &raw mut pg_sys::SnapshotAnyData;
                if pg_sys::heap_fetch(relation, any, &raw mut row, &raw mut buffer, false) {
                    departed = is_mark(&(*row.t_data).t_ctid)
                        && pg_sys::TransactionIdIsCurrentTransactionId(deleted_by(row.t_data));
                    pg_sys::ReleaseBuffer(buffer);
                }
            }
            pg_sys::relation_close(relation, lock);
            departed
        }
    }
}

fn block_of(address: &pg_sys::ItemPointerData) -> pg_sys::BlockNumber {
    u32::from(address.ip_blkid.bi_hi) << 16 | u32::from(address.ip_blkid.bi_lo)
}

/// `ItemPointerIndicatesMovedPartitions`.
fn is_mark(next: &pg_sys::ItemPointerData) -> bool {
    block_of(next) == pg_sys::InvalidBlockNumber
        && u32::from(next.ip_posid) == pg_sys::MovedPartitionsOffsetNumber
}

/// `HeapTupleHeaderGetUpdateXid`.
///
/// # Safety
/// A row's header.
unsafe fn deleted_by(row: pg_sys::HeapTupleHeader) -> pg_sys::TransactionId {
    // SAFETY: the caller's promise; a stored row has this part of the union.
    unsafe {
        match u32::from((*row).t_infomask) & pg_sys::HEAP_XMAX_IS_MULTI {
            0 => (*row).t_choice.t_heap.t_xmax,
            _ => pg_sys::HeapTupleGetUpdateXid(row),
        }
    }
}
