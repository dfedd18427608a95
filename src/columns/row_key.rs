//! Keys by row: the expression that names a row's key, of its other columns.
//!
//! A context expression is its table owner's code, and whoever writes a row runs it. An expression of keys decides who
//! may write and read, so nobody's code is let into it: it is made of columns and of what the server itself has, always
//! names the same for the same row, and is looked at again wherever a statement is made with it. It only ever runs in
//! statements of whoever writes, with his rights, over columns that are no secret: jobs, censuses and destructions go
//! by the key that a value's header names, and never compute it.

use colcrypt_domain::quote::quote_identifier;
use pgrx::pg_sys;

use crate::catalog::read::{self, Keyring};
use crate::error::{Error, Result};
use crate::server::relation::Named;
use crate::server::roles::AsRole;
use crate::server::{builtin, spi, tree};

fn refused(table: &Named, why: &str) -> Error {
    Error::Column {
        message: format!("an expression for keys of table {} {why}", table.sql),
        hint: "Name the row's key by its own columns and the server's immutable functions, such as 'tenant-' || tenant_id. It is computed with the rights of whoever writes, so it has no code of others in it.".into(),
    }
}

/// Refuses an expression that is anything but the server's own code over columns of the row that are stored in plain;
/// returns these columns' numbers.
///
/// # Errors
/// [`Error::Column`]; the server's, of a text that it cannot analyze.
pub fn check(table: &Named, expression: &str) -> Result<Vec<i16>> {
    let alias = table.held.bare_name();
    // SAFETY: in a transaction; what is analyzed lives as long as the statement.
    unsafe { analyzed(table, alias, expression) }.map(|(_, numbers)| numbers)
}

/// The same, with the expression as it is to be computed over the table's rows. `alias` is what it may call the table.
///
/// # Errors
/// As [`check`].
///
/// # Safety
/// In a transaction; the expression lies in the current memory context.
pub unsafe fn analyzed(
    table: &Named,
    alias: &str,
    expression: &str,
) -> Result<(*mut pg_sys::Node, Vec<i16>)> {
    let _role = AsRole::restricted(table.owner());
    let _path = spi::safe_search_path();
    // With an expression that closes more than it opened, or comments out what follows, this is no statement.
    let text = format!(
        "SELECT (({expression}))::pg_catalog.text FROM ONLY {} AS {}",
        table.sql,
        quote_identifier(alias)
    );
    // SAFETY: in a transaction; what is analyzed lives as long as the statement.
    unsafe {
        let query = tree::analyzed(&text);
        let more = || refused(table, "is more than one expression");
        if query.is_null() || (*query).commandType != pg_sys::CmdType::CMD_SELECT {
            return Err(more());
        }
        let targets = tree::items::<pg_sys::TargetEntry>((*query).targetList);
        let relations = tree::items::<pg_sys::RangeTblEntry>((*query).rtable);
        let ([target], [relation]) = (&targets[..], &relations[..]) else {
            return Err(more());
        };
        if (**relation).relid != table.held.oid || !(*(*query).jointree).quals.is_null() {
            return Err(more());
        }
        let node: *mut pg_sys::Node = (**target).expr.cast();
        if let Some(why) = builtin::objection(node) {
            return Err(refused(table, &why));
        }
        let numbers = tree::columns_in(node, 1);
        if numbers.is_empty() {
            return Err(Error::Column {
                message: format!(
                    "an expression for keys of table {} names no column",
                    table.sql
                ),
                hint: "Where all rows have the same key, name it: key => '…'.".into(),
            });
        }
        for &number in &numbers {
            if pg_sys::get_attgenerated(table.held.oid, number) != 0 {
                return Err(refused(
                    table,
                    "reads a generated column, which is computed after values are encrypted",
                ));
            }
        }
        Ok((node, numbers))
    }
}

/// The keyring that is meant.
///
/// # Errors
/// For none that is there, and where there are several to choose from.
pub fn keyring(named: Option<&str>) -> Result<Keyring> {
    if let Some(name) = named {
        return read::keyring_by_name(name);
    }
    let names = spi::query(
        "SELECT name FROM colcrypt.keyring ORDER BY name LIMIT 2",
        &[],
        |row| row.get::<String>(1),
    )?;
    match &names[..] {
        [Some(only)] => read::keyring_by_name(only),
        _ => Err(Error::InvalidParameter {
            message: "which keyring the rows' keys are of is not told".into(),
            hint: "Say keyring => '…': a row's key has to be one of that keyring.".into(),
        }),
    }
}

/// Refuses a name that is no key's of the keyring.
///
/// # Errors
/// [`Error::RowKey`]; of the catalog.
#[cold]
pub fn refuse_other_key(name: &[u8], keyring: &str) -> Result<()> {
    let name = String::from_utf8_lossy(name);
    let key = match read::key_by_name(&name) {
        Err(Error::UnknownKey(_)) => return Err(lost::missing(&name, keyring)),
        key => key?,
    };
    if key.keyring != read::keyring_by_name(keyring)?.id {
        return Err(lost::of_another_keyring(&name, keyring));
    }
    Ok(())
}

/// Says what is to be done about a row whose key cannot be used.
pub mod lost {
    use crate::error::Error;

    pub fn unnamed() -> Error {
        Error::RowKey {
            message: "the row has no key: its expression for keys gives NULL".into(),
            hint: "Give the columns that the expression names before the value, or let it give a key to rows without them: coalesce(…, 'the key''s name').".into(),
        }
    }

    pub fn missing(name: &str, keyring: &str) -> Error {
        Error::RowKey {
            message: format!("the row's key \"{name}\" does not exist"),
            hint: format!(
                "Make it first, and grant the right to encrypt with it: colcrypt.create_key(name, '{keyring}')."
            ),
        }
    }

    pub fn of_another_keyring(name: &str, keyring: &str) -> Error {
        Error::RowKey {
            message: format!("the row's key \"{name}\" is not one of keyring \"{keyring}\""),
            hint: "The column was registered for keys of that keyring. Have its expression for keys name one of them, or register the column again with the other keyring.".into(),
        }
    }
}
