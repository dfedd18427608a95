//! What types are made of, where that changes what values of theirs are read as: composites get attributes, and labels
//! of enums are renamed.

use colcrypt_core::record::{self, Shape};
use pgrx::{PgTupleDesc, pg_sys};
use zeroize::Zeroizing;

use crate::catalog::enum_labels;
use crate::error::Result;

/// What a type is made of now, as far as composite values and enums are concerned.
pub fn shape_of(type_oid: u32) -> Shape {
    // SAFETY: look-ups in the type catalog; the descriptor is a copy, freed below.
    unsafe {
        let base_type = pg_sys::getBaseType(type_oid.into());
        let element = pg_sys::get_element_type(base_type);
        if element != pg_sys::Oid::INVALID {
            let element = pg_sys::getBaseType(element);
            return match shape_of(element.to_u32()) {
                Shape::Other => Shape::Other,
                Shape::Record(_) | Shape::Array(_) | Shape::Enum => Shape::Array(element.to_u32()),
            };
        }
        match pg_sys::get_typtype(base_type) as u8 {
            b'e' => return Shape::Enum,
            b'c' => {}
            _ => return Shape::Other,
        }
        let descriptor = pg_sys::lookup_rowtype_tupdesc_copy(base_type, -1);
        let types = PgTupleDesc::from_pg_unchecked(descriptor)
            .iter()
            .filter(|attribute| !attribute.attisdropped)
            .map(|attribute| attribute.atttypid.to_u32())
            .collect();
        pg_sys::FreeTupleDesc(descriptor);
        Shape::Record(types)
    }
}

/// A value's bytes with the labels that enums in it have now instead of those that they had; none where it has no such
/// label.
///
/// # Errors
/// Of the catalog scan, and for no memory.
pub fn with_labels_of_now(
    sent: &[u8],
    type_oid: pg_sys::Oid,
) -> Result<Option<Zeroizing<Vec<u8>>>> {
    // What a scan finds wrong shows as a value of a label that nobody knows.
    let label_of = |of: u32, label: &[u8]| {
        let label = std::str::from_utf8(label).ok()?;
        let now = enum_labels::current(of.into(), label).ok()??;
        Some(now.into_bytes())
    };
    Ok(record::relabelled(
        sent,
        type_oid.to_u32(),
        &shape_of,
        &label_of,
    )?)
}
