//! Composite values in PostgreSQL's binary form, given the attributes that their type got since they were written; and
//! values of enums, which are written as their labels, given the labels that there are now.
//!
//! A server takes a composite value only with as many attributes as the type has now (record_recv). New attributes
//! come at the end, so a value that was written before has too few of them: those that it lacks are NULL. The same
//! inside other composites and in arrays.

use crate::memory::{self, OutOfMemory};

use zeroize::Zeroizing;

/// What is known of a type, by its OID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// A composite type: the types of its attributes, domains as what is under them.
    Record(Vec<u32>),
    /// An array of this type.
    Array(u32),
    Enum,
    Other,
}

/// Types nest no deeper than this by far; a value that does is none.
const DEEPEST: usize = 64;
/// The length of NULL.
const NULL: u32 = u32::MAX;
/// An attribute that is NULL: its type and that length.
const NULL_ATTRIBUTE: usize = 8;

/// The value with all attributes that its type has now; none when it has them, or is no such value.
///
/// # Errors
/// [`OutOfMemory`].
pub fn widened(
    value: &[u8],
    type_oid: u32,
    shape_of: &impl Fn(u32) -> Shape,
) -> Result<Option<Zeroizing<Vec<u8>>>, OutOfMemory> {
    let label_of = |_, _: &[u8]| None;
    let types = Types {
        shape_of,
        label_of: &label_of,
        widens: true,
    };
    match types.growth(value, type_oid, 0) {
        Some(bytes) if bytes > 0 => types.written(value, type_oid, bytes),
        _ => Ok(None),
    }
}

/// The value with other labels of enums in it: `label_of` is asked for each, with its type; none when nothing changes,
/// or it is no such value.
///
/// # Errors
/// [`OutOfMemory`].
pub fn relabelled(
    value: &[u8],
    type_oid: u32,
    shape_of: &impl Fn(u32) -> Shape,
    label_of: &impl Fn(u32, &[u8]) -> Option<Vec<u8>>,
) -> Result<Option<Zeroizing<Vec<u8>>>, OutOfMemory> {
    let types = Types {
        shape_of,
        label_of,
        widens: false,
    };
    let Some(bytes) = types.growth(value, type_oid, 0) else {
        return Ok(None);
    };
    let written = types.written(value, type_oid, bytes)?;
    Ok(written.filter(|written| **written != value))
}

struct Types<'a, S, L> {
    shape_of: &'a S,
    label_of: &'a L,
    /// Whether composites get the attributes that they lack.
    widens: bool,
}

impl<S: Fn(u32) -> Shape, L: Fn(u32, &[u8]) -> Option<Vec<u8>>> Types<'_, S, L> {
    fn written(
        &self,
        value: &[u8],
        type_oid: u32,
        growth: isize,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, OutOfMemory> {
        let mut out = Vec::new();
        memory::reserve(&mut out, value.len().saturating_add_signed(growth))?;
        // All at once: growing would leave copies behind.
        let mut out = Zeroizing::new(out);
        Ok(self.write(value, type_oid, 0, &mut out).map(|()| out))
    }

    /// How many bytes more the value has in the end; none when it is not of that form.
    fn growth(&self, value: &[u8], type_oid: u32, depth: usize) -> Option<isize> {
        let mut reader = Reader(value);
        let mut growth = 0;
        match self.shape(type_oid, depth)? {
            Shape::Other => return Some(0),
            Shape::Enum => {
                let label = (self.label_of)(type_oid, value);
                growth += label.map_or(0, |label| label.len() as isize - value.len() as isize);
            }
            Shape::Record(attributes) => {
                let count = reader.number()? as usize;
                for &attribute in attributes.iter().take(count) {
                    reader.number()?;
                    if let Some(item) = reader.item()? {
                        growth += self.growth(item, attribute, depth + 1)?;
                    }
                }
                if self.widens {
                    growth += (attributes.len().saturating_sub(count) * NULL_ATTRIBUTE) as isize;
                }
            }
            Shape::Array(element) => {
                reader.array_head()?;
                while !reader.0.is_empty() {
                    if let Some(item) = reader.item()? {
                        growth += self.growth(item, element, depth + 1)?;
                    }
                }
            }
        }
        Some(growth)
    }

    fn write(&self, value: &[u8], type_oid: u32, depth: usize, out: &mut Vec<u8>) -> Option<()> {
        let mut reader = Reader(value);
        match self.shape(type_oid, depth)? {
            Shape::Other => {}
            Shape::Enum => {
                if let Some(label) = (self.label_of)(type_oid, value) {
                    out.extend(label);
                    return Some(());
                }
            }
            Shape::Record(attributes) => {
                let count = reader.number()?;
                let lacking = attributes.iter().skip(count as usize);
                let lacking = lacking.take(if self.widens { usize::MAX } else { 0 });
                out.extend(count.checked_add(lacking.len() as u32)?.to_be_bytes());
                for &attribute in attributes.iter().take(count as usize) {
                    out.extend(reader.number()?.to_be_bytes());
                    self.write_item(reader.item()?, attribute, depth, out)?;
                }
                for attribute in lacking {
                    out.extend(attribute.to_be_bytes());
                    out.extend(NULL.to_be_bytes());
                }
            }
            Shape::Array(element) => {
                out.extend_from_slice(reader.array_head()?);
                while !reader.0.is_empty() {
                    self.write_item(reader.item()?, element, depth, out)?;
                }
            }
        }
        out.extend_from_slice(reader.0);
        Some(())
    }

    fn write_item(
        &self,
        item: Option<&[u8]>,
        type_oid: u32,
        depth: usize,
        out: &mut Vec<u8>,
    ) -> Option<()> {
        let Some(item) = item else {
            out.extend(NULL.to_be_bytes());
            return Some(());
        };
        let growth = self.growth(item, type_oid, depth + 1)?;
        let length = item.len().checked_add_signed(growth)?;
        out.extend(u32::try_from(length).ok()?.to_be_bytes());
        self.write(item, type_oid, depth + 1, out)
    }

    fn shape(&self, type_oid: u32, depth: usize) -> Option<Shape> {
        (depth < DEEPEST).then(|| (self.shape_of)(type_oid))
    }
}

/// What is left to be read of a value.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// A length and as many bytes; NULL is none of them.
    fn item(&mut self) -> Option<Option<&'a [u8]>> {
        match self.number()? {
            NULL => Some(None),
            length => Some(Some(self.take(length as usize)?)),
        }
    }

    /// Dimensions, flags and the element's type, then length and lower bound of each dimension.
    fn array_head(&mut self) -> Option<&'a [u8]> {
        let dimensions = u32::from_be_bytes(*self.0.first_chunk()?) as usize;
        self.take(12 + dimensions.checked_mul(8)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: u32 = 25;
    const PAIR: u32 = 20_000;
    const OUTER: u32 = 20_001;
    const PAIRS: u32 = 20_002;
    const MOOD: u32 = 20_003;
    const FELT: u32 = 20_004;
    const MOODS: u32 = 20_005;

    /// A pair has so many attributes by now, and an outer one two: a pair and an array of them.
    fn shapes(attributes: usize) -> impl Fn(u32) -> Shape {
        move |oid| match oid {
            PAIR => Shape::Record(vec![TEXT; attributes]),
            OUTER => Shape::Record(vec![PAIR, PAIRS]),
            PAIRS => Shape::Array(PAIR),
            MOOD => Shape::Enum,
            FELT => Shape::Record(vec![MOOD, MOODS, TEXT]),
            MOODS => Shape::Array(MOOD),
            _ => Shape::Other,
        }
    }

    fn item(value: Option<&[u8]>) -> Vec<u8> {
        let length = value.map_or(NULL, |value| value.len() as u32);
        [&length.to_be_bytes(), value.unwrap_or_default()].concat()
    }

    fn record(attributes: &[(u32, Option<Vec<u8>>)]) -> Vec<u8> {
        let mut bytes = (attributes.len() as u32).to_be_bytes().to_vec();
        for (oid, value) in attributes {
            bytes.extend(oid.to_be_bytes());
            bytes.extend(item(value.as_deref()));
        }
        bytes
    }

    fn pair(texts: &[Option<&str>]) -> Vec<u8> {
        let attributes = texts
            .iter()
            .map(|text| (TEXT, text.map(|text| text.into())));
        record(&attributes.collect::<Vec<_>>())
    }

    fn pairs(elements: &[Option<Vec<u8>>]) -> Vec<u8> {
        array(PAIR, elements)
    }

    fn array(of: u32, elements: &[Option<Vec<u8>>]) -> Vec<u8> {
        let head = [1, 1, of, elements.len() as u32, 1];
        let mut bytes: Vec<u8> = head.iter().flat_map(|word| word.to_be_bytes()).collect();
        for element in elements {
            bytes.extend(item(element.as_deref()));
        }
        bytes
    }

    #[test]
    fn what_a_type_got_later_is_null() {
        let was = pair(&[Some("a"), None]);
        let is = pair(&[Some("a"), None, None, None]);
        let widened = |attributes| {
            let widened = widened(&was, PAIR, &shapes(attributes)).unwrap();
            widened.map(|bytes| bytes.to_vec())
        };
        assert_eq!(widened(4), Some(is));
        assert_eq!(widened(2), None, "it has them all");
        assert_eq!(
            widened(1),
            None,
            "an attribute was dropped: nobody knows which"
        );
    }

    #[test]
    fn inside_composites_and_arrays_as_well() {
        let outer = |pair_of: &dyn Fn(&[Option<&str>]) -> Vec<u8>| {
            let elements = [Some(pair_of(&[Some("x")])), None, Some(pair_of(&[None]))];
            record(&[
                (PAIR, Some(pair_of(&[Some("a")]))),
                (PAIRS, Some(pairs(&elements))),
            ])
        };
        let was = outer(&|texts| pair(texts));
        let is = outer(&|texts| pair(&[texts, &[None]].concat()));
        let got = widened(&was, OUTER, &shapes(2)).unwrap().unwrap();
        assert_eq!(*got, is);
    }

    #[test]
    fn labels_are_as_they_are_called_now() {
        let is_called = |oid, label: &[u8]| {
            assert_eq!(oid, MOOD);
            (label == b"sad").then(|| b"melancholic".to_vec())
        };
        let felt = |label: &[u8]| {
            let moods = array(MOOD, &[Some(label.into()), None, Some(b"glad".into())]);
            // A text is no label, and an attribute that the type got later stays away.
            record(&[(MOOD, Some(label.into())), (MOODS, Some(moods))])
        };
        let called = |value: &[u8], oid| relabelled(value, oid, &shapes(1), &is_called).unwrap();
        assert_eq!(called(b"sad", MOOD).unwrap().as_slice(), b"melancholic");
        assert_eq!(*called(&felt(b"sad"), FELT).unwrap(), felt(b"melancholic"));
        assert_eq!(called(b"glad", MOOD), None);
        assert_eq!(called(&felt(b"glad"), FELT), None);
        assert_eq!(called(b"sad", TEXT), None);
        assert_eq!(called(&felt(b"sad")[..20], FELT), None, "it is damaged");
    }

    /// A generator of bytes, the same in each run.
    fn bytes(seed: &mut u32, most: usize) -> Vec<u8> {
        let mut next = || {
            *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *seed >> 16
        };
        let length = next() as usize % most;
        (0..length).map(|_| next() as u8).collect()
    }

    #[test]
    fn no_bytes_and_no_damage_do_harm() {
        let whole = record(&[
            (PAIR, Some(pair(&[Some("a"), Some("bc")]))),
            (PAIRS, Some(pairs(&[Some(pair(&[None]))]))),
        ]);
        let mut seed = 7;
        for round in 0..20_000 {
            let value = if round % 2 == 0 {
                bytes(&mut seed, 200)
            } else {
                let mut value = whole.clone();
                let noise = bytes(&mut seed, 4);
                for pair in noise.chunks(2) {
                    let at = usize::from(pair[0]) % value.len();
                    value[at] = *pair.last().unwrap_or(&0);
                }
                value
            };
            for oid in [TEXT, PAIR, OUTER, PAIRS] {
                let shapes = shapes(round % 6);
                if let Some(wide) = widened(&value, oid, &shapes).unwrap() {
                    assert!(wide.len() > value.len());
                    assert_eq!(widened(&wide, oid, &shapes).unwrap(), None);
                }
            }
            for oid in [MOOD, FELT, MOODS] {
                let label_of = |_, label: &[u8]| label.first().map(|first| vec![*first; 3]);
                relabelled(&value, oid, &shapes(2), &label_of).unwrap();
            }
        }
    }
}
