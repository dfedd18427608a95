//! What goes wrong around a running server, on real processes: key servers that stop, hang, refuse or
//! talk nonsense; agents, brokers and backends that are killed; full caches; and what must hold all the
//! while: clean errors, no secret in any of them or in a log, and recovery without a restart.

mod agent;
mod bed;
mod broker;
mod fake;
mod flights;
mod key_file;
mod kill_switch;
mod memory;
mod nonces;
mod outage;
mod problem;
mod provider;
mod slab;
mod standby;
mod vault;
mod waiting;
