//! Why a condition on an encrypted column is not served by a search index, in words, and what was decided of the
//! conditions of a statement that somebody asks about.

use std::cell::RefCell;
use std::fmt;

use colcrypt_search::Kind;
use pgrx::pg_sys;

/// Why a condition is left to a scan that decrypts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    SettingOff,
    NoIndex(Kind),
    NotReady(Kind),
    OlderSnapshot,
    NoRight,
    OutOfUse,
    OutOfReach,
    NotKept(String),
    NotHere(String),
    Volatile,
    SameRow,
    Operator,
    OtherType,
    OtherLength,
    OtherGuard,
    Collation,
    NotInOrder,
    NoPiece,
    OtherUnicode,
    FullJoin,
    Shape,
}

impl Why {
    /// The kind of index that would serve, where that is what is missing.
    pub const fn kind(&self) -> Option<Kind> {
        match self {
            Self::NoIndex(kind) | Self::NotReady(kind) => Some(*kind),
            _ => None,
        }
    }
}

/// What a search index lacks that would have served a condition, in the order in which they are counted.
pub const LACKS: [&str; 9] = [
    "no index",
    "not ready",
    "no right",
    "key out of use",
    "key out of reach",
    "not kept",
    "other Unicode",
    "other type",
    "other length",
];

impl Why {
    /// Which of [`LACKS`] it is; none where no index would serve, or the statement wants none.
    pub const fn lack(&self) -> Option<u16> {
        Some(match self {
            Self::NoIndex(_) => 0,
            Self::NotReady(_) => 1,
            Self::NoRight => 2,
            Self::OutOfUse => 3,
            Self::OutOfReach => 4,
            Self::NotKept(_) => 5,
            Self::OtherUnicode => 6,
            Self::OtherType => 7,
            Self::OtherLength => 8,
            _ => return None,
        })
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = match self {
            Self::SettingOff => "colcrypt.search_rewrite is off",
            Self::NoIndex(kind) => {
                return write!(f, "the column has no search index of kind {kind}");
            }
            Self::NotReady(kind) => {
                return write!(f, "its search index of kind {kind} is still being built");
            }
            Self::OlderSnapshot => "this transaction's snapshot is older than the search index",
            Self::NoRight => "the role has no right to search with the search key",
            Self::OutOfUse => "the search key is not in use now",
            Self::OutOfReach => "the search key is out of reach now",
            Self::NotKept(table) => {
                return write!(
                    f,
                    "the trigger that keeps terms does not fire on table {table}"
                );
            }
            Self::NotHere(table) => {
                return write!(f, "table {table} is foreign or unlogged");
            }
            Self::Volatile => {
                "it compares with what a subquery or a volatile function gives for each row"
            }
            Self::SameRow => "it compares with another value of the same row",
            Self::Operator => "no kind of search index serves the operator",
            Self::OtherType => "the types that it compares are not those that terms are made of",
            Self::OtherLength => {
                "the column is cast to another length or precision than it is registered with"
            }
            Self::OtherGuard => "the column is shown under a condition on its own row",
            Self::Collation => "it compares by a collation that is not deterministic",
            Self::NotInOrder => {
                "a search index of kind range has texts in the order of collation \"C\""
            }
            Self::NoPiece => "the pattern has no piece that is as long as an n-gram",
            Self::OtherUnicode => {
                "the search index was made by another version of the Unicode data: drop it and create it again"
            }
            Self::FullJoin => "a FULL JOIN takes no other conditions than its own",
            Self::Shape => "it is not a comparison of the decrypted column with a value",
        };
        f.write_str(said)
    }
}

/// What was decided of one condition.
#[derive(Clone, Debug)]
pub struct Decision {
    pub condition: String,
    pub relation: pg_sys::Oid,
    pub attribute: String,
    /// Of the index that serves it, or would.
    pub kind: Option<Kind>,
    /// None where it is served.
    pub why: Option<Why>,
}

thread_local! {
    static ASKED: RefCell<Option<Vec<Decision>>> = const { RefCell::new(None) };
}

/// Whether somebody asks what is decided.
pub fn is_asked() -> bool {
    ASKED.with_borrow(Option::is_some)
}

/// Ends the asking, also where an ERROR ends what was asked about.
struct Ends;

impl Drop for Ends {
    fn drop(&mut self) {
        ASKED.set(None);
    }
}

/// What is decided while `plan` runs.
pub fn during(plan: impl FnOnce()) -> Vec<Decision> {
    ASKED.set(Some(Vec::new()));
    let _ends = Ends;
    plan();
    ASKED.take().unwrap_or_default()
}

/// Tells who asks.
pub fn tell(decision: Decision) {
    ASKED.with_borrow_mut(|asked| {
        if let Some(all) = asked {
            all.push(decision);
        }
    });
}
