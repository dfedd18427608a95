//! take_census: counts a column's rows by key version now, and says what was kept before.

use std::collections::BTreeSet;

use pgrx::pg_sys;

use crate::catalog::read;
use crate::columns::{registered, registration};
use crate::error::Result;
use crate::rows::census::{self, Counts};
use crate::rows::reach::{self, Elsewhere};
use crate::server::call::Call;
use crate::server::record::{Record, return_set};
use crate::sql::entry::sql_functions;

fn take_census(call: Call) -> Result<pg_sys::Datum> {
    let (table, attribute) = registered::target(call)?;
    registration::managed(table, &attribute)?;
    let before = census::kept(table, &attribute)?;
    let mut counts = Counts::new();
    for leaf in reach::all_leaves(&[table], Elsewhere::Left)? {
        census::count(leaf, &attribute, &mut counts)?;
    }
    census::keep(table, &attribute, &counts, "take_census")?;
    let known = before.iter().flat_map(Counts::keys).chain(counts.keys());
    let all: BTreeSet<(i64, i32)> = known.copied().collect();
    let rows = all.into_iter().map(|(key, version)| {
        let mut record = Record::default();
        record
            .push(read::key_name(colcrypt_core::KeyId::of_bigint(key)))
            .push(version)
            .push(counts.get(&(key, version)).copied().unwrap_or(0))
            .push(
                before
                    .as_ref()
                    .map(|before| before.get(&(key, version)).copied().unwrap_or(0)),
            );
        record
    });
    Ok(return_set(call, rows.collect()))
}

sql_functions! {
    Decides {
        take_census => take_census;
    }
}
