//! Search: indexes ordered and kept, and the terms that rows are looked up by.

use crate::columns::search::plan::{calls, unserved};
use crate::columns::search::{keep, leakage, lookups, orders};
use crate::sql::entry::sql_functions;

sql_functions! {
    Decides {
        create_search_domain => orders::create_search_domain;
        create_search_index => orders::create_search_index;
        drop_search_domain => orders::drop_search_domain;
        drop_search_index => orders::drop_search_index;
        search_leakage => leakage::search_leakage;
    }
    Asks {
        plan_search_index => leakage::plan_search_index;
    }
    UsesKeys {
        keep_terms => keep::keep_terms;
        pattern_terms => lookups::pattern_terms;
        range_terms => lookups::range_terms;
        search_term => lookups::search_term;
        search_terms => lookups::search_terms;
    }
    Harmless {
        explain_search => calls::explain_search;
        on_terms => calls::on_terms;
        on_terms_support => calls::on_terms_support;
        unserved_searches => unserved::unserved_searches;
        recheck => lookups::recheck;
        recheck_support => lookups::recheck_support;
        search_told => leakage::search_told;
    }
}
