//! The audit log.

use crate::audit::verify;
use crate::sql::entry::sql_functions;

sql_functions! {
    Asks {
        audit_append_only => verify::append_only;
    }
    Harmless {
        audit_status => verify::status;
        verify_audit_log => verify::verify;
    }
}
