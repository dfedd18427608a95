//! A place for a cipher: the expanded key, the slab slot it stands for, and whether both still hold.

use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering::Relaxed;

use colcrypt_core::suite::Purpose;
use colcrypt_core::{DataCipher, DataKey, KeyCheckValue, Suite, VersionId};
use colcrypt_search::SearchKey;

use crate::server::clock;
use crate::server::hidden::{self, Blocks, Hold};
use crate::slab::SlotMeta;

/// A key version and which key it is: see [`SlotKey`].
pub type Identity = (VersionId, KeyCheckValue);

/// A key, expanded for what its suite is for. In the place itself, so that the place decides which pages hold it.
#[expect(clippy::large_enum_variant)]
pub enum Ready {
    Values(DataCipher),
    Search(SearchKey),
}

/// A cipher and the slab slot it stands for. Places are never freed, only refilled, so a pointer to
/// one stays valid for the life of the process; `serial` tells whether it still is the same cipher.
pub struct Cipher {
    pub serial: Cell<u64>,
    pub version: Cell<Option<Identity>>,
    pub cipher: RefCell<Option<Ready>>,
    pub meta: Cell<Option<&'static SlotMeta>>,
    pub generation: Cell<u64>,
    pub hard_expiry_ms: Cell<i64>,
    /// What aws-lc allocated for the cipher.
    pub memory: Blocks,
    /// The place that was made before, for the watch.
    pub next: Cell<*const Cipher>,
}

impl Cipher {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            serial: Cell::new(0),
            version: Cell::new(None),
            cipher: RefCell::new(None),
            meta: Cell::new(None),
            generation: Cell::new(0),
            hard_expiry_ms: Cell::new(0),
            memory: Blocks::default(),
            next: Cell::new(std::ptr::null()),
        }
    }

    /// Uses the cipher; none when it was wiped since, by the watch, or is a search key.
    #[inline(always)]
    pub fn using<R>(&'static self, serial: u64, body: impl FnOnce(&DataCipher) -> R) -> Option<R> {
        self.held(serial, |ready| match ready {
            Ready::Values(cipher) => Some(body(cipher)),
            Ready::Search(_) => None,
        })
    }

    /// Uses the search key; none when it was wiped since, or is a cipher.
    pub fn searching<R>(
        &'static self,
        serial: u64,
        body: impl FnOnce(&SearchKey) -> R,
    ) -> Option<R> {
        self.held(serial, |ready| match ready {
            Ready::Search(key) => Some(body(key)),
            Ready::Values(_) => None,
        })
    }

    #[inline(always)]
    fn held<R>(&'static self, serial: u64, body: impl FnOnce(&Ready) -> Option<R>) -> Option<R> {
        let _hold = Hold::new(&self.memory);
        if self.serial.get() != serial {
            return None;
        }
        let done = self.cipher.borrow().as_ref().and_then(body);
        // Round keys left there would go to memory with the next signal, and stay until something else needs the place.
        hidden::wipe_registers();
        done
    }

    /// Zeroes the cipher where it lies: from the watch's signal handler. Nothing is dropped or given back.
    ///
    /// # Safety
    /// Nobody uses a cipher or changes one: no [`Hold`] exists.
    pub unsafe fn wipe(&self) {
        let place = self.cipher.as_ptr();
        // SAFETY: the caller's promise; the bytes are the place's own, and nothing in them needs dropping once the
        // blocks are let go of.
        unsafe {
            self.memory.wipe();
            let bytes = std::slice::from_raw_parts_mut(
                place.cast::<std::mem::MaybeUninit<u8>>(),
                size_of_val(&*place),
            );
            for byte in bytes {
                std::ptr::from_mut(byte).cast::<u8>().write_volatile(0);
            }
            place.write(None);
        }
        self.meta.set(None);
        self.serial.set(self.serial.get() + 1);
    }

    #[inline(always)]
    pub fn is_live(&self, serial: u64) -> bool {
        self.serial.get() == serial
            && self
                .meta
                .get()
                .is_some_and(|meta| meta.life.is(self.generation.get()))
    }

    /// Whether it is still that cipher, live, and its key's time not over: for a statement that begins.
    pub fn serves(&self, serial: u64) -> bool {
        let serves = self.is_live(serial) && self.is_within_lease(clock::boottime_ms());
        if serves && let Some(meta) = self.meta.get() {
            meta.hits.fetch_add(1, Relaxed);
        }
        serves
    }

    pub fn clear(&'static self) {
        let _hold = Hold::new(&self.memory);
        *self.cipher.borrow_mut() = None;
        self.version.set(None);
        self.meta.set(None);
        self.serial.set(self.serial.get() + 1);
    }

    /// Whether the key's time is not over. The broker wipes at expiry; this holds even if it is not
    /// running.
    pub fn is_within_lease(&self, now: i64) -> bool {
        if self.hard_expiry_ms.get() > now {
            return true;
        }
        // The lease may have been extended since.
        let extended = self.meta.get().map_or(0, |meta| meta.life.ends_at());
        self.hard_expiry_ms.set(extended);
        extended > now
    }
}

/// In a frame of its own, so that what it leaves on the stack can be wiped by whoever calls it.
#[inline(never)]
pub fn fill(place: &Cipher, suite: Suite, data_key: &DataKey) {
    *place.cipher.borrow_mut() = Some(match suite.purpose() {
        Purpose::Values => Ready::Values(DataCipher::new(suite, data_key)),
        Purpose::Search => Ready::Search(SearchKey::new(data_key.expose())),
    });
}
