//! Keeps keys in memory and out of everything else: core dumps, debuggers, swap, panic messages.

use rustix::{
    mm::{MlockAllFlags, mlockall},
    process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit},
    thread::{CapabilitySet, capabilities},
};

/// Replaces the default panic message, whose payload could hold anything, with the location alone.
pub fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info
            .location()
            .map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        eprintln!("colcrypt: internal error at {place}");
    }));
}

/// Forbids core dumps and ptrace by other processes of the same user. Says what could not be done.
pub fn lock_down() -> Vec<String> {
    let mut warnings = Vec::new();
    let no_core = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = setrlimit(Resource::Core, no_core) {
        warnings.push(format!("core dumps could not be turned off: {error}"));
    }
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        warnings.push(format!("debuggers could not be kept out: {error}"));
    }
    warnings
}

/// Locks memory. Under a limit nothing is locked at all: once it is reached every allocation fails, which is worse than
/// swap.
///
/// # Errors
/// Why not.
pub fn lock_memory() -> Result<(), String> {
    let unlimited = getrlimit(Resource::Memlock).current.is_none();
    let privileged =
        capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    if !unlimited && !privileged {
        return Err(
            "raise the server's limit (LimitMEMLOCK=infinity in its systemd unit)".to_owned(),
        );
    }
    // ONFAULT: stacks and arenas are reserved large and used little.
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
        .map_err(|error| error.to_string())
}
