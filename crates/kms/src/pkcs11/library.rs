//! A vendor's library as its thread has it: loaded, initialised, and with the tokens that are open in it.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use colcrypt_protocol::FailureKind;
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    session::Session,
    slot::{Slot, TokenInfo},
};

use super::pin::Mark;
use crate::{KmsError, clock::Moment};

/// The shortest time between two restarts of the library in search of an absent token.
const BETWEEN_STARTS: Duration = Duration::from_secs(3);

/// Which token, as the configuration names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct TokenName {
    pub(super) label: Option<String>,
    pub(super) serial: Option<String>,
}

impl TokenName {
    pub(super) fn fits(&self, info: &TokenInfo) -> bool {
        let is = |wanted: &Option<String>, found: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == found)
        };
        is(&self.label, info.label()) && is(&self.serial, info.serial_number())
    }
}

impl std::fmt::Display for TokenName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.label, &self.serial) {
            (Some(label), None) => write!(f, "token \"{label}\""),
            (Some(label), Some(serial)) => write!(f, "token \"{label}\" (serial {serial})"),
            (None, serial) => write!(f, "token of serial {}", serial.as_deref().unwrap_or("?")),
        }
    }
}

/// A session with a token.
pub(super) struct Open {
    pub(super) session: Session,
    /// The PIN that the token accepted.
    pub(super) logged_in: Option<Mark>,
}

/// A PIN that a token did not take. It is tried once more, since a member of a cluster may not know a new PIN yet, and
/// then no more: a token locks itself after a few wrong ones.
pub(super) struct Refused {
    pub(super) tries: u32,
    /// As what: one that is no PIN at all is not the right one either, and no refusal.
    pub(super) kind: FailureKind,
    pub(super) last: Moment,
}

/// Every token in use of one library.
#[derive(Default)]
pub(super) struct Tokens {
    pub(super) slots: HashMap<TokenName, Slot>,
    pub(super) open: HashMap<Slot, Open>,
    /// PINs that a token (by serial number) refused.
    pub(super) refused: HashMap<(String, Mark), Refused>,
    started: Option<Instant>,
}

impl Tokens {
    pub(super) fn forget_all(&mut self) {
        self.slots.clear();
        self.open.clear();
    }

    pub(super) fn forget(&mut self, name: &TokenName) {
        if let Some(slot) = self.slots.remove(name) {
            self.open.remove(&slot);
        }
    }

    pub(super) fn may_start(&mut self) -> bool {
        let now = Instant::now();
        let may = self
            .started
            .is_none_or(|last| now.duration_since(last) >= BETWEEN_STARTS);
        if may {
            self.started = Some(now);
        }
        may
    }
}

/// The library itself; lives in its thread.
pub(super) struct Library {
    path: PathBuf,
    context: Option<Pkcs11>,
    pub(super) tokens: Tokens,
}

impl Library {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            context: None,
            tokens: Tokens::default(),
        }
    }

    /// The library, loaded and initialised at the first call that needs it.
    pub(super) fn context(&mut self) -> Result<Pkcs11, KmsError> {
        if let Some(context) = &self.context {
            return Ok(context.clone());
        }
        trustworthy(&self.path)?;
        let shown = self.path.display();
        let context = Pkcs11::new(&self.path).map_err(|error| match error {
            Error::LibraryLoading(error) => {
                KmsError::config(format!("PKCS#11 module {shown} cannot be loaded: {error}"))
            }
            Error::MissingSymbol(name) => {
                KmsError::config(format!("{shown} is not a PKCS#11 module: it has no {name}"))
            }
            error => KmsError::new(
                FailureKind::Unavailable,
                format!("PKCS#11 module {shown} does not start: {error}"),
            ),
        })?;
        self.initialize(&context)?;
        self.context = Some(context.clone());
        Ok(context)
    }

    /// Whether there is nothing in use that its thread would have to keep.
    pub(super) fn is_idle(&self) -> bool {
        self.context.is_none()
    }

    fn initialize(&self, context: &Pkcs11) -> Result<(), KmsError> {
        match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(()),
            Err(error) => Err(KmsError::new(
                FailureKind::Unavailable,
                format!(
                    "PKCS#11 module {} does not start: {error}; is its own configuration in place?",
                    self.path.display()
                ),
            )),
        }
    }

    /// Finalises the library, so that the next call initialises it again: many look for tokens only then.
    pub(super) fn begin_anew(&mut self) {
        self.tokens.forget_all();
        if let Some(context) = self.context.take() {
            // An error here is ignored: it may have the same cause as what the restart is to mend.
            let _ = context.finalize();
        }
    }
}

/// Refuses a library that others can write: they could run code in the agent.
fn trustworthy(path: &Path) -> Result<(), KmsError> {
    let shown = path.display();
    let meta = fs::metadata(path).map_err(|error| {
        KmsError::config(format!("PKCS#11 module {shown} cannot be loaded: {error}"))
    })?;
    let user = rustix::process::geteuid().as_raw();
    if meta.mode() & 0o022 != 0 || (meta.uid() != 0 && meta.uid() != user) {
        return Err(KmsError::config(format!(
            "PKCS#11 module {shown} can be changed by others than root and the server's user, who could \
             then run code beside the keys: chown root and chmod 0755 it"
        )));
    }
    Ok(())
}
