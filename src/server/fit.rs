//! Values made as long, or as precise, as a type with a length says: what a cast to it does.

use pgrx::pg_sys;
use zeroize::Zeroize;

use crate::error::Result;
use crate::server::types;

/// The cast of values of one type to the length that it is declared with.
#[derive(Clone, Copy)]
pub struct Fit {
    function: pg_sys::Oid,
    modifier: i32,
    is_varlena: bool,
}

impl Fit {
    /// The cast to a type as SQL writes it, with its length and maybe a collation; none where it has no length, or
    /// nothing is done for it.
    ///
    /// # Errors
    /// Of [`types::declared_length`].
    pub fn of(declared: &str) -> Result<Option<Self>> {
        let Some((type_oid, modifier)) = types::declared_length(declared)? else {
            return Ok(None);
        };
        let mut function = pg_sys::Oid::INVALID;
        // SAFETY: look-ups in the catalogs of casts and types.
        unsafe {
            let base = pg_sys::getBaseType(type_oid);
            let way = pg_sys::find_typmod_coercion_function(base, &raw mut function);
            let is_function = way == pg_sys::CoercionPathType::COERCION_PATH_FUNC
                && function != pg_sys::Oid::INVALID;
            Ok(is_function.then(|| Self {
                function,
                modifier,
                is_varlena: pg_sys::get_typlen(base) == -1,
            }))
        }
    }

    /// Gives `body` the value as it is shown after the cast, and wipes what was made for that.
    ///
    /// # Errors
    /// Of `body`; the cast raises the server's own, where a number has no room.
    ///
    /// # Safety
    /// The value is of the type that the length is of.
    pub unsafe fn with<R>(
        self,
        value: pg_sys::Datum,
        body: impl FnOnce(pg_sys::Datum) -> Result<R>,
    ) -> Result<R> {
        // SAFETY: a length coercion of the value's own type takes the value, the length, and whether the cast is
        // explicit, if it takes three.
        let shown = unsafe {
            pg_sys::OidFunctionCall3Coll(
                self.function,
                pg_sys::Oid::INVALID,
                value,
                pg_sys::Datum::from(self.modifier),
                pg_sys::Datum::from(true),
            )
        };
        let outcome = body(shown);
        if self.is_varlena && shown.value() != value.value() {
            let start = shown.cast_mut_ptr::<u8>();
            // SAFETY: a varlena that was made a moment ago, which nobody else has; its first four bytes are its length.
            unsafe {
                let length = pgrx::varlena::varsize_any(start.cast());
                let header = 4.min(length);
                std::slice::from_raw_parts_mut(start.add(header), length - header).zeroize();
            }
        }
        outcome
    }
}
