//! Keys are wiped before their memory goes back: an allocator looks at every block it is given back.
//! A binary of its own, because an allocator is the whole process's; one test, because it counts.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use colcrypt_core::{
    DataCipher, DataKey, KeyCheckValue, KeyEncryptionKey, Secret, Suite, WrapMethod,
    wrap::{unwrap_data_key, unwrap_kek, wrap_data_key, wrap_kek},
};

/// Part of every key here; nothing else is likely to hold it.
const MARK: [u8; 16] = *b"\xf1KEY MATERIAL!\x8e\xd3";

struct Watching;

static LEAKS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise. Zeroed, so that `dealloc` reads only initialized bytes.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block is `layout.size()` bytes long and still allocated.
        let bytes = unsafe { std::slice::from_raw_parts(block, layout.size()) };
        if bytes.windows(MARK.len()).any(|window| window == MARK) {
            LEAKS.fetch_add(1, Relaxed);
        }
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// How many blocks were given back with key bytes in them meanwhile.
fn leaks(work: impl FnOnce()) -> usize {
    let before = LEAKS.load(Relaxed);
    work();
    LEAKS.load(Relaxed) - before
}

#[test]
fn keys_are_wiped_before_their_memory_is_freed() {
    let key = [MARK, MARK].concat();
    assert_eq!(leaks(|| drop(key.clone())), 1, "the watch sees nothing");

    let data_key = || DataKey::from_slice(&key).unwrap();
    let kek = || KeyEncryptionKey::from_slice(&key).unwrap();
    assert_eq!(leaks(|| drop(data_key())), 0, "DataKey");
    assert_eq!(leaks(|| drop(kek())), 0, "KeyEncryptionKey");
    assert_eq!(leaks(|| drop(Secret::new(key.clone()))), 0, "Secret");
    assert_eq!(
        leaks(|| drop(Secret::from(zeroize::Zeroizing::new(key.clone())))),
        0,
        "Secret from Zeroizing"
    );
    // An expanded AES key starts with the key itself.
    for suite in [Suite::Aes256Gcm, Suite::Xaes256Gcm] {
        let made = leaks(|| drop(DataCipher::new(suite, &data_key())));
        assert_eq!(made, 0, "DataCipher {suite:?}");
    }
    let computed = leaks(|| {
        KeyCheckValue::of_data_key(&data_key());
    });
    assert_eq!(computed, 0, "KeyCheckValue");

    for method in [WrapMethod::Aes256Gcm, WrapMethod::AesKwp] {
        let kcv = KeyCheckValue::of_data_key(&data_key());
        let there_and_back = leaks(|| {
            let wrapped = wrap_data_key(&kek(), method, b"aad", &data_key()).unwrap();
            let unwrapped = unwrap_data_key(&kek(), method, b"aad", &wrapped, kcv);
            assert!(unwrapped.is_ok());
            // Unwrapped soundly, then refused: the buffer must be wiped all the same.
            let other = KeyCheckValue([0; 5]);
            assert!(unwrap_data_key(&kek(), method, b"aad", &wrapped, other).is_err());
        });
        assert_eq!(there_and_back, 0, "{method:?}");
    }
    let there_and_back = leaks(|| {
        let wrapped = wrap_kek(&kek(), b"aad", &kek()).unwrap();
        assert!(unwrap_kek(&kek(), b"aad", &wrapped).is_ok());
    });
    assert_eq!(there_and_back, 0, "KEK");
}
