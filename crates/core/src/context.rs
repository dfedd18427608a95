//! The context of a value: a label and a list of typed SQL values as bytes, the same on every server.
//!
//! ```text
//! 0x01                      without a label (row_context), or
//! 0x02 u8 bytes             with one (place_context): its length, 1…255, and the label in UTF-8
//! per value:
//!   u8                      type name length (1…255)
//!   bytes                   type name, UTF-8: pg_type's own (`int4`), qualified unless built in
//!   u32 BE                  value length; 0xffffffff is NULL
//!   bytes                   the type's binary send form
//! ```
//!
//! Types and lengths are written, so `('a', 'bc')` and `('ab', 'c')`, 1::int and '1', NULL and the empty string all
//! differ.
//!
//! What is authenticated is not these bytes but their canonical form ([`Typed::write`]): it begins with 0x02 always, a
//! label's length of 0 being none, and has one type for all integers (`int8`), numeric without trailing zeros, and
//! char(n) as its text. Values of encoding 1 were sealed with the bytes themselves (and char(n) under the name of
//! text); a flag of the value's header tells the two apart.

use crate::FormatError;
use crate::memory::{self, OutOfMemory};

const NULL_LENGTH: u32 = u32::MAX;
const PLAIN: u8 = 1;
const LABELLED: u8 = 2;

/// Bytes that are a context as [`ContextBuilder`] makes it, and not any others that serve as one.
#[derive(Debug, Clone, Copy)]
pub struct Typed<'a> {
    label: &'a [u8],
    values: &'a [u8],
}

impl<'a> Typed<'a> {
    /// `None` for other bytes.
    #[inline(always)]
    pub fn parse(context: &'a [u8]) -> Option<Self> {
        let (label, values) = match context {
            [PLAIN, values @ ..] => (&[][..], values),
            [LABELLED, length, rest @ ..] => rest.split_at_checked((*length).into())?,
            _ => return None,
        };
        let mut rest = values;
        while !rest.is_empty() {
            (_, rest) = split_value(rest)?;
        }
        Some(Self { label, values })
    }

    pub fn has_label(&self) -> bool {
        !self.label.is_empty()
    }

    /// Empty where there is none.
    pub fn label(&self) -> &'a [u8] {
        self.label
    }

    /// No canonical form is longer.
    pub fn max_len(&self) -> usize {
        // An int2 grows by 6 bytes from the 11 that it has with its type.
        2 + self.label.len() + 2 * self.values.len()
    }

    /// Writes the canonical form, for which there must be room: [`max_len`](Self::max_len).
    #[inline(always)]
    pub fn write(&self, out: &mut Pieces<'_>) {
        out.put(&[LABELLED, self.label.len() as u8]);
        out.put(self.label);
        let mut rest = self.values;
        while let Some(((name, value), more)) = split_value(rest) {
            match (name, value) {
                (b"int2" | b"int4" | b"int8", value) => {
                    let number = value.and_then(integer);
                    match (number, value) {
                        (Some(number), _) => put(out, b"int8", Some(&number.to_be_bytes())),
                        (None, other) => put(out, b"int8", other),
                    }
                }
                (b"bpchar", Some(value)) => {
                    let kept = value.iter().rposition(|&byte| byte != b' ');
                    put(out, b"text", Some(&value[..kept.map_or(0, |at| at + 1)]));
                }
                (b"bpchar", None) => put(out, b"text", None),
                (b"numeric", Some(value)) => match numeric_scale(value) {
                    Some((scale, digits)) => {
                        put_head(out, b"numeric", 8 + digits.len() as u32);
                        out.put(&((digits.len() / 2) as u16).to_be_bytes());
                        out.put(&value[2..6]);
                        out.put(&scale.to_be_bytes());
                        out.put(digits);
                    }
                    None => put(out, b"numeric", Some(value)),
                },
                (name, value) => put(out, name, value),
            }
            rest = more;
        }
    }

    /// The names of types in it, each once.
    #[must_use]
    pub fn type_names(&self) -> Vec<&'a [u8]> {
        let mut names = Vec::new();
        let mut rest = self.values;
        while let Some(((name, _), more)) = split_value(rest) {
            if !names.contains(&name) {
                names.push(name);
            }
            rest = more;
        }
        names
    }

    /// The values with the names of their types.
    #[must_use]
    pub fn values(&self) -> Vec<NamedValue<'a>> {
        let mut values = Vec::new();
        let mut rest = self.values;
        while let Some((value, more)) = split_value(rest) {
            values.push(value);
            rest = more;
        }
        values
    }

    /// A context with the same label and other values.
    ///
    /// # Errors
    /// [`FormatError::TypeNameLength`], [`FormatError::OutOfMemory`].
    pub fn of_values<'n>(
        &self,
        values: impl IntoIterator<Item = NamedValue<'n>>,
    ) -> Result<Vec<u8>, FormatError> {
        let mut builder = if self.has_label() {
            ContextBuilder::labelled(self.label)?
        } else {
            ContextBuilder::default()
        };
        for (name, value) in values {
            let name = std::str::from_utf8(name);
            builder.push(name.map_err(|_| FormatError::TypeNameLength(0))?, value)?;
        }
        Ok(builder.finish())
    }

    /// The bytes that values of encoding 1 were sealed with, where they are not the context's own: one with char(n).
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn former(&self) -> Result<Option<Vec<u8>>, OutOfMemory> {
        let has_bpchar = |mut rest| {
            while let Some(((name, _), more)) = split_value(rest) {
                if name == b"bpchar" {
                    return true;
                }
                rest = more;
            }
            false
        };
        if self.has_label() || !has_bpchar(self.values) {
            return Ok(None);
        }
        // The name of text is no longer than that of bpchar.
        let mut bytes = memory::zeroed(1 + self.values.len())?;
        let mut out = Pieces::new(&mut bytes);
        out.put(&[PLAIN]);
        let mut rest = self.values;
        while let Some(((name, value), more)) = split_value(rest) {
            put(
                &mut out,
                if name == b"bpchar" { b"text" } else { name },
                value,
            );
            rest = more;
        }
        let length = out.written().len();
        bytes.truncate(length);
        Ok(Some(bytes))
    }
}

/// A type's name and a value, or NULL.
pub type NamedValue<'a> = (&'a [u8], Option<&'a [u8]>);

/// The first value and the bytes after it; `None` at the end, and for bytes that are no value.
#[inline(always)]
fn split_value(bytes: &[u8]) -> Option<(NamedValue<'_>, &[u8])> {
    let (&name_len, rest) = bytes.split_first()?;
    let (name, rest) = rest.split_at_checked(name_len.into())?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    if name.is_empty() {
        return None;
    }
    match u32::from_be_bytes(*length) {
        NULL_LENGTH => Some(((name, None), rest)),
        length => {
            let (value, rest) = rest.split_at_checked(length as usize)?;
            Some(((name, Some(value)), rest))
        }
    }
}

/// Bytes that are written one piece after the other.
pub struct Pieces<'a> {
    room: &'a mut [u8],
    length: usize,
}

impl<'a> Pieces<'a> {
    #[inline(always)]
    pub fn new(room: &'a mut [u8]) -> Self {
        Self { room, length: 0 }
    }

    /// # Panics
    /// Where there is no room for it.
    #[inline(always)]
    pub fn put(&mut self, piece: &[u8]) {
        memory::copy_short(
            &mut self.room[self.length..self.length + piece.len()],
            piece,
        );
        self.length += piece.len();
    }

    #[inline(always)]
    #[must_use]
    pub fn written(self) -> &'a [u8] {
        &self.room[..self.length]
    }
}

#[inline(always)]
fn put_head(out: &mut Pieces<'_>, name: &[u8], length: u32) {
    out.put(&[name.len() as u8]);
    out.put(name);
    out.put(&length.to_be_bytes());
}

#[inline(always)]
fn put(out: &mut Pieces<'_>, name: &[u8], value: Option<&[u8]>) {
    put_head(
        out,
        name,
        value.map_or(NULL_LENGTH, |value| value.len() as u32),
    );
    out.put(value.unwrap_or_default());
}

/// An integer of any width.
fn integer(bytes: &[u8]) -> Option<i64> {
    match *bytes {
        [a, b] => Some(i16::from_be_bytes([a, b]).into()),
        [a, b, c, d] => Some(i32::from_be_bytes([a, b, c, d]).into()),
        _ => Some(i64::from_be_bytes(bytes.try_into().ok()?)),
    }
}

/// A numeric's send form without what does not change its value: how many decimals it needs, and its digits of base
/// 10,000.
fn numeric_scale(send: &[u8]) -> Option<(u16, &[u8])> {
    let (head, digits) = send.split_first_chunk::<8>()?;
    let weight = i16::from_be_bytes([head[2], head[3]]);
    if digits.len() % 2 != 0
        || digits.len() / 2 != usize::from(u16::from_be_bytes([head[0], head[1]]))
    {
        return None;
    }
    let mut digits = digits;
    while let [kept @ .., 0, 0] = digits {
        digits = kept;
    }
    let [.., high, low] = digits else {
        return Some((0, digits));
    };
    let mut last = u16::from_be_bytes([*high, *low]);
    let mut scale = 4 * (digits.len() as i64 / 2 - 1 - i64::from(weight));
    while scale > 0 && last.is_multiple_of(10) && last > 0 {
        last /= 10;
        scale -= 1;
    }
    Some((u16::try_from(scale.max(0)).ok()?, digits))
}

/// Begins a pair of contexts; nothing else that serves as one does.
const PAIR: &[u8; 16] = b"colcrypt either\0";

/// A context and the one that it takes the place of: values are bound to the first, and opened with either.
///
/// ```text
/// 16 bytes "colcrypt either" and NUL | u32 BE length of the first | the first | the other, which may be a pair too
/// ```
///
/// # Errors
/// [`FormatError::OutOfMemory`].
pub fn pair(first: &[u8], former: &[u8]) -> Result<Vec<u8>, FormatError> {
    let length = PAIR.len() + 4 + first.len() + former.len();
    let mut bytes = Vec::new();
    memory::reserve(&mut bytes, length)?;
    bytes.extend_from_slice(PAIR);
    bytes.extend_from_slice(&(first.len() as u32).to_be_bytes());
    bytes.extend_from_slice(first);
    bytes.extend_from_slice(former);
    Ok(bytes)
}

/// The two of a pair.
#[inline]
#[must_use]
pub fn split_pair(context: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = context.strip_prefix(PAIR)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

/// What a value is bound to when it is written: the first of a pair, or the context itself.
#[inline]
#[must_use]
pub fn written(context: &[u8]) -> &[u8] {
    match split_pair(context) {
        Some((first, _)) => first,
        None => context,
    }
}

fn name_len(type_name: &str) -> Result<u8, FormatError> {
    u8::try_from(type_name.len())
        .ok()
        .filter(|&length| length > 0)
        .ok_or(FormatError::TypeNameLength(type_name.len()))
}

fn length_of(value: Option<&[u8]>) -> [u8; 4] {
    // PostgreSQL's values stay below 1 GiB, so no length collides with NULL's mark.
    value
        .map_or(NULL_LENGTH, |value| value.len() as u32)
        .to_be_bytes()
}

/// What stands before each value of a type: the length of the type's name, and the name.
///
/// # Errors
/// [`FormatError::TypeNameLength`] for an empty or overlong type name.
pub fn head(type_name: &str) -> Result<Vec<u8>, FormatError> {
    let mut bytes = vec![name_len(type_name)?];
    bytes.extend_from_slice(type_name.as_bytes());
    Ok(bytes)
}

/// Writes a context into memory of the caller's, of values whose [`head`]s were made before: what [`ContextBuilder`]
/// makes, without an allocation.
pub struct ContextWriter<'a> {
    room: &'a mut [u8],
    length: usize,
    fits: bool,
}

impl<'a> ContextWriter<'a> {
    /// Without a label where that is empty; one of more than 255 bytes does not fit.
    #[inline(always)]
    pub fn new(room: &'a mut [u8], label: &[u8]) -> Self {
        let mut writer = Self {
            room,
            length: 0,
            fits: label.len() <= u8::MAX.into(),
        };
        if label.is_empty() {
            writer.put(&[PLAIN]);
        } else {
            writer.put(&[LABELLED, label.len() as u8]);
            writer.put(label);
        }
        writer
    }

    #[inline(always)]
    fn put(&mut self, bytes: &[u8]) {
        match self.room.get_mut(self.length..self.length + bytes.len()) {
            Some(room) if self.fits => {
                memory::copy_short(room, bytes);
                self.length += bytes.len();
            }
            _ => self.fits = false,
        }
    }

    /// Adds one value in its binary send form; `None` is NULL.
    #[inline(always)]
    pub fn push(&mut self, head: &[u8], value: Option<&[u8]>) {
        self.put(head);
        self.put(&length_of(value));
        self.put(value.unwrap_or_default());
    }

    /// The whole context; `None` where the room was too small.
    #[inline(always)]
    pub fn finish(self) -> Option<&'a [u8]> {
        self.fits.then(|| &self.room[..self.length])
    }
}

/// Collects values; [`ContextBuilder::finish`] returns the bytes.
pub struct ContextBuilder(Vec<u8>);

impl Default for ContextBuilder {
    fn default() -> Self {
        Self(vec![PLAIN])
    }
}

impl ContextBuilder {
    /// With a label, the name of a place.
    ///
    /// # Errors
    /// [`FormatError::LabelLength`] for an empty or overlong label.
    pub fn labelled(label: &[u8]) -> Result<Self, FormatError> {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|&length| length > 0)
            .ok_or(FormatError::LabelLength(label.len()))?;
        let mut bytes = vec![LABELLED, length];
        bytes.extend_from_slice(label);
        Ok(Self(bytes))
    }

    /// Adds one value in its binary send form; `None` is NULL.
    ///
    /// # Errors
    /// [`FormatError::TypeNameLength`] for an empty or overlong type name, [`FormatError::OutOfMemory`].
    pub fn push(&mut self, type_name: &str, value: Option<&[u8]>) -> Result<(), FormatError> {
        let name_len = name_len(type_name)?;
        let more = 1 + type_name.len() + 4 + value.unwrap_or_default().len();
        memory::reserve_amortised(&mut self.0, more)?;
        self.0.push(name_len);
        self.0.extend_from_slice(type_name.as_bytes());
        self.0.extend_from_slice(&length_of(value));
        self.0.extend_from_slice(value.unwrap_or_default());
        Ok(())
    }

    /// Bytes so far.
    #[expect(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_with_types_called_otherwise_is_what_they_would_have_made() {
        let with = |names: [&str; 3], label: &[u8]| {
            let mut builder = match label {
                [] => ContextBuilder::default(),
                label => ContextBuilder::labelled(label).unwrap(),
            };
            builder.push(names[0], Some(b"x")).unwrap();
            builder.push(names[1], None).unwrap();
            builder.push(names[2], Some(b"")).unwrap();
            builder.finish()
        };
        for label in [&b""[..], b"t.v"] {
            let now = with(["public.b", "int4", "public.b"], label);
            let typed = Typed::parse(&now).unwrap();
            assert_eq!(typed.type_names(), [&b"public.b"[..], b"int4"]);
            let called = |name: &'static [u8]| {
                let values = typed.values().into_iter();
                typed.of_values(values.map(move |(of, value)| match of {
                    b"int4" => (of, value),
                    _ => (name, value),
                }))
            };
            let renamed = called(b"shop.a").unwrap();
            assert_eq!(renamed, with(["shop.a", "int4", "shop.a"], label));
            assert!(called(b"").is_err());
        }
    }

    #[test]
    fn a_pair_is_written_with_its_first_and_split_into_both() {
        let inner = pair(b"b", b"").expect("memory");
        let outer = pair(b"a", &inner).expect("memory");
        assert_eq!(split_pair(&outer), Some((&b"a"[..], &inner[..])));
        assert_eq!(split_pair(&inner), Some((&b"b"[..], &b""[..])));
        assert_eq!(written(&outer), b"a");
        assert_eq!(written(b"raw"), b"raw");
        for short in 0..20 {
            assert_eq!(split_pair(&outer[..short]), None);
        }
        assert_eq!(split_pair(b"colcrypt either\0\xff\xff\xff\xff"), None);
    }

    #[test]
    fn what_is_written_is_what_is_collected() {
        let values: [(&str, Option<&[u8]>); 4] = [
            ("int4", Some(&[0, 0, 0, 42])),
            ("text", None),
            ("text", Some(b"")),
            ("shop.mood", Some(b"sad")),
        ];
        for label in [&b""[..], b"customer.iban", &[b'l'; 255]] {
            let mut builder = if label.is_empty() {
                ContextBuilder::default()
            } else {
                ContextBuilder::labelled(label).expect("a label")
            };
            for (name, value) in values {
                builder.push(name, value).expect("memory");
            }
            let expected = builder.finish();
            for room in 0..expected.len() + 2 {
                let mut room = vec![0; room];
                let mut writer = ContextWriter::new(&mut room, label);
                for (name, value) in values {
                    writer.push(&head(name).expect("a name"), value);
                }
                let written = writer.finish().map(<[u8]>::to_vec);
                match written {
                    Some(written) => assert_eq!(written, expected),
                    None => assert!(room.len() < expected.len()),
                }
            }
        }
        assert!(
            ContextWriter::new(&mut [0; 999], &[0; 256])
                .finish()
                .is_none()
        );
        assert!(head("").is_err() && head(&"n".repeat(256)).is_err());
        assert_eq!(head(&"n".repeat(255)).map(|head| head.len()), Ok(256));
    }
}
