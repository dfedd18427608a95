//! Settings. Times are in milliseconds unless the name of the unit says otherwise in SQL.

use std::ffi::CString;
use std::path::PathBuf;

use colcrypt_protocol::Settings;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_guard, pg_sys};

pub static SLAB_KEYS: GucSetting<i32> = GucSetting::<i32>::new(1024);
pub static SOFT_TTL: GucSetting<i32> = GucSetting::<i32>::new(300_000);
pub static HARD_TTL: GucSetting<i32> = GucSetting::<i32>::new(3_600_000);
pub static KMS_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(5_000);
pub static KMS_RETRIES: GucSetting<i32> = GucSetting::<i32>::new(2);
pub static KMS_BACKOFF: GucSetting<i32> = GucSetting::<i32>::new(100);
pub static KEY_WAIT_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(30_000);
pub static REQUIRE_MLOCK: GucSetting<bool> = GucSetting::<bool>::new(false);
pub static NAPTIME: GucSetting<i32> = GucSetting::<i32>::new(60);
pub static OWNER_CODE_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(60_000);
pub static MAX_WORKERS: GucSetting<i32> = GucSetting::<i32>::new(3);
pub static BATCH_BLOCKS: GucSetting<i32> = GucSetting::<i32>::new(1024);
pub static BATCH_TIME: GucSetting<i32> = GucSetting::<i32>::new(30);
pub static JOB_SHARE: GucSetting<i32> = GucSetting::<i32>::new(25);
pub static JOB_NICE: GucSetting<i32> = GucSetting::<i32>::new(10);
pub static JOB_ROWS_PER_SECOND: GucSetting<i32> = GucSetting::<i32>::new(0);
pub static JOB_WAL_PER_SECOND: GucSetting<i32> = GucSetting::<i32>::new(0);
static JOB_MAX_LAG: GucSetting<i32> = GucSetting::<i32>::new(256 * 1024);
static JOB_MAX_ACTIVE: GucSetting<i32> = GucSetting::<i32>::new(0);
static JOB_WINDOW: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
pub static DESTRUCTION_WINDOW: GucSetting<i32> = GucSetting::<i32>::new(30 * 86_400);
pub static DESTRUCTION_WINDOW_FLOOR: GucSetting<i32> = GucSetting::<i32>::new(7 * 86_400);
pub static USAGE_ENTRIES: GucSetting<i32> = GucSetting::<i32>::new(4096);
pub static USAGE_FLUSH_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(10_000);
pub static USAGE_MAX_UNFLUSHED: GucSetting<i32> = GucSetting::<i32>::new(1 << 26);
pub static USAGE_DAYS: GucSetting<i32> = GucSetting::<i32>::new(7);
pub static USAGE_WARN: GucSetting<i32> = GucSetting::<i32>::new(50);
pub static USAGE_ROTATE: GucSetting<i32> = GucSetting::<i32>::new(70);
pub static USAGE_REFUSE: GucSetting<i32> = GucSetting::<i32>::new(85);
static ROTATION_TIME: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
pub static AUDIT_RING_EVENTS: GucSetting<i32> = GucSetting::<i32>::new(1024);
pub static AUDIT_ANCHOR_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(3600);
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
        GucRegistry::define_int_guc(
            c"colcrypt.usage_entries",
            c"Roles and key versions whose use shared memory can count between two flushes.",
            c"Each takes about 150 bytes. What has no place is counted as (other).",
            &USAGE_ENTRIES,
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
        GucRegistry::define_int_guc(
            c"colcrypt.audit_ring_events",
            c"Number of events that shared memory can hold until they are in the audit log.",
            c"Each takes about 1 kB. Where there is no room, an event goes to the server log.",
            &AUDIT_RING_EVENTS,
            1,
            1_000_000,
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
        c"colcrypt.max_workers",
        c"Workers that move rows at the same time, in all databases together; as many again may keep records.",
        c"Each takes one of max_worker_processes. With more databases than that they take turns.",
        &MAX_WORKERS,
        1,
        1000,
        GucFlags::default(),
    );
    int(
        c"colcrypt.owner_code_timeout",
        c"Longest time that a statement of a job may take on a table, in which code of the table's owner runs.",
        c"A CHECK, trigger, index or context expression that takes longer puts its job off; the fifth time in a row the job fails. 0 is without a limit.",
        &OWNER_CODE_TIMEOUT,
        0,
        i32::MAX,
        ms,
    );
    int(
        c"colcrypt.audit_anchor_interval",
        c"How often the head of the audit log is written to the server log and sent as a notification.",
        c"0 is never. An anchor kept elsewhere shows a cut tail and a log made anew.",
        &AUDIT_ANCHOR_INTERVAL,
        0,
        i32::MAX,
        GucFlags::UNIT_S,
    );
    int(
        c"colcrypt.batch_blocks",
        c"Most table blocks that a job moves in one transaction.",
        c"Batches are sized by colcrypt.batch_time below that.",
        &BATCH_BLOCKS,
        1,
        1_000_000,
        GucFlags::default(),
    );
    int(
        c"colcrypt.batch_time",
        c"How long one transaction of a job is to take.",
        c"Rows stay locked that long.",
        &BATCH_TIME,
        1,
        60_000,
        ms,
    );
    int(
        c"colcrypt.job_share",
        c"Part of its time, in percent, that a job works; it rests for the remainder.",
        c"100 is without rests.",
        &JOB_SHARE,
        1,
        100,
        GucFlags::default(),
    );
    int(
        c"colcrypt.job_nice",
        c"How nice a worker is that moves rows: at 10 it gets a tenth of a session's part of a busy processor.",
        c"0 is as a session. A lower value holds for workers that start after it.",
        &JOB_NICE,
        0,
        19,
        GucFlags::default(),
    );
    int(
        c"colcrypt.job_rows_per_second",
        c"Most rows that the jobs of a database move in a second.",
        c"0 is no limit.",
        &JOB_ROWS_PER_SECOND,
        0,
        i32::MAX,
        GucFlags::default(),
    );
    int(
        c"colcrypt.job_wal_per_second",
        c"Most WAL that the jobs of a database write in a second.",
        c"0 is no limit.",
        &JOB_WAL_PER_SECOND,
        0,
        i32::MAX,
        GucFlags::UNIT_KB,
    );
    int(
        c"colcrypt.job_max_lag",
        c"Jobs rest while a standby that streams is further behind than this.",
        c"0 is no limit.",
        &JOB_MAX_LAG,
        0,
        i32::MAX,
        GucFlags::UNIT_KB,
    );
    int(
        c"colcrypt.job_max_active",
        c"Jobs rest while more client sessions than this are active.",
        c"0 is no limit.",
        &JOB_MAX_ACTIVE,
        0,
        i32::MAX,
        GucFlags::default(),
    );
    int(
        c"colcrypt.destruction_window",
        c"Time between scheduling the destruction of a key version and the destruction.",
        c"In it, cancel_key_destruction brings the version back.",
        &DESTRUCTION_WINDOW,
        0,
        i32::MAX,
        GucFlags::UNIT_S,
    );
    int(
        c"colcrypt.destruction_window_floor",
        c"Shortest time before its destruction that may be asked for.",
        c"",
        &DESTRUCTION_WINDOW_FLOOR,
        0,
        i32::MAX,
        GucFlags::UNIT_S,
    );
    define_usage();
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

fn define_usage() {
    int(
        c"colcrypt.usage_flush_interval",
        c"Age at which counts of key use are written from shared memory to the catalog.",
        c"A crash loses what was counted since.",
        &USAGE_FLUSH_INTERVAL,
        100,
        3_600_000,
        GucFlags::UNIT_MS,
    );
    int(
        c"colcrypt.usage_max_unflushed",
        c"Encryptions of a key version that a crash may leave uncounted.",
        c"Encryption waits for the worker at this number; a sixteenth of it is written at once.",
        &USAGE_MAX_UNFLUSHED,
        16,
        1 << 26,
        GucFlags::default(),
    );
    int(
        c"colcrypt.usage_days",
        c"Days for which the use of keys is kept by minute; before, by day.",
        c"",
        &USAGE_DAYS,
        1,
        3650,
        GucFlags::default(),
    );
    for (name, short, setting) in [
        (
            c"colcrypt.usage_warn",
            c"Part of a key version's bound, in percent, at which sessions warn.",
            &USAGE_WARN,
        ),
        (
            c"colcrypt.usage_rotate",
            c"Part of a key version's bound, in percent, at which the worker rotates the key.",
            &USAGE_ROTATE,
        ),
        (
            c"colcrypt.usage_refuse",
            c"Part of a key version's bound, in percent, at which encryption is refused.",
            &USAGE_REFUSE,
        ),
    ] {
        // Never all of it: a crash may leave encryptions uncounted.
        int(name, short, c"", setting, 1, 95, GucFlags::default());
    }
    let windows = [
        (
            c"colcrypt.rotation_time",
            c"Time of day for scheduled rotations: HH:MM (an hour from then) or HH:MM-HH:MM.",
            &ROTATION_TIME,
        ),
        (
            c"colcrypt.job_window",
            c"Time of day when jobs move rows: HH:MM (an hour from then) or HH:MM-HH:MM.",
            &JOB_WINDOW,
        ),
    ];
    for (name, short, setting) in windows {
        // SAFETY: the hook below has the signature of one and only reads its argument.
        unsafe {
            GucRegistry::define_string_guc_with_hooks(
                name,
                short,
                c"In log_timezone. Empty means any time.",
                setting,
                GucContext::Sighup,
                GucFlags::default(),
                Some(check_window),
                None,
                None,
            );
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn check_window(
    value: *mut *mut std::ffi::c_char,
    _extra: *mut *mut std::ffi::c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: the server passes a C string, or null for a setting without a value.
    unsafe {
        let text = *value;
        text.is_null()
            || std::ffi::CStr::from_ptr(text)
                .to_str()
                .is_ok_and(colcrypt_core::window::is_window)
    }
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
