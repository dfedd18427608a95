//! What is known of an escrow's shares: who holds them, what their holders have shown, and the rehearsals. Nothing here
//! opens anything; what is recorded was signed with the shares themselves.

use colcrypt_core::escrow::Recipient;
use colcrypt_escrow::drill::Report;
use colcrypt_escrow::record::Record;
use pgrx::datum::Interval;
use pgrx::pg_sys;

use crate::audit::Act;
use crate::catalog::read;
use crate::error::{Error, Result};
use crate::keys::providers;
use crate::server::call::Call;
use crate::server::spi;
use crate::server::varlena::varlena_from;

/// How far the clock of a computer without a network may be ahead, in seconds.
const AHEAD: i64 = 24 * 3600;

fn refused(why: &impl std::fmt::Display) -> Error {
    Error::InvalidParameter {
        message: why.to_string(),
        hint: "See docs/escrow.md: colcrypt escrow create writes the record, check prints receipts, drill reports.".into(),
    }
}

/// The provider of an escrow, locked, and its public key.
fn escrow(name: &str) -> Result<(pgrx::Uuid, String)> {
    providers::lock(name, "FOR UPDATE")?;
    let (id, provider) = read::provider_by_name(name)?;
    let recipient = provider
        .config
        .get("recipient")
        .and_then(|key| key.as_str());
    match recipient {
        Some(recipient) if provider.is_escrow() => Ok((id, recipient.to_owned())),
        _ => Err(refused(&format!("provider \"{name}\" is no escrow"))),
    }
}

/// The record of an escrow whose record is here.
fn registered(name: &str) -> Result<(pgrx::Uuid, Record)> {
    let (id, _) = escrow(name)?;
    let found = spi::query(
        "SELECT record FROM colcrypt.escrow WHERE provider_id = $1",
        &[id.into()],
        |row| row.get::<String>(1),
    )?;
    let text = found.into_iter().flatten().next().ok_or_else(|| {
        refused(&format!(
            "the record of escrow \"{name}\" is not here: register_escrow"
        ))
    })?;
    let record = Record::parse(&text).map_err(|why| Error::CatalogCorrupt(why.to_string()))?;
    Ok((id, record))
}

fn refuse_later(at: u64) -> Result<i64> {
    let at = i64::try_from(at).unwrap_or(i64::MAX);
    let found = spi::query(
        "SELECT extract(epoch FROM clock_timestamp())::bigint",
        &[],
        |row| row.get::<i64>(1),
    )?;
    let now = found.into_iter().flatten().next().unwrap_or_default();
    if at > now.saturating_add(AHEAD) {
        return Err(refused(&"its time is in the future"));
    }
    Ok(at)
}

/// Keeps a record, and its holders in the place of a former sharing's.
///
/// # Errors
/// [`Error::InvalidParameter`] for what is no record, or another escrow's.
pub fn register_escrow(call: Call) -> Result<pg_sys::Datum> {
    let name = call.text(0, "escrow")?;
    let text = call.text(1, "record")?;
    let (id, recipient) = escrow(&name)?;
    let record = Record::parse(&text).map_err(|why| refused(&why))?;
    if record.recipient.parse::<Recipient>() != recipient.parse() {
        return Err(refused(&format!(
            "the record is of another escrow than \"{name}\": it has the public key {}",
            record.recipient
        )));
    }
    // SAFETY: declared as interval, and strict.
    let intervals = unsafe { (call.get::<Interval>(2), call.get::<Interval>(3)) };
    spi::execute(
        "INSERT INTO colcrypt.escrow (provider_id, record, check_interval, drill_interval) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (provider_id) DO UPDATE SET record = excluded.record, check_interval = excluded.check_interval, \
            drill_interval = excluded.drill_interval, registered_at = now(), registered_by = session_user",
        &[
            id.into(),
            text.clone().into(),
            intervals.0.into(),
            intervals.1.into(),
        ],
    )?;
    // A share of another splitting is another share, whoever holds it: what was shown of the old one is no more.
    spi::execute(
        "DELETE FROM colcrypt.custodian WHERE provider_id = $1",
        &[id.into()],
    )?;
    for circle in &record.groups {
        for holder in &circle.holders {
            spi::execute(
                "INSERT INTO colcrypt.custodian (provider_id, holder, circle) VALUES ($1, $2, $3)",
                &[
                    id.into(),
                    holder.name.clone().into(),
                    circle.name.clone().into(),
                ],
            )?;
        }
    }
    Act::new("register_escrow")
        .detail(format!("{name}: {} holders", record.holders().count()))
        .record()?;
    varlena_from(b"registered")
}

/// # Errors
/// [`Error::UnknownObject`] for somebody who holds no share.
pub fn set_custodian(call: Call) -> Result<pg_sys::Datum> {
    let name = call.text(0, "escrow")?;
    let holder = call.text(1, "holder")?;
    let location = call.text(2, "location")?;
    let (id, _) = registered(&name)?;
    let changed = spi::execute(
        "UPDATE colcrypt.custodian SET location = $3 WHERE provider_id = $1 AND holder = $2",
        &[id.into(), holder.clone().into(), location.clone().into()],
    )?;
    if changed == 0 {
        return Err(unknown(&name, &holder));
    }
    Act::new("set_custodian")
        .detail(format!("{name}: {holder}: {location}"))
        .record()?;
    varlena_from(b"set")
}

fn unknown(escrow: &str, holder: &str) -> Error {
    Error::UnknownObject {
        what: "holder of a share",
        name: format!("{escrow}: {holder}"),
    }
}

/// # Errors
/// [`Error::InvalidParameter`] for a receipt that the holder's share has not signed, or one that is not newer.
pub fn record_escrow_check(call: Call) -> Result<pg_sys::Datum> {
    let name = call.text(0, "escrow")?;
    let holder = call.text(1, "holder")?;
    let (id, record) = registered(&name)?;
    let receipt = record
        .verify(&call.text(2, "receipt")?)
        .map_err(|why| refused(&why))?;
    let of = record.holder(receipt.place).map(|holder| &holder.name);
    if of != Some(&holder) {
        if !record.holders().any(|(_, known)| known.name == holder) {
            return Err(unknown(&name, &holder));
        }
        return Err(refused(&format!(
            "the receipt is {}'s and not {holder}'s",
            of.map_or("", |name| name)
        )));
    }
    let at = refuse_later(receipt.at)?;
    let checked = spi::query(
        "UPDATE colcrypt.custodian SET checked_at = to_timestamp($3) \
         WHERE provider_id = $1 AND holder = $2 AND (checked_at IS NULL OR checked_at < to_timestamp($3)) RETURNING checked_at",
        &[id.into(), holder.clone().into(), at.into()],
        |row| row.get::<pgrx::datum::TimestampWithTimeZone>(1),
    )?;
    let checked = checked
        .into_iter()
        .flatten()
        .next()
        .ok_or_else(|| refused(&"this receipt, or a later one, is recorded already"))?;
    Act::new("record_escrow_check")
        .detail(format!("{name}: {holder}'s share is whole"))
        .record()?;
    Ok(pg_sys::Datum::from(i64::from(checked)))
}

/// # Errors
/// [`Error::InvalidParameter`] for a report that too few shares have signed, or one that is here already.
pub fn record_drill(call: Call) -> Result<pg_sys::Datum> {
    let name = call.text(0, "escrow")?;
    let text = call.text(1, "report")?;
    let (id, record) = registered(&name)?;
    let drill = Report::believed(&record, &text).map_err(|why| refused(&why))?;
    let at = refuse_later(drill.at)?;
    let succeeded = drill.problems.is_empty();
    let added = spi::execute(
        "INSERT INTO colcrypt.escrow_drill (provider_id, drilled_at, succeeded, report) VALUES ($1, to_timestamp($2), $3, $4) \
         ON CONFLICT DO NOTHING",
        &[id.into(), at.into(), succeeded.into(), text.into()],
    )?;
    if added == 0 {
        return Err(refused(&"a drill of this time is recorded already"));
    }
    let outcome = if succeeded { "succeeded" } else { "failed" };
    Act::new("record_drill")
        .detail(format!(
            "{name}: {outcome}: {}; {} key versions; {}",
            drill.holders.join(", "),
            drill.key_versions,
            drill.problems.join("; ")
        ))
        .record()?;
    varlena_from(outcome.as_bytes())
}
