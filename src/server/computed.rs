//! Expressions computed over rows that are not stored yet, such as a trigger's.

use pgrx::pg_sys;

use crate::server::varlena::Varlena;

/// An expression over the rows of one relation, ready to be computed again and again. Lives as long as the memory it
/// was made in.
pub struct Computed {
    state: *mut pg_sys::ExprState,
    place: *mut pg_sys::ExprContext,
    slot: *mut pg_sys::TupleTableSlot,
}

impl Computed {
    /// # Safety
    /// `expression` is an analyzed expression over the relation of index 1, which has rows so described; the current
    /// memory context is where all of it lives.
    pub unsafe fn new(expression: *mut pg_sys::Node, descriptor: pg_sys::TupleDesc) -> Self {
        // SAFETY: the caller's promise; the description is copied.
        unsafe {
            let planned = pg_sys::expression_planner(expression.cast());
            Self {
                state: pg_sys::ExecInitExpr(planned, std::ptr::null_mut()),
                place: pg_sys::CreateStandaloneExprContext(),
                slot: pg_sys::MakeSingleTupleTableSlot(
                    pg_sys::CreateTupleDescCopy(descriptor),
                    &raw const pg_sys::TTSOpsHeapTuple,
                ),
            }
        }
    }

    /// What it gives for a row, as text.
    ///
    /// # Safety
    /// It gives a text; the row is one of the relation's.
    pub unsafe fn text(&self, row: pg_sys::HeapTuple) -> Option<String> {
        // SAFETY: the caller's promise; what is computed is copied before its memory is reset.
        unsafe {
            pg_sys::ExecStoreHeapTuple(row, self.slot, false);
            (*self.place).ecxt_scantuple = self.slot;
            let before = pg_sys::MemoryContextSwitchTo((*self.place).ecxt_per_tuple_memory);
            let mut is_null = false;
            let value = (*self.state)
                .evalfunc
                .map(|compute| compute(self.state, self.place, &mut is_null));
            let text = value.filter(|_| !is_null).map(|value| {
                String::from_utf8_lossy(Varlena::from_datum(value).bytes()).into_owned()
            });
            pg_sys::MemoryContextSwitchTo(before);
            pg_sys::MemoryContextReset((*self.place).ecxt_per_tuple_memory);
            if let Some(clear) = (*(*self.slot).tts_ops).clear {
                clear(self.slot);
            }
            text
        }
    }
}
