//! TTLV, KMIP's binary encoding: tag (3 bytes), type (1), length (4), value padded to 8 bytes.
//!
//! Decoding takes any bytes: what is not exactly one well-formed item is refused, and nesting is
//! bounded. What was decoded encodes to the same bytes again.

use std::fmt;

use zeroize::Zeroizing;

/// KMIP's messages are six levels deep at most.
const MAX_DEPTH: usize = 16;
/// Tag, type and length.
pub(super) const HEADER_LEN: usize = 8;

/// A number of 24 bits that says what an item is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag(pub(super) u32);

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06X}", self.0)
    }
}

/// An item. No Debug: a value may be a key.
#[derive(Clone, PartialEq)]
pub(super) struct Item<'a> {
    pub(super) tag: Tag,
    pub(super) value: Value<'a>,
}

#[derive(Clone, PartialEq)]
pub(super) enum Value<'a> {
    Structure(Vec<Item<'a>>),
    Integer(i32),
    LongInteger(i64),
    /// Two's complement, in whole groups of 8 bytes.
    BigInteger(&'a [u8]),
    Enumeration(u32),
    Boolean(bool),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// Seconds since 1970.
    DateTime(i64),
    /// Seconds.
    Interval(u32),
    /// Microseconds since 1970; from KMIP 2.0 on.
    DateTimeExtended(i64),
}

/// Not one well-formed item.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl<'a> Item<'a> {
    pub(super) fn new(tag: Tag, value: Value<'a>) -> Self {
        Self { tag, value }
    }

    pub(super) fn structure(tag: Tag, items: Vec<Item<'a>>) -> Self {
        Self::new(tag, Value::Structure(items))
    }

    /// In one allocation of full size: a growing one would leave unwiped copies behind.
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(HEADER_LEN + padded(self.value.len())));
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut Vec<u8>) {
        let length = self.value.len();
        let length = u32::try_from(length).expect("no request is as long as 4 GiB");
        out.extend_from_slice(&self.tag.0.to_be_bytes()[1..]);
        out.push(self.value.type_code());
        out.extend_from_slice(&length.to_be_bytes());
        match &self.value {
            Value::Structure(items) => items.iter().for_each(|item| item.write(out)),
            Value::Integer(number) => out.extend_from_slice(&number.to_be_bytes()),
            Value::Enumeration(number) | Value::Interval(number) => {
                out.extend_from_slice(&number.to_be_bytes());
            }
            Value::LongInteger(number)
            | Value::DateTime(number)
            | Value::DateTimeExtended(number) => out.extend_from_slice(&number.to_be_bytes()),
            Value::Boolean(yes) => out.extend_from_slice(&u64::from(*yes).to_be_bytes()),
            Value::Text(text) => out.extend_from_slice(text.as_bytes()),
            Value::BigInteger(bytes) | Value::Bytes(bytes) => out.extend_from_slice(bytes),
        }
        out.resize(out.len().next_multiple_of(8), 0);
    }

    /// # Errors
    /// [`Malformed`] for anything but the bytes of one item.
    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        match Self::read(bytes, MAX_DEPTH)? {
            (item, []) => Ok(item),
            _ => Err(Malformed),
        }
    }

    fn read(bytes: &'a [u8], depth: usize) -> Result<(Self, &'a [u8]), Malformed> {
        let (header, rest) = Header::read(bytes)?;
        let (padded, rest) = rest
            .split_at_checked(padded(header.length))
            .ok_or(Malformed)?;
        let (value, padding) = padded.split_at(header.length);
        if padding.iter().any(|byte| *byte != 0) {
            return Err(Malformed);
        }
        let item = Self::new(header.tag, Value::read(header.type_code, value, depth)?);
        Ok((item, rest))
    }

    /// The first item of this tag in a structure.
    pub(super) fn find(&self, tag: Tag) -> Option<&Value<'a>> {
        self.all(tag).next().map(|item| &item.value)
    }

    /// All items of this tag in a structure; none in anything else.
    pub(super) fn all(&self, tag: Tag) -> impl Iterator<Item = &Item<'a>> {
        self.items().iter().filter(move |item| item.tag == tag)
    }

    pub(super) fn items(&self) -> &[Item<'a>] {
        match &self.value {
            Value::Structure(items) => items,
            _ => &[],
        }
    }

    /// A structure in a structure.
    pub(super) fn inner(&self, tag: Tag) -> Option<&Item<'a>> {
        self.all(tag)
            .find(|item| matches!(item.value, Value::Structure(_)))
    }

    pub(super) fn text(&self, tag: Tag) -> Option<&'a str> {
        match self.find(tag)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn bytes(&self, tag: Tag) -> Option<&'a [u8]> {
        match self.find(tag)? {
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    pub(super) fn enumeration(&self, tag: Tag) -> Option<u32> {
        match self.find(tag)? {
            Value::Enumeration(number) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn integer(&self, tag: Tag) -> Option<i32> {
        match self.find(tag)? {
            Value::Integer(number) => Some(*number),
            _ => None,
        }
    }
}

/// What an item begins with.
pub(super) struct Header {
    pub(super) tag: Tag,
    type_code: u8,
    length: usize,
}

impl Header {
    /// The header, and what follows it.
    pub(super) fn read(bytes: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(Malformed)?;
        let [t0, t1, t2, type_code, l0, l1, l2, l3] = *header;
        let header = Self {
            tag: Tag(u32::from_be_bytes([0, t0, t1, t2])),
            type_code,
            length: u32::from_be_bytes([l0, l1, l2, l3]) as usize,
        };
        Ok((header, rest))
    }

    pub(super) fn is_structure(&self) -> bool {
        self.type_code == STRUCTURE
    }

    /// How many bytes follow the header.
    pub(super) fn padded_len(&self) -> usize {
        padded(self.length)
    }
}

const STRUCTURE: u8 = 0x01;

fn padded(length: usize) -> usize {
    length.next_multiple_of(8)
}

impl<'a> Value<'a> {
    fn type_code(&self) -> u8 {
        match self {
            Self::Structure(_) => STRUCTURE,
            Self::Integer(_) => 0x02,
            Self::LongInteger(_) => 0x03,
            Self::BigInteger(_) => 0x04,
            Self::Enumeration(_) => 0x05,
            Self::Boolean(_) => 0x06,
            Self::Text(_) => 0x07,
            Self::Bytes(_) => 0x08,
            Self::DateTime(_) => 0x09,
            Self::Interval(_) => 0x0A,
            Self::DateTimeExtended(_) => 0x0B,
        }
    }

    /// Without padding, except that of the items within.
    fn len(&self) -> usize {
        match self {
            Self::Structure(items) => items
                .iter()
                .map(|item| HEADER_LEN + padded(item.value.len()))
                .sum(),
            Self::Integer(_) | Self::Enumeration(_) | Self::Interval(_) => 4,
            Self::LongInteger(_)
            | Self::Boolean(_)
            | Self::DateTime(_)
            | Self::DateTimeExtended(_) => 8,
            Self::Text(text) => text.len(),
            Self::BigInteger(bytes) | Self::Bytes(bytes) => bytes.len(),
        }
    }

    fn read(type_code: u8, bytes: &'a [u8], depth: usize) -> Result<Self, Malformed> {
        let four = || bytes.try_into().map_err(|_| Malformed);
        let eight = || bytes.try_into().map_err(|_| Malformed);
        Ok(match type_code {
            STRUCTURE => {
                let depth = depth.checked_sub(1).ok_or(Malformed)?;
                let mut items = Vec::new();
                let mut rest = bytes;
                while !rest.is_empty() {
                    let (item, after) = Item::read(rest, depth)?;
                    items.push(item);
                    rest = after;
                }
                Self::Structure(items)
            }
            0x02 => Self::Integer(i32::from_be_bytes(four()?)),
            0x03 => Self::LongInteger(i64::from_be_bytes(eight()?)),
            0x04 if !bytes.is_empty() && bytes.len().is_multiple_of(8) => Self::BigInteger(bytes),
            0x05 => Self::Enumeration(u32::from_be_bytes(four()?)),
            0x06 => match u64::from_be_bytes(eight()?) {
                0 => Self::Boolean(false),
                1 => Self::Boolean(true),
                _ => return Err(Malformed),
            },
            0x07 => Self::Text(std::str::from_utf8(bytes).map_err(|_| Malformed)?),
            0x08 => Self::Bytes(bytes),
            0x09 => Self::DateTime(i64::from_be_bytes(eight()?)),
            0x0A => Self::Interval(u32::from_be_bytes(four()?)),
            0x0B => Self::DateTimeExtended(i64::from_be_bytes(eight()?)),
            _ => return Err(Malformed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

    fn hex(text: &str) -> Vec<u8> {
        hex::decode(text.replace([' ', '|'], "")).unwrap()
    }

    /// "Examples" of the section on TTLV encoding in the KMIP specification, the same since 1.0.
    #[test]
    fn the_examples_of_the_specification() {
        let tag = Tag(0x42_00_20);
        let big = hex("00 00 00 00 03 FD 35 EB 6B C2 DF 46 18 08 00 00");
        for (bytes, value) in [
            (
                "42 00 20 | 02 | 00 00 00 04 | 00 00 00 08 00 00 00 00",
                Value::Integer(8),
            ),
            (
                "42 00 20 | 03 | 00 00 00 08 | 01 B6 9B 4B A5 74 92 00",
                Value::LongInteger(123_456_789_000_000_000),
            ),
            (
                "42 00 20 | 04 | 00 00 00 10 | 00 00 00 00 03 FD 35 EB 6B C2 DF 46 18 08 00 00",
                Value::BigInteger(&big),
            ),
            (
                "42 00 20 | 05 | 00 00 00 04 | 00 00 00 FF 00 00 00 00",
                Value::Enumeration(255),
            ),
            (
                "42 00 20 | 06 | 00 00 00 08 | 00 00 00 00 00 00 00 01",
                Value::Boolean(true),
            ),
            (
                "42 00 20 | 07 | 00 00 00 0B | 48 65 6C 6C 6F 20 57 6F 72 6C 64 00 00 00 00 00",
                Value::Text("Hello World"),
            ),
            (
                "42 00 20 | 08 | 00 00 00 03 | 01 02 03 00 00 00 00 00",
                Value::Bytes(&[1, 2, 3]),
            ),
            (
                "42 00 20 | 09 | 00 00 00 08 | 00 00 00 00 47 DA 67 F8",
                Value::DateTime(1_205_495_800),
            ),
            (
                "42 00 20 | 0A | 00 00 00 04 | 00 0D 2F 00 00 00 00 00",
                Value::Interval(10 * 24 * 60 * 60),
            ),
            (
                "42 00 20 | 01 | 00 00 00 20 | 42 00 04 | 05 | 00 00 00 04 | 00 00 00 FE 00 00 00 00 | \
                 42 00 05 | 02 | 00 00 00 04 | 00 00 00 FF 00 00 00 00",
                Value::Structure(vec![
                    Item::new(Tag(0x42_00_04), Value::Enumeration(254)),
                    Item::new(Tag(0x42_00_05), Value::Integer(255)),
                ]),
            ),
        ] {
            let bytes = hex(bytes);
            let item = Item::new(tag, value);
            assert!(*item.encode() == bytes, "{bytes:02x?}");
            assert!(Item::decode(&bytes) == Ok(item), "{bytes:02x?}");
        }
    }

    #[test]
    fn what_is_not_one_item_is_refused() {
        let integer = "42 00 20 | 02 | 00 00 00 04 | 00 00 00 08 00 00 00 00";
        for (bad, why) in [
            ("", "nothing"),
            ("42 00 20 | 02 | 00 00", "a cut header"),
            ("42 00 20 | 02 | 00 00 00 04 | 00 00 00 08", "cut padding"),
            (
                "42 00 20 | 02 | 00 00 00 05 | 00 00 00 08 00 00 00 00",
                "a wrong length",
            ),
            (
                "42 00 20 | 02 | FF FF FF FF | 00 00 00 08 00 00 00 00",
                "a huge length",
            ),
            (
                "42 00 20 | 0C | 00 00 00 04 | 00 00 00 08 00 00 00 00",
                "an unknown type",
            ),
            (
                "42 00 20 | 02 | 00 00 00 04 | 00 00 00 08 00 00 00 01",
                "padding that is not zero",
            ),
            (
                "42 00 20 | 06 | 00 00 00 08 | 00 00 00 00 00 00 00 02",
                "neither true nor false",
            ),
            (
                "42 00 20 | 07 | 00 00 00 01 | FF 00 00 00 00 00 00 00",
                "text that is not UTF-8",
            ),
            ("42 00 20 | 04 | 00 00 00 00", "a number without digits"),
            (
                "42 00 20 | 01 | 00 00 00 04 | 00 00 00 00 00 00 00 00",
                "half an item within",
            ),
            (&format!("{integer} 00"), "a byte too many"),
            (&format!("{integer} {integer}"), "two items"),
        ] {
            assert!(Item::decode(&hex(bad)) == Err(Malformed), "{why}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |levels| {
            let inmost = Item::new(Tag(1), Value::Integer(1));
            (0..levels).fold(inmost, |item, _| Item::structure(Tag(2), vec![item]))
        };
        assert!(Item::decode(&nested(MAX_DEPTH).encode()).is_ok());
        assert!(Item::decode(&nested(MAX_DEPTH + 1).encode()) == Err(Malformed));
    }

    fn random_item<'a>(rng: &mut StdRng, pool: &'a [u8], depth: usize) -> Item<'a> {
        let length = rng.random_range(0..40);
        let slice = &pool[..length];
        let value = match rng.random_range(0..if depth == 0 { 10 } else { 14 }) {
            0 => Value::Integer(rng.random()),
            1 => Value::LongInteger(rng.random()),
            2 => Value::BigInteger(&pool[..8 * rng.random_range(1..4)]),
            3 => Value::Enumeration(rng.random()),
            4 => Value::Boolean(rng.random()),
            5 => Value::Text(std::str::from_utf8(slice).unwrap()),
            6 => Value::Bytes(slice),
            7 => Value::DateTime(rng.random()),
            8 => Value::Interval(rng.random()),
            9 => Value::DateTimeExtended(rng.random()),
            _ => Value::Structure(
                (0..rng.random_range(0..5))
                    .map(|_| random_item(rng, pool, depth - 1))
                    .collect(),
            ),
        };
        Item::new(Tag(rng.random_range(0..1 << 24)), value)
    }

    #[test]
    fn every_item_survives_the_way_there_and_back() {
        let mut rng = StdRng::seed_from_u64(1);
        let pool: Vec<u8> = (0..64).map(|n| b'a' + n % 26).collect();
        for _ in 0..2_000 {
            let item = random_item(&mut rng, &pool, 6);
            let bytes = item.encode();
            assert_eq!(bytes.len(), bytes.capacity(), "one allocation of full size");
            assert!(Item::decode(&bytes) == Ok(item));
        }
    }

    #[test]
    fn no_bytes_make_it_panic_and_what_is_accepted_is_canonical() {
        let mut rng = StdRng::seed_from_u64(2);
        let pool = [b'x'; 64];
        let mut accepted = 0;
        for round in 0..20_000 {
            let mut bytes = if round % 4 == 0 {
                let mut bytes = vec![0; rng.random_range(0..200)];
                rng.fill_bytes(&mut bytes);
                bytes
            } else {
                random_item(&mut rng, &pool, 4).encode().to_vec()
            };
            for _ in 0..rng.random_range(0..4) {
                if !bytes.is_empty() {
                    let at = rng.random_range(0..bytes.len());
                    bytes[at] = rng.random();
                }
            }
            bytes.truncate(rng.random_range(0..=bytes.len() * 2));
            if let Ok(item) = Item::decode(&bytes) {
                accepted += 1;
                assert!(*item.encode() == bytes);
            }
        }
        assert!(accepted > 1_000, "{accepted}");
    }
}
