//! Files that hold a secret: only the server's user may read them, whatever the path leads to.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use crate::KmsError;

/// Why a private file was not opened.
pub(crate) enum NotOpened {
    /// It is missing or cannot be read. The caller decides what that means.
    Io(io::Error),
    /// It is not as it must be.
    Refused(KmsError),
}

/// Opens a regular file that is closed to others. `what` names it in messages.
pub(crate) fn open(what: &str, path: &Path) -> Result<File, NotOpened> {
    let shown = path.display();
    let refused = |message: String| NotOpened::Refused(KmsError::config(message));
    // O_NONBLOCK: opening a FIFO must not hang; it changes nothing for a regular file.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
        .open(path)
        .map_err(NotOpened::Io)?;
    // The metadata of the opened file, not of the path: the file that is read is the one that is checked. For a
    // symbolic link (as Kubernetes mounts secrets), it is the link's target.
    let meta = file.metadata().map_err(NotOpened::Io)?;
    if !meta.is_file() {
        return Err(refused(format!("{what} {shown} is not a regular file")));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(refused(format!(
            "{what} {shown} has mode {:04o}, so others can read or change it: chmod 0600 it",
            meta.mode() & 0o7777
        )));
    }
    let user = rustix::process::geteuid().as_raw();
    if meta.uid() != user && meta.uid() != 0 {
        return Err(refused(format!(
            "{what} {shown} belongs to user id {}, not to the server's user ({user}) or root: chown it",
            meta.uid()
        )));
    }
    Ok(file)
}
