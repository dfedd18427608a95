//! SQLSTATEs as the server packs them into one number: five characters, six bits each (`MAKE_SQLSTATE`).

/// The number of a code of five digits and capitals.
#[must_use]
pub fn pack(code: &str) -> i32 {
    code.bytes()
        .take(5)
        .enumerate()
        .fold(0, |packed, (index, byte)| {
            packed | ((i32::from(byte) - i32::from(b'0')) & 0x3f) << (6 * index)
        })
}

/// The code that was packed into a number. Only the lower 30 bits count.
#[must_use]
pub fn unpack(packed: i32) -> String {
    (0..5)
        .map(|index| char::from((packed >> (6 * index) & 0x3f) as u8 + b'0'))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_server_packs_them_so() {
        assert_eq!(pack("00000"), 0);
        // ERRCODE_UNDEFINED_OBJECT and ERRCODE_LOCK_NOT_AVAILABLE of utils/errcodes.h.
        assert_eq!(pack("42704"), 67_137_668);
        assert_eq!(pack("55P03"), 50_463_045);
    }

    proptest! {
        #[test]
        fn each_is_read_back(code in "[0-9A-Z]{5}") {
            prop_assert!(pack(&code) >= 0);
            prop_assert_eq!(unpack(pack(&code)), code);
        }
    }
}
