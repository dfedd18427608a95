//! The hash chain of the audit log: what a record's hash covers, and the judge of a whole chain.
//!
//! A record's hash is the SHA-256 of [`DOMAIN`], the hash before it and every field, in the order of
//! [`Record`]: each as a length of four bytes (big-endian) and that many bytes, a missing field as the
//! length `0xffffffff`. Texts are UTF-8, numbers big-endian two's complement, a time is in microseconds
//! since 2000-01-01 UTC. The first record stands on a hash of the log's random identity, which is its
//! detail, so that no two logs share a beginning.

use std::fmt;

use aws_lc_rs::digest;

/// What keeps these hashes apart from all others.
pub const DOMAIN: &[u8] = b"colcrypt audit log 1";
/// The event of the first record.
pub const GENESIS_EVENT: &str = "audit_log_created";

const ABSENT: u32 = u32::MAX;

/// A link of the chain.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// From exactly 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the first record of the log with this identity stands on.
pub fn genesis(log: &[u8; 16]) -> Hash {
    let mut hasher = Hasher::new();
    hasher.field(Some(log));
    hasher.finish()
}

/// One record, as it is hashed.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    pub seq: i64,
    /// Microseconds since 2000-01-01 UTC.
    pub at: i64,
    pub event: &'a str,
    pub outcome: &'a str,
    pub session_role: &'a str,
    pub current_role: &'a str,
    pub client_addr: Option<&'a str>,
    pub database: &'a str,
    pub pid: i32,
    pub key_id: Option<&'a str>,
    pub key: Option<&'a str>,
    pub version: Option<i32>,
    pub relation: Option<&'a str>,
    pub repeats: i32,
    pub detail: Option<&'a str>,
    pub sqlstate: Option<&'a str>,
}

impl Record<'_> {
    /// The record's hash, standing on the one before it.
    pub fn hash(&self, previous: Hash) -> Hash {
        let mut hasher = Hasher::new();
        hasher.field(Some(&previous.0));
        hasher.field(Some(&self.seq.to_be_bytes()));
        hasher.field(Some(&self.at.to_be_bytes()));
        for text in [
            self.event,
            self.outcome,
            self.session_role,
            self.current_role,
        ] {
            hasher.field(Some(text.as_bytes()));
        }
        hasher.text(self.client_addr);
        hasher.field(Some(self.database.as_bytes()));
        hasher.field(Some(&self.pid.to_be_bytes()));
        hasher.text(self.key_id);
        hasher.text(self.key);
        hasher.field(self.version.map(i32::to_be_bytes).as_ref().map(|v| &v[..]));
        hasher.text(self.relation);
        hasher.field(Some(&self.repeats.to_be_bytes()));
        hasher.text(self.detail);
        hasher.text(self.sqlstate);
        hasher.finish()
    }
}

struct Hasher(digest::Context);

impl Hasher {
    fn new() -> Self {
        let mut hasher = Self(digest::Context::new(&digest::SHA256));
        hasher.field(Some(DOMAIN));
        hasher
    }

    fn field(&mut self, bytes: Option<&[u8]>) {
        let length = bytes.map_or(ABSENT, |bytes| bytes.len() as u32);
        self.0.update(&length.to_be_bytes());
        self.0.update(bytes.unwrap_or_default());
    }

    fn text(&mut self, text: Option<&str>) {
        self.field(text.map(str::as_bytes));
    }

    fn finish(self) -> Hash {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.0.finish().as_ref());
        Hash(hash)
    }
}

/// A place in the chain that somebody wrote down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    pub seq: i64,
    pub hash: Hash,
}

/// What is wrong with a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("records are missing before it: {expected} was to come")]
    Gap { expected: i64 },
    #[error("the log does not begin with the record of its creation")]
    Genesis,
    #[error("it does not stand on the record before it")]
    Previous,
    #[error("its contents are not what was hashed")]
    Altered,
    #[error("it is another record than the anchored one")]
    Anchor,
    #[error("the log ends before the anchored record")]
    Truncated,
}

/// Goes along a chain, record by record.
pub struct Verifier {
    head: Option<Anchor>,
    anchors: Vec<Anchor>,
}

impl Verifier {
    /// Of a whole log, which must hold the anchors.
    pub fn new(anchors: Vec<Anchor>) -> Self {
        Self {
            head: None,
            anchors,
        }
    }

    /// The last good record.
    pub fn head(&self) -> Option<Anchor> {
        self.head
    }

    /// The next record, by its number, with the two hashes that stand in it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn push(&mut self, record: &Record<'_>, previous: Hash, hash: Hash) -> Result<(), Fault> {
        let expected = self.head.map_or(1, |head| head.seq + 1);
        if record.seq != expected {
            return Err(Fault::Gap { expected });
        }
        let stands_on = match self.head {
            Some(head) => head.hash,
            None => log_identity(record)
                .map(|log| genesis(&log))
                .ok_or(Fault::Genesis)?,
        };
        if previous != stands_on {
            return Err(Fault::Previous);
        }
        if record.hash(previous) != hash {
            return Err(Fault::Altered);
        }
        let here = Anchor {
            seq: record.seq,
            hash,
        };
        if self
            .anchors
            .iter()
            .any(|anchor| anchor.seq == here.seq && *anchor != here)
        {
            return Err(Fault::Anchor);
        }
        self.head = Some(here);
        Ok(())
    }

    /// After the last record.
    ///
    /// # Errors
    /// [`Fault::Truncated`] when an anchor was not reached.
    pub fn finish(&self) -> Result<(), Fault> {
        let end = self.head.map_or(0, |head| head.seq);
        if self.anchors.iter().any(|anchor| anchor.seq > end) {
            return Err(Fault::Truncated);
        }
        Ok(())
    }
}

fn log_identity(first: &Record<'_>) -> Option<[u8; 16]> {
    let mut log = [0; 16];
    let detail = (first.event == GENESIS_EVENT)
        .then_some(first.detail)
        .flatten()?;
    hex::decode_to_slice(detail, &mut log).ok()?;
    Some(log)
}
