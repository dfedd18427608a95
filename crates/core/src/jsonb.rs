//! jsonb as PostgreSQL stores it, read without PostgreSQL.
//!
//! A jsonb is encrypted as it is stored (src/include/utils/jsonb.h), since its binary send form is its text, which
//! costs four times the encryption to write and to parse. A server that stores it in the same way (little-endian,
//! UTF-8) takes it as it is; any other, and whoever reads without us, goes through [`to_json`]. The layout is fixed:
//! `pg_upgrade` moves it from one major version to the next, since 9.4.

use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use crate::memory::{self, OutOfMemory};

const COUNT: u32 = 0x0fff_ffff;
const SCALAR: u32 = 0x1000_0000;
const OBJECT: u32 = 0x2000_0000;
const ARRAY: u32 = 0x4000_0000;
const HAS_OFFSET: u32 = 0x8000_0000;
const TYPE: u32 = 0x7000_0000;

/// Bytes that cannot be read as a stored jsonb.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum JsonbError {
    #[error("not a jsonb as PostgreSQL stores it")]
    NotJsonb,
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

use JsonbError::NotJsonb;

/// A container whose elements are being written.
struct Level<'a> {
    elements: Elements<'a>,
    is_object: bool,
    /// Elements of an array, pairs of an object.
    count: usize,
    next: usize,
}

/// The entries of a container and their data.
#[derive(Clone, Copy)]
struct Elements<'a> {
    entries: &'a [[u8; 4]],
    data: &'a [u8],
}

#[derive(Clone, Copy)]
enum Element<'a> {
    String(&'a str),
    Numeric(&'a [u8]),
    Bool(bool),
    Null,
    Container(&'a [u8]),
}

/// The JSON text of a stored jsonb: the varlena's payload, without its length word. Keys are in the order they are
/// stored.
///
/// # Errors
/// [`NotJsonb`] for anything else, and [`JsonbError::OutOfMemory`]; never a panic, never recursion.
pub fn to_json(stored: &[u8]) -> Result<Zeroizing<String>, JsonbError> {
    // JSON is rarely longer than three times what is stored; growing would leave copies behind.
    let mut out = Text::with_room(3 * stored.len() + 16)?;
    let (root, is_scalar) = open(stored)?;
    if is_scalar {
        if root.count != 1 {
            return Err(NotJsonb);
        }
        match root.elements.get(0)? {
            Element::Container(_) => return Err(NotJsonb),
            scalar => out.scalar(scalar)?,
        }
        return out.finish();
    }
    let mut levels = vec![root];
    out.push(bracket(&levels[0], true))?;
    while let Some(level) = levels.last_mut() {
        if level.next == level.count {
            out.push(bracket(level, false))?;
            levels.pop();
            continue;
        }
        let at = level.next;
        level.next += 1;
        if at > 0 {
            out.push(", ")?;
        }
        let value = if level.is_object {
            let Element::String(key) = level.elements.get(at)? else {
                return Err(NotJsonb);
            };
            out.string(key)?;
            out.push(": ")?;
            level.elements.get(level.count + at)?
        } else {
            level.elements.get(at)?
        };
        if let Element::Container(inner) = value {
            let (inner, is_scalar) = open(inner)?;
            if is_scalar {
                return Err(NotJsonb);
            }
            out.push(bracket(&inner, true))?;
            memory::reserve_amortised(&mut levels, 1)?;
            levels.push(inner);
        } else {
            out.scalar(value)?;
        }
    }
    out.finish()
}

fn bracket(level: &Level<'_>, opens: bool) -> &'static str {
    match (level.is_object, opens) {
        (true, true) => "{",
        (true, false) => "}",
        (false, true) => "[",
        (false, false) => "]",
    }
}

fn open(container: &[u8]) -> Result<(Level<'_>, bool), JsonbError> {
    let (head, rest) = container.split_first_chunk::<4>().ok_or(NotJsonb)?;
    let head = u32::from_le_bytes(*head);
    let count = (head & COUNT) as usize;
    let is_object = match head & (OBJECT | ARRAY) {
        OBJECT => true,
        ARRAY => false,
        _ => return Err(NotJsonb),
    };
    let is_scalar = head & SCALAR != 0;
    if is_scalar && is_object {
        return Err(NotJsonb);
    }
    let entries = if is_object { 2 * count } else { count };
    let (entries, data) = rest.split_at_checked(4 * entries).ok_or(NotJsonb)?;
    let elements = Elements {
        entries: entries.as_chunks::<4>().0,
        data,
    };
    let level = Level {
        elements,
        is_object,
        count,
        next: 0,
    };
    Ok((level, is_scalar))
}

impl<'a> Elements<'a> {
    fn entry(&self, index: usize) -> Option<u32> {
        self.entries
            .get(index)
            .map(|bytes| u32::from_le_bytes(*bytes))
    }

    /// Where an element ends: most entries have its length, every 32nd its end.
    fn end(&self, index: usize) -> Option<usize> {
        let mut end = 0;
        for at in (0..=index).rev() {
            let entry = self.entry(at)?;
            end += (entry & COUNT) as usize;
            if entry & HAS_OFFSET != 0 {
                break;
            }
        }
        Some(end)
    }

    fn get(&self, index: usize) -> Result<Element<'a>, JsonbError> {
        let element = || {
            let start = index
                .checked_sub(1)
                .map_or(Some(0), |before| self.end(before))?;
            let end = self.end(index)?;
            let aligned = || self.data.get(start.next_multiple_of(4)..end);
            Some(match (self.entry(index)? & TYPE) >> 28 {
                0 => Element::String(std::str::from_utf8(self.data.get(start..end)?).ok()?),
                1 => Element::Numeric(payload(aligned()?)?),
                2 => Element::Bool(false),
                3 => Element::Bool(true),
                4 => Element::Null,
                5 => Element::Container(aligned()?),
                _ => return None,
            })
        };
        element().ok_or(NotJsonb)
    }
}

/// What is in a varlena with a length word of four bytes or of one.
fn payload(varlena: &[u8]) -> Option<&[u8]> {
    let first = *varlena.first()?;
    if first & 1 == 1 {
        return varlena.get(1..usize::from(first >> 1));
    }
    let length = u32::from_le_bytes(*varlena.first_chunk()?);
    (length & 3 == 0).then_some(())?;
    varlena.get(4..(length >> 2) as usize)
}

/// JSON that is being written.
struct Text(Zeroizing<Vec<u8>>);

impl Text {
    fn with_room(bytes: usize) -> Result<Self, JsonbError> {
        let mut text = Vec::new();
        memory::reserve(&mut text, bytes)?;
        Ok(Self(Zeroizing::new(text)))
    }

    fn finish(mut self) -> Result<Zeroizing<String>, JsonbError> {
        // Whole strings were put together: it is UTF-8.
        String::from_utf8(std::mem::take(&mut *self.0))
            .map(Zeroizing::new)
            .map_err(|error| {
                error.into_bytes().zeroize();
                NotJsonb
            })
    }

    /// Appends; when there is no room, moves to new memory and wipes the old.
    fn push(&mut self, text: &str) -> Result<(), JsonbError> {
        if self.0.capacity() - self.0.len() < text.len() {
            let mut larger = Self::with_room(2 * (self.0.len() + text.len()))?;
            larger.0.extend_from_slice(&self.0);
            // The old one is wiped as it is dropped.
            *self = larger;
        }
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn scalar(&mut self, element: Element<'_>) -> Result<(), JsonbError> {
        match element {
            Element::String(text) => self.string(text)?,
            Element::Numeric(stored) => self.numeric(stored)?,
            Element::Bool(value) => self.push(if value { "true" } else { "false" })?,
            Element::Null => self.push("null")?,
            Element::Container(_) => return Err(NotJsonb),
        }
        Ok(())
    }

    fn string(&mut self, text: &str) -> Result<(), JsonbError> {
        self.push("\"")?;
        let mut plain = 0;
        for (at, byte) in text.bytes().enumerate() {
            let control;
            let escaped = match byte {
                b'"' => "\\\"",
                b'\\' => "\\\\",
                b'\n' => "\\n",
                b'\r' => "\\r",
                b'\t' => "\\t",
                0..0x20 => {
                    control = format!("\\u{byte:04x}");
                    &control
                }
                _ => continue,
            };
            self.push(&text[plain..at])?;
            self.push(escaped)?;
            plain = at + 1;
        }
        self.push(&text[plain..])?;
        self.push("\"")
    }

    /// A stored numeric (src/backend/utils/adt/numeric.c): sign, weight and display scale in one word or two, then
    /// digits of base 10,000. JSON knows no NaN and no infinity.
    fn numeric(&mut self, stored: &[u8]) -> Result<(), JsonbError> {
        let (fields, rest) = stored.as_chunks::<2>();
        let mut fields = fields.iter().map(|field| u16::from_le_bytes(*field));
        let head = fields.next().ok_or(NotJsonb)?;
        let (negative, scale, weight) = match head >> 14 {
            0b10 => {
                let weight = (head & 0x3f) as i16 - (head & 0x40) as i16;
                (head & 0x2000 != 0, usize::from(head >> 7 & 0x3f), weight)
            }
            0b11 => return Err(NotJsonb),
            sign => (
                sign == 0b01,
                usize::from(head & 0x3fff),
                fields.next().ok_or(NotJsonb)? as i16,
            ),
        };
        let mut digits = Zeroizing::new(Vec::new());
        memory::reserve(&mut digits, fields.len())?;
        digits.extend(fields);
        if !rest.is_empty() || digits.iter().any(|&digit| digit >= 10_000) {
            return Err(NotJsonb);
        }
        let weight = isize::from(weight);
        // A digit is known by its power of 10,000.
        let digit = |power: isize| {
            let at = usize::try_from(weight - power).ok();
            at.and_then(|at| digits.get(at)).copied().unwrap_or(0)
        };
        if negative {
            self.push("-")?;
        }
        self.push(&Zeroizing::new(digit(weight.max(0)).to_string()))?;
        for power in (0..weight).rev() {
            self.push(&Zeroizing::new(format!("{:04}", digit(power))))?;
        }
        if scale > 0 {
            self.push(".")?;
            for group in 0..scale.div_ceil(4) {
                let four = Zeroizing::new(format!("{:04}", digit(-1 - group as isize)));
                self.push(&four[..(scale - 4 * group).min(4)])?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As PostgreSQL 15 stores them, by hand from jsonb.h; the suites compare with a server's.
    fn object() -> Vec<u8> {
        let mut stored = (OBJECT | 2).to_le_bytes().to_vec();
        // Keys "a" and "bc", then the values 1.50 and [true, null, "x\n"].
        for entry in [HAS_OFFSET | 1, 2, 0x1000_0000 | 9, 0x5000_0000 | 18] {
            stored.extend(entry.to_le_bytes());
        }
        stored.extend(b"abc\0");
        // A numeric of 8 bytes: length word, short header with scale 2, digits 1 and 5000.
        stored.extend((10u32 << 2).to_le_bytes());
        for field in [0x8000u16 | 2 << 7, 1, 5000] {
            stored.extend(field.to_le_bytes());
        }
        stored
    }

    fn array(entries: &[u32], data: &[u8]) -> Vec<u8> {
        let mut stored = (ARRAY | entries.len() as u32).to_le_bytes().to_vec();
        for entry in entries {
            stored.extend(entry.to_le_bytes());
        }
        stored.extend(data);
        stored
    }

    #[test]
    fn scalars_arrays_and_strings() {
        let text = |stored: &[u8]| to_json(stored).map(|text| text.to_string());
        assert_eq!(text(&array(&[], b"")).unwrap(), "[]");
        assert_eq!(text(&OBJECT.to_le_bytes()).unwrap(), "{}");
        let stored = array(
            &[HAS_OFFSET | 5, 0x2000_0000, 0x3000_0000, 0x4000_0000],
            "a\"\u{e9}\n".as_bytes(),
        );
        assert_eq!(text(&stored).unwrap(), "[\"a\\\"é\\n\", false, true, null]");
        let mut scalar = array(&[HAS_OFFSET | 2], b"hi");
        scalar[3] |= 0x10;
        assert_eq!(text(&scalar).unwrap(), "\"hi\"");
        // One in another: the inner one begins at a multiple of four.
        let inner = array(&[0x4000_0000 | HAS_OFFSET], b"");
        let outer = array(
            &[HAS_OFFSET | 1, 0x5000_0000 | 11],
            &[&b"a\0\0\0"[..], &inner].concat(),
        );
        assert_eq!(text(&outer).unwrap(), "[\"a\", [null]]");
    }

    #[test]
    fn numbers() {
        let text = |fields: &[u16]| {
            let mut stored = ((4 + 2 * fields.len() as u32) << 2).to_le_bytes().to_vec();
            stored.extend(fields.iter().flat_map(|field| field.to_le_bytes()));
            let entry = HAS_OFFSET | 0x1000_0000 | stored.len() as u32;
            to_json(&array(&[entry], &stored)).map(|text| text.trim_matches(['[', ']']).to_owned())
        };
        for (number, fields) in [
            ("0", &[0x8000][..]),
            ("0.00", &[0x8100]),
            ("1", &[0x8000, 1]),
            ("-12345.67", &[0xa101, 1, 2345, 6700]),
            ("0.0001", &[0x827f, 1]),
            ("0.00001000", &[0x847e, 1000]),
            ("10000", &[0x8001, 1]),
            ("100000000.5", &[0x8082, 1, 0, 0, 5000]),
            // A long header: sign and scale, weight.
            ("-70000", &[0x4000, 1, 7]),
        ] {
            assert_eq!(text(fields).as_deref(), Ok(number), "{fields:x?}");
        }
        for refused in [&[][..], &[0xc000], &[0xd000], &[0x8000, 10_000]] {
            assert_eq!(text(refused), Err(NotJsonb), "{refused:x?}");
        }
    }

    #[test]
    fn what_is_damaged_is_an_error_and_never_a_panic() {
        let mut whole = object();
        assert_eq!(
            to_json(&whole),
            Err(NotJsonb),
            "its last element is missing"
        );
        for cut in 0..whole.len() {
            assert!(to_json(&whole[..cut]).is_err());
        }
        for at in 0..whole.len() {
            let before = whole[at];
            for byte in 0..=255 {
                whole[at] = byte;
                let _ = to_json(&whole);
            }
            whole[at] = before;
        }
    }
}
