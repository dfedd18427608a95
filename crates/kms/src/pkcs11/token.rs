//! Finds tokens by label or serial number, opens them, and logs in. A PIN that is refused is tried once more, and then
//! never.

use std::{collections::hash_map::Entry, time::Duration};

use colcrypt_protocol::FailureKind;
use cryptoki::{
    context::{Function, Pkcs11},
    error::{Error, RvError},
    session::{Session, SessionInfo, SessionState, UserType},
    slot::{Slot, TokenInfo},
};

use super::{
    fault::Fault,
    library::{Library, Open, Refused, TokenName, Tokens},
    pin::PinSource,
};
use crate::{KmsError, clock::Moment};

/// The second try of a refused PIN comes so long after the first: before a refusal is confirmed, and after a cluster
/// has told its members of a new PIN.
const BETWEEN_TRIES: Duration = Duration::from_secs(10);
const TRIES: u32 = 2;

/// A token that is open and, where it asks for it, logged in to.
pub(super) struct Token<'a> {
    pub(super) context: &'a Pkcs11,
    pub(super) slot: Slot,
    pub(super) session: &'a Session,
}

/// What a token says of itself and its keeper should know.
pub(super) fn info(token: &Token<'_>) -> Result<TokenInfo, Fault> {
    Ok(token.context.get_token_info(token.slot)?)
}

/// Does something at a token. If a session, a login or the token was lost, tries once more.
pub(super) fn at_token<T>(
    library: &mut Library,
    name: &TokenName,
    pin: Option<&PinSource>,
    mut act: impl FnMut(&Token<'_>) -> Result<T, Fault>,
) -> Result<T, KmsError> {
    let first = match once(library, name, pin, &mut act) {
        Err(fault) if fault.is_lost() => fault,
        other => return other.map_err(|fault| fault.into_error(&name.to_string())),
    };
    if first.code() == Some(RvError::CryptokiNotInitialized) {
        library.begin_anew();
    } else {
        library.tokens.forget(name);
    }
    once(library, name, pin, &mut act).map_err(|fault| match fault.code() {
        Some(RvError::UserNotLoggedIn) if pin.is_none() => {
            wants_a_login().into_error(&name.to_string())
        }
        _ => fault.into_error(&name.to_string()),
    })
}

fn wants_a_login() -> Fault {
    KmsError::config("wants a login: give the provider a \"pin_file\" or a \"pin_env\"").into()
}

/// A session that only reads, or one that could write where a token opens no others, as AWS CloudHSM does.
fn open(context: &Pkcs11, slot: Slot) -> Result<Session, Error> {
    match context.open_ro_session(slot) {
        Err(Error::Pkcs11(
            RvError::FunctionFailed | RvError::FunctionNotSupported | RvError::ArgumentsBad,
            _,
        )) => context.open_rw_session(slot),
        other => other,
    }
}

fn once<T>(
    library: &mut Library,
    name: &TokenName,
    pin: Option<&PinSource>,
    act: &mut impl FnMut(&Token<'_>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let slot = find(library, name)?;
    let context = library.context()?;
    let tokens = &mut library.tokens;
    if let Entry::Vacant(free) = tokens.open.entry(slot) {
        free.insert(Open {
            session: open(&context, slot)?,
            logged_in: None,
        });
    }
    log_in(tokens, &context, slot, pin)?;
    let open = tokens.open.get(&slot).expect("opened above");
    let token = Token {
        context: &context,
        slot,
        session: &open.session,
    };
    let result = act(&token);
    // "No such key" wipes keys in use. It counts only if the token is still present and logged in: without a
    // login, a token hides its keys.
    if let Err(Fault::Said(error)) = &result
        && error.kind == FailureKind::KeyNotFound
        && let Some(code) = lost(&token)
    {
        return Err(Fault::Token(Error::Pkcs11(code, Function::FindObjects)));
    }
    result
}

/// Returns why a token that answered cannot be believed, if so.
fn lost(token: &Token<'_>) -> Option<RvError> {
    let Ok(info) = token.context.get_token_info(token.slot) else {
        return Some(RvError::TokenNotPresent);
    };
    match token.session.get_session_info() {
        Ok(session) if !info.login_required() || is_user(&session) => None,
        Ok(_) => Some(RvError::UserNotLoggedIn),
        Err(_) => Some(RvError::SessionHandleInvalid),
    }
}

pub(super) fn is_user(session: &SessionInfo) -> bool {
    matches!(
        session.session_state(),
        SessionState::RoUser | SessionState::RwUser
    )
}

/// Returns the token's slot. If the known slot is no longer right, looks at all slots. If the token is in none,
/// restarts the library, since many look for tokens only when they start.
fn find(library: &mut Library, name: &TokenName) -> Result<Slot, Fault> {
    let context = library.context()?;
    if let Some(slot) = library.tokens.slots.get(name).copied() {
        match context.get_token_info(slot) {
            Ok(info) if name.fits(&info) => return Ok(slot),
            _ => library.tokens.forget(name),
        }
    }
    let found = match look(&context, name)? {
        Found::One(slot) => slot,
        Found::None(_) if library.tokens.may_start() => {
            drop(context);
            library.begin_anew();
            match look(&library.context()?, name)? {
                Found::One(slot) => slot,
                Found::None(others) => return Err(absent(&others)),
            }
        }
        Found::None(others) => return Err(absent(&others)),
    };
    library.tokens.slots.insert(name.clone(), found);
    Ok(found)
}

enum Found {
    One(Slot),
    /// The labels of those that are there.
    None(Vec<String>),
}

fn look(context: &Pkcs11, name: &TokenName) -> Result<Found, Fault> {
    let mut fitting = Vec::new();
    let mut others = Vec::new();
    for slot in context.get_slots_with_token()? {
        // A defect slot must not hide the others.
        match context.get_token_info(slot) {
            Ok(info) if info.token_initialized() && name.fits(&info) => fitting.push(slot),
            Ok(info) if info.token_initialized() => others.push(format!("\"{}\"", info.label())),
            _ => {}
        }
    }
    match fitting.as_slice() {
        [slot] => Ok(Found::One(*slot)),
        [] => Ok(Found::None(others)),
        _ => Err(KmsError::config(
            "several tokens have this label: name the one by its \"serial\" as well",
        )
        .into()),
    }
}

fn absent(others: &[String]) -> Fault {
    let there = match others {
        [] => "the module shows none".to_owned(),
        others => format!("the module shows {}", others.join(", ")),
    };
    Fault::new(
        FailureKind::Unreachable,
        format!("is not present ({there})"),
    )
}

fn log_in(
    tokens: &mut Tokens,
    context: &Pkcs11,
    slot: Slot,
    pin: Option<&PinSource>,
) -> Result<(), Fault> {
    let info = context.get_token_info(slot)?;
    if !info.login_required() {
        return Ok(());
    }
    let Some(source) = pin else {
        return log_in_elsewhere(tokens, slot, &info);
    };
    let pin = source.read()?;
    let open = tokens.open.get_mut(&slot).expect("opened by the caller");
    if open.logged_in == Some(pin.mark) {
        return Ok(());
    }
    let denied = |kind, message: String| Err(Fault::new(kind, message));
    let known = (info.serial_number().to_owned(), pin.mark);
    if let Some(refused) = tokens.refused.get(&known) {
        let again = refused.tries < TRIES && !info.user_pin_locked() && !info.user_pin_final_try();
        if !again {
            let what = format!(
                "refused the PIN of {} before, and it is not tried again until that is written anew, since a \
                 token locks itself after a few wrong ones",
                source.name()
            );
            return denied(refused.kind, what);
        }
        if refused.last.age() < BETWEEN_TRIES {
            return Err(Fault::Said(KmsError {
                answered: Some(refused.last),
                ..KmsError::new(
                    refused.kind,
                    format!(
                        "refused the PIN of {} a moment ago: it is tried once more, and then not again",
                        source.name()
                    ),
                )
            }));
        }
    }
    if info.user_pin_locked() {
        let what = "has locked its PIN: its security officer must set a new one".to_owned();
        return denied(FailureKind::Denied, what);
    }
    // Nobody has refused ours.
    if info.user_pin_final_try() {
        return Err(KmsError::config(
            "would lock its PIN at one more wrong one, so none is tried: log in once by hand with the right one",
        )
        .into());
    }
    if open.logged_in.take().is_some() {
        // Another PIN must prove itself by a login of its own.
        let _ = open.session.logout();
    }
    let mut result = open.session.login(UserType::User, Some(&pin.text));
    if matches!(code(&result), Some(RvError::UserAlreadyLoggedIn)) {
        let _ = open.session.logout();
        result = open.session.login(UserType::User, Some(&pin.text));
    }
    match code(&result) {
        None => {
            result?;
            open.logged_in = Some(pin.mark);
            tokens.refused.remove(&known);
            Ok(())
        }
        // It ran out, which is nobody's decision.
        Some(RvError::PinExpired) => {
            Err(KmsError::config(format!("says that the PIN of {} expired", source.name())).into())
        }
        Some(
            code @ (RvError::PinIncorrect
            | RvError::PinInvalid
            | RvError::PinLenRange
            | RvError::PinLocked),
        ) => {
            // Too short, too long, or of characters that no PIN has: nobody took a right one back.
            let kind = match code {
                RvError::PinInvalid | RvError::PinLenRange => FailureKind::Config,
                _ => FailureKind::Denied,
            };
            let refused = tokens.refused.entry(known).or_insert(Refused {
                tries: 0,
                kind,
                last: Moment::now(),
            });
            refused.kind = kind;
            refused.tries += 1;
            refused.last = Moment::now();
            let last = refused.tries >= TRIES;
            let what = match code {
                RvError::PinLocked => {
                    "has locked its PIN: its security officer must set a new one".to_owned()
                }
                _ if last => format!(
                    "refuses the PIN of {}: put the right one there; this one is not tried again",
                    source.name()
                ),
                _ => format!(
                    "refuses the PIN of {}: put the right one there; this one is tried once more",
                    source.name()
                ),
            };
            denied(kind, what)
        }
        Some(RvError::UserPinNotInitialized) => {
            Err(KmsError::config("has no PIN yet: its security officer must set one").into())
        }
        Some(_) => Err(result.expect_err("it has a code").into()),
    }
}

/// Where a token has a pad or a console of its own for the PIN, it asks there.
fn log_in_elsewhere(tokens: &mut Tokens, slot: Slot, info: &TokenInfo) -> Result<(), Fault> {
    if !info.protected_authentication_path() {
        return Err(wants_a_login());
    }
    let open = tokens.open.get_mut(&slot).expect("opened by the caller");
    if is_user(&open.session.get_session_info()?) {
        return Ok(());
    }
    match open.session.login(UserType::User, None) {
        Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
        other => Ok(other?),
    }
}

fn code(result: &Result<(), Error>) -> Option<RvError> {
    match result {
        Err(Error::Pkcs11(code, _)) => Some(*code),
        _ => None,
    }
}
