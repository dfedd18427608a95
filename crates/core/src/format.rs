//! The value on disk: what `docs/format.md` says, byte by byte, and nothing else.
//!
//! ```text
//! offset  length  content
//! 0       1       format version (high 4 bits, 1), flag 8 and suite (low 3 bits)
//! 1       2       flags (top 2 bits) and plaintext type (low 14 bits), big-endian
//! 3       8       key id, big-endian
//! 11      1…5     key version, unsigned LEB128, canonical, 1 or more
//! …       0 or 1+n  type name, only for plaintext type 0: length byte (1…255), UTF-8
//! …       12|24   nonce
//! …       n       ciphertext
//! …       16      tag
//! ```
//!
//! The header (everything before the nonce) is additional data of the AEAD, so no bit of it can be
//! changed unseen. A [`Value`] borrows a byte string whose header has been parsed whole: code that
//! holds one need not check lengths again.

use crate::{FormatError, KeyId, KeyVersion, Suite};

/// The format this code writes, and the only one it reads.
pub const FORMAT_VERSION: u8 = 1;

/// Longest header: the fixed part, a 5-byte version and a 255-byte type name.
pub const MAX_HEADER_LEN: usize = 11 + 5 + 1 + 255;

/// In the first byte.
const FLAG_CANONICAL: u8 = 0x08;
const FLAG_COMPRESSED: u16 = 0x8000;
const FLAG_CONTEXT: u16 = 0x4000;
const TYPE_MASK: u16 = 0x3fff;
const FIXED_LEN: usize = 11;

/// The type of the encrypted value, and the form it is in.
///
/// PostgreSQL fixes the OIDs below 10000 for ever, so those are written as they are. Any other
/// type's OID changes at a dump and restore, so its name is written instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaintextType<'a> {
    /// A built-in type by its OID, 1…9999.
    BuiltIn(u16),
    /// jsonb, not in its binary send form but as a little-endian PostgreSQL stores it, with text in UTF-8: see
    /// [`crate::jsonb`].
    StoredJsonb,
    /// Any other type by its schema-qualified, quoted name, 1…255 bytes.
    Named(&'a str),
}

/// Beyond every built-in OID: jsonb's, 3802, and 10000.
const STORED_JSONB: u16 = 13_802;

impl PlaintextType<'_> {
    /// First OID that is not the same in every PostgreSQL (FirstGenbkiObjectId).
    pub const FIRST_UNSTABLE_OID: u32 = 10_000;

    /// The built-in type with this OID.
    ///
    /// # Errors
    /// [`FormatError::TypeCode`] outside 1…9999.
    pub fn built_in(oid: u32) -> Result<Self, FormatError> {
        match u16::try_from(oid) {
            Ok(code) if (1..Self::FIRST_UNSTABLE_OID).contains(&oid) => Ok(Self::BuiltIn(code)),
            _ => Err(FormatError::TypeCode(oid)),
        }
    }
}

/// What a value says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    pub suite: Suite,
    pub key: KeyId,
    pub version: KeyVersion,
    pub plaintext_type: PlaintextType<'a>,
    /// Whether a non-empty context was authenticated: lets a reader who forgot it be told so.
    pub has_context: bool,
    /// Whether the canonical form of that context was authenticated ([`crate::context::Typed`]), and not its bytes.
    pub canonical_context: bool,
    /// Whether what is encrypted is the plaintext as [`crate::compression`] packs it.
    pub compressed: bool,
}

/// A header as bytes.
#[derive(Clone, Copy)]
pub struct EncodedHeader {
    bytes: [u8; MAX_HEADER_LEN],
    len: usize,
}

impl EncodedHeader {
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// A header's bytes as they stand in a value.
    pub(crate) fn copied(header: &[u8]) -> Self {
        let mut out = Self {
            bytes: [0; MAX_HEADER_LEN],
            len: 0,
        };
        out.push(header);
        out
    }

    /// Whether the bytes say this about the value.
    pub(crate) fn describes(&self, suite: Suite, has_context: bool) -> bool {
        self.bytes[0] & !FLAG_CANONICAL == FORMAT_VERSION << 4 | suite.number()
            && (self.bytes[1] & (FLAG_CONTEXT >> 8) as u8 != 0) == has_context
    }

    /// Whether the canonical form of the context is authenticated.
    pub(crate) fn is_canonical(&self) -> bool {
        self.bytes[0] & FLAG_CANONICAL != 0
    }

    /// The same header, for the plaintext compressed.
    #[must_use]
    pub fn with_compression(mut self) -> Self {
        self.bytes[1] |= (FLAG_COMPRESSED >> 8) as u8;
        self
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

impl Header<'_> {
    /// The header's bytes.
    ///
    /// # Errors
    /// [`FormatError::TypeNameLength`] or [`FormatError::TypeCode`] for a type that does not fit.
    pub fn encode(&self) -> Result<EncodedHeader, FormatError> {
        let mut out = EncodedHeader::copied(&[]);
        let type_code = match self.plaintext_type {
            PlaintextType::BuiltIn(code) => {
                PlaintextType::built_in(code.into())?;
                code
            }
            PlaintextType::StoredJsonb => STORED_JSONB,
            PlaintextType::Named(_) => 0,
        };
        let flag = |set: bool, flag: u16| if set { flag } else { 0 };
        let flags = flag(self.has_context, FLAG_CONTEXT) | flag(self.compressed, FLAG_COMPRESSED);
        let canonical = if self.canonical_context {
            FLAG_CANONICAL
        } else {
            0
        };
        out.push(&[FORMAT_VERSION << 4 | canonical | self.suite.number()]);
        out.push(&(flags | type_code).to_be_bytes());
        out.push(&self.key.0.to_be_bytes());
        let mut rest = self.version.number();
        while rest >= 0x80 {
            out.push(&[rest as u8 | 0x80]);
            rest >>= 7;
        }
        out.push(&[rest as u8]);
        if let PlaintextType::Named(name) = self.plaintext_type {
            let length = u8::try_from(name.len())
                .ok()
                .filter(|&length| length > 0)
                .ok_or(FormatError::TypeNameLength(name.len()))?;
            out.push(&[length]);
            out.push(name.as_bytes());
        }
        Ok(out)
    }
}

/// What a value becomes when it is sealed again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    pub suite: Suite,
    pub key: KeyId,
    pub version: KeyVersion,
    /// Whether it is bound to a context, and whether to one in canonical form.
    pub has_context: bool,
    pub canonical_context: bool,
}

impl Renewal {
    /// The header of the value when it has become this.
    ///
    /// # Errors
    /// As [`Header::encode`].
    pub fn header_of(self, value: &Value<'_>) -> Result<EncodedHeader, FormatError> {
        Header {
            suite: self.suite,
            key: self.key,
            version: self.version,
            has_context: self.has_context,
            canonical_context: self.canonical_context,
            ..value.header
        }
        .encode()
    }
}

/// The header of a value that is sealed again, kept for the next value: most often it is the same.
#[derive(Clone, Copy)]
pub struct RenewedHeader {
    /// The value's own header; none yet if it is empty.
    former: EncodedHeader,
    renewal: Option<Renewal>,
    header: EncodedHeader,
}

impl Default for RenewedHeader {
    fn default() -> Self {
        Self {
            former: EncodedHeader::copied(&[]),
            renewal: None,
            header: EncodedHeader::copied(&[]),
        }
    }
}

impl RenewedHeader {
    /// As [`Renewal::header_of`].
    ///
    /// # Errors
    /// The same.
    pub fn of(
        &mut self,
        value: &Value<'_>,
        renewal: Renewal,
    ) -> Result<&EncodedHeader, FormatError> {
        if self.former.as_bytes() != value.header_bytes || self.renewal != Some(renewal) {
            self.header = renewal.header_of(value)?;
            self.former = EncodedHeader::copied(value.header_bytes);
            self.renewal = Some(renewal);
        }
        Ok(&self.header)
    }
}

/// A whole value, its header parsed and its length checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value<'a> {
    pub header: Header<'a>,
    /// The header's bytes as they stand: the first part of the additional data.
    pub header_bytes: &'a [u8],
    pub nonce: &'a [u8],
    pub ciphertext: &'a [u8],
    pub tag: &'a [u8],
}

impl<'a> Value<'a> {
    /// Parses a stored value. Only the header is understood; nothing is authenticated yet.
    ///
    /// # Errors
    /// [`FormatError`] for anything that is not exactly a value of this format.
    // Inlined whole: an enum that is passed through memory is copied piece by piece, each piece waiting for the last to
    // be stored. That was a fifth of a small value's decryption.
    #[inline(always)]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FormatError> {
        let (header, header_len) = parse_header(bytes)?;
        let (header_bytes, body) = bytes.split_at(header_len);
        let (nonce_len, tag_len) = (header.suite.nonce_len(), header.suite.tag_len());
        if body.len() < nonce_len + tag_len {
            return Err(FormatError::Truncated {
                length: bytes.len(),
                needed: header_len + nonce_len + tag_len,
            });
        }
        let (nonce, rest) = body.split_at(nonce_len);
        let (ciphertext, tag) = rest.split_at(rest.len() - tag_len);
        Ok(Self {
            header,
            header_bytes,
            nonce,
            ciphertext,
            tag,
        })
    }
}

/// Parses the header alone, which is all that a census needs: the caller may pass just the first
/// [`MAX_HEADER_LEN`] bytes of a value. Returns the header and its length.
///
/// # Errors
/// As [`Value::parse`], lengths beyond the header excepted.
#[inline(always)]
pub fn parse_header(bytes: &[u8]) -> Result<(Header<'_>, usize), FormatError> {
    let truncated = |needed| FormatError::Truncated {
        length: bytes.len(),
        needed,
    };
    let &first = bytes.first().ok_or(FormatError::Empty)?;
    if first >> 4 != FORMAT_VERSION {
        return Err(FormatError::UnknownFormat(first >> 4));
    }
    let suite = Suite::from_number(first & 0x07).ok_or(FormatError::UnknownSuite(first & 0x0f))?;
    let fixed = bytes
        .first_chunk::<FIXED_LEN>()
        .ok_or(truncated(FIXED_LEN + 1))?;
    let flags_and_type = u16::from_be_bytes([fixed[1], fixed[2]]);
    let key = KeyId(u64::from_be_bytes(
        fixed[3..].try_into().expect("8 bytes follow the type"),
    ));
    let has_context = flags_and_type & FLAG_CONTEXT != 0;
    let canonical_context = first & FLAG_CANONICAL != 0;
    // The form of a context that is not there would be a second spelling.
    if canonical_context && !has_context {
        return Err(FormatError::UnknownSuite(first & 0x0f));
    }
    let (version, version_len) = parse_version(&bytes[FIXED_LEN..], truncated)?;
    let mut len = FIXED_LEN + version_len;
    let plaintext_type = match flags_and_type & TYPE_MASK {
        0 => {
            let &name_len = bytes.get(len).ok_or(truncated(len + 1))?;
            if name_len == 0 {
                return Err(FormatError::TypeNameLength(0));
            }
            let end = len + 1 + usize::from(name_len);
            let name = bytes.get(len + 1..end).ok_or(truncated(end))?;
            len = end;
            PlaintextType::Named(std::str::from_utf8(name).map_err(|_| FormatError::BadTypeName)?)
        }
        STORED_JSONB => PlaintextType::StoredJsonb,
        code => PlaintextType::built_in(code.into())?,
    };
    let header = Header {
        suite,
        key,
        version,
        plaintext_type,
        has_context,
        canonical_context,
        compressed: flags_and_type & FLAG_COMPRESSED != 0,
    };
    Ok((header, len))
}

#[inline(always)]
fn parse_version(
    bytes: &[u8],
    truncated: impl Fn(usize) -> FormatError,
) -> Result<(KeyVersion, usize), FormatError> {
    let mut number: u64 = 0;
    for (index, &byte) in bytes.iter().take(5).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            // A last byte of zero would be a second spelling of a shorter number.
            if index > 0 && byte == 0 {
                return Err(FormatError::BadKeyVersion);
            }
            let version = u32::try_from(number)
                .ok()
                .and_then(KeyVersion::new)
                .ok_or(FormatError::BadKeyVersion)?;
            return Ok((version, index + 1));
        }
    }
    if bytes.len() < 5 {
        Err(truncated(FIXED_LEN + bytes.len() + 1))
    } else {
        Err(FormatError::BadKeyVersion)
    }
}
