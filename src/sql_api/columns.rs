//! Registered columns.

use colcrypt_core::KeyId;
use pgrx::spi::quote_identifier;
use pgrx::{Spi, pg_sys};

use super::grants;
use super::place::{self, Asked, Bound};
use crate::audit::Act;
use crate::catalog::read::{self, Key};
use crate::catalog::scan::{Equals, one};
use crate::catalog::write::{self, AsRole};
use crate::error::{Error, Privilege, Result};
use crate::pg::Call;
use crate::plaintext::Codec;
use crate::relation::{self, Lock, Named};

pub fn target(call: Call) -> Result<(pg_sys::Oid, String)> {
    // SAFETY: declared as regclass and name.
    let (table, attribute) = unsafe { (call.get::<pg_sys::Oid>(0), call.datum(1)) };
    let table = table.ok_or(Error::NullArgument("relation"))?;
    let attribute = attribute.ok_or(Error::NullArgument("attribute"))?;
    // SAFETY: a name datum points to NAMEDATALEN bytes.
    let attribute = unsafe {
        pgrx::name_data_to_str(&*attribute.cast_mut_ptr::<pg_sys::NameData>()).to_string()
    };
    Ok((table, attribute))
}

fn register_column(call: Call) -> Result<pg_sys::Datum> {
    let (table, attribute) = target(call)?;
    let key = read::key_by_name(&call.text(2, "key")?)?;
    // SAFETY: declared as text, text[] and regtype.
    let (context, readers, plaintext_type) = unsafe {
        (
            call.long::<String>(3, "context")?,
            call.long::<Vec<Option<String>>>(4, "readers")?,
            call.get::<pg_sys::Oid>(5),
        )
    };
    let plaintext_type = plaintext_type.ok_or(Error::NullArgument("plaintext_type"))?;
    // SAFETY: declared as text, where it is declared.
    let asked = Asked::of(context, unsafe { call.long::<String>(6, "label")? })?;
    let held = Named::take(table, Lock::Read)?;
    refuse_foreign_table(table)?;
    read::require(&key, Privilege::Manage)?;
    if let Some(former) = registered_key(table, &attribute)? {
        read::require(&former, Privilege::Manage)?;
    }
    // Registered with another key, the values would be moved to it by the next rotation.
    for former in keys_of_values(table, &attribute)? {
        if former.id != key.id {
            refuse_way_out(&former)?;
        }
    }
    check_column(&held, &attribute)?;
    let Bound { context, label } = bound_to(table, &attribute, asked)?;
    if let Some(expression) = &context {
        check_context(&held, expression)?;
    }
    place::free_label(label.as_ref(), table, &attribute)?;
    let readers = readers.map(existing_roles).transpose()?;
    // SAFETY: the memory of this call is the server's to name; the codec is not kept.
    Codec::for_type(plaintext_type, unsafe { pg_sys::CurrentMemoryContext })?;
    write::execute(
        "INSERT INTO colcrypt.protected_column (relation, attribute, key_id, context, readers, plaintext_type, label) \
         VALUES ($1::oid::regclass, $2::text::name, $3, $4, $5, $6::oid::regtype, $7) \
         ON CONFLICT (relation, attribute) DO UPDATE \
         SET key_id = EXCLUDED.key_id, context = EXCLUDED.context, label = EXCLUDED.label, readers = EXCLUDED.readers, \
             plaintext_type = EXCLUDED.plaintext_type, \
             declared = CASE WHEN protected_column.plaintext_type = EXCLUDED.plaintext_type THEN protected_column.declared END",
        &[
            table.into(),
            attribute.clone().into(),
            (key.id.0 as i64).into(),
            context.into(),
            readers.clone().into(),
            plaintext_type.into(),
            label.into(),
        ],
    )?;
    let detail = match readers {
        Some(readers) => format!("{attribute}, read by: {}", readers.join(", ")),
        None => attribute,
    };
    Act::new("register_column")
        .key(&key)
        .relation(table)
        .detail(detail)
        .record()?;
    Ok(pg_sys::Datum::from(0))
}

/// A registration that is there keeps its context, unless another is given.
fn bound_to(table: pg_sys::Oid, attribute: &str, asked: Asked) -> Result<Bound> {
    match (place::registered(table, attribute)?, asked) {
        (Some((bound, _)), Asked::Place(None)) => Ok(bound),
        (Some(_), asked) => {
            place::refuse_half_bound(table, attribute)?;
            place::choose(table, attribute, asked)
        }
        (None, Asked::Place(label)) => place::choose_by_values(table, attribute, label),
        (None, asked) => place::choose(table, attribute, asked),
    }
}

/// The roles that see plaintext, by name: a dump must restore where they do not exist.
pub fn existing_roles(names: Vec<Option<String>>) -> Result<Vec<String>> {
    names
        .into_iter()
        .map(|name| {
            let name = name.ok_or(Error::NullArgument("a reader"))?;
            let role = grants::role_named(&name)?;
            if role == pg_sys::Oid::INVALID {
                return Err(Error::InvalidParameter {
                    message: "PUBLIC cannot be a reader".into(),
                    hint: "Leave readers out: then whoever may decrypt with the key is one.".into(),
                });
            }
            Ok(crate::pg::role_name(role))
        })
        .collect()
}

/// The key that a column is registered with.
fn registered_key(table: pg_sys::Oid, attribute: &str) -> Result<Option<Key>> {
    let found = one(
        "protected_column",
        "protected_column_pkey",
        &[Equals::oid(1, table), Equals::name(2, attribute)],
        |row| Ok(KeyId(row.get::<i64>("key_id")? as u64)),
    )?;
    found.map(read::key_by_id).transpose()
}

/// The keys that the column's values may be under, as far as the catalog knows: the one it is registered with, those of all
/// jobs on it, and those that a census found in it. Keys that are gone are left out: nothing opens their values.
///
/// # Errors
/// Of the catalog.
pub fn keys_of_values(table: pg_sys::Oid, attribute: &str) -> Result<Vec<Key>> {
    write::query(
        "SELECT k.key_id FROM colcrypt.key k JOIN ( \
             SELECT key_id FROM colcrypt.protected_column WHERE relation = $1::oid::regclass AND attribute = $2::text::name \
             UNION SELECT key_id FROM colcrypt.job WHERE relation = $1::oid::regclass AND attribute = $2::text::name \
             UNION SELECT unnest(from_keys) FROM colcrypt.job WHERE relation = $1::oid::regclass AND attribute = $2::text::name \
             UNION SELECT key_id FROM colcrypt.migration WHERE relation = $1::oid::regclass AND attribute = $2::text::name \
         ) AS o USING (key_id)",
        &[table.into(), attribute.into()],
        |row| row.get::<i64>(1),
    )?
    .into_iter()
    .flatten()
    .map(|id| read::key_by_id(KeyId(id as u64)))
    .collect()
}

/// Refuses to take values out from under a key whose keyring asks for four eyes.
///
/// # Errors
/// [`Error::InvalidParameter`].
pub fn refuse_way_out(key: &Key) -> Result<()> {
    if !crate::ceremony::is_asked_for(key.keyring)? {
        return Ok(());
    }
    Err(Error::InvalidParameter {
        message: format!("the keyring of key \"{}\" asks for four eyes", key.name),
        hint: "The column's values would be given to whoever may decrypt with the other key. Grant and rotate instead, or lift four eyes for the move.".into(),
    })
}

/// The key of a registered column, for whoever owns the table and may manage the key.
pub fn managed_column(table: pg_sys::Oid, attribute: &str) -> Result<Key> {
    refuse_foreign_table(table)?;
    let Some(key) = registered_key(table, attribute)? else {
        return Err(not_registered(table, attribute)?);
    };
    read::require(&key, Privilege::Manage)?;
    Ok(key)
}

/// The context expression will run as the table's owner, so only who could do that anyway may set it.
pub fn refuse_foreign_table(table: pg_sys::Oid) -> Result<()> {
    let owner = relation::owner(table)?;
    // SAFETY: reads statics and the role catalogs.
    if unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), owner) } {
        return Ok(());
    }
    Err(Error::NotTableOwner {
        table: relation::shown(table)?,
    })
}

fn check_column(table: &Named, attribute: &str) -> Result<()> {
    let name = &table.sql;
    if !table.held.is_table() {
        return Err(Error::Column {
            message: format!("{name} is not a table"),
            hint: "Register columns of tables and partitioned tables.".into(),
        });
    }
    let column = quote_identifier(attribute);
    match table.held.attribute(attribute) {
        Some(found) if found.holds_ciphertext() => Ok(()),
        Some(_) => Err(Error::Column {
            message: format!("column {column} of table {name} is not of type ciphertext"),
            hint: "Add a column of type colcrypt.ciphertext and fill it with encrypt_col.".into(),
        }),
        None => Err(Error::Column {
            message: format!("column {column} of table {name} does not exist"),
            hint: "Give the column's name as it is stored, without quotes.".into(),
        }),
    }
}

/// Has the server parse the expression as the worker will use it: over the table, held, and as its owner, since planning alone
/// may run code of his.
pub fn check_context(table: &Named, expression: &str) -> Result<()> {
    let _role = AsRole::restricted(table.owner());
    let _path = write::safe_search_path();
    Spi::connect(|client| {
        client
            .select(
                &format!(
                    "SELECT ({expression})::pg_catalog.bytea FROM ONLY {} LIMIT 0",
                    table.sql
                ),
                None,
                &[],
            )
            .map(|_| ())
    })?;
    Ok(())
}

fn unregister_column(call: Call) -> Result<pg_sys::Datum> {
    let (table, attribute) = target(call)?;
    let key = managed_column(table, &attribute)?;
    write::execute(
        "DELETE FROM colcrypt.protected_column WHERE relation = $1::oid::regclass AND attribute = $2::text::name",
        &[table.into(), attribute.clone().into()],
    )?;
    write::execute(
        "UPDATE colcrypt.job SET phase = 'failed', finished_at = clock_timestamp(), last_error = 'the column was unregistered' \
         WHERE relation = $1::oid::regclass AND attribute = $2::text::name AND finished_at IS NULL",
        &[table.into(), attribute.clone().into()],
    )?;
    Act::new("unregister_column")
        .key(&key)
        .relation(table)
        .detail(attribute)
        .record()?;
    Ok(pg_sys::Datum::from(0))
}

pub fn not_registered(table: pg_sys::Oid, attribute: &str) -> Result<Error> {
    Ok(Error::Column {
        message: format!(
            "column {} of table {} is not registered",
            quote_identifier(attribute),
            relation::shown(table)?
        ),
        hint: "Register it with colcrypt.register_column.".into(),
    })
}

crate::sql_functions! {
    colcrypt_register_column / pg_finfo_colcrypt_register_column => register_column;
    colcrypt_unregister_column / pg_finfo_colcrypt_unregister_column => unregister_column;
}
