//! Registered columns.

use colcrypt_core::suite::Purpose;
use colcrypt_domain::binding::{Bound, Wanted};
use colcrypt_domain::quote::quote_identifier;
use colcrypt_domain::rotation::Rotation;
use pgrx::{Spi, pg_sys};

use crate::catalog::read;
use crate::catalog::uuid::uuid;
use crate::columns::registration::Under;
use crate::columns::search::guards;
use crate::columns::{cascades, enforced, own_words, place, registration, row_key, sample};
use crate::error::{Error, Result};
use crate::keys::grantee;
use crate::rows::keyed;
use crate::rows::reach::{self, Elsewhere};
use crate::server::call::Call;
use crate::server::names::name_of;
use crate::server::relation::{self, Lock, Named};
use crate::server::roles::AsRole;
use crate::server::varlena::varlena_from;
use crate::server::{reads, spi, types};
use crate::values::codec::Codec;

pub fn target(call: Call) -> Result<(pg_sys::Oid, String)> {
    // SAFETY: declared as regclass and name.
    let (table, attribute) = unsafe { (call.get::<pg_sys::Oid>(0), call.datum(1)) };
    let table = table.ok_or(Error::NullArgument("relation"))?;
    let attribute = attribute.ok_or(Error::NullArgument("attribute"))?;
    // SAFETY: a name datum points to NAMEDATALEN bytes.
    let attribute = unsafe { name_of(&*attribute.cast_mut_ptr::<pg_sys::NameData>()) };
    Ok((table, attribute))
}

pub fn register_column(call: Call) -> Result<pg_sys::Datum> {
    let (table, attribute) = target(call)?;
    // SAFETY: declared as text and text[].
    let (context, readers) = unsafe {
        (
            call.long::<String>(3, "context")?,
            call.long::<Vec<Option<String>>>(4, "readers")?,
        )
    };
    let (plaintext_type, length) = plaintext_type(call)?;
    // SAFETY: declared as boolean and text, where they are declared.
    let (enforce, rotation) = unsafe { (call.get::<bool>(7), call.long::<String>(8, "rotation")?) };
    // SAFETY: declared as text, where they are declared.
    let keys = unsafe {
        Asked {
            key: call.long(2, "key")?,
            expression: call.long(9, "key_expression")?,
            keyring: call.long(10, "keyring")?,
        }
    };
    let under = keys.under()?;
    let rotation = rotation
        .map(|word| Rotation::parse(&word))
        .transpose()?
        .map(Rotation::name);
    // SAFETY: declared as text, where it is declared.
    let asked = Wanted::of(context, unsafe { call.long::<String>(6, "label")? })?;
    let held = Named::take(table, Lock::Read)?;
    registration::refuse_foreign_table(table)?;
    guards::refuse_other_class(table, &attribute, plaintext_type, length)?;
    under.require_manage()?;
    let expression = keys
        .expression
        .map(|expression| own_words::registered(&held, expression))
        .transpose()?;
    refuse_way_out(table, &attribute, &under, expression.as_deref())?;
    check_column(&held, &attribute)?;
    if let Some(expression) = &expression {
        row_key::check(&held, expression)?;
    }
    reach::all_leaves(&[table], Elsewhere::Left)?;
    let Bound { context, label } = bound_to(table, &attribute, asked)?;
    let context = context
        .map(|context| own_words::registered(&held, context))
        .transpose()?;
    if let Some(expression) = &context {
        check_context(&held, expression)?;
        if enforce != Some(true) && !is_followed(table, &attribute)? {
            cascades::warn(&held, &attribute, expression)?;
        }
    }
    place::free_label(label.as_ref(), table, &attribute)?;
    let readers = readers.map(existing_roles).transpose()?;
    // SAFETY: the memory of this call is the server's to name; the codec is not kept.
    Codec::for_type(plaintext_type, unsafe { pg_sys::CurrentMemoryContext })?;
    spi::execute(
        "INSERT INTO colcrypt.protected_column (relation, attribute, key_id, context, readers, plaintext_type, label, enforce, rotation, key_expression, keyring_id, declared) \
         VALUES ($1::oid::regclass, $2::text::name, $3, $4, $5, $6::oid::regtype, $7, coalesce($8, false), coalesce($9, 'reencrypt'), $10, $11, \
             CASE WHEN $12 <> -1 THEN format_type($6, $12) END) \
         ON CONFLICT (relation, attribute) DO UPDATE \
         SET key_id = EXCLUDED.key_id, context = EXCLUDED.context, label = EXCLUDED.label, readers = EXCLUDED.readers, \
             plaintext_type = EXCLUDED.plaintext_type, enforce = coalesce($8, protected_column.enforce), \
             rotation = coalesce($9, protected_column.rotation), \
             key_expression = EXCLUDED.key_expression, keyring_id = EXCLUDED.keyring_id, \
             declared = coalesce(EXCLUDED.declared, CASE WHEN protected_column.plaintext_type = EXCLUDED.plaintext_type THEN protected_column.declared END)",
        &[
            table.into(),
            attribute.clone().into(),
            under.key().map(|key| key.id.bigint()).into(),
            context.clone().into(),
            readers.clone().into(),
            plaintext_type.into(),
            label.into(),
            enforce.into(),
            rotation.into(),
            expression.clone().into(),
            under.keyring().map(|keyring| uuid(keyring.id)).into(),
            length.into(),
        ],
    )?;
    enforced::settle(table)?;
    match (&under, &expression) {
        (Under::Rows(_), Some(expression)) => {
            sample::look_by_row(&held, &attribute, expression)?;
            keyed::advise_index(&held.held, &attribute)?;
        }
        (Under::Key(key), _) => sample::look(&held, &attribute, key, context.as_deref())?,
        _ => {}
    }
    let mut detail = match readers {
        Some(readers) => format!("{attribute}, read by: {}", readers.join(", ")),
        None => attribute,
    };
    match enforce {
        Some(true) => detail.push_str(", enforced"),
        Some(false) => detail.push_str(", not enforced"),
        None => {}
    }
    if let Some(rotation) = rotation {
        detail.push_str(&format!(", rotation: {rotation}"));
    }
    if let (Some(expression), Some(keyring)) = (expression, under.keyring()) {
        detail.push_str(&format!(
            ", keys of keyring {} by row: {expression}",
            keyring.name
        ));
    }
    under
        .act("register_column")
        .relation(table)
        .detail(detail)
        .record()?;
    Ok(pg_sys::Datum::from(0))
}

/// The type that values are shown in, and its length or precision; -1 where none is given. A catalog of release 0.1
/// declares the argument as regtype, which has none.
fn plaintext_type(call: Call) -> Result<(pg_sys::Oid, i32)> {
    const NAME: &str = "plaintext_type";
    if call.argument_type(5) == pg_sys::REGTYPEOID {
        // SAFETY: the parser took it for a regtype.
        let found = unsafe { call.get::<pg_sys::Oid>(5) };
        return Ok((found.ok_or(Error::NullArgument(NAME))?, -1));
    }
    types::with_length(&call.text(5, NAME)?)
}

/// The key, or the keys, that a registration names.
struct Asked {
    key: Option<String>,
    expression: Option<String>,
    keyring: Option<String>,
}

impl Asked {
    fn under(&self) -> Result<Under> {
        let wrong = |message: &str, hint: &str| Error::InvalidParameter {
            message: message.into(),
            hint: hint.into(),
        };
        match (&self.key, &self.expression) {
            (Some(_), Some(_)) => Err(wrong(
                "a column has one key for all rows, or a key for each",
                "Give key, or key_expression, and not both.",
            )),
            (None, None) => Err(Error::NullArgument("key")),
            (Some(_), None) if self.keyring.is_some() => Err(wrong(
                "a key's name says its keyring already",
                "keyring goes with key_expression.",
            )),
            (Some(key), None) => {
                let key = read::key_by_name(key)?;
                key.require(Purpose::Values)?;
                Ok(Under::Key(key))
            }
            (None, Some(_)) => Ok(Under::Rows(row_key::keyring(self.keyring.as_deref())?)),
        }
    }
}

/// Registered with another key, values would be moved to it by whoever writes them, or by the next rotation.
fn refuse_way_out(
    table: pg_sys::Oid,
    attribute: &str,
    now: &Under,
    expression: Option<&str>,
) -> Result<()> {
    let former = registration::under(table, attribute)?;
    if let Some(former) = &former {
        former.require_manage()?;
        if let Under::Rows(keyring) = former {
            let is_same = now.keyring().is_some_and(|now| now.id == keyring.id)
                && registration::key_expression(table, attribute)?.as_deref() == expression;
            if is_same {
                return Ok(());
            }
            former.refuse_way_out()?;
        }
    }
    for former in registration::keys_of_values(table, attribute)? {
        if now.key().is_none_or(|now| now.id != former.id) {
            registration::refuse_way_out(&former)?;
        }
    }
    Ok(())
}

/// A registration that is there keeps its context, unless another is given.
fn bound_to(table: pg_sys::Oid, attribute: &str, asked: Wanted) -> Result<Bound> {
    match (registration::registered(table, attribute)?, asked) {
        (Some((bound, _)), Wanted::Place(None)) => Ok(bound),
        (Some(_), asked) => {
            place::refuse_half_bound(table, attribute)?;
            place::choose(table, attribute, asked)
        }
        (None, Wanted::Place(label)) => place::choose_by_values(table, attribute, label),
        (None, asked) => place::choose(table, attribute, asked),
    }
}

/// The roles that see plaintext, by name: a dump must restore where they do not exist.
pub fn existing_roles(names: Vec<Option<String>>) -> Result<Vec<String>> {
    names
        .into_iter()
        .map(|name| {
            let name = name.ok_or(Error::NullArgument("a reader"))?;
            let role = grantee::role_named(&name)?;
            if role == pg_sys::Oid::INVALID {
                return Err(Error::InvalidParameter {
                    message: "PUBLIC cannot be a reader".into(),
                    hint: "Leave readers out: then whoever may decrypt with the key is one.".into(),
                });
            }
            Ok(crate::server::roles::role_name(role))
        })
        .collect()
}

fn check_column(table: &Named, attribute: &str) -> Result<()> {
    let name = &table.sql;
    if !table.held.is_table() {
        return Err(Error::Column {
            message: format!("{name} is not a table"),
            hint: "Register columns of tables and partitioned tables.".into(),
        });
    }
    if table.held.is_temporary() {
        return Err(Error::TemporaryTable {
            table: name.clone(),
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

/// Has the server parse the expression as it will be used: over the table, held, by its name without the schema, and as
/// its owner, since planning alone may run code of his.
pub fn check_context(table: &Named, expression: &str) -> Result<()> {
    let _role = AsRole::restricted(table.owner());
    let _path = spi::safe_search_path();
    Spi::connect(|client| {
        client
            .select(
                &format!(
                    "SELECT ({expression})::pg_catalog.bytea FROM ONLY {} AS {} LIMIT 0",
                    table.sql,
                    quote_identifier(table.held.bare_name())
                ),
                None,
                &[],
            )
            .map(|_| ())
    })
    .map_err(crate::error::of_spi)?;
    Ok(())
}

/// Whether values follow what they are bound to.
fn is_followed(table: pg_sys::Oid, attribute: &str) -> Result<bool> {
    let found = spi::query(
        "SELECT follows FROM colcrypt.protected_column WHERE relation = $1::oid::regclass AND attribute = $2::text::name",
        &[table.into(), attribute.into()],
        |row| row.get::<bool>(1),
    )?;
    Ok(found.into_iter().flatten().next() == Some(true))
}

/// Has a column's values follow what they are bound to, or be left where they are.
///
/// # Errors
/// For a column that is not registered, or bound to nothing.
pub fn follow_context(call: Call) -> Result<pg_sys::Datum> {
    let (table, attribute) = target(call)?;
    // SAFETY: declared as boolean, and strict.
    let follows = unsafe { call.get::<bool>(2) } == Some(true);
    let under = registration::managed(table, &attribute)?;
    let held = Named::take(table, Lock::Read)?;
    let bound = registration::registered(table, &attribute)?;
    let Some((bound, _)) = bound else {
        return Err(registration::not_registered(table, &attribute)?);
    };
    if follows {
        refuse_unfollowed(&held, &attribute, bound.context.as_deref())?;
    }
    spi::execute(
        "UPDATE colcrypt.protected_column SET follows = $3 WHERE relation = $1::oid::regclass AND attribute = $2::text::name",
        &[table.into(), attribute.clone().into(), follows.into()],
    )?;
    enforced::settle(table)?;
    let word = if follows { "follow" } else { "stay" };
    under
        .act("follow_context")
        .relation(table)
        .detail(format!("{attribute}: values {word}"))
        .record()?;
    varlena_from(word.as_bytes())
}

/// A generated column has its new value after the trigger only, and the server's own columns have theirs when the row
/// is stored.
fn refuse_unfollowed(table: &Named, attribute: &str, context: Option<&str>) -> Result<()> {
    let column = quote_identifier(attribute);
    let refused = |message: String, hint: &str| Error::Column {
        message,
        hint: hint.into(),
    };
    let Some(context) = context else {
        return Err(refused(
            format!("values of column {column} are bound to nothing that they could follow"),
            "Bind them first: colcrypt.rebind_column.",
        ));
    };
    own_words::refuse_schema(table, context)?;
    let numbers = reads::columns(table, context)?.unwrap_or_default();
    if numbers.iter().any(|number| *number < 0) {
        return Err(refused(
            format!(
                "values of column {column} are bound to one of the server's own columns, which a row has once it is stored"
            ),
            "Bind them to the table's columns: colcrypt.rebind_column.",
        ));
    }
    let generated = spi::query(
        "SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = $1 AND attgenerated <> '' AND (attnum = ANY ($2) OR 0 = ANY ($2))",
        &[table.held.oid.into(), numbers.into()],
        |row| row.get::<String>(1),
    )?;
    match generated.into_iter().flatten().next() {
        None => Ok(()),
        Some(by) => Err(refused(
            format!(
                "values of column {column} are bound to {by}, a generated column, which has its new value after all triggers"
            ),
            "Bind them to the columns that it is generated from: colcrypt.rebind_column.",
        )),
    }
}

pub fn unregister_column(call: Call) -> Result<pg_sys::Datum> {
    let (table, attribute) = target(call)?;
    let is_dropped = !relation::exists(table);
    // Of a table that is gone nobody is the owner any more.
    let under = if is_dropped {
        registration::managed_by_key(table, &attribute)?
    } else {
        registration::managed(table, &attribute)?
    };
    if is_dropped {
        guards::forget_table(table)?;
    } else {
        guards::refuse_searched(table, &attribute, "it cannot be unregistered")?;
    }
    spi::execute(
        "DELETE FROM colcrypt.protected_column WHERE relation = $1::oid::regclass AND attribute = $2::text::name",
        &[table.into(), attribute.clone().into()],
    )?;
    spi::execute(
        "UPDATE colcrypt.job SET phase = 'failed', finished_at = clock_timestamp(), last_error = 'the column was unregistered' \
         WHERE relation = $1::oid::regclass AND attribute = $2::text::name AND finished_at IS NULL",
        &[table.into(), attribute.clone().into()],
    )?;
    if !is_dropped {
        enforced::settle(table)?;
    }
    let act = under.act("unregister_column");
    if is_dropped {
        act.detail(format!("{attribute} of a table that was dropped"))
    } else {
        act.relation(table).detail(attribute)
    }
    .record()?;
    Ok(pg_sys::Datum::from(0))
}
