//! What a query asks of a column's order: ends of ranges, put together to ranges where they are of one value.

use pgrx::pg_sys;

use crate::columns::search::plan::plaintext::Plaintext;
use crate::server::planned;

/// One end of a range, or both.
pub struct Span {
    pub of: Plaintext,
    pub low: Option<*mut pg_sys::Node>,
    pub high: Option<*mut pg_sys::Node>,
    pub type_oid: pg_sys::Oid,
}

impl Span {
    /// Whether the other is about the same value, and has the end that this one has not.
    fn is_completed_by(&self, root: *mut pg_sys::PlannerInfo, other: &Self) -> bool {
        let guards = self.of.guards.iter().zip(&other.of.guards);
        // SAFETY: expressions of the query.
        let is_same = |(&one, &two)| unsafe { planned::have_same_value(root, one, two) };
        self.low.is_some() != other.low.is_some()
            && self.high.is_some() != other.high.is_some()
            && (self.of.number, self.type_oid) == (other.of.number, other.type_oid)
            && self.of.nulling.is(other.of.nulling)
            && self.of.guards.len() == other.of.guards.len()
            && guards.into_iter().all(is_same)
    }
}

/// Ends of ranges put together where they are of one value.
pub fn joined(root: *mut pg_sys::PlannerInfo, spans: Vec<Span>) -> Vec<Span> {
    let mut all: Vec<Span> = Vec::new();
    for span in spans {
        match all
            .iter_mut()
            .find(|other| other.is_completed_by(root, &span))
        {
            Some(other) => {
                other.low = other.low.or(span.low);
                other.high = other.high.or(span.high);
            }
            None => all.push(span),
        }
    }
    all
}
