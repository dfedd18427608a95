//! The settings (GUCs): a table of them, and what the server is told of each.

use std::ffi::{CStr, CString};
use std::path::PathBuf;

use colcrypt_protocol::Settings;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_guard, pg_sys};

/// When a setting may change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    /// At the server's start only.
    Postmaster,
    /// When the configuration is read again.
    Sighup,
    /// In any session.
    Userset,
}

impl When {
    fn context(self) -> GucContext {
        match self {
            Self::Postmaster => GucContext::Postmaster,
            Self::Sighup => GucContext::Sighup,
            Self::Userset => GucContext::Userset,
        }
    }
}

/// A setting that is a whole number, as the server is told of it.
struct Integer {
    name: &'static CStr,
    setting: &'static GucSetting<i32>,
    /// The lowest and the highest value, in the unit of `flags`.
    range: (i32, i32),
    flags: GucFlags,
    changes: When,
    short: &'static CStr,
    long: &'static CStr,
}

/// A line a setting: its variable and name, the default, the range, the unit, when it may be changed, and its
/// descriptions.
macro_rules! integers {
    ($($vis:vis $variable:ident: $name:literal = $default:expr, $least:tt to $most:expr, $flags:expr, $context:ident,
       $short:literal, $long:literal;)+) => {
        $($vis static $variable: GucSetting<i32> = GucSetting::<i32>::new($default);)+

        static INTEGERS: &[Integer] = &[$(Integer {
            name: $name,
            setting: &$variable,
            range: ($least, $most),
            flags: $flags,
            changes: When::$context,
            short: $short,
            long: $long,
        }),+];
    };
}

integers! {
    pub SLAB_KEYS: c"colcrypt.slab_keys" = 1024, 16 to 1_000_000, GucFlags::empty(), Postmaster,
        c"Number of key versions that shared memory can hold.",
        c"Each takes about 200 bytes. Least recently used ones make room for others.";
    pub SOFT_TTL: c"colcrypt.soft_ttl" = 300_000, 100 to i32::MAX, GucFlags::UNIT_MS, Sighup,
        c"Age at which a cached key is refreshed in the background.",
        c"A revoked root key stays in use for as long, and until its refusal is confirmed.";
    pub HARD_TTL: c"colcrypt.hard_ttl" = 3_600_000, 200 to i32::MAX, GucFlags::UNIT_MS, Sighup,
        c"Age at which a cached key that could not be refreshed is dropped.",
        c"How long an outage of the key provider is survived.";
    pub KMS_TIMEOUT: c"colcrypt.kms_timeout" = 5_000, 50 to 600_000, GucFlags::UNIT_MS, Sighup,
        c"Bound on one call to a key provider.",
        c"Connecting included.";
    pub KMS_RETRIES: c"colcrypt.kms_retries" = 2, 0 to 20, GucFlags::empty(), Sighup,
        c"Further tries after a call to a key provider that failed but may succeed.",
        c"";
    pub KMS_BACKOFF: c"colcrypt.kms_backoff" = 100, 1 to 60_000, GucFlags::UNIT_MS, Sighup,
        c"First pause between tries of a call to a key provider.",
        c"Doubles with each try, with jitter.";
    REFUSAL_CONFIRMATIONS: c"colcrypt.refusal_confirmations" = 3, 1 to 100, GucFlags::empty(), Sighup,
        c"Refusals in a row by a key provider that wipe cached keys.",
        c"1 is at once. A disabled or deleted root key and suspend_key need no confirmation.";
    REFUSAL_INTERVAL: c"colcrypt.refusal_interval" = 20_000, 10 to 3_600_000, GucFlags::UNIT_MS, Sighup,
        c"Shortest time between two refusals that both count.",
        c"Time for changed rights and new credentials to reach every server of the key provider.";
    pub KEY_WAIT_TIMEOUT: c"colcrypt.key_wait_timeout" = 30_000, 100 to i32::MAX, GucFlags::UNIT_MS, Userset,
        c"Longest wait of a statement for a key that is not cached.",
        c"The wait can be cancelled, and ends with statement_timeout too.";
    pub NAPTIME: c"colcrypt.naptime" = 60, 1 to 86_400, GucFlags::UNIT_S, Sighup,
        c"Pause between looks for maintenance work in every database.",
        c"rotate_key wakes the worker at once.";
    pub CLOCK_PATIENCE: c"colcrypt.clock_patience" = 86_400, 1 to 31_536_000, GucFlags::UNIT_S, Sighup,
        c"How long keys' periods and schedules go on by the former time after the server's clock was set forward.",
        c"Time that the server runs. Whoever sets a wrong clock right meanwhile finds nothing rotated or ended early.";
    pub OWNER_CODE_TIMEOUT: c"colcrypt.owner_code_timeout" = 60_000, 0 to i32::MAX, GucFlags::UNIT_MS, Sighup,
        c"Longest time that a statement of a job may take on a table, in which code of the table's owner runs.",
        c"A CHECK, trigger, index or context expression that takes longer puts its job off; the fifth time in a row the job fails. 0 is without a limit.";
    pub MAX_WORKERS: c"colcrypt.max_workers" = 3, 1 to 1000, GucFlags::empty(), Sighup,
        c"Workers that move rows at the same time, in all databases together; as many again may keep records.",
        c"Each takes one of max_worker_processes. With more databases than that they take turns.";
    pub BATCH_BLOCKS: c"colcrypt.batch_blocks" = 1024, 1 to 1_000_000, GucFlags::empty(), Sighup,
        c"Most table blocks that a job moves in one transaction.",
        c"Batches are sized by colcrypt.batch_time below that.";
    pub BATCH_TIME: c"colcrypt.batch_time" = 30, 1 to 60_000, GucFlags::UNIT_MS, Sighup,
        c"How long one transaction of a job is to take.",
        c"Rows stay locked that long.";
    pub JOB_SHARE: c"colcrypt.job_share" = 25, 1 to 100, GucFlags::empty(), Sighup,
        c"Part of its time, in percent, that a job works; it rests for the remainder.",
        c"100 is without rests.";
    pub JOB_NICE: c"colcrypt.job_nice" = 10, 0 to 19, GucFlags::empty(), Sighup,
        c"How nice a worker is that moves rows: at 10 it gets a tenth of a session's part of a busy processor.",
        c"0 is as a session. A lower value holds for workers that start after it.";
    pub JOB_ROWS_PER_SECOND: c"colcrypt.job_rows_per_second" = 0, 0 to i32::MAX, GucFlags::empty(), Sighup,
        c"Most rows that the jobs of a database move in a second.",
        c"0 is no limit.";
    pub JOB_WAL_PER_SECOND: c"colcrypt.job_wal_per_second" = 0, 0 to i32::MAX, GucFlags::UNIT_KB, Sighup,
        c"Most WAL that the jobs of a database write in a second.",
        c"0 is no limit.";
    JOB_MAX_LAG: c"colcrypt.job_max_lag" = 256 * 1024, 0 to i32::MAX, GucFlags::UNIT_KB, Sighup,
        c"Jobs rest while a standby that streams is further behind than this.",
        c"0 is no limit.";
    JOB_MAX_ACTIVE: c"colcrypt.job_max_active" = 0, 0 to i32::MAX, GucFlags::empty(), Sighup,
        c"Jobs rest while more client sessions than this are active.",
        c"0 is no limit.";
    pub DESTRUCTION_WINDOW: c"colcrypt.destruction_window" = 30 * 86_400, 0 to i32::MAX, GucFlags::UNIT_S, Sighup,
        c"Time between scheduling the destruction of a key version and the destruction.",
        c"In it, cancel_key_destruction brings the version back.";
    pub DESTRUCTION_WINDOW_FLOOR: c"colcrypt.destruction_window_floor" = 7 * 86_400, 0 to i32::MAX, GucFlags::UNIT_S, Sighup,
        c"Shortest time before its destruction that may be asked for.",
        c"";
    pub USAGE_ENTRIES: c"colcrypt.usage_entries" = 4096, 16 to 1_000_000, GucFlags::empty(), Postmaster,
        c"Roles and key versions whose use shared memory can count between two flushes.",
        c"Each takes about 150 bytes. What has no place is counted as (other).";
    pub USAGE_FLUSH_INTERVAL: c"colcrypt.usage_flush_interval" = 10_000, 100 to 3_600_000, GucFlags::UNIT_MS, Sighup,
        c"Age at which counts of key use are written from shared memory to the catalog.",
        c"A crash loses what was counted since.";
    pub USAGE_MAX_UNFLUSHED: c"colcrypt.usage_max_unflushed" = 1 << 26, 16 to 1 << 26, GucFlags::empty(), Sighup,
        c"Encryptions of a key version that a crash may leave uncounted.",
        c"Encryption waits for the worker at this number; a sixteenth of it is written at once.";
    pub USAGE_DAYS: c"colcrypt.usage_days" = 7, 1 to 3650, GucFlags::empty(), Sighup,
        c"Days for which the use of keys is kept by minute; before, by day.",
        c"";
    pub USAGE_WARN: c"colcrypt.usage_warn" = 50, 1 to 95, GucFlags::empty(), Sighup,
        c"Part of a key version's bound, in percent, at which sessions warn.",
        c"";
    pub USAGE_ROTATE: c"colcrypt.usage_rotate" = 70, 1 to 95, GucFlags::empty(), Sighup,
        c"Part of a key version's bound, in percent, at which the worker rotates the key.",
        c"";
    pub USAGE_REFUSE: c"colcrypt.usage_refuse" = 85, 1 to 95, GucFlags::empty(), Sighup,
        c"Part of a key version's bound, in percent, at which encryption is refused.",
        c"";
    pub USAGE_NODES: c"colcrypt.usage_nodes" = 1, 1 to 1024, GucFlags::empty(), Sighup,
        c"Number of servers that encrypt with the same keys: each may its part of a key version's bound.",
        c"The same on all of them.";
    pub AUDIT_RING_EVENTS: c"colcrypt.audit_ring_events" = 1024, 1 to 1_000_000, GucFlags::empty(), Postmaster,
        c"Number of events that shared memory can hold until they are in the audit log.",
        c"Each takes about 1 kB. Where there is no room, an event goes to the server log.";
    pub AUDIT_ANCHOR_INTERVAL: c"colcrypt.audit_anchor_interval" = 3600, 0 to i32::MAX, GucFlags::UNIT_S, Sighup,
        c"How often the head of the audit log is written to the server log and sent as a notification.",
        c"0 is never. An anchor kept elsewhere shows a cut tail and a log made anew.";
}

/// What becomes of a query that a search index would serve whose key is not to be had.
#[derive(Clone, Copy, PartialEq, Eq, pgrx::PostgresGucEnum)]
pub enum WithoutKey {
    #[name = c"scan"]
    Scan,
    #[name = c"error"]
    Error,
}

pub static SEARCH_WITHOUT_KEY: GucSetting<WithoutKey> =
    GucSetting::<WithoutKey>::new(WithoutKey::Scan);

/// The part of a server among those that share keys.
#[derive(Clone, Copy, PartialEq, Eq, pgrx::PostgresGucEnum)]
pub enum Node {
    #[name = c"single"]
    Single,
    #[name = c"primary"]
    Primary,
    #[name = c"follower"]
    Follower,
}

static NODE: GucSetting<Node> = GucSetting::<Node>::new(Node::Single);
static ROWS_ELSEWHERE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static PRIMARY: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
pub static ALLOW_DROP: GucSetting<bool> = GucSetting::<bool>::new(false);
pub static VIEW_REWRITE: GucSetting<bool> = GucSetting::<bool>::new(true);
pub static SEARCH_REWRITE: GucSetting<bool> = GucSetting::<bool>::new(true);
pub static REQUIRE_MLOCK: GucSetting<bool> = GucSetting::<bool>::new(false);
static JOB_WINDOW: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static ROTATION_TIME: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static AGENT_PATH: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// Times of day, each empty for any.
static WINDOWS: [(&CStr, &CStr, &GucSetting<Option<CString>>); 2] = [
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

/// Defines the settings. Outside shared_preload_libraries one that only the postmaster takes cannot be defined, nor is
/// it needed.
pub fn define() {
    // SAFETY: a flag the postmaster set before it loaded us.
    let in_postmaster = unsafe { pg_sys::process_shared_preload_libraries_in_progress };
    for it in INTEGERS {
        if in_postmaster || it.changes != When::Postmaster {
            let (least, most) = it.range;
            GucRegistry::define_int_guc(
                it.name,
                it.short,
                it.long,
                it.setting,
                least,
                most,
                it.changes.context(),
                it.flags,
            );
        }
    }
    if in_postmaster {
        GucRegistry::define_bool_guc(
            c"colcrypt.require_mlock",
            c"Refuse to start when the key slab cannot be locked into memory.",
            c"When off, a failure to lock is a warning in the server log.",
            &REQUIRE_MLOCK,
            GucContext::Postmaster,
            GucFlags::default(),
        );
    }
    GucRegistry::define_bool_guc(
        c"colcrypt.allow_drop",
        c"Let DROP EXTENSION take keys and registered columns along.",
        c"Values under keys that are dropped are lost, unless a dump has the keys.",
        &ALLOW_DROP,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"colcrypt.view_rewrite",
        c"Write through access views by a statement on the table, where its meaning is certain.",
        c"When off, every row goes through the view's trigger.",
        &VIEW_REWRITE,
        GucContext::Userset,
        GucFlags::default(),
    );
    // SAFETY: the hook below has the signature of one and looks at no argument.
    unsafe {
        GucRegistry::define_bool_guc_with_hooks(
            c"colcrypt.search_rewrite",
            c"Let queries find rows by search indexes where they compare a decrypted column.",
            c"When off, such a query decrypts each row. Plans that were made before are made anew.",
            &SEARCH_REWRITE,
            GucContext::Userset,
            GucFlags::default(),
            None,
            Some(plans_are_over),
            None,
        );
        GucRegistry::define_enum_guc_with_hooks(
            c"colcrypt.search_without_key",
            c"What a query does that a search index would serve whose key is suspended, destroyed or out of reach.",
            c"scan decrypts each row, for whoever may; error says what is the matter with the key, so that nobody scans a large table unawares.",
            &SEARCH_WITHOUT_KEY,
            GucContext::Userset,
            GucFlags::default(),
            None,
            Some(plans_are_over_by_name),
            None,
        );
    }
    GucRegistry::define_enum_guc(
        c"colcrypt.node",
        c"The part of this server among those that share keys.",
        c"A follower makes and changes no key, and rotates none by itself: its primary does. single is a server of its own.",
        &NODE,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"colcrypt.primary",
        c"What people call the server that makes and changes keys for a follower.",
        c"It is told in errors and nothing is connected to.",
        &PRIMARY,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"colcrypt.rows_elsewhere",
        c"Servers that have rows of tables of this one, and look after these rows themselves.",
        c"Foreign servers by name, and citus for the other nodes' shards. Rotations and counts here leave such rows to them.",
        &ROWS_ELSEWHERE,
        GucContext::Sighup,
        GucFlags::default(),
    );
    for (name, short, setting) in WINDOWS {
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
    GucRegistry::define_string_guc(
        c"colcrypt.agent_path",
        c"The colcrypt executable that the key broker starts.",
        c"Empty means the executable named colcrypt that came with the library, or else the one beside the server's own.",
        &AGENT_PATH,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    // SAFETY: the name is a C string; unknown colcrypt.* settings become errors from here on.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"colcrypt".as_ptr()) };
}

/// What plans are made by has changed.
#[pg_guard]
unsafe extern "C-unwind" fn plans_are_over(_value: bool, _extra: *mut std::ffi::c_void) {
    // SAFETY: marks the session's plans, if there are any.
    unsafe { pg_sys::ResetPlanCache() };
}

#[pg_guard]
unsafe extern "C-unwind" fn plans_are_over_by_name(_value: i32, _extra: *mut std::ffi::c_void) {
    // SAFETY: as above.
    unsafe { pg_sys::ResetPlanCache() };
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

/// The part of this server among those that share keys, as it is configured.
pub fn rows_elsewhere() -> Vec<String> {
    let names = ROWS_ELSEWHERE.get().unwrap_or_default();
    let names = names.to_string_lossy().into_owned();
    let names = names.split(',').map(str::trim);
    names
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

pub fn node() -> Node {
    NODE.get()
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
        refusal_confirmations: REFUSAL_CONFIRMATIONS.get().max(1) as u32,
        refusal_interval_ms: positive(&REFUSAL_INTERVAL),
    }
}

/// The agent's executable that is set; none for the one that belongs to the library.
pub fn agent_path() -> Option<PathBuf> {
    let path = AGENT_PATH.get().filter(|path| !path.is_empty())?;
    Some(PathBuf::from(path.to_string_lossy().into_owned()))
}
