//! Everything that can go wrong. What the user reads of it is in `words`. No variant carries a key, a
//! plaintext or a credential.

mod parts;
mod report;
mod search;
#[cfg(test)]
mod tests;
mod unrecorded;
mod words;

use colcrypt_core::memory::OutOfMemory;
use colcrypt_core::state::{TransitionError, Verb};
use colcrypt_core::{CryptoError, FormatError, KeyId, KeyState, KeyVersion};
use colcrypt_protocol::Failure;

pub use report::Report;
pub use search::SearchError;
pub use unrecorded::Unrecorded;

/// Longest argument that is no value and no context, in bytes.
pub const LONGEST_ARGUMENT: usize = 64 * 1024;

pub type Result<T> = std::result::Result<T, Error>;

/// What tells a key version from another of the same number, on another branch of the database.
#[derive(Debug)]
pub struct Branch {
    pub check_value: String,
    pub made_at: String,
}

/// What a role may do with a keyring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyringPrivilege {
    /// Make keys in it.
    Create,
    /// Change its root keys, its rules and its grants.
    Manage,
}

impl KeyringPrivilege {
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Manage => "manage",
        }
    }
}

/// What a role may do with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Privilege {
    Encrypt,
    Decrypt,
    /// To make the terms by which encrypted values are found.
    Search,
    Manage,
}

impl Privilege {
    pub const ALL: [Self; 4] = [Self::Encrypt, Self::Decrypt, Self::Search, Self::Manage];

    pub fn name(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::Search => "search",
            Self::Manage => "manage",
        }
    }
}

#[derive(Debug)]
pub enum Error {
    NotPreloaded,
    NullArgument(&'static str),
    UnknownKey(String),
    /// The same where the name may be a value in the wrong place.
    NoKeyNamedSo,
    /// Wiped twice while one value was at hand.
    KeyWiped {
        key: String,
        version: KeyVersion,
    },
    /// The system gives no timer.
    NoWatch {
        why: String,
    },
    UnknownKeyId(KeyId),
    /// What only the primary does was asked of a server that follows it.
    Follower {
        why: String,
    },
    UnknownKeyVersion {
        key: String,
        version: KeyVersion,
    },
    UnknownObject {
        what: &'static str,
        name: String,
    },
    Duplicate {
        what: &'static str,
        name: String,
    },
    /// Something stands on what is to be dropped.
    Needed {
        what: &'static str,
        name: String,
        /// What stands on it, as a sentence has it.
        by: String,
        hint: String,
    },
    InvalidParameter {
        message: String,
        hint: String,
    },
    KeyDenied {
        key: String,
        role: String,
        privilege: Privilege,
    },
    KeyringDenied {
        keyring: String,
        role: String,
        privilege: KeyringPrivilege,
    },
    KeyState {
        key: String,
        version: KeyVersion,
        state: KeyState,
        /// Who moved it there, and when.
        by: String,
        at: String,
        privilege: Privilege,
    },
    /// Destroying the version would lose rows.
    RowsNeedVersion {
        key: String,
        version: KeyVersion,
        /// One line a column: its name and how many rows.
        holders: String,
    },
    /// Destroying the version would lose rows of other servers, or nobody knows whether it would.
    NodesNeedVersion {
        key: String,
        version: KeyVersion,
        /// One line a server: its name and what it says.
        nodes: String,
    },
    RowsOutOfReach {
        /// The table, qualified.
        relation: String,
        why: String,
    },
    ReasonMissing(Verb),
    /// What a verb would do to one version of a key has no place in its life.
    TransitionRefused {
        key: String,
        version: KeyVersion,
        by: String,
        at: String,
        refused: TransitionError,
    },
    /// No version of a key is in a state that a verb applies to.
    NothingToDo {
        key: String,
        verb: Verb,
        /// Versions and their states.
        versions: String,
    },
    /// A key that is switched off is not rotated.
    KeySuspended {
        key: String,
        version: KeyVersion,
        by: String,
        at: String,
    },
    WindowTooShort {
        asked: String,
        floor: String,
    },
    Malformed(FormatError),
    MalformedText,
    Authentication {
        key: String,
        version: KeyVersion,
        has_context: bool,
        context_given: bool,
        /// The version of that number that is here.
        here: Option<Branch>,
    },
    WrongType {
        stored: String,
        asked: String,
        /// Whether a type is called so now.
        is_known: bool,
    },
    WitnessNotNull,
    AlreadyEncrypted,
    NoBinaryIo(String),
    /// A context of a parameter of the client's whose type nobody said.
    UntypedParameter {
        number: i32,
    },
    /// A context of a NULL whose type nobody said.
    UntypedNull,
    PlaintextInvalid {
        type_name: String,
    },
    /// An integer written in another width.
    IntegerOutOfRange {
        type_name: String,
    },
    ValueTooLarge {
        bytes: usize,
    },
    /// A name, a reason, settings.
    ArgumentTooLong {
        name: &'static str,
        bytes: usize,
    },
    OutOfMemory {
        bytes: usize,
    },
    Kms {
        keyring: Option<String>,
        failure: Failure,
    },
    SlabFull {
        slots: usize,
    },
    QueueFull,
    KeyWaitTimeout {
        waited_ms: u64,
        broker_running: bool,
    },
    /// A root key that the keyring has already, by this or another name.
    RootExists {
        keyring: String,
        root: String,
    },
    UnknownRoot {
        keyring: String,
        root: String,
        /// The root keys it has.
        roots: String,
    },
    /// Without the root key nothing would open the keyring.
    RootNeeded {
        keyring: String,
        root: String,
        why: String,
    },
    CatalogCorrupt(String),
    /// What the library looks for, and the extension's catalog of another release has not.
    CatalogOfOtherRelease(String),
    UsageLimit {
        key: String,
        version: KeyVersion,
        total: u64,
        limit: u64,
        bound: u64,
    },
    /// A role looked up by a search key as often as it may.
    SearchLimit {
        key: String,
        role: String,
        most: u32,
        per: String,
    },
    UsageUnrecorded {
        key: String,
        why: Unrecorded,
    },
    PeriodOver {
        key: String,
        version: KeyVersion,
        privilege: Privilege,
        end: String,
    },
    NotTableOwner {
        table: String,
    },
    Search(SearchError),
    TemporaryTable {
        table: String,
    },
    AuditAppendOnly,
    Column {
        message: String,
        hint: String,
    },
    /// A row's own key is none that its value can be written under.
    RowKey {
        message: String,
        hint: String,
    },
    /// What was asked of a job cannot be done in its phase.
    JobState {
        job: i64,
        phase: String,
        hint: String,
    },
    /// An access view's table has no key by which a row is found again.
    NoRowKey {
        table: String,
    },
    /// A column that holds ciphertexts was changed between being found and being locked.
    ColumnChanged {
        column: String,
    },
    /// The name of a table that was found by OID means another relation by now.
    OtherRelation,
    /// The row that is written through an access view is not what it was when it was read.
    RowChanged {
        table: String,
    },
    GeneratedColumn {
        column: String,
    },
    /// A row changes what its value is bound to, and leaves the value as it is.
    ComesLoose {
        column: String,
        by: String,
    },
    /// A value that an enforced column does not take.
    NotOfColumn {
        column: String,
        /// What it takes: the key's name, the type, whether bound to a context (none: either).
        key: String,
        type_name: String,
        is_bound: Option<bool>,
        why: String,
    },
    /// A write to an access view whose trigger does not fire.
    ViewIsSilent,
    NotAccessView {
        name: String,
    },
    /// Something hangs on a column that cannot be there while it is migrated in place.
    MigrationBlocked {
        column: String,
        /// One line each.
        blocks: String,
    },
    /// Something would be lost, and nobody said that it may be.
    LossesNotAccepted {
        column: String,
        losses: String,
    },
    /// A column is being migrated already, or its table is.
    MigrationUnderWay {
        table: String,
        job: i64,
        phase: String,
    },
    /// A column's rows and their twins do not stay in step.
    OutOfStep {
        why: String,
    },
    /// A value that a migration was not ordered for.
    OtherKey {
        key: String,
    },
    /// An order on values that are bound to no place.
    Unplaced {
        column: String,
        values: i64,
    },
    /// One of them, which an order does not cover.
    ValueUnplaced,
    /// A decision that code which somebody else wrote may have taken.
    Enclosed {
        function: String,
        why: String,
    },
    OwnRequest {
        request: i64,
        requested_by: String,
    },
    NotOwnRequest {
        request: i64,
    },
    RequestExpired {
        request: i64,
    },
    RequestDecided {
        request: i64,
        outcome: String,
    },
    RequestVoid {
        request: i64,
        why: String,
    },
    Random,
    Spi(String),
}

impl From<SearchError> for Error {
    fn from(error: SearchError) -> Self {
        Self::Search(error)
    }
}

impl From<FormatError> for Error {
    fn from(error: FormatError) -> Self {
        match error {
            FormatError::OutOfMemory(gone) => gone.into(),
            other => Self::Malformed(other),
        }
    }
}

impl From<OutOfMemory> for Error {
    fn from(gone: OutOfMemory) -> Self {
        Self::OutOfMemory { bytes: gone.bytes }
    }
}

impl From<CryptoError> for Error {
    fn from(error: CryptoError) -> Self {
        match error {
            CryptoError::Random => Self::Random,
            CryptoError::OutOfMemory(gone) => gone.into(),
            other => Self::CatalogCorrupt(other.to_string()),
        }
    }
}

/// What an error is about, as far as it says.
#[derive(Default)]
pub struct Subject<'a> {
    pub key: Option<&'a str>,
    pub version: Option<u32>,
}

/// For the audit log.
impl Error {
    /// Whether somebody asked for what he may not have.
    pub fn is_denial(&self) -> bool {
        matches!(
            self,
            Self::KeyDenied { .. }
                | Self::KeyringDenied { .. }
                | Self::NotTableOwner { .. }
                | Self::OwnRequest { .. }
                | Self::Enclosed { .. }
                | Self::SearchLimit { .. }
        )
    }

    /// Whether a value does not open and never will, as it is and as the catalog is: nobody was refused, and
    /// nothing is out of order that may be in order again.
    pub fn is_of_a_closed_value(&self) -> bool {
        matches!(
            self,
            Self::Malformed(_)
                | Self::UnknownKeyId(_)
                | Self::UnknownKeyVersion { .. }
                | Self::Authentication { .. }
                | Self::KeyState {
                    state: KeyState::Destroyed,
                    ..
                }
        )
    }

    /// Whether a value is not of the type that is asked for.
    pub fn is_of_a_type(&self) -> bool {
        matches!(
            self,
            Self::WrongType { .. } | Self::PlaintextInvalid { .. } | Self::IntegerOutOfRange { .. }
        )
    }

    /// Whether a call that would use a key was wrong in itself, whatever the key and the value: no event.
    pub fn is_callers_slip(&self) -> bool {
        matches!(
            self,
            Self::NotPreloaded
                | Self::NullArgument(_)
                | Self::InvalidParameter { .. }
                | Self::MalformedText
                | Self::WrongType { .. }
                | Self::WitnessNotNull
                | Self::AlreadyEncrypted
                | Self::NoBinaryIo(_)
                | Self::UntypedParameter { .. }
                | Self::UntypedNull
                | Self::IntegerOutOfRange { .. }
                | Self::ValueTooLarge { .. }
                | Self::ArgumentTooLong { .. }
                | Self::OutOfMemory { .. }
        )
    }

    pub fn subject(&self) -> Subject<'_> {
        match self {
            Self::KeyDenied { key, .. }
            | Self::NothingToDo { key, .. }
            | Self::SearchLimit { key, .. }
            | Self::UsageUnrecorded { key, .. } => Subject {
                key: Some(key),
                version: None,
            },
            Self::KeyState { key, version, .. }
            | Self::KeySuspended { key, version, .. }
            | Self::TransitionRefused { key, version, .. }
            | Self::RowsNeedVersion { key, version, .. }
            | Self::NodesNeedVersion { key, version, .. }
            | Self::UsageLimit { key, version, .. }
            | Self::PeriodOver { key, version, .. }
            | Self::UnknownKeyVersion { key, version }
            | Self::KeyWiped { key, version }
            | Self::Authentication { key, version, .. } => Subject {
                key: Some(key),
                version: Some(version.number()),
            },
            _ => Subject::default(),
        }
    }
}
