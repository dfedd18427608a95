//! When a certificate ends, out of its DER: a server that refuses one that ran out need not say why.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xA0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The end of the certificate's time (RFC 5280, section 4.1.2.5); `None` for what is no certificate.
pub(super) fn not_after(certificate: &[u8]) -> Option<SystemTime> {
    let (certificate, _) = expect(SEQUENCE, certificate)?;
    let (mut rest, _) = expect(SEQUENCE, certificate)?;
    if let Some((_, after)) = expect(VERSION, rest) {
        rest = after;
    }
    // Serial number, algorithm, issuer.
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        (_, rest) = expect(tag, rest)?;
    }
    let (validity, _) = expect(SEQUENCE, rest)?;
    let (_, _, after) = element(validity)?;
    let (tag, text, _) = element(after)?;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let number = |text: &str| text.parse::<u64>().ok();
    let (year, rest) = match tag {
        UTC_TIME => {
            let year = number(text.get(..2)?)?;
            (year + if year < 50 { 2000 } else { 1900 }, text.get(2..)?)
        }
        GENERALIZED_TIME => (number(text.get(..4)?)?, text.get(4..)?),
        _ => return None,
    };
    let part = |at: usize| number(rest.get(at..at + 2)?);
    let days = days(year, part(0)?, part(2)?)?;
    let seconds = ((days * 24 + part(4)?) * 60 + part(6)?) * 60 + part(8)?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Days from 1970 to a day of the Gregorian calendar.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || year < 1970 {
        return None;
    }
    // Years that begin in March, so that the odd day is the last one.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let of_years = 365 * year + year / 4 - year / 100 + year / 400;
    // From March 1 of the year 0 to 1970.
    Some(of_years + (153 * month + 2) / 5 + day - 1 - 719_468)
}

fn expect(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = element(bytes)?;
    (found == tag).then_some((content, rest))
}

/// Tag, content, and what follows.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let of_length = usize::from(first & 0x7F);
        let (length, rest) = rest.split_at_checked(of_length).filter(|_| of_length < 4)?;
        let length = length
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        (length, rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use colcrypt_tests::authority::Authority;
    use rustls::pki_types::{CertificateDer, pem::PemObject};

    fn der(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    #[test]
    fn the_end_is_read_out_of_real_certificates() {
        let authority = Authority::new();
        let expired = der(&authority.expired_client("c").certificate);
        let end = UNIX_EPOCH + Duration::from_secs(1_009_843_200);
        assert_eq!(not_after(&expired), Some(end), "2002-01-01");
        let current = der(&authority.client("c").certificate);
        assert!(not_after(&current).unwrap() > SystemTime::now());
        for length in 0..expired.len().min(200) {
            assert_eq!(not_after(&expired[..length]), None, "{length}");
        }
        assert_eq!(not_after(b"no certificate"), None);
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        for (year, month, day, number) in [
            (1970, 1, 1, 0),
            (2000, 2, 29, 11_016),
            (2000, 3, 1, 11_017),
            (2026, 12, 31, 20_818),
        ] {
            assert_eq!(days(year, month, day), Some(number));
        }
        assert_eq!(days(2026, 13, 1), None);
    }
}
