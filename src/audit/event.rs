//! An event as it lies in shared memory: fixed in size, whole in itself, any bytes valid.
//!
//! Everything that needs the catalogs (names of roles, of the database) is looked up when the event is
//! made, since it may be posted where no catalog can be read: while a transaction aborts.

use std::cell::OnceCell;

use colcrypt_domain::lost::Subject;
use pgrx::pg_sys;
use serde_json::json;

use crate::server::{process, roles};

pub use colcrypt_domain::outcome::Outcome;
pub use colcrypt_domain::text::Text;

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Event {
    /// TimestampTz.
    pub at: i64,
    /// Meaningful where `has_key_id` is not 0.
    pub key_id: u64,
    pub database: u32,
    pub pid: i32,
    /// 0 is none: versions begin with 1.
    pub version: u32,
    /// How many of the same kind it stands for.
    pub repeats: u32,
    has_key_id: u8,
    outcome: u8,
    is_alike: u8,
    pub event: Text<64>,
    pub session_role: Text<64>,
    pub current_role: Text<64>,
    pub client_addr: Text<46>,
    pub database_name: Text<64>,
    pub key: Text<200>,
    pub relation: Text<140>,
    pub detail: Text<320>,
    pub sqlstate: Text<5>,
}

impl Event {
    /// Something that this session does now. In a transaction that has not failed.
    pub fn now(event: &str, outcome: Outcome) -> Self {
        // SAFETY: reads the clock and the session's role.
        let (at, session) = unsafe { (pg_sys::GetCurrentTimestamp(), pg_sys::GetSessionUserId()) };
        Self {
            at,
            key_id: 0,
            database: process::my_database().to_u32(),
            pid: session_pid(),
            version: 0,
            repeats: 1,
            has_key_id: 0,
            outcome: outcome as u8,
            is_alike: 0,
            event: Text::new(Some(event)),
            session_role: Text::new(Some(&roles::role_name(session))),
            current_role: Text::new(Some(&roles::role_name(roles::current_user()))),
            client_addr: client_addr(),
            database_name: database_name(),
            key: Text::new(None),
            relation: Text::new(None),
            detail: Text::new(None),
            sqlstate: Text::new(None),
        }
    }

    /// Something that happened to the server, for one of its databases. In a process without a database or a role.
    pub fn of_server(event: &str, by: &str, database: u32, detail: &str) -> Self {
        Self {
            // SAFETY: reads the clock.
            at: unsafe { pg_sys::GetCurrentTimestamp() },
            key_id: 0,
            database,
            pid: process::my_pid(),
            version: 0,
            repeats: 1,
            has_key_id: 0,
            outcome: Outcome::Done as u8,
            is_alike: 0,
            event: Text::new(Some(event)),
            session_role: Text::new(Some(by)),
            current_role: Text::new(Some(by)),
            client_addr: Text::new(None),
            database_name: Text::new(None),
            key: Text::new(None),
            relation: Text::new(None),
            detail: Text::new(Some(detail)),
            sqlstate: Text::new(None),
        }
    }

    pub fn set_key(&mut self, id: Option<u64>, name: Option<&str>) {
        self.has_key_id = u8::from(id.is_some());
        self.key_id = id.unwrap_or_default();
        self.key = Text::new(name);
    }

    pub fn set_detail(&mut self, detail: Option<&str>) {
        self.detail = Text::new(detail);
    }

    pub fn set_outcome(&mut self, outcome: Outcome) {
        self.outcome = outcome as u8;
    }

    pub fn outcome(&self) -> Outcome {
        Outcome::of(self.outcome)
    }

    /// Others that differ in key id and detail alone count as the same.
    pub fn stand_for_alike(&mut self) {
        self.is_alike = 1;
    }

    /// As key_status shows it.
    pub fn key_id(&self) -> Option<String> {
        (self.has_key_id != 0).then(|| format!("{:016x}", self.key_id))
    }

    pub fn version(&self) -> Option<i32> {
        (self.version != 0).then_some(self.version as i32)
    }

    /// Whether another event says the same, time and count apart.
    /// What is counted of it where it gets no record of its own.
    pub fn subject(&self) -> Subject {
        Subject {
            at: self.at,
            database: self.database,
            outcome: self.outcome(),
            role: self.session_role,
        }
    }

    pub fn says_the_same(&self, other: &Self) -> bool {
        self.database == other.database
            && self.pid == other.pid
            && self.outcome == other.outcome
            && self.is_alike == other.is_alike
            && (self.is_alike != 0
                || (self.has_key_id, self.key_id, self.version)
                    == (other.has_key_id, other.key_id, other.version)
                    && self.detail.same(&other.detail))
            && self.event.same(&other.event)
            && self.session_role.same(&other.session_role)
            && self.current_role.same(&other.current_role)
            && self.key.same(&other.key)
            && self.relation.same(&other.relation)
            && self.sqlstate.same(&other.sqlstate)
    }

    /// As the server log tells it.
    pub fn json(&self) -> String {
        // SAFETY: formats into a static buffer, copied at once.
        let at = unsafe { std::ffi::CStr::from_ptr(pg_sys::timestamptz_to_str(self.at)) };
        json!({
            "at": at.to_string_lossy(),
            "event": self.event.get(),
            "outcome": self.outcome().name(),
            "session_role": self.session_role.get(),
            "current_role_name": self.current_role.get(),
            "client_addr": self.client_addr.get(),
            "database": self.database_name.get(),
            "pid": self.pid,
            "key_id": self.key_id(),
            "key": self.key.get(),
            "version": self.version(),
            "relation": self.relation.get(),
            "repeats": self.repeats,
            "detail": self.detail.get(),
            "sqlstate": self.sqlstate.get(),
        })
        .to_string()
    }
}

/// The session's process: of a parallel worker, its leader's.
fn session_pid() -> i32 {
    // SAFETY: MyProc is this process's, and a lock group's leader outlives its members.
    unsafe {
        let leader = (*pg_sys::MyProc).lockGroupLeader;
        if leader.is_null() {
            process::my_pid()
        } else {
            (*leader).pid
        }
    }
}

thread_local! {
    static CLIENT_ADDR: OnceCell<Text<46>> = const { OnceCell::new() };
    static DATABASE_NAME: OnceCell<Text<64>> = const { OnceCell::new() };
}

fn client_addr() -> Text<46> {
    CLIENT_ADDR.with(|cell| {
        *cell.get_or_init(|| {
            // SAFETY: gives the address of this process's client, or null where there is none.
            let addr =
                unsafe { pgrx::direct_function_call::<pgrx::Inet>(pg_sys::inet_client_addr, &[]) };
            Text::new(addr.as_ref().map(|addr| addr.0.as_str()))
        })
    })
}

fn database_name() -> Text<64> {
    DATABASE_NAME.with(|cell| {
        *cell.get_or_init(|| {
            // SAFETY: a catalog look-up; palloc's a C string or gives null.
            let name = unsafe {
                let name = pg_sys::get_database_name(process::my_database());
                (!name.is_null()).then(|| {
                    std::ffi::CStr::from_ptr(name)
                        .to_string_lossy()
                        .into_owned()
                })
            };
            Text::new(Some(&name.unwrap_or_default()))
        })
    })
}
