//! Golden values and repeatable randomness for the other modules.

use std::path::PathBuf;

use colcrypt_core::compression::Packed;
use colcrypt_core::{
    CryptoError, DataCipher, DataKey, Header, KeyId, KeyVersion, PlaintextType, Suite, Value,
};
use serde::Deserialize;
use shake::{
    Shake128, Shake128Reader,
    digest::{ExtendableOutput, Update, XofReader},
};

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(path)
}

pub fn unhex(text: &str) -> Vec<u8> {
    hex::decode(text).expect("hexadecimal")
}

/// Bytes in the golden file: hexadecimal there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hex(pub Vec<u8>);

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(unhex(&text)))
    }
}

#[derive(Deserialize)]
pub struct Golden {
    pub values: Vec<GoldenValue>,
    pub wrapped_deks: Vec<serde_json::Value>,
    pub wrapped_keks: Vec<serde_json::Value>,
    pub row_contexts: Vec<GoldenContext>,
}

#[derive(Deserialize)]
pub struct GoldenContext {
    pub columns: Vec<(String, Option<Hex>)>,
    pub bytes: Hex,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub enum GoldenType {
    BuiltIn(u16),
    Named(String),
}

#[derive(Deserialize)]
pub struct GoldenValue {
    pub name: String,
    pub suite: Suite,
    pub dek: Hex,
    pub key_id: KeyId,
    pub version: KeyVersion,
    #[serde(rename = "type")]
    pub plaintext_type: GoldenType,
    pub context: Hex,
    pub nonce: Hex,
    #[serde(default)]
    pub compressed: bool,
    /// Whether the context's canonical form is authenticated.
    #[serde(default)]
    pub canonical: bool,
    /// What is encrypted: packed, where it is compressed.
    pub plaintext: Hex,
    pub value: Hex,
}

pub fn golden() -> Golden {
    let path = repository("tests/vectors/golden.json");
    let text = std::fs::read_to_string(path).expect("the golden file");
    serde_json::from_str(&text).expect("the golden file's form")
}

impl GoldenValue {
    pub fn header(&self) -> Header<'_> {
        Header {
            suite: self.suite,
            key: self.key_id,
            version: self.version,
            plaintext_type: match &self.plaintext_type {
                GoldenType::BuiltIn(13802) => PlaintextType::StoredJsonb,
                GoldenType::BuiltIn(code) => PlaintextType::BuiltIn(*code),
                GoldenType::Named(name) => PlaintextType::Named(name),
            },
            has_context: !self.context.0.is_empty(),
            canonical_context: self.canonical,
            compressed: self.compressed,
        }
    }

    /// What the value stands for.
    pub fn unpacked(&self) -> Vec<u8> {
        if !self.compressed {
            return self.plaintext.0.clone();
        }
        let packed = Packed::parse(&self.plaintext.0).unwrap();
        let mut plaintext = vec![0; packed.len()];
        packed.unpack_into(&mut plaintext).unwrap();
        plaintext
    }

    pub fn cipher(&self) -> DataCipher {
        cipher(self.suite, &self.dek.0)
    }
}

pub fn cipher(suite: Suite, key: &[u8]) -> DataCipher {
    DataCipher::new(suite, &DataKey::from_slice(key).unwrap())
}

/// A header with nothing remarkable about it.
pub fn plain_header(suite: Suite, has_context: bool) -> Header<'static> {
    Header {
        suite,
        key: KeyId(0x0123_4567_89ab_cdef),
        version: KeyVersion::FIRST,
        plaintext_type: PlaintextType::BuiltIn(25),
        has_context,
        canonical_context: false,
        compressed: false,
    }
}

pub fn seal(
    cipher: &DataCipher,
    header: &Header<'_>,
    context: &[u8],
    nonce: &[u8],
    plaintext: &[u8],
) -> Vec<u8> {
    let header = header.encode().unwrap();
    let mut value = vec![0; cipher.sealed_len(&header, plaintext.len())];
    cipher
        .seal_into(&header, context, nonce, plaintext, &mut value)
        .unwrap();
    value
}

/// What a reader does with a stored value: parse, then open.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    Format(colcrypt_core::FormatError),
    Crypto(CryptoError),
}

pub fn open(cipher: &DataCipher, value: &[u8], context: &[u8]) -> Result<Vec<u8>, Refusal> {
    let value = Value::parse(value).map_err(Refusal::Format)?;
    let mut plaintext = vec![0xa5; value.ciphertext.len()];
    match cipher.open_into(&value, context, &mut plaintext) {
        Ok(()) => Ok(plaintext),
        Err(error) => {
            let is_all = |filler| plaintext.iter().all(|&byte| byte == filler);
            assert!(
                is_all(0) || is_all(0xa5),
                "a refused value left something in the buffer"
            );
            Err(Refusal::Crypto(error))
        }
    }
}

pub const SUITES: [Suite; 2] = [Suite::Aes256Gcm, Suite::Xaes256Gcm];

/// Random bytes that are the same at every run: a failure can be looked at again.
pub struct Repeatable(Shake128Reader);

impl Repeatable {
    pub fn new(label: &str) -> Self {
        let mut seed = Shake128::default();
        seed.update(label.as_bytes());
        Self(seed.finalize_xof())
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read(&mut bytes);
        bytes
    }

    pub fn number(&mut self) -> u64 {
        u64::from_be_bytes(self.bytes(8).try_into().unwrap())
    }

    /// From 0 to `limit` − 1.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.number() % limit as u64) as usize
    }
}
