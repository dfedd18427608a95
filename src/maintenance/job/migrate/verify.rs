//! Reading every row, decrypting, and comparing: what a swap rests on.

use pgrx::{Spi, pg_sys};

use super::super::{BATCH_TRIES, Job, Next, batch, finish, postpone, record};
use super::{from_the_start, one_by_one, through_blocks, touch};
use crate::catalog::write::{self, AsRole, safe_search_path};
use crate::error::{self, Error, Result};
use crate::maintenance::relation;
use crate::maintenance::txn::transaction;
use crate::migration::values::Values;
use crate::migration::{Migration, ddl, tree};
use crate::pg::Varlena;
use crate::sql_api::access_view::relation_name;

/// Passes of the verification that found rows out of step, after which it says so and takes its time.
const PASSES: i32 = 5;

/// Begins to read all rows, the first time or once more.
pub fn begin(job: &Job, migration: &Migration, passes: i32) -> Result<Next> {
    // A child that came meanwhile has no trigger yet; its rows are the next pass's.
    if ddl::mend(migration)? {
        record(job, &from_the_start("moving"), [])?;
        return Ok(Next::Again);
    }
    if let Some(why) = tree::out_of_step(migration)? {
        return Err(Error::OutOfStep { why });
    }
    let fence = tree::fence(migration)?;
    write::execute(
        "UPDATE colcrypt.migration SET fence = $2, strays = 0 WHERE job_id = $1",
        &[job.id.into(), fence.into()],
    )?;
    batch::forget_errors(job)?;
    record(
        job,
        &format!(
            "{}, rows_failed = 0, passes = $2",
            from_the_start("verifying")
        ),
        [(passes + 1).into()],
    )?;
    Ok(Next::Again)
}

pub fn verify(job: &Job, migration: &Migration) -> Next {
    let outcome = through_blocks(
        job,
        |place| {
            let strays = strays(migration, place)?;
            if !strays.is_empty() {
                write::execute(
                    "UPDATE colcrypt.migration SET strays = strays + $2 WHERE job_id = $1",
                    &[job.id.into(), (strays.len() as i64).into()],
                )?;
                touch(migration, place.leaf, &among(&strays))?;
            }
            Ok(0)
        },
        || end(job, migration),
    );
    match outcome {
        Ok(next) => next,
        Err(message) if error::last_raised_concerns_a_value() || job.tries >= BATCH_TRIES => {
            let found = transaction(|| -> Result<Option<String>> {
                match batch::place(job)? {
                    Some(place) => Ok(Some(among(&strays(migration, &place)?))),
                    None => Ok(None),
                }
            });
            match found {
                Ok(Ok(Some(which))) => one_by_one(job, migration, &which, &message),
                _ => postpone(job, &message),
            }
        }
        Err(message) => postpone(job, &message),
    }
}

fn among(rows: &[String]) -> String {
    let rows: Vec<String> = rows.iter().map(|row| format!("\"{row}\"")).collect();
    format!("ctid = ANY ('{{{}}}'::pg_catalog.tid[])", rows.join(","))
}

/// The rows of some blocks whose two columns do not hold the same.
fn strays(migration: &Migration, place: &batch::Place) -> Result<Vec<String>> {
    let table = relation::describe(place.leaf)?;
    let (plaintext, ciphertext) = migration.plaintext_and_ciphertext();
    let context = match &migration.context {
        Some(expression) => format!(
            "(SELECT ({expression})::pg_catalog.bytea FROM (SELECT {}) AS {})",
            tree::known_columns(migration.table, &[&migration.attribute, &migration.twin])?
                .into_iter()
                .map(|name| format!("t.{}", pgrx::spi::quote_identifier(name)))
                .collect::<Vec<_>>()
                .join(", "),
            pgrx::spi::quote_identifier(relation_name(migration.table))
        ),
        None => "NULL::pg_catalog.bytea".into(),
    };
    let rows = batch::in_blocks(place);
    let sql = format!(
        "SELECT t.ctid::pg_catalog.text, t.{plaintext}, t.{ciphertext}, {context} FROM ONLY {} AS t \
         WHERE {rows} AND (t.{plaintext} IS NOT NULL OR t.{ciphertext} IS NOT NULL)",
        table.name
    );
    let c_sql = std::ffi::CString::new(sql).map_err(|_| Error::Spi("a name holds NUL".into()))?;
    let _path = safe_search_path();
    let _role = AsRole::unfiltered(table.owner);
    Spi::connect(|_| {
        // SAFETY: connected; the rows are looked at before the connection ends. The statement gives a text, a value of
        // the plaintext column's type, a ciphertext and a bytea.
        unsafe {
            let code = pg_sys::SPI_execute(c_sql.as_ptr(), true, 0);
            if code != pg_sys::SPI_OK_SELECT as i32 {
                return Err(Error::Spi(format!("SPI_execute gave {code}")));
            }
            let found = pg_sys::SPI_tuptable;
            let descriptor = (*found).tupdesc;
            if pg_sys::SPI_gettypeid(descriptor, 2) != migration.plaintext_type {
                return Err(Error::OutOfStep {
                    why: "the column's type was changed".into(),
                });
            }
            let values = Values::new(
                migration,
                migration.plaintext_type,
                pg_sys::CurrentMemoryContext,
            )?;
            let mut strays = Vec::new();
            for at in 0..pg_sys::SPI_processed as usize {
                let tuple = *(*found).vals.add(at);
                let value = |column: i32| {
                    let mut is_null = false;
                    let datum = pg_sys::SPI_getbinval(tuple, descriptor, column, &mut is_null);
                    (!is_null).then_some(datum)
                };
                let context = value(4).map(|datum| Varlena::from_datum(datum));
                let context = match &context {
                    Some(context) => context.bytes(),
                    None if migration.context.is_some() => {
                        return Err(Error::NullArgument("context"));
                    }
                    None => &[],
                };
                let in_step = match (value(2), value(3)) {
                    (Some(plaintext), Some(ciphertext)) => {
                        values.agree(plaintext, ciphertext, context)?
                    }
                    (None, None) => true,
                    _ => false,
                };
                if !in_step {
                    let row = pg_sys::SPI_getvalue(tuple, descriptor, 1);
                    strays.push(std::ffi::CStr::from_ptr(row).to_string_lossy().into_owned());
                }
            }
            Ok(strays)
        }
    })
}

fn end(job: &Job, migration: &Migration) -> Result<Next> {
    if job.rows_failed > 0 {
        return finish(job, "failed", None);
    }
    let found = write::query(
        "SELECT m.strays, j.passes FROM colcrypt.migration m JOIN colcrypt.job j USING (job_id) WHERE job_id = $1",
        &[job.id.into()],
        |row| {
            Ok((
                row.get::<i64>(1)?.unwrap_or_default(),
                row.get::<i32>(2)?.unwrap_or_default(),
            ))
        },
    )?;
    let (strays, passes) = found.into_iter().next().unwrap_or_default();
    if strays == 0 {
        ddl::prove_not_null(migration)?;
        record(
            job,
            &format!("{}, last_error = NULL", from_the_start("swapping")),
            [],
        )?;
        return Ok(Next::Again);
    }
    begin(job, migration, passes)?;
    let problem = (passes >= PASSES).then(|| {
        let out = Error::OutOfStep { why: String::new() };
        format!("{}: {strays} in pass {passes}", out.report().message)
    });
    // Rows that were locked come soon; for others somebody has to do something.
    write::execute(
        "UPDATE colcrypt.job SET last_error = coalesce($2, last_error), \
             retry_at = clock_timestamp() + least(power(2, greatest(passes - $3, 0)), 300) * interval '200 milliseconds' \
         WHERE job_id = $1",
        &[job.id.into(), problem.into(), PASSES.into()],
    )?;
    Ok(Next::Again)
}
