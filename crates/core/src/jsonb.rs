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

/// A container that is being walked through.
struct Level<'a> {
    elements: Elements<'a>,
    is_object: bool,
    /// Elements of an array, pairs of an object.
    count: usize,
    next: usize,
    /// Where the next key begins, and the next value or element: each begins where the one before it ends.
    key_at: usize,
    value_at: usize,
}

/// The entries of a container and their data.
#[derive(Clone, Copy)]
struct Elements<'a> {
    entries: &'a [[u8; 4]],
    data: &'a [u8],
}

#[derive(Clone, Copy)]
enum Element<'a> {
    /// Not looked at yet.
    String(&'a [u8]),
    Numeric(Numeric<'a>),
    Bool(bool),
    Null,
    Container(&'a [u8]),
}

/// What is made of a jsonb that is walked through.
trait Sink {
    fn opens(&mut self, level: &Level<'_>) -> Result<(), JsonbError>;
    fn closes(&mut self, level: &Level<'_>) -> Result<(), JsonbError>;
    fn separates(&mut self) -> Result<(), JsonbError>;
    fn key(&mut self, key: &[u8]) -> Result<(), JsonbError>;
    /// Never a container.
    fn scalar(&mut self, element: Element<'_>) -> Result<(), JsonbError>;
}

/// Elements between two breaths.
const BREATH: u32 = 256;

/// The JSON text of a stored jsonb: the varlena's payload, without its length word. Keys are in the order they are
/// stored. `breathe` is called now and then, and may unwind: a large document takes seconds.
///
/// # Errors
/// [`NotJsonb`] for anything else, and [`JsonbError::OutOfMemory`]; never a panic of its own, never recursion.
pub fn to_json(stored: &[u8], breathe: impl FnMut()) -> Result<Zeroizing<String>, JsonbError> {
    // JSON is rarely longer than three times what is stored; growing would leave copies behind.
    let mut out = Text::with_room(3 * stored.len() + 16)?;
    walk(stored, &mut out, breathe)?;
    out.finish()
}

/// Refuses bytes that are no stored jsonb: a server believes what it stores, and follows lengths and offsets in it
/// wherever they lead. Texts have to be UTF-8, unless `any_text`: where the database's encoding is SQL_ASCII.
///
/// # Errors
/// As [`to_json`].
pub fn check(stored: &[u8], any_text: bool, breathe: impl FnMut()) -> Result<(), JsonbError> {
    walk(stored, &mut Check { any_text }, breathe)
}

fn walk(stored: &[u8], out: &mut impl Sink, mut breathe: impl FnMut()) -> Result<(), JsonbError> {
    let (mut root, is_scalar) = open(stored)?;
    if is_scalar {
        if root.count != 1 {
            return Err(NotJsonb);
        }
        return match root.value()? {
            Element::Container(_) => Err(NotJsonb),
            scalar => out.scalar(scalar),
        };
    }
    // The one at hand, and those around it.
    let (mut level, mut around) = (root, Vec::new());
    out.opens(&level)?;
    let mut until_breath = BREATH;
    loop {
        until_breath -= 1;
        if until_breath == 0 {
            until_breath = BREATH;
            breathe();
        }
        if level.next == level.count {
            out.closes(&level)?;
            match around.pop() {
                Some(outer) => level = outer,
                None => return Ok(()),
            }
            continue;
        }
        if level.next > 0 {
            out.separates()?;
        }
        if level.is_object {
            out.key(level.key()?)?;
        }
        let value = level.value()?;
        level.next += 1;
        if let Element::Container(inner) = value {
            let (inner, is_scalar) = open(inner)?;
            if is_scalar {
                return Err(NotJsonb);
            }
            out.opens(&inner)?;
            memory::reserve_amortised(&mut around, 1)?;
            around.push(std::mem::replace(&mut level, inner));
        } else {
            out.scalar(value)?;
        }
    }
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
    let mut value_at = 0;
    if is_object {
        // Values come after all keys.
        for index in 0..count {
            value_at = elements.end(index, value_at).ok_or(NotJsonb)?;
        }
    }
    let level = Level {
        elements,
        is_object,
        count,
        next: 0,
        key_at: 0,
        value_at,
    };
    Ok((level, is_scalar))
}

impl<'a> Level<'a> {
    /// The next key.
    fn key(&mut self) -> Result<&'a [u8], JsonbError> {
        let (key, end) = self.elements.get(self.next, self.key_at).ok_or(NotJsonb)?;
        self.key_at = end;
        match key {
            Element::String(key) => Ok(key),
            _ => Err(NotJsonb),
        }
    }

    /// The next value or element.
    fn value(&mut self) -> Result<Element<'a>, JsonbError> {
        let index = if self.is_object {
            self.count + self.next
        } else {
            self.next
        };
        let (value, end) = self.elements.get(index, self.value_at).ok_or(NotJsonb)?;
        self.value_at = end;
        Ok(value)
    }
}

impl<'a> Elements<'a> {
    fn entry(&self, index: usize) -> Option<u32> {
        self.entries
            .get(index)
            .map(|bytes| u32::from_le_bytes(*bytes))
    }

    /// Where an element ends that begins there: most entries have its length, every 32nd its end. None ends before it
    /// begins, so that no byte is in two of them.
    fn end(&self, index: usize, start: usize) -> Option<usize> {
        let entry = self.entry(index)?;
        let number = (entry & COUNT) as usize;
        if entry & HAS_OFFSET == 0 {
            start.checked_add(number)
        } else {
            (number >= start).then_some(number)
        }
    }

    /// The element that begins there, and where it ends.
    fn get(&self, index: usize, start: usize) -> Option<(Element<'a>, usize)> {
        let end = self.end(index, start)?;
        let aligned = || self.data.get(start.next_multiple_of(4)..end);
        let element = match (self.entry(index)? & TYPE) >> 28 {
            0 => Element::String(self.data.get(start..end)?),
            1 => Element::Numeric(Numeric::read(payload(aligned()?)?)?),
            2 => Element::Bool(false),
            3 => Element::Bool(true),
            4 => Element::Null,
            5 => Element::Container(aligned()?),
            _ => return None,
        };
        Some((element, end))
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

    /// JSON knows no zeros at a number's beginning, which a numeric that is not normalised has.
    fn numeric(&mut self, number: Numeric<'_>) -> Result<(), JsonbError> {
        if number.is_negative {
            self.push("-")?;
        }
        let first = (0..=number.weight)
            .rev()
            .find(|&power| number.digit(power) != 0);
        let first = first.unwrap_or(0);
        self.push(&Zeroizing::new(number.digit(first).to_string()))?;
        for power in (0..first).rev() {
            self.push(&Zeroizing::new(format!("{:04}", number.digit(power))))?;
        }
        if number.scale > 0 {
            self.push(".")?;
            for group in 0..number.scale.div_ceil(4) {
                let four = Zeroizing::new(format!("{:04}", number.digit(-1 - group as isize)));
                self.push(&four[..(number.scale - 4 * group).min(4)])?;
            }
        }
        Ok(())
    }
}

impl Sink for Text {
    fn opens(&mut self, level: &Level<'_>) -> Result<(), JsonbError> {
        self.push(bracket(level, true))
    }

    fn closes(&mut self, level: &Level<'_>) -> Result<(), JsonbError> {
        self.push(bracket(level, false))
    }

    fn separates(&mut self) -> Result<(), JsonbError> {
        self.push(", ")
    }

    fn key(&mut self, key: &[u8]) -> Result<(), JsonbError> {
        self.string(text(key)?)?;
        self.push(": ")
    }

    fn scalar(&mut self, element: Element<'_>) -> Result<(), JsonbError> {
        match element {
            Element::String(bytes) => self.string(text(bytes)?),
            Element::Numeric(number) => self.numeric(number),
            Element::Bool(value) => self.push(if value { "true" } else { "false" }),
            Element::Null => self.push("null"),
            Element::Container(_) => Err(NotJsonb),
        }
    }
}

fn text(bytes: &[u8]) -> Result<&str, JsonbError> {
    std::str::from_utf8(bytes).map_err(|_| NotJsonb)
}

/// Makes nothing.
struct Check {
    any_text: bool,
}

impl Sink for Check {
    fn opens(&mut self, _: &Level<'_>) -> Result<(), JsonbError> {
        Ok(())
    }

    fn closes(&mut self, _: &Level<'_>) -> Result<(), JsonbError> {
        Ok(())
    }

    fn separates(&mut self) -> Result<(), JsonbError> {
        Ok(())
    }

    fn key(&mut self, key: &[u8]) -> Result<(), JsonbError> {
        self.scalar(Element::String(key))
    }

    fn scalar(&mut self, element: Element<'_>) -> Result<(), JsonbError> {
        match element {
            Element::String(bytes) if !self.any_text => text(bytes).map(|_| ()),
            _ => Ok(()),
        }
    }
}

/// A stored numeric (src/backend/utils/adt/numeric.c): sign, weight and display scale in one word or two, then digits
/// of base 10,000.
#[derive(Clone, Copy)]
struct Numeric<'a> {
    is_negative: bool,
    /// Decimals.
    scale: usize,
    /// The first digit's power of 10,000.
    weight: isize,
    digits: &'a [[u8; 2]],
}

impl<'a> Numeric<'a> {
    /// None for what is no number in JSON, which knows no NaN and no infinity.
    fn read(stored: &'a [u8]) -> Option<Self> {
        let (fields, []) = stored.as_chunks::<2>() else {
            return None;
        };
        let (head, rest) = fields.split_first()?;
        let head = u16::from_le_bytes(*head);
        let (is_negative, scale, weight, digits) = match head >> 14 {
            0b10 => {
                let weight = (head & 0x3f) as i16 - (head & 0x40) as i16;
                (head & 0x2000 != 0, head >> 7 & 0x3f, weight, rest)
            }
            0b11 => return None,
            sign => {
                let (weight, digits) = rest.split_first()?;
                (
                    sign == 0b01,
                    head & 0x3fff,
                    i16::from_le_bytes(*weight),
                    digits,
                )
            }
        };
        let are_digits = digits
            .iter()
            .all(|digit| u16::from_le_bytes(*digit) < 10_000);
        are_digits.then_some(Self {
            is_negative,
            scale: scale.into(),
            weight: weight.into(),
            digits,
        })
    }

    /// The digit of this power of 10,000.
    fn digit(&self, power: isize) -> u16 {
        let at = usize::try_from(self.weight - power).ok();
        let digit = at.and_then(|at| self.digits.get(at));
        digit.map_or(0, |digit| u16::from_le_bytes(*digit))
    }
}

#[cfg(test)]
mod tests;
