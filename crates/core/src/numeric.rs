//! PostgreSQL's `numeric` between its two forms: as stored in a row, and as `numeric_send` gives it.
//!
//! The server's own functions do the same through string buffers, which costs more than the
//! encryption. Only finite numbers of ordinary size and in normal form are done here; for every other
//! the answer is `None`, and the caller asks the server.
//!
//! Stored (`src/backend/utils/adt/numeric.c`), in the machine's byte order, digits in base 10000:
//! a short header of 16 bits (`10`, sign, 6 bits of display scale, 7 of weight) or a long one of 32
//! (sign and 14 bits of scale, weight), then the digits. Sent, in network byte order: number of digits,
//! weight, sign, display scale, digits; 16 bits each.

/// Digits that fit; a number of more than 96 decimal places is rare enough for the server.
const MAX_DIGITS: usize = 24;
/// Room for either form.
pub const BUFFER_LEN: usize = 8 + 2 * MAX_DIGITS;

const SIGN_MASK: u16 = 0xc000;
const NEGATIVE: u16 = 0x4000;
const SHORT: u16 = 0x8000;
const SHORT_SIGN: u16 = 0x2000;
const SHORT_SCALE_SHIFT: u32 = 7;
const SHORT_SCALE_MAX: u16 = 0x3f;
const LONG_SCALE_MASK: u16 = 0x3fff;
/// A short header's weight is a signed number of 7 bits.
const SHORT_WEIGHTS: std::ops::RangeInclusive<i16> = -64..=63;

/// The sent form of a stored number; returns its length in `sent`.
pub fn send(stored: &[u8], sent: &mut [u8; BUFFER_LEN]) -> Option<usize> {
    let (head, rest) = stored.split_first_chunk::<2>()?;
    let header = u16::from_ne_bytes(*head);
    let (sign, scale, weight, digits) = match header & SIGN_MASK {
        SHORT => {
            let sign = if header & SHORT_SIGN == 0 {
                0
            } else {
                NEGATIVE
            };
            let scale = header >> SHORT_SCALE_SHIFT & SHORT_SCALE_MAX;
            // Bit 6 is the sign: shifted to the top, it comes back down with the value.
            let weight = (header << 9) as i16 >> 9;
            (sign, scale, weight, rest)
        }
        sign @ (0 | NEGATIVE) => {
            let (weight, digits) = rest.split_first_chunk::<2>()?;
            let weight = i16::from_ne_bytes(*weight);
            (sign, header & LONG_SCALE_MASK, weight, digits)
        }
        // NaN and the infinities.
        _ => return None,
    };
    let (digits, odd) = digits.as_chunks::<2>();
    if digits.len() > MAX_DIGITS || !odd.is_empty() {
        return None;
    }
    let fields = [digits.len() as u16, weight as u16, sign, scale];
    let native = digits.iter().map(|digit| u16::from_ne_bytes(*digit));
    for (place, field) in sent
        .as_chunks_mut::<2>()
        .0
        .iter_mut()
        .zip(fields.into_iter().chain(native))
    {
        *place = field.to_be_bytes();
    }
    Some(8 + 2 * digits.len())
}

/// The stored form of a number as sent; returns its length in `stored`.
pub fn receive(sent: &[u8], stored: &mut [u8; BUFFER_LEN]) -> Option<usize> {
    let (fields, odd) = sent.as_chunks::<2>();
    let (&[count, weight, sign, scale], digits) = fields.split_first_chunk::<4>()?;
    let [count, weight, sign, scale] = [count, weight, sign, scale].map(u16::from_be_bytes);
    let weight = weight as i16;
    if !odd.is_empty()
        || usize::from(count) != digits.len()
        || digits.len() > MAX_DIGITS
        || scale > SHORT_SCALE_MAX
        || !SHORT_WEIGHTS.contains(&weight)
        || !matches!(sign, 0 | NEGATIVE)
        || !is_normal(digits, weight, sign, scale)
    {
        return None;
    }
    let sign = if sign == NEGATIVE { SHORT_SIGN } else { 0 };
    let header = SHORT | sign | scale << SHORT_SCALE_SHIFT | weight as u16 & 0x7f;
    let native = digits.iter().map(|digit| u16::from_be_bytes(*digit));
    for (place, field) in stored
        .as_chunks_mut::<2>()
        .0
        .iter_mut()
        .zip(std::iter::once(header).chain(native))
    {
        *place = field.to_ne_bytes();
    }
    Some(2 + 2 * digits.len())
}

/// Whether the server would keep the digits as they are: in range, none zero at either end, none
/// beyond the display scale.
fn is_normal(digits: &[[u8; 2]], weight: i16, sign: u16, scale: u16) -> bool {
    let digit = |at: &[u8; 2]| u16::from_be_bytes(*at);
    let (Some(first), Some(last)) = (digits.first(), digits.last()) else {
        return weight == 0 && sign == 0;
    };
    // Decimal places that the last digit reaches beyond the display scale.
    let places = (digits.len() as i32 - 1 - i32::from(weight)).max(0) * 4;
    let beyond = places - i32::from(scale);
    let fits = match beyond {
        ..=0 => true,
        1..=3 => digit(last) % 10u16.pow(beyond.unsigned_abs()) == 0,
        _ => false,
    };
    digit(first) != 0 && digit(last) != 0 && fits && digits.iter().all(|at| digit(at) < 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(fields: &[u16]) -> Vec<u8> {
        fields
            .iter()
            .flat_map(|field| field.to_be_bytes())
            .collect()
    }

    fn stored(fields: &[u16]) -> Vec<u8> {
        fields
            .iter()
            .flat_map(|field| field.to_ne_bytes())
            .collect()
    }

    /// By hand, from numeric.c's description; the suites compare with a server's numeric_send.
    #[test]
    fn both_ways() {
        for (of, wire, row) in [
            ("0", sent(&[0, 0, 0, 0]), stored(&[0x8000])),
            ("0.00", sent(&[0, 0, 0, 2]), stored(&[0x8100])),
            ("1", sent(&[1, 0, 0, 0, 1]), stored(&[0x8000, 1])),
            (
                "-12345.67",
                sent(&[3, 1, 0x4000, 2, 1, 2345, 6700]),
                stored(&[0xa101, 1, 2345, 6700]),
            ),
            ("0.0001", sent(&[1, 0xffff, 0, 4, 1]), stored(&[0x827f, 1])),
            ("1e252", sent(&[1, 63, 0, 0, 1]), stored(&[0x803f, 1])),
        ] {
            let mut buffer = [0; BUFFER_LEN];
            let length = send(&row, &mut buffer).expect(of);
            assert_eq!(buffer[..length], wire, "{of}");
            let length = receive(&wire, &mut buffer).expect(of);
            assert_eq!(buffer[..length], row, "{of}");
        }
    }

    #[test]
    fn a_long_header_is_sent_and_never_made() {
        let wire = sent(&[1, 64, 0x4000, 0, 7]);
        let row = stored(&[0x4000, 64, 7]);
        let mut buffer = [0; BUFFER_LEN];
        let length = send(&row, &mut buffer).unwrap();
        assert_eq!(buffer[..length], wire);
        assert_eq!(receive(&wire, &mut buffer), None);
    }

    #[test]
    fn what_is_not_ordinary_is_the_servers() {
        let mut buffer = [0; BUFFER_LEN];
        for special in [0xc000, 0xd000, 0xf000] {
            assert_eq!(send(&stored(&[special]), &mut buffer), None);
        }
        for torn in [
            &[][..],
            &[0x80],
            &stored(&[0x8000, 1])[..3],
            &stored(&[0x0000]),
        ] {
            assert_eq!(send(torn, &mut buffer), None, "{torn:?}");
        }
        let many: Vec<u16> = std::iter::once(0x8000)
            .chain(vec![1; MAX_DIGITS + 1])
            .collect();
        assert_eq!(send(&stored(&many), &mut buffer), None);

        let many: Vec<u16> = [MAX_DIGITS as u16 + 1, 30, 0, 0]
            .into_iter()
            .chain(vec![1; MAX_DIGITS + 1])
            .collect();
        for (why, wire) in [
            ("empty", sent(&[])),
            ("odd", [sent(&[1, 0, 0, 0, 1]), vec![0]].concat()),
            ("fewer digits than said", sent(&[2, 0, 0, 0, 1])),
            ("more digits than said", sent(&[0, 0, 0, 0, 1])),
            ("not a number", sent(&[0, 0, 0xc000, 0])),
            ("leading zero", sent(&[2, 1, 0, 0, 0, 1])),
            ("trailing zero", sent(&[2, 1, 0, 0, 1, 0])),
            ("digit out of range", sent(&[1, 0, 0, 0, 10_000])),
            ("negative zero", sent(&[0, 0, 0x4000, 0])),
            ("zero with a weight", sent(&[0, 1, 0, 0])),
            ("beyond the scale", sent(&[2, 0, 0, 1, 1, 1250])),
            ("far beyond the scale", sent(&[3, 0, 0, 1, 1, 1, 1])),
            ("large scale", sent(&[1, 0, 0, 64, 1])),
            ("large weight", sent(&[1, 64, 0, 0, 1])),
            ("small weight", sent(&[1, 0xffbf, 0, 63, 1])),
            ("many digits", sent(&many)),
        ] {
            assert_eq!(receive(&wire, &mut buffer), None, "{why}");
        }
    }
}
