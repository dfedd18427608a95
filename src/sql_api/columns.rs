//! Registered columns, and jobs asked for by hand.

use pgrx::spi::quote_identifier;
use pgrx::{IntoDatum, Spi, pg_sys};

use crate::catalog::{read, write};
use crate::error::{Error, Result};
use crate::maintenance::{self, relation};
use crate::pg::Call;

fn target(call: Call) -> Result<(pg_sys::Oid, String)> {
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
    // SAFETY: declared as text.
    let context = unsafe { call.get::<String>(3) };
    let name = relation::describe(table)?.name;
    refuse_foreign_table(table, &name)?;
    check_column(table, &name, &attribute)?;
    if let Some(expression) = &context {
        check_context(&name, expression)?;
    }
    write::execute(
        "INSERT INTO colcrypt.protected_column (relation, attribute, key_id, context) \
         VALUES ($1::oid::regclass, $2::text::name, $3, $4) \
         ON CONFLICT (relation, attribute) DO UPDATE SET key_id = EXCLUDED.key_id, context = EXCLUDED.context",
        &[
            table.into(),
            attribute.into(),
            (key.id.0 as i64).into(),
            context.into(),
        ],
    )?;
    Ok(pg_sys::Datum::from(0))
}

/// The context expression will run as the table's owner, so only who could do that anyway may set it.
fn refuse_foreign_table(table: pg_sys::Oid, name: &str) -> Result<()> {
    let owner = relation::describe(table)?.owner;
    // SAFETY: reads statics and the role catalogs.
    if unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), owner) } {
        return Ok(());
    }
    Err(Error::NotTableOwner { table: name.into() })
}

fn check_column(table: pg_sys::Oid, name: &str, attribute: &str) -> Result<()> {
    let described = relation::describe(table)?;
    if !described.is_table {
        return Err(Error::Column {
            message: format!("{name} is not a table"),
            hint: "Register columns of tables and partitioned tables.".into(),
        });
    }
    let c_name = std::ffi::CString::new(attribute).unwrap_or_default();
    // SAFETY: catalog look-ups.
    let base = unsafe {
        let number = pg_sys::get_attnum(table, c_name.as_ptr());
        if number <= 0 {
            return Err(Error::Column {
                message: format!(
                    "column {} of table {name} does not exist",
                    quote_identifier(attribute)
                ),
                hint: "Give the column's name as it is stored, without quotes.".into(),
            });
        }
        pg_sys::getBaseType(pg_sys::get_atttype(table, number))
    };
    if Some(base) == crate::ciphertext::type_oid() {
        return Ok(());
    }
    Err(Error::Column {
        message: format!(
            "column {} of table {name} is not of type ciphertext",
            quote_identifier(attribute)
        ),
        hint: "Add a column of type colcrypt.ciphertext and fill it with encrypt_col.".into(),
    })
}

/// Has the server parse the expression as the worker will use it.
fn check_context(table: &str, expression: &str) -> Result<()> {
    let _path = write::safe_search_path();
    Spi::connect(|client| {
        client
            .select(
                &format!("SELECT ({expression})::pg_catalog.bytea FROM ONLY {table} LIMIT 0"),
                None,
                &[],
            )
            .map(|_| ())
    })?;
    Ok(())
}

fn unregister_column(call: Call) -> Result<pg_sys::Datum> {
    let (table, attribute) = target(call)?;
    let removed = write::query(
        "DELETE FROM colcrypt.protected_column WHERE relation = $1::oid::regclass AND attribute = $2::text::name RETURNING 1",
        &[table.into(), attribute.clone().into()],
        |row| row.get::<i32>(1),
    )?;
    if removed.is_empty() {
        return Err(not_registered(table, &attribute)?);
    }
    write::execute(
        "UPDATE colcrypt.job SET phase = 'failed', finished_at = clock_timestamp(), last_error = 'the column was unregistered' \
         WHERE relation = $1::oid::regclass AND attribute = $2::text::name AND finished_at IS NULL",
        &[table.into(), attribute.into()],
    )?;
    Ok(pg_sys::Datum::from(0))
}

fn not_registered(table: pg_sys::Oid, attribute: &str) -> Result<Error> {
    Ok(Error::Column {
        message: format!(
            "column {} of table {} is not registered",
            quote_identifier(attribute),
            relation::describe(table)?.name
        ),
        hint: "Register it with colcrypt.register_column.".into(),
    })
}

fn reencrypt_column(call: Call) -> Result<pg_sys::Datum> {
    let (table, attribute) = target(call)?;
    let jobs = write::query(
        "INSERT INTO colcrypt.job (relation, attribute, key_id, target_version) \
         SELECT c.relation, c.attribute, c.key_id, k.current_version \
         FROM colcrypt.protected_column c JOIN colcrypt.key k USING (key_id) \
         WHERE c.relation = $1::oid::regclass AND c.attribute = $2::text::name \
         ON CONFLICT (relation, attribute) WHERE finished_at IS NULL \
         DO UPDATE SET target_version = EXCLUDED.target_version, retry_at = NULL, tries = 0 \
         RETURNING job_id",
        &[table.into(), attribute.clone().into()],
        |row| row.get::<i64>(1),
    )?;
    let Some(Some(job)) = jobs.into_iter().next() else {
        return Err(not_registered(table, &attribute)?);
    };
    maintenance::wake_at_commit();
    Ok(job.into_datum().expect("a number has a datum"))
}

crate::sql_functions! {
    colcrypt_register_column / pg_finfo_colcrypt_register_column => register_column;
    colcrypt_unregister_column / pg_finfo_colcrypt_unregister_column => unregister_column;
    colcrypt_reencrypt_column / pg_finfo_colcrypt_reencrypt_column => reencrypt_column;
}
