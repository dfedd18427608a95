//! Kind 2: a relation is held by OID under a lock before anything is believed of it.
