//! What the secret goes through before it is split: four rounds of Feistel's network, with which a passphrase would
//! come in. Any passphrase gives some secret, so that nobody learns from a wrong one.

use std::num::NonZeroU32;

use aws_lc_rs::pbkdf2;
use zeroize::Zeroizing;

use super::share::CUSTOMIZATION;

const ROUNDS: u8 = 4;
/// Of all rounds together.
const ITERATIONS: u32 = 10_000;

pub(super) fn encrypt(
    secret: &[u8],
    passphrase: &[u8],
    exponent: u8,
    id: u16,
    is_extendable: bool,
) -> Zeroizing<Vec<u8>> {
    let salt = salt(id, is_extendable);
    run(secret, passphrase, exponent, &salt, 0..ROUNDS)
}

pub(super) fn decrypt(
    encrypted: &[u8],
    passphrase: &[u8],
    exponent: u8,
    id: u16,
    is_extendable: bool,
) -> Zeroizing<Vec<u8>> {
    let salt = salt(id, is_extendable);
    run(encrypted, passphrase, exponent, &salt, (0..ROUNDS).rev())
}

fn run(
    bytes: &[u8],
    passphrase: &[u8],
    exponent: u8,
    salt: &[u8],
    rounds: impl Iterator<Item = u8>,
) -> Zeroizing<Vec<u8>> {
    let (left, right) = bytes.split_at(bytes.len() / 2);
    let mut left = Zeroizing::new(left.to_vec());
    let mut right = Zeroizing::new(right.to_vec());
    let iterations = NonZeroU32::new((ITERATIONS << exponent) / u32::from(ROUNDS))
        .expect("an exponent has four bits");
    for round in rounds {
        let password = Zeroizing::new([&[round], passphrase].concat());
        let salt = Zeroizing::new([salt, &right[..]].concat());
        let mut stream = Zeroizing::new(vec![0; left.len()]);
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            iterations,
            &salt,
            &password,
            &mut stream,
        );
        for (byte, mask) in left.iter_mut().zip(stream.iter()) {
            *byte ^= mask;
        }
        std::mem::swap(&mut left, &mut right);
    }
    Zeroizing::new([&right[..], &left[..]].concat())
}

fn salt(id: u16, is_extendable: bool) -> Vec<u8> {
    if is_extendable {
        return Vec::new();
    }
    [CUSTOMIZATION, &id.to_be_bytes()].concat()
}
