//! The key catalog as it leaves a primary for its followers, with an epoch: the number of its last change.
//!
//! An epoch is counted under a lock that is taken before the catalog is read, so a later epoch is never an older
//! catalog: a follower that takes only later ones never brings back a right that was revoked. Where the transaction
//! reads by an older snapshot, the server refuses the count.

use colcrypt_core::verbs::Place;
use pgrx::{IntoDatum, pg_sys};

use crate::audit::Act;
use crate::error::{Error, Result};
use crate::keys::node;
use crate::server::call::Call;
use crate::server::spi;

/// What an export says it is. Another release of ours reads it if it knows the same columns.
pub const FORMAT: &str = "colcrypt-catalog-1";

pub fn export_catalog(_call: Call) -> Result<pg_sys::Datum> {
    node::refuse_elsewhere(Place::Primary)?;
    spi::execute(
        "LOCK TABLE colcrypt.node_state IN SHARE ROW EXCLUSIVE MODE",
        &[],
    )?;
    let rows = spi::query(
        "WITH read AS MATERIALIZED ( \
             SELECT c AS content, encode(sha256(convert_to(c::text, 'UTF8')), 'hex') AS digest FROM colcrypt.catalog_content() c), \
         former AS MATERIALIZED (SELECT epoch FROM colcrypt.node_state), \
         counted AS ( \
             INSERT INTO colcrypt.node_state AS n (origin, epoch, digest) SELECT gen_random_uuid(), 1, digest FROM read \
             ON CONFLICT (is_only) DO UPDATE SET epoch = n.epoch + (n.digest <> excluded.digest)::int, \
                 digest = excluded.digest, at = clock_timestamp(), parts = NULL \
             RETURNING origin, epoch, digest) \
         SELECT jsonb_build_object('format', $1::text, 'release', e.extversion, 'origin', counted.origin, 'epoch', counted.epoch, \
                                   'digest', counted.digest) || read.content, \
                counted.epoch, former.epoch IS DISTINCT FROM counted.epoch \
         FROM read, counted LEFT JOIN former ON true, pg_extension e WHERE e.extname = 'colcrypt'",
        &[FORMAT.into()],
        |row| {
            Ok((
                spi::at::<pgrx::JsonB>(row, 1)?,
                spi::at::<i64>(row, 2)?,
                spi::at::<bool>(row, 3)?,
            ))
        },
    )?;
    let (catalog, epoch, is_new) = rows
        .into_iter()
        .next()
        .ok_or_else(|| Error::CatalogCorrupt("the extension is not there".into()))?;
    // Who asks every minute whether anything changed is no event.
    if is_new {
        Act::new("export_catalog")
            .detail(format!("epoch {epoch}"))
            .record()?;
    }
    Ok(catalog.into_datum().expect("a jsonb has a datum"))
}
