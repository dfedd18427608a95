//! Values of variable length: read in place where they are, and made.

use std::ffi::c_int;

use pgrx::pg_sys;

use crate::error::{Error, Result};

/// A detoasted varlena argument: short headers stay short, and the copy (if detoasting made one) is
/// wiped and freed with the value.
pub struct Varlena {
    pointer: *mut pg_sys::varlena,
    owned: bool,
}

impl Varlena {
    /// Whether it is as it is, neither compressed nor out of line.
    ///
    /// # Safety
    /// `datum` is a varlena.
    #[inline(always)]
    pub unsafe fn is_inline(datum: pg_sys::Datum) -> bool {
        // SAFETY: the caller vouches for a varlena; this only reads its header's first byte.
        let header = unsafe { *datum.cast_mut_ptr::<u8>() };
        let plain = header & 0x03 == 0x00;
        let short = header & 0x01 == 0x01 && header != 0x01;
        plain || short
    }

    /// # Safety
    /// `datum` is a varlena.
    #[inline(always)]
    pub unsafe fn from_datum(datum: pg_sys::Datum) -> Self {
        let original = datum.cast_mut_ptr::<pg_sys::varlena>();
        // SAFETY: the caller vouches for a varlena.
        unsafe {
            if Self::is_inline(datum) {
                return Self {
                    pointer: original,
                    owned: false,
                };
            }
            Self {
                pointer: pg_sys::pg_detoast_datum_packed(original),
                owned: true,
            }
        }
    }

    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the varlena is inline (see from_datum) and outlives `self`.
        unsafe { pgrx::varlena::varlena_to_byte_slice(self.pointer) }
    }
}

impl Drop for Varlena {
    #[inline(always)]
    fn drop(&mut self) {
        if self.owned {
            // SAFETY: pg_detoast_datum_packed palloc'd it for us.
            unsafe { pg_sys::pfree(self.pointer.cast()) };
        }
    }
}

/// A value as it is stored, be it inline, compressed or a pointer to somewhere else: of one that was not assigned the
/// same.
///
/// # Safety
/// The datum is a varlena, and outlives what is returned.
pub unsafe fn image_of<'a>(datum: pg_sys::Datum) -> &'a [u8] {
    // SAFETY: the caller vouches for a varlena, whose header says how long it is.
    unsafe {
        let pointer = datum.cast_mut_ptr::<pg_sys::varlena>();
        std::slice::from_raw_parts(pointer.cast(), pgrx::varlena::varsize_any(pointer))
    }
}

/// Without pgrx's guard, which costs as much as the memory: this raises no error.
mod server {
    use std::ffi::c_int;

    unsafe extern "C-unwind" {
        /// Null where there is no memory, if the flags say so, as long as the size is one that PostgreSQL allows.
        pub fn palloc_extended(size: usize, flags: c_int) -> *mut u8;
    }
}

/// Largest payload of a varlena: MaxAllocSize less the header.
pub const MAX_VARLENA: usize = 0x3fff_ffff - 4;

/// A new varlena with room for `length` bytes, filled by `fill`.
///
/// # Errors
/// [`Error::ValueTooLarge`] beyond 1 GB, [`Error::OutOfMemory`]; whatever `fill` answers (the memory is freed).
#[inline(always)]
pub fn new_varlena(
    length: usize,
    fill: impl FnOnce(&mut [u8]) -> Result<()>,
) -> Result<pg_sys::Datum> {
    if length > MAX_VARLENA {
        return Err(Error::ValueTooLarge { bytes: length });
    }
    // SAFETY: length + 4 writable bytes; the header is set before the value is used,
    // and `fill` gets memory that was initialised by the compiler's view only after write_bytes
    // would cost a pass over it: the slice is of u8, which has no invalid values, and fill is
    // required to overwrite all of it.
    unsafe {
        let pointer = server::palloc_extended(length + 4, pg_sys::MCXT_ALLOC_NO_OOM as c_int);
        if pointer.is_null() {
            return Err(Error::OutOfMemory { bytes: length });
        }
        let body = std::slice::from_raw_parts_mut(pointer.add(4), length);
        if let Err(error) = fill(body) {
            pg_sys::pfree(pointer.cast());
            return Err(error);
        }
        pgrx::varlena::set_varsize_4b(pointer.cast(), (length + 4) as i32);
        Ok(pg_sys::Datum::from(pointer))
    }
}

/// A new text or bytea datum.
pub fn varlena_from(bytes: &[u8]) -> Result<pg_sys::Datum> {
    new_varlena(bytes.len(), |out| {
        out.copy_from_slice(bytes);
        Ok(())
    })
}
