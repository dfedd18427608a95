//! Conditions on terms, as expressions: what stands beside a condition on a decrypted column, and holds wherever that
//! does.

use std::ffi::c_int;

use pgrx::pg_sys;

use crate::columns::search::plan::names::Names;
use crate::columns::search::plan::tables::{KnownColumn, Usable};
use crate::server::constants;
use crate::server::planned::{self, Nulling};

/// Where terms lie, and how they are made.
pub struct Terms<'a> {
    pub names: &'a Names,
    pub column: &'a KnownColumn,
    pub usable: Usable<'a>,
    /// The index of the relation in the query.
    pub relation: c_int,
    pub nulling: Nulling,
    /// What has to hold for the value to be shown. Whoever is not shown it learns nothing of terms either.
    pub guards: &'a [*mut pg_sys::Node],
}

/// Expressions of the query that is being planned go in, and come out.
impl Terms<'_> {
    /// # Safety
    /// A value of the index's class.
    pub unsafe fn equal(&self, value: *mut pg_sys::Node) -> *mut pg_sys::Node {
        let term = pg_sys::BYTEAOID;
        // SAFETY: the caller's promise; the function as it is declared.
        unsafe {
            let made = self.made(self.names.search_term, term, &[value]);
            planned::compared(equality(), self.companion(term), made)
        }
    }

    /// # Safety
    /// An array of such values.
    pub unsafe fn equal_any(&self, values: *mut pg_sys::Node) -> *mut pg_sys::Node {
        // SAFETY: as above.
        unsafe {
            let made = self.made(self.names.search_terms, pg_sys::BYTEAARRAYOID, &[values]);
            planned::compared_with_any(equality(), self.companion(pg_sys::BYTEAOID), made)
        }
    }

    /// Of the companions of two columns whose terms are comparable.
    pub fn equal_to(&self, other: &Terms<'_>) -> *mut pg_sys::Node {
        let term = pg_sys::BYTEAOID;
        // SAFETY: both are of that type.
        unsafe { planned::compared(equality(), self.companion(term), other.companion(term)) }
    }

    /// # Safety
    /// Values of the index's class that are of one type, null for an open end.
    pub unsafe fn between(
        &self,
        low: *mut pg_sys::Node,
        high: *mut pg_sys::Node,
    ) -> *mut pg_sys::Node {
        let terms = pg_sys::INT8ARRAYOID;
        // SAFETY: as above.
        unsafe {
            let made = self.made(self.names.range_terms, terms, &[low, high]);
            planned::compared(self.names.overlap, self.companion(terms), made)
        }
    }

    /// # Safety
    /// Texts.
    pub unsafe fn like(
        &self,
        pattern: *mut pg_sys::Node,
        escape: *mut pg_sys::Node,
    ) -> *mut pg_sys::Node {
        let terms = pg_sys::INT8ARRAYOID;
        // SAFETY: as above.
        unsafe {
            let made = self.made(self.names.pattern_terms, terms, &[pattern, escape]);
            planned::compared(self.names.contain, self.companion(terms), made)
        }
    }

    /// # Safety
    /// As it is declared to hold.
    unsafe fn companion(&self, type_oid: pg_sys::Oid) -> *mut pg_sys::Node {
        // SAFETY: looked up as a column of that type.
        unsafe { planned::variable(self.relation, self.usable.number, type_oid, self.nulling) }
    }

    /// The terms that one of our functions makes. Not for whom the value is not shown: his are null, and an index is
    /// not even looked into.
    ///
    /// # Safety
    /// Arguments as the function takes them.
    unsafe fn made(
        &self,
        function: pg_sys::Oid,
        type_oid: pg_sys::Oid,
        of: &[*mut pg_sys::Node],
    ) -> *mut pg_sys::Node {
        // SAFETY: the caller's promise.
        unsafe {
            let version = self.usable.version.number() as i32;
            let all = [
                &[
                    constants::table(self.column.root),
                    constants::name(&self.column.name),
                ],
                of,
                &[constants::marked_integer(version)],
            ];
            let made = planned::call(function, type_oid, all.concat());
            match self.guards {
                [] => made,
                guards => planned::only_if(planned::all_of(guards), made, type_oid),
            }
        }
    }
}

fn equality() -> pg_sys::Oid {
    pg_sys::Oid::from(pg_sys::ByteaEqualOperator)
}
