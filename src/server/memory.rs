//! The allocator of this library. Rust ends the process where an allocation fails that was not asked for with leave to
//! fail, and a server process that ends so takes all others along. Here the session alone ends, cleanly, as by FATAL.
//!
//! That is the net. What grows with a value, a context or an argument is asked for so that failure is an ERROR:
//! in the server's memory, or by `colcrypt_core::memory`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{c_char, c_int};

use colcrypt_core::memory::may_fail;
use pgrx::pg_sys;

struct Session;

#[global_allocator]
static ALLOCATOR: Session = Session;

// SAFETY: the system's allocator, which is asked with the same arguments. What is done when it has nothing does not
// return or changes nothing.
unsafe impl GlobalAlloc for Session {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        given(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        given(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        given(unsafe { System.realloc(memory, layout, size) }, size)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) };
    }
}

#[inline(always)]
fn given(memory: *mut u8, size: usize) -> *mut u8 {
    if memory.is_null() {
        nothing_left(size);
    }
    memory
}

/// Ends a child of the postmaster's that goes on to abort otherwise.
#[cold]
fn nothing_left(size: usize) {
    unsafe extern "C-unwind" {
        static proc_exit_inprogress: bool;
        fn errstart(elevel: c_int, domain: *const c_char) -> bool;
        fn errcode(sqlerrcode: c_int) -> c_int;
        fn errmsg_internal(fmt: *const c_char, ...) -> c_int;
        fn errdetail_internal(fmt: *const c_char, ...) -> c_int;
        fn errfinish(filename: *const c_char, lineno: c_int, funcname: *const c_char);
    }
    // SAFETY: flags of this process; then the sequence of ereport() at a level that ends it by proc_exit, with no jump
    // and no unwinding. Nothing in it needs this allocator: the server has memory of its own set aside for its errors.
    unsafe {
        if may_fail() || !pg_sys::IsUnderPostmaster || proc_exit_inprogress {
            return;
        }
        errstart(pgrx::PgLogLevel::FATAL as c_int, std::ptr::null());
        errcode(colcrypt_domain::sqlstate::pack("53200"));
        errmsg_internal(c"out of memory".as_ptr());
        errdetail_internal(
            c"colcrypt: there is no memory for %zu bytes.".as_ptr(),
            size,
        );
        errfinish(c"colcrypt".as_ptr(), 0, c"colcrypt".as_ptr());
    }
}
