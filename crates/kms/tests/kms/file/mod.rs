//! Provider `file`: key files, and what an agent makes of them.

mod keys;
