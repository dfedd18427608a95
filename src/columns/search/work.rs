//! What a job on a search index has to do, as the table `search_job` has it.

use pgrx::pg_sys;

use crate::catalog::scan::{Equals, one};
use crate::catalog::search::{self, Companion, SearchIndex};
use crate::columns::moved::Of;
use crate::error::Result;
use crate::jobs::search::{Order, Task};

/// What there is to do with a search index of a table.
pub struct Work {
    pub index: SearchIndex,
    /// The companion that is made; none where all of them go.
    pub makes: Option<Companion>,
    /// Whether terms that are there are made anew: somebody else may have put them there.
    pub remakes: bool,
}

/// The same as it is written down.
struct Row {
    id: [u8; 16],
    version: Option<i32>,
    drops: bool,
    remakes: bool,
}

impl Work {
    /// The work of a job; none where the search index is not there any more, nor what it was about to make.
    ///
    /// # Errors
    /// Of the catalog.
    pub fn of_job(job: i64, table: pg_sys::Oid) -> Result<Option<Self>> {
        let row = one(
            "search_job",
            "search_job_pkey",
            &[Equals::int8(1, job)],
            |row| {
                Ok(Row {
                    id: *row.get::<pgrx::Uuid>("search_index_id")?.as_bytes(),
                    version: row.optional("key_version")?,
                    drops: row.get("drops")?,
                    remakes: row.get("remakes")?,
                })
            },
        )?;
        let Some(row) = row else { return Ok(None) };
        let index = search::indexes_of(table)?
            .iter()
            .find(|index| index.id == row.id)
            .cloned();
        let Some(index) = index else { return Ok(None) };
        let makes = match row.version.filter(|_| !row.drops) {
            None => None,
            Some(version) => {
                let mut companions = index.companions.iter();
                match companions.find(|companion| companion.version.int() == version) {
                    None => return Ok(None),
                    found => found.cloned(),
                }
            }
        };
        Ok(Some(Self {
            makes,
            remakes: row.remakes,
            index,
        }))
    }

    /// What terms are kept by that are made for it.
    pub fn of(&self, companion: &Companion) -> Of {
        Of {
            index: self.index.id,
            version: companion.version.int(),
        }
    }
}

/// A job on a companion that is there.
pub fn order_on<'a>(index: &'a SearchIndex, companion: &'a Companion, task: Task) -> Order<'a> {
    Order {
        relation: index.relation,
        attribute: &index.attribute,
        companion: &companion.attribute,
        key: index.key.bigint(),
        version: companion.version.int(),
        index: index.id,
        task,
    }
}
