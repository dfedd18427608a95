//! Table scans without SQL: rows of a held relation, as the active snapshot sees them. No code of the owner's runs, no
//! policy hides a row, and nobody's privileges stand in the way. Works for every table access method.

use colcrypt_core::format::parse_header;
use colcrypt_core::{KeyId, KeyVersion};
use pgrx::{PgMemoryContexts, pg_sys};

use crate::error::{Error, Result};
use crate::server::breath;
use crate::server::relation::Held;
use crate::server::varlena::Varlena;

/// Rows between two resets of the memory that looking into them takes.
const ROWS_A_RESET: u32 = 64;

/// A row in the hands of the visitor.
pub struct Row(*mut pg_sys::TupleTableSlot);

impl Row {
    /// Its ctid, as text.
    pub fn address(&self) -> String {
        // SAFETY: the slot of a scan that is under way holds a row that is stored.
        let at = unsafe { (*self.0).tts_tid };
        let block = u32::from(at.ip_blkid.bi_hi) << 16 | u32::from(at.ip_blkid.bi_lo);
        format!("({block},{})", at.ip_posid)
    }

    /// A column's value, `None` for NULL.
    pub fn value(&self, number: i16) -> Option<pg_sys::Datum> {
        let mut is_null = false;
        // SAFETY: the slot of a scan that is under way; the server checks the number against its description.
        let datum = unsafe { pg_sys::slot_getattr(self.0, number.into(), &mut is_null) };
        (!is_null).then_some(datum)
    }
}

/// Visits every row of a relation that has rows of its own.
///
/// # Errors
/// [`Error::ColumnChanged`] when it has none (any more); of the visitor, which ends the scan.
pub fn each_row(held: &Held, mut visit: impl FnMut(&Row) -> Result<()>) -> Result<()> {
    each_row_while(held, |row| visit(row).map(|()| true))
}

/// The same until the visitor has seen enough.
///
/// # Errors
/// As [`each_row`]; of the visitor, which ends the scan.
pub fn each_row_while(held: &Held, mut visit: impl FnMut(&Row) -> Result<bool>) -> Result<()> {
    // Whoever found it in the catalogs had no lock: until PostgreSQL 16 an empty table could become a view meanwhile.
    if !held.holds_rows() {
        return Err(Error::ColumnChanged {
            column: held.shown(),
        });
    }
    // SAFETY: the relation is locked until the transaction ends. A plain scan: open, begin, next until there is none,
    // end, close; an ERROR leaves what is open to the transaction's abort. What values are unpacked into is reset
    // between rows.
    unsafe {
        let relation = pg_sys::relation_open(held.oid, pg_sys::NoLock as pg_sys::LOCKMODE);
        let scan = pg_sys::table_beginscan(
            relation,
            pg_sys::GetActiveSnapshot(),
            0,
            std::ptr::null_mut(),
        );
        let slot = pg_sys::table_slot_create(relation, std::ptr::null_mut());
        let mut memory = PgMemoryContexts::new("colcrypt scan");
        let before = pg_sys::MemoryContextSwitchTo(memory.value());
        let mut outcome = Ok(true);
        let mut rows = 0u32;
        while matches!(outcome, Ok(true))
            && pg_sys::table_scan_getnextslot(
                scan,
                pg_sys::ScanDirection::ForwardScanDirection,
                slot,
            )
        {
            pgrx::check_for_interrupts!();
            breath::take();
            outcome = visit(&Row(slot));
            rows += 1;
            if rows.is_multiple_of(ROWS_A_RESET) {
                memory.reset();
            }
        }
        pg_sys::MemoryContextSwitchTo(before);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::table_endscan(scan);
        pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        drop(memory);
        outcome.map(|_| ())
    }
}

/// The key and version in a value's header. Of a value out of line no more than that is fetched.
///
/// # Safety
/// `datum` is a ciphertext.
///
/// # Errors
/// When the header is none.
pub unsafe fn version_of(datum: pg_sys::Datum) -> Result<(KeyId, KeyVersion)> {
    // SAFETY: the caller vouches for a ciphertext.
    let head = unsafe { head_of(datum) };
    let (header, _) = parse_header(head.bytes())?;
    Ok((header.key, header.version))
}

/// Whether a value's header says that it is bound to a context, and whether to one in canonical form.
///
/// # Safety
/// `datum` is a ciphertext.
///
/// # Errors
/// When the header is none.
pub unsafe fn binding_of(datum: pg_sys::Datum) -> Result<(bool, bool)> {
    // SAFETY: the caller vouches for a ciphertext.
    let head = unsafe { head_of(datum) };
    let (header, _) = parse_header(head.bytes())?;
    Ok((header.has_context, header.canonical_context))
}

/// A value's first bytes: of one out of line, no more is fetched.
///
/// # Safety
/// `datum` is a ciphertext.
pub unsafe fn head_of(datum: pg_sys::Datum) -> Varlena {
    // SAFETY: the slice is a fresh or inline varlena.
    unsafe {
        if Varlena::is_inline(datum) {
            return Varlena::from_datum(datum);
        }
        Varlena::from_datum(pg_sys::Datum::from(pg_sys::pg_detoast_datum_slice(
            datum.cast_mut_ptr(),
            0,
            colcrypt_core::format::MAX_HEADER_LEN as i32,
        )))
    }
}
