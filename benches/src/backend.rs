//! A backend's processor time, which other load on the machine does not change as it does the time by the clock.

use postgres::Client;

use crate::count;

/// Processor time that a backend has used, in nanoseconds: what the kernel counts by itself.
pub struct Backend(std::path::PathBuf);

impl Backend {
    pub fn of(client: &mut Client) -> Self {
        let pid = count(client, "SELECT pg_backend_pid()::bigint");
        Self(format!("/proc/{pid}/schedstat").into())
    }

    fn used(&self) -> f64 {
        let text = std::fs::read_to_string(&self.0).expect("the backend's schedstat");
        let first = text.split(' ').next().and_then(|text| text.parse().ok());
        first.expect("nanoseconds")
    }

    /// What `run` has it use.
    pub fn time(&self, run: impl FnOnce()) -> f64 {
        let before = self.used();
        run();
        self.used() - before
    }
}
