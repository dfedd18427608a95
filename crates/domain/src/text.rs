//! A short text as it lies in shared memory: fixed in size, any bytes valid.

/// A short text, cut where it is too long; absent or of `N` bytes at most.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Text<const N: usize> {
    length: u16,
    bytes: [u8; N],
}

impl<const N: usize> Text<N> {
    const ABSENT: u16 = u16::MAX;

    #[must_use]
    pub fn new(text: Option<&str>) -> Self {
        let mut bytes = [0; N];
        let Some(text) = text else {
            return Self {
                length: Self::ABSENT,
                bytes,
            };
        };
        let end = (0..=text.len().min(N))
            .rev()
            .find(|&end| text.is_char_boundary(end))
            .unwrap_or(0);
        bytes[..end].copy_from_slice(&text.as_bytes()[..end]);
        Self {
            length: end as u16,
            bytes,
        }
    }

    /// The text; none, too, of bytes that are no text.
    #[must_use]
    pub fn get(&self) -> Option<&str> {
        if self.length == Self::ABSENT {
            return None;
        }
        let bytes = self.bytes.get(..usize::from(self.length))?;
        std::str::from_utf8(bytes).ok()
    }

    /// The text, or nothing where there is none.
    #[must_use]
    pub fn or_empty(&self) -> &str {
        self.get().unwrap_or_default()
    }

    /// Whether both have the same bytes, whatever they stand for.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        self.length == other.length && self.bytes == other.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn none_is_not_the_empty_text() {
        let (none, empty) = (Text::<8>::new(None), Text::<8>::new(Some("")));
        assert_eq!((none.get(), empty.get()), (None, Some("")));
        assert_eq!((none.or_empty(), none.same(&empty)), ("", false));
    }

    #[test]
    fn a_letter_is_not_cut_in_two() {
        assert_eq!(Text::<4>::new(Some("abcö")).get(), Some("abc"));
    }

    proptest! {
        #[test]
        fn a_text_is_kept_as_far_as_it_fits(text in "\\PC{0,20}") {
            let kept = Text::<16>::new(Some(&text));
            let kept = kept.get().unwrap();
            prop_assert!(text.starts_with(kept) && kept.len() <= 16);
            prop_assert!(kept.len() == text.len() || kept.len() + 4 > 16);
        }

        #[test]
        fn any_bytes_are_valid(length: u16, bytes: [u8; 16]) {
            let text = Text { length, bytes };
            prop_assert!(text.or_empty().len() <= 16);
        }
    }
}
