//! Search: the terms that rows are looked up by.

use crate::columns::search::lookups;
use crate::sql::entry::sql_functions;

sql_functions! {
    UsesKeys {
        search_term => lookups::search_term;
        search_terms => lookups::search_terms;
    }
    Harmless {
        recheck => lookups::recheck;
        recheck_support => lookups::recheck_support;
    }
}
