//! What the benches of the core have in common: a key, a header, values of each size, and the steps of the hot path.

use colcrypt_core::nonce::NoncePool;
use colcrypt_core::{DataCipher, DataKey, Header, KeyId, KeyVersion, PlaintextType, Suite, Value};

/// Sizes of values, in bytes.
pub const SIZES: [usize; 7] = [16, 64, 256, 1024, 4096, 16384, 65536];

/// What one process of the server holds for a key.
pub struct Path {
    cipher: DataCipher,
    nonces: NoncePool,
    header: Header<'static>,
    plaintext: Vec<u8>,
    sealed: Vec<u8>,
}

impl Path {
    /// For values of `length` bytes, one of which is sealed already.
    pub fn new(suite: Suite, length: usize) -> Self {
        let cipher = DataCipher::new(suite, &DataKey::generate().expect("random bytes"));
        let header = Header {
            suite,
            key: KeyId(0x0123_4567_89ab_cdef),
            version: KeyVersion::FIRST,
            plaintext_type: PlaintextType::BuiltIn(17),
            has_context: false,
            canonical_context: false,
            compressed: false,
        };
        let encoded = header.encode().expect("a header");
        let sealed = vec![0; cipher.sealed_len(&encoded, length)];
        let mut path = Self {
            cipher,
            nonces: NoncePool::new(),
            header,
            plaintext: vec![0x5a; length],
            sealed,
        };
        path.seal();
        path
    }

    /// What encrypt_col does to a value, PostgreSQL's part apart: a nonce, the header, the cipher.
    pub fn seal(&mut self) {
        let header = self.header.encode().expect("a header");
        let nonce = self
            .nonces
            .draw(std::process::id() as i32, self.cipher.suite().nonce_len())
            .expect("random bytes");
        self.cipher
            .seal_into(&header, b"", nonce, &self.plaintext, &mut self.sealed)
            .expect("room for the value");
    }

    /// What decrypt_col does: the header, the cipher.
    pub fn open(&mut self) {
        let value = Value::parse(&self.sealed).expect("a value");
        self.cipher
            .open_into(&value, b"", &mut self.plaintext)
            .expect("the value just sealed");
    }

    /// What a census does: the header alone.
    pub fn parse(&self) -> KeyVersion {
        let (header, _) = colcrypt_core::format::parse_header(&self.sealed).expect("a value");
        header.version
    }
}
