//! What is known of an escrow's shares: who holds them, what their holders have shown, and the rehearsals. Nothing here
//! opens anything; what is recorded was signed with the shares themselves.

use colcrypt_core::KeyringId;
use colcrypt_core::escrow::Recipient;
use colcrypt_escrow::drill::Report;
use colcrypt_escrow::record::{Holder, Record};
use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::pg_sys;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::audit::Act;
use crate::catalog::read;
use crate::error::{Error, Result};
use crate::keys::approval::{self, Gated, Target};
use crate::keys::{providers, roots};
use crate::server::call::Call;
use crate::server::varlena::varlena_from;
use crate::server::{clock, spi};

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
    roots::refuse_retired(id, name)?;
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

/// The keyrings that are sealed to an escrow, as [`Gated`] has them.
fn targets(keyrings: &[KeyringId]) -> Result<Vec<Target>> {
    let keyrings = keyrings.iter().map(|id| read::keyring_by_id(*id));
    keyrings.map(|found| found.map(Target::keyring)).collect()
}

fn first_of(keyrings: &[KeyringId]) -> Result<Target> {
    let first = targets(keyrings)?.into_iter().next();
    first.ok_or_else(|| Error::CatalogCorrupt("a request without a keyring".into()))
}

/// A record and what is to be due, in the place of a former sharing's. Nothing falls due later for the record alone: a
/// holder whose share is the same keeps what he has shown, and for another share there is as much time as for the most
/// pressing one that it takes the place of.
#[derive(Serialize, Deserialize)]
pub struct RegisterEscrow {
    escrow: String,
    record: String,
    check_interval: String,
    drill_interval: String,
    keyrings: Vec<KeyringId>,
}

impl RegisterEscrow {
    fn parsed(&self) -> Result<(pgrx::Uuid, Record)> {
        let (id, recipient) = escrow(&self.escrow)?;
        roots::refuse_retired(id, &self.escrow)?;
        let record = Record::parse(&self.record).map_err(|why| refused(&why))?;
        if record.recipient.parse::<Recipient>() != recipient.parse() {
            return Err(refused(&format!(
                "the record is of another escrow than \"{}\": it has the public key {}",
                self.escrow, record.recipient
            )));
        }
        Ok((id, record))
    }

    /// Whether it takes the place of other holders, or has something due more rarely.
    fn loosens(&self, id: pgrx::Uuid) -> Result<bool> {
        let found = spi::query(
            "SELECT record <> $2 OR check_interval < $3::interval OR drill_interval < $4::interval FROM colcrypt.escrow WHERE provider_id = $1",
            &[
                id.into(),
                self.record.clone().into(),
                self.check_interval.clone().into(),
                self.drill_interval.clone().into(),
            ],
            |row| row.get::<bool>(1),
        )?;
        Ok(found.into_iter().flatten().next() == Some(true))
    }
}

impl Gated for RegisterEscrow {
    fn function(&self) -> &'static str {
        "register_escrow"
    }

    /// Asked for only where a keyring is sealed to it.
    fn target(&self) -> Result<Target> {
        first_of(&self.keyrings)
    }

    fn others(&self) -> Result<Vec<Target>> {
        Ok(targets(&self.keyrings)?.into_iter().skip(1).collect())
    }

    fn check(&self) -> Result<Value> {
        self.parsed()?;
        Ok(json!(self))
    }

    fn perform(&self) -> Result<String> {
        let (id, record) = self.parsed()?;
        let former = spi::query(
            "SELECT record FROM colcrypt.escrow WHERE provider_id = $1",
            &[id.into()],
            |row| row.get::<String>(1),
        )?;
        let former = former
            .into_iter()
            .flatten()
            .next()
            .and_then(|text| Record::parse(&text).ok());
        spi::execute(
            "INSERT INTO colcrypt.escrow (provider_id, record, check_interval, drill_interval) VALUES ($1, $2, $3::interval, $4::interval) \
             ON CONFLICT (provider_id) DO UPDATE SET record = excluded.record, check_interval = excluded.check_interval, \
                drill_interval = excluded.drill_interval, registered_by = session_user",
            &[
                id.into(),
                self.record.clone().into(),
                self.check_interval.clone().into(),
                self.drill_interval.clone().into(),
            ],
        )?;
        let kept = take_places(id, &record, former.as_ref())?;
        Act::new(self.function())
            .detail(format!(
                "{}: {} holders, {kept} of them as before; checks every {}, drills every {}",
                self.escrow,
                record.holders().count(),
                self.check_interval,
                self.drill_interval
            ))
            .record()?;
        Ok("registered".into())
    }
}

/// A share of another splitting is another share, whoever holds it: what was shown of the old one is no more. Returns
/// how many are the same.
fn take_places(id: pgrx::Uuid, record: &Record, former: Option<&Record>) -> Result<usize> {
    let is_kept = |holder: &Holder| {
        let mut before = former.into_iter().flat_map(Record::holders);
        before.any(|(_, other)| other == holder)
    };
    let kept: Vec<String> = record
        .holders()
        .filter(|(_, holder)| is_kept(holder))
        .map(|(_, holder)| holder.name.clone())
        .collect();
    let pressing = spi::query(
        "WITH gone AS (DELETE FROM colcrypt.custodian WHERE provider_id = $1 AND holder <> ALL ($2) RETURNING coalesce(checked_at, since) AS at) \
         SELECT least(now(), min(at)) FROM gone",
        &[id.into(), kept.clone().into()],
        |row| row.get::<TimestampWithTimeZone>(1),
    )?;
    let since = pressing.into_iter().flatten().next();
    for circle in &record.groups {
        for holder in circle.holders.iter().filter(|holder| !is_kept(holder)) {
            spi::execute(
                "INSERT INTO colcrypt.custodian (provider_id, holder, circle, since) VALUES ($1, $2, $3, $4)",
                &[
                    id.into(),
                    holder.name.clone().into(),
                    circle.name.clone().into(),
                    since.into(),
                ],
            )?;
        }
    }
    Ok(kept.len())
}

/// # Errors
/// [`Error::InvalidParameter`] for what is no record, or another escrow's, and for an escrow that was retired.
pub fn register_escrow(call: Call) -> Result<pg_sys::Datum> {
    let name = call.text(0, "escrow")?;
    let text = call.text(1, "record")?;
    let (id, _) = escrow(&name)?;
    // SAFETY: declared as interval, and strict.
    let intervals = unsafe { [call.get::<Interval>(2), call.get::<Interval>(3)] };
    let [check, drill] = intervals.map(|given| given.map(clock::interval_text));
    let act = RegisterEscrow {
        escrow: name,
        record: text,
        check_interval: check.ok_or(Error::NullArgument("check_interval"))?,
        drill_interval: drill.ok_or(Error::NullArgument("drill_interval"))?,
        keyrings: sealed_to(id)?,
    };
    let may_wait = !act.keyrings.is_empty() && act.loosens(id)?;
    let answer = approval::gate_where(may_wait, &act)?;
    varlena_from(answer.as_bytes())
}

fn sealed_to(id: pgrx::Uuid) -> Result<Vec<KeyringId>> {
    let keyrings = read::keyrings_at(id)?;
    Ok(keyrings.iter().map(|keyring| keyring.id).collect())
}

/// An escrow that is used no more, and the keyrings that are sealed to it.
#[derive(Serialize, Deserialize)]
pub struct RetireEscrow {
    escrow: String,
    keyrings: Vec<KeyringId>,
    reason: Option<String>,
}

impl Gated for RetireEscrow {
    fn function(&self) -> &'static str {
        "retire_escrow"
    }

    /// Asked for only where a keyring is sealed to it.
    fn target(&self) -> Result<Target> {
        first_of(&self.keyrings)
    }

    fn others(&self) -> Result<Vec<Target>> {
        Ok(targets(&self.keyrings)?.into_iter().skip(1).collect())
    }

    fn check(&self) -> Result<Value> {
        registered(&self.escrow)?;
        for target in targets(&self.keyrings)? {
            target.require_manage()?;
        }
        Ok(json!(self))
    }

    fn perform(&self) -> Result<String> {
        self.check()?;
        let (id, _) = registered(&self.escrow)?;
        for keyring in read::keyrings_at(id)? {
            if !self.keyrings.contains(&keyring.id) {
                return Err(refused(&format!(
                    "keyring \"{}\" came under escrow \"{}\" since that was asked for",
                    keyring.name, self.escrow
                )));
            }
            roots::drop_escrow(keyring.id, &self.escrow)?;
        }
        spi::execute(
            "UPDATE colcrypt.escrow SET retired_at = now(), retired_by = session_user WHERE provider_id = $1",
            &[id.into()],
        )?;
        let reason = self.reason.as_deref().unwrap_or("no reason given");
        Act::new("retire_escrow")
            .detail(format!(
                "{}: {} keyrings: {reason}",
                self.escrow,
                self.keyrings.len()
            ))
            .record()?;
        Ok("retired".into())
    }
}

/// # Errors
/// As `drop_root` for each keyring that is sealed to it; for an escrow whose record is not here.
pub fn retire_escrow(call: Call) -> Result<pg_sys::Datum> {
    let name = call.text(0, "escrow")?;
    // SAFETY: declared as text.
    let reason = unsafe { call.long::<String>(1, "reason")? };
    let (id, _) = registered(&name)?;
    let act = RetireEscrow {
        escrow: name,
        keyrings: sealed_to(id)?,
        reason,
    };
    let answer = approval::gate_where(!act.keyrings.is_empty(), &act)?;
    varlena_from(answer.as_bytes())
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
            "{name}: {outcome}: {}; {} key versions, {} canary values; {}",
            drill.holders.join(", "),
            drill.key_versions,
            drill.canaries,
            drill.problems.join("; ")
        ))
        .record()?;
    varlena_from(outcome.as_bytes())
}
