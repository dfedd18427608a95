//! The field of 256 elements that AES has, and polynomials over it. Neither branches nor looks anything up by a secret.

use zeroize::Zeroizing;

/// What a polynomial is at `x`, of as many bytes as there are polynomials.
pub(crate) struct Point {
    pub(crate) x: u8,
    pub(crate) y: Zeroizing<Vec<u8>>,
}

fn product(one: u8, other: u8) -> u8 {
    let (mut one, mut sum) = (one, 0);
    for bit in 0..8 {
        sum ^= one & 0u8.wrapping_sub(other >> bit & 1);
        one = one << 1 ^ 0x1b & 0u8.wrapping_sub(one >> 7);
    }
    sum
}

/// One divided by it: its 254th power. Of zero, zero.
fn inverse(of: u8) -> u8 {
    let mut power = of;
    for _ in 0..6 {
        power = product(product(power, power), of);
    }
    product(power, power)
}

/// What the polynomials of least degree through the points, which have different places, are at `x`.
pub(crate) fn interpolate(points: &[Point], x: u8) -> Zeroizing<Vec<u8>> {
    let length = points.first().map_or(0, |point| point.y.len());
    let mut sum = Zeroizing::new(vec![0; length]);
    for point in points {
        let mut basis = 1;
        for other in points.iter().filter(|other| other.x != point.x) {
            basis = product(basis, product(x ^ other.x, inverse(point.x ^ other.x)));
        }
        for (sum, y) in sum.iter_mut().zip(point.y.iter()) {
            *sum ^= product(basis, *y);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 197, 4.2.
    #[test]
    fn it_is_the_field_of_aes() {
        assert_eq!(product(0x57, 0x83), 0xc1);
        assert_eq!(product(0x57, 0x13), 0xfe);
        for element in 1..=255 {
            assert_eq!(product(element, inverse(element)), 1);
        }
        assert_eq!(inverse(0), 0);
    }

    #[test]
    fn points_of_a_polynomial_give_it_back() {
        let at = |x| product(product(x, x), 7) ^ product(x, 99) ^ 42;
        let points: Vec<Point> = [1, 5, 200]
            .into_iter()
            .map(|x| Point {
                x,
                y: Zeroizing::new(vec![at(x)]),
            })
            .collect();
        for x in 0..=255 {
            assert_eq!(interpolate(&points, x)[..], [at(x)]);
        }
    }
}
