//! What goes wrong around a running server, on real processes: key servers that stop, hang, refuse or
//! talk nonsense; agents, brokers and backends that are killed; full caches; and what must hold all the
//! while: clean errors, no secret in any of them or in a log, and recovery without a restart.

mod agent;
mod audit;
mod aws;
mod backtraces;
mod broker;
mod clock;
mod fake;
mod flights;
mod key_file;
mod kill_switch;
mod lifecycle;
mod many_keys;
mod memory;
mod nonces;
mod out_of_reach;
mod outage;
mod patroni;
mod pkcs11;
mod provider;
mod roots;
mod slab;
mod soak;
mod standby;
mod traces;
mod two_roots;
mod usage;
mod vault;
mod waiting;
