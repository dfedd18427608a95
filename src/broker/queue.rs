//! The request queue: fixed slots in shared memory that carry a request to the broker and, for calls,
//! the reply back. No secret passes through it.

use std::sync::atomic::Ordering::Relaxed;

use crate::broker::shared::{Control, PAYLOAD, QUEUE_SLOTS, RequestSlot};
use crate::error::{Error, Result};
use crate::server::{lwlock, process};

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    Free = 0,
    /// A session is writing the request.
    Reserved = 1,
    /// Waiting for the broker.
    Submitted = 2,
    /// With the broker.
    Taken = 3,
    /// The reply is there.
    Done = 4,
}

/// What a request is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The reply is wanted by the session that asked.
    Call,
    /// The reply goes into a slab slot, whoever waits for it.
    Load { slab_slot: usize, ticket: u64 },
}

/// A slot of the queue, held by a session until it is handed to the broker or dropped.
pub struct Reserved {
    control: &'static Control,
    at: usize,
    handed_over: bool,
}

fn slot(control: &Control, at: usize) -> &RequestSlot {
    &control.queue[at]
}

fn state_of(slot: &RequestSlot) -> State {
    match slot.state.load(Relaxed) {
        1 => State::Reserved,
        2 => State::Submitted,
        3 => State::Taken,
        4 => State::Done,
        _ => State::Free,
    }
}

fn set(slot: &RequestSlot, state: State) {
    slot.state.store(state as u32, Relaxed);
}

/// Takes a free slot, `None` when there is none.
pub fn reserve(control: &'static Control) -> Option<Reserved> {
    let _guard = lwlock::exclusive(control.lock);
    let at = (0..QUEUE_SLOTS).find(|&at| state_of(slot(control, at)) == State::Free)?;
    let slot = slot(control, at);
    set(slot, State::Reserved);
    slot.owner.store(process::my_pid(), Relaxed);
    slot.serial.fetch_add(1, Relaxed);
    Some(Reserved {
        control,
        at,
        handed_over: false,
    })
}

impl Reserved {
    /// Writes the request and hands it to the broker. A load is the broker's from here on; a call
    /// stays ours until [`reply`](Self::reply).
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] for a request beyond [`PAYLOAD`].
    pub fn submit(&mut self, purpose: Purpose, request: &[u8]) -> Result<()> {
        if request.len() > PAYLOAD {
            return Err(Error::InvalidParameter {
                message: format!(
                    "the provider's settings are too long: {} bytes",
                    request.len()
                ),
                hint: format!("At most {PAYLOAD} bytes can be sent to the key broker."),
            });
        }
        {
            let _guard = lwlock::exclusive(self.control.lock);
            let slot = slot(self.control, self.at);
            write(slot, purpose, request);
            set(slot, State::Submitted);
        }
        self.handed_over = matches!(purpose, Purpose::Load { .. });
        wake_broker(self.control);
        Ok(())
    }

    /// The reply to a call, `None` while there is none.
    pub fn reply(&self) -> Option<Vec<u8>> {
        let _guard = lwlock::shared(self.control.lock);
        let slot = slot(self.control, self.at);
        (state_of(slot) == State::Done).then(|| payload(slot).to_vec())
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if self.handed_over {
            return;
        }
        let _guard = lwlock::exclusive(self.control.lock);
        set(slot(self.control, self.at), State::Free);
    }
}

/// Sets the broker's latch.
pub fn wake_broker(control: &Control) {
    let latch = control.latch.load(Relaxed);
    if !latch.is_null() {
        // SAFETY: a process latch lies in shared memory for the server's life.
        unsafe { pgrx::pg_sys::SetLatch(latch) };
    }
}

/// Which slot, and which of its reservations.
#[derive(Clone, Copy)]
pub struct Ticket {
    slot: usize,
    serial: u32,
}

/// A request the broker took.
pub struct Taken {
    pub at: Ticket,
    pub purpose: Purpose,
    pub request: Vec<u8>,
}

/// For the broker: the next submitted request. A load's slot is free again at once.
pub fn take(control: &Control) -> Option<Taken> {
    let _guard = lwlock::exclusive(control.lock);
    let at = (0..QUEUE_SLOTS).find(|&at| state_of(slot(control, at)) == State::Submitted)?;
    let slot = slot(control, at);
    // SAFETY: exclusive lock held.
    let body = unsafe { &*slot.body.get() };
    let (purpose, next) = if body.is_load {
        (
            Purpose::Load {
                slab_slot: body.slab_slot as usize,
                ticket: body.ticket,
            },
            State::Free,
        )
    } else {
        (Purpose::Call, State::Taken)
    };
    let request = payload(slot).to_vec();
    set(slot, next);
    Some(Taken {
        at: Ticket {
            slot: at,
            serial: slot.serial.load(Relaxed),
        },
        purpose,
        request,
    })
}

/// For the broker: answers a call, if somebody still waits for it.
pub fn answer(control: &Control, at: Ticket, reply: &[u8]) {
    let _guard = lwlock::exclusive(control.lock);
    let slot = slot(control, at.slot);
    if state_of(slot) == State::Taken && slot.serial.load(Relaxed) == at.serial {
        write(slot, Purpose::Call, &reply[..reply.len().min(PAYLOAD)]);
        set(slot, State::Done);
    }
}

/// For a broker that starts: loads that no former one took. It will.
pub fn untaken_loads(control: &Control) -> Vec<u64> {
    let _guard = lwlock::shared(control.lock);
    (0..QUEUE_SLOTS)
        .map(|at| slot(control, at))
        .filter(|slot| state_of(slot) == State::Submitted)
        // SAFETY: lock held.
        .map(|slot| unsafe { &*slot.body.get() })
        .filter(|body| body.is_load)
        .map(|body| body.ticket)
        .collect()
}

/// For a broker that starts: calls that a former one took will not be answered by it.
pub fn taken_by_former_broker(control: &Control) -> Vec<Ticket> {
    let _guard = lwlock::shared(control.lock);
    (0..QUEUE_SLOTS)
        .filter(|&at| state_of(slot(control, at)) == State::Taken)
        .map(|at| Ticket {
            slot: at,
            serial: slot(control, at).serial.load(Relaxed),
        })
        .collect()
}

/// For the broker: frees slots whose session is gone: a FATAL error ends it without unwinding.
pub fn free_orphans(control: &Control) {
    let _guard = lwlock::exclusive(control.lock);
    for at in 0..QUEUE_SLOTS {
        let slot = slot(control, at);
        let owned = matches!(state_of(slot), State::Reserved | State::Taken | State::Done);
        // SAFETY: signal 0 only asks whether the process exists.
        if owned && unsafe { libc::kill(slot.owner.load(Relaxed), 0) } != 0 {
            set(slot, State::Free);
        }
    }
}

fn write(slot: &RequestSlot, purpose: Purpose, bytes: &[u8]) {
    // SAFETY: every caller holds the exclusive lock.
    let body = unsafe { &mut *slot.body.get() };
    match purpose {
        Purpose::Call => body.is_load = false,
        Purpose::Load { slab_slot, ticket } => {
            body.is_load = true;
            body.slab_slot = slab_slot as u32;
            body.ticket = ticket;
        }
    }
    body.length = bytes.len() as u32;
    body.payload[..bytes.len()].copy_from_slice(bytes);
}

fn payload(slot: &RequestSlot) -> &[u8] {
    // SAFETY: every caller holds the lock.
    let body = unsafe { &*slot.body.get() };
    &body.payload[..(body.length as usize).min(PAYLOAD)]
}
