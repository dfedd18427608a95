//! Which part this server has among those that share keys. A primary, or a server of its own, makes and changes keys;
//! a follower has them from another, changes none, and rotates none by itself: two servers that did would make two
//! versions of one number.

use colcrypt_core::verbs::Place;

use crate::error::{Error, Result};
use crate::server::spi;
use crate::settings::{self, Node};

/// Why this server is a follower, in words; none where it is its own.
///
/// # Errors
/// [`Error::CatalogOfOtherRelease`] on a follower whose extension is of a release that knows none.
pub fn follows() -> Result<Option<String>> {
    let known = spi::look(
        "SELECT to_regprocedure('colcrypt.follows()') IS NOT NULL",
        &[],
        |row| row.get::<bool>(1),
    )?;
    if known.into_iter().flatten().next() != Some(true) {
        return match settings::node() {
            Node::Follower => Err(Error::CatalogOfOtherRelease("function follows".into())),
            _ => Ok(None),
        };
    }
    let why = spi::look("SELECT colcrypt.follows()", &[], |row| row.get::<String>(1))?;
    Ok(why.into_iter().flatten().next())
}

/// Refuses what is another server's to do.
///
/// # Errors
/// [`Error::Follower`].
#[inline]
pub fn refuse_elsewhere(place: Place) -> Result<()> {
    let is_asked = match place {
        Place::Anywhere => false,
        Place::Rights => settings::node() == Node::Follower,
        Place::Primary => true,
    };
    if !is_asked {
        return Ok(());
    }
    match follows()? {
        None => Ok(()),
        Some(why) => Err(Error::Follower { why }),
    }
}

/// Refuses what only a follower takes: by its setting, and not where a subscription brings keys already.
///
/// # Errors
/// [`Error::InvalidParameter`].
pub fn refuse_all_but_followers() -> Result<()> {
    let message = match (settings::node(), follows()?) {
        (Node::Follower, _) => return Ok(()),
        (_, Some(why)) => format!("keys come by another way: {why}"),
        (_, None) => "only a follower takes another server's key catalog".into(),
    };
    Err(Error::InvalidParameter {
        message,
        hint: "Set colcrypt.node = follower in the configuration of this server, and reload it."
            .into(),
    })
}
