//! What a report is made of. Its JSON is this, so the names are part of the interface: docs/report.md has them.

use serde::{Deserialize, Serialize};

/// The form of the JSON.
pub const FORMAT: &str = "colcrypt-report-1";

/// Something that was read, or why it was not. "None" and "may not be seen" are two things.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Section<T> {
    Facts(T),
    LeftOut(String),
}

impl<T> Section<T> {
    pub fn facts(&self) -> Option<&T> {
        match self {
            Self::Facts(facts) => Some(facts),
            Self::LeftOut(_) => None,
        }
    }

    pub fn left_out(&self) -> Option<&str> {
        match self {
            Self::Facts(_) => None,
            Self::LeftOut(reason) => Some(reason),
        }
    }
}

/// The first rows of a list, and how many it has.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Listed<T> {
    pub total: i64,
    pub shown: Vec<T>,
}

impl<T> Listed<T> {
    /// Whether it has more rows than are shown.
    pub fn is_cut(&self) -> bool {
        self.total > self.shown.len() as i64
    }
}

/// Moments are texts in ISO 8601 with zone, always UTC; intervals are as PostgreSQL writes them.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Facts {
    pub format: String,
    pub program: String,
    pub about: About,
    /// The period: from the one moment on, up to the other.
    pub since: String,
    pub until: String,
    pub exceptions: Vec<Exception>,
    pub chain: Section<Chain>,
    pub chain_of_period: Section<ChainOfPeriod>,
    pub anchored: Section<Anchored>,
    pub anchors: Vec<Anchor>,
    pub events: Section<Buckets>,
    pub event_kinds: Section<Listed<EventKind>>,
    pub keyrings: Section<Listed<Keyring>>,
    pub keyring_versions: Section<Listed<KeyringVersion>>,
    pub key_totals: Section<Listed<KeyTotal>>,
    pub keys: Section<Listed<Key>>,
    pub moves: Section<Listed<Act>>,
    pub period_totals: Section<PeriodTotals>,
    pub periods: Section<Listed<Period>>,
    pub rotations: Section<Listed<Act>>,
    pub jobs: Section<Listed<Job>>,
    pub census_totals: Section<CensusTotals>,
    pub census: Section<Listed<Census>>,
    pub searched: Section<Listed<Searched>>,
    pub look_ups: Section<Listed<LookUps>>,
    pub usage: Section<Listed<Usage>>,
    pub usage_by_key: Section<Listed<KeyUsage>>,
    pub grants: Section<Listed<Grant>>,
    pub access_acts: Section<Listed<Act>>,
    pub refusals: Section<Listed<Refusal>>,
    pub unusual: Section<Listed<Act>>,
    pub approvals: Section<Listed<Approval>>,
    pub destructions: Section<Listed<Destruction>>,
    pub destruction_acts: Section<Listed<Act>>,
    pub escrows: Section<Listed<Escrow>>,
    pub custodians: Section<Listed<Custodian>>,
    pub drills: Section<Listed<Drill>>,
    pub escrow_acts: Section<Listed<Act>>,
    pub findings: Section<Findings>,
}

impl Facts {
    /// Whether the audit log is what it was, as far as it was looked at.
    pub fn chain_is_broken(&self) -> bool {
        self.chain.facts().is_some_and(|chain| !chain.ok)
            || self.anchors.iter().any(|anchor| !anchor.holds())
    }

    /// What was not read, by the names of the fields, and why.
    pub fn left_out(&self) -> Vec<(&'static str, &str)> {
        macro_rules! reasons {
            ($($field:ident)+) => {
                [$((stringify!($field), self.$field.left_out())),+]
            };
        }
        let all = reasons!(
            chain chain_of_period anchored events event_kinds keyrings keyring_versions key_totals keys moves
            period_totals periods rotations jobs census_totals census searched look_ups usage usage_by_key grants access_acts refusals
            unusual approvals destructions destruction_acts escrows custodians drills escrow_acts findings
        );
        all.into_iter()
            .filter_map(|(field, reason)| Some((field, reason?)))
            .collect()
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct About {
    pub database: String,
    pub role: String,
    pub is_standby: bool,
    /// The moment that everything in the report is of.
    pub read_at: String,
    pub server: String,
    pub extension: String,
    pub cluster: String,
}

/// What departs from what one would want to see.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Exception {
    pub what: String,
    /// The chapter that has more.
    pub chapter: String,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Chain {
    pub ok: bool,
    pub events: i64,
    pub head_seq: Option<i64>,
    pub head_hash: Option<String>,
    pub first_bad: Option<i64>,
    pub problem: Option<String>,
    pub not_recorded: i64,
    /// The record at which it breaks, where it can be seen.
    #[serde(default)]
    pub bad: Option<Entry>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ChainOfPeriod {
    pub records: i64,
    pub first: Option<Entry>,
    pub last: Option<Entry>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Entry {
    pub seq: i64,
    pub at: String,
    pub event: String,
    pub role: String,
    pub previous_hash: String,
    pub hash: String,
}

/// The last head that the server wrote into its log.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Anchored {
    pub seq: i64,
    pub at: Option<String>,
    pub hash: Option<String>,
    pub every: Option<String>,
}

/// A head that was written down elsewhere, and what the log has there.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Anchor {
    pub seq: i64,
    pub hash: String,
    pub found: Section<Option<String>>,
}

impl Anchor {
    pub fn holds(&self) -> bool {
        // Where nobody may look nothing is said.
        self.found
            .facts()
            .is_none_or(|found| found.as_deref() == Some(&self.hash))
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Buckets {
    /// `day`, `week`, `month` or `year`.
    pub unit: String,
    pub buckets: Vec<Bucket>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Bucket {
    pub start: String,
    pub done: i64,
    pub refused: i64,
    pub alarms: i64,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct EventKind {
    pub event: String,
    pub outcome: String,
    pub records: i64,
    pub happened: i64,
    pub roles: i64,
    pub first_at: String,
    pub last_at: String,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Keyring {
    pub keyring: String,
    pub version: i32,
    pub keys: i64,
    pub provider: Option<String>,
    pub provider_kind: Option<String>,
    pub root_key: Option<String>,
    pub roots: i64,
    pub escrows: i64,
    pub root_problem: Option<String>,
    pub wrapping: String,
    pub key_source: String,
    pub four_eyes: bool,
    pub approval_window: String,
    pub kek_created_at: String,
    pub kek_cryptoperiod: Option<String>,
    pub next_rotation_at: Option<String>,
    pub overdue: bool,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct KeyringVersion {
    pub keyring: String,
    pub version: i32,
    pub state: String,
    pub created_at: String,
    pub deactivated_at: Option<String>,
    pub compromised_at: Option<String>,
    pub destroyed_at: Option<String>,
    pub changed_by: String,
    pub reason: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct KeyTotal {
    pub suite: String,
    pub state: String,
    pub versions: i64,
    /// Of these, the ones that new values are encrypted with.
    pub current: i64,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Key {
    pub key: String,
    pub key_id: String,
    pub suite: String,
    pub keyring: Option<String>,
    pub version: i32,
    pub versions: i64,
    pub state: String,
    pub created_at: Option<String>,
    pub activated_at: Option<String>,
    pub next_rotation_at: Option<String>,
    pub why: Option<String>,
    pub overdue: bool,
    pub problem: Option<String>,
    /// Of how many values a version may encrypt.
    pub used_percent: Option<f64>,
    /// The first few columns under it, and how many there are.
    pub columns: Vec<String>,
    pub columns_total: i64,
}

/// A record of the audit log.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Act {
    pub seq: i64,
    pub at: String,
    pub event: String,
    pub outcome: String,
    pub role: String,
    pub acting_as: String,
    pub key: Option<String>,
    pub version: Option<i32>,
    pub relation: Option<String>,
    pub repeats: i64,
    pub detail: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct PeriodTotals {
    pub versions: i64,
    pub kept: i64,
    pub overrun: i64,
    pub without_end: i64,
    /// Keys whose versions may decrypt without end.
    pub decrypt_without_end: i64,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Period {
    pub key: String,
    pub version: i32,
    pub state: String,
    pub activated_at: String,
    pub period: Option<String>,
    pub ends_at: Option<String>,
    pub used_until: Option<String>,
    pub used_seconds: f64,
    pub period_seconds: Option<f64>,
    pub recipient_period: Option<String>,
    pub overrun: bool,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Job {
    pub job: i64,
    pub kind: String,
    pub column: String,
    pub key: Option<String>,
    pub target_version: i32,
    pub phase: String,
    pub rows_done: i64,
    pub rows_failed: i64,
    pub created_at: String,
    pub finished_at: Option<String>,
    pub problem: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct CensusTotals {
    pub columns: i64,
    pub never_counted: i64,
    pub rows: i64,
    pub rows_current: i64,
    pub rows_older: i64,
    pub rows_compromised: i64,
    pub rows_shredded: i64,
    pub oldest_count: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Census {
    pub column: String,
    pub rotation: String,
    pub key: String,
    pub version: i32,
    pub is_current: bool,
    pub state: Option<String>,
    pub rows: i64,
    pub counted_at: String,
    pub shredded: bool,
}

/// A search index.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Searched {
    pub column: String,
    pub kind: String,
    pub is_unique: bool,
    pub bits: i32,
    pub key: Option<String>,
    pub domain: Option<String>,
    pub versions: Option<String>,
    pub thief_learns: Option<String>,
    pub rows: Option<i64>,
    pub nulls: Option<i64>,
    pub distinct_terms: Option<i64>,
    pub largest_group: Option<i64>,
    pub largest_share: Option<f64>,
    pub measured_at: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LookUps {
    pub role: String,
    pub key: String,
    pub look_ups: i64,
    pub limit: Option<i32>,
    pub limit_per: Option<String>,
    pub first_day: String,
    pub last_day: String,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Usage {
    pub role: String,
    pub encryptions: i64,
    pub decryptions: i64,
    pub keys: i64,
    pub first_day: String,
    pub last_day: String,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct KeyUsage {
    pub role: String,
    pub key: String,
    pub encryptions: i64,
    pub decryptions: i64,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Grant {
    pub grantee: String,
    pub keys: i64,
    pub encrypt: i64,
    pub decrypt: i64,
    pub manage: i64,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Refusal {
    pub outcome: String,
    pub event: String,
    pub role: String,
    pub key: Option<String>,
    pub sqlstate: Option<String>,
    pub detail: Option<String>,
    pub attempts: i64,
    pub first_at: String,
    pub last_at: String,
    pub addresses: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Approval {
    pub request: i64,
    pub function: String,
    pub keyring: Option<String>,
    pub key: Option<String>,
    pub requested_by: String,
    pub requested_at: String,
    pub outcome: String,
    pub decided_by: Option<String>,
    pub decided_at: Option<String>,
    pub reason: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Destruction {
    pub key: String,
    pub version: i32,
    pub state: String,
    pub destroy_at: Option<String>,
    pub destroyed_at: Option<String>,
    pub by: Option<String>,
    pub reason: Option<String>,
    /// Rows needed it, and their values are lost on purpose.
    pub shreds: bool,
    pub problem: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Escrow {
    pub escrow: String,
    pub keyrings: i64,
    pub keyrings_without: i64,
    pub holders: i64,
    pub checks_overdue: i64,
    pub drilled_at: Option<String>,
    pub drill_due: Option<String>,
    pub drill_overdue: bool,
    pub retired_at: Option<String>,
    pub retired_by: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Custodian {
    pub escrow: String,
    pub circle: String,
    pub holder: String,
    pub since: String,
    pub checked_at: Option<String>,
    pub check_due: Option<String>,
    pub is_overdue: bool,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Drill {
    pub escrow: String,
    pub drilled_at: String,
    pub succeeded: bool,
    pub recorded_by: String,
    /// Who took part, as the signed report says.
    #[serde(default)]
    pub holders: Vec<String>,
    #[serde(default)]
    pub key_versions: Option<i64>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Findings {
    pub critical: i64,
    pub warnings: i64,
    pub notices: i64,
    pub list: Listed<Finding>,
}

/// As `colcrypt doctor` has it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Finding {
    pub severity: String,
    pub finding: String,
    pub object: Option<String>,
    pub detail: Option<String>,
    pub meaning: String,
    pub remedy: String,
}
