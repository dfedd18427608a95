//! Records that are read, and files that are written once.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use colcrypt_escrow::record::Record;

pub fn read_record(path: &Path) -> Result<Record, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Record::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Never over another file. When it returns, the file is on the disk, and so is its name.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), String> {
    create(path, bytes, mode)
        .and_then(|()| sync_directory(path))
        .map_err(|error| format!("{}: {error}", path.display()))
}

/// The same, and whole or not at all, whenever the program ends: for what says by being there that all is done. Nothing
/// secret, since a part of it may be left behind under another name.
pub fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> Result<(), String> {
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    if path.exists() {
        return Err(failed(io::ErrorKind::AlreadyExists.into()));
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    // Of one that ended before.
    match fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    create(&part, bytes, mode)
        .and_then(|()| fs::rename(&part, path))
        .and_then(|()| sync_directory(path))
        .map_err(failed)
}

fn create(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_directory(of: &Path) -> io::Result<()> {
    let directory = match of.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match File::open(directory)?.sync_all() {
        // Some file systems know no such thing.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}
