//! What an administrator asks of a key: cryptoperiods, how often it is rotated, how much it may encrypt, whether it
//! compresses.

use colcrypt_core::KeyId;
use colcrypt_core::suite::Purpose;
use colcrypt_domain::policy;
use pgrx::datum::{DatumWithOid, Interval};
use pgrx::pg_sys;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::audit::Act;
use crate::catalog::read::{self, Key};
use crate::error::{Error, Privilege, Result};
use crate::jobs::wake;
use crate::keys::approval::{self, Gated, Target};
use crate::keys::tries::Tried;
use crate::keys::version;
use crate::rights;
use crate::server::call::Call;
use crate::server::spi;
use crate::server::varlena::varlena_from;

fn key(call: Call) -> Result<Key> {
    let key = read::key_by_name(&call.text(0, "key")?)?;
    rights::require(&key, Privilege::Manage)?;
    Ok(key)
}

/// The same, its row locked: what holds is compared with what is asked for.
fn locked(call: Call) -> Result<Key> {
    version::lock(&call.text(0, "key")?)
}

/// Changes the key's row, records the act, and has the worker look at the schedule.
fn change<const N: usize>(
    key: &Key,
    event: &'static str,
    assignments: &str,
    values: [DatumWithOid; N],
    detail: String,
) -> Result<()> {
    let mut arguments: Vec<DatumWithOid> = vec![key.id.bigint().into()];
    arguments.extend(values);
    spi::execute(
        &format!("UPDATE colcrypt.key SET {assignments} WHERE key_id = $1"),
        &arguments,
    )?;
    // What hindered the last rotation may be what was changed.
    Tried::Rotation(key.id).forget()?;
    Act::new(event).key(key).detail(detail).record()?;
    wake::wake_at_commit();
    Ok(())
}

fn interval(call: Call, index: usize) -> Option<Interval> {
    // SAFETY: declared as interval.
    unsafe { call.get::<Interval>(index) }
}

fn refuse_negative(what: &str, interval: Option<Interval>, zero_allowed: bool) -> Result<()> {
    let Some(interval) = interval else {
        return Ok(());
    };
    let (start, end) = (0, crate::server::clock::add_interval(0, interval));
    if end > start || (zero_allowed && end == start) {
        return Ok(());
    }
    Err(Error::InvalidParameter {
        message: format!("the {what} must be positive, not {}", shown(Some(interval))),
        hint: "Pass null for one without end.".into(),
    })
}

fn shown(interval: Option<Interval>) -> String {
    let Some(interval) = interval else {
        return "none".into();
    };
    crate::server::clock::interval_text(interval)
}

/// What may wait on a four-eyes keyring: it makes a key usable for longer, for more, or in a way that tells more. The
/// opposite never waits.
#[derive(Serialize, Deserialize)]
pub struct SetPolicy {
    key: String,
    key_id: KeyId,
    #[serde(flatten)]
    policy: Policy,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Policy {
    Cryptoperiods {
        originator: Option<String>,
        recipient: Option<String>,
    },
    UsageBound {
        bound: Option<i64>,
    },
    Compression {
        method: Option<String>,
    },
    SearchLimit {
        look_ups: Option<i32>,
        per: Option<String>,
    },
}

impl Gated for SetPolicy {
    fn function(&self) -> &'static str {
        match self.policy {
            Policy::Cryptoperiods { .. } => "set_cryptoperiods",
            Policy::UsageBound { .. } => "set_usage_bound",
            Policy::Compression { .. } => "set_compression",
            Policy::SearchLimit { .. } => "set_search_limit",
        }
    }

    fn target(&self) -> Result<Target> {
        Target::key(read::key_by_id(self.key_id)?)
    }

    fn check(&self) -> Result<Value> {
        self.target()?.require_manage()?;
        Ok(json!(self))
    }

    fn perform(&self) -> Result<String> {
        self.check()?;
        let key = version::lock(&self.key)?;
        let shown = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".into());
        match &self.policy {
            Policy::Cryptoperiods {
                originator,
                recipient,
            } => change(
                &key,
                self.function(),
                "originator_usage_period = $2::interval, recipient_usage_period = $3::interval",
                [originator.clone().into(), recipient.clone().into()],
                format!(
                    "originator {}, recipient {}",
                    shown(originator),
                    shown(recipient)
                ),
            )?,
            Policy::UsageBound { bound } => change(
                &key,
                self.function(),
                "usage_bound = $2",
                [(*bound).into()],
                bound.map_or_else(|| "the suite's".into(), |bound| bound.to_string()),
            )?,
            Policy::Compression { method } => change(
                &key,
                self.function(),
                "compression = $2",
                [method.clone().into()],
                shown(method),
            )?,
            Policy::SearchLimit { look_ups, per } => change(
                &key,
                self.function(),
                "search_limit = $2, search_limit_per = $3::interval",
                [(*look_ups).into(), per.clone().into()],
                match (look_ups, per) {
                    (Some(look_ups), Some(per)) => {
                        format!("{look_ups} look-ups of a role in {per}")
                    }
                    _ => "none".into(),
                },
            )?,
        }
        Ok("set".into())
    }
}

/// Does it, or has it wait where it loosens what holds.
fn set(key: Key, policy: Policy, loosens: bool) -> Result<pg_sys::Datum> {
    let act = SetPolicy {
        key: key.name,
        key_id: key.id,
        policy,
    };
    varlena_from(approval::gate_where(loosens, &act)?.as_bytes())
}

/// The months, days and microseconds of an interval.
pub fn parts(interval: Interval) -> [i64; 3] {
    [
        interval.months().into(),
        interval.days().into(),
        interval.micros(),
    ]
}

pub fn set_cryptoperiods(call: Call) -> Result<pg_sys::Datum> {
    let key = locked(call)?;
    let (originator, recipient) = (interval(call, 1), interval(call, 2));
    refuse_negative("originator-usage period", originator, false)?;
    refuse_negative("recipient-usage period", recipient, true)?;
    let may_be_longer = |new: Option<Interval>, old: Option<Interval>| {
        policy::may_be_longer(new.map(parts), old.map(parts))
    };
    let loosens = may_be_longer(originator, key.originator_usage_period)
        || may_be_longer(recipient, key.recipient_usage_period);
    let policy = Policy::Cryptoperiods {
        originator: originator.map(crate::server::clock::interval_text),
        recipient: recipient.map(crate::server::clock::interval_text),
    };
    set(key, policy, loosens)
}

pub fn set_rotation_interval(call: Call) -> Result<pg_sys::Datum> {
    let key = key(call)?;
    let every = interval(call, 1);
    refuse_negative("rotation interval", every, false)?;
    change(
        &key,
        "set_rotation_interval",
        "rotation_interval = $2",
        [every.into()],
        shown(every),
    )?;
    Ok(call.null())
}

pub fn set_usage_bound(call: Call) -> Result<pg_sys::Datum> {
    let key = locked(call)?;
    // SAFETY: declared as bigint.
    let bound = unsafe { call.get::<i64>(1) };
    if let Some(bound) = bound {
        policy::refuse_bound(key.suite, bound)?;
    }
    let loosens = policy::may_encrypt_more(key.suite, bound, key.usage_bound);
    set(key, Policy::UsageBound { bound }, loosens)
}

pub fn set_compression(call: Call) -> Result<pg_sys::Datum> {
    let key = locked(call)?;
    let method = call
        .datum(1)
        .map(|_| call.text(1, "method"))
        .transpose()?
        .map(|name| policy::method_named(&name))
        .transpose()?;
    let loosens = policy::tells_more(method, key.compression);
    let policy = Policy::Compression {
        method: method.map(|method| method.name().to_owned()),
    };
    set(key, policy, loosens)
}

pub fn set_search_limit(call: Call) -> Result<pg_sys::Datum> {
    let key = locked(call)?;
    key.require(Purpose::Search)?;
    // SAFETY: declared as int.
    let (look_ups, per) = (unsafe { call.get::<i32>(1) }, interval(call, 2));
    let limit = match (look_ups, per) {
        (None, None) => None,
        // Half a limit is none, and is refused as such.
        _ => Some(policy::search_limit(
            look_ups.unwrap_or_default(),
            per.map_or(0, |per| crate::server::clock::add_interval(0, per)),
        )?),
    };
    let loosens = policy::may_look_up_more(limit, key.search_limit);
    let policy = Policy::SearchLimit {
        look_ups,
        per: per.map(crate::server::clock::interval_text),
    };
    set(key, policy, loosens)
}
