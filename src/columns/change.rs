//! What statements alter that registrations and search indexes rest on, as those hear of it who follow.

use pgrx::pg_sys;

use crate::catalog::enum_labels::Given;

/// What a statement altered.
pub enum Change {
    Column {
        table: pg_sys::Oid,
        number: i16,
        from: String,
        to: String,
    },
    Type {
        table: pg_sys::Oid,
        column: String,
        number: i16,
        from: (pg_sys::Oid, i32),
        to: (pg_sys::Oid, i32),
    },
    Table {
        table: pg_sys::Oid,
        from: String,
        to: String,
    },
    Schema {
        from: String,
        to: String,
    },
    /// Another schema.
    TableMoved {
        table: pg_sys::Oid,
        from: String,
        to: String,
    },
    Function {
        schema: String,
        from: String,
        to: String,
    },
    FunctionMoved {
        function: String,
        from: String,
        to: String,
    },
    /// Every value of a column, by an expression.
    Computed {
        table: pg_sys::Oid,
        column: String,
    },
    Dropped {
        table: pg_sys::Oid,
        column: String,
    },
    /// A constraint was made.
    Constraint(pg_sys::Oid),
    /// A value of an enum is called so now.
    Label {
        type_oid: pg_sys::Oid,
        given: Given,
    },
    /// A table is gone.
    TableDropped(pg_sys::Oid),
    /// A table is a partition or a child.
    Attached(pg_sys::Oid),
    /// A trigger of the table's, ours, was altered or dropped, or one like it was made.
    Trigger {
        table: pg_sys::Oid,
        is_made: bool,
    },
    /// An index of the table was dropped.
    Index(pg_sys::Oid),
}
