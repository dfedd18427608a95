//! What can go wrong is in `colcrypt_domain::error`; here is what the server adds to it.

pub use colcrypt_domain::error::{
    Branch, Error, KeyringPrivilege, LONGEST_ARGUMENT, Privilege, Report, Result,
};

/// What SPI says of itself, and not of a statement: that comes as an ERROR.
pub fn of_spi(error: pgrx::spi::Error) -> Error {
    Error::Spi(error.to_string())
}
