//! What the benches of the core have in common: a key, a header, values of each size, and the steps of the hot path.

use colcrypt_core::context::{ContextWriter, head};
use colcrypt_core::nonce::NoncePool;
use colcrypt_core::{DataCipher, DataKey, Header, KeyId, KeyVersion, PlaintextType, Suite, Value};

/// Sizes of values, in bytes.
pub const SIZES: [usize; 7] = [16, 64, 256, 1024, 4096, 16384, 65536];

/// What one process of the server holds for a key.
pub struct Path {
    cipher: DataCipher,
    nonces: NoncePool,
    header: Header<'static>,
    context: Vec<u8>,
    plaintext: Vec<u8>,
    sealed: Vec<u8>,
}

impl Path {
    /// For values of `length` bytes, one of which is sealed already.
    pub fn new(suite: Suite, length: usize) -> Self {
        Self::bound(suite, length, Vec::new())
    }

    /// For values that are bound to a context of row_context's or place_context's, or to none.
    pub fn bound(suite: Suite, length: usize, context: Vec<u8>) -> Self {
        let cipher = DataCipher::new(suite, &DataKey::generate().expect("random bytes"));
        let header = Header {
            suite,
            key: KeyId(0x0123_4567_89ab_cdef),
            version: KeyVersion::FIRST,
            plaintext_type: PlaintextType::BuiltIn(17),
            has_context: !context.is_empty(),
            canonical_context: !context.is_empty(),
            compressed: false,
        };
        let encoded = header.encode().expect("a header");
        let sealed = vec![0; cipher.sealed_len(&encoded, length)];
        let mut path = Self {
            cipher,
            nonces: NoncePool::new(),
            header,
            context,
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
            .seal_into(
                &header,
                &self.context,
                nonce,
                &self.plaintext,
                &mut self.sealed,
            )
            .expect("room for the value");
    }

    /// What decrypt_col does: the header, the cipher.
    pub fn open(&mut self) {
        let value = Value::parse(&self.sealed).expect("a value");
        self.cipher
            .open_into(&value, &self.context, &mut self.plaintext)
            .expect("the value just sealed");
    }

    /// What a census does: the header alone.
    pub fn parse(&self) -> KeyVersion {
        let (header, _) = colcrypt_core::format::parse_header(&self.sealed).expect("a value");
        header.version
    }
}

/// What place_context does at each row, PostgreSQL's part apart: a label and the row's key, of a type that is known.
pub struct Place {
    head: Vec<u8>,
}

impl Place {
    pub fn new() -> Self {
        Self {
            head: head("int4").expect("a name"),
        }
    }

    /// The context, and what `body` makes of it.
    pub fn with<R>(&self, id: i32, body: impl FnOnce(&[u8]) -> R) -> R {
        let mut room = [0; 256];
        let mut writer = ContextWriter::new(&mut room, b"public.customer.iban");
        writer.push(&self.head, Some(&id.to_be_bytes()));
        body(writer.finish().expect("room"))
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}
