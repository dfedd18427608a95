//! What we need of PostgreSQL. Nothing here knows what a key is.
//!
//! Calls and their values (`call`, `call_site`, `varlena`, `types`, `record`, `report`, `rethrow`), who acts (`roles`,
//! `enclosure`), statements of ours (`spi`, `selected`, `analyzed`, `meant`) and of others (`tree`, `planned`,
//! `explained`, `builtin`,
//! `computed`, `accessed`, `altered`), transactions (`txn`, `limit`, `undone`), relations held under a lock, read and
//! written without SQL
//! (`relation`, `heirs`, `scan`, `scanned`, `rewrite`, `prune`), locks, and what a process asks of the operating system
//! (`process`, `waiting`, `priority`, `breath`, `hidden`, `memory`, `databases`).

pub mod accessed;
pub mod added_trigger;
pub mod altered;
pub mod analyzed;
pub mod breath;
pub mod builtin;
pub mod call;
pub mod call_site;
pub mod clock;
pub mod collations;
pub mod computed;
pub mod concurrently;
pub mod constants;
pub mod databases;
pub mod departed;
pub mod enclosure;
pub mod encoding;
pub mod explained;
pub mod failed;
pub mod fit;
pub mod heirs;
pub mod hidden;
pub mod horizon;
pub mod key_clock;
pub mod limit;
pub mod lwlock;
pub mod meant;
// The harness of the unit tests is a program of its own, without a server to speak of.
#[cfg(not(test))]
pub mod memory;
pub mod names;
pub mod ours;
pub mod planned;
pub mod planning;
pub mod priority;
pub mod process;
pub mod prune;
pub mod reads;
pub mod record;
pub mod relation;
pub mod report;
pub mod rethrow;
pub mod rewrite;
pub mod roles;
pub mod scan;
pub mod scanned;
pub mod selected;
pub mod session_lock;
pub mod shmem;
pub mod sorted;
pub mod spi;
pub mod started;
pub mod tree;
pub mod trigger;
pub mod txn;
pub mod types;
pub mod undone;
pub mod varlena;
pub mod waiting;
pub mod watched;
pub mod xact;
