//! What each chapter of the page says, in plain words.

mod keys;
mod people;
mod record;
mod search;

use super::{blocks::Chapter, facts::Facts};

pub fn all(facts: &Facts) -> Vec<Chapter> {
    vec![
        record::chain(facts),
        record::events(facts),
        keys::keyrings(facts),
        keys::keys(facts),
        keys::states(facts),
        keys::periods(facts),
        people::rotations(facts),
        people::census(facts),
        search::searched(facts),
        people::access(facts),
        record::refusals(facts),
        people::approvals(facts),
        keys::destruction(facts),
        keys::escrow(facts),
        record::unusual(facts),
        record::findings(facts),
    ]
}
