//! Columns under a key: registered, bound anew, encrypted and decrypted in place.

use crate::columns::migration::{in_step, orders};
use crate::columns::{enforced, rebind, registered, sample};
use crate::sql::entry::sql_functions;

sql_functions! {
    Decides {
        decrypt_column => orders::decrypt_column;
        encrypt_column => orders::encrypt_column;
        follow_context => registered::follow_context;
        rebind_column => rebind::rebind_column;
        register_column => registered::register_column;
        unregister_column => registered::unregister_column;
    }
    Asks {
        sample_columns => sample::sample_columns;
    }
    UsesKeys {
        keep_in_step => in_step::keep_in_step;
    }
    Harmless {
        check_encrypted_columns => enforced::check_encrypted_columns;
    }
}
