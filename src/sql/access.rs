//! Access views.

use crate::columns::view::{self, write};
use crate::sql::entry::sql_functions;

sql_functions! {
    Decides {
        create_access_view => view::create_access_view;
    }
    Harmless {
        may_read_column => view::may_read_column;
        write_access_view => write::write_access_view;
    }
}
