//! Kind 5: one party neither stops nor drowns the others.
