//! The types' input and output.

use crate::sql::entry::sql_functions;
use crate::values::ciphertext;

sql_functions! {
    Harmless {
        ciphertext_from_bytea => ciphertext::from_bytea;
        ciphertext_in => ciphertext::input;
        ciphertext_out => ciphertext::output;
        ciphertext_recv => ciphertext::receive;
        ciphertext_send => ciphertext::send;
    }
}
