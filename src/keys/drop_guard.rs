//! DROP EXTENSION takes keys and registrations along, and with the keys every value under them, for good. So it is
//! refused while there are any, unless `colcrypt.allow_drop` says that this is meant. A catch, not a lock: whoever may
//! drop the extension may set it.

use pgrx::pg_sys;

use crate::catalog::scan;
use crate::error::{Error, Result};
use crate::server::accessed::{Accessed, Done};
use crate::server::ours;
use crate::settings;

/// Hears of what is dropped, by whatever statement: the extension's tables go one after the other, and these before
/// what they refer to.
pub fn hear(accessed: &Accessed) -> Result<()> {
    let is_a_table = matches!(accessed.done, Done::Dropped)
        && accessed.class == pg_sys::RelationRelationId
        && accessed.part == 0;
    // SAFETY: reads a flag: the extension's own scripts know what they drop.
    if !is_a_table || settings::ALLOW_DROP.get() || unsafe { pg_sys::creating_extension } {
        return Ok(());
    }
    // SAFETY: in a statement's transaction.
    let is = |name| unsafe { ours::relation(name) } == Some(accessed.object);
    let by = if is(c"key_version") {
        let mut live = 0_u64;
        scan::all(accessed.object, |row| {
            live += u64::from(row.get::<String>("state")? != "destroyed");
            Ok(())
        })?;
        (live > 0)
            .then(|| format!("the values under its key versions that are not destroyed: {live}"))
    } else if is(c"protected_column") {
        let mut columns = 0_u64;
        scan::all(accessed.object, |_| {
            columns += 1;
            Ok(())
        })?;
        (columns > 0).then(|| format!("its registered columns: {columns}"))
    } else {
        None
    };
    match by {
        None => Ok(()),
        Some(by) => Err(Error::Needed {
            what: "extension",
            name: "colcrypt".into(),
            by,
            hint: "Dropping it destroys its keys, its grants and its audit log. If that is meant, take a dump, and SET colcrypt.allow_drop = on.".into(),
        }),
    }
}
