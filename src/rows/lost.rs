//! What is lost with key versions that are destroyed on purpose while rows need them.

use crate::catalog::read::Key;
use crate::rows::holders::{describe, needing};
use crate::server::report::one_line;

/// What is lost with these versions, in one line: how many rows, of how many columns, and which. What cannot be counted
/// is lost as well, and said.
pub fn losses(key: &Key, versions: &[i32]) -> String {
    match needing(key, versions) {
        Ok(holders) => {
            let rows: i64 = holders.iter().map(|(_, count)| count).sum();
            let of_columns = match holders.len() {
                0 => String::new(),
                columns => format!(
                    " of {columns} columns: {}",
                    describe(&holders).replace('\n', ", ")
                ),
            };
            format!("{rows} values{of_columns}")
        }
        Err(error) => format!("not all rows could be counted: {}", one_line(&error)),
    }
}
