//! The three changes of a table's definition that a migration makes, each in one short transaction: the twin comes
//! (`prepare`), takes the column's place (`swap`), or goes again (`undo`).
//!
//! All run as the table's owner, in a security-restricted operation. A lock that is not had in a tenth of a second is
//! not waited for: sessions queue up behind whoever waits for such a lock, so it is rather tried again later.

use colcrypt_domain::migration::statements::{self, Branch, Privilege};
use colcrypt_domain::migration::with_twin;
use colcrypt_domain::quote::quote_identifier;
use colcrypt_domain::view::ViewColumn;
use pgrx::{Spi, pg_sys};

use crate::audit::Act;
use crate::columns::migration::tree::{self, Member};
use crate::columns::migration::{Kind, Migration, survey};
use crate::columns::{enforced, place, renamed, view};
use crate::error::{Error, Result};
use crate::rows::reach::{self, Elsewhere};
use crate::server::relation::{self, Held, Lock, Named};
use crate::server::roles::AsRole;
use crate::server::spi::{self, run_as, safe_search_path};
use crate::server::txn::set_local;

/// A table of so many blocks is counted while a swap has it locked, which takes a second or so. A larger one is counted
/// before, at the end of its verification ([`uneven`]); under the lock it is only asked whether any row holds a value.
const COUNTED_BLOCKS: i64 = 1 << 16;

/// No longer than this for a lock, and autovacuum makes way before.
pub fn hurry() {
    set_local(c"lock_timeout", c"100ms");
    set_local(c"deadlock_timeout", c"20ms");
}

/// The table, its tree and the views that show it, locked against everybody: views first, as those do who read through
/// them.
struct LockedOut {
    table: Named,
    members: Vec<(Member, Named)>,
    views: Vec<(pg_sys::Oid, String)>,
}

fn lock_out(migration: &Migration, with_views: bool) -> Result<LockedOut> {
    let locked = lock_out_whatever_the_type(migration, with_views)?;
    match changed_type(migration, &locked.table.held) {
        Some(why) => Err(Error::OutOfStep { why }),
        None => Ok(locked),
    }
}

fn lock_out_whatever_the_type(migration: &Migration, with_views: bool) -> Result<LockedOut> {
    let views_now = || -> Result<Vec<(pg_sys::Oid, String)>> {
        if with_views {
            view::views_of(migration.table)
        } else {
            Ok(Vec::new())
        }
    };
    let before = views_now()?;
    let mut views = Vec::new();
    for (view, _) in &before {
        let held = Named::take(*view, Lock::Exclusive)?;
        views.push((*view, held.sql));
    }
    let table = Named::take(migration.table, Lock::Exclusive)?;
    let members = tree::held(migration, Lock::Exclusive)?;
    if views_now()? != views {
        return Err(Error::OutOfStep {
            why: "a view of the table has come or gone just now".into(),
        });
    }
    Ok(LockedOut {
        table,
        members,
        views,
    })
}

/// Whether a column of the migration has another type than it began with, in words.
fn changed_type(migration: &Migration, table: &Held) -> Option<String> {
    let is_as_ordered = |name: &str, is_plaintext: bool| {
        table.attribute(name).is_none_or(|attribute| {
            if is_plaintext {
                attribute.type_oid == migration.plaintext_type
            } else {
                attribute.holds_ciphertext()
            }
        })
    };
    let encrypts = migration.kind == Kind::Encrypt;
    let is_whole =
        is_as_ordered(&migration.attribute, encrypts) && is_as_ordered(&migration.twin, !encrypts);
    (!is_whole).then(|| "the column's type was changed".into())
}

/// The tree as statements are made for it.
fn branches(members: &[(Member, Named)]) -> Vec<Branch<'_>> {
    members
        .iter()
        .map(|(member, table)| Branch {
            table: &table.sql,
            is_partition: member.is_partition,
            has_trigger: member.has_trigger,
        })
        .collect()
}

/// Drops a column wherever it is in the tree: what a child has in its own right stays when its parent's goes.
fn drop_column(members: &[(Member, Named)], name: &str) -> Result<()> {
    for (member, table) in members {
        let left = spi::query(
            "SELECT attnum FROM pg_attribute WHERE attrelid = $1 AND attname = $2::text::name AND NOT attisdropped",
            &[member.oid.into(), name.into()],
            |row| row.get::<i16>(1),
        )?;
        if !left.is_empty() {
            run_as(table.owner(), &[statements::drop_column(&table.sql, name)])?;
        }
    }
    Ok(())
}

/// Drops foreign keys of other columns to this one, which the survey found on terms as well: the column does not go
/// with them there.
fn drop_foreign_keys(table: &Named, attribute: &str) -> Result<()> {
    let found = spi::query(
        "SELECT n.conrelid, n.conname::text FROM pg_constraint n JOIN pg_attribute a ON a.attrelid = n.confrelid AND a.attnum = ANY (n.confkey) \
         WHERE n.contype = 'f' AND n.confrelid = $1 AND a.attname = $2::text::name AND n.conparentid = 0 ORDER BY 1, 2",
        &[table.held.oid.into(), attribute.into()],
        |row| Ok((spi::at::<pg_sys::Oid>(row, 1)?, spi::at::<String>(row, 2)?)),
    )?;
    for (referencing, name) in found {
        let from = Named::take(referencing, Lock::Exclusive)?;
        run_as(
            from.owner(),
            &[statements::drop_constraint(&from.sql, &name)],
        )?;
    }
    Ok(())
}

fn is_not_null(migration: &Migration) -> Result<bool> {
    let found = spi::query(
        "SELECT attnotnull FROM pg_attribute WHERE attrelid = $1 AND attname = $2::text::name AND NOT attisdropped",
        &[migration.table.into(), migration.attribute.clone().into()],
        |row| row.get::<bool>(1),
    )?;
    Ok(found.into_iter().flatten().next() == Some(true))
}

/// The privileges that others have on a table or one of its columns, as GRANTs on something else.
fn grants(table: pg_sys::Oid, column: Option<&str>, on: &str) -> Result<Vec<String>> {
    let found = spi::query(
        "SELECT a.privilege_type AS name, a.attname::text AS attribute, r.rolname::text AS role, a.is_grantable \
         FROM (SELECT x.*, NULL::name AS attname, c.relowner FROM pg_class c, aclexplode(c.relacl) x WHERE c.oid = $1 AND $2 IS NULL \
               UNION ALL SELECT x.*, t.attname, c.relowner \
               FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid, aclexplode(t.attacl) x \
               WHERE c.oid = $1 AND NOT t.attisdropped AND ($2 IS NULL OR t.attname = $2::text::name)) a \
         LEFT JOIN pg_roles r ON r.oid = a.grantee \
         WHERE a.grantee <> a.relowner AND (a.grantee = 0 OR r.oid IS NOT NULL) \
           AND a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE', 'REFERENCES')",
        &[table.into(), column.map(String::from).into()],
        |row| {
            Ok(Privilege {
                name: spi::named(row, "name")?,
                column: row.get_by_name("attribute")?,
                role: row.get_by_name("role")?,
                is_grantable: spi::named(row, "is_grantable")?,
            })
        },
    )?;
    Ok(found.iter().map(|privilege| privilege.grant(on)).collect())
}

fn without(columns: Vec<ViewColumn>, name: &str) -> Vec<ViewColumn> {
    columns
        .into_iter()
        .filter(|column| column.name != name)
        .collect()
}

/// The tables of the tree in which rows lie.
fn leaves(members: &[(Member, Named)]) -> Vec<pg_sys::Oid> {
    let leaves = members.iter().filter(|(member, _)| member.is_leaf);
    leaves.map(|(member, _)| member.oid).collect()
}

/// Adds the twin and what keeps it in step, and puts the access view in the table's place.
///
/// # Errors
/// Of the survey and of DDL; the lock's among them.
pub fn prepare(migration: &Migration) -> Result<()> {
    hurry();
    let LockedOut { table, members, .. } = lock_out(migration, false)?;
    survey::check(migration)?;
    let pair = migration.pair();
    let mut statements = pair.add_twin(&table.sql, &migration.declared, is_not_null(migration)?);
    statements.extend(pair.create_triggers(&branches(&members)));
    run_as(table.owner(), &statements)?;
    spi::execute(
        "UPDATE colcrypt.migration SET began_with = $2::oid[]::regclass[], origins = $3 WHERE job_id = $1",
        &[
            migration.job.into(),
            leaves(&members).into(),
            tree::origins(migration)?.into(),
        ],
    )?;
    if let Some((view, renamed)) = &migration.names {
        put_view(migration, &table, view, renamed)?;
    }
    Ok(())
}

fn put_view(migration: &Migration, table: &Named, view: &str, renamed: &str) -> Result<()> {
    run_as(
        table.owner(),
        &[statements::rename_table(&table.sql, renamed)],
    )?;
    let table = Named::take(migration.table, Lock::Exclusive)?;
    let view = table.beside(view);
    let columns = without(view::columns_of(migration.table)?, &migration.twin);
    let mut statements = view::statements(migration.table, &table.sql, &view, &columns);
    statements.extend(grants(migration.table, None, &view)?);
    run_as(table.owner(), &statements)
}

/// Makes triggers where a child has come to lack one; whether any did.
///
/// # Errors
/// Of DDL.
pub fn mend(migration: &Migration) -> Result<bool> {
    let members = tree::members(migration)?;
    if members
        .iter()
        .all(|member| member.is_partition || member.has_trigger)
    {
        return Ok(false);
    }
    if migration.kind == Kind::Decrypt {
        // Its rows were brought by nobody who was asked for his right to decrypt them.
        return Err(Error::OutOfStep {
            why: "a partition or child came after the order: detach it, or cancel the job and order it anew".into(),
        });
    }
    hurry();
    let LockedOut { table, members, .. } = lock_out(migration, false)?;
    let statements = migration.pair().create_triggers(&branches(&members));
    run_as(table.owner(), &statements)?;
    Ok(true)
}

/// Proves that the twin holds no NULL, so that the swap has nothing to look for. Writers are not held up.
///
/// # Errors
/// Of DDL.
pub fn prove_not_null(migration: &Migration) -> Result<()> {
    if !is_not_null(migration)? {
        return Ok(());
    }
    // Autovacuum makes way sooner than that.
    set_local(c"deadlock_timeout", c"20ms");
    let table = Named::take(migration.table, Lock::Write)?;
    run_as(
        table.owner(),
        &[migration.pair().validate_not_null(&table.sql)],
    )
}

/// Puts the twin in the column's place and drops the column. False when something has changed since the rows were
/// verified; then nothing is done.
///
/// # Errors
/// Of the survey and of DDL; the lock's among them; [`Error::OutOfStep`] where other rows held a value before. The
/// caller's transaction has to abort: some of it may be done.
pub fn swap(migration: &Migration) -> Result<bool> {
    hurry();
    let LockedOut {
        table,
        members,
        views,
    } = lock_out(migration, true)?;
    if migration.fence.as_ref() != Some(&tree::fence(migration)?) || !tree::are_as_known(migration)?
    {
        return Ok(false);
    }
    if let Some(why) = tree::out_of_step(migration)? {
        return Err(Error::OutOfStep { why });
    }
    survey::check(migration)?;
    let leaves = reach::all_leaves(&[migration.table], Elsewhere::Refused)?;
    let is_counted = relation::blocks(&leaves)? <= COUNTED_BLOCKS;
    let values_before = values(&table, &migration.attribute, is_counted)?;
    let not_null = is_not_null(migration)?;
    let orders = orders_after(migration, &views)?;
    let (name, pair) = (&table.sql, migration.pair());
    let grants = grants(migration.table, Some(&migration.attribute), name)?;
    let mut statements = pair.drop_triggers(&branches(&members));
    statements.extend(pair.put_in_place(name, not_null, comment(migration)?.as_deref()));
    statements.extend(grants);
    {
        // The names change hands: what the registration is to be follows at once.
        let _names = renamed::Unheeded::begin();
        run_as(table.owner(), &statements)?;
    }
    register(migration)?;
    for ((oid, view), order) in views.iter().zip(&orders) {
        let columns = view::columns_shown(migration.table, order)?;
        run_as(
            table.owner(),
            &view::statements(migration.table, name, view, &columns),
        )?;
        if view::table_of(*oid)? != Some(migration.table) {
            return Err(Error::Column {
                message: format!(
                    "the context expression of {} reads another table",
                    pair.source()
                ),
                hint: "Give a context made of its own row's columns.".into(),
            });
        }
    }
    drop_foreign_keys(&table, &pair.old_name())?;
    drop_column(&members, &pair.old_name())?;
    let values_after = values(&table, &migration.attribute, is_counted)?;
    if values_after != values_before {
        return Err(Error::OutOfStep {
            why: format!(
                "{values_before} rows held a value before the swap, {values_after} after it"
            ),
        });
    }
    record_swap(migration, &members)?;
    Ok(true)
}

/// Of a table that is too large to be counted under a lock: whether as many rows hold a value in the column as in its
/// twin, in words if not, as its owner's queries see it. One look sees each row with both or without either, since the
/// trigger keeps them so; what it shows beside that are rows that the verification did not get at.
///
/// # Errors
/// Of the lock, and of SPI.
pub fn uneven(migration: &Migration) -> Result<Option<String>> {
    if relation::blocks(&reach::all_leaves(&[migration.table], Elsewhere::Refused)?)?
        <= COUNTED_BLOCKS
    {
        return Ok(None);
    }
    let table = Named::take(migration.table, Lock::Read)?;
    let sql = format!(
        "SELECT pg_catalog.count({}), pg_catalog.count({}) FROM {}",
        quote_identifier(&migration.attribute),
        migration.quoted_twin(),
        table.sql
    );
    let _path = safe_search_path();
    let _role = AsRole::unfiltered(table.owner());
    let (column, twin) = Spi::get_two::<i64, i64>(&sql).map_err(crate::error::of_spi)?;
    Ok((column != twin).then(|| {
        let (column, twin) = (column.unwrap_or_default(), twin.unwrap_or_default());
        let out = Error::OutOfStep { why: String::new() };
        format!(
            "{}: {column} rows hold a value, {twin} hold its twin",
            out.report().message
        )
    }))
}

/// How many rows of the table and of all below it hold a value, as its owner's queries see it; or else whether any
/// does.
fn values(table: &Named, attribute: &str, is_counted: bool) -> Result<i64> {
    let column = quote_identifier(attribute);
    let sql = if is_counted {
        format!("SELECT pg_catalog.count({column}) FROM {}", table.sql)
    } else {
        format!(
            "SELECT EXISTS (SELECT FROM {} WHERE {column} IS NOT NULL)::pg_catalog.int4::pg_catalog.int8",
            table.sql
        )
    };
    let _path = safe_search_path();
    let _role = AsRole::unfiltered(table.owner());
    let found = Spi::get_one::<i64>(&sql).map_err(crate::error::of_spi)?;
    Ok(found.unwrap_or_default())
}

/// The views' columns by number and name, with the twin where the column was.
fn orders_after(
    migration: &Migration,
    views: &[(pg_sys::Oid, String)],
) -> Result<Vec<Vec<(i16, String)>>> {
    let number = |name: &str| -> Result<i16> {
        let found = spi::query(
            "SELECT attnum FROM pg_attribute WHERE attrelid = $1 AND attname = $2::text::name AND NOT attisdropped",
            &[migration.table.into(), name.into()],
            |row| row.get::<i16>(1),
        )?;
        Ok(found.into_iter().flatten().next().unwrap_or_default())
    };
    let (old, new) = (number(&migration.attribute)?, number(&migration.twin)?);
    views
        .iter()
        .map(|(view, _)| {
            let shown = view::shown_by(&Named::take(*view, Lock::Read)?)?;
            let (numbers, names): (Vec<i16>, Vec<String>) = shown.into_iter().unzip();
            let numbers = with_twin(&numbers, old, new).into_iter();
            Ok(numbers.zip(names).collect())
        })
        .collect()
}

fn comment(migration: &Migration) -> Result<Option<String>> {
    let found = spi::query(
        "SELECT col_description(attrelid, attnum) FROM pg_attribute \
         WHERE attrelid = $1 AND attname = $2::text::name AND NOT attisdropped",
        &[migration.table.into(), migration.attribute.clone().into()],
        |row| row.get::<String>(1),
    )?;
    Ok(found.into_iter().flatten().next())
}

/// Puts the column into, or out of, the care of rotation.
fn register(migration: &Migration) -> Result<()> {
    let job = migration.job.into();
    if migration.kind == Kind::Encrypt {
        place::free_label(
            migration.label.as_ref(),
            migration.table,
            &migration.attribute,
        )?;
    }
    match migration.kind {
        Kind::Encrypt => spi::execute(
            "INSERT INTO colcrypt.protected_column (relation, attribute, key_id, context, readers, plaintext_type, declared, label) \
             SELECT relation, attribute, key_id, context, readers, plaintext_type, declared, label \
             FROM colcrypt.migration WHERE job_id = $1",
            &[job],
        )?,
        Kind::Decrypt => spi::execute(
            "DELETE FROM colcrypt.protected_column p USING colcrypt.migration m \
             WHERE m.job_id = $1 AND p.relation = m.relation AND p.attribute = m.attribute",
            &[job],
        )?,
    };
    enforced::settle(migration.table)
}

fn record_swap(migration: &Migration, members: &[(Member, Named)]) -> Result<()> {
    let job = || migration.job.into();
    spi::execute(
        "UPDATE colcrypt.migration SET swapped_in = pg_current_xact_id(), swapped_at = clock_timestamp(), \
                swapped_lsn = pg_current_wal_insert_lsn(), swapped_with = $2::oid[]::regclass[] WHERE job_id = $1",
        &[job(), leaves(members).into()],
    )?;
    // Rows that were filled before a rotation are under the older version: from here on that is its affair.
    spi::execute(
        "INSERT INTO colcrypt.job (relation, attribute, key_id, target_version) \
         SELECT m.relation, m.attribute, m.key_id, k.current_version \
         FROM colcrypt.migration m JOIN colcrypt.job j USING (job_id) JOIN colcrypt.key k ON k.key_id = m.key_id \
         WHERE m.job_id = $1 AND m.kind = 'encrypt' AND k.current_version > j.target_version",
        &[job()],
    )?;
    Act::new(migration.kind.function())
        .key(&migration.key()?)
        .relation(migration.table)
        .detail(format!(
            "job {}: {}, swapped: the old column is dropped",
            migration.job, migration.attribute
        ))
        .record()
}

/// Takes back what `prepare` did.
///
/// # Errors
/// Of DDL; the lock's among them.
pub fn undo(migration: &Migration) -> Result<()> {
    hurry();
    let LockedOut {
        table,
        members,
        views,
    } = lock_out_whatever_the_type(migration, true)?;
    let triggers = migration.pair().drop_triggers(&branches(&members));
    run_as(table.owner(), &triggers)?;
    drop_column(&members, &migration.twin)?;
    let Some((view, renamed)) = &migration.names else {
        return Ok(());
    };
    let view_name = table.beside(view);
    if table.held.bare_name() != renamed {
        // Not by us, or not any more.
        return Ok(());
    }
    let names = views.iter().map(|(_, name)| name.as_str());
    let ours = statements::drop_views(names, &view_name);
    run_as(table.owner(), &ours)?;
    run_as(table.owner(), &[statements::rename_table(&table.sql, view)])
}

/// Whether column and table of a migration are still there and of the types that it began with, in words if not.
///
/// # Errors
/// Of the lock.
pub fn missing(migration: &Migration) -> Result<Option<String>> {
    let gone = || Some("the column or its table was dropped".into());
    let table = match Held::take(migration.table, Lock::Read) {
        Ok(table) => table,
        Err(Error::UnknownObject { .. }) => return Ok(gone()),
        Err(error) => return Err(error),
    };
    if table.attribute(&migration.attribute).is_none() {
        return Ok(gone());
    }
    Ok(None)
}

/// Whether a column was given another type since, in words. After the swap the column is the twin.
///
/// # Errors
/// Of the lock.
pub fn retyped(migration: &Migration) -> Result<Option<String>> {
    let table = Held::take(migration.table, Lock::Read)?;
    Ok(changed_type(migration, &table))
}
