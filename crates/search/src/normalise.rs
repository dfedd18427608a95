//! Normalisers: ordered steps that make one form of values that mean the same.
//!
//! With none, equality is SQL's `=`. With some, an index serves `=` all the same, since equal values have one normal
//! form and the answer is rechecked; what UNIQUE compares is the normal form.
//!
//! The rules have a version, [`Pipeline::VERSION`], which is part of every term. The Unicode data has one, too
//! ([`unicode_version`]), which is not: case folding and normal forms of letters that a version has never change in
//! later ones (Unicode's stability policies), so only values with letters that the older version did not have can
//! differ. An index keeps the version that it was built with, and such values are found again once it is rebuilt.

use std::fmt;

use icu_casemap::{CaseMapper, CaseMapperBorrowed};
use icu_normalizer::{
    ComposingNormalizer, ComposingNormalizerBorrowed, DecomposingNormalizer,
    DecomposingNormalizerBorrowed,
};
use icu_properties::props::{Alnum, GeneralCategory, WhiteSpace};
use icu_properties::{CodePointMapData, CodePointMapDataBorrowed, CodePointSetData};
use zeroize::Zeroizing;

const CASE: CaseMapperBorrowed<'static> = CaseMapper::new();
const NFC: ComposingNormalizerBorrowed<'static> = ComposingNormalizer::new_nfc();
const NFKC: ComposingNormalizerBorrowed<'static> = ComposingNormalizer::new_nfkc();
const NFD: DecomposingNormalizerBorrowed<'static> = DecomposingNormalizer::new_nfd();
const CATEGORY: CodePointMapDataBorrowed<'static, GeneralCategory> = CodePointMapData::new();

/// The version of the Unicode data that is compiled in. The libraries tell it in their README only; a test counts the
/// letters that they know, so that an update cannot come unnoticed.
#[must_use]
pub const fn unicode_version() -> &'static str {
    "18.0.0"
}

/// One step of a normaliser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// Normalization Form KC (UAX #15): one form of what looks alike or is a variant of width, ligature and the like.
    Nfkc,
    /// Full case folding (the Unicode Standard, 3.13.3; `CaseFolding.txt`, status C and F), of no language.
    Casefold,
    /// Letters without their marks: decomposed (NFD), nonspacing marks (general category Mn) dropped, composed again
    /// (NFC). Letters that Unicode does not take apart, such as ø and ł, stay. Scripts whose vowels are such marks lose
    /// them.
    Unaccent,
    /// No white space (property `White_Space`) at either end.
    Trim,
    /// Only decimal digits (general category Nd), of any script, as 0 to 9.
    Digits,
    /// Only letters and digits: class `alnum` of UTS #18, annex C, the properties Alphabetic and Nd.
    Alnum,
    /// An address of RFC 5321: in NFKC, trimmed, and its domain, after the last `@`, case-folded. The part before is
    /// case-sensitive by section 2.4 and stays; `{email,casefold}` folds it, too.
    Email,
}

impl Step {
    /// All of them, in the order in which they are documented.
    pub const ALL: [Self; 7] = [
        Self::Nfkc,
        Self::Casefold,
        Self::Unaccent,
        Self::Trim,
        Self::Digits,
        Self::Alnum,
        Self::Email,
    ];

    /// The name in SQL, in the catalog and in labels: it never changes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nfkc => "nfkc",
            Self::Casefold => "casefold",
            Self::Unaccent => "unaccent",
            Self::Trim => "trim",
            Self::Digits => "digits",
            Self::Alnum => "alnum",
            Self::Email => "email",
        }
    }

    /// Whether the other step would undo this one, or have nothing left to do.
    fn excludes(self, other: Self) -> bool {
        match self {
            Self::Digits => matches!(other, Self::Casefold | Self::Unaccent | Self::Alnum),
            Self::Email => matches!(other, Self::Unaccent | Self::Digits | Self::Alnum),
            _ => false,
        }
    }

    fn apply(self, value: &str) -> Result<Zeroizing<String>, Unnormalisable> {
        let normal = Zeroizing::new(match self {
            Self::Nfkc => NFKC.normalize(value).into_owned(),
            Self::Casefold => CASE.fold_string(value).into_owned(),
            Self::Unaccent => {
                let base: Zeroizing<String> = Zeroizing::new(
                    NFD.normalize_iter(value.chars())
                        .filter(|letter| !is_nonspacing_mark(*letter))
                        .collect(),
                );
                NFC.normalize(&base).into_owned()
            }
            Self::Trim => value.trim_matches(is_space).to_owned(),
            Self::Digits => value.chars().filter_map(digit).collect(),
            Self::Alnum => value.chars().filter(|letter| is_alnum(*letter)).collect(),
            Self::Email => return email(value),
        });
        let drops_letters = matches!(self, Self::Unaccent | Self::Digits | Self::Alnum);
        if drops_letters && normal.is_empty() {
            return Err(Unnormalisable::NothingLeft(self));
        }
        Ok(normal)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn email(value: &str) -> Result<Zeroizing<String>, Unnormalisable> {
    // First the normal form: it makes spaces of what is none (U+FE70).
    let normal = Zeroizing::new(NFKC.normalize(value).into_owned());
    let mut address = Zeroizing::new(normal.trim_matches(is_space).to_owned());
    let at = address.rfind('@').ok_or(Unnormalisable::NoAt)?;
    if at == 0 {
        return Err(Unnormalisable::NoLocalPart);
    }
    if at + 1 == address.len() {
        return Err(Unnormalisable::NoDomain);
    }
    let domain = folded(&address[at + 1..]);
    address.truncate(at + 1);
    address.push_str(&domain);
    Ok(address)
}

/// In NFKC and case-folded, and either once more changes nothing: a mark that folds to a letter (U+0345) lets others
/// be composed, and what they are composed to may fold.
fn folded(text: &str) -> Zeroizing<String> {
    let mut text = Zeroizing::new(text.to_owned());
    // Twice is enough for all that is known; a bound, whatever there is.
    for _ in 0..4 {
        let folded = Zeroizing::new(CASE.fold_string(&text).into_owned());
        let composed = Zeroizing::new(NFKC.normalize(&folded).into_owned());
        if *composed == *text {
            break;
        }
        text = composed;
    }
    text
}

pub(crate) fn is_nonspacing_mark(letter: char) -> bool {
    !letter.is_ascii() && CATEGORY.get(letter) == GeneralCategory::NonspacingMark
}

fn is_space(letter: char) -> bool {
    CodePointSetData::new::<WhiteSpace>().contains(letter)
}

fn is_alnum(letter: char) -> bool {
    CodePointSetData::new::<Alnum>().contains(letter)
}

/// The ASCII digit of a decimal digit. Decimal digits stand in runs of ten from zero to nine (the Unicode Standard,
/// 4.6); runs may follow each other without a gap.
fn digit(letter: char) -> Option<char> {
    if letter.is_ascii() {
        return letter.is_ascii_digit().then_some(letter);
    }
    let is_decimal = |code: u32| CATEGORY.get32(code) == GeneralCategory::DecimalNumber;
    let code = u32::from(letter);
    if !is_decimal(code) {
        return None;
    }
    let before = (0..code).rev().take_while(|code| is_decimal(*code)).count();
    char::from_digit((before % 10) as u32, 10)
}

/// Why a normaliser cannot be what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NormaliseError {
    #[error(
        "unknown step \"{0}\" of a normaliser: steps are nfkc, casefold, unaccent, trim, digits, alnum and email"
    )]
    Unknown(String),
    #[error("the step \"{0}\" stands twice in a normaliser")]
    Twice(Step),
    #[error("the steps \"{0}\" and \"{1}\" make no sense in one normaliser")]
    Together(Step, Step),
}

/// Why a value has no normal form. The value is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unnormalisable {
    #[error("no \"@\"")]
    NoAt,
    #[error("nothing before the \"@\"")]
    NoLocalPart,
    #[error("nothing after the \"@\"")]
    NoDomain,
    #[error("nothing is left of it after the step \"{0}\"")]
    NothingLeft(Step),
    #[error("longer than {} bytes", Pipeline::LONGEST)]
    TooLong,
}

/// What a value is entered as.
pub enum Normalised {
    /// Its normal form.
    Form(Zeroizing<String>),
    /// It has none, and is found by itself only: terms tell the two apart.
    Itself(Unnormalisable),
}

/// An ordered list of steps; by default none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pipeline(Vec<Step>);

impl Pipeline {
    /// The version of the rules here. It rises when a step's outcome changes by more than newer Unicode data.
    pub const VERSION: u16 = 1;
    /// Bytes in UTF-8 of the longest value that has a normal form. NFKC makes up to eleven of one, in one go, and
    /// nobody looks for what is longer by another spelling of it.
    pub const LONGEST: usize = 1 << 20;

    /// Reads the names of steps, in their order.
    ///
    /// # Errors
    /// [`NormaliseError`] for a name that no step has, a step that stands twice, and steps of which one leaves nothing
    /// for the other.
    pub fn parse<S: AsRef<str>>(names: &[S]) -> Result<Self, NormaliseError> {
        let mut steps = Vec::new();
        for name in names.iter().map(S::as_ref) {
            let step = Step::ALL
                .into_iter()
                .find(|step| step.name() == name)
                .ok_or_else(|| NormaliseError::Unknown(name.into()))?;
            if steps.contains(&step) {
                return Err(NormaliseError::Twice(step));
            }
            let excluded = |other: &&Step| step.excludes(**other) || other.excludes(step);
            if let Some(other) = steps.iter().find(excluded) {
                return Err(NormaliseError::Together(*other, step));
            }
            steps.push(step);
        }
        Ok(Self(steps))
    }

    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// The names, for the catalog.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|step| step.name()).collect()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The normal form.
    ///
    /// # Errors
    /// [`Unnormalisable`] for a value that has none.
    pub fn apply(&self, value: &str) -> Result<Zeroizing<String>, Unnormalisable> {
        if !self.is_empty() && value.len() > Self::LONGEST {
            return Err(Unnormalisable::TooLong);
        }
        let mut normal: Option<Zeroizing<String>> = None;
        for step in &self.0 {
            let done = step.apply(normal.as_deref().map_or(value, String::as_str))?;
            normal = Some(done);
        }
        Ok(normal.unwrap_or_else(|| Zeroizing::new(value.to_owned())))
    }

    /// What the value is entered as, which every value can be.
    #[must_use]
    pub fn apply_or_self(&self, value: &str) -> Normalised {
        match self.apply(value) {
            Ok(form) => Normalised::Form(form),
            Err(why) => Normalised::Itself(why),
        }
    }
}

#[cfg(test)]
mod tests;
