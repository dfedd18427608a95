//! What each kind of index tells, and whom: the one source of the documentation's table and of `search_leakage`.

use crate::kind::Kind;

/// Who looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Viewer {
    /// Has the disk, a backup or a dump, once.
    Thief,
    /// Runs a replica, or reads what is sent to one: sees all changes as they come.
    Replica,
    /// May SELECT from the table, and has no right on any key.
    NoRights,
    /// May encrypt, and so write: what a constraint answers is all that he asks.
    Writer,
    /// Has the right to search and none to decrypt.
    Searcher,
}

impl Viewer {
    /// All of them, in the order in which they are documented.
    pub const ALL: [Self; 5] = [
        Self::Thief,
        Self::Replica,
        Self::NoRights,
        Self::Writer,
        Self::Searcher,
    ];

    /// As the table and SQL name him.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Thief => "thief of the disk",
            Self::Replica => "replica",
            Self::NoRights => "role without rights",
            Self::Writer => "role with encrypt only",
            Self::Searcher => "role with search only",
        }
    }
}

/// What one of them is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    pub to: Viewer,
    pub what: &'static str,
}

macro_rules! told {
    ($($viewer:ident: $what:literal),+ $(,)?) => {
        &[$(Told { to: Viewer::$viewer, what: $what }),+]
    };
}

/// What an index of a kind tells, with a UNIQUE index and with truncated terms: only kind `equality` has either, and
/// not both.
#[must_use]
pub const fn told(kind: Kind, unique: bool, truncated: bool) -> &'static [Told] {
    match kind {
        Kind::Equality if unique => told! {
            Thief: "that all values differ, and which are NULL; no value, no order",
            Replica: "the same, and which rows change, and whether one takes a value that another had",
            NoRights: "the same as the thief, where he may read the term's column",
            Writer: "whether a value of his choice is there already: the constraint refuses it",
            Searcher: "whether a value of his choice is there, and in which row: a guess a look-up, counted and \
                limited",
        },
        Kind::Equality if truncated => told! {
            Thief: "which rows may have equal values: those with equal terms, among which other values are mixed; \
                how often each term occurs",
            Replica: "the same, and which rows change, and whether to a term that was there before",
            NoRights: "the same as the thief, where he may read the term's column",
            Writer: "nothing but the term of a value that he writes himself, where he may read the column",
            Searcher: "whether a value of his choice may be there, and in which rows: exactly where a row is \
                rechecked for him; counted and limited",
        },
        Kind::Equality => told! {
            Thief: "which rows have equal values and how often each value occurs, so that a value known to be \
                common can be guessed; which are NULL; no order",
            Replica: "the same, and which rows change, and whether to a value that was there before",
            NoRights: "the same as the thief, where he may read the term's column",
            Writer: "which rows have the value that he writes himself, where he may read the term's column",
            Searcher: "whether a value of his choice is there, and in which rows: a guess a look-up, counted and \
                limited",
        },
        Kind::Range => told! {
            Thief: "which rows lie in the same interval, at each size of intervals, and how many do: so which \
                values are near each other and how they cluster; not which of two is the greater, nor where an \
                interval lies",
            Replica: "the same, and which rows change, and into which intervals that were there before; a row that \
                is written near its own date tells where its interval lies",
            NoRights: "the same as the thief, where he may read the terms' column",
            Writer: "which rows lie in the intervals of a value that he writes himself, where he may read the \
                terms' column: value by value, all",
            Searcher: "each value as exactly as he asks: by halving a range, one bit a look-up, counted and limited",
        },
        Kind::Text => told! {
            Thief: "which rows have an n-gram in common, how many n-grams each has, so about how long it is, and \
                how often each n-gram occurs: with a language's statistics words of short texts can be guessed",
            Replica: "the same, and which n-grams come and go when a row changes",
            NoRights: "the same as the thief, where he may read the terms' column",
            Writer: "which rows have the n-grams of a value that he writes himself, where he may read the terms' \
                column",
            Searcher: "which rows have a piece of text of his choice: letter by letter all of it, counted and \
                limited",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_told_something_of_each_kind_in_order() {
        for kind in Kind::ALL {
            for (unique, truncated) in [(false, false), (true, false), (false, true)] {
                let told = told(kind, unique, truncated);
                assert_eq!(told.iter().map(|it| it.to).collect::<Vec<_>>(), Viewer::ALL);
                assert!(
                    told.iter()
                        .all(|it| !it.what.is_empty() && !it.what.contains('|'))
                );
            }
        }
    }

    #[test]
    fn only_equality_differs_by_unique_and_length() {
        let equality = |unique, truncated| told(Kind::Equality, unique, truncated);
        assert_ne!(equality(false, false), equality(true, false));
        assert_ne!(equality(false, false), equality(false, true));
        for kind in [Kind::Range, Kind::Text] {
            assert_eq!(told(kind, false, false), told(kind, true, true));
        }
    }
}
