//! Four eyes: what one role asks for, another one does.
//!
//! An act that a keyring may want two roles for comes here as a value ([`Gated`], `acts`). On an
//! ordinary keyring [`gate`] does it at once. On one that asks for four eyes it is checked, written
//! down as a request, and done by whoever approves it: in that role's transaction and name, and
//! against the state of that moment. A new kind of act is an implementation of the trait and a line
//! in `acts`.

use colcrypt_core::{KeyId, KeyringId, verbs};
use colcrypt_domain::approval::{Decision, Outcome, Person, Request, waiting};
use pgrx::{JsonB, pg_sys};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::json;

use crate::audit::Act;
use crate::catalog::read::{self, Key, Keyring};
use crate::catalog::uuid::{keyring_id, uuid};
use crate::error::{Error, KeyringPrivilege, Privilege, Result};
use crate::keys::grantee::show_requests;
use crate::keys::node;
use crate::rights;
use crate::server::txn::attempt;
use crate::server::{roles, spi};

/// An act as its parsed arguments, which a request keeps until it is approved.
pub trait Gated {
    /// The SQL function's name.
    fn function(&self) -> &'static str;

    /// What it concerns.
    fn target(&self) -> Result<Target>;

    /// What else it concerns: of each, whoever asks and whoever approves has to be a manager, and any may ask for four
    /// eyes.
    fn others(&self) -> Result<Vec<Target>> {
        Ok(Vec::new())
    }

    /// Refuses what the current role may not do, or what could not be done now. Gives the arguments
    /// with what the caller left out filled in, so that what was asked for is what is approved.
    fn check(&self) -> Result<Value>;

    /// Checks, does and records it. Answers what the SQL function returns.
    fn perform(&self) -> Result<String>;
}

/// The key an act concerns, or the keyring.
pub struct Target {
    pub keyring: Keyring,
    key: Option<Key>,
}

impl Target {
    pub fn key(key: Key) -> Result<Self> {
        Ok(Self {
            keyring: read::keyring_by_id(key.keyring)?,
            key: Some(key),
        })
    }

    pub fn keyring(keyring: Keyring) -> Self {
        Self { keyring, key: None }
    }

    /// Refuses who may not manage the key, or for a keyring the keyring itself.
    ///
    /// # Errors
    /// [`Error::KeyDenied`], [`Error::KeyringDenied`].
    pub fn require_manage(&self) -> Result<()> {
        match &self.key {
            Some(key) => rights::require(key, Privilege::Manage),
            None => rights::require_on_keyring(&self.keyring, KeyringPrivilege::Manage),
        }
    }

    fn may_manage(&self, role: pg_sys::Oid) -> Result<bool> {
        match &self.key {
            Some(key) => rights::may(role, key, Privilege::Manage),
            None => rights::may_on_keyring(role, &self.keyring, KeyringPrivilege::Manage),
        }
    }
}

/// Does the act, or on a keyring that asks for four eyes writes it down. Returns what the SQL
/// function does.
pub fn gate<A: Gated>(act: &A) -> Result<String> {
    if waits_for_another(act)? {
        Ok(waiting(request(act)?))
    } else {
        act.perform()
    }
}

/// The same where it may have to wait, such as one that loosens what holds. Any other is done at once.
pub fn gate_where<A: Gated>(may_wait: bool, act: &A) -> Result<String> {
    if may_wait { gate(act) } else { act.perform() }
}

/// Whether one of the keyrings that the act concerns asks for four eyes.
pub fn waits_for_another<A: Gated>(act: &A) -> Result<bool> {
    let mut asked = hold_rule(act.target()?.keyring.id)?;
    for other in act.others()? {
        asked |= hold_rule(other.keyring.id)?;
    }
    Ok(asked)
}

/// Locks the rule of a keyring until this transaction ends. Returns whether it asks for four eyes.
pub fn hold_rule(keyring: KeyringId) -> Result<bool> {
    let asked = spi::query(
        "SELECT four_eyes FROM colcrypt.keyring WHERE keyring_id = $1 FOR SHARE",
        &[uuid(keyring).into()],
        |row| row.get::<bool>(1),
    )?;
    asked
        .into_iter()
        .flatten()
        .next()
        .ok_or_else(|| Error::CatalogCorrupt(format!("keyring {keyring} is missing")))
}

/// Writes the act down for another role to approve; returns the request's number.
pub fn request<A: Gated>(act: &A) -> Result<i64> {
    let arguments = act.check()?;
    let target = act.target()?;
    let me = this_person();
    let inserted = spi::query(
        "INSERT INTO colcrypt.approval_request \
         (keyring_id, key_id, function, arguments, requested_by, requested_as, \
          login_role, session_role, acting_role, expires_at) \
         SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, clock_timestamp() + approval_window \
         FROM colcrypt.keyring WHERE keyring_id = $1 RETURNING request_id",
        &[
            uuid(target.keyring.id).into(),
            target.key.as_ref().map(|key| key.id.bigint()).into(),
            act.function().into(),
            JsonB(arguments.clone()).into(),
            name(me.session).into(),
            name(me.acting).into(),
            pg_sys::Oid::from_u32(me.login).into(),
            pg_sys::Oid::from_u32(me.session).into(),
            pg_sys::Oid::from_u32(me.acting).into(),
        ],
        |row| row.get::<i64>(1),
    )?;
    let number = inserted
        .into_iter()
        .flatten()
        .next()
        .ok_or_else(|| Error::CatalogCorrupt("the keyring of a request is missing".into()))?;
    let detail = format!("request {number}: {} {arguments}", act.function());
    record_decision("request_approval", target.key.as_ref(), detail)?;
    Ok(number)
}

/// Does what another role asked for. Answers what that function returns.
///
/// `kept` makes the act of its function and the arguments that the request kept.
///
/// # Errors
/// A request of the caller's own, or that nobody may decide any more; whatever keeps the act from being done.
pub fn approve(
    number: i64,
    reason: Option<String>,
    kept: impl Fn(&str, Value) -> Result<Box<dyn Gated>>,
) -> Result<String> {
    let request = Locked::open(number)?;
    request.refuse_decider(Decision::Approve)?;
    // Asked for before this server became a follower.
    node::refuse_elsewhere(verbs::place_of(&request.function))?;
    let act = kept(&request.function, request.arguments.clone())?;
    let others = act.others()?;
    others.iter().try_for_each(Target::require_manage)?;
    request.refuse_if_requester_lost_rights(&others)?;
    request.decide(Decision::Approve, reason)?;
    act.perform()
}

/// Refuses for good what another role asked for.
pub fn reject(number: i64, reason: String) -> Result<()> {
    let request = Locked::open(number)?;
    request.refuse_decider(Decision::Reject)?;
    request.decide(Decision::Reject, Some(reason))
}

/// Takes one's own request back.
pub fn withdraw(number: i64) -> Result<()> {
    let request = Locked::open(number)?;
    request.refuse_decider(Decision::Withdraw)?;
    request.decide(Decision::Withdraw, None)
}

/// Who acts now.
fn this_person() -> Person {
    // SAFETY: these read variables of the session.
    unsafe {
        Person {
            login: pg_sys::GetAuthenticatedUserId().to_u32(),
            session: pg_sys::GetSessionUserId().to_u32(),
            acting: roles::current_user().to_u32(),
        }
    }
}

fn name(role: u32) -> String {
    roles::role_name(pg_sys::Oid::from_u32(role))
}

/// An undecided request, its row locked.
struct Locked {
    request: Request,
    target: Target,
    function: String,
    arguments: Value,
}

impl Locked {
    /// Locks it, so that of two who decide at once the second sees what the first one did.
    fn open(number: i64) -> Result<Self> {
        struct Row {
            keyring: pgrx::Uuid,
            key: Option<i64>,
            function: String,
            arguments: JsonB,
            outcome: Option<String>,
            request: Request,
        }
        let rows = spi::query(
            "SELECT keyring_id, key_id, function, arguments, requested_by, login_role, session_role, \
                    acting_role, outcome, expires_at <= clock_timestamp() AS is_late \
             FROM colcrypt.approval_request WHERE request_id = $1 FOR UPDATE",
            &[number.into()],
            |row| {
                let oid = |column| spi::named::<pg_sys::Oid>(row, column).map(pg_sys::Oid::to_u32);
                Ok(Row {
                    keyring: spi::named(row, "keyring_id")?,
                    key: row.get_by_name("key_id")?,
                    function: spi::named(row, "function")?,
                    arguments: spi::named(row, "arguments")?,
                    outcome: row.get_by_name("outcome")?,
                    request: Request {
                        number,
                        requested_by: spi::named(row, "requested_by")?,
                        requester: Person {
                            login: oid("login_role")?,
                            session: oid("session_role")?,
                            acting: oid("acting_role")?,
                        },
                        outcome: None,
                        is_late: spi::named(row, "is_late")?,
                    },
                })
            },
        )?;
        let row = rows
            .into_iter()
            .next()
            .ok_or_else(|| Error::UnknownObject {
                what: "approval request",
                name: number.to_string(),
            })?;
        let target = match row.key {
            Some(id) => Target::key(read::key_by_id(KeyId::of_bigint(id))?)?,
            None => Target::keyring(read::keyring_by_id(keyring_id(row.keyring))?),
        };
        target.require_manage()?;
        let outcome = row.outcome.map(|name| name.parse::<Outcome>());
        let request = Request {
            outcome: outcome
                .transpose()
                .map_err(|_| Error::CatalogCorrupt("the outcome of a request".into()))?,
            ..row.request
        };
        request.refuse_closed()?;
        Ok(Self {
            request,
            target,
            function: row.function,
            arguments: row.arguments.0,
        })
    }

    fn refuse_decider(&self, decision: Decision) -> Result<()> {
        self.request.refuse_decider(decision, &this_person())
    }

    /// Two roles that may: what the first one asked for counts for nothing once he may not any more.
    fn refuse_if_requester_lost_rights(&self, others: &[Target]) -> Result<()> {
        let requester = self.request.requester;
        let acting = pg_sys::Oid::from_u32(requester.acting);
        let all_exist = requester
            .roles()
            .into_iter()
            .all(|role| roles::existing_role_name(pg_sys::Oid::from_u32(role)).is_some());
        let mut may = all_exist && self.target.may_manage(acting)?;
        for other in others {
            may = may && other.may_manage(acting)?;
        }
        let what = match self.target.key {
            Some(_) => "key",
            None => "keyring",
        };
        self.request.refuse_void(may, what)
    }

    fn decide(&self, decision: Decision, reason: Option<String>) -> Result<()> {
        let (me, outcome) = (this_person(), decision.outcome());
        spi::execute(
            "UPDATE colcrypt.approval_request SET outcome = $2, decided_by = $3, decided_as = $4, \
             decided_at = clock_timestamp(), reason = $5 WHERE request_id = $1",
            &[
                self.request.number.into(),
                outcome.name().into(),
                name(me.session).into(),
                name(me.acting).into(),
                reason.clone().into(),
            ],
        )?;
        let act = format!("{} {}", self.function, self.arguments);
        let detail = self.request.detail(&act, reason.as_deref());
        record_decision(outcome.event(), self.target.key.as_ref(), detail)
    }
}

fn record_decision(event: &'static str, key: Option<&Key>, detail: String) -> Result<()> {
    let mut act = Act::new(event).detail(detail);
    act.key = key;
    act.record()
}

/// Marks the requests nobody decided in time, and records it. The worker's; a request whose time is
/// over is refused and shown so before that, too.
pub fn mark_expired() {
    let marked = attempt(|| {
        let expired = spi::query(
            "UPDATE colcrypt.approval_request SET outcome = 'expired', decided_at = clock_timestamp() \
             WHERE request_id IN (SELECT request_id FROM colcrypt.approval_request \
                                  WHERE outcome IS NULL AND expires_at <= clock_timestamp() FOR UPDATE SKIP LOCKED) \
             RETURNING format('request %s of %s: %s %s', request_id, requested_by, function, arguments)",
            &[],
            |row| row.get::<String>(1),
        )?;
        for detail in expired.into_iter().flatten() {
            record_decision(Outcome::Expired.event(), None, detail)?;
        }
        Ok(())
    });
    if let Err(failed) = marked {
        pgrx::log!("colcrypt: marking expired requests: {failed}");
    }
}

/// The rule itself, which is loosened by two roles as well.
#[derive(Serialize, Deserialize)]
pub struct RequireFourEyes {
    pub keyring: String,
    pub keyring_id: KeyringId,
    pub enabled: bool,
    /// None keeps the present one.
    pub window_seconds: Option<i64>,
}

impl Gated for RequireFourEyes {
    fn function(&self) -> &'static str {
        "require_four_eyes"
    }

    fn target(&self) -> Result<Target> {
        Ok(Target::keyring(read::keyring_by_id(self.keyring_id)?))
    }

    fn check(&self) -> Result<Value> {
        self.target()?.require_manage()?;
        Ok(json!(self))
    }

    fn perform(&self) -> Result<String> {
        self.check()?;
        spi::execute(
            "UPDATE colcrypt.keyring SET four_eyes = $2, \
             approval_window = coalesce(make_interval(secs => $3), approval_window) WHERE keyring_id = $1",
            &[
                uuid(self.keyring_id).into(),
                self.enabled.into(),
                self.window_seconds.map(|seconds| seconds as f64).into(),
            ],
        )?;
        if self.enabled {
            show_requests(self.keyring_id)?;
        }
        let state = if self.enabled { "enabled" } else { "disabled" };
        let window = self
            .window_seconds
            .map_or_else(String::new, |seconds| format!(", window {seconds} s"));
        Act::new(self.function())
            .detail(format!("keyring {}: {state}{window}", self.keyring))
            .record()?;
        Ok(state.into())
    }
}
