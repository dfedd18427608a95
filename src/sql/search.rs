//! Search: the terms that rows are looked up by.

use crate::columns::search::{leakage, lookups};
use crate::sql::entry::sql_functions;

sql_functions! {
    Decides {
        search_leakage => leakage::search_leakage;
    }
    Asks {
        plan_search_index => leakage::plan_search_index;
    }
    UsesKeys {
        pattern_terms => lookups::pattern_terms;
        range_terms => lookups::range_terms;
        search_term => lookups::search_term;
        search_terms => lookups::search_terms;
    }
    Harmless {
        recheck => lookups::recheck;
        recheck_support => lookups::recheck_support;
        search_told => leakage::search_told;
    }
}
