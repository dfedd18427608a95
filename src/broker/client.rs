//! A session's side of the broker: asking, and waiting so that Ctrl-C and statement_timeout work.

use std::sync::atomic::Ordering::Relaxed;

use colcrypt_core::slab_index::SlotKey;
use colcrypt_protocol::{Failure, FailureKind, Reply, Request};
use pgrx::pg_sys;

use crate::broker::queue::{self, Purpose, Reserved};
use crate::broker::shared::{self, Control};
use crate::error::{Error, Result};
use crate::server::clock;
use crate::server::waiting::Waiting;
use crate::slab::table::{self, Flight, Found};
use crate::{settings, slab};

/// Asks the agent and waits for the answer.
///
/// # Errors
/// [`Error::Kms`] with the agent's failure; [`Error::KeyWaitTimeout`] and [`Error::QueueFull`] when
/// nobody answers.
pub fn call(request: &Request) -> Result<Reply> {
    let mut wait = Wait::start(shared::control()?);
    let mut reserved = wait.for_queue_slot()?;
    reserved.submit(Purpose::Call, &to_json(request))?;
    loop {
        if let Some(reply) = reserved.reply() {
            let outcome: std::result::Result<Reply, Failure> = serde_json::from_slice(&reply)
                .map_err(|_| Error::Kms {
                    keyring: None,
                    failure: Failure {
                        kind: FailureKind::BadRequest,
                        message: "the agent's reply is not understood".into(),
                    },
                })?;
            return outcome.map_err(|failure| Error::Kms {
                keyring: None,
                failure,
            });
        }
        wait.sleep()?;
    }
}

/// Brings a key into the slab and gives it out. `request` is made only by the session that asks.
///
/// # Errors
/// As [`call`], and [`Error::SlabFull`].
pub fn load(
    wanted: SlotKey,
    keyring: &str,
    request: impl Fn() -> Result<Request>,
) -> Result<Found> {
    let control = slab::control()?;
    let mut wait = Wait::start(shared::control()?);
    loop {
        let (slot, ticket) = match table::find(control, wanted) {
            ready @ Found::Ready { .. } => return Ok(ready),
            Found::Loading { slot, ticket } => (slot, ticket),
            Found::Missing => {
                let request = to_json(&request()?);
                let mut reserved = wait.for_queue_slot()?;
                let Ok((slot, ticket, mine)) = table::reserve(control, wanted) else {
                    // All places are being loaded. Each load that ends makes room, and wakes who waits.
                    drop(reserved);
                    wait.sleep().map_err(|error| match error {
                        Error::KeyWaitTimeout { .. } => Error::SlabFull {
                            slots: control.slots as usize,
                        },
                        other => other,
                    })?;
                    continue;
                };
                if mine {
                    reserved
                        .submit(
                            Purpose::Load {
                                slab_slot: slot,
                                ticket,
                            },
                            &request,
                        )
                        .inspect_err(|error| {
                            let failure = Failure {
                                kind: FailureKind::Config,
                                message: error.report().message,
                            };
                            table::fail(control, slot, ticket, &failure);
                        })?;
                }
                (slot, ticket)
            }
        };
        loop {
            match table::flight(control, slot, ticket) {
                Flight::InProgress => wait.sleep()?,
                Flight::Ended => break,
                Flight::Failed(failure) => {
                    return Err(Error::Kms {
                        keyring: Some(keyring.to_string()),
                        failure,
                    });
                }
            }
        }
    }
}

fn to_json(request: &Request) -> Vec<u8> {
    serde_json::to_vec(request).expect("requests hold nothing that JSON cannot")
}

/// A bounded, interruptible wait for the broker.
struct Wait {
    control: &'static Control,
    started: i64,
    limit_ms: i64,
}

impl Wait {
    fn start(control: &'static Control) -> Self {
        Self {
            control,
            started: clock::boottime_ms(),
            limit_ms: i64::from(settings::KEY_WAIT_TIMEOUT.get()),
        }
    }

    fn for_queue_slot(&mut self) -> Result<Reserved> {
        loop {
            if let Some(reserved) = queue::reserve(self.control) {
                return Ok(reserved);
            }
            self.sleep().map_err(|_| Error::QueueFull)?;
        }
    }

    /// Sleeps until something ended. The first call only joins the condition variable and returns,
    /// so that the caller looks once more: what ends after that look wakes the sleep. The pause is
    /// bounded all the same, for a broker that dies without a broadcast.
    fn sleep(&mut self) -> Result<()> {
        const LONGEST_MS: i64 = 1_000;
        let waited = clock::boottime_ms() - self.started;
        let left = self.limit_ms - waited;
        if left <= 0 {
            return Err(Error::KeyWaitTimeout {
                waited_ms: waited as u64,
                broker_running: self.control.pid.load(Relaxed) != 0,
            });
        }
        // SAFETY: the condition variable lives in shared memory; the call handles interrupts, and an
        // ERROR out of it leaves no lock behind since none is held here.
        unsafe {
            pg_sys::ConditionVariableTimedSleep(
                self.control.done.get(),
                left.min(LONGEST_MS),
                Waiting::Key.event(),
            );
        }
        Ok(())
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: leaves the condition variable, if it was joined; after an ERROR the abort does.
            unsafe { pg_sys::ConditionVariableCancelSleep() };
        }
    }
}

/// The agent answered another question.
pub fn unexpected_reply() -> Error {
    Error::Kms {
        keyring: None,
        failure: Failure {
            kind: FailureKind::BadRequest,
            message: "the agent answered another question".into(),
        },
    }
}
