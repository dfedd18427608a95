//! The words of SLIP-39, ten bits each. No two have the same first four letters.

use std::sync::LazyLock;

/// The standard's list, in its order, which is the alphabet's.
static WORDS: LazyLock<Vec<&str>> =
    LazyLock::new(|| include_str!("words.txt").split_ascii_whitespace().collect());

pub(crate) fn word(index: u16) -> &'static str {
    WORDS[usize::from(index)]
}

pub(crate) fn index(word: &str) -> Option<u16> {
    let at = WORDS.binary_search(&word).ok()?;
    u16::try_from(at).ok()
}

/// The word that begins as this one does, for a slip of the pen after the fourth letter.
pub(crate) fn like(word: &str) -> Option<&'static str> {
    let begin = word.get(..4)?;
    WORDS.iter().copied().find(|known| known.starts_with(begin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_the_standards() {
        assert_eq!(WORDS.len(), 1024);
        assert!(WORDS.is_sorted());
        let mut begins: Vec<&str> = WORDS.iter().map(|word| &word[..4]).collect();
        begins.dedup();
        assert_eq!(begins.len(), 1024);
        assert_eq!((word(0), word(1023)), ("academic", "zero"));
        assert_eq!(index("academic"), Some(0));
        assert_eq!(index("colcrypt"), None);
        assert_eq!(like("academia"), Some("academic"));
    }
}
