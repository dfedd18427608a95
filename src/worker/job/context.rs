//! A context expression that cannot be computed at all (a function is gone, a right was taken away) fails its job once,
//! in one line, and not once a row.

use colcrypt_domain::verdict::Verdict;

use crate::error::Result;
use crate::jobs::job::Job;
use crate::server::relation;
use crate::server::txn::attempt;
use crate::worker::job::progress::{BlockRange, in_blocks, place};
use crate::worker::job::statement::Statement;

/// Rows that are looked at in the batch, and at the table's end. Of fewer than [`FEW`] each is listed.
const LOOKED_AT: usize = 20;
const FEW: usize = 5;

/// Why the job's context cannot be computed, where no row that is looked at has one, and all for the same reason.
pub fn cannot_run(job: &Job) -> Option<String> {
    if job.context.is_none() || job.migrates {
        return None;
    }
    let place = attempt(|| place(job)).ok()??;
    let compute = |rows: &str| attempt(|| Statement::new(job, place.leaf)?.contexts(rows));
    // Of no row: whether it can be read at all.
    if let Err(failed) = compute("false") {
        return (failed.verdict == Verdict::TheServer).then_some(failed.message);
    }
    let rows = attempt(|| samples(job, &place)).ok()?;
    if rows.len() < FEW {
        return None;
    }
    let mut why = None;
    for row in rows {
        match compute(&format!("ctid = '{row}'")) {
            Err(failed) if failed.verdict == Verdict::TheServer => {
                if why.get_or_insert_with(|| failed.message.clone()) != &failed.message {
                    return None;
                }
            }
            _ => return None,
        }
    }
    why
}

/// Stale rows of the batch at hand and of the table's last block.
fn samples(job: &Job, place: &BlockRange) -> Result<Vec<String>> {
    let statement = Statement::new(job, place.leaf)?;
    let blocks = relation::blocks(&[place.leaf])?;
    let last = BlockRange {
        rows: None,
        leaf: place.leaf,
        from: place.to.max(blocks - 1),
        to: blocks,
    };
    let mut rows = Vec::new();
    for range in [place, &last] {
        let found = statement.stale_rows(&in_blocks(range))?;
        rows.extend(found.into_iter().take(LOOKED_AT));
    }
    Ok(rows)
}
