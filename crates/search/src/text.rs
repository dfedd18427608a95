//! LIKE and ILIKE by keyed n-grams.
//!
//! A value is *folded* letter by letter and cut into pieces of n letters, which overlap; a mark stands before its first
//! letter and after its last. What a pattern says literally is folded and cut likewise, and a row that matches holds
//! all of these grams.
//!
//! That holds because the fold is of letters, not of texts: what a text's part becomes does not depend on what stands
//! around it. And it holds for ILIKE, which compares what the server's `lower()` makes of both sides, because the fold
//! of a text is that of any lower case of it, in whatever language: case is folded (of Σ, σ and ς one is left), letters
//! are taken apart (in Lithuanian, the lower case of Ì has one mark more than ì), and I, İ, ı and i are one letter,
//! with the dot above dropped wherever it stands (Turkish, Azeri, Lithuanian: `SpecialCasing.txt`). Letters that are
//! newer than [`unicode_version`](crate::unicode_version) are exempt.

use icu_casemap::{CaseMapper, CaseMapperBorrowed};
use icu_normalizer::properties::{
    CanonicalDecomposition, CanonicalDecompositionBorrowed, Decomposed,
};
use zeroize::{Zeroize, Zeroizing};

use crate::normalise::{Pipeline, Step, is_nonspacing_mark};
use crate::term::Prepared;

const CASE: CaseMapperBorrowed<'static> = CaseMapper::new();
const PARTS: CanonicalDecompositionBorrowed<'static> = CanonicalDecomposition::new();

/// Stands before a value's first letter and after its last: no text of PostgreSQL's has it.
const EDGE: char = '\0';
const DOT_ABOVE: char = '\u{307}';
const DOTLESS_I: char = 'ı';

const MAX_LETTERS: usize = 5;

/// Letters of a value that are cut into grams together.
const CHUNK: usize = 1 << 14;

/// So many letters in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextSpec {
    letters: u8,
    unaccent: bool,
}

/// No index has grams like that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    #[error("n-grams have 2 to {MAX_LETTERS} letters, not {0}")]
    Letters(u8),
    #[error(
        "an index of kind text takes no step \"{0}\" of a normaliser: \
         what it makes of a letter depends on the letters around"
    )]
    Step(Step),
}

/// There is no memory for the terms of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no memory for {bytes} bytes of terms")]
pub struct NoRoom {
    pub bytes: usize,
}

/// An n-gram: a piece of plaintext.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gram {
    letters: [char; MAX_LETTERS],
    len: u8,
}

impl Gram {
    fn new(piece: &[char]) -> Self {
        let mut letters = [EDGE; MAX_LETTERS];
        letters[..piece.len()].copy_from_slice(piece);
        Self {
            letters,
            len: piece.len() as u8,
        }
    }

    /// Its letters, where U+0000 is a value's start or end.
    #[must_use]
    pub fn letters(&self) -> &[char] {
        &self.letters[..usize::from(self.len)]
    }

    fn term(&self, prepared: &Prepared) -> i64 {
        let mut utf8 = Zeroizing::new([0; 4 * MAX_LETTERS]);
        let mut len = 0;
        for letter in self.letters() {
            len += letter.encode_utf8(&mut utf8[len..]).len();
        }
        prepared.gram(&utf8[..len])
    }
}

/// Different grams in order; wiped on drop.
pub struct Grams(Vec<Gram>);

impl Drop for Grams {
    fn drop(&mut self) {
        for gram in &mut self.0 {
            gram.letters.zeroize();
        }
    }
}

impl std::ops::Deref for Grams {
    type Target = [Gram];

    fn deref(&self) -> &[Gram] {
        &self.0
    }
}

impl Grams {
    fn sort(&mut self) {
        self.0.sort_unstable();
        // Those that are cut off stay in memory: they are wiped first.
        let mut kept = 0;
        for at in 0..self.0.len() {
            if kept == 0 || self.0[kept - 1] != self.0[at] {
                self.0.swap(kept, at);
                kept += 1;
            }
        }
        self.cut(kept);
    }

    fn cut(&mut self, kept: usize) {
        for gram in &mut self.0[kept..] {
            gram.letters.zeroize();
        }
        self.0.truncate(kept);
    }

    /// Takes an even choice of so many: any part of what a row must hold is true of the row.
    fn thin(&mut self, most: usize) {
        let all = self.0.len();
        if all > most {
            for at in 0..most {
                self.0.swap(at, at * all / most);
            }
            self.cut(most);
        }
    }

    fn terms(&self, prepared: &Prepared) -> Vec<i64> {
        let mut terms: Vec<_> = self.each_term(prepared).collect();
        terms.sort_unstable();
        terms.dedup();
        terms
    }

    fn each_term(&self, prepared: &Prepared) -> impl Iterator<Item = i64> {
        self.0.iter().map(|gram| gram.term(prepared))
    }
}

/// Terms as they come, some of them often.
#[derive(Default)]
struct Gathered {
    terms: Vec<i64>,
    /// How many there were when they were last put in order.
    different: usize,
}

impl Gathered {
    /// Adds the terms of the pieces of so many letters.
    fn add(&mut self, prepared: &Prepared, piece: &[char], letters: usize) -> Result<(), NoRoom> {
        let mut grams = Grams(Vec::with_capacity(piece.len()));
        grams.0.extend(piece.windows(letters).map(Gram::new));
        grams.sort();
        if self.terms.len() > 2 * self.different + CHUNK {
            self.put_in_order();
        }
        let bytes = size_of::<i64>() * (self.terms.len() + grams.len());
        self.terms
            .try_reserve(grams.len())
            .map_err(|_| NoRoom { bytes })?;
        self.terms.extend(grams.each_term(prepared));
        Ok(())
    }

    fn put_in_order(&mut self) {
        self.terms.sort_unstable();
        self.terms.dedup();
        self.different = self.terms.len();
    }
}

impl TextSpec {
    /// Letters of a gram where nobody says otherwise.
    pub const DEFAULT_LETTERS: u8 = 3;
    /// Grams that a query looks up at most: more would find no fewer rows, only later.
    pub const MAX_NEEDLE: usize = 32;
    /// Letters of a pattern, or of a value that is to be equal, that are looked at for these.
    const MAX_LOOKED_AT: usize = 1 << 14;

    /// Grams of so many letters. Case is always folded, so that LIKE and ILIKE have one index; marks are dropped if the
    /// normaliser has `unaccent`.
    ///
    /// # Errors
    /// [`TextError`] for fewer than 2 letters or more than 5, and for steps that are not a fold of letters.
    pub fn new(letters: u8, pipeline: &Pipeline) -> Result<Self, TextError> {
        if !(2..=MAX_LETTERS as u8).contains(&letters) {
            return Err(TextError::Letters(letters));
        }
        let folds = |step: &Step| matches!(step, Step::Casefold | Step::Unaccent);
        if let Some(step) = pipeline.steps().iter().find(|step| !folds(step)) {
            return Err(TextError::Step(*step));
        }
        Ok(Self {
            letters,
            unaccent: pipeline.steps().contains(&Step::Unaccent),
        })
    }

    #[must_use]
    pub const fn letters(self) -> u8 {
        self.letters
    }

    /// Adds a letter, folded.
    fn fold(self, letter: char, to: &mut Vec<char>) {
        if letter.is_ascii() {
            to.push(letter.to_ascii_lowercase());
            return;
        }
        // Apart, folded and apart again: the Unicode Standard, D145, one letter at a time.
        take_apart(letter, &mut |part| {
            let mut utf8 = Zeroizing::new([0; 4]);
            for folded in CASE.fold_string(part.encode_utf8(&mut utf8[..])).chars() {
                take_apart(folded, &mut |part| match part {
                    DOT_ABOVE => {}
                    DOTLESS_I => to.push('i'),
                    mark if self.unaccent && is_nonspacing_mark(mark) => {}
                    other => to.push(other),
                });
            }
        });
    }

    /// A value's grams. A value that is too short for one has a shorter one: all of it.
    ///
    /// There are no more than letters in the folded value, and one; a gram that stands in a value twice is one gram. So
    /// a value's terms take 8 bytes a letter at most.
    #[must_use]
    pub fn grams_of(self, value: &str) -> Grams {
        let mut pieces = Pieces::new(self, value.len());
        pieces.add(value.chars());
        pieces.finish()
    }

    /// The grams that a value which is equal has: for `=` on an index of kind text.
    #[must_use]
    pub fn equal_grams(self, value: &str) -> Grams {
        let mut grams = match value.char_indices().nth(Self::MAX_LOOKED_AT) {
            None => self.grams_of(value),
            Some((end, _)) => {
                let mut pieces = Pieces::new(self, end);
                pieces.add(value[..end].chars());
                pieces.gap();
                pieces.finish()
            }
        };
        grams.thin(Self::MAX_NEEDLE);
        grams
    }

    /// The grams that each value has which is LIKE the pattern, or ILIKE it. `escape` as SQL has it: a backslash by
    /// default, none with `ESCAPE ''`.
    ///
    /// `None`, for a scan, where nothing literal is long enough for a gram, and for a pattern that ends with its escape
    /// character, which is an error of SQL's.
    #[must_use]
    pub fn like_grams(self, pattern: &str, escape: Option<char>) -> Option<Grams> {
        let mut pieces = Pieces::new(self, pattern.len().min(4 * Self::MAX_LOOKED_AT));
        let mut letters = pattern.chars();
        let mut looked_at = 0;
        while let Some(letter) = letters.next() {
            looked_at += 1;
            if looked_at > Self::MAX_LOOKED_AT {
                pieces.gap();
                break;
            }
            // In the order of the server's `like_escape` and `MatchText`: an escape that is a wildcard is no wildcard.
            if Some(letter) == escape {
                pieces.add([letters.next()?]);
            } else if matches!(letter, '%' | '_') {
                pieces.gap();
            } else {
                pieces.add([letter]);
            }
        }
        let mut grams = pieces.finish();
        grams.thin(Self::MAX_NEEDLE);
        (!grams.is_empty()).then_some(grams)
    }

    /// The terms of a row with this value, sorted. Long work: `pause` is called every so often, and may unwind.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub fn terms(
        self,
        prepared: &Prepared,
        value: &str,
        pause: &mut dyn FnMut(),
    ) -> Result<Vec<i64>, NoRoom> {
        let letters = usize::from(self.letters);
        // A letter becomes a few at most: no memory is left behind that nobody wipes.
        let mut piece = Zeroizing::new(Vec::with_capacity(CHUNK + 128));
        piece.push(EDGE);
        let mut gathered = Gathered::default();
        for letter in value.chars() {
            self.fold(letter, &mut piece);
            if piece.len() >= CHUNK {
                gathered.add(prepared, &piece, letters)?;
                let begun = piece.len() + 1 - letters;
                piece.drain(..begun);
                pause();
            }
        }
        piece.push(EDGE);
        if gathered.terms.is_empty() && piece.len() < letters {
            gathered.terms.push(Gram::new(&piece).term(prepared));
        }
        gathered.add(prepared, &piece, letters)?;
        gathered.put_in_order();
        Ok(gathered.terms)
    }

    /// The terms all of which a row has whose value is equal.
    #[must_use]
    pub fn equal_terms(self, prepared: &Prepared, value: &str) -> Vec<i64> {
        self.equal_grams(value).terms(prepared)
    }

    /// The terms all of which a row has whose value is LIKE the pattern; see [`like_grams`](Self::like_grams).
    #[must_use]
    pub fn like_terms(
        self,
        prepared: &Prepared,
        pattern: &str,
        escape: Option<char>,
    ) -> Option<Vec<i64>> {
        Some(self.like_grams(pattern, escape)?.terms(prepared))
    }
}

/// What is literal, between gaps.
struct Pieces {
    spec: TextSpec,
    /// The letters since the last gap, and the edge before, if there was none.
    piece: Zeroizing<Vec<char>>,
    whole: bool,
    grams: Grams,
}

impl Pieces {
    fn new(spec: TextSpec, bytes: usize) -> Self {
        // A letter of two bytes becomes three at most: no memory is left behind that nobody wipes.
        let mut piece = Zeroizing::new(Vec::with_capacity(bytes + bytes / 2 + 2));
        piece.push(EDGE);
        Self {
            spec,
            piece,
            whole: true,
            grams: Grams(Vec::with_capacity(bytes + bytes / 2 + 2)),
        }
    }

    fn add(&mut self, letters: impl IntoIterator<Item = char>) {
        for letter in letters {
            self.spec.fold(letter, &mut self.piece);
        }
    }

    fn gap(&mut self) {
        self.whole = false;
        self.cut();
    }

    fn cut(&mut self) {
        let windows = self.piece.windows(usize::from(self.spec.letters));
        self.grams.0.extend(windows.map(Gram::new));
        self.piece.clear();
    }

    fn finish(mut self) -> Grams {
        self.piece.push(EDGE);
        if self.whole && self.piece.len() < usize::from(self.spec.letters) {
            self.grams.0.push(Gram::new(&self.piece));
        }
        self.cut();
        self.grams.sort();
        self.grams
    }
}

/// A letter's canonical decomposition (the Unicode Standard, D68), without what reordering would do between letters.
fn take_apart(letter: char, to: &mut impl FnMut(char)) {
    // A decomposition's first letter may have one itself, its second never: a test.
    let mut rest = [EDGE; 8];
    let (mut first, mut len) = (letter, 0);
    loop {
        match PARTS.decompose(first) {
            Decomposed::Default => break,
            Decomposed::Singleton(only) => first = only,
            Decomposed::Expansion(one, other) => {
                first = one;
                rest[len] = other;
                len += 1;
            }
        }
    }
    to(first);
    rest[..len].iter().rev().for_each(|part| to(*part));
}

#[cfg(test)]
mod tests;
