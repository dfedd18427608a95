//! SLIP-39 (SatoshiLabs' Shamir's secret sharing for mnemonic codes): a secret in groups of shares, each share a line
//! of words with a checksum that finds up to three wrong ones.
//!
//! Shares that we make are of the extendable kind, the standard's newer one, and have no passphrase: a passphrase would
//! be one more thing that can be lost, and unlike a share nothing tells whether it is right.

mod cipher;
mod share;

use aws_lc_rs::hmac;
use colcrypt_core::secret::fill_random;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::field::{Point, interpolate};
pub use share::{NotAShare, Share};

/// More shares than fit into one group, or groups into one set.
const MOST: u8 = 16;
const DIGEST_LEN: usize = 4;
const DIGEST_AT: u8 = 254;
const SECRET_AT: u8 = 255;
/// 128 bits.
const SHORTEST: usize = 16;
/// Of the key derivation, which protects a passphrase; there is none.
const EXPONENT: u8 = 1;

/// How many members a group has, and how many of them it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    pub threshold: u8,
    pub members: u8,
}

/// Why a secret cannot be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SplitError {
    #[error(
        "a threshold must be from 1 to the number of what there is, and there may be at most 16 of each"
    )]
    Threshold,
    #[error(
        "with a threshold of 1 each of several shares would be the whole secret: give that group one member"
    )]
    Single,
    #[error("a secret must have an even number of bytes, and at least 16")]
    Length,
    #[error(transparent)]
    Random(#[from] colcrypt_core::CryptoError),
}

/// Why shares do not give a secret. Each of them is a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CombineError {
    #[error("they are not of one set")]
    Mixed,
    #[error("they are too few, more than it takes, or one of them is given twice")]
    Count,
    #[error("one of them was altered, or they are of different sets: they do not fit together")]
    Digest,
}

/// Splits a secret, so that `threshold` of the groups give it back.
///
/// # Errors
/// [`SplitError`].
pub fn split(
    secret: &[u8],
    passphrase: &[u8],
    threshold: u8,
    groups: &[Group],
) -> Result<Vec<Vec<Share>>, SplitError> {
    if secret.len() < SHORTEST || !secret.len().is_multiple_of(2) {
        return Err(SplitError::Length);
    }
    let count = u8::try_from(groups.len()).map_err(|_| SplitError::Threshold)?;
    refuse_bad_threshold(threshold, count)?;
    for group in groups {
        refuse_bad_threshold(group.threshold, group.members)?;
        if group.threshold == 1 && group.members > 1 {
            return Err(SplitError::Single);
        }
    }
    let mut id = [0; 2];
    fill_random(&mut id)?;
    let id = u16::from_be_bytes(id) & share::ID_MASK;
    let is_extendable = true;
    let encrypted = cipher::encrypt(secret, passphrase, EXPONENT, id, is_extendable);
    let parts = split_once(threshold, count, &encrypted)?;
    groups
        .iter()
        .zip(parts)
        .map(|(group, part)| {
            let values = split_once(group.threshold, group.members, &part.y)?;
            let shares = values.into_iter().map(|value| Share {
                id,
                is_extendable,
                exponent: EXPONENT,
                group: part.x,
                group_threshold: threshold,
                groups: count,
                member: value.x,
                member_threshold: group.threshold,
                value: value.y,
            });
            Ok(shares.collect())
        })
        .collect()
}

/// Puts exactly as many shares together as it takes.
///
/// # Errors
/// [`CombineError`].
pub fn combine(shares: &[&Share], passphrase: &[u8]) -> Result<Zeroizing<Vec<u8>>, CombineError> {
    let first = shares.first().ok_or(CombineError::Count)?;
    if shares.iter().any(|share| !share.is_of_the_set_of(first)) {
        return Err(CombineError::Mixed);
    }
    let mut groups: Vec<Vec<&Share>> = Vec::new();
    for share in shares {
        match groups
            .iter_mut()
            .find(|group| group[0].group == share.group)
        {
            Some(group) => group.push(share),
            None => groups.push(vec![share]),
        }
    }
    if groups.len() != usize::from(first.group_threshold) {
        return Err(CombineError::Count);
    }
    let mut parts = Vec::with_capacity(groups.len());
    for group in groups {
        let threshold = group[0].member_threshold;
        if group
            .iter()
            .any(|share| share.member_threshold != threshold)
        {
            return Err(CombineError::Mixed);
        }
        let points = group.iter().map(|share| Point {
            x: share.member,
            y: share.value.clone(),
        });
        parts.push(Point {
            x: group[0].group,
            y: combine_once(threshold, points.collect())?,
        });
    }
    let encrypted = combine_once(first.group_threshold, parts)?;
    Ok(cipher::decrypt(
        &encrypted,
        passphrase,
        first.exponent,
        first.id,
        first.is_extendable,
    ))
}

fn refuse_bad_threshold(threshold: u8, count: u8) -> Result<(), SplitError> {
    if (1..=count).contains(&threshold) && count <= MOST {
        Ok(())
    } else {
        Err(SplitError::Threshold)
    }
}

/// One round of Shamir's scheme: a polynomial with the secret at one place, and at another its digest, by which it is
/// known again.
fn split_once(threshold: u8, count: u8, secret: &[u8]) -> Result<Vec<Point>, SplitError> {
    let random = |length| -> Result<Zeroizing<Vec<u8>>, SplitError> {
        let mut bytes = Zeroizing::new(vec![0; length]);
        fill_random(&mut bytes)?;
        Ok(bytes)
    };
    let own = |x, bytes: &[u8]| Point {
        x,
        y: Zeroizing::new(bytes.to_vec()),
    };
    if threshold == 1 {
        return Ok((0..count).map(|x| own(x, secret)).collect());
    }
    let drawn = threshold - 2;
    let mut base = Vec::new();
    for x in 0..drawn {
        base.push(Point {
            x,
            y: random(secret.len())?,
        });
    }
    let mut digest = random(secret.len())?;
    let of_secret = digest_of(&digest[DIGEST_LEN..], secret);
    digest[..DIGEST_LEN].copy_from_slice(&of_secret);
    base.push(Point {
        x: DIGEST_AT,
        y: digest,
    });
    base.push(own(SECRET_AT, secret));
    let computed = (drawn..count).map(|x| Point {
        x,
        y: interpolate(&base, x),
    });
    let computed: Vec<Point> = computed.collect();
    base.truncate(usize::from(drawn));
    base.extend(computed);
    Ok(base)
}

fn combine_once(threshold: u8, points: Vec<Point>) -> Result<Zeroizing<Vec<u8>>, CombineError> {
    let is_twice = |at: usize| points[..at].iter().any(|point| point.x == points[at].x);
    if points.len() != usize::from(threshold) || (1..points.len()).any(is_twice) {
        return Err(CombineError::Count);
    }
    if points
        .iter()
        .any(|point| point.y.len() != points[0].y.len())
    {
        return Err(CombineError::Mixed);
    }
    if threshold == 1 {
        let mut points = points;
        return Ok(points.remove(0).y);
    }
    let secret = interpolate(&points, SECRET_AT);
    let digest = interpolate(&points, DIGEST_AT);
    let (digest, random) = digest.split_at(DIGEST_LEN);
    if digest_of(random, &secret) != *digest {
        return Err(CombineError::Digest);
    }
    Ok(secret)
}

fn digest_of(random: &[u8], secret: &[u8]) -> [u8; DIGEST_LEN] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, random), secret);
    let mut digest = [0; DIGEST_LEN];
    digest.copy_from_slice(&tag.as_ref()[..DIGEST_LEN]);
    digest
}

#[cfg(test)]
mod tests;
