//! What one call of a function in one statement remembers from row to row: its own memory (fn_extra), and short strings
//! that may lie there.

use std::ffi::c_int;
use std::mem::MaybeUninit;

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::server::call::Call;

/// Without pgrx's guard, which costs as much as the memory: this raises no error.
mod server {
    use super::{c_int, pg_sys};

    unsafe extern "C-unwind" {
        /// Null where there is no memory, if the flags say so, as long as the size is one that PostgreSQL allows.
        #[link_name = "MemoryContextAllocExtended"]
        pub fn alloc(memory: pg_sys::MemoryContext, size: usize, flags: c_int) -> *mut u8;
    }
}

/// Largest piece that PostgreSQL allocates.
const LARGEST: usize = 0x3fff_ffff;

/// Room for so many, which lives as long as the call site.
fn room<T>(call: Call, count: usize) -> Result<*mut MaybeUninit<T>> {
    let bytes = size_of::<T>().saturating_mul(count).max(1);
    let flags = pg_sys::MCXT_ALLOC_NO_OOM as c_int;
    let room = if bytes > LARGEST {
        std::ptr::null_mut()
    } else {
        // SAFETY: fn_mcxt lives as long as the FmgrInfo; the size is an allowed one.
        unsafe { server::alloc((*call.flinfo()).fn_mcxt, bytes, flags) }
    };
    if room.is_null() {
        return Err(Error::OutOfMemory { bytes });
    }
    Ok(room.cast())
}

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
            let memory = room::<T>(call, 1)?;
            (*memory).write(made);
            (*flinfo).fn_extra = memory.cast();
        }
        Ok(&mut *(*flinfo).fn_extra.cast::<T>())
    }
}

/// So many, each as `make` makes it, which live as long as the call site.
///
/// # Errors
/// Of `make`; [`Error::OutOfMemory`].
pub fn kept<T: Copy>(
    call: Call,
    count: usize,
    mut make: impl FnMut(usize) -> Result<T>,
) -> Result<&'static [T]> {
    let room = room::<T>(call, count)?;
    // SAFETY: there is room for as many, and each is written before they are read.
    unsafe {
        for at in 0..count {
            (*room.add(at)).write(make(at)?);
        }
        Ok(std::slice::from_raw_parts(room.cast::<T>(), count))
    }
}

/// A copy of a text that lives as long as the call site.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub fn kept_text(call: Call, text: &str) -> Result<&'static str> {
    let bytes = kept(call, text.len(), |at| Ok(text.as_bytes()[at]))?;
    Ok(std::str::from_utf8(bytes).unwrap_or_default())
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
}
