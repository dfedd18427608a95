//! Kind 3: a datum is read as a type only after that type was checked, under the lock.
