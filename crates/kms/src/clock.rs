//! The clock that measures the age of keys. Unlike [`std::time::Instant`], it runs while the machine is suspended,
//! so a laptop or a paused virtual machine does not resume with keys beyond their hard TTL.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A moment, comparable with others of this boot only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(Duration);

impl Moment {
    pub(crate) fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        Self(Duration::new(
            time.tv_sec.unsigned_abs(),
            time.tv_nsec as u32,
        ))
    }

    /// A moment so long after the boot.
    #[cfg(test)]
    pub(crate) fn after_boot(span: Duration) -> Self {
        Self(span)
    }

    /// A moment in the past; not before the boot.
    #[cfg(test)]
    pub(crate) fn ago(span: Duration) -> Self {
        Self(Self::now().0.saturating_sub(span))
    }

    /// The time from an earlier moment to this one; zero if it is later.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    pub(crate) fn age(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }

    /// What is left of `span` counted from this moment; zero once it is over.
    pub(crate) fn left_of(self, span: Duration) -> Duration {
        span.saturating_sub(self.age())
    }
}
