//! encrypt_column and decrypt_column: who may order a migration, what it would do, and the order itself.

use colcrypt_core::suite::Purpose;
use colcrypt_domain::binding::{Bound, Wanted, accepted};
use colcrypt_domain::migration::effects::{self, TakeOver};
use colcrypt_domain::migration::survey::{Line, losses, refuse};
use colcrypt_domain::migration::{self, statements};
use colcrypt_domain::quote::{quote_identifier, with_suffix};
use pgrx::pg_sys;

use crate::audit::Act;
use crate::catalog::read::{self, Key};
use crate::catalog::type_names;
use crate::columns::migration::survey::{self, Question, Searched};
use crate::columns::migration::tree::{self, TREE};
use crate::columns::migration::{Kind, refuse_second};
use crate::columns::search::wanted::Asked;
use crate::columns::search::{guards, orders as search_orders};
use crate::columns::view::known::key_of;
use crate::columns::view::{self, relation_name};
use crate::columns::{cascades, place, registered, registration};
use crate::error::{Error, Privilege, Result};
use crate::jobs::wake;
use crate::rights;
use crate::rows::reach;
use crate::server::call::Call;
use crate::server::names::name_of;
use crate::server::record::{Record, return_set};
use crate::server::relation::{self, Lock, Named};
use crate::server::{reads, report, spi};
use crate::values::codec::Codec;

/// What is asked for, once it is known to be allowed.
struct Order {
    kind: Kind,
    table: pg_sys::Oid,
    attribute: String,
    key: Key,
    context: Option<String>,
    /// Of a new column the label in its context; of one that is to be decrypted the one that its values are bound to.
    label: Option<String>,
    /// Whether values that are bound to no place are decrypted too, and how many there are.
    accepts_unplaced: bool,
    unplaced: i64,
    readers: Option<Vec<String>>,
    plaintext_type: pg_sys::Oid,
    declared: String,
    /// The name that a view takes over, and the table's new one.
    names: Option<(String, String)>,
    /// The search key of an index that is made first.
    search_key: Option<String>,
}

/// A column's type: itself, and as SQL with length and collation.
fn type_of(table: pg_sys::Oid, attribute: &str) -> Result<Option<(pg_sys::Oid, String)>> {
    let found = spi::query(
        "SELECT a.atttypid, format_type(a.atttypid, a.atttypmod) || \
                CASE WHEN c.oid IS NULL OR c.oid = t.typcollation THEN '' ELSE format(' COLLATE %I.%I', n.nspname, c.collname) END \
         FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
         LEFT JOIN pg_collation c ON c.oid = a.attcollation LEFT JOIN pg_namespace n ON n.oid = c.collnamespace \
         WHERE a.attrelid = $1 AND a.attname = $2::text::name AND a.attnum > 0 AND NOT a.attisdropped",
        &[table.into(), attribute.into()],
        |row| {
            Ok((
                row.get(1)?.unwrap_or(pg_sys::Oid::INVALID),
                row.get::<String>(2)?.unwrap_or_default(),
            ))
        },
    )?;
    Ok(found.into_iter().next())
}

fn no_such_column(attribute: &str, table: &str) -> Error {
    Error::Column {
        message: format!(
            "column {} of table {table} does not exist",
            quote_identifier(attribute)
        ),
        hint: "Give the column's name as it is stored, without quotes.".into(),
    }
}

fn flag(call: Call, index: usize) -> bool {
    // SAFETY: declared as boolean.
    unsafe { call.get::<bool>(index) }.unwrap_or_default()
}

pub fn encrypt_column(call: Call) -> Result<pg_sys::Datum> {
    let (relation, attribute) = registered::target(call)?;
    let table = view::table_behind(relation)?;
    let name = relation::shown(table)?;
    registration::refuse_foreign_table(table)?;
    reach::refuse_hidden_rows_of(table)?;
    let key = read::key_by_name(&call.text(2, "key")?)?;
    key.require(Purpose::Values)?;
    rights::require(&key, Privilege::Manage)?;
    rights::require(&key, Privilege::Encrypt)?;
    // SAFETY: declared as text, text[], boolean and name.
    let (context, readers, wants_view) = unsafe {
        (
            call.long::<String>(3, "context")?,
            call.long::<Vec<Option<String>>>(4, "readers")?,
            call.get::<bool>(5).unwrap_or(true),
        )
    };
    let (plaintext_type, declared) =
        type_of(table, &attribute)?.ok_or_else(|| no_such_column(&attribute, &name))?;
    // SAFETY: the memory of this call is the server's to name; the codec is not kept.
    Codec::for_type(plaintext_type, unsafe { pg_sys::CurrentMemoryContext })?;
    // SAFETY: declared as text, where it is declared.
    let asked = Wanted::of(context, unsafe { call.long::<String>(9, "label")? })?;
    let Bound { context, label } = place::choose(table, &attribute, asked)?;
    if let Some(expression) = &context {
        check_context(table, &attribute, expression)?;
    }
    let names = if wants_view && view::views_of(table)?.is_empty() {
        let now = relation_name(table);
        let wanted = match call.datum(6) {
            // SAFETY: declared as name, whose datum points to NAMEDATALEN bytes.
            Some(name) => unsafe { name_of(&*name.cast_mut_ptr::<pg_sys::NameData>()) },
            None => with_suffix(&now, "_encrypted"),
        };
        Some((now, wanted))
    } else {
        None
    };
    // SAFETY: declared as text, where it is declared.
    let search_key = unsafe { call.long::<String>(10, "search_key")? };
    let searched = Searched::now(table, &attribute)?;
    if searched.equality || search_key.is_some() {
        refuse_whole_row(table, &attribute, context.as_deref())?;
    }
    search_orders::refuse_ways_out(table, &attribute, &key)?;
    let order = Order {
        kind: Kind::Encrypt,
        table,
        attribute,
        key,
        context,
        label,
        accepts_unplaced: false,
        unplaced: 0,
        readers: readers.map(registered::existing_roles).transpose()?,
        plaintext_type,
        declared,
        names,
        search_key: search_key.filter(|_| !searched.equality),
    };
    decide(call, &order, flag(call, 7), flag(call, 8))
}

pub fn decrypt_column(call: Call) -> Result<pg_sys::Datum> {
    let (relation, attribute) = registered::target(call)?;
    let table = view::table_behind(relation)?;
    let key = registration::managed_column(
        table,
        &attribute,
        "Fill a plain column through the access view, which decrypts under each row's key for who may.",
    )?;
    rights::require(&key, Privilege::Decrypt)?;
    guards::refuse_searched(table, &attribute, "it cannot be decrypted in place")?;
    // Whoever reads the table will read the values.
    for former in registration::keys_of_values(table, &attribute)? {
        registration::refuse_way_out(&former)?;
    }
    let registered = spi::query(
        &format!(
            "SELECT context, readers, plaintext_type::oid, coalesce({}, format_type(plaintext_type, -1)) \
             FROM colcrypt.protected_column p WHERE relation = $1::oid::regclass AND attribute = $2::text::name",
            type_names::declared_now("p")
        ),
        &[table.into(), attribute.clone().into()],
        |row| {
            Ok((
                row.get::<String>(1)?,
                row.get::<Vec<Option<String>>>(2)?,
                row.get(3)?.unwrap_or(pg_sys::Oid::INVALID),
                row.get::<String>(4)?.unwrap_or_default(),
            ))
        },
    )?;
    let Some((context, readers, plaintext_type, declared)) = registered.into_iter().next() else {
        return Err(registration::not_registered(table, &attribute)?);
    };
    place::refuse_half_bound(table, &attribute)?;
    let place = place::place_bound(context.as_deref());
    let order = Order {
        kind: Kind::Decrypt,
        unplaced: place::unplaced(table, &attribute, place.as_ref())?,
        accepts_unplaced: flag(call, 4),
        table,
        attribute,
        key,
        context,
        label: place.map(|place| place.label),
        readers: readers.map(|names| names.into_iter().flatten().collect()),
        plaintext_type,
        declared,
        names: None,
        search_key: None,
    };
    decide(call, &order, flag(call, 2), flag(call, 3))
}

/// Has the server parse the context expression as the trigger will use it: over what is known before a row is
/// written and is there afterwards. As the table's owner, since his code may be in it.
fn check_context(table: pg_sys::Oid, attribute: &str, expression: &str) -> Result<()> {
    let held = Named::take(table, Lock::Read)?;
    let known = tree::known_columns(table, &[attribute])?;
    let sql = statements::check_context(&held.sql, &relation_name(table), &known, expression);
    spi::run_as(held.owner(), &[sql])
}

/// What is bound to the whole row would be bound to its terms, which a rotation of the search key changes.
fn refuse_whole_row(table: pg_sys::Oid, attribute: &str, context: Option<&str>) -> Result<()> {
    let Some(expression) = context else {
        return Ok(());
    };
    let held = Named::take(table, Lock::Read)?;
    if reads::columns(&held, expression)?.is_some_and(|numbers| !numbers.contains(&0)) {
        return Ok(());
    }
    Err(Error::Column {
        message: format!(
            "values of column {}.{} would be bound to the whole row, of which the terms of a search index are a part",
            held.held.shown(),
            quote_identifier(attribute)
        ),
        hint: "Give a context made of columns that are named.".into(),
    })
}

/// A name for the new column that no table of the tree has.
fn twin_name(order: &Order) -> Result<String> {
    let taken = spi::query(
        &format!(
            "{} SELECT DISTINCT a.attname::text FROM pg_attribute a JOIN tree t ON t.relid = a.attrelid",
            tree::TREE
        ),
        &[order.table.into()],
        |row| row.get::<String>(1),
    )?;
    let taken: Vec<String> = taken.into_iter().flatten().collect();
    Ok(migration::twin_name(&order.attribute, order.kind, &taken))
}

/// What a view in the table's place needs.
fn view_lines(order: &Order, view: &str, renamed: &str) -> Result<Vec<Line>> {
    let columns = view::columns_of(order.table)?;
    let names: Vec<String> = columns.iter().map(|column| column.quoted()).collect();
    let place = spi::query(
        "SELECT to_regclass(format('%I.%I', n.nspname, $2)) IS NOT NULL AS is_name_taken, \
                has_schema_privilege(c.relowner, n.oid, 'CREATE') AS owner_may_create \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1",
        &[order.table.into(), renamed.into()],
        |row| {
            Ok((
                spi::named(row, "is_name_taken")?,
                spi::named(row, "owner_may_create")?,
            ))
        },
    )?;
    let (is_name_taken, owner_may_create) = place.into_iter().next().unwrap_or((false, true));
    let roles_of_columns = spi::query(
        "SELECT DISTINCT coalesce(r.rolname::text, 'PUBLIC') FROM pg_attribute t, aclexplode(t.attacl) a \
         LEFT JOIN pg_roles r ON r.oid = a.grantee \
         WHERE t.attrelid = $1 AND NOT t.attisdropped AND (a.grantee = 0 OR r.oid IS NOT NULL) ORDER BY 1",
        &[order.table.into()],
        |row| row.get::<String>(1),
    )?;
    let take_over = TakeOver {
        view,
        renamed,
        has_row_key: key_of(order.table, &columns, &names)?.is_some(),
        has_encrypted_columns: columns.iter().any(|column| column.encrypted.is_some()),
        is_name_taken,
        owner_may_create,
        roles_of_columns: roles_of_columns.into_iter().flatten().collect(),
    };
    Ok(take_over.lines())
}

/// Who may read or write the table, and will not be able to use its column.
fn people(order: &Order) -> Result<Vec<Line>> {
    let found = spi::query(
        "SELECT DISTINCT coalesce(r.rolname::text, 'PUBLIC'), w.needs FROM pg_class c, aclexplode(c.relacl) a \
         LEFT JOIN pg_roles r ON r.oid = a.grantee \
         JOIN (VALUES ('SELECT', 'decrypt'), ('INSERT', 'encrypt'), ('UPDATE', 'encrypt')) AS w(has, needs) ON w.has = a.privilege_type \
         WHERE c.oid = $1 AND (a.grantee = 0 OR r.oid IS NOT NULL) \
           AND NOT colcrypt.has_key_privilege( \
               CASE WHEN lower(r.rolname::text) = 'public' THEN '\"' || r.rolname::text || '\"' ELSE coalesce(r.rolname::text, 'public') END, $2, w.needs) ORDER BY 1, 2",
        &[order.table.into(), order.key.name.clone().into()],
        |row| {
            Ok((
                row.get::<String>(1)?.unwrap_or_default(),
                row.get::<String>(2)?.unwrap_or_default(),
            ))
        },
    )?;
    Ok(found
        .into_iter()
        .map(|(role, privilege)| effects::shut_out(&role, &privilege, &order.key.name))
        .collect())
}

fn decide(call: Call, order: &Order, accepts: bool, dry_run: bool) -> Result<pg_sys::Datum> {
    refuse_second(order.table)?;
    let column = quote_identifier(&order.attribute);
    let mut lines = vec![effects::column(
        order.kind,
        &order.attribute,
        &order.key.name,
        &order.declared,
    )];
    let mut searched = Searched::now(order.table, &order.attribute)?;
    let mut is_unique = false;
    if let Some(key) = &order.search_key {
        is_unique = survey::are_kept_apart(order.table, &order.attribute)?;
        searched = Searched {
            equality: true,
            unique: is_unique,
        };
        lines.push(effects::search_index(key, is_unique));
        if dry_run {
            let asked = Asked::in_place_of_another(key, is_unique);
            let why = search_orders::why_unfit(order.table, &order.attribute, asked)?;
            lines.extend(why.as_deref().map(effects::no_search_index));
        }
    }
    let viewed = order.names.is_some() || !view::views_of(order.table)?.is_empty();
    match &order.names {
        Some((view, renamed)) => lines.extend(view_lines(order, view, renamed)?),
        None => lines.push(effects::name_kept(order.kind, &relation_name(order.table))),
    }
    lines.extend(survey::survey(&Question {
        kind: order.kind,
        table: order.table,
        attribute: &order.attribute,
        // No number comes after a nine.
        trigger: "~colcrypt_0",
        viewed,
        searched,
    })?);
    if order.kind == Kind::Encrypt {
        lines.extend(people(order)?);
        if let Some(context) = &order.context {
            let table = Named::take(order.table, Lock::Read)?;
            lines.extend(
                cascades::of(&table, context)?
                    .iter()
                    .map(|found| effects::cascade(&found.name, &found.columns)),
            );
        }
    }
    if has_no_room(order.table)? {
        lines.push(effects::no_room());
    }
    if order.unplaced > 0 {
        lines.push(effects::unplaced(order.unplaced));
    }
    let mut job = None;
    if !dry_run {
        refuse(&lines, &column, |_| accepts)?;
        accepted(order.unplaced, order.accepts_unplaced, &order.attribute)?;
        if let Some(key) = &order.search_key {
            let asked = Asked::in_place_of_another(key, is_unique);
            let index = search_orders::order(order.table, &order.attribute, asked)?;
            search_orders::refuse_ways_out(order.table, &order.attribute, &order.key)?;
            report::notice(format!(
                "job {index} makes the search index first, of the values as they are"
            ));
        }
        job = Some(queue(order, &lines)?);
    }
    let rows = lines
        .into_iter()
        .map(|line| {
            let mut row = Record::default();
            row.push(job)
                .push(line.object.clone())
                .push(line.in_words());
            row
        })
        .collect();
    Ok(return_set(call, rows))
}

/// Whether a column more is more than PostgreSQL can do, in the table or in one below it.
fn has_no_room(table: pg_sys::Oid) -> Result<bool> {
    let full = spi::query(
        &format!(
            "{TREE} SELECT EXISTS (SELECT FROM tree t JOIN pg_class c ON c.oid = t.relid WHERE c.relnatts >= {})",
            pg_sys::MaxHeapAttributeNumber
        ),
        &[table.into()],
        |row| row.get::<bool>(1),
    )?;
    Ok(full.into_iter().flatten().next() == Some(true))
}

fn queue(order: &Order, lines: &[Line]) -> Result<i64> {
    let losses = losses(lines);
    let twin = twin_name(order)?;
    let (view, renamed) = order.names.clone().unzip();
    let jobs = spi::query(
        "WITH queued AS (INSERT INTO colcrypt.job (relation, attribute, key_id, target_version) \
             SELECT $1::oid::regclass, $3::text::name, key_id, current_version FROM colcrypt.key WHERE key_id = $4 RETURNING job_id) \
         INSERT INTO colcrypt.migration (job_id, kind, relation, attribute, twin, key_id, context, readers, \
             plaintext_type, declared, view_name, table_name, accepted, label, accept_unplaced) \
         SELECT job_id, $5, $1::oid::regclass, $2::text::name, $3::text::name, $4, $6, $7, $8::oid::regtype, $9, \
             $10::text::name, $11::text::name, $12, $13, $14 FROM queued RETURNING job_id",
        &[
            order.table.into(),
            order.attribute.clone().into(),
            twin.into(),
            order.key.id.bigint().into(),
            order.kind.name().into(),
            order.context.clone().into(),
            order.readers.clone().into(),
            order.plaintext_type.into(),
            order.declared.clone().into(),
            view.into(),
            renamed.into(),
            losses.into(),
            order.label.clone().into(),
            order.accepts_unplaced.into(),
        ],
        |row| row.get::<i64>(1),
    )?;
    let job = jobs
        .into_iter()
        .flatten()
        .next()
        .ok_or_else(|| Error::CatalogCorrupt("a job was not queued".into()))?;
    wake::wake_at_commit();
    Act::new(order.kind.function())
        .key(&order.key)
        .relation(order.table)
        .detail(format!(
            "job {job}: {}{}",
            order.attribute,
            accepted(order.unplaced, order.accepts_unplaced, &order.attribute)?
        ))
        .record()?;
    Ok(job)
}
