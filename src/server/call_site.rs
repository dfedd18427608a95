//! What one call of a function in one statement remembers from row to row: its own memory (fn_extra), and short strings
//! that may lie there.

use std::mem::MaybeUninit;

use pgrx::pg_sys;

use crate::error::Result;
use crate::server::call::Call;

/// The call site's memory, made by `make` at the first call.
///
/// # Safety
/// One call site uses one type, and the type has no destructor (it is Copy).
#[inline(always)]
pub unsafe fn site<T: Copy>(
    call: Call,
    make: impl FnOnce() -> Result<T>,
) -> Result<&'static mut T> {
    // SAFETY: fn_extra lies in fn_mcxt, which lives as long as the FmgrInfo; only we set it.
    unsafe {
        let flinfo = call.flinfo();
        if (*flinfo).fn_extra.is_null() {
            let made = make()?;
            let memory = pg_sys::MemoryContextAlloc((*flinfo).fn_mcxt, size_of::<T>())
                .cast::<MaybeUninit<T>>();
            (*memory).write(made);
            (*flinfo).fn_extra = memory.cast();
        }
        Ok(&mut *(*flinfo).fn_extra.cast::<T>())
    }
}

/// A copy of `items` that lives as long as the call site.
pub fn kept<T: Copy>(call: Call, items: &[T]) -> &'static [T] {
    // SAFETY: room for as many items in fn_mcxt, which lives as long as the FmgrInfo; copied before it is read.
    unsafe {
        let room = pg_sys::MemoryContextAlloc((*call.flinfo()).fn_mcxt, size_of_val(items).max(1))
            .cast::<T>();
        std::ptr::copy_nonoverlapping(items.as_ptr(), room, items.len());
        std::slice::from_raw_parts(room, items.len())
    }
}

/// A short string without a destructor.
#[derive(Clone, Copy)]
pub struct Short<const N: usize> {
    length: usize,
    bytes: [u8; N],
}

impl<const N: usize> Short<N> {
    /// `None` for more than `N` bytes.
    pub fn new(text: &[u8]) -> Option<Self> {
        let mut bytes = [0; N];
        bytes.get_mut(..text.len())?.copy_from_slice(text);
        Some(Self {
            length: text.len(),
            bytes,
        })
    }

    #[inline(always)]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}
