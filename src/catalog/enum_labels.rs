//! What labels of enums were before they were renamed. A value of an enum is written as its label, since OIDs change
//! at a dump and restore: one that was written before the change has the label of then.
//!
//! The table `former_enum_label` has for each label that was renamed what it is called now.

use std::ffi::CString;

use pgrx::pg_sys;

use crate::catalog::scan::{Equals, each};
use crate::error::Result;
use crate::server::{altered, ours, spi};

const TABLE: &str = "former_enum_label";
const INDEX: &str = "former_enum_label_pkey";

/// A label that a statement gave a value of an enum.
pub struct Given {
    pub label: String,
    /// What the value was called before; none for a value that is new.
    pub former: Option<String>,
}

/// The label now of what was once called so; none where the label is one now, was none, or was one of several.
///
/// # Errors
/// Of the catalog scan.
pub fn current(type_oid: pg_sys::Oid, former: &str) -> Result<Option<String>> {
    // SAFETY: a look-up in the type catalog.
    let type_oid = unsafe { pg_sys::getBaseType(type_oid) };
    if is_label(type_oid, former) || !is_there() {
        return Ok(None);
    }
    let mut labels = Vec::new();
    let conditions = [Equals::text(1, former), Equals::oid(2, type_oid)];
    each(TABLE, INDEX, &conditions, |row| {
        labels.push(row.get::<String>("label")?);
        Ok(())
    })?;
    Ok(match labels.as_slice() {
        [_] => labels.pop(),
        _ => None,
    })
}

/// What the label was before.
///
/// # Errors
/// Of the catalog scan.
pub fn formers(type_oid: pg_sys::Oid, label: &str) -> Result<Vec<String>> {
    let mut formers = Vec::new();
    if !is_there() {
        return Ok(formers);
    }
    // SAFETY: a look-up in the type catalog.
    let type_oid = unsafe { pg_sys::getBaseType(type_oid) };
    each(TABLE, INDEX, &[], |row| {
        if row.get::<pg_sys::Oid>("type")? == type_oid && row.get::<String>("label")? == label {
            formers.push(row.get::<String>("former")?);
        }
        Ok(())
    })?;
    Ok(formers)
}

/// Not before the extension is updated to a version that has it.
fn is_there() -> bool {
    let name = CString::new(TABLE).expect("no zero byte is in it");
    // SAFETY: a look-up by name, in a transaction.
    unsafe { ours::relation(&name) }.is_some()
}

fn is_label(type_oid: pg_sys::Oid, label: &str) -> bool {
    let Ok(name) = CString::new(label) else {
        return false;
    };
    // The look-up cuts a longer one short.
    label.len() < pg_sys::NAMEDATALEN as usize
        // SAFETY: a look-up by a C string, as the server's enum_recv makes it.
        && unsafe {
            pg_sys::SearchSysCacheExists(
                pg_sys::SysCacheIdentifier::ENUMTYPOIDNAME as i32,
                pg_sys::Datum::from(type_oid),
                pg_sys::Datum::from(name.as_ptr()),
                pg_sys::Datum::from(0),
                pg_sys::Datum::from(0),
            )
        }
}

/// The label that a statement which alters the enum has given to one of its values: the look-up caches have them as
/// they were. None where it is no enum, nothing was called otherwise, or the label is not one in UTF-8.
pub fn given(type_oid: pg_sys::Oid) -> Option<Given> {
    let conditions = [altered::is_oid(pg_sys::Anum_pg_enum_enumtypid, type_oid)];
    let index = pg_sys::EnumTypIdLabelIndexId;
    // SAFETY: a system catalog's own columns by their layout.
    let found = unsafe {
        altered::find(
            pg_sys::EnumRelationId,
            index,
            &conditions,
            |row: &pg_sys::FormData_pg_enum| {
                let former = label_before(row.oid);
                let is_new = former
                    .as_ref()
                    .is_none_or(|former| former.data != row.enumlabel.data);
                is_new.then_some((row.enumlabel, former))
            },
        )
    };
    let (label, former) = found?;
    let former = match former {
        Some(former) => Some(text(&former)?),
        None => None,
    };
    Some(Given {
        label: text(&label)?,
        former,
    })
}

fn text(name: &pg_sys::NameData) -> Option<String> {
    let bytes: Vec<u8> = name.data.iter().map(|&byte| byte as u8).collect();
    let length = bytes.iter().position(|&byte| byte == 0)?;
    String::from_utf8(bytes[..length].to_vec()).ok()
}

/// A value's label as the look-up caches have it.
fn label_before(value: pg_sys::Oid) -> Option<pg_sys::NameData> {
    // SAFETY: reads the value's row, copies what it needs, and releases it.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::ENUMOID as i32,
            pg_sys::Datum::from(value),
        );
        if tuple.is_null() {
            return None;
        }
        let label = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_enum>()).enumlabel;
        pg_sys::ReleaseSysCache(tuple);
        Some(label)
    }
}

/// Writes down that a label is another one now, and what was called so before.
///
/// # Errors
/// Of SPI.
pub fn renamed(type_oid: pg_sys::Oid, from: &str, to: &str) -> Result<()> {
    if !is_there() {
        return Ok(());
    }
    let arguments = || [type_oid.into(), from.into(), to.into()];
    for statement in [
        "INSERT INTO colcrypt.former_enum_label (former, type, label) \
         SELECT f.former, f.type, $3 FROM colcrypt.former_enum_label f WHERE f.type = $1::oid::regtype AND f.label = $2 \
         UNION SELECT $2, $1::oid::regtype, $3 ON CONFLICT DO NOTHING",
        "DELETE FROM colcrypt.former_enum_label \
         WHERE type = $1::oid::regtype AND (label = $2 OR former = label) AND $3 IS NOT NULL",
    ] {
        spi::execute(statement, &arguments())?;
    }
    Ok(())
}

/// What a label was renamed to that another value has now: values were written with it that are not of this one.
///
/// # Errors
/// Of SPI.
pub fn others(type_oid: pg_sys::Oid, label: &str) -> Result<Vec<String>> {
    if !is_there() {
        return Ok(Vec::new());
    }
    spi::query(
        "SELECT f.label FROM colcrypt.former_enum_label f \
         WHERE f.type = $1::oid::regtype AND f.former = $2 AND f.label <> $2 ORDER BY 1",
        &[type_oid.into(), label.into()],
        |row| spi::named(row, "label"),
    )
}
