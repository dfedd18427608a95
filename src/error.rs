//! What can go wrong is in `colcrypt_domain::error`; here is what the server adds to it.

use std::cell::Cell;

pub use colcrypt_domain::error::{
    Error, KeyringPrivilege, LONGEST_ARGUMENT, Privilege, Report, Result,
};

/// What SPI says of itself, and not of a statement: that comes as an ERROR.
pub fn of_spi(error: pgrx::spi::Error) -> Error {
    Error::Spi(error.to_string())
}

thread_local! {
    static LAST_RAISED: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Remembers what an SQL function raised: pgrx keeps only the SQLSTATEs it knows, and the worker
/// needs to tell an outage from a bad value.
pub fn note_raised(report: &Report) {
    LAST_RAISED.set(Some(report.sqlstate));
}

pub fn forget_last_raised() {
    LAST_RAISED.set(None);
}

/// Whether one of our functions raised an error since.
pub fn was_ours() -> bool {
    LAST_RAISED.get().is_some()
}

/// Whether the last error one of our functions raised is about the value and not about its key.
pub fn last_raised_concerns_a_value() -> bool {
    matches!(
        LAST_RAISED.get(),
        Some("KC001" | "KC002" | "KC003" | "KC030" | "KC063" | "KC064" | "42704" | "54000")
    )
}
