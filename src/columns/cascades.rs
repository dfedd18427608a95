//! Foreign keys that change by themselves what values are bound to.

use colcrypt_domain::quote::quote_identifier;
use pgrx::pg_sys;

use crate::error::Result;
use crate::server::relation::{self, Lock, Named};
use crate::server::{reads, report, spi};

/// One of them, and the columns that it changes.
pub struct Cascade {
    constraint: pg_sys::Oid,
    pub name: String,
    pub columns: String,
}

/// The foreign keys of a table that change by themselves what an expression reads, and leave values that are bound to
/// it as they are.
///
/// # Errors
/// Of SPI.
pub fn of(table: &Named, expression: &str) -> Result<Vec<Cascade>> {
    let numbers = reads::columns(table, expression)?.unwrap_or_default();
    spi::query(
        "SELECT c.oid, quote_ident(c.conname), string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) \
         FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey) \
         WHERE c.conrelid = $1 AND c.contype = 'f' AND (c.confupdtype IN ('c', 'n', 'd') OR c.confdeltype IN ('n', 'd')) \
           AND (a.attnum = ANY ($2) OR 0 = ANY ($2)) GROUP BY c.oid, c.conname ORDER BY c.conname",
        &[table.held.oid.into(), numbers.into()],
        |row| {
            Ok(Cascade {
                constraint: spi::at(row, 1)?,
                name: row.get::<String>(2)?.unwrap_or_default(),
                columns: row.get::<String>(3)?.unwrap_or_default(),
            })
        },
    )
}

/// Says them of a column that is registered with this context.
///
/// # Errors
/// Of SPI.
pub fn warn(table: &Named, attribute: &str, context: &str) -> Result<()> {
    for cascade in of(table, context)? {
        say(&cascade, attribute);
    }
    Ok(())
}

fn say(cascade: &Cascade, attribute: &str) {
    report::warning(
        format!(
            "foreign key {} changes {} by itself, which values of column {} are bound to",
            cascade.name,
            cascade.columns,
            quote_identifier(attribute)
        ),
        "Such a change is refused where a value is bound to it. Bind values to columns that stay, or have values bound anew: colcrypt.follow_context.",
    );
}

/// A constraint was made: says it where it is such a foreign key of a registered column, as registering does. A
/// partition's column is registered with its root.
///
/// # Errors
/// Of SPI.
pub fn made(constraint: pg_sys::Oid) -> Result<()> {
    let registered = spi::query(
        "SELECT c.conrelid::oid, p.attribute::text, p.context \
         FROM pg_constraint c, LATERAL (SELECT c.conrelid UNION SELECT a.relid::oid FROM pg_partition_ancestors(c.conrelid) a) t (of) \
         JOIN colcrypt.protected_column p ON p.relation = t.of \
         WHERE c.oid = $1 AND c.contype = 'f' AND c.conparentid = 0 AND p.context IS NOT NULL AND NOT p.enforce AND NOT p.follows \
         ORDER BY 2",
        &[constraint.into()],
        |row| {
            Ok((
                spi::at::<pg_sys::Oid>(row, 1)?,
                spi::at::<String>(row, 2)?,
                spi::at::<String>(row, 3)?,
            ))
        },
    )?;
    for (table, attribute, context) in registered {
        if !relation::holds_ciphertext(table, &attribute) {
            continue;
        }
        let held = Named::take(table, Lock::Read)?;
        let found = of(&held, &context)?;
        let it = found.iter().find(|found| found.constraint == constraint);
        if let Some(cascade) = it {
            say(cascade, &attribute);
        }
    }
    Ok(())
}
