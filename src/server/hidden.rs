//! Memory for expanded keys: left out of core files, locked as far as the process may, wiped when given back.
//!
//! aws-lc's contexts, which hold the round keys of every cipher, are allocated here (`use_for_ciphers`), and so are the
//! session's places for ciphers (`leak`). A handful of pages, cut into blocks whose size is a multiple of 64 bytes; a
//! block given back goes to the free list of its size. Nothing of this is on the path of a value: a cipher is made once
//! for each key version, and once for each derived key of XAES-256-GCM.
//!
//! Forked children inherit the flag that keeps pages out of core files, though not the lock; the postmaster makes no
//! cipher, so there is nothing of it in them.

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_void};
use std::mem::{align_of, size_of};
use std::ptr::null_mut;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicPtr, compiler_fence};
use std::sync::{Mutex, PoisonError};

/// Pages asked of the system at a time: few, since the usual limit on locked memory is 64 KiB a process.
const CHUNK: usize = 16 * 1024;
/// All blocks are multiples of this.
const UNIT: usize = 64;
/// Room before each block for its [`Prefix`].
const PREFIX: usize = 32;
/// Where blocks begin.
const ALIGNMENT: usize = 16;

/// What stands before each block.
#[repr(C)]
struct Prefix {
    length: usize,
    /// Whose cipher it belongs to, and the next block of the same; null and 0 for none.
    owner: *const Blocks,
    next: usize,
}

/// The blocks that aws-lc asked for while one cipher was made or used: its round keys.
#[derive(Default)]
pub struct Blocks {
    first: Cell<usize>,
}

impl Blocks {
    fn add(&self, block: usize) {
        // SAFETY: a block of ours; its prefix lies before it.
        unsafe {
            let prefix = prefix_of(block as *mut u8);
            (*prefix).owner = self;
            (*prefix).next = self.first.get();
        }
        self.first.set(block);
    }

    fn remove(&self, block: usize) {
        // SAFETY: all are blocks of ours that were not given back.
        unsafe {
            let next = (*prefix_of(block as *mut u8)).next;
            let mut at = self.first.get();
            if at == block {
                self.first.set(next);
                return;
            }
            while at != 0 {
                let prefix = prefix_of(at as *mut u8);
                if (*prefix).next == block {
                    (*prefix).next = next;
                    return;
                }
                at = (*prefix).next;
            }
        }
    }

    /// Zeroes all of them, and lets go of them: they stay as they are, used by nobody. It may be called in a signal
    /// handler, which must not give memory back.
    ///
    /// # Safety
    /// Nobody uses the cipher any more, not even to drop it.
    pub unsafe fn wipe(&self) {
        let mut at = self.first.replace(0);
        while at != 0 {
            // SAFETY: blocks of ours that were not given back; the caller's promise.
            unsafe {
                let prefix = prefix_of(at as *mut u8);
                wipe(at as *mut u8, (*prefix).length - PREFIX);
                at = (*prefix).next;
                (*prefix).owner = std::ptr::null();
                (*prefix).next = 0;
            }
        }
    }
}

/// Whose cipher is made, used or dropped just now; null when no cipher may change.
static HELD_FOR: AtomicPtr<Blocks> = AtomicPtr::new(null_mut());

/// While it lives, no cipher is wiped by the watch, and what aws-lc allocates belongs to this one.
pub struct Hold(*mut Blocks);

impl Hold {
    #[inline(always)]
    pub fn new(blocks: &'static Blocks) -> Self {
        let before = HELD_FOR.load(Relaxed);
        HELD_FOR.store(std::ptr::from_ref(blocks).cast_mut(), Relaxed);
        // The watch interrupts this thread: only the compiler must keep the order.
        compiler_fence(SeqCst);
        Self(before)
    }
}

impl Drop for Hold {
    #[inline(always)]
    fn drop(&mut self) {
        compiler_fence(SeqCst);
        HELD_FOR.store(self.0, Relaxed);
    }
}

/// Whether a cipher is made, used or dropped just now.
pub fn is_held() -> bool {
    !HELD_FOR.load(Relaxed).is_null()
}

/// Has aws-lc allocate now what it keeps for the whole thread, so that it belongs to no cipher.
pub fn prepare() {
    // SAFETY: has no precondition.
    unsafe { aws_lc_sys::ERR_clear_error() };
}

/// Pages that no core file holds, for ever; null when the system has none.
pub fn pages(length: usize) -> *mut u8 {
    map(length) as *mut u8
}

struct Arena {
    /// For each size, in units, the address of the first free block; in each, that of the next one.
    free: [usize; CHUNK / UNIT + 1],
    /// What is left of the newest chunk.
    next: usize,
    left: usize,
}

/// PostgreSQL's processes have one thread; the lock is for those who load other libraries into them.
static ARENA: Mutex<Arena> = Mutex::new(Arena {
    free: [0; CHUNK / UNIT + 1],
    next: 0,
    left: 0,
});

/// Has aws-lc allocate here. When the library is loaded, before anything of aws-lc is used.
pub fn use_for_ciphers() {
    // SAFETY: the three functions keep malloc's, realloc's and free's promises and never unwind.
    let accepted = unsafe {
        aws_lc_sys::CRYPTO_set_mem_functions(Some(allocate), Some(reallocate), Some(release))
    };
    assert_eq!(accepted, 1, "aws-lc has allocated before");
    // Asks the processor once what it has: in a virtual machine that takes tens of microseconds, and children of the
    // postmaster inherit the answer.
    wipe_registers();
}

/// A value that lives as long as the process, in hidden memory.
///
/// # Panics
/// When there is no memory.
pub fn leak<T>(value: T) -> &'static T {
    const { assert!(align_of::<T>() <= ALIGNMENT) };
    let place = take(size_of::<T>()).cast::<T>();
    assert!(!place.is_null(), "out of memory that core files leave out");
    // SAFETY: a block of this size, aligned to 16 bytes, that nobody else has and nobody gives back.
    unsafe {
        place.write(value);
        &*place
    }
}

/// Zeroes the vector registers, where the last value's round keys stay until something else needs the place. A core
/// file holds the registers, too.
#[inline]
pub fn wipe_registers() {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::{asm, is_x86_feature_detected};
        if is_x86_feature_detected!("avx") {
            // SAFETY: all that compiled code keeps there is declared as overwritten.
            unsafe {
                asm!(
                    "vzeroall",
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                    out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                    out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                    out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                    options(nomem, nostack, preserves_flags)
                );
            }
        }
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: compiled code that is to run on machines without AVX-512 keeps nothing there.
            unsafe {
                asm!(
                    "vpxorq zmm16, zmm16, zmm16",
                    "vpxorq zmm17, zmm17, zmm17",
                    "vpxorq zmm18, zmm18, zmm18",
                    "vpxorq zmm19, zmm19, zmm19",
                    "vpxorq zmm20, zmm20, zmm20",
                    "vpxorq zmm21, zmm21, zmm21",
                    "vpxorq zmm22, zmm22, zmm22",
                    "vpxorq zmm23, zmm23, zmm23",
                    "vpxorq zmm24, zmm24, zmm24",
                    "vpxorq zmm25, zmm25, zmm25",
                    "vpxorq zmm26, zmm26, zmm26",
                    "vpxorq zmm27, zmm27, zmm27",
                    "vpxorq zmm28, zmm28, zmm28",
                    "vpxorq zmm29, zmm29, zmm29",
                    "vpxorq zmm30, zmm30, zmm30",
                    "vpxorq zmm31, zmm31, zmm31",
                    options(nomem, nostack, preserves_flags)
                );
            }
        }
    }
}

unsafe extern "C" fn allocate(size: usize, _file: *const c_char, _line: c_int) -> *mut c_void {
    take_for_cipher(size).cast()
}

unsafe extern "C" fn release(block: *mut c_void, _file: *const c_char, _line: c_int) {
    if !block.is_null() {
        // SAFETY: aws-lc gives back what it was given, once.
        unsafe { give_back(block.cast()) };
    }
}

unsafe extern "C" fn reallocate(
    block: *mut c_void,
    size: usize,
    _file: *const c_char,
    _line: c_int,
) -> *mut c_void {
    let larger = take_for_cipher(size);
    if !larger.is_null() && !block.is_null() {
        // SAFETY: both are blocks of ours; the prefix tells how long the former is.
        unsafe {
            let usable = length_of(block.cast()) - PREFIX;
            block
                .cast::<u8>()
                .copy_to_nonoverlapping(larger, usable.min(size));
            give_back(block.cast());
        }
    }
    larger.cast()
}

/// The same, marked as belonging to the cipher at hand.
fn take_for_cipher(size: usize) -> *mut u8 {
    let block = take(size);
    // SAFETY: places, and so their lists of blocks, are never freed.
    if !block.is_null()
        // SAFETY: as said above.
        && let Some(blocks) = unsafe { HELD_FOR.load(Relaxed).as_ref() }
    {
        blocks.add(block as usize);
    }
    block
}

/// A block of at least this many bytes, aligned to 16, all zero; null when there is no memory.
fn take(size: usize) -> *mut u8 {
    let Some(length) = size
        .checked_add(PREFIX)
        .and_then(|length| length.checked_next_multiple_of(UNIT))
    else {
        return null_mut();
    };
    let block = if length > CHUNK {
        map(length)
    } else {
        ARENA
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(length)
    };
    if block == 0 {
        return null_mut();
    }
    let block = block as *mut u8;
    // SAFETY: the block is ours alone and longer than the prefix.
    unsafe {
        block.cast::<Prefix>().write(Prefix {
            length,
            owner: std::ptr::null(),
            next: 0,
        });
        block.add(PREFIX)
    }
}

/// # Safety
/// `block` came from `take` and was not given back.
unsafe fn give_back(block: *mut u8) {
    // SAFETY: the prefix lies before it; nobody else uses the block any more.
    unsafe {
        let length = length_of(block);
        let start = block.sub(PREFIX);
        if let Some(blocks) = (*prefix_of(block)).owner.as_ref() {
            blocks.remove(block as usize);
        }
        wipe(start, length);
        if length > CHUNK {
            libc::munmap(start.cast(), length);
        } else {
            ARENA
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .put(start as usize, length);
        }
    }
}

/// # Safety
/// `block` came from `take` and was not given back.
unsafe fn length_of(block: *mut u8) -> usize {
    // SAFETY: written there by `take`.
    unsafe { (*prefix_of(block)).length }
}

/// # Safety
/// `block` came from `take`.
unsafe fn prefix_of(block: *mut u8) -> *mut Prefix {
    // SAFETY: the caller's promise.
    unsafe { block.sub(PREFIX).cast() }
}

/// # Safety
/// Nobody else uses these bytes.
unsafe fn wipe(start: *mut u8, length: usize) {
    // SAFETY: the caller's promise.
    let bytes = unsafe { std::slice::from_raw_parts_mut(start, length) };
    zeroize::Zeroize::zeroize(bytes);
}

impl Arena {
    /// The address of a block of `length` bytes, a multiple of the unit, all zero; 0 when there is no memory.
    fn take(&mut self, length: usize) -> usize {
        let first = self.free[length / UNIT];
        if first != 0 {
            let link = first as *mut usize;
            // SAFETY: a free block of this arena begins with the address of the next one.
            unsafe {
                self.free[length / UNIT] = link.read();
                link.write(0);
            }
            return first;
        }
        if self.left < length {
            let chunk = map(CHUNK);
            if chunk == 0 {
                return 0;
            }
            if self.left > 0 {
                self.put(self.next, self.left);
            }
            (self.next, self.left) = (chunk, CHUNK);
        }
        let block = self.next;
        self.next += length;
        self.left -= length;
        block
    }

    fn put(&mut self, block: usize, length: usize) {
        // SAFETY: a wiped block of this arena that nobody uses, no shorter than an address.
        unsafe { (block as *mut usize).write(self.free[length / UNIT]) };
        self.free[length / UNIT] = block;
    }
}

/// Pages that no core file holds; 0 when the system has none.
fn map(length: usize) -> usize {
    // SAFETY: new pages of this process's own.
    unsafe {
        let pages = libc::mmap(
            null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if pages == libc::MAP_FAILED {
            return 0;
        }
        // Rather no cipher than one in a core file.
        #[cfg(target_os = "linux")]
        if libc::madvise(pages, length, libc::MADV_DONTDUMP) != 0 {
            libc::munmap(pages, length);
            return 0;
        }
        // Beyond the limit it may be swapped out, as the rest of the process.
        libc::mlock(pages, length);
        pages as usize
    }
}
