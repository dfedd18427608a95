//! Equality that is of bytes: types whose operator `=` holds where the values are the same, byte for byte. Not of
//! numbers with a scale, floats, blank-padded texts and intervals, which are equal in several forms.

use pgrx::pg_sys;

use crate::server::varlena::Varlena;

/// How values of such a type are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Same {
    /// A word, of which so many bits count.
    Word(u32),
    Uuid,
    Varlena,
}

impl Same {
    /// None for a type that has another equality. Of texts by a deterministic collation alone.
    pub fn of(type_oid: pg_sys::Oid) -> Option<Self> {
        Some(match type_oid {
            pg_sys::INT2OID => Self::Word(16),
            pg_sys::INT4OID | pg_sys::DATEOID => Self::Word(32),
            pg_sys::INT8OID | pg_sys::TIMESTAMPOID | pg_sys::TIMESTAMPTZOID | pg_sys::TIMEOID => {
                Self::Word(64)
            }
            pg_sys::UUIDOID => Self::Uuid,
            pg_sys::TEXTOID | pg_sys::BYTEAOID => Self::Varlena,
            _ => return None,
        })
    }

    /// The type of both sides of an operator that is such an equality, by the function that implements it.
    pub fn type_compared_by(function: pg_sys::Oid) -> Option<pg_sys::Oid> {
        Some(match function.to_u32() {
            pg_sys::F_INT2EQ => pg_sys::INT2OID,
            pg_sys::F_INT4EQ => pg_sys::INT4OID,
            pg_sys::F_INT8EQ => pg_sys::INT8OID,
            pg_sys::F_DATE_EQ => pg_sys::DATEOID,
            pg_sys::F_TIMESTAMP_EQ => pg_sys::TIMESTAMPOID,
            pg_sys::F_TIMESTAMPTZ_EQ => pg_sys::TIMESTAMPTZOID,
            pg_sys::F_TIME_EQ => pg_sys::TIMEOID,
            pg_sys::F_UUID_EQ => pg_sys::UUIDOID,
            pg_sys::F_TEXTEQ => pg_sys::TEXTOID,
            pg_sys::F_BYTEAEQ => pg_sys::BYTEAOID,
            _ => return None,
        })
    }

    /// Whether two values are the same.
    ///
    /// # Safety
    /// Values of the type that this is of.
    #[inline(always)]
    pub unsafe fn are(self, one: pg_sys::Datum, other: pg_sys::Datum) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                // What is above the type's own bits is anything.
                Self::Word(bits) => (one.value() ^ other.value()) << (usize::BITS - bits) == 0,
                Self::Uuid => *one.cast_mut_ptr::<[u8; 16]>() == *other.cast_mut_ptr::<[u8; 16]>(),
                Self::Varlena => {
                    Varlena::from_datum(one).bytes() == Varlena::from_datum(other).bytes()
                }
            }
        }
    }
}
