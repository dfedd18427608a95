//! PostgreSQL's `numeric` in its text form, of any size.

use zeroize::Zeroizing;

/// Text that `numeric_out` does not write. It does not say which: the text is plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a number as PostgreSQL's numeric writes it")]
pub struct NotNumeric;

/// A number's parts, without zeros that say nothing.
#[derive(Clone, Copy)]
pub enum Decimal<'a> {
    Finite {
        negative: bool,
        /// Empty below 1.
        whole: &'a str,
        /// Empty for integers.
        fraction: &'a str,
    },
    Infinity {
        negative: bool,
    },
    NotANumber,
}

impl<'a> Decimal<'a> {
    /// Reads `numeric_out`'s form: digits with at most one point and a sign, or one of three words.
    pub fn parse(text: &'a str) -> Result<Self, NotNumeric> {
        if text == "NaN" {
            return Ok(Self::NotANumber);
        }
        let (negative, number) = match text.strip_prefix('-') {
            Some(number) => (true, number),
            None => (false, text),
        };
        if number == "Infinity" {
            return Ok(Self::Infinity { negative });
        }
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(fraction) || whole.len() + fraction.len() == 0 {
            return Err(NotNumeric);
        }
        let whole = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        Ok(Self::Finite {
            negative: negative && !(whole.is_empty() && fraction.is_empty()),
            whole,
            fraction,
        })
    }

    /// The shortest form: one for each number, whatever its scale.
    pub fn shortest(self) -> Zeroizing<Vec<u8>> {
        let (negative, whole, fraction) = match self {
            Self::Finite {
                negative,
                whole: "",
                fraction,
            } => (negative, "0", fraction),
            Self::Finite {
                negative,
                whole,
                fraction,
            } => (negative, whole, fraction),
            Self::Infinity { negative } => (negative, "Infinity", ""),
            Self::NotANumber => (false, "NaN", ""),
        };
        let mut bytes = Zeroizing::new(Vec::with_capacity(2 + whole.len() + fraction.len()));
        if negative {
            bytes.push(b'-');
        }
        bytes.extend_from_slice(whole.as_bytes());
        if !fraction.is_empty() {
            bytes.push(b'.');
            bytes.extend_from_slice(fraction.as_bytes());
        }
        bytes
    }

    /// The nearest number of IEEE 754's binary64. Rounding to nearest never swaps two numbers; those beyond the largest
    /// become infinite.
    pub fn nearest(self) -> f64 {
        match self {
            Self::NotANumber => f64::NAN,
            Self::Infinity { negative: true } => f64::NEG_INFINITY,
            Self::Infinity { negative: false } => f64::INFINITY,
            Self::Finite { .. } => {
                let text = self.shortest();
                str::from_utf8(&text)
                    .ok()
                    .and_then(|text| text.parse().ok())
                    .expect("digits, a point and a sign are a number")
            }
        }
    }
}
