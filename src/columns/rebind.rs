//! rebind_column: a column's values bound to another context, while the application runs.

use colcrypt_domain::binding::{self, Bound, Wanted};
use pgrx::{IntoDatum, pg_sys};

use crate::catalog::uuid::uuid;
use crate::columns::migration::refuse_second;
use crate::columns::registration::Under;
use crate::columns::{place, registered, registration, view};
use crate::error::{Error, Result};
use crate::jobs::wake;
use crate::server::call::Call;
use crate::server::relation::{Lock, Named};
use crate::server::spi;

/// Opens what is bound to the first context or to the other, and binds to the first.
fn either(first: &str, former: Option<&String>) -> String {
    let former = match former {
        Some(former) => format!("({former})::pg_catalog.bytea"),
        None => "''::pg_catalog.bytea".into(),
    };
    format!("colcrypt.either_context(({first})::pg_catalog.bytea, {former})")
}

pub fn rebind_column(call: Call) -> Result<pg_sys::Datum> {
    let (table, attribute) = registered::target(call)?;
    // SAFETY: declared as text and boolean.
    let (context, label, fire_triggers, accepts) = unsafe {
        (
            call.long::<String>(2, "context")?,
            call.long::<String>(3, "label")?,
            call.get::<bool>(4).unwrap_or_default(),
            call.get::<bool>(5).unwrap_or_default(),
        )
    };
    let asked = Wanted::of(context, label)?;
    if matches!(asked, Wanted::Nothing) {
        return Err(Error::InvalidParameter {
            message: "values are not rebound to nothing".into(),
            hint: "Leave the context out: then they are bound to their place.".into(),
        });
    }
    let under = registration::managed(table, &attribute)?;
    // What somebody put here from another table is bound to this place afterwards.
    if let Under::Rows(_) = &under {
        under.refuse_way_out()?;
    }
    for former in registration::keys_of_values(table, &attribute)? {
        registration::refuse_way_out(&former)?;
    }
    refuse_second(table)?;
    refuse_open_job(table, &attribute)?;
    let Some((now, under_way)) = registration::registered(table, &attribute)? else {
        return Err(registration::not_registered(table, &attribute)?);
    };
    let wanted = place::choose(table, &attribute, asked)?;
    let becomes = wanted.context.clone().unwrap_or_default();
    if under_way.as_ref().is_some_and(|other| *other != becomes) {
        place::refuse_half_bound(table, &attribute)?;
    }
    let place = place::place_bound(now.context.as_deref());
    let unplaced = place::unplaced(table, &attribute, place.as_ref())?;
    let accepted = binding::accepted(unplaced, accepts, &attribute)?;
    let held = Named::take(table, Lock::Read)?;
    if under_way.is_none() && now.context.as_ref() != Some(&becomes) {
        registered::check_context(&held, &becomes)?;
        register(table, &attribute, &now, &wanted, &becomes)?;
        view::make_anew(&held)?;
    }
    let label = place.map(|place| place.label);
    let job = queue(table, &attribute, &under, fire_triggers, label, accepts)?;
    wake::wake_at_commit();
    under
        .act("rebind_column")
        .relation(table)
        .detail(format!("job {job}: {attribute}, to {becomes}{accepted}"))
        .record()?;
    Ok(job.into_datum().expect("a number has a datum"))
}

fn refuse_open_job(table: pg_sys::Oid, attribute: &str) -> Result<()> {
    let open = spi::query(
        "SELECT job_id, phase FROM colcrypt.job \
         WHERE relation = $1::oid::regclass AND attribute = $2::text::name AND finished_at IS NULL AND NOT verifies",
        &[table.into(), attribute.into()],
        |row| {
            Ok((
                row.get::<i64>(1)?.unwrap_or_default(),
                row.get::<String>(2)?.unwrap_or_default(),
            ))
        },
    )?;
    match open.into_iter().next() {
        None => Ok(()),
        Some((job, phase)) => Err(Error::JobState {
            job,
            phase,
            hint: "One after the other: wait for it, or end it with colcrypt.cancel_job.".into(),
        }),
    }
}

fn register(
    table: pg_sys::Oid,
    attribute: &str,
    now: &Bound,
    wanted: &Bound,
    becomes: &str,
) -> Result<()> {
    place::free_label(wanted.label.as_ref(), table, attribute)?;
    spi::execute(
        "UPDATE colcrypt.protected_column SET context = $3, label = $4, becomes = $5 \
         WHERE relation = $1::oid::regclass AND attribute = $2::text::name",
        &[
            table.into(),
            attribute.into(),
            either(becomes, now.context.as_ref()).into(),
            wanted.label.clone().into(),
            becomes.into(),
        ],
    )?;
    Ok(())
}

fn queue(
    table: pg_sys::Oid,
    attribute: &str,
    under: &Under,
    fire_triggers: bool,
    label: Option<String>,
    accepts: bool,
) -> Result<i64> {
    let jobs = spi::query(
        "INSERT INTO colcrypt.job (relation, attribute, key_id, target_version, fire_triggers, rebinds, label, accept_unplaced, keyring_id, by_row) \
         VALUES ($1::oid::regclass, $2::text::name, $3, coalesce($4, 0), $5, true, $6, $7, $8, $8 IS NOT NULL) RETURNING job_id",
        &[
            table.into(),
            attribute.into(),
            under.key().map(|key| key.id.bigint()).into(),
            under.key().map(|key| key.current.int()).into(),
            fire_triggers.into(),
            label.into(),
            accepts.into(),
            under.keyring().map(|keyring| uuid(keyring.id)).into(),
        ],
        |row| row.get::<i64>(1),
    )?;
    jobs.into_iter()
        .flatten()
        .next()
        .ok_or_else(|| Error::CatalogCorrupt("a job was not queued".into()))
}
