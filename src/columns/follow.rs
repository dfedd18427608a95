//! Registrations after a change of what they name: they follow, or the change is refused; of what cannot be known the
//! one who changes it is told.

use std::borrow::Cow;

use colcrypt_domain::quote::quote_identifier;
use colcrypt_domain::renamed::{Follows, Renamed, follow, names};
use pgrx::pg_sys;

use crate::audit::Act;
use crate::columns::change::Change;
use crate::columns::search::guards;
use crate::columns::{cascades, labels, place, row_key, sample, view};
use crate::error::{Error, Result};
use crate::server::relation::{Lock, Named};
use crate::server::{reads, relation, report, spi};
use crate::values::codec::Codec;

/// # Errors
/// Where a context cannot follow, or values would be unreadable; of SPI and of DDL.
pub fn change(change: &Change) -> Result<()> {
    match change {
        Change::Column {
            table,
            number,
            from,
            to,
        } => {
            guards::renamed(*table, from, to)?;
            column(*table, *number, from, to)
        }
        Change::Type {
            table,
            column,
            number,
            from,
            to,
        } => {
            guards::retyped(*table, column)?;
            retyped(*table, column, *number, *from, *to)
        }
        Change::Table { table, from, to } => renamed_table(*table, from, to),
        Change::Schema { from, to } => schema(from, to),
        Change::TableMoved { table, from, to } => moved_table(*table, from, to),
        Change::Function { schema, from, to } => {
            function(Renamed::Function { schema, from, to }, schema, from)
        }
        Change::FunctionMoved {
            function: name,
            from,
            to,
        } => function(
            Renamed::FunctionMoved {
                function: name,
                from,
                to,
            },
            from,
            name,
        ),
        Change::Computed { table, column } => computed(*table, column),
        Change::Dropped { table, column } => dropped(*table, column),
        Change::TableDropped(table) => guards::table_dropped(*table),
        Change::Attached(table) => guards::attached(*table),
        Change::Trigger { table, is_made } => guards::trigger_changed(*table, *is_made),
        Change::Index(table) => guards::index_dropped(*table),
        Change::Constraint(constraint) => {
            guards::constrained(*constraint)?;
            cascades::made(*constraint)
        }
        Change::Label { type_oid, given } => labels::given(*type_oid, given),
    }
}

/// What is registered with a context, or is on its way to be.
struct Bound {
    table: pg_sys::Oid,
    attribute: String,
    /// The job that encrypts it, where it is not registered yet.
    job: Option<i64>,
    context: Option<String>,
    becomes: Option<String>,
    /// What names the key of a row.
    key_expression: Option<String>,
}

/// Those of a table, or all.
fn bound(table: Option<pg_sys::Oid>) -> Result<Vec<Bound>> {
    spi::query(
        "SELECT c.relation::oid AS relation, c.attribute::text AS attribute, c.job, c.context, c.becomes, c.key_expression FROM ( \
             SELECT relation, attribute, NULL::bigint AS job, context, becomes, key_expression FROM colcrypt.protected_column \
             UNION ALL SELECT m.relation, m.attribute, m.job_id, m.context, NULL, NULL FROM colcrypt.migration m \
             WHERE m.kind = 'encrypt' AND m.swapped_in IS NULL) c \
         WHERE num_nonnulls(c.context, c.key_expression) > 0 AND ($1 IS NULL OR c.relation = $1::oid::regclass) \
           AND EXISTS (SELECT FROM pg_class o WHERE o.oid = c.relation) ORDER BY 1, 2, 3",
        &[table.into()],
        |row| {
            Ok(Bound {
                table: spi::named(row, "relation")?,
                attribute: spi::named(row, "attribute")?,
                job: row.get_by_name("job")?,
                context: row.get_by_name("context")?,
                becomes: row.get_by_name("becomes")?,
                key_expression: row.get_by_name("key_expression")?,
            })
        },
    )
}

fn column(table: pg_sys::Oid, number: i16, from: &str, to: &str) -> Result<()> {
    let is_registered = take_name(table, from, to)?;
    let name = view::relation_name(table);
    let renamed = Renamed::Column {
        table: &name,
        from,
        to,
    };
    let what = format!("column {}", quote_identifier(from));
    let mut is_bound = false;
    for column in bound(Some(table))? {
        is_bound |= rewrite(&column, renamed, &what, Some(number))?;
    }
    if is_registered || is_bound {
        view::make_anew(&Named::take(table, Lock::Read)?)?;
        Act::new("follow_rename")
            .relation(table)
            .detail(format!("column {from} is called {to} now"))
            .record()?;
    }
    Ok(())
}

/// Gives the column's registration, and what is remembered of it, the new name; whether it is registered.
fn take_name(table: pg_sys::Oid, from: &str, to: &str) -> Result<bool> {
    let found = spi::query(
        "SELECT 1 FROM colcrypt.protected_column WHERE relation = $1::oid::regclass AND attribute = $2::text::name",
        &[table.into(), from.into()],
        |row| row.get::<i32>(1),
    )?;
    // Jobs and censuses of a column that was unregistered say still which keys its values may be under.
    let names = || [table.into(), from.into(), to.into()];
    spi::execute(
        "UPDATE colcrypt.job SET phase = 'failed', finished_at = clock_timestamp(), last_error = 'the column was dropped' \
         WHERE relation = $1::oid::regclass AND attribute = $3::text::name AND finished_at IS NULL \
           AND EXISTS (SELECT FROM colcrypt.job j WHERE j.relation = $1::oid::regclass AND j.attribute = $2::text::name AND j.finished_at IS NULL)",
        &names(),
    )?;
    spi::execute(
        "UPDATE colcrypt.job SET attribute = $3::text::name WHERE relation = $1::oid::regclass AND attribute = $2::text::name \
           AND NOT EXISTS (SELECT FROM colcrypt.migration m WHERE m.job_id = job.job_id AND (m.swapped_in IS NULL OR job.finished_at IS NULL))",
        &names(),
    )?;
    spi::execute(
        "UPDATE colcrypt.migration m SET attribute = $3::text::name FROM colcrypt.job j \
         WHERE m.relation = $1::oid::regclass AND m.attribute = $2::text::name AND m.swapped_in IS NOT NULL \
           AND j.job_id = m.job_id AND j.finished_at IS NOT NULL",
        &names(),
    )?;
    if found.is_empty() {
        return Ok(false);
    }
    // Until now no column was called so: whatever is there was said of one that is gone.
    for statement in [
        "DELETE FROM colcrypt.protected_column WHERE relation = $1::oid::regclass AND attribute = $3::text::name AND $2::text IS NOT NULL",
        "DELETE FROM colcrypt.census WHERE relation = $1::oid::regclass AND attribute = $3::text::name AND $2::text IS NOT NULL",
        "UPDATE colcrypt.protected_column SET attribute = $3::text::name WHERE relation = $1::oid::regclass AND attribute = $2::text::name",
        "UPDATE colcrypt.census SET attribute = $3::text::name WHERE relation = $1::oid::regclass AND attribute = $2::text::name",
    ] {
        spi::execute(statement, &names())?;
    }
    Ok(true)
}

fn renamed_table(table: pg_sys::Oid, from: &str, to: &str) -> Result<()> {
    let columns = bound(Some(table))?;
    if columns.is_empty() {
        return Ok(());
    }
    let held = Named::take(table, Lock::Read)?;
    let renamed = Renamed::Table {
        from,
        to,
        has_column: held.held.attribute(from).is_some(),
    };
    let what = format!("table {}", quote_identifier(from));
    let mut is_bound = false;
    for column in columns {
        is_bound |= rewrite(&column, renamed, &what, None)?;
    }
    if is_bound {
        view::make_anew(&held)?;
    }
    Ok(())
}

fn schema(from: &str, to: &str) -> Result<()> {
    let what = format!("schema {}", quote_identifier(from));
    for column in bound(None)? {
        let table = view::relation_name(column.table);
        let renamed = Renamed::Schema {
            table: &table,
            from,
            to,
        };
        rewrite(&column, renamed, &what, None)?;
    }
    Ok(())
}

fn moved_table(table: pg_sys::Oid, from: &str, to: &str) -> Result<()> {
    let what = format!("schema {} of its table", quote_identifier(from));
    let name = view::relation_name(table);
    for column in bound(Some(table))? {
        let renamed = Renamed::TableMoved {
            table: &name,
            from,
            to,
        };
        rewrite(&column, renamed, &what, None)?;
    }
    Ok(())
}

/// A function is called otherwise. Others of its former name may be left, and be what a context means: such a one fits
/// its table as it is, and not with the new name.
fn function(renamed: Renamed<'_>, schema: &str, name: &str) -> Result<()> {
    let what = format!(
        "function {}.{}",
        quote_identifier(schema),
        quote_identifier(name)
    );
    for column in bound(None)? {
        let expressions = [&column.context, &column.key_expression];
        let mut is_other = false;
        for expression in expressions.into_iter().flatten() {
            let Follows::To(text) = follow(expression, renamed) else {
                continue;
            };
            let table = Named::take(column.table, Lock::Read)?;
            let fits = |text: &str| -> Result<bool> { Ok(reads::columns(&table, text)?.is_some()) };
            match (fits(expression)?, fits(&text)?) {
                (true, false) => is_other = true,
                (true, true) => return Err(cannot_follow(&column, &what)?),
                (false, _) => {}
            }
        }
        if is_other {
            continue;
        }
        rewrite(&column, renamed, &what, None)?;
    }
    Ok(())
}

/// What values are bound to was computed anew: whether it is the same nobody can tell.
fn computed(table: pg_sys::Oid, name: &str) -> Result<()> {
    guards::computed(table, name)?;
    let held = Named::take(table, Lock::Read)?;
    let Some(number) = held.held.attribute(name).map(|found| found.number) else {
        return Ok(());
    };
    for column in bound(Some(table))? {
        if column.job.is_some() || !relation::holds_ciphertext(table, &column.attribute) {
            continue;
        }
        say_other_keys(&held, &column, name)?;
        let is_bound = reads_of(&held, column.context.as_deref(), number)?;
        if is_bound {
            report::warning(
                format!(
                    "values of column {}.{} are bound to column {}, which was computed anew",
                    held.held.shown(),
                    quote_identifier(&column.attribute),
                    quote_identifier(name)
                ),
                "A value whose context has other bytes than before cannot be read. colcrypt.verify_column lists the rows that do not open.",
            );
        }
    }
    Ok(())
}

/// Says how many values are under other keys than their rows' after a change of a column, if that names the keys.
fn say_other_keys(table: &Named, column: &Bound, name: &str) -> Result<()> {
    match &column.key_expression {
        Some(expression) if names(expression, name) => {
            sample::look_by_row(table, &column.attribute, expression)
        }
        _ => Ok(()),
    }
}

/// A column is gone: refused where a column that stays is registered with an expression that reads it.
fn dropped(table: pg_sys::Oid, name: &str) -> Result<()> {
    guards::dropped(table, name)?;
    for column in bound(Some(table))? {
        // It may have gone with it.
        if column.job.is_some() || !relation::holds_ciphertext(table, &column.attribute) {
            continue;
        }
        let held = Named::take(table, Lock::Read)?;
        let of = format!(
            "{}.{}",
            held.held.shown(),
            quote_identifier(&column.attribute)
        );
        let refused = |why: String, hint: &str| Error::Column {
            message: format!("column {} cannot be dropped: {why}", quote_identifier(name)),
            hint: hint.into(),
        };
        if let Some(context) = &column.context
            && is_lost(&held, &column.attribute, context, name)?
        {
            return Err(refused(
                format!("values of column {of} are bound to it"),
                "Its values would be unreadable. Bind them to something that stays (colcrypt.rebind_column), or unregister the column (colcrypt.unregister_column), before.",
            ));
        }
        if let Some(expression) = &column.key_expression
            && is_lost(&held, &column.attribute, expression, name)?
        {
            return Err(refused(
                format!("it names the keys of rows in column {of}"),
                "Nothing could be written any more. Register the column with another expression or with one key (colcrypt.register_column), or unregister it (colcrypt.unregister_column), before.",
            ));
        }
    }
    Ok(())
}

/// Whether an expression read a column that is gone. One that reads the whole row is another one without it.
fn is_lost(table: &Named, attribute: &str, expression: &str, name: &str) -> Result<bool> {
    let bare = table.held.bare_name();
    let itself = Renamed::Column {
        table: bare,
        from: name,
        to: name,
    };
    let may_speak_of_it = expression.to_lowercase().contains(&name.to_lowercase())
        && follow(expression, itself) == Follows::Unsure;
    let speaks_of_it = names(expression, name) || may_speak_of_it;
    if !speaks_of_it && !names(expression, bare) {
        return Ok(false);
    }
    Ok(match reads::columns(table, expression)? {
        None => true,
        Some(read) => {
            read.contains(&0) && place::all_canonical(table.held.oid, attribute)?.is_some()
        }
    })
}

/// Whether an expression reads a column.
fn reads_of(table: &Named, expression: Option<&str>, number: i16) -> Result<bool> {
    let read = match expression {
        Some(expression) => reads::columns(table, expression)?,
        None => None,
    };
    Ok(read.is_some_and(|read| read.contains(&number) || read.contains(&0)))
}

fn cannot_follow(column: &Bound, what: &str) -> Result<Error> {
    Ok(Error::Column {
        message: format!(
            "what column {}.{} is registered with cannot follow the new name of {what}",
            relation::shown(column.table)?,
            quote_identifier(&column.attribute)
        ),
        hint: "Its values would be unreadable. Bind them to an expression of columns alone (colcrypt.rebind_column), or unregister the column and register it again.".into(),
    })
}

/// Has a column's context follow; whether it did. `number` is that of the column that was renamed.
fn rewrite(column: &Bound, renamed: Renamed<'_>, what: &str, number: Option<i16>) -> Result<bool> {
    let refused = || cannot_follow(column, what);
    let (from, _) = renamed.words();
    let speaks_of_it = |expression: &str| expression.to_lowercase().contains(&from.to_lowercase());
    let after = |expression: &str| -> Result<Option<String>> {
        match follow(expression, renamed) {
            Follows::Untouched => Ok(None),
            Follows::To(text) => Ok(Some(text)),
            // What is not read does not speak of it where the name does not even occur.
            Follows::Unsure if !speaks_of_it(expression) => Ok(None),
            Follows::Unsure => Err(refused()?),
        }
    };
    let table = Named::take(column.table, Lock::Read)?;
    // None where nothing in it is of that name; what fits the table and reads the column means what it meant.
    let followed = |expression: &str| -> Result<Option<String>> {
        let Some(text) = after(expression)? else {
            // As far as it is read here; the server reads more than that.
            let is_read_here =
                colcrypt_core::place::is_plain(expression) || !speaks_of_it(expression);
            if !is_read_here && reads::columns(&table, expression)?.is_none() {
                return Err(refused()?);
            }
            return Ok(None);
        };
        match reads::columns(&table, &text)? {
            Some(found) if number.is_none_or(|number| found.contains(&number)) => Ok(Some(text)),
            _ => Err(refused()?),
        }
    };
    let each = |expression: &Option<String>| -> Result<Option<String>> {
        expression.as_deref().map_or(Ok(None), &followed)
    };
    let context = each(&column.context)?;
    let key_expression = each(&column.key_expression)?;
    if context.is_none() && key_expression.is_none() {
        return Ok(false);
    }
    let becomes = match (&context, &column.becomes) {
        (Some(_), Some(becomes)) => Some(after(becomes)?.unwrap_or_else(|| becomes.clone())),
        (_, becomes) => becomes.clone(),
    };
    for (is_it, followed) in [
        ("the context", context.is_some()),
        ("the expression for keys", key_expression.is_some()),
    ] {
        if followed {
            Act::new("follow_rename")
                .relation(column.table)
                .detail(format!(
                    "{is_it} of column {} follows the new name of {what}",
                    column.attribute
                ))
                .record()?;
        }
    }
    match column.job {
        None => spi::execute(
            "UPDATE colcrypt.protected_column SET context = coalesce($3, context), becomes = $4, key_expression = coalesce($5, key_expression) \
             WHERE relation = $1::oid::regclass AND attribute = $2::text::name",
            &[
                column.table.into(),
                column.attribute.clone().into(),
                context.into(),
                becomes.into(),
                key_expression.into(),
            ],
        )?,
        Some(job) => spi::execute(
            "UPDATE colcrypt.migration SET context = $2 WHERE job_id = $1",
            &[job.into(), context.into()],
        )?,
    };
    Ok(true)
}

/// A column got another type: refused where values that are bound to it could not be read any more.
fn retyped(
    table: pg_sys::Oid,
    name: &str,
    number: i16,
    from: (pg_sys::Oid, i32),
    to: (pg_sys::Oid, i32),
) -> Result<()> {
    for column in bound(Some(table))? {
        if column.job.is_some() || !relation::holds_ciphertext(table, &column.attribute) {
            continue;
        }
        let held = Named::take(table, Lock::Read)?;
        // Whether it still names keys by nobody's code.
        if let Some(expression) = &column.key_expression
            && names(expression, name)
        {
            row_key::check(&held, expression)?;
            say_other_keys(&held, &column, name)?;
        }
        let Some(context) = &column.context else {
            continue;
        };
        let is_named = names(context, name);
        // A whole row is named by its table.
        if !is_named && !names(context, held.held.bare_name()) {
            continue;
        }
        let Some(is_canonical) = place::all_canonical(table, &column.attribute)? else {
            continue;
        };
        let of = format!(
            "{}.{}",
            held.held.shown(),
            quote_identifier(&column.attribute)
        );
        let Some(read) = reads::columns(&held, context)? else {
            return Err(Error::Column {
                message: format!(
                    "the context of column {of} does not fit the table with column {} of this type",
                    quote_identifier(name)
                ),
                hint: HINT.into(),
            });
        };
        if !read.contains(&number) && !read.contains(&0) {
            continue;
        }
        // One that is on its way to another context is bound to a pair of them.
        let is_direct = column.becomes.is_some() || colcrypt_core::place::is_plain(context);
        let [before, now] = [from.0, to.0].map(|of| bytes_of(of, is_direct && is_canonical));
        if is_direct && before != now {
            return Err(Error::Column {
                message: format!(
                    "values of column {of} are bound to column {}: of another type they would be unreadable",
                    quote_identifier(name)
                ),
                hint: HINT.into(),
            });
        }
        if before != now || (from.1 != to.1 && before.as_deref() != Some("text")) {
            report::warning(
                format!(
                    "values of column {of} are bound to column {}, which has another type now",
                    quote_identifier(name)
                ),
                "A value whose context has other bytes than before cannot be read. colcrypt.verify_column lists the rows that do not open.",
            );
        }
    }
    Ok(())
}

const HINT: &str = "Bind them to something that stays (colcrypt.rebind_column), change the type, and bind them to it again.";

/// What a context says of a type's bytes, in its canonical form or as they are: values of two types of which it says
/// the same have the same.
fn bytes_of(declared: pg_sys::Oid, is_canonical: bool) -> Option<Cow<'static, str>> {
    // SAFETY: reads a static: the codec is not kept longer than the memory of this call.
    let memory = unsafe { pg_sys::CurrentMemoryContext };
    let name = Codec::for_type(declared, memory)
        .ok()?
        .context_name()
        .ok()?;
    Some(match &*name {
        "int2" | "int4" if is_canonical => "int8".into(),
        "bpchar" if is_canonical => "text".into(),
        _ => name,
    })
}
