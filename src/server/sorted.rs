//! Numbers sorted by the server, which goes to disk where they take more than work_mem: for counting what is the same.

use pgrx::pg_sys;

/// Numbers on their way; what is left of them after an ERROR ends with the transaction.
pub struct Sorted(*mut pg_sys::Tuplesortstate);

impl Sorted {
    pub fn begin() -> Self {
        // SAFETY: a sort of int8 by its own `<`, in the memory of the call.
        Self(unsafe {
            pg_sys::tuplesort_begin_datum(
                pg_sys::INT8OID,
                pg_sys::Oid::from(pg_sys::Int8LessOperator),
                pg_sys::InvalidOid,
                false,
                pg_sys::work_mem,
                std::ptr::null_mut(),
                pg_sys::TUPLESORT_NONE as i32,
            )
        })
    }

    pub fn put(&mut self, number: i64) {
        // SAFETY: the sort is open, and int8 is passed by value.
        unsafe { pg_sys::tuplesort_putdatum(self.0, pg_sys::Datum::from(number), false) };
    }

    /// Visits how often each different number was put, and ends.
    pub fn each_count(self, mut visit: impl FnMut(u64)) {
        let (mut last, mut count) = (None, 0u64);
        // SAFETY: the sort is open; what it gives is passed by value.
        unsafe {
            pg_sys::tuplesort_performsort(self.0);
            loop {
                let (mut datum, mut is_null) = (pg_sys::Datum::null(), false);
                let is_there = pg_sys::tuplesort_getdatum(
                    self.0,
                    true,
                    #[cfg(not(feature = "pg15"))]
                    false,
                    &mut datum,
                    &mut is_null,
                    std::ptr::null_mut(),
                );
                if !is_there {
                    break;
                }
                pgrx::check_for_interrupts!();
                let number = datum.value() as i64;
                if last.is_some_and(|last| last != number) {
                    visit(count);
                    count = 0;
                }
                last = Some(number);
                count += 1;
            }
            pg_sys::tuplesort_end(self.0);
        }
        if count > 0 {
            visit(count);
        }
    }
}
