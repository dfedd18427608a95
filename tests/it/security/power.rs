//! Kind 1: the right to read a value, or to decide, is never lent to code that a table's owner wrote.
