//! The key catalog of a dump, or of a database that is up: the same lines of COPY either way.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use colcrypt_escrow::dump::{self, Kek};

/// The catalog is small: a server that takes longer has other troubles.
#[cfg(feature = "watch")]
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// How archives of pg_dump begin.
const ARCHIVE: &[u8] = b"PGDMP";

/// Where the key catalog is read.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub struct Catalog {
    /// A dump, in any of pg_dump's formats (all but plain text need pg_restore in the PATH)
    #[arg(long, visible_alias = "backup", value_name = "FILE")]
    dump: Option<PathBuf>,
    /// A database that is up, as libpq has it, without a password: 'host=/run/postgresql dbname=app user=postgres'
    #[cfg(feature = "watch")]
    #[arg(long, value_name = "CONNECTION")]
    connect: Option<String>,
}

impl Catalog {
    /// # Errors
    /// When it cannot be read, or is none.
    pub fn keks(&self) -> Result<Vec<Kek>, String> {
        let text = match &self.dump {
            Some(path) => of_dump(path)?,
            None => self.of_database()?,
        };
        let keks = dump::keks(&text).map_err(|error| error.to_string())?;
        if keks.is_empty() {
            return Err("there is no keyring in it".into());
        }
        Ok(keks)
    }

    #[cfg(feature = "watch")]
    fn of_database(&self) -> Result<String, String> {
        let mut client = crate::connection::connect(
            "escrow",
            self.connect.as_deref().unwrap_or_default(),
            PATIENCE,
        )?;
        // One snapshot: a rotation in between would be half read.
        let mut transaction = client
            .build_transaction()
            .isolation_level(postgres::IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .map_err(|error| error.to_string())?;
        let mut text = String::new();
        for (table, columns) in dump::TABLES {
            let columns = columns.join(", ");
            text.push_str(&format!("COPY colcrypt.{table} ({columns}) FROM stdin;\n"));
            transaction
                .copy_out(&format!(
                    "COPY (SELECT {columns} FROM colcrypt.{table}) TO STDOUT"
                ))
                .map_err(|error| crate::connection::explain(&error))?
                .read_to_string(&mut text)
                .map_err(|error| error.to_string())?;
            text.push_str("\\.\n");
        }
        Ok(text)
    }

    #[cfg(not(feature = "watch"))]
    fn of_database(&self) -> Result<String, String> {
        Err("say where the dump is (--dump FILE)".into())
    }
}

fn of_dump(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    if !path.is_dir() {
        let mut begin = Vec::new();
        File::open(path)
            .and_then(|file| file.take(512).read_to_end(&mut begin))
            .map_err(failed)?;
        // The table of contents of a tar archive is its first file.
        if !begin.starts_with(ARCHIVE) && !begin.starts_with(b"toc.dat\0") {
            return ours(BufReader::new(File::open(path).map_err(failed)?)).map_err(failed);
        }
    }
    let mut restore = Command::new("pg_restore")
        .args(["--file=-", "--data-only", "--schema=colcrypt"])
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("pg_restore: {error}"))?;
    let stdout = restore.stdout.take().ok_or("pg_restore has no output")?;
    let text = ours(BufReader::new(stdout)).map_err(failed)?;
    let status = restore.wait().map_err(failed)?;
    if !status.success() {
        return Err(format!("pg_restore could not read {}", path.display()));
    }
    Ok(text)
}

/// The blocks of COPY into our tables: a dump may be larger than memory.
fn ours(mut dump: impl BufRead) -> std::io::Result<String> {
    let mut text = Vec::new();
    let mut line = Vec::new();
    let mut is_inside = false;
    while {
        line.clear();
        dump.read_until(b'\n', &mut line)?
    } > 0
    {
        is_inside |= line.starts_with(b"COPY colcrypt.");
        if is_inside {
            text.extend_from_slice(&line);
            is_inside = !line.starts_with(b"\\.");
        }
    }
    String::from_utf8(text).map_err(|_| {
        std::io::Error::other("its key catalog is not in UTF-8: dump it with --encoding=UTF8")
    })
}
