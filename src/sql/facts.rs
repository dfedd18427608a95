//! What `doctor` (sql/62_doctor.sql) needs of the server and its machine that no view shows.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;

use colcrypt_domain::release;
use pgrx::pg_sys;

use crate::broker::shared;
use crate::error::Result;
use crate::jobs::wake;
use crate::server::call::Call;
use crate::server::record::{Record, return_set};
use crate::server::spi;
use crate::sql::entry::sql_functions;

/// The variables that Rust looks at.
const BACKTRACE: [&str; 2] = ["RUST_BACKTRACE", "RUST_LIB_BACKTRACE"];

/// A name, what it is about, and what is so; a fact without a value is left out.
type Fact = (&'static str, Option<String>, Option<String>);

fn server_facts(call: Call) -> Result<pg_sys::Datum> {
    let mut facts: Vec<Fact> = vec![
        (
            "library version",
            None,
            Some(env!("CARGO_PKG_VERSION").into()),
        ),
        ("agent version", None, agent_version()),
        (
            "launcher",
            None,
            wake::is_launcher_missing().then(|| "missing".into()),
        ),
        ("core limit", None, core_limit()),
        ("swap", None, swap()),
    ];
    facts.extend(BACKTRACE.map(|name| {
        let value = std::env::var(name).ok().filter(|value| value != "0");
        ("backtrace", Some(name.into()), value)
    }));
    facts.extend(key_files()?);
    let known = facts.into_iter().filter(|(.., value)| value.is_some());
    let rows = known.map(|(fact, object, value)| {
        let mut row = Record::default();
        row.push(fact).push(object).push(value);
        row
    });
    Ok(return_set(call, rows.collect()))
}

fn agent_version() -> Option<String> {
    release::shown(shared::control().ok()?.agent_version.load(Relaxed))
}

/// In bytes, or `unlimited`. Of this process, which has it from the server.
fn core_limit() -> Option<String> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: writes to `limit`.
    let asked = unsafe { libc::getrlimit(libc::RLIMIT_CORE, &mut limit) };
    (asked == 0).then(|| match limit.rlim_cur {
        libc::RLIM_INFINITY => "unlimited".into(),
        bytes => bytes.to_string(),
    })
}

/// What the machine swaps to.
fn swap() -> Option<String> {
    let swaps = fs::read_to_string("/proc/swaps").ok()?;
    let places: Vec<&str> = swaps
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    (!places.is_empty()).then(|| places.join(", "))
}

/// Where the root key files lie that a keyring stands on, seen from the data directory. Asked for the catalog's own
/// paths only, so that nobody learns of others.
fn key_files() -> Result<Vec<Fact>> {
    let files = spi::look(
        "SELECT DISTINCT p.name, p.config->>'path' FROM colcrypt.provider p JOIN colcrypt.kek_copy USING (provider_id) \
         WHERE p.kind = 'file' AND p.config ? 'path' ORDER BY 1",
        &[],
        |row| Ok((spi::at::<String>(row, 1)?, spi::at::<String>(row, 2)?)),
    )?;
    let data = data_directory();
    let fact = |(provider, path): (String, String)| {
        let place = data.as_deref().and_then(|data| place(data, &path));
        let object = format!("{path} of provider {provider}");
        ("key file", Some(object), place.map(str::to_owned))
    };
    Ok(files.into_iter().map(fact).collect())
}

/// None where the server's user cannot see it.
fn place(data: &Path, path: &str) -> Option<&'static str> {
    let file = fs::canonicalize(path).ok()?;
    let device = |path: &Path| fs::metadata(path).ok().map(|found| found.dev());
    Some(if file.starts_with(data) {
        "in the data directory"
    } else if device(&file)? == device(data)? {
        "on the same file system"
    } else {
        "elsewhere"
    })
}

fn data_directory() -> Option<PathBuf> {
    // SAFETY: a C string that the server set before it began.
    let data = unsafe {
        let data = pg_sys::DataDir;
        (!data.is_null()).then(|| std::ffi::CStr::from_ptr(data))?
    };
    fs::canonicalize(data.to_str().ok()?).ok()
}

sql_functions! {
    Harmless {
        server_facts => server_facts;
    }
}
