//! Kind 7: a value is bound to its place: column and row.
