//! A user's name and password, for servers that ask for them beside the client's certificate. The password's file is
//! read for each connection, so a new password is used at once.

use std::io::Read;

use colcrypt_core::Secret;

use crate::{
    KmsError,
    config::AbsolutePath,
    private_file::{self, NotOpened},
};

/// Longer than any password: a wrong path must not read a whole disk into memory.
const MAX_PASSWORD: u64 = 1024;

/// As the settings have it.
pub(super) struct LoginFile {
    username: String,
    password_file: AbsolutePath,
}

/// As the file has it now.
pub(super) struct Login {
    pub(super) username: String,
    password: Secret,
}

impl LoginFile {
    /// Of two settings that belong together.
    pub(super) fn of(
        username: Option<String>,
        password_file: Option<AbsolutePath>,
    ) -> Result<Option<Self>, KmsError> {
        match (username, password_file) {
            (Some(username), Some(password_file)) => Ok(Some(Self {
                username,
                password_file,
            })),
            (None, None) => Ok(None),
            _ => Err(KmsError::config(
                "give \"username\" and \"password_file\" together, or neither",
            )),
        }
    }

    pub(super) fn read(&self) -> Result<Login, KmsError> {
        let path = self.password_file.as_path();
        let shown = path.display();
        let unreadable =
            |error| KmsError::config(format!("password_file {shown} cannot be read: {error}"));
        let file = private_file::open("password_file", path).map_err(|error| match error {
            NotOpened::Io(error) => unreadable(error),
            NotOpened::Refused(error) => error,
        })?;
        // In one allocation of full size: a growing one would leave unwiped copies behind.
        let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(MAX_PASSWORD as usize + 1));
        file.take(MAX_PASSWORD)
            .read_to_end(&mut bytes)
            .map_err(unreadable)?;
        match std::str::from_utf8(bytes.trim_ascii_end()) {
            Ok(password) if !password.is_empty() => Ok(Login {
                username: self.username.clone(),
                password: Secret::new(password.as_bytes().to_vec()),
            }),
            _ => Err(KmsError::config(format!(
                "password_file {shown} must hold one line of text, the password"
            ))),
        }
    }
}

impl Login {
    pub(super) fn password(&self) -> &str {
        std::str::from_utf8(self.password.expose()).unwrap_or_default()
    }
}
