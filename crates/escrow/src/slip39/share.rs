//! A share, and its words.
//!
//! ```text
//! set (15 bits) ‖ extendable (1) ‖ exponent (4) ‖ group (4) ‖ groups it takes - 1 (4) ‖ groups - 1 (4) ‖ member (4)
//!   ‖ members it takes - 1 (4) ‖ padding, zeros ‖ value ‖ checksum (30)
//! ```

use thiserror::Error;
use zeroize::Zeroizing;

use crate::words;

pub(super) const CUSTOMIZATION: &[u8] = b"shamir";
const CUSTOMIZATION_EXTENDABLE: &[u8] = b"shamir_extendable";
pub(super) const ID_MASK: u16 = 0x7fff;
const CHECKSUM_LEN: usize = 3;
/// Words before the value.
const HEAD_LEN: usize = 4;
const SHORTEST: usize = HEAD_LEN + CHECKSUM_LEN + 13;
/// A secret of 512 bits: more than anybody splits, and what is longer is no share.
const LONGEST: usize = HEAD_LEN + CHECKSUM_LEN + 52;
const WORD_BITS: usize = 10;

/// One share. Without Debug or Display: its value is a secret.
#[derive(Clone)]
pub struct Share {
    /// The set that it is of, as a number of 15 bits that is drawn for each.
    pub id: u16,
    pub(super) is_extendable: bool,
    pub(super) exponent: u8,
    /// Which group it is of, from 0.
    pub group: u8,
    /// How many groups it takes.
    pub group_threshold: u8,
    pub groups: u8,
    /// Which share of the group it is, from 0.
    pub member: u8,
    /// How many shares of the group it takes.
    pub member_threshold: u8,
    pub(crate) value: Zeroizing<Vec<u8>>,
}

/// The words of a text are no share.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotAShare {
    /// The word is the reader's own, and may be shown to him.
    #[error("word {place} is none of SLIP-39's{}", in_words(*.meant))]
    Word {
        place: usize,
        meant: Option<&'static str>,
    },
    #[error("{0} words are no share: a share of an escrow has 33")]
    Length(usize),
    #[error("the words do not fit their checksum: one is wrong, missing, or in another's place")]
    Checksum,
    #[error("the words are well spelt, but no share that anything made")]
    Malformed,
}

fn in_words(word: Option<&str>) -> String {
    word.map_or_else(String::new, |word| format!(": \"{word}\" is meant?"))
}

impl Share {
    /// Reads a share's words, in any case, with any white space between them.
    ///
    /// # Errors
    /// [`NotAShare`].
    pub fn parse(text: &str) -> Result<Self, NotAShare> {
        let mut indices = Zeroizing::new(Vec::with_capacity(LONGEST));
        for (at, word) in text.split_whitespace().enumerate() {
            let word = Zeroizing::new(word.to_lowercase());
            let index = words::index(&word).ok_or_else(|| NotAShare::Word {
                place: at + 1,
                meant: words::like(&word),
            })?;
            if at == LONGEST {
                return Err(NotAShare::Length(text.split_whitespace().count()));
            }
            indices.push(index);
        }
        Self::of_indices(&indices)
    }

    fn of_indices(indices: &[u16]) -> Result<Self, NotAShare> {
        let count = indices.len();
        let padding = (WORD_BITS * count.saturating_sub(HEAD_LEN + CHECKSUM_LEN)) % 16;
        if !(SHORTEST..=LONGEST).contains(&count) || padding > 8 {
            return Err(NotAShare::Length(count));
        }
        let is_extendable = indices[1] >> 4 & 1 == 1;
        if checksum(customization(is_extendable), indices) != 1 {
            return Err(NotAShare::Checksum);
        }
        let part = |word: usize, shift: u16| (indices[word] >> shift & 0xf) as u8;
        let value = &indices[HEAD_LEN..count - CHECKSUM_LEN];
        let share = Self {
            id: indices[0] << 5 | indices[1] >> 5,
            is_extendable,
            exponent: part(1, 0),
            group: part(2, 6),
            group_threshold: part(2, 2) + 1,
            groups: ((indices[2] & 3) << 2 | indices[3] >> 8) as u8 + 1,
            member: part(3, 4),
            member_threshold: part(3, 0) + 1,
            value: bytes_of(value, padding).ok_or(NotAShare::Malformed)?,
        };
        if share.group_threshold > share.groups || share.group >= share.groups {
            return Err(NotAShare::Malformed);
        }
        Ok(share)
    }

    /// Its words, with a blank between two.
    pub fn words(&self) -> Zeroizing<String> {
        let mut indices = Zeroizing::new(vec![
            self.id >> 5,
            (self.id & 0x1f) << 5 | u16::from(self.is_extendable) << 4 | u16::from(self.exponent),
        ]);
        let groups = u16::from(self.groups - 1);
        indices.push(
            u16::from(self.group) << 6 | u16::from(self.group_threshold - 1) << 2 | groups >> 2,
        );
        indices.push(
            (groups & 3) << 8 | u16::from(self.member) << 4 | u16::from(self.member_threshold - 1),
        );
        push_words(&mut indices, &self.value);
        indices.extend([0; CHECKSUM_LEN]);
        fit_checksum(&mut indices);
        let length = indices.iter().map(|&index| words::word(index).len() + 1);
        let mut text = Zeroizing::new(String::with_capacity(length.sum()));
        for &index in indices.iter() {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(words::word(index));
        }
        text
    }

    /// Whether both came out of one splitting, as far as they say.
    #[must_use]
    pub fn is_of_the_set_of(&self, other: &Self) -> bool {
        (self.id, self.is_extendable, self.exponent)
            == (other.id, other.is_extendable, other.exponent)
            && (self.group_threshold, self.groups) == (other.group_threshold, other.groups)
            && self.value.len() == other.value.len()
    }
}

fn customization(is_extendable: bool) -> &'static [u8] {
    if is_extendable {
        CUSTOMIZATION_EXTENDABLE
    } else {
        CUSTOMIZATION
    }
}

/// Puts the checksum in the place of the last words.
pub(super) fn fit_checksum(indices: &mut [u16]) {
    let is_extendable = indices[1] >> 4 & 1 == 1;
    let end = indices.len() - CHECKSUM_LEN;
    indices[end..].fill(0);
    let sum = checksum(customization(is_extendable), indices) ^ 1;
    for (at, index) in indices[end..].iter_mut().enumerate() {
        *index = (sum >> (WORD_BITS * (CHECKSUM_LEN - 1 - at)) & 0x3ff) as u16;
    }
}

/// RS1024, a Reed-Solomon code: 1 for words that are whole.
fn checksum(customization: &[u8], indices: &[u16]) -> u32 {
    const GENERATOR: [u32; 10] = [
        0x00e0_e040,
        0x01c1_c080,
        0x0383_8100,
        0x0707_0200,
        0x0e0e_0009,
        0x1c0c_2412,
        0x3808_6c24,
        0x3090_fc48,
        0x21b1_f890,
        0x03f3_f120,
    ];
    let letters = customization.iter().map(|&byte| u32::from(byte));
    let indices = indices.iter().map(|&index| u32::from(index));
    letters.chain(indices).fold(1, |sum: u32, value| {
        let high = sum >> 20;
        let mut sum = (sum & 0xf_ffff) << WORD_BITS ^ value;
        for (bit, generator) in GENERATOR.iter().enumerate() {
            sum ^= generator & 0u32.wrapping_sub(high >> bit & 1);
        }
        sum
    })
}

/// The bits of words without the padding before them, which is zeros.
fn bytes_of(indices: &[u16], padding: usize) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(indices.len() * WORD_BITS / 8));
    let (mut bits, mut held) = (0_u32, 0);
    let mut to_skip = padding;
    for &index in indices {
        bits = bits << WORD_BITS | u32::from(index);
        held += WORD_BITS;
        if to_skip > 0 {
            if index >> (WORD_BITS - to_skip) != 0 {
                return None;
            }
            held -= to_skip;
            to_skip = 0;
        }
        while held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
        bits &= (1 << held) - 1;
    }
    Some(bytes)
}

fn push_words(indices: &mut Vec<u16>, value: &[u8]) {
    let bit_count = value.len() * 8;
    let mut held = bit_count.next_multiple_of(WORD_BITS) - bit_count;
    let mut bits = 0_u32;
    for &byte in value {
        bits = bits << 8 | u32::from(byte);
        held += 8;
        while held >= WORD_BITS {
            held -= WORD_BITS;
            indices.push((bits >> held & 0x3ff) as u16);
        }
        bits &= (1 << held) - 1;
    }
}
