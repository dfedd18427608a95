//! A TCP port of this machine for a server that is told its port, held for as long as the server may be started again.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

/// Below those that the kernel hands out by itself, to clients as well: no connection takes one by chance.
const RANGE: std::ops::Range<u16> = 12_000..32_000;

/// A port and its successor, which no other test of this machine is given meanwhile.
pub struct Port {
    number: u16,
    /// An abstract socket of the port's name: seen by every process that shares the ports, and gone with its holder.
    _held: UnixListener,
}

impl Port {
    /// One that is free together with its successor: OpenBao in memory takes that for its cluster.
    ///
    /// # Panics
    /// When none is free.
    #[must_use]
    pub fn hold() -> Self {
        let pairs = u32::from(RANGE.end - RANGE.start) / 2;
        // Each process begins elsewhere, so that few meet.
        let begin = std::process::id().wrapping_mul(97);
        for step in 0..pairs {
            let pair = begin.wrapping_add(step) % pairs;
            let number = RANGE.start + 2 * u16::try_from(pair).expect("within the range");
            let name = SocketAddr::from_abstract_name(format!("colcrypt-port-{number}"))
                .expect("a short name");
            let Ok(held) = UnixListener::bind_addr(&name) else {
                continue;
            };
            let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
            if is_free(number) && is_free(number + 1) {
                return Self {
                    number,
                    _held: held,
                };
            }
        }
        panic!("no two neighbouring free ports");
    }

    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}
