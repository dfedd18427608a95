//! Settings. Times are in milliseconds unless the name of the unit says otherwise in SQL.

use std::ffi::CString;
use std::path::PathBuf;

use colcrypt_protocol::Settings;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};

pub static SLAB_KEYS: GucSetting<i32> = GucSetting::<i32>::new(1024);
pub static SOFT_TTL: GucSetting<i32> = GucSetting::<i32>::new(300_000);
pub static HARD_TTL: GucSetting<i32> = GucSetting::<i32>::new(3_600_000);
pub static KMS_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(5_000);
pub static KMS_RETRIES: GucSetting<i32> = GucSetting::<i32>::new(2);
pub static KMS_BACKOFF: GucSetting<i32> = GucSetting::<i32>::new(100);
pub static KEY_WAIT_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(30_000);
pub static REQUIRE_MLOCK: GucSetting<bool> = GucSetting::<bool>::new(false);
pub static NAPTIME: GucSetting<i32> = GucSetting::<i32>::new(60);
pub static BATCH_BLOCKS: GucSetting<i32> = GucSetting::<i32>::new(64);
static AGENT_PATH: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// Defines the settings. Those of the slab need the postmaster.
pub fn define() {
    // Outside shared_preload_libraries a postmaster setting cannot be defined, nor is it needed.
    // SAFETY: a flag the postmaster set before it loaded us.
    if unsafe { pg_sys::process_shared_preload_libraries_in_progress } {
        GucRegistry::define_int_guc(
            c"colcrypt.slab_keys",
            c"Number of key versions that shared memory can hold.",
            c"Each takes about 200 bytes. Least recently used ones make room for others.",
            &SLAB_KEYS,
            16,
            1_000_000,
            GucContext::Postmaster,
            GucFlags::default(),
        );
        GucRegistry::define_bool_guc(
            c"colcrypt.require_mlock",
            c"Refuse to start when the key slab cannot be locked into memory.",
            c"When off, a failure to lock is a warning in the server log.",
            &REQUIRE_MLOCK,
            GucContext::Postmaster,
            GucFlags::default(),
        );
    }
    let ms = GucFlags::UNIT_MS;
    int(
        c"colcrypt.soft_ttl",
        c"Age at which a cached key is refreshed in the background.",
        c"Also how long a revoked root key may stay in use.",
        &SOFT_TTL,
        100,
        i32::MAX,
        ms,
    );
    int(
        c"colcrypt.hard_ttl",
        c"Age at which a cached key that could not be refreshed is dropped.",
        c"How long an outage of the key provider is survived.",
        &HARD_TTL,
        200,
        i32::MAX,
        ms,
    );
    int(
        c"colcrypt.kms_timeout",
        c"Bound on one call to a key provider.",
        c"Connecting included.",
        &KMS_TIMEOUT,
        50,
        600_000,
        ms,
    );
    int(
        c"colcrypt.kms_retries",
        c"Further tries after a call to a key provider that failed but may succeed.",
        c"",
        &KMS_RETRIES,
        0,
        20,
        GucFlags::default(),
    );
    int(
        c"colcrypt.kms_backoff",
        c"First pause between tries of a call to a key provider.",
        c"Doubles with each try, with jitter.",
        &KMS_BACKOFF,
        1,
        60_000,
        ms,
    );
    int(
        c"colcrypt.naptime",
        c"Pause between looks for maintenance work in every database.",
        c"rotate_key wakes the worker at once.",
        &NAPTIME,
        1,
        86_400,
        GucFlags::UNIT_S,
    );
    int(
        c"colcrypt.batch_blocks",
        c"Table blocks that a re-encryption job moves in one transaction.",
        c"",
        &BATCH_BLOCKS,
        1,
        10_000,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"colcrypt.key_wait_timeout",
        c"Longest wait of a statement for a key that is not cached.",
        c"The wait can be cancelled, and ends with statement_timeout too.",
        &KEY_WAIT_TIMEOUT,
        100,
        i32::MAX,
        GucContext::Userset,
        ms,
    );
    GucRegistry::define_string_guc(
        c"colcrypt.agent_path",
        c"The colcrypt executable that the key broker starts.",
        c"Empty means the executable named colcrypt beside the server's own.",
        &AGENT_PATH,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    // SAFETY: the name is a C string; unknown colcrypt.* settings become errors from here on.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"colcrypt".as_ptr()) };
}

fn int(
    name: &'static std::ffi::CStr,
    short: &'static std::ffi::CStr,
    long: &'static std::ffi::CStr,
    setting: &'static GucSetting<i32>,
    min: i32,
    max: i32,
    flags: GucFlags,
) {
    GucRegistry::define_int_guc(
        name,
        short,
        long,
        setting,
        min,
        max,
        GucContext::Sighup,
        flags,
    );
}

/// What the agent needs to know.
pub fn agent_settings() -> Settings {
    let positive = |setting: &GucSetting<i32>| setting.get().max(0) as u64;
    Settings {
        soft_ttl_ms: positive(&SOFT_TTL).min(positive(&HARD_TTL)),
        hard_ttl_ms: positive(&HARD_TTL),
        kms_timeout_ms: positive(&KMS_TIMEOUT),
        kms_retries: KMS_RETRIES.get().max(0) as u32,
        kms_backoff_ms: positive(&KMS_BACKOFF),
    }
}

/// The agent's executable.
pub fn agent_path() -> PathBuf {
    match AGENT_PATH.get() {
        Some(path) if !path.is_empty() => PathBuf::from(path.to_string_lossy().into_owned()),
        _ => {
            // SAFETY: my_exec_path is a NUL-terminated static that main() filled.
            let postgres =
                unsafe { std::ffi::CStr::from_ptr((&raw const pg_sys::my_exec_path).cast()) };
            PathBuf::from(postgres.to_string_lossy().into_owned()).with_file_name("colcrypt")
        }
    }
}
