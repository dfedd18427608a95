//! Terms of one companion, made with leave to use the search key that lasts as long as nothing changes.

use std::cell::Cell;

use colcrypt_core::VersionId;
use pgrx::pg_sys;

use crate::catalog::search::{self, Companion, SearchIndex};
use crate::columns::search::opened::Plain;
use crate::columns::search::term::Maker;
use crate::error::Result;
use crate::server::fit::Fit;
use crate::session::{self, Permit};

pub struct Making {
    maker: Maker,
    /// What makes a value as long, or as precise, as an access view shows it: terms are of what is shown.
    fit: Option<Fit>,
    id: VersionId,
    permit: Cell<Option<Permit>>,
}

impl Making {
    /// For values of this type.
    ///
    /// # Errors
    /// For a type whose values are not of the index's class.
    pub fn new(index: &SearchIndex, companion: &Companion, type_oid: pg_sys::Oid) -> Result<Self> {
        Ok(Self {
            maker: Maker::new(index, type_oid)?,
            fit: match search::declared(index.relation, &index.attribute)? {
                Some(declared) => Fit::of(&declared)?,
                None => None,
            },
            id: index.version_of(companion),
            permit: Cell::new(None),
        })
    }

    /// What the companion holds of a value, in the current memory context. No role is asked for a right; the caller
    /// lets nobody else's code run meanwhile.
    ///
    /// # Errors
    /// Of the search key, and of a value that does not normalise.
    ///
    /// # Safety
    /// The value is of the type that this was made for.
    pub unsafe fn term(&self, value: &Plain) -> Result<pg_sys::Datum> {
        // SAFETY: the caller's promise.
        unsafe { self.term_of(value.datum) }
    }

    /// The same of a value that is stored as it is.
    ///
    /// # Errors
    /// As [`term`](Self::term).
    ///
    /// # Safety
    /// As [`term`](Self::term).
    pub unsafe fn term_of(&self, value: pg_sys::Datum) -> Result<pg_sys::Datum> {
        let permit = match self.permit.get().filter(Permit::is_good) {
            Some(permit) => permit,
            None => {
                let permit = session::search::permit_terms(self.id)?;
                self.permit.set(Some(permit));
                permit
            }
        };
        let term = |shown: pg_sys::Datum| {
            // SAFETY: the caller's promise; what is made to fit is of the same type.
            permit.with_terms(|key| unsafe { self.maker.term_of(key, shown) })?
        };
        match &self.fit {
            None => term(value),
            // SAFETY: the caller's promise; the length is that of the same type.
            Some(fit) => unsafe { fit.with(value, term) },
        }
    }
}
