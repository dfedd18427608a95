//! Calls that were refused or went wrong: one event for each ERROR that one of our functions raises.

use std::ffi::CStr;

use pgrx::pg_sys;

use crate::audit::event::{Event, Outcome, Text};
use crate::audit::ring::{self, Patience};
use crate::catalog::read;
use crate::error::{Error, Report};
use crate::server::call::Call;

/// What a call was that went wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It would have decided or changed something.
    OfAnAct,
    /// It would have used a key.
    OfAUse,
}

/// Records that a call ends with this error. Before it is raised, in a transaction that still lives.
#[cold]
pub fn failed(call: Call, failure: Failure, error: &Error, report: &Report) {
    let uses = failure == Failure::OfAUse;
    if uses && error.is_callers_slip() {
        return;
    }
    let Some(function) = function_name(call) else {
        return;
    };
    let outcome = if error.is_denial() {
        Outcome::Denied
    } else {
        Outcome::Failed
    };
    let mut event = Event::now(&function, outcome);
    let subject = error.subject();
    let id = match (error, subject.key) {
        (Error::UnknownKeyId(id), _) => Some(id.0),
        (_, Some(name)) => read::key_by_name(name).ok().map(|key| key.id.0),
        _ => None,
    };
    event.set_key(id, subject.key);
    event.version = subject.version.unwrap_or_default();
    // A name that is none may be a value in the wrong place.
    if uses && matches!(error, Error::UnknownKey(_) | Error::NoKeyNamedSo) {
        event.set_detail(Some("no key has the given name"));
    } else {
        let detail = match &report.detail {
            Some(detail) => format!("{}: {detail}", report.message),
            None => report.message.clone(),
        };
        event.set_detail(Some(&detail));
    }
    event.sqlstate = Text::new(Some(report.sqlstate));
    // Made-up ids are as many as somebody likes: the first one of a second stands for all.
    if matches!(error, Error::UnknownKeyId(_)) {
        event.stand_for_alike();
    }
    ring::post(&event, Patience::Wait);
}

/// What SQL calls the function.
fn function_name(call: Call) -> Option<String> {
    let flinfo = call.flinfo();
    if flinfo.is_null() {
        return None;
    }
    // SAFETY: flinfo belongs to the call; the look-up gives a C string or null.
    unsafe {
        let name = pg_sys::get_func_name((*flinfo).fn_oid);
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}
